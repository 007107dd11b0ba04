"""What jobs count for the metrics: kept in Redis, since the process of a job ends with it."""

import contextlib
import json

from redis.exceptions import RedisError

from coreset_backend.backend import Backend
from coreset_backend.errors import QueueError

COUNTERS = {
    "coreset_rounds": ("Rounds that ended, by outcome and error", ("project", "outcome", "error")),
    "coreset_round_phase_seconds": ("Time spent in each phase of rounds that were done", ("phase",)),
}
"""What jobs count: its meaning and the names of its labels."""


def count(backend: Backend, counter: str, *labels: str, amount: float = 1.0) -> None:
    """Add to one of COUNTERS; kept in Redis, since the process of a job ends with it."""
    with contextlib.suppress(RedisError):
        backend.redis.hincrbyfloat("coreset:counts", json.dumps([counter, *labels]), amount)


def read_counts(backend: Backend) -> dict[str, dict[tuple[str, ...], float]]:
    """Counter -> label values -> what was counted since Redis was last empty; raises QueueError."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    try:
        counted: dict[bytes, bytes] = backend.redis.hgetall("coreset:counts")  # type: ignore[assignment]
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}).") from error
    for field, value in counted.items():
        counter, *labels = json.loads(field)
        found.setdefault(counter, {})[tuple(labels)] = float(value)
    return found
