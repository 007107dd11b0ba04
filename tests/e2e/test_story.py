"""The whole story on a real Label Studio, asserted on what it serves, not on our own records."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import wait_until

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


def test_the_trained_model_beats_chance_on_the_hold_out(
    stack: Any, admin: httpx.Client, project_id: int, truth: dict[str, str]
) -> None:
    """Label most of the pool through the API, start a round, and look at what was never trained on."""
    number = stack.wait_for_round(project_id, 1)["number"]
    page = admin.get(
        "/api/tasks/", params={"project": project_id, "page_size": 200, "include": "id,is_labeled"}
    )
    for task in page.json()["tasks"]:
        if not task["is_labeled"]:
            region = {"from_name": "label", "to_name": "image", "type": "choices"}
            value = {"value": {"choices": [true_class(admin, truth, task["id"])]}}
            body = {"result": [region | value]}
            admin.post(f"/api/tasks/{task['id']}/annotations/", json=body).raise_for_status()

    def well_trained() -> Any:
        newest = stack.status(project_id)["round"]
        trained = newest["number"] > number and newest["published"] and newest["training"]
        return newest["training"] if trained and newest["training"]["n_holdout"] >= 35 else None

    training = wait_until(well_trained, "a round on 200 labels", 240)
    assert training["holdout_accuracy"] > 0.55  # the commonest class is 40 % of the pool


def test_a_worker_killed_in_mid_round_loses_nothing(stack: Any, admin: httpx.Client, project_id: int) -> None:
    before = stack.wait_for_round(project_id, 1)
    stack.cli("start", "--project", str(project_id))

    def running() -> list[int]:
        progress = stack.status(project_id)["progress"]
        busy = progress.get("state") == "running" and progress.get("phase") in ("images", "fit", "embed")
        return work_processes(stack) if busy else []

    for pid in wait_until(running, "a round in the middle"):
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    served = admin.get(f"/api/projects/{project_id}/").json()["model_version"]
    assert served == before["published"]["version"]
    after = stack.wait_for_round(project_id, before["number"] + 1)
    assert time.monotonic() - killed < 60 + after["timings"]["fit"] + after["timings"]["embed"]
    assert after["published"]["serves"][: len(after["batch"])] == after["batch"]
    versions = admin.get(f"/api/projects/{project_id}/model-versions/").json()
    assert [version for version in versions if version.startswith("coreset-")] == [after["model_version"]]


def work_processes(stack: Any) -> list[int]:
    """The worker and its children: every process whose command is ours and says work."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes()
            if b"work" in command and stack.environment["MODEL_DIR"].encode() in environment:
                found.append(int(entry.name))
    return found
