"""Greedy k-Center on a pool that is divided among processes or machines: the picks of one process, exactly.

Every shard sends the rows that could be farthest. The coordinator picks among them as long as none that it
has not seen could be farther, then tells the shards the new centers. One rule makes the picks the same
however the pool is divided: the largest exact distance, and the lowest row among equals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Protocol, TypeVar

import numpy as np

from coreset_backend.arrays import Floats, Progress, Rows, Vectors
from coreset_backend.selection.centers import Centers
from coreset_backend.selection.coverage import Coverage
from coreset_backend.selection.geometry import fixed_point, mean_of
from coreset_backend.selection.lookahead import Floor
from coreset_backend.selection.pool import Selection, require_batch
from coreset_backend.selection.pool_shard import CenterVectors, PoolShard

FRONT = 4096
"""Rows that all shards send together; each sends its part, and not less than LEAST_FRONT."""
LEAST_FRONT = 512
Answer = TypeVar("Answer")


class Shards(Protocol):
    """The shards of a pool, in the order of its rows: here, or each in a process of its own."""

    def each(self, work: Callable[[PoolShard], Answer], /) -> Sequence[Answer]:
        """What ``work`` returns for every shard, in their order; they may work at the same time."""
        ...


class LocalShards:
    """The shards of one pool in this process."""

    def __init__(self, shards: Sequence[PoolShard]) -> None:
        self._shards = shards

    @classmethod
    def of_parts(cls, parts: Sequence[Vectors], names: Sequence[str] | None = None) -> "LocalShards":
        """The parts of one pool, float[n, d] each; errors name them by ``names``."""
        firsts = accumulate((len(part) for part in parts), initial=0)
        named = zip(parts, firsts, names or [""] * len(parts), strict=False)
        return cls([PoolShard(*shard) for shard in named])

    def each(self, work: Callable[[PoolShard], Answer], /) -> Sequence[Answer]:
        return [work(shard) for shard in self._shards]


@dataclass(frozen=True, slots=True)
class ShardedSelection:
    """The selection, by rows of the whole pool, and what it took: ``messages`` both ways, in ``rounds``."""

    selection: Selection
    messages: int
    rounds: int


def sharded_k_center(
    shards: Shards,
    labeled_rows: Rows,
    batch: int,
    rng: np.random.Generator | None = None,
    *,
    progress: Progress | None = None,
) -> ShardedSelection:
    """The rows that `k_center_greedy` selects from the whole pool, in the same order.

    ``labeled_rows``: int64[l], rows of the whole pool. The radius at the end is exact; distances are bounds
    by matrix products, as in one process, and agree to about six digits. Raises NotFinite, and ValueError for
    labelled rows outside the pool, a negative batch, or shards of vectors of different lengths.
    """
    require_batch(batch)
    coordinator = Coordinator(shards)
    labeled = coordinator.require_rows(np.unique(labeled_rows))
    batch = min(batch, coordinator.n - len(labeled))
    centers, distances = (rng or np.random.default_rng(0)).permutation(labeled), np.empty(0, dtype=np.float32)
    if not len(labeled):
        if not batch:
            none = np.empty(0, dtype=np.int64)
            return coordinator.report(Selection(none, distances, np.inf, np.inf, radii=distances))
        centers, distances = np.array([coordinator.nearest_to_mean()]), np.full(1, np.inf, dtype=np.float32)
    coordinator.begin(centers)
    rows, more = coordinator.pick(batch - len(distances), progress)
    rows, distances = np.append(centers[: len(distances)], rows), np.append(distances, more)
    after = coordinator.radius()
    radii = np.append(distances[1:], np.float32(after))[: len(rows)]
    before = float(distances[0]) if len(rows) else after
    return coordinator.report(Selection(rows, distances, before, after, radii=radii))


class Coordinator:
    """Knows all centers of a pool, and asks its shards which rows are farthest from them."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self.messages = self.rounds = 0
        sizes, means = zip(*self.ask(lambda shard: (len(shard), shard.sample_mean())), strict=True)
        self._sizes: tuple[int, ...] = sizes
        self.n = sum(sizes)
        if len({len(mean) for mean in means}) != 1:
            raise ValueError(
                f"the shards have vectors of {[len(mean) for mean in means]} values: all must be alike"
            )
        weights = np.array(self._sizes, dtype=np.float64) / max(self.n, 1)
        self._shift = (weights @ np.array(means, dtype=np.float64)).astype(np.float32)

    def report(self, selection: Selection) -> ShardedSelection:
        return ShardedSelection(selection, self.messages, self.rounds)

    def require_rows(self, rows: Rows) -> Rows:
        """``rows`` (int64[k], ascending); raises ValueError where they are not in the pool."""
        if len(rows) and (rows[0] < 0 or rows[-1] >= self.n):
            raise ValueError(f"labeled_rows must lie in [0, {self.n}), got {rows[0]} to {rows[-1]}")
        return rows

    def nearest_to_mean(self) -> int:
        """The row nearest the mean of all rows, the lowest such row."""
        none = self.vectors_of(np.empty(0, dtype=np.int64))
        shift = self._shift
        self.ask(lambda shard: shard.begin(shift, none))  # NotFinite
        exponent = fixed_point(max(self.ask(lambda shard: shard.largest_value())), self.n)
        sums = sum(self.ask(lambda shard: shard.sums(exponent)), np.zeros(len(shift), dtype=np.int64))
        mean = mean_of(sums, exponent, self.n)
        return min(self.ask(lambda shard: shard.nearest(mean)))[1]

    def begin(self, rows: Rows) -> None:
        """Makes ``rows`` (int64[k], distinct, in any order) the first centers."""
        shift, first = self._shift, self.vectors_of(rows)
        self._centers = Centers(shift, first.vectors.dtype)
        self._centers.add(first.rows, first.vectors)
        self._new = CenterVectors(first.rows[:0], first.vectors[:0])
        self.ask(lambda shard: shard.begin(shift, first))

    def pick(self, batch: int, progress: Progress | None) -> tuple[Rows, Floats]:
        """Makes the farthest row a center, ``batch`` times: int64[batch], and distances as of `Coverage`."""
        picked, distances = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
        size = max(max(FRONT, self.n // 40) // len(self._sizes), LEAST_FRONT)
        while (left := batch - sum(map(len, picked))) and (union := self._union(size)) is not None:
            rows, coverage = union
            places, far = coverage.pick(left)
            self._know(coverage, CenterVectors(rows[places], coverage.vectors[places]))
            picked.append(rows[places])
            distances.append(far)
            if progress:
                progress(batch - left + len(places), batch)
        return np.concatenate(picked), np.minimum.accumulate(np.concatenate(distances))

    def radius(self) -> float:
        """The exact distance of the farthest row of the pool to its nearest center."""
        union = self._union(LEAST_FRONT)
        return float(np.sqrt(union[1].farthest() or 0)) if union else 0.0

    def _union(self, size: int) -> tuple[Rows, Coverage] | None:
        """The rows of all shards' fronts in the whole pool, int64[m], and how the centers cover them."""
        new = self._new
        answers = self.ask(lambda shard: shard.front(size, new))
        self._new = CenterVectors(new.rows[:0], new.vectors[:0])
        self.rounds += 1
        fronts = [front for front in answers if front is not None]
        if not fronts:
            return None
        rows = np.concatenate([front.rows for front in fronts])
        floor = reduce(Floor.or_higher, (front.floor for front in fronts))
        coverage = Coverage.of_fronts(
            np.concatenate([front.vectors for front in fronts]),
            self._centers,
            np.concatenate([front.bounds for front in fronts]),
            np.concatenate([front.is_exact for front in fronts]),
            Floor(floor.threshold, int(np.searchsorted(rows, floor.row))),
            max(front.share for front in fronts),
        )
        return rows, coverage

    def _know(self, coverage: Coverage, new: CenterVectors) -> None:
        """Keeps the centers that were picked, to tell the shards."""
        self._centers, self._new = coverage.centers, new

    def vectors_of(self, rows: Rows) -> CenterVectors:
        """The vectors of ``rows`` (int64[k], distinct), in their order."""
        found = self.ask(lambda shard: shard.centers_among(rows))
        known = np.concatenate([part.rows for part in found])
        places = np.argsort(known)[np.searchsorted(np.sort(known), rows)]
        return CenterVectors(rows, np.concatenate([part.vectors for part in found])[places])

    def ask(self, work: Callable[[PoolShard], Answer]) -> Sequence[Answer]:
        """What ``work`` returns for every shard; counts the messages."""
        answers = self._shards.each(work)
        self.messages += 2 * len(answers)  # there and back
        return answers
