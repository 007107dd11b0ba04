import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.evaluation.scores import (
    class_scores,
    evaluate,
    macro_f1,
    named_classes,
    paired_gain,
    proportion,
)

# ---------------------------------------------------------------- intervals


def test_wilsons_interval_is_that_of_the_books() -> None:
    """Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = proportion(hits, n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
        assert found.value == hits / n


@settings(deadline=None)
@given(n=st.integers(1, 400), data=st.data())
def test_an_interval_holds_its_value_and_narrows_with_more_images(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    found, more = proportion(hits, n), proportion(10 * hits, 10 * n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert more.high - more.low < found.high - found.low
    mirrored = proportion(n - hits, n)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("n", [20, 100, 500])
def test_the_interval_of_a_share_holds_the_truth_in_95_of_100_cases(n: int) -> None:
    """Exact: the chance of each count of hits, summed over the counts whose interval holds the truth."""
    intervals = [proportion(hits, n) for hits in range(n + 1)]
    coverage = []
    for truth in np.linspace(0.05, 0.95, 91):
        chances = [math.comb(n, hits) * truth**hits * (1 - truth) ** (n - hits) for hits in range(n + 1)]
        held = [found.low <= truth <= found.high for found in intervals]
        coverage.append(float(np.dot(chances, held)))
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)
    assert min(coverage) > 0.89


def test_a_count_that_cannot_be_is_refused() -> None:
    for hits, n in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="hits of"):
            proportion(hits, n)


def test_the_interval_of_a_gain_holds_the_truth_in_95_of_100_cases() -> None:
    rng, n, held = np.random.default_rng(0), 80, 0
    for _ in range(600):
        cell = rng.choice(4, n, p=[0.55, 0.15, 0.08, 0.22])  # both right, only after, only before, neither
        gain = paired_gain(before=(cell == 0) | (cell == 2), after=cell <= 1)
        held += gain.low <= 0.15 - 0.08 <= gain.high
    assert 0.92 < held / 600 < 0.99


def test_images_on_which_both_models_agree_say_nothing_of_a_gain() -> None:
    right = np.arange(100) < 70
    same = paired_gain(right, right)
    assert same.value == 0 and same.low < 0 < same.high
    better = paired_gain(right, np.arange(100) < 85)
    assert better.value == pytest.approx(0.15) and better.low > 0.05


def flags(codes: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=bool)[codes]


def test_the_interval_of_macro_f1_holds_the_truth_as_often_as_it_says() -> None:
    """Answers by a known confusion matrix, whose macro-F1 is known too."""
    rng, n, held = np.random.default_rng(1), 150, 0
    shares = np.array([0.5, 0.3, 0.2])
    confusion = np.array([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])
    joint = shares[:, None] * confusion
    truth = float((2 * joint.diagonal() / (joint.sum(0) + joint.sum(1))).mean())
    for _ in range(150):
        cell = rng.choice(9, n, p=joint.ravel())
        found = macro_f1(flags(cell // 3, 3), flags(cell % 3, 3))
        held += found.low <= truth <= found.high
    assert 0.9 < held / 150 <= 0.99


def test_three_images_all_right_are_not_thought_perfect() -> None:
    few, many = (
        macro_f1(flags(codes, 2), flags(codes, 2)) for codes in (np.arange(4) % 2, np.arange(400) % 2)
    )
    assert few.value == many.value == few.high == 1
    assert few.low < 0.8 < 0.97 < many.low


# ---------------------------------------------------------------- scores


def test_scores_of_a_class_by_hand() -> None:
    actual = flags(np.array([0, 0, 0, 1, 1]), 3)
    predicted = flags(np.array([0, 0, 1, 1, 2]), 3)
    cat, dog, fox = class_scores(["cat", "dog", "fox"], actual, predicted)
    assert (cat.n, cat.precision, cat.recall) == (3, 1.0, pytest.approx(2 / 3))
    assert cat.f1 == pytest.approx(0.8)
    assert (dog.precision, dog.recall, dog.f1) == (0.5, 0.5, 0.5)
    assert (fox.n, fox.precision, fox.recall, fox.f1) == (0, 0.0, None, None)
    assert macro_f1(actual, predicted).value == pytest.approx((0.8 + 0.5) / 2)  # nobody is a fox


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(2, 6),
    st.booleans(),
    st.integers(0, 99),
)
def test_scores_agree_with_one_another_and_with_the_order_of_the_classes(
    n: int, classes: int, multiple: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((n, classes))
    targets = (rng.random((n, classes)) < 0.4) if multiple else flags(rng.integers(0, classes, n), classes)
    names = [f"class {code}" for code in range(classes)]
    found = evaluate(names, targets.astype(np.float32), probabilities, multiple=multiple)
    right = (named_classes(probabilities, multiple) == targets).all(1).mean()
    assert found.accuracy.value == pytest.approx(float(right))
    measured = [each.f1 for each in found.per_class if each.f1 is not None]
    assert found.macro_f1.value == pytest.approx(float(np.mean(measured)) if measured else 0.0)
    assert found.macro_f1.low <= found.macro_f1.value <= found.macro_f1.high
    turned = evaluate(
        names[::-1], targets[:, ::-1].astype(np.float32), probabilities[:, ::-1], multiple=multiple
    )
    assert turned.per_class == found.per_class[::-1]


def test_gain_is_measured_on_the_images_that_compare_the_two_models() -> None:
    targets = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    now = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    before = np.array([[0.2, 0.8], [0.8, 0.2], [np.nan, np.nan], [0.6, 0.4]])
    found = evaluate(["cat", "dog"], targets, now, multiple=False, before=before)
    assert found.gain is not None
    assert (found.gain.n, found.gain.value) == (3, pytest.approx(1 / 3))
    nothing = np.full((4, 2), np.nan)
    assert evaluate(["cat", "dog"], targets, now, multiple=False, before=nothing).gain is None


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets \(0, 2\)"):
        evaluate(["a", "b"], np.zeros((0, 2)), np.zeros((0, 2)), multiple=False)
    with pytest.raises(ValueError, match="1 names"):
        evaluate(["a"], np.zeros((3, 2)), np.zeros((3, 2)), multiple=False)
