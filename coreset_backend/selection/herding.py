"""Soft coverage: MaxHerding (Bae et al., ECCV 2024) and its weighting by uncertainty (ICLR 2025).

A row is covered as well as its nearest center's kernel value says, exp(-|a - b|² / 0.5) between
L2-normalised vectors; the next pick is the row that raises the pool's coverage most.

Few centers each stand for a large part of the pool, so their gains need the kernel between all rows:
it is made whole, of a sample where the pool is large. Many centers each stand for the rows around them:
the kernel is cut to each row's near neighbours, and a pick then changes the gains of a few thousand
rows only, which are kept exact.
"""

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Progress, Rows
from coreset_backend.selection.geometry import blocks, lengths, normalized
from coreset_backend.selection.graph import exact_graph
from coreset_backend.selection.greedy import CENTER_BLOCK, measured, require_batch
from coreset_backend.selection.pool import NeighborGraph, Pool, Selection
from coreset_backend.selection.uncertainty import LEAST_WEIGHT, class_balance, margins, required_probabilities

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

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
    covered, free, graph = _coverage_by_labeled(pool), pool.unlabeled_rows, pool.neighbors
    batch, n = min(batch, len(free)), len(pool.vectors)
    width = neighbors_for(n) if graph is None else graph.rows.shape[1]
    centers = batch + len(np.unique(pool.labeled_rows))
    if centers * width < REACH * n and (n <= WHOLE or centers * STANDS_FOR <= WHOLE):
        part = free if len(free) <= WHOLE else np.sort(rng.choice(free, WHOLE, replace=False))
        units = normalized(pool.vectors[part])
        rows = part[_picked_on_whole_kernel(units, covered[part], weights[part], batch, progress)]
        return measured(pool.vectors, pool.labeled_rows, rows)
    graph = exact_graph(normalized(pool.vectors), width, normalized=True) if graph is None else graph
    herd = Herd.begin(_kernel(graph, lengths(pool.vectors)), covered, weights)
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


def _kernel(graph: NeighborGraph, length: Floats) -> "csr_array":
    """The kernel between near rows and of each with itself, symmetric: sparse float32[n, n].

    ``length`` (float32[n]) turns Euclidean distances of a graph into those between normalised rows:
    |a - b|² = (|a| - |b|)² + |a| |b| |a/|a| - b/|b||².
    """
    from scipy.sparse import csr_array

    n = len(graph.rows)
    found = np.pad(graph.rows >= 0, ((0, 0), (1, 0)), constant_values=True)
    columns = np.concatenate([np.arange(n, dtype=np.int32)[:, None], graph.rows], axis=1)[found]
    values = np.square(np.pad(graph.distances, ((0, 0), (1, 0)))[found])
    starts = np.concatenate([[0], np.cumsum(found.sum(axis=1))]).astype(np.int32)
    if not graph.normalized:
        own, other = np.repeat(length, np.diff(starts)), length[columns]
        values -= np.square(own - other)
        values /= own * other
    np.exp(np.maximum(values, 0) / -WIDTH, out=values)
    near = csr_array((values, columns, starts), shape=(n, n))
    return near.maximum(near.T.tocsr())


@dataclass(slots=True)
class Herd:
    """How well each row is covered, and by how much each would raise the weighted coverage."""

    kernel: "csr_array"
    covered: Floats
    weights: Floats
    gains: NDArray[np.float64]

    @classmethod
    def begin(cls, kernel: "csr_array", covered: Floats, weights: Floats) -> "Herd":
        gains = np.empty(len(covered), dtype=np.float64)
        for block in blocks(len(covered), 4 * NEIGHBORS):
            part = kernel[block]
            raised = np.maximum(part.data - covered[part.indices], 0) * weights[part.indices]
            gains[block] = np.add.reduceat(raised, part.indptr[:-1])  # no row is empty: it holds itself
        return cls(kernel, covered.copy(), weights, gains)

    def pick(self, batch: int, progress: Progress | None) -> Rows:
        """The row of largest gain, ``batch`` times, the lowest among equals: int64[batch]."""
        rows = np.empty(batch, dtype=np.int64)
        for done in range(batch):
            rows[done] = row = int(np.argmax(self.gains))
            self._cover_from(row)
            self.gains[row] = -np.inf
            if progress:
                progress(done + 1, batch)
        return rows

    def _cover_from(self, row: int) -> None:
        """Makes ``row`` a center, and takes from every row the gain that it no longer has."""
        starts, columns, values = self.kernel.indptr, self.kernel.indices, self.kernel.data
        near, value = (array[starts[row] : starts[row + 1]] for array in (columns, values))
        better = value > self.covered[near]
        near, after = near[better], value[better]
        before, self.covered[near] = self.covered[near], after
        counts = starts[near + 1] - starts[near]
        ends = np.cumsum(counts)
        entries = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts[near] - ends + counts, counts)
        value = values[entries]
        lost = np.maximum(value - np.repeat(before, counts), 0)
        lost -= np.maximum(value - np.repeat(after, counts), 0)
        lost *= np.repeat(self.weights[near], counts)
        np.subtract.at(self.gains, columns[entries], lost)
