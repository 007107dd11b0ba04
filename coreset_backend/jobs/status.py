"""How a project stands: one answer for the pages, the API, the command line, doctor and the metrics."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Required, cast

from coreset_backend.backend import Backend
from coreset_backend.errors import CoresetError
from coreset_backend.evaluation.history import advice
from coreset_backend.evaluation.round_scores import holdout_accuracy
from coreset_backend.jobs.monitoring import workers_alive
from coreset_backend.jobs.progress import RoundProgress, read_progress, span
from coreset_backend.jobs.states import Phase, RoundState
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound

LEFT_OUT = {
    "labeled": "labelled",
    "skipped": "skipped",
    "unreadable": "unreadable",
    "duplicate": "copies of others",
}
START_A_WORKER = "Start one with `coreset-backend work`."
LATE_SECONDS = 60


def project_status(backend: Backend, project_id: int) -> dict[str, Any]:
    """The project's progress and its newest round, as JSON.

    ``progress`` is that of :func:`standing`. ``round`` and ``advice``
    (:func:`coreset_backend.evaluation.history.advice`) are None before the first.
    Raises QueueError when Redis does not answer, StoreError.
    """
    stored, records = backend.store.latest(project_id), backend.store.history(project_id)
    return {
        "project": project_id,
        "progress": standing(backend, project_id, stored),
        "round": round_status(stored) if stored else None,
        "advice": asdict(advice(records)) if records else None,
    }


def all_statuses(backend: Backend) -> list[dict[str, Any]]:
    """Of every known project, the status; of one that is broken ``project`` and ``error``.

    Raises QueueError when Redis does not answer.
    """
    workers_alive(backend)  # else each project would say that Redis is away
    return [
        {"project": project_id, "error": str(found)} if isinstance(found, CoresetError) else found
        for project_id, found in backend.of_each_project(partial(project_status, backend))
    ]


class Standing(RoundProgress, total=False):
    """How a project stands, as the API says it.

    ``workers`` listen; ``startable``: a person's start would change something; ``sentence`` says the whole in
    words. While a round runs also ``percent`` of the whole round and ``seconds_left``, None before a first
    round has shown how long its phases take.
    """

    workers: Required[int]
    startable: Required[bool]
    sentence: Required[str]
    percent: int
    seconds_left: float | None


def standing(backend: Backend, project_id: int, newest: StoredRound | None) -> Standing:
    """How the project stands. Raises QueueError when Redis does not answer."""
    progress = read_progress(backend, project_id)
    settings = backend.settings_of(project_id, newest.record if newest else None)
    running = RoundState(progress["state"]) is RoundState.RUNNING
    shown = {
        "workers": workers_alive(backend),
        "startable": not running and not progress["demanded"],
        "sentence": "",
    }
    known = cast(Standing, {**progress, **shown})
    if running:
        whole = whole_round(progress, newest.timings(newest.publication) if newest else None)
        known["percent"], known["seconds_left"] = whole["percent"], whole["seconds_left"]
    known["sentence"] = sentence(known, newest, settings)
    return known


def whole_round(progress: Mapping[str, Any], timings: dict[str, float] | None) -> dict[str, Any]:
    """``percent`` done of the round and ``seconds_left``, from how long the last round's phases took."""
    seconds = {str(phase): (timings or {}).get(phase, phase.seconds) for phase in Phase}
    names, phase = list(seconds), progress.get("phase")
    position = names.index(phase) if phase in seconds else 0
    total = progress.get("total") or 0
    share = min(progress.get("done", 0) / total, 1.0) if total else 0.0
    done = sum(seconds[name] for name in names[:position]) + share * seconds[names[position]]
    whole = sum(seconds.values())
    left = round(whole - done, 1) if timings else None
    return {"percent": min(int(100 * done / whole), 99) if whole else 0, "seconds_left": left}


# ---------------------------------------------------------------- in words


def sentence(known: Mapping[str, Any], newest: StoredRound | None, settings: Settings) -> str:
    """What is so and what comes next; ``known`` is :func:`standing` so far, ``settings`` the project's."""
    if known["state"] == RoundState.RUNNING:
        return _running(known)
    if known.get("error"):
        return f"The last round failed: {known['error']} {_next_try(known)}"
    if known["state"] == RoundState.WAITING:
        return _waiting(known)
    if known["paused_reason"]:
        return f"{known['paused_reason']} Start a round to go on."
    words = _idle(known, newest, settings)
    pretraining = known["pretraining"] or {}
    return (
        f"{words} {pretraining['sentence']}" if pretraining.get("state") in ("running", "waiting") else words
    )


def _running(known: Mapping[str, Any]) -> str:
    if not known["workers"]:
        return (
            "A round was running, but its worker shows no sign of life any more. If it stays away, start one "
            "with `coreset-backend work`: the round is then run again by itself."
        )
    phase = next((each.words for each in Phase if each == known.get("phase")), "Working")
    done, total = known.get("done", 0), known.get("total")
    return f"{phase}: {done:,} of {total:,}." if total else f"{phase}."


def _next_try(known: Mapping[str, Any]) -> str:
    """When the round that failed is tried again."""
    moment, waits = known.get("retry_at"), known["state"] == RoundState.WAITING
    if moment is None and not waits:
        return "It is not tried again by itself: start a round."
    if not known["workers"]:
        return f"It is tried again once a worker listens; none does. {START_A_WORKER}"
    late = 0 if moment is None else time.time() - moment
    if late <= -1 and not known["queued"]:
        return f"It is tried again within {span(-late)}."
    if late < LATE_SECONDS:
        return "It is tried again as soon as a worker is free."
    return f"It was to be tried again {span(late)} ago and waits for a worker that is free."


def _waiting(known: Mapping[str, Any]) -> str:
    if not known["workers"]:
        return f"A round is wanted, but no worker listens. {START_A_WORKER}"
    if known["lost"]:
        return "The process of the round ended in the middle. It is run again as soon as a worker is free."
    if known["republish"] and not known["demanded"]:
        return "The batch is published again as soon as a worker is free."
    return "A round is queued and starts as soon as a worker is free."


def _idle(known: Mapping[str, Any], newest: StoredRound | None, settings: Settings) -> str:
    manual = settings.trigger == "manual"
    if newest is None:
        words, by_hand, by_itself = "No round yet.", "Start one.", "The first starts by itself."
    elif newest.publication is None:
        words = f"Round {newest.record.number} is saved but not published yet."
        by_hand, by_itself = "Start a round to publish it.", "It is published by itself."
    elif not newest.record.batch:
        words = _nothing_left(newest.record.counts)
        by_hand, by_itself = "Then start a round.", "The next round then starts by itself."
    else:
        words, by_hand, by_itself = _labeling(known, newest, settings)
    if manual:
        return f"{words} {by_hand}"
    if not known["workers"]:
        return f"{words} No worker listens, so nothing starts by itself. {START_A_WORKER}"
    return f"{words} {by_itself}"


def _nothing_left(counts: Mapping[str, int]) -> str:
    parts = [f"{counts[state]:,} {word}" for state, word in LEFT_OUT.items() if counts.get(state)]
    listed = (
        f" of {sum(counts.values()):,} tasks {', '.join(parts)}" if parts else " the project has no tasks"
    )
    return f"Nothing is left to choose:{listed}. Import more images."


def _labeling(known: Mapping[str, Any], newest: StoredRound, settings: Settings) -> tuple[str, str, str]:
    """What is so, and what comes next by hand and by itself, while a batch is served."""
    number, size = newest.record.number, len(newest.record.batch)
    enough = math.ceil(settings.batch_done * size)
    by_hand = "Start the next when its batch is done."
    labeling = known.get("labeling") or {}
    # By hand or without a worker nobody looks, so what was seen last may be long ago.
    if labeling.get("round") != number or settings.trigger == "manual" or not known["workers"]:
        done, words = 0, f"Round {number} is being labelled."
    else:
        done = labeling["done"]
        words = f"Round {number} is being labelled: {done:,} of {size:,} done."
    if done >= enough:
        return words, by_hand, "The next starts as soon as a worker is free."
    when = "its batch is done" if enough == size else f"{enough:,} are done"
    return words, by_hand, f"The next starts by itself when {when}."


# ---------------------------------------------------------------- the command line


def round_status(stored: StoredRound) -> dict[str, Any]:
    """The record of a round without its longest lists, and what Label Studio took of it."""
    record, publication = stored.record, stored.publication
    accuracy = holdout_accuracy(record)
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
        "accuracy": asdict(accuracy) if accuracy else None,
        "training": asdict(record.training) if record.training else None,
        "unreadable": [asdict(failure) for failure in record.failures],
        "remarks": record.remarks,
        "timings": stored.timings(publication),
        "published": asdict(publication) if publication else None,
    }
