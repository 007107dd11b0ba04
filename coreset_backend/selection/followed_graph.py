"""A neighbour graph that follows its pool: rows come and go without another search for all of them."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.selection.geometry import require_finite, sample_mean, shifted, squared_norms
from coreset_backend.selection.graph import squared_distances
from coreset_backend.selection.pool import NeighborGraph

MOST_ADDED = 10_000
"""Adding more rows is not worth it, for each is compared with all others: from 15,000 on Annoy is sooner done
with all rows, whatever the size of the pool (256 dimensions, one core)."""
BLOCK_DISTANCES = 2**24
"""Distances of added rows that are held at once: 64 MB."""


def followed_graph(graph: NeighborGraph, before: Rows, vectors: Vectors, k: int) -> NeighborGraph:
    """The graph of float[n, d] by that of an earlier pool, with at most k near rows of every row.

    ``before``: int64[n], each row's place in the earlier pool, ascending, -1 where the row was added. The
    near rows of an added row, and the added rows near others, are found exactly. A row that was near to
    removed ones has fewer near rows left. Euclidean distances. Raises NotFinite.
    """
    old, added = np.flatnonzero(before >= 0), np.flatnonzero(before < 0)
    width = max(min(k, graph.rows.shape[1], len(before) - 1), 1)
    rows = np.full((len(before), width), -1, dtype=np.int32)
    distances = np.full((len(before), width), np.inf, dtype=np.float32)
    kept = graph.among(before[old])
    names = np.append(old, -1).astype(np.int32)  # the last is what -1 finds
    rows[old], distances[old] = names[kept.rows[:, :width]], kept.distances[:, :width]
    if len(added):
        _add(vectors, added, rows, distances)
    return NeighborGraph(rows, distances, graph.normalized)


def _add(vectors: Vectors, added: Rows, rows: NDArray[np.int32], distances: Floats) -> None:
    """Find the near rows of the ``added`` ones, and enter them into the lists of the others, in place."""
    n, shift = len(vectors), sample_mean(vectors)
    with np.errstate(over="ignore", invalid="ignore"):
        points = shifted(vectors, slice(0, n), shift)
        norms = squared_norms(points)
    require_finite(vectors, norms)
    at_once = max(BLOCK_DISTANCES // n, 1)
    for start in range(0, len(added), at_once):
        some = added[start : start + at_once]
        squared = squared_distances(points[some], norms[some], points, norms)
        squared[np.arange(len(some)), some] = np.inf
        squared[:, added[start + len(some) :]] = np.inf  # their turn comes
        _list_nearest(squared, some, rows, distances)
        squared[:, some] = np.inf  # they are in each other's lists
        _enter(squared, some, rows, distances)


def _list_nearest(squared: Floats, some: Rows, rows: NDArray[np.int32], distances: Floats) -> None:
    """Write the lists of the rows ``some`` by their squared distances float32[m, n] to all rows."""
    width = rows.shape[1]
    near = np.argpartition(squared, width - 1, axis=1)[:, :width]
    far = np.take_along_axis(squared, near, axis=1)
    order = np.argsort(far, axis=1, kind="stable")
    far = np.take_along_axis(far, order, axis=1)
    near = np.take_along_axis(near, order, axis=1)
    rows[some], distances[some] = np.where(np.isfinite(far), near, -1), np.sqrt(far)


def _enter(squared: Floats, some: Rows, rows: NDArray[np.int32], distances: Floats) -> None:
    """Enter the rows ``some`` into the lists of all rows that are nearer to one than to their last."""
    column, other = np.nonzero(squared < distances[:, -1] ** 2)
    if not len(other):
        return
    order = np.argsort(other, kind="stable")
    column, other = column[order], other[order]
    changed, first, counts = np.unique(other, return_index=True, return_counts=True)
    place = np.arange(len(other)) - np.repeat(first, counts)
    line = np.repeat(np.arange(len(changed)), counts)
    width = rows.shape[1]
    near = np.full((len(changed), width + counts.max()), -1, dtype=np.int32)
    far = np.full(near.shape, np.inf, dtype=np.float32)
    near[:, :width], far[:, :width] = rows[changed], distances[changed]
    near[line, width + place], far[line, width + place] = some[column], np.sqrt(squared[column, other])
    order = np.argsort(far, axis=1, kind="stable")[:, :width]
    rows[changed] = np.take_along_axis(near, order, axis=1)
    distances[changed] = np.take_along_axis(far, order, axis=1)
