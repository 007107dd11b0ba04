"""The contract every strategy keeps, and what is true of k-Center alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.errors import ConfigError, NotFinite
from coreset_backend.selection import (
    STRATEGIES,
    NeighborGraph,
    Pool,
    covering_radius,
    k_center_greedy,
    strategy_named,
)

K_CENTER = ("k_center", "k_center_cosine")


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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_radius_is_at_most_twice_the_optimum(seed: int) -> None:
    vectors, labeled = cloud(11, 2, seed), rows(0)
    best = min(
        covering_radius(vectors, np.array([0, *chosen])) for chosen in itertools.combinations(range(1, 11), 3)
    )
    selection = k_center_greedy(Pool(vectors, labeled), 3, np.random.default_rng(0))
    assert selection.radius_after <= 2 * best + 1e-5


def test_covering_radius_is_the_largest_distance_to_the_nearest_center() -> None:
    vectors = np.array([[0, 0], [3, 4], [0, 1]], dtype=np.float32)
    assert covering_radius(vectors, rows(0)) == pytest.approx(5.0)
    assert covering_radius(vectors, rows()) == np.inf


def test_permuting_rows_permutes_the_picks() -> None:
    vectors, order = cloud(), np.random.default_rng(1).permutation(60)
    position = np.argsort(order)
    plain = k_center_greedy(Pool(vectors, rows(4, 8)), 20, np.random.default_rng(0))
    moved = k_center_greedy(Pool(vectors[order], position[[4, 8]]), 20, np.random.default_rng(0))
    assert order[moved.rows].tolist() == plain.rows.tolist()


@pytest.mark.parametrize("name", K_CENTER)
def test_copies_of_labelled_rows_come_last(name: str) -> None:
    vectors = cloud(30)
    vectors[20:] = vectors[0]
    picked = STRATEGIES[name](Pool(vectors, rows(0)), 29, np.random.default_rng(0)).rows
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


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 100.0, 1e4]), st.integers(0, 200))
def test_each_pick_is_farthest_in_float64_within_five_millionths(
    seed: int, offset: float, n_labeled: int
) -> None:
    vectors = cloud(3000, 24, seed) + np.float32(offset)
    labeled = np.arange(n_labeled, dtype=np.int64)
    picked = k_center_greedy(Pool(vectors, labeled), 40, np.random.default_rng(0)).rows
    exact = vectors.astype(np.float64)
    centers, followed = ([*labeled], picked) if n_labeled else ([picked[0]], picked[1:])
    nearest = np.min([np.linalg.norm(exact - exact[row], axis=1) for row in centers], axis=0)
    for row in followed:
        assert nearest[row] >= nearest.max() * (1 - 5e-6)
        nearest = np.minimum(nearest, np.linalg.norm(exact - exact[row], axis=1))
