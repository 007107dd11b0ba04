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
from saved_rounds import flip_a_byte
from serving import serving

from coreset_backend.arrays import Resize, unwatched
from coreset_backend.backend import Backend
from coreset_backend.images import Images, Limits, open_images
from coreset_backend.images.fetch import REVISIONS
from coreset_backend.images.revisions import ASKED_AGAIN_AFTER, MOST_ASKED, Revisions, Seen, due
from coreset_backend.jobs.requests import refresh_images
from coreset_backend.rounds.run import _read_tasks, run_round
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

PATH = "/data/upload/1/a.png"
SMALL = {"backbone": "small_cnn", "image_size": 16, "batch_size": 4}


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


def shade(images: Images, path: str = PATH, size: int = 16, refreshed_at: float = 0.0) -> int:
    """The red of the image at ``path``, as a round sees it."""
    pixels, failures = images.fetch([(1, path)], Resize(size), refreshed_at=refreshed_at)
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
        found = shade(images, size=size, refreshed_at=1.0)
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
    assert due(seen | wordless, now, refreshed_at=2.0) == {*seen, *wordless}
    refreshed = {address: known._replace(refreshed_at=2.0) for address, known in (fresh | wordless).items()}
    assert due(refreshed, now, refreshed_at=2.0) == set()
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
    images.fetch(enumerate(paths), Resize(16), refreshed_at=1.0)
    assert statuses() == [304] * 50  # a person has time
    monkeypatch.undo()
    images.fetch(enumerate(paths), Resize(16), refreshed_at=1.0)
    assert statuses() == []  # and once is enough


# ---------------------------------------------------------------- a refresh


class Stopped(Exception):
    """What a cancel raises in a round."""


def test_what_a_refresh_has_not_checked_when_its_round_fails_the_next_checks(
    opened: Callable[..., Images],
) -> None:
    images, paths = opened(threads=1), [f"/data/upload/1/{n}.png" for n in range(40)]
    Handler.FILES |= {path: (plain_png(n), 1e9) for n, path in enumerate(paths)}
    images.fetch(enumerate(paths), Resize(16))
    statuses()

    def stop(done: int, _total: int) -> None:
        if done == 10:
            raise Stopped

    with pytest.raises(Stopped):
        images.fetch(enumerate(paths), Resize(16), stop, refreshed_at=1.0)
    first = len(statuses())
    assert 0 < first < 40
    images.fetch(enumerate(paths), Resize(16))  # as an export does: it follows no refresh
    images.fetch(enumerate(paths), Resize(16), refreshed_at=1.0)
    rest = statuses()
    assert set(rest) == {304}
    assert len(rest) - (40 - first) in (0, 1)  # the one whose answer was on its way may be asked for again
    images.fetch(enumerate(paths), Resize(16), refreshed_at=1.0)
    assert statuses() == []


def test_a_refresh_holds_for_every_host_whenever_it_reads_the_image_next(
    server: str, tmp_path: Path, opened: Callable[..., Images]
) -> None:
    Handler.speaks = "nothing"
    Handler.FILES[PATH] = plain_png(10), 1e9
    one, limits = opened(), Limits(tries=2, backoff_s=0.01)
    another = open_images(
        label_studio_url=server, auth=None, cache_dir=tmp_path / "b", max_failed_share=0.5, limits=limits
    )
    with contextlib.closing(another):
        assert (shade(one), shade(another)) == (10, 10)
        Handler.FILES[PATH] = plain_png(20), 1.1e9
        assert (shade(one, refreshed_at=1.0), shade(one, refreshed_at=1.0)) == (20, 20)
        assert shade(another, refreshed_at=1.0) == 20


def test_an_image_whose_server_does_not_answer_a_refresh_is_asked_for_again(
    opened: Callable[..., Images],
) -> None:
    images, Handler.speaks = opened(), "nothing"
    Handler.FILES[PATH] = plain_png(10), 1e9
    assert shade(images) == 10
    del Handler.FILES[PATH]
    assert shade(images, refreshed_at=1.0) == 10  # as long as it is cached
    Handler.FILES[PATH] = plain_png(20), 1.1e9
    assert shade(images, refreshed_at=1.0) == 20


def test_the_table_of_an_earlier_release_is_taken_over(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "r")) as file:
        file.execute(
            "CREATE TABLE seen (address TEXT PRIMARY KEY, content TEXT NOT NULL, validator TEXT NOT NULL, "
            "asked REAL NOT NULL) WITHOUT ROWID"
        )
        file.execute("INSERT INTO seen VALUES ('a', 'content', 'etag:x', 5.0)")
        file.commit()
    one, other = Revisions(tmp_path / "r"), Revisions(tmp_path / "r")
    assert other.seen(["a"]) == {"a": Seen("content", "etag:x", 5.0)}
    one.note("a", "new", "", refreshed_at=7.0)
    one.note("a", "newer", "")
    assert other.seen(["a"])["a"]._replace(asked=0.0) == Seen("newer", "", 0.0, 7.0)
    one.close()
    other.close()


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
    """Also where the first round after it fails before it has read them."""
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN, **SMALL)
    project_id = studio.create_project(images=12)
    assert not refresh_images(backend, project_id) and backend.queue.count == 0  # no round has read any
    first = run_round(backend, project_id)
    path = f"/data/upload/{project_id}/1.png"
    studio.files[path] = plain_png(77)
    studio.add_task(project_id, {"image": f"/data/upload/{project_id}/0.png"})
    second = run_round(backend, project_id)  # its server gives no word for its files
    assert changed_images(first, second) == []
    assert refresh_images(backend, project_id)
    assert backend.redis.lrange(f"coreset:{project_id}:demands", 0, -1)

    def stop(phase: str, *_: int) -> None:
        if phase == "images":
            raise Stopped

    with pytest.raises(Stopped):
        run_round(backend, project_id, stop)
    third = run_round(backend, project_id)
    assert third.record.reading and third.record.reading.refreshed_at > 0
    assert changed_images(second, third) == [studio.tasks_of(project_id)[1]["id"]]
    fourth = run_round(backend, project_id)
    assert fourth.record.reading and not fourth.record.reading.why, "once is enough"


def changed_images(before: StoredRound, after: StoredRound) -> list[int]:
    """The ids of the tasks whose image another round has read otherwise."""
    keys = [
        dict(zip(each.array("embedded_task_ids").tolist(), map(bytes, each.array("image_keys")), strict=True))
        for each in (before, after)
    ]
    return [task_id for task_id, key in keys[0].items() if keys[1][task_id] != key]


def test_a_refresh_while_a_round_reads_the_tasks_has_the_next_round_read_all(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    project_id, watched = studio.create_project(images=3), []
    backend.store.register(project_id)

    def refresh(_done: int, _total: int) -> None:
        watched.append(refresh_images(backend, project_id))

    for _ in range(2):  # also in the first round, which knows no task yet
        _read_tasks(backend, project_id, refresh)
        _, reading = _read_tasks(backend, project_id, unwatched)
        assert reading.why == "a person asked for it"
        assert not _read_tasks(backend, project_id, unwatched)[1].why
    assert watched and all(watched)


def test_a_round_from_before_a_refresh_is_not_published_in_its_place(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN, **SMALL)
    project_id = studio.create_project(images=12)
    run_round(backend, project_id).mark_unpublished()
    assert run_round(backend, project_id).record.number == 1
    backend.store.open(project_id, 1).mark_unpublished()
    refresh_images(backend, project_id)
    assert run_round(backend, project_id).record.number == 2


def test_a_later_refresh_is_later_whatever_the_clocks_of_the_hosts_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.register(7)
    assert store.refreshed_at(7) == 0
    ahead = {"at": time.time() + 10**6}
    store.kept(7, "refresh.json").write(ahead)
    store.refresh(7)
    assert store.refreshed_at(7) > ahead["at"]
    flip_a_byte(tmp_path / "projects/7/refresh.json")
    assert store.refreshed_at(7) == 0
    assert "refresh it again" in caplog.text
    store.refresh(7)
    assert store.refreshed_at(7) > 0
