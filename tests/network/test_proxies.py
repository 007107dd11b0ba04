"""Proxies and certificates, for Label Studio's API and for images, tried with a real proxy and real TLS."""

import contextlib
import shutil
import ssl
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_label_studio import TOKEN, FakeLabelStudio
from image_server import ImageHandler, picture
from serving import serving
from web_proxy import WebProxy, certificate, serving_tls

from coreset_backend.backend import Backend
from coreset_backend.cli.doctor import Note, examine
from coreset_backend.errors import ConfigError, LabelStudioError, Unreachable
from coreset_backend.images import Images, Limits, open_images
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.network.addresses import HostUnknown, resolved_addresses
from coreset_backend.network.outbound import Proxies, tls_context

PUBLIC = "93.184.216.34"
openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def resolve(host: str, port: int) -> list[str]:
    """This machine's DNS, which the proxy does not ask."""
    known = {"images.example": PUBLIC, PUBLIC: PUBLIC, "intranet.example": "10.0.0.7", "10.0.0.7": "10.0.0.7"}
    if host not in known:
        raise HostUnknown(f"the name of the host {host} cannot be resolved; check the name and the DNS")
    return [known[host]]


@pytest.fixture
def proxy() -> Iterator[WebProxy]:
    made = WebProxy()
    with serving(made):
        yield made


@pytest.fixture
def server() -> Iterator[int]:
    """The port of an image server, which a proxy may know by any name."""
    ImageHandler.FILES.clear()
    ImageHandler.asked.clear()
    ImageHandler.FILES["/a.jpg"] = picture()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), ImageHandler)) as address:
        yield int(address.rpartition(":")[2])


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Images]]:
    with contextlib.ExitStack() as stack:

        def opening(proxy: str, *, no: str = "", **options: Any) -> Images:
            given = {"label_studio_url": "http://labels.example", "auth": None, "resolve": resolve} | options
            images = open_images(
                cache_dir=tmp_path / "cache",
                max_failed_share=1.0,
                limits=Limits(tries=1, backoff_s=0),
                proxies=Proxies({"http": proxy, "https": proxy, "no": no}, ("http", "labels.example", 80)),
                **given,
            )
            stack.callback(images.close)
            return images

        yield opening


def reason(images: Images, uri: str) -> str | None:
    """Why the image at ``uri`` cannot be read, or ``None``."""
    error = images.check(1, uri)
    return str(error) if error else None


def trusting(pem: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pem))


# ---------------------------------------------------------------- images by a proxy


@openssl
def test_https_comes_through_a_tunnel_asked_for_by_name(
    proxy: WebProxy, server: int, opened: Callable[..., Images], tmp_path: Path
) -> None:
    pem = certificate(tmp_path, "images.example")
    proxy.names = {"images.example": "127.0.0.1"}
    with serving_tls(ThreadingHTTPServer(("127.0.0.1", 0), ImageHandler), pem) as port:
        uri = f"https://images.example:{port}/a.jpg"
        assert reason(opened(proxy.url, verify=trusting(pem)), uri) is None
        assert proxy.asked == [f"CONNECT images.example:{port}"]
        assert ImageHandler.asked == [("/a.jpg", None)]
        # Unchecked, anybody could answer to the name: the proxy is asked for the address that was checked.
        proxy.names[PUBLIC] = "127.0.0.1"
        assert reason(opened(proxy.url, verify=False), uri) is None
        assert proxy.asked[1:] == [f"CONNECT {PUBLIC}:{port}"]


def test_http_comes_through_a_tunnel_to_the_checked_address(
    proxy: WebProxy, server: int, opened: Callable[..., Images]
) -> None:
    proxy.names = {PUBLIC: "127.0.0.1"}
    assert reason(opened(proxy.url), f"http://images.example:{server}/a.jpg") is None
    assert proxy.asked == [f"CONNECT {PUBLIC}:{server}"]


def test_a_host_that_a_lead_allows_is_asked_for_by_its_name_as_a_whole(
    proxy: WebProxy, server: int, opened: Callable[..., Images]
) -> None:
    """Also one that only the proxy knows."""
    proxy.names = {"only-there.example": "127.0.0.1"}
    uri = f"http://only-there.example:{server}/a.jpg"
    assert "add only-there.example:" in (reason(opened(proxy.url), uri) or "")
    assert proxy.asked == []
    images = opened(proxy.url, allowed_hosts=("only-there.example",))
    assert reason(images, uri) is None
    assert proxy.asked == [f"GET {uri}"]
    assert ImageHandler.asked == [("/a.jpg", None)]


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.7",
        "intranet.example",
        "127.0.0.1",
        "localhost",
        "[::1]",
        "127.1",
        "169.254.169.254",
        "2130706433",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_private_address_is_asked_of_a_proxy(
    proxy: WebProxy, server: int, opened: Callable[..., Images], scheme: str, host: str
) -> None:
    proxy.names = dict.fromkeys((host, "10.0.0.7", "127.0.0.1"), "127.0.0.1")
    known = resolve if host in ("10.0.0.7", "intranet.example") else resolved_addresses
    images = opened(proxy.url, resolve=known)
    told = reason(images, f"{scheme}://{host}:{server}/a.jpg") or ""
    assert "which is not public" in told
    assert proxy.asked == [] and ImageHandler.asked == []


def test_a_redirect_to_a_private_address_is_not_asked_of_a_proxy(
    proxy: WebProxy, opened: Callable[..., Images]
) -> None:
    class Redirecting(ImageHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "http://intranet.example/secret")
            self.end_headers()

    proxy.names = {PUBLIC: "127.0.0.1", "intranet.example": "127.0.0.1"}
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)) as address:
        told = reason(opened(proxy.url), f"http://images.example:{address.rpartition(':')[2]}/a.jpg")
    assert told and "intranet.example has the address 10.0.0.7" in told
    assert len(proxy.asked) == 1


@openssl
def test_a_name_that_the_proxy_resolves_to_a_private_address_gains_nothing(
    proxy: WebProxy, server: int, opened: Callable[..., Images], tmp_path: Path
) -> None:
    """DNS rebinding, with the proxy as the one who is asked the second time."""
    proxy.names = {"images.example": "127.0.0.1"}  # and the address that was checked leads nowhere
    assert "answered 502" in (reason(opened(proxy.url), f"http://images.example:{server}/a.jpg") or "")
    pem = certificate(tmp_path, "intranet.example")
    with serving_tls(ThreadingHTTPServer(("127.0.0.1", 0), ImageHandler), pem) as port:
        told = reason(opened(proxy.url, verify=trusting(pem)), f"https://images.example:{port}/a.jpg")
    assert told and "the certificate of images.example is not trusted" in told
    assert ImageHandler.asked == []


def test_this_machine_and_what_no_proxy_names_are_reached_directly(
    proxy: WebProxy, server: int, opened: Callable[..., Images]
) -> None:
    images = opened(proxy.url, allowed_hosts=("127.0.0.1",), resolve=lambda host, port: ["127.0.0.1"])
    assert reason(images, f"http://127.0.0.1:{server}/a.jpg") is None
    images = opened(
        proxy.url, no=".example", allowed_hosts=("127.0.0.1",), resolve=lambda host, port: ["127.0.0.1"]
    )
    assert reason(images, f"http://images.example:{server}/a.jpg") is None
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            403,
            "answered 403 to a tunnel to 93.184.216.34:{port}: it does not allow it. Name the host in NO_PR",
        ),
        (407, "requires a login; write user and password into its address, before an @"),
        (503, "answered 503 to a tunnel to 93.184.216.34:{port} (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)"),
    ],
)
def test_a_proxy_that_refuses_is_named_with_what_to_do(
    proxy: WebProxy, server: int, opened: Callable[..., Images], status: int, told: str
) -> None:
    proxy.refuses = status
    said = reason(opened(proxy.url), f"http://images.example:{server}/a.jpg") or ""
    assert said.startswith(f"the proxy {proxy.url} answered {status}")
    assert told.format(port=server) in said


def test_a_proxy_with_a_login_gets_it_and_nobody_else_does(
    proxy: WebProxy, server: int, opened: Callable[..., Images]
) -> None:
    proxy.login = "Basic dXNAZXI6cGE6c3M="  # us@er:pa:ss
    proxy.names = {PUBLIC: "127.0.0.1", "allowed.example": "127.0.0.1"}
    images = opened(proxy.url.replace("://", "://us%40er:pa%3Ass@"), allowed_hosts=("allowed.example",))
    for host in ("images.example", "allowed.example"):
        assert reason(images, f"http://{host}:{server}/a.jpg") is None
    assert [asked.partition(" ")[0] for asked in proxy.asked] == ["CONNECT", "GET"]


@pytest.mark.parametrize("silent", [False, True])
def test_a_proxy_that_is_away_or_speaks_no_http_is_named(
    server: int, opened: Callable[..., Images], silent: bool
) -> None:
    class Mute(ImageHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 smtp.example ESMTP\r\n")

    made = ThreadingHTTPServer(("127.0.0.1", 0), Mute)
    with serving(made) as address:
        told = reason(opened(address), f"http://images.example:{server}/a.jpg") if silent else None
    told = told or reason(opened(address), f"http://images.example:{server}/a.jpg")
    words = "closed the connection or does not speak HTTP" if silent else "does not accept connections"
    assert told == f"the proxy {address} {words} (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)"


def test_a_socks_proxy_is_refused_for_each_image_in_words(server: int, opened: Callable[..., Images]) -> None:
    told = reason(opened("socks5h://user:hush@127.0.0.1:1080"), f"http://images.example:{server}/a.jpg")
    assert told and "HTTP_PROXY names a SOCKS proxy (socks5h://127.0.0.1), but only HTTP proxies" in told


# ---------------------------------------------------------------- who is reached by which


@pytest.mark.parametrize(
    "exempt",
    [
        *(
            "*",
            "images.example",
            ".example",
            "*.example",
            "EXAMPLE.",
            "images.example:443",
            "a, ,images.example",
        ),
    ],
)
def test_a_host_that_no_proxy_names(exempt: str) -> None:
    proxies = Proxies({"https": "http://proxy:3128", "no": exempt})
    assert proxies.leading_to("https", "images.example", 443) is None


@pytest.mark.parametrize(
    ("exempt", "host"),
    [
        *(("[::1]", "fd00::1"), ("mages.example", "images.example"), ("images.example:80", "images.example")),
        *(("10.0.0.0/8", "11.0.0.1"), ("example.images.example", "images.example"), ("", "images.example")),
    ],
)
def test_a_host_that_no_proxy_does_not_name(exempt: str, host: str) -> None:
    proxies = Proxies({"https": "http://proxy:3128", "no": exempt})
    assert str(proxies.leading_to("https", host, 443)) == "http://proxy:3128"


@pytest.mark.parametrize(
    ("exempt", "host"),
    [
        *(
            ("fd00::1", "fd00::1"),
            ("[fd00::1]", "[fd00::1]"),
            ("[fd00::1]:443", "fd00::1"),
            ("fd00::/8", "fd12::1"),
        ),
        *(("10.0.0.0/8", "10.2.3.4"), ("10.2.3.4", "10.2.3.4"), ("[::1]", "::1")),
    ],
)
def test_addresses_and_networks_in_no_proxy(exempt: str, host: str) -> None:
    proxies = Proxies({"all": "proxy:3128", "no": f"x.example,{exempt}"})
    assert proxies.leading_to("https", host, 443) is None
    assert str(proxies.leading_to("http", "images.example", 80)) == "http://proxy:3128"


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "::1"])
def test_this_machine_needs_no_entry(host: str) -> None:
    assert Proxies({"all": "proxy:3128"}).leading_to("http", host, 80) is None


@pytest.mark.parametrize("value", ["socks5://p:1080", "http://", "http://[::1", "ftp://p", "http://xn--:1"])
def test_what_is_no_proxy_is_named_by_its_variable(value: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        Proxies({"https": value}).leading_to("https", "images.example", 443)
    with pytest.raises(ConfigError, match="CORESET_LABEL_STUDIO_PROXY"):
        Proxies({}, ("http", "ls", 80), value).leading_to_label_studio()


def test_a_malformed_entry_of_no_proxy_is_named() -> None:
    with pytest.raises(ConfigError, match="NO_PROXY contains 'a:port'"):
        Proxies({"all": "proxy", "no": "a:port"}).leading_to("http", "images.example", 80)


# ---------------------------------------------------------------- Label Studio's API


def backend_with(make_backend: Callable[..., Backend], studio: FakeLabelStudio, **given: Any) -> Backend:
    return make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN, **given)


def test_label_studio_is_reached_directly_whatever_the_environment_says(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "[::1],10.0.0.0/8")
    assert backend_with(make_backend, studio).label_studio.whoami()


@pytest.mark.parametrize("setting", ["address", "environment"])
def test_label_studio_is_reached_by_a_proxy_where_the_setting_says_so(
    make_backend: Callable[..., Backend],
    studio: FakeLabelStudio,
    proxy: WebProxy,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    proxy.names = {"127.0.0.1": "127.0.0.1"}
    chosen = proxy.url if setting == "address" else setting
    backend = backend_with(make_backend, studio, label_studio_proxy=chosen)
    assert backend.label_studio.whoami()
    assert proxy.asked == [f"GET {studio.url}/api/current-user/whoami"]
    assert str(backend.proxies.leading_to("http", "images.example", 80)) == proxy.url
    [note] = dict(examine(backend, []))["Label Studio"]
    assert isinstance(note, Note) and proxy.url in note


def test_doctor_names_the_proxy_and_one_that_cannot_be_used(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hushhush@proxy.lan:3128")
    monkeypatch.setenv("NO_PROXY", ".lan")
    backend = backend_with(make_backend, studio)
    [note] = dict(examine(backend, []))["Proxies"]
    assert isinstance(note, Note)
    assert note.endswith(
        "are fetched through the proxy http://proxy.lan:3128 (HTTPS_PROXY), except NO_PROXY=.lan."
    )
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.lan:1080")
    [problem] = dict(examine(backend_with(make_backend, studio), []))["Proxies"]
    assert "HTTPS_PROXY names a SOCKS proxy" in problem and not isinstance(problem, Note)


# ---------------------------------------------------------------- certificates


@openssl
def test_an_unknown_certificate_is_told_with_what_to_set_and_that_helps(
    server: int, opened: Callable[..., Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, "127.0.0.1", "::1")
    with serving_tls(ThreadingHTTPServer(("127.0.0.1", 0), ImageHandler), pem) as port:
        url, uri = f"https://127.0.0.1:{port}", f"https://127.0.0.1:{port}/a.jpg"
        here = {"allowed_hosts": ("127.0.0.1",), "resolve": lambda host, port: ["127.0.0.1"]}
        advice = "Set SSL_CERT_FILE to a PEM file .* VERIFY_SSL=false"
        with pytest.raises(
            Unreachable, match=f"The certificate of Label Studio at {url} is not trusted .*{advice}"
        ):
            LabelStudio(url, TOKEN, pauses=()).whoami()
        told = reason(opened("", **here), uri)
        assert told and told.startswith(
            "the certificate of 127.0.0.1 is not trusted. Set SSL_CERT_FILE to a PEM file"
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert reason(opened("", **here), uri) is None
        with pytest.raises(LabelStudioError, match="404"):
            LabelStudio(url, TOKEN, pauses=()).whoami()
        monkeypatch.delenv("SSL_CERT_FILE")
        assert reason(opened("", verify=False, **here), uri) is None


def test_a_file_of_certificates_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (None, "no certificate"):
        path = tmp_path / "authorities.pem"
        if content:
            path.write_text(content)
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
            tls_context(True)
