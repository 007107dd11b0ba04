"""Pretraining on the pool in a worker's spare time: it waits for rounds, survives kills, and serves them."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_label_studio import TOKEN, FakeLabelStudio
from saved_rounds import record
from tcp_proxy import Hold
from waiting import wait_until
from worker_site import Site
from written_progress import changed

from coreset_backend import model
from coreset_backend.backend import Backend
from coreset_backend.cli.status import status_lines
from coreset_backend.images import CachedPixels
from coreset_backend.jobs.progress import (
    PretrainingProgress,
    pretraining_reporter,
    read_progress,
    write_pretraining,
)
from coreset_backend.jobs.queue import request_pretraining, request_round
from coreset_backend.jobs.status import project_status
from coreset_backend.jobs.tasks import is_pretraining_left_behind
from coreset_backend.reports import Publication
from coreset_backend.rounds.due import round_due
from coreset_backend.rounds.features import (
    LEAST_IMAGES,
    features_at_hand,
    may_pretrain,
)


def pretraining(backend: Backend, project_id: int) -> PretrainingProgress:
    found = read_progress(backend.redis, backend.store, project_id).pretraining
    return found or PretrainingProgress()


def hold_at_a_step(site: Site) -> Hold:
    """Have the next pretraining that runs stop as it tells how far it is, until it is released."""
    return site.redis_wire.hold(b'"state": "running", "images"')


def begin_a_short_one(backend: Backend, project_id: int) -> None:
    """Leave a checkpoint as a killed worker does, of a pretraining that is over after 20 epochs, not 160."""
    stored = backend.store.latest(project_id)
    assert stored
    pixels = CachedPixels(backend.store.image_cache, stored.array("image_keys"))
    state = model.pretrain(
        pixels,
        pixels.keys,
        backend.store.pretraining(project_id),
        seed=0,
        device="cpu",
        recipe=model.PretrainingRecipe(epochs=20, most_epochs=20, batch=64),
        stop=lambda: True,
    )
    assert (state.seen, state.budget) == (0, 20 * LEAST_IMAGES)


@pytest.mark.slow
def test_the_first_batch_is_served_at_once_and_a_better_one_when_the_pool_was_learned(site: Site) -> None:
    """Interrupted by another project's round and killed in the middle, it ends as if nothing had happened."""
    large, small = site.studio.create_project(LEAST_IMAGES), site.studio.create_project(12)
    publishes = site.hold_at("publish")
    site.start_worker(CORESET_BACKBONE="self_supervised", CORESET_IMAGE_SIZE="16", CORESET_POLL_SECONDS="600")
    request_round(site.backend, large, "asked by a test")
    assert publishes.reached.wait(240)
    begin_a_short_one(site.backend, large)
    steps = hold_at_a_step(site)
    publishes.release()
    first = site.wait_for_round(large, 1)
    assert first.record.backbone.startswith("patch features") and first.record.features == ""
    assert steps.reached.wait(240)
    lines = status_lines(project_status(site.backend, large))
    assert any("Pretraining on the pool: epoch" in line for line in lines)

    publishes = site.hold_at("publish")
    request_round(site.backend, small, "asked by a test")
    steps.release()
    assert publishes.reached.wait(240)
    assert features_at_hand(site.backend.store, large) == ""
    interrupted_at = pretraining(site.backend, large).seen
    steps = hold_at_a_step(site)
    publishes.release()
    site.wait_for_round(small, 1)
    assert steps.reached.wait(240)

    again = hold_at_a_step(site)
    os.kill(site.round_processes()[0], signal.SIGKILL)
    steps.release()
    wait_until(lambda: "ended unexpectedly (signal 9)" in site.log.read_text(), "the death")
    assert again.reached.wait(240)
    assert pretraining(site.backend, large).seen > interrupted_at
    again.release()

    second = site.wait_for_round(large, 2, seconds=900)
    assert second.record.features == features_at_hand(site.backend.store, large) != ""
    assert "pretrained without labels on 500 images of this pool" in second.record.backbone
    assert second.array("embeddings").shape == (LEAST_IMAGES, 256)
    chosen = [*second.record.batch, *second.record.reserve]
    assert site.studio.queue(large)[: len(chosen)] == chosen
    site.wait_until_idle(large)
    assert round_due(site.backend, large).reason is None
    assert pretraining(site.backend, large).state == "done"

    for number, task_id in enumerate(second.record.batch):
        site.studio.annotate(task_id, ("cat", "dog")[number % 2])
    request_round(site.backend, large, "a webhook")
    third = site.wait_for_round(large, 3)
    assert third.record.features == second.record.features
    assert third.record.backbone == second.record.backbone
    assert third.record.training.n_train + third.record.training.n_holdout == 4
    assert "Traceback" not in site.log.read_text()


def learn(backend: Backend, project_id: int, content: bytes) -> str:
    """Put features in the project's folder; their name."""
    folder = backend.store.pretraining(project_id)
    folder.mkdir(exist_ok=True)
    (folder / "features.safetensors").write_bytes(content)
    return features_at_hand(backend.store, project_id)


def test_new_features_make_one_round_due_and_only_while_nobody_labels(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    known = {"label_studio_url": studio.url, "label_studio_api_key": TOKEN}
    backend = make_backend(backbone="self_supervised", **known)
    project_id = studio.create_project()
    tasks = [studio.add_task(project_id, {"image": "/x"}) for _ in range(8)]
    with backend.store.draft(project_id) as draft:
        arrays = {"task_ids": np.array(tasks), "states": np.full(8, 3, np.uint8)}
        saved = draft.save(record(1, project_id=project_id, batch=tuple(tasks[:4])), arrays)
    saved.mark_published(Publication())
    assert round_due(backend, project_id).reason is None
    name = learn(backend, project_id, b"learned")
    assert round_due(backend, project_id).reason == "better features were learned on the pool"
    auto = make_backend(model_dir=backend.settings.model_dir, **known)
    assert round_due(auto, project_id).reason is None  # they are compared with what is in use first
    studio.annotate(tasks[0], "cat")
    assert round_due(backend, project_id).reason is None  # somebody has begun the batch
    studio.tasks[tasks[0]]["annotations"].clear()
    with backend.store.draft(project_id) as draft:
        saved = draft.save(record(2, project_id=project_id, batch=tuple(tasks[:4]), features=name), arrays)
    saved.mark_published(Publication())
    assert round_due(backend, project_id).reason is None  # used already


@pytest.mark.parametrize(
    ("pool", "settings", "wanted"),
    [
        (LEAST_IMAGES, {}, False),  # no audition has asked for it
        (LEAST_IMAGES, {"backbone": "self_supervised"}, True),
        (LEAST_IMAGES - 1, {"backbone": "self_supervised"}, False),
        (LEAST_IMAGES, {"backbone": "small_cnn"}, False),
        (LEAST_IMAGES, {"backbone": "resnet18"}, False),
        (LEAST_IMAGES, {"weights": Path("w.pth")}, False),
    ],
)
def test_a_pool_is_learned_where_that_is_asked_for_and_it_is_large_enough(
    make_backend: Callable[..., Backend], pool: int, settings: dict[str, Any], wanted: bool
) -> None:
    backend = make_backend(**settings)
    with backend.store.draft(7) as draft:
        saved = draft.save(record(1, counts={"pool": pool, "unreadable": 3}), {})
    assert may_pretrain(backend.store, backend.settings, saved) is wanted


def test_a_pretraining_that_redis_forgot_is_taken_up_again(backend: Backend) -> None:
    folder = backend.store.pretraining(7)
    folder.mkdir(parents=True)
    assert not is_pretraining_left_behind(backend.redis, backend.store, 7)
    (folder / "checkpoint.safetensors").touch()
    assert is_pretraining_left_behind(backend.redis, backend.store, 7)
    write_pretraining(backend.redis, 7, changed(state="running"))
    backend.redis.set("coreset:7:pretraining-lease", "held")
    assert not is_pretraining_left_behind(backend.redis, backend.store, 7)  # somebody is at it
    backend.redis.delete("coreset:7:pretraining-lease")
    assert is_pretraining_left_behind(backend.redis, backend.store, 7)
    for _ in range(3):
        request_pretraining(backend, 7)
    assert len(backend.low_priority_queue) == 1 and len(backend.queue) == 0
    write_pretraining(backend.redis, 7, changed(state="failed", error="The loss was not finite."))
    assert not is_pretraining_left_behind(backend.redis, backend.store, 7)
    write_pretraining(backend.redis, 7, changed(state="waiting"))
    learn(backend, 7, b"learned")
    assert not is_pretraining_left_behind(backend.redis, backend.store, 7)


def test_progress_is_told_in_epochs_and_minutes(backend: Backend) -> None:
    assert read_progress(backend.redis, backend.store, 7).pretraining is None
    report = pretraining_reporter(backend.redis, 7)
    report(500, 5_700, 20_000)
    backend.redis.set("coreset:7:pretraining-lease", "held")
    known = pretraining(backend, 7)
    assert known.sentence == "Pretraining on the pool: epoch 12 of 40."
    write_pretraining(backend.redis, 7, changed(seconds_left=190.0))
    assert pretraining(backend, 7).sentence.endswith("epoch 12 of 40, about 3 min left.")
    backend.redis.delete("coreset:7:pretraining-lease")
    assert pretraining(backend, 7).state == "waiting"
    write_pretraining(backend.redis, 7, changed(state="failed", error="The loss was not finite."))
    assert "failed: The loss" in pretraining(backend, 7).sentence
    assert json.loads(backend.redis.get("coreset:7:pretraining"))["seen"] == 5_700  # type: ignore[arg-type]
