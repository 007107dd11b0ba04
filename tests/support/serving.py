"""HTTP servers of the tests' own: small ones, and the web process as it is deployed."""

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer

import httpx
from waiting import wait_until

from coreset_backend.local import label_studio as demo
from coreset_backend.settings import Settings
from coreset_backend.web.server import gunicorn_command


@contextlib.contextmanager
def serving(server: TCPServer) -> Iterator[str]:
    """The address of ``server``, which answers in a thread of its own while the block runs."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Echo(BaseHTTPRequestHandler):
    """A Label Studio in trouble: it answers 400 with everything that it was sent."""

    def do_GET(self) -> None:
        body = json.dumps({"detail": f"{self.path}\n{self.headers}"}).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class WebProcess:
    """A running web process; ``log`` holds what it said."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client


@contextlib.contextmanager
def web_process(redis_url: str, folder: Path, **environment: str) -> Iterator[WebProcess]:
    """The web process as it is deployed, with its store and its log below ``folder``."""
    port = demo.free_port()
    settings = Settings(redis_url=redis_url, model_dir=folder / "data", port=port)
    given = {"REDIS_URL": redis_url, "MODEL_DIR": str(settings.model_dir)} | environment
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            gunicorn_command(settings), env=os.environ | given, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        # A connection for each request, as Label Studio opens them: the server closes an idle one after two
        # seconds, and one with a large unread body at once.
        each_anew = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False, limits=each_anew
        ) as client:
            wait_until(lambda: _answers(client), "the web process")
            yield WebProcess(port, process, log, client)
    finally:
        process.terminate()
        process.wait(60)


def _answers(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get("/health").status_code == 200
    return False
