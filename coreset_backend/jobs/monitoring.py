"""Which workers live, and how many jobs wait for them: what only Redis knows."""

import contextlib
import json
import math
from collections.abc import Sequence

from pydantic import TypeAdapter
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from rq import Queue, Worker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from coreset_backend.errors import QueueError

HEARTBEAT_SECONDS = 30
"""A worker shows that it lives every five seconds, busy or not; one that has not for so long was killed."""


def alive_key(worker_name: str) -> str:
    """What a worker keeps in Redis for HEARTBEAT_SECONDS at each sign of life.

    Its age is told by Redis, so that no two machines' clocks are compared.
    """
    return f"coreset:alive:{worker_name}"


def heartbeat_ages(queue: Queue) -> dict[str, float]:
    """Seconds since each worker of the queue last showed that it lives, by its name; raises QueueError.

    RQ keeps the name of a killed worker for longer; it does not listen and is left out.
    """
    ages = {}
    try:
        keys: set[bytes] = queue.connection.smembers(WORKERS_BY_QUEUE_KEY % queue.name)  # type: ignore[assignment]
        for key in keys:
            name = key.decode(errors="replace").removeprefix(Worker.redis_worker_namespace_prefix)
            left: int = queue.connection.pttl(alive_key(name))
            if left > 0:
                ages[name] = HEARTBEAT_SECONDS - left / 1000
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}).") from error
    return ages


def workers_alive(queue: Queue) -> int:
    """How many workers listen to the queue; raises QueueError."""
    return len(heartbeat_ages(queue))


def job_counts(queues: Sequence[Queue]) -> dict[str, int]:
    """How many jobs of the queues are queued, scheduled, started and failed; raises QueueError."""
    try:
        return {
            "queued": sum(queue.count for queue in queues),
            "scheduled": sum(queue.scheduled_job_registry.count for queue in queues),
            "started": sum(queue.started_job_registry.count for queue in queues),
            "failed": sum(queue.failed_job_registry.count for queue in queues),
        }
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}).") from error


COUNTERS = {
    "coreset_rounds": ("Rounds that ended, by outcome and error", ("project", "outcome", "error")),
    "coreset_round_phase_seconds": ("Time spent in each phase of rounds that were done", ("phase",)),
}
"""What jobs count: its meaning and the names of its labels."""


def count(redis: Redis, counter: str, *labels: str, amount: float = 1.0) -> None:
    """Add to one of COUNTERS; kept in Redis, since the process of a job ends with it."""
    field = json.dumps([counter, *labels])
    with contextlib.suppress(RedisError):
        try:
            redis.hincrbyfloat("coreset:counts", field, amount)
        except ResponseError:  # it held no number
            redis.hset("coreset:counts", field, str(amount))


def read_counts(redis: Redis) -> dict[str, dict[tuple[str, ...], float]]:
    """Counter -> label values -> what was counted since Redis was last empty; raises QueueError."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    try:
        counted: dict[bytes, bytes] = redis.hgetall("coreset:counts")  # type: ignore[assignment]
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}).") from error
    for field, value in counted.items():
        try:
            counter, *labels = FIELD.validate_json(field)
            amount = float(value)
            _, names = COUNTERS[counter]
        except (ValueError, LookupError):  # what is not ours
            continue
        if len(labels) == len(names) and math.isfinite(amount):
            found.setdefault(counter, {})[tuple(labels)] = amount
    return found


FIELD = TypeAdapter(list[str])
