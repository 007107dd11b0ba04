"""How sure a model is against how often it is right, and what a small hold-out can say of that."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.evaluation.calibration import (
    LEAST_IN_A_BIN,
    calibration,
    calibration_error,
    lower_bound,
    sure_answers,
)


def test_calibration_error_by_hand() -> None:
    truth = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
    said = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], np.float32)
    # Two answers at 90 %, both right; two at 60 %, one right: a tenth too little and a tenth too much.
    assert calibration_error(truth, said, multiple=False) == pytest.approx(0.1)
    assert calibration_error(truth, truth, multiple=False) == 0
    assert calibration_error(1 - truth, truth, multiple=False) == 1
    with pytest.raises(ValueError, match="targets"):
        calibration_error(truth[:0], said[:0], multiple=False)


def test_in_multiple_choice_each_class_of_an_image_is_an_answer() -> None:
    truth = np.array([[1, 0], [1, 1]], np.float32)
    said = np.array([[0.8, 0.2], [0.8, 0.2]], np.float32)  # three of four answers at 80 % are right
    assert calibration_error(truth, said, multiple=True) == pytest.approx(0.05)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_a_model_that_is_as_sure_as_it_is_right_has_hardly_any_calibration_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said = rng.dirichlet(np.ones(3), 20_000)
    truth = np.eye(3)[(rng.random((20_000, 1)) > said.cumsum(1)).sum(1).clip(max=2)]
    assert (
        calibration_error(truth, said, multiple=False)
        < 0.03
        < calibration_error(truth, said**4 / (said**4).sum(1, keepdims=True), multiple=False)
    )


def answers(n: int, seed: int, sharper: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """One-hot truth and probabilities float[n, 3]; calibrated, unless they are made ``sharper``."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(3), n)
    truth = np.eye(3)[(rng.random((n, 1)) > chances.cumsum(1)).sum(1).clip(max=2)]
    said = chances**sharper
    return truth, said / said.sum(1, keepdims=True)


@pytest.mark.parametrize("n", [20, 40, 200])
def test_a_calibrated_model_shows_what_chance_makes_of_a_small_hold_out(n: int) -> None:
    found = [calibration(*answers(n, seed), multiple=False) for seed in range(40)]
    kept = [each for each in found if each]
    assert len(kept) == 40 and {each.bins for each in kept} == {n // LEAST_IN_A_BIN if n < 300 else 15}
    assert np.mean([each.error for each in kept]) == pytest.approx(kept[0].by_chance, rel=0.35)
    assert sum(each.error > each.at_most for each in kept) <= 6  # two are expected
    assert all(each.by_chance < each.at_most for each in kept)


def test_the_error_of_a_model_that_is_too_sure_is_larger_than_chance() -> None:
    found = calibration(*answers(200, 0, sharper=6), multiple=False)
    assert found and found.error > found.at_most and "larger than chance" in found.words
    calm = calibration(*answers(200, 0), multiple=False)
    assert calm and "no larger than chance" in calm.words and "on 200 images" in calm.words


def test_bins_hold_equally_many_answers_by_hand() -> None:
    sure = np.repeat([0.6, 0.9], 20)
    said = np.stack([sure, 1 - sure], 1)
    truth = np.eye(2)[[0] * 10 + [1] * 10 + [0] * 18 + [1] * 2]  # half right at 60 %, nine in ten at 90 %
    found = calibration(truth, said, multiple=False)
    assert found and (found.bins, found.n) == (2, 40) and found.error == pytest.approx(0.05)


def test_too_small_a_hold_out_says_nothing() -> None:
    truth, said = answers(LEAST_IN_A_BIN - 1, 0)
    assert calibration(truth, said, multiple=False) is None
    assert calibration(truth[:0], said[:0], multiple=True) is None


def test_in_multiple_choice_bins_are_of_images() -> None:
    rng = np.random.default_rng(0)
    said = rng.random((60, 8))
    found = calibration((rng.random((60, 8)) < said).astype(float), said, multiple=True)
    assert found and (found.n, found.bins) == (60, 3) and found.error < found.at_most < 0.1


def sets(classes: np.ndarray, seed: int, sharper: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Truth and probabilities float[60, len(classes)] in multiple choice, calibrated unless made ``sharper``;
    those of equal ``classes`` are there together or not at all."""
    rng = np.random.default_rng(seed)
    chances = rng.beta(0.5, 0.5, (60, classes.max() + 1))
    truth, odds = rng.random(chances.shape) < chances, (chances / (1 - chances + 1e-9)) ** sharper
    return truth[:, classes].astype(float), (odds / (1 + odds))[:, classes]


@pytest.mark.parametrize("classes", [np.arange(6), np.arange(6) // 2, np.arange(6) // 6], ids=["1", "2", "6"])
def test_classes_that_go_together_leave_the_band_of_chance_as_often_as_is_promised(
    classes: np.ndarray,
) -> None:
    found = [calibration(*sets(classes, seed), multiple=True) for seed in range(100)]
    assert sum(each is not None and each.error > each.at_most for each in found) <= 11  # five are expected
    errors, chance = zip(*((each.error, each.by_chance) for each in found if each), strict=True)
    assert np.mean(errors) == pytest.approx(np.mean(chance), rel=0.15)
    too_sure = calibration(*sets(classes, 0, sharper=6), multiple=True)
    assert too_sure and too_sure.error > too_sure.at_most


@pytest.mark.parametrize("n", [1, 5, 14, 60, 400])
def test_the_lower_bound_is_clopper_and_pearsons(n: int) -> None:
    for hits in {0, 1, n // 2, n - 1, n} & set(range(n + 1)):
        low = lower_bound(hits, n)
        chance = sum(math.comb(n, k) * low**k * (1 - low) ** (n - k) for k in range(hits, n + 1))
        assert (low == 0) if not hits else chance == pytest.approx(0.05, rel=1e-6)
        assert low <= hits / n
    assert lower_bound(n, n) == pytest.approx(0.05 ** (1 / n))


def test_the_bound_lies_above_the_truth_in_at_most_one_of_twenty_cases() -> None:
    for truth in (0.5, 0.8, 0.95):
        for n in (10, 30, 100):
            bounds = [lower_bound(hits, n) for hits in range(n + 1)]
            chances = [math.comb(n, hits) * truth**hits * (1 - truth) ** (n - hits) for hits in range(n + 1)]
            assert sum(c for low, c in zip(bounds, chances, strict=True) if low > truth) <= 0.05


def test_nothing_seen_proves_nothing_and_impossible_counts_are_refused() -> None:
    assert lower_bound(0, 0) == 0
    for hits, n in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="hits of"):
            lower_bound(hits, n)


def test_sure_answers_are_those_of_ninety_per_cent_in_multiple_choice_of_every_class() -> None:
    truth = np.eye(2)[[0, 0, 1, 1]]
    said = np.array([[0.95, 0.05], [0.85, 0.15], [0.9, 0.1], [0.05, 0.95]])
    found = sure_answers(truth, said, multiple=False)
    assert (found.n, found.right) == (3, 2) and found.low == lower_bound(2, 3)
    sets = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], float)
    said = np.array([[0.95, 0.05], [0.95, 0.2], [0.9, 0.97], [0.01, 0.02]])
    found = sure_answers(sets, said, multiple=True)
    assert (found.n, found.right) == (3, 2)  # the second is in doubt of a class, the third has one wrong
    assert sure_answers(sets[:0], said[:0], multiple=True).low == 0
