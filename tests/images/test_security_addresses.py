"""Whatever stands in a task as its image's address, or in a redirect, costs that image and nothing else."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_server import picture
from serving import serving

from coreset_backend.arrays import Resize
from coreset_backend.errors import Unauthorized
from coreset_backend.images import SOURCES, Images, Limits, open_images, shown_uri
from coreset_backend.network.addresses import HostUnknown

GOOD = "/data/upload/1/good.png"
# Found by fuzzing: each once ended the round of its whole project.
FOUND = [
    "http://xn--/a.jpg",
    "http://xn--a.xn--/a.jpg",
    "http://xn--ls8h\u00ad.example/a.jpg",
    "s3://bucket/\ud800.jpg",
    "gs://\udfff",
    "http://images.example/\ud83d.jpg",
    "/data/upload/1/\udc00.jpg",
    "/data/local-files/?d=\ud800.jpg",
    "data:image/png;base64,\ud800",
    "https://[::1/a.jpg",
    "https://[v1.x]/a.jpg",
    "http://a:99999999999999999999/",
    "http://images.example:65536/",
    "//xn--/a.jpg",
    "/tasks/\ud800",
    "http://\ud800.example/",
    "http://" + "a." * 200 + "example/",
    "http://images.example/" + "a" * 100_000,
]
LOCATIONS = [
    "http://xn--/a.jpg",
    "//xn--/",
    "http://[::1",
    "http://[v1.x]/",
    "http://a:99999999999999999999/",
    "\xff\xfe",
    "http://\xe9.example/",
    "",
    "?" * 5000,
    "http://" + "a" * 64 + ".example/",
]
RETRIES = [
    "Fri, 31 Dec 9999 23:59:59 -9999",
    "Mon, 01 Jan 0001 00:00:00 +9999",
    "Mon, 01 Jan 0001 00:00:00 -0000",
    "9" * 400,
    "-1",
    "1e400",
    "nan",
    "٣",
    ",",
    "Fri, 99 Foo 9999999999 99:99:99 +99999999999999999999",
]


class Door(BaseHTTPRequestHandler):
    """Serves a picture at GOOD, and status and header by ``said`` at other paths."""

    said: dict[str, tuple[int, str, str]] = {}  # noqa: RUF012  one test at a time sets it

    def do_GET(self) -> None:
        otherwise = (200 if self.path == GOOD else 404, "X-Nothing", "0")
        status, name, value = self.said.get(self.path, otherwise)
        body = picture("PNG") if status == 200 else b""
        self.send_response(status)
        self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def nowhere(host: str, port: int) -> list[str]:
    if host == "127.0.0.1":
        return [host]
    raise HostUnknown(f"the name of the host {host} cannot be resolved; check the name and the DNS")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("images")
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Door)) as address:
        opened = open_images(
            label_studio_url=address,
            auth=None,
            cache_dir=folder / "cache",
            local_files_root=folder,
            limits=Limits(tries=2, backoff_s=0, max_wait_s=0.01, give_up_after=10**9),
            max_failed_share=1.0,
            resolve=nowhere,
        )
        yield opened
        opened.close()


def reasons(images: Images, *uris: str) -> dict[int, str]:
    """Task id -> why its image cannot be used, where it cannot; the task 0 shows a good one."""
    pixels, failures = images.fetch([(0, GOOD), *enumerate(uris, 1)], Resize(16))
    assert 0 in pixels.task_ids
    json.dumps([failure.uri for failure in failures], ensure_ascii=False).encode()  # fit for log and page
    return {failure.task_id: failure.reason for failure in failures}


def test_each_address_that_was_found_fails_alone_and_with_a_reason(
    images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    told = reasons(images, *FOUND)
    assert list(told) == list(range(1, len(FOUND) + 1))
    assert "with an unexpected error" not in " ".join(told.values())
    assert told[1] == "'http://xn--/a.jpg' is not a valid address"
    assert told[4] == r"'s3://bucket/\\ud800.jpg' is not a valid address"
    assert all(len(reason) < 500 and reason.isprintable() for reason in told.values()), told


@pytest.mark.parametrize("location", LOCATIONS)
def test_each_redirect_that_was_found_fails_alone_and_with_a_reason(images: Images, location: str) -> None:
    Door.said = {"/data/upload/1/go": (302, "Location", location)}
    told = reasons(images, "/data/upload/1/go")
    assert "with an unexpected error" not in told[1]


@pytest.mark.parametrize("wait", RETRIES)
def test_a_wait_that_no_clock_can_tell_is_none(images: Images, wait: str) -> None:
    Door.said = {"/data/upload/1/busy": (503, "Retry-After", wait.encode().decode("latin-1"))}
    assert reasons(images, "/data/upload/1/busy") == {1: "Label Studio answered 503"}


def test_what_concerns_the_whole_round_still_ends_it(tmp_path: Path) -> None:
    """A refused token, and memory that ran out."""
    for error in (Unauthorized("the token is dead"), MemoryError()):

        def refuse(*_: object, error: Exception = error) -> list[str]:
            raise error

        opened = open_images(
            label_studio_url="http://labels.example", auth=None, cache_dir=tmp_path, resolve=refuse
        )
        with pytest.raises(type(error)):
            opened.fetch([(1, "/data/upload/1/a.png")], Resize(16))
        opened.close()


# ---------------------------------------------------------------- anything at all

PIECES = st.sampled_from(
    [
        *(
            "http://",
            "https://",
            "HTTP:",
            "//",
            "/",
            "\\",
            "s3://",
            "gs://",
            "azure-blob://",
            "data:",
            "file://",
        ),
        *(
            "/data/",
            "/data/upload/1/",
            "/data/local-files/?d=",
            "/tasks/1/presign/?fileuri=",
            "/storage-data/",
        ),
        *(
            "xn--",
            "xn--a",
            "[",
            "]",
            "::1",
            "%",
            "%00",
            "%2e%2e",
            "..",
            ".",
            "@",
            ":",
            "#",
            "?",
            "&d=",
            ";base64,",
        ),
        *(
            "\ud800",
            "\udfff",
            "\u00ad",
            "\u200d",
            "\u0130",
            "ß",
            "。",
            "①",
            "\x00",
            "\r\n",
            "\x1b[31m",
            " ",
            "\t",
        ),
        *("127.0.0.1", "localhost", "images.example", ":0", ":65536", ":-1", "a" * 64, "=" * 3, "AAAA"),
    ]
)
ADDRESSES = st.lists(PIECES | st.text(max_size=4), min_size=1, max_size=8).map("".join)
ASCII_HEADERS = ADDRESSES.map(
    lambda text: (
        "".join(char for char in text if char not in "\r\n\0").encode("utf-8", "replace").decode("latin-1")
    )
)
QUIET = [HealthCheck.function_scoped_fixture]


def fuzz(images: Images, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.lists(ADDRESSES, min_size=20, max_size=20), ASCII_HEADERS, ASCII_HEADERS)
    def run(uris: list[str], location: str, wait: str) -> None:
        Door.said = {
            "/data/upload/1/go": (307, "Location", location),
            "/data/upload/1/busy": (429, "Retry-After", wait),
        }
        told = reasons(images, *uris, "/data/upload/1/go", "/data/upload/1/busy")
        unforeseen = {n: why for n, why in told.items() if "with an unexpected error" in why}
        assert not unforeseen, [uris[n - 1] if n <= len(uris) else (location, wait) for n in unforeseen]
        assert all(shown_uri(uri).isprintable() for uri in uris)

    run()


def test_no_address_costs_more_than_its_image(images: Images) -> None:
    fuzz(images, examples=25)


@pytest.mark.soak
def test_no_address_of_very_many_costs_more_than_its_image(images: Images) -> None:
    fuzz(images, examples=5000)


def test_an_error_that_nobody_foresaw_is_its_images_too(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise AssertionError("a reader's own mistake")

    monkeypatch.setitem(SOURCES, "broken", broken)
    assert reasons(images, "broken:1") == {1: "reading it failed with an unexpected error (AssertionError)"}
