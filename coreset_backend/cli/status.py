"""How a project stands, as lines for a terminal."""

from datetime import UTC, datetime
from typing import Any

from coreset_backend.jobs.progress import span


def status_lines(status: dict[str, Any]) -> list[str]:
    """The status for a terminal."""
    if "error" in status:
        return [f"Project {status['project']}: unknown", f"  {status['error']}"]
    progress, newest = status["progress"], status["round"]
    pretraining = (progress["pretraining"] or {}).get("sentence", "")
    return [
        f"Project {status['project']}: {_state_line(progress)}",
        f"  {progress['sentence']}",
        *([f"  {pretraining}"] if pretraining and pretraining not in progress["sentence"] else []),
        *(f"  {sentence}" for sentence in progress.get("connection") or ()),
        *_failure_before(progress),
        *(_round_lines(newest) if newest else []),
        *([f"  {status['advice']['sentence']}"] if status["advice"] else []),
    ]


def _state_line(progress: dict[str, Any]) -> str:
    if progress["state"] != "running":
        return str(progress["state"])
    left = progress["seconds_left"]
    return f"running, {progress['percent']} %" + ("" if left is None else f", about {span(left)} left")


def _failure_before(progress: dict[str, Any]) -> list[str]:
    """Why the try before failed, while the next runs or waits."""
    failure = progress.get("last_failure")
    if not failure or progress.get("error") or progress["state"] == "idle":
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
