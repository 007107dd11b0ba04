"""Handles a failed round: writes the failure to the state, and decides whether and when to retry."""

import contextlib
import logging
import signal
import time
from dataclasses import dataclass, replace

from redis import Redis
from redis.exceptions import RedisError, ResponseError
from rq import get_current_job
from rq.job import Job
from rq.timeouts import JobTimeoutException

from coreset_backend.backend import Backend
from coreset_backend.errors import (
    ClusterError,
    ConfigError,
    CoresetError,
    LabelStudioError,
    OutOfMemory,
    ProjectError,
    StorageError,
    StoreError,
    TooManyImageFailures,
    memory_ran_out,
)
from coreset_backend.jobs.keys import (
    AUDITION_JOB,
    AUDITION_LEASE,
    DAY,
    PRETRAINING_JOB,
    PRETRAINING_LEASE,
    ROUND_JOB,
    ROUND_LEASE,
    redis_key,
)
from coreset_backend.jobs.monitoring import count
from coreset_backend.jobs.progress import (
    Failure,
    WrittenProgress,
    is_demanded,
    read_progress,
    write_idle,
    write_pretraining,
    write_progress,
)
from coreset_backend.jobs.states import RoundState
from coreset_backend.settings import Settings
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a failed round is retried.

    ``by_queue``: the queue retries it after each of QUEUE_DELAYS, and the demand of the person who started it
    stays. Without it, the failure answers that demand.
    ``backs_off``: exponential back-off of the poll for this project. Without it, the poll checks the project
    again after CORESET_POLL_SECONDS. A person's start waits for neither.
    """

    by_queue: bool
    backs_off: bool


QUEUE_DELAYS = (0, 30, 60)
"""Seconds before each retry by the queue. The first is immediate, because a killed worker's scheduler holds
its lock for another minute.
"""
FIRST_PAUSE, LONGEST_PAUSE = 60, 3600
"""Exponential back-off: the poll skips a project for 1, 2, 4 ... 60 minutes."""
RETRIES: tuple[tuple[type[CoresetError], RetryPolicy], ...] = (
    (LabelStudioError, RetryPolicy(by_queue=True, backs_off=False)),  # usually short outages
    (TooManyImageFailures, RetryPolicy(by_queue=True, backs_off=True)),
    (StoreError, RetryPolicy(by_queue=True, backs_off=True)),
    (ClusterError, RetryPolicy(by_queue=True, backs_off=True)),
    (ProjectError, RetryPolicy(by_queue=False, backs_off=False)),  # labels may come; cheap to check
    (CoresetError, RetryPolicy(by_queue=False, backs_off=True)),  # a person has to change something
)
"""The first row whose class the error has applies. The queue retries the round of a lost process; after the
last retry the poll backs off.
"""


LEASES = {ROUND_JOB: ROUND_LEASE, PRETRAINING_JOB: PRETRAINING_LEASE, AUDITION_JOB: AUDITION_LEASE}
"""Which lease of its project a job holds while it runs."""


def retry_policy(error: CoresetError) -> RetryPolicy:
    """The policy of the error's first matching row in RETRIES."""
    return next(policy for kind, policy in RETRIES if isinstance(error, kind))


def note_failure(backend: Backend, project_id: int, error: CoresetError, demands: int = 0) -> None:
    """Log and count the failure, write it to the state, and act by the error's policy.

    ``demands``: number of demands for a round that this round was to answer.
    """
    name, kind = _round_name(backend.store, project_id), type(error).__name__
    log.error("project %d, %s: %s: %s", project_id, name, kind, error)
    count(backend.redis, "coreset_rounds", str(project_id), "failed", kind)
    policy, job = retry_policy(error), get_current_job()
    if policy.backs_off:
        _back_off(backend.redis, project_id)
    if job and not policy.by_queue:
        answer_demands(backend.redis, project_id, demands)
        job.retries_left = 0
        job.save()
    _say_failure(
        backend, project_id, str(error), job, policy.by_queue, by_itself=policy.by_queue or not demands
    )


def note_lost_process(backend: Backend, job: Job, how: str, *, dead: bool) -> None:
    """Log, and but for an audition write to the state, that a process ended without reporting a result.

    ``dead``: the process is known to have ended, so its lease is released at once.
    """
    if job.func_name not in LEASES:
        return
    if dead:
        free_lease(backend.redis, job)
    if job.func_name == AUDITION_JOB:  # the backbone in use stays
        log.error("project %s: the process of the audition ended unexpectedly (%s)", job.args[0], how)
    elif job.func_name == PRETRAINING_JOB:
        _note_lost_pretraining(backend.redis, job, how)
    else:
        _note_lost_round(backend, job, how)


def _note_lost_pretraining(redis: Redis, job: Job, how: str) -> None:
    project_id, again = int(job.args[0]), bool(job.retries_left)
    log.error("project %d: the process of the pretraining ended unexpectedly (%s)", project_id, how)
    why = f"Its process ended unexpectedly ({how}). {usual_cause(how)}"
    write_pretraining(
        redis, project_id, lambda known: replace(known, state="waiting" if again else "failed", error=why)
    )


def _note_lost_round(backend: Backend, job: Job, how: str) -> None:
    """Where another job has the project by now, what the state says is that job's."""
    project_id, again = int(job.args[0]), bool(job.retries_left)
    error = f"The process of the round ended unexpectedly ({how}). {usual_cause(how)}"
    if backend.redis.get(redis_key(project_id, ROUND_LEASE)) not in (None, job.id.encode()):
        log.error("project %d: %s Another process already works on it.", project_id, error)
        write_progress(backend.redis, project_id, lambda known: _with_failure(known, error))
        return
    name = _round_name(backend.store, project_id)
    log.error("project %d, %s: %s%s", project_id, name, error, " It is retried." if again else "")
    if not again:
        _back_off(backend.redis, project_id)
    _say_failure(backend, project_id, error, job, True)


def _say_failure(
    backend: Backend, project_id: int, error: str, job: Job | None, passing: bool, *, by_itself: bool = True
) -> None:
    """Write to the state the reason of the failure and the time of the retry, if there is one.

    ``passing``: the failure may be resolved without a round. ``by_itself``: the round was due without a
    person's start, or that demand still stands.
    """
    again = job is not None and job.func_name == ROUND_JOB and bool(job.retries_left)
    pause: float | None = None
    if job and again:
        pause = job.get_retry_interval()
    elif by_itself or not _is_served(backend.store, project_id):
        pause = _seconds_to_poll(backend, project_id)
    retry_at = None if pause is None else time.time() + pause
    write_progress(
        backend.redis,
        project_id,
        lambda known: replace(
            _with_failure(known, error),
            state=RoundState.WAITING if again else RoundState.FAILED,
            error=error,
            passing=passing,
            retry_at=retry_at,
        ),
    )


def _with_failure(known: WrittenProgress, error: str) -> WrittenProgress:
    return replace(known, last_failure=Failure(error, time.time()))


def _seconds_to_poll(backend: Backend, project_id: int) -> float | None:
    """Seconds until the poll checks the project again, at most; None if only a person starts a round."""
    if not is_demanded(backend.redis, project_id):
        with contextlib.suppress(ConfigError, StorageError):  # the reported failure may be this one
            if backend.store.held(project_id) or backend.trigger_of(project_id) == "manual":
                return None
    spared = 0
    with contextlib.suppress(RedisError):
        spared = max(int(backend.redis.ttl(redis_key(project_id, "spared"))), 0)
    return spared + backend.settings.poll_seconds


def _is_served(store: Store, project_id: int) -> bool:
    """Whether the newest round is published; if not, a round is due."""
    with contextlib.suppress(StorageError):
        newest = store.latest(project_id)
        return newest is not None and newest.publication is not None
    return False


def _round_name(store: Store, project_id: int) -> str:
    with contextlib.suppress(StorageError):
        newest = store.latest(project_id)
        if newest and newest.publication is None:
            return f"round {newest.record.number}"
        return f"round {max(store.numbers(project_id), default=0) + 1}"
    return "a round"


def _back_off(redis: Redis, project_id: int) -> None:
    """Exponential back-off: the poll skips the project for FIRST_PAUSE, doubled at each failure in a row."""
    key = redis_key(project_id, "failures")
    with contextlib.suppress(RedisError):
        try:
            failures: int = redis.incr(key)
        except ResponseError:  # it held no number
            redis.set(key, failures := 1)
        redis.expire(key, DAY)
        doublings = min(max(failures - 1, 0), 10)
        redis.set(redis_key(project_id, "spared"), "1", ex=min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE))


def settle(redis: Redis, store: Store, project_id: int) -> None:
    """Reset the progress to idle if it still shows a resolved failure or a process that is gone."""
    known = read_progress(redis, store, project_id)
    if known.state != RoundState.IDLE and known.written.passing:
        write_idle(redis, project_id)


def free_lease(redis: Redis, job: Job) -> None:
    """Release the job's lease, because its process is known to have ended."""
    key = redis_key(int(job.args[0]), LEASES.get(job.func_name or "", ROUND_LEASE)) if job.args else ""
    if key and redis.get(key) == job.id.encode():
        redis.delete(key)


def answer_demands(redis: Redis, project_id: int, count: int) -> None:
    """Remove the oldest ``count`` demands for a round; later demands stay for the next round."""
    redis.ltrim(redis_key(project_id, "demands"), count, -1)


OUT_OF_MEMORY = (
    "The usual cause is that memory ran out: give the worker more memory, or lower CORESET_IMAGE_SIZE."
)
OVERDUE = "killed after CORESET_JOB_TIMEOUT"


DISK_FULL = "The usual cause is that the disk is full: free disk space below MODEL_DIR."


def explained(settings: Settings, error: Exception) -> CoresetError:
    """The error as a CoresetError; the traceback of an unexpected error is logged."""
    if isinstance(error, CoresetError):
        return error
    if memory_ran_out(error):
        return OutOfMemory(OUT_OF_MEMORY)
    if isinstance(error, JobTimeoutException):
        seconds = settings.job_timeout
        return CoresetError(f"The round was stopped after {seconds} s. Raise CORESET_JOB_TIMEOUT.")
    if isinstance(error, OSError):
        folder = settings.local_dir
        return StoreError(
            f"The round could not be saved below {folder}: {error.strerror or error}. Nothing of it "
            "was kept. Free disk space or repair the disk; the round is retried automatically."
        )
    log.exception("unexpected error")
    return CoresetError(
        f"An unexpected error ({type(error).__name__}: {error}). The worker's log has its traceback."
    )


def usual_cause(how: str) -> str:
    """The usual cause of such an end. SIGBUS: the disk has no room for a memory-mapped file."""
    causes = {f"signal {signal.SIGBUS:d}": DISK_FULL, OVERDUE: "Raise it, or find out what hangs."}
    return causes.get(how, OUT_OF_MEMORY)
