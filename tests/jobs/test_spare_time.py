"""Auditions by real workers: in spare time, after the round, without touching the batch."""

import os
import signal
from collections.abc import Callable

import numpy as np
import pytest
from backend_run import environment_of
from saved_rounds import record
from waiting import wait_until
from worker_site import Site

from coreset_backend.backend import Backend
from coreset_backend.cli.status import status_lines
from coreset_backend.jobs.keys import AUDITION_LEASE, redis_key
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.spare_time import audition_job, request_spare_work
from coreset_backend.jobs.status import project_status
from coreset_backend.project import Labels
from coreset_backend.reports import TrainingReport


def test_an_audition_that_cannot_be_held_is_not_asked_for_again_before_the_next_round(
    make_backend: Callable[..., Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a second host, whose image cache is empty."""
    backend, n = make_backend(), 60
    for name, value in environment_of(backend.settings).items():
        monkeypatch.setenv(name, value)
    with backend.store.draft(7) as draft:
        arrays = {
            "task_ids": np.arange(n),
            "embedded_task_ids": np.arange(n),
            "label_codes": np.arange(n, dtype=np.int16) % 2,
            "image_keys": np.arange(32 * n, dtype=np.uint8).reshape(n, 32),
        }
        labels, training = Labels("label", "image", ("cat", "dog"), multiple=False), TrainingReport(n_train=n)
        stored = draft.save(record(1, labels=labels, training=training, counts={"labeled": n}), arrays)
    request_spare_work(backend, stored)
    assert backend.low_priority_queue.count == 1
    backend.low_priority_queue.empty()
    assert "too few of the labelled images are in the cache" in audition_job(7)
    assert backend.low_priority_queue.count == 0


@pytest.mark.slow
def test_backbones_are_compared_after_a_round_and_a_killed_worker_changes_nothing(site: Site) -> None:
    project_id = site.new_project(images=70, labeled=60)
    backend = site.backend
    begins = site.redis_wire.hold(redis_key(project_id, AUDITION_LEASE).encode())
    site.start_worker(CORESET_BACKBONE="auto", CORESET_IMAGE_SIZE="32", CORESET_POLL_SECONDS="600")
    request_round(backend, project_id, "asked by a test")
    assert begins.reached.wait(240), site.log.read_text()
    os.kill(site.round_processes()[0], signal.SIGKILL)
    begins.release()
    wait_until(lambda: "the audition ended unexpectedly (signal 9)" in site.log.read_text(), "the death")
    first = site.wait_for_round(project_id, 1)
    queue = site.studio.queue(project_id)

    held = wait_until(lambda: backend.store.audition(project_id), f"an audition; see {site.log}", 240)
    assert (held.labels, held.current, held.chosen) == (60, "efficientnet_lite0", "efficientnet_lite0")
    assert held.images == 48 and held.candidates[0].accuracy is not None
    assert first.record.audition is None
    assert site.studio.queue(project_id) == queue  # the batch is served as before
    assert backend.store.numbers(project_id) == [1]
    assert any(held.sentence in line for line in status_lines(project_status(backend, project_id)))

    site.label(first.record.batch)
    request_round(backend, project_id, "a webhook")
    second = site.wait_for_round(project_id, 2)
    assert second.record.audition == held
    assert "chosen by the labels" in second.record.backbone
    assert second.record.network == first.record.network  # so that only new images are embedded
    wait_until(lambda: not backend.low_priority_queue.count, "the spare queue empty")
    assert backend.store.audition(project_id) == held  # the next is held at twice as many labels
    assert "Traceback" not in site.log.read_text()
