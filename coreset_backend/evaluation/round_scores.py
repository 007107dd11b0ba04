"""What a round's record says of the model: its figures on the hold-out, and what it had said of the batch."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import TaskIds
from coreset_backend.errors import CorruptRound
from coreset_backend.evaluation.holdout import evaluate, named_classes, proportion
from coreset_backend.project import Snapshot, class_targets
from coreset_backend.store.saved_round import StoredRound

log = logging.getLogger(__name__)


def hold_out_figures(
    snapshot: Snapshot,
    previous: StoredRound | None,
    embedded: TaskIds,
    holdout: frozenset[int],
    probabilities: NDArray[np.float32] | None,
) -> dict[str, Any] | None:
    """The figures of the model on the readable tasks of the hold-out, as plain values; None without any."""
    labels = snapshot.labels
    rows = np.flatnonzero(np.isin(embedded, list(holdout)))
    if labels is None or probabilities is None or not len(rows):
        return None
    tasks = [snapshot.tasks[row] for row in np.searchsorted(snapshot.task_ids, embedded[rows])]
    # Only its own hold-out: the previous model may have been trained on the rest.
    fair = previous.record.holdout if previous else ()
    before = _said_before(snapshot, previous, embedded[rows], fair)
    figures = evaluate(
        labels.names,
        class_targets(tasks, labels),
        probabilities[rows],
        multiple=labels.multiple,
        before=before,
    )
    return asdict(figures)


def batch_figures(snapshot: Snapshot, previous: StoredRound | None) -> dict[str, Any] | None:
    """What the previous model had said of its batch before anybody labelled it, against the labels since.

    ``pool`` and ``picks``: its accuracy on the random slice, a fair sample of the pool, and on what the
    strategy picked, as the fields of an Interval or None. None without a slice that has been labelled.
    """
    labels = snapshot.labels
    if previous is None or labels is None or not previous.record.random_slice:
        return None
    batch = set(previous.record.batch)
    tasks = [task for task in snapshot.tasks if task.label is not None and task.task_id in batch]
    task_ids = np.array([task.task_id for task in tasks], dtype=np.int64)
    said = _said_before(snapshot, previous, task_ids, previous.record.batch)
    if said is None or not len(said):
        return None
    known = ~np.isnan(said).any(1)
    by_chance = np.isin(task_ids, previous.record.random_slice)
    right = (named_classes(said, labels.multiple) == (class_targets(tasks, labels) > 0.5)).all(1)
    shares = {
        name: asdict(proportion(int(right[those].sum()), int(those.sum()))) if those.any() else None
        for name, those in (("pool", known & by_chance), ("picks", known & ~by_chance))
    }
    return shares if shares["pool"] else None


def _said_before(
    snapshot: Snapshot, previous: StoredRound | None, task_ids: TaskIds, among: Sequence[int]
) -> NDArray[np.float32] | None:
    """float32[n, classes]: what the previous model said of these tasks; NaN for those not ``among``."""
    if previous is None or previous.record.labels != snapshot.labels or not previous.has("probabilities"):
        return None
    try:
        embedded, probabilities = previous.array("embedded_task_ids"), previous.array("probabilities")
    except CorruptRound as error:
        log.error("round %d is not compared with: %s", previous.record.number, error)
        return None
    said = np.full((len(task_ids), probabilities.shape[1]), np.nan, dtype=np.float32)
    known = np.isin(task_ids, embedded) & np.isin(task_ids, among)
    said[known] = probabilities[np.searchsorted(embedded, task_ids[known])]
    return said
