"""How well centers cover a pool: the distance of every row to its nearest center, evaluated lazily.

Distances to the nearest center only fall as centers are added, so a value computed long ago is an upper
bound of today's. Only rows whose bound could still be the maximum need a fresh look, and they are looked at
many rows and many centers at a time, as a matrix product (Minoux 1978).
"""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Progress, Rows, Vectors
from coreset_backend.selection.centers import Centers
from coreset_backend.selection.geometry import (
    blocks,
    nearest_to_mean,
    require_finite,
    sample_mean,
    shifted,
)
from coreset_backend.selection.lookahead import CENTER, Floor, Front
from coreset_backend.selection.nearest import CANCELLATION, CENTER_BLOCK, distances_in_order
from coreset_backend.selection.pool import Selection
from coreset_backend.selection.rounding import (
    STORED,
    as_compared,
    exact_squares,
    raised_norms,
    share_of_error,
)
from coreset_backend.selection.shortlist import Shortlist

SETTLED_AT_ONCE = 256
"""Rows whose exact distances are computed at once."""


class Coverage:
    """The distance of every row to its nearest center, known as an upper bound until asked for.

    The farthest row is the one of largest exact distance (see `rounding`), the lowest row among equals:
    whatever the order of the work, and however a pool is divided. Kept between batches while the vectors stay
    the same, it saves the pass over all of them. Beside the vectors it holds 17 bytes a row, the centers, a
    shortlist, and two blocks of candidates.
    """

    def __init__(
        self,
        vectors: Vectors,
        center_rows: Rows,
        rng: np.random.Generator | None = None,
        *,
        weights: Floats | None = None,
    ) -> None:
        """Reads ``vectors`` (float[n, d]) once; raises NotFinite for values that cannot be compared.

        ``rng`` shuffles the centers (default: seed 0), because the first ones are those that every
        row is compared with, and neighbours in a file are often alike. ``weights`` (float32[n], in
        (0, 1]) multiply every distance: a row is then as far as it is far and heavy.
        """
        rows = (rng or np.random.default_rng(0)).permutation(np.unique(center_rows))
        self._begin(vectors, Centers(sample_mean(vectors), vectors.dtype), weights)
        self.add(rows)
        self._largest_norm = self._compare_all_rows()
        self._bounds[rows] = CENTER

    @classmethod
    def of_shard(cls, vectors: Vectors, center_rows: Rows, centers: Centers) -> "Coverage":
        """A shard's rows, float[n, d], by ``centers`` of the whole pool, of which int64[k] are rows here."""
        coverage = cls.__new__(cls)
        coverage._begin(vectors, centers, None)
        coverage._largest_norm = coverage._compare_all_rows()
        coverage._bounds[center_rows] = CENTER
        return coverage

    @classmethod
    def of_fronts(
        cls,
        vectors: Vectors,
        centers: Centers,
        bounds: Floats,
        is_exact: NDArray[np.bool_],
        outside: Floor,
        share: float,
    ) -> "Coverage":
        """Rows that are compared with all ``centers`` (kept, and added to), and what others may reach.

        ``bounds`` (float32[n]), ``is_exact`` (bool[n]) and ``share`` as in `Front`.
        """
        coverage = cls.__new__(cls)
        coverage._begin(vectors, centers, None)
        coverage._outside, coverage._is_exact = outside, is_exact
        coverage._bounds[:] = bounds
        coverage._least_share = share
        coverage._compared[:] = len(centers)
        coverage._norms = raised_norms(shifted(vectors, slice(None), centers.shift)).astype(np.float32)
        coverage._largest_norm = float(coverage._norms.max(initial=0))
        return coverage

    def _begin(self, vectors: Vectors, centers: Centers, weights: Floats | None) -> None:
        self.vectors, self.centers = vectors, centers
        self._outside, self._least_share = Floor(), 0.0
        self._scale = np.ones(1, dtype=np.float32) if weights is None else np.square(weights)
        self._compared = np.zeros(len(vectors), dtype=np.int32)
        self._bounds = np.full(len(vectors), np.inf, dtype=np.float32)
        self._is_exact = np.zeros(len(vectors), dtype=bool)
        self._norms = np.empty(len(vectors), dtype=np.float32)
        self._shortlist = Shortlist(self._bounds)
        self._gather = np.empty((0, vectors.shape[1]), dtype=np.float32)

    @property
    def center_rows(self) -> Rows:
        """The rows that are centers, in the order in which they became one: int64[k]."""
        return self.centers.rows

    @property
    def is_precise(self) -> bool:
        """Whether distances are small enough beside the vectors' lengths to need float64."""
        return self.centers.shift.dtype == np.float64

    @property
    def share(self) -> float:
        """The share of both squared lengths by which products may be wrong."""
        return max(self._least_share, share_of_error(self.vectors.shape[1], self.centers.shift.dtype))

    def add(self, rows: Rows) -> None:
        """Makes ``rows`` (int64[k], none of them a center yet) centers."""
        self.add_elsewhere(rows, self.vectors[rows], rows)

    def add_elsewhere(self, rows: Rows, vectors: Vectors, own: Rows) -> None:
        """Adds centers of a whole pool, int64[k] with float[k, d]; ``own``, int64[m], are its rows here."""
        self.centers.add(rows, vectors)
        self._bounds[own] = CENTER

    def pick(self, batch: int, progress: Progress | None = None) -> tuple[Rows, Floats]:
        """Makes the farthest row a center, ``batch`` times or until none is left.

        Returns the rows, int64[k], and the distance of each to its nearest center when it was
        picked, float32[k], never rising: the covering radius before that pick.
        """
        first = len(self.centers)
        self.centers.reserve(batch)
        squared = self._begin_cold() if batch and not first else []
        many = max(2048, len(self._bounds) // 128)
        if batch < many // 16:  # then fewer candidates hold them all, and each is compared with all centers
            many //= 2
        while len(squared) < batch and (front := self._current_front(many)) is not None:
            before = len(squared)
            self._pick_from(front, batch - before, squared)
            if len(squared) == before and self._is_beaten(front):
                break
            if progress:
                progress(len(squared), batch)
        distances = np.sqrt(np.array(squared, dtype=np.float64)).astype(np.float32)
        return self.center_rows[first:], np.minimum.accumulate(distances)

    def radius(self) -> float:
        """The distance of the farthest row to its nearest center; inf without centers."""
        if not len(self.centers):
            return float("inf")
        return float(np.sqrt(self.farthest() or 0))

    def farthest(self) -> float | None:
        """Exact squared distance of the farthest row; None if all are centers, or one outside comes first."""
        front = self.front(max(256, len(self._bounds) // 1024))  # one of them is to stay
        if front is None or self._is_beaten(front):
            return None
        place = front.first()
        if not front.is_exact[place]:
            self._settle(front, np.array([place]))
        self._write_back(front)
        return float(front.bounds[place])

    def front(self, size: int) -> Front | None:
        """The farthest of the ``size`` largest bounds, of which one is the farthest row of all.

        Compared with all centers; None if all rows are centers.
        """
        while (front := self._current_front(size)) is not None:
            place = self._farthest(front, fresh=True)
            self._write_back(front)
            if place is not None or self._is_beaten(front):
                break
        return front

    def _compare_all_rows(self) -> float:
        """Bounds every row by the first centers; returns the largest squared length."""
        known = min(CENTER_BLOCK, len(self.centers))
        for block in blocks(*self.vectors.shape):
            with np.errstate(over="ignore", invalid="ignore"):
                points = shifted(self.vectors, block, self.centers.shift)
                self._norms[block] = raised_norms(points)
                if known:
                    self._bounds[block] = self._nearest(points, self._norms[block], slice(0, known))
        require_finite(self.vectors, self._norms)
        if len(self._scale) > 1 and known:
            self._bounds *= self._scale
        self._compared[:] = known
        return float(self._norms.max())

    def _nearest(
        self, points: NDArray[np.floating], norms: NDArray[np.floating], some: slice
    ) -> NDArray[np.floating]:
        """Bounds of the squared distances of shifted points (float[m, d]) to some centers: float[m]."""
        products = (
            points @ self.centers.doubled[some].T
        )  # a sixth faster in OpenBLAS than the other way round
        products += self.centers.norms[some]
        nearest: NDArray[np.floating] = products.min(axis=1)
        nearest += norms
        nearest *= nearest.dtype.type(1 + STORED)
        np.maximum(nearest, 0, out=nearest)
        return nearest

    def _scale_of(self, rows: Rows | slice) -> Floats:
        """What squared distances of ``rows`` are multiplied by: float32[m], or [1] without weights."""
        return self._scale if len(self._scale) == 1 else self._scale[rows]

    def _current_front(self, size: int) -> Front | None:
        """The farthest of the ``size`` largest bounds, compared with all centers; None if all are centers."""
        while (front := self._candidates(size)) is not None:
            lowest = max(front.floor.or_higher(self._outside).threshold, 0)
            if not self.is_precise and lowest < CANCELLATION * self._largest_norm:
                self._begin_precise()
                continue
            current = self._refresh(front)
            if len(current.rows):
                return current
        return None

    def _candidates(self, size: int) -> Front | None:
        """The rows of the largest bounds that are no centers, gathered in the order of the file."""
        rows = self._shortlist.largest(size)
        bounds = self._bounds[rows]
        lowest = float(bounds.min()) if len(rows) < len(self._bounds) else CENTER
        floor = Floor(lowest, int(rows[bounds == lowest][-1]) + 1 if lowest >= 0 else 0)
        rows = rows[bounds >= 0]
        if not len(rows):
            return None
        points = self._gathered(rows)
        norms = raised_norms(points) if self.is_precise else self._norms[rows]
        scale = np.broadcast_to(self._scale_of(rows), len(rows))
        bounds = self._bounds[rows].astype(points.dtype)
        longest = float(self.centers.norms.max(initial=0))
        arrays = (rows, points, norms, scale, bounds, self._is_exact[rows])
        return Front(self.vectors, *arrays, floor, longest, self.share)

    def _gathered(self, rows: Rows) -> NDArray[np.floating]:
        """``shifted``, in the same memory every time: fresh pages cost as much as the copy."""
        shift = self.centers.shift
        if self.vectors.dtype != shift.dtype:
            return shifted(self.vectors, rows, shift)
        if len(self._gather) < len(rows):
            self._gather = np.empty((len(rows), self.vectors.shape[1]), dtype=np.float32)
        points = self._gather[: len(rows)]
        np.take(self.vectors, rows, axis=0, out=points, mode="clip")
        points -= shift
        return points

    def _refresh(self, front: Front) -> Front:
        """Compares the front with the centers it has not seen; keeps the rows above its threshold.

        The rows longest out of date go first. Those that fall below the threshold leave early: the
        bound they leave with is valid, though not tight.
        """
        compared, known = self._compared[front.rows], len(self.centers)
        spare = np.empty_like(front.points)
        while (behind := (compared < known) & front.is_open).any():
            start = int(compared[behind].min())
            stop = min((start // CENTER_BLOCK + 1) * CENTER_BLOCK, known)  # rows catch up with each other
            group = np.flatnonzero(behind & (compared == start))
            points = np.take(front.points, group, axis=0, out=spare[: len(group)], mode="clip")
            fresh = self._nearest(points, front.norms[group], slice(start, stop))
            front.compare(group, fresh * front.scale[group])
            compared[group] = stop
        self._bounds[front.rows], self._compared[front.rows] = front.bounds, compared
        self._is_exact[front.rows] = front.is_exact
        return front.keep(front.is_open)

    def _begin_cold(self) -> list[float]:
        """Picks the row nearest the mean, where there is no center to be far from."""
        self.add(np.array([nearest_to_mean(self.vectors)]))
        self._compare_all_rows()
        self._bounds[self.center_rows] = CENTER
        return [float("inf")]

    def _begin_precise(self) -> None:
        """Goes on in float64: exact distances stay, all others are bounded anew."""
        self.centers = self.centers.in_float64()
        self._compared[~self._is_exact] = 0

    def _pick_from(self, front: Front, batch: int, squared: list[float]) -> None:
        """Picks while the farthest row is sure to be in the front; appends to ``squared``."""
        for done in range(batch):
            place = self._farthest(front, fresh=not done)
            if place is None:
                break
            squared.append(front.squared(place))
            row = int(front.rows[place])
            self.centers.append(row, self.vectors[row], front.points[place], front.norms[place])
            front.lower(place)
            is_open = front.is_open
            if 2 * np.count_nonzero(is_open) < len(is_open):
                self._write_back(front)
                if not is_open.any():
                    return
                front = front.keep(is_open)
        self._write_back(front)

    def _farthest(self, front: Front, fresh: bool) -> int | None:
        """The place of the farthest row; None where a row outside may be farther.

        A ``fresh`` front has exact distances computed before it gives up.
        """
        floor = front.floor.or_higher(self._outside)
        while True:
            rivals, least = front.rivals()
            place = int(rivals[0])
            if len(rivals) == 1 and front.is_farthest(place, least, floor):
                return place
            if front.is_exact[place] or not (fresh or least > floor.threshold):
                return None
            self._settle(front, rivals[~front.is_exact[rivals]])

    def _is_beaten(self, front: Front) -> bool:
        """Whether the farthest row of all, settled, comes after one outside."""
        place = front.first()
        if not front.is_exact[place]:
            return False
        squared, row = float(front.bounds[place]), int(front.rows[place])
        return front.floor.is_below(squared, row) and not self._outside.is_below(squared, row)

    def _settle(self, front: Front, places: NDArray[np.intp]) -> None:
        """Computes the exact distances of rows that are compared with all centers by bounds alone."""
        for start in range(0, len(places), SETTLED_AT_ONCE):
            some = places[start : start + SETTLED_AT_ONCE]
            squared = self._products(front.points[some])
            squared += self.centers.norms
            within = squared.min(axis=1, keepdims=True) + squared.dtype.type(front.doubt)
            place, center = np.divmod(np.flatnonzero(squared <= within), squared.shape[1])
            exact = exact_squares(self.vectors[front.rows[some[place]]], self.centers.vectors[center])
            nearest = np.minimum.reduceat(exact, np.searchsorted(place, np.arange(len(some))))
            front.settle(some, as_compared(nearest * front.scale[some]))

    def _products(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """-2 x·c of float[m, d] with all centers: float[m, k]. A few rows are faster one by one."""
        if len(points) > 4:
            return points @ self.centers.doubled.T
        return np.stack([self.centers.doubled @ point for point in points])

    def _write_back(self, front: Front) -> None:
        self._bounds[front.rows], self._compared[front.rows] = front.bounds, len(self.centers)
        self._is_exact[front.rows] = front.is_exact


def covering_radius(vectors: Vectors, center_rows: Rows) -> float:
    """The largest Euclidean distance of any row of ``vectors`` (float[n, d]) to its nearest center.

    Exact over all rows; inf without centers. Raises NotFinite for NaN, infinity and overflow.
    """
    return Coverage(vectors, center_rows).radius()


def radii_in_order(vectors: Vectors, labeled_rows: Rows, rows: Rows) -> Floats:
    """The covering radius after each of ``rows`` (int64[k]) has become a center too: float32[k], exact."""
    coverage = Coverage(vectors, np.append(labeled_rows, rows[:1]))
    radii = np.empty(len(rows), dtype=np.float32)
    for place in range(len(rows)):
        coverage.add(rows[place : place + 1] if place else rows[:0])
        radii[place] = coverage.radius()
    return radii


def measured(vectors: Vectors, labeled_rows: Rows, rows: Rows) -> Selection:
    """The evidence for ``rows`` (int64[k]) chosen by whatever rule, in their order, as a Selection.

    What a strategy that does not look at distances reports: how far each pick was from its nearest
    labelled or earlier picked row, and the covering radius before and after, exact, Euclidean.
    """
    coverage = Coverage(vectors, labeled_rows)
    before = coverage.radius()
    distances = distances_in_order(vectors, np.unique(labeled_rows), rows)
    coverage.add(rows)
    return Selection(rows, distances, before, coverage.radius())
