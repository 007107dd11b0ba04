"""What a round finds, on the page and in the tabs of a real Label Studio; and what it shows on the tasks.

The pool is easy, so that what must be found is known: red and blue images, two with the wrong label, two near
copies, one torn file.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import accessibility_violations, console_errors, open_browser, prefer_colours, wait_for
from e2e_stack import Stack
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from coreset_backend.evaluation.holdout import holdout_task_ids
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.project import Task
from coreset_backend.store.store import Store

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
COLOURS = {"red": (170, 70, 70), "blue": (70, 80, 170)}
EACH, LABELED = 24, 20


def paint(path: Path, kind: str, seed: int) -> None:
    """A picture in the colour of its kind, with clouds of its own seed's."""
    clouds = np.random.default_rng(seed).integers(-120, 120, (6, 6, 1))
    pixels = np.clip(np.array(COLOURS[kind]) + clouds, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC).save(path, quality=92)


@pytest.fixture(scope="module")
def folder(label_studio: demo.LabelStudioServer) -> Path:
    made = label_studio.document_root / "findings"
    made.mkdir()
    for start, kind in ((0, "red"), (100, "blue")):
        for number in range(EACH):
            # The second is a copy of the first, saved a little smaller.
            paint(made / f"{kind}-{number:02d}.jpg", kind, start + max(number, 1))
    (made / "torn.jpg").write_bytes(b"\xff\xd8 no more")
    return made


@pytest.fixture(scope="module")
def project_id(label_studio: demo.LabelStudioServer, folder: Path, stack: Stack) -> int:
    made = demo_project.create_demo_project(
        label_studio.url, label_studio.login.token, folder, "Red and blue", list(COLOURS)
    )
    stack.connect(made)
    stack.wait_for_round(made, 1)
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("chromium"), 1300, 1000) as page:
        prefer_colours(page, "dark")
        yield page


def set_in_form(admin: httpx.Client, project_id: int, **extra_params: Any) -> None:
    """Save the backend's form with these extra params, as a lead does."""
    backend = admin.get("/api/ml", params={"project": project_id}).json()[0]
    body = {
        "project": project_id,
        "url": backend["url"],
        "title": backend["title"],
        "extra_params": extra_params,
    }
    admin.patch(f"/api/ml/{backend['id']}", json=body).raise_for_status()


def tasks_of(admin: httpx.Client, project_id: int, **params: Any) -> list[Any]:
    wanted = {"project": project_id, "page_size": 200, "resolve_uri": "false", "fields": "all", **params}
    return list(admin.get("/api/tasks/", params=wanted).raise_for_status().json()["tasks"])


def named(admin: httpx.Client, project_id: int) -> dict[str, int]:
    """File name -> task id."""
    return {task["data"]["image"].rsplit("/", 1)[-1]: task["id"] for task in tasks_of(admin, project_id)}


def annotate(admin: httpx.Client, task_id: int, kind: str) -> None:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [kind]}}
    admin.post(f"/api/tasks/{task_id}/annotations/", json={"result": [region]}).raise_for_status()


def tabs(admin: httpx.Client, project_id: int) -> dict[str, set[int]]:
    """Title -> the tasks that the Data Manager lists under it."""
    views = admin.get("/api/dm/views/", params={"project": project_id}).raise_for_status().json()
    return {
        view["data"]["title"]: {task["id"] for task in tasks_of(admin, project_id, view=view["id"])}
        for view in views
    }


def other(kind: str) -> str:
    return "blue" if kind == "red" else "red"


def two_to_mislabel(ids: dict[str, int], names: list[str]) -> list[str]:
    """A red and a blue image that are in the hold-out when they are labelled as the other.

    The model does not learn them by heart then, so that their neighbours must contradict them.
    """
    for pair in product(
        (name for name in names if "red" in name), (name for name in names if "blue" in name)
    ):
        kinds = {name: name.split("-")[0] for name in names}
        kinds |= {name: other(kinds[name]) for name in pair}
        tasks = [Task(ids[name], name, "labeled", (kind,)) for name, kind in kinds.items()]
        if {ids[name] for name in pair} <= holdout_task_ids(tasks, (), 0.2, 0):
            return list(pair)
    raise AssertionError("no two images of the hold-out")


def start_and_wait(stack: Stack, project_id: int, number: int) -> Any:
    """Round ``number``, started by hand; the overview of the page."""
    assert stack.cli("start", "--project", str(project_id)).returncode == 0
    stack.wait_for_round(project_id, number)
    stack.wait_until_idle(project_id)
    url = f"{stack.url}/api/projects/{project_id}/overview"
    return httpx.get(url, trust_env=False, timeout=30).json()["round"]


def shown_answers(admin: httpx.Client, project_id: int, version: str) -> dict[int, tuple[str, float] | None]:
    """Task id -> class and score of the region that Label Studio has chosen already, None for none."""
    return {
        task["id"]: (prediction["result"][0]["value"]["choices"][0], prediction["result"][0]["score"])
        if prediction["result"]
        else None
        for task in tasks_of(admin, project_id)
        for prediction in task["predictions"]
        if prediction["model_version"] == version
    }


def answers_of_the_model(stack: Stack, project_id: int) -> dict[int, tuple[str, float]]:
    """Task id -> likeliest class and its probability, from the arrays of the newest round."""
    stored = Store(Path(stack.environment["MODEL_DIR"])).latest(project_id)
    assert stored and stored.record.labels
    odds, names = stored.array("probabilities"), stored.record.labels.names
    return {
        task_id: (names[int(row.argmax())], float(row.max()))
        for task_id, row in zip(stored.array("embedded_task_ids").tolist(), odds, strict=True)
    }


def test_what_is_wrong_is_found_shown_in_tabs_and_gone_when_mended(
    stack: Stack, admin: httpx.Client, project_id: int, folder: Path, page: webdriver.Chrome
) -> None:
    set_in_form(admin, project_id, trigger="manual")
    ids = named(admin, project_id)
    copies = [{ids[f"{kind}-00.jpg"], ids[f"{kind}-01.jpg"]} for kind in COLOURS]
    # None of the copies: they would be held out together, so that the hold-out had one more or less.
    names = [f"{kind}-{number:02d}.jpg" for kind in COLOURS for number in range(EACH - LABELED, EACH)]
    mislabeled = two_to_mislabel(ids, names)
    for name in names:
        kind = name.split("-")[0]
        annotate(admin, ids[name], other(kind) if name in mislabeled else kind)
    stack.wait_until_idle(project_id)
    assert stack.status(project_id)["round"]["number"] == 1  # rounds start by hand only

    found = start_and_wait(stack, project_id, 2)
    wrong = {ids[name] for name in mislabeled}
    assert {suspect["task_id"] for suspect in found["suspects"]} == wrong
    assert sorted(map(set, found["duplicates"]), key=min) == sorted(copies, key=min)
    listed = tabs(admin, project_id)
    assert listed["Suspected label errors"] == wrong
    assert listed["Near-duplicates"] == copies[0] | copies[1]
    assert listed["Unreadable"] == {ids["torn.jpg"]}
    assert {pick["task_id"] for pick in found["batch"]} <= listed["Core-set batch"]
    page.get(f"{stack.url}/projects/{project_id}?tab=pool")
    rows = [row.text for row in page.find_elements(By.CSS_SELECTOR, "#suspects tbody tr")]
    assert rows == [
        f"{suspect['task_id']} {suspect['label']} {other(suspect['label'])} ({100 * suspect['share']:.0f} %) "
        f"{suspect['quality']:.2f}"
        for suspect in found["suspects"]
    ]
    wait_for(page, "document.getElementById('map').dataset.ready")
    assert accessibility_violations(page) == []
    assert console_errors(page) == []

    for task in tasks_of(admin, project_id):
        if task["id"] in wrong:
            admin.delete(f"/api/annotations/{task['annotations'][0]['id']}/").raise_for_status()
    for name in mislabeled:
        annotate(admin, ids[name], name.split("-")[0])
    paint(folder / "torn.jpg", "red", 999)
    set_in_form(admin, project_id, trigger="manual", preannotate="on")
    found = start_and_wait(stack, project_id, 3)
    assert (found["suspects"], found["failures"]) == ([], [])
    listed = tabs(admin, project_id)
    assert (listed["Suspected label errors"], listed["Unreadable"]) == (set(), set())
    assert listed["Near-duplicates"] == copies[0] | copies[1]


def test_answers_are_shown_as_the_lead_has_set_it_with_the_confidence_as_score(
    stack: Stack, admin: httpx.Client, project_id: int
) -> None:
    """Goes on where the test before ended: round 3 shows every answer.

    `auto` shows none while 8 images are held out, as right as they are, and the sure ones once 20 are.
    """
    for number, preannotate, held_out, least in (
        (3, "on", 0.2, 0.0),
        (4, "off", 0.2, None),
        (5, "auto", 0.2, None),
        (6, "auto", 0.5, 0.9),
    ):
        if number > 3:
            set_in_form(admin, project_id, trigger="manual", preannotate=preannotate, holdout=held_out)
            start_and_wait(stack, project_id, number)
        newest = stack.status(project_id)["round"]
        measured = newest["training"]["n_holdout"], newest["accuracy"]["value"]
        assert measured == (2 * LABELED * held_out, 1)
        model = answers_of_the_model(stack, project_id)
        expected = {
            task_id: answer if least is not None and answer[1] >= least else None
            for task_id, answer in model.items()
        }
        carried = shown_answers(admin, project_id, newest["published"]["version"])
        shown = {task_id: carried[task_id] for task_id in newest["batch"]}
        assert {task_id: answer and answer[0] for task_id, answer in shown.items()} == {
            task_id: expected[task_id] and expected[task_id][0] for task_id in shown
        }
        assert any(shown.values()) == (least is not None)
        for task_id, answer in shown.items():
            assert answer is None or answer[1] == pytest.approx(model[task_id][1], abs=1e-4)
