"""Heartbeats of workers, numbers of jobs, and counters, all kept in Redis."""

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
"""A worker sends a heartbeat every five seconds, busy or not; without one for this long it
counts as killed.
"""


def alive_key(worker_name: str) -> str:
    """The key that each heartbeat of a worker sets for HEARTBEAT_SECONDS.

    Redis measures its age, so no clocks of two machines are compared.
    """
    return f"coreset:alive:{worker_name}"


def heartbeat_ages(queue: Queue) -> dict[str, float]:
    """Name of each listening worker -> seconds since its last heartbeat; raises QueueError.

    RQ keeps the name of a killed worker for longer; such workers are not included.
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
    """Number of workers that listen to the queue; raises QueueError."""
    return len(heartbeat_ages(queue))


def job_counts(queues: Sequence[Queue]) -> dict[str, int]:
    """State (queued, scheduled, started, failed) -> number of jobs in the queues; raises QueueError."""
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
"""Counter -> (its meaning, the names of its labels)."""


def count(redis: Redis, counter: str, *labels: str, amount: float = 1.0) -> None:
    """Add to one of COUNTERS. Redis keeps it, because the process of a job ends with the job."""
    field = json.dumps([counter, *labels])
    with contextlib.suppress(RedisError):
        try:
            redis.hincrbyfloat("coreset:counts", field, amount)
        except ResponseError:  # it held no number
            redis.hset("coreset:counts", field, str(amount))


def read_counts(redis: Redis) -> dict[str, dict[tuple[str, ...], float]]:
    """Counter -> label values -> its count since Redis was last empty; raises QueueError."""
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
        except (ValueError, LookupError):  # not written by this backend
            continue
        if len(labels) == len(names) and math.isfinite(amount):
            found.setdefault(counter, {})[tuple(labels)] = amount
    return found


FIELD = TypeAdapter(list[str])
