"""A neighbour graph that follows its pool: rows come and go without another search for all of them."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.selection.geometry import blocks, require_finite, sample_mean, shifted, squared_norms
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
    names = np.full(len(graph.rows) + 1, -1, dtype=np.int32)  # the last is what -1 finds
    names[before[old]] = old
    kept = graph.renamed(before[old], names, width)
    if not len(added):
        return kept
    rows = np.full((len(before), width), -1, dtype=np.int32)
    distances = np.full((len(before), width), np.inf, dtype=np.float32)
    rows[old], distances[old] = kept.rows, kept.distances
    del kept
    _add(vectors, added, rows, distances)
    return NeighborGraph(rows, distances, graph.normalized)


def _add(vectors: Vectors, added: Rows, rows: NDArray[np.int32], distances: Floats) -> None:
    """Find the near rows of the ``added`` ones, and enter them into the lists of the others, in place."""
    n, shift = len(vectors), sample_mean(vectors)
    norms = _norms(vectors, shift)
    at_once = max(BLOCK_DISTANCES // n, 1)
    for start in range(0, len(added), at_once):
        some = added[start : start + at_once]
        squared = _squared_to_all(vectors, shift, norms, some)
        squared[np.arange(len(some)), some] = np.inf
        squared[:, added[start + len(some) :]] = np.inf  # their turn comes
        _list_nearest(squared, some, rows, distances)
        squared[:, some] = np.inf  # they are in each other's lists
        _enter(squared, some, rows, distances)


def _norms(vectors: Vectors, shift: NDArray[np.floating]) -> Floats:
    """The squared length of every row less ``shift``, float32[n]; raises NotFinite."""
    norms = np.empty(len(vectors), dtype=np.float32)
    for block in blocks(*vectors.shape):
        with np.errstate(over="ignore", invalid="ignore"):
            norms[block] = squared_norms(shifted(vectors, block, shift))
    require_finite(vectors, norms)
    return norms


def _squared_to_all(vectors: Vectors, shift: NDArray[np.floating], norms: Floats, some: Rows) -> Floats:
    """Squared distances of the rows ``some`` int64[m] to all rows: float32[m, n]."""
    squared = np.empty((len(some), len(vectors)), dtype=np.float32)
    queries = shifted(vectors, some, shift)
    for block in blocks(*vectors.shape):
        points = shifted(vectors, block, shift)
        squared[:, block] = squared_distances(queries, norms[some], points, norms[block])
    return squared


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
