"""The rows that could be farthest next: several picks are made among them before all others are looked at."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.selection.rounding import STORED, as_compared, exact_squares, slack

CENTER = -1.0
"""The bound of a row that is a center itself: below any distance."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What rows elsewhere may still reach: a squared distance of ``threshold``, there from row ``row`` on.

    Equal distances go to the lowest row, so a lower row is picked although it is no farther.
    """

    threshold: float = CENTER
    row: int = 0

    def is_below(self, squared: float, row: int) -> bool:
        """Whether no row elsewhere comes before ``row`` at this exact squared distance."""
        return squared > self.threshold or (squared == self.threshold and row < self.row)

    def or_higher(self, other: "Floor") -> "Floor":
        """What rows may reach that are elsewhere for one or the other."""
        return max(self, other, key=lambda floor: (floor.threshold, -floor.row))


@dataclass(slots=True)
class Front:
    """The rows that could be farthest, in the order of the file: no row outside reaches above ``floor``.

    ``vectors``: float[n, d], the whole pool; ``rows``: int64[m], where the front's rows are in it.
    ``points``: float[m, d], the rows' shifted vectors, ``norms`` their squared lengths, raised. ``scale``:
    what squared distances are multiplied by. ``bounds``: float[m], not below the exact squared distances to
    the nearest center, and above by at most ``slack``; equal to them where ``is_exact``.
    """

    vectors: Vectors
    rows: Rows
    points: NDArray[np.floating]
    norms: NDArray[np.floating]
    scale: NDArray[np.floating]
    bounds: NDArray[np.floating]
    is_exact: NDArray[np.bool_]
    floor: Floor
    longest: float
    share: float
    _exact: NDArray[np.intp] = field(init=False)
    doubt: float = field(init=False)

    def __post_init__(self) -> None:
        self._exact = np.flatnonzero(self.is_exact)
        farthest = float((self.bounds / self.scale).max(initial=0))
        longest = float(self.norms.max(initial=0))
        self.longest = max(self.longest, longest)
        self.doubt = 2 * slack(longest, farthest, self.longest, self.share)

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Which of the rows may still be farther than all rows outside: bool[m]."""
        return self.bounds >= max(self.floor.threshold, 0)

    def rivals(self) -> tuple[NDArray[np.intp], float]:
        """The row of largest bound, the lowest among equals, and with it those that may be farther.

        Their places, int64[k], the first one's first, and what its squared distance is at least.
        """
        place = self.first()
        least = float(self.bounds[place])
        if self.is_exact[place]:
            return np.array([place]), least
        least -= self.slack(place)
        places = np.flatnonzero(self.bounds >= least)
        return (places if len(places) == 1 else np.append(place, places[places != place])), least

    def slack(self, place: int) -> float:
        """How far the bound at ``place``, which is not exact, may be above the exact squared distance."""
        scale = float(self.scale[place])
        bound = float(self.bounds[place]) / scale
        return scale * slack(float(self.norms[place]), bound, self.longest, self.share)

    def first(self) -> int:
        """The place of the row of largest bound, the lowest among equals."""
        return int(np.argmax(self.bounds))

    def is_farthest(self, place: int, least: float, floor: Floor) -> bool:
        """Whether the row at ``place``, at ``least`` that far, comes before all that are below ``floor``."""
        if self.is_exact[place]:
            return floor.is_below(least, int(self.rows[place]))
        return least > floor.threshold

    def squared(self, place: int) -> float:
        """The squared distance of the row at ``place`` to its nearest center, as well as it is known."""
        squared = float(self.bounds[place])
        if not self.is_exact[place]:  # raised by as much, if its center is as long
            squared -= 2 * self.share * float(self.norms[place] * self.scale[place])
        return max(squared, 0.0)

    def settle(self, places: NDArray[np.intp], exact: Floats) -> None:
        """Replaces the bounds at ``places`` by the exact squared distances, float32[k]."""
        self.bounds[places], self.is_exact[places] = exact, True
        self._exact = np.append(self._exact, places)

    def compare(self, places: NDArray[np.intp], fresh: NDArray[np.floating]) -> None:
        """Lowers the bounds at ``places`` to ``fresh``, float[k], by centers that are new to them."""
        self.is_exact[places] &= fresh - self.doubt * self.scale[places] > self.bounds[places]
        self.bounds[places] = np.minimum(self.bounds[places], fresh)

    def lower(self, place: int) -> None:
        """Lowers the bounds by the row at ``place``, which has become a center."""
        distances = self.points @ (-2 * self.points[place])
        distances += self.norms
        distances += self.norms[place]
        distances *= distances.dtype.type(1 + STORED)
        np.maximum(distances, 0, out=distances)
        distances *= self.scale
        if len(self._exact):
            self._lower_exact(place, distances)
        np.minimum(self.bounds, distances, out=self.bounds)
        self.bounds[place] = CENTER

    def _lower_exact(self, place: int, distances: NDArray[np.floating]) -> None:
        """Keeps exact bounds exact, where the new center may be nearer; ``distances`` then has them too."""
        bounds, doubt = self.bounds[self._exact], self.doubt * self.scale[self._exact]
        near = self._exact[(bounds > 0) & (distances[self._exact] - doubt <= bounds)]
        exact = exact_squares(self.vectors[self.rows[near]], self.vectors[self.rows[place]])
        distances[near] = as_compared(exact * self.scale[near])

    def keep(self, kept: NDArray[np.bool_]) -> "Front":
        """The front of the rows ``kept``, bool[m], alone."""
        return replace(
            self,
            rows=self.rows[kept],
            points=self.points[kept],
            norms=self.norms[kept],
            scale=self.scale[kept],
            bounds=self.bounds[kept],
            is_exact=self.is_exact[kept],
        )
