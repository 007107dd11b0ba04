"""One shard of a kernel that is divided by rows: how well its rows are covered, and what candidates add."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array  # type: ignore[import-untyped]

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.selection.geometry import lengths
from coreset_backend.selection.herd import Gains, gains_of, near_values
from coreset_backend.selection.herding import WIDTH, coverage_by
from coreset_backend.selection.pool import NeighborGraph


@dataclass(frozen=True, slots=True)
class KernelEntries:
    """Kernel values, float32[k], of pairs of rows of the whole pool, int64[k] each."""

    rows: Rows
    columns: Rows
    values: Floats


@dataclass(frozen=True, slots=True)
class CandidateColumns:
    """What candidates add in one shard: their kernel, sparse [candidates, m], with m rows of the shard.

    ``covered`` and ``weights`` are of those rows: float32[m].
    """

    kernel: csr_array
    covered: Floats
    weights: Floats


class HerdShard:
    """Rows ``first_row`` and on: ``vectors`` float[m, d], near rows in the whole pool, weights float32[m]."""

    def __init__(
        self, vectors: Vectors, first_row: int, graph: NeighborGraph, weights: Floats | None
    ) -> None:
        self._first, self._graph = first_row, graph
        self.lengths = lengths(vectors) if len(vectors) else np.empty(0, dtype=np.float32)
        self.weights = np.ones(len(vectors), dtype=np.float32) if weights is None else weights
        self._vectors = vectors
        self._covered = np.zeros(len(vectors), dtype=np.float32)
        self._by_candidate = csr_array((0, len(vectors)), dtype=np.float32)

    def cover(self, units: Vectors) -> None:
        """Covers the rows by labelled ones, float32[k, d] of length 1."""
        self._covered = coverage_by(units, self._vectors, self.lengths)

    def covered(self, rows: Rows) -> Floats:
        """How well those of ``rows``, of the whole pool, that are here are covered: float32[k]."""
        return self._covered[rows[self._is_own(rows)] - self._first]

    def near(self, length: Floats) -> KernelEntries:
        """Makes the kernel of the graph's rows; returns the entries whose columns are in other shards.

        ``length``: float32[n] of all rows. A pair is near if one row is in the other's list, so the shard of
        the other row has to know the entry, too.
        """
        near = near_values(self._graph, self._first, length, WIDTH).tocoo()
        self._near = KernelEntries(near.row + self._first, near.col.astype(np.int64), near.data)
        elsewhere = ~self._is_own(self._near.columns)
        return KernelEntries(
            self._near.columns[elsewhere], self._near.rows[elsewhere], self._near.values[elsewhere]
        )

    def gains(self, others: KernelEntries, n: int, exponent: int) -> Gains:
        """What each of all n rows would add in this shard: int64[n]. ``others``: entries from all shards."""
        near, m = self._near, len(self._covered)
        here, within = self._is_own(others.rows), self._is_own(near.columns)
        lists = [
            (near.rows, near.columns, near.values),
            (near.columns[within], near.rows[within], near.values[within]),
            (others.rows[here], others.columns[here], others.values[here]),
        ]
        rows, columns, values = (np.concatenate(arrays) for arrays in zip(*lists, strict=True))
        del self._near
        self._by_candidate = _largest_of_each(columns, rows - self._first, values, (n, m))
        return gains_of(self._by_candidate, self._covered, self.weights, exponent)

    def columns(self, candidates: Rows, new: Rows) -> CandidateColumns:
        """Covers the rows by the ``new`` centers, then lists what the candidates are near to."""
        for center in new:
            part = slice(self._by_candidate.indptr[center], self._by_candidate.indptr[center + 1])
            near = self._by_candidate.indices[part]
            self._covered[near] = np.maximum(self._covered[near], self._by_candidate.data[part])
        part = self._by_candidate[candidates]
        rows, places = np.unique(part.indices, return_inverse=True)
        kernel = csr_array((part.data, places, part.indptr), shape=(len(candidates), len(rows)))
        return CandidateColumns(kernel, self._covered[rows], self.weights[rows])

    def _is_own(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of ``rows``, of the whole pool, are in this shard: bool[k]."""
        own: NDArray[np.bool_] = (rows >= self._first) & (rows < self._first + len(self._covered))
        return own


def _largest_of_each(rows: Rows, columns: Rows, values: Floats, shape: tuple[int, int]) -> csr_array:
    """The entries as a sparse array, the largest value where a pair is listed twice."""
    order = np.lexsort((values, columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    is_last = np.append((np.diff(rows) != 0) | (np.diff(columns) != 0), True)[: len(rows)]
    return csr_array(coo_array((values[is_last], (rows[is_last], columns[is_last])), shape=shape))
