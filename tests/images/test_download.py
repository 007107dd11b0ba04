"""Images over real HTTP: connections used again, limits kept, a reason for whatever a server does wrong."""

import gzip
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_server import plain_png
from serving import serving
from waiting import wait_until

from coreset_backend.arrays import Resize
from coreset_backend.images import Images, Limits, open_images

Answer = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Serves ``answers`` by path, keeps connections open, and counts them and who is served at once."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer | bytes] = {}
        self.connections = self.busy = self.most_busy = self.requests = 0
        self.lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.requests += 1
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        answer = server.answers.get(self.path.partition("?")[0], b"")
        if callable(answer):
            answer(self)
        else:
            self.send(answer)
        with server.lock:
            server.busy -= 1

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with serving(made):
        yield made


@pytest.fixture
def opened(server: Server, tmp_path: Path) -> Iterator[Callable[..., Images]]:
    """Opens images of the server with limits by name."""
    made: list[Images] = []

    def opening(threads: int = 4, **limits: Any) -> Images:
        made.append(
            open_images(
                label_studio_url=f"http://127.0.0.1:{server.server_port}",
                auth=None,
                cache_dir=tmp_path / "cache",
                limits=Limits(**{"backoff_s": 0.01, **limits}),
                max_failed_share=1.0,
                threads=threads,
            )
        )
        return made[-1]

    yield opening
    for images in made:
        images.close()


def tasks(paths: list[str]) -> list[tuple[int, str | None]]:
    return [(number, path) for number, path in enumerate(paths, 1)]


def reason(images: Images, path: str = "/data/upload/1/x") -> str:
    """Why the image at ``path`` cannot be used."""
    _, failures = images.fetch(tasks([path]), Resize(16))
    assert len(failures) == 1
    return failures[0].reason


def test_a_few_connections_serve_many_images_side_by_side(
    server: Server, opened: Callable[..., Images]
) -> None:
    together = threading.Barrier(4, timeout=120)

    def meet(handler: Handler) -> None:
        together.wait()  # breaks unless four are asked for at once
        handler.send(plain_png())

    paths = [f"/data/upload/1/{number}.png" for number in range(200)]
    server.answers = {path: meet if number < 4 else plain_png(number) for number, path in enumerate(paths)}
    pixels, failures = opened(threads=4).fetch(tasks(paths), Resize(16))
    assert failures == [] and len(pixels) == 200
    assert server.requests == 200
    assert server.most_busy == server.connections == 4


def test_one_bad_file_in_a_thousand_costs_itself_only(server: Server, opened: Callable[..., Images]) -> None:
    paths = [f"/data/upload/1/{number}.png" for number in range(1000)]
    server.answers = {path: plain_png(number) for number, path in enumerate(paths)}
    server.answers[paths[617]] = plain_png(617)[:40]
    pixels, failures = opened(threads=16).fetch(tasks(paths), Resize(16))
    assert [failure.task_id for failure in failures] == [618]
    assert "damaged" in failures[0].reason
    assert pixels.task_ids.tolist() == [number for number in range(1, 1001) if number != 618]
    shades = pixels[np.arange(999)][:, 8, 8].astype(int)
    assert (shades[:, 0] + 256 * shades[:, 1] + 1).tolist() == pixels.task_ids.tolist()


def test_a_server_that_drips_is_left_after_the_seconds_allowed(
    server: Server, opened: Callable[..., Images]
) -> None:
    left = threading.Event()

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        try:
            while True:  # never silent for long, never done
                handler.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            handler.close_connection = True
            left.set()

    server.answers = {"/data/upload/1/x": drip}
    told = reason(opened(read_s=10.0, total_s=0.5))
    assert "was too slow (10 s without a byte, or 0.5 s in all)" in told
    assert left.wait(120)  # the connection is given up, not read to its end


def test_a_silent_server_is_tried_again_and_then_left(server: Server, opened: Callable[..., Images]) -> None:
    over = threading.Event()
    server.answers = {"/data/upload/1/x": lambda handler: over.wait(120) and None}
    told = reason(opened(read_s=0.1, total_s=120.0, tries=2))
    wait_until(lambda: server.requests >= 2, "the server to read what was given up")
    over.set()
    assert "was too slow (0.1 s without a byte" in told
    assert server.requests == 2


def test_too_many_bytes_are_refused_whether_announced_or_not(
    server: Server, opened: Callable[..., Images]
) -> None:
    sent = threading.Event()

    def announced(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        handler.close_connection = True

    def unannounced(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                handler.wfile.write(b"x" * 4096)
        except OSError:
            sent.set()

    packed = gzip.compress(bytes(10_000_000))
    server.answers = {
        "/data/upload/1/a": announced,
        "/data/upload/1/b": unannounced,
        "/data/upload/1/c": lambda handler: handler.send(packed, Content_Encoding="gzip"),
    }
    images = opened(max_bytes=100_000)
    for name in "abc":
        assert (
            reason(images, f"/data/upload/1/{name}")
            == "the file has more than the 0.1 MB allowed (CORESET_IMAGE_MB)"
        )
    assert sent.wait(120)


CODINGS = ["aws-chunked", "utf-8", "base64", "none", "image/png", "", "identity", "aws-chunked, identity"]
PACKED = ["gzip", "X-GZIP", "aws-chunked,gzip", "gzip, gzip"]
UNREAD = ["br", "gzip,zstd", "gzip,gzip,gzip"]


def test_a_packed_file_is_unpacked_and_what_is_no_coding_leaves_it_alone(
    server: Server, opened: Callable[..., Images]
) -> None:
    def answer(body: bytes, coding: str) -> Answer:
        for _ in range(coding.lower().count("gzip")):
            body = gzip.compress(body)
        return lambda handler: handler.send(body, Content_Encoding=coding)

    for number, coding in enumerate([*CODINGS, *PACKED, *UNREAD]):
        server.answers[f"/data/upload/1/{number}"] = answer(plain_png(), coding)
        server.answers[f"/data/upload/1/bomb{number}"] = answer(bytes(10_000_000), coding)
    images = opened(max_bytes=100_000)
    paths = tasks([*server.answers])
    reasons = {failure.task_id: failure.reason for failure in images.fetch(paths, Resize(16))[1]}
    told = {path.rpartition("/")[2]: reasons.get(task_id) for task_id, path in paths if path}
    readable = len(CODINGS + PACKED)
    assert [told[str(number)] for number in range(readable)] == [None] * readable
    assert all("more than the 0.1 MB" in (told[f"bomb{number}"] or "") for number in range(readable))
    unread = [told[str(number)] for number in range(readable, readable + len(UNREAD))]
    assert unread == [f"the answer is encoded as {coding!r}, which was not requested" for coding in UNREAD]


def test_a_body_that_is_cut_off_is_asked_for_again(server: Server, opened: Callable[..., Images]) -> None:
    whole, cuts = plain_png(), 2

    def cut(handler: Handler) -> None:
        nonlocal cuts
        cuts -= 1
        if cuts < 0:
            handler.send(whole)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(whole)))
        handler.end_headers()
        handler.wfile.write(whole[:20])
        handler.close_connection = True

    server.answers = {"/data/upload/1/x": cut}
    pixels, failures = opened(tries=3).fetch(tasks(["/data/upload/1/x"]), Resize(16))
    assert failures == [] and len(pixels) == 1
    cuts = 2
    assert "the connection to 127.0.0.1 was lost" in reason(opened(tries=2), "/data/upload/1/x?again")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><title>Log in</title>", "is a web page, not an image"),
        (b'{"detail": "no"}', "is JSON, not an image"),
        (b"%PDF-1.7 ...", "is not a supported image"),
    ],
)
def test_what_calls_itself_an_image_and_is_none_is_told_by_its_content(
    server: Server, opened: Callable[..., Images], body: bytes, told: str
) -> None:
    server.answers = {"/data/upload/1/x": lambda handler: handler.send(body, Content_Type="image/png")}
    assert told in reason(opened())


def test_the_content_counts_not_the_type_that_the_server_names(
    server: Server, opened: Callable[..., Images]
) -> None:
    server.answers = {"/data/upload/1/x": lambda handler: handler.send(plain_png(), Content_Type="text/html")}
    pixels, failures = opened().fetch(tasks(["/data/upload/1/x"]), Resize(16))
    assert failures == [] and len(pixels) == 1


def test_a_busy_server_is_given_the_time_that_it_asks_for(
    server: Server, opened: Callable[..., Images]
) -> None:
    moments: list[float] = []

    def busy_once(handler: Handler) -> None:
        moments.append(time.monotonic())
        if len(moments) == 1:
            handler.send(b"", 503, Retry_After="1")
        else:
            handler.send(plain_png())

    server.answers = {"/data/upload/1/x": busy_once}
    _, failures = opened().fetch(tasks(["/data/upload/1/x"]), Resize(16))
    assert failures == []
    assert moments[1] - moments[0] >= 1


def test_a_dead_host_of_many_images_is_not_asked_for_all_of_them(
    server: Server, opened: Callable[..., Images]
) -> None:
    paths = [f"/data/upload/1/{number}.png" for number in range(100)]
    server.answers = {path: lambda handler: handler.send(b"", 500) for path in paths}
    images = opened(threads=1, tries=1, give_up_after=5)
    _, failures = images.fetch(tasks(paths), Resize(16))
    assert len(failures) == 100 and server.requests == 5
    assert "failed for 5 images in a row" in failures[-1].reason
    server.answers = dict.fromkeys(paths, plain_png())
    assert images.fetch(tasks(paths), Resize(16))[1] == []  # it gets its chance again in the next round


def test_a_redirect_is_followed_on_the_same_connection(server: Server, opened: Callable[..., Images]) -> None:
    server.answers = {
        "/data/upload/1/x": lambda handler: handler.send(b"over there", 302, Location="/data/upload/1/y"),
        "/data/upload/1/y": plain_png(),
    }
    pixels, failures = opened(threads=1).fetch(tasks(["/data/upload/1/x"]), Resize(16))
    assert failures == [] and len(pixels) == 1
    assert (server.requests, server.connections) == (2, 1)


def test_small_images_are_one_array_that_nobody_can_change(
    server: Server, opened: Callable[..., Images]
) -> None:
    paths = [f"/data/upload/1/{number}.png" for number in range(30)]
    server.answers = {path: plain_png(number) for number, path in enumerate(paths)}
    pixels, _ = opened().fetch(tasks(paths), Resize(64))
    assert pixels.shape == (30, 64, 64, 3) and pixels[0:1].dtype == np.uint8
    assert np.shares_memory(pixels[0:20], pixels[10:30])
    with pytest.raises(ValueError, match="read-only"):
        pixels[0:1][:] = 0


def test_a_pool_of_larger_images_is_never_in_memory_as_a_whole(
    server: Server, opened: Callable[..., Images]
) -> None:
    paths = [f"/data/upload/1/{number}.png" for number in range(300)]
    server.answers = {path: plain_png(number) for number, path in enumerate(paths)}
    images = opened()
    whole = 300 * 384 * 384 * 3  # Python's own table of names may grow by 8 MB at any time
    tracemalloc.start()
    try:
        pixels, failures = images.fetch(tasks(paths), Resize(384))
        for start in range(0, 300, 10):
            assert pixels[start : start + 10].shape == (10, 384, 384, 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert failures == [] and pixels.shape == (300, 384, 384, 3)
    assert peak < whole / 4
