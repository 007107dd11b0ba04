"""`coreset-backend` commands without the five seconds in which they import torch.

They are forked from `fork_server.py`, a process that has imported what a worker needs and does nothing else:
one thread, an environment of its own. All test processes of a run share one: the first command starts it, and
it ends with the last of them. Tests of how a command is started start the real one, with ``backend_command``.
"""

import atexit
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import fork_server
from backend_run import backend_command
from paths import ROOT, SUPPORT

READ_BY_THE_LOADER = "LD_"
"""How the variables begin that are read before any import."""


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
            running.wait()
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
        and not any(name.startswith(READ_BY_THE_LOADER) for name in environment)
    )


class _Forked:
    """A forked command, with the methods of ``subprocess.Popen``; killed when nothing refers to it."""

    def __init__(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], stdout: Path, stderr: Path
    ) -> None:
        self.args = arguments
        self.returncode: int | None = None
        asked = {
            "arguments": arguments,
            "environment": dict(environment),
            "folder": str(Path.cwd()),
            "stdout": str(stdout.absolute()),
            "stderr": str(stderr.absolute()),
        }
        self._answers = _connected(_server())
        self._answers.sendall(json.dumps(asked).encode() + b"\n")
        self.pid = int(_line(self._answers))

    def poll(self) -> int | None:
        """The exit status, minus the number of the signal that ended it, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(_line(self._answers))
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def __del__(self) -> None:
        self._answers.close()

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _server() -> Path:
    """The socket of the run's server, which is there until this process ends."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:12]
    folder = Path(tempfile.gettempdir(), f"forks-{os.getuid()}-{run}")
    address = folder / fork_server.SOCKET
    with _alone(folder):
        if not address.exists():
            _start(folder)
        atexit.register(_connected(address).close)  # until then the server knows that we may want commands
    return address


_STARTED: list[subprocess.Popen[bytes]] = []
"""The server, in the process that started it; it outlives that process where others want commands."""


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The only process that starts a server in the folder, or that ends one."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), (folder / fork_server.LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / fork_server.LOCK).exists():  # else a server has just removed it
                yield
                return


def _start(folder: Path) -> None:
    """Start the server, and return when it listens. It gets nothing of the caller's environment."""
    (folder / "home").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, SUPPORT / "fork_server.py", folder],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _STARTED.append(server)
    while not (folder / fork_server.SOCKET).exists():
        assert server.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)


def _connected(address: Path) -> socket.socket:
    """A connection that the server has accepted."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(address))
    assert _line(connection) == fork_server.READY
    return connection


def _line(connection: socket.socket) -> bytes:
    """The next line, byte by byte: the one after it may be there already."""
    read = bytearray()
    while not read.endswith(b"\n"):
        byte = connection.recv(1)
        assert byte, "the process that commands are forked from has ended; its log may say why"
        read += byte
    return bytes(read)
