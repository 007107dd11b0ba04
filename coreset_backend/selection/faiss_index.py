"""The only door to faiss, the extra `faiss`: near rows of millions, by inverted lists in memory.

Every row is in the list of its nearest of some thousand middles; a search reads the lists of the middles
nearest to a query. The threads are those that OMP_NUM_THREADS allows.
"""

import numpy as np

from coreset_backend.arrays import Floats, Progress, Rows, Vectors
from coreset_backend.selection.geometry import require_finite, squared_norms
from coreset_backend.selection.graph import others_of
from coreset_backend.selection.pool import NeighborGraph

try:
    import faiss
except ImportError:  # an extra
    faiss = None

LISTS_PER_ROOT = 4
"""So many lists for the root of the number of rows, and PROBED of them are read for a query."""
PROBED = 16
TRAINED_ON = 64
"""Rows for each list that the middles are learned from."""
ROWS_AT_ONCE = 2**15


def is_installed() -> bool:
    return bool(faiss)


class FaissIndex:
    """An index of float[n, d], read in blocks and held as float32. Euclidean distances. Raises NotFinite."""

    name = "faiss"

    def __init__(self, vectors: Vectors, *, seed: int = 0, progress: Progress | None = None) -> None:
        n, d = vectors.shape
        self._n, self._vectors = n, vectors
        lists = max(min(int(LISTS_PER_ROOT * n**0.5), n // TRAINED_ON), 1)
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, lists)
        self._index.cp.seed, self._index.cp.max_points_per_centroid = seed, TRAINED_ON
        self._index.cp.min_points_per_centroid = 1
        self._index.nprobe = min(PROBED, lists)
        self._index.train(_block(vectors, slice(None, None, max(n // (TRAINED_ON * lists), 1))))
        for start in range(0, n, ROWS_AT_ONCE):
            self._index.add(_block(vectors, slice(start, start + ROWS_AT_ONCE)))
            if progress:
                progress(start, n)

    def __len__(self) -> int:
        return int(self._n)

    def nearest(self, queries: Rows, k: int, /) -> tuple[Rows, Floats]:
        """The k nearest rows of each of int64[m], itself first: rows int64[m, k], distances float32[m, k].

        Where fewer than k are found the rest is -1, at distance inf.
        """
        squared, rows = self._index.search(_block(self._vectors, queries), k)
        rows = np.asarray(rows, dtype=np.int64)
        distances = np.sqrt(np.maximum(squared, 0, dtype=np.float32))
        distances[rows < 0] = np.inf
        missed = ~(rows == queries[:, None]).any(axis=1)  # by k copies of it
        rows[missed, -1], distances[missed, -1] = queries[missed], 0
        order = np.argsort(rows != queries[:, None], axis=1, kind="stable")
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)

    def graph(self, k: int) -> NeighborGraph:
        """The k nearest other rows of every row; at most n - 1 of them, the rest is -1 at inf."""
        graph = NeighborGraph(np.empty((self._n, k), np.int32), np.empty((self._n, k), np.float32))
        for start in range(0, self._n, ROWS_AT_ONCE):
            queries = np.arange(start, min(start + ROWS_AT_ONCE, self._n), dtype=np.int64)
            part = others_of(queries, *self.nearest(queries, k + 1))
            graph.rows[queries], graph.distances[queries] = part
        return graph


def _block(vectors: Vectors, rows: Rows | slice) -> Floats:
    """Some rows as faiss wants them; raises NotFinite, for faiss takes NaN in silence."""
    block = np.ascontiguousarray(vectors[rows], dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        require_finite(block, squared_norms(block))
    return block
