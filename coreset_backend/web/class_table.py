"""The table of classes on a project's page, counted from a round's arrays."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.evaluation.scores import named_classes
from coreset_backend.project import NONE_OF_THESE, Labels
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.web.page_contents import ClassLine

ROWS_AT_ONCE = 65_536


def class_table(stored: StoredRound) -> tuple[ClassLine, ...]:
    """A row for each class; raises CorruptRound.

    In multiple choice an image may count for several classes, and the last row is "none of these".
    """
    labels = stored.record.labels
    if labels is None or not stored.has("label_codes"):
        return ()
    rows, carried = _labels_given(stored, labels)
    columns = {"labeled": carried.sum(0).tolist()}
    if stored.has("probabilities"):
        columns |= _predicted_by_class(stored, labels, rows, carried)
    names = [*labels.names, NONE_OF_THESE] if labels.multiple else labels.names
    return tuple(
        ClassLine(name, **{column: counts[code] for column, counts in columns.items()})
        for code, name in enumerate(names)
    )


def _labels_given(stored: StoredRound, labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The rows of the labelled tasks, int64[l], and the classes that each label names: bool[l, columns]."""
    if stored.has("label_sets"):
        sets = stored.array("label_sets", mapped=True)
        rows = np.flatnonzero(sets[:, 0] >= 0)
        return rows, _with_none(sets[rows] == 1)
    # In multiple choice, older rounds kept only the first class.
    codes = stored.array("label_codes", mapped=True)
    rows = np.flatnonzero(codes >= 0)
    carried = codes[rows, None] == np.arange(len(labels.names))
    return rows, _with_none(carried) if labels.multiple else carried


def _with_none(named: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool[n, classes + 1]: the last column is true where no class is named."""
    return np.column_stack([named, ~named.any(1)])


def _predicted_by_class(
    stored: StoredRound, labels: Labels, rows: NDArray[np.int64], carried: NDArray[np.bool_]
) -> dict[str, list[int]]:
    """How many unlabelled images have each class; all are counted, and the few labelled ones subtracted."""
    task_ids, embedded = stored.array("task_ids", mapped=True), stored.array("embedded_task_ids", mapped=True)
    if not np.array_equal(task_ids[np.searchsorted(task_ids, embedded)], embedded):
        raise ValueError("an image has no task")
    labeled = task_ids[rows]
    images = np.searchsorted(embedded, labeled).clip(max=len(embedded) - 1)
    has_image = embedded[images] == labeled
    labeled, images, carried = labeled[has_image], images[has_image], carried[has_image]
    predicted = _predicted_of(stored, labels, images)
    columns = {"predicted": (_all_predicted(stored, labels, len(embedded)) - predicted.sum(0)).tolist()}
    if labels.multiple:
        return columns
    held = carried & np.isin(labeled, stored.record.holdout)[:, None]
    return columns | {"held_out": held.sum(0).tolist(), "right": (held & predicted).sum(0).tolist()}


def _all_predicted(stored: StoredRound, labels: Labels, m: int) -> NDArray[np.int64]:
    """How many of the m images are predicted to have each class: int64[columns]; some rows at a time."""
    answers = stored.array("predicted" if _has_codes(stored, labels) else "probabilities", mapped=True)
    if len(answers) != m:
        raise ValueError(f"{len(answers)} answers for {m} images")
    if _has_codes(stored, labels):
        return np.bincount(answers, minlength=len(labels.names))
    parts = (slice(start, start + ROWS_AT_ONCE) for start in range(0, max(m, 1), ROWS_AT_ONCE))
    counts: NDArray[np.int64] = np.sum([_predicted_of(stored, labels, part).sum(0) for part in parts], axis=0)
    return counts


def _predicted_of(
    stored: StoredRound, labels: Labels, images: NDArray[np.int64] | slice
) -> NDArray[np.bool_]:
    """Which classes the model predicts for the images: bool[m, columns]."""
    if _has_codes(stored, labels):
        codes = stored.array("predicted", mapped=True)[images]
        said: NDArray[np.bool_] = codes[:, None] == np.arange(len(labels.names))
        return said
    named = named_classes(stored.array("probabilities", mapped=True)[images], labels.multiple)
    return _with_none(named) if labels.multiple else named


def _has_codes(stored: StoredRound, labels: Labels) -> bool:
    """Whether the one class that the model predicts was saved by image; early releases did not."""
    return stored.has("predicted") and not labels.multiple
