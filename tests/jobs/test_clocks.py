"""A wall clock that jumps, or that differs between machines: nothing may hang on what it says."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from paths import SUPPORT
from waiting import wait_until
from worker_site import Site, assert_recovers, stopped_at

from coreset_backend.jobs.queue import request_round
from coreset_backend.web.app import create_app

pytestmark = pytest.mark.slow
HOUR = 3600


class Clock:
    """The wall clock of processes started with ``environment``; ``shift`` sets it, also while they run."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None or os.uname().sysname != "Linux":
            pytest.skip("shifting a process' clock takes Linux and a C compiler")
        library, self._offset = folder / "clock.so", folder / "clock-offset"
        source = SUPPORT / "shifted_clock.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self.shift(0)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._offset)}

    def shift(self, seconds: int) -> None:
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def test_the_clock_really_is_another(clock: Clock) -> None:
    clock.shift(HOUR)
    for command in (["date", "+%s"], ["python3", "-c", "import time; print(int(time.time()))"]):
        ours = int(subprocess.check_output(command))
        theirs = int(subprocess.check_output(command, env={**os.environ, **clock.environment}))
        assert HOUR <= theirs - ours < 2 * HOUR


@pytest.mark.parametrize(
    ("seconds", "phase"),
    [
        pytest.param(
            HOUR, "train", marks=pytest.mark.fault("the worker's clock jumps an hour ahead", "train")
        ),
        pytest.param(
            -HOUR,
            "select",
            marks=[pytest.mark.fault("the worker's clock jumps an hour back", "select"), pytest.mark.soak],
        ),
    ],
)
def test_the_workers_clock_jumps(site: Site, clock: Clock, seconds: int, phase: str) -> None:
    client = create_app(site.backend).test_client()
    site.start_worker(**clock.environment)
    with stopped_at(site, phase) as project_id:
        clock.shift(seconds)
    stored = assert_recovers(site, project_id, [1])
    wait_until(lambda: client.get("/ready").status_code == 200, "a worker that is known to live")
    site.label(stored.record.batch)
    request_round(site.backend, project_id, "an event")
    assert_recovers(site, project_id, [1, 2])
    assert client.get("/ready").status_code == 200


@pytest.mark.soak
@pytest.mark.fault("Redis' clock jumps an hour ahead, so every lease expires", "train")
def test_the_clock_of_redis_jumps(site: Site, clock: Clock) -> None:
    site.kill_redis()
    site.redis.environment = {**site.redis.environment, **clock.environment}
    site.start_redis()
    site.start_worker()
    with stopped_at(site, "train") as project_id:
        clock.shift(HOUR)
        wait_until(
            lambda: not site.backend.redis.exists(f"coreset:{project_id}:lease"), "the end of the lease"
        )
    assert_recovers(site, project_id, [1])


@pytest.mark.soak
@pytest.mark.fault("the worker's clock is an hour behind the web's", "between")
def test_what_a_clock_that_runs_ahead_scheduled_is_not_waited_for(site: Site, clock: Clock) -> None:
    """An event is scheduled by the web's clock and taken up by the worker's."""
    clock.shift(-HOUR)
    site.start_worker(**clock.environment, CORESET_DEBOUNCE_SECONDS="1")
    eager = site.backend.settings.model_copy(update={"debounce_seconds": 1})
    site.backend.settings = eager
    project_id = site.new_project(labeled=6)
    request_round(site.backend, project_id, "an event")
    assert site.backend.queue.scheduled_job_registry.count == 1
    site.wait_for_round(project_id, 1, 400)
    assert_recovers(site, project_id, [1])
