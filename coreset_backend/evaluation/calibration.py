"""Whether a model is as sure as it is right, measured on labels that it never saw. Pure, arrays in."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.evaluation.scores import NAMED, Flags, Probabilities, confidence, named_classes
from coreset_backend.store.record import Calibration, SureAnswers

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
BINS = 15
DRAWS = 500
LEAST_IN_A_BIN = 20
"""Images in a bin of a hold-out; one of fewer than these says nothing of the calibration."""
SURE = 0.9
"""Answers are counted as sure from here on: those that a batch may show."""
RISK = 0.05
"""How often a lower bound may lie above the truth."""


def calibration_error(targets: Probabilities, probabilities: Probabilities, *, multiple: bool) -> float:
    """By how much a model is surer, or less sure, than it is right, on average over its answers: 0 to 1.

    Answers are put in 15 bins by how sure the model is (Guo et al. 2017, arXiv 1706.04599, equation 3). In
    multiple choice each image has an answer for every class. Raises ValueError for no image.
    """
    sure, right = _answers(targets, probabilities, multiple)
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    off = np.bincount(place, sure - right, minlength=BINS)
    return float(np.abs(off).sum() / len(sure))


def calibration(
    targets: Probabilities, probabilities: Probabilities, *, multiple: bool
) -> Calibration | None:
    """The expected calibration error on a small hold-out, and what chance alone makes of it there.

    The bins are adaptive (Nguyen and O'Connor 2015, arXiv 1508.05154): each has as many answers as the next,
    of LEAST_IN_A_BIN images or more, so that none rests on two images. With few images the error of a perfect
    model is far from 0; DRAWS hold-outs, of this size and as sure, tell how far. In multiple choice the
    answers on one image may be wrong together, as much as they are seen to be. None on less than one bin.
    Raises ValueError for shapes that differ.
    """
    n = len(targets)
    if n < LEAST_IN_A_BIN:
        return None
    sure, right = _answers(targets, probabilities, multiple)
    order, bins = np.argsort(sure, kind="stable"), min(n // LEAST_IN_A_BIN, BINS)
    image, sure, right = order // (len(sure) // n), sure[order], right[order]
    place = np.repeat(np.arange(bins), np.diff(np.arange(bins + 1) * len(sure) // bins))
    together = _wrong_together(sure - right, image, place)
    rng = np.random.default_rng(0)
    of_perfect = [
        _off(sure - (rng.random(len(sure)) < sure), place) + together @ rng.standard_normal(bins)
        for _ in range(DRAWS)
    ]
    errors = np.abs(of_perfect).sum(1) / len(sure)
    return Calibration(
        error=float(np.abs(_off(sure - right, place)).sum() / len(sure)),
        by_chance=float(errors.mean()),
        at_most=float(np.quantile(errors, 0.95)),
        n=n,
        bins=bins,
    )


def sure_answers(targets: Probabilities, probabilities: Probabilities, *, multiple: bool) -> SureAnswers:
    """How many images the model is at least 90 % sure of, and how many of those it has right."""
    is_sure = confidence(probabilities, multiple) >= SURE
    right = ((targets > NAMED) == named_classes(probabilities, multiple)).all(1)
    n, hits = int(is_sure.sum()), int(right[is_sure].sum())
    return SureAnswers(n, hits, lower_bound(hits, n))


def lower_bound(hits: int, n: int) -> float:
    """What a share is at least, with a confidence of 95 %, where ``hits`` of ``n`` were seen; 0 without any.

    Exact at every n (Clopper and Pearson 1934, one-sided): the share at which as many hits or more come in
    one of twenty cases. Raises ValueError for counts that cannot be.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits of {n}")
    if not hits:
        return 0.0
    counts = np.arange(hits, n + 1)
    logs = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])  # of the factorials
    ways = logs[n] - logs[counts] - logs[n - counts]
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        chance = np.exp(ways + counts * np.log(share) + (n - counts) * np.log1p(-share)).sum()
        low, high = (share, high) if chance < RISK else (low, share)
    return low


def _answers(targets: Probabilities, probabilities: Probabilities, multiple: bool) -> tuple[Numbers, Flags]:
    """How sure each answer is, and whether it is right; an image has one, in multiple choice one a class."""
    if not len(targets) or targets.shape != probabilities.shape:
        raise ValueError(f"targets {targets.shape}, probabilities {probabilities.shape}")
    if not multiple:
        right = probabilities.argmax(1) == targets.argmax(1)
        return probabilities.max(1).astype(np.float64), right
    sure = np.maximum(probabilities, 1 - probabilities).ravel().astype(np.float64)
    return sure, ((probabilities > NAMED) == (targets > NAMED)).ravel()


def _off(too_sure: Numbers, place: Places) -> Numbers:
    """float64[bins]: the sum over each bin's answers."""
    return np.bincount(place, too_sure).astype(np.float64, copy=False)


def _wrong_together(too_sure: Numbers, image: Places, place: Places) -> Numbers:
    """A root of the covariance that answers on the same ``image`` add to the bins' sums, float64[bins, bins].

    An answer's own variance is known. The products of an image's different answers have the covariance as
    their mean (as in Liang and Zeger 1986); where their sum says that the answers are wrong together less
    often than chance has it, it counts as 0. One answer for each image adds nothing.
    """
    by_image = np.zeros((image.max() + 1, place[-1] + 1))
    np.add.at(by_image, (image, place), too_sure)
    covariance = by_image.T @ by_image - np.diag(_off(too_sure**2, place))
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(values.clip(0)))
