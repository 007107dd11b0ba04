"""Vectors in blocks: shifting, norms, normalising, and errors for values that are not finite."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.errors import NotFinite

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
    return units


def nearest_to_mean(vectors: Vectors) -> int:
    """The row nearest the mean of all rows, the lowest such row: the first pick of an empty set."""
    mean = np.zeros(vectors.shape[1], dtype=np.float64)
    for block in blocks(*vectors.shape):
        mean += vectors[block].sum(axis=0, dtype=np.float64)
    mean /= len(vectors)
    distances = np.empty(len(vectors), dtype=np.float64)
    for block in blocks(*vectors.shape):
        difference = vectors[block] - mean
        distances[block] = np.einsum("ij,ij->i", difference, difference)
    return int(np.argmin(distances))


def shifted(vectors: Vectors, rows: Rows | slice, shift: NDArray[np.floating]) -> NDArray[np.floating]:
    """The named rows less ``shift``, in the dtype of ``shift``: float[m, d]."""
    part: NDArray[np.floating] = np.subtract(vectors[rows], shift, dtype=shift.dtype)
    return part
