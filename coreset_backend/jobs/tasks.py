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
from redis.lock import Lock
from rq import Retry, get_current_job
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from coreset_backend.backend import Backend, OurJob, open_backend
from coreset_backend.connection.publication import why_to_publish_again
from coreset_backend.errors import CoresetError, LabelStudioError, ProjectGone, QueueError
from coreset_backend.jobs.counts import count
from coreset_backend.jobs.failures import explained
from coreset_backend.jobs.lease import LEASE_SECONDS, kept_alive, project_lease
from coreset_backend.jobs.outcome import ROUND_JOB, answer_demands, is_demanded, note_failure, settle
from coreset_backend.jobs.progress import DAY, PRETRAINING_LEASE, redis_key, reporter, write_idle
from coreset_backend.logs import about
from coreset_backend.rounds.features import is_left_behind, may_pretrain, request_pretraining, run_slice
from coreset_backend.settings import read_settings

log = logging.getLogger(__name__)

RESERVED_SECONDS = 10
OVERDUE_SECONDS = 60
BUSY_RETRY_SECONDS = 5
BY_HAND = "start-"
"""How the id of a job begins that a person has started."""
NEVER_ENDS = -1
"""What Redis gives as the time to live of a key that has none."""


def request_round(backend: Backend, project_id: int, reason: str, *, force: bool = False) -> bool:
    """Have a worker look whether the project needs a round, soon; True if a job was queued for it.

    While one waits, more requests change nothing: fifty webhooks make one job. ``force``: a person starts a
    round, due or not; it waits for no pause and goes before what starts by itself. Raises QueueError when
    Redis does not answer.
    """
    try:
        if force:
            backend.redis.rpush(redis_key(project_id, "demands"), reason)
            backend.redis.expire(redis_key(project_id, "demands"), DAY)
            backend.redis.delete(redis_key(project_id, "spared"))  # else the poll passes a lost start
        delay = 0 if force else backend.settings.debounce_seconds
        return _queue_once(backend, project_id, reason, delay, by_hand=force)
    except RedisError as error:
        raise QueueError(
            f"Redis does not answer ({error}), so no round can be requested. Is it running?"
        ) from error


def _queue_once(
    backend: Backend, project_id: int, reason: str, delay: float, *, by_hand: bool = False
) -> bool:
    waiting = redis_key(project_id, "waiting")
    job_id = _job_id(project_id, by_hand=by_hand)
    if not backend.redis.set(waiting, job_id, nx=True, ex=DAY):
        known: bytes = backend.redis.get(waiting) or b""  # type: ignore[assignment]
        stands_behind = by_hand and not known.startswith(BY_HAND.encode())
        if _still_waits(backend, waiting) and not stands_behind:
            return False
        backend.redis.set(waiting, job_id, ex=DAY)
        _drop(backend, known)
    _queue(backend, project_id, job_id, delay)
    log.info("project %d: %s; job %s in %.0f s", project_id, reason, job_id, delay)
    return True


def _job_id(project_id: int, *, by_hand: bool) -> str:
    return f"{BY_HAND if by_hand else 'round-'}{project_id}-{secrets.token_hex(4)}"


def _drop(backend: Backend, job_id: bytes) -> None:
    """Remove a job that waits and is not needed any more."""
    job = _fetch(backend, job_id)
    if job and job.get_status() in (JobStatus.QUEUED, JobStatus.SCHEDULED):
        job.delete()


def _fetch(backend: Backend, job_id: bytes) -> Job | None:
    try:
        name = job_id.decode(errors="replace")
        return OurJob.fetch(name, connection=backend.redis, serializer=JSONSerializer)
    except NoSuchJobError:
        return None


def _still_waits(backend: Backend, waiting: str) -> bool:
    """Whether the job that the key names is still to run; Redis or its worker may have lost it."""
    age: int = DAY - backend.redis.ttl(waiting)
    if age < RESERVED_SECONDS:  # another process may be about to queue it
        return True
    job = _fetch(backend, backend.redis.get(waiting) or b"")  # type: ignore[arg-type]
    if job is None:
        return False
    status = job.get_status()
    if status == JobStatus.SCHEDULED:  # for ever, where the clock of who scheduled it ran ahead
        return age < backend.settings.debounce_seconds + OVERDUE_SECONDS
    # A worker that was killed just after it had taken the job left it as it was, but in no queue.
    waits = job.id in backend.queue.job_ids or job.id in backend.first_queue.job_ids
    return status == JobStatus.QUEUED and waits


def _queue(backend: Backend, project_id: int, job_id: str, delay: float) -> None:
    queue = backend.first_queue if job_id.startswith(BY_HAND) else backend.queue
    options: dict[str, Any] = {
        "job_id": job_id,
        # The first at once: a killed worker's scheduler holds its lock for another minute.
        "retry": Retry(max=3, interval=[0, 30, 60]),
        "result_ttl": 3600,
        "failure_ttl": DAY,
    }
    if delay:
        queue.enqueue_in(timedelta(seconds=delay), ROUND_JOB, project_id, **options)
    else:
        queue.enqueue(ROUND_JOB, project_id, **options)


def run_round_job(project_id: int) -> str:
    """The job: run a round if one is due or forced. Returns in words what was done.

    Safe to run twice and at the same time: a lease lets one job of a project in, the other comes back later.
    """
    about(project=project_id)
    backend = open_backend(read_settings(), patient=True)
    with contextlib.closing(backend):
        lease = project_lease(backend, project_id)
        if not _waited_for(backend, lease):
            job_id = _job_id(project_id, by_hand=is_demanded(backend, project_id))
            backend.redis.set(redis_key(project_id, "waiting"), job_id, ex=DAY)
            _queue(backend, project_id, job_id, BUSY_RETRY_SECONDS)
            return "another job of this project is running; waiting for it"
        with kept_alive(backend, lease) as is_ours:
            backend.redis.delete(redis_key(project_id, "waiting"))
            return _advance(backend, project_id, is_ours)


def _waited_for(backend: Backend, lease: Lock) -> bool:
    """Whether the lease could be had before a killed worker's would have run out; nobody waits who would hold
    up what a person has started of another project.
    """
    job, deadline = get_current_job(), time.monotonic() + LEASE_SECONDS + 5
    while time.monotonic() < deadline:
        if lease.acquire(blocking_timeout=1, token=job.id if job else None):
            return True
        if backend.first_queue.count:
            break
    return False


def _advance(backend: Backend, project_id: int, is_ours: Callable[[], bool]) -> str:
    from coreset_backend.rounds.run import round_due, run_round

    forced: list[bytes] = backend.redis.lrange(redis_key(project_id, "demands"), 0, -1)  # type: ignore[assignment]
    held = backend.store.held(project_id)
    if backend.store.is_disconnected(project_id):
        return "the project is disconnected"
    try:
        if backend.redis.exists(redis_key(project_id, "republish")) and not forced:
            return _republish(backend, project_id, is_ours)
        if held and not forced:
            return held.reason
        reason = forced[-1].decode(errors="replace") if forced else round_due(backend, project_id)
        if reason is None:
            settle(backend, project_id)
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
        note_failure(backend, project_id, ours, len(forced))
        raise ours from error
    count(backend, "coreset_rounds", str(project_id), "done", "")
    for phase, seconds in stored.record.timings.items():
        count(backend, "coreset_round_phase_seconds", phase, amount=seconds)
    answer_demands(backend, project_id, len(forced))
    if held and stored.record.number != held.number:
        backend.store.release(project_id)
    backend.redis.delete(*(redis_key(project_id, name) for name in ("unseen", "failures", "spared")))
    write_idle(backend, project_id)
    if may_pretrain(backend.settings, stored):
        request_pretraining(backend, project_id)
    return f"round {stored.record.number}: {reason}"


def _republish(backend: Backend, project_id: int, is_ours: Callable[[], bool]) -> str:
    from coreset_backend.rounds.run import publish_round

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


def request_publication(backend: Backend, project_id: int, *, by_hand: bool = True) -> bool:
    """Have the round that speaks for the project published again, soon; True if a job was queued for it."""
    backend.redis.set(redis_key(project_id, "republish"), "1", ex=DAY)
    return _queue_once(backend, project_id, "to be published again", 0, by_hand=by_hand)


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


def _publish_what_was_lost(backend: Backend, project_id: int) -> None:
    """Have the batch published again where Label Studio does not serve it any more. Raises ProjectGone."""
    try:
        if why := why_to_publish_again(backend, project_id):
            log.warning("project %d: %s; it is published again", project_id, why)
            request_publication(backend, project_id, by_hand=False)
    except ProjectGone:
        raise
    except LabelStudioError as error:  # no round is wanted, so the state stays as it is
        log.warning("project %d: it is not known whether its batch is served: %s", project_id, error)


def reconcile_job() -> str:
    """The poll: ask for a round in every known project that may need one, webhook or no webhook.

    What a person has started goes first: the projects that are left wait for the next poll.
    """
    backend = open_backend(read_settings(), patient=True)
    asked = []
    with contextlib.closing(backend):
        for project_id, found in backend.of_each_project(partial(_look_after, backend)):
            if found is True:
                asked.append(project_id)
            elif isinstance(found, CoresetError):
                note_failure(backend, project_id, found)
            if backend.first_queue.count:
                break
        backend.store.empty_gone()
    return f"asked for rounds in {asked}" if asked else "nothing to do"


def _look_after(backend: Backend, project_id: int) -> bool:
    """Ask for what the project needs; whether that is a round."""
    from coreset_backend.rounds.run import round_due

    _drop_what_is_stuck(backend, project_id)
    if backend.redis.exists(redis_key(project_id, "lease"), redis_key(project_id, "spared")):
        return False
    try:
        automatic = backend.trigger_of(project_id) == "auto" and not backend.store.held(project_id)
        if is_demanded(backend, project_id) or (automatic and round_due(backend, project_id)):
            request_round(backend, project_id, "found by polling")
            return True
        if not backend.redis.exists(redis_key(project_id, "waiting")):
            if automatic:
                settle(backend, project_id)
            _publish_what_was_lost(backend, project_id)
        if is_left_behind(backend, project_id):
            request_pretraining(backend, project_id)
    except ProjectGone as error:
        _forget(backend, project_id, error)
    return False


def _drop_what_is_stuck(backend: Backend, project_id: int) -> None:
    """Remove keys that would stand in the way for good: each that we set ends by itself."""
    for name in ("lease", "waiting", "spared", "republish"):
        key = redis_key(project_id, name)
        if backend.redis.ttl(key) == NEVER_ENDS:
            log.error("%s in Redis would never end, so it is not ours; it is dropped", key)
            backend.redis.delete(key)
    waiting = redis_key(project_id, "waiting")
    if backend.redis.exists(waiting) and not _still_waits(backend, waiting):
        backend.redis.delete(waiting)
