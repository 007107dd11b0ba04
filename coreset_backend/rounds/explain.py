"""The evidence that pages show besides the batch, computed while the round's embeddings are in memory.

Arrays in, named arrays out; they are saved with the round, and the web process only reads them. Every array
"by embedded task" is aligned with ``embedded_task_ids``.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, PixelRows, TaskIds
from coreset_backend.project import Labels, Snapshot, Task, class_targets
from coreset_backend.rounds.label_errors import JudgedLabels
from coreset_backend.selection.clusters import clusters
from coreset_backend.store.saved_round import Arrays


class TaskPixels(PixelRows, Protocol):
    """Images by rows, and the task of each, int64[m]."""

    task_ids: TaskIds


def gather_evidence(
    snapshot: Snapshot,
    pixels: TaskPixels,
    embeddings: Floats,
    places: NDArray[np.uint16],
    groups: NDArray[np.int32],
    picked: Sequence[int],
    judged: JudgedLabels | None,
    seed: int,
) -> Arrays:
    """The arrays by name. ``pixels``, ``embeddings``, ``groups`` and ``places`` (uint16[m, 2], on the map)
    have the same rows; ``picked``: task ids.
    """
    rows = np.searchsorted(snapshot.task_ids, pixels.task_ids)
    codes = label_codes(snapshot.tasks, snapshot.labels)
    labeled = np.array([snapshot.tasks[row].state == "labeled" for row in rows], dtype=bool)
    neighbors, far = pick_neighbors(pixels.task_ids, embeddings, picked, pixels.task_ids[labeled])
    evidence: Arrays = {
        "label_codes": codes,
        "pick_neighbors": neighbors,
        "pick_distances": far,
        "layout": places,
        "duplicate_groups": groups,
        "clusters": clusters(embeddings, seed),
    }
    if judged:
        evidence |= label_evidence(pixels.task_ids, judged)
    if snapshot.labels and snapshot.labels.multiple:
        evidence["label_sets"] = label_sets(snapshot.tasks, snapshot.labels)
    return evidence


def label_evidence(embedded_task_ids: TaskIds, judged: JudgedLabels) -> Arrays:
    """The quality of each label, by embedded task (NaN without a label), and the suspected errors."""
    found, task_ids = judged.quality, np.array([task.task_id for task in judged.tasks], dtype=np.int64)
    quality = np.full(len(embedded_task_ids), np.nan, dtype=np.float32)
    quality[np.searchsorted(embedded_task_ids, task_ids)] = found.quality
    return {
        "label_quality": quality,
        "suspects": task_ids[found.suspects],
        "suspect_sets": found.suggested,
        "suspect_shares": found.shares,
    }


def label_codes(tasks: Sequence[Task], labels: Labels | None) -> NDArray[np.int16]:
    """int16[n] by task: the index of the (first) class that its label names, -1 if none."""
    index = {name: code for code, name in enumerate(labels.names)} if labels else {}
    return np.array([index.get(task.label[0], -1) if task.label else -1 for task in tasks], dtype=np.int16)


def label_sets(tasks: Sequence[Task], labels: Labels) -> NDArray[np.int8]:
    """int8[n, classes] by task: whether its label names the class, 1 or 0; -1 throughout without a label."""
    sets = class_targets(tasks, labels).astype(np.int8)
    sets[[task.label is None for task in tasks]] = -1
    return sets


def pick_neighbors(
    embedded_task_ids: TaskIds, embeddings: Floats, picked: Sequence[int], labeled: TaskIds
) -> tuple[TaskIds, Floats]:
    """The nearest images of each pick, as the reason for it.

    int64[k, 2] task ids and float32[k, 2] Euclidean distances, in pick order: the nearest labelled task and
    the nearest earlier pick; -1 at distance inf if there is none. For k-Center the smaller distance is the
    distance at which the task was picked.
    """
    picks = embeddings[np.searchsorted(embedded_task_ids, picked)]
    centers = embeddings[np.searchsorted(embedded_task_ids, labeled)]
    ids = np.full((len(picks), 2), -1, dtype=np.int64)
    distances = np.full((len(picks), 2), np.inf, dtype=np.float32)
    for place, pick in enumerate(picks):
        for column, (others, names) in enumerate(
            ((centers, labeled), (picks[:place], np.asarray(picked[:place])))
        ):
            if len(others):
                far = np.linalg.norm(others - pick, axis=1)
                nearest = int(far.argmin())
                ids[place, column], distances[place, column] = names[nearest], far[nearest]
    return ids, distances
