"""What the pages show of a round, against pools whose answer is known."""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from coreset_backend.arrays import Resize
from coreset_backend.decoding import decoded_pixels
from coreset_backend.local.demo_images import make_images
from coreset_backend.project import Labels, Snapshot, Task
from coreset_backend.rounds.explain import gather_evidence, label_codes, pick_neighbors
from coreset_backend.rounds.label_errors import judged_labels
from coreset_backend.rounds.near_duplicates import duplicate_groups, look_alike
from coreset_backend.rounds.pool_map import _spread, followed_layout, layout, principal_plane
from coreset_backend.selection import NeighborGraph
from coreset_backend.selection.annoy_index import build_index

Vectors = NDArray[np.float32]
CLASSES = 8


def graph_of(vectors: Vectors, folder: Path, k: int = 10) -> NeighborGraph:
    return build_index(vectors, folder / "neighbors.ann").graph(k)


@pytest.fixture(scope="module")
def clusters() -> tuple[Vectors, NDArray[np.int16]]:
    """800 vectors around eight centers in 16 dimensions, and whose center each is."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CLASSES, 800).astype(np.int16)
    vectors = rng.normal(0, 1, (CLASSES, 16))[codes] * 2 + rng.normal(0, 0.4, (800, 16))
    return vectors.astype(np.float32), codes


def kept_neighbors(points: NDArray[np.uint16], graph: NeighborGraph, among: int = 20) -> float:
    """The share of each row's ten near rows that are among its ``among`` nearest on the map."""
    places = points.astype(np.float64)
    far = ((places[:, None] - places[None]) ** 2).sum(2)
    np.fill_diagonal(far, np.inf)
    near = np.argsort(far, axis=1)[:, :among]
    return float(np.mean([np.isin(rows, near[row]).mean() for row, rows in enumerate(graph.rows)]))


def test_the_map_keeps_neighbours_together_better_than_its_two_main_directions(
    clusters: tuple[Vectors, NDArray[np.int16]], tmp_path: Path
) -> None:
    vectors, codes = clusters
    graph = graph_of(vectors, tmp_path)
    points = layout(vectors, graph, seed=0)
    plain = _spread(principal_plane(vectors, np.random.default_rng(0)))
    assert kept_neighbors(points, graph) > kept_neighbors(plain, graph) + 0.15
    assert np.array_equal(points, layout(vectors, graph, seed=0))
    centers = np.array([points[codes == code].mean(0) for code in range(CLASSES)])
    own = ((points[:, None] - centers[None]) ** 2).sum(2).argmin(1) == codes
    assert own.mean() > 0.97


def test_added_images_take_their_place_among_their_neighbours_and_the_others_stay(
    clusters: tuple[Vectors, NDArray[np.int16]], tmp_path: Path
) -> None:
    vectors, codes = clusters
    graph = graph_of(vectors, tmp_path)
    before = np.arange(800)
    before[700:] = -1
    old = layout(vectors[:700], graph_of(vectors[:700], tmp_path), seed=0)
    points = followed_layout(old, before, graph, seed=0)
    np.testing.assert_array_equal(points[:700], old)
    centers = np.array([old[codes[:700] == code].mean(0) for code in range(CLASSES)])
    own = ((points[700:, None] - centers[None]) ** 2).sum(2).argmin(1) == codes[700:]
    assert own.mean() > 0.95
    assert len(np.unique(points[700:], axis=0)) > 95
    alone = NeighborGraph(np.full((2, 1), -1, np.int32), np.full((2, 1), np.inf, np.float32))
    assert followed_layout(old, np.array([3, -1]), alone, seed=0).shape == (2, 2)


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_tiny_and_equal_pools_have_a_map(n: int, tmp_path: Path) -> None:
    vectors = np.ones((n, 4), dtype=np.float32)
    points = layout(vectors, graph_of(vectors, tmp_path, max(1, min(10, n - 1))), seed=0)
    assert points.shape == (n, 2)


def test_near_copies_are_grouped_and_nothing_else(tmp_path: Path) -> None:
    """Of nine generated images in a row the last four show one fruit, filmed."""
    names = [name for name, _ in make_images(tmp_path / "images", 90, seed=5, size=64)]
    pixels = np.stack([np.asarray(Image.open(tmp_path / "images" / name)) for name in names])
    vectors = pixels.reshape(90, 8, 8, 8, 8, 3).mean((2, 4)).reshape(90, -1).astype(np.float32)
    groups = duplicate_groups(vectors, np.array([8]), graph_of(vectors, tmp_path), pixels)
    copies = [row for row in range(90) if row % 9 >= 5]
    assert np.flatnonzero(groups >= 0).tolist() == copies
    assert (groups[copies].reshape(-1, 4) == np.arange(10)[:, None]).all()


def test_alike_embeddings_of_unlike_images_are_no_near_copies(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 1, (40, 8)).astype(np.float32)
    vectors[1] = vectors[0]
    vectors[3] = vectors[2]
    pixels = rng.integers(0, 2, (40, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2) * 255
    pixels[1], pixels[2], pixels[3] = 255 - pixels[0], 7, 200  # the last two have no contrast
    graph = graph_of(vectors, tmp_path)
    labeled = np.array([], dtype=np.int64)
    assert np.flatnonzero(duplicate_groups(vectors, labeled, graph, pixels) >= 0).tolist() == [2, 3]
    pixels[1] = pixels[0] // 2 + 60  # darker, less contrast
    assert duplicate_groups(vectors, labeled, graph, pixels)[:5].tolist() == [0, 0, 1, 1, -1]


# Levels that a scene uses, from where on, noise in levels, and the type that its camera writes.
CAMERAS = {
    "8 bits": (255, 0, 1.5, np.uint8),
    "8 bits, faint": (20, 100, 0.5, np.uint8),
    "10 bits": (1023, 0, 4, np.uint16),
    "12 bits": (4095, 0, 16, np.uint16),
    "16 bits": (65535, 0, 200, np.uint16),
    "thermal": (300, 29_500, 4, np.uint16),
    "16 bits, faint": (60, 1000, 2, np.uint16),
    "float": (1, 0, 0.005, np.float32),
}


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("camera", CAMERAS)
def test_near_copies_are_the_same_at_every_contrast_and_bit_depth(camera: str, size: int) -> None:
    """Unlike scenes, each twice with other noise, and blank frames, as the camera writes them."""
    levels, start, noise, dtype = CAMERAS[camera]
    rng = np.random.default_rng(3)

    def shot(scene: NDArray[np.float64]) -> NDArray[np.uint8]:
        values = start + scene * levels + rng.normal(0, noise, scene.shape)
        most = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else np.inf
        values = np.clip(np.rint(values) if most < np.inf else values, 0, most)
        body = io.BytesIO()
        Image.fromarray(values.astype(dtype)).save(body, "TIFF")
        return decoded_pixels(body.getvalue(), Resize(size), 10**6)

    coarse = rng.integers(0, 256, (16, 8, 8), np.uint8)
    scenes = [np.asarray(Image.fromarray(one).resize((160, 160)), np.float64) / 255 for one in coarse]
    blank = [np.full((160, 160), 0.4)] * 4
    pixels = np.stack([shot(scene) for scene in (*scenes, *scenes, *blank)])
    one, other = np.triu_indices(16, 1)
    assert look_alike(pixels, np.stack([one, other], 1)).mean() < 0.02
    assert look_alike(pixels, np.stack([np.arange(16), np.arange(16, 32)], 1)).all()
    assert look_alike(pixels, np.array([[32, 33], [33, 34], [34, 35]])).all()
    assert not look_alike(pixels, np.stack([np.arange(16), np.full(16, 32)], 1)).any()


@pytest.mark.parametrize(
    "labels", [None, Labels("l", "i", ("a", "b"), False), Labels("l", "i", ("a", "b"), True)]
)
def test_evidence_of_a_round_is_aligned_with_its_embeddings(labels: Labels | None, tmp_path: Path) -> None:
    class Pixels:
        task_ids = np.arange(20, 40, 2)

        def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
            return (
                np.zeros((len(rows), 32, 32, 3), np.uint8)
                + (rows * 12 % 256).astype(np.uint8)[:, None, None, None]
            )

    tasks = tuple(
        Task(task_id, "x", "labeled" if task_id in (20, 24) else "pool", ("b",) if task_id == 24 else None)
        for task_id in range(20, 40)
    )
    snapshot = Snapshot(7, "Pets", None, labels, tasks, datetime.now(UTC))
    embeddings = np.random.default_rng(0).normal(0, 1, (10, 4)).astype(np.float32)
    places = layout(embeddings, graph_of(embeddings, tmp_path, 5), seed=0)
    groups = np.full(10, -1, dtype=np.int32)
    judged = judged_labels([tasks[4]], labels, embeddings[[2]], 0, prepared=False) if labels else None
    evidence = gather_evidence(snapshot, Pixels(), embeddings, places, groups, (22, 26), judged, seed=0)
    assert evidence["layout"] is places
    assert evidence["duplicate_groups"] is groups
    assert len(evidence["label_codes"]) == 20
    assert evidence["label_codes"][4] == (1 if labels else -1)
    assert set(evidence["pick_neighbors"][:, 0]) <= {20, 24}
    assert ("label_quality" in evidence) == bool(labels)
    if labels:
        assert np.flatnonzero(np.isfinite(evidence["label_quality"])).tolist() == [2]


def test_each_pick_is_explained_by_what_it_is_nearest_to() -> None:
    ids = np.array([10, 20, 30, 40])
    embeddings = np.array([[0, 0], [3, 0], [9, 0], [10, 0]], dtype=np.float32)
    near, far = pick_neighbors(ids, embeddings, (40, 20, 30), np.array([10]))
    assert near.tolist() == [[10, -1], [10, 40], [10, 40]]
    assert far.tolist() == [[10, np.inf], [3, 7], [9, 1]]
    near, far = pick_neighbors(ids, embeddings, (40,), np.array([], dtype=np.int64))
    assert near.tolist() == [[-1, -1]]


def test_label_codes_follow_the_order_of_the_classes() -> None:
    tasks = [Task(1, "a", "labeled", ("dog",)), Task(2, "b"), Task(3, "c", "labeled", None)]
    assert label_codes(tasks, Labels("l", "i", ("cat", "dog"), False)).tolist() == [1, -1, -1]
    assert label_codes(tasks, None).tolist() == [-1, -1, -1]
