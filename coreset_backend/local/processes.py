"""The processes of `coreset-backend run`: started, watched, started again, and ended together."""

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coreset_backend.errors import ConfigError
from coreset_backend.local import label_studio as demo

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Child:
    """A process of the tree: started again when it dies, ended with the tree.

    ``when_orphaned`` is the signal it gets if the tree's first process is killed.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    when_orphaned: signal.Signals = signal.SIGTERM
    folder: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    started: float = field(default=0.0)

    def start(self) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            demo.tied_to_parent(self.command, self.when_orphaned),
            env=dict(self.environment),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def require_alive(self) -> None:
        """Raises ConfigError if the process has ended by itself."""
        if self.process and self.process.poll() is not None:
            code = self.process.returncode
            raise ConfigError(
                f"The process '{self.name}' ended at once (exit status {code}); the lines above say why."
            )

    def restart_if_dead(self) -> bool:
        """Restart the process if it has died, at most once in two seconds; True if it was restarted."""
        if self.process is None or self.process.poll() is None or time.monotonic() < self.started + 2:
            return False
        log.warning("%s ended with exit status %s; restarting it", self.name, self.process.returncode)
        self.start()
        return True

    def stop(self, patience: float = 8.0) -> None:
        """Ask it to end, and end it with all it started after ``patience`` seconds."""
        if self.process is None:
            return
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self.process = None


def _nothing() -> None:
    """Watch nothing else."""


@dataclass(slots=True)
class Tree:
    """The children, until ``stopping`` is set.

    ``also_watch`` raises when a process has died that is not started again.
    """

    stopping: threading.Event
    children: list[Child] = field(default_factory=list)
    also_watch: Callable[[], None] = _nothing

    def start(self, *children: Child) -> None:
        for child in children:
            self.children.append(child)
            child.start()

    def require_alive(self) -> None:
        """Raises ConfigError when one of the children has ended."""
        for child in self.children:
            child.require_alive()

    def runs(self, seconds: float = 0.5) -> bool:
        """False once it is to stop; otherwise, after the seconds, with every child alive or started again."""
        if self.stopping.wait(seconds):
            return False
        for child in self.children:
            child.restart_if_dead()
        self.also_watch()
        return True

    def stop(self) -> None:
        """Stop the children, the last started first."""
        for child in reversed(self.children):
            child.stop()
