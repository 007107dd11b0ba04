"""The table of classes on a project's page, counted from a round's arrays."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.evaluation.scores import named_classes
from coreset_backend.project import NONE_OF_THESE, Labels
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.web.page_contents import ClassLine


def class_table(stored: StoredRound) -> tuple[ClassLine, ...]:
    """A row for each class; raises CorruptRound.

    In multiple choice an image may count for several classes, and the last row is "none of these".
    """
    labels = stored.record.labels
    if labels is None or not stored.has("label_codes"):
        return ()
    carried, known = _labels_given(stored, labels)
    columns = {"labeled": carried[known].sum(0).tolist()}
    if stored.has("probabilities"):
        columns |= _predicted_by_class(stored, labels, carried, known)
    names = [*labels.names, NONE_OF_THESE] if labels.multiple else labels.names
    return tuple(
        ClassLine(name, **{column: counts[code] for column, counts in columns.items()})
        for code, name in enumerate(names)
    )


def _labels_given(stored: StoredRound, labels: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """bool[n, columns] by task, whether its label names the class, and bool[n], whether it has a label."""
    if stored.has("label_sets"):
        sets = stored.array("label_sets", mapped=True)
        return _with_none(sets == 1), sets[:, 0] >= 0
    # In multiple choice, older rounds kept only the first class.
    codes = stored.array("label_codes", mapped=True)
    carried = codes[:, None] == np.arange(len(labels.names))
    return _with_none(carried) if labels.multiple else carried, codes >= 0


def _with_none(named: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool[n, classes + 1]: the last column is true where no class is named."""
    return np.column_stack([named, ~named.any(1)])


def _predicted_by_class(
    stored: StoredRound, labels: Labels, carried: NDArray[np.bool_], known: NDArray[np.bool_]
) -> dict[str, list[int]]:
    embedded = stored.array("embedded_task_ids", mapped=True)
    rows = np.searchsorted(stored.array("task_ids", mapped=True), embedded)
    if stored.has("predicted") and not labels.multiple:
        predicted = stored.array("predicted", mapped=True)[:, None] == np.arange(len(labels.names))
    else:
        predicted = named_classes(stored.array("probabilities", mapped=True), labels.multiple)
    predicted = _with_none(predicted) if labels.multiple else predicted
    columns = {"predicted": predicted[~known[rows]].sum(0).tolist()}
    if labels.multiple:
        return columns
    held = carried[rows] & (np.isin(embedded, stored.record.holdout) & known[rows])[:, None]
    return columns | {"held_out": held.sum(0).tolist(), "right": (held & predicted).sum(0).tolist()}
