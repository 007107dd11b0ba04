"""Fits: when a pretrained network is trained as a whole, when a fit ends early, what imbalance and NaN do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from training_images import SMALL, begin, features, shapes, textures

from coreset_backend import model
from coreset_backend.errors import NotFinite
from coreset_backend.reports import TrainingReport

FEW = model.FINE_TUNED_FROM - 1
NOBODY = np.zeros(model.FINE_TUNED_FROM, bool)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features learned from textures."""
    folder = tmp_path_factory.mktemp("learned")
    begin(folder, textures(64)[0])
    return folder


def own(folder: Path) -> model.ChosenBackbone:
    chosen = model.pretrained_backbone(folder)
    assert chosen
    return chosen


def fit_textures(
    folder: Path, labels: int, whole: bool | None = None
) -> tuple[model.Classifier, TrainingReport]:
    pixels, kinds = textures(labels)
    targets = np.eye(4, dtype=np.float32)[kinds]
    short = model.Recipe(images=1600, learning_rate=1e-3)
    return model.fit(
        own(folder),
        pixels,
        targets,
        multiple=False,
        holdout=NOBODY[:labels],
        seed=0,
        device="cpu",
        recipe=short,
        whole=whole,
    )


def test_few_labels_train_the_head_alone(learned: Path) -> None:
    classifier, report = fit_textures(learned, FEW)
    frozen = features(learned)
    now = classifier.network.state_dict()
    assert all(np.array_equal(now[name].numpy(), frozen[name]) for name in frozen)
    assert "fine-tuned" not in classifier.description and report.n_train == FEW


def test_what_is_trained_can_be_said(learned: Path) -> None:
    frozen, few = features(learned), 100
    for labels, whole in ((few, True), (FEW + 1, False)):
        now = fit_textures(learned, labels, whole)[0].network.state_dict()
        assert whole != all(np.array_equal(now[name].numpy(), frozen[name]) for name in frozen)


def test_enough_labels_train_the_network_from_its_pretrained_weights(learned: Path, tmp_path: Path) -> None:
    classifier, report = fit_textures(learned, FEW + 1)
    assert classifier.description.endswith("fine-tuned on 500 labels")
    frozen, now = features(learned), classifier.network.state_dict()
    changed = {name for name in frozen if not np.array_equal(now[name].numpy(), frozen[name])}
    assert "encoder.finish.0.weight" in changed and "project.weight" in changed
    assert not {"encoder.stem.weight", "encoder.stem.bias"} & changed
    # From there, not from anywhere: the first layers have hardly moved.
    first = "encoder.enter.0.weight"
    assert np.linalg.norm(now[first].numpy() - frozen[first]) < 0.3 * np.linalg.norm(frozen[first])
    assert report.epochs == pytest.approx(1600 / 500)
    pixels, kinds = textures(100, seed=8)
    probabilities = model.predict(classifier, pixels)
    assert probabilities is not None and (probabilities.argmax(1) == kinds).mean() > 0.6
    model.save_classifier(classifier, tmp_path / "m.safetensors")
    again = model.load_classifier(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(model.predict(again, pixels), probabilities)


def test_a_fit_that_only_gets_worse_on_the_hold_out_ends_early_with_its_best_weights() -> None:
    pixels, targets = shapes(200)
    holdout = np.arange(200) >= 100
    lies = np.where(holdout[:, None], targets[:, ::-1], targets)  # what is learned is wrong there
    recipe = model.Recipe(images=4000)
    watched, report = model.fit(
        SMALL, pixels, lies, multiple=False, holdout=holdout, seed=0, device="cpu", recipe=recipe
    )
    assert "it only got worse" in report.note
    assert 0.65 * 40 < report.epochs < 0.75 * 40
    unwatched, whole = model.fit(
        SMALL,
        pixels[:149],
        lies[:149],
        multiple=False,
        holdout=holdout[:149],
        seed=0,
        device="cpu",
        recipe=recipe,
    )
    assert whole.note == "" and whole.epochs >= 40  # 49 held out say too little
    assert right_on_the_holdout(watched, pixels, lies) > right_on_the_holdout(unwatched, pixels, lies)


def test_a_fit_that_gets_better_is_seen_to_its_end_and_is_what_it_would_be_unwatched() -> None:
    """The hold-out chooses nothing, so that its figure is honest."""
    pixels, targets = shapes(160)
    recipe = model.Recipe(images=2000)
    watched, alone = (
        model.fit(
            SMALL,
            pixels[:n],
            targets[:n],
            multiple=False,
            holdout=np.arange(n) >= 100,
            seed=0,
            device="cpu",
            recipe=recipe,
        )
        for n in (160, 101)
    )
    assert watched[1].note == "" and watched[1].epochs >= 20
    np.testing.assert_array_equal(model.embed(watched[0], pixels), model.embed(alone[0], pixels))


def right_on_the_holdout(classifier: model.Classifier, pixels: np.ndarray, targets: np.ndarray) -> float:
    probabilities = model.predict(classifier, pixels[100:])
    assert probabilities is not None
    return float((probabilities.argmax(1) == targets[100:].argmax(1)).mean())


def test_the_rare_class_is_shown_as_often_as_the_common_one() -> None:
    """Where the images say nothing, the answer is the class's share of what was shown."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    targets = np.eye(2, dtype=np.float32)[(np.arange(100) >= 95).astype(int)]
    same = np.broadcast_to(pixels[:1], pixels.shape)
    classifier, _ = model.fit(
        SMALL,
        same,
        targets,
        multiple=False,
        holdout=NOBODY[:100],
        seed=0,
        device="cpu",
        recipe=model.Recipe(images=2000, mirror=False, shift=0),
    )
    said = model.predict(classifier, same[:1])
    assert said is not None and said[0] == pytest.approx([0.5, 0.5], abs=0.15)  # unweighted: 0.05


def test_a_class_with_one_label_is_learned_and_harms_nothing() -> None:
    pixels, targets = shapes(60)
    three = np.zeros((61, 3), np.float32)
    three[:60, :2], three[60, 2] = targets, 1
    grey = np.full((1, 32, 32, 3), 128, np.uint8)
    classifier, report = model.fit(
        SMALL,
        np.concatenate([pixels, grey]),
        three,
        multiple=False,
        holdout=NOBODY[:61],
        seed=0,
        device="cpu",
        recipe=model.Recipe(images=2500),
    )
    assert report.n_train == 61
    said = model.predict(classifier, grey)
    assert said is not None and said.argmax() == 2
    unseen, truth = shapes(60, seed=5)
    others = model.predict(classifier, unseen)
    assert others is not None and (others[:, :2].argmax(1) == truth.argmax(1)).mean() > 0.8


def test_a_training_that_leaves_the_numbers_says_after_how_many_images() -> None:
    pixels, targets = shapes(40)
    absurd = model.Recipe(images=2000, learning_rate=1e30)
    with pytest.raises(NotFinite, match=r"loss became (nan|inf) after \d+ images.*learning rate"):
        model.fit(
            SMALL, pixels, targets, multiple=False, holdout=NOBODY[:40], seed=0, device="cpu", recipe=absurd
        )


def test_weights_that_are_not_finite_name_the_file_as_the_cause(learned: Path, tmp_path: Path) -> None:
    weights = load_file(learned / "features.safetensors")
    weights["project.weight"][0, 0] = torch.inf
    save_file(weights, tmp_path / "broken.safetensors")
    chosen = model.choose_backbone("self_supervised", tmp_path / "broken.safetensors")
    pixels, targets = shapes(40)
    with pytest.raises(NotFinite, match=r"not finite for row 0.*check the weights file"):
        model.fit(chosen, pixels, targets, multiple=False, holdout=NOBODY[:40], seed=0, device="cpu")
