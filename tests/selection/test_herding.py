"""Soft coverage on a sparse kernel against the same greedy on the whole kernel."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, eye_array  # type: ignore[import-untyped]

from coreset_backend.selection import (
    NeighborGraph,
    Pool,
    exact_graph,
    max_herding,
    neighbors_for,
    strategy_named,
    uncertainty_herding,
)
from coreset_backend.selection.annoy_index import build_index
from coreset_backend.selection.herd import ROWS_TOGETHER, near_kernel

WIDTH = 0.5


def mixture(n: int, seed: int = 0) -> np.ndarray:
    """float32[n, 32]: forty clusters of six dimensions, of uneven length."""
    rng = np.random.default_rng(seed)
    low = 2 * rng.normal(size=(40, 6))[rng.integers(0, 40, n)] + rng.normal(size=(n, 6))
    return (low @ rng.normal(size=(6, 32)) + 0.3 * rng.normal(size=(n, 32))).astype(np.float32)


def whole_kernel(vectors: np.ndarray) -> np.ndarray:
    units = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.exp((2 * units @ units.T - 2) / WIDTH)


def textbook_herding(kernel: np.ndarray, weights: np.ndarray, labeled: list[int], batch: int) -> list[int]:
    covered = kernel[:, labeled].max(axis=1, initial=0)
    picked: list[int] = []
    for _ in range(batch):
        gains = (np.maximum(kernel - covered[:, None], 0) * weights[:, None]).sum(axis=0)
        gains[[*labeled, *picked]] = -1
        picked.append(int(gains.argmax()))
        covered = np.maximum(covered, kernel[:, picked[-1]])
    return picked


def coverage(kernel: np.ndarray, centers: np.ndarray) -> float:
    return float(kernel[:, centers].max(axis=1).mean())


def gains_left(kernel: np.ndarray, weights: np.ndarray, labeled: list[int], rows: np.ndarray) -> list[float]:
    """For each pick in order, its gain as a share of the largest there was, in float64."""
    covered, taken, shares = kernel[:, labeled].max(axis=1, initial=0), list(labeled), []
    for row in rows:
        gains = (np.maximum(kernel - covered[:, None], 0) * weights[:, None]).sum(axis=0)
        gains[taken] = -1
        shares.append(float(gains[row] / gains.max()))
        covered = np.maximum(covered, kernel[:, row])
        taken.append(row)
    return shares


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 5), st.integers(1, 12))
def test_with_all_rows_as_neighbors_each_pick_has_the_largest_gain(
    seed: int, labels: int, batch: int
) -> None:
    vectors, labeled = mixture(50, seed), list(range(0, 10 * labels, 10))
    odds = np.random.default_rng(seed).dirichlet(np.ones(3), 50).astype(np.float32)
    pool = Pool(vectors, np.array(labeled, dtype=np.int64), odds, exact_graph(vectors, 49))
    top = np.sort(odds, axis=1)
    rarity = np.sqrt((odds / odds.mean(axis=0)).mean(axis=1))
    weights = np.clip(1 - (top[:, -1] - top[:, -2]), 1e-3, 1) * rarity
    kernel, rng = whole_kernel(vectors), np.random.default_rng(0)
    plain, weighted = (herd(pool, batch, rng).rows for herd in (max_herding, uncertainty_herding))
    assert min(gains_left(kernel, np.ones(50), labeled, plain)) > 1 - 1e-4
    assert min(gains_left(kernel, weights, labeled, weighted)) > 1 - 1e-4


def test_annoys_neighbors_cover_within_a_hundredth_of_the_whole_kernel(tmp_path: Path) -> None:
    vectors = mixture(1200)
    kernel = whole_kernel(vectors)
    best = np.array(textbook_herding(kernel, np.ones(1200), [], 100))
    graph = build_index(vectors, tmp_path / "n.ann").graph(neighbors_for(1200))
    pool = Pool(vectors, np.empty(0, np.int64), None, graph)
    rows = max_herding(pool, 100, np.random.default_rng(0)).rows
    for batch in (20, 100):
        assert coverage(kernel, rows[:batch]) > 0.99 * coverage(kernel, best[:batch])


def test_few_picks_of_a_large_pool_come_from_a_sample_and_cover_more_than_random_ones() -> None:
    vectors, rng = mixture(8300), np.random.default_rng(0)
    pool = Pool(vectors, np.array([5, 6], dtype=np.int64))
    rows = max_herding(pool, 10, rng).rows
    assert len(set(rows.tolist()) - {5, 6}) == 10
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    random = [rng.choice(8300, 10, replace=False) for _ in range(10)]
    nearest = [(units @ units[chosen].T).max(axis=1) for chosen in (rows, *random)]
    herded, *others = (np.exp((2 * cosine - 2) / WIDTH).mean() for cosine in nearest)
    assert herded > max(others)


def test_the_exact_graph_is_that_of_brute_force() -> None:
    vectors = mixture(700)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    graph = exact_graph(vectors, 9)
    np.testing.assert_allclose(graph.distances, np.sort(distances, axis=1)[:, :9], rtol=1e-3)
    found = np.take_along_axis(distances, graph.rows.astype(np.int64), axis=1)
    np.testing.assert_allclose(graph.distances, found, rtol=1e-3)
    assert exact_graph(vectors[:1], 9).rows.shape == (1, 0)


def test_a_part_of_a_graph_names_the_parts_own_rows() -> None:
    graph = NeighborGraph(
        np.array([[1, 2], [0, 3], [3, -1], [2, 1]], dtype=np.int32),
        np.array([[1, 2], [1, 3], [1, np.inf], [1, 3]], dtype=np.float32),
    )
    part = graph.among(np.array([0, 2, 3], dtype=np.int64))
    assert part.rows.tolist() == [[1, -1], [2, -1], [1, -1]]
    assert part.distances.tolist() == [[2, np.inf], [1, np.inf], [1, np.inf]]


def test_the_kernel_of_a_large_pool_is_made_in_parts_as_it_is_at_once() -> None:
    n, width, rng = ROWS_TOGETHER + 1000, 4, np.random.default_rng(0)
    rows = rng.integers(-1, n, (n, width)).astype(np.int32)
    distances = (0.3 + np.abs(rows - np.arange(n)[:, None]) % 97 / 97).astype(np.float32)  # alike both ways
    rows[(rows == np.arange(n)[:, None]) | (np.diff(np.sort(rows), prepend=-2, axis=1) == 0)] = -1
    length = np.ones(n, dtype=np.float32)
    made = near_kernel(NeighborGraph(rows, distances, normalized=True), length, 0.5)

    first, slot = np.nonzero(rows >= 0)
    values = np.exp(-np.square(distances[first, slot]) / np.float32(0.5))
    half = csr_array((values, (first, rows[first, slot])), shape=(n, n))
    expected = half.maximum(half.T.tocsr()).maximum(eye_array(n, dtype=np.float32))
    assert abs(made - expected).max() < 1e-6
    assert made.nnz == expected.nnz


def test_a_rare_class_counts_for_more_than_its_share_of_the_pool() -> None:
    """One class has nine tenths of the pool, and the classifier is equally sure of all rows."""
    is_rare = np.arange(400) < 40
    likely = np.where(is_rare[:, None], [0.2, 0.8], [0.8, 0.2]).astype(np.float32)
    plain = weighted = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(400, 16)).astype(np.float32)
        vectors[is_rare, 0] += 4
        pool = Pool(vectors, np.array([0, 399], dtype=np.int64), likely)
        plain += is_rare[max_herding(pool, 40, rng).rows].sum()
        weighted += is_rare[uncertainty_herding(pool, 40, rng).rows].sum()
    assert weighted > 1.3 * plain > 0


def test_herding_without_a_classifier_says_which_strategies_need_none() -> None:
    with pytest.raises(ValueError, match="max_herding"):
        strategy_named("uncertainty_herding")(
            Pool(mixture(30), np.empty(0, np.int64)), 3, np.random.default_rng(0)
        )
