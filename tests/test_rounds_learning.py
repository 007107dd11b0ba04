"""Whole rounds on a real HTTP Label Studio, with features that were learned on the pool."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_label_studio import TOKEN, FakeLabelStudio, picture
from safetensors.torch import load_file, save_file
from test_model import shapes, trained
from test_model_pretraining import begin, textures

from coreset_backend import model
from coreset_backend.backend import Backend
from coreset_backend.batch import state_code
from coreset_backend.errors import NotFinite
from coreset_backend.rounds import round_due, run_round
from coreset_backend.status import PHASES

POOL = 40
LABELS = ("cat", "dog")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    begin(folder, textures(48)[0])
    return folder / "features.safetensors"


@pytest.fixture
def make(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> Callable[..., Backend]:
    def making(weights: Path) -> Backend:
        return make_backend(
            label_studio_url=studio.url,
            label_studio_api_key=TOKEN,
            weights=weights,
            image_size=32,
            batch_size=4,
            device="cpu",
        )

    return making


def test_labels_added_between_rounds_are_trained_on_and_never_served(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    backend, project_id = make(weights), studio.create_project(POOL)
    first = run_round(backend, project_id)
    assert round_due(backend, project_id) is None
    kept = backend.store.open(project_id, 1)
    timings = kept.timings(kept.publication)
    assert kept.publication and timings["publish"] == kept.publication["seconds"] > 0
    assert set(PHASES) - set(timings) == {"save"}  # which writes them
    elsewhere = [task["id"] for task in studio.tasks_of(project_id) if task["id"] not in first.record.batch]
    for number, task_id in enumerate([*first.record.batch, *elsewhere[:6]]):
        studio.annotate(task_id, LABELS[number % 2])
    studio.annotate(elsewhere[6], None, cancelled=True)
    late = studio.add_task(project_id, {"image": f"/data/upload/{project_id}/0.png"})
    assert round_due(backend, project_id) == "4 of the batch's 4 tasks are done"

    second = run_round(backend, project_id)
    training = second.record.training
    assert training and training["n_train"] + training["n_holdout"] == 10
    assert training["n_holdout"] == len(second.record.holdout) == 2
    task_ids, states = second.array("task_ids"), second.array("states")
    labeled = task_ids[states == state_code("labeled")]
    assert set(labeled.tolist()) == {*first.record.batch, *elsewhere[:6]}
    assert task_ids[states == state_code("skipped")].tolist() == [elsewhere[6]]
    assert sum(second.record.counts.values()) == POOL + 1
    assert late in task_ids
    served = studio.queue(project_id)
    assert served == [*second.record.batch, *second.record.reserve]
    assert not set(served) & set(labeled.tolist())


def test_a_project_of_boxes_is_selected_from_on_the_same_features(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    backend, project_id = make(weights), studio.create_project(POOL)
    studio.projects[project_id]["label_config"] = (
        '<View><Image name="image" value="$image"/>'
        '<RectangleLabels name="box" toName="image"><Label value="car"/></RectangleLabels></View>'
    )
    first = run_round(backend, project_id)
    assert first.record.labels is None and first.record.training is None
    assert first.record.backbone.startswith("self_supervised with pretrained weights")
    assert first.array("embeddings").shape == (POOL, 256) and not first.has("probabilities")
    assert studio.queue(project_id) == [*first.record.batch, *first.record.reserve]
    for task_id in first.record.batch:
        studio.add_annotation(task_id, {"result": [{"type": "rectanglelabels", "from_name": "box"}]})
    second = run_round(backend, project_id)
    assert second.record.counts["labeled"] == 4
    assert not set(second.record.batch) & set(first.record.batch)


def test_a_class_with_one_label_makes_a_round(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    backend, project_id = make(weights), studio.create_project(POOL, (*LABELS, "owl"))
    tasks = [task["id"] for task in studio.tasks_of(project_id)]
    for number, task_id in enumerate(tasks[:8]):
        studio.annotate(task_id, LABELS[number % 2])
    studio.annotate(tasks[8], "owl")
    stored = run_round(backend, project_id)
    assert tasks[8] not in stored.record.holdout  # the only one of its class is trained on
    probabilities = stored.array("probabilities")
    assert probabilities.shape == (POOL, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-3)


def test_a_model_that_is_not_finite_ends_the_round_and_what_was_served_stays(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path, tmp_path: Path
) -> None:
    whole, project_id = make(weights), studio.create_project(POOL)
    first = run_round(whole, project_id)
    before = studio.versions(project_id)
    broken = load_file(weights)
    broken["project.weight"][0, 0] = torch.inf
    save_file(broken, tmp_path / "broken.safetensors")
    for number, task_id in enumerate(first.record.batch):
        studio.annotate(task_id, LABELS[number % 2])
    with pytest.raises(NotFinite, match="check the weights file"):
        run_round(make(tmp_path / "broken.safetensors"), project_id)
    assert whole.store.numbers(project_id) == [1]
    assert list((whole.store.root / "projects" / str(project_id)).glob(".draft-*")) == []
    assert studio.versions(project_id) == before
    assert run_round(whole, project_id).record.number == 2


def test_the_same_pool_labels_and_seed_make_the_same_round(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    project_id = studio.create_project(POOL)
    tasks = [task["id"] for task in studio.tasks_of(project_id)]
    for number, task_id in enumerate(tasks[:8]):
        studio.annotate(task_id, LABELS[number % 2])
    backend = make(weights)
    first = run_round(backend, project_id)
    second = run_round(backend, project_id)
    assert (second.record.number, second.record.batch) == (2, first.record.batch)
    np.testing.assert_array_equal(first.array("embeddings"), second.array("embeddings"))
    np.testing.assert_array_equal(first.array("probabilities"), second.array("probabilities"))


def test_a_frozen_network_embeds_new_tasks_only(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "coreset_backend.embeddings")
    backend, project_id = make(weights), studio.create_project(POOL)
    first = run_round(backend, project_id)
    assert "40 of 40 images were embedded" in caplog.text
    for number in range(3):
        path = f"/data/upload/{project_id}/new-{number}.png"
        studio.files[path] = picture(77 + number)
        studio.add_task(project_id, {"image": path})
    for number, task_id in enumerate(first.record.batch):
        studio.annotate(task_id, LABELS[number % 2])
    second = run_round(backend, project_id)
    assert "3 of 43 images were embedded" in caplog.text
    old = np.searchsorted(second.array("embedded_task_ids"), first.array("embedded_task_ids"))
    np.testing.assert_array_equal(second.array("embeddings")[old], first.array("embeddings"))
    classifier = model.load_classifier(second.path / "model.safetensors", "cpu")
    pixels, _ = backend.images.fetch([(t["id"], t["data"]["image"]) for t in studio.tasks_of(project_id)], 32)
    embeddings, probabilities = model.embed_and_predict(classifier, pixels)
    np.testing.assert_allclose(second.array("embeddings"), embeddings, rtol=0.05, atol=0.02)
    np.testing.assert_allclose(second.array("probabilities"), probabilities, rtol=0.05, atol=0.02)

    (second.path / "embeddings.npy").write_bytes(b"torn")
    third = run_round(backend, project_id)
    assert "43 of 43 images were embedded" in caplog.text
    np.testing.assert_allclose(third.array("embeddings"), embeddings, rtol=0.05, atol=0.02)


def test_a_network_that_was_trained_embeds_all_again(tmp_path: Path) -> None:
    pixels, targets = shapes(20)
    recipe = model.Recipe(images=64)
    made = [trained(pixels, targets, seed, recipe) for seed in (0, 0, 1)]
    names = [model.network_name(classifier) for classifier in made]
    assert names[0] == names[1] != names[2]
    model.save_classifier(made[0], tmp_path / "m.safetensors")
    assert model.network_name(model.load_classifier(tmp_path / "m.safetensors", "cpu")) == names[0]
