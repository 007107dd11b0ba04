"""Shards on disk: whole or absent, found by the keys of their images."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from training_images import keys

from coreset_backend.fleet.shelf import KEPT_SECONDS, Embedded, Shelf, Source, clear_shards


def shard(n: int, first: int = 0) -> Embedded:
    features = np.random.default_rng(first).random((n, 5), dtype=np.float32)
    sources = tuple(Source(first + row, f"c{first + row}", "etag:1") for row in range(n))
    return Embedded(keys(n, first), features, sources)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "shards", "network")
    shelf.prepare()
    shelf.put("a", shard(3).packed())
    shelf.put("b", shard(4, 10).packed())
    return shelf


def test_features_are_found_by_the_keys_of_their_images(shelf: Shelf) -> None:
    index, wanted = shelf.index(), np.concatenate([keys(2, 11), keys(1, 99), keys(1, 2)])
    found = index.find(wanted)
    into = np.zeros((4, 5), np.float32)
    assert index.read(found, into).tolist() == [True, True, False, True]
    assert into.tolist() == [*shard(4, 10).features[1:3].tolist(), [0] * 5, shard(3).features[2].tolist()]
    assert {source.task_id for source in shelf.sources()} == {0, 1, 2, 10, 11, 12, 13}
    assert shelf.has("a") and not shelf.has("c")


def test_an_empty_shard_and_an_empty_shelf_hold_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shards", "network")
    shelf.prepare()
    assert shelf.index().find(keys(2)).tolist() == [-1, -1]
    shelf.put("none", Embedded(keys(1)[:0], np.empty((0, 5), np.float32)).packed())
    assert shelf.has("none") and shelf.index().find(keys(2)).tolist() == [-1, -1]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_half_a_shard_counts_as_missing(shelf: Shelf, tmp_path: Path, share: float) -> None:
    (path,) = tmp_path.rglob("*-a.npz")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert not shelf.has("a") and shelf.has("b")
    assert (shelf.index().find(keys(3)) == -1).all()
    assert not path.exists(), "nobody reads it again"


def test_features_that_were_altered_are_noticed_when_they_are_read(shelf: Shelf, tmp_path: Path) -> None:
    (path,) = tmp_path.rglob("*-a.npz")
    content, held = bytearray(path.read_bytes()), shard(3).features.tobytes()
    content[content.index(held) + 7] ^= 1
    path.write_bytes(content)
    index, into = shelf.index(), np.zeros((4, 5), np.float32)
    wanted = np.concatenate([keys(3), keys(1, 10)])
    assert index.read(index.find(wanted), into).tolist() == [False, False, False, True]
    assert not path.exists()


def test_another_networks_shards_and_old_ones_are_deleted(shelf: Shelf, tmp_path: Path) -> None:
    (path,) = tmp_path.rglob("*-a.npz")
    long_ago = time.time() - KEPT_SECONDS - 60
    os.utime(path, (long_ago, long_ago))
    shelf.prepare()
    assert not shelf.has("a") and shelf.has("b")
    Shelf(tmp_path / "shards", "another").prepare()
    assert not shelf.has("b")


def test_shards_from_before_a_refresh_are_deleted(shelf: Shelf, tmp_path: Path) -> None:
    (path,) = tmp_path.rglob("*-a.npz")
    os.utime(path, (time.time() - 100, time.time() - 100))
    shelf.prepare(refreshed_at=time.time() - 50)
    assert not shelf.has("a") and shelf.has("b")


def test_the_shards_go_when_their_round_is_saved(shelf: Shelf, tmp_path: Path) -> None:
    clear_shards(tmp_path / "shards")
    clear_shards(tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
