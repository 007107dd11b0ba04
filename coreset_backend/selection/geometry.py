"""Vectors in blocks: shifting, norms, normalising, and errors for values that are not finite."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors, forget_pages
from coreset_backend.errors import NotFinite
from coreset_backend.selection.rounding import as_compared, exact_squares

BLOCK_VALUES = 2**18
"""Values per block: 1 MB of float32 stays in a core's own cache between two uses."""


def blocks(n: int, d: int) -> Iterator[slice]:
    """Slices that part n rows of d values into blocks of about BLOCK_VALUES values."""
    rows = max(64, BLOCK_VALUES // d)
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def sample_mean(vectors: Vectors, size: int = 4096) -> NDArray[np.float32]:
    """The mean of at most ``size`` rows, evenly spread: float32[d].

    Distances are taken between shifted vectors, for |x|² + |c|² - 2 x·c loses every digit when the
    cloud lies far from the origin. Any point of the cloud would do.
    """
    step = -(-len(vectors) // size)
    with np.errstate(over="ignore", invalid="ignore"):
        mean: Floats = np.asarray(vectors[::step].mean(axis=0, dtype=np.float64), dtype=np.float32)
    return mean


def squared_norms(block: Vectors) -> Floats:
    """|x|² of every row of float32[m, d]: float32[m]; inf or NaN where the row is not usable."""
    norms: Floats = np.einsum("ij,ij->i", block, block)
    return norms


def require_finite(vectors: Vectors, norms: Floats) -> None:
    """Raises NotFinite, naming the first row, if a squared norm in ``norms`` (float[n]) is not finite."""
    broken = np.flatnonzero(~np.isfinite(norms))
    if not len(broken):
        return
    row = next((row for row in broken if not np.isfinite(vectors[row]).all()), None)
    if row is not None:
        raise NotFinite(
            f"{len(broken)} of {len(vectors)} vectors cannot be compared; the first one with NaN or "
            f"infinity is row {row}. Leave these rows out, or embed them again."
        )
    raise NotFinite(
        f"the squared length of row {broken[0]} is beyond float32 (lengths up to about 1e18 can be "
        "compared). Scale the vectors down."
    )


def lengths(vectors: Vectors) -> Floats:
    """The Euclidean length of every row: float32[n].

    Raises NotFinite for NaN, infinity, lengths beyond 1e18, and a zero vector, which has no direction.
    """
    found = np.empty(len(vectors), dtype=np.float32)
    for block in blocks(*vectors.shape):
        with np.errstate(over="ignore", invalid="ignore"):
            part = vectors[block].astype(np.float64)
            found[block] = np.sqrt(np.einsum("ij,ij->i", part, part))
    with np.errstate(over="ignore"):
        require_finite(vectors, np.square(found))
    if not found.all():
        row = int(np.argmin(found))
        raise NotFinite(f"row {row} is a zero vector, which has no direction. Leave it out for cosine.")
    return found


def normalized(vectors: Vectors) -> Floats:
    """Every row divided by its length, so that Euclidean means cosine: a new float32[n, d].

    Raises NotFinite for NaN, infinity, and a zero vector, which has no direction.
    """
    length = lengths(vectors)
    units = np.empty(vectors.shape, dtype=np.float32)
    for block in blocks(*vectors.shape):
        np.divide(vectors[block], length[block, None], out=units[block], casting="same_kind")
    forget_pages(vectors)
    return units


def nearest_to_mean(vectors: Vectors) -> int:
    """The row nearest the mean of all rows, the lowest such row: the first pick of an empty set."""
    exponent = fixed_point(largest_value(vectors), len(vectors))
    return nearest_row(vectors, mean_of(fixed_point_sums(vectors, exponent), exponent, len(vectors)))[1]


def largest_value(vectors: Vectors) -> float:
    """The largest absolute value of float[n, d], which is finite."""
    return max((float(np.abs(vectors[block]).max()) for block in blocks(*vectors.shape)), default=0.0)


def fixed_point(largest: float, n: int) -> int:
    """The exponent e for which n values of at most ``largest``, times 2 to the e, have a sum within int64."""
    return min(52, 62 - n.bit_length()) - math.frexp(largest)[1]


def fixed_point_sums(vectors: Vectors, exponent: int) -> NDArray[np.int64]:
    """The sum of every column of float[n, d] times 2 to the ``exponent``: int64[d], whatever the order."""
    sums = np.zeros(vectors.shape[1], dtype=np.int64)
    for block in blocks(*vectors.shape):
        scaled = np.ldexp(vectors[block].astype(np.float64), exponent)
        sums += np.rint(scaled, out=scaled).astype(np.int64).sum(axis=0)
    return sums


def mean_of(sums: NDArray[np.int64], exponent: int, n: int) -> NDArray[np.float64]:
    """The mean of n rows by their fixed_point_sums: float64[d]."""
    mean: NDArray[np.float64] = np.ldexp(sums.astype(np.float64), -exponent) / n
    return mean


def nearest_row(vectors: Vectors, point: NDArray[np.float64]) -> tuple[float, int]:
    """The squared distance of the row of float[n, d] nearest to float64[d], and that row, the lowest such."""
    squared = np.empty(len(vectors), dtype=np.float32)
    for block in blocks(*vectors.shape):
        squared[block] = as_compared(exact_squares(vectors[block], point))
    row = int(np.argmin(squared))
    return float(squared[row]), row


def shifted(vectors: Vectors, rows: Rows | slice, shift: NDArray[np.floating]) -> NDArray[np.floating]:
    """The named rows less ``shift``, in the dtype of ``shift``: float[m, d]."""
    part: NDArray[np.floating] = np.subtract(vectors[rows], shift).astype(shift.dtype, copy=False)
    return part
