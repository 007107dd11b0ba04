"""Soft coverage by a kernel that is cut to near rows: a pick changes the gains of the rows around it only.

Imported where a strategy runs, because scipy is: the web process, which names the strategies, has none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from coreset_backend.arrays import Floats, Progress, Rows
from coreset_backend.selection.geometry import blocks, fixed_point
from coreset_backend.selection.pool import NeighborGraph

ROWS_AT_ONCE = 256
"""Near rows that a block of rows is sized for while gains are summed."""
TAKEN = -1
"""The gain of a row that is a center: below any."""
Gains = NDArray[np.int64]
"""Gains in fixed point, so that a sum is the same in any order: a pool in shards gives the same picks."""
ROWS_TOGETHER = 65_536
PARTS = 16
"""The kernel of a large pool is made in so many parts: each looks through all lists for those that name its
rows, and holds a part of what making the kernel at once would."""


def near_values(graph: NeighborGraph, first_row: int, length: Floats, width: float) -> csr_array:
    """The kernel of a graph's rows, ``first_row`` and on of the pool, with near rows and with themselves.

    A value is exp(-|a - b|² / width) between L2-normalised rows. ``length`` (float32[n], of all rows) turns
    Euclidean distances of a graph into those: |a - b|² = (|a| - |b|)² + |a| |b| |a/|a| - b/|b||². Sparse
    float32[m, n], not symmetric: a row may be in another's list, which is not in its own.
    """
    m = len(graph.rows)
    found = np.pad(graph.rows >= 0, ((0, 0), (1, 0)), constant_values=True)
    own = np.arange(first_row, first_row + m, dtype=np.int32)
    columns = np.concatenate([own[:, None], graph.rows], axis=1)[found]
    distances = np.pad(graph.distances, ((0, 0), (1, 0)))[found]
    counts = found.sum(axis=1)
    starts = np.concatenate([[0], np.cumsum(counts)])
    values = _kernel_values(graph, distances, np.repeat(length[own], counts), length[columns], width)
    return csr_array((values, columns, starts), shape=(m, len(length)))


def near_kernel(graph: NeighborGraph, length: Floats, width: float) -> csr_array:
    """The kernel between near rows and of each with itself, symmetric: sparse float32[n, n]."""
    n, at = len(graph.rows), 0
    entries = n + 2 * sum(int((graph.rows[part] >= 0).sum()) for part in blocks(n, ROWS_AT_ONCE))
    starts = np.zeros(n + 1, dtype=np.int64)
    columns, values = np.empty(entries, dtype=np.int32), np.empty(entries, dtype=np.float32)
    many = max(ROWS_TOGETHER, -(-n // PARTS))
    for start in range(0, n, many):
        block = slice(start, min(start + many, n))
        listed = NeighborGraph(graph.rows[block], graph.distances[block], graph.normalized)
        near = near_values(listed, start, length, width).maximum(_naming(graph, block, length, width))
        columns[at : at + near.nnz], values[at : at + near.nnz] = near.indices, near.data
        starts[start + 1 : block.stop + 1] = at + near.indptr[1:]
        at += near.nnz
    return csr_array((values[:at], columns[:at], starts), shape=(n, n))


def _naming(graph: NeighborGraph, block: slice, length: Floats, width: float) -> csr_array:
    """The kernel of the rows of the block with the rows in whose lists they are, float32[m, n]."""
    m, n, found = block.stop - block.start, len(graph.rows), []
    for part in blocks(n, ROWS_AT_ONCE):
        named = graph.rows[part]
        is_here = (named >= block.start) & (named < block.stop)
        rows = np.repeat(np.arange(part.start, part.stop, dtype=np.int32), is_here.sum(axis=1))
        found.append((rows, named[is_here], graph.distances[part][is_here]))
    rows, columns, distances = (np.concatenate(each) for each in zip(*found, strict=True))
    values = _kernel_values(graph, distances, length[rows], length[columns], width)
    return csr_array((values, (columns - block.start, rows)), shape=(m, n))


def _kernel_values(
    graph: NeighborGraph, distances: Floats, own: Floats, other: Floats, width: float
) -> Floats:
    values = np.square(distances)
    if not graph.normalized:
        values -= np.square(own - other)
        values /= own * other
    kernel: Floats = np.exp(np.maximum(values, 0) / -width)
    return kernel


def in_fixed_point(raised: Floats, weights: Floats, exponent: int) -> Gains:
    """What rows of ``weights`` gain where their kernel value is ``raised`` by so much, float32[k] >= 0."""
    gains = np.multiply(raised, weights, dtype=np.float64)
    return np.rint(np.ldexp(gains, exponent, out=gains), out=gains).astype(np.int64)


def gains_of(kernel: csr_array, covered: Floats, weights: Floats, exponent: int) -> Gains:
    """By how much each row of the kernel, sparse [m, n], would raise the weighted coverage: int64[m]."""
    gains = np.zeros(kernel.shape[0], dtype=np.int64)
    for block in blocks(len(gains), ROWS_AT_ONCE):
        part = kernel[block]
        raised = np.maximum(part.data - covered[part.indices], 0)
        sums = np.append(0, np.cumsum(in_fixed_point(raised, weights[part.indices], exponent)))
        gains[block] = sums[part.indptr[1:]] - sums[part.indptr[:-1]]
    return gains


@dataclass(slots=True)
class Herd:
    """How well each row is covered, and by how much each candidate would raise the weighted coverage.

    ``kernel``: sparse float32[m, n] of m candidates with n rows, ``by_row`` the same by rows, [n, m]; both
    are one symmetric array where all rows are candidates.
    """

    kernel: csr_array
    by_row: csr_array
    covered: Floats
    weights: Floats
    exponent: int
    gains: Gains

    @classmethod
    def begin(
        cls, kernel: csr_array, by_row: csr_array, covered: Floats, weights: Floats, exponent: int
    ) -> "Herd":
        gains = gains_of(kernel, covered, weights, exponent)
        return cls(kernel, by_row, covered.copy(), weights, exponent, gains)

    def exclude(self, rows: Rows) -> None:
        """Rows, int64[k], that are no candidates."""
        self.gains[rows] = TAKEN

    def pick(self, batch: int, progress: Progress | None) -> Rows:
        """The candidate of largest gain, ``batch`` times, the lowest among equals: int64[batch]."""
        rows = np.empty(batch, dtype=np.int64)
        for done in range(batch):
            rows[done] = row = int(np.argmax(self.gains))
            self.take(row)
            if progress:
                progress(done + 1, batch)
        return rows

    def take(self, row: int) -> tuple[NDArray[np.int32], Gains]:
        """Makes the candidate ``row`` a center; returns which candidates lose what, as `_lost` does."""
        starts, columns, values = self.kernel.indptr, self.kernel.indices, self.kernel.data
        near, value = (array[starts[row] : starts[row + 1]] for array in (columns, values))
        better = value > self.covered[near]
        near, after = near[better], value[better]
        before, self.covered[near] = self.covered[near], after
        candidates, lost = self._lost(near, before, after)
        np.subtract.at(self.gains, candidates, lost)
        self.gains[row] = TAKEN
        return candidates, lost

    def _lost(
        self, near: NDArray[np.int32], before: Floats, after: Floats
    ) -> tuple[NDArray[np.int32], Gains]:
        """What candidates, int32[k], named more than once, lose as rows are covered better: int64[k]."""
        starts, columns, values = self.by_row.indptr, self.by_row.indices, self.by_row.data
        counts = starts[near + 1] - starts[near]
        ends = np.cumsum(counts)
        entries = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts[near] - ends + counts, counts)
        value, weights = values[entries], np.repeat(self.weights[near], counts)
        lost = in_fixed_point(np.maximum(value - np.repeat(before, counts), 0), weights, self.exponent)
        lost -= in_fixed_point(np.maximum(value - np.repeat(after, counts), 0), weights, self.exponent)
        return columns[entries], lost


def begin_herd(graph: NeighborGraph, length: Floats, width: float, covered: Floats, weights: Floats) -> Herd:
    """All rows of a pool as candidates; arrays as in `near_kernel` and `Herd`."""
    kernel = near_kernel(graph, length, width)
    exponent = fixed_point(float(weights.max(initial=0)) or 1.0, len(weights))
    return Herd.begin(kernel, kernel, covered, weights, exponent)
