"""What jobs count for the metrics: kept in Redis, since the process of a job ends with it."""

import contextlib
import json
import math

from pydantic import TypeAdapter
from redis.exceptions import RedisError, ResponseError

from coreset_backend.backend import Backend
from coreset_backend.errors import QueueError

COUNTERS = {
    "coreset_rounds": ("Rounds that ended, by outcome and error", ("project", "outcome", "error")),
    "coreset_round_phase_seconds": ("Time spent in each phase of rounds that were done", ("phase",)),
}
"""What jobs count: its meaning and the names of its labels."""
FIELD = TypeAdapter(list[str])


def count(backend: Backend, counter: str, *labels: str, amount: float = 1.0) -> None:
    """Add to one of COUNTERS; kept in Redis, since the process of a job ends with it."""
    field = json.dumps([counter, *labels])
    with contextlib.suppress(RedisError):
        try:
            backend.redis.hincrbyfloat("coreset:counts", field, amount)
        except ResponseError:  # it held no number
            backend.redis.hset("coreset:counts", field, str(amount))


def read_counts(backend: Backend) -> dict[str, dict[tuple[str, ...], float]]:
    """Counter -> label values -> what was counted since Redis was last empty; raises QueueError."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    try:
        counted: dict[bytes, bytes] = backend.redis.hgetall("coreset:counts")  # type: ignore[assignment]
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
