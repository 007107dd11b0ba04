"""k-Center beyond greedy, against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.selection import Pool, exact_graph, k_center_greedy, robust_k_center
from coreset_backend.selection.cover import Cover, Reach, exact_reach, graph_reach
from coreset_backend.selection.nearest import beyond


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


def test_swaps_go_below_what_max_coverage_reaches() -> None:
    vectors = cloud(900, 3)
    everything, free = np.ones(900, dtype=bool), np.arange(900, dtype=np.int64)
    reach = exact_reach(vectors, 2.0)
    distance = min(
        step
        for step in np.linspace(0.5, 1.5, 101)
        if not len(filled(reach.within(step), everything, free).uncovered)
    )
    cover = filled(reach.within(distance * 0.97), everything, free)
    assert len(cover.uncovered) > 0
    assert cover.swap(0, np.inf, np.random.default_rng(0))
    chosen = cover.chosen.tolist()
    assert len(set(chosen)) == 40 and radius(vectors, chosen, 0) <= distance * 0.97 + 1e-5


def filled(reach: Reach, required: np.ndarray, free: np.ndarray) -> Cover:
    cover = Cover(reach, required, free)
    cover.fill(40)
    return cover


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 2.5))
def test_scores_stay_what_adding_and_removing_rows_makes_of_them(seed: int, distance: float) -> None:
    vectors, rng = cloud(40, seed), np.random.default_rng(seed)
    near = np.linalg.norm(vectors[:, None] - vectors[None], axis=2) <= distance
    required = rng.random(40) < 0.8
    cover = Cover(exact_reach(vectors, 4.0).within(distance), required, np.arange(40, dtype=np.int64))
    for _ in range(25):
        row = int(rng.integers(40))
        cover.remove(row) if row in cover.chosen else cover.add(row)
        count = near[cover.chosen].sum(axis=0)
        assert cover.uncovered.tolist() == np.flatnonzero(required & (count == 0)).tolist()
        for other in range(40):
            alone = count == (1 if other in cover.chosen else 0)
            assert cover._score[other] == (near[other] & required & alone).sum()


def test_the_graph_and_the_blocks_tell_the_same_near_rows() -> None:
    vectors = cloud(300, 4)
    whole, part = exact_reach(vectors, 0.6), graph_reach(exact_graph(vectors, 8), 0.6)
    full = np.diff(whole.starts) <= 8
    assert part.is_whole[full].all() and not part.is_whole.all()
    for row in np.flatnonzero(part.is_whole):
        first, second = (reach.near(np.array([row]))[0] for reach in (whole, part))
        assert set(first.tolist()) == set(second.tolist()) >= {row}


def test_rows_beyond_a_distance_are_those_of_brute_force() -> None:
    vectors, centers = cloud(700, 5), np.arange(0, 700, 3)
    rows = np.arange(100, 700)
    nearest = np.linalg.norm(vectors[rows, None] - vectors[centers][None], axis=2).min(axis=1)
    assert beyond(vectors, rows, centers, 0.5).tolist() == (nearest > 0.5).tolist()
    assert beyond(vectors, rows, centers[:0], 0.5).all()


@pytest.mark.slow
def test_a_pool_too_large_for_all_pairs_is_improved_on_its_neighbours() -> None:
    vectors, labeled = cloud(20_100, 6), np.arange(10, dtype=np.int64)
    alone = robust_k_center(Pool(vectors, labeled), 1000, np.random.default_rng(0), outliers=0)
    assert alone.status == "greedy"
    pool = Pool(vectors, labeled, None, exact_graph(vectors, 48))
    found = robust_k_center(pool, 1000, np.random.default_rng(0), outliers=0, seconds=20)
    assert found.status == "improved" and found.radius_after < alone.radius_after
    exact = vectors.astype(np.float64)
    centers = exact[[*labeled.tolist(), *found.rows.tolist()]]
    nearest = [np.linalg.norm(centers - row, axis=1).min() for row in exact]
    assert max(nearest) == pytest.approx(found.radius_after, rel=1e-5)
    assert len(set(found.rows.tolist()) - set(labeled.tolist())) == 1000
