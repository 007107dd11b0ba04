"""The whole story on a real Label Studio, asserted on what it serves, not on our own records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from coreset_backend import demo
from coreset_backend.demo_images import CLASSES, make_images

pytestmark = pytest.mark.e2e
N = 300


@pytest.fixture(scope="module")
def truth(label_studio: demo.LabelStudioServer) -> dict[str, str]:
    return dict(make_images(label_studio.document_root / "story", N, seed=7))


@pytest.fixture(scope="module", params=["local files", "upload"])
def project_id(request: Any, label_studio: demo.LabelStudioServer, truth: dict[str, str]) -> int:
    folder = label_studio.document_root / "story"
    title = f"Story by {request.param}"
    login = label_studio.login
    if request.param == "local files":
        return demo.create_demo_project(label_studio.url, login.token, folder, title, CLASSES)
    with demo.open_session(label_studio.url, login.token) as session:
        made = demo.create_project(session, title, demo.choices_config(CLASSES))
        demo.upload_images(session, made, [folder / name for name in truth])
    return made


def true_class(admin: httpx.Client, truth: dict[str, str], task_id: int) -> str:
    uri = admin.get(f"/api/tasks/{task_id}/", params={"resolve_uri": "false"}).json()["data"]["image"]
    return truth[uri.rsplit("/", 1)[-1].rsplit("-", 1)[-1]]


def test_batches_are_served_first_and_in_order_round_after_round(
    stack: Any,
    admin: httpx.Client,
    new_annotator: Callable[[str], Any],
    project_id: int,
    truth: dict[str, str],
) -> None:
    connected = stack.cli("connect", "--project", str(project_id))
    assert connected.returncode == 0, connected.stderr
    assert "Webhook signed" in connected.stdout
    project = admin.get(f"/api/projects/{project_id}/").json()
    assert project["sampling"] == "Uncertainty sampling"

    cold = stack.wait_for_round(project_id, 1)
    assert cold["training"] is None
    batch = cold["batch"]
    assert len(set(batch)) == 24
    assert sum(cold["counts"].values()) == N

    people = [new_annotator(f"{name}{project_id}@example.com") for name in ("ada", "bea")]
    served = []
    for turn in range(len(batch)):
        person = people[turn % 2]
        task_id = person.next_task(project_id)
        assert task_id is not None
        served.append(task_id)
        person.submit(task_id, true_class(admin, truth, task_id))
    assert served == batch

    second = stack.wait_for_round(project_id, 2)
    assert second["training"]["n_train"] + second["training"]["n_holdout"] == 24
    assert not set(second["batch"]) & set(batch)
    assert people[0].next_task(project_id) == second["batch"][0]
    assert people[1].next_task(project_id) == second["batch"][1]


def test_start_training_starts_a_round_and_connecting_twice_changes_nothing(
    stack: Any, admin: httpx.Client, project_id: int
) -> None:
    before = stack.wait_for_round(project_id, 1)
    again = stack.cli("connect", "--project", str(project_id))
    assert again.returncode == 0, again.stderr
    assert "connected already" in again.stdout
    assert "Tab 'Core-set batch' is there already." in again.stdout
    backends = admin.get("/api/ml", params={"project": project_id}).json()
    assert len(backends) == 1
    admin.post(f"/api/ml/{backends[0]['id']}/train", json={}).raise_for_status()
    after = stack.wait_for_round(project_id, before["number"] + 1)
    assert after["published"]["serves"][: len(after["batch"])] == after["batch"]


def test_doctor_finds_nothing_wrong(stack: Any, project_id: int) -> None:
    stack.wait_for_round(project_id, 1)
    checked = stack.cli("doctor", "--project", str(project_id))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_wrong_token_is_refused_with_the_fix(stack: Any, project_id: int, tmp_path: Path) -> None:
    stack.environment["LABEL_STUDIO_API_KEY"], kept = "0" * 40, stack.environment["LABEL_STUDIO_API_KEY"]
    try:
        refused = stack.cli("connect", "--project", str(project_id))
    finally:
        stack.environment["LABEL_STUDIO_API_KEY"] = kept
    assert refused.returncode == 2
    assert "LABEL_STUDIO_API_KEY" in refused.stderr
    assert "Traceback" not in refused.stderr
