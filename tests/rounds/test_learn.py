"""What a head learns from labels of which many are wrong."""

from dataclasses import replace

import numpy as np
import pytest

from coreset_backend import model
from coreset_backend.evaluation.calibration import calibration_error
from coreset_backend.model.preparation import Preparation
from coreset_backend.project import Labels, Task
from coreset_backend.rounds.label_errors import given_labels
from coreset_backend.rounds.learn import Labeled, as_probable, fit_head

CLASSES, LABELED, POOL = 6, 300, 900
NAMES = tuple("abcdef")


def pool() -> tuple[np.ndarray, np.ndarray]:
    """Vectors of unit length around the means of overlapping classes, and the class of each."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CLASSES, POOL)
    vectors = 1.3 * rng.normal(size=(CLASSES, 24))[codes] + rng.normal(size=(POOL, 24))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), codes


VECTORS, CODES = pool()


def labelled(wrong: float, *, multiple: bool = False, seed: int = 1) -> Labeled:
    """The first images with their labels, a share of them wrong; every fifth is held out."""
    rng, codes = np.random.default_rng(seed), CODES[:LABELED].copy()
    rows = rng.choice(LABELED, round(wrong * LABELED), replace=False)
    codes[rows] = (codes[rows] + rng.integers(1, CLASSES, len(rows))) % CLASSES
    tasks = [Task(row, "a", "labeled", (NAMES[code],)) for row, code in enumerate(codes)]
    given = given_labels(tasks, Labels("label", "image", NAMES, multiple=multiple))
    return Labeled(np.arange(LABELED), given, np.arange(LABELED) % 5 == 0, given.targets)


def classifier(*, prepared: bool = True) -> model.Classifier:
    """For the vectors as they are: its network and preparation are there in name only."""
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    frozen = model.untrained(model.choose_backbone("small_cnn", None), pixels, seed=0, device="cpu")
    return replace(frozen, preparation=Preparation(8)) if prepared else frozen


def figures(labeled: Labeled) -> tuple[float, float]:
    """Accuracy and calibration error on the images that have no label."""
    fitted, _ = fit_head(classifier(), VECTORS, labeled)
    said = model.probabilities_of(fitted, VECTORS[LABELED:])
    assert said is not None
    truth = np.eye(CLASSES)[CODES[LABELED:]]
    right = float((said.argmax(1) == CODES[LABELED:]).mean())
    return right, calibration_error(truth, said, multiple=False)


def test_where_a_fifth_is_wrong_the_model_is_more_often_right_and_as_sure_as_that() -> None:
    labeled = labelled(0.2)
    probable = as_probable(labeled, classifier(), VECTORS, 0)
    (before, unsure), (after, error) = figures(labeled), figures(probable)
    assert after >= before + 0.01
    assert error < unsure / 2


@pytest.mark.parametrize("wrong", [0.0, 0.05])
def test_where_few_are_wrong_the_labels_are_learned_as_they_are(wrong: float) -> None:
    labeled = labelled(wrong)
    np.testing.assert_array_equal(as_probable(labeled, classifier(), VECTORS, 0).targets, labeled.targets)


def test_the_hold_out_measures_what_it_has_no_part_in() -> None:
    labeled, out = labelled(0.2), labelled(0.2).holdout
    probable = as_probable(labeled, classifier(), VECTORS, 0)
    np.testing.assert_array_equal(probable.targets[out], labeled.targets[out])
    assert (probable.targets[~out] != labeled.targets[~out]).any()
    other = labeled.given
    votes = np.where(out[:, None], np.roll(other.votes, 1, axis=1), other.votes)
    changed = replace(labeled, given=replace(other, votes=votes, targets=votes))
    again = as_probable(changed, classifier(), VECTORS, 0)
    np.testing.assert_array_equal(again.targets[~out], probable.targets[~out])


def test_a_ground_truth_is_learned_as_it_is() -> None:
    labeled = labelled(0.2)
    known = np.arange(LABELED) % 7 == 1
    labeled = replace(labeled, given=replace(labeled.given, is_truth=known))
    probable = as_probable(labeled, classifier(), VECTORS, 0)
    np.testing.assert_array_equal(probable.targets[known], labeled.targets[known])


def test_few_labels_multiple_choice_and_other_features_are_learned_as_they_are() -> None:
    several, labeled = labelled(0.2, multiple=True), labelled(0.2)
    few = replace(labeled, holdout=np.arange(LABELED) >= 99)
    for given, frozen in (
        (several, classifier()),
        (few, classifier()),
        (labeled, classifier(prepared=False)),
    ):
        assert as_probable(given, frozen, VECTORS, 0) is given
