"""Rounds on frozen features, which compute what is new and carry the rest over: as good as computing all."""

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_label_studio import TOKEN, FakeLabelStudio, picture
from PIL import Image

from coreset_backend.backend import Backend
from coreset_backend.cli.status import status_lines
from coreset_backend.images.pixels import Pixels
from coreset_backend.jobs.status import project_status
from coreset_backend.reports import Work
from coreset_backend.rounds.carried import ComparedPairs, carried_over, neighborhood
from coreset_backend.rounds.near_duplicates import look_alike
from coreset_backend.rounds.run import run_round
from coreset_backend.selection import exact_graph, faiss_index, near_duplicate_groups
from coreset_backend.store.saved_round import StoredRound

POOL = 60
LABELS = ("cat", "dog")


@pytest.fixture
def ours(make_backend: Callable[..., Backend], studio: FakeLabelStudio, weights: Path) -> Backend:
    return make_backend(
        label_studio_url=studio.url,
        label_studio_api_key=TOKEN,
        weights=weights,
        image_size=32,
        batch_size=4,
        device="cpu",
    )


def label(studio: FakeLabelStudio, stored: StoredRound) -> None:
    for number, task_id in enumerate(stored.record.batch):
        studio.annotate(task_id, LABELS[number % 2])


def add_image(studio: FakeLabelStudio, project_id: int, content: bytes) -> int:
    path = f"/data/upload/{project_id}/added-{studio.next_id()}.png"
    studio.files[path] = content
    return studio.add_task(project_id, {"image": path})


def written_anew(content: bytes) -> bytes:
    """Another file with the same pixels."""
    body = io.BytesIO()
    Image.open(io.BytesIO(content)).save(body, "PNG", compress_level=1)
    return body.getvalue()


def fetched(studio: FakeLabelStudio) -> list[str]:
    return [path for _, path in studio.asked if path.startswith("/data/upload/")]


def assert_as_computed_for_all(stored: StoredRound, backend: Backend) -> None:
    """The neighbours and near-duplicates are those that a search among all images finds."""
    vectors, rows = stored.array("embeddings"), stored.array("neighbor_rows")
    exact = exact_graph(vectors, rows.shape[1])
    found = stored.array("neighbor_distances")
    full = (rows >= 0).all(axis=1)
    assert full.mean() > 0.5
    np.testing.assert_allclose(found[full], exact.distances[full], rtol=1e-3, atol=2e-3)
    keys = [key.tobytes().hex() for key in stored.array("image_keys")]
    cache = backend.images._cache
    pixels = np.stack([picture for key in keys if (picture := cache.read(key, 32)) is not None])
    task_ids, states = stored.array("task_ids"), stored.array("states")
    at = np.searchsorted(task_ids, stored.array("embedded_task_ids"))
    groups = near_duplicate_groups(
        vectors, np.flatnonzero(states[at] == 0), exact, confirm=lambda pairs: look_alike(pixels, pairs)
    )
    np.testing.assert_array_equal(stored.array("duplicate_groups"), groups)


def test_a_round_touches_only_what_is_new_and_finds_what_a_whole_one_finds(
    ours: Backend, studio: FakeLabelStudio
) -> None:
    project_id = studio.create_project(POOL)
    first = run_round(ours, project_id)
    work = first.record.work
    assert work and (work.images, work.touched, work.embedded, work.searched) == (POOL, POOL, POOL, True)
    assert_as_computed_for_all(first, ours)
    label(studio, first)
    studio.asked.clear()
    second = run_round(ours, project_id)
    work = second.record.work
    assert work and (work.touched, work.embedded, work.searched, work.changed, work.compared) == (
        0,
        0,
        False,
        0,
        0,
    )
    assert not fetched(studio)
    for name in ("embeddings", "layout", "neighbor_rows", "neighbor_distances"):
        np.testing.assert_array_equal(second.array(name), first.array(name))
    assert_as_computed_for_all(second, ours)

    tasks = studio.tasks_of(project_id)
    copy = add_image(studio, project_id, studio.files[tasks[5]["data"]["image"]])
    add_image(studio, project_id, picture(12345))
    studio.delete_task(tasks[9]["id"])
    studio.files["/data/upload/another.png"] = picture(777)
    studio.change_data(tasks[20]["id"], {"image": "/data/upload/another.png"})
    label(studio, second)
    studio.asked.clear()
    third = run_round(ours, project_id)
    work = third.record.work
    assert work and (work.images, work.touched, work.embedded) == (POOL + 1, 3, 2) and not work.searched
    assert f"2 of {POOL + 1} images embedded; neighbours and map follow 5 changed images" in work.words
    told = "\n".join(status_lines(project_status(ours, project_id)))
    assert f"Computed: {work.words}" in told
    assert f"Read: all {POOL + 1} tasks, because Label Studio has {POOL + 1} tasks, and {POOL + 2}" in told
    assert work.changed == 5  # two added, one deleted, one gone and come with another file
    assert len(set(fetched(studio))) == 3, "the copy is known by its content, once it is read"
    assert_as_computed_for_all(third, ours)
    groups = dict(
        zip(third.array("embedded_task_ids").tolist(), third.array("duplicate_groups"), strict=True)
    )
    assert groups[copy] == groups[tasks[5]["id"]] >= 0
    kept = np.isin(third.array("embedded_task_ids"), second.array("embedded_task_ids"))
    kept &= third.array("embedded_task_ids") != tasks[20]["id"]
    before = np.searchsorted(second.array("embedded_task_ids"), third.array("embedded_task_ids")[kept])
    np.testing.assert_array_equal(third.array("layout")[kept], second.array("layout")[before])

    for number in range(20):
        add_image(studio, project_id, picture(2000 + number))
    label(studio, third)
    fourth = run_round(ours, project_id)
    assert fourth.record.work and fourth.record.work.searched and fourth.record.work.changed == 0
    assert_as_computed_for_all(fourth, ours)


def test_images_that_are_gone_from_cache_and_server_keep_their_embeddings(
    ours: Backend, studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    project_id = studio.create_project(POOL)
    label(studio, run_round(ours, project_id))
    for path in ours.store.image_cache.rglob("*.pixels"):
        path.unlink()
    gone = [task["data"]["image"] for task in studio.tasks_of(project_id)[:10]]
    held = {path: studio.files.pop(path) for path in gone}
    second = run_round(ours, project_id)
    assert second.record.work and second.record.work.embedded == 0 and not second.record.failures
    label(studio, second)
    add_image(studio, project_id, written_anew(held[gone[3]]))  # to be compared with an image that is gone
    with caplog.at_level(logging.WARNING):
        third = run_round(ours, project_id)
    assert "all images are looked for again" in caplog.text
    assert [failure.task_id for failure in third.record.failures] == [
        task["id"] for task in studio.tasks_of(project_id)[:10]
    ]


def test_a_damaged_graph_is_computed_for_all_again(
    ours: Backend, studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    project_id = studio.create_project(POOL)
    first = run_round(ours, project_id)
    label(studio, first)
    (first.path / "neighbor_rows.npy").write_bytes(b"torn")
    with caplog.at_level(logging.ERROR):
        second = run_round(ours, project_id)
    assert "neighbours and map are computed for all images" in caplog.text
    assert second.record.work and second.record.work.searched and second.record.work.embedded == 0
    assert carried_over(second, "another network", np.arange(3), np.zeros((3, 32), np.uint8)) is None
    assert carried_over(None, "any", np.arange(3), np.zeros((3, 32), np.uint8)) is None


@pytest.mark.skipif(not faiss_index.is_installed(), reason="faiss-cpu, the extra `faiss`, is not installed")
def test_the_record_says_that_faiss_searched(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (POOL, 8, 8, 3), dtype=np.uint8)
    pixels = Pixels(np.arange(POOL), np.zeros((POOL, 32), np.uint8), images, POOL)
    embeddings = images.reshape(POOL, -1)[:, :16].astype(np.float32)
    for limit, name in ((POOL, "faiss"), (POOL + 1, "annoy")):
        near = neighborhood(None, embeddings, pixels, np.arange(3), tmp_path / "n.ann", 0, faiss_from=limit)
        assert near.work(pixels, POOL) == Work(POOL, POOL, POOL, True, 0, near.compared.read, name)


def test_pairs_are_read_once(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8).repeat(2, axis=0)  # noise, each twice
    shapes = np.kron(pixels[:, :4, :4], np.ones((1, 8, 8, 1), np.uint8))
    pairs = np.array([[0, 1], [3, 2], [1, 4], [10, 11], [0, 11]])
    compared = ComparedPairs(12)
    expected = look_alike(shapes, np.sort(pairs, axis=1))
    assert expected.tolist() == [True, True, False, True, False]
    np.testing.assert_array_equal(compared.confirm(shapes, pairs), expected)
    saved = compared.arrays()
    codes = saved["compared_pairs"].astype(np.int64) @ np.array([12, 1])
    again = ComparedPairs(12, codes, saved["compared_alike"].astype(bool))
    more = np.concatenate([pairs, [[5, 4]]])
    np.testing.assert_array_equal(again.confirm(shapes, more), [*expected, True])
    assert (compared.read, again.read) == (5, 1)
