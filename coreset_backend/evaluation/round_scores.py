"""The scores of a round's model: measured when the round runs, and read from its record."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, TaskIds
from coreset_backend.errors import CorruptRound
from coreset_backend.evaluation.calibration import calibration, sure_answers
from coreset_backend.evaluation.scores import evaluate, named_classes, proportion
from coreset_backend.project import Snapshot, class_targets
from coreset_backend.store.record import BatchScores, Evaluation, Interval, Round
from coreset_backend.store.saved_round import StoredRound

log = logging.getLogger(__name__)


def holdout_accuracy(record: Round) -> Interval | None:
    """The accuracy of the round's model on its hold-out; the only accuracy that is shown and used.

    Rounds of early releases have no evaluation; their accuracy was measured after the fit.
    """
    if record.evaluation:
        return record.evaluation.accuracy
    training = record.training
    if training is None or training.holdout_accuracy is None or not training.n_holdout:
        return None
    return proportion(round(training.holdout_accuracy * training.n_holdout), training.n_holdout)


def holdout_evaluation(
    snapshot: Snapshot,
    previous: StoredRound | None,
    embedded: TaskIds,
    holdout: frozenset[int],
    probabilities: Floats | None,
) -> Evaluation | None:
    """The model on the readable tasks of the hold-out; None without a model or a hold-out."""
    labels = snapshot.labels
    rows = np.flatnonzero(np.isin(embedded, list(holdout)))
    if labels is None or probabilities is None or not len(rows):
        return None
    tasks = [snapshot.tasks[row] for row in np.searchsorted(snapshot.task_ids, embedded[rows])]
    # Only its own hold-out: the previous model may have been trained on the rest.
    fair = previous.record.holdout if previous else ()
    before = _probabilities_before(snapshot, previous, embedded[rows], fair)
    targets, predicted = class_targets(tasks, labels), probabilities[rows]
    scores = evaluate(labels.names, targets, predicted, multiple=labels.multiple, before=before)
    return replace(
        scores,
        calibration=calibration(targets, predicted, multiple=labels.multiple),
        sure=sure_answers(targets, predicted, multiple=labels.multiple),
    )


def batch_scores(snapshot: Snapshot, previous: StoredRound | None) -> BatchScores | None:
    """Accuracy of the previous model's predictions on its own batch, compared with the labels since.

    None without a labelled random slice.
    """
    labels = snapshot.labels
    if previous is None or labels is None or not previous.record.random_slice:
        return None
    batch = set(previous.record.batch)
    tasks = [task for task in snapshot.tasks if task.label is not None and task.task_id in batch]
    task_ids = np.array([task.task_id for task in tasks], dtype=np.int64)
    probabilities = _probabilities_before(snapshot, previous, task_ids, previous.record.batch)
    if probabilities is None or not len(probabilities):
        return None
    known = ~np.isnan(probabilities).any(1)
    at_random = np.isin(task_ids, previous.record.random_slice)
    actual = class_targets(tasks, labels) == 1
    right = (named_classes(probabilities, labels.multiple) == actual).all(1)
    pool, picked = _share(right[known & at_random]), _share(right[known & ~at_random])
    return BatchScores(pool, picked, previous.record.number) if pool else None


def _share(right: NDArray[np.bool_]) -> Interval | None:
    return proportion(int(right.sum()), len(right)) if len(right) else None


def _probabilities_before(
    snapshot: Snapshot, previous: StoredRound | None, task_ids: TaskIds, among: Sequence[int]
) -> Floats | None:
    """float32[n, classes]: the previous model's probabilities of these tasks; NaN for those not ``among``."""
    if previous is None or previous.record.labels != snapshot.labels or not previous.has("probabilities"):
        return None
    try:
        embedded, probabilities = (
            previous.array("embedded_task_ids"),
            previous.array("probabilities", mapped=True),
        )
    except CorruptRound as error:
        log.error("round %d is not compared with: %s", previous.record.number, error)
        return None
    found = np.full((len(task_ids), probabilities.shape[1]), np.nan, dtype=np.float32)
    known = np.isin(task_ids, embedded) & np.isin(task_ids, among)
    found[known] = probabilities[np.searchsorted(embedded, task_ids[known])]
    return found
