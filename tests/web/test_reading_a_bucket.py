"""What the web process asks a bucket for."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buckets import environment_to, running_s3
from saved_rounds import save_round
from tcp_proxy import TcpProxy, proxied

from coreset_backend.backend import Backend
from coreset_backend.reports import Publication
from coreset_backend.web.app import create_app


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TcpProxy]:
    with running_s3() as s3, proxied(lambda: socket.create_connection(("127.0.0.1", s3.port))) as wire:
        for name, value in environment_to(wire.port).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
        yield wire


def test_pages_ask_the_bucket_a_few_times_and_see_what_another_host_changed(
    make_backend: Callable[..., Backend], wire: TcpProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, worker = (make_backend(model_dir="s3://rounds/x") for _ in range(2))
    for _ in range(5):
        save_round(worker)
        worker.store.open(7, worker.store.numbers(7)[-1]).mark_published(Publication(sent=3))
    client = create_app(web).test_client()
    pages = ("/projects/7", "/api/projects/7/overview", "/api/projects/7/status", "/api/projects/7/history")
    for page in pages:
        assert client.get(page).status_code == 200
    for page in pages:
        before = wire.asked
        assert client.get(page).status_code == 200
        assert wire.asked - before <= 4, page
    worker.store.hold(7, "A person cancelled the last round.")
    assert "A person cancelled" in client.get("/api/projects/7/status").text
    wire.cut()
    answer = client.get("/projects/7")
    assert answer.status_code == 503 and "It does not answer as an S3 does" in answer.text
    assert client.get("/health").status_code == 200
    wire.heal()
    assert client.get("/projects/7").status_code == 200
