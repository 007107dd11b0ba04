"""Decoding in child processes: whatever a file does, it costs that image, and its bounds hold."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hostile_images import HOSTILE, encoded, jpeg_of_filling, tiff_of_faxed_noise, tiff_of_many_tags
from PIL import Image
from waiting import wait_until

from coreset_backend.arrays import Interpolation, Resize
from coreset_backend.decoding import Decoders, MemoryBudget, decoded_pixels, machine
from coreset_backend.errors import ConfigError, ImageError

MOST = 50_000_000
RED = (200, 40, 40)
PEAK_BYTES = 600_000_000
REFUSED = {
    "webp_of_one_colour": "600 MB of memory, more than the 365 allowed",
    "png_of_fifty_million_rows": "450 MB of memory, more than the 365 allowed",
    "png_without_a_palette": "damaged",
    "tiff_of_many_strips": "more memory than allowed for its size",
    "jpeg_of_filling": "more CPU time",
    "bmp_of_runs": "damaged|more CPU time",
}


def red() -> bytes:
    return encoded(Image.new("RGB", (80, 60), RED), "JPEG")


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with Decoders(MOST, processes=2) as decoders:
        yield decoders


def children(pid: int | None = None) -> list[int]:
    """The processes that decode for the process ``pid``, or for this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == (pid or os.getpid()) and b"coreset_backend.decoding" in command:
            found.append(int(path.parent.name))
    return found


def taken(pids: list[int]) -> int:
    """Bytes of memory that the processes take, what they share counted once."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


@contextmanager
def watched_memory() -> Iterator[list[int]]:
    """Looks of a thread at what all children take together, the largest last in the list."""
    most, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            most.append(max(most[-1], taken(children())))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_the_same_pixels_as_in_this_process(interpolation: Interpolation, decoders: Decoders) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    resize = Resize(48, interpolation)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encoded(noise, kind)
        np.testing.assert_array_equal(decoders.pixels(data, resize), decoded_pixels(data, resize, MOST))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_costs_one_image(name: str, decoders: Decoders) -> None:
    data = HOSTILE[name]()
    if name in REFUSED:
        with pytest.raises(ImageError, match=REFUSED[name]):
            decoders.pixels(data, Resize(32))
    else:
        assert decoders.pixels(data, Resize(32)).shape == (32, 32, 3)
    np.testing.assert_allclose(decoders.pixels(red(), Resize(32)).reshape(-1, 3).mean(0), RED, atol=8)


@pytest.mark.slow
def test_many_hostile_files_at_once_stay_within_the_memory_promised() -> None:
    """With twice as many threads as processes, beside the pictures that cost most of those that are read."""
    large = encoded(Image.new("RGB", (7000, 7000), RED), "PNG", compress_level=1)
    progressive = encoded(Image.new("RGB", (7000, 7000), RED), "JPEG", progressive=True, subsampling=0)
    files = [made() for made in HOSTILE.values() if made is not jpeg_of_filling] + [large, progressive] * 3
    read = 0
    with Decoders(MOST, processes=4) as decoders, watched_memory() as most, ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(decoders.pixels, data, Resize(64)) for data in files]:
            read += future.exception() is None
    assert read >= 6
    assert 100_000_000 < most[-1] < PEAK_BYTES


def test_a_decoder_says_nothing_but_how_often_it_warned(
    decoders: Decoders, capfd: pytest.CaptureFixture[str]
) -> None:
    for data in (tiff_of_faxed_noise(), tiff_of_many_tags()):
        decoders.pixels(data, Resize(32))
    assert capfd.readouterr() == ("", "")
    odd = encoded(Image.new("RGB", (80, 60)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01")
    decoders.pixels(odd, Resize(32))
    assert decoders.warnings > 0


def test_what_ends_a_decoder_costs_its_image_and_what_kills_it_none(decoders: Decoders) -> None:
    decoders.pixels(red(), Resize(32))
    for reason in (signal.SIGKILL, signal.SIGSEGV):
        (child,) = children()
        os.kill(child, reason)
        if reason == signal.SIGKILL:  # as the kernel does where memory ran out: the image is tried again
            assert decoders.pixels(red(), Resize(32)).shape == (32, 32, 3)
        else:
            with pytest.raises(ImageError, match="crashed its decoder"):
                decoders.pixels(red(), Resize(32))
    assert decoders.pixels(red(), Resize(32)).shape == (32, 32, 3)


def test_children_hold_no_secret_and_end_when_they_have_nothing_to_do(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a-secret-token")
    decoders.pixels(red(), Resize(32))
    (child,) = children()
    assert b"a-secret-token" not in Path(f"/proc/{child}/environ").read_bytes()
    limits = Path(f"/proc/{child}/limits").read_text()
    assert "Max file size             0 " in limits
    decoders.rest()
    assert children() == []


ONE_IMAGE = """
import sys, time
from coreset_backend.arrays import Resize
from coreset_backend.decoding import Decoders
decoders = Decoders(50_000_000)
print(decoders.pixels(sys.stdin.buffer.read(), Resize(32)).shape, flush=True)
time.sleep(600)
"""


def test_children_end_with_their_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ONE_IMAGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        parent.stdin.write(red())
        parent.stdin.close()
        assert parent.stdout.readline() == b"(32, 32, 3)\n"
        (child,) = children(parent.pid)
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{child}").exists(), "the end of the child")


def test_a_machine_without_processes_is_not_the_fault_of_the_image(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="cannot be started"):
        decoders.pixels(red(), Resize(32))


def test_memory_is_lent_in_turn_and_never_more_than_there_is() -> None:
    budget = MemoryBudget(100)
    held, most, order = [0], [0], []
    lock = threading.Lock()

    def borrow(count: int) -> None:
        with budget.lent(count):
            with lock:
                held[0] += min(count, 100)
                most.append(held[0])
                order.append(count)
            time.sleep(0.01)
            with lock:
                held[0] -= min(count, 100)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(borrow, [30, 60, 500, 10, 90, 20, 30, 40] * 5))
    assert max(most) <= 100
    assert len(order) == 40


Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> None:
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("own", "files", "cores", "memory"),
    [
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ("0::/\n", {"cpu.max": "100000 100000", "memory.max": "1073741824"}, 1, 1 << 30),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/memory.high": "536870912"}, 1, 1 << 29),
        (
            "4:memory:/x\n1:cpu,cpuacct:/y\n",
            {
                "cpu/y/cpu.cfs_quota_us": "100000",
                "cpu/y/cpu.cfs_period_us": "100000",
                "memory/x/memory.limit_in_bytes": "268435456",
            },
            1,
            1 << 28,
        ),
        (
            "4:memory:/x\n",
            {"cpu/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": str(1 << 62)},
            None,
            None,
        ),
        ("", {}, None, None),
    ],
)
def test_a_container_s_share_is_what_counts(
    own: str, files: dict[str, str], cores: int | None, memory: int | None, tmp_path: Path, write: Write
) -> None:
    write("../own", own)
    for name, text in files.items():
        write(name, text)
    folders = tmp_path / "cgroup", tmp_path / "own"
    assert machine.cores(*folders) == (cores or len(os.sched_getaffinity(0)))
    assert machine.memory(*folders) == (memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
