"""Soft coverage: MaxHerding (Bae et al., ECCV 2024) and its weighting by uncertainty (ICLR 2025).

A row is covered as well as its nearest center's kernel value says, exp(-|a - b|² / 0.5) between
L2-normalised vectors; the next pick is the row that raises the pool's coverage most.

Few centers each stand for a large part of the pool, so their gains need the kernel between all rows:
it is made whole, of a sample where the pool is large. Many centers each stand for the rows around them:
the kernel is cut to each row's near neighbours, and a pick then changes the gains of a few thousand
rows only, which are kept exact.
"""

import heapq

import numpy as np

from coreset_backend.arrays import Floats, Progress, Rows
from coreset_backend.selection.coverage import measured
from coreset_backend.selection.geometry import blocks, lengths, normalized
from coreset_backend.selection.graph import exact_graph
from coreset_backend.selection.nearest import CENTER_BLOCK
from coreset_backend.selection.pool import Pool, Selection, require_batch
from coreset_backend.selection.uncertainty import LEAST_WEIGHT, class_balance, margins, required_probabilities

WIDTH = 0.5
"""The kernel's width, squared; coverage learns the same over a factor of four around it."""
NEIGHBORS = 64
"""Near rows of each row that the kernel is cut to; up to four times as many where the pool is small."""
SMALL_GRAPH = 2**21
"""Entries of a neighbour graph that cost little beside the rest: 8 bytes each."""
REACH = 16
"""The neighbours will do where those of all centers together are this many times the pool."""
WHOLE = 8192
"""Most rows whose kernel is made whole: 268 MB. A larger pool is sampled."""
STANDS_FOR = 8
"""A sample will do where it has this many rows for each center."""


def neighbors_for(n: int) -> int:
    """How many near rows of each of n rows a graph should hold: 64, up to 256 for small pools."""
    return max(min(max(NEIGHBORS, min(SMALL_GRAPH // max(n, 1), 4 * NEIGHBORS)), n - 1), 1)


def max_herding(
    pool: Pool, batch: int, rng: np.random.Generator, *, progress: Progress | None = None
) -> Selection:
    """The rows that raise the mean kernel coverage of the pool most, one after the other.

    Needs no classifier and no labels. Pool.neighbors spares the search for near rows, which without
    it takes time with n². Distances and radii in the answer are Euclidean on the vectors as given.
    Raises NotFinite for NaN, infinity and a zero vector, which has no direction.
    """
    return _herded(pool, batch, np.ones(len(pool.vectors), dtype=np.float32), rng, progress)


def uncertainty_herding(
    pool: Pool, batch: int, rng: np.random.Generator, *, progress: Progress | None = None
) -> Selection:
    """max_herding in which a row counts by 1 - margin of the classifier (UHerding), and more if it is rare.

    It counts by the root of how rare its likely classes are, or the common ones would be covered alone: on a
    long tail the root gains nearly as much as the whole, which costs half a point where classes are even.
    """
    odds = required_probabilities(pool, "uncertainty_herding")
    weights = np.clip(1 - margins(odds), LEAST_WEIGHT, 1) * np.sqrt(class_balance(odds))
    return _herded(pool, batch, weights, rng, progress)


def _herded(
    pool: Pool, batch: int, weights: Floats, rng: np.random.Generator, progress: Progress | None
) -> Selection:
    require_batch(batch)
    weights = weights if pool.weights is None else weights * pool.weights
    covered, free, graph = _coverage_by_labeled(pool), pool.unlabeled_rows, pool.neighbors
    batch, n = min(batch, len(free)), len(pool.vectors)
    width = neighbors_for(n) if graph is None else graph.rows.shape[1]
    centers = batch + len(np.unique(pool.labeled_rows))
    if centers * width < REACH * n and (n <= WHOLE or centers * STANDS_FOR <= WHOLE):
        part = free if len(free) <= WHOLE else np.sort(rng.choice(free, WHOLE, replace=False))
        units = normalized(pool.vectors[part])
        rows = part[_picked_on_whole_kernel(units, covered[part], weights[part], batch, progress)]
        return measured(pool.vectors, pool.labeled_rows, rows)
    from coreset_backend.selection.herd import Herd, near_kernel  # scipy, which the web process lacks

    graph = exact_graph(normalized(pool.vectors), width, normalized=True) if graph is None else graph
    herd = Herd.begin(near_kernel(graph, lengths(pool.vectors), WIDTH), covered, weights)
    herd.gains[pool.labeled_rows] = -np.inf
    return measured(pool.vectors, pool.labeled_rows, herd.pick(batch, progress))


def _picked_on_whole_kernel(
    units: Floats, covered: Floats, weights: Floats, batch: int, progress: Progress | None
) -> Rows:
    """The row of largest gain, ``batch`` times, the lowest among equals: int64[batch].

    Lazy (Minoux 1978): gains only fall, so one that is still the largest when looked at again is.
    """
    kernel = units @ units.T
    for block in blocks(len(kernel), len(kernel)):
        kernel[block] = np.exp((2 * kernel[block] - 2) / WIDTH)

    def gain(rows: slice | int) -> Floats:
        return np.asarray(np.maximum(kernel[rows] - covered, 0) @ weights)

    known = [-gain(block) for block in blocks(len(kernel), len(kernel))]
    heap = list(zip(np.concatenate(known).tolist() if known else (), range(len(kernel)), strict=True))
    heapq.heapify(heap)
    picked = np.empty(batch, dtype=np.int64)
    for done in range(batch):
        row = -1
        while heap[0][1] != row:
            row = heap[0][1]
            heapq.heapreplace(heap, (-float(gain(row)), row))
        heapq.heappop(heap)
        picked[done] = row
        covered = np.maximum(covered, kernel[row])
        if progress:
            progress(done + 1, batch)
    return picked


def _coverage_by_labeled(pool: Pool) -> Floats:
    """Every row's kernel value with its nearest labelled row, exact: float32[n], 0 without labels."""
    covered = np.zeros(len(pool.vectors), dtype=np.float32)
    length = lengths(pool.vectors)
    labeled = np.unique(pool.labeled_rows)
    centers = normalized(pool.vectors[labeled]) if len(labeled) else np.empty((0, 1), dtype=np.float32)
    for block in blocks(*pool.vectors.shape):
        points = pool.vectors[block].astype(np.float32)
        for start in range(0, len(centers), CENTER_BLOCK):
            cosine = (points @ centers[start : start + CENTER_BLOCK].T).max(axis=1) / length[block]
            covered[block] = np.maximum(covered[block], np.exp((2 * cosine - 2) / WIDTH))
    return covered
