"""Rounds as jobs: ask for one, run it, look after what a lost webhook missed.

Redis holds, for each project, which job waits, who runs, and how far it is. All of it may be lost:
the truth about rounds is in the store, the truth about labels in Label Studio.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from redis.exceptions import RedisError
from rq import Retry, get_current_job
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from coreset_backend.backend import Backend, OurJob, open_backend
from coreset_backend.counts import count
from coreset_backend.errors import (
    ConfigError,
    CoresetError,
    LabelStudioError,
    ProjectError,
    ProjectGone,
    QueueError,
    StoreError,
    TooManyImageFailures,
)
from coreset_backend.failures import explained, usual_cause
from coreset_backend.leases import LEASE_SECONDS, kept_alive, project_lease
from coreset_backend.logs import about
from coreset_backend.pretraining import (
    PRETRAINING_JOB,
    is_left_behind,
    may_pretrain,
    request_pretraining,
    run_slice,
)
from coreset_backend.progress import (
    DAY,
    PRETRAINING_LEASE,
    read_progress,
    redis_key,
    reporter,
    write_idle,
    write_pretraining,
    write_progress,
)
from coreset_backend.publication import why_to_publish_again
from coreset_backend.settings import read_settings

log = logging.getLogger(__name__)

RESERVED_SECONDS = 10
OVERDUE_SECONDS = 60
BUSY_RETRY_SECONDS = 5
ROUND_JOB = "coreset_backend.jobs.run_round_job"


def request_round(backend: Backend, project_id: int, reason: str, *, force: bool = False) -> bool:
    """Have a worker look whether the project needs a round, soon; True if a job was queued for it.

    While one waits, more requests change nothing: fifty webhooks make one job. ``force`` starts a round
    even if none is due. Raises QueueError when Redis does not answer.
    """
    try:
        if force:
            backend.redis.rpush(redis_key(project_id, "demands"), reason)
            backend.redis.expire(redis_key(project_id, "demands"), DAY)
            backend.redis.delete(redis_key(project_id, "spared"))  # else the poll passes a lost start
        return _queue_once(backend, project_id, reason, backend.settings.debounce_seconds)
    except RedisError as error:
        raise QueueError(
            f"Redis does not answer ({error}), so no round can be requested. Is it running?"
        ) from error


def _queue_once(backend: Backend, project_id: int, reason: str, delay: float) -> bool:
    waiting = redis_key(project_id, "waiting")
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
        job = OurJob.fetch(job_id.decode(), connection=backend.redis, serializer=JSONSerializer)
    except NoSuchJobError:
        return False
    status = job.get_status()
    if status == JobStatus.SCHEDULED:  # for ever, where the clock of who scheduled it ran ahead
        return age < backend.settings.debounce_seconds + OVERDUE_SECONDS
    # A worker that was killed just after it had taken the job left it as it was, but in no queue.
    return status == JobStatus.QUEUED and job.id in backend.queue.job_ids


def _queue(backend: Backend, project_id: int, job_id: str, delay: float) -> None:
    options: dict[str, Any] = {
        "job_id": job_id,
        # The first at once: a killed worker's scheduler holds its lock for another minute.
        "retry": Retry(max=3, interval=[0, 30, 60]),
        "result_ttl": 3600,
        "failure_ttl": DAY,
    }
    if delay:
        backend.queue.enqueue_in(timedelta(seconds=delay), ROUND_JOB, project_id, **options)
    else:
        backend.queue.enqueue(ROUND_JOB, project_id, **options)


def run_round_job(project_id: int) -> str:
    """The job: run a round if one is due or forced. Returns in words what was done.

    Safe to run twice and at the same time: a lease lets one job of a project in, the other comes back later.
    """
    about(project=project_id)
    backend = open_backend(read_settings(), patient=True)
    with contextlib.closing(backend):
        lease = project_lease(backend, project_id)
        job = get_current_job()
        # Long enough for the lease of a killed worker to run out.
        if not lease.acquire(blocking_timeout=LEASE_SECONDS + 5, token=job.id if job else None):
            job_id = f"round-{project_id}-{secrets.token_hex(4)}"
            backend.redis.set(redis_key(project_id, "waiting"), job_id, ex=DAY)
            _queue(backend, project_id, job_id, BUSY_RETRY_SECONDS)
            return "another job of this project is running; waiting for it"
        with kept_alive(backend, lease) as is_ours:
            backend.redis.delete(redis_key(project_id, "waiting"))
            return _advance(backend, project_id, is_ours)


def _advance(backend: Backend, project_id: int, is_ours: Callable[[], bool]) -> str:
    from coreset_backend.rounds import round_due, run_round

    forced: list[bytes] = backend.redis.lrange(redis_key(project_id, "demands"), 0, -1)  # type: ignore[assignment]
    held = backend.store.held(project_id)
    if backend.store.is_disconnected(project_id):
        return "the project is disconnected"
    try:
        if backend.redis.exists(redis_key(project_id, "republish")) and not forced:
            return _republish(backend, project_id, is_ours)
        if held and not forced:
            return held.reason
        reason = forced[-1].decode() if forced else round_due(backend, project_id)
        if reason is None:
            _settle(backend, project_id)
            return "no round is due"
        log.info("project %d: a round starts: %s", project_id, reason)
        stored = run_round(backend, project_id, reporter(backend, project_id, reason, is_ours))
    except ProjectGone as error:
        return _forget(backend, project_id, error)
    except Exception as error:  # whatever it was, the state must say it
        with contextlib.suppress(RedisError):  # nobody else gets in without it either
            if not is_ours():  # then the state is the other's
                log.warning("project %d: another process has taken the round over: %s", project_id, error)
                return "another process has taken over"
        ours = explained(backend, error)
        _failed(backend, project_id, ours, len(forced))
        raise ours from error
    count(backend, "coreset_rounds", str(project_id), "done", "")
    for phase, seconds in stored.record.timings.items():
        count(backend, "coreset_round_phase_seconds", phase, amount=seconds)
    _answer_forced(backend, project_id, len(forced))
    if held and stored.record.number != held.number:
        backend.store.release(project_id)
    backend.redis.delete(*(redis_key(project_id, name) for name in ("unseen", "failures", "spared")))
    write_idle(backend, project_id)
    if may_pretrain(backend.settings, stored):
        request_pretraining(backend, project_id)
    return f"round {stored.record.number}: {reason}"


def _republish(backend: Backend, project_id: int, is_ours: Callable[[], bool]) -> str:
    from coreset_backend.rounds import publish_round

    stored = backend.store.latest(project_id, verified=True)
    if stored:
        progress = reporter(backend, project_id, "published again", is_ours)
        publish_round(backend, stored, partial(progress, "publish"))
    backend.redis.delete(redis_key(project_id, "republish"))
    write_idle(backend, project_id)
    return f"round {stored.record.number} is published again" if stored else "there is no round to publish"


def pretrain_job(project_id: int) -> str:
    """The job: a slice of the project's pretraining; until a round waits, whichever project's.

    Returns in words what was done. Safe to run twice and at the same time.
    """
    about(project=project_id)
    backend = open_backend(read_settings(), patient=True)
    with contextlib.closing(backend):
        lease, job = project_lease(backend, project_id, PRETRAINING_LEASE), get_current_job()
        if not lease.acquire(blocking=False, token=job.id if job else None):
            return "another worker is at it"
        with kept_alive(backend, lease):
            done = run_slice(backend, project_id)
        if done.better:
            request_round(backend, project_id, "features were learned on the pool")
        if done.goes_on:
            request_pretraining(backend, project_id)
    return done.told


def request_publication(backend: Backend, project_id: int) -> bool:
    """Have the round that speaks for the project published again, soon; True if a job was queued for it."""
    backend.redis.set(redis_key(project_id, "republish"), "1", ex=DAY)
    return _queue_once(backend, project_id, "to be published again", 0)


def stop_round(backend: Backend, project_id: int, patience: float) -> bool:
    """End the project's running round and drop what waits; whether there was either.

    Raises QueueError when a worker has not ended it after ``patience`` seconds.
    """
    lease = project_lease(backend, project_id)
    running: bytes | None = backend.redis.get(redis_key(project_id, "lease"))  # type: ignore[assignment]
    dropped = backend.redis.delete(
        *(redis_key(project_id, name) for name in ("waiting", "demands", "republish"))
    )
    if not running:
        return bool(dropped)
    with contextlib.suppress(NoSuchJobError, InvalidJobOperation):  # it ends by itself
        send_stop_job_command(backend.redis, running.decode(), serializer=JSONSerializer)
    if not lease.acquire(blocking_timeout=patience):
        raise QueueError(
            f"The worker has not ended the round of project {project_id} within {patience:.0f} s. "
            "Is the worker alive? `coreset-backend doctor` knows; then cancel again."
        )
    write_idle(backend, project_id)
    lease.release()
    return True


def _is_demanded(backend: Backend, project_id: int) -> bool:
    """Whether somebody started a round that has not been answered yet."""
    return bool(backend.redis.exists(redis_key(project_id, "demands")))


def _answer_forced(backend: Backend, project_id: int, count: int) -> None:
    """Drop the oldest ``count`` demands for a round; one that came while the round ran stays for the next."""
    backend.redis.ltrim(redis_key(project_id, "demands"), count, -1)


def _forget(backend: Backend, project_id: int, error: ProjectGone) -> str:
    backend.store.forget(project_id)
    forget_state(backend, project_id)
    told = f"project {project_id} is gone from Label Studio, so it is put aside"
    log.warning("%s (%s)", told, error)
    return told


def forget_state(backend: Backend, project_id: int) -> None:
    """Delete all that Redis knows of the project."""
    if keys := list(backend.redis.scan_iter(redis_key(project_id, "*"))):
        backend.redis.delete(*keys)


def _settle(backend: Backend, project_id: int) -> None:
    """Have the state say that all is well, where a failure that has passed or a lost process left another."""
    known = read_progress(backend, project_id)
    if known["state"] != "idle" and known.get("passing", True):
        write_idle(backend, project_id)


def _failed(backend: Backend, project_id: int, error: CoresetError, forced: int = 0) -> None:
    log.error(
        "project %d, %s: %s: %s", project_id, _round_name(backend, project_id), type(error).__name__, error
    )
    count(backend, "coreset_rounds", str(project_id), "failed", type(error).__name__)
    if not isinstance(error, LabelStudioError | ProjectError):
        _spare(backend, project_id)
    job = get_current_job()
    passing = isinstance(error, LabelStudioError | StoreError | TooManyImageFailures)
    if job and not passing:  # trying again cannot help: wait for a person or for more labels
        _answer_forced(backend, project_id, forced)
        job.retries_left = 0
        job.save()
    _say_failure(backend, project_id, str(error), job, passing)


def _say_failure(backend: Backend, project_id: int, error: str, job: Job | None, passing: bool) -> None:
    """Have the state say what went wrong, and when it is tried again by itself, if it is.

    ``passing``: it may be over by then without a round.
    """
    again = job is not None and job.func_name == ROUND_JOB and bool(job.retries_left)
    pause: float | None = job.get_retry_interval() if job and again else _seconds_to_poll(backend, project_id)
    now = time.time()
    write_progress(
        backend,
        project_id,
        state="waiting" if again else "failed",
        error=error,
        passing=passing,
        retry_at=None if pause is None else now + pause,
        last_failure={"error": error, "at": now},
    )


def _seconds_to_poll(backend: Backend, project_id: int) -> float | None:
    """When the poll looks at the project again at the latest; None where only a person starts a round."""
    if not _is_demanded(backend, project_id):
        if backend.store.held(project_id):
            return None
        with contextlib.suppress(ConfigError):  # the failure that is being said may be this one
            if backend.settings_of(project_id).trigger == "manual":
                return None
    spared = 0
    with contextlib.suppress(RedisError):
        spared = max(int(backend.redis.ttl(redis_key(project_id, "spared"))), 0)
    return spared + backend.settings.poll_seconds


def _round_name(backend: Backend, project_id: int) -> str:
    newest = backend.store.latest(project_id)
    if newest and newest.publication is None:
        return f"round {newest.record.number}"
    return f"round {max(backend.store.numbers(project_id), default=0) + 1}"


def _spare(backend: Backend, project_id: int) -> None:
    """Keep the poll from repeating a costly failure: for a minute, then two, four, up to an hour."""
    with contextlib.suppress(RedisError):
        failures: int = backend.redis.incr(redis_key(project_id, "failures"))
        backend.redis.expire(redis_key(project_id, "failures"), DAY)
        backend.redis.set(redis_key(project_id, "spared"), "1", ex=min(30 * 2 ** min(failures, 10), 3600))


def free_lease(backend: Backend, job: Job) -> None:
    """Let the next job of the project in: this one's process is known to have ended."""
    name = PRETRAINING_LEASE if job.func_name == PRETRAINING_JOB else "lease"
    key = redis_key(int(job.args[0]), name) if job.args else ""
    if key and backend.redis.get(key) == job.id.encode():
        backend.redis.delete(key)


def lost(backend: Backend, job: Job, how: str, *, dead: bool) -> None:
    """Say that a round's process ended before it could say so itself.

    ``dead``: it is known to have ended, so that its lease is free at once. Where another job has the project,
    what the state says is that job's.
    """
    if job.func_name not in (ROUND_JOB, PRETRAINING_JOB):
        return
    project_id, again = int(job.args[0]), bool(job.retries_left)
    if dead:
        free_lease(backend, job)
    if job.func_name == PRETRAINING_JOB:
        log.error("project %d: the process of the pretraining ended in the middle (%s)", project_id, how)
        write_pretraining(
            backend,
            project_id,
            state="waiting" if again else "failed",
            error=f"It ended ({how}). {usual_cause(how)}",
        )
        return
    error = f"The process of the round ended in the middle ({how}). {usual_cause(how)}"
    if backend.redis.get(redis_key(project_id, "lease")) not in (None, job.id.encode()):
        log.error("project %d: %s Another is at work by now.", project_id, error)
        write_progress(backend, project_id, last_failure={"error": error, "at": time.time()})
        return
    name = _round_name(backend, project_id)
    log.error("project %d, %s: %s%s", project_id, name, error, " It is run again." if again else "")
    if not again:
        _spare(backend, project_id)
    _say_failure(backend, project_id, error, job, True)


def _publish_what_was_lost(backend: Backend, project_id: int) -> None:
    """Have the batch published again where Label Studio does not serve it any more. Raises ProjectGone."""
    try:
        if why := why_to_publish_again(backend, project_id):
            log.warning("project %d: %s; it is published again", project_id, why)
            request_publication(backend, project_id)
    except ProjectGone:
        raise
    except LabelStudioError as error:  # no round is wanted, so the state stays as it is
        log.warning("project %d: it is not known whether its batch is served: %s", project_id, error)


def reconcile_job() -> str:
    """The poll: ask for a round in every known project that may need one, webhook or no webhook."""
    from coreset_backend.rounds import round_due

    backend = open_backend(read_settings(), patient=True)
    asked = []
    with contextlib.closing(backend):
        for project_id in backend.store.projects():
            if backend.redis.exists(redis_key(project_id, "lease"), redis_key(project_id, "spared")):
                continue
            try:
                automatic = backend.settings_of(project_id).trigger == "auto" and not backend.store.held(
                    project_id
                )
                if _is_demanded(backend, project_id) or (automatic and round_due(backend, project_id)):
                    asked.append(project_id)
                    request_round(backend, project_id, "found by polling")
                    continue
                if not backend.redis.exists(redis_key(project_id, "waiting")):
                    if automatic:
                        _settle(backend, project_id)
                    _publish_what_was_lost(backend, project_id)
                if is_left_behind(backend, project_id):
                    request_pretraining(backend, project_id)
            except ProjectGone as error:
                _forget(backend, project_id, error)
            except CoresetError as error:
                _failed(backend, project_id, error)
        backend.store.empty_gone()
    return f"asked for rounds in {asked}" if asked else "nothing to do"
