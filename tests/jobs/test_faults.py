"""What breaks in the middle of a round, done for real: processes, Redis, Label Studio, network, disk, memory.

Each test stops a round at the beginning of a phase, breaks something, and lets it go on; one function then
looks at what must be so after every fault. The marks make the table in docs/reliability.md; `soak` marks what
CI has no time for.
"""

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from forked import Command
from waiting import wait_until
from worker_site import Site, assert_recovers, stopped_at

from coreset_backend.jobs.keys import ROUND_JOB, redis_key
from coreset_backend.jobs.monitoring import workers_alive
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.requests import cancel_round
from coreset_backend.jobs.states import Phase

pytestmark = pytest.mark.slow
KILLED = r"ended unexpectedly \(signal 9\)"
AWAY = "does not answer"
FULL = "could not be saved below|the disk is full"
TAKEN_OVER = "another process has taken the round over"


ALONE = tuple(phase for phase in Phase if phase is not Phase.CLUSTER)
"""The phases of a round that needs no cluster."""


def faults(what: str, *quick: str, among: Iterable[str] = ALONE) -> pytest.MarkDecorator:
    """Run the test at each phase, and have the table say so; all but the ``quick`` only by `make soak`."""
    return pytest.mark.parametrize(
        "phase",
        [
            pytest.param(
                phase,
                marks=[
                    pytest.mark.fault(what, phase),
                    *([] if phase in quick else [pytest.mark.soak]),
                ],
            )
            for phase in among
        ],
    )


# ---------------------------------------------------------------- processes


@faults("the round's process is killed (SIGKILL)", "train", "publish")
def test_a_killed_round(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        os.kill(site.round_processes()[0], signal.SIGKILL)
    assert_recovers(site, project_id, [1], KILLED)
    assert "It is retried." in site.log.read_text()


@faults("the worker is killed with its round (SIGKILL), another starts", "publish")
def test_a_killed_worker(site: Site, phase: str) -> None:
    worker = site.start_worker()
    with stopped_at(site, phase) as project_id:
        worker.kill()
        worker.wait()
        site.start_worker()
    assert_recovers(site, project_id, [1], r"ended unexpectedly \(its worker was killed\)")


@faults("the same, and the poll retries the round before RQ notices", "train", among=["train"])
def test_a_killed_worker_that_the_poll_is_the_first_to_miss(site: Site, phase: str) -> None:
    worker = site.start_worker()
    with stopped_at(site, phase) as project_id:
        worker.kill()
        worker.wait()
        site.backend.redis.delete(redis_key(project_id, "lease"))  # it may run out before RQ's own patience
        second = site.hold_at("publish")
        site.start_worker()
        site.start_worker()  # only a worker that runs no job looks for deaths
    try:
        assert second.reached.wait(240), site.log.read_text()
        said = wait_until(lambda: site.last_failure(project_id), "the first round's end")
        assert "its worker was killed" in said
        assert site.state(project_id).state == "running"
    finally:
        second.release()
    assert_recovers(site, project_id, [1], "its worker was killed")


@faults("memory runs out (RLIMIT_AS)", "train", among=("train", "embed"))
def test_memory_runs_out(site: Site, phase: str) -> None:
    site.start_worker(CORESET_POLL_SECONDS="3600")
    with stopped_at(site, phase) as project_id:
        process = site.round_processes()[0]
        threads = Path(f"/proc/{process}/task")  # each that is still to end gives memory back
        wait_until(lambda: len(list(threads.iterdir())) <= 2, "only the round and its lease to be left")
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 100_000
        resource.prlimit(process, resource.RLIMIT_AS, (limit, limit))
    said = wait_until(lambda: site.error(project_id), f"the reason; {site.log} may say why")
    assert "memory" in said
    request_round(site.backend, project_id, "there is more memory now", force=True)
    assert_recovers(site, project_id, [1], "memory")


def recovers_with_another_strategy(site: Site, worker: Command, project_id: int, reason: str) -> None:
    worker.terminate()  # one that is killed may still take the next job, and lose it
    worker.wait()
    site.start_worker()
    request_round(site.backend, project_id, "another strategy", force=True)
    assert_recovers(site, project_id, [1], reason)


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(
            "no_memory",
            marks=pytest.mark.fault("memory runs out (RLIMIT_AS), even for the error message", "select"),
        ),
        pytest.param(
            "full_gpu",
            marks=[
                pytest.mark.fault("a GPU runs out of memory (torch's error, raised in a strategy)", "select"),
                pytest.mark.soak,
            ],
        ),
    ],
)
def test_a_strategy_finds_no_memory(site: Site, strategy: str) -> None:
    worker = site.start_worker(CORESET_STRATEGY=f"trap:{strategy}", CORESET_POLL_SECONDS="3600")
    project_id = site.new_project(labeled=6)
    request_round(site.backend, project_id, "asked by a test")
    said = wait_until(lambda: site.error(project_id), f"the reason; {site.log} may say why")
    assert "memory ran out" in said
    recovers_with_another_strategy(site, worker, project_id, "memory")


@pytest.mark.soak
@pytest.mark.fault("the round hangs and ignores its timeout", "select")
def test_a_round_hangs(site: Site) -> None:
    worker = site.start_worker(CORESET_STRATEGY="trap:hang", CORESET_POLL_SECONDS="3600")
    project_id = site.new_project(labeled=6)
    site.backend.queue.enqueue(ROUND_JOB, project_id, job_timeout=30)  # until it has come to the choice
    said = wait_until(lambda: site.error(project_id), f"the reason; {site.log} may say why", 240)
    assert "killed after CORESET_JOB_TIMEOUT" in said
    recovers_with_another_strategy(site, worker, project_id, "CORESET_JOB_TIMEOUT")


@faults("two workers, the round of one is killed", among=("train", "publish"))
def test_two_workers(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        site.start_worker()
        for number in range(3):
            request_round(site.backend, project_id, f"event {number}", force=True)
        wait_until(lambda: workers_alive(site.backend.queue) == 2, "two workers")
        os.kill(site.round_processes()[0], signal.SIGKILL)
    stored = assert_recovers(site, project_id, [1], KILLED)
    assert stored.record.number == 1


def stand_still(site: Site, worker: Command) -> list[int]:
    """Stop the worker and its round (SIGSTOP), whose processes are returned, and start another worker."""
    still = [worker.pid, *site.round_processes()]
    for process in still:
        os.kill(process, signal.SIGSTOP)
    site.start_worker()
    return still


def goes_on_and_drops_its_round(
    site: Site, still: Sequence[int], project_id: int, rounds: Sequence[int]
) -> None:
    for process in still:
        os.kill(process, signal.SIGCONT)
    wait_until(lambda: still[1] not in site.round_processes(), "the end of the process that stood still")
    assert_recovers(site, project_id, rounds, "its worker was killed")
    assert TAKEN_OVER in site.log.read_text()


@faults(
    "a worker is stopped (SIGSTOP) until another has taken over, then resumes",
    among=("images", "train", "save", "publish"),
)
def test_a_worker_stands_still(site: Site, phase: str) -> None:
    worker = site.start_worker()
    with stopped_at(site, phase) as project_id:
        still = stand_still(site, worker)
    site.wait_for_round(project_id, 1)
    goes_on_and_drops_its_round(site, still, project_id, [1])


@faults("a person cancels the round", "train")
def test_a_round_is_cancelled(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        process = site.round_processes()[0]
        assert cancel_round(site.backend, project_id)  # within ten seconds, or it raises
    assert process not in site.round_processes()
    assert site.state(project_id).state == "idle"
    request_round(site.backend, project_id, "an event")
    wait_until(lambda: not site.backend.jobs_waiting, "the event to be looked at")
    assert site.studio.versions(project_id) == {}  # nobody has started one
    request_round(site.backend, project_id, "started by hand", force=True)
    assert_recovers(site, project_id, [1])


# ---------------------------------------------------------------- the disk


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 24 MB at ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "small", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk takes the right to mount one: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all that is free, to the last byte."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return path


@faults("the disk is full", "save", among=("images", "embed", "neighbors", "select", "save", "publish"))
def test_the_disk_is_full(site: Site, phase: str) -> None:
    folder = site.backend.settings.model_dir
    with small_disk(folder):
        worker = site.start_worker()
        with stopped_at(site, phase) as project_id:
            filler = fill(folder)
        said = wait_until(lambda: site.error(project_id), "the reason")
        assert re.search(FULL, said)
        state = site.state(project_id)
        assert state.state == "waiting" and state.written.retry_at  # it is run again by itself
        filler.unlink()
        request_round(site.backend, project_id, "an event")  # the next try may be a minute away
        assert_recovers(site, project_id, [1], FULL)
        worker.kill()
        worker.wait()


# ---------------------------------------------------------------- Redis


@faults("Redis is killed (SIGKILL) and started again", "train")
def test_redis_is_killed(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        time.sleep(1.1)  # its file is flushed every second
        site.kill_redis()
        site.start_redis()
    assert_recovers(site, project_id, [1])


@faults("Redis loses its data", among=("snapshot", "embed", "publish"))
def test_redis_forgets(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        site.backend.redis.flushall()
    assert_recovers(site, project_id, [1])


@faults("Redis is full (maxmemory, noeviction)", "select")
def test_redis_is_full(site: Site, phase: str) -> None:
    worker = site.start_worker()
    with stopped_at(site, phase) as project_id:
        site.backend.redis.config_set("maxmemory", 1)
    site.wait_for_round(project_id, 1)  # it needs Redis for nothing
    wait_until(lambda: "Redis is full" in site.log.read_text(), "the worker to say so")
    site.backend.redis.config_set("maxmemory", 0)
    # Where its end could not be noted, the job is run again and finds nothing to do.
    site.log.write_text(site.log.read_text().replace("Traceback", "RQ's traceback"))
    assert_recovers(site, project_id, [1], "^$|ended unexpectedly")
    assert worker.poll() is None


@faults("Redis is slow (0.2 s an answer)", among=("snapshot", "train", "publish"))
def test_redis_is_slow(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        site.redis_wire.delay = 0.1
    site.wait_for_round(project_id, 1, 180)
    site.redis_wire.delay = 0
    assert_recovers(site, project_id, [1])


def redis_is_lost(site: Site, phase: str, lose: Callable[[], None], seconds: float) -> None:
    """The way to Redis is lost in that phase, for so long."""
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        lose()
    time.sleep(seconds)
    site.redis_wire.heal()
    assert_recovers(site, project_id, [1])


@faults("the network to Redis is cut and restored", "save")
def test_the_way_to_redis_is_cut(site: Site, phase: str) -> None:
    redis_is_lost(site, phase, site.redis_wire.cut, 3)


@pytest.mark.parametrize("lose", ["cut", pytest.param("silence", marks=pytest.mark.soak)])
@faults("Redis is unreachable until the round is published", "embed", among=("snapshot", "embed", "save"))
def test_a_round_is_published_while_redis_is_away(site: Site, phase: str, lose: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        getattr(site.redis_wire, lose)()
    site.wait_for_round(project_id, 1, 400)  # each command that is not answered is waited for, for a minute
    site.redis_wire.heal()
    assert_recovers(site, project_id, [1], "^$|its worker was killed")


@faults("the network to Redis is silent for ten seconds", among=("train", "publish"))
def test_the_way_to_redis_is_silent(site: Site, phase: str) -> None:
    redis_is_lost(site, phase, site.redis_wire.silence, 10)


# ---------------------------------------------------------------- Label Studio


@faults("Label Studio is killed and started again", "images")
def test_label_studio_dies(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        site.studio.down()
    wait_until(lambda: site.error(project_id), "the reason")
    site.studio.up()
    assert_recovers(site, project_id, [1], rf"{AWAY}|could not be read")


@faults("the network to Label Studio is cut and restored", among=("snapshot", "images", "train", "publish"))
def test_the_way_to_label_studio_is_cut(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        site.studio_wire.cut()
    wait_until(lambda: site.error(project_id), "the reason")
    site.studio_wire.heal()
    assert_recovers(site, project_id, [1], rf"{AWAY}|could not be read")


ASKS = ("snapshot", "images", "publish")
"""The phases in which Label Studio is asked."""


@pytest.mark.parametrize("kind", [pytest.param(500, id="500"), pytest.param("cut", id="cut")])
@faults("Label Studio answers 500 or half an answer", among=ASKS)
def test_label_studio_fails(site: Site, phase: str, kind: int | str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        site.studio.fail(kind, "/api/|/data/")
    wait_until(lambda: site.error(project_id), "the reason")
    site.studio.heal()
    assert_recovers(site, project_id, [1], rf"answered 500|{AWAY}|could not be read")


@faults("Label Studio answers 401", "publish", among=ASKS)
def test_label_studio_refuses_the_token(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        site.studio.fail(401, "/api/|/data/")
    wait_until(lambda: site.error(project_id), "the reason")
    site.studio.heal()
    assert_recovers(site, project_id, [1], "does not accept the token|could not be read")


@faults("Label Studio answers 429 with Retry-After", among=ASKS)
def test_label_studio_asks_to_wait(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        busy = site.studio.fail(429, "/api/|/data/", times=2, headers={"Retry-After": "2"})
    assert_recovers(site, project_id, [1])
    assert busy.times == 0


@faults("Label Studio is slow (8 s an answer)", among=ASKS)
def test_label_studio_is_slow(site: Site, phase: str) -> None:
    site.start_worker()
    with stopped_at(site, phase) as project_id:
        slow = site.studio.fail("slow", "/api/|/data/", times=2, seconds=8)
    assert_recovers(site, project_id, [1])
    assert slow.times == 0


@pytest.mark.soak
@pytest.mark.fault("the round's process is killed (SIGKILL) at each request of a publish", "publish")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "import/predictions"),
        ("PATCH", r"/api/projects/\d+/$"),
        ("DELETE", "model-versions"),
    ],
)
def test_the_round_is_killed_within_the_publish(site: Site, method: str, path: str) -> None:
    """Between any two of the requests that a publish is made of."""
    site.start_worker()
    project_id = site.new_project(labeled=6)
    request_round(site.backend, project_id, "asked by a test")
    first = site.wait_for_round(project_id, 1)
    site.wait_until_idle(project_id)
    held = site.studio.fail("held", path, method=method, times=1)
    site.label(first.record.batch)
    wait_until(lambda: held.times == 0, f"{method} {path}")
    os.kill(site.round_processes()[0], signal.SIGKILL)
    held.released.set()
    assert_recovers(site, project_id, [1, 2], KILLED)


@pytest.mark.fault(
    "a worker is stopped (SIGSTOP) while it publishes, until a later publish is done", "publish"
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("POST", "import/predictions", marks=pytest.mark.soak),
        ("PATCH", r"/api/projects/\d+/$"),
    ],
)
def test_a_worker_stands_still_within_the_publish(site: Site, method: str, path: str) -> None:
    """What it would do next takes back what the later round has done."""
    worker = site.start_worker()
    project_id = site.new_project(labeled=6)
    held = site.studio.fail("held", path, method=method, times=1)
    request_round(site.backend, project_id, "asked by a test")
    wait_until(lambda: held.times == 0, f"{method} {path}")
    still = stand_still(site, worker)
    held.released.set()
    first = site.wait_for_round(project_id, 1)
    site.label(first.record.batch)
    site.wait_for_round(project_id, 2)
    goes_on_and_drops_its_round(site, still, project_id, [1, 2])
