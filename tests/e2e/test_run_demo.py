"""`make run` as a newcomer: nothing is set, and what it prints is enough to label. `make demo` to its end."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from backend_run import open_to_others, run_environment, running_backend
from browser import console_errors, open_browser, picture, prefer_colours, side_by_side, wait_for
from e2e_stack import Annotator
from paths import ROOT
from selenium import webdriver
from selenium.webdriver.common.by import By
from waiting import wait_until

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import BROKEN, make_images
from coreset_backend.local.stack import DEMO_IMAGES

pytestmark = pytest.mark.e2e


@contextlib.contextmanager
def logged_in(url: str, email: str, password: str) -> Iterator[httpx.Client]:
    """A browser's session, after its log-in form."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False, headers={"Referer": url}) as http:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', http.get("/user/login/").text)
        assert token
        form = {"csrfmiddlewaretoken": token[1], "email": email, "password": password}
        assert http.post("/user/login/", data=form).status_code == 302
        http.headers["X-CSRFToken"] = http.cookies["csrftoken"]
        yield http


def test_a_newcomer_logs_in_with_what_is_printed_and_gets_the_batch(tmp_path: Path) -> None:
    if demo.find_label_studio(ROOT) is None:
        pytest.skip("label-studio is not installed; `make label-studio` installs it")
    port, log = demo.free_port(), tmp_path / "run.log"
    earlier = tmp_path / "data/label-studio"
    earlier.mkdir(parents=True, mode=0o755)
    with running_backend(run_environment(tmp_path, port), log, 300) as process:
        told = log.read_text()
        address = re.search(r"^Open\s+(http\S+)/projects/(\d+)/data$", told, re.MULTILINE)
        user, password = (
            re.search(rf"^{word}\s+(\S+)$", told, re.MULTILINE) for word in ("User", "Password")
        )
        assert address and user and password, told
        project_id = int(address[2])
        status = httpx.get(
            f"http://127.0.0.1:{port}/api/projects/{project_id}/status", trust_env=False, timeout=60
        ).json()
        batch = status["round"]["batch"]
        with logged_in(address[1], user[1], password[1]) as http:
            annotator = Annotator(http)
            for task_id in batch[:3]:
                assert annotator.next_task(project_id) == task_id
                annotator.skip(task_id)
        assert (earlier / "data/label_studio.sqlite3").exists()
        assert open_to_others(tmp_path / "data") == []
    assert process.returncode == 0


def demo_told(log: Path, words: str) -> str:
    """What the demo has printed, once it has printed the words."""
    wait_until(lambda: words in log.read_text(), f"{words!r} in {log}", 1800)
    return log.read_text()


def test_the_demo_labels_by_itself_and_ends_with_core_set_against_random(tmp_path: Path) -> None:
    """Two small batches; for the pictures of the documentation the demo as it is."""
    if demo.find_label_studio(ROOT) is None:
        pytest.skip("label-studio is not installed; `make label-studio` installs it")
    short = {} if "SCREENSHOTS_TO" in os.environ else {"CORESET_BATCH_SIZE": "12", "CORESET_IMAGE_SIZE": "48"}
    rounds, batch, seeds = (2, 12, 1) if short else (7, 24, 3)
    port, log = demo.free_port(), tmp_path / "demo.log"
    environment = run_environment(tmp_path, port, OMP_NUM_THREADS="1", **short)
    command = ("demo", "--rounds", str(rounds), "--pause", "0", "--seeds", str(seeds))
    with running_backend(environment, log, 300, command), open_browser(tmp_path, 1300, 1000) as page:
        told = demo_told(log, "The plot is in ")
        address = re.search(r"^Open\s+(http\S+)/projects/(\d+)/data$", told, re.MULTILINE)
        assert address, told
        answers = answers_given(tmp_path, address[1], int(address[2]))
        here = f"http://127.0.0.1:{port}"
        overview = httpx.get(f"{here}/api/projects/{address[2]}/overview", trust_env=False, timeout=30).json()
        prefer_colours(page, "light")
        page.get(f"{here}/projects/{address[2]}?tab=learned")
        wait_for(page, "document.getElementById('replay-plot').dataset.ready")
        assert page.find_element(By.ID, "replay-words").text == overview["replay"]["sentence"]
        assert console_errors(page) == []
        picture(page, "learned", "learned-title")
        picture(page, "against-random", "chance-title")
        if "SCREENSHOTS_TO" in os.environ:
            queue_and_curve(page, f"{here}/projects/{address[2]}")
    truth = dict(make_images(tmp_path / "data/label-studio/files/demo", DEMO_IMAGES))
    assert answers == {name: truth[name] for name in answers}
    assert len(answers) == rounds * batch
    assert f"Round {rounds + 1}: {rounds * batch} labels" in told
    counts = {count["state"]: count["count"] for count in overview["round"]["counts"]}
    assert (counts["labeled"], counts["unreadable"]) == (rounds * batch, len(BROKEN))
    # A quarter of each batch that a model had answered before it was labelled: all but the first.
    assert overview["slice"]["pool_accuracy"]["n"] == (rounds - 1) * batch // 4
    reached = [batch * turn for turn in range(1, rounds + 1)]
    lines = {
        line["strategy"]: [point["labels"] for point in line["points"]]
        for line in overview["replay"]["lines"]
    }
    assert lines == {overview["round"]["strategy"]: reached, "random": reached}
    assert overview["replay"]["sentence"] in told
    assert "random" in (tmp_path / "data/comparison/curves.svg").read_text()


def queue_and_curve(page: webdriver.Chrome, address: str) -> None:
    """The README's picture: the batch in the order of the queue, and the curve against random."""
    page.set_window_size(740, 1000)
    page.get(address)
    page.execute_script("document.getElementById('batch-title').scrollIntoView()")
    wait_for(page, "[...document.querySelectorAll('.batch img')].every((image) => image.complete)")
    queue = page.find_element(By.CSS_SELECTOR, "[aria-labelledby=batch-title]").screenshot_as_png
    page.get(f"{address}?tab=learned")
    wait_for(page, "document.getElementById('replay-plot').dataset.ready")
    curve = page.find_element(By.CSS_SELECTOR, "[aria-labelledby=chance-title] figure").screenshot_as_png
    side_by_side("queue-and-curve", queue, curve)


def answers_given(folder: Path, url: str, project_id: int) -> dict[str, str]:
    """File name -> class of all that is labelled in the Label Studio that a run below ``folder`` has."""
    login = json.loads((folder / "data/label-studio/data/login.json").read_text())
    with demo_project.open_session(url, login["token"]) as session:
        params = {"project": project_id, "page_size": 500, "fields": "all", "resolve_uri": "false"}
        tasks = session.get("/api/tasks/", params=params).raise_for_status().json()["tasks"]
    return {
        task["data"]["image"].rsplit("/", 1)[-1]: task["annotations"][0]["result"][0]["value"]["choices"][0]
        for task in tasks
        if task["annotations"]
    }
