"""What a hostile task address, redirect or DNS answer gets from the worker: nothing, and never the token."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving

from coreset_backend.errors import ImageError, LabelStudioError
from coreset_backend.images import sources
from coreset_backend.images.download import Downloader, Limits
from coreset_backend.images.own_addresses import OwnAddresses
from coreset_backend.label_studio.auth import TokenAuth
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.network.addresses import AddressRefused, address_guard

TOKEN = "0123456789abcdef0123456789abcdef01234567"
LIMITS = Limits(connect_s=2, read_s=60, total_s=60, tries=1, backoff_s=0)


class Site(ThreadingHTTPServer):
    """A web server that answers by ``answers`` (path -> status, headers) and remembers what came."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.answers: dict[str, tuple[int, dict[str, str]]] = {}
        self.came: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        super().__init__((address, port), Answering)

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.came.append((self.path, dict(self.headers)))
        status, headers = self.server.answers.get(self.path, (200, {}))
        self.send_response(status)
        for name, value in {"Set-Cookie": "sessionid=as-good-as-the-token", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def new_site() -> Iterator[Callable[..., Site]]:
    with contextlib.ExitStack() as stack:

        def open_site(*where: Any) -> Site:
            site = Site(*where)
            stack.enter_context(serving(site))
            return site

        yield open_site


@pytest.fixture
def victim(new_site: Callable[..., Site]) -> Site:
    """What stands inside the network and nobody allowed."""
    return new_site()


@contextlib.contextmanager
def downloader_to(
    label_studio: str, allowed: tuple[str, ...] = (), resolve: Any = None
) -> Iterator[Downloader]:
    url = httpx.URL(label_studio)
    known = {} if resolve is None else {"resolve": resolve}
    guard = address_guard((url.host, url.port or 80), allowed, **known)
    downloader = Downloader(url, TokenAuth(label_studio, TOKEN), guard, LIMITS, True, 4)
    try:
        yield downloader
    finally:
        downloader.close()


def own(label_studio: str) -> OwnAddresses:
    return OwnAddresses(httpx.URL(label_studio), httpx.URL(label_studio))


# Spellings of http://127.0.0.1:{port}/ that some program, somewhere, has followed; and other inner places.
ADDRESSES = [
    *(
        f"http://{host}:{{port}}/latest/meta-data"
        for host in (
            *("127.0.0.1", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "0x7f000001", "0x7f.1"),
            *("0x7f.0.0.0x1", "017700000001", "0177.0.0.1", "0177.0.0.0x1", "127.000.000.001", "127.8.9.10"),
            *("localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "localhost.localdomain", "ip6-localhost"),
            *("[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]"),
            *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::ffff:0:127.0.0.1]", "[::1%25lo]"),
            *("①②⑦.⓪.⓪.①", "127。0。0。1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "%31%32%37.0.0.1", "loc%61lhost"),
            *("user@127.0.0.1", "user:pass@127.0.0.1", "1.1.1.1@127.0.0.1", "1.1.1.1%00@127.0.0.1"),
            *("169.254.169.254", "[fd00:ec2::254]", "10.0.0.1", "192.168.0.1", "172.17.0.1", "100.64.0.1"),
        )
    ),
    "HTTP://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@1.1.1.1/",
    "http://127.0.0.1:{port}#@1.1.1.1/",
    "http:127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_GET",
    "dict://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "file://127.0.0.1:{port}/etc/passwd",
    "jar:http://127.0.0.1:{port}/!/",
]


def test_there_are_enough_tricks() -> None:
    assert len(set(ADDRESSES)) >= 50


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_trick_reaches_what_stands_inside(
    new_site: Callable[..., Site], victim: Site, address: str
) -> None:
    """As the address of a task, and as where an allowed server redirects to."""
    address = address.format(port=victim.server_port)
    door = new_site()
    door.answers["/go"] = (302, {"Location": address.encode().decode("latin-1")})
    with downloader_to("http://labels.example:8080", (f"127.0.0.1:{door.server_port}",)) as downloader:
        with pytest.raises((ImageError, httpx.InvalidURL)):
            downloader.get(httpx.URL(address))
        with pytest.raises(ImageError):
            downloader.get(httpx.URL(f"{door.url}/go"))
        assert [path for path, _ in door.came] == ["/go"]
    assert victim.connections == 0


def test_what_is_allowed_is_reached_so_the_tricks_were_refused_by_the_guard(victim: Site) -> None:
    with downloader_to("http://labels.example:8080", (f"127.0.0.1:{victim.server_port}",)) as downloader:
        assert downloader.get(httpx.URL(f"http://127.1:{victim.server_port}/")) == b"{}"
    assert victim.connections == 1


def test_a_chain_of_redirects_ends_and_each_hop_is_checked(
    new_site: Callable[..., Site], victim: Site
) -> None:
    door = new_site()
    door.answers |= {f"/{n}": (307, {"Location": f"/{n + 1}"}) for n in range(9)}
    door.answers["/2"] = (307, {"Location": f"{victim.url}/"})
    with downloader_to("http://labels.example:8080", (f"127.0.0.1:{door.server_port}",)) as downloader:
        with pytest.raises(AddressRefused):
            downloader.get(httpx.URL(f"{door.url}/0"))
        with pytest.raises(ImageError, match="more than 3 redirects"):
            downloader.get(httpx.URL(f"{door.url}/3"))
    assert victim.connections == 0


def test_the_connection_goes_to_the_address_that_was_checked(new_site: Callable[..., Site]) -> None:
    """DNS rebinding: a name that answers with an allowed address first and a forbidden one after."""
    allowed = new_site("127.0.0.2")
    victim = new_site("127.0.0.1", allowed.server_port)
    asked = itertools.count()
    with downloader_to(
        "http://labels.example:8080",
        (f"127.0.0.2:{allowed.server_port}",),
        lambda *_: ["127.0.0.2"] if next(asked) == 0 else ["127.0.0.1"],
    ) as downloader:
        url = httpx.URL(f"http://rebind.example:{allowed.server_port}/")
        assert downloader.get(url) == b"{}"
        assert next(asked) == 1  # one answer was asked for, and used
    assert allowed.came[0][1]["Host"] == f"rebind.example:{allowed.server_port}"
    with (
        downloader_to(
            "http://labels.example:8080",
            (f"127.0.0.2:{allowed.server_port}",),
            lambda *_: ["127.0.0.2", "127.0.0.1"],
        ) as downloader,
        pytest.raises(AddressRefused),
    ):
        downloader.get(url)
    assert victim.connections == 0


# ---------------------------------------------------------------- the token


def carries_secret(headers: dict[str, str]) -> bool:
    return bool({"authorization", "cookie"} & {name.lower() for name in headers})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_does_not_follow_a_redirect_to_another_origin(
    new_site: Callable[..., Site], status: int
) -> None:
    label_studio, other = new_site(), new_site()
    label_studio.answers["/data/upload/1/a.jpg"] = (status, {"Location": f"{other.url}/bucket/a.jpg?sig=1"})
    other.answers["/bucket/a.jpg?sig=1"] = (status, {"Location": f"{label_studio.url}/data/upload/1/b.jpg"})
    with downloader_to(label_studio.url, (f"127.0.0.1:{other.server_port}",)) as downloader:
        assert downloader.get(httpx.URL(f"{label_studio.url}/data/upload/1/a.jpg")) == b"{}"
    assert [headers["Authorization"] for _, headers in label_studio.came] == [f"Token {TOKEN}"] * 2
    assert len(other.came) == 1
    assert not carries_secret(other.came[0][1])


def test_the_token_goes_to_the_exact_origin_and_to_its_files_only(new_site: Callable[..., Site]) -> None:
    label_studio, other = new_site(), new_site()
    near = [
        f"{other.url}/data/upload/1/a.jpg",  # another port
        f"http://localhost:{label_studio.server_port}/data/upload/1/a.jpg",  # another name
        f"http://127.1:{label_studio.server_port}/data/upload/1/a.jpg",  # another spelling
        f"{label_studio.url}/api/users/",  # no file
        f"{label_studio.url}/user/account?x=/data/upload/1/a.jpg",
    ]
    with downloader_to(label_studio.url, ("127.0.0.0/8", "::1")) as downloader:
        for address in near:
            assert downloader.get(httpx.URL(address)) == b"{}"
    came = other.came + label_studio.came
    assert len(came) == len(near)
    assert not any(carries_secret(headers) for _, headers in came)


PERSONAL = "eyJhbGciOiJub25lIn0.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2ln"  # its claims: token_type refresh


@pytest.mark.parametrize("api_key", [TOKEN, PERSONAL])
def test_a_label_studio_that_redirects_elsewhere_is_not_followed(
    new_site: Callable[..., Site], api_key: str
) -> None:
    label_studio, other = new_site(), new_site()
    for path in ("/api/current-user/whoami", "/api/token/refresh/"):
        label_studio.answers[path] = (307, {"Location": f"{other.url}{path}"})
    client = LabelStudio(label_studio.url, api_key)
    with pytest.raises(LabelStudioError):
        client.whoami()
    client.close()
    assert len(label_studio.came) == 1
    assert other.connections == 0


# ---------------------------------------------------------------- local files


OUTSIDE = [
    *("../secret", "a/../../secret", "..\\secret", "%2e%2e/secret", "%252e%252e/secret", "....//secret"),
    *(
        "/etc/passwd",
        "//etc/passwd",
        "a/link",
        "a/folder/secret",
        "secret%00.png",
        "a/pipe",
        "a",
        "",
        "~/secret",
    ),
]


@pytest.mark.parametrize("place", OUTSIDE)
def test_local_files_are_read_below_their_root_only(
    new_site: Callable[..., Site], tmp_path: Path, place: str
) -> None:
    (tmp_path / "secret").write_bytes(b"outside")
    inside = tmp_path / "root/a"
    inside.mkdir(parents=True)
    (inside / "real.png").write_bytes(b"inside")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    (inside / "within").symlink_to(inside / "real.png")
    os.mkfifo(inside / "pipe")
    label_studio = new_site()
    with downloader_to(label_studio.url) as downloader:
        site = sources.Site(own(label_studio.url), tmp_path / "root", downloader, 1000)

        def read(where: str) -> bytes:
            return sources.read_image(site, 1, f"/data/local-files/?d={where}").data or b""

        with pytest.raises(ImageError):
            read(place)
        assert read("a/real.png") == read("a%2Freal.png") == read("a/within") == b"inside"
    assert label_studio.connections == 0


@pytest.mark.parametrize(
    "path", ["/data/upload/../../user/account", "/data/upload/%2e%2e/x", "/data/../api/users/"]
)
def test_an_address_that_climbs_out_of_the_uploads_is_not_asked_for(
    new_site: Callable[..., Site], path: str
) -> None:
    label_studio = new_site()
    with downloader_to(label_studio.url) as downloader:
        site = sources.Site(own(label_studio.url), None, downloader, 1000)
        for uri in (path, f"/data/local-files/?d={path}"):
            with pytest.raises(ImageError):
                sources.read_image(site, 1, uri)
    assert label_studio.connections == 0


WINDOWS = ["dataset1%5C1.jpg", "dataset1\\1.jpg", "%5Cdataset1%5C1.jpg", "dataset1%5Csub%5C..jpg"]


@pytest.mark.parametrize("place", WINDOWS)
def test_a_label_studio_on_windows_is_read_from_the_shared_folder_and_through_it(
    new_site: Callable[..., Site], tmp_path: Path, place: str
) -> None:
    (tmp_path / "dataset1/sub").mkdir(parents=True)
    (tmp_path / "dataset1/1.jpg").write_bytes(b"{}")
    (tmp_path / "dataset1/sub/..jpg").write_bytes(b"{}")
    label_studio = new_site()
    uri = f"/data/local-files/?d={place}"
    with downloader_to(label_studio.url) as downloader:
        shared = sources.Site(own(label_studio.url), tmp_path, downloader, 1000)
        assert sources.read_image(shared, 1, uri).data == b"{}"
        assert label_studio.connections == 0
        remote = sources.Site(own(label_studio.url), None, downloader, 1000)
        assert sources.read_image(remote, 1, uri).data == b"{}"
    [(path, headers)] = label_studio.came
    assert path == f"/data/local-files/?d={place}".replace("\\", "%5C")
    assert carries_secret(headers)


def test_a_name_with_a_backslash_is_read_where_it_is_the_name_of_one_file(
    new_site: Callable[..., Site], tmp_path: Path
) -> None:
    (tmp_path / "a\\b.jpg").write_bytes(b"one file")
    with downloader_to(new_site().url) as downloader:
        site = sources.Site(own("http://labels.example"), tmp_path, downloader, 1000)
        assert sources.read_image(site, 1, "/data/local-files/?d=a%5Cb.jpg").data == b"one file"


@pytest.mark.parametrize(
    "place",
    ["..%5Csecret", "a%5C..%5C..%5Csecret", "a/..%5C../secret", "%5C..%5Csecret", "a%5C..", "..%255Csecret"],
)
def test_a_backslash_does_not_climb(new_site: Callable[..., Site], tmp_path: Path, place: str) -> None:
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"outside")
    label_studio = new_site()
    with downloader_to(label_studio.url) as downloader:
        for root in (tmp_path / "root", None):
            site = sources.Site(own(label_studio.url), root, downloader, 1000)
            with pytest.raises(ImageError):
                sources.read_image(site, 1, f"/data/local-files/?d={place}")
    assert label_studio.connections == 0
