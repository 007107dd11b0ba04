"""How far each project's round is: written to Redis by the job, read by pages, API and command line."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from coreset_backend.backend import Backend
from coreset_backend.errors import QueueError, TakenOver

DAY = 86_400
AWAY_SECONDS = 5.0
FEW_STEPS = 10
PRETRAINING_LEASE = "pretraining-lease"


def read_progress(backend: Backend, project_id: int) -> dict[str, Any]:
    """How far the project's round is: ``state`` is idle, waiting, running or failed.

    Where known also ``phase``, ``done``, ``total``, ``reason``, ``error`` (of the last try, until the next
    begins), ``retry_at`` (when it is tried again by itself at the latest), ``phase_started`` and ``at`` (all
    Unix times) and ``last_failure``, ``{error, at}``, which is kept for good. ``unseen``: how many tasks
    Label Studio asked about that no round has seen yet; ``held``: why no round starts by itself, else None;
    ``demanded``: whether somebody has asked for a round, else one that waits is only looked into;
    ``labeling``: ``{round, done}``, how many of the batch of that round were done when last looked.
    ``pretraining`` says how far that on the pool is: ``state`` (running, waiting, done or failed), ``seen``
    of ``budget`` images, of which ``images`` are an epoch, ``seconds_left``, ``error`` and a ``sentence``;
    None where there is none. ``connection``: sentences on what keeps the batch from being served, and on what
    it is shown instead of.
    Raises QueueError when Redis does not answer.
    """
    try:
        written = json.loads(backend.redis.get(redis_key(project_id, "progress")) or "{}")
        leased = bool(backend.redis.exists(redis_key(project_id, "lease")))
        waits = bool(backend.redis.exists(redis_key(project_id, "waiting")))
        demanded = bool(backend.redis.exists(redis_key(project_id, "demands")))
        unseen: int = backend.redis.scard(redis_key(project_id, "unseen"))
        pretraining = _read_pretraining(backend, project_id)
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}), so progress is unknown.") from error
    state = written.get("state", "idle")
    if state == "running" and not leased:  # its worker died; the job comes back by itself
        state = "waiting"
    state = "waiting" if waits and state != "running" else state
    held = backend.store.held(project_id)
    return {
        **written,
        "state": state,
        "unseen": unseen,
        "demanded": demanded,
        "held": held.reason if held else None,
        "pretraining": pretraining,
    }


def _read_pretraining(backend: Backend, project_id: int) -> dict[str, Any] | None:
    written: dict[str, Any] | None = json.loads(
        backend.redis.get(redis_key(project_id, "pretraining")) or "null"
    )
    if not written:
        return None
    if written["state"] == "running" and not backend.redis.exists(redis_key(project_id, PRETRAINING_LEASE)):
        written["state"] = "waiting"  # its worker died; the job comes back by itself
    return {**written, "sentence": _pretraining_sentence(written)}


def _pretraining_sentence(written: dict[str, Any]) -> str:
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
    return f"Pretraining on the pool: {place}" + ("." if left is None else f", about {_span(left)} left.")


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def write_pretraining(backend: Backend, project_id: int, **news: Any) -> None:
    """Change the fields of ``news`` of the pretraining's progress and leave the others."""
    key = redis_key(project_id, "pretraining")
    with contextlib.suppress(RedisError):
        known = json.loads(backend.redis.get(key) or "{}")
        fresh = {"images": 0, "seen": 0, "budget": 0, "seconds_left": None, "error": None}
        backend.redis.set(key, json.dumps({**fresh, **known, **news, "at": time.time()}))


def pretraining_reporter(backend: Backend, project_id: int, images: int) -> Callable[[int, int], None]:
    """Progress of a pretraining on a pool of so many ``images``, written at most once a second."""
    begun: tuple[int, float] | None = None
    written = 0.0

    def report(seen: int, budget: int) -> None:
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
    key = redis_key(project_id, "progress")
    with contextlib.suppress(RedisError):  # progress is for the eye; a round does not fail for it
        _update(backend.redis, key, news)


def _update(redis: Redis, key: str, news: dict[str, Any]) -> None:
    known = json.loads(redis.get(key) or "{}")
    redis.set(key, json.dumps({**known, **news, "at": time.time()}))


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
            _update(backend.brief_redis, redis_key(project_id, "progress"), news)
        except RedisError:  # known at once, or after the 40 s of a silent network
            then = time.monotonic()
            away_until = then + max(AWAY_SECONDS, 1.5 * (then - now))

    return report


def retry_words(known: dict[str, Any]) -> str:
    """When the round that failed is tried again, as a sentence; empty where only a person starts it."""
    moment = known.get("retry_at")
    if moment is None and known["state"] != "waiting":
        return ""
    seconds = 0 if moment is None else moment - time.time()
    return f" It is tried again {'in a moment' if seconds < 1 else f'within {_span(seconds)}'}."


def note_unseen(backend: Backend, project_id: int, task_ids: list[int]) -> None:
    """Remember tasks that Label Studio asked about and no round has seen."""
    if task_ids:
        with contextlib.suppress(RedisError):
            key = redis_key(project_id, "unseen")
            backend.redis.sadd(key, *task_ids)
            backend.redis.expire(key, DAY)


def redis_key(project_id: int, name: str) -> str:
    """Where Redis keeps what is called ``name`` of the project."""
    return f"coreset:{project_id}:{name}"
