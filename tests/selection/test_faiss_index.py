"""faiss finds nearly all of the exact near rows, behind the interface of Annoy's index."""

from pathlib import Path

import numpy as np
import pytest

from coreset_backend.errors import NotFinite
from coreset_backend.selection import exact_graph, faiss_index
from coreset_backend.selection.neighbor_search import FAISS_FROM, build_index

pytestmark = pytest.mark.skipif(
    not faiss_index.is_installed(), reason="faiss-cpu, the extra `faiss`, is not installed"
)


def clusters(n: int = 6000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (3 * rng.normal(size=(50, 16))[rng.integers(0, 50, n)] + rng.normal(size=(n, 16))).astype(
        np.float32
    )


def test_the_graph_has_nearly_all_rows_of_the_exact_one_at_their_distances(tmp_path: Path) -> None:
    vectors, seen = clusters(), []
    index = build_index(
        vectors, tmp_path / "n.ann", faiss_from=6000, progress=lambda done, total: seen.append((done, total))
    )
    assert (index.name, len(index), list(tmp_path.iterdir())) == ("faiss", 6000, [])
    assert seen[0] == (0, 6000)
    graph, exact = index.graph(10), exact_graph(vectors, 10)
    shared = [np.isin(found, true).mean() for found, true in zip(graph.rows, exact.rows, strict=True)]
    assert np.mean(shared) > 0.97
    assert (graph.rows != np.arange(6000)[:, None]).all()
    measured = np.linalg.norm(vectors[graph.rows] - vectors[:, None], axis=2)
    np.testing.assert_allclose(graph.distances, measured, rtol=1e-4)
    again = build_index(vectors.astype(np.float16), tmp_path / "n.ann", faiss_from=1).graph(10)
    assert np.mean(again.rows == graph.rows) > 0.9


def test_a_row_comes_before_its_copies_and_what_is_not_found_is_minus_one(tmp_path: Path) -> None:
    vectors = clusters()[np.arange(400) % 7]
    index = build_index(vectors, tmp_path / "n.ann", faiss_from=1)
    rows, distances = index.nearest(np.array([12, 399]), 3)
    assert rows[:, 0].tolist() == [12, 399] and not distances.any()
    few = build_index(vectors[:5], tmp_path / "n.ann", faiss_from=1).graph(6)
    assert (few.rows[:, 4:] == -1).all() and np.isinf(few.distances[:, 4:]).all()
    assert sorted(few.rows[0, :4].tolist()) == [1, 2, 3, 4]


def test_annoy_stays_below_two_million_rows_and_nan_is_refused(tmp_path: Path) -> None:
    vectors = clusters(300)
    assert build_index(vectors, tmp_path / "n.ann").name == "annoy"
    assert FAISS_FROM == 2_000_000
    vectors[7, 1] = np.nan
    with pytest.raises(NotFinite, match="row 7"):
        build_index(vectors, tmp_path / "n.ann", faiss_from=1)
