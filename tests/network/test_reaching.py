"""Addresses that people get wrong or that are unusual: IPv6, sub-paths, pages instead of the API."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest
from fake_label_studio import TOKEN
from serving import serving
from waiting import wait_until

from coreset_backend.backend import Backend
from coreset_backend.errors import ConfigError, LabelStudioError, Unreachable
from coreset_backend.jobs.worker import POLL_KEY
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.local import label_studio as demo
from coreset_backend.local.stack import wait_for_web, web_child, worker_child
from coreset_backend.settings import Settings
from coreset_backend.web.server import gunicorn_command, local_address

PAGE = b"<!DOCTYPE html>\n<html>\n<head><title>404 Not Found</title></head>\n</html>\n"


class Site(BaseHTTPRequestHandler):
    """Anything but a Label Studio: answers every request with ``status`` and a page."""

    status: ClassVar[int] = 404
    also: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in {"Content-Type": "text/html", **self.also}.items():
            self.send_header(name, value.replace("{path}", self.path))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    Site.status, Site.also = 404, {}
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Site)) as address:
        yield address


def told(url: str) -> str:
    """What a person is told of the Label Studio at ``url``."""
    client = LabelStudio(url, TOKEN, pauses=())
    with pytest.raises(LabelStudioError) as failure:
        client.whoami()
    client.close()
    return str(failure.value)


@pytest.mark.parametrize("status", [200, 400, 404, 405, 410])
def test_a_wrong_address_is_one_clear_line_with_a_hint_at_the_sub_path(site: str, status: int) -> None:
    Site.status = status
    line = told(site)
    assert "\n" not in line and len(line) < 500
    assert f"was answered with {status} text/html, not with the JSON of a Label Studio" in line
    assert "LABEL_STUDIO_URL does not seem to be its address" in line
    assert "with the sub-path if there is one, as in http://host/label-studio" in line


@pytest.mark.parametrize("target", ["https://team.example", "https://team.example/label-studio", "{site}/ls"])
def test_a_redirect_names_the_right_address(site: str, target: str) -> None:
    target = target.replace("{site}", site)
    Site.status, Site.also = 301, {"Location": target + "{path}"}
    assert f"It redirects to {target}: set LABEL_STUDIO_URL to that." in told(site)


@pytest.mark.parametrize("location", ["/user/login/?next=/api/", "http://xn--/", "http://[::1", ""])
def test_another_redirect_gives_the_general_hint(site: str, location: str) -> None:
    Site.status, Site.also = 302, {"Location": location}
    line = told(site)
    assert "\n" not in line
    assert "LABEL_STUDIO_URL" in line


def test_what_speaks_no_tls_is_named(site: str) -> None:
    line = told(site.replace("http://", "https://"))
    assert "does not speak TLS: LABEL_STUDIO_URL should begin with http://" in line and "\n" not in line


def test_nobody_there_is_one_line() -> None:
    line = told(f"http://127.0.0.1:{demo.free_port()}")
    assert "does not answer" in line and "\n" not in line


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://::1:8080", "http://xn--/", "http://host:port", "http://"]
)
def test_an_address_that_is_none_is_named(make_backend: Callable[..., Backend], url: str) -> None:
    with pytest.raises((ConfigError, Unreachable), match="LABEL_STUDIO_URL"):
        make_backend(label_studio_url=url, label_studio_api_key=TOKEN).label_studio.whoami()


# ---------------------------------------------------------------- IPv6


@pytest.mark.parametrize(
    ("host", "bound", "here", "own"),
    [
        ("127.0.0.1", "127.0.0.1:9090", "http://127.0.0.1:9090", "http://localhost:9090"),
        ("localhost", "localhost:9090", "http://localhost:9090", "http://localhost:9090"),
        ("0.0.0.0", "0.0.0.0:9090", "http://127.0.0.1:9090", "http://localhost:9090"),
        ("::", "[::]:9090", "http://[::1]:9090", "http://localhost:9090"),
        ("::1", "[::1]:9090", "http://[::1]:9090", "http://[::1]:9090"),
        ("[::1]", "[::1]:9090", "http://[::1]:9090", "http://[::1]:9090"),
        ("192.168.1.5", "192.168.1.5:9090", "http://192.168.1.5:9090", "http://192.168.1.5:9090"),
        ("[fd00::5]", "[fd00::5]:9090", "http://[fd00::5]:9090", "http://[fd00::5]:9090"),
    ],
)
def test_where_the_web_is_bound_and_asked(host: str, bound: str, here: str, own: str) -> None:
    settings = Settings(host=host, require_auth=False)
    command = gunicorn_command(settings)
    assert command[command.index("--bind") + 1] == bound
    assert local_address(settings) == here
    assert settings.url == own


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_the_web_is_served_and_found_on_ipv6(make_backend: Callable[..., Backend], redis_url: str) -> None:
    settings = make_backend(host="[::1]", port=demo.free_port()).settings
    assert demo.is_free(settings.port, "::1")
    environment = {
        **os.environ,
        "REDIS_URL": redis_url,
        "MODEL_DIR": str(settings.model_dir),
        "PYTHONWARNINGS": "",
    }
    child = web_child(settings, environment)
    child.start()
    try:
        wait_for_web(settings, threading.Event(), patience=120)
        assert not demo.is_free(settings.port, "::1") and demo.is_free(settings.port)
        assert httpx.get(f"{settings.url}/health", trust_env=False, timeout=60).status_code == 200
    finally:
        child.stop()


# ---------------------------------------------------------------- the poll


def test_a_shorter_poll_takes_effect_at_the_next_start(backend: Backend, redis_url: str) -> None:
    backend.redis.set(POLL_KEY, "1", px=3_600_000)  # as a worker with CORESET_POLL_SECONDS=3600 left it
    environment = {
        **os.environ,
        "REDIS_URL": redis_url,
        "MODEL_DIR": str(backend.settings.model_dir),
        "CORESET_POLL_SECONDS": "300",
    }
    child = worker_child(environment)
    child.start()
    try:
        wait_until(lambda: backend.redis.pttl(POLL_KEY) <= 300_000, "a shorter wait", 120)
        assert backend.redis.pttl(POLL_KEY) > 0
    finally:
        child.stop()
