"""How a project stands, in one answer for the command line, the API and the pages."""

from datetime import UTC, datetime
from typing import Any

from coreset_backend.backend import Backend
from coreset_backend.heartbeats import workers_alive
from coreset_backend.history import advice
from coreset_backend.progress import read_progress, retry_words
from coreset_backend.store import StoredRound

PHASES = {
    "snapshot": 2.0,
    "images": 10.0,
    "train": 30.0,
    "embed": 10.0,
    "fit": 1.0,
    "neighbors": 1.0,
    "select": 1.0,
    "map": 2.0,
    "save": 1.0,
    "publish": 5.0,
}
"""The phases of a round in order, with the seconds each is taken to last before a first round says better."""


def project_status(backend: Backend, project_id: int) -> dict[str, Any]:
    """The project's progress and its newest round, as JSON.

    ``progress`` is that of :func:`coreset_backend.progress.read_progress`, with the number of ``workers``
    that listen and, while a round runs, ``percent`` of the whole round and ``seconds_left``, None before a
    first round has shown how long its phases take.
    ``round`` and ``advice`` (:func:`coreset_backend.history.advice`) are None before the first.
    Raises QueueError when Redis does not answer.
    """
    progress, stored = read_progress(backend, project_id), backend.store.latest(project_id)
    if progress["state"] == "running":
        progress |= whole_round(progress, stored.timings(stored.publication) if stored else None)
    progress["workers"] = workers_alive(backend)
    records = backend.store.history(project_id)
    return {
        "project": project_id,
        "progress": progress,
        "round": round_status(stored) if stored else None,
        "advice": advice(records) if records else None,
    }


def whole_round(progress: dict[str, Any], timings: dict[str, float] | None) -> dict[str, Any]:
    """``percent`` done of the round and ``seconds_left``, from how long the last round's phases took."""
    seconds = {phase: (timings or {}).get(phase, guess) for phase, guess in PHASES.items()}
    names, phase = list(seconds), progress.get("phase")
    position = names.index(phase) if phase in seconds else 0
    total = progress.get("total") or 0
    share = min(progress.get("done", 0) / total, 1.0) if total else 0.0
    done = sum(seconds[name] for name in names[:position]) + share * seconds[names[position]]
    whole = sum(seconds.values())
    left = round(whole - done, 1) if timings else None
    return {"percent": min(int(100 * done / whole), 99) if whole else 0, "seconds_left": left}


def round_status(stored: StoredRound) -> dict[str, Any]:
    """The record of a round without its longest lists, and what Label Studio took of it."""
    record, publication = stored.record, stored.publication
    return {
        "number": record.number,
        "taken_at": record.taken_at,
        "model_version": record.model_version,
        "strategy": record.strategy,
        "backbone": record.backbone,
        "batch": record.batch,
        "counts": record.counts,
        "radius_before": record.radius_before,
        "radius_after": record.radius_after,
        "training": record.training,
        "unreadable": record.failures,
        "remarks": record.remarks,
        "timings": stored.timings(publication),
        "published": publication,
    }


def status_lines(status: dict[str, Any]) -> list[str]:
    """The status for a terminal."""
    progress, newest = status["progress"], status["round"]
    return [
        f"Project {status['project']}: {_state_line(progress)}",
        *([f"  {progress['held']} `coreset-backend start` goes on."] if progress.get("held") else []),
        *_failure_lines(progress),
        *(f"  {sentence}" for sentence in progress.get("connection") or ()),
        *([f"  {progress['pretraining']['sentence']}"] if progress.get("pretraining") else []),
        *(_round_lines(newest) if newest else ["  No round yet."]),
        *([f"  {status['advice']['sentence']}"] if status["advice"] else []),
    ]


def _state_line(progress: dict[str, Any]) -> str:
    if progress["state"] in ("running", "waiting") and not progress["workers"]:
        return f"{progress['state']}, but no worker listens; start one with `coreset-backend work`"
    if progress["state"] != "running":
        return str(progress["state"])
    within = f" ({progress['done']} of {progress['total']})" if progress.get("total") else ""
    left = progress.get("seconds_left")
    return f"{progress['percent']} %, {progress['phase']}{within}" + (
        "" if left is None else f", about {left:.0f} s left"
    )


def _failure_lines(progress: dict[str, Any]) -> list[str]:
    if progress.get("error"):
        return [f"  Last error: {progress['error']}{retry_words(progress)}"]
    if progress["state"] == "idle" or not (failure := progress.get("last_failure")):
        return []
    moment = datetime.fromtimestamp(failure["at"], UTC)
    return [f"  The try before failed, {moment:%Y-%m-%d %H:%M:%S} UTC: {failure['error']}"]


def _round_lines(newest: dict[str, Any]) -> list[str]:
    counts = newest["counts"]
    accuracy = (newest["training"] or {}).get("holdout_accuracy")
    shown = "published" if newest["published"] else "not published yet"
    return [
        f"  Round {newest['number']} of {newest['taken_at'][:19]}, {newest['strategy']}, {shown}",
        f"  Model: {newest['backbone']}"
        + ("" if accuracy is None else f"; {accuracy:.0%} right on the hold-out"),
        f"  Tasks: {sum(counts.values())} = "
        + " + ".join(f"{n} {state}" for state, n in counts.items() if n),
        *(f"  {remark}" for remark in newest["remarks"]),
    ]
