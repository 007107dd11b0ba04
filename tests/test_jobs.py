"""Rounds run by real worker processes on a real Redis, and what kills them or makes them fail."""

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_label_studio import TOKEN, FakeLabelStudio
from waiting import wait_until

from coreset_backend.backend import Backend
from coreset_backend.errors import CorruptRound, RoundNotFound
from coreset_backend.jobs import request_round
from coreset_backend.lifecycle import cancel_round, publish_again, roll_back
from coreset_backend.progress import read_progress
from coreset_backend.web import create_app

IMAGES = 12


@dataclass
class Site:
    """A backend, the Label Studio beside it, and worker processes whose words are in ``log``."""

    backend: Backend
    studio: FakeLabelStudio
    log: Path
    workers: list[subprocess.Popen[bytes]]

    def start_worker(
        self, largest_file: int = resource.RLIM_INFINITY, **given: str
    ) -> subprocess.Popen[bytes]:
        """A worker process; ``given`` are settings on top of those that make a round of the tests short."""
        settings = self.backend.settings
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(self.log.parent),
            "OMP_NUM_THREADS": "1",
            "REDIS_URL": settings.redis_url or "",
            "MODEL_DIR": str(settings.model_dir),
            "LABEL_STUDIO_URL": self.studio.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "CORESET_BACKBONE": "small_cnn",
            "CORESET_IMAGE_SIZE": "32",
            "CORESET_BATCH_SIZE": "4",
            "CORESET_DEBOUNCE_SECONDS": "0",
            "CORESET_POLL_SECONDS": "5",
            **given,
        }
        limit = f"ulimit -f {largest_file // 1024}; " if largest_file > 0 else ""
        command = ["bash", "-c", f'{limit}exec "$0" -m coreset_backend work', sys.executable]
        with self.log.open("ab") as output:
            worker = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        self.workers.append(worker)
        return worker

    def state(self, project_id: int) -> dict[str, Any]:
        return read_progress(self.backend, project_id)

    def wait_for_phase(self, project_id: int, phase: str) -> None:
        wait_until(
            lambda: (
                (self.state(project_id)["state"], self.state(project_id).get("phase")) == ("running", phase)
            ),
            f"phase {phase}",
            60,
        )

    def wait_for_round(self, project_id: int, number: int) -> Any:
        def published() -> Any:
            stored = self.backend.store.latest(project_id)
            return stored if stored and stored.record.number >= number and stored.publication else None

        return wait_until(published, f"round {number}", 90)

    def wait_until_idle(self, project_id: int) -> None:
        wait_until(lambda: self.state(project_id)["state"] == "idle", "the state idle", 60)


@pytest.fixture
def site(make_backend: Callable[..., Backend], studio: FakeLabelStudio, tmp_path: Path) -> Iterator[Site]:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    site = Site(backend, studio, tmp_path / "worker.log", [])
    yield site
    for worker in site.workers:
        worker.kill()
        worker.wait(10)


def process_of_the_round(worker: subprocess.Popen[bytes]) -> int:
    """The child that leads a process group of its own; RQ's scheduler does not."""
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    return next(int(pid) for pid in children if os.getpgid(int(pid)) == int(pid))


def assert_whole(site: Site, project_id: int, rounds: list[int]) -> None:
    """Nothing lost, nothing half-published, the counts add up."""
    stored = site.backend.store.latest(project_id)
    assert stored
    assert site.backend.store.numbers(project_id) == rounds
    assert sum(stored.record.counts.values()) == IMAGES
    ordered = [*stored.record.batch, *stored.record.reserve]
    assert site.studio.versions(project_id) == {stored.record.model_version: len(ordered)}
    assert site.studio.queue(project_id) == ordered


@pytest.mark.slow
def test_a_killed_round_says_so_is_run_again_and_publishes_once(site: Site) -> None:
    project_id = site.studio.create_project(IMAGES)
    slow = site.studio.fail("slow", "import/predictions", seconds=30, times=1)
    worker = site.start_worker()
    request_round(site.backend, project_id, "asked by a test")
    wait_until(lambda: slow.times == 0, "the import to begin", 60)
    os.kill(process_of_the_round(worker), signal.SIGKILL)
    error = wait_until(lambda: self_error(site, project_id), "the reason", 20, pause=0.005)
    assert "ended in the middle (signal 9)" in error
    site.wait_for_round(project_id, 1)
    site.wait_until_idle(project_id)
    assert_whole(site, project_id, [1])
    assert "It is run again." in site.log.read_text()
    assert "Traceback" not in site.log.read_text()


def self_error(site: Site, project_id: int) -> str:
    return str(site.state(project_id).get("error") or "")


def test_an_expected_failure_is_one_line_in_the_log_and_is_not_repeated_by_the_queue(site: Site) -> None:
    project_id = site.studio.create_project()
    site.start_worker()
    request_round(site.backend, project_id, "asked by a test")
    wait_until(lambda: site.state(project_id)["state"] == "failed", "the state failed", 60)
    assert "has no tasks yet. Import images into it." in self_error(site, project_id)
    lines = [line for line in site.log.read_text().splitlines() if " ERROR " in line]
    assert len(lines) == 1
    assert re.search(rf"project {project_id}, round 1: EmptyPool: .*Import images into it\.", lines[0])
    assert "Traceback" not in site.log.read_text()


@pytest.mark.slow
def test_a_full_disk_is_the_reason_and_leaves_nothing_half_written(site: Site) -> None:
    project_id = site.studio.create_project(IMAGES)
    worker = site.start_worker(largest_file=64 * 1024)
    request_round(site.backend, project_id, "asked by a test")
    wait_until(lambda: self_error(site, project_id), "the reason", 60)
    assert "could not be saved" in self_error(site, project_id)
    assert site.state(project_id)["state"] == "waiting"  # it is run again by itself
    assert site.backend.store.numbers(project_id) == []
    assert site.studio.versions(project_id) == {}
    worker.kill()
    site.start_worker()
    request_round(site.backend, project_id, "the disk was mended", force=True)
    site.wait_for_round(project_id, 1)
    site.wait_until_idle(project_id)
    assert_whole(site, project_id, [1])


@pytest.mark.slow
def test_cancel_ends_the_round_and_rollback_and_publish_tell_label_studio_the_batch_again(site: Site) -> None:
    project_id = site.studio.create_project(IMAGES)
    client = create_app(site.backend).test_client()
    site.backend.store.register(project_id)
    assert not cancel_round(site.backend, project_id)
    site.start_worker()
    request_round(site.backend, project_id, "asked by a test")
    first = site.wait_for_round(project_id, 1)
    site.wait_until_idle(project_id)

    for task_id in first.record.batch:
        site.studio.annotate(task_id, "cat")
    slow = site.studio.fail("slow", "import/predictions", seconds=60, times=1)
    wait_until(lambda: slow.times == 0, "the poll to find the labels and the import to begin", 60)
    assert (client.post(f"/api/projects/{project_id}/cancel").json or {})["status"] == "cancelled"
    assert site.state(project_id)["held"] == "The last round was cancelled by hand."
    assert site.studio.projects[project_id]["model_version"] == first.record.model_version
    assert not cancel_round(site.backend, project_id)

    request_round(site.backend, project_id, "a webhook")
    wait_until(lambda: site.state(project_id)["state"] == "idle", "the hold to be respected", 30)
    assert site.studio.projects[project_id]["model_version"] == first.record.model_version
    assert client.post(f"/api/projects/{project_id}/start").status_code == 202
    second = site.wait_for_round(project_id, 2)
    site.wait_until_idle(project_id)
    assert_whole(site, project_id, [1, 2])
    assert site.state(project_id)["held"] is None

    assert client.post(f"/api/projects/{project_id}/rollback", json={"round": 1}).status_code == 202
    served = site.studio.projects[project_id]
    wait_until(lambda: served["model_version"] == first.record.model_version, "round 1 to be served", 30)
    site.wait_until_idle(project_id)
    assert site.backend.store.newest_first(project_id) == [1, 2]
    answer = client.post("/predict", json={"project": project_id, "tasks": [{"id": first.record.batch[0]}]})
    assert (answer.json or {})["results"][0]["model_version"] == "pool-1"

    site.studio.predictions.clear()  # as when Label Studio is restored from an older backup
    assert publish_again(site.backend, project_id)
    wait_until(lambda: site.studio.versions(project_id), "the batch to be published again", 30)
    assert site.studio.versions(project_id) == {first.record.model_version: IMAGES}
    with pytest.raises(RoundNotFound, match="has no round 9"):
        roll_back(site.backend, project_id, 9)
    embeddings = second.path / "embeddings.npy"
    embeddings.write_bytes(embeddings.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptRound, match=r"embeddings\.npy does not match"):
        roll_back(site.backend, project_id, 2)
    assert site.backend.store.newest_first(project_id) == [1, 2]
