"""A file that is replaced is the old one or the new one, whoever fails or is killed in the middle."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coreset_backend.errors import Unwritable
from coreset_backend.files import PARTIAL, remove_partial, replacing, write_atomically

KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from coreset_backend.files import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "held.json"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize("durable", [True, False])
def test_what_the_block_writes_takes_the_place_of_the_file(kept: Path, durable: bool) -> None:
    with replacing(kept, durable=durable) as partial:
        partial.write_bytes(b"new")
        assert kept.read_bytes() == b"old"
    assert kept.read_bytes() == b"new"
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_where_the_block_fails_the_old_file_stays_and_nothing_beside_it(
    kept: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)), replacing(kept) as partial:
        partial.write_bytes(b"half")
        raise error
    assert kept.read_bytes() == b"old"
    assert list(kept.parent.iterdir()) == [kept]


def test_a_process_that_is_killed_in_the_middle_leaves_the_old_file(kept: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(kept)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert kept.read_bytes() == b"old"
    assert [path.suffix for path in kept.parent.iterdir() if path != kept] == [PARTIAL]


def test_what_a_killed_process_left_is_removed_an_hour_later(kept: Path) -> None:
    names = ".held.json.0123abcd.part", ".held.json.4567cdef.part", ".a-persons.part"
    left, fresh, foreign = (kept.parent / name for name in names)
    for path in (left, fresh, foreign):
        path.touch()
    for path in (left, foreign, kept):
        os.utime(path, (1, 1))
    remove_partial(kept.parent)
    assert sorted(kept.parent.iterdir()) == sorted([fresh, foreign, kept])


def test_what_cannot_be_written_is_told_with_its_folder(tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match=r"held\.json could not be saved below .*gone: No such file"):
        write_atomically(tmp_path / "gone/held.json", b"new")
