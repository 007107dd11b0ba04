"""A hub of models on this machine: addresses and headers of huggingface.co, and ways in which it fails."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

TINY = "test_vit"
"""timm's own network for tests: 160 pixels, 64 numbers, 0.4 M weights."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def timm_folder(folder: Path, architecture: str = TINY, **described: object) -> Path:
    """A network with random weights as timm saves it: config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=0)
    save_file(network.state_dict(), folder / "model.safetensors")
    configured = {**network.pretrained_cfg, **described}
    fields = {
        "architecture": architecture,
        "num_features": network.num_features,
        "pretrained_cfg": configured,
    }
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@dataclass
class Repository:
    """The files of one model. ``fault``: how it fails, empty where it does not.

    ``gated``: 401 as for a licence that nobody accepted. ``dead``: takes connections and never answers.
    ``silent``: stops in the middle of the weights. ``torn``: closes the connection there. ``altered``: sends
    other bytes than its hash says. ``slow``: some bytes at a time. ``broken``: 503.
    """

    files: dict[str, bytes]
    fault: str = ""


@dataclass
class FakeHub:
    """``asked``: method and path of every request, in order."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, folder: Path, fault: str = "", **more: bytes) -> Repository:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.repositories[name] = Repository({**files, **more}, fault)
        return self.repositories[name]

    def downloads(self, name: str) -> int:
        """How often the weights were asked for."""
        return sum(line.startswith(f"GET /{name}/") and "model." in line for line in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub
    ended: threading.Event

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None or len(parts) < 5 or parts[2] != "resolve":
            return self._refuse(401, "RepoNotFound")
        if repository.fault == "dead":
            self.ended.wait(120)
            self.close_connection = True
            return None
        if repository.fault == "gated":
            return self._refuse(401, "GatedRepo")
        if repository.fault == "broken":
            return self._refuse(503, "")
        if parts[3] not in ("main", "v2", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        content = repository.files.get("/".join(parts[4:]))
        if content is None:
            return self._refuse(404, "EntryNotFound")
        return self._send(repository, parts[4], content, with_body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, repository: Repository, name: str, content: bytes, with_body: bool) -> None:
        fault = repository.fault if name.startswith("model.") else ""
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-") or 0)
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_body:
            return
        if fault == "altered":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault in ("", "altered"):
            self.wfile.write(content[start:])
        elif fault == "slow":
            for place in range(start, len(content), 200_000):
                self.wfile.write(content[place : place + 200_000])
                self.wfile.flush()
                time.sleep(0.2)
        else:
            self.wfile.write(content[start : start + 100_000])
            self.wfile.flush()
            while repository.fault == "silent" and not self.ended.wait(0.1):
                pass
            self.close_connection = True


@contextmanager
def serving_hub() -> Iterator[FakeHub]:
    """A hub that answers on a port of its own; set HF_ENDPOINT to its ``url``."""
    hub, ended = FakeHub(), threading.Event()
    handler = type("Handler", (_Handler,), {"hub": hub, "ended": ended})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
