"""`coreset-backend run` as its users start it: a real process tree with a real Redis of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from backend_run import backend_command, open_to_others, run_environment, running_backend
from waiting import wait_until

from coreset_backend.errors import LabelStudioError
from coreset_backend.local import label_studio as demo
from coreset_backend.local.processes import Child, Tree
from coreset_backend.local.run_file import settings_of_run
from coreset_backend.local.stack import _require_label_studio

PARTS = ("redis-server", "work", "gunicorn")


@dataclass(frozen=True)
class Run:
    """A running tree: its data, its address, its first process."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.folder / "run.log").read_text()

    def processes(self) -> list[int]:
        """Every process of the tree but the first: known by its data directory or its socket."""
        found = []
        data = str(self.folder / "data").encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                # A process that has ended and is not yet collected has an empty command.
                if data in told and int(entry.name) != self.process.pid:
                    found.append(int(entry.name))
        return found

    def pid_of(self, word: str) -> int | None:
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def get(self, path: str) -> int:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False).status_code
        return 0


def environment(folder: Path, port: int) -> dict[str, str]:
    """That of a run which serves a Label Studio that is away."""
    away = {"LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": "0123456789abcdef"}
    return run_environment(folder, port, **away)


@contextlib.contextmanager
def running(folder: Path, port: int) -> Iterator[Run]:
    with running_backend(environment(folder, port), folder / "run.log") as process:
        yield Run(folder, port, process)


@pytest.mark.slow
def test_the_tree_survives_its_redis_and_ends_whole(tmp_path: Path) -> None:
    with running(tmp_path, demo.free_port()) as run:
        wait_until(lambda: run.get("/ready") == 200, "a worker that listens")
        found = settings_of_run(tmp_path / "data")
        assert found["redis_url"].startswith("unix://")
        assert found["label_studio_url"] == "http://127.0.0.1:9"

        before = dict.fromkeys(PARTS)
        for part in PARTS:
            before[part] = run.pid_of(part)
            assert before[part], f"no {part} in the tree"
        httpx.post(f"http://127.0.0.1:{run.port}/setup", json={"project": "7.1"}, trust_env=False, timeout=60)
        os.kill(before["redis-server"], signal.SIGKILL)
        wait_until(lambda: run.pid_of("redis-server") not in (None, before["redis-server"]), "a new Redis")
        wait_until(lambda: run.get("/api/projects/7/status") == 200, "a status after the restart")
        wait_until(lambda: run.get("/ready") == 200, "the worker to be back")
        os.kill(before["gunicorn"], signal.SIGKILL)
        wait_until(lambda: run.get("/health") == 200, "a new web server")
        assert (tmp_path / "data/projects").is_dir()
        assert open_to_others(tmp_path / "data") == []

    assert run.process.returncode == 0, run.log
    wait_until(lambda: not run.processes(), "the end of all it started")
    assert settings_of_run(tmp_path / "data") == {}
    assert "Traceback" not in run.log


@pytest.mark.slow
def test_a_killed_run_leaves_no_orphan_and_its_data_can_be_used_again(tmp_path: Path) -> None:
    port = demo.free_port()
    with running(tmp_path, port) as run:
        run.process.kill()
        wait_until(lambda: not run.processes(), "the end of the orphans")
    assert settings_of_run(tmp_path / "data") == {}
    with running(tmp_path, port) as run:
        assert run.get("/health") == 200


@pytest.mark.slow
def test_other_commands_find_the_run_and_a_second_run_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, demo.free_port()) as run:
        named = ("PATH", "PYTHONPATH", "HOME", "MODEL_DIR")
        bare = {name: environment(tmp_path, 0)[name] for name in named}
        wait_until(lambda: run.get("/ready") == 200, "a worker that listens")

        def typed(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                backend_command(*arguments), env=bare | more, capture_output=True, text=True, timeout=120
            )

        assert typed("status").stdout.startswith("No project is connected.")
        examined = typed("doctor")
        assert examined.returncode == 1
        lines = examined.stdout.splitlines()
        assert [line.split(maxsplit=1) for line in lines[:4]] == [
            ["ok", "Store"],
            ["ok", "Redis and worker"],
            ["ok", "Web"],
            ["PROBLEM", "Label Studio"],
        ]
        assert "Label Studio at http://127.0.0.1:9 does not answer" in lines[4]

        second = typed("run", PORT=str(demo.free_port()))
        assert second.returncode == 2
        assert "Another `coreset-backend run` uses" in second.stderr
        assert run.get("/health") == 200


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused = subprocess.run(
            backend_command("run"),
            env=environment(tmp_path, port),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Error: Port {port} is in use")


@pytest.mark.slow
def test_a_child_that_dies_at_the_start_is_said_at_once_and_the_rest_is_ended(tmp_path: Path) -> None:
    (tmp_path / "redis-server").write_text("#!/bin/sh\necho it cannot start\nexit 3\n")
    (tmp_path / "redis-server").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    away = {"HOST": "192.0.2.1", "BASIC_AUTH_USER": "ops", "BASIC_AUTH_PASS": "seeded-pass"}
    for given, words in (
        ({"PATH": path}, "The process 'redis' ended at once (exit status 3)"),
        (away, "The process 'web' ended at once (exit status 1)"),
    ):
        ran = subprocess.run(
            backend_command("run"),
            env=environment(tmp_path, demo.free_port()) | given,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 2 and words in ran.stderr
        assert settings_of_run(tmp_path / "data") == {}


def test_a_tree_starts_its_dead_again_and_raises_for_what_it_cannot(tmp_path: Path) -> None:
    child = Child("short", ["/bin/sh", "-c", "echo >> started; exit 3"], {}, folder=tmp_path)
    tree = Tree(threading.Event())
    tree.start(child)
    told = tmp_path / "started"
    wait_until(lambda: tree.runs(0.1) and told.exists() and told.read_text() == "\n\n", "a second start")
    (tmp_path / demo.LOG).write_text("it fell over")
    process = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
    process.wait()
    login = demo.Login("a@example.com", "password", "token")
    server = demo.LabelStudioServer("http://127.0.0.1:9", login, tmp_path, tmp_path, process)
    tree.also_watch = partial(_require_label_studio, server)
    with pytest.raises(LabelStudioError, match=r"(?s)ended with exit status 3\. .*it fell over"):
        tree.runs(0.1)
    tree.stopping.set()
    assert not tree.runs()
    tree.stop()


@pytest.mark.parametrize("content", ["", "{", json.dumps({"pid": 2**22 + 1, "url": "x"})])
def test_a_run_file_that_a_crash_left_is_no_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    assert settings_of_run(tmp_path) == {}


def test_what_a_run_leaves_open_is_left_open(tmp_path: Path) -> None:
    given: dict[str, Any] = {"pid": os.getpid(), "url": "http://a:1", "label_studio_url": None}
    (tmp_path / "run.json").write_text(json.dumps(given))
    assert settings_of_run(tmp_path) == {"url": "http://a:1"}
