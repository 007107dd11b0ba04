"""The model labels the rest of a pool on a real Label Studio: rounds, audit, bound, labels, undo."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import accessibility_violations, console_errors, wait_for, wait_until_said
from e2e_stack import Annotator, Stack
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from waiting import wait_until

from coreset_backend.label_studio.model_labels import TAB
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
COLOURS = {"red": (190, 60, 60), "blue": (60, 70, 190)}
EACH = 70


@pytest.fixture(scope="module")
def project_id(label_studio: demo.LabelStudioServer, stack: Stack) -> int:
    folder = label_studio.document_root / "finish"
    folder.mkdir()
    for seed, (kind, colour) in enumerate(COLOURS.items()):
        for number in range(EACH):
            paint(folder / f"{kind}-{number:02d}.jpg", colour, 1000 * seed + number)
    made = demo_project.create_demo_project(
        label_studio.url, label_studio.login.token, folder, "To be finished", list(COLOURS)
    )
    stack.connect(made)
    stack.wait_for_round(made, 1)
    return made


def paint(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A picture of its kind's colour under clouds of its own."""
    clouds = np.random.default_rng(seed).integers(-60, 60, (6, 6, 1))
    pixels = np.clip(np.array(colour) + clouds, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path, quality=92)


def tasks_of(admin: httpx.Client, project_id: int, **params: Any) -> list[Any]:
    wanted = {"project": project_id, "page_size": 500, "resolve_uri": "false", "fields": "all", **params}
    return list(admin.get("/api/tasks/", params=wanted).raise_for_status().json()["tasks"])


def finish(stack: Stack, project_id: int, *words: str) -> Any:
    """What `coreset-backend finish --json` answers."""
    done = stack.cli("finish", "--project", str(project_id), "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def label_next(person: Annotator, admin: httpx.Client, project_id: int, count: int) -> list[int]:
    """Label the next tasks of the stream rightly; their ids."""
    done = []
    for _ in range(count):
        task_id = person.next_task(project_id)
        if task_id is None:
            break
        data = admin.get(f"/api/tasks/{task_id}/", params={"resolve_uri": "false"}).json()["data"]["image"]
        person.submit(task_id, data.rsplit("/", 1)[-1].rsplit("%2F", 1)[-1].split("-")[0])
        done.append(task_id)
    return done


def test_the_model_finishes_a_pool_with_a_bound_and_all_of_it_is_undone(
    stack: Stack,
    admin: httpx.Client,
    project_id: int,
    new_annotator: Callable[[str], Annotator],
    browser: webdriver.Chrome,
) -> None:
    person = new_annotator("finisher@example.com")
    label_next(person, admin, project_id, 24)
    stack.wait_for_round(project_id, 2)
    stack.wait_until_idle(project_id)
    work = overview(stack, project_id)["work"]
    assert work["measured"]["answers"] == 24 and work["seconds_per_label"]["value"] == pytest.approx(1.0)
    assert {each["goal"]: each["tasks"] for each in work["goals"]}["all"] == 2 * EACH - 24
    planned = finish(stack, project_id, "--accuracy", "0.8", "--dry-run")
    assert planned["state"] is None and planned["left"] == 2 * EACH - 24
    begin_on_the_page(stack, project_id, browser)
    audited = audit(stack, admin, project_id, person)
    assert audited["groups"][0]["set_size"] > EACH
    before = {task["id"] for task in tasks_of(admin, project_id) if task["annotations"]}
    finish(stack, project_id, "--accept", "--annotations")
    written = wait_until(lambda: in_state(stack, project_id, "written"), "the labels written", 240)
    assert written["by_people"] + written["by_model"] + written["left"] == 2 * EACH - 24
    assert written["by_model"]
    check_what_was_written(stack, admin, project_id, written, before)
    finish(stack, project_id, "--undo")
    wait_until(lambda: finish(stack, project_id, "--dry-run", "--undo")["state"] is None, "the undo", 240)
    assert {task["id"] for task in tasks_of(admin, project_id) if task["annotations"]} >= before
    versions = admin.get(f"/api/projects/{project_id}/model-versions/").json()
    assert not [version for version in versions if version.startswith("finish-")]
    assert TAB not in tabs(admin, project_id)
    assert not model_annotations(admin, project_id)


def in_state(stack: Stack, project_id: int, state: str) -> Any:
    found = finish(stack, project_id)
    return found if found["state"] == state else None


def begin_on_the_page(stack: Stack, project_id: int, page: webdriver.Chrome) -> None:
    page.get(f"{stack.url}/projects/{project_id}?tab=pool")
    wait_for(page, "document.querySelector('[data-action=finish]')")
    page.execute_script("document.getElementById('finish-accuracy').value = '80'")
    wait_for(page, "document.querySelector('[data-action=finish]')").click()
    wait_for(page, "document.getElementById('ask').open")  # what would be done is shown first
    assert "would propose labels for" in page.find_element(By.ID, "ask-words").text
    page.find_element(By.ID, "ask-yes").click()
    wait_until_said(page, "Too little is known")
    wait_for(page, "document.getElementById('finish-counts')")
    if folder := os.environ.get("SCREENSHOTS_TO"):
        page.execute_script("document.getElementById('finish-title').scrollIntoView()")
        page.save_screenshot(f"{folder}/finish.png")
    assert not accessibility_violations(page)
    assert not console_errors(page)


def audit(stack: Stack, admin: httpx.Client, project_id: int, person: Annotator) -> Any:
    """Label what is served until the bound says that most of the pool can be finished."""
    first = wait_until(lambda: finish(stack, project_id)["to_check"], "answers to check")
    assert first

    def served_first() -> bool:
        task = tasks_of(admin, project_id, query=json.dumps({"ordering": ["tasks:predictions_score"]}))
        waiting = [each for each in task if not each["annotations"]]
        return bool(waiting) and not waiting[0]["predictions"][0]["result"]

    wait_until(served_first, "an answer to check, not shown, first in the queue", 120)
    for _ in range(12):
        label_next(person, admin, project_id, 10)
        found = finish(stack, project_id)
        if found["groups"][0]["set_size"] > EACH:
            return found
    raise AssertionError(found)


def check_what_was_written(
    stack: Stack, admin: httpx.Client, project_id: int, written: Any, before: set[int]
) -> None:
    """The model's annotations are marked, on no person's task, in their tab, and no label of a round."""
    marked = model_annotations(admin, project_id)
    assert len(marked) == written["by_model"]
    assert not marked & before
    assert {task["id"] for task in tasks_of(admin, project_id, view=tabs(admin, project_id)[TAB])} >= marked
    stack.wait_until_idle(project_id)
    assert stack.cli("start", "--project", str(project_id)).returncode == 0
    number = max(line["number"] for line in overview(stack, project_id)["rounds"]) + 1
    stack.wait_for_round(project_id, number)
    stack.wait_until_idle(project_id)
    counts = {each["state"]: each["count"] for each in overview(stack, project_id)["round"]["counts"]}
    assert counts["model"] == len(marked)
    assert sum(counts.values()) == 2 * EACH
    assert counts["labeled"] == len(before)
    assert max(line["number"] for line in overview(stack, project_id)["rounds"]) == number
    work = overview(stack, project_id)["work"]
    assert work["measured"]["answers"] == len(before)  # the model's labels took nobody's time
    assert {each["goal"]: each["tasks"] for each in work["goals"]}.get("finish", 0) == written["left"]


def model_annotations(admin: httpx.Client, project_id: int) -> set[int]:
    """Tasks with an annotation that carries the model's mark."""
    return {
        task["id"]
        for task in tasks_of(admin, project_id)
        for annotation in task["annotations"]
        if any("labelled_by" in region for region in annotation["result"])
    }


def overview(stack: Stack, project_id: int) -> Any:
    url = f"{stack.url}/api/projects/{project_id}/overview"
    return httpx.get(url, trust_env=False, timeout=30).raise_for_status().json()


def tabs(admin: httpx.Client, project_id: int) -> dict[str, int]:
    views = admin.get("/api/dm/views/", params={"project": project_id}).raise_for_status().json()
    return {view["data"]["title"]: view["id"] for view in views}
