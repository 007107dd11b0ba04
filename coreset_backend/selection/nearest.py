"""How far rows are from their nearest centers: exact, by blocks of matrix products."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.selection.geometry import blocks, require_finite, sample_mean, shifted, squared_norms

CENTER_BLOCK = 96
"""Centers that rows are compared with at once: few, so that a row that cannot be farthest leaves early, and
enough that the first of them give every row a bound to begin with."""
CANCELLATION = 0.02
"""Below this share of the squared lengths, a squared distance has lost too many digits of float32."""


def nearest_center_distances(vectors: Vectors, center_rows: Rows, *, precise: bool = False) -> Floats:
    """The Euclidean distance of every row of float[n, d] to its nearest center: float32[n].

    0 at the centers (int64[k], any order), inf without any. ``precise`` looks again in float64 where
    distances are small beside the length of the vectors, and measures all in it. Raises NotFinite for values
    that cannot be compared.
    """
    shift = sample_mean(vectors)
    center_rows = np.unique(center_rows)
    centers = shifted(vectors, center_rows, shift)
    norms = squared_norms(centers)
    distances = np.full(len(vectors), np.inf, dtype=np.float32)
    for block in blocks(*vectors.shape):
        with np.errstate(over="ignore", invalid="ignore"):
            points = shifted(vectors, block, shift)
            own = squared_norms(points)
        require_finite(vectors[block], own)
        if not len(centers):
            continue
        nearest, which = _nearest(points, centers, norms)
        distances[block] = np.sqrt(np.maximum(own + nearest, 0))
        if precise:
            doubtful = own + nearest < CANCELLATION * (own + norms[which])
            which[doubtful] = _nearest_in_float64(
                vectors, block.start + np.flatnonzero(doubtful), center_rows
            )
            apart = vectors[block].astype(np.float64) - vectors[center_rows[which]]
            distances[block] = np.sqrt(np.einsum("ij,ij->i", apart, apart))
    distances[center_rows] = 0
    return distances


def _nearest_in_float64(vectors: Vectors, rows: Rows, center_rows: Rows) -> Rows:
    """Which of the centers is the nearest to each of ``rows`` int64[m]: int64[m]."""
    shift = sample_mean(vectors).astype(np.float64)
    centers = shifted(vectors, center_rows, shift)
    return _nearest(shifted(vectors, rows, shift), centers, squared_norms(centers))[1]


def _nearest(
    points: NDArray[np.floating], centers: NDArray[np.floating], norms: NDArray[np.floating]
) -> tuple[NDArray[np.floating], Rows]:
    """Squared distances of the points to their nearest centers less the points' squared lengths: float[m];
    and which centers they are: int64[m].
    """
    nearest, which = np.full(len(points), np.inf, points.dtype), np.zeros(len(points), np.int64)
    for start in range(0, len(centers), CENTER_BLOCK):
        products = points @ centers[start : start + CENTER_BLOCK].T
        products *= -2
        products += norms[start : start + CENTER_BLOCK]
        found = products.argmin(axis=1)
        least = products[np.arange(len(points)), found]
        nearer = least < nearest
        nearest[nearer], which[nearer] = least[nearer], found[nearer] + start
    return nearest, which


def beyond(vectors: Vectors, rows: Rows, center_rows: Rows, distance: float) -> NDArray[np.bool_]:
    """Which of ``rows`` (int64[m]) lie farther than ``distance`` from all centers: bool[m].

    A row is compared until a center is near, which for most is soon.
    """
    shift = sample_mean(vectors)
    centers = shifted(vectors, center_rows, shift)
    norms = squared_norms(centers)
    far = np.zeros(len(rows), dtype=bool)
    for block in blocks(len(rows), vectors.shape[1]):
        left, points = np.arange(block.start, block.stop), shifted(vectors, rows[block], shift)
        for start in range(0, len(centers), CENTER_BLOCK):
            part = slice(start, start + CENTER_BLOCK)
            nearest = (norms[part, None] - 2 * (centers[part] @ points.T)).min(axis=0) + squared_norms(points)
            left, points = left[nearest > distance**2], points[nearest > distance**2]
        far[left] = True
    return far


def distances_in_order(vectors: Vectors, center_rows: Rows, rows: Rows) -> Floats:
    """The distance of each of ``rows`` (int64[k]) to its nearest center or predecessor: float32[k]."""
    shift = sample_mean(vectors).astype(np.float64)
    points = shifted(vectors, rows, shift)
    norms = squared_norms(points)
    nearest = np.full(len(rows), np.inf)
    for start in range(0, len(center_rows), CENTER_BLOCK):
        centers = shifted(vectors, center_rows[start : start + CENTER_BLOCK], shift)
        squared = norms[:, None] + squared_norms(centers) - 2 * (points @ centers.T)
        np.minimum(nearest, squared.min(axis=1), out=nearest)
    for start in range(0, len(rows), CENTER_BLOCK):
        part = slice(start, start + CENTER_BLOCK)
        squared = norms[start:, None] + norms[part] - 2 * (points[start:] @ points[part].T)
        squared[np.triu_indices(len(squared), m=squared.shape[1])] = np.inf
        np.minimum(nearest[start:], squared.min(axis=1), out=nearest[start:])
    distances: Floats = np.sqrt(np.maximum(nearest, 0)).astype(np.float32)
    return distances
