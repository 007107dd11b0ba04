"""faiss finds nearly all of the exact near rows, behind the interface of Annoy's index."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from coreset_backend.errors import NotFinite
from coreset_backend.selection import exact_graph, faiss_index
from coreset_backend.selection.neighbor_search import FAISS_FROM, build_index

has_faiss = pytest.mark.skipif(
    not faiss_index.is_installed(), reason="faiss-cpu, the extra `faiss`, is not installed"
)
WITHOUT = """
import sys
from pathlib import Path
import numpy as np
from coreset_backend.selection.neighbor_search import build_index
print(build_index(np.eye(30, dtype=np.float32), Path(sys.argv[1]) / "n.ann", faiss_from=30).name)
"""


def clusters(n: int = 6000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (3 * rng.normal(size=(50, 16))[rng.integers(0, 50, n)] + rng.normal(size=(n, 16))).astype(
        np.float32
    )


@has_faiss
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


@has_faiss
def test_a_row_comes_before_its_copies_and_what_is_not_found_is_minus_one(tmp_path: Path) -> None:
    vectors = clusters()[np.arange(400) % 7]
    index = build_index(vectors, tmp_path / "n.ann", faiss_from=1)
    rows, distances = index.nearest(np.array([12, 399]), 3)
    assert rows[:, 0].tolist() == [12, 399] and not distances.any()
    few = build_index(vectors[:5], tmp_path / "n.ann", faiss_from=1).graph(6)
    assert (few.rows[:, 4:] == -1).all() and np.isinf(few.distances[:, 4:]).all()
    assert sorted(few.rows[0, :4].tolist()) == [1, 2, 3, 4]


@has_faiss
def test_annoy_stays_below_two_million_rows_and_nan_is_refused(tmp_path: Path) -> None:
    vectors = clusters(300)
    assert build_index(vectors, tmp_path / "n.ann").name == "annoy"
    assert FAISS_FROM == 2_000_000
    vectors[7, 1] = np.nan
    with pytest.raises(NotFinite, match="row 7"):
        build_index(vectors, tmp_path / "n.ann", faiss_from=1)


def test_without_the_extra_annoy_searches_and_the_log_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "faiss.py").write_text("raise ImportError('not installed')")
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, tmp_path],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "annoy\n"
    assert ran.stderr == (
        "Annoy searches the neighbours of 30 rows, since faiss is not installed; pip install "
        "'coreset-backend[faiss]' adds it\n"
    )
