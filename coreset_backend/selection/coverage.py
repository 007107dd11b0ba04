"""How well centers cover a pool: the distance of every row to its nearest center, evaluated lazily.

Distances to the nearest center only fall as centers are added, so a value computed long ago is an upper
bound of today's. Only rows whose bound could still be the maximum need a fresh look, and they are looked at
many rows and many centers at a time, as a matrix product (Minoux 1978).
"""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Progress, Rows, Vectors
from coreset_backend.selection.geometry import (
    blocks,
    nearest_to_mean,
    require_finite,
    sample_mean,
    shifted,
    squared_norms,
)
from coreset_backend.selection.lookahead import CENTER, Front
from coreset_backend.selection.nearest import CENTER_BLOCK, distances_in_order
from coreset_backend.selection.pool import Selection

CANCELLATION = 0.02
"""Below this share of the squared lengths, a squared distance has lost too many digits of float32."""
ROUNDING = 1e-5
"""No float32 squared distance is wrong by more than this share of the squared lengths."""
SHORTLIST = 8
"""How many times the candidates are kept at hand, so that not every look for candidates reads all bounds."""


class Coverage:
    """The distance of every row to its nearest center, known as an upper bound until asked for.

    Kept between batches while the vectors stay the same, it saves the pass over all of them.
    Beside the vectors it holds 16 bytes a row, the centers, a shortlist, and two blocks of candidates.
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
        self.vectors = vectors
        self._scale = np.ones(1, dtype=np.float32) if weights is None else np.square(weights)
        self._known = 0
        self._center_rows = np.empty(0, dtype=np.int64)
        self._shift: NDArray[np.floating] = sample_mean(vectors)
        # -2 (c - shift), so that a product with x - shift needs only |x|² and |c|² to be a squared distance.
        self._centers: NDArray[np.floating] = np.empty((0, vectors.shape[1]), dtype=np.float32)
        self._center_norms: NDArray[np.floating] = np.empty(0, dtype=np.float32)
        self._compared = np.zeros(len(vectors), dtype=np.int32)
        self._bounds = np.full(len(vectors), np.inf, dtype=np.float32)
        self._norms = np.empty(len(vectors), dtype=np.float32)
        self._shortlist: Rows = np.empty(0, dtype=np.int64)
        self._beyond = np.inf
        self._gather = np.empty((0, vectors.shape[1]), dtype=np.float32)
        self.add((rng or np.random.default_rng(0)).permutation(np.unique(center_rows)))
        self._largest_norm = self._compare_all_rows()

    @property
    def center_rows(self) -> Rows:
        """The rows that are centers, in the order in which they became one: int64[k]."""
        return self._center_rows[: self._known]

    @property
    def is_precise(self) -> bool:
        """Whether distances are small enough beside the vectors' lengths to need float64."""
        return self._shift.dtype == np.float64

    def add(self, rows: Rows) -> None:
        """Makes ``rows`` (int64[k], none of them a center yet) centers."""
        self._reserve(len(rows))
        new = slice(self._known, self._known + len(rows))
        centers = shifted(self.vectors, rows, self._shift)
        self._center_norms[new] = squared_norms(centers)
        np.multiply(centers, -2, out=self._centers[new])
        self._center_rows[new] = rows
        self._known = new.stop
        self._bounds[rows] = CENTER

    def pick(self, batch: int, progress: Progress | None = None) -> tuple[Rows, Floats]:
        """Makes the farthest row a center, ``batch`` times or until none is left.

        Returns the rows, int64[k], and the distance of each to its nearest center when it was
        picked, float32[k], never rising: the covering radius before that pick.
        """
        first = self._known
        self._reserve(batch)
        squared = self._begin_cold() if batch and not first else []
        many = max(2048, len(self._bounds) // 128)
        if batch < many // 16:  # then fewer candidates hold them all, and each is compared with all centers
            many //= 2
        while len(squared) < batch and (front := self._current_front(many)) is not None:
            self._pick_from(front, batch - len(squared), squared)
            if progress:
                progress(len(squared), batch)
        distances = np.sqrt(np.array(squared, dtype=np.float64)).astype(np.float32)
        return self.center_rows[first:], np.minimum.accumulate(distances)

    def radius(self) -> float:
        """The distance of the farthest row to its nearest center; inf without centers."""
        if not self._known:
            return float("inf")
        front = self._current_front(max(256, len(self._bounds) // 1024))  # one of them is to stay
        return float(np.sqrt(front.bounds.max())) if front else 0.0

    def _compare_all_rows(self) -> float:
        """Bounds every row by the first centers; returns the largest squared length."""
        known = min(CENTER_BLOCK, self._known)  # behind them lies room for those to come
        for block in blocks(*self.vectors.shape):
            with np.errstate(over="ignore", invalid="ignore"):
                points = shifted(self.vectors, block, self._shift)
                self._norms[block] = squared_norms(points)
                if known:
                    self._bounds[block] = self._nearest(points, self._norms[block], slice(0, known))
        require_finite(self.vectors, self._norms)
        if len(self._scale) > 1 and known:
            self._bounds *= self._scale
        self._bounds[self.center_rows] = CENTER
        self._compared[:] = known
        return float(self._norms.max())

    def _nearest(
        self, points: NDArray[np.floating], norms: NDArray[np.floating], some: slice
    ) -> NDArray[np.floating]:
        """Squared distances of shifted points (float[m, d]) to the nearest of some centers: float[m]."""
        products = points @ self._centers[some].T  # a sixth faster in OpenBLAS than the other way round
        products += self._center_norms[some]
        nearest: NDArray[np.floating] = products.min(axis=1)
        nearest += norms
        np.maximum(nearest, 0, out=nearest)
        return nearest

    def _scale_of(self, rows: Rows | slice) -> Floats:
        """What squared distances of ``rows`` are multiplied by: float32[m], or [1] without weights."""
        return self._scale if len(self._scale) == 1 else self._scale[rows]

    def _reserve(self, more: int) -> None:
        """Makes room for ``more`` centers, so that a pick appends without copying."""
        short = self._known + more - len(self._centers)
        if short > 0:
            self._centers = np.pad(self._centers, ((0, short), (0, 0)))
            self._center_norms = np.pad(self._center_norms, (0, short))
            self._center_rows = np.pad(self._center_rows, (0, short))

    def _current_front(self, size: int) -> Front | None:
        """The farthest of the ``size`` largest bounds, compared with all centers; None if all are centers."""
        while (front := self._candidates(size)) is not None:
            if not self.is_precise and front.threshold < CANCELLATION * self._largest_norm:
                self._begin_precise()
                continue
            current = self._refresh(front)
            if len(current.rows):
                return current
        return None

    def _candidates(self, size: int) -> Front | None:
        """The rows of the largest bounds that are no centers, gathered in the order of the file."""
        rows = self._largest(size)
        lowest = max(float(self._bounds[rows].min()), 0.0)
        rows = rows[self._bounds[rows] >= 0]
        if not len(rows):
            return None
        points = self._gathered(rows)
        norms = squared_norms(points) if self.is_precise else self._norms[rows]
        scale = np.broadcast_to(self._scale_of(rows), len(rows))
        bounds = self._bounds[rows].astype(points.dtype)
        return Front(rows, points, norms, bounds, scale, lowest)

    def _largest(self, size: int) -> Rows:
        """The rows of the ``size`` largest bounds in the order of the file, looked for in a shortlist first.

        Bounds only fall, so none outside it has since come above what was the largest there.
        """
        rows = self._shortlist[_places_of_largest(self._bounds[self._shortlist], size)]
        if len(rows) < size or self._bounds[rows].min() < self._beyond:
            self._shortlist = _places_of_largest(self._bounds, SHORTLIST * size)
            self._beyond = float(self._bounds[self._shortlist].min())
            rows = self._shortlist[_places_of_largest(self._bounds[self._shortlist], size)]
        return rows

    def _gathered(self, rows: Rows) -> NDArray[np.floating]:
        """``shifted``, in the same memory every time: fresh pages cost as much as the copy."""
        if self.vectors.dtype != self._shift.dtype:
            return shifted(self.vectors, rows, self._shift)
        if len(self._gather) < len(rows):
            self._gather = np.empty((len(rows), self.vectors.shape[1]), dtype=np.float32)
        points = self._gather[: len(rows)]
        np.take(self.vectors, rows, axis=0, out=points, mode="clip")
        points -= self._shift
        return points

    def _refresh(self, front: Front) -> Front:
        """Compares the front with the centers it has not seen; keeps the rows above its threshold.

        The rows longest out of date go first. Those that fall below the threshold leave early: the
        bound they leave with is valid, though not tight.
        """
        compared, known = self._compared[front.rows], self._known
        spare = np.empty_like(front.points)
        while (behind := (compared < known) & (front.bounds >= front.threshold)).any():
            start = int(compared[behind].min())
            stop = min((start // CENTER_BLOCK + 1) * CENTER_BLOCK, known)  # rows catch up with each other
            group = np.flatnonzero(behind & (compared == start))
            points = np.take(front.points, group, axis=0, out=spare[: len(group)], mode="clip")
            fresh = self._nearest(points, front.norms[group], slice(start, stop))
            front.bounds[group] = np.minimum(front.bounds[group], fresh * front.scale[group])
            compared[group] = stop
        self._bounds[front.rows], self._compared[front.rows] = front.bounds, compared
        return front.keep(front.bounds >= front.threshold)

    def _begin_cold(self) -> list[float]:
        """Picks the row nearest the mean, where there is no center to be far from."""
        self.add(np.array([nearest_to_mean(self.vectors)]))
        self._compare_all_rows()
        return [float("inf")]

    def _begin_precise(self) -> None:
        """Goes on in float64: every bound is raised by what rounding may have taken from it."""
        self._shift = self._shift.astype(np.float64)
        self._centers = np.zeros(self._centers.shape, dtype=np.float64)
        known = self._known
        self._centers[:known] = -2 * shifted(self.vectors, self.center_rows, self._shift)
        self._center_norms = squared_norms(self._centers) / 4
        free = self._bounds >= 0
        self._bounds[free] += np.float32(ROUNDING * self._largest_norm)
        self._compared[:] = 0
        self._shortlist = self._shortlist[:0]

    def _pick_from(self, front: Front, batch: int, squared: list[float]) -> None:
        """Picks while the farthest row is sure to be in the front; appends to ``squared``."""
        for _ in range(batch):
            place = front.farthest()
            if place is None:
                break
            squared.append(float(front.bounds[place]))
            self._append(front, place)
            front.lower(place)
            is_open = front.is_open
            if 2 * np.count_nonzero(is_open) < len(is_open):
                self._write_back(front)
                if not is_open.any():
                    return
                front = front.keep(is_open)
        self._write_back(front)

    def _append(self, front: Front, place: int) -> None:
        """Makes one row of the front a center."""
        known = self._known
        np.multiply(front.points[place], -2, out=self._centers[known])
        self._center_norms[known] = front.norms[place]
        self._center_rows[known] = front.rows[place]
        self._known += 1

    def _write_back(self, front: Front) -> None:
        self._bounds[front.rows], self._compared[front.rows] = front.bounds, self._known


def _places_of_largest(values: Floats, size: int) -> Rows:
    """Where the ``size`` largest of ``values`` stand, in order; all where there are no more: int64[k]."""
    n = len(values)
    return np.sort(np.argpartition(values, n - size)[n - size :]) if size < n else np.arange(n)


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
