"""Covering rows by few of them: which rows lie within a radius, and a local search for a cover.

The search is the weighting one of set cover (Gao et al. 2015): one chosen row out, one in, and every
row that stays uncovered weighs more with each step, so that the search leaves where it is stuck.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.selection.geometry import sample_mean, shifted, squared_norms
from coreset_backend.selection.graph import QUERIES, squared_distances
from coreset_backend.selection.pool import NeighborGraph

PATIENCE = 4
"""Swaps for each chosen row, without fewer uncovered rows, after which a search gives up."""
CLOCK = 64
"""Swaps between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Pairs of rows within some distance, both ways and each row with itself, as a sparse matrix by rows.

    The near rows of row i are ``rows[starts[i] : starts[i + 1]]`` (int32), and ``distances`` as far
    (float32). ``is_whole``: bool[n], false where more rows may be as near as those listed.
    """

    starts: Rows
    rows: NDArray[np.int32]
    distances: Floats
    is_whole: NDArray[np.bool_]

    def within(self, distance: float) -> "Reach":
        """The pairs not farther than ``distance``."""
        kept = self.distances <= distance
        counts = np.add.reduceat(kept, self.starts[:-1], dtype=np.int64)  # no row is without itself
        return Reach(_starts(counts), self.rows[kept], self.distances[kept], self.is_whole)

    def near(self, rows: Rows) -> tuple[Rows, Rows]:
        """All near rows of ``rows`` (int64[m]) one list after the other, and how many each has: int64."""
        counts = self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(counts)
        entries = np.arange(ends[-1] if len(ends) else 0)
        entries += np.repeat(self.starts[rows] - ends + counts, counts)
        return self.rows[entries].astype(np.int64), counts


def exact_reach(vectors: Vectors, distance: float) -> Reach:
    """All pairs of rows of float[n, d] within ``distance``, by blocks: time n², 8 bytes a pair."""
    n = len(vectors)
    points = shifted(vectors, slice(0, n), sample_mean(vectors))
    norms = squared_norms(points)
    counts, rows, distances = [], [], []
    for start in range(0, n, QUERIES):
        block = slice(start, min(start + QUERIES, n))
        squared = squared_distances(points[block], norms[block], points, norms)
        squared[np.arange(len(squared)), np.arange(block.start, block.stop)] = 0
        near = squared <= np.float32(distance) ** 2 * (1 + 1e-6)
        counts.append(np.count_nonzero(near, axis=1))
        rows.append(np.nonzero(near)[1].astype(np.int32))
        distances.append(np.sqrt(squared[near]))
    starts = _starts(np.concatenate(counts))
    return Reach(starts, np.concatenate(rows), np.concatenate(distances), np.ones(n, dtype=bool))


def graph_reach(graph: NeighborGraph, distance: float) -> Reach:
    """The pairs of a neighbour graph within ``distance``; a row whose list ends nearer is not whole."""
    n, k = graph.rows.shape
    near = (graph.rows >= 0) & (graph.distances <= distance)
    own, other = np.nonzero(near)[0], graph.rows[near].astype(np.int64)
    keys = np.concatenate([own * n + other, other * n + own, np.arange(n) * (n + 1)])
    far = np.concatenate([graph.distances[near], graph.distances[near], np.zeros(n, dtype=np.float32)])
    keys, first = np.unique(keys, return_index=True)
    starts = _starts(np.bincount(keys // n, minlength=n))
    whole: NDArray[np.bool_] = np.count_nonzero(near, axis=1) < min(k, n - 1)
    whole |= k >= n - 1
    return Reach(starts, (keys % n).astype(np.int32), far[first], whole)


def _starts(counts: NDArray[np.integer]) -> Rows:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


class Cover:
    """The rows chosen, what they cover, and what every row would add or is needed for, by weight."""

    def __init__(self, reach: Reach, required: NDArray[np.bool_], free: Rows) -> None:
        """``required``: bool[n], the rows to cover; ``free``: int64[m], those that may be chosen."""
        self.reach = reach
        self.weights = required.astype(np.float64)
        self.is_free = np.zeros(len(required), dtype=bool)
        self.is_free[free] = True
        self.chosen = np.empty(0, dtype=np.int64)
        self._count = np.zeros(len(required), dtype=np.int32)
        self._owners = np.zeros(len(required), dtype=np.int64)
        """The sum of the chosen rows near each: where there is one, that one."""
        self._score = np.add.reduceat(self.weights[reach.rows], reach.starts[:-1])
        self._stamp = np.zeros(len(required), dtype=np.int64)

    @property
    def uncovered(self) -> Rows:
        """The required rows that no chosen row is near: int64[m]."""
        return np.flatnonzero((self._count == 0) & (self.weights > 0))

    def fill(self, batch: int) -> None:
        """Chooses the row that covers most, until ``batch`` are chosen; the lowest among equals."""
        while len(self.chosen) < batch:
            open_score = np.where(self.is_free, self._score, -1)
            open_score[self.chosen] = -1
            self.add(int(np.argmax(open_score)))

    def add(self, row: int) -> None:
        """Chooses ``row``."""
        near, _ = self.reach.near(np.array([row]))
        count = self._count[near]
        self._change(row, near[count == 0], -1)
        single = near[count == 1]
        np.subtract.at(self._score, self._owners[single], self.weights[single])
        self._count[near] += 1
        self._owners[near] += row
        self.chosen = np.append(self.chosen, row)

    def remove(self, row: int) -> None:
        """Chooses ``row`` no more."""
        near, _ = self.reach.near(np.array([row]))
        self._count[near] -= 1
        self._owners[near] -= row
        count = self._count[near]
        self._change(row, near[count == 0], 1)
        single = near[count == 1]
        np.add.at(self._score, self._owners[single], self.weights[single])
        self.chosen = self.chosen[self.chosen != row]

    def _change(self, row: int, rows: Rows, sign: int) -> None:
        """Gives or takes the weight of ``rows`` from all that could cover them; ``row`` keeps what it has:

        what it would add as one not chosen is what it is needed for as one that is.
        """
        kept = self._score[row]
        rows = rows[self.weights[rows] > 0]
        near, counts = self.reach.near(rows)
        np.add.at(self._score, near, np.repeat(sign * self.weights[rows], counts))
        self._score[row] = kept

    def swap(self, outliers: int, deadline: float, rng: np.random.Generator) -> bool:
        """Swaps rows until at most ``outliers`` stay uncovered; False where time or patience ends first."""
        fewest, last = len(self.uncovered), 0
        for step in range(1, 10**9):
            uncovered = self.uncovered
            if len(uncovered) <= outliers:
                return True
            if len(uncovered) < fewest:
                fewest, last = len(uncovered), step
            if step - last > 50 + PATIENCE * len(self.chosen) or (
                step % CLOCK == 0 and time.monotonic() > deadline
            ):
                return False
            self._swap_one(uncovered, step, rng)
        return False

    def _swap_one(self, uncovered: Rows, step: int, rng: np.random.Generator) -> None:
        # A row that just came in stays for a while, and one that just went stays out.
        old = self.chosen[self._stamp[self.chosen] < step - 1]
        out = self._best(old if len(old) else self.chosen, least=True)
        self.remove(out)
        self._stamp[out] = step
        target = rng.choice(uncovered)
        near, _ = self.reach.near(np.array([target]))
        near = near[self.is_free[near] & (self._stamp[near] < step - 1)]
        if len(near):
            row = self._best(near, least=False)
            self.add(row)
            self._stamp[row] = step
        else:
            self.add(out)
        uncovered = self.uncovered
        self.weights[uncovered] += 1
        near, _ = self.reach.near(uncovered)
        np.add.at(self._score, near, 1.0)

    def _best(self, rows: Rows, *, least: bool) -> int:
        """The row of least or largest score, the one that changed longest ago among equals."""
        score = self._score[rows]
        rows = rows[score == (score.min() if least else score.max())]
        return int(rows[np.argmin(self._stamp[rows])])
