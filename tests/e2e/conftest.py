"""A real Label Studio, the whole backend beside it, and annotators who speak as the browser does."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import wait_until

from coreset_backend import demo

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.LabelStudioServer]:
    executable = demo.find_label_studio(ROOT, os.environ.get("LABEL_STUDIO_COMMAND"))
    if executable is None:
        pytest.skip("label-studio is not installed; `make label-studio` installs it")
    golden = demo.golden_data_dir(executable, ROOT / ".label-studio/golden")
    folder = tmp_path_factory.mktemp("label-studio")
    data = demo.migrated_copy(golden, folder / "data")
    files = folder / "files"
    files.mkdir()
    with demo.start_label_studio(executable, data, files) as server:
        yield server


@dataclass(frozen=True)
class Annotator:
    """A person with an account, who presses the same buttons as in the browser."""

    http: httpx.Client

    def next_task(self, project_id: int) -> int | None:
        """'Label All Tasks': the id of the task shown, None when Label Studio has none to show."""
        answer = self.http.post(
            "/api/dm/actions/",
            params={"id": "next_task", "project": project_id},
            json={"project": project_id},
        )
        return None if answer.status_code == 404 else int(answer.raise_for_status().json()["id"])

    def submit(self, task_id: int, choice: str | None) -> None:
        """'Submit' with the choice, or with nothing chosen."""
        value = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
        body = {"result": [value] if choice else [], "lead_time": 1.0}
        self.http.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()

    def skip(self, task_id: int) -> None:
        body = {"result": [], "was_cancelled": True}
        self.http.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()


@pytest.fixture
def admin(label_studio: demo.LabelStudioServer) -> Iterator[httpx.Client]:
    with demo.open_session(label_studio.url, label_studio.login.token) as session:
        yield session


@pytest.fixture
def new_annotator(label_studio: demo.LabelStudioServer) -> Iterator[Callable[[str], Annotator]]:
    """Signs a new user up through the form, as a person would."""
    opened = []

    def sign_up(email: str) -> Annotator:
        http = httpx.Client(base_url=label_studio.url, timeout=60, trust_env=False)
        opened.append(http)
        page = http.get("/user/signup/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert token, "the sign-up form has no CSRF token"
        form = {
            "csrfmiddlewaretoken": token[1],
            "email": email,
            "password": "correct horse",
            "allow_newsletters": "",
        }
        answer = http.post("/user/signup/", data=form, headers={"Referer": label_studio.url})
        assert answer.status_code == 302, answer.text[:500]
        key = http.get("/api/current-user/token").raise_for_status().json()["token"]
        http.headers["Authorization"] = f"Token {key}"
        http.cookies.clear()
        return Annotator(http)

    yield sign_up
    for http in opened:
        http.close()


@dataclass(frozen=True)
class Stack:
    """`coreset-backend run` beside the real Label Studio."""

    url: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coreset_backend", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)

    def status(self, project_id: int) -> Any:
        answer = httpx.get(f"{self.url}/api/projects/{project_id}/status", trust_env=False)
        return answer.json() if answer.status_code == 200 else {"round": None, "progress": {}}

    def wait_for_round(self, project_id: int, number: int, seconds: float = 180.0) -> Any:
        """The record of the newest round once it is published and has that number, or a higher one."""

        def published() -> Any:
            newest = self.status(project_id)["round"]
            return newest if newest and newest["number"] >= number and newest["published"] else None

        return wait_until(
            published, f"round {number} of project {project_id}; {self.log} may say why", seconds
        )


@pytest.fixture(scope="session")
def stack(
    label_studio: demo.LabelStudioServer, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    port = demo.free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.login.token,
        "MODEL_DIR": str(folder / "data"),
        "REDIS_URL": redis_url,
        "PORT": str(port),
        "CORESET_URL": f"http://localhost:{port}",
        "CORESET_BATCH_SIZE": "24",
        "CORESET_DEBOUNCE_SECONDS": "1",
        "CORESET_POLL_SECONDS": "5",
    }
    log = folder / "run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "coreset_backend", "run"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: "Press Ctrl-C" in log.read_text() or process.poll() is not None, "the backend")
        assert process.poll() is None, log.read_text()
        yield Stack(url, environment, process, log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
