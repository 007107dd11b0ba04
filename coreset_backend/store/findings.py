"""The findings of a round besides its batch: near-duplicates and suspected label errors."""

from dataclasses import dataclass

import numpy as np

from coreset_backend.store.saved_round import StoredRound


@dataclass(frozen=True, slots=True)
class Suspect:
    """A suspected label error: ``share`` of the nearest neighbours, in [0, 1], have ``suggested_label``."""

    task_id: int
    label: str | None
    suggested_label: str
    share: float


def label_names(stored: StoredRound) -> dict[int, str]:
    """Task id -> the name of its label, for the labelled tasks."""
    labels = stored.record.labels
    if labels is None or not stored.has("label_codes"):
        return {}
    codes, task_ids = stored.array("label_codes"), stored.array("task_ids")
    return {int(task_ids[row]): labels.names[codes[row]] for row in np.flatnonzero(codes >= 0)}


def duplicates(stored: StoredRound) -> list[list[int]]:
    """Task ids of each group of near-duplicates, the largest group first."""
    if not stored.has("duplicate_groups"):
        return []
    groups, task_ids = stored.array("duplicate_groups"), stored.array("embedded_task_ids")
    grouped = np.flatnonzero(groups >= 0)
    by_group = grouped[np.argsort(groups[grouped], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[by_group])) + 1
    return [task_ids[rows].astype(np.int64).tolist() for rows in np.split(by_group, starts) if len(rows)]


def suspects(stored: StoredRound) -> list[Suspect]:
    """The suspected label errors, the largest share first."""
    labels = stored.record.labels
    if labels is None or not stored.has("suspects"):
        return []
    given = label_names(stored)
    found = zip(
        stored.array("suspects").tolist(),
        stored.array("suspect_codes").tolist(),
        stored.array("suspect_shares").tolist(),
        strict=True,
    )
    return [
        Suspect(int(task_id), given.get(task_id), labels.names[code], float(share))
        for task_id, code, share in found
    ]
