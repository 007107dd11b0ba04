from pathlib import Path

import numpy as np
import pytest

from coreset_backend.errors import CorruptRound, NotFinite
from coreset_backend.selection.annoy_index import build_index, open_index


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)


def exact_nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1)[:, :k]


def test_the_graph_finds_most_of_the_true_neighbors(vectors: np.ndarray, tmp_path: Path) -> None:
    graph = build_index(vectors, tmp_path / "n.ann", trees=50).graph(5)
    truth = exact_nearest(vectors, 5)
    found = [len(set(a) & set(b)) for a, b in zip(graph.rows.tolist(), truth.tolist(), strict=True)]
    assert np.mean(found) > 4.5
    assert (graph.rows != np.arange(300)[:, None]).all()
    measured = np.linalg.norm(vectors[graph.rows] - vectors[:, None], axis=2)
    np.testing.assert_allclose(graph.distances, measured, rtol=1e-4)


def test_same_vectors_and_seed_give_the_same_bytes(vectors: np.ndarray, tmp_path: Path) -> None:
    files = [build_index(vectors, tmp_path / name, seed=3) for name in ("a.ann", "b.ann")]
    assert files[0].manifest == files[1].manifest


def test_a_new_vector_finds_its_place(vectors: np.ndarray, tmp_path: Path) -> None:
    build_index(vectors, tmp_path / "n.ann", trees=50)
    rows, distances = open_index(tmp_path / "n.ann").nearest(vectors[[17]] + 1e-4, 3)
    assert rows[0, 0] == 17
    assert distances[0, 0] < 0.01


@pytest.mark.parametrize("broken", ["n.ann", "n.json"])
def test_an_altered_or_missing_file_is_refused(vectors: np.ndarray, tmp_path: Path, broken: str) -> None:
    build_index(vectors, tmp_path / "n.ann")
    content = bytearray((tmp_path / broken).read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / broken).write_bytes(content)
    with pytest.raises(CorruptRound):
        open_index(tmp_path / "n.ann")
    (tmp_path / broken).unlink()
    with pytest.raises(CorruptRound):
        open_index(tmp_path / "n.ann")


def test_nan_is_refused(vectors: np.ndarray, tmp_path: Path) -> None:
    vectors[7, 3] = np.nan
    with pytest.raises(NotFinite, match="row 7"):
        build_index(vectors, tmp_path / "n.ann")


def test_the_index_is_not_begun_where_the_disk_has_no_room(tmp_path: Path) -> None:
    """Annoy itself would be ended by the kernel."""
    endless = np.broadcast_to(np.float32(0), (2**40, 2))
    with pytest.raises(OSError, match="No space left on device"):
        build_index(endless, tmp_path / "neighbors.ann")
    assert not list(tmp_path.iterdir())
