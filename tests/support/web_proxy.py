"""A forward proxy, as small as it can be and real: tunnels, whole requests, a DNS of its own, a login."""

import contextlib
import http.client
import selectors
import socket
import ssl
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from serving import serving


class WebProxy(ThreadingHTTPServer):
    """Remembers what it was ``asked``; looks hosts up in ``names``, and knows no others.

    ``refuses`` is a status that it answers to everything, ``login`` a Proxy-Authorization that it wants.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.names: dict[str, str] = {}
        self.refuses = 0
        self.login = ""
        super().__init__(("127.0.0.1", 0), _Passing)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebProxy

    def do_CONNECT(self) -> None:
        if self._is_refused():
            return
        host, _, port = self.path.rpartition(":")
        try:
            other = socket.create_connection((self.server.names[host.strip("[]")], int(port)), 5)
        except (OSError, KeyError):
            return self._end(502)
        with other:
            self.send_response(200)
            self.end_headers()
            _join(self.connection, other)
        self.close_connection = True

    def do_GET(self) -> None:
        if self._is_refused():
            return
        target = urlsplit(self.path)
        address = self.server.names.get(target.hostname or "")
        if address is None:
            return self._end(502)
        asking = http.client.HTTPConnection(address, target.port or 80, timeout=5)
        headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
        asking.request("GET", self.path.partition(target.netloc)[2], headers=headers)
        answer = asking.getresponse()
        self._end(answer.status, answer.read())

    def _is_refused(self) -> bool:
        self.server.asked.append(f"{self.command} {self.path}")
        if self.server.login and self.headers.get("Proxy-Authorization") != self.server.login:
            self._end(407)
            return True
        if self.server.refuses:
            self._end(self.server.refuses)
        return bool(self.server.refuses)

    def _end(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _join(one: socket.socket, other: socket.socket) -> None:
    with selectors.DefaultSelector() as waiting, contextlib.suppress(OSError):
        waiting.register(one, selectors.EVENT_READ, other)
        waiting.register(other, selectors.EVENT_READ, one)
        while True:
            for ready, _ in waiting.select():
                piece = ready.fileobj.recv(65536)  # type: ignore[union-attr]
                if not piece:
                    return
                ready.data.sendall(piece)


def certificate(folder: Path, *names: str) -> Path:
    """A self-signed certificate for the names or addresses, with its key, in one PEM file."""
    both, key = folder / f"{names[0].strip(':')}.pem", folder / "key.pem"
    kinds = [
        f"IP:{name}" if name.replace(".", "").isdecimal() or ":" in name else f"DNS:{name}" for name in names
    ]
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", str(key), "-out", str(both), "-days", "2", "-subj", f"/CN={names[0]}"),
            *("-addext", f"subjectAltName={','.join(kinds)}"),
        ],
        check=True,
        capture_output=True,
    )
    both.write_text(both.read_text() + key.read_text())
    return both


@contextlib.contextmanager
def serving_tls(server: ThreadingHTTPServer, pem: Path) -> Iterator[int]:
    """The port of ``server``, which speaks TLS with the certificate while the block runs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that does not trust us
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with serving(server):
        yield server.server_port
