"""`coreset-backend` as it is typed into a terminal, in processes of its own."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from paths import ROOT
from waiting import wait_until

from coreset_backend.settings import Settings


def backend_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "coreset_backend", *arguments]


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables by which a command has these settings' Redis, folder and Label Studio."""
    key = settings.label_studio_api_key
    return {
        "REDIS_URL": settings.redis_url,
        "MODEL_DIR": str(settings.model_dir),
        "LABEL_STUDIO_URL": settings.label_studio_url or "",
        "LABEL_STUDIO_API_KEY": key.get_secret_value() if key else "",
    }


def run_environment(folder: Path, port: int, **settings: str) -> dict[str, str]:
    """All that a run with its data in ``folder`` gets to see of this process, with ``settings`` on top."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "MODEL_DIR": str(folder / "data"),
        "PORT": str(port),
        **settings,
    }


def open_to_others(folder: Path) -> list[str]:
    """What below ``folder`` another user of the machine could list, read or write.

    What a running process removes meanwhile, as the journal of a database, is none of it.
    """
    found = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            mode = entry.stat(follow_symlinks=False).st_mode
            if mode & 0o077 and not entry.is_symlink():
                found.append(f"{oct(mode)} {entry.path}")
            if entry.is_dir(follow_symlinks=False) and mode & 0o011:
                found += open_to_others(Path(entry.path))
    return found


@contextlib.contextmanager
def running_backend(
    environment: Mapping[str, str],
    log: Path,
    seconds: float = 240.0,
    command: Sequence[str] = ("run",),
    program: Sequence[str] = (),
    cwd: Path = ROOT,
) -> Iterator[subprocess.Popen[bytes]]:
    """`coreset-backend run`, ready, with its output in ``log``; interrupted and awaited at the end.

    ``command`` may be another one that runs until it is interrupted, ``program`` another installation.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            program or backend_command(*command),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: "Press Ctrl-C" in log.read_text() or process.poll() is not None, "the backend", seconds
        )
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(180)
