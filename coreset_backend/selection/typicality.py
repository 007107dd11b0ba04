"""TypiClust: the most typical row of every cluster that has no label yet (Hacohen et al. 2022)."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Progress, Rows
from coreset_backend.selection.coverage import measured
from coreset_backend.selection.geometry import blocks, normalized
from coreset_backend.selection.pool import Pool, Selection, require_batch

MOST_CLUSTERS = 500
ITERATIONS = 10
NEIGHBORS = 20


def typiclust(
    pool: Pool, batch: int, rng: np.random.Generator, *, progress: Progress | None = None
) -> Selection:
    """The densest row of each cluster, clusters with the fewest labels first, then the largest.

    k-means on normalised vectors into labelled + batch clusters, at most 500; typicality is the
    inverse mean distance to the 20 nearest rows of the same cluster. Needs no classifier and no
    labels. Distances and radii in the answer are Euclidean on the vectors as given. ``progress`` counts
    the rounds of k-means.
    """
    require_batch(batch)
    units = normalized(pool.vectors)
    labeled = np.unique(pool.labeled_rows)
    clusters = min(len(labeled) + batch, MOST_CLUSTERS, len(units))
    free = pool.unlabeled_rows
    if not len(free) or not batch:
        return measured(pool.vectors, pool.labeled_rows, free[:0])
    member_of = k_means(units, clusters, rng, progress)
    order = _order(member_of, _spread(units, member_of), labeled, free)
    return measured(pool.vectors, pool.labeled_rows, order[:batch])


def k_means(
    points: Floats, clusters: int, rng: np.random.Generator, progress: Progress | None = None
) -> Rows:
    """The cluster of every row of float32[n, d] after ten rounds of Lloyd: int64[n]."""
    centers = points[rng.choice(len(points), clusters, replace=False)].copy()
    for done in range(ITERATIONS):
        member_of = nearest_center(points, centers)
        count = np.bincount(member_of, minlength=clusters)
        order = np.argsort(member_of, kind="stable")
        filled = np.flatnonzero(count)
        starts = np.concatenate([[0], np.cumsum(count)])[filled]
        centers[filled] = np.add.reduceat(points[order], starts, axis=0) / count[filled, None]
        if progress:
            progress(done + 1, ITERATIONS)
    return nearest_center(points, centers)


def nearest_center(points: Floats, centers: Floats) -> Rows:
    """The position in ``centers`` (float32[c, d]) nearest to every row of ``points``: int64[n]."""
    nearest = np.empty(len(points), dtype=np.int64)
    norms = np.einsum("ij,ij->i", centers, centers)
    for block in blocks(len(points), max(points.shape[1], len(centers))):
        nearest[block] = np.argmin(norms - 2 * (points[block] @ centers.T), axis=1)
    return nearest


def _spread(units: Floats, member_of: Rows) -> NDArray[np.float64]:
    """The mean distance of every row to its 20 nearest in the same cluster, small = typical: float64[n]."""
    spread = np.zeros(len(units))
    order = np.argsort(member_of, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(member_of[order])) + 1):
        near = min(NEIGHBORS + 1, len(members))
        for block in blocks(len(members), len(members)):
            squared = np.maximum(2 - 2 * (units[members[block]] @ units[members].T), 0)
            nearest = np.partition(squared, near - 1, axis=1)[:, :near]
            spread[members[block]] = np.sqrt(nearest).sum(axis=1) / max(near - 1, 1)
    return spread


def _order(member_of: Rows, spread: NDArray[np.float64], labeled: Rows, free: Rows) -> Rows:
    """``free`` in the order of choice: a cluster's next row counts as if its earlier ones were labelled."""
    size = np.bincount(member_of)
    labels = np.bincount(member_of[labeled], minlength=len(size))
    inside = free[np.lexsort((spread[free], member_of[free]))]
    cluster = member_of[inside]
    first = np.searchsorted(cluster, cluster)
    turn = labels[cluster] + np.arange(len(inside)) - first
    return inside[np.lexsort((-size[cluster], turn))]
