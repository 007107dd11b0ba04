"""Strategies that need the classifier: margin, entropy, and combinations with k-Center and k-means++."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Progress, Rows
from coreset_backend.selection.coverage import Coverage, measured
from coreset_backend.selection.geometry import require_finite, shifted, squared_norms
from coreset_backend.selection.greedy import k_center_greedy
from coreset_backend.selection.pool import Pool, Selection, require_batch

CANDIDATES_PER_PICK = 4
"""margin_k_center keeps this many uncertain rows for each one it picks (Citovsky et al. 2021)."""
LEAST_WEIGHT = 1e-3
"""A row the classifier is sure of keeps a little weight, so that distance decides among such rows."""


def margins(probabilities: Floats) -> Floats:
    """The largest probability less the second largest, float32[n] in [0, 1]; 0 = least certain."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities), dtype=np.float32)
    top = np.partition(probabilities, -2, axis=1)
    return (top[:, -1] - top[:, -2]).astype(np.float32)


def class_balance(probabilities: Floats) -> Floats:
    """How rare the likely classes of every row are, float32[n], 1 on average: p divided by p's mean over all.

    After Bengar et al. (2021, arXiv 2110.04543), softly. A class that has hardly any probability in the whole
    pool counts as one row, so that noise is not blown up.
    """
    p = probabilities.astype(np.float64)
    share = np.maximum(p.mean(axis=0), 1 / len(p))
    return np.asarray((p / share).mean(axis=1), dtype=np.float32)


def entropies(probabilities: Floats) -> Floats:
    """Shannon entropy of every row in nats: float32[n]."""
    p = probabilities.astype(np.float64)
    return np.asarray(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1), dtype=np.float32)


def required_probabilities(pool: Pool, strategy: str) -> Floats:
    """The pool's probabilities; raises ValueError where there are none or they are not finite."""
    if pool.probabilities is None:
        raise ValueError(
            f"the strategy {strategy} needs Pool.probabilities, float32[n, classes]. Without a "
            "classifier use a strategy that needs vectors only: k_center, max_herding, typiclust or random."
        )
    if not np.isfinite(pool.probabilities).all():
        raise ValueError(f"the strategy {strategy} got probabilities with NaN or infinity")
    return pool.probabilities


def margin(pool: Pool, batch: int, rng: np.random.Generator) -> Selection:
    """The rows of smallest margin between the two likeliest classes; the lower row among equals."""
    return _lowest(pool, batch, margins(required_probabilities(pool, "margin")))


def entropy(pool: Pool, batch: int, rng: np.random.Generator) -> Selection:
    """The rows of largest entropy; the lower row among equals."""
    return _lowest(pool, batch, -entropies(required_probabilities(pool, "entropy")))


def margin_k_center(
    pool: Pool, batch: int, rng: np.random.Generator, *, progress: Progress | None = None
) -> Selection:
    """Greedy k-Center among the 4 x batch rows of smallest margin, conditioned on the labelled rows.

    The picks cover the uncertain part of the pool; distances and radii are measured on the whole pool.
    """
    require_batch(batch)
    score = margins(required_probabilities(pool, "margin_k_center"))
    candidates = _lowest_rows(pool, CANDIDATES_PER_PICK * batch, score)
    labeled = np.unique(pool.labeled_rows)
    kept = np.sort(np.concatenate([labeled, candidates]))
    if not len(kept):
        return measured(pool.vectors, pool.labeled_rows, kept)
    part = Pool(pool.vectors[kept], np.searchsorted(kept, labeled))
    chosen = k_center_greedy(part, batch, rng, progress=progress)
    return measured(pool.vectors, pool.labeled_rows, kept[chosen.rows])


def weighted_k_center(
    pool: Pool, batch: int, rng: np.random.Generator, *, progress: Progress | None = None
) -> Selection:
    """Farthest-first by distance x (1 - margin) (after Ramalingam et al. 2023), exact and lazy.

    Distances and radii in the answer are plain, not weighted.
    """
    require_batch(batch)
    weights = np.maximum(1 - margins(required_probabilities(pool, "weighted_k_center")), LEAST_WEIGHT)
    coverage = Coverage(pool.vectors, pool.labeled_rows, rng, weights=np.minimum(weights, 1))
    rows, _ = coverage.pick(batch, progress)
    return measured(pool.vectors, pool.labeled_rows, rows)


def badge(pool: Pool, batch: int, rng: np.random.Generator, *, progress: Progress | None = None) -> Selection:
    """k-means++ sampling on the last layer's gradients under the guessed label (Ash et al. 2020).

    A gradient is the outer product of p - onehot(argmax p) and the vector; its n x (classes x d)
    matrix is never made. The first pick is the longest gradient; labelled rows are not looked at.
    Distances and radii in the answer are measured between the vectors.
    """
    require_batch(batch)
    errors = required_probabilities(pool, "badge").astype(np.float32)
    errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1
    free = pool.unlabeled_rows
    picked = _k_means_plus_plus(pool, errors, free, batch, rng, progress)
    return measured(pool.vectors, pool.labeled_rows, free[picked])


def _k_means_plus_plus(
    pool: Pool, errors: Floats, free: Rows, batch: int, rng: np.random.Generator, progress: Progress | None
) -> Rows:
    """Positions in ``free`` (int64[m]), sampled by squared gradient distance: int64[min(batch, m)]."""
    points = shifted(pool.vectors, free, np.zeros(1, dtype=np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        norms = squared_norms(points)
    all_norms = np.zeros(len(pool.vectors), dtype=np.float32)
    all_norms[free] = norms
    require_finite(pool.vectors, all_norms)
    errors = errors[free]
    lengths = norms * squared_norms(errors)
    nearest = lengths.astype(np.float64)
    picked: list[int] = []
    for _ in range(min(batch, len(free))):
        total = nearest.sum()
        if not picked:
            pick = int(np.argmax(lengths))
        elif total > 0:
            pick = int(np.searchsorted(np.cumsum(nearest), rng.random() * total, side="right"))
        else:
            pick = int(np.setdiff1d(np.arange(len(free)), picked)[0])
        picked.append(pick)
        products = (points @ points[pick]) * (errors @ errors[pick])
        np.minimum(nearest, np.maximum(lengths + lengths[pick] - 2 * products, 0), out=nearest)
        nearest[picked] = 0
        if progress:
            progress(len(picked), batch)
    return np.array(picked, dtype=np.int64)


def _lowest(pool: Pool, batch: int, score: NDArray[np.floating]) -> Selection:
    require_batch(batch)
    return measured(pool.vectors, pool.labeled_rows, _lowest_rows(pool, batch, score))


def _lowest_rows(pool: Pool, count: int, score: NDArray[np.floating]) -> Rows:
    free = pool.unlabeled_rows
    return free[np.argsort(score[free], kind="stable")[:count]]
