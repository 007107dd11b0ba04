"""Requests rounds: at most one waiting job per project, however many webhooks arrive."""

import contextlib
import logging
import secrets
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from coreset_backend.backend import Backend, OurJob
from coreset_backend.errors import QueueError
from coreset_backend.jobs.keys import AUDITION_JOB, DAY, PRETRAINING_JOB, ROUND_JOB, ROUND_LEASE, redis_key
from coreset_backend.jobs.lease import project_lease
from coreset_backend.jobs.outcome import QUEUE_DELAYS
from coreset_backend.jobs.progress import is_demanded, write_idle

log = logging.getLogger(__name__)
RESERVED_SECONDS = 10
OVERDUE_SECONDS = 60
DELETE_IF_SAME = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('del', KEYS[1]) or 0"
BY_HAND = "start-"
"""The prefix of the ids of jobs that a person has started."""


def request_round(backend: Backend, project_id: int, reason: str, *, force: bool = False) -> bool:
    """Queue a job that checks whether the project needs a round; True if a job was queued.

    While one is waiting, further requests change nothing: fifty webhooks make one job. ``force``: a person
    starts a round, due or not; it does not wait for the back-off and goes ahead of automatic rounds. Raises
    QueueError if Redis does not answer.
    """
    try:
        if force:
            backend.redis.rpush(redis_key(project_id, "demands"), reason)
            backend.redis.expire(redis_key(project_id, "demands"), DAY)
            backend.redis.delete(redis_key(project_id, "spared"))  # else the poll would skip a lost start
        delay = 0 if force else backend.settings.debounce_seconds
        return _queue_once(backend, project_id, reason, delay, by_hand=force)
    except RedisError as error:
        raise QueueError(
            f"Redis does not answer ({error}), so no round can be requested. Check that Redis runs."
        ) from error


def _queue_once(
    backend: Backend, project_id: int, reason: str, delay: float, *, by_hand: bool = False
) -> bool:
    waiting = redis_key(project_id, "waiting")
    job_id = _job_id(project_id, by_hand=by_hand)
    known = b""
    if not backend.redis.set(waiting, job_id, nx=True, ex=DAY):
        known = backend.redis.get(waiting) or b""  # type: ignore[assignment]
        stands_behind = by_hand and not known.startswith(BY_HAND.encode())
        if still_waits(backend, waiting) and not stands_behind:
            return False
        backend.redis.set(waiting, job_id, ex=DAY)
    _queue(backend, project_id, job_id, delay)
    if known:  # dropped only now: a process that ends in between leaves the project with a job
        _drop(backend.redis, known)
    log.info("project %d: %s; job %s in %.0f s", project_id, reason, job_id, delay)
    return True


def queue_again(backend: Backend, project_id: int, delay: float) -> None:
    """Queue a job of the project again that found another job running, whatever else is waiting."""
    job_id = _job_id(project_id, by_hand=is_demanded(backend.redis, project_id))
    backend.redis.set(redis_key(project_id, "waiting"), job_id, ex=DAY)
    _queue(backend, project_id, job_id, delay)


def _job_id(project_id: int, *, by_hand: bool) -> str:
    return f"{BY_HAND if by_hand else 'round-'}{project_id}-{secrets.token_hex(4)}"


def _drop(redis: Redis, job_id: bytes) -> None:
    """Remove a waiting job that is no longer needed."""
    job = _fetch(redis, job_id)
    if job and job.get_status() in (JobStatus.QUEUED, JobStatus.SCHEDULED):
        job.delete()


def _fetch(redis: Redis, job_id: bytes) -> Job | None:
    try:
        name = job_id.decode(errors="replace")
        return OurJob.fetch(name, connection=redis, serializer=JSONSerializer)
    except (NoSuchJobError, ValueError):  # or the value is not a job's name
        return None


def still_waits(backend: Backend, waiting: str) -> bool:
    """Whether the named job is still going to run; Redis or its worker may have lost it."""
    age: int = DAY - backend.redis.ttl(waiting)
    if age < RESERVED_SECONDS:  # another process may be about to queue it
        return True
    job = _fetch(backend.redis, backend.redis.get(waiting) or b"")  # type: ignore[arg-type]
    if job is None:
        return False
    status = job.get_status()
    if status == JobStatus.SCHEDULED:  # never, if the clock of its scheduler was ahead
        return age < backend.settings.debounce_seconds + OVERDUE_SECONDS
    # If a worker was killed just after it took the job, the job is unchanged but in no queue.
    waits = job.id in backend.queue.job_ids or job.id in backend.high_priority_queue.job_ids
    return status == JobStatus.QUEUED and waits


def _queue(backend: Backend, project_id: int, job_id: str, delay: float) -> None:
    queue = backend.high_priority_queue if job_id.startswith(BY_HAND) else backend.queue
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
    """Queue a job that publishes the current round again; True if a job was queued."""
    note_publication(backend.redis, project_id)
    return _queue_once(backend, project_id, "to be published again", 0, by_hand=by_hand)


def note_publication(redis: Redis, project_id: int) -> None:
    """Ask the project's next job to publish the current round again; each request has a value of its own."""
    redis.set(redis_key(project_id, "republish"), secrets.token_hex(8), ex=DAY)


@contextlib.contextmanager
def answering_publication(redis: Redis, project_id: int) -> Iterator[None]:
    """Publish in the block: it answers the request that stands when it begins, if no error ends it.

    A request that comes meanwhile stands for the next job: what it is about may have been read before.
    """
    key = redis_key(project_id, "republish")
    asked: bytes | None = redis.get(key)  # type: ignore[assignment]
    yield
    if asked:
        redis.eval(DELETE_IF_SAME, 1, key, asked)


def request_work(backend: Backend, project_id: int, reason: str) -> bool:
    """Queue a job at once that does the project's next step, whatever it is; True if a job was queued."""
    return _queue_once(backend, project_id, reason, 0, by_hand=True)


def stop_round(backend: Backend, project_id: int, patience: float) -> bool:
    """Stop the project's running round and remove the waiting job; returns whether there was either.

    Raises QueueError if a worker has not stopped the round after ``patience`` seconds.
    """
    running: bytes | None = backend.redis.get(redis_key(project_id, ROUND_LEASE))  # type: ignore[assignment]
    dropped = backend.redis.delete(
        *(redis_key(project_id, name) for name in ("waiting", "demands", "republish"))
    )
    if not running:
        return bool(dropped)
    with contextlib.suppress(NoSuchJobError, InvalidJobOperation):  # it is just ending
        send_stop_job_command(backend.redis, running.decode(), serializer=JSONSerializer)
    with project_lease(backend, project_id, patience=patience) as is_ours:
        if not is_ours:
            raise QueueError(
                f"The worker has not stopped the round of project {project_id} within {patience:.0f} s. "
                "Check the worker with `coreset-backend doctor`, then cancel again."
            )
        write_idle(backend.redis, project_id)
    return True


def forget_state(redis: Redis, project_id: int) -> None:
    """Delete the project's keys in Redis."""
    if keys := list(redis.scan_iter(redis_key(project_id, "*"))):
        redis.delete(*keys)


def request_pretraining(backend: Backend, project_id: int) -> None:
    """Queue the pretraining on the project's pool; it runs in slices while no round is waiting."""
    _queue_for_spare_time(
        backend.low_priority_queue, PRETRAINING_JOB, f"pretraining-{project_id}-", project_id
    )


def request_audition(backend: Backend, project_id: int) -> None:
    """Queue an audition of the project's backbones; it runs while no round is waiting."""
    _queue_for_spare_time(backend.low_priority_queue, AUDITION_JOB, f"audition-{project_id}-", project_id)


def _queue_for_spare_time(low_priority_queue: Queue, job: str, name: str, project_id: int) -> None:
    """Queue the job under an id that begins with ``name``, unless one such waits."""
    if not any(job_id.startswith(name) for job_id in low_priority_queue.job_ids):
        low_priority_queue.enqueue(
            job,
            project_id,
            job_id=f"{name}{secrets.token_hex(4)}",
            retry=Retry(max=len(QUEUE_DELAYS)),
            result_ttl=3600,
            failure_ttl=DAY,
        )
