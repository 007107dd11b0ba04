"""Whole rounds on a real HTTP Label Studio, with features that were learned on the pool."""

import html
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import timm_folder
from fake_label_studio import TOKEN, FakeLabelStudio, picture
from PIL import Image
from safetensors.torch import load_file, save_file
from training_images import shapes, trained

from coreset_backend import model
from coreset_backend.arrays import Interpolation, Resize
from coreset_backend.backend import Backend
from coreset_backend.cli.doctor import examine
from coreset_backend.cli.status import status_lines
from coreset_backend.errors import NotFinite, UnsupportedLabelConfig
from coreset_backend.evaluation.predictions import Answers
from coreset_backend.jobs.states import Phase
from coreset_backend.jobs.status import RoundStatus, project_status
from coreset_backend.rounds.choose import state_code
from coreset_backend.rounds.due import round_due
from coreset_backend.rounds.examples import examples_among
from coreset_backend.rounds.run import run_round
from coreset_backend.store.examples import mark_examples
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.web.app import create_app
from coreset_backend.web.class_table import class_table
from coreset_backend.web.embedding_map import map_bytes

POOL = 40
LABELS = ("cat", "dog")


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
    assert round_due(backend, project_id).reason is None
    kept = backend.store.open(project_id, 1)
    timings = kept.timings(kept.publication)
    assert kept.publication and timings["publish"] == (kept.publication.seconds or 0) > 0
    assert set(Phase) - set(timings) == {"save", "weights", "cluster"}  # the first writes them
    elsewhere = [task["id"] for task in studio.tasks_of(project_id) if task["id"] not in first.record.batch]
    for number, task_id in enumerate([*first.record.batch, *elsewhere[:6]]):
        studio.annotate(task_id, LABELS[number % 2])
    studio.annotate(elsewhere[6], None, cancelled=True)
    late = studio.add_task(project_id, {"image": f"/data/upload/{project_id}/0.png"})
    assert round_due(backend, project_id).reason == "4 of the batch's 4 tasks are done"

    second = run_round(backend, project_id)
    assert first.record.reading and first.record.reading.why == "no earlier reading is known"
    assert second.record.reading and second.record.reading.why == ""
    assert second.record.reading.tasks == POOL + 1
    training = second.record.training
    assert training and training.n_train + training.n_holdout == 10
    assert training.n_holdout == len(second.record.holdout) == 2
    task_ids, states = second.array("task_ids"), second.array("states")
    labeled = task_ids[states == state_code("labeled")]
    assert set(labeled.tolist()) == {*first.record.batch, *elsewhere[:6]}
    assert task_ids[states == state_code("skipped")].tolist() == [elsewhere[6]]
    assert sum(second.record.counts.values()) == POOL + 1
    assert late in task_ids
    served = studio.queue(project_id)
    first_served = [*second.record.batch, *second.record.reserve]
    assert served[: len(first_served)] == first_served
    waiting = {task["id"] for task in studio.tasks_of(project_id)} - set(labeled.tolist())
    assert set(served) == waiting and len(served) == len(waiting), "a task waits that nobody is shown"
    assert served[-1] == elsewhere[6], "what was skipped comes last"


def test_examples_weigh_on_a_round_which_names_them(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    backend, project_id = make(weights), studio.create_project(POOL)
    first = run_round(backend, project_id)
    assert first.record.examples == ()
    tasks = [task["id"] for task in studio.tasks_of(project_id)]
    plain = [*first.record.batch, *first.record.reserve]
    liked = next(task_id for task_id in tasks if task_id not in plain)
    mark_examples(backend.store, project_id, [liked, 10**9], 50.0)  # the one is no task any more
    mark_examples(backend.store, project_id, [plain[0]], 0.02)
    late = studio.add_task(project_id, {"image": f"/data/upload/{project_id}/0.png"})
    second = run_round(backend, project_id)
    assert late in second.array("task_ids")
    assert {each.task_id: each.weight for each in second.record.examples} == {liked: 50.0, plain[0]: 0.02}
    weighed = [*second.record.batch, *second.record.reserve]
    assert weighed.index(liked) < 4, "what is liked most comes into the batch"
    assert plain[0] not in weighed or weighed.index(plain[0]) > plain.index(plain[0])
    page = html.unescape(create_app(backend).test_client().get(f"/projects/{project_id}").text)
    assert "Images like those marked 1 “more like these” and 1 “fewer like these” weighed on it." in page
    assert second.array("clusters").max() == 0  # forty images are one cluster
    keep = backend.store.root / f"projects/{project_id}/examples.json"
    keep.write_text("{}")
    assert examples_among(backend.store, project_id, second.array("embedded_task_ids")) == ()


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
    chosen = [*first.record.batch, *first.record.reserve]
    assert studio.queue(project_id)[: len(chosen)] == chosen
    for task_id in first.record.batch:
        studio.add_annotation(task_id, {"result": [{"type": "rectanglelabels", "from_name": "box"}]})
    second = run_round(backend, project_id)
    assert second.record.counts["labeled"] == 4
    assert not set(second.record.batch) & set(first.record.batch)


def test_a_class_with_one_label_makes_a_round_that_knows_the_working_time(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    backend, project_id = make(weights), studio.create_project(POOL, (*LABELS, "owl"))
    tasks = [task["id"] for task in studio.tasks_of(project_id)]
    for number, task_id in enumerate(tasks[:24]):
        studio.annotate(task_id, LABELS[number % 2], lead_time=4.0)
    studio.annotate(tasks[24], "owl", lead_time=3600.0)
    stored = run_round(backend, project_id)
    assert tasks[24] not in stored.record.holdout  # the only one of its class is trained on
    work, could_finish = stored.record.working_time, stored.record.could_finish
    assert work and (work.seconds, work.answers, work.idle) == (pytest.approx(4.0), 25, 1)
    assert could_finish is not None and 0 <= could_finish <= POOL - 25
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
    caplog.set_level(logging.INFO, "coreset_backend.rounds.embeddings")
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
    pixels, _ = backend.images.fetch(
        [(t["id"], t["data"]["image"]) for t in studio.tasks_of(project_id)], Resize(32)
    )
    embeddings, probabilities = model.embed_and_predict(classifier, pixels)
    np.testing.assert_allclose(second.array("embeddings"), embeddings, rtol=0.05, atol=0.02)
    np.testing.assert_allclose(second.array("probabilities"), probabilities, rtol=0.05, atol=0.02)

    (second.path / "embeddings.npy").write_bytes(b"torn")
    third = run_round(backend, project_id)
    assert "43 of 43 images were embedded" in caplog.text
    np.testing.assert_allclose(third.array("embeddings"), embeddings, rtol=0.05, atol=0.02)


def test_a_network_whose_interpolation_changes_embeds_all_again_and_the_round_before_stays_true(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio, tmp_path: Path
) -> None:
    folder, project_id = tmp_path / "tiny", studio.create_project(POOL)
    backend = make_backend(
        label_studio_url=studio.url,
        label_studio_api_key=TOKEN,
        backbone=f"local-dir:{folder}",
        image_size=96,
        device="cpu",
    )
    uris = [(task["id"], task["data"]["image"]) for task in studio.tasks_of(project_id)]
    stored: dict[Interpolation, StoredRound] = {}
    for interpolation in ("bilinear", "bicubic"):
        timm_folder(folder, interpolation=interpolation)
        stored[interpolation] = run_round(backend, project_id)
    first, second = stored.values()
    assert first.record.network != second.record.network
    assert not {*map(bytes, first.array("image_keys"))} & {*map(bytes, second.array("image_keys"))}
    for interpolation, each in stored.items():
        classifier = model.load_classifier(each.path / "model.safetensors", "cpu")
        resize = classifier.backbone.resize(classifier.size)
        assert resize == Resize(96, interpolation)
        pixels, _ = backend.images.fetch(uris, resize)
        np.testing.assert_array_equal(pixels.keys, each.array("image_keys"))
        expected = Image.open(io.BytesIO(studio.files[str(uris[0][1])]))
        resized = expected.resize((96, 96), Image.Resampling[interpolation.upper()])
        np.testing.assert_array_equal(pixels[np.array([0])][0], resized)
        np.testing.assert_allclose(
            model.embed(classifier, pixels), each.array("embeddings"), rtol=0.05, atol=0.02
        )


def test_a_network_that_was_trained_embeds_all_again(tmp_path: Path) -> None:
    pixels, targets = shapes(20)
    recipe = model.Recipe(images=64)
    made = [trained(pixels, targets, seed, recipe) for seed in (0, 0, 1)]
    names = [model.network_name(classifier) for classifier in made]
    assert names[0] == names[1] != names[2]
    model.save_classifier(made[0], tmp_path / "m.safetensors")
    assert model.network_name(model.load_classifier(tmp_path / "m.safetensors", "cpu")) == names[0]


def inspected(studio: FakeLabelStudio, choices: str, *, images: int = 48) -> tuple[int, list[int]]:
    """A project whose every third image is red, and its task ids."""
    project_id = studio.create_project(images)
    studio.projects[project_id]["label_config"] = (
        f'<View><Image name="image" value="$image"/>{choices}</View>'
    )
    for number in range(0, images, 3):
        red = np.random.default_rng(number).integers(0, 60, (32, 32, 3), dtype=np.uint8)
        red[:, :, 0] += 190
        body = io.BytesIO()
        Image.fromarray(red).save(body, "PNG")
        studio.files[f"/data/upload/{project_id}/{number}.png"] = body.getvalue()
    return project_id, [task["id"] for task in studio.tasks_of(project_id)]


CHECKBOX = '<Choices name="label" toName="image"><Choice value="red"/></Choices>'
BOXES = CHECKBOX.replace(">", ' choice="multiple"><Choice value="other"/>', 1)


@pytest.mark.parametrize("choices", [CHECKBOX, BOXES])
def test_none_of_these_is_learned_measured_and_answered(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path, choices: str
) -> None:
    backend = make(weights)
    project_id, tasks = inspected(studio, choices)
    for number, task_id in enumerate(tasks[:36]):
        studio.annotate(task_id, None if number % 3 else "red")
    stored = run_round(backend, project_id)
    training, labels = stored.record.training, stored.record.labels
    assert training and labels and (training.n_train, training.n_holdout) == (30, 6)
    held = [tasks.index(task_id) % 3 == 0 for task_id in stored.record.holdout]
    assert (sum(held), len(held)) == (2, 6)  # a fifth of the red ones, and of those that are not
    assert stored.record.evaluation and stored.record.evaluation.accuracy.value == 1
    assert training.holdout_accuracy is None, "a record has one accuracy"
    answers = Answers(stored)
    assert [answers.answer(task_id)[0] for task_id in tasks[36:]] == [("red",), (), ()] * 4  # type: ignore[index]
    assert answers.prediction(tasks[37], 0.5, "v", "on").label == ()
    table = {line.name: (line.labeled, line.predicted) for line in class_table(stored)}
    assert table["red"] == (12, 4) and table["none of these"] == (24, 8)
    place = len(labels.names)
    said = np.frombuffer(map_bytes(stored)[8 + 14 * 48 :][: 2 * 48], dtype="<i2")
    assert said.tolist() == [place - 1, place, place] * 16
    assert not stored.record.remarks


def test_answers_alike_make_no_model(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    project_id, tasks = inspected(studio, CHECKBOX, images=12)
    for task_id in tasks[:6]:
        studio.annotate(task_id, None)
    stored = run_round(make(weights), project_id)
    assert stored.record.training is None and not stored.has("probabilities")


def test_answers_that_cannot_be_trained_on_are_told_everywhere(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    backend, project_id = make(weights), studio.create_project(12)
    tasks = [task["id"] for task in studio.tasks_of(project_id)]
    for task_id, label in zip(tasks, ["kitty", "kitty", "cat", "dog"], strict=False):
        studio.annotate(task_id, label)
    run_round(backend, project_id)
    told = (
        "2 annotated tasks hold no answer that can be trained on, because 'kitty' is not a choice of 'label'."
    )
    assert f"  {told}" in status_lines(project_status(backend, project_id))
    assert told in dict(examine(backend, [project_id]))[f"Project {project_id}"]
    client = create_app(backend).test_client()
    page = client.get(f"/projects/{project_id}").get_data(as_text=True)
    assert told in html.unescape(page)
    assert told in client.get(f"/api/projects/{project_id}/status").json["round"]["remarks"]  # type: ignore[index]


def test_a_lead_names_the_control_in_the_label_config_or_in_the_form(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    two = CHECKBOX + CHECKBOX.replace('name="label"', 'name="weather"').replace("red", "sunny")
    backend = make(weights)
    project_id, _ = inspected(studio, two, images=6)
    assert run_round(backend, project_id).record.labels.from_name == "label"  # type: ignore[union-attr]
    backend.store.keep_extra_params(project_id, {"control": "weather"})
    assert run_round(backend, project_id).record.labels.from_name == "weather"  # type: ignore[union-attr]
    config = studio.projects[project_id]["label_config"]
    studio.projects[project_id]["label_config"] = config.replace("<View>", '<View coreset_control="label">')
    assert run_round(backend, project_id).record.labels.from_name == "label"  # type: ignore[union-attr]
    studio.projects[project_id]["label_config"] = config.replace("<View>", '<View coreset_control="moon">')
    with pytest.raises(UnsupportedLabelConfig, match="there is no <Choices> 'moon'"):
        run_round(backend, project_id)


def test_a_round_on_installed_features_embeds_new_images_only_and_prepares_them_as_before(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    """With nothing but the defaults: no download, no training of a network."""
    caplog.set_level(logging.INFO, "coreset_backend.rounds.embeddings")
    backend = make_backend(
        label_studio_url=studio.url,
        label_studio_api_key=TOKEN,
        image_size=32,
        batch_size=4,
        device="cpu",
        allowed_hosts=("127.0.0.1",),
    )
    project_id = studio.create_project(POOL)
    first = run_round(backend, project_id)
    assert first.record.backbone.startswith("efficientnet_lite0 with pretrained weights")
    vectors = first.array("embeddings")
    assert vectors.shape == (POOL, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for number, task_id in enumerate(first.record.batch):
        studio.annotate(task_id, LABELS[number % 2])
    add_picture(studio, project_id)
    second = run_round(backend, project_id)
    assert f"1 of {POOL + 1} images were embedded" in caplog.text
    assert second.record.network == first.record.network
    np.testing.assert_array_equal(second.array("embeddings")[:POOL], vectors)
    assert second.record.training and second.record.training.n_train == 4
    for _ in range(POOL // 2):
        add_picture(studio, project_id)
    third = run_round(backend, project_id)
    assert "a new preparation is fitted" in caplog.text
    assert third.record.network != first.record.network


def add_picture(studio: FakeLabelStudio, project_id: int) -> None:
    """A task with an image like those of the project, and unlike each of them."""
    number = len(studio.tasks)
    path = f"/data/upload/{project_id}/new-{number}.png"
    studio.files[path] = picture(1000 + number)
    studio.add_task(project_id, {"image": path})


@pytest.mark.slow
def test_doubtful_labels_are_asked_for_once_more_and_what_the_second_answers_is_settled(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    """Blue and red images; two people label them, and every fifth answer is wrong."""
    project_id, colours = studio.create_project(), {}
    for number in range(170):
        path = f"/data/upload/{project_id}/{number}.png"
        colour = np.array([220, 40, 40] if number % 2 else [40, 40, 220]) + number % 30
        studio.files[path] = plain(colour)
        colours[studio.add_task(project_id, {"image": path})] = LABELS[number % 2]
    mistaken = list(colours)[3:140:5]
    for place, task_id in enumerate(list(colours)[:140]):
        label = LABELS[(LABELS.index(colours[task_id]) + (task_id in mistaken)) % 2]
        studio.annotate(task_id, label, by=1 + place % 2)
    backend = make_backend(
        label_studio_url=studio.url,
        label_studio_api_key=TOKEN,
        image_size=32,
        batch_size=10,
        group_duplicates=False,
        device="cpu",
    )
    run_round(backend, project_id)
    errors, first = backend.store.open(project_id, 1).record.label_errors, backend.store.open(project_id, 1)
    asked = [each.task_id for each in errors.asked]
    assert errors.rate and errors.rate > 0.1 and set(asked) <= set(mistaken) and len(asked) == 4
    new = np.array(list(colours)[140:])
    sure = first.array("probabilities")[np.isin(first.array("embedded_task_ids"), new)].max(1)
    assert sure.mean() > 0.9, "the model trusts the labels that are wrong"
    assert len(first.record.batch) == 10 - len(asked) and not set(asked) & set(first.record.holdout)
    assert status_of(backend, project_id).label_errors.sentence.endswith("who have not answered yet.")
    by_other = {task_id: 3 - studio.tasks[task_id]["annotations"][0]["completed_by"] for task_id in asked}
    for task_id, other in by_other.items():
        assert task_id in studio.queue(project_id, by=other)[: len(asked)]
        assert task_id not in studio.queue(project_id, by=3 - other)
        assert [each["result"] for each in studio.predictions_of(task_id)] == [[]]
        studio.annotate(task_id, colours[task_id], by=other)

    second = run_round(backend, project_id)
    codes, task_ids = second.array("label_codes"), second.array("task_ids")
    settled = {int(task_ids[row]): LABELS[codes[row]] for row in np.flatnonzero(np.isin(task_ids, asked))}
    assert settled == {task_id: colours[task_id] for task_id in asked}
    assert all(studio.tasks[task_id]["is_labeled"] for task_id in asked)
    again = [each.task_id for each in second.record.label_errors.asked]
    assert again and not set(again) & set(asked)
    one, two = second.record.label_errors.annotators
    assert {one.name, two.name} == {"lead@example.com", "2@example.com"}
    assert one.agreement and two.agreement and one.agreement.n == two.agreement.n == len(asked)


def status_of(backend: Backend, project_id: int) -> RoundStatus:
    found = project_status(backend, project_id).round
    assert found
    return found


def plain(colour: np.ndarray) -> bytes:
    body = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), colour.clip(0, 255), dtype=np.uint8)).save(body, "PNG")
    return body.getvalue()


def test_the_model_has_no_say_in_a_tie_that_joins_the_hold_out(
    make: Callable[..., Backend], studio: FakeLabelStudio, weights: Path
) -> None:
    """Two people disagree on new images, and who is wrong answers last."""
    project_id, colours = studio.create_project(), {}
    for number in range(130):
        path = f"/data/upload/{project_id}/{number}.png"
        studio.files[path] = patchy(np.array([200, 60, 60] if number % 2 else [60, 60, 200]), number)
        colours[studio.add_task(project_id, {"image": path})] = LABELS[number % 2]
    tied = list(colours)[116:]
    for task_id in list(colours)[:116]:
        studio.annotate(task_id, colours[task_id], by=1)
    backend = make(weights)
    run_round(backend, project_id)
    for task_id in tied:
        right = LABELS.index(colours[task_id])
        studio.annotate(task_id, LABELS[right], by=1)
        studio.annotate(task_id, LABELS[1 - right], by=2)

    second = run_round(backend, project_id)
    codes, task_ids = second.array("label_codes"), second.array("task_ids")
    counts = {int(task_ids[row]): LABELS[codes[row]] for row in np.flatnonzero(np.isin(task_ids, tied))}
    held = set(tied) & set(second.record.holdout)
    assert 0 < len(held) < len(tied)
    assert all(counts[each] != colours[each] for each in held), "the latest answer counts"
    assert all(counts[each] == colours[each] for each in set(tied) - held)


def patchy(colour: np.ndarray, seed: int) -> bytes:
    """A PNG of 4 x 4 patches in shades of the colour, others for each seed."""
    patches = colour + np.random.default_rng(seed).normal(0, 40, (4, 4, 3))
    body = io.BytesIO()
    Image.fromarray(patches.clip(0, 255).astype(np.uint8)).resize((40, 40), 0).save(body, "PNG")
    return body.getvalue()
