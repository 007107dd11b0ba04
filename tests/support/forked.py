"""`coreset-backend` commands without the five seconds in which they import torch.

They are forked from a process that has imported what a worker needs and does nothing else: one thread, no
connection, an environment of its own. Each test process has one, started for the first command and ended with
it. Tests of how a command is started start the real one, with ``backend_command``.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import NoReturn, Protocol

from backend_run import backend_command
from paths import ROOT

FORKS = multiprocessing.get_context("forkserver")
IMPORTED = ["coreset_backend.cli.export", "coreset_backend.cli.work", __name__]
READ_WHEN_IMPORTED = ("HF_", "LD_")
"""How the variables begin that huggingface_hub or the loader reads once."""


class Command(Protocol):
    """A running command: what tests use of ``subprocess.Popen``."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def start(*arguments: str, environment: Mapping[str, str], output: Path) -> Command:
    """`coreset-backend` with these arguments and variables; what it says is appended to ``output``."""
    if _can_be_forked(environment):
        return _Forked(arguments, environment, output, output)
    with output.open("ab") as log:
        return subprocess.Popen(
            backend_command(*arguments),
            env={"PYTHONPATH": os.pathsep.join(sys.path), **environment},
            stdout=log,
            stderr=log,
        )


def run(*arguments: str, environment: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Like ``subprocess.run`` of `coreset-backend` with its output captured; killed after the timeout."""
    command = backend_command(*arguments)
    if not _can_be_forked(environment):
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        running = _Forked(arguments, environment, stdout, stderr)
        try:
            code = running.wait(timeout)
        finally:
            running.kill()
        return subprocess.CompletedProcess(command, code, stdout.read_text(), stderr.read_text())


def _network() -> str:
    """The network of this thread: a test may be in one of its own, which the forking process is not in."""
    return str(Path("/proc/thread-self/ns/net").readlink()) if sys.platform == "linux" else ""


NETWORK = _network()


def _can_be_forked(environment: Mapping[str, str]) -> bool:
    """Only Linux forks a process with such libraries in it safely."""
    return (
        sys.platform == "linux"
        and environment.get("PYTHONPATH", str(ROOT)) == str(ROOT)
        and _network() == NETWORK
        and not any(name.startswith(READ_WHEN_IMPORTED) for name in environment)
    )


class _Forked:
    """A command that is forked, with the methods of ``subprocess.Popen``."""

    def __init__(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], stdout: Path, stderr: Path
    ) -> None:
        self.args = arguments
        _prepare()
        given = arguments, dict(environment), Path.cwd(), stdout, stderr
        self._process = FORKS.Process(target=_become, args=given)
        self._process.start()
        self.pid = int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit status, minus the number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _prepare() -> None:
    """Start the process that commands are forked from, unless it runs."""
    forkserver.set_forkserver_preload(IMPORTED)
    with tempfile.TemporaryDirectory() as home, _environment_for_imports(home):
        forkserver.ensure_running()


@contextlib.contextmanager
def _environment_for_imports(home: str) -> Iterator[None]:
    """Nothing of the caller's: no folder, no hub, no second thread for a numeric library."""
    kept = dict(os.environ)
    _set_environment(
        {
            "PATH": kept["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": home,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    )
    try:
        yield
    finally:
        _set_environment(kept)


def _set_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _become(
    arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path, stdout: Path, stderr: Path
) -> NoReturn:
    """`python -m coreset_backend`, as if this process had just been started."""
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "another thread ran in the process that this was forked from"
    _set_environment(environment)
    os.chdir(folder)
    for descriptor, path in ((1, stdout), (2, stderr)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = ["coreset-backend", *arguments]
    runpy.run_module("coreset_backend", run_name="__main__", alter_sys=True)
    sys.exit(0)
