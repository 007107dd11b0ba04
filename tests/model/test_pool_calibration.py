"""Of the answers given at 80 % four in five are right, in a pool full of near-copies too."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from coreset_backend import model
from coreset_backend.evaluation.calibration import calibration_error
from coreset_backend.model.preparation import COMPONENTS, Preparation

CLASSES = 4
MEANS = np.random.default_rng(1).normal(size=(CLASSES, COMPONENTS))


def scattered(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32[n, 256] of unit length around their class's mean, hard to tell, and one-hot targets."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, CLASSES, n)
    kinds[:CLASSES] = range(CLASSES)
    points = unit_length(MEANS[kinds] + 6.5 * rng.normal(size=(n, COMPONENTS)))
    return points, np.eye(CLASSES, dtype=np.float32)[kinds]


def near_copies(points: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    return unit_length(points[rows] + 0.01 * np.random.default_rng(seed).normal(size=(len(rows), COMPONENTS)))


def unit_length(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def fitted(points: np.ndarray, targets: np.ndarray, multiple: bool = False) -> model.Classifier:
    """A head on those points as they are: the network and its preparation are there in name only."""
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    frozen = model.untrained(model.choose_backbone("small_cnn", None), pixels, seed=0, device="cpu")
    frozen = replace(frozen, preparation=Preparation(8))
    nobody = np.zeros(len(points), bool)
    return model.fit_head(frozen, points, targets, multiple=multiple, holdout=nobody)[0]


@pytest.mark.parametrize("labels", [200, 500])
@pytest.mark.parametrize("copies", [0, 3000], ids=["plain", "near-copies of labelled images"])
def test_answers_are_as_sure_as_they_are_right(labels: int, copies: int) -> None:
    points, targets = scattered(labels + 1000, seed=2)
    rows, unseen = np.arange(labels), np.arange(labels, labels + 1000 + copies)
    copied = np.random.default_rng(3).choice(rows[: labels // 3], copies)
    pool = np.concatenate([points, near_copies(points, copied, seed=4)])
    truth = np.concatenate([targets, targets[copied]])
    classifier = fitted(pool[rows], targets[rows])

    said = model.pool_probabilities(classifier, pool, rows, truth[rows])
    plain = model.probabilities_of(classifier, pool)
    assert said is not None and plain is not None
    error, before = (calibration_error(truth[unseen], p[unseen], multiple=False) for p in (said, plain))
    assert error <= 0.05
    assert not copies or before > 2 * error
    assert (said.argmax(1) == plain.argmax(1)).all()  # it changes how sure the model is, not what it says


def test_multiple_choice_is_calibrated_class_by_class() -> None:
    points, kinds = scattered(1400, seed=5)
    targets = np.stack([kinds[:, :2].max(1), kinds[:, 1:3].max(1)], 1)
    rows, copied = np.arange(400), np.random.default_rng(6).choice(400, 2000)
    pool = np.concatenate([points, near_copies(points, copied, seed=7)])
    truth = np.concatenate([targets, targets[copied]])
    classifier = fitted(pool[rows], targets[rows], multiple=True)
    said = model.pool_probabilities(classifier, pool, rows, truth[rows])
    assert said is not None and said.shape == (3400, 2)
    assert calibration_error(truth[400:], said[400:], multiple=True) <= 0.05


def test_few_labels_change_little() -> None:
    points, targets = scattered(300, seed=8)
    rows = np.arange(8)
    classifier = fitted(points[rows], targets[rows])
    said = model.pool_probabilities(classifier, points, rows, targets[rows])
    uncalibrated = model.probabilities_of(classifier, points, calibrated=False)
    assert said is not None and uncalibrated is not None
    assert np.abs(said - uncalibrated)[8:].max() < 0.1


def test_without_prepared_embeddings_the_classifier_answers_as_everywhere() -> None:
    points, targets = scattered(40, seed=9)
    classifier = replace(fitted(points, targets), preparation=None)
    rows = np.arange(40)
    said = model.pool_probabilities(classifier, points, rows, targets)
    assert np.array_equal(said, model.probabilities_of(classifier, points))
    assert model.pool_probabilities(replace(classifier, head=None), points, rows, targets) is None
    assert torch.is_grad_enabled()
