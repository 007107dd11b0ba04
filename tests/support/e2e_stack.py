"""The whole backend as its users start it, and annotators who speak to Label Studio as the browser does."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import httpx
from backend_run import run_environment, running_backend
from waiting import wait_until

from coreset_backend.local import label_studio as demo

LOOKS = 0.5
"""Seconds between two looks at a status: each takes time of the cores that the round needs."""
LOCKED = "database is locked"
COMPUTING = ("train", "embed", "fit", "neighbors", "select", "map")
"""The phases of a round between what it reads of Label Studio and what it saves."""


@dataclass(frozen=True)
class Annotator:
    """A person with an account, who presses the same buttons as in the browser."""

    http: httpx.Client

    def next_task(self, project_id: int) -> int | None:
        """'Label All Tasks': the id of the task shown, None when Label Studio has none to show.

        While others write, Label Studio may answer that its SQLite is locked; a person presses again.
        """

        def answered() -> httpx.Response | None:
            answer = self.http.post(
                "/api/dm/actions/",
                params={"id": "next_task", "project": project_id},
                json={"project": project_id},
            )
            return None if answer.status_code == 500 and LOCKED in answer.text else answer

        answer = wait_until(answered, "Label Studio to give a task or none")
        return None if answer.status_code == 404 else int(answer.raise_for_status().json()["id"])

    def submit(self, task_id: int, choice: str | None) -> None:
        """'Submit' with the choice, or with nothing chosen."""
        value = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
        body = {"result": [value] if choice else [], "lead_time": 1.0}
        self.http.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()

    def skip(self, task_id: int) -> None:
        body = {"result": [], "was_cancelled": True}
        self.http.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()


def sign_up(label_studio_url: str, email: str) -> Annotator:
    """A new user, made through the form as a person would; the caller closes its ``http``."""
    http = httpx.Client(base_url=label_studio_url, timeout=60, trust_env=False)
    page = http.get("/user/signup/").text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token, "the sign-up form has no CSRF token"
    form = {
        "csrfmiddlewaretoken": token[1],
        "email": email,
        "password": "correct horse",
        "allow_newsletters": "",
    }
    answer = http.post("/user/signup/", data=form, headers={"Referer": label_studio_url})
    assert answer.status_code == 302, answer.text[:500]
    key = http.get("/api/current-user/token").raise_for_status().json()["token"]
    http.headers["Authorization"] = f"Token {key}"
    http.cookies.clear()
    return Annotator(http)


@dataclass(frozen=True)
class Stack:
    """A running `coreset-backend run`: its address, what its commands read, its process and its output.

    ``http`` asks it, by a new connection each time: a test may kill the web process.
    """

    url: str
    http: httpx.Client
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command typed in a second terminal, with ``environment`` on top of that of the run."""
        return forked.run(*arguments, environment=self.environment | environment, timeout=300)

    def connect(self, project_id: int) -> str:
        """Connect the project; what the command said."""
        connected = self.cli("connect", "--project", str(project_id))
        assert connected.returncode == 0, connected.stderr
        return connected.stdout

    def status(self, project_id: int) -> Any:
        """The status of the project, with ``round`` None while it is unknown to the backend."""
        answer = self.http.get(f"/api/projects/{project_id}/status")
        return answer.json() if answer.status_code == 200 else {"round": None, "progress": {}}

    def wait_for_round(self, project_id: int, number: int, seconds: float = 600.0) -> Any:
        """The record of the newest round once it is published and has that number, or a higher one."""

        def published() -> Any:
            newest = self.status(project_id)["round"]
            return newest if newest and newest["number"] >= number and newest["published"] else None

        return wait_until(
            published, f"round {number} of project {project_id}; {self.log} may say why", seconds, LOOKS
        )

    def wait_for_error(self, project_id: int, seconds: float = 300.0) -> str:
        """What the status says went wrong, as soon as it says so."""

        def failed() -> Any:
            progress = self.status(project_id)["progress"]
            return progress.get("error") if progress.get("state") in ("failed", "waiting") else None

        return str(wait_until(failed, f"an error in project {project_id}", seconds, LOOKS))

    def wait_until_idle(self, project_id: int, seconds: float = 300.0) -> None:
        """Return when no round of the project runs or waits."""

        def idle() -> bool:
            return bool(self.status(project_id)["progress"].get("state") == "idle")

        wait_until(idle, f"project {project_id} to be idle", seconds, LOOKS)

    @contextlib.contextmanager
    def workers_stopped(self, when: Callable[[], bool], what: str) -> Iterator[list[int]]:
        """Stop all processes of the workers (SIGSTOP) when that is true, and let them go on after the block.

        Otherwise what a test has just seen of a round may be over before the test acts. Yields the pids.
        """
        stopped: list[int] = []

        def stands_still() -> bool:
            if not when():
                return False
            while new := set(self.processes("work")) - {*stopped}:
                stopped.extend(new)
                signal_all(new, signal.SIGSTOP)
            if when():
                return True
            signal_all(stopped, signal.SIGCONT)
            stopped.clear()
            return False

        wait_until(stands_still, what, 240, pause=0.02)
        try:
            yield stopped
        finally:
            signal_all(stopped, signal.SIGCONT)

    def computes(self, project_id: int) -> bool:
        """Whether a round of the project is in a phase in which it needs nothing of Label Studio."""
        progress = self.status(project_id)["progress"]
        return progress.get("state") == "running" and progress.get("phase") in COMPUTING

    def processes(self, word: str) -> list[int]:
        """The pids of the run's processes with ``word`` in their command, as `work` for worker and child."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes()
                if word.encode() in command and self.environment["MODEL_DIR"].encode() in environment:
                    found.append(int(entry.name))
        return found


def signal_all(processes: Iterable[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # a job's, which is over
            os.kill(process, number)


@contextlib.contextmanager
def running_stack(folder: Path, label_studio_url: str, api_key: str, **settings: str) -> Iterator[Stack]:
    """`coreset-backend run` with its data in ``folder``, which may hold those of an earlier run."""
    port = demo.free_port()
    environment = run_environment(
        folder,
        port,
        **{
            "LABEL_STUDIO_URL": label_studio_url,
            "LABEL_STUDIO_API_KEY": api_key,
            "OMP_NUM_THREADS": "1",  # two threads that wait for each other crawl on a busy machine
            "CORESET_URL": f"http://localhost:{port}",
            "CORESET_BATCH_SIZE": "24",
            "CORESET_DEBOUNCE_SECONDS": "1",
            "CORESET_POLL_SECONDS": "30",  # each reads every project; webhooks tell of what tests do
            **settings,
        },
    )
    log, url = folder / f"run-{port}.log", f"http://127.0.0.1:{port}"
    each_anew = httpx.Limits(max_keepalive_connections=0)
    with (
        running_backend(environment, log) as process,
        httpx.Client(base_url=url, limits=each_anew, trust_env=False, timeout=60) as http,
    ):
        yield Stack(url, http, environment, process, log)
