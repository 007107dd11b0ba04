"""The learning curve through the rounds so far, and what more labels would add.

Pure. The error falls as a power law of the number of labels, ``accuracy(n) = a - b * n ** -c`` (Figueroa et
al. 2012, BMC Medical Informatics 12:8; Hestness et al. 2017, arXiv 1712.00409), fitted by least squares. How
sure that is comes from fitting it again and again to accuracies redrawn from what their hold-outs allow
(parametric bootstrap), each time with an exponent of its own. All intervals are 90 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FITS = 400
EXPONENTS = np.geomspace(0.1, 2.0, 24)
FIT_NOISE = 0.01  # standard deviation of the accuracy between two fits on the same labels
LEAST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Point:
    """An accuracy in [0, 1] measured on ``n_holdout`` images after training on ``labels``."""

    labels: int
    accuracy: float
    n_holdout: int


@dataclass(frozen=True, slots=True)
class Expected:
    """A forecast with its 90 % interval; ``low <= value <= high``."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """FITS power laws that the points allow: ``a``, ``b``, ``c`` float64[FITS], rising from ``first`` on."""

    a: Floats
    b: Floats
    c: Floats
    first: int

    def accuracy(self, labels: float) -> Expected:
        """The accuracy at that many labels."""
        return _expected(self._at(labels))

    def gain(self, labels: float, more: float) -> Expected:
        """The gain in accuracy from ``more`` labels after ``labels``."""
        return _expected(self._at(labels + more) - self._at(labels))

    def labels_to(self, accuracy: float, most: float = np.inf) -> Expected | None:
        """How many labels in all reach that accuracy; None if most fits never do, or beyond ``most``.

        Where the upper end is beyond ``most`` it is infinite.
        """
        room = self.a - accuracy
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            need = self.first * np.where(room > 0, np.maximum(self.b / room, 0) ** (1 / self.c), np.inf)
        need = np.where(need > most, np.inf, need)
        low, value, high = np.quantile(need, [0.05, 0.5, 0.95], method="inverted_cdf")
        return Expected(float(value), float(low), float(high)) if np.isfinite(value) else None

    def labels_until_flat(self, gain: float, further: float) -> Expected:
        """How many labels in all it takes until the share ``further`` of more labels adds less than ``gain``.

        ``value`` is where :meth:`gain` of these expects less; infinite where a fit never becomes so flat.
        """
        with np.errstate(divide="ignore", over="ignore"):
            fall = np.maximum(self.b, 0) * (1 - (1 + further) ** -self.c) / gain
            need = self.first * fall ** (1 / self.c)
        low, value, high = np.quantile(need, [0.05, 0.5, 0.95], method="inverted_cdf")
        return Expected(float(value), float(low), float(high))

    def _at(self, labels: float) -> Floats:
        return np.maximum(self.a - self.b * (labels / self.first) ** -self.c, 0)


def _expected(values: Floats) -> Expected:
    low, value, high = np.quantile(values, [0.05, 0.5, 0.95])
    return Expected(float(value), float(low), float(high))


def learning_curve(points: Sequence[Point], seed: int = 0) -> Curve | None:
    """The curve through ``points``, in any order; None for fewer than three different numbers of labels."""
    labels = np.array([point.labels for point in points], dtype=np.float64)
    if len(np.unique(labels)) < LEAST_ROUNDS or labels.min() < 1:
        return None
    n = np.array([point.n_holdout for point in points], dtype=np.float64)
    # Add half a hit and half a miss, or a perfect round would count as certain.
    shares = (np.array([point.accuracy for point in points]) * n + 0.5) / (n + 1)
    spread = np.sqrt(shares * (1 - shares) / n + FIT_NOISE**2)
    rng = np.random.default_rng(seed)
    redrawn = np.clip(shares + spread * rng.standard_normal((FITS, len(points))), 0, 1)
    a, b, c = _power_laws(labels / labels.min(), redrawn, 1 / spread**2)
    return Curve(a, b, c, int(labels.min()))


def _power_laws(x: Floats, y: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """For each row of ``y`` float64[k, n], measured at ``x`` float64[n] >= 1: a, b and c, float64[k] each.

    Least squares over EXPONENTS; never falling (b >= 0) and never above 1 (a <= 1).
    """
    weights = weights / weights.sum()
    basis = -(x[None] ** -EXPONENTS[:, None])  # [exponents, n]
    mean_basis, mean_y = basis @ weights, y @ weights
    centred = basis - mean_basis[:, None]
    variance = (centred**2) @ weights
    slope = np.maximum((y * weights) @ centred.T / variance, 0)  # [k, exponents]
    top = mean_y[:, None] - slope * mean_basis
    # Where the best line ends above 1, the best one that ends at 1.
    through_one = np.maximum(((1 - y) * weights) @ -basis.T / ((basis**2) @ weights), 0)
    slope, top = np.where(top > 1, through_one, slope), np.minimum(top, 1)
    misfit = (((y[:, None] - top[..., None] - slope[..., None] * basis) ** 2) * weights).sum(2)
    best = misfit.argmin(1)
    rows = np.arange(len(y))
    return top[rows, best], slope[rows, best], EXPONENTS[best]


# ---------------------------------------------------------------- advice


def area_under(labels: Sequence[float], accuracies: Sequence[float], *, log: bool = False) -> float:
    """Mean accuracy over the axis of labels (or of their logarithm), by trapezes between the points.

    ``labels`` rise strictly, and from 1 on if ``log``; raises ValueError otherwise.
    """
    x, y = np.asarray(labels, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    if len(x) < 2 or x.shape != y.shape or (np.diff(x) <= 0).any() or (log and x[0] < 1):
        raise ValueError(f"an area needs two points or more at rising numbers of labels, not {labels}")
    x = np.log(x) if log else x
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))
