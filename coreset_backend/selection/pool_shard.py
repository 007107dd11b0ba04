"""One shard of a pool that is divided by rows: it knows its own rows, and what the coordinator tells it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.errors import NotFinite
from coreset_backend.selection.centers import Centers
from coreset_backend.selection.coverage import Coverage
from coreset_backend.selection.geometry import (
    fixed_point_sums,
    largest_value,
    nearest_row,
    require_finite,
    sample_mean,
    squared_norms,
)
from coreset_backend.selection.herd_shard import HerdShard
from coreset_backend.selection.lookahead import Floor
from coreset_backend.selection.pool import NeighborGraph


@dataclass(frozen=True, slots=True)
class CenterVectors:
    """Rows of the whole pool, int64[k], with their vectors, float[k, d]."""

    rows: Rows
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class ShardFront:
    """The rows of a shard that could be farthest, compared with all centers, and what its others may reach.

    ``rows``: int64[m] in the whole pool, ascending, with their ``vectors``, float[m, d]. ``bounds``,
    float32[m], ``is_exact``, bool[m], and ``share`` as in `Front`.
    """

    rows: Rows
    vectors: Vectors
    bounds: Floats
    is_exact: NDArray[np.bool_]
    floor: Floor
    share: float


class PoolShard:
    """Rows ``first_row`` and on of a pool: ``vectors``, float[n, d], may be a memory map, and n may be 0."""

    def __init__(
        self,
        vectors: Vectors,
        first_row: int,
        name: str = "",
        *,
        graph: NeighborGraph | None = None,
        weights: Floats | None = None,
    ) -> None:
        """``name`` stands in errors, as the rows of this shard do.

        For herding, ``graph``: near rows of each, numbered in the whole pool; ``weights``: float32[n].
        """
        self.vectors, self._first = vectors, first_row
        self._name = name or f"the shard that begins with row {first_row}"
        self._coverage: Coverage | None = None
        self._graph, self._weights = graph, weights

    @cached_property
    def herd(self) -> HerdShard:
        """This shard's part in herding. Raises NotFinite, and ValueError without a graph."""
        if self._graph is None:
            raise ValueError(f"{self._name}: herding in shards needs the near rows of its rows, as `graph`")
        with self._named():
            return HerdShard(self.vectors, self._first, self._graph, self._weights)

    def __len__(self) -> int:
        return len(self.vectors)

    def sample_mean(self) -> NDArray[np.float32]:
        """The mean of some rows, float32[d]; zeros without rows. Raises NotFinite."""
        mean = sample_mean(self.vectors) if len(self) else np.zeros(self.vectors.shape[1], dtype=np.float32)
        if not np.isfinite(mean).all():
            with self._named():
                require_finite(self.vectors, squared_norms(self.vectors))
        return mean

    def centers_among(self, rows: Rows) -> CenterVectors:
        """Those of ``rows`` (int64[k] of the whole pool) that are in this shard, with their vectors."""
        own = self._own(rows)
        return CenterVectors(self._first + own, self.vectors[own])

    def largest_value(self) -> float:
        """The largest absolute value."""
        return largest_value(self.vectors)

    def sums(self, exponent: int) -> NDArray[np.int64]:
        """fixed_point_sums of the rows: int64[d]."""
        return fixed_point_sums(self.vectors, exponent)

    def nearest(self, point: NDArray[np.float64]) -> tuple[float, int]:
        """The squared distance of the row nearest to float64[d], and its place in the whole pool."""
        if not len(self):
            return float("inf"), self._first
        squared, row = nearest_row(self.vectors, point)
        return squared, self._first + row

    def begin(self, shift: NDArray[np.float32], centers: CenterVectors) -> None:
        """Compares all rows with the first ``centers``; raises NotFinite for values that cannot be compared.

        ``shift``: float32[d], the same for all shards and the coordinator.
        """
        if len(self):
            known = Centers(shift, self.vectors.dtype)
            known.add(centers.rows, centers.vectors)
            with self._named():
                self._coverage = Coverage.of_shard(self.vectors, self._own(centers.rows), known)

    def front(self, size: int, new: CenterVectors) -> ShardFront | None:
        """Adds the ``new`` centers, then finds the farthest of ``size`` rows; None if all are centers."""
        if self._coverage is None:
            return None
        self._coverage.add_elsewhere(new.rows, new.vectors, self._own(new.rows))
        front = self._coverage.front(size)
        if front is None:
            return None
        return ShardFront(
            self._first + front.rows,
            self.vectors[front.rows],
            front.bounds.astype(np.float32),
            front.is_exact,
            Floor(front.floor.threshold, self._first + front.floor.row),
            front.share,
        )

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except NotFinite as error:
            raise NotFinite(f"{self._name}: {error}") from error

    def _own(self, rows: Rows) -> Rows:
        """The places in this shard of those of ``rows``, of the whole pool, that are in it."""
        own: Rows = rows[(rows >= self._first) & (rows < self._first + len(self))] - self._first
        return own
