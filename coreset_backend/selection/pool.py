"""The argument and the result of every strategy: a Pool in, a Selection out.

A *row* is a position in ``vectors``. No other index space exists in this package.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors, empty_beside, forget_pages

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class NeighborGraph:
    """Every row's near rows, nearest first, itself left out.

    ``rows``: int32[n, k], -1 where an approximate search found fewer than k.
    ``distances``: float32[n, k], Euclidean on the vectors the graph was made from, inf beside a -1.
    ``normalized``: whether those vectors were L2-normalised first (cosine).
    """

    rows: NDArray[np.int32]
    distances: Floats
    normalized: bool = False

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape != self.distances.shape:
            raise ValueError(
                f"rows {self.rows.shape} and distances {self.distances.shape} must be two equal [n, k] arrays"
            )

    def among(self, kept: Rows) -> "NeighborGraph":
        """The graph of the rows ``kept`` (int64[m], ascending) alone; the others' places become -1."""
        if len(kept) == len(self.rows):
            return self
        position = np.full(len(self.rows) + 1, -1, dtype=np.int32)  # the last is what -1 finds
        position[kept] = np.arange(len(kept), dtype=np.int32)
        return self.renamed(kept, position, self.rows.shape[1])

    def renamed(self, kept: Rows, names: NDArray[np.int32], width: int) -> "NeighborGraph":
        """The lists of the rows ``kept`` (int64[m]), cut to ``width``, in new names: those left out are -1.

        ``names``: int32[n + 1], the new name of each row, the last -1 for no row.
        """
        rows = empty_beside(self.rows, (len(kept), width), np.int32)
        distances = empty_beside(self.distances, (len(kept), width), np.float32)
        for start in range(0, len(kept), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            near, far = names[self.rows[kept[part]]], self.distances[kept[part]]
            if (near < 0).any():
                order = np.argsort(near < 0, axis=1, kind="stable")
                near, far = np.take_along_axis(near, order, axis=1), np.take_along_axis(far, order, axis=1)
            rows[part] = near[:, :width]
            distances[part] = np.where(near < 0, np.float32(np.inf), far)[:, :width]
            for array in (self.rows, self.distances, rows, distances):
                forget_pages(array)
        return NeighborGraph(rows, distances, self.normalized)


@dataclass(frozen=True, slots=True)
class Pool:
    """The rows to select from, with their labels, probabilities and neighbours.

    ``vectors``: float[n, d], float32 by custom, float16 and memory maps welcome; read in blocks.
    ``labeled_rows``: int64[l], in [0, n), in any order; a row may be named twice.
    ``probabilities``: float32[n, classes] of the classifier, where a strategy asks for them.
    ``neighbors``: the near rows of all n rows, where a strategy can use them. ``weights``: float32[n], how
    much each row counts, where examples were marked; herding multiplies its gain by it.

    Raises ValueError where shapes, dtypes or row ranges do not fit together. Values are looked at
    by the strategy, which raises NotFinite for NaN, infinity and lengths beyond float32.
    """

    vectors: Vectors
    labeled_rows: Rows
    probabilities: Floats | None = None
    neighbors: NeighborGraph | None = None
    weights: Floats | None = None

    def __post_init__(self) -> None:
        _require_matrix(self.vectors)
        _require_rows(self.labeled_rows, len(self.vectors))
        for name, rows in (
            ("probabilities", self.probabilities),
            ("neighbors", self.neighbors),
            ("weights", self.weights),
        ):
            given = len(rows.rows if isinstance(rows, NeighborGraph) else rows) if rows is not None else None
            if given not in (None, len(self.vectors)):
                raise ValueError(f"{name} has {given} rows, vectors has {len(self.vectors)}")

    def among(self, kept: Rows) -> "Pool":
        """The pool of the rows ``kept`` (int64[m], ascending, all labelled rows among them) alone.

        Vectors and neighbours that are mapped from files are copied to unnamed files beside them.
        """
        if len(kept) == len(self.vectors):
            return self
        vectors = empty_beside(self.vectors, (len(kept), self.vectors.shape[1]), self.vectors.dtype)
        for start in range(0, len(kept), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            vectors[part] = self.vectors[kept[part]]
            forget_pages(self.vectors)
            forget_pages(vectors)
        return Pool(
            vectors,
            np.searchsorted(kept, self.labeled_rows),
            None if self.probabilities is None else self.probabilities[kept],
            None if self.neighbors is None else self.neighbors.among(kept),
            None if self.weights is None else self.weights[kept],
        )

    @property
    def unlabeled_rows(self) -> Rows:
        """The rows a strategy may choose: int64[n - distinct labelled], ascending."""
        free = np.ones(len(self.vectors), dtype=bool)
        free[self.labeled_rows] = False
        return np.flatnonzero(free).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows chosen, in the order of choice, with the evidence.

    ``rows``: int64[k], distinct and unlabelled; k is the batch asked for, or all that were left.
    ``distances``: float32[k], from each pick to its nearest labelled or earlier picked row at the
    time of the pick, Euclidean in the space the strategy measures in (cosine strategies:
    normalised vectors). inf for the first pick of a pool without labels.
    ``radius_before``, ``radius_after``: the covering radius in the same space, that is the largest
    distance of any row of the pool to its nearest center, re-measured exactly over all rows;
    inf where nothing is labelled. robust_k_center leaves its outliers out of both.
    ``lower_bound``: no choice of k rows can have a smaller radius_after (robust strategies only).
    ``status``: what is proven: "optimal", "improved" on greedy, "greedy", or "" where not asked.
    ``radii``: float32[k], the covering radius after each pick, where the strategy knows it as it goes.
    ``normalized``: whether distances and radii are between L2-normalised vectors (cosine strategies).
    """

    rows: Rows
    distances: Floats
    radius_before: float
    radius_after: float
    lower_bound: float | None = None
    status: str = ""
    radii: Floats | None = None
    normalized: bool = False


Strategy = Callable[[Pool, int, np.random.Generator], Selection]


def require_batch(batch: int) -> None:
    """Raises ValueError for a negative batch."""
    if batch < 0:
        raise ValueError(f"a batch has 0 rows or more, not {batch}")


def _require_matrix(vectors: Vectors) -> None:
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(f"vectors must be float[n, d], not {vectors.dtype}{list(vectors.shape)}")
    if 0 in vectors.shape:
        raise ValueError(f"vectors must hold at least one row and one column, not {list(vectors.shape)}")


def _require_rows(rows: Rows, n: int) -> None:
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"labeled_rows must be int64[l], not {rows.dtype}{list(rows.shape)}")
    if len(rows) and (rows.min() < 0 or rows.max() >= n):
        raise ValueError(f"labeled_rows must lie in [0, {n}), got {rows.min()} to {rows.max()}")
