"""What the pages show of a round beside the choice itself, computed while its embeddings are in memory.

Arrays in, named arrays out, saved with the round; the web process only reads them. ``embedded_task_ids``
is what every array "by embedded task" is aligned with.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coreset_backend.project import Labels, Task

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]


def label_codes(tasks: Sequence[Task], labels: Labels | None) -> NDArray[np.int16]:
    """int16[n] by task: the index of the (first) class that its label names, -1 where there is none."""
    index = {name: code for code, name in enumerate(labels.names)} if labels else {}
    return np.array([index.get(task.label[0], -1) if task.label else -1 for task in tasks], dtype=np.int16)


def pick_neighbors(
    embedded_task_ids: Ids, embeddings: Vectors, picked: Sequence[int], labeled: Ids
) -> tuple[Ids, Vectors]:
    """Why each pick was made: what it is nearest to, and how far that is.

    int64[k, 2] task ids and float32[k, 2] Euclidean distances, in pick order: the nearest labelled task,
    and the nearest earlier pick. -1 at distance inf where there is none. For k-Center the smaller of the
    two distances is the distance at which the task was picked.
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
