"""A file that is replaced under its address is noticed, and a large pool is not asked for as a whole."""

import contextlib
import hashlib
import os
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from fake_label_studio import TOKEN, FakeLabelStudio
from image_server import plain_png
from serving import serving

from coreset_backend.arrays import Resize, unwatched
from coreset_backend.backend import Backend
from coreset_backend.images import Images, Limits, open_images
from coreset_backend.images.fetch import REVISIONS
from coreset_backend.images.revisions import ASKED_AGAIN_AFTER, MOST_ASKED, Revisions, Seen, due
from coreset_backend.jobs.requests import refresh_images
from coreset_backend.label_studio.reading import read_tasks
from coreset_backend.rounds.run import _read_tasks

PATH = "/data/upload/1/a.png"


class Handler(BaseHTTPRequestHandler):
    """Serves FILES by path with the headers that ``speaks`` names, and remembers every answer's status."""

    FILES: ClassVar[dict[str, tuple[bytes, float]]] = {}
    speaks: ClassVar[str] = "etag"
    answered: ClassVar[list[tuple[str, int]]] = []
    fails: ClassVar[int] = 0

    def do_GET(self) -> None:
        body, changed = self.FILES.get(self.path, (b"", 0.0))
        headers = {
            "etag": {"ETag": f'W/"{hashlib.md5(body).hexdigest()}"'},
            "date": {"Last-Modified": formatdate(changed, usegmt=True)},
            "deaf": {"ETag": f'"{hashlib.md5(body).hexdigest()}"'},  # and answers no question
            "unsteady": {"ETag": f'"{time.monotonic_ns()}"'},  # as of one machine of many
            "nothing": {},
        }[self.speaks]
        asked = {"If-None-Match": headers.get("ETag"), "If-Modified-Since": headers.get("Last-Modified")}
        same = any(value and self.headers.get(name) == value for name, value in asked.items())
        status = self.fails or (304 if same and self.speaks != "deaf" else 200 if body else 404)
        self.answered.append((self.path, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if status == 200:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    Handler.FILES.clear()
    Handler.answered.clear()
    Handler.speaks, Handler.fails = "etag", 0
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        yield address


@pytest.fixture
def opened(server: str, tmp_path: Path) -> Iterator[Callable[..., Images]]:
    made: list[Images] = []

    def opening(**options: Any) -> Images:
        made.append(
            open_images(
                label_studio_url=server,
                auth=None,
                cache_dir=tmp_path / "cache",
                max_failed_share=0.5,
                limits=Limits(tries=2, backoff_s=0.01),
                **options,
            )
        )
        return made[-1]

    yield opening
    for images in made:
        images.close()


@pytest.fixture
def a_day_later(tmp_path: Path) -> Callable[[], None]:
    """Has everything been asked for a day ago."""

    def wait() -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "cache" / REVISIONS)) as file:
            file.execute("UPDATE seen SET asked = asked - ?", (ASKED_AGAIN_AFTER,))
            file.commit()

    return wait


def shade(images: Images, path: str = PATH, size: int = 16) -> int:
    """The red of the image at ``path``, as a round sees it."""
    pixels, failures = images.fetch([(1, path)], Resize(size))
    assert failures == []
    return int(pixels[0:1][0, size // 2, size // 2, 0])


def statuses() -> list[int]:
    found = [status for _, status in Handler.answered]
    Handler.answered.clear()
    return found


@pytest.mark.parametrize("size", [16, 100])  # in memory, and read from the cache by rows
@pytest.mark.parametrize(
    ("speaks", "unchanged"),
    [("etag", [304]), ("date", [304]), ("deaf", [200]), ("unsteady", [200]), ("nothing", [])],
)
def test_a_replaced_file_is_read_again_where_its_server_gives_its_word(
    opened: Callable[..., Images],
    a_day_later: Callable[[], None],
    speaks: str,
    unchanged: list[int],
    size: int,
) -> None:
    Handler.speaks = speaks
    images = opened()
    Handler.FILES[PATH] = plain_png(10), 1e9
    assert shade(images, size=size) == 10
    assert shade(images, size=size) == 10
    assert statuses() == [200]  # once a day is enough
    a_day_later()
    assert shade(images, size=size) == 10
    assert statuses() == unchanged
    a_day_later()
    Handler.FILES[PATH] = plain_png(20), 1.1e9
    found = shade(images, size=size)
    if speaks == "nothing":
        assert (found, statuses()) == (10, [])
        assert images.ask_again([PATH, None, "/data/upload/1/never-read.png"]) == 1
        found = shade(images, size=size)
    assert (found, statuses()) == (20, [200])
    assert shade(opened(), size=size) == 20  # another process knows it too


def test_the_key_says_the_content_so_that_embeddings_are_made_anew(
    opened: Callable[..., Images], a_day_later: Callable[[], None]
) -> None:
    images, other = opened(), "/data/upload/1/copy.png"
    Handler.FILES |= {PATH: (plain_png(10), 1e9), other: (plain_png(10), 1e9)}

    def keys() -> list[bytes]:
        pixels, _ = images.fetch([(1, PATH), (2, other)], Resize(16))
        return [key.tobytes() for key in pixels.keys]

    first, same = keys()
    assert first == same
    a_day_later()
    assert keys() == [first, first]
    a_day_later()
    Handler.FILES[PATH] = plain_png(20), 1e9
    changed, unchanged = keys()
    assert changed != first and unchanged == first
    a_day_later()
    Handler.FILES[PATH] = plain_png(10), 1e9
    assert keys() == [first, first]


def test_what_cannot_be_asked_for_serves_on_from_the_cache(
    opened: Callable[..., Images], a_day_later: Callable[[], None]
) -> None:
    images = opened()
    Handler.FILES[PATH] = plain_png(10), 1e9
    shade(images)
    for Handler.fails in (404, 500, 401):
        statuses()
        a_day_later()
        assert shade(images) == 10
        assert statuses() == [Handler.fails]  # tried once, as it is not needed
    Handler.fails = 0
    a_day_later()
    Handler.FILES[PATH] = b"no image any more", 1e9
    assert shade(images) == 10
    assert statuses() == [200]


def test_another_size_of_a_replaced_file_is_new_too(
    opened: Callable[..., Images], a_day_later: Callable[[], None]
) -> None:
    images = opened()
    Handler.FILES[PATH] = plain_png(10), 1e9
    assert [shade(images, size=size) for size in (16, 32)] == [10, 10]
    statuses()
    a_day_later()
    Handler.FILES[PATH] = plain_png(20), 1e9
    assert [shade(images, size=size) for size in (16, 32)] == [20, 20]
    assert statuses() == [200, 200]


# ---------------------------------------------------------------- local files


def test_a_local_file_is_looked_at_in_every_round(opened: Callable[..., Images], tmp_path: Path) -> None:
    file, uri = tmp_path / "root/set/a.png", "/data/local-files/?d=set/a.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(plain_png(10))
    images = opened(local_files_root=tmp_path / "root")
    assert shade(images, uri) == 10
    file.write_bytes(plain_png(20))
    assert shade(images, uri) == 20
    before = file.stat()
    replacement = file.with_name("b.png")  # of the same size and time
    replacement.write_bytes(plain_png(30))
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacement.replace(file)
    assert file.stat().st_size == before.st_size
    assert shade(images, uri) == 30
    os.utime(file)
    assert shade(images, uri) == 30
    file.unlink()
    assert shade(images, uri) == 30  # as long as it is cached
    assert Handler.answered == []


# ---------------------------------------------------------------- how many are asked for


def test_of_a_large_pool_a_thousand_are_asked_for_those_longest_unasked_first() -> None:
    now = 1e9
    seen = {f"{n}": Seen("c", "etag:x", now - 2 * ASKED_AGAIN_AFTER - n) for n in range(100_000)}
    asked = due(seen, now)
    assert asked == {f"{n}" for n in range(100_000 - MOST_ASKED, 100_000)}
    fresh = {address: Seen("c", "etag:x", now - 60) for address in seen}
    assert due(fresh, now) == set()
    wordless = {"a": Seen("c", "", 0.0), "b": Seen("c", "file:1-2-3", 0.0)}
    assert due(wordless, now) == set()
    wanted = {address: known._replace(asked=-1.0) for address, known in (seen | wordless).items()}
    assert due(wanted, now) == set(wanted)
    assert due({"a": Seen("c", "etag:x", now + 10**6)}, now) == {"a"}  # a clock that was set back


def test_a_round_waits_no_longer_than_its_share_for_answers(
    opened: Callable[..., Images], a_day_later: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = opened()
    paths = [f"/data/upload/1/{n}.png" for n in range(50)]
    Handler.FILES |= {path: (plain_png(n), 1e9) for n, path in enumerate(paths)}
    images.fetch(enumerate(paths), Resize(16))
    a_day_later()
    statuses()
    monkeypatch.setattr("coreset_backend.images.pixels.ASKING_SECONDS", -1.0)
    _, failures = images.fetch(enumerate(paths), Resize(16))
    assert failures == [] and statuses() == []
    assert images.ask_again(paths) == 50
    images.fetch(enumerate(paths), Resize(16))
    assert statuses() == [304] * 50  # a person has time
    monkeypatch.undo()
    images.fetch(enumerate(paths), Resize(16))
    assert statuses() == []  # and once is enough


# ---------------------------------------------------------------- the file of revisions


@pytest.mark.parametrize("harm", [b"", b"garbage" * 1000, None])
def test_a_damaged_file_of_revisions_costs_fetches_only(
    opened: Callable[..., Images], tmp_path: Path, harm: bytes | None
) -> None:
    Handler.FILES[PATH] = plain_png(10), 1e9
    images = opened()
    assert shade(images) == 10
    images.close()
    path = tmp_path / "cache" / REVISIONS
    for left in path.parent.glob(f"{REVISIONS}*"):
        left.unlink()
    if harm is not None:
        path.write_bytes(harm)
    assert shade(opened()) == 10
    assert shade(opened()) == 10
    assert statuses() == [200, 200]


def test_a_file_of_revisions_that_cannot_be_made_costs_fetches_only(
    opened: Callable[..., Images], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Handler.FILES[PATH] = plain_png(10), 1e9
    (tmp_path / "cache" / REVISIONS / "a folder").mkdir(parents=True)
    images = opened()
    assert [shade(images), shade(images)] == [10, 10]
    assert caplog.text.count("images are fetched again") == 1


def test_a_full_disk_costs_no_known_address(tmp_path: Path) -> None:
    known = Revisions(tmp_path / "r")
    known.note("https://example.com/1.png", "content", "")
    known.close()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        full = Revisions(tmp_path / "r")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for opened in (full, Revisions(tmp_path / "r")):
        assert len(opened.seen(["https://example.com/1.png"])) == 1
        opened.close()


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    one, other = Revisions(tmp_path / "r"), Revisions(tmp_path / "r")
    for number in range(300):
        (one if number % 2 else other).note(str(number), "c", "etag:x")
    assert len(one.seen(map(str, range(1000)))) == 300
    one.close()
    other.close()


def test_pixels_are_those_of_the_new_file(
    opened: Callable[..., Images], a_day_later: Callable[[], None]
) -> None:
    """In a pool of which one file of many was replaced."""
    images = opened()
    paths = [f"/data/upload/1/{n}.png" for n in range(20)]
    Handler.FILES |= {path: (plain_png(n), 1e9) for n, path in enumerate(paths)}
    images.fetch(enumerate(paths), Resize(16))
    a_day_later()
    Handler.FILES[paths[7]] = plain_png(99), 1e9
    pixels, failures = images.fetch(enumerate(paths), Resize(16))
    assert failures == []
    expected = [99 if n == 7 else n for n in range(20)]
    np.testing.assert_array_equal(pixels[0:20][:, 8, 8, 0], expected)


# ---------------------------------------------------------------- the command


def test_refresh_has_a_round_ask_for_all_images_of_the_project(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    project_id = studio.create_project(images=3)
    assert refresh_images(backend, project_id) == 0 and backend.queue.count == 0  # nothing was read yet
    snapshot = backend.label_studio.fetch_snapshot(project_id)
    uris = [(task.task_id, task.uri) for task in snapshot.tasks]
    before, _ = backend.images.fetch(uris, Resize(16))
    path = str(snapshot.tasks[1].uri)
    studio.files[path] = plain_png(77)
    unnoticed, _ = backend.images.fetch(uris, Resize(16))  # its server gives no word for its files
    np.testing.assert_array_equal(unnoticed.keys, before.keys)
    backend.store.keep_known_tasks(project_id, read_tasks(backend.label_studio, project_id, None).known)
    assert refresh_images(backend, project_id) == 3
    assert backend.store.known_tasks(project_id) is None, "the round reads all tasks"
    assert backend.redis.lrange(f"coreset:{project_id}:demands", 0, -1)
    after, _ = backend.images.fetch(uris, Resize(16))
    assert (after.keys != before.keys).any(axis=1).tolist() == [False, True, False]
    assert after[1:2][0, 8, 8, 0] == 77


def test_a_refresh_while_a_round_reads_the_tasks_has_the_next_round_read_all(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    project_id = studio.create_project(images=3)
    backend.images.fetch([(1, f"/data/upload/{project_id}/0.png")], Resize(16))
    _read_tasks(backend, project_id, unwatched)
    assert backend.store.known_tasks(project_id)
    asked = []
    _read_tasks(backend, project_id, lambda _done, _total: asked.append(refresh_images(backend, project_id)))
    assert asked == [1]
    assert backend.store.known_tasks(project_id) is None
