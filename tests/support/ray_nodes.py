"""A real Ray cluster of several nodes in a network of the test's own: Ray listens on every address."""

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from paths import ROOT
from waiting import wait_until

CLONE_NEWNET = 0x40000000
PORT = 6379
RAY = (sys.executable, "-m", "ray.scripts.scripts")


def why_no_network() -> str:
    """Why this machine cannot give a test a network of its own; empty if it can."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "unshare and ip are not installed"
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True)
    return tried.stderr.strip()


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a network with nothing but loopback; afterwards it is back."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(before)


@dataclass
class Nodes:
    """The nodes of a cluster by number; number 1 is its head, at ``address``."""

    folder: Path
    environment: dict[str, str]
    port: int = PORT
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    sockets: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    """The path of a socket has at most 107 bytes, and Ray needs 60 of them."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, number: int, cores: int = 1, **environment: str) -> None:
        """Start a node with that environment on top; returns when it is a part of the cluster."""
        command = [*RAY, "start", "--block", "--disable-usage-stats", f"--num-cpus={cores}"]
        command += ["--object-store-memory=100000000", f"--node-ip-address=127.0.0.{number}"]
        if number == 1:
            command += ["--head", f"--port={self.port}", "--include-dashboard=false"]
            command += [f"--temp-dir={self.sockets}"]
        else:
            command += [f"--address={self.address}"]
        with self._log(number).open("wb") as log:
            self.running[number] = subprocess.Popen(
                command,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    "PYTHONPATH": str(ROOT),
                    "OMP_NUM_THREADS": "1",
                    "MODEL_DIR": str(self.folder / f"data-{number}"),
                    "RAY_USAGE_STATS_ENABLED": "0",
                    "RAY_raylet_start_wait_time_s": "200",
                    "RAY_worker_register_timeout_seconds": "200",
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN": self.token,
                    **self.environment,
                    **environment,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # Two nodes that start at once on one machine may choose the same socket, and then wait for ever.
        log, node = self._log(number), self.running[number]
        wait_until(
            lambda: b"will now block" in log.read_bytes() or node.poll() is not None,
            f"the node of {log}",
            240,
        )
        assert node.poll() is None, log.read_text()

    def _log(self, number: int) -> Path:
        return self.folder / f"node-{number}.log"

    def kill(self, number: int) -> None:
        """SIGKILL to all processes of the node, as when its machine is lost."""
        node = self.running.pop(number)
        children = descendants(node.pid)
        for pid in (node.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        for number in sorted(self.running, reverse=True):
            self.kill(number)
        shutil.rmtree(self.sockets, ignore_errors=True)


def descendants(pid: int) -> list[int]:
    """The processes below that one."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, thread.read_text().split()):
                found += [child, *descendants(child)]
    return found
