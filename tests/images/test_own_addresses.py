"""Two addresses of one Label Studio: what browsers see in a task, read where this process reaches it."""

import logging
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from image_server import ImageHandler, Token, picture
from serving import serving

from coreset_backend.arrays import Resize
from coreset_backend.errors import ConfigError
from coreset_backend.images import Images, open_images
from coreset_backend.images.own_addresses import OwnAddresses

UPLOAD = "/data/upload/1/0a1b2c3d-a.jpg"
LOCAL = "/data/local-files/?d=set/a%20b.jpg"
PRESIGN = "/tasks/7/resolve/?fileuri=czM6Ly9iLzEuanBn"


def own(url: str, browser_url: str | None = None, allowed: str = "") -> OwnAddresses:
    return OwnAddresses(
        httpx.URL(url), httpx.URL(browser_url or url), lambda host, port: f"{host}:{port}" == allowed
    )


@pytest.mark.parametrize("path", [UPLOAD, LOCAL, PRESIGN, "/storage-data/uploaded/?filepath=upload/1/a.jpg"])
@pytest.mark.parametrize(
    ("url", "browser_url", "start"),
    [
        ("http://ls:8080", None, ""),
        ("http://ls:8080", None, "http://ls:8080"),
        ("http://ls:8080", None, "HTTP://LS:8080"),
        ("http://ls:8080", None, "http://ls.:8080"),
        # Written by a storage, whose Label Studio knows itself by the default name.
        ("http://ls:8080", None, "http://localhost:8080"),
        ("http://ls:8080", None, "http://127.0.0.1:8080"),
        ("http://ls:8080", None, "http://[::1]:8080"),
        ("http://ls:8080", None, "http://0.0.0.0:8080/label-studio"),
        ("http://127.0.0.1:8080", None, "http://localhost:8080"),
        ("http://127.0.0.1:18080", None, "http://localhost:8080"),
        # A sub-path: in ours, in the browser's, in both, in neither setting.
        ("https://team.example/ls", None, "/ls"),
        ("https://team.example/ls", None, ""),
        ("https://team.example/ls", None, "https://team.example/ls"),
        ("https://team.example/ls", None, "http://team.example/ls"),
        ("http://ls:8080", "https://team.example/ls/", "/ls"),
        ("http://ls:8080", "https://team.example/ls", "https://team.example/ls"),
        ("http://ls:8080", "https://team.example/ls", "https://team.example:443/ls"),
        ("http://ls:8080/inside", "https://team.example/ls", "https://team.example/ls"),
        ("http://ls:8080", None, "/label-studio"),
        ("http://ls:8080", None, "/a/deep/one"),
    ],
)
def test_the_path_is_ours_whatever_host_and_sub_path_stand_before_it(
    url: str, browser_url: str | None, start: str, path: str
) -> None:
    assert own(url, browser_url).path_of(start + path) == path


@pytest.mark.parametrize(
    "uri",
    [
        f"https://other.example{UPLOAD}",
        f"http://192.168.1.5:8080{LOCAL}",
        f"http://ls:9000{UPLOAD}",  # another server of the same machine
        f"http://ls.evil.example:8080{UPLOAD}",
        f"http://user:pass@localhost:8080{UPLOAD}",
        f"http://localhost@evil.example:8080{UPLOAD}",
        f"//localhost:8080{UPLOAD}",
        f"http://localhost:8080/?next={UPLOAD}",
        f"http://localhost:8080/#{UPLOAD}",
        "http://localhost:8080/latest/meta-data",
        f"http://localhost:9000{UPLOAD}",  # allowed by name: read there
        f"http://xn--{UPLOAD}",
        f"http://[{UPLOAD}",
        f"ftp://localhost{UPLOAD}",
        "s3://bucket/data/upload/1/a.jpg",
        "data:image/png;base64,AAAA",
        "",
    ],
)
def test_what_is_of_another_server_stays_there(uri: str) -> None:
    assert own("http://ls:8080", allowed="localhost:9000").path_of(uri) is None


# ---------------------------------------------------------------- over real HTTP


@pytest.fixture
def server() -> Iterator[str]:
    ImageHandler.FILES.clear()
    ImageHandler.asked.clear()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), ImageHandler)) as address:
        yield address


@pytest.fixture
def opened(server: str, tmp_path: Path) -> Iterator[Callable[..., Images]]:
    made: list[Images] = []

    def opening(**options: Any) -> Images:
        given = {"label_studio_url": server, "auth": Token(), "cache_dir": tmp_path / "cache"} | options
        made.append(open_images(max_failed_share=1.0, **given))
        return made[-1]

    yield opening
    for images in made:
        images.close()


def test_a_storage_that_wrote_localhost_is_read_with_the_token_and_it_is_said(
    opened: Callable[..., Images], caplog: pytest.LogCaptureFixture, server: str
) -> None:
    caplog.set_level(logging.INFO)
    ImageHandler.FILES |= {LOCAL: picture(), UPLOAD: picture()}
    images = opened(browser_url="https://team.example/ls")
    uris = [f"http://localhost:8080{LOCAL}", f"/ls{UPLOAD}", f"https://team.example/ls{UPLOAD}", UPLOAD]
    pixels, failures = images.fetch(enumerate(uris), Resize(16))
    assert failures == [] and pixels.task_ids.tolist() == [0, 1, 2, 3]
    # The last three are one image.
    assert sorted(ImageHandler.asked) == sorted([(LOCAL, "Token t"), (UPLOAD, "Token t")])
    assert (
        f"1 images with addresses at http://localhost:8080 are read from Label Studio at {server}"
        in caplog.text
    )
    assert "1 images with addresses at /ls are read" in caplog.text
    assert [images.mapped(uri) for uri in uris] == [
        "http://localhost:8080",
        "/ls",
        "https://team.example/ls",
        None,
    ]


def test_a_shared_folder_is_read_for_a_mapped_address_too(
    opened: Callable[..., Images], tmp_path: Path
) -> None:
    (tmp_path / "root/set").mkdir(parents=True)
    (tmp_path / "root/set/a b.jpg").write_bytes(picture())
    images = opened(local_files_root=tmp_path / "root", browser_url="https://team.example/ls")
    uris = [f"http://localhost:8080{LOCAL}", f"https://team.example/ls{LOCAL}", f"/ls{LOCAL}", LOCAL]
    uris += [f"http://localhost:8080{LOCAL.replace('/a', '%5Ca')}"]  # written by a Windows machine
    pixels, failures = images.fetch(enumerate(uris), Resize(16))
    assert failures == [] and len(pixels) == 5
    assert ImageHandler.asked == []


def test_the_advice_for_an_address_that_looks_like_label_studios_leads_to_the_image(
    opened: Callable[..., Images],
) -> None:
    """Not to CORESET_ALLOWED_HOSTS, with which the other address would answer 401."""
    ImageHandler.FILES[UPLOAD] = picture()
    uri = f"http://10.255.255.1:8080/ls{UPLOAD}"
    _, [failure] = opened().fetch([(1, uri)], Resize(16))
    advice = "set CORESET_LABEL_STUDIO_BROWSER_URL=http://10.255.255.1:8080/ls"
    assert advice in failure.reason
    _, failures = opened(browser_url=advice.partition("=")[2]).fetch([(1, uri)], Resize(16))
    assert failures == []


def test_a_mapped_address_may_not_climb_nor_reach_the_api(opened: Callable[..., Images]) -> None:
    uris = [
        "http://localhost:8080/data/upload/../../api/users/",
        "http://localhost:8080/data/upload/%2e%2e/%2e%2e/api/users/",
        "http://localhost:8080/api/users/?x=/data/upload/1/a.jpg",
        "/ls/../data/upload/../../api/users/",
    ]
    _, failures = opened(browser_url="http://localhost:8080").fetch(enumerate(uris), Resize(16))
    assert len(failures) == 4
    assert ImageHandler.asked in ([], [(uris[2].removeprefix("http://localhost:8080"), None)])


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://xn--/", "http://user:pass@team.example", "http://a?b=c"]
)
def test_a_browser_address_that_is_none_is_named(opened: Callable[..., Images], url: str) -> None:
    with pytest.raises(ConfigError, match="CORESET_LABEL_STUDIO_BROWSER_URL"):
        opened(browser_url=url)
