"""Clusters of similar rows, for people who look through a pool."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Vectors
from coreset_backend.selection.geometry import blocks

ROWS_EACH = 40
MOST_CLUSTERS = 24
STEPS = 20
SAMPLE = 10_000
"""Rows that the centers are found on; the others join the nearest center."""


def clusters(vectors: Vectors, seed: int) -> NDArray[np.int16]:
    """int16[n]: the cluster of each row by k-means on L2-normalised vectors, the largest cluster is 0."""
    n, rng = len(vectors), np.random.default_rng(seed)
    count = min(MOST_CLUSTERS, max(n // ROWS_EACH, 1))
    sample = _units(vectors[np.sort(rng.permutation(n)[:SAMPLE])])
    centers = _spread_out(sample, count, rng)
    for _ in range(STEPS):
        codes = _nearest(sample, centers)
        member = codes[:, None] == np.arange(len(centers))
        sums, filled = member.T.astype(np.float32) @ sample, member.any(0)
        centers[filled] = _units(sums[filled])
    codes = np.concatenate([_nearest(_units(vectors[block]), centers) for block in blocks(*vectors.shape)])
    place = np.argsort(np.argsort(-np.bincount(codes, minlength=len(centers)), kind="stable"))
    return place[codes].astype(np.int16)


def _spread_out(units: Floats, count: int, rng: np.random.Generator) -> Floats:
    """The first centers float32[<= count, d], each sampled by its distance to those before (k-means++)."""
    picked = [int(rng.integers(len(units)))]
    far = 1 - units @ units[picked[0]]
    while len(picked) < count and (total := far.clip(0).sum()) > 0:
        picked.append(int(rng.choice(len(units), p=far.clip(0) / total)))
        far = np.minimum(far, 1 - units @ units[picked[-1]])
    return units[picked].copy()


def _units(vectors: Vectors) -> Floats:
    """The vectors with length 1; a zero vector, which has no direction, stays as it is."""
    whole = vectors.astype(np.float32)
    return np.asarray(whole / np.linalg.norm(whole, axis=1, keepdims=True).clip(1e-12))


def _nearest(units: Floats, centers: Floats) -> NDArray[np.int64]:
    return np.asarray((units @ centers.T).argmax(axis=1))
