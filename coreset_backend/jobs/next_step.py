"""What happens next in a project, and who does it: one line at the top of its page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from coreset_backend.finish.session import FinishState, Kind
from coreset_backend.jobs.finishing import FinishStatus
from coreset_backend.jobs.progress import RoundProgress
from coreset_backend.jobs.states import RoundState
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound


class Actor(StrEnum):
    """Who does the next step. The lead has this page open, the operator runs the backend's processes."""

    ANNOTATORS = "Annotators"
    WORKER = "The worker"
    LEAD = "The lead"
    OPERATOR = "The operator"


@dataclass(frozen=True, slots=True)
class NextStep:
    """The sentence ``who`` ``does``; ``does`` begins with the verb and ends with a full stop."""

    who: Actor
    does: str


START_A_WORKER = NextStep(Actor.OPERATOR, "starts a worker: coreset-backend work.")
UNKNOWN = NextStep(Actor.OPERATOR, "repairs what is named above; this page then continues.")


def next_step(
    known: RoundProgress,
    workers: int,
    newest: StoredRound | None,
    settings: Settings,
    finishes: Sequence[FinishStatus],
) -> NextStep:
    """The next step; ``workers``: number of listening workers."""
    number = newest.record.number + 1 if newest else 1
    if known.state == RoundState.RUNNING:
        return _running(number) if workers else START_A_WORKER
    if known.written.error:
        return _after_failure(known, workers)
    if known.state == RoundState.WAITING:
        return _waiting(known, workers)
    if known.paused_reason:
        return NextStep(Actor.LEAD, "starts a round to continue; annotators keep the current batch.")
    return _idle(known, workers, newest, settings, finishes)


def _running(number: int) -> NextStep:
    if number == 1:
        return NextStep(Actor.WORKER, "publishes the first batch; annotators then label it in Label Studio.")
    return NextStep(
        Actor.WORKER, "finishes the round and publishes its batch; annotators can continue to label."
    )


def _after_failure(known: RoundProgress, workers: int) -> NextStep:
    if known.written.retry_at is None and known.state != RoundState.WAITING:
        return NextStep(Actor.LEAD, "removes the cause, then starts a round.")
    if not workers:
        return START_A_WORKER
    return NextStep(Actor.WORKER, "retries the round; annotators keep the current batch.")


def _waiting(known: RoundProgress, workers: int) -> NextStep:
    if not workers:
        return START_A_WORKER
    again = known.republish and not known.demanded and not known.lost
    return NextStep(Actor.WORKER, "publishes the batch again." if again else "starts the round.")


def _idle(
    known: RoundProgress,
    workers: int,
    newest: StoredRound | None,
    settings: Settings,
    finishes: Sequence[FinishStatus],
) -> NextStep:
    manual = settings.trigger == "manual"
    if not manual and not workers:
        return START_A_WORKER
    starter = Actor.LEAD if manual else Actor.WORKER
    if newest is None:
        return NextStep(starter, "starts the first round.")
    if newest.publication is None:
        does = "starts a round to publish the batch." if manual else "publishes the batch."
        return NextStep(starter, does)
    if step := next((step for each in finishes if (step := _of_finish(each))), None):
        return step
    if not newest.record.batch and (asked := len(newest.record.label_errors.asked)):
        tasks = "1 labelled task" if asked == 1 else f"{asked:,} labelled tasks"
        return NextStep(Actor.ANNOTATORS, f"answer {tasks} once more; {_then(starter)}")
    if not newest.record.batch:
        return NextStep(Actor.LEAD, "imports more images, or ends the project here.")
    return _labeling(known, newest, settings, starter)


def _of_finish(finish: FinishStatus) -> NextStep | None:
    """The next step of a finish; None where it needs none."""
    labels = "labels of copies" if finish.kind is Kind.COPIES else "labels by the model"
    if finish.state in (FinishState.WRITING, FinishState.UNDOING):
        writes = finish.state is FinishState.WRITING
        return NextStep(Actor.WORKER, f"{'writes' if writes else 'removes'} the {labels}.")
    if finish.to_check:
        return NextStep(
            Actor.ANNOTATORS,
            f"label the {finish.to_check:,} images of the audit, which come first in Label Studio's queue.",
        )
    return None


def _then(starter: Actor) -> str:
    return f"{starter[:1].lower()}{starter[1:]} then starts the next round."


def _labeling(known: RoundProgress, newest: StoredRound, settings: Settings, starter: Actor) -> NextStep:
    """While a batch is served; with the manual trigger nothing is checked, so the count may be old."""
    labeling, size = known.written.labeling, len(newest.record.batch)
    counted = labeling and labeling.round == newest.record.number and starter is Actor.WORKER
    enough = math.ceil(settings.batch_done * size)
    left = enough - (labeling.done if labeling and counted else 0)
    then = _then(starter)
    if left <= 0:
        return NextStep(starter, "starts the next round.")
    if left == size:
        return NextStep(Actor.ANNOTATORS, f"label the batch of {size:,} in Label Studio; {then}")
    return NextStep(Actor.ANNOTATORS, f"label {left:,} more of the batch in Label Studio; {then}")
