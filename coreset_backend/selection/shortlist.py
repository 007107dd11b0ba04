"""The rows of the largest values, where values only fall: found among a few that are kept at hand."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Rows

SHORTLIST = 8
"""How many times the rows asked for are kept at hand, so that not every look reads all values."""

Values = NDArray[np.float32] | NDArray[np.int64]


class Shortlist:
    """Of ``values``, float32[n] or int64[n], which may fall in place but never rise."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._rows: Rows = np.empty(0, dtype=np.int64)
        self._beyond: np.float32 | np.int64 = np.int64(-1)

    def largest(self, size: int) -> Rows:
        """The rows of the ``size`` largest values, the lowest among equals, ascending: int64[k], all of less.

        None outside the shortlist has since come above what was the largest there.
        """
        values = self._values
        rows = self._rows[_places_of_largest(values[self._rows], size)]
        if len(rows) < size or values[rows].min() <= self._beyond:
            self._rows = _places_of_largest(values, SHORTLIST * size)
            self._beyond = values[self._rows].min()  # not as a float, which would round int64
            rows = self._rows[_places_of_largest(values[self._rows], size)]
        return rows


def _places_of_largest(values: Values, size: int) -> Rows:
    """Where the ``size`` largest of ``values`` are, the first among equals, in order; all places of less."""
    n = len(values)
    if size >= n:
        return np.arange(n)
    places = np.argpartition(values, n - size)[n - size :]
    least = values[places].min()
    above = places[values[places] > least]
    return np.sort(np.concatenate([above, np.flatnonzero(values == least)[: size - len(above)]]))
