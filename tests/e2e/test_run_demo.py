"""`make run` as a newcomer: nothing is set, and what it prints is enough to label."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from backend_run import ROOT, run_environment, running_backend
from e2e_stack import Annotator

from coreset_backend import demo

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
    with running_backend(run_environment(tmp_path, port), log, 300) as process:
        told = log.read_text()
        address = re.search(r"^Open\s+(http\S+)/projects/(\d+)/data$", told, re.MULTILINE)
        user, password = (
            re.search(rf"^{word}\s+(\S+)$", told, re.MULTILINE) for word in ("User", "Password")
        )
        assert address and user and password, told
        project_id = int(address[2])
        status = httpx.get(
            f"http://127.0.0.1:{port}/api/projects/{project_id}/status", trust_env=False
        ).json()
        batch = status["round"]["batch"]
        with logged_in(address[1], user[1], password[1]) as http:
            annotator = Annotator(http)
            for task_id in batch[:3]:
                assert annotator.next_task(project_id) == task_id
                annotator.skip(task_id)
    assert process.returncode == 0
