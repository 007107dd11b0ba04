"""The nginx of docs/deploy.md, for real: what it passes on of what a caller claims."""

import base64
import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from paths import ROOT
from serving import serving, web_process
from waiting import wait_until

from coreset_backend.local import label_studio as demo
from coreset_backend.web.throttle import WRONG_GUESSES

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
DEPLOY = ROOT / "docs/deploy.md"
CLAIM = "198.51.100.99"
CLAIMS = {
    **{f"X-Forwarded-{name}": CLAIM for name in ("For", "Host", "Port", "Proto", "Prefix")},
    "Forwarded": f"for={CLAIM};host={CLAIM}",
    "X-Real-IP": CLAIM,
}


@contextlib.contextmanager
def documented_nginx(backend_port: int, folder: Path) -> Iterator[httpx.Client]:
    """A client of an nginx with the documented ``location`` in front of ``backend_port``."""
    found = re.search(r"```nginx\n(.*?)```", DEPLOY.read_text(), re.DOTALL)
    assert found
    location = found[1].replace("127.0.0.1:9090", f"127.0.0.1:{backend_port}")
    port = demo.free_port()
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port};\n{location}\n}} }}"
    )
    assert NGINX
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")], stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            wait_until(lambda: not demo.is_free(port), "nginx")
            yield client
    finally:
        process.terminate()
        process.wait(60)


class Heard(BaseHTTPRequestHandler):
    """A backend that answers with the headers it got."""

    def do_GET(self) -> None:
        body = str(self.headers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_no_forwarded_header_of_a_caller_is_passed_on(tmp_path: Path) -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Heard)) as backend:
        port = int(backend.rpartition(":")[2])
        with documented_nginx(port, tmp_path) as client:
            heard = client.get("/", headers={**CLAIMS, "Host": "coreset.example"}).text
    assert CLAIM not in heard
    assert "X-Forwarded-For: 127.0.0.1" in heard
    assert "Host: coreset.example" in heard


def test_behind_nginx_a_guesser_is_one_caller_and_pays_alone(redis_url: str, tmp_path: Path) -> None:
    login = {"BASIC_AUTH_USER": "ops", "BASIC_AUTH_PASS": "the password"}
    with (
        web_process(redis_url, tmp_path, CORESET_TRUSTED_PROXIES="1", **login) as web,
        documented_nginx(web.port, tmp_path) as client,
    ):
        guesses = [
            client.get(
                "/projects",
                headers={"X-Forwarded-For": f"203.0.113.{number}:{number}"},
                auth=("ops", f"guess {number}"),
            ).status_code
            for number in range(25)
        ]
        assert guesses == [401] * WRONG_GUESSES + [429] * (25 - WRONG_GUESSES)
        other = {"X-Forwarded-For": "203.0.113.7", "Authorization": _basic("ops:the password")}
        assert web.client.get("/projects", headers=other).status_code == 200
        assert client.get("/projects", auth=("ops", "the password")).status_code == 429


def test_behind_nginx_a_rebound_name_is_refused_whatever_it_claims(redis_url: str, tmp_path: Path) -> None:
    with (
        web_process(redis_url, tmp_path, CORESET_TRUSTED_PROXIES="1") as web,
        documented_nginx(web.port, tmp_path) as client,
    ):
        for claim in ("localhost", "127.0.0.1", ""):
            headers = {"Host": "evil.example", "X-Forwarded-Host": claim}
            assert client.get("/projects", headers=headers).status_code == 403
        assert client.get("/projects", headers={"Host": "localhost"}).status_code == 200
        big = client.post(
            "/predict", json={"project": 7, "tasks": [{"id": 1, "data": {"x": "y" * 2_000_000}}]}
        )
        assert len(big.json()["results"]) == 1


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()
