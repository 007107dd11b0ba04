"""The whole story on a real Label Studio, asserted on what it serves, not on our own records."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from crowd import UNSOLVED, unsolved
from e2e_stack import LOOKS, Stack, signal_all
from waiting import wait_until

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = pytest.mark.e2e
N = 300
LOCAL_TITLE = "Story by local files"


@pytest.fixture(scope="module")
def truth(label_studio: demo.LabelStudioServer) -> dict[str, str]:
    return dict(make_images(label_studio.document_root / "story", N, seed=7))


@pytest.fixture(scope="module", params=["local files", "upload"])
def project_id(request: Any, label_studio: demo.LabelStudioServer, truth: dict[str, str]) -> int:
    folder = label_studio.document_root / "story"
    title = f"Story by {request.param}"
    login = label_studio.login
    if request.param == "local files":
        return demo_project.create_demo_project(label_studio.url, login.token, folder, title, CLASSES)
    with demo_project.open_session(label_studio.url, login.token) as session:
        made = demo_project.create_project(session, title, demo_project.choices_config(CLASSES))
        demo_project.upload_images(session, made, [folder / name for name in truth])
    return made


@pytest.fixture(scope="module")
def local_project_id(label_studio: demo.LabelStudioServer, truth: dict[str, str]) -> int:
    """The project by local files, for what need not be told twice."""
    folder, login = label_studio.document_root / "story", label_studio.login
    return demo_project.create_demo_project(label_studio.url, login.token, folder, LOCAL_TITLE, CLASSES)


def true_classes(admin: httpx.Client, project_id: int, truth: dict[str, str]) -> dict[int, str]:
    """Task id -> what its image shows."""
    params: dict[str, Any] = {"project": project_id, "page_size": N, "include": "id,data"}
    tasks = admin.get("/api/tasks/", params=params | {"resolve_uri": "false"}).json()["tasks"]
    return {task["id"]: truth[task["data"]["image"].rsplit("/", 1)[-1].rsplit("-", 1)[-1]] for task in tasks}


def test_batches_are_served_first_and_in_order_round_after_round(
    stack: Stack,
    admin: httpx.Client,
    new_annotator: Callable[[str], Any],
    project_id: int,
    truth: dict[str, str],
) -> None:
    assert "Secret set on the webhook" in stack.connect(project_id)
    project = admin.get(f"/api/projects/{project_id}/").json()
    assert project["sampling"] == "Uncertainty sampling"

    cold = stack.wait_for_round(project_id, 1)
    assert cold["training"] is None
    batch = cold["batch"]
    assert len(set(batch)) == 24
    assert sum(cold["counts"].values()) == N

    classes = true_classes(admin, project_id, truth)
    people = [new_annotator(f"{name}{project_id}@example.com") for name in ("ada", "bea")]
    served = []
    for turn in range(len(batch)):
        person = people[turn % 2]
        task_id = person.next_task(project_id)
        assert task_id is not None
        served.append(task_id)
        person.submit(task_id, classes[task_id])
    assert served == batch

    second = stack.wait_for_round(project_id, 2)
    assert second["training"]["n_train"] + second["training"]["n_holdout"] == 24
    assert not set(second["batch"]) & set(batch)
    stack.wait_until_idle(project_id)
    assert people[0].next_task(project_id) == second["batch"][0]
    assert people[1].next_task(project_id) == second["batch"][1]


def test_start_training_starts_a_round_and_connecting_twice_changes_nothing(
    stack: Stack, admin: httpx.Client, project_id: int
) -> None:
    before = stack.wait_for_round(project_id, 1)
    again = stack.connect(project_id)
    assert "already connected" in again
    assert "Tab 'Core-set batch' already exists." in again
    backends = admin.get("/api/ml", params={"project": project_id}).json()
    assert len(backends) == 1
    admin.post(f"/api/ml/{backends[0]['id']}/train", json={}).raise_for_status()
    after = stack.wait_for_round(project_id, before["number"] + 1)
    assert after["published"]["serves"][: len(after["batch"])] == after["batch"]


def test_doctor_finds_nothing_wrong(stack: Stack, project_id: int) -> None:
    stack.wait_for_round(project_id, 1)
    stack.wait_until_idle(project_id)
    checked = stack.cli("doctor", "--project", str(project_id))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_wrong_token_is_refused_with_the_fix(stack: Stack, project_id: int) -> None:
    refused = stack.cli("connect", "--project", str(project_id), LABEL_STUDIO_API_KEY="0" * 40)
    assert refused.returncode == 2
    assert "LABEL_STUDIO_API_KEY" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_trained_model_beats_chance_on_the_hold_out(
    stack: Stack, admin: httpx.Client, local_project_id: int, truth: dict[str, str]
) -> None:
    """Label half of the pool through the API, and look at what a round was never trained on."""
    stack.wait_for_round(local_project_id, 1)
    annotated = admin.get(
        "/api/tasks/", params={"project": local_project_id, "page_size": N, "include": "id,is_labeled"}
    )
    unlabeled = [task["id"] for task in annotated.json()["tasks"] if not task["is_labeled"]]
    classes = true_classes(admin, local_project_id, truth)
    region = {"from_name": "label", "to_name": "image", "type": "choices"}
    for task_id in unlabeled[:150]:
        body = {"result": [region | {"value": {"choices": [classes[task_id]]}}]}
        admin.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()

    # Rounds begin while labels come; the one that counts has all of them.
    stack.cli("start", "--project", str(local_project_id))
    labeled = N - len(unlabeled) + 150

    def has_read_all() -> Any:
        newest = stack.status(local_project_id)["round"]
        return newest if newest["counts"]["labeled"] == labeled and newest["published"] else None

    newest = wait_until(has_read_all, "a round on 150 labels more", 300, LOOKS)
    assert newest["training"]["n_train"] + newest["training"]["n_holdout"] == labeled
    assert newest["accuracy"]["n"] >= 25
    assert newest["accuracy"]["value"] > 0.55  # the commonest class is 40 % of the pool


def test_an_export_holds_what_label_studio_says_and_a_model_that_answers(
    stack: Stack, admin: httpx.Client, local_project_id: int, truth: dict[str, str], tmp_path: Path
) -> None:
    place = tmp_path / "story"
    typed = stack.cli("export", "--project", str(local_project_id), "--to", str(place), "--json")
    assert typed.returncode == 0, typed.stderr
    told = json.loads(typed.stdout)
    asked = {"project": local_project_id, "page_size": N, "include": "id,is_labeled"}
    tasks = admin.get("/api/tasks/", params=asked).json()["tasks"]
    labeled = {task["id"] for task in tasks if task["is_labeled"]}
    assert told["tasks"] == {"person": len(labeled), "unlabelled": N - len(labeled)}
    assert told["images"] == len(labeled) and not told["unreadable"]
    classes = true_classes(admin, local_project_id, truth)
    lines = [json.loads(line) for line in (place / "dataset/labels.jsonl").read_text().splitlines()]
    assert {line["task_id"]: line["label"] for line in lines if line["label"]} == {
        task_id: classes[task_id] for task_id in labeled
    }
    files = {path: path.parent.name for path in (place / "dataset/images").rglob("*.*")}
    ran = subprocess.run([sys.executable, place / "predict.py", *files], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    right = [max(CLASSES, key=answer.get) == files[Path(answer["image"])] for answer in answers]
    assert sum(right) / len(labeled) > 0.55
    assert told["onnx_difference"] <= 1e-4 and told["model_version"] in (place / "README.md").read_text()


def queue(admin: httpx.Client, project_id: int, version: str) -> list[int]:
    """The tasks that still want labels, each as often as it has a prediction of the version."""
    wanted = {"project": project_id, "page_size": N, "fields": "all", "include": "id,predictions"}
    tasks = admin.get("/api/tasks/", params=wanted | {"query": UNSOLVED}).raise_for_status().json()["tasks"]
    versions = [(task["id"], each["model_version"]) for task in tasks for each in task["predictions"]]
    return [task_id for task_id, of in versions if of == version]


def test_a_worker_killed_in_mid_round_loses_nothing(
    stack: Stack, admin: httpx.Client, local_project_id: int
) -> None:
    project_id = local_project_id
    stack.wait_until_idle(project_id)
    before = stack.wait_for_round(project_id, 1)
    stack.cli("start", "--project", str(project_id))
    with stack.workers_stopped(lambda: stack.computes(project_id), "a round in the middle") as killed:
        signal_all(killed, signal.SIGKILL)
    served = admin.get(f"/api/projects/{project_id}/").json()["model_version"]
    assert served == before["published"]["version"]
    after = stack.wait_for_round(project_id, before["number"] + 1, 600)
    assert not set(stack.processes("work")) & set(killed)
    assert after["published"]["serves"][: len(after["batch"])] == after["batch"]
    version = after["published"]["version"]
    versions = admin.get(f"/api/projects/{project_id}/model-versions/").json()
    assert [each for each in versions if each.startswith("coreset-")] == [version]
    assert admin.get(f"/api/projects/{project_id}/").json()["model_version"] == version
    # What a batch supersedes is deleted once annotators have the batch.
    each_once = Counter(unsolved(admin, project_id))
    wait_until(
        lambda: Counter(queue(admin, project_id, version)) == each_once, "one prediction for each task"
    )
