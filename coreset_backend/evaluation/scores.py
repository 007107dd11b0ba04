"""How good a model is, measured on labels that it never saw, each score with its interval.

Pure: arrays in, scores out. An interval is a 95 % interval of the score on infinitely many images of the
hold-out's kind. The hold-out consists of labelled tasks, and a batch is no unbiased sample of the pool: it
has more rare and hard images. Its accuracy is for comparing rounds; it is usually below the accuracy on the
pool.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coreset_backend.store.record import ClassScores, Evaluation, Interval

Z = 1.959964  # of a 95 % interval
DRAWS = 1000
NAMED = 0.5  # in multiple choice a class above it is predicted, so an untrained model predicts none

Flags = NDArray[np.bool_]
Counts = NDArray[np.float64]
Probabilities = NDArray[np.floating]


def evaluate(
    names: Sequence[str],
    targets: Probabilities,
    probabilities: Probabilities,
    *,
    multiple: bool,
    before: Probabilities | None = None,
) -> Evaluation:
    """How well ``probabilities`` float[n, classes] predict ``targets``, of the same shape, 1 where so.

    ``before`` float[n, classes] are the probabilities of the round before, NaN on images that do not compare
    the two. Raises ValueError for no image, or for shapes that differ.
    """
    if not len(targets) or targets.shape != probabilities.shape or targets.shape[1] != len(names):
        raise ValueError(f"targets {targets.shape}, probabilities {probabilities.shape}, {len(names)} names")
    actual, predicted = targets > NAMED, named_classes(probabilities, multiple)
    right = (actual == predicted).all(1)
    gain = None
    if before is not None and (both := ~np.isnan(before).any(1)).any():
        gain = paired_gain((actual[both] == named_classes(before[both], multiple)).all(1), right[both])
    return Evaluation(
        accuracy=proportion(int(right.sum()), len(right)),
        macro_f1=macro_f1(actual, predicted),
        per_class=class_scores(names, actual, predicted),
        gain=gain,
    )


def named_classes(probabilities: Probabilities, multiple: bool) -> Flags:
    """bool[n, classes]: the classes that a model predicts for each image; the only rule for it.

    Single choice: the most probable class. Multiple choice: every class with a probability above NAMED,
    maybe none.
    """
    if multiple:
        return np.asarray(probabilities > NAMED)
    predicted = np.zeros(probabilities.shape, dtype=bool)
    predicted[np.arange(len(predicted)), probabilities.argmax(1)] = True
    return predicted


def answer_codes(probabilities: Probabilities, multiple: bool) -> NDArray[np.int16]:
    """int16[n]: the place of the class that the model names in a table of the classes.

    In multiple choice the likeliest of several; "none of these" comes behind the last class.
    """
    codes: NDArray[np.int16] = probabilities.argmax(1).astype(np.int16)
    if multiple:
        codes[~named_classes(probabilities, multiple).any(1)] = probabilities.shape[1]
    return codes


def confidence(probabilities: Probabilities, multiple: bool) -> Probabilities:
    """float[n]: how sure a model is of what it predicts; in multiple choice, of the class most in doubt."""
    if multiple:
        return np.asarray(np.maximum(probabilities, 1 - probabilities).min(1))
    return np.asarray(probabilities.max(1))


def proportion(hits: int, n: int) -> Interval:
    """``hits`` of ``n`` with Wilson's interval (1927), which holds at small n and at 0 and 1 too."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits of {n}")
    share, spread = hits / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z * np.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return _interval(share, float(max(middle - half, 0)), float(min(middle + half, 1)), n)


def paired_gain(before: Flags, after: Flags) -> Interval:
    """The increase of the share of correct predictions on the same images, in [-1, 1].

    ``before`` and ``after``: bool[n], which predictions were correct. Only images on which the two differ
    contribute; the interval is Agresti and Min's (2005, half an image added to each of the four cells).
    """
    n = len(after)
    won, lost = (after & ~before).sum() + 0.5, (before & ~after).sum() + 0.5
    middle = (won - lost) / (n + 2)
    half = Z * np.sqrt((won + lost) - (won - lost) ** 2 / (n + 2)) / (n + 2)
    value = (int(after.sum()) - int(before.sum())) / n
    return _interval(value, float(max(middle - half, -1)), float(min(middle + half, 1)), n)


def macro_f1(actual: Flags, predicted: Flags) -> Interval:
    """Mean F1 of the classes that occur in ``actual``; both bool[n, classes].

    The interval is a Bayesian bootstrap over the images (Rubin 1981) with half a true positive, half a false
    negative and half a false positive added to each class, so that a class of three images, all predicted
    correctly, does not count as perfect.
    """
    present = actual.any(0)
    if not present.any():
        return Interval(0.0, 0.0, 1.0, len(actual))
    outcomes = np.stack([actual & predicted, actual & ~predicted, ~actual & predicted])[:, :, present]
    value = float(_f1(*outcomes.sum(1)).mean())
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(DRAWS, len(actual))).astype(np.float32)
    weights *= len(actual) / weights.sum(1, keepdims=True)
    redrawn = (
        weights @ outcome.astype(np.float32) + rng.gamma(0.5, size=(DRAWS, int(present.sum())))
        for outcome in outcomes
    )
    low, high = np.quantile(_f1(*redrawn).mean(1), [0.025, 0.975])
    return _interval(value, float(low), float(high), len(actual))


def _f1(true_positives: Counts, false_negatives: Counts, false_positives: Counts) -> Counts:
    scores: Counts = 2 * true_positives / (2 * true_positives + false_negatives + false_positives)
    return scores


def class_scores(names: Sequence[str], actual: Flags, predicted: Flags) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of each class, in the order of ``names``; bool[n, classes] as in macro_f1."""
    true_positives = (actual & predicted).sum(0).tolist()
    counts = zip(names, true_positives, actual.sum(0).tolist(), predicted.sum(0).tolist(), strict=True)
    return tuple(
        ClassScores(
            name=name,
            n=positives,
            precision=hits / answered if answered else None,
            recall=hits / positives if positives else None,
            f1=2 * hits / (positives + answered) if positives else None,
        )
        for name, hits, positives, answered in counts
    )


def _interval(value: float, low: float, high: float, n: int) -> Interval:
    return Interval(float(value), min(low, float(value)), max(high, float(value)), n)
