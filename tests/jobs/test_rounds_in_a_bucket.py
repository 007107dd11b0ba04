"""Real workers on several hosts run rounds whose store is in a bucket."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import environment_to, running_s3
from fake_label_studio import FakeLabelStudio
from tcp_proxy import TcpProxy, proxied
from waiting import wait_until
from worker_site import Site, running_site, stopped_at

from coreset_backend.jobs.queue import request_round


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """The workers' way to a bucket `rounds`; this process has its own."""
    with running_s3() as s3, proxied(lambda: socket.create_connection(("127.0.0.1", s3.port))) as wire:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        yield wire


@pytest.fixture
def site(
    wire: TcpProxy, studio: FakeLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "web"))
    with running_site(tmp_path, studio, "s3://rounds/team") as site:
        yield site


def start_host(site: Site, wire: TcpProxy, name: str) -> int:
    """A worker on a machine of its own, without any copies; its process."""
    caches = {"XDG_CACHE_HOME": str(site.log.parent / name)}
    return site.start_worker(**caches, **environment_to(wire.port)).pid


@pytest.mark.slow
@pytest.mark.fault("the round's process is killed (SIGKILL) while it uploads to the bucket", "save")
@pytest.mark.fault("a host is lost; another, which has no copies, goes on", "between")
def test_half_an_upload_is_no_round_and_another_host_goes_on(site: Site, wire: TcpProxy) -> None:
    first = start_host(site, wire, "first")
    held = wire.hold(b"/round-00001/embeddings.npy HTTP")  # before the poll may find the project
    project_id = site.new_project(labeled=6)
    request_round(site.backend, project_id, "asked by a test")
    assert held.reached.wait(240), site.log.read_text()
    (process,) = wait_until(site.round_processes, "the process of the round")
    os.kill(process, signal.SIGKILL)
    stored = site.wait_for_round(project_id, 2)
    assert site.backend.store.numbers(project_id) == [2], "half a round is absent, and its number taken"
    assert "ended unexpectedly (signal 9)" in site.last_failure(project_id)
    stored.verify()
    os.kill(first, signal.SIGKILL)
    site.label(stored.record.batch)
    start_host(site, wire, "second")
    later = site.wait_for_round(project_id, 3)
    assert later.record.counts["labeled"] == 6 + len(stored.record.batch)
    assert site.studio.queue(project_id)[: len(later.record.batch)] == list(later.record.batch)
    assert "Traceback" not in site.log.read_text()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("seconds", "failed"),
    [
        pytest.param(
            5.0,
            False,
            marks=pytest.mark.fault("the bucket is away for seconds while a round is saved", "save"),
        ),
        pytest.param(
            90.0, True, marks=pytest.mark.fault("the bucket is away for longer than a minute", "save")
        ),
    ],
)
def test_a_bucket_that_is_away_loses_no_round(
    site: Site, wire: TcpProxy, seconds: float, failed: bool
) -> None:
    start_host(site, wire, "first")
    with stopped_at(site, "save") as project_id:
        wire.cut()
        threading.Timer(seconds, wire.heal).start()
    stored = site.wait_for_round(project_id, 1, seconds=400)
    assert ("It does not answer as an S3 does" in site.last_failure(project_id)) == failed
    site.wait_until_idle(project_id)
    assert site.backend.store.numbers(project_id) == [stored.record.number]
    stored.verify()
    assert "Traceback" not in site.log.read_text()
