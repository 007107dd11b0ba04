"""Soft coverage by a kernel that is cut to near rows: a pick changes the gains of the rows around it only.

Imported where a strategy runs, because scipy is: the web process, which names the strategies, has none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from coreset_backend.arrays import Floats, Progress, Rows
from coreset_backend.selection.geometry import blocks
from coreset_backend.selection.pool import NeighborGraph

ROWS_AT_ONCE = 256
"""Near rows that a block of rows is sized for while gains are summed."""


def near_kernel(graph: NeighborGraph, length: Floats, width: float) -> csr_array:
    """The kernel between near rows and of each with itself, symmetric: sparse float32[n, n].

    A value is exp(-|a - b|² / width) between L2-normalised rows. ``length`` (float32[n]) turns Euclidean
    distances of a graph into those: |a - b|² = (|a| - |b|)² + |a| |b| |a/|a| - b/|b||².
    """
    n = len(graph.rows)
    found = np.pad(graph.rows >= 0, ((0, 0), (1, 0)), constant_values=True)
    columns = np.concatenate([np.arange(n, dtype=np.int32)[:, None], graph.rows], axis=1)[found]
    values = np.square(np.pad(graph.distances, ((0, 0), (1, 0)))[found])
    starts = np.concatenate([[0], np.cumsum(found.sum(axis=1))]).astype(np.int32)
    if not graph.normalized:
        own, other = np.repeat(length, np.diff(starts)), length[columns]
        values -= np.square(own - other)
        values /= own * other
    np.exp(np.maximum(values, 0) / -width, out=values)
    near = csr_array((values, columns, starts), shape=(n, n))
    return near.maximum(near.T.tocsr())


@dataclass(slots=True)
class Herd:
    """How well each row is covered, and by how much each would raise the weighted coverage."""

    kernel: csr_array
    covered: Floats
    weights: Floats
    gains: NDArray[np.float64]

    @classmethod
    def begin(cls, kernel: csr_array, covered: Floats, weights: Floats) -> "Herd":
        gains = np.empty(len(covered), dtype=np.float64)
        for block in blocks(len(covered), ROWS_AT_ONCE):
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
