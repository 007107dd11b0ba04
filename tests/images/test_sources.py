import base64
import hashlib
import io
import re
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from image_server import ImageHandler, Token, picture
from PIL import Image
from serving import serving

from coreset_backend.arrays import Resize
from coreset_backend.decoding import DECODER
from coreset_backend.errors import TooManyImageFailures
from coreset_backend.images import open_images
from coreset_backend.images.file_budget import FileBudget


@pytest.fixture
def server() -> Iterator[str]:
    ImageHandler.FILES.clear()
    ImageHandler.asked.clear()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), ImageHandler)) as address:
        yield address


@pytest.fixture
def images(server: str, tmp_path: Path) -> Iterator[Any]:
    opened = open_images(
        label_studio_url=server, auth=Token(), cache_dir=tmp_path / "cache", max_failed_share=0.9
    )
    yield opened
    opened.close()


READABLE = {
    "plain.jpg": picture(),
    "grey.png": picture("PNG", "L"),
    "palette.gif": picture("GIF", "P"),
    "alpha.png": picture("PNG", "RGBA"),
    "cmyk.jpg": picture("JPEG", "CMYK"),
    "one_bit.png": picture("PNG", "1"),
    "picture.webp": picture("WEBP"),
}


def test_every_readable_kind_becomes_pixels_in_the_order_asked(images: Any) -> None:
    ImageHandler.FILES.update({f"/data/upload/1/{name}": body for name, body in READABLE.items()})
    pixels, failures = images.fetch(
        [(n, f"/data/upload/1/{name}") for n, name in enumerate(READABLE, 10)], Resize(32)
    )
    assert failures == []
    assert pixels.task_ids.tolist() == list(range(10, 10 + len(READABLE)))
    assert pixels.shape == (len(READABLE), 32, 32, 3)
    red = pixels[np.array([0])][0].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(red, (200, 40, 40), atol=6)


def test_a_bad_image_is_a_failure_with_its_reason_and_the_rest_goes_on(images: Any) -> None:
    good = picture()
    ImageHandler.FILES.update(
        {
            "/data/upload/1/good.jpg": good,
            "/data/upload/1/torn.jpg": good[: len(good) // 2],
            "/data/upload/1/empty.jpg": b"",
            "/data/upload/1/login.jpg": b"<!DOCTYPE html><html><title>Log in</title></html>",
        }
    )
    names = ["good.jpg", "torn.jpg", "empty.jpg", "login.jpg", "missing.jpg"]
    tasks: list[tuple[int, str | None]] = [(n, f"/data/upload/1/{name}") for n, name in enumerate(names)]
    pixels, failures = images.fetch([*tasks, (9, None), (10, "file:///etc/passwd")], Resize(32))
    assert pixels.task_ids.tolist() == [0]
    assert [failure.task_id for failure in failures] == [1, 2, 3, 4, 9, 10]
    assert all(failure.reason for failure in failures)


def test_private_addresses_are_refused_and_the_token_stays_with_label_studio(
    images: Any, server: str
) -> None:
    ImageHandler.FILES["/data/upload/1/a.jpg"] = picture()
    elsewhere = [
        "http://localhost:9/a.jpg",
        "http://169.254.169.254/latest",
        "http://[::1]/a",
        "http://2130706433/",
    ]
    tasks = [(0, "/data/upload/1/a.jpg"), *enumerate(elsewhere, 1)]
    pixels, failures = images.fetch(tasks, Resize(32))
    assert pixels.task_ids.tolist() == [0]
    assert len(failures) == 4
    assert ImageHandler.asked == [("/data/upload/1/a.jpg", "Token t")]


def test_a_pool_once_fetched_needs_no_network(images: Any) -> None:
    ImageHandler.FILES["/data/upload/1/a.jpg"] = picture()
    first, _ = images.fetch([(1, "/data/upload/1/a.jpg")], Resize(32))
    ImageHandler.FILES.clear()
    again, failures = images.fetch([(1, "/data/upload/1/a.jpg")], Resize(32))
    assert failures == []
    np.testing.assert_array_equal(again[np.array([0])], first[np.array([0])])
    assert len(ImageHandler.asked) == 1


@pytest.mark.parametrize("size", [30, 100])  # in memory, and read from the cache by rows
def test_the_cache_tells_interpolations_apart_and_keeps_what_was_bilinear(size: int, images: Any) -> None:
    path, file = "/data/upload/1/a.png", picture("PNG")
    ImageHandler.FILES[path] = file
    for interpolation in ("bilinear", "bicubic", "bilinear"):
        pixels, _ = images.fetch([(1, path)], Resize(size, interpolation))
        kind = Image.Resampling[interpolation.upper()]
        expected = Image.open(io.BytesIO(file)).resize((size, size), kind)
        np.testing.assert_array_equal(pixels[np.array([0])][0], expected)
    assert len(ImageHandler.asked) == 2, "the third was in the cache"
    key_of_before = f"{DECODER}\0{size}\0{hashlib.sha256(file).hexdigest()}"
    assert pixels.keys[0].tobytes() == hashlib.sha256(key_of_before.encode()).digest()


def test_a_pool_of_failures_stops_the_round(server: str, tmp_path: Path) -> None:
    opened = open_images(label_studio_url=server, auth=Token(), cache_dir=tmp_path / "cache")
    with pytest.raises(TooManyImageFailures, match="100%"):
        opened.fetch([(1, "/data/upload/1/none.jpg"), (2, None)], Resize(32))
    opened.close()


PNG = picture("PNG")
ENCODED = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{ENCODED}",
        "data:image/png;base64,\n" + "\r\n".join(textwrap.wrap(ENCODED, 76)),
        "data:image/png;base64," + " ".join(textwrap.wrap(ENCODED, 10)),
        f"data:image/png;base64,{ENCODED.rstrip('=')}",
        f"DATA:image/png; charset=utf-8 ; BASE64 ,{ENCODED}",
        f"data:image/png;base64,{ENCODED.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
        "data:image/png;base64," + "%0A".join(textwrap.wrap(ENCODED, 60)),
        f"data:image/png;base64,{ENCODED}#here",
        f"data:;base64,{ENCODED}",
        f"data:image/png,{quote(PNG)}",
    ],
)
def test_a_data_address_is_read_as_browsers_do(images: Any, uri: str) -> None:
    assert images.check(1, uri) is None


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,!!!!", "not valid base64"),
        ("data:image/png;base64,A", "not valid base64"),
        (f"data:image/png;base64,{'A' * 80_000_000}", r"more than the 50 MB allowed \(CORESET_IMAGE_MB\)"),
    ],
)
def test_a_data_address_without_an_image_has_a_reason(images: Any, uri: str, reason: str) -> None:
    assert re.search(reason, str(images.check(1, uri)))


def test_the_files_in_memory_are_bounded_and_each_gets_its_turn() -> None:
    files, held, most, lock = FileBudget(10_000_000), [0], [0], threading.Lock()

    def fetch(count: int) -> None:
        with files.one_file():
            files.expect(count)
            files.expect(count)  # another try after a failure
            with lock:
                held[0] += count
                most.append(held[0])
            time.sleep(0.01)
            with lock:
                held[0] -= count

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(fetch, [4_000_000, 2_000_000, 10_000_000] * 8))
    assert 4_000_000 < max(most) <= 10_000_000


def test_large_files_are_read_side_by_side_without_their_length_too(images: Any) -> None:
    large = picture("BMP", size=(900, 900))
    ImageHandler.FILES.update({f"/data/upload/1/{number}.bmp": large for number in range(40)})
    pixels, failures = images.fetch([(n, f"/data/upload/1/{n}.bmp") for n in range(40)], Resize(32))
    assert (len(pixels), failures) == (40, [])
