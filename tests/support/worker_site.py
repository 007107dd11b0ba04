"""A backend with workers in processes of their own, and wires to Redis and Label Studio that can fail."""

import contextlib
import os
import re
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fake_label_studio import TOKEN, FakeLabelStudio
from forked import Command, start
from tcp_proxy import Hold, TcpProxy, proxied
from waiting import wait_until

from coreset_backend.backend import Backend, open_backend
from coreset_backend.jobs.monitoring import job_counts
from coreset_backend.jobs.progress import RoundProgress, read_progress
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.worker import POLL_KEY
from coreset_backend.local.processes import Child
from coreset_backend.local.redis_server import embedded_redis, wait_for_redis
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound

SELDOM = 600
TRUE_WITHIN = 60
"""Seconds in which what the state says must be so again after a fault."""


@dataclass
class Site:
    """``backend`` looks at Redis and the store past the wires that the workers go through.

    What workers say is in ``log``.
    """

    backend: Backend
    studio: FakeLabelStudio
    redis: Child
    redis_wire: TcpProxy
    studio_wire: TcpProxy
    log: Path
    workers: list[Command] = field(default_factory=list)

    def start_worker(self, **settings: str) -> Command:
        """A worker whose rounds are short; ``settings`` go on top.

        One that polls so seldom that no poll falls into a test does not poll at its start either.
        """
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.log.parent),
            "OMP_NUM_THREADS": "1",
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_wire.port}",
            "MODEL_DIR": str(self.backend.settings.model_dir),
            "LABEL_STUDIO_URL": f"http://127.0.0.1:{self.studio_wire.port}",
            "LABEL_STUDIO_API_KEY": TOKEN,
            "CORESET_BACKBONE": "small_cnn",
            "CORESET_IMAGE_SIZE": "16",
            "CORESET_BATCH_SIZE": "4",
            "CORESET_DEBOUNCE_SECONDS": "0",
            "CORESET_POLL_SECONDS": "5",
            **settings,
        }
        if (seconds := int(environment["CORESET_POLL_SECONDS"])) >= SELDOM:
            self.backend.redis.set(POLL_KEY, "1", ex=seconds)
        worker = start("work", environment=environment, output=self.log)
        self.workers.append(worker)
        return worker

    def new_project(self, images: int = 12, labeled: int = 0) -> int:
        """A project, connected, with the first ``labeled`` of its images labelled by turns as cat and dog."""
        project_id = self.studio.create_project(images)
        self.label([task["id"] for task in self.studio.tasks_of(project_id)][:labeled])
        self.backend.store.register(project_id)
        return project_id

    def label(self, task_ids: Sequence[int]) -> None:
        for place, task_id in enumerate(task_ids):
            self.studio.annotate(task_id, ("cat", "dog")[place % 2])

    def hold_at(self, phase: str) -> Hold:
        """Have the next round stop at the beginning of ``phase`` until it is released."""
        return self.redis_wire.hold(b'"phase": "%s"' % phase.encode())

    def state(self, project_id: int) -> RoundProgress:
        return read_progress(self.backend.redis, self.backend.store, project_id)

    def error(self, project_id: int) -> str:
        return self.state(project_id).written.error or ""

    def last_failure(self, project_id: int) -> str:
        failure = self.state(project_id).written.last_failure
        return failure.error if failure else ""

    def wait_for_round(self, project_id: int, number: int, seconds: float = 240) -> StoredRound:
        def published() -> StoredRound | None:
            stored = self.backend.store.latest(project_id)
            return stored if stored and stored.record.number >= number and stored.publication else None

        found: StoredRound = wait_until(published, f"round {number}; {self.log} may say why", seconds)
        return found

    def wait_until_idle(self, project_id: int) -> None:
        wait_until(lambda: self.state(project_id).state == "idle", "the state idle")

    def round_processes(self) -> list[int]:
        """The processes that run jobs: each leads a process group of its own, RQ's scheduler does not."""
        found = []
        for worker in self.workers:
            children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
            with contextlib.suppress(OSError):
                found += [
                    int(pid) for pid in children.read_text().split() if os.getpgid(int(pid)) == int(pid)
                ]
        return found

    def says_so(self, project_id: int) -> bool:
        """Whether what the state says is so."""
        known = self.state(project_id)
        if known.state == "running":
            return bool(self.round_processes())
        if known.state == "failed":
            return bool(known.written.error)
        jobs = job_counts((self.backend.high_priority_queue, self.backend.queue))
        return known.state == "idle" or bool(jobs["queued"] + jobs["scheduled"] + jobs["started"])

    def kill_redis(self) -> None:
        """SIGKILL, as a crash; it stays away until ``start_redis``."""
        assert self.redis.process
        self.redis.process.kill()
        self.redis.process.wait()

    def start_redis(self) -> None:
        self.redis.start()
        wait_for_redis(self.backend.redis, patience=120)


@contextlib.contextmanager
def stopped_at(site: Site, phase: str) -> Iterator[int]:
    """A project with labels, whose first round has come to ``phase`` and goes on at the end of the block."""
    hold = site.hold_at(phase)  # first: the poll may find the project before it is asked for
    project_id = site.new_project(labeled=6)
    request_round(site.backend, project_id, "asked by a test")
    assert hold.reached.wait(240), f"the round did not come to {phase}: {site.log.read_text()}"
    assert site.state(project_id).written.phase == phase
    try:
        yield project_id
    finally:
        hold.release()


def assert_recovers(
    site: Site, project_id: int, rounds: Sequence[int], reason: str | None = None
) -> StoredRound:
    """After a fault and its end: the state is true, the round was run, nothing is half-done, nothing lost.

    ``rounds``: the numbers that must be in the store. ``reason``: a pattern of what the state must give as
    the last failure, None where nothing may have failed: RQ may find a worker's death after the poll has had
    its round run. Returns the newest round.
    """
    wait_until(lambda: site.says_so(project_id), "a state that is true", TRUE_WITHIN)
    stored = site.wait_for_round(project_id, rounds[-1])
    expected = reason or "^$"
    wait_until(
        lambda: re.search(expected, site.last_failure(project_id)),
        f"a last failure like {expected!r}; {site.log} may say why",
    )
    site.wait_until_idle(project_id)
    assert site.state(project_id).written.error is None
    assert re.search(expected, site.last_failure(project_id))
    assert "Traceback" not in site.log.read_text()
    assert_nothing_lost(site.backend, site.studio, project_id, rounds)
    return stored


def assert_nothing_lost(
    backend: Backend,
    studio: FakeLabelStudio,
    project_id: int,
    rounds: Sequence[int],
    damaged: Collection[int] = (),
) -> None:
    """Every round but the ``damaged`` is whole, none half-done; one is served; the counts add up."""
    store = backend.store
    assert store.numbers(project_id) == list(rounds)
    for number in set(rounds) - set(damaged):
        store.open(project_id, number).verify()
    folder = store.root / "projects" / str(project_id)
    assert not list(folder.rglob(".*")), "an unfinished file was left"
    record, tasks = store.open(project_id, rounds[-1]).record, studio.tasks_of(project_id)
    labeled = sum(bool(task["annotations"]) for task in tasks)
    assert record.counts["labeled"] == labeled, "a label was lost"
    assert sum(record.counts.values()) == len(tasks), "the counts do not add up"
    ordered = [*record.batch, *record.reserve]
    assert studio.queue(project_id)[: len(ordered)] == ordered
    waiting = {task["id"] for task in tasks if not task["annotations"]}
    assert studio.versions(project_id) == {record.model_version: len(waiting | set(ordered))}


@contextlib.contextmanager
def running_site(folder: Path, studio: FakeLabelStudio, bucket: str = "") -> Iterator[Site]:
    """A site without workers yet, on a Redis of its own in ``folder``; its store may be in a bucket."""
    with contextlib.ExitStack() as stack:
        redis, url = embedded_redis(folder, stack)
        path = url.removeprefix("unix://")
        redis.start()
        stack.callback(redis.stop)

        def dial_redis() -> socket.socket:
            end = socket.socket(socket.AF_UNIX)
            try:
                end.connect(path)
            except OSError:
                end.close()
                raise
            return end

        def dial_studio() -> socket.socket:
            return socket.create_connection(("127.0.0.1", int(studio.url.rpartition(":")[2])))

        redis_wire = stack.enter_context(proxied(dial_redis))
        studio_wire = stack.enter_context(proxied(dial_studio))
        settings = Settings(
            redis_url=url,
            model_dir=bucket or folder / "data",
            label_studio_url=studio.url,
            label_studio_api_key=TOKEN,  # type: ignore[arg-type]
            debounce_seconds=0,
        )
        backend = open_backend(settings)
        stack.callback(backend.close)
        wait_for_redis(backend.redis, patience=120)
        site = Site(backend, studio, redis, redis_wire, studio_wire, folder / "worker.log")
        site.log.touch()
        try:
            yield site
        finally:
            for worker in site.workers:
                worker.kill()
                worker.wait(60)
