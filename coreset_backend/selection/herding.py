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

from coreset_backend.arrays import Floats, Progress, Rows, Vectors, forget_pages
from coreset_backend.selection.coverage import measured
from coreset_backend.selection.geometry import blocks, lengths, normalized
from coreset_backend.selection.graph import exact_graph
from coreset_backend.selection.pool import Pool, Selection, require_batch
from coreset_backend.selection.rounding import exact_products, share_of_error
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
    covered, free, graph = coverage_by_labeled(pool), pool.unlabeled_rows, pool.neighbors
    batch, n = min(batch, len(free)), len(pool.vectors)
    width = neighbors_for(n) if graph is None else graph.rows.shape[1]
    if takes_whole_kernel(batch + len(np.unique(pool.labeled_rows)), width, n):
        part = sampled(free, rng)
        units = normalized(pool.vectors[part])
        rows = part[picked_on_whole_kernel(units, covered[part], weights[part], batch, progress)]
        return measured(pool.vectors, pool.labeled_rows, rows)
    from coreset_backend.selection.herd import begin_herd  # scipy, which the web process lacks

    graph = exact_graph(normalized(pool.vectors), width, normalized=True) if graph is None else graph
    length = lengths(pool.vectors)
    forget_pages(pool.vectors)
    herd = begin_herd(graph, length, WIDTH, covered, weights)
    forget_pages(graph.rows)
    forget_pages(graph.distances)
    herd.exclude(pool.labeled_rows)
    rows = herd.pick(batch, progress)
    del herd  # its kernel and the vectors that are read next need a gigabyte each of a million rows
    return measured(pool.vectors, pool.labeled_rows, rows)


def takes_whole_kernel(centers: int, width: int, n: int) -> bool:
    """Whether the lists of ``width`` near rows of so many centers are too few for a pool of n rows."""
    return centers * width < REACH * n and (n <= WHOLE or centers * STANDS_FOR <= WHOLE)


def sampled(free: Rows, rng: np.random.Generator) -> Rows:
    """The rows of ``free`` (int64[m], ascending) whose kernel is made whole."""
    return free if len(free) <= WHOLE else np.sort(rng.choice(free, WHOLE, replace=False))


def picked_on_whole_kernel(
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


def coverage_by_labeled(pool: Pool) -> Floats:
    """Every row's kernel value with its nearest labelled row, exact: float32[n], 0 without labels."""
    labeled = np.unique(pool.labeled_rows)
    length = lengths(pool.vectors)
    units = normalized(pool.vectors[labeled]) if len(labeled) else np.empty((0, pool.vectors.shape[1]))
    return coverage_by(units, pool.vectors, length)


def coverage_by(centers: Vectors, vectors: Vectors, length: Floats) -> Floats:
    """The kernel value of every row of float[n, d] with its nearest center: float32[n].

    ``centers``: float32[k, d] of length 1; ``length``: float32[n] of the rows. Products find which centers
    may be nearest, an exact cosine decides: the same bits however the rows are divided.
    """
    covered = np.zeros(len(vectors), dtype=np.float32)
    centers = centers.astype(np.float32, copy=False)
    wrong = 2 * share_of_error(vectors.shape[1], centers.dtype)
    for block in blocks(len(vectors) if len(centers) else 0, max(len(centers), vectors.shape[1])):
        points = vectors[block].astype(np.float32)
        cosines = points @ centers.T
        cosines /= length[block, None]
        place, center = np.nonzero(cosines >= cosines.max(axis=1, keepdims=True) - np.float32(wrong))
        exact = np.concatenate(
            [exact_products(points[place[part]], centers[center[part]]) for part in blocks(len(place), 256)]
        )
        nearest = np.maximum.reduceat(exact, np.searchsorted(place, np.arange(len(points)))) / length[block]
        covered[block] = np.exp((2 * nearest - 2) / WIDTH)
    return covered
