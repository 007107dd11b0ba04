"""The map of the pool: every embedding as a point in the plane, with neighbours close together.

Pure numpy. PCA gives the start, then neighbours in the graph attract and random others repel each other: the
loss of UMAP (McInnes et al. 2018, arXiv 1802.03426, section 3.2, with a = b = 1), all points at once.
umap-learn can do this and more, but requires numba, llvmlite and scikit-learn.
"""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows
from coreset_backend.selection import NeighborGraph
from coreset_backend.selection.geometry import blocks

NEIGHBORS = 10
REPELLED = 4  # number of random points that repel each point, per epoch
REPULSION = 12.0  # compensates their small number: UMAP repels five times per attraction
FIRST_STEP = 0.1
EDGE_STEPS = 60_000_000  # bounds the time of large pools: epochs x edges
EPOCHS = 300
PASSES = 3  # an added row without placed neighbours waits until one of them has its place
BESIDE = 300.0  # deviation of an added row from the middle of its neighbours, or copies would coincide
STRONGEST = 8.0  # limits a force, or two coinciding points would fly apart


def layout(vectors: Floats, graph: NeighborGraph, seed: int) -> NDArray[np.uint16]:
    """uint16[n, 2]: a place for every row of float32[n, d], over 0..65535; the same for the same seed."""
    rng = np.random.default_rng(seed)
    points = principal_plane(vectors, rng)
    sources, targets, weights = _edges(graph)
    epochs = int(min(EPOCHS, max(40, EDGE_STEPS / max(len(sources), 1))))
    for epoch in range(epochs):
        step = FIRST_STEP * (1 - epoch / epochs)
        force = _attraction(points, sources, targets, weights) + REPULSION * _repulsion(points, rng)
        length = np.sqrt(np.einsum("ij,ij->i", force, force))[:, None]
        points += step * force * np.minimum(1, STRONGEST / np.maximum(length, 1e-12))
    return _spread(points)


def followed_layout(
    places: NDArray[np.uint16], before: Rows, graph: NeighborGraph, seed: int
) -> NDArray[np.uint16]:
    """uint16[n, 2]: the earlier ``places``, and those of added rows among their near rows.

    ``before``: int64[n], each row's place in the earlier map, -1 for added rows.
    """
    is_placed = before >= 0
    points = np.full((len(before), 2), 32767, dtype=np.float32)
    points[is_placed] = places[before[is_placed]]
    near = graph.rows[:, :NEIGHBORS]
    for _ in range(PASSES):
        waiting = np.flatnonzero(~is_placed)
        counted = (near[waiting] >= 0) & is_placed[near[waiting]]
        found = counted.any(axis=1)
        total = np.einsum("ij,ijk->ik", counted[found].astype(np.float32), points[near[waiting[found]]])
        points[waiting[found]] = total / counted[found].sum(axis=1, keepdims=True)
        is_placed[waiting[found]] = True
    added = before < 0
    points[added] += np.random.default_rng(seed).normal(0, BESIDE, (int(added.sum()), 2))
    placed: NDArray[np.uint16] = np.round(points.clip(0, 65535)).astype(np.uint16)
    return placed


def principal_plane(vectors: Floats, rng: np.random.Generator) -> Floats:
    """float32[n, 2]: the two directions of greatest variance, each scaled to a deviation of 5.

    The directions are those of at most 5,000 rows. A trace of noise parts equal rows.
    """
    sample = vectors[rng.permutation(len(vectors))[:5000]].astype(np.float64)
    mean = sample.mean(0)
    _, directions = np.linalg.eigh((sample - mean).T @ (sample - mean))
    plane = directions[:, -2:][:, ::-1].astype(np.float32)
    points = np.zeros((len(vectors), 2), dtype=np.float32)
    for block in blocks(*vectors.shape):
        points[block, : plane.shape[1]] = (vectors[block] - mean.astype(np.float32)) @ plane
    points *= 5 / np.maximum(points.std(0), 1e-12)
    return points + rng.normal(0, 1e-3, points.shape).astype(np.float32)


def _edges(graph: NeighborGraph) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
    """Each row's neighbours as pairs, with a weight in (0, 1]: 1 for the nearest, fading with distance."""
    rows, distances = graph.rows[:, :NEIGHBORS], graph.distances[:, :NEIGHBORS]
    found = rows >= 0
    finite = np.where(found, distances, 0)
    nearest = np.where(found[:, 0], finite[:, 0], 0)[:, None]
    beyond = np.maximum(finite - nearest, 0)
    scale = beyond.sum(1, keepdims=True) / np.maximum(found.sum(1, keepdims=True) - 1, 1)
    weights = np.exp(-beyond / np.maximum(scale, 1e-12)).astype(np.float32)
    sources = np.repeat(np.arange(len(rows), dtype=np.int32), found.sum(1))
    return sources, rows[found].astype(np.int32), weights[found]


def _attraction(
    points: Floats, sources: NDArray[np.int32], targets: NDArray[np.int32], weights: Floats
) -> Floats:
    """float32[n, 2]: how each point is drawn by its neighbours, and by those that name it theirs."""
    apart = points[targets] - points[sources]
    apart *= (weights / (1 + np.einsum("ij,ij->i", apart, apart)))[:, None]
    pulled = np.empty_like(points)
    for axis in (0, 1):
        pulled[:, axis] = np.bincount(sources, apart[:, axis], len(points)) - np.bincount(
            targets, apart[:, axis], len(points)
        )
    return pulled


def _repulsion(points: Floats, rng: np.random.Generator) -> Floats:
    """float32[n, 2]: how each point is pushed by a few random others."""
    pushed = np.zeros_like(points)
    for _ in range(REPELLED):
        apart = points - points[rng.integers(0, len(points), len(points))]
        square = np.einsum("ij,ij->i", apart, apart)
        pushed += apart / ((0.01 + square) * (1 + square))[:, None]
    return pushed


def _spread(points: Floats) -> NDArray[np.uint16]:
    """The points in one scale for both axes, the longer one lying; a few in a thousand sit on the rim."""
    centred = points - points.mean(0)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    turned = centred @ axes[:, ::-1]
    low, high = np.quantile(turned, [0.002, 0.998], axis=0)
    side = max(float((high - low).max()), 1e-9)
    inside = np.clip((turned - (low + high) / 2) / side + 0.5, 0, 1)
    places: NDArray[np.uint16] = np.round(inside * 65535).astype(np.uint16)
    return places
