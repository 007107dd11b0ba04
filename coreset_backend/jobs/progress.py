"""How far each project's round is: written to Redis by the job, read by pages, API and command line."""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, NotRequired, Required, TypeVar

from pydantic import Field, TypeAdapter
from redis import Redis
from redis.exceptions import RedisError
from typing_extensions import TypedDict

from coreset_backend.backend import Backend
from coreset_backend.errors import QueueError, TakenOver
from coreset_backend.jobs.keys import DAY, PRETRAINING_LEASE, ROUND_LEASE, redis_key
from coreset_backend.jobs.states import RoundState

log = logging.getLogger(__name__)
AWAY_SECONDS = 5.0
FEW_STEPS = 10


Count = Annotated[int, Field(ge=0)]
Moment = Annotated[float, Field(ge=0, lt=1e11)]


class Failure(TypedDict):
    """Why a try failed, and when (Unix time)."""

    error: str
    at: Moment


class Labeling(TypedDict):
    """How many tasks of the batch of ``round`` were done when last looked."""

    round: Count
    done: Count


class WrittenProgress(TypedDict, total=False):
    """What jobs write, as JSON. All moments are Unix times.

    ``error`` is that of the last try, until the next begins; ``last_failure`` is kept for good. ``passing``:
    the error may be gone without a round. ``retry_at``: when the round is tried again by itself at latest.
    ``connection``: sentences on what keeps the batch from being served, and on which version it replaced.
    """

    state: Literal["idle", "waiting", "running", "failed"]
    phase: str | None
    done: Count
    total: Count
    reason: str
    error: str | None
    passing: bool
    retry_at: Moment | None
    phase_started: Moment
    at: Moment
    last_failure: Failure
    labeling: Labeling
    connection: list[str]


class PretrainingProgress(TypedDict):
    """How far the pretraining is: ``seen`` of ``budget`` images, of which ``images`` are an epoch."""

    state: Literal["running", "waiting", "done", "failed"]
    images: Count
    seen: Count
    budget: Count
    seconds_left: float | None
    error: str | None
    sentence: NotRequired[str]


class RoundProgress(WrittenProgress, total=False):
    """How far a project's round is, as the API says it; ``state`` is a RoundState.

    ``lost``: the process of the round ended before it could say so. ``queued``: a job waits that looks for
    what is to be done. ``unseen``: how many tasks Label Studio asked about that no round has seen.
    ``demanded``: somebody has asked for a round, ``republish``: for the batch to be published again.
    ``paused_reason``: why no round starts by itself. ``pretraining`` is None where there is none.
    """

    lost: Required[bool]
    queued: Required[bool]
    unseen: Required[int]
    demanded: Required[bool]
    republish: Required[bool]
    paused_reason: Required[str | None]
    pretraining: Required[PretrainingProgress | None]


WRITTEN = TypeAdapter(WrittenProgress)
PRETRAINING = TypeAdapter(PretrainingProgress)
T = TypeVar("T")


def read_progress(backend: Backend, project_id: int) -> RoundProgress:
    """How far the project's round is. Raises QueueError when Redis does not answer."""
    try:
        written = _written(backend.redis, project_id, "progress", WRITTEN) or {}
        leased, queued, demanded, republish = (
            bool(backend.redis.exists(redis_key(project_id, name)))
            for name in (ROUND_LEASE, "waiting", "demands", "republish")
        )
        unseen: int = backend.redis.scard(redis_key(project_id, "unseen"))
        pretraining = _read_pretraining(backend, project_id)
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}), so progress is unknown.") from error
    state, held = RoundState(written.get("state", RoundState.IDLE)), backend.store.held(project_id)
    lost = state == RoundState.RUNNING and not leased
    comes = demanded or republish or (queued and bool(written.get("error")))
    comes = comes or (queued and not backend.store.numbers(project_id))
    if lost or (state != RoundState.RUNNING and comes):
        state = RoundState.WAITING
    return {
        **written,
        "state": state.value,
        "lost": lost,
        "queued": queued,
        "unseen": unseen,
        "demanded": demanded,
        "republish": republish,
        "paused_reason": held.reason if held else None,
        "pretraining": pretraining,
    }


def _written(redis: Redis, project_id: int, name: str, shape: TypeAdapter[T]) -> T | None:
    """What is kept as JSON under that name; None where something else is there, which counts as lost."""
    key = redis_key(project_id, name)
    content: bytes | None = redis.get(key)  # type: ignore[assignment]
    if not content:
        return None
    try:
        known: T = json.loads(content, parse_constant=lambda _: None)
        shape.validate_python(known, strict=True)
    except (ValueError, RecursionError):
        log.error("%s in Redis held what is not ours; it counts as empty", key)
        return None
    return known


def _read_pretraining(backend: Backend, project_id: int) -> PretrainingProgress | None:
    written = _written(backend.redis, project_id, "pretraining", PRETRAINING)
    if not written:
        return None
    if written["state"] == "running" and not backend.redis.exists(redis_key(project_id, PRETRAINING_LEASE)):
        written["state"] = "waiting"  # its worker died; the job comes back by itself
    return {**written, "sentence": _pretraining_sentence(written)}


def _pretraining_sentence(written: PretrainingProgress) -> str:
    if written["state"] == "failed":
        return f"Pretraining on the pool failed: {written['error']}"
    if written["state"] == "done":
        return f"Pretraining on the pool is done: {written['budget']:,} images seen."
    images = max(written["images"], 1)
    epochs = max(round(written["budget"] / images), 1)
    place = f"epoch {min(written['seen'] // images + 1, epochs)} of {epochs}"
    if written["state"] == "waiting":
        return f"Pretraining on the pool: {place}; it goes on when no round waits."
    left = written["seconds_left"]
    return f"Pretraining on the pool: {place}" + ("." if left is None else f", about {span(left)} left.")


def span(seconds: float) -> str:
    """So many seconds in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def write_pretraining(backend: Backend, project_id: int, **news: Any) -> None:
    """Change the fields of ``news`` of the pretraining's progress and leave the others."""
    key = redis_key(project_id, "pretraining")
    with contextlib.suppress(RedisError):
        written = _written(backend.redis, project_id, "pretraining", PRETRAINING)
        fresh = {"images": 0, "seen": 0, "budget": 0, "seconds_left": None, "error": None}
        backend.redis.set(key, json.dumps({**fresh, **(written or {}), **news, "at": time.time()}))


def pretraining_reporter(backend: Backend, project_id: int) -> Callable[[int, int, int], None]:
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
        write_pretraining(
            backend,
            project_id,
            state="running",
            images=images,
            seen=seen,
            budget=budget,
            seconds_left=None if pace is None else round(pace * (budget - seen), 1),
            error=None,
        )

    return report


def write_progress(backend: Backend, project_id: int, **news: Any) -> None:
    """Change the fields of ``news`` and leave the others."""
    with contextlib.suppress(RedisError):  # progress is for the eye; a round does not fail for it
        _update(backend.redis, project_id, news)


def _update(redis: Redis, project_id: int, news: dict[str, Any]) -> None:
    known = _written(redis, project_id, "progress", WRITTEN) or {}
    redis.set(redis_key(project_id, "progress"), json.dumps({**known, **news, "at": time.time()}))


def write_idle(backend: Backend, project_id: int) -> None:
    """Say that no round runs and none is to be tried again."""
    write_progress(backend, project_id, state="idle", error=None, retry_at=None, phase=None)


def reporter(backend: Backend, project_id: int, reason: str, is_ours: Callable[[], bool]) -> Any:
    """Progress of run_round: each phase, and within one twice a second or, where it has few steps, each.

    Where Redis is away, the round goes on, and it is tried again after a while. Raises TakenOver instead of
    writing where the project is no longer ``is_ours``.
    """
    last, started, away_until = ("", 0.0), 0.0, 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last, started, away_until
        now = time.monotonic()
        if now < away_until:
            return
        begins = phase != last[0]
        if not (begins or now > last[1] + 0.5 or done == total or total <= FEW_STEPS):
            return
        started, last = time.time() if begins else started, (phase, now)
        news = {"state": "running", "phase": phase, "done": done, "total": total}
        news |= {"phase_started": started, "reason": reason, "error": None, "retry_at": None}
        try:
            if not is_ours():
                raise TakenOver(f"This one stood still in the phase {phase}.")
            _update(backend.brief_redis, project_id, news)
        except RedisError:  # known at once, or after the 40 s of a silent network
            then = time.monotonic()
            away_until = then + max(AWAY_SECONDS, 1.5 * (then - now))

    return report


def note_unseen(backend: Backend, project_id: int, task_ids: list[int]) -> None:
    """Remember tasks that Label Studio asked about and no round has seen."""
    if task_ids:
        with contextlib.suppress(RedisError):
            key = redis_key(project_id, "unseen")
            backend.redis.sadd(key, *task_ids)
            backend.redis.expire(key, DAY)


def is_demanded(redis: Redis, project_id: int) -> bool:
    """Whether somebody started a round that has not been answered yet."""
    return bool(redis.exists(redis_key(project_id, "demands")))
