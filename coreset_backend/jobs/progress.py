"""The progress of each project's round: the job writes it to Redis; pages, API and command line read it."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from coreset_backend.arrays import RoundWatch
from coreset_backend.errors import QueueError, TakenOver
from coreset_backend.jobs.keys import DAY, PRETRAINING_LEASE, ROUND_LEASE, redis_key
from coreset_backend.jobs.states import RoundState
from coreset_backend.reports import Count
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)
AWAY_SECONDS = 5.0
FEW_STEPS = 10

Moment = Annotated[float, Field(ge=0, lt=1e11)]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, and when (Unix time)."""

    error: str
    at: Moment


@dataclass(frozen=True, slots=True)
class Labeling:
    """Number of tasks of the batch of ``round`` that were done at the last check."""

    round: Count
    done: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenProgress:
    """The progress that jobs write to Redis, as JSON. All times are Unix times.

    ``machines``: how many of a cluster have embedded images. ``error``: the reason of the last failure,
    until the next attempt starts; ``last_failure`` stays. ``passing``: the failure may be resolved without a
    round. ``retry_at``: the latest time of the automatic retry. ``connection``: sentences on why the batch is
    not served, and on the version that it replaced.
    """

    state: Literal[RoundState.IDLE, RoundState.WAITING, RoundState.RUNNING, RoundState.FAILED] = (
        RoundState.IDLE
    )
    phase: str | None = None
    done: Count = 0
    total: Count = 0
    machines: Count = 0
    reason: str = ""
    error: str | None = None
    passing: bool = True
    retry_at: Moment | None = None
    last_failure: Failure | None = None
    labeling: Labeling | None = None
    connection: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingProgress:
    """The progress of the pretraining: ``seen`` of ``budget`` images; an epoch has ``images``."""

    state: Literal["running", "waiting", "done", "failed"] = "waiting"
    images: Count = 0
    seen: Count = 0
    budget: Count = 0
    seconds_left: float | None = None
    error: str | None = None
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundProgress:
    """The progress of a project's round: what jobs have ``written``, and what Redis and the store add.

    ``lost``: the process of the round ended without reporting a result. ``queued``: a job of the project is
    in the queue. ``unseen``: number of tasks that Label Studio requested and no round has read.
    ``demanded``: a person has requested a round. ``republish``: the batch is to be published again.
    ``paused_reason``: why no round starts automatically. ``pretraining``: None if there is none.
    """

    written: WrittenProgress
    state: RoundState
    lost: bool
    queued: bool
    unseen: int
    demanded: bool
    republish: bool
    paused_reason: str | None
    pretraining: PretrainingProgress | None


WRITTEN = TypeAdapter(WrittenProgress)
PRETRAINING = TypeAdapter(PretrainingProgress)
T = TypeVar("T", WrittenProgress, PretrainingProgress)
SET_IF_SAME = """
if redis.sha1hex(redis.call('get', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[2])
return 1
"""


def read_progress(redis: Redis, store: Store, project_id: int) -> RoundProgress:
    """The progress of the project's round. Raises QueueError if Redis does not answer."""
    try:
        key = redis_key(project_id, "progress")
        content, leased = _content_and_lease(redis, key, redis_key(project_id, ROUND_LEASE))
        written = _parsed(key, content, WRITTEN) or WrittenProgress()
        queued, demanded, republish = (
            bool(redis.exists(redis_key(project_id, name))) for name in ("waiting", "demands", "republish")
        )
        unseen: int = redis.scard(redis_key(project_id, "unseen"))
        pretraining = _read_pretraining(redis, project_id)
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}), so progress is unknown.") from error
    state: RoundState = written.state
    lost, held = state == RoundState.RUNNING and not leased, store.held(project_id)
    comes = demanded or republish or (queued and bool(written.error))
    comes = comes or (queued and not store.numbers(project_id))
    if lost or (state != RoundState.RUNNING and comes):
        state = RoundState.WAITING
    return RoundProgress(
        written=written,
        state=state,
        lost=lost,
        queued=queued,
        unseen=unseen,
        demanded=demanded,
        republish=republish,
        paused_reason=held.reason if held else None,
        pretraining=pretraining,
    )


def _content_and_lease(redis: Redis, key: str, lease: str) -> tuple[bytes | None, bool]:
    """The value of ``key``, and whether a process held the ``lease`` while that was the value.

    Read one after the other, a job that ends in between would look as if its process had been killed.
    """
    content: bytes | None = redis.get(key)  # type: ignore[assignment]
    while True:
        leased, before = bool(redis.exists(lease)), content
        content = redis.get(key)  # type: ignore[assignment]
        if content == before:
            return content, leased


def _parsed(key: str, content: bytes | None, shape: TypeAdapter[T]) -> T | None:
    """The JSON value; None if it is missing or malformed, which counts as lost."""
    if not content:
        return None
    try:
        return shape.validate_json(content, strict=True)
    except ValidationError:
        log.error("%s in Redis was not written by this backend; it counts as empty", key)
        return None


def _read_pretraining(redis: Redis, project_id: int) -> PretrainingProgress | None:
    key = redis_key(project_id, "pretraining")
    content, leased = _content_and_lease(redis, key, redis_key(project_id, PRETRAINING_LEASE))
    written = _parsed(key, content, PRETRAINING)
    if written is None:
        return None
    if written.state == "running" and not leased:
        written = replace(written, state="waiting")  # its worker died; RQ queues the job again
    return replace(written, sentence=_pretraining_sentence(written))


def _pretraining_sentence(written: PretrainingProgress) -> str:
    if written.state == "failed":
        return f"Pretraining on the pool failed: {written.error}"
    if written.state == "done":
        return f"Pretraining on the pool is done: {written.budget:,} images seen."
    images = max(written.images, 1)
    epochs = max(round(written.budget / images), 1)
    place = f"epoch {min(written.seen // images + 1, epochs)} of {epochs}"
    if written.state == "waiting":
        return f"Pretraining on the pool: {place}; it continues when no round is waiting."
    left = written.seconds_left
    return f"Pretraining on the pool: {place}" + ("." if left is None else f", about {span(left)} left.")


def span(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def write_pretraining(
    redis: Redis, project_id: int, change: Callable[[PretrainingProgress], PretrainingProgress]
) -> None:
    """Replace the pretraining's progress by ``change`` of it."""
    with contextlib.suppress(RedisError):
        _change(redis, redis_key(project_id, "pretraining"), PRETRAINING, PretrainingProgress(), change)


def pretraining_reporter(redis: Redis, project_id: int) -> Callable[[int, int, int], None]:
    """A callback (images in the pool, seen, to see) that writes the pretraining's progress once a second."""
    begun: tuple[int, float] | None = None
    written = 0.0

    def report(images: int, seen: int, budget: int) -> None:
        nonlocal begun, written
        now = time.monotonic()
        begun = begun or (seen, now)
        if now < written + 1 and seen < budget:
            return
        written = now
        pace = (now - begun[1]) / (seen - begun[0]) if seen > begun[0] else None
        left = None if pace is None else round(pace * (budget - seen), 1)
        running = PretrainingProgress(
            state="running", images=images, seen=seen, budget=budget, seconds_left=left
        )
        write_pretraining(redis, project_id, lambda _: running)

    return report


def write_progress(
    redis: Redis, project_id: int, change: Callable[[WrittenProgress], WrittenProgress]
) -> None:
    """Replace the progress by ``change`` of it."""
    with contextlib.suppress(RedisError):  # a round does not fail because of its progress
        _update(redis, project_id, change)


def _update(redis: Redis, project_id: int, change: Callable[[WrittenProgress], WrittenProgress]) -> None:
    _change(redis, redis_key(project_id, "progress"), WRITTEN, WrittenProgress(), change)


def _change(redis: Redis, key: str, shape: TypeAdapter[T], empty: T, change: Callable[[T], T]) -> None:
    """Replace the JSON value by ``change`` of it; what other processes write meanwhile is not lost."""
    while True:
        content: bytes | None = redis.get(key)  # type: ignore[assignment]
        changed = json.dumps(asdict(change(_parsed(key, content, shape) or empty)))
        before = hashlib.sha1(content or b"", usedforsecurity=False).hexdigest()
        if redis.eval(SET_IF_SAME, 1, key, before, changed):
            return


def write_idle(redis: Redis, project_id: int) -> None:
    """Reset the progress to idle: no round runs, and none is to be retried."""
    write_progress(
        redis,
        project_id,
        lambda known: replace(known, state=RoundState.IDLE, error=None, retry_at=None, phase=None),
    )


def reporter(redis: Redis, project_id: int, reason: str, is_ours: Callable[[], bool]) -> RoundWatch:
    """The progress callback of run_round: writes each phase, and its steps at most twice a second.

    While Redis does not answer, the round continues and writing is retried after a while; ``redis`` is a
    connection that fails soon. Raises TakenOver instead of writing if the project is no longer ``is_ours``.
    """
    last, away_until = ("", 0.0), 0.0

    def report(phase: str, done: int, total: int, machines: int = 0, /) -> None:
        nonlocal last, away_until
        now = time.monotonic()
        if now < away_until:
            return
        begins = phase != last[0]
        if not (begins or now > last[1] + 0.5 or done == total or total <= FEW_STEPS):
            return
        last = (phase, now)
        try:
            if not is_ours():
                raise TakenOver(
                    f"This process was stopped in the phase {phase}; another one has the project."
                )
            _update(redis, project_id, lambda known: _running(known, reason, phase, done, total, machines))
        except RedisError:  # known at once, or after the 40 s of a silent network
            then = time.monotonic()
            away_until = then + max(AWAY_SECONDS, 1.5 * (then - now))

    return report


def _running(
    known: WrittenProgress, reason: str, phase: str, done: int, total: int, machines: int
) -> WrittenProgress:
    return replace(
        known,
        state=RoundState.RUNNING,
        phase=phase,
        done=done,
        total=total,
        machines=machines,
        reason=reason,
        error=None,
        retry_at=None,
    )


def note_unseen(redis: Redis, project_id: int, task_ids: Sequence[int]) -> None:
    """Remember tasks that Label Studio requested a prediction for and no round has read."""
    if task_ids:
        with contextlib.suppress(RedisError):
            key = redis_key(project_id, "unseen")
            redis.sadd(key, *task_ids)
            redis.expire(key, DAY)


def is_demanded(redis: Redis, project_id: int) -> bool:
    """Whether a person's demand for a round has not been answered yet."""
    return bool(redis.exists(redis_key(project_id, "demands")))
