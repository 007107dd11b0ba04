"""The centers of a pool, in the order in which they became one, with room for those to come."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Rows, Vectors
from coreset_backend.selection.rounding import raised_norms


class Centers:
    """Their vectors as given, and as matrix products want them.

    ``rows``: int64[k]. ``vectors``: float[k, d]. ``doubled``: float[k, d], -2 (c - shift), so that a product
    with x - shift needs only |x|² and |c|², ``norms``, raised, to bound a squared distance.
    """

    def __init__(self, shift: NDArray[np.floating], dtype: np.dtype[np.floating]) -> None:
        self.shift = shift
        self._known = 0
        self._rows = np.empty(0, dtype=np.int64)
        self._vectors: Vectors = np.empty((0, len(shift)), dtype=dtype)
        self._doubled: NDArray[np.floating] = np.empty((0, len(shift)), dtype=shift.dtype)
        self._norms: NDArray[np.floating] = np.empty(0, dtype=shift.dtype)

    def __len__(self) -> int:
        return self._known

    @property
    def rows(self) -> Rows:
        return self._rows[: self._known]

    @property
    def vectors(self) -> Vectors:
        return self._vectors[: self._known]

    @property
    def doubled(self) -> NDArray[np.floating]:
        return self._doubled[: self._known]

    @property
    def norms(self) -> NDArray[np.floating]:
        return self._norms[: self._known]

    def reserve(self, more: int) -> None:
        """Makes room, so that the next ``more`` centers are added without copying."""
        short = self._known + more - len(self._rows)
        if short > 0:
            self._rows = np.pad(self._rows, (0, short))
            self._norms = np.pad(self._norms, (0, short))
            self._doubled = np.pad(self._doubled, ((0, short), (0, 0)))
            self._vectors = np.pad(self._vectors, ((0, short), (0, 0)))

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Adds the rows int64[m] with their vectors float[m, d]."""
        self.reserve(len(rows))
        new = slice(self._known, self._known + len(rows))
        shifted = np.subtract(vectors, self.shift).astype(self.shift.dtype, copy=False)
        self._rows[new], self._vectors[new] = rows, vectors
        self._norms[new] = raised_norms(shifted)
        np.multiply(shifted, -2, out=self._doubled[new])
        self._known = new.stop

    def append(
        self, row: int, vector: Vectors, shifted: NDArray[np.floating], norm: NDArray[np.floating]
    ) -> None:
        """Adds one row, for which room is reserved."""
        at = self._known
        self._rows[at], self._vectors[at], self._norms[at] = row, vector, norm
        np.multiply(shifted, -2, out=self._doubled[at])
        self._known += 1

    def in_float64(self) -> "Centers":
        """The same centers for products in float64."""
        precise = Centers(self.shift.astype(np.float64), self._vectors.dtype)
        precise.reserve(len(self._rows))
        precise.add(self.rows, self.vectors)
        return precise
