"""The page of a project beside a real Label Studio: every number compared, every action pressed.

With SCREENSHOTS_TO=docs/images in the environment it also makes the pictures of the documentation.
"""

import contextlib
import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import (
    accessibility_violations,
    console_errors,
    downloaded,
    draw_lasso,
    open_browser,
    picture,
    prefer_colours,
    press,
    wait_for,
    wait_until_said,
)
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from waiting import wait_until

from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
N, TORN = 90, 2


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chromium")


@pytest.fixture(scope="module")
def page(downloads: Path) -> Iterator[webdriver.Chrome]:
    with open_browser(downloads, 1300, 1000) as page:
        prefer_colours(page, "light")
        yield page


@pytest.fixture(scope="module")
def truth(label_studio: demo.LabelStudioServer) -> dict[str, str]:
    """Name -> class of the images; two more files of the folder are torn."""
    folder = label_studio.document_root / "pages"
    made = dict(make_images(folder, N, seed=11))
    for number in range(TORN):
        (folder / f"torn-{number}.jpg").write_bytes(b"\xff\xd8 no more")
    return made


@pytest.fixture(scope="module")
def project_id(label_studio: demo.LabelStudioServer, truth: dict[str, str], stack: Any) -> int:
    """A connected project with its first round."""
    login, folder = label_studio.login, label_studio.document_root / "pages"
    made = demo_project.create_demo_project(label_studio.url, login.token, folder, "Seen by a lead", CLASSES)
    stack.connect(made)
    stack.wait_for_round(made, 1)
    stack.wait_until_idle(made)  # its tabs are there
    return made


def open_page(page: webdriver.Chrome, stack: Any, project_id: int, tab: str = "now") -> None:
    page.get(f"{stack.url}/projects/{project_id}?tab={tab}")
    if tab == "pool":
        wait_for(page, "document.getElementById('map')?.dataset.ready")


def shown_counts(page: webdriver.Chrome) -> dict[str, int]:
    found = page.find_elements(By.CSS_SELECTOR, "[data-count]")
    return {each.get_attribute("data-count") or "": int(each.text.replace("\u202f", "")) for each in found}


def tab_tasks(admin: httpx.Client, project_id: int, title: str) -> set[int]:
    """The tasks that the Data Manager lists under a tab."""
    tabs = admin.get("/api/dm/views/", params={"project": project_id}).raise_for_status().json()
    tab = next(each for each in tabs if each["data"]["title"] == title)
    answer = admin.get("/api/tasks/", params={"project": project_id, "view": tab["id"], "page_size": 200})
    return {task["id"] for task in answer.raise_for_status().json()["tasks"]}


def test_every_number_is_that_of_the_api_and_of_label_studio(
    stack: Any, admin: httpx.Client, project_id: int, page: webdriver.Chrome
) -> None:
    open_page(page, stack, project_id)
    status = stack.wait_for_round(project_id, 1)
    assert shown_counts(page) == status["counts"]
    assert of_the_page(shown_counts(page)) == known_to_label_studio(admin, project_id)
    assert sum(shown_counts(page).values()) == N + TORN
    assert shown_counts(page)["unreadable"] == TORN
    picks = page.find_elements(By.CSS_SELECTOR, ".batch img")
    order = [int((each.get_attribute("alt") or "").removeprefix("Task ")) for each in picks]
    assert order == status["batch"]
    assert order == status["published"]["serves"][: len(order)]
    assert wait_for(page, "document.querySelector('.batch img').naturalWidth") > 0
    picture(page, "batch", "batch-title")
    assert accessibility_violations(page) == []
    open_page(page, stack, project_id, "pool")
    failures = page.find_elements(By.CSS_SELECTOR, "#failures tbody tr")
    assert len(failures) == TORN
    assert "torn-" in failures[0].text
    assert page.find_element(By.ID, "map-count").text == f"{N} images"
    assert accessibility_violations(page) == []
    assert console_errors(page) == []


def known_to_label_studio(admin: httpx.Client, project_id: int) -> dict[str, int]:
    """What Label Studio itself counts: tasks, labelled ones, and those in the queue."""
    project = admin.get(f"/api/projects/{project_id}/").raise_for_status().json()
    client = LabelStudio(str(admin.base_url), admin.headers["Authorization"].removeprefix("Token "))
    queue = client.count_waiting(project_id, served=True)
    client.close()
    return {
        "tasks": project["task_number"],
        "labeled": project["num_tasks_with_annotations"],
        "queue": queue,
    }


def of_the_page(shown: dict[str, int]) -> dict[str, int]:
    """The same of the page's counts."""
    whole = sum(shown.values())
    return {"tasks": whole, "labeled": shown["labeled"], "queue": whole - shown["labeled"]}


def overview_of(stack: Any, project_id: int) -> Any:
    return httpx.get(f"{stack.url}/api/projects/{project_id}/overview", trust_env=False, timeout=30).json()


def test_the_tabs_of_the_data_manager_list_what_the_page_lists(
    stack: Any, admin: httpx.Client, project_id: int
) -> None:
    found = overview_of(stack, project_id)["round"]
    batch = {pick["task_id"] for pick in found["batch"]}
    assert batch <= tab_tasks(admin, project_id, "Core-set batch")
    unreadable = {failure["task_id"] for failure in found["failures"]}
    assert wait_until(lambda: tab_tasks(admin, project_id, "Unreadable"), "the tab") == unreadable
    copies = {task_id for group in found["duplicates"] for task_id in group}
    assert len(copies) >= N // 9
    assert tab_tasks(admin, project_id, "Near-duplicates") == copies


def label(
    admin: httpx.Client, project_id: int, truth: dict[str, str], count: int, besides: list[int]
) -> None:
    """Label ``count`` tasks, none of ``besides``, with one class: the next round has nothing to train."""
    wanted = {"project": project_id, "page_size": 200, "resolve_uri": "false"}
    tasks = admin.get("/api/tasks/", params=wanted).raise_for_status().json()["tasks"]
    named = {task["id"]: task["data"]["image"].rsplit("/", 1)[-1] for task in tasks}
    alike = {name for name, kind in truth.items() if kind == CLASSES[0]}
    free = [task_id for task_id, name in named.items() if name in alike and task_id not in besides]
    for task_id in free[:count]:
        region = {"from_name": "label", "to_name": "image", "type": "choices"}
        body = {"result": [region | {"value": {"choices": [CLASSES[0]]}}]}
        admin.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()


def test_starting_a_round_asks_once_and_says_what_it_did(
    stack: Any,
    admin: httpx.Client,
    project_id: int,
    truth: dict[str, str],
    page: webdriver.Chrome,
) -> None:
    before = stack.wait_for_round(project_id, 1)
    label(admin, project_id, truth, 6, besides=before["batch"])
    stack.wait_until_idle(project_id)
    open_page(page, stack, project_id)
    wait_for(page, "document.getElementById('sentence').textContent.includes(': 0 of 24 done')")
    start = page.find_element(By.CSS_SELECTOR, "[data-action=start]")
    wait_for(page, "!document.querySelector('[data-action=start]').disabled")
    start.click()
    page.find_element(By.CSS_SELECTOR, "#ask [value=no]").click()
    assert page.find_element(By.ID, "messages").text == ""
    start.click()
    assert "Start a round now?" in page.find_element(By.ID, "ask-words").text
    page.find_element(By.ID, "ask-yes").click()
    wait_until_said(page, "A round")
    number = stack.wait_for_round(project_id, before["number"] + 1)["number"]
    stack.wait_until_idle(project_id)
    wait_for(page, f"Number(document.getElementById('live').dataset.round) >= {number}")
    assert shown_counts(page) == stack.wait_for_round(project_id, number)["counts"]
    assert shown_counts(page)["labeled"] == 6
    assert of_the_page(shown_counts(page)) == known_to_label_studio(admin, project_id)
    open_page(page, stack, project_id, "learned")
    classes = page.find_elements(By.CSS_SELECTOR, "#classes tbody tr")
    assert [row.find_element(By.TAG_NAME, "th").text for row in classes] == list(CLASSES)
    counts = [row.find_element(By.TAG_NAME, "td").text for row in classes]
    assert counts == ["6", *["0"] * (len(CLASSES) - 1)]
    open_page(page, stack, project_id, "pool")
    picture(page, "map", "map-title")
    assert console_errors(page) == []


def test_a_lasso_lists_what_lies_inside_and_exports_it(
    stack: Any, project_id: int, page: webdriver.Chrome, downloads: Path
) -> None:
    prefer_colours(page, "dark")
    open_page(page, stack, project_id, "pool")
    newest = stack.status(project_id)["round"]
    draw_lasso(page)
    assert page.find_element(By.ID, "chosen-title").text == f"Inside the lasso: {N} images"
    page.find_element(By.ID, "chosen-export").click()
    file = downloads / f"project-{project_id}-round-{newest['number']}.csv"
    lines = list(csv.DictReader(downloaded(file).splitlines()))
    states = Counter(line["state"] for line in lines)
    expected = {state: count for state, count in newest["counts"].items() if count and state != "unreadable"}
    assert dict(states) == expected
    picks = {int(line["pick"]): int(line["task_id"]) for line in lines if line["pick"]}
    assert [picks[rank + 1] for rank in range(len(picks))] == newest["batch"]
    assert accessibility_violations(page) == []
    page.get(f"{stack.url}/projects")
    assert f"6 of {N + TORN}" in page.find_element(By.TAG_NAME, "main").text
    assert accessibility_violations(page) == []
    assert console_errors(page) == []
    prefer_colours(page, "light")


def test_a_lasso_is_labelled_in_bulk_counts_as_labels_and_is_undone(
    stack: Any, admin: httpx.Client, project_id: int, page: webdriver.Chrome
) -> None:
    stack.wait_until_idle(project_id)
    open_page(page, stack, project_id, "pool")
    draw_lasso(page)
    page.find_element(By.CSS_SELECTOR, "#chosen-list input").send_keys(Keys.SPACE)
    page.switch_to.active_element.send_keys(Keys.SHIFT, *[Keys.ARROW_RIGHT] * 11)
    assert page.find_element(By.ID, "bulk-count").text == "12 images selected"
    chosen = [
        int(box.get_attribute("data-task") or 0)
        for box in page.find_elements(By.CSS_SELECTOR, "#chosen-list input:checked")
    ]
    answered = set(annotations_of(admin, project_id))
    fresh = set(chosen) - answered
    picture(page, "bulk", "bulk-title")
    page.switch_to.active_element.send_keys("2")  # the digit of the second class
    wait_for(page, "document.getElementById('ask').open")
    asked = page.find_element(By.ID, "ask-words").text
    assert f"{len(fresh)} annotations “{CLASSES[1]}” will be written as " in asked
    assert "They count as labels by a person" in asked
    assert annotations_of(admin, project_id).keys() == answered
    page.find_element(By.ID, "ask-yes").click()
    wait_for(
        page, f"document.querySelector('.writes')?.textContent.includes('written on {len(fresh)} images')"
    )
    written = annotations_of(admin, project_id)
    assert written.keys() == answered | fresh
    for task_id in fresh:
        [annotation] = written[task_id]
        [region] = annotation["result"]
        assert region["value"]["choices"] == [CLASSES[1]] and region["labelled_in_bulk"].startswith("bulk-")
    assert known_to_label_studio(admin, project_id)["labeled"] == len(answered | fresh)
    assert accessibility_violations(page) == []

    changed = written[min(fresh)][0]
    result = [{key: value for key, value in changed["result"][0].items() if key != "labelled_in_bulk"}]
    annotation = f"/api/annotations/{changed['id']}/"
    admin.patch(annotation, json={"result": result}).raise_for_status()  # as the editor saves it
    wait_for(page, "document.querySelector('[data-undo]:not(:disabled)')").send_keys(Keys.ENTER)
    page.find_element(By.ID, "ask-yes").click()
    wait_for(page, "document.querySelector('.writes')?.textContent.includes('is undone')")
    assert annotations_of(admin, project_id).keys() == answered | {min(fresh)}
    admin.delete(annotation).raise_for_status()
    assert console_errors(page) == []
    stack.wait_until_idle(project_id)


def test_a_suspect_is_corrected_only_when_asked_by_a_ground_truth(
    stack: Any, admin: httpx.Client, project_id: int
) -> None:
    """By the API: the person's annotation stays, and the new one counts."""
    overview = overview_of(stack, project_id)
    api = f"{stack.url}/api/projects/{project_id}"
    labelled = next(iter(answers := annotations_of(admin, project_id)))
    wanted = {"task_ids": [labelled], "label": [CLASSES[1]]}

    def sent(path: str, **body: Any) -> Any:
        answer = httpx.post(f"{api}/{path}", json=body, trust_env=False, timeout=60)
        return answer.raise_for_status().json()

    def in_state(state: str) -> Any:
        found = httpx.get(f"{api}/bulk", trust_env=False, timeout=60).json()["writes"][0]
        return found if found["state"] == state else None

    assert "Nothing would change" in sent("bulk", **wanted, dry_run=True)["sentence"]
    assert "gets a ground truth" in sent("bulk", **wanted, dry_run=True, correct=True)["sentence"]
    version = sent("bulk", **wanted, correct=True)["writes"][0]["version"]
    assert wait_until(lambda: in_state("written"), "the correction", 120)["written"] == 1
    old, new = sorted(annotations_of(admin, project_id)[labelled], key=lambda each: each["id"])
    assert (old["id"], old["ground_truth"]) == (answers[labelled][0]["id"], False)
    assert new["ground_truth"] and new["result"][0]["value"]["choices"] == [CLASSES[1]]
    sent("bulk/undo", version=version)
    wait_until(lambda: in_state("undone"), "the undo", 120)
    assert annotations_of(admin, project_id) == answers
    marked = [pick["task_id"] for pick in overview["round"]["batch"]][:1] or [labelled]
    assert sent("examples", task_ids=marked, like="more")["examples"] == [
        {"task_id": marked[0], "weight": 4.0}
    ]
    stack.wait_until_idle(project_id)


def annotations_of(admin: httpx.Client, project_id: int) -> dict[int, list[dict[str, Any]]]:
    """Task id -> id, ground truth and result of its annotations, of the annotated tasks."""
    wanted = {"project": project_id, "page_size": 200, "fields": "all", "resolve_uri": "false"}
    tasks = admin.get("/api/tasks/", params=wanted).raise_for_status().json()["tasks"]
    return {
        task["id"]: [
            {name: each[name] for name in ("id", "ground_truth", "result")} for each in task["annotations"]
        ]
        for task in tasks
        if task["annotations"]
    }


@contextlib.contextmanager
def no_work(stack: Any) -> Iterator[None]:
    """Without it the round may be over before somebody who presses buttons has cancelled it.

    A job that a webhook started before must be over: a worker that stands still cannot cancel it.
    """

    def nothing_runs() -> bool:
        return 'coreset_jobs{state="started"} 0.0' in stack.http.get("/metrics").text

    with stack.workers_stopped(nothing_runs, "a worker without a job"):
        yield


def test_cancel_publish_again_and_roll_back_do_what_they_say(
    stack: Any, admin: httpx.Client, project_id: int, page: webdriver.Chrome
) -> None:
    before = stack.wait_for_round(project_id, 2)
    stack.wait_until_idle(project_id)
    open_page(page, stack, project_id, "history")
    with no_work(stack):
        press(page, "[data-action=start]", "A round is queued.")
        press(page, "[data-action=cancel]", "Cancelled. Annotators keep the current batch.")
    assert stack.status(project_id)["progress"]["state"] == "idle"
    assert stack.status(project_id)["round"]["model_version"] == before["model_version"]

    version = {"model_version": before["model_version"]}
    versions = f"/api/projects/{project_id}/model-versions/"
    with no_work(stack):  # else the poll may publish it first, and be told instead
        admin.request("DELETE", versions, json=version).raise_for_status()
        press(page, "[data-action=publish]", "The batch will be published in a moment.")
    wait_until_said(page, f"of round {before['number']} is published")
    stack.wait_until_idle(project_id)
    waiting = known_to_label_studio(admin, project_id)
    assert admin.get(versions).json() == {before["model_version"]: waiting["tasks"] - waiting["labeled"]}
    assert waiting["queue"] == waiting["tasks"] - waiting["labeled"] == N + TORN - 6

    press(page, "[data-action=rollback][data-number='1']", "Rolled back to round 1.")
    wait_until_said(page, "of round 1 is published")
    stack.wait_until_idle(project_id)
    first = stack.status(project_id)["round"]
    assert first["number"] == 1
    shown = admin.get(f"/api/projects/{project_id}/").json()["model_version"]
    assert shown == first["model_version"] == first["published"]["version"]
    rows = {
        row.get_attribute("data-number"): row.text
        for row in page.find_elements(By.CSS_SELECTOR, "#rounds tbody tr")
    }
    assert [number for number, text in rows.items() if "served now" in text] == ["1"]
    assert console_errors(page) == []


def test_settings_are_typed_into_label_studios_form_and_wrong_ones_told_there(
    stack: Any, admin: httpx.Client, project_id: int, page: webdriver.Chrome
) -> None:
    backend = admin.get("/api/ml", params={"project": project_id}).json()[0]
    body = {"project": project_id, "url": backend["url"], "title": backend["title"]}
    wrong = admin.patch(f"/api/ml/{backend['id']}", json=body | {"extra_params": {"batch_size": -3}})
    assert wrong.status_code == 400
    assert "batch_size in the extra params" in wrong.text
    right = admin.patch(f"/api/ml/{backend['id']}", json=body | {"extra_params": {"batch_size": 7}})
    assert right.status_code == 200, right.text
    admin.get(f"/api/ml/{backend['id']}").raise_for_status()
    config = admin.get(f"/api/projects/{project_id}/").json()["label_config"]
    config = config.replace("<Choices ", '<Choices coreset_preannotate="off" ')
    admin.patch(f"/api/projects/{project_id}/", json={"label_config": config}).raise_for_status()
    number = max(line["number"] for line in overview_of(stack, project_id)["rounds"])
    assert stack.cli("start", "--project", str(project_id)).returncode == 0
    assert len(stack.wait_for_round(project_id, number + 1)["batch"]) == 7
    open_page(page, stack, project_id, "history")
    rows = [row.text for row in page.find_elements(By.CSS_SELECTOR, "#settings tbody tr")]
    assert "batch_size 7 extra params" in rows
    assert "preannotate off label config" in rows
