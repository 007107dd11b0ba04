"""The state of a project in words: what is going on, and what comes next."""

import math
import time
from collections.abc import Mapping

from coreset_backend.jobs.progress import Labeling, RoundProgress, WrittenProgress, span
from coreset_backend.jobs.states import Phase, RoundState
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound

LEFT_OUT = {
    "labeled": "labelled",
    "skipped": "skipped",
    "unreadable": "unreadable",
    "duplicate": "duplicates",
    "model": "labelled by the model",
    "copy": "labelled as copies",
}
START_A_WORKER = "Start one with `coreset-backend work`."
LATE_SECONDS = 60


def sentence(known: RoundProgress, workers: int, newest: StoredRound | None, settings: Settings) -> str:
    """The state and the next step in words; ``workers``: number of listening workers."""
    if known.state == RoundState.RUNNING:
        return _running(known.written, workers)
    if known.written.error:
        return f"The last round failed: {known.written.error} {_next_try(known, workers)}"
    if known.state == RoundState.WAITING:
        return _waiting(known, workers)
    if known.paused_reason:
        return f"{known.paused_reason} Start a round to continue."
    words, pretraining = _idle(known.written, workers, newest, settings), known.pretraining
    if pretraining and pretraining.state in ("running", "waiting"):
        return f"{words} {pretraining.sentence}"
    return words


def _running(written: WrittenProgress, workers: int) -> str:
    if not workers:
        return (
            "A round was running, but its worker sends no heartbeat any more. If it does not come back, "
            "start one with `coreset-backend work`: it then retries the round."
        )
    phase = next((each.words for each in Phase if each == written.phase), "Working")
    if written.phase == Phase.WEIGHTS:
        return f"{phase}: {written.done / 1e6:.0f} of {written.total / 1e6:.0f} MB."
    if written.phase == Phase.CLUSTER and written.total:
        return _on_cluster(written)
    return f"{phase}: {written.done:,} of {written.total:,}." if written.total else f"{phase}."


def _on_cluster(written: WrittenProgress) -> str:
    done = f"Embedded {written.done:,} of {written.total:,} images"
    if not written.machines:
        return f"{done}. The round waits for a free machine of the cluster."
    if not written.done:
        return f"{done}: the machines load the network."
    return f"{done} on {written.machines} machine{'s' if written.machines > 1 else ''}."


def _next_try(known: RoundProgress, workers: int) -> str:
    """When the failed round is retried."""
    moment, waits = known.written.retry_at, known.state == RoundState.WAITING
    if moment is None and not waits:
        return "It is not retried automatically: start a round."
    if not workers:
        return f"It is retried once a worker listens; none does. {START_A_WORKER}"
    late = 0 if moment is None else time.time() - moment
    if late <= -1 and not known.queued:
        return f"It is retried within {span(-late)}."
    if late < LATE_SECONDS:
        return "It is retried as soon as a worker is free."
    return f"Its retry was due {span(late)} ago and is waiting for a free worker."


def _waiting(known: RoundProgress, workers: int) -> str:
    if not workers:
        return f"A round is queued, but no worker listens. {START_A_WORKER}"
    if known.lost:
        return (
            "The process of the round ended unexpectedly. The round is retried as soon as a worker is free."
        )
    if known.republish and not known.demanded:
        return "The batch will be published again as soon as a worker is free."
    return "A round is queued and starts as soon as a worker is free."


def _idle(written: WrittenProgress, workers: int, newest: StoredRound | None, settings: Settings) -> str:
    manual = settings.trigger == "manual"
    if newest is None:
        words, by_hand, by_itself = "No round yet.", "Start one.", "The first starts automatically."
    elif newest.publication is None:
        words = f"Round {newest.record.number} is saved but not published yet."
        by_hand, by_itself = "Start a round to publish it.", "It will be published automatically."
    elif not newest.record.batch and (asked := len(newest.record.label_errors.asked)):
        tasks = "1 labelled task waits" if asked == 1 else f"{asked:,} labelled tasks wait"
        words = f"No new image is left to select; {tasks} for a second annotator."
        by_hand, by_itself = "Then start a round.", "The next round then starts automatically."
    elif not newest.record.batch:
        words = _nothing_left(newest.record.counts)
        by_hand, by_itself = "Then start a round.", "The next round then starts automatically."
    else:
        words, by_hand, by_itself = _labeling(written.labeling if workers else None, newest, settings)
    if manual:
        return f"{words} {by_hand}"
    if not workers:
        return f"{words} No worker listens, so nothing starts automatically. {START_A_WORKER}"
    return f"{words} {by_itself}"


def _nothing_left(counts: Mapping[str, int]) -> str:
    parts = [f"{counts[state]:,} {word}" for state, word in LEFT_OUT.items() if counts.get(state)]
    listed = (
        f" of {sum(counts.values()):,} tasks {', '.join(parts)}" if parts else " the project has no tasks"
    )
    return f"There is nothing left to select:{listed}. Import more images."


def _labeling(labeling: Labeling | None, newest: StoredRound, settings: Settings) -> tuple[str, str, str]:
    """While a batch is served: the state, the next step of a person, and the next automatic step."""
    number, size = newest.record.number, len(newest.record.batch)
    enough = math.ceil(settings.batch_done * size)
    by_hand = "Start the next round when its batch is done."
    # With the manual trigger or without a worker nothing is checked, so the last count may be old.
    if labeling is None or labeling.round != number or settings.trigger == "manual":
        done, words = 0, f"Round {number} is being labelled."
    else:
        done = labeling.done
        words = f"Round {number} is being labelled: {done:,} of {size:,} done."
    if done >= enough:
        return words, by_hand, "The next round starts as soon as a worker is free."
    when = "its batch is done" if enough == size else f"{enough:,} are done"
    return words, by_hand, f"The next round starts automatically when {when}."
