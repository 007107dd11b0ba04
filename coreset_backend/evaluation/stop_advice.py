"""When to stop: what the next batch, and half as many labels again, are expected to add."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coreset_backend.evaluation.learning_curve import LEAST_ROUNDS, Curve, Expected, Point, learning_curve

Verdict = Literal["too early", "keep labelling", "hard to tell", "stop"]
LEAST_HOLDOUT = 20
MATERIAL = 0.01  # a gain that matters: one point of accuracy
FURTHER = 0.5  # the horizon of the advice: this share more labels than there are
RADIUS_ROUNDS = 3
MOST_LABELS = 10_000_000  # no pool is larger, so a forecast beyond says "never"


@dataclass(frozen=True, slots=True)
class Forecast:
    """An accuracy at ``labels``, or the gain that so many more bring, with its 90 % interval."""

    labels: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MoreLabels:
    """So many more labels, with the 90 % interval; ``high`` is None beyond MOST_LABELS."""

    value: int
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Advice:
    """Whether more labels pay off, in a sentence and in figures.

    ``next_batch`` and ``further``: the expected gain in accuracy of the next batch, and of FURTHER as many
    labels as there are; None while it is too early. ``radius_fall``: the share by which a batch lately shrank
    the covering radius, None without one. ``curve``: to draw, up to twice the labels there are.
    """

    verdict: Verdict
    sentence: str
    next_batch: Forecast | None
    further: Forecast | None
    radius_fall: float | None
    curve: tuple[Forecast, ...]
    until_stop: MoreLabels | None = None


def stop_advice(points: Sequence[Point], batch: int, radii: Sequence[tuple[float, float]]) -> Advice:
    """Whether more labels pay off.

    ``points`` are the measured rounds, oldest first; ``batch`` labels are asked for next; ``radii`` are the
    covering radii (before, after) of the rounds' batches, oldest first.
    """
    fall = radius_fall(radii)
    curve = learning_curve(points)
    if curve is None or points[-1].n_holdout < LEAST_HOLDOUT:
        return Advice("too early", _too_early(points) + _radius_words(fall), None, None, fall, ())
    now = points[-1].labels
    more = max(round(FURTHER * now), batch)
    next_batch, further = (_forecast(labels, curve.gain(now, labels)) for labels in (batch, more))
    verdict = _verdict(further)
    drawn = np.unique(np.linspace(curve.first, 2 * now, 60).astype(int)).tolist()
    return Advice(
        verdict,
        _words(verdict, next_batch, further, points[-1]) + _radius_words(fall),
        next_batch,
        further,
        fall,
        tuple(_forecast(labels, curve.accuracy(labels)) for labels in drawn),
        _until_stop(curve, now),
    )


def _until_stop(curve: Curve, now: int) -> MoreLabels | None:
    flat = curve.labels_until_flat(MATERIAL, FURTHER)
    if flat.value > MOST_LABELS:
        return None
    low, value = (max(round(labels) - now, 0) for labels in (flat.low, flat.value))
    return MoreLabels(value, low, None if flat.high > MOST_LABELS else max(round(flat.high) - now, 0))


def _forecast(labels: int, expected: Expected) -> Forecast:
    return Forecast(labels, expected.value, expected.low, expected.high)


def _verdict(further: Forecast) -> Verdict:
    if further.value < MATERIAL and further.high < 2 * MATERIAL:
        return "stop"
    return "keep labelling" if further.value >= MATERIAL and further.low > 0 else "hard to tell"


def _too_early(points: Sequence[Point]) -> str:
    measured = len({point.labels for point in points})
    if measured < LEAST_ROUNDS:
        return f"Too early to say: a forecast needs {LEAST_ROUNDS} measured rounds, and there are {measured}."
    return (
        f"Too early to say: the hold-out has {points[-1].n_holdout} images, "
        f"and a forecast needs {LEAST_HOLDOUT}."
    )


def _words(verdict: Verdict, next_batch: Forecast, further: Forecast, newest: Point) -> str:
    begins = {
        "keep labelling": "Keep labelling",
        "stop": "More labels will change little",
        "hard to tell": f"Hard to tell with a hold-out of {newest.n_holdout} images",
    }[verdict]
    return (
        f"{begins}: the next {next_batch.labels:,} labels are expected to add {_points(next_batch)} "
        f"of accuracy, and {further.labels:,} more labels {_points(further)}."
    )


def _points(gain: Forecast) -> str:
    """A gain in points of accuracy, with its interval."""
    low, value, high = (100 * share for share in (gain.low, gain.value, gain.high))
    return f"{value:.1f} points (90 % interval {low:.1f} to {high:.1f})"


def radius_fall(radii: Sequence[tuple[float, float]]) -> float | None:
    """By which share a batch shrank the covering radius, on average over the last RADIUS_ROUNDS batches.

    A share, because each round computes new embeddings, so only radii of the same round have the same scale.
    """
    falls = [1 - after / before for before, after in radii if before > 0]
    return float(np.mean(falls[-RADIUS_ROUNDS:])) if falls else None


def _radius_words(fall: float | None) -> str:
    if fall is None:
        return ""
    return f" A batch lately shrinks the covering radius by {100 * fall:.0f} %."
