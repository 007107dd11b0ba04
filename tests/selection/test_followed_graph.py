"""A graph that follows its pool, against a search for all rows."""

import numpy as np
import pytest

from coreset_backend.errors import NotFinite
from coreset_backend.selection import exact_graph
from coreset_backend.selection import followed_graph as module
from coreset_backend.selection.followed_graph import followed_graph
from coreset_backend.selection.pool import NeighborGraph

K = 12


@pytest.mark.parametrize("seed", range(4))
def test_added_rows_are_found_exactly_and_removed_ones_are_gone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    earlier = rng.normal(5, 1, (300, 8)).astype(np.float32)
    graph = exact_graph(earlier, K)
    kept = np.sort(rng.permutation(300)[: 300 - 20 * seed])
    is_new = np.zeros(len(kept) + 40, dtype=bool)
    is_new[rng.permutation(len(is_new))[:40]] = True
    before = np.full(len(is_new), -1)
    before[~is_new] = kept
    vectors = np.where(is_new[:, None], rng.normal(5, 1, (len(is_new), 8)), earlier[before]).astype(
        np.float32
    )
    vectors[np.flatnonzero(is_new)[:2]] = vectors[np.flatnonzero(~is_new)[0]]  # copies of an old image
    found, exact = followed_graph(graph, before, vectors, K), exact_graph(vectors, K)
    for row in range(len(vectors)):
        near = found.rows[row][found.rows[row] >= 0]
        assert len(set(near)) == len(near) and row not in near
        if is_new[row] or not seed:  # nothing was removed: no list is short of a row
            np.testing.assert_allclose(found.distances[row], exact.distances[row], rtol=1e-3, atol=2e-3)
        else:  # what is left is right, and in order
            np.testing.assert_allclose(
                found.distances[row][: len(near)],
                np.linalg.norm(vectors[near] - vectors[row], axis=1),
                rtol=1e-3,
                atol=2e-3,
            )
            assert (np.diff(found.distances[row][: len(near)]) >= 0).all()
            to_new = np.linalg.norm(vectors[is_new] - vectors[row], axis=1)
            nearer = np.flatnonzero(is_new)[to_new < found.distances[row][-1] - 1e-3]
            assert np.isin(nearer, near).all()


def test_the_same_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(0, 1, (200, 6)).astype(np.float32)
    before = np.concatenate([np.arange(150), np.full(50, -1)])
    graph = exact_graph(vectors[:150], K)
    at_once = followed_graph(graph, before, vectors, K)
    monkeypatch.setattr(module, "BLOCK_DISTANCES", 7 * 200)
    parts = followed_graph(graph, before, vectors, K)
    np.testing.assert_allclose(parts.distances, at_once.distances, atol=1e-5)
    np.testing.assert_array_equal(parts.rows, exact_graph(vectors, K).rows)


def test_nothing_new_is_the_same_graph_and_short_lists_stay_short() -> None:
    vectors = np.random.default_rng(2).normal(0, 1, (20, 3)).astype(np.float32)
    graph = exact_graph(vectors, 5)
    same = followed_graph(graph, np.arange(20), vectors, 5)
    np.testing.assert_array_equal(same.rows, graph.rows)
    np.testing.assert_array_equal(same.distances, graph.distances)
    few = followed_graph(graph, np.array([3, 7, -1]), vectors[[3, 7, 9]], 5)
    assert few.rows.shape == (3, 2) and (few.rows[2] >= 0).sum() == 2
    assert np.isinf(few.distances[few.rows < 0]).all()


def test_values_that_cannot_be_compared_are_an_error() -> None:
    vectors = np.ones((4, 2), dtype=np.float32)
    graph = NeighborGraph(np.zeros((3, 1), np.int32), np.zeros((3, 1), np.float32))
    vectors[3, 0] = np.nan
    with pytest.raises(NotFinite):
        followed_graph(graph, np.array([0, 1, 2, -1]), vectors, 1)
