"""The contract every strategy keeps, and what is true of k-Center alone."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.errors import ConfigError, NotFinite
from coreset_backend.selection import (
    STRATEGIES,
    Coverage,
    NeighborGraph,
    Pool,
    covering_radius,
    k_center_greedy,
    normalized,
    strategy_named,
)
from coreset_backend.selection.typicality import ITERATIONS

K_CENTER = ("k_center", "k_center_cosine")
FARTHEST_FIRST = (*K_CENTER, "weighted_k_center")
BY_DIRECTION = ("k_center_cosine", "typiclust", "max_herding", "uncertainty_herding")
WITHOUT_CHANCE = sorted(set(STRATEGIES) - {"random", "badge", "typiclust"})


def cloud(n: int = 60, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def full_pool(vectors: np.ndarray, labeled: np.ndarray) -> Pool:
    """A pool with all that any strategy may ask for: probabilities and exact neighbours."""
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2).astype(np.float32)
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1, kind="stable")[:, : min(10, len(vectors) - 1)]
    graph = NeighborGraph(near.astype(np.int32), np.take_along_axis(distances, near, axis=1))
    logits = vectors[:, :4] if vectors.shape[1] >= 4 else np.tile(vectors[:, :1], 4)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return Pool(vectors, labeled, odds / odds.sum(1, keepdims=True), graph)


def textbook_greedy(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> list[int]:
    """Farthest-first in float64, one center at a time (Sener & Savarese, algorithm 1)."""
    exact = vectors.astype(np.float64)
    picked: list[int] = []
    for _ in range(batch):
        centers = exact[[*labeled, *picked]]
        nearest = np.linalg.norm(exact[:, None] - centers[None], axis=2).min(1)
        picked.append(int(nearest.argmax()))
    return picked


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("labeled", [rows(), rows(3, 9, 3)])
def test_picks_are_distinct_and_unlabelled_and_follow_the_seed(name: str, labeled: np.ndarray) -> None:
    pool = full_pool(cloud(), labeled)
    first, second = (STRATEGIES[name](pool, 12, np.random.default_rng(5)) for _ in range(2))
    assert len(set(first.rows.tolist())) == 12
    assert not set(first.rows.tolist()) & set(labeled.tolist())
    assert first.rows.tolist() == second.rows.tolist()
    assert first.rows.dtype == np.int64 and first.distances.dtype == np.float32


@pytest.mark.parametrize("name", STRATEGIES)
def test_more_than_the_pool_gives_all_that_is_left(name: str) -> None:
    pool = full_pool(cloud(10), rows(0, 1))
    assert sorted(STRATEGIES[name](pool, 99, np.random.default_rng(0)).rows.tolist()) == list(range(2, 10))


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 9), st.integers(0, 45), st.sampled_from([0.0, 100.0]))
def test_every_selection_is_what_it_says_measured_in_float64(
    name: str, seed: int, labels: int, batch: int, offset: float
) -> None:
    vectors = cloud(40, 6, seed) + np.float32(offset)
    labeled = np.random.default_rng(seed).permutation(40)[:labels].astype(np.int64)
    found = STRATEGIES[name](full_pool(vectors, labeled), batch, np.random.default_rng(0))
    assert len(found.rows) == len(found.distances) == min(batch, 40 - labels)
    assert len(set(found.rows.tolist()) - set(labeled.tolist())) == len(found.rows)
    exact = vectors.astype(np.float64)
    if found.normalized:
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    apart = np.linalg.norm(exact[:, None] - exact[None], axis=2)
    tolerance = {"rel": 1e-4, "abs": 2e-6 * np.linalg.norm(exact, axis=1).max()}
    nearest = apart[:, labeled].min(axis=1, initial=np.inf)
    assert found.radius_before == pytest.approx(nearest.max(), **tolerance)
    for row, distance in zip(found.rows, found.distances, strict=True):
        assert distance == pytest.approx(nearest[row], **tolerance)
        nearest = np.minimum(nearest, apart[row])
    assert found.radius_after == pytest.approx(nearest.max(), **tolerance)
    if found.radii is not None and len(found.rows):
        assert found.radii[-1] == pytest.approx(nearest.max(), **tolerance)


@pytest.mark.parametrize("name", WITHOUT_CHANCE)
def test_a_pool_in_another_order_gives_the_same_rows(name: str) -> None:
    vectors, order = cloud(60, 5, 1), np.random.default_rng(1).permutation(60)
    position = np.argsort(order)
    plain = STRATEGIES[name](full_pool(vectors, rows(4, 8)), 15, np.random.default_rng(0))
    moved = STRATEGIES[name](full_pool(vectors[order], position[[4, 8]]), 15, np.random.default_rng(0))
    assert moved.radius_after == pytest.approx(plain.radius_after, rel=1e-5)
    if name != "robust_k_center":  # which has many best choices
        assert set(order[moved.rows].tolist()) == set(plain.rows.tolist())


@pytest.mark.parametrize(
    "name", [name for name in STRATEGIES if "progress" in signature(STRATEGIES[name]).parameters]
)
def test_progress_never_falls_and_ends_at_the_whole(name: str) -> None:
    seen: list[tuple[int, int]] = []
    told = STRATEGIES[name](
        full_pool(cloud(), rows(3)), 9, np.random.default_rng(0), progress=lambda *given: seen.append(given)
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    whole = ITERATIONS if name == "typiclust" else len(told.rows)
    assert seen[-1] == (whole, whole)
    assert len(told.rows) == 9


@pytest.mark.parametrize("name", STRATEGIES)
def test_half_precision_and_a_memory_map_are_read_as_they_are(name: str, tmp_path: Path) -> None:
    vectors = cloud().astype(np.float16)
    np.save(tmp_path / "X.npy", vectors)
    plain = full_pool(vectors.astype(np.float32), rows(3))
    expected = STRATEGIES[name](plain, 10, np.random.default_rng(0))
    mapped = replace(plain, vectors=np.load(tmp_path / "X.npy", mmap_mode="r"))
    assert STRATEGIES[name](mapped, 10, np.random.default_rng(0)).rows.tolist() == expected.rows.tolist()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_refuses_a_negative_batch_and_rows_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="0 rows or more"):
        STRATEGIES[name](full_pool(cloud(), rows(3)), -1, np.random.default_rng(0))
    for labeled in (rows(60), rows(-1)):
        with pytest.raises(ValueError, match=r"must lie in \[0, 60\)"):
            replace(full_pool(cloud(), rows(3)), labeled_rows=labeled)


@pytest.mark.parametrize("name", BY_DIRECTION)
def test_a_vector_without_a_direction_is_refused_where_directions_count(name: str) -> None:
    pool = full_pool(cloud(), rows(3))
    pool.vectors[7] = 0
    with pytest.raises(NotFinite, match="row 7 is a zero vector"):
        STRATEGIES[name](pool, 5, np.random.default_rng(0))


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {*BY_DIRECTION, "badge"}))  # they ask where 0 is
def test_far_from_the_origin_every_choice_is_as_good(name: str) -> None:
    vectors = np.round(cloud(200, 16) * 64) / 64  # exact in float32 there, too
    near, far = (
        STRATEGIES[name](
            replace(full_pool(vectors, rows(0)), vectors=vectors + np.float32(offset)),
            20,
            np.random.default_rng(0),
        )
        for offset in (0, 1e4)
    )
    assert far.radius_after == pytest.approx(near.radius_after, rel=0.02)
    assert far.radius_before == pytest.approx(near.radius_before, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(1, 15))
def test_k_center_is_the_textbook_greedy(seed: int, n_labeled: int, batch: int) -> None:
    vectors, labeled = cloud(40, 4, seed), np.arange(n_labeled, dtype=np.int64) * 5
    selection = k_center_greedy(Pool(vectors, labeled), batch, np.random.default_rng(0))
    given_or_first = labeled if n_labeled else selection.rows[:1]
    followed = selection.rows if n_labeled else selection.rows[1:]
    assert followed.tolist() == textbook_greedy(vectors, given_or_first, len(followed))
    assert (np.diff(selection.distances[-len(followed) :]) <= 1e-5).all()
    centers = vectors[[*labeled, *selection.rows]]
    nearest = np.linalg.norm(vectors[:, None] - centers[None], axis=2).min(1)
    assert selection.radius_after == pytest.approx(nearest.max(), rel=1e-5)


def test_a_pool_without_labels_begins_with_the_row_nearest_the_mean() -> None:
    vectors = cloud()
    first = k_center_greedy(Pool(vectors, rows()), 5, np.random.default_rng(0)).rows[0]
    assert first == np.linalg.norm(vectors - vectors.mean(0), axis=1).argmin()


@pytest.mark.parametrize("name", (*K_CENTER, "robust_k_center", "annoy"))
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_radius_is_at_most_twice_the_optimum(name: str, seed: int) -> None:
    vectors = cloud(11, 2, seed)
    found = STRATEGIES[name](full_pool(vectors, rows(0)), 3, np.random.default_rng(0))
    space = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if found.normalized else vectors
    best = min(
        covering_radius(space, np.array([0, *chosen])) for chosen in itertools.combinations(range(1, 11), 3)
    )
    assert found.radius_after <= 2 * best + 1e-5


def test_covering_radius_is_the_largest_distance_to_the_nearest_center() -> None:
    vectors = np.array([[0, 0], [3, 4], [0, 1]], dtype=np.float32)
    assert covering_radius(vectors, rows(0)) == pytest.approx(5.0)
    assert covering_radius(vectors, rows()) == np.inf


@pytest.mark.parametrize("name", (*FARTHEST_FIRST, "annoy"))
def test_copies_of_labelled_rows_come_last(name: str) -> None:
    vectors = cloud(30)
    vectors[20:] = vectors[0]
    picked = STRATEGIES[name](full_pool(vectors, rows(0)), 29, np.random.default_rng(0)).rows
    assert set(picked[-10:].tolist()) == set(range(20, 30))


def test_a_cloud_far_from_the_origin_is_measured_as_one_at_it() -> None:
    vectors = cloud(200, 16)
    near = k_center_greedy(Pool(vectors, rows(0)), 20, np.random.default_rng(0))
    far = k_center_greedy(Pool(vectors + np.float32(1e4), rows(0)), 20, np.random.default_rng(0))
    assert far.radius_after == pytest.approx(near.radius_after, rel=0.02)


@pytest.mark.parametrize(
    ("value", "complaint"), [(np.nan, "row 7"), (np.inf, "row 7"), (1e30, "beyond float32")]
)
def test_values_that_cannot_be_compared_are_refused(value: float, complaint: str) -> None:
    vectors = cloud()
    vectors[7, 2] = value
    with pytest.raises(NotFinite, match=complaint):
        k_center_greedy(Pool(vectors, rows(0)), 3, np.random.default_rng(0))


def test_an_unknown_strategy_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="Known strategies: k_center"):
        strategy_named("kcentre")
    assert strategy_named("coreset_backend.selection.greedy:k_center_greedy") is k_center_greedy


def repeated() -> np.ndarray:
    """Sixty rows, seven of them distinct."""
    return cloud(7)[np.arange(60) % 7]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("labeled", [rows(), rows(1, 2)])
def test_every_strategy_gives_distinct_rows_beyond_the_number_of_distinct_points(
    name: str, labeled: np.ndarray
) -> None:
    picked = STRATEGIES[name](full_pool(repeated(), labeled), 25, np.random.default_rng(0)).rows
    assert len(set(picked.tolist()) - set(labeled.tolist())) == 25


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    ("value", "complaint"), [(np.nan, "row 40"), (np.inf, "row 40"), (1e30, "beyond float32")]
)
def test_every_strategy_refuses_vectors_that_cannot_be_compared(
    name: str, value: float, complaint: str
) -> None:
    vectors = cloud()
    pool = full_pool(vectors, rows(3))
    vectors[40, 2] = value
    with pytest.raises(NotFinite, match=complaint):
        STRATEGIES[name](pool, 5, np.random.default_rng(0))


@pytest.mark.parametrize("name", FARTHEST_FIRST)
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 100.0, 1e4]), st.integers(0, 200))
def test_each_pick_is_farthest_in_float64_within_five_millionths(
    name: str, seed: int, offset: float, n_labeled: int
) -> None:
    vectors, labeled = cloud(3000, 24, seed) + np.float32(offset), np.arange(n_labeled, dtype=np.int64)
    odds = np.random.default_rng(seed).dirichlet(np.ones(4), 3000).astype(np.float32)
    picked = STRATEGIES[name](Pool(vectors, labeled, odds), 40, np.random.default_rng(0)).rows
    exact, weights = vectors.astype(np.float64), np.ones(3000)
    if name == "k_center_cosine":
        exact = normalized(vectors).astype(np.float64)
    if name == "weighted_k_center":
        top = np.sort(odds, axis=1)
        weights = np.clip(1 - (top[:, -1] - top[:, -2]), 1e-3, 1).astype(np.float64)
    centers, followed = ([*labeled], picked) if n_labeled else ([picked[0]], picked[1:])
    assert_each_is_farthest(exact, weights, centers, followed)


def test_each_pick_of_a_large_pool_and_of_the_batch_after_it_is_farthest() -> None:
    vectors, labeled = cloud(40_000, 3), np.arange(10, dtype=np.int64)
    kept = Coverage(vectors, labeled)
    picked = labeled
    for batch in (300, 20):  # the second with fewer candidates at a time
        chosen = k_center_greedy(Pool(vectors, picked), batch, coverage=kept)
        assert chosen.radius_after == pytest.approx(covering_radius(vectors, kept.center_rows), rel=1e-6)
        picked = np.concatenate([picked, chosen.rows])
    assert_each_is_farthest(vectors.astype(np.float64), np.ones(40_000), labeled, picked[10:])


def assert_each_is_farthest(
    exact: np.ndarray, weights: np.ndarray, centers: Iterable[int], followed: Iterable[int]
) -> None:
    nearest = np.min([np.linalg.norm(exact - exact[row], axis=1) for row in centers], axis=0)
    for row in followed:
        assert (nearest * weights)[row] >= (nearest * weights).max() * (1 - 5e-6)
        nearest = np.minimum(nearest, np.linalg.norm(exact - exact[row], axis=1))
