"""Search by example: what is like a marked row weighs, with every strategy."""

from pathlib import Path

import numpy as np
import pytest

from coreset_backend.arrays import Floats, Rows
from coreset_backend.selection import STRATEGIES, Pool, strategy_named
from coreset_backend.selection.annoy_index import NeighborIndex, build_index
from coreset_backend.selection.clusters import clusters
from coreset_backend.selection.examples import WEIGHTED, by_examples, example_weights
from coreset_backend.selection.graph import ExactIndex

ISLANDS, EACH = 6, 100


@pytest.fixture
def vectors() -> Floats:
    """float32[600, 16]: six islands of a hundred rows, one after the other."""
    rng = np.random.default_rng(0)
    centers = np.repeat(3 * rng.normal(size=(ISLANDS, 16)), EACH, axis=0)
    return np.asarray(centers + rng.normal(size=(ISLANDS * EACH, 16)), dtype=np.float32)


@pytest.fixture
def index(vectors: Floats, tmp_path: Path) -> NeighborIndex:
    return build_index(vectors, tmp_path / "index.ann")


def weigh(index: NeighborIndex, vectors: Floats, marked: dict[int, float]) -> Floats:
    return example_weights(
        index, vectors, np.array(list(marked)), np.array(list(marked.values()), np.float32)
    )


def test_an_example_weighs_in_full_on_itself_and_less_the_less_alike(
    index: NeighborIndex, vectors: Floats
) -> None:
    weights = weigh(index, vectors, {7: 4.0, 205: 0.25})
    assert weights[7] == pytest.approx(4, rel=1e-3) and weights[205] == pytest.approx(0.25, rel=1e-3)
    assert (weights[:EACH] > 1.05).mean() > 0.4 and (weights[2 * EACH : 3 * EACH] < 0.95).mean() > 0.4
    others = np.r_[EACH : 2 * EACH, 3 * EACH : ISLANDS * EACH]
    assert np.abs(weights[others] - 1).max() < 0.2
    near = np.argsort(-(vectors[:EACH] @ vectors[7]) / np.linalg.norm(vectors[:EACH], axis=1))
    assert weights[near[:10]].mean() > weights[near[-10:]].mean()


def test_examples_for_and_against_cancel_out_and_copies_do_not_add_up(
    index: NeighborIndex, vectors: Floats
) -> None:
    assert weigh(index, vectors, {7: 4.0})[7] == pytest.approx(weigh(index, vectors, {7: 4.0, 8: 4.0})[7])
    same = example_weights(index, vectors, np.array([7, 7]), np.array([4, 0.25], dtype=np.float32))
    np.testing.assert_allclose(same, 1, rtol=1e-5)


def test_comparing_with_all_rows_weighs_as_the_index_does(index: NeighborIndex, vectors: Floats) -> None:
    marked, weights = np.array([7, 205]), np.array([4, 0.25], dtype=np.float32)
    exact = ExactIndex(vectors)
    found = example_weights(exact, vectors, marked, weights)
    assert np.abs(np.log(found / weigh(index, vectors, {7: 4.0, 205: 0.25}))).mean() < 0.05
    rows, distances = exact.nearest(marked, 5)
    assert rows[:, 0].tolist() == [7, 205] and (np.diff(distances, axis=1) >= 0).all()


def from_island(rows: Rows, island: int) -> int:
    return int((rows // EACH == island).sum())


@pytest.mark.parametrize("strategy", [*STRATEGIES])
def test_every_strategy_picks_more_or_fewer_of_what_is_like_the_examples(
    index: NeighborIndex, vectors: Floats, strategy: str
) -> None:
    odds = np.random.default_rng(1).dirichlet([1, 1, 1], size=len(vectors)).astype(np.float32)
    graph = index.graph(16)
    choose = strategy_named(strategy) if strategy in WEIGHTED else by_examples(strategy_named(strategy))

    def picked(marked: dict[int, float]) -> Rows:
        weights = weigh(index, vectors, marked) if marked else None
        pool = Pool(vectors, np.array([550]), odds, graph, weights)
        selection = choose(pool, 24, np.random.default_rng(0))
        assert len(set(selection.rows.tolist())) == len(selection.rows) == 24
        assert len(selection.distances) == 24 and 550 not in selection.rows
        return selection.rows

    before = from_island(picked({}), 1)
    assert from_island(picked(dict.fromkeys(range(100, 200, 3), 16.0)), 1) > before
    assert from_island(picked(dict.fromkeys(range(100, 200, 3), 1 / 16)), 1) <= before


def test_clusters_are_the_islands_the_largest_first(vectors: Floats) -> None:
    found = clusters(np.concatenate([vectors, vectors[:50]]), seed=0)
    assert found.dtype == np.int16
    sizes = np.bincount(found)
    assert (np.diff(sizes) <= 0).all()
    for code in range(len(sizes)):
        rows = np.flatnonzero(found == code)
        assert len(set((rows % (ISLANDS * EACH)) // EACH)) == 1  # no cluster spans two islands
    np.testing.assert_array_equal(found, clusters(np.concatenate([vectors, vectors[:50]]), seed=0))
    assert clusters(vectors[:3], seed=0).tolist() == [0, 0, 0]
    assert clusters(np.zeros((90, 4), dtype=np.float32), seed=0).tolist() == [0] * 90
