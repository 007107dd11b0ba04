"""Rounds as jobs: ask for one, run it, look after what a lost webhook missed, and the worker that does so.

Redis holds, for each project, which job waits, who runs, and how far it is. All of it may be lost:
the truth about rounds is in the store, the truth about labels in Label Studio.
"""

import contextlib
import ctypes
import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

from redis.exceptions import LockError, RedisError
from rq import Retry, Worker, get_current_job
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.serializers import JSONSerializer

from coreset_backend.backend import Backend, open_backend
from coreset_backend.errors import CoresetError, LabelStudioError, QueueError, Rejected, StoreError
from coreset_backend.settings import read_settings

log = logging.getLogger(__name__)

DAY = 86_400
RESERVED_SECONDS = 10
LEASE_SECONDS = 20
BUSY_RETRY_SECONDS = 5
PR_SET_PDEATHSIG = 1


def request_round(backend: Backend, project_id: int, reason: str, *, force: bool = False) -> bool:
    """Have a worker look whether the project needs a round, soon; True if a job was queued for it.

    While one waits, more requests change nothing: fifty webhooks make one job. ``force`` starts a round
    even if none is due. Raises QueueError when Redis does not answer.
    """
    try:
        if force:
            backend.redis.rpush(_key(project_id, "demands"), reason)
            backend.redis.expire(_key(project_id, "demands"), DAY)
        return _queue_once(backend, project_id, reason, backend.settings.debounce_seconds)
    except RedisError as error:
        raise QueueError(
            f"Redis does not answer ({error}), so no round can be requested. Is it running?"
        ) from error


def _queue_once(backend: Backend, project_id: int, reason: str, delay: float) -> bool:
    waiting = _key(project_id, "waiting")
    job_id = f"round-{project_id}-{secrets.token_hex(4)}"
    if not backend.redis.set(waiting, job_id, nx=True, ex=DAY):
        if _still_waits(backend, waiting):
            return False
        backend.redis.set(waiting, job_id, ex=DAY)
    _queue(backend, project_id, job_id, delay)
    log.info("project %d: %s; job %s in %.0f s", project_id, reason, job_id, delay)
    return True


def _still_waits(backend: Backend, waiting: str) -> bool:
    """Whether the job that the key names is still to run; Redis or its worker may have lost it."""
    age: int = DAY - backend.redis.ttl(waiting)
    if age < RESERVED_SECONDS:  # another process may be about to queue it
        return True
    job_id: bytes = backend.redis.get(waiting) or b""  # type: ignore[assignment]
    try:
        job = Job.fetch(job_id.decode(), connection=backend.redis, serializer=JSONSerializer)
    except NoSuchJobError:
        return False
    return job.get_status() in (JobStatus.QUEUED, JobStatus.SCHEDULED, JobStatus.DEFERRED)


def _queue(backend: Backend, project_id: int, job_id: str, delay: float) -> None:
    options: dict[str, Any] = {
        "job_id": job_id,
        # The first at once: a killed worker's scheduler holds its lock for another minute.
        "retry": Retry(max=3, interval=[0, 30, 60]),
        "result_ttl": 3600,
        "failure_ttl": DAY,
    }
    function = "coreset_backend.jobs.run_round_job"
    if delay:
        backend.queue.enqueue_in(timedelta(seconds=delay), function, project_id, **options)
    else:
        backend.queue.enqueue(function, project_id, **options)


def run_round_job(project_id: int) -> str:
    """The job: run a round if one is due or forced. Returns in words what was done.

    Safe to run twice and at the same time: a lease lets one job of a project in, the other comes back later.
    """
    backend = open_backend(read_settings(), patient=True)
    with contextlib.closing(backend):
        lease = backend.redis.lock(_key(project_id, "lease"), timeout=LEASE_SECONDS, thread_local=False)
        # Long enough for the lease of a killed worker to run out.
        if not lease.acquire(blocking_timeout=LEASE_SECONDS + 5):
            job_id = f"round-{project_id}-{secrets.token_hex(4)}"
            backend.redis.set(_key(project_id, "waiting"), job_id, ex=DAY)
            _queue(backend, project_id, job_id, BUSY_RETRY_SECONDS)
            return "another job of this project is running; waiting for it"
        with _kept_alive(lease):
            backend.redis.delete(_key(project_id, "waiting"))
            return _advance(backend, project_id)


@contextlib.contextmanager
def _kept_alive(lease: Any) -> Iterator[None]:
    """Renew the lease while the block runs; a killed process stops renewing and frees it in 20 s."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_SECONDS / 4):
            try:
                lease.reacquire()
            except (LockError, RedisError) as error:
                log.warning("the lease could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(LockError, RedisError):
            lease.release()


def _advance(backend: Backend, project_id: int) -> str:
    from coreset_backend.rounds import round_due, run_round

    forced: list[bytes] = backend.redis.lrange(_key(project_id, "demands"), 0, -1)  # type: ignore[assignment]
    try:
        reason = forced[-1].decode() if forced else round_due(backend, project_id)
        if reason is None:
            return "no round is due"
        log.info("project %d: a round starts: %s", project_id, reason)
        stored = run_round(backend, project_id, _reporter(backend, project_id, reason))
    except CoresetError as error:
        _failed(backend, project_id, error, len(forced))
        raise
    _answer_forced(backend, project_id, len(forced))
    backend.redis.delete(_key(project_id, "unseen"))
    _write_progress(backend, project_id, state="idle", error=None, phase=None)
    return f"round {stored.record.number}: {reason}"


def _answer_forced(backend: Backend, project_id: int, count: int) -> None:
    """Drop the oldest ``count`` demands for a round; one that came while the round ran stays for the next."""
    backend.redis.ltrim(_key(project_id, "demands"), count, -1)


def _failed(backend: Backend, project_id: int, error: CoresetError, forced: int = 0) -> None:
    if isinstance(error, Rejected) and error.status == 404 and f"/api/projects/{project_id}/" in str(error):
        log.info("project %d is gone from Label Studio, so it is forgotten", project_id)
        backend.store.forget(project_id)
    log.error("project %d: %s: %s", project_id, type(error).__name__, error)
    _write_progress(backend, project_id, state="failed", error=str(error))
    job = get_current_job(connection=backend.redis)
    passing = isinstance(error, LabelStudioError | StoreError)
    if job and not passing:  # trying again cannot help: wait for a person or for more labels
        _answer_forced(backend, project_id, forced)
        job.retries_left = 0
        job.save()


def reconcile_job() -> str:
    """The poll: ask for a round in every known project that may need one, webhook or no webhook."""
    from coreset_backend.rounds import round_due

    backend = open_backend(read_settings(), patient=True)
    asked = []
    with contextlib.closing(backend):
        for project_id in backend.store.projects():
            try:
                if backend.settings.trigger == "auto" and round_due(backend, project_id):
                    asked.append(project_id)
                    request_round(backend, project_id, "found by polling")
            except CoresetError as error:
                _failed(backend, project_id, error)
    return f"asked for rounds in {asked}" if asked else "nothing to do"


# ---------------------------------------------------------------- progress


def read_progress(backend: Backend, project_id: int) -> dict[str, Any]:
    """How far the project's round is: ``state`` is idle, waiting, running or failed.

    Also ``phase``, ``done``, ``total``, ``reason``, ``error``, ``phase_started`` and ``at`` (Unix times)
    where known, and ``unseen``, how many tasks Label Studio asked about that no round has seen yet. Raises
    QueueError when Redis does not answer.
    """
    try:
        written = json.loads(backend.redis.get(_key(project_id, "progress")) or "{}")
        leased = bool(backend.redis.exists(_key(project_id, "lease")))
        waits = bool(backend.redis.exists(_key(project_id, "waiting")))
        unseen: int = backend.redis.scard(_key(project_id, "unseen"))
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}), so progress is unknown.") from error
    state = written.get("state", "idle")
    if state == "running" and not leased:  # its worker died; the job comes back by itself
        state = "waiting"
    return {**written, "state": "waiting" if waits and state != "running" else state, "unseen": unseen}


def _write_progress(backend: Backend, project_id: int, **news: Any) -> None:
    key = _key(project_id, "progress")
    with contextlib.suppress(RedisError):  # progress is for the eye; a round does not fail for it
        known = json.loads(backend.redis.get(key) or "{}")
        backend.redis.set(key, json.dumps({**known, **news, "at": time.time()}))


def _reporter(backend: Backend, project_id: int, reason: str) -> Any:
    """Progress of run_round, written at each phase and at most twice a second within one."""
    last, started = ("", 0.0), 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last, started
        now = time.monotonic()
        if phase != last[0]:
            started = time.time()
        if phase != last[0] or now > last[1] + 0.5 or done == total:
            last = (phase, now)
            _write_progress(
                backend,
                project_id,
                state="running",
                phase=phase,
                done=done,
                total=total,
                phase_started=started,
                reason=reason,
                error=None,
            )

    return report


def note_unseen(backend: Backend, project_id: int, task_ids: list[int]) -> None:
    """Remember tasks that Label Studio asked about and no round has seen."""
    if task_ids:
        with contextlib.suppress(RedisError):
            key = _key(project_id, "unseen")
            backend.redis.sadd(key, *task_ids)
            backend.redis.expire(key, DAY)


def _key(project_id: int, name: str) -> str:
    return f"coreset:{project_id}:{name}"


# ---------------------------------------------------------------- the worker


class RoundWorker(Worker):
    """RQ's worker with a short heartbeat and a poll."""

    poll_seconds = 60.0

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return int(self.job_monitoring_interval) + 10

    @property
    def dequeue_timeout(self) -> int:
        return 5

    def run_maintenance_tasks(self) -> None:
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        queue: Queue = self.queues[0]
        # The key lets one worker of all ask, once per period.
        if self.connection.set("coreset:poll", "1", nx=True, px=int(self.poll_seconds * 1000)):
            queue.enqueue(
                "coreset_backend.jobs.reconcile_job", result_ttl=60, failure_ttl=3600, job_timeout=600
            )


def work(backend: Backend) -> None:
    """Run rounds until the process is told to stop."""
    if sys.platform == "linux":
        # Else the child of a killed worker goes on beside its job's second run, and RQ's scheduler for ever.
        os.register_at_fork(after_in_child=partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL))
    worker = RoundWorker(
        [backend.queue],
        connection=backend.redis,
        serializer=JSONSerializer,
        worker_ttl=30,
        maintenance_interval=5,
        job_monitoring_interval=5,
    )
    worker.poll_seconds = backend.settings.poll_seconds
    # RQ writes two lines at every look at its registries, each five seconds.
    worker.work(with_scheduler=True, logging_level="WARNING")


def workers_alive(backend: Backend) -> int:
    """How many workers listen to the queue; raises QueueError."""
    try:
        return Worker.count(queue=backend.queue)
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}).") from error
