"""k-Center beyond greedy, against brute force."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.selection import Pool, k_center_greedy, robust_k_center


def cloud(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


def radius(vectors: np.ndarray, centers: list[int], outliers: int) -> float:
    """The largest float64 distance to the nearest center but for the ``outliers`` largest."""
    exact = vectors.astype(np.float64)
    nearest = np.linalg.norm(exact[:, None] - exact[centers][None], axis=2).min(axis=1)
    return float(np.sort(nearest)[len(vectors) - 1 - outliers])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 2), st.integers(0, 2))
def test_a_small_pool_gets_the_best_of_all_choices_with_a_proof(
    seed: int, labels: int, outliers: int
) -> None:
    vectors, labeled = cloud(11, seed), list(range(labels))
    free = range(labels, 11)
    best = min(radius(vectors, [*labeled, *chosen], outliers) for chosen in itertools.combinations(free, 3))
    pool = Pool(vectors, np.array(labeled, dtype=np.int64))
    found = robust_k_center(pool, 3, np.random.default_rng(0), outliers=outliers, seconds=60)
    assert found.status == "optimal"
    assert abs(found.radius_after - best) < 1e-4 * best
    assert abs(radius(vectors, [*labeled, *found.rows.tolist()], outliers) - best) < 1e-4 * best
    assert found.lower_bound is not None and found.lower_bound <= best * (1 + 1e-4)


def test_it_is_better_than_greedy_and_without_time_as_good() -> None:
    pool = Pool(cloud(600, 1), np.arange(10, dtype=np.int64))
    greedy = k_center_greedy(pool, 30, np.random.default_rng(0))
    found = robust_k_center(pool, 30, np.random.default_rng(0), seconds=60)
    assert found.radius_after < 0.98 * greedy.radius_after
    assert found.status in ("improved", "optimal")
    hurried = robust_k_center(pool, 30, np.random.default_rng(0), seconds=0)
    assert hurried.status == "greedy"
    assert hurried.rows.tolist() == greedy.rows.tolist()
    assert greedy.radius_after / 2 * 0.999 < hurried.lower_bound < found.radius_after


def test_outliers_are_left_out_of_the_radius() -> None:
    vectors = cloud(200, 2)
    vectors[[17, 90]] += 1000
    pool = Pool(vectors, np.arange(5, dtype=np.int64))
    found = robust_k_center(pool, 8, np.random.default_rng(0), outliers=2, seconds=5)
    assert found.radius_after < 10
