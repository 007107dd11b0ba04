"""The findings of a round besides its batch: near-duplicates and suspected label errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Rows, TaskIds
from coreset_backend.project import NONE_OF_THESE, Labels
from coreset_backend.store.saved_round import StoredRound

MOST_LISTED = 100
"""Groups of near-duplicates, and images of each, that a page lists."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A suspected label error: ``share`` of the nearest neighbours, in [0, 1], have ``suggested_label``.

    ``quality``: the probability that the label is right; None in rounds of earlier releases.
    """

    task_id: int
    label: str | None
    suggested_label: str
    share: float
    quality: float | None = None


def label_names(stored: StoredRound) -> dict[int, str]:
    """Task id -> the name of its label, for the labelled tasks."""
    labels = stored.record.labels
    if labels is None or not stored.has("label_codes"):
        return {}
    codes, task_ids = stored.array("label_codes", mapped=True), stored.array("task_ids", mapped=True)
    return {int(task_ids[row]): labels.names[codes[row]] for row in np.flatnonzero(codes >= 0)}


def duplicates(stored: StoredRound) -> list[list[int]]:
    """Task ids of each group of near-duplicates, the largest group first."""
    found = duplicate_groups(stored)
    return [] if found is None else members(*found, np.flatnonzero(found[0] >= 0))


@dataclass(frozen=True, slots=True)
class DuplicateCounts:
    """How many groups of near-duplicates there are, and images in them; ``sizes``: of the groups listed."""

    groups: int = 0
    images: int = 0
    sizes: tuple[int, ...] = ()


def largest_duplicates(stored: StoredRound) -> tuple[list[list[int]], DuplicateCounts]:
    """The MOST_LISTED largest groups with the first MOST_LISTED task ids of each, and the numbers of all."""
    found = duplicate_groups(stored)
    if found is None or not (found[0] >= 0).any():
        return [], DuplicateCounts()
    groups, task_ids = found
    listed = np.flatnonzero((groups >= 0) & (groups < MOST_LISTED))
    sizes = tuple(np.bincount(groups[listed]).tolist())
    largest = [each[:MOST_LISTED] for each in members(groups, task_ids, listed)]
    return largest, DuplicateCounts(int(groups.max()) + 1, int((groups >= 0).sum()), sizes)


def duplicate_groups(stored: StoredRound) -> tuple[NDArray[np.int32], TaskIds] | None:
    """The group of every embedded task, -1 for none, and the tasks; None in rounds of early releases."""
    if not stored.has("duplicate_groups"):
        return None
    groups = stored.array("duplicate_groups", mapped=True)
    return groups, stored.array("embedded_task_ids", mapped=True)


def members(groups: NDArray[np.integer], task_ids: TaskIds, rows: Rows) -> list[list[int]]:
    """The task ids of the ``rows`` by group, in the order of the groups' numbers."""
    by_group = rows[np.argsort(groups[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[by_group])) + 1
    return [task_ids[part].astype(np.int64).tolist() for part in np.split(by_group, starts) if len(part)]


def suspects(stored: StoredRound) -> list[Suspect]:
    """The suspected label errors, the most probable first."""
    labels = stored.record.labels
    if labels is None or not stored.has("suspects"):
        return []
    task_ids = stored.array("suspects")
    columns = zip(
        task_ids.tolist(),
        _given_labels(stored, labels, task_ids),
        _suggested_labels(stored, labels),
        stored.array("suspect_shares").tolist(),
        _quality(stored, task_ids),
        strict=True,
    )
    return [
        Suspect(int(task_id), label, suggested, float(share), quality)
        for task_id, label, suggested, share, quality in columns
    ]


def _given_labels(stored: StoredRound, labels: Labels, task_ids: TaskIds) -> Sequence[str | None]:
    """The labels of the tasks, in multiple choice with all their classes."""
    if not stored.has("label_sets"):
        given = label_names(stored)
        return [given.get(task_id) for task_id in task_ids.tolist()]
    rows = np.searchsorted(stored.array("task_ids", mapped=True), task_ids)
    return [_spelled(named, labels) for named in stored.array("label_sets", mapped=True)[rows]]


def _suggested_labels(stored: StoredRound, labels: Labels) -> list[str]:
    if stored.has("suspect_sets"):
        return [_spelled(named, labels) for named in stored.array("suspect_sets")]
    return [labels.names[code] for code in stored.array("suspect_codes").tolist()]


def _spelled(named: NDArray[np.int8], labels: Labels) -> str:
    """The classes whose flag is 1, in words."""
    return ", ".join(labels.names[code] for code in np.flatnonzero(named == 1)) or NONE_OF_THESE


def _quality(stored: StoredRound, task_ids: TaskIds) -> Sequence[float | None]:
    if not stored.has("label_quality"):
        return [None] * len(task_ids)
    rows = np.searchsorted(stored.array("embedded_task_ids", mapped=True), task_ids)
    return [float(value) for value in stored.array("label_quality", mapped=True)[rows]]
