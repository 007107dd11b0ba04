"""Copies and the model label the rest of a pool on a real Label Studio: audit, bound, labels, undo."""

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
FAMILIES, SIZE, ALONE = 10, 4, 20
"""Of each colour so many groups of near-duplicates, of so many images, and images alone."""
COPIES = 2 * FAMILIES * (SIZE - 1)
TASKS = 2 * (FAMILIES * SIZE + ALONE)
ORIGINALS = 2 * FAMILIES


@pytest.fixture(scope="module")
def project_id(label_studio: demo.LabelStudioServer, stack: Stack) -> int:
    folder = label_studio.document_root / "finish"
    folder.mkdir()
    for seed, (kind, colour) in enumerate(COLOURS.items()):
        for number in range(FAMILIES + ALONE):
            for copy in range(SIZE if number < FAMILIES else 1):
                paint(folder / f"{kind}-{number:02d}-{copy}.jpg", colour, 1000 * seed + number, copy)
    made = demo_project.create_demo_project(
        label_studio.url, label_studio.login.token, folder, "To be finished", list(COLOURS)
    )
    stack.connect(made)
    stack.wait_for_round(made, 1)
    return made


def paint(path: Path, colour: tuple[int, int, int], seed: int, brighter: int) -> None:
    """A picture of its kind's colour under clouds of its own; copies are a bit brighter."""
    clouds = np.random.default_rng(seed).integers(-60, 60, (6, 6, 1))
    pixels = np.clip(np.array(colour) + clouds + brighter, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path, quality=92)


def tasks_of(admin: httpx.Client, project_id: int, **params: Any) -> list[Any]:
    wanted = {"project": project_id, "page_size": 500, "resolve_uri": "false", "fields": "all", **params}
    return list(admin.get("/api/tasks/", params=wanted).raise_for_status().json()["tasks"])


def name_of(task: Any) -> str:
    """The file of the task, as in red-03-1."""
    return str(task["data"]["image"]).rsplit("/", 1)[-1].rsplit("%2F", 1)[-1].removesuffix(".jpg")


def asked(stack: Stack, project_id: int, path: str, **fields: Any) -> Any:
    """What the API answers on the project."""
    method = "POST" if fields or "/" in path else "GET"
    answer = stack.http.request(method, f"/api/projects/{project_id}/{path}", json=fields or None)
    return answer.raise_for_status().json()


def finish(stack: Stack, project_id: int, *words: str) -> Any:
    """What `coreset-backend finish --json` answers."""
    done = stack.cli("finish", "--project", str(project_id), "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def label_next(person: Annotator, admin: httpx.Client, project_id: int, count: int) -> list[str]:
    """Label the next tasks of the stream rightly; the names of their files."""
    done = []
    for _ in range(count):
        task_id = person.next_task(project_id)
        if task_id is None:
            break
        task = admin.get(f"/api/tasks/{task_id}/", params={"resolve_uri": "false"}).json()
        person.submit(task_id, name_of(task).split("-")[0])
        done.append(name_of(task))
    return done


def test_copies_and_the_model_finish_a_pool_with_bounds_and_all_of_it_is_undone(
    stack: Stack,
    admin: httpx.Client,
    project_id: int,
    new_annotator: Callable[[str], Annotator],
    browser: webdriver.Chrome,
) -> None:
    person = new_annotator("finisher@example.com")
    for task in tasks_of(admin, project_id):
        kind, number, copy = name_of(task).split("-")
        if copy == "0" and int(number) < FAMILIES:
            person.submit(task["id"], kind)
    assert stack.cli("start", "--project", str(project_id)).returncode == 0
    stack.wait_for_round(project_id, 2)
    stack.wait_until_idle(project_id)
    work = asked(stack, project_id, "overview")["work"]
    assert work["measured"]["answers"] == ORIGINALS
    assert work["seconds_per_label"]["value"] == pytest.approx(1.0)
    assert {each["goal"]: each["tasks"] for each in work["goals"]}["all"] == TASKS - ORIGINALS
    count = asked(stack, project_id, "copies", accuracy=0.8, dry_run=True)["groups"][0]["images"]
    assert 0.9 * COPIES <= count <= COPIES
    begin_on_the_page(stack, project_id, browser, count)
    by_people = audit(stack, admin, project_id, person, "copies")
    assert not [
        name for name in by_people if name[-1] == "0"
    ]  # the audit of copies came first, and nothing else
    copies = wait_until(lambda: written(stack, project_id, "copies"), "labels of copies", 240)
    assert copies["labels"]["by_copies"] == count - len(by_people)
    planned = finish(stack, project_id, "--accuracy", "0.8", "--audits", "40", "--dry-run")
    assert planned["state"] is None
    assert planned["labels"]["left"] == TASKS - ORIGINALS - count
    asked(stack, project_id, "finish", accuracy=0.8, audits=40)
    by_people += audit(stack, admin, project_id, person, "finish")
    finish(stack, project_id, "--accept", "--annotations")
    done = wait_until(lambda: written(stack, project_id, "finish"), "the labels written", 240)
    check_what_was_written(stack, admin, project_id, done["labels"], ORIGINALS + len(by_people))
    asked(stack, project_id, "finish/undo")
    wait_until(lambda: asked(stack, project_id, "finish")["state"] is None, "the undo", 240)
    assert len(labelled_by(admin, project_id)) == done["labels"]["by_copies"]
    stack.wait_until_idle(project_id)
    disconnected = stack.cli("disconnect", "--project", str(project_id))
    assert disconnected.returncode == 0, disconnected.stderr
    assert f"{done['labels']['by_copies']} annotations of copies are deleted" in disconnected.stdout
    people = {task["id"] for task in tasks_of(admin, project_id) if task["annotations"]}
    assert len(people) == ORIGINALS + len(by_people)
    assert not labelled_by(admin, project_id)
    versions = admin.get(f"/api/projects/{project_id}/model-versions/").json()
    assert not [version for version in versions if version.startswith("finish-")]
    assert TAB not in tabs(admin, project_id)


def written(stack: Stack, project_id: int, kind: str) -> Any:
    found = asked(stack, project_id, kind)
    return found if found["state"] == "written" else None


def begin_on_the_page(stack: Stack, project_id: int, page: webdriver.Chrome, count: int) -> None:
    """Let copies follow by the card of the page, which shows first what that would be."""
    page.get(f"{stack.url}/projects/{project_id}?tab=pool")
    wait_for(page, "document.querySelector('[data-action=copies]')")
    page.execute_script("document.getElementById('copies-accuracy').value = '80'")
    page.execute_script("document.getElementById('copies-annotations').checked = true")
    wait_for(page, "document.querySelector('[data-action=copies]')").click()
    wait_for(page, "document.getElementById('ask').open")
    assert f"{count} unlabelled images are near-duplicates" in page.find_element(By.ID, "ask-words").text
    page.find_element(By.ID, "ask-yes").click()
    wait_until_said(page, "Too little is known")
    wait_for(page, "document.querySelector('[data-action=\"copies/undo\"]')")
    if folder := os.environ.get("SCREENSHOTS_TO"):
        page.execute_script("document.getElementById('finish-title').scrollIntoView()")
        page.save_screenshot(f"{folder}/finish.png")
    assert not accessibility_violations(page)
    assert not console_errors(page)


def audit(stack: Stack, admin: httpx.Client, project_id: int, person: Annotator, kind: str) -> list[str]:
    """Label what is served until the bound holds; the names of the files."""

    def served_first() -> bool:
        tasks = tasks_of(admin, project_id, query=json.dumps({"ordering": ["tasks:predictions_score"]}))
        waiting = [each for each in tasks if not each["annotations"]]
        return bool(waiting) and not waiting[0]["predictions"][0]["result"]

    stack.wait_until_idle(project_id)  # the audit is published
    assert served_first()
    done = list[str]()
    while len(done) < COPIES:
        done += label_next(person, admin, project_id, 10)
        found = asked(stack, project_id, f"{kind}/look")
        if found["groups"][0]["set_size"]:
            return done
    raise AssertionError(found)


def check_what_was_written(
    stack: Stack, admin: httpx.Client, project_id: int, labels: Any, people: int
) -> None:
    """The annotations are marked, on no person's task, in their tab, and no label of a round; all agree."""
    marked = labelled_by(admin, project_id)
    in_tab = {task["id"] for task in tasks_of(admin, project_id, view=tabs(admin, project_id)[TAB])}
    assert in_tab == set(marked)
    assert labels == {
        "by_people": people,
        "by_copies": sum("copies" in version for version in marked.values()),
        "by_model": sum("copies" not in version for version in marked.values()),
        "audit": 0,
        "left": TASKS - people - len(marked),
    }
    assert labels["by_model"] and sum(labels.values()) == TASKS
    stack.wait_until_idle(project_id)
    number = asked(stack, project_id, "status")["round"]["number"] + 1
    assert stack.cli("start", "--project", str(project_id)).returncode == 0
    stack.wait_for_round(project_id, number)
    stack.wait_until_idle(project_id)
    overview = asked(stack, project_id, "overview")
    counts = {each["state"]: each["count"] for each in overview["round"]["counts"]}
    assert [counts[state] for state in ("model", "copy", "labeled")] == [
        labels["by_model"],
        labels["by_copies"],
        people,
    ]
    assert sum(counts.values()) == TASKS
    work = overview["work"]
    assert work["measured"]["answers"] == people  # other labels took nobody's time
    assert {each["goal"]: each["tasks"] for each in work["goals"]}.get("finish", 0) == labels["left"]
    assert overview["labels"] == labels == asked(stack, project_id, "status")["labels"]


def labelled_by(admin: httpx.Client, project_id: int) -> dict[int, str]:
    """Tasks with an annotation that carries the mark of the model or of a copy, and its version."""
    return {
        task["id"]: region["labelled_by"]
        for task in tasks_of(admin, project_id)
        for annotation in task["annotations"]
        for region in annotation["result"]
        if "labelled_by" in region
    }


def tabs(admin: httpx.Client, project_id: int) -> dict[str, int]:
    views = admin.get("/api/dm/views/", params={"project": project_id}).raise_for_status().json()
    return {view["data"]["title"]: view["id"] for view in views}
