"""A real Redis, a private store and settings for every test; nothing of the caller's environment."""

import atexit
import contextlib
import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_label_studio import FakeLabelStudio, running
from flask.testing import FlaskClient
from redis import Redis
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from coreset_backend.backend import Backend, open_backend
from coreset_backend.local.redis_server import embedded_redis, wait_for_redis
from coreset_backend.settings import Settings
from coreset_backend.settings.environment import environment_names
from coreset_backend.web.app import create_app

if TYPE_CHECKING:
    from worker_site import Site

# No test asks the real hub; those of tests/model/test_hub.py ask their own.
os.environ["HF_HUB_OFFLINE"] = "1"
pytest.register_assert_rewrite("label_studio_contract", "worker_site")
gc.disable()  # while the tests are collected, nothing becomes garbage
ONLY_WHERE_NAMED = ("docker", "soak")
ON_ONE_LABEL_STUDIO = (
    ("story", "crowd", "browser", "cloud", "label_configs"),
    ("trouble", "bucket_story", "disconnect", "replaced_file"),
    ("finish", "measuring", "project_page", "findings", "publish", "label_studio_harness"),
)
"""Files of tests/e2e that one process runs: it starts one Label Studio and one backend for all of them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes many minutes runs only where its marker is named, as in `pytest -m soak`.

    Where files run side by side, the longest begin first, so that none is left over at the end.
    """
    left_out = [
        item
        for item in items
        for marker in ONLY_WHERE_NAMED
        if item.get_closest_marker(marker) and marker not in config.option.markexpr
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        items.sort(key=longest_files_first(items))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave 650,000 objects that stay, of torch and of the tests, out of each later search for garbage."""
    gc.enable()
    # Elsewhere hypothesis is imported last, and looks for what holds what.
    if hasattr(session.config, "workerinput"):
        gc.freeze()
        atexit.register(gc.unfreeze)  # libraries of C++ complain of what is left when they are unloaded


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return TogetherOnOneLabelStudio(config, log) if config.getoption("dist") == "loadfile" else None


class TogetherOnOneLabelStudio(LoadFileScheduling):
    """Gives a process a file at a time, or the files that share a Label Studio."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        name = Path(file).stem.removeprefix("test_")
        group = next((at for at, names in enumerate(ON_ONE_LABEL_STUDIO) if name in names), None)
        return file if group is None or "e2e" not in Path(file).parts else f"Label Studio {group}"


def longest_files_first(items: list[pytest.Item]) -> Callable[[pytest.Item], int]:
    """The place of an item: files with a real Label Studio, then slow ones, then all others."""
    places: dict[Path, int] = {}
    for item in items:
        place = next((at for at, name in enumerate(("e2e", "slow")) if item.get_closest_marker(name)), 2)
        places[item.path] = min(place, places.get(item.path, 2))
    return lambda item: places[item.path]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name for names in environment_names().values() for name in names}
    for name in set(os.environ) & ours:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _unchanged_log_level() -> Iterator[None]:
    """A command that runs in the test's process sets the level for all that follow."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Redis of this session's own."""
    with contextlib.ExitStack() as stack:
        server, url = embedded_redis(tmp_path_factory.mktemp("redis"), stack)
        server.start()
        stack.callback(server.stop)
        with Redis.from_url(url) as redis:
            wait_for_redis(redis, patience=120)
        yield url


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    """A fake Label Studio of the test's own."""
    with running() as studio:
        yield studio


@pytest.fixture
def site(studio: FakeLabelStudio, tmp_path: Path) -> Iterator["Site"]:
    """Where workers run beside ``studio``, on a Redis of their own; none has been started."""
    from worker_site import running_site  # after its assertions were registered

    with running_site(tmp_path, studio) as site:
        yield site


@pytest.fixture
def make_backend(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Backend]]:
    """Makes backends on an empty Redis and a store in the test's folder; settings by name."""
    opened: list[Backend] = []

    def make(**given: Any) -> Backend:
        known: dict[str, Any] = {
            "redis_url": redis_url,
            "model_dir": tmp_path / "data",
            "debounce_seconds": 0,
        }
        opened.append(open_backend(Settings(**{**known, **given})))
        return opened[-1]

    with Redis.from_url(redis_url) as redis:
        redis.flushall()
        yield make
        for backend in opened:
            backend.close()
        redis.flushall()  # other tests start their own processes on it


@pytest.fixture
def backend(make_backend: Callable[..., Backend]) -> Backend:
    """A backend with the defaults; a test module may have its own."""
    return make_backend()


@pytest.fixture
def client(backend: Backend) -> FlaskClient:
    """What calls the web process of ``backend`` without a network."""
    return create_app(backend).test_client()
