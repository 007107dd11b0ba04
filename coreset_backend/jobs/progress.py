"""How far each project's round is: written to Redis by the job, read by pages, API and command line."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from redis import Redis
from redis.exceptions import RedisError

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
    """Why a try failed, and when (Unix time)."""

    error: str
    at: Moment


@dataclass(frozen=True, slots=True)
class Labeling:
    """How many tasks of the batch of ``round`` were done when last looked."""

    round: Count
    done: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenProgress:
    """What jobs write to Redis, as JSON. All moments are Unix times.

    ``error`` is that of the last try, until the next begins; ``last_failure`` is kept for good. ``passing``:
    the error may be gone without a round. ``retry_at``: when the round is tried again by itself at latest.
    ``connection``: sentences on what keeps the batch from being served, and on which version it replaced.
    """

    state: Literal[RoundState.IDLE, RoundState.WAITING, RoundState.RUNNING, RoundState.FAILED] = (
        RoundState.IDLE
    )
    phase: str | None = None
    done: Count = 0
    total: Count = 0
    reason: str = ""
    error: str | None = None
    passing: bool = True
    retry_at: Moment | None = None
    last_failure: Failure | None = None
    labeling: Labeling | None = None
    connection: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingProgress:
    """How far the pretraining is: ``seen`` of ``budget`` images, of which ``images`` are an epoch."""

    state: Literal["running", "waiting", "done", "failed"] = "waiting"
    images: Count = 0
    seen: Count = 0
    budget: Count = 0
    seconds_left: float | None = None
    error: str | None = None
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundProgress:
    """How far a project's round is: what jobs have ``written``, and what Redis and the store say beside it.

    ``lost``: the process of the round ended before it could say so. ``queued``: a job waits that looks for
    what is to be done. ``unseen``: how many tasks Label Studio asked about that no round has seen.
    ``demanded``: somebody has asked for a round, ``republish``: for the batch to be published again.
    ``paused_reason``: why no round starts by itself. ``pretraining`` is None where there is none.
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
T = TypeVar("T")
Report = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""


def read_progress(redis: Redis, store: Store, project_id: int) -> RoundProgress:
    """How far the project's round is. Raises QueueError when Redis does not answer."""
    try:
        written = _written(redis, project_id, "progress", WRITTEN) or WrittenProgress()
        leased, queued, demanded, republish = (
            bool(redis.exists(redis_key(project_id, name)))
            for name in (ROUND_LEASE, "waiting", "demands", "republish")
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


def _written(redis: Redis, project_id: int, name: str, shape: TypeAdapter[T]) -> T | None:
    """What is kept as JSON under that name; None where something else is there, which counts as lost."""
    key = redis_key(project_id, name)
    content: bytes | None = redis.get(key)  # type: ignore[assignment]
    if not content:
        return None
    try:
        return shape.validate_json(content, strict=True)
    except ValidationError:
        log.error("%s in Redis held what is not ours; it counts as empty", key)
        return None


def _read_pretraining(redis: Redis, project_id: int) -> PretrainingProgress | None:
    written = _written(redis, project_id, "pretraining", PRETRAINING)
    if written is None:
        return None
    if written.state == "running" and not redis.exists(redis_key(project_id, PRETRAINING_LEASE)):
        written = replace(written, state="waiting")  # its worker died; the job comes back by itself
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
        return f"Pretraining on the pool: {place}; it goes on when no round waits."
    left = written.seconds_left
    return f"Pretraining on the pool: {place}" + ("." if left is None else f", about {span(left)} left.")


def span(seconds: float) -> str:
    """So many seconds in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def write_pretraining(
    redis: Redis, project_id: int, change: Callable[[PretrainingProgress], PretrainingProgress]
) -> None:
    """Write what ``change`` makes of the pretraining's progress so far."""
    with contextlib.suppress(RedisError):
        known = _written(redis, project_id, "pretraining", PRETRAINING) or PretrainingProgress()
        redis.set(redis_key(project_id, "pretraining"), json.dumps(asdict(change(known))))


def pretraining_reporter(redis: Redis, project_id: int) -> Callable[[int, int, int], None]:
    """Progress of a pretraining as (images in the pool, seen, to see), written at most once a second."""
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
    """Write what ``change`` makes of the progress so far."""
    with contextlib.suppress(RedisError):  # progress is for the eye; a round does not fail for it
        _update(redis, project_id, change)


def _update(redis: Redis, project_id: int, change: Callable[[WrittenProgress], WrittenProgress]) -> None:
    known = _written(redis, project_id, "progress", WRITTEN) or WrittenProgress()
    redis.set(redis_key(project_id, "progress"), json.dumps(asdict(change(known))))


def write_idle(redis: Redis, project_id: int) -> None:
    """Say that no round runs and none is to be tried again."""
    write_progress(
        redis,
        project_id,
        lambda known: replace(known, state=RoundState.IDLE, error=None, retry_at=None, phase=None),
    )


def reporter(redis: Redis, project_id: int, reason: str, is_ours: Callable[[], bool]) -> Report:
    """Progress of run_round: each phase, and within one twice a second or, where it has few steps, each.

    Where Redis is away, the round goes on, and it is tried again after a while: ``redis`` is one that fails
    soon. Raises TakenOver instead of writing where the project is no longer ``is_ours``.
    """
    last, away_until = ("", 0.0), 0.0

    def report(phase: str, done: int, total: int) -> None:
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
                raise TakenOver(f"This one stood still in the phase {phase}.")
            _update(redis, project_id, lambda known: _running(known, reason, phase, done, total))
        except RedisError:  # known at once, or after the 40 s of a silent network
            then = time.monotonic()
            away_until = then + max(AWAY_SECONDS, 1.5 * (then - now))

    return report


def _running(known: WrittenProgress, reason: str, phase: str, done: int, total: int) -> WrittenProgress:
    return replace(
        known,
        state=RoundState.RUNNING,
        phase=phase,
        done=done,
        total=total,
        reason=reason,
        error=None,
        retry_at=None,
    )


def note_unseen(redis: Redis, project_id: int, task_ids: Sequence[int]) -> None:
    """Remember tasks that Label Studio asked about and no round has seen."""
    if task_ids:
        with contextlib.suppress(RedisError):
            key = redis_key(project_id, "unseen")
            redis.sadd(key, *task_ids)
            redis.expire(key, DAY)


def is_demanded(redis: Redis, project_id: int) -> bool:
    """Whether somebody started a round that has not been answered yet."""
    return bool(redis.exists(redis_key(project_id, "demands")))
