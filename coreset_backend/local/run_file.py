"""How other commands find what a running `coreset-backend run` started: a file in the store's folder."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from coreset_backend.settings import Settings

NAME = "run.json"


@contextlib.contextmanager
def announced(settings: Settings) -> Iterator[None]:
    """Keep the addresses and the token of this run in a file that only its owner can read."""
    path = settings.local_dir / NAME
    key = settings.label_studio_api_key
    found = {
        "pid": os.getpid(),
        "redis_url": settings.redis_url,
        "label_studio_url": settings.label_studio_url,
        "label_studio_api_key": key.get_secret_value() if key else None,
        "url": settings.url,
    }
    settings.local_dir.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(found, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def settings_of_run(folder: Path) -> dict[str, str]:
    """The addresses and the token of the run that uses ``folder``; empty if none is running."""
    try:
        found = json.loads((folder / NAME).read_text())
        os.kill(found.pop("pid"), 0)
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if value}
