"""A round asked for: one waiting job for each project, however many events ask."""

import contextlib
import logging
import secrets
from datetime import timedelta
from functools import partial

from redis import Redis
from redis.exceptions import RedisError
from rq import Retry
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from coreset_backend.backend import Backend, OurJob
from coreset_backend.errors import QueueError
from coreset_backend.jobs.keys import DAY, PRETRAINING_JOB, ROUND_JOB, ROUND_LEASE, redis_key
from coreset_backend.jobs.lease import project_lease
from coreset_backend.jobs.outcome import QUEUE_DELAYS
from coreset_backend.jobs.progress import is_demanded, write_idle

log = logging.getLogger(__name__)
RESERVED_SECONDS = 10
OVERDUE_SECONDS = 60
BY_HAND = "start-"
"""How the id of a job begins that a person has started."""


def request_round(backend: Backend, project_id: int, reason: str, *, force: bool = False) -> bool:
    """Ask a worker to look whether the project needs a round; True if a job was queued for it.

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
        if still_waits(backend, waiting) and not stands_behind:
            return False
        backend.redis.set(waiting, job_id, ex=DAY)
        _drop(backend.redis, known)
    _queue(backend, project_id, job_id, delay)
    log.info("project %d: %s; job %s in %.0f s", project_id, reason, job_id, delay)
    return True


def queue_again(backend: Backend, project_id: int, delay: float) -> None:
    """Queue a job of the project whatever else waits: one that found another at work."""
    job_id = _job_id(project_id, by_hand=is_demanded(backend.redis, project_id))
    backend.redis.set(redis_key(project_id, "waiting"), job_id, ex=DAY)
    _queue(backend, project_id, job_id, delay)


def _job_id(project_id: int, *, by_hand: bool) -> str:
    return f"{BY_HAND if by_hand else 'round-'}{project_id}-{secrets.token_hex(4)}"


def _drop(redis: Redis, job_id: bytes) -> None:
    """Remove a job that waits and is not needed any more."""
    job = _fetch(redis, job_id)
    if job and job.get_status() in (JobStatus.QUEUED, JobStatus.SCHEDULED):
        job.delete()


def _fetch(redis: Redis, job_id: bytes) -> Job | None:
    try:
        name = job_id.decode(errors="replace")
        return OurJob.fetch(name, connection=redis, serializer=JSONSerializer)
    except (NoSuchJobError, ValueError):  # or no name of a job at all
        return None


def still_waits(backend: Backend, waiting: str) -> bool:
    """Whether the job that the key names is still to run; Redis or its worker may have lost it."""
    age: int = DAY - backend.redis.ttl(waiting)
    if age < RESERVED_SECONDS:  # another process may be about to queue it
        return True
    job = _fetch(backend.redis, backend.redis.get(waiting) or b"")  # type: ignore[arg-type]
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
    enqueue = partial(queue.enqueue_in, timedelta(seconds=delay)) if delay else queue.enqueue
    enqueue(
        ROUND_JOB,
        project_id,
        job_id=job_id,
        retry=Retry(max=len(QUEUE_DELAYS), interval=list(QUEUE_DELAYS)),
        result_ttl=3600,
        failure_ttl=DAY,
    )


def request_publication(backend: Backend, project_id: int, *, by_hand: bool = True) -> bool:
    """Ask a worker to publish the current round again; True if a job was queued for it."""
    backend.redis.set(redis_key(project_id, "republish"), "1", ex=DAY)
    return _queue_once(backend, project_id, "to be published again", 0, by_hand=by_hand)


def stop_round(backend: Backend, project_id: int, patience: float) -> bool:
    """End the project's running round and drop what waits; whether there was either.

    Raises QueueError when a worker has not ended it after ``patience`` seconds.
    """
    running: bytes | None = backend.redis.get(redis_key(project_id, ROUND_LEASE))  # type: ignore[assignment]
    dropped = backend.redis.delete(
        *(redis_key(project_id, name) for name in ("waiting", "demands", "republish"))
    )
    if not running:
        return bool(dropped)
    with contextlib.suppress(NoSuchJobError, InvalidJobOperation):  # it ends by itself
        send_stop_job_command(backend.redis, running.decode(), serializer=JSONSerializer)
    with project_lease(backend, project_id, patience=patience) as is_ours:
        if not is_ours:
            raise QueueError(
                f"The worker has not ended the round of project {project_id} within {patience:.0f} s. "
                "Is the worker alive? `coreset-backend doctor` knows; then cancel again."
            )
        write_idle(backend.redis, project_id)
    return True


def forget_state(redis: Redis, project_id: int) -> None:
    """Delete all that Redis knows of the project."""
    if keys := list(redis.scan_iter(redis_key(project_id, "*"))):
        redis.delete(*keys)


def request_pretraining(backend: Backend, project_id: int) -> None:
    """Ask a worker to pretrain on the project's pool, a slice at a time, whenever no round waits."""
    name = f"pretraining-{project_id}-"
    if not any(job_id.startswith(name) for job_id in backend.spare_queue.job_ids):
        backend.spare_queue.enqueue(
            PRETRAINING_JOB,
            project_id,
            job_id=f"{name}{secrets.token_hex(4)}",
            retry=Retry(max=len(QUEUE_DELAYS)),
            result_ttl=3600,
            failure_ttl=DAY,
        )
