import hashlib
import logging
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from coreset_backend.images.cache import PixelCache

SIZE = 16
ENTRY = 40 + SIZE * SIZE * 3  # bytes of one entry on disk
NOW = 0  # nothing is in use


def pixels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def opened(folder: Path, entries: float = 100, spare: int = 0) -> PixelCache:
    return PixelCache(folder / "cache", int(entries * ENTRY), spare)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "cache").rglob("*") if path.is_file())


def in_future() -> int:
    """A time that no entry is younger than: nothing is in use."""
    return time.time_ns() + 10**12


def test_what_was_written_is_read_by_this_and_the_next_process(tmp_path: Path) -> None:
    assert opened(tmp_path).write(key(1), pixels(1), NOW)
    cache = opened(tmp_path)
    assert cache.has(key(1), SIZE)
    np.testing.assert_array_equal(cache.read(key(1), SIZE), pixels(1))
    assert not cache.has(key(2), SIZE)
    assert cache.read(key(2), SIZE) is None
    assert not cache.has(key(1), SIZE * 2)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = opened(tmp_path, entries=10)
    for number in range(10):
        cache.write(key(number), pixels(number), NOW)
    for number in (0, 3):
        assert cache.has(key(number), SIZE)
    assert cache.write(key(10), pixels(10), in_future())
    left = {number for number in range(11) if cache.has(key(number), SIZE)}
    assert {0, 3, 10} < left
    assert not {1, 2} & left


def test_the_bound_holds(tmp_path: Path) -> None:
    cache = opened(tmp_path, entries=10)
    for number in range(50):
        assert cache.write(key(number), pixels(number), in_future())
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 10 * ENTRY


def test_the_pool_in_use_does_not_push_itself_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = opened(tmp_path, entries=5)
    cache.write(key(99), pixels(99), NOW)
    started = time.time_ns()
    stored = [cache.write(key(number), pixels(number), started) for number in range(10)]
    assert stored == [True] * 5 + [False] * 5
    assert not cache.has(key(99), SIZE)
    assert all(cache.has(key(number), SIZE) for number in range(5))
    assert [record.message for record in caplog.records] == [
        "The image cache is full: this pool needs more than its 4.04e-06 GB (CORESET_CACHE_GB). "
        "Images stay in memory or are fetched again"
    ]


@pytest.mark.parametrize("harm", ["torn", "empty", "altered", "foreign", "longer"])
def test_a_harmed_entry_counts_as_missing(tmp_path: Path, harm: str) -> None:
    cache = opened(tmp_path)
    cache.write(key(1), pixels(1), NOW)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "torn": whole[:-100],
            "empty": b"",
            "altered": whole[:-1] + bytes([whole[-1] ^ 1]),
            "foreign": b"\x89PNG" + whole[4:],
            "longer": whole + b"x",
        }[harm]
    )
    assert cache.read(key(1), SIZE) is None
    assert not path.exists()
    assert cache.write(key(1), pixels(1), NOW)
    np.testing.assert_array_equal(cache.read(key(1), SIZE), pixels(1))


def test_leftovers_of_a_killed_process_are_removed_and_foreign_files_are_not(tmp_path: Path) -> None:
    opened(tmp_path).write(key(1), pixels(1), NOW)
    shard = files(tmp_path)[0].parent
    old, young, foreign = shard / "old.part", shard / "young.part", shard / "notes.txt"
    for path in (old, young, foreign):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    os.utime(foreign, (0, 0))
    opened(tmp_path)
    assert (old.exists(), young.exists(), foreign.exists()) == (False, True, True)


def test_many_writers_and_readers_leave_only_whole_entries(tmp_path: Path) -> None:
    """Two caches on one folder, as in two workers, with room for a third of what they write."""
    caches = [opened(tmp_path, entries=10), opened(tmp_path, entries=10)]
    wrong: list[int] = []

    def work(cache: PixelCache, seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 30, 60):
            found = cache.read(key(number), SIZE)
            if found is None:
                cache.write(key(number), pixels(number), in_future())
            elif not np.array_equal(found, pixels(number)):
                wrong.append(int(number))

    threads = [threading.Thread(target=work, args=(caches[n % 2], n)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(path.stat().st_size == ENTRY for path in files(tmp_path))
    assert len(files(tmp_path)) <= 20


def test_a_full_disk_refuses_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cache = opened(tmp_path, spare=1 << 60)
    assert not cache.write(key(1), pixels(1), NOW)
    assert not cache.write(key(2), pixels(2), NOW)
    assert files(tmp_path) == []
    assert len(caplog.records) == 1
    assert "GB of disk are free" in caplog.text


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = opened(tmp_path)
    (tmp_path / "cache" / key(1)[:2]).write_text("a file where a folder should be")
    assert not cache.write(key(1), pixels(1), NOW)
    assert "writing failed" in caplog.text
    assert cache.write(key(2), pixels(2), NOW)


def test_a_cache_whose_folder_vanished_refuses(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    (tmp_path / "cache").rmdir()
    assert not cache.write(key(1), pixels(1), NOW)
    assert cache.read(key(1), SIZE) is None
