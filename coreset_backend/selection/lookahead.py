"""The rows that could be farthest next: several picks are made among them before all others are looked at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Rows

CENTER = -1.0
"""The bound of a row that is a center itself: below any distance."""


@dataclass(slots=True)
class Front:
    """The rows that could be farthest: no row outside has a squared distance above ``threshold``.

    ``points``: float[m, d], the rows' shifted vectors, ``norms`` their squared lengths, ``bounds`` their
    squared distances to the nearest center, or more. ``scale``: what squared distances are multiplied by.
    """

    rows: Rows
    points: NDArray[np.floating]
    norms: NDArray[np.floating]
    bounds: NDArray[np.floating]
    scale: NDArray[np.floating]
    threshold: float

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Which of the rows may still be farther than all rows outside: bool[m]."""
        return self.bounds >= self.threshold

    def farthest(self) -> int | None:
        """The place of the farthest row; None where a row outside may be farther."""
        place = int(np.argmax(self.bounds))
        return place if self.bounds[place] >= self.threshold else None

    def lower(self, place: int) -> None:
        """Lower the bounds by the row at ``place``, which has become a center."""
        distances = self.points @ (-2 * self.points[place])
        distances += self.norms
        distances += self.norms[place]
        np.maximum(distances, 0, out=distances)
        distances *= self.scale
        np.minimum(self.bounds, distances, out=self.bounds)
        self.bounds[place] = CENTER

    def keep(self, kept: NDArray[np.bool_]) -> "Front":
        """The front of the rows ``kept``, bool[m], alone."""
        arrays = (self.points, self.norms, self.bounds, self.scale)
        points, norms, bounds, scale = (array[kept] for array in arrays)
        return Front(self.rows[kept], points, norms, bounds, scale, self.threshold)
