"""How far each project's round is: written to Redis by the job, read by pages, API and command line."""

import contextlib
import json
import time
from typing import Any

from redis.exceptions import RedisError

from coreset_backend.backend import Backend
from coreset_backend.errors import QueueError

DAY = 86_400


def read_progress(backend: Backend, project_id: int) -> dict[str, Any]:
    """How far the project's round is: ``state`` is idle, waiting, running or failed.

    Where known also ``phase``, ``done``, ``total``, ``reason``, ``error`` (of the last try, until the next
    begins), ``retry_at`` (when it is tried again by itself at the latest), ``phase_started`` and ``at`` (all
    Unix times) and ``last_failure``, ``{error, at}``, which is kept for good. ``unseen``: how many tasks
    Label Studio asked about that no round has seen yet; ``held``: why no round starts by itself, else None.
    Raises QueueError when Redis does not answer.
    """
    try:
        written = json.loads(backend.redis.get(redis_key(project_id, "progress")) or "{}")
        leased = bool(backend.redis.exists(redis_key(project_id, "lease")))
        waits = bool(backend.redis.exists(redis_key(project_id, "waiting")))
        unseen: int = backend.redis.scard(redis_key(project_id, "unseen"))
    except RedisError as error:
        raise QueueError(f"Redis does not answer ({error}), so progress is unknown.") from error
    state = written.get("state", "idle")
    if state == "running" and not leased:  # its worker died; the job comes back by itself
        state = "waiting"
    state = "waiting" if waits and state != "running" else state
    held = backend.store.held(project_id)
    return {**written, "state": state, "unseen": unseen, "held": held.reason if held else None}


def write_progress(backend: Backend, project_id: int, **news: Any) -> None:
    """Change the fields of ``news`` and leave the others."""
    key = redis_key(project_id, "progress")
    with contextlib.suppress(RedisError):  # progress is for the eye; a round does not fail for it
        known = json.loads(backend.redis.get(key) or "{}")
        backend.redis.set(key, json.dumps({**known, **news, "at": time.time()}))


def reporter(backend: Backend, project_id: int, reason: str) -> Any:
    """Progress of run_round, written at each phase and at most twice a second within one."""
    last, started = ("", 0.0), 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last, started
        now = time.monotonic()
        if phase != last[0]:
            started = time.time()
        if phase != last[0] or now > last[1] + 0.5 or done == total:
            last = (phase, now)
            write_progress(
                backend,
                project_id,
                state="running",
                phase=phase,
                done=done,
                total=total,
                phase_started=started,
                reason=reason,
                error=None,
                retry_at=None,
            )

    return report


def retry_words(known: dict[str, Any]) -> str:
    """When the round that failed is tried again, as a sentence; empty where only a person starts it."""
    if known.get("retry_at") is None:
        return " It is tried again in a moment." if known["state"] == "waiting" else ""
    seconds = known["retry_at"] - time.time()
    if seconds < 1:
        return " It is tried again in a moment."
    return (
        f" It is tried again within {seconds:.0f} s."
        if seconds < 90
        else (f" It is tried again within {seconds / 60:.0f} min.")
    )


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
