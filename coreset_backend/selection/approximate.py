"""Greedy k-Center over a neighbour graph, for pools that do not fit in memory; re-measured exactly."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Progress
from coreset_backend.selection.coverage import measured
from coreset_backend.selection.geometry import (
    nearest_to_mean,
    sample_mean,
    shifted,
    squared_norms,
)
from coreset_backend.selection.nearest import nearest_center_distances
from coreset_backend.selection.pool import NeighborGraph, Pool, Selection, require_batch

CHECKS_PER_PICK = 16
"""How many far rows are compared with all earlier picks before the farthest of them is taken."""


def approximate_k_center(
    pool: Pool, batch: int, rng: np.random.Generator, *, progress: Progress | None = None
) -> Selection:
    """Farthest-first where a pick lowers the distances of its graph neighbours only.

    One sequential pass over the vectors for the labelled rows, then single rows. A row that no list
    of neighbours led to looks farther than it is, so up to 16 candidates a pick are compared with
    the earlier picks. ``distances`` and both radii are exact, measured after the choice.

    Raises ValueError without Pool.neighbors, or where they were made from normalised vectors.
    """
    require_batch(batch)
    graph = required_graph(pool, "annoy")
    if graph.normalized:
        raise ValueError("the strategy annoy needs neighbours by Euclidean distance, these are by cosine")
    bounds = distances_to_labeled(pool)
    picked: list[int] = []
    centers = np.empty((min(batch, len(pool.unlabeled_rows)), pool.vectors.shape[1]), dtype=np.float32)
    shift = sample_mean(pool.vectors)
    for done in range(len(centers)):
        first = done == 0 and not len(pool.labeled_rows)
        row = nearest_to_mean(pool.vectors) if first else _farthest(pool, bounds, centers[:done], shift)
        centers[done] = shifted(pool.vectors, np.array([row]), shift)[0]
        near, distances = graph.rows[row], graph.distances[row]
        near, distances = near[near >= 0], distances[near >= 0]
        bounds[near] = np.minimum(bounds[near], distances)
        bounds[row] = -1
        picked.append(row)
        if progress:
            progress(len(picked), batch)
    return measured(pool.vectors, pool.labeled_rows, np.array(picked, dtype=np.int64))


def required_graph(pool: Pool, strategy: str) -> NeighborGraph:
    """The pool's neighbours; raises ValueError where there are none."""
    if pool.neighbors is None:
        raise ValueError(
            f"the strategy {strategy} needs Pool.neighbors: build_index(...).graph(k) of "
            "coreset_backend.selection.annoy_index. k_center needs none and is exact."
        )
    return pool.neighbors


def distances_to_labeled(pool: Pool) -> Floats:
    """Distance to the nearest labelled row, -1 for the labelled, inf where there are none: float32[n]."""
    nearest = nearest_center_distances(pool.vectors, pool.labeled_rows)
    nearest[pool.labeled_rows] = -1
    return nearest


def _farthest(pool: Pool, bounds: Floats, centers: Floats, shift: NDArray[np.floating]) -> int:
    """The row of largest bound, after the largest bounds were made exact against the picks."""
    best, best_distance = -1, -1.0
    for _ in range(CHECKS_PER_PICK):
        row = int(np.argmax(bounds))
        if best_distance >= bounds[row]:
            break
        if len(centers):
            difference = centers - shifted(pool.vectors, np.array([row]), shift)
            bounds[row] = min(float(bounds[row]), float(np.sqrt(squared_norms(difference).min())))
        if bounds[row] > best_distance:
            best, best_distance = row, float(bounds[row])
    return best
