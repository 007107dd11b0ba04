"""The evidence a team decides by, on a real Label Studio: a replay of its labels, the history, the slice."""

import csv
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e_stack import Stack, running_stack

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = pytest.mark.e2e
SMALL = {"CORESET_IMAGE_SIZE": "16", "CORESET_BACKBONE": "small_cnn"}
REGION = {"from_name": "label", "to_name": "image", "type": "choices"}


def images_project(
    label_studio: demo.LabelStudioServer, admin: httpx.Client, title: str, n: int
) -> tuple[int, dict[int, str]]:
    """A project of ``n`` small images, and what each of its tasks shows."""
    folder = label_studio.document_root / title
    truth = dict(make_images(folder, n, seed=11, size=48))
    login = label_studio.login
    project_id = demo_project.create_demo_project(label_studio.url, login.token, folder, title, CLASSES)
    params: dict[str, Any] = {"project": project_id, "page_size": n, "resolve_uri": "false"}
    tasks = admin.get("/api/tasks/", params=params).raise_for_status().json()["tasks"]
    assert len(tasks) == n
    return project_id, {task["id"]: truth[task["data"]["image"].rsplit("/", 1)[-1]] for task in tasks}


def annotate(admin: httpx.Client, task_id: int, *choices: str) -> None:
    body = {"result": [REGION | {"value": {"choices": list(choices)}}]}
    admin.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()


def test_a_project_with_several_classes_an_image_is_replayed_and_left_as_it_was(
    stack: Stack, label_studio: demo.LabelStudioServer, admin: httpx.Client, tmp_path: Path
) -> None:
    project_id, classes = images_project(label_studio, admin, "replayed", 60)
    config = demo_project.choices_config((*CLASSES, "even")).replace('choice="single"', 'choice="multiple"')
    here = f"/api/projects/{project_id}/"
    admin.patch(here, json={"label_config": config}).raise_for_status()
    for task_id, kind in list(classes.items())[:56]:
        annotate(admin, task_id, kind, *(["even"] if task_id % 2 == 0 else []))
    before = admin.get(here).raise_for_status().json()
    options = ["--strategy", "random,margin", "--batch", "20", "--rounds", "1", "--seeds", "1"]
    out = tmp_path / "out"
    told = stack.cli("simulate", "--project", str(project_id), *options, "--out", str(out), **SMALL)
    assert told.returncode == 0, told.stderr
    counted = re.search(r"(\d+) images in the pool, (\d+) test images", told.stdout)
    assert counted and int(counted[1]) + int(counted[2]) == 56
    assert "Best here: " in told.stdout
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [(row["strategy"], row["labels"]) for row in rows] == [("random", "20"), ("margin", "20")]
    after = admin.get(here).raise_for_status().json()
    assert after == before and before["total_predictions_number"] == 0


def test_the_history_sets_the_picks_against_the_random_slice_of_the_same_batch(
    label_studio: demo.LabelStudioServer, admin: httpx.Client, tmp_path: Path
) -> None:
    project_id, classes = images_project(label_studio, admin, "sliced", 70)
    url, token = label_studio.url, label_studio.login.token
    own = {"CORESET_BATCH_SIZE": "16", "CORESET_RANDOM_SLICE": "0.25", "CORESET_ALLOWED_HOSTS": "127.0.0.1"}
    with running_stack(tmp_path, url, token, **SMALL, **own) as stack:
        stack.connect(project_id)
        for number in (1, 2):
            batch = stack.wait_for_round(project_id, number)["batch"]
            assert len(batch) == 16
            for task_id in batch:
                annotate(admin, task_id, classes[task_id])
        stack.wait_for_round(project_id, 3)
        history = stack.http.get(f"/api/projects/{project_id}/history").json()
    first, second, third = history["rounds"]
    assert [line["labels"] for line in history["rounds"]] == [0, 16, 32]
    assert first["accuracy"] is None and 1 <= third["accuracy"]["n"] <= 6
    # Round 1 had no model: only the batch of round 2 had been answered by one before people did.
    assert (
        first["random_slice"]
        == second["random_slice"]
        == {"tasks": 4, "pool_accuracy": None, "picked_accuracy": None}
    )
    pool, picks = third["random_slice"]["pool_accuracy"], third["random_slice"]["picked_accuracy"]
    assert (pool["n"], picks["n"]) == (4, 12)
    assert 0 <= pool["low"] <= pool["value"] <= pool["high"] <= 1
    assert history["advice"]["sentence"].startswith("Too early to say")
