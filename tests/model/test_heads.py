"""Heads on embeddings of unit length: right with few labels, and as sure as they are right."""

import numpy as np
import pytest
import torch

from coreset_backend.model.heads import anchored_head, linear_head, temperature_of

CLASSES = 5
MEANS = np.random.default_rng(1).normal(size=(CLASSES, 64))


def images(n: int, seed: int = 0, noise: float = 1.6) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings float32[n, 64] of unit length around their class's mean, and one-hot targets."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, CLASSES, n)
    kinds[:CLASSES] = range(CLASSES)
    points = MEANS[kinds] + noise * rng.normal(size=(n, 64))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points.astype(np.float32), np.eye(CLASSES, dtype=np.float32)[kinds]


def share_right(head: torch.nn.Linear, points: np.ndarray, targets: np.ndarray) -> float:
    with torch.inference_mode():
        said = head(torch.from_numpy(points)).numpy()
    return float((said.argmax(1) == targets.argmax(1)).mean())


def calibration_error(chances: np.ndarray, targets: np.ndarray) -> float:
    """Expected calibration error in ten bins (Guo et al. 2017, section 2)."""
    sure, right = chances.max(1), chances.argmax(1) == targets.argmax(1)
    bins = np.minimum((10 * sure).astype(int), 9)
    return sum(
        abs(sure[bins == k].mean() - right[bins == k].mean()) * (bins == k).mean() for k in np.unique(bins)
    )


def test_a_label_of_each_class_is_enough_to_beat_a_plain_regression() -> None:
    points, targets = images(2 * CLASSES)
    unseen = images(2000, seed=5)
    head, loss = anchored_head(points, targets, multiple=False)
    plain, _ = linear_head(torch.from_numpy(points), torch.from_numpy(targets), multiple=False, scaled=False)
    assert np.isfinite(loss)
    assert share_right(head, *unseen) >= share_right(plain, *unseen) > 1 / CLASSES


@pytest.mark.parametrize("labels", [200, 1000])
def test_its_answers_are_as_sure_as_they_are_right(labels: int) -> None:
    points, targets = images(labels, noise=3.4)
    head, _ = anchored_head(points, targets, multiple=False)
    temperature = temperature_of(points, targets, multiple=False)
    unseen, truth = images(4000, seed=6, noise=3.4)
    with torch.inference_mode():
        chances = (head(torch.from_numpy(unseen)) / temperature).softmax(1).numpy()
    assert 0.5 < share_right(head, unseen, truth) < 0.95
    assert calibration_error(chances, truth) <= 0.05


def test_few_labels_leave_the_temperature_near_one() -> None:
    points, targets = images(CLASSES + 1)
    assert 0.8 < temperature_of(points, targets, multiple=False) < 1.25


def test_multiple_choice_learns_each_class_on_its_own_and_knows_none_of_these() -> None:
    points, kinds = images(400)
    targets = np.stack([kinds[:, :2].max(1), kinds[:, 1:3].max(1)], 1)  # overlapping; the others have neither
    head, _ = anchored_head(points, targets, multiple=True)
    unseen, truth = images(1000, seed=7)
    wanted = np.stack([truth[:, :2].max(1), truth[:, 1:3].max(1)], 1)
    with torch.inference_mode():
        named = (head(torch.from_numpy(unseen)).sigmoid() > 0.5).numpy()
    right = (named == (wanted > 0.5)).all(1)
    assert right.mean() > 0.75
    assert right[wanted.sum(1) == 0].mean() > 0.75


def test_a_class_that_every_image_has_or_none_harms_nothing() -> None:
    points, kinds = images(60)
    targets = np.stack([np.ones(60), np.zeros(60), kinds[:, 0]], 1).astype(np.float32)
    head, _ = anchored_head(points, targets, multiple=True)
    with torch.inference_mode():
        chances = head(torch.from_numpy(points)).sigmoid().numpy()
    assert (chances[:, 0] > 0.5).all() and (chances[:, 1] < 0.5).all()


def test_the_fit_needs_no_seed() -> None:
    points, targets = images(100)
    first, second = (anchored_head(points, targets, multiple=False)[0].weight for _ in range(2))
    assert torch.equal(first, second)
