"""Rows by their keys, against a dict; arrays of files."""

import resource
from pathlib import Path

import numpy as np

from coreset_backend.arrays import KeyRows, empty_beside, forget_pages


def test_keys_are_found_as_in_a_dict_and_the_last_of_equal_ones_counts() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 256, (500, 32), dtype=np.uint8)
    keys[100:150] = keys[:50]  # one image of several tasks
    keys[200:210, :8] = keys[210, :8]  # a start shared by chance: only the last of these is found
    wanted = np.concatenate([keys, rng.integers(0, 256, (500, 32), dtype=np.uint8)])
    row_of = {key.tobytes(): row for row, key in enumerate(keys)}
    expected = np.array([row_of.get(key.tobytes(), -1) for key in wanted])
    expected[200:210] = -1
    assert KeyRows(keys).find(wanted).tolist() == expected.tolist()
    assert KeyRows(keys[:0]).find(wanted[:3]).tolist() == [-1, -1, -1]


def resident(path: Path) -> int:
    """How many kB of the file this process holds."""
    parts = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return sum(int(part.split("Rss:")[1].split()[0]) for part in parts)


def test_a_mapped_array_leaves_memory_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(2_000_000))
    rows = np.load(path, mmap_mode="c").view(np.ndarray)
    assert rows.sum() == 1_999_999_000_000
    held = resident(path)
    forget_pages(rows[3:])
    assert resident(path) < held / 2
    assert rows[-1] == 1_999_999
    forget_pages(np.arange(3))  # an array of no file stays


def mapped(path: Path, array: np.ndarray) -> np.ndarray:
    np.save(path, array)
    return np.asarray(np.load(path, mmap_mode="c"))


def test_an_array_beside_one_of_a_file_is_of_a_file_without_a_name(tmp_path: Path) -> None:
    source = mapped(tmp_path / "rows.npy", np.arange(2_000_000))
    first = empty_beside(source[5:], (500_000, 4), np.float32)
    first[:] = 7
    copy = empty_beside(first, first.shape, first.dtype)
    copy[:] = first
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.npy"]
    held = resident(tmp_path)
    assert held > 15_000
    for array in (source, first, copy):
        forget_pages(array)
    assert resident(tmp_path) < held / 2
    assert (copy == 7).all()


def test_an_array_beside_one_in_memory_is_in_memory_and_so_where_the_disk_has_no_room(tmp_path: Path) -> None:
    assert empty_beside(np.arange(9), (3, 2), np.float32).base is None
    source = mapped(tmp_path / "rows.npy", np.arange(9))
    assert empty_beside(source, (0, 2), np.int32).shape == (0, 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert empty_beside(source, (1000, 2), np.int32).base is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert empty_beside(source, (1000, 2), np.int32).base is not None
