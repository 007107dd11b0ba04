"""When to stop: what the next batch, and half as many labels again, are expected to add."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from coreset_backend.evaluation.learning_curve import LEAST_ROUNDS, Expected, Point, learning_curve

Json = Any


Verdict = Literal["too early", "keep labelling", "hard to tell", "stop"]


LEAST_HOLDOUT = 20


MATERIAL = 0.01  # a gain that matters: one point of accuracy


FURTHER = 0.5  # the horizon of the advice: this share more labels than there are


RADIUS_ROUNDS = 3


def stop_advice(points: Sequence[Point], batch: int, radii: Sequence[tuple[float, float]]) -> Json:
    """Whether the next labels pay, in one sentence and in figures.

    ``points`` are the measured rounds, oldest first; ``batch`` labels are asked for next; ``radii`` are the
    covering radii (before, after) of the rounds' batches, oldest first. ``verdict``, ``sentence``;
    ``next_batch`` and ``further`` ``{labels, value, low, high}``: the expected gain in accuracy of the batch
    and of FURTHER as many labels as there are, None while it is too early; ``radius_fall``: the share by
    which a batch lately shrank the covering radius, None without one; ``curve``:
    ``[{labels, value, low, high}]`` to draw, up to twice the labels there are.
    """
    fall = radius_fall(radii)
    said: Json = {"next_batch": None, "further": None, "radius_fall": fall, "curve": []}
    curve = learning_curve(points)
    if curve is None or points[-1].n_holdout < LEAST_HOLDOUT:
        return {"verdict": "too early", "sentence": _too_early(points) + _radius_words(fall), **said}
    now = points[-1].labels
    more = max(round(FURTHER * now), batch)
    next_batch, further = curve.gain(now, batch), curve.gain(now, more)
    verdict = _verdict(further)
    drawn = np.unique(np.linspace(curve.first, 2 * now, 60).astype(int)).tolist()
    return {
        "verdict": verdict,
        "sentence": _words(verdict, batch, next_batch, more, further, points[-1]) + _radius_words(fall),
        **said,
        "next_batch": {"labels": batch, **asdict(next_batch)},
        "further": {"labels": more, **asdict(further)},
        "curve": [{"labels": labels, **asdict(curve.accuracy(labels))} for labels in drawn],
    }


def _verdict(further: Expected) -> Verdict:
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


def _words(
    verdict: Verdict, batch: int, next_batch: Expected, more: int, further: Expected, newest: Point
) -> str:
    begins = {
        "keep labelling": "Keep labelling",
        "stop": "More labels will change little",
        "hard to tell": f"Hard to tell with a hold-out of {newest.n_holdout} images",
    }[verdict]
    return (
        f"{begins}: the next {batch:,} labels are expected to add {_points(next_batch)} "
        f"of accuracy, and {more:,} more labels {_points(further)}."
    )


def _points(gain: Expected) -> str:
    """A gain in points of accuracy, with its interval."""
    low, value, high = (100 * share for share in (gain.low, gain.value, gain.high))
    return f"{value:.1f} points (90 % interval {low:.1f} to {high:.1f})"


def radius_fall(radii: Sequence[tuple[float, float]]) -> float | None:
    """By which share a batch shrank the covering radius, on average over the last RADIUS_ROUNDS batches.

    A share, for embeddings are learned anew each round and only radii of one round have one scale.
    """
    falls = [1 - after / before for before, after in radii if before > 0]
    return float(np.mean(falls[-RADIUS_ROUNDS:])) if falls else None


def _radius_words(fall: float | None) -> str:
    if fall is None:
        return ""
    return f" A batch lately shrinks the covering radius by {100 * fall:.0f} %."
