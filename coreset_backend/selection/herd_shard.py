"""One shard of a kernel that is divided by rows: how well its rows are covered, and what candidates add."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.selection.geometry import lengths
from coreset_backend.selection.herd import Gains, Herd, near_values
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

    ``covered`` and ``weights`` are of those rows: float32[m]. ``lost``, int64[k]: what rows of the whole
    pool, ``losing``, int64[k], no longer gain here because of the new centers.
    """

    kernel: csr_array
    covered: Floats
    weights: Floats
    losing: Rows
    lost: Gains


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
        listed = (near.values, (near.rows - self._first, near.columns))
        listing = (
            np.concatenate([near.values[within], others.values[here]]),
            (
                np.concatenate([near.columns[within], others.rows[here]]) - self._first,
                np.concatenate([near.rows[within], others.columns[here]]),
            ),
        )
        del self._near
        kernel = csr_array(listed, shape=(m, n)).maximum(csr_array(listing, shape=(m, n)))
        by_candidate = kernel.T.tocsr()
        self._herd = Herd.begin(by_candidate, kernel.tocsr(), self._covered, self.weights, exponent)
        return self._herd.gains

    def columns(self, candidates: Rows, new: Rows) -> CandidateColumns:
        """Makes the ``new`` rows centers, then lists what the candidates are near to."""
        herd = self._herd
        taken = [herd.take(center) for center in new]
        losing, places = np.unique(
            np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in taken)]), return_inverse=True
        )
        lost = np.zeros(len(losing), dtype=np.int64)
        np.add.at(lost, places, np.concatenate([np.empty(0, np.int64), *(some for _, some in taken)]))
        part = herd.kernel[candidates]
        rows, places = np.unique(part.indices, return_inverse=True)
        kernel = csr_array((part.data, places, part.indptr), shape=(len(candidates), len(rows)))
        return CandidateColumns(kernel, herd.covered[rows], self.weights[rows], losing, lost)

    def _is_own(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of ``rows``, of the whole pool, are in this shard: bool[k]."""
        own: NDArray[np.bool_] = (rows >= self._first) & (rows < self._first + len(self._covered))
        return own
