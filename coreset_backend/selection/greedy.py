"""Greedy k-Center (Sener & Savarese 2018, algorithm 1): the farthest row becomes a center, again and again.

The textbook loop compares all rows with all centers before each pick::

    centers = list(labeled_rows)
    for _ in range(batch):
        distances = np.linalg.norm(vectors[:, None] - vectors[centers], axis=2).min(axis=1)
        centers.append(int(distances.argmax()))
    picks = centers[len(labeled_rows):]

`Coverage` makes the same picks and reads the vectors about once: see there. Distances whose squares are equal
as float32 are equal, and the lowest row among equals is picked.
"""

from dataclasses import replace

import numpy as np

from coreset_backend.arrays import Progress
from coreset_backend.selection.coverage import Coverage
from coreset_backend.selection.geometry import normalized
from coreset_backend.selection.pool import Pool, Selection, require_batch


def k_center_greedy(
    pool: Pool,
    batch: int,
    rng: np.random.Generator | None = None,
    *,
    coverage: Coverage | None = None,
    progress: Progress | None = None,
) -> Selection:
    """The farthest row from all centers, ``batch`` times: at most twice the best possible radius.

    ``coverage`` is kept state: pass the same ``Coverage(pool.vectors, labeled_rows)`` for the
    batches of one embedding, and labels that came since are added to it. ``rng`` orders the work,
    not the picks. An empty labelled set begins with the row nearest the mean. Euclidean distances.

    Raises NotFinite for values that cannot be compared, ValueError for a negative batch or kept
    state of other vectors or with centers that were never labelled.
    """
    require_batch(batch)
    if coverage is None:
        coverage = Coverage(pool.vectors, pool.labeled_rows, rng)
    else:
        _catch_up(coverage, pool)
    before = float("inf") if not len(coverage.center_rows) else None
    rows, distances = coverage.pick(batch, progress)
    after = coverage.radius()
    if before is None:
        before = float(distances[0]) if len(rows) else after
    # What was farthest when a pick was made is the radius that the pick before it left.
    radii = np.append(distances[1:], np.float32(after))[: len(rows)]
    return Selection(rows, distances, before, after, radii=radii)


def k_center_cosine(
    pool: Pool,
    batch: int,
    rng: np.random.Generator | None = None,
    *,
    progress: Progress | None = None,
) -> Selection:
    """Greedy k-Center on L2-normalised rows: cosine distance order, distances in [0, 2].

    Needs memory for the normalised copy, float32[n, d]. A zero vector raises NotFinite.
    """
    units = replace(pool, vectors=normalized(pool.vectors))
    return replace(k_center_greedy(units, batch, rng, progress=progress), normalized=True)


def _catch_up(coverage: Coverage, pool: Pool) -> None:
    """Adds the labels that came since; refuses state that belongs to another pool."""
    if coverage.vectors is not pool.vectors:
        raise ValueError("the kept coverage belongs to other vectors: begin a new Coverage")
    labeled = np.unique(pool.labeled_rows)
    unlabeled = np.setdiff1d(coverage.center_rows, labeled)
    if len(unlabeled):
        raise ValueError(
            f"the kept coverage has {len(unlabeled)} centers that are not labelled, row {unlabeled[0]} "
            "first; distances cannot be raised again: begin a new Coverage"
        )
    coverage.add(np.setdiff1d(labeled, coverage.center_rows))
