"""Which backbone suits a pool: candidates compared by what a head makes of them on the labels so far.

Every candidate is cross-validated on the same images in the same folds, by the head that a round would fit
on it. They are compared by their smoothed accuracy, the mean of the share of right answers and of the mean
probability of the right answer (a smoothed error estimate; Snapinn and Knoke 1985, Technometrics 27): it
varies less with the images that happen to be labelled. The decision is that of least expected loss: staying
costs the lead that the best of the others is expected to have, switching an embedding of the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coreset_backend.arrays import Floats, Rows
from coreset_backend.model.descent import loss_of
from coreset_backend.model.heads import FOLDS, best_temperature, folds_of, held_out_logits
from coreset_backend.reports import CandidateScores

REPEATS = 5
"""Of the cross-validation, each in other folds."""
PRIOR = 0.1
"""The standard deviation of leads between backbones, before a label is known."""
WANTED_LEAD = 0.01
"""What an embedding of the pool is worth, and another backbone under all embeddings so far."""
WELL = 0.95
"""An accuracy that needs no better features."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A backbone by its ``embeddings`` float32[l, d] of the labelled images.

    ``prepared``: they are of unit length, as `prepared` gives them, and get an anchored head; else a logistic
    regression on principal components. ``seconds``: how long one image took to embed, None if not measured.
    """

    name: str
    embeddings: Floats
    prepared: bool = True
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How an audition ended: the ``chosen`` backbone, and the ``scores`` of all, the best first.

    ``beats_plain``: the best answers at least WELL, or more right than a head on plain colours by more than
    one standard error; True where there was nothing plain to compare with.
    """

    chosen: str
    scores: tuple[CandidateScores, ...]
    beats_plain: bool = True


def compare_backbones(
    candidates: Sequence[Candidate],
    targets: Floats,
    *,
    multiple: bool,
    current: str,
    weights: Floats | None = None,
    plain: Candidate | None = None,
) -> Comparison:
    """Compare backbones by cross-validation on ``targets`` float32[l, classes].

    ``current`` names the one in use, which is replaced by the other whose expected lead is the largest, if
    that is more than WANTED_LEAD; where it is no candidate, the best is chosen. ``weights`` float32[l]: how
    many images of the pool each labelled one stands for; None: all count the same. ``plain``: plain colours,
    which no backbone is. Raises ValueError without a candidate, or for embeddings of another number of rows.
    """
    if not candidates or any(len(each.embeddings) != len(targets) for each in candidates):
        rows = [len(each.embeddings) for each in candidates]
        raise ValueError(f"{len(targets)} targets, candidates with {rows} embeddings")
    folds = np.stack([folds_of(targets, seed) for seed in range(REPEATS)])
    shares = np.ones(len(targets)) if weights is None else weights.astype(float)
    labels = _Labels(targets, multiple, folds, shares / shares.sum())
    results = [_cross_validated(each, labels) for each in candidates]
    in_use = next((each for each in results if each.name == current), None)
    ranked = sorted((_scores(each, in_use, labels) for each in results), key=_rank, reverse=True)
    leading = [each for each in ranked if each.expected_lead and each.expected_lead > WANTED_LEAD]
    chosen = current if in_use else ranked[0].name
    if leading:
        chosen = max(leading, key=lambda each: each.expected_lead or 0).name
    best = next(each for each in results if each.name == ranked[0].name)
    beats = plain is None or _beats(best, _cross_validated(plain, labels), labels)
    return Comparison(chosen, tuple(ranked), beats)


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """``targets`` float32[l, classes] in ``folds`` int64[repeats, l]; ``shares`` float64[l] sum to 1."""

    targets: Floats
    multiple: bool
    folds: Rows
    shares: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Result:
    """A candidate's answers to images held out: ``right`` bool[repeats, l], its mean with the probability of
    the right answer as ``smoothed`` float64[repeats, l], and the mean ``log_loss`` of the first repeat."""

    name: str
    right: NDArray[np.bool_]
    smoothed: NDArray[np.float64]
    log_loss: float
    seconds: float | None


def _cross_validated(candidate: Candidate, labels: _Labels) -> _Result:
    """At the temperature that suits the logits best: how sure a head is has its own remedy."""
    targets, multiple = labels.targets, labels.multiple
    logits = held_out_logits(
        candidate.embeddings, targets, labels.folds, multiple=multiple, prepared=candidate.prepared
    )
    right = np.stack([_is_right(each, targets, multiple) for each in logits])
    wanted = torch.from_numpy(targets).double()
    logits = logits / best_temperature(logits[0], wanted, multiple)
    losses = torch.stack([loss_of(each, wanted, multiple) for each in logits]).numpy()
    together = targets.shape[1] if multiple else 1  # the loss of several labels is the mean over the classes
    smoothed = (right + np.exp(-together * losses)) / 2
    return _Result(candidate.name, right, smoothed, float(losses[0].mean()), candidate.seconds)


def _is_right(logits: Tensor, targets: Floats, multiple: bool) -> NDArray[np.bool_]:
    """bool[l]: in multiple choice, the whole set of classes."""
    if multiple:
        return np.asarray(((logits.numpy() > 0) == (targets > 0.5)).all(1))
    return np.asarray(logits.argmax(1).numpy() == targets.argmax(1))


def _scores(result: _Result, in_use: _Result | None, labels: _Labels) -> CandidateScores:
    lead = error = expected = None
    if in_use and in_use is not result:
        lead, error = _lead(result.smoothed - in_use.smoothed, labels)
        expected = _expected(lead, error)
    return CandidateScores(
        name=result.name,
        accuracy=_mean(result.right, labels),
        balanced_accuracy=_balanced(result.right, labels),
        smoothed_accuracy=_mean(result.smoothed, labels),
        log_loss=result.log_loss,
        lead=lead,
        lead_error=error,
        expected_lead=expected,
        seconds=result.seconds,
    )


def _mean(figures: NDArray[np.bool_] | NDArray[np.float64], labels: _Labels) -> float:
    """Of figures in [0, 1], [repeats, l], over the pool that the labels stand for."""
    return float(np.clip(figures.mean(0) @ labels.shares, 0, 1))


def _balanced(right: NDArray[np.bool_], labels: _Labels) -> float:
    """Mean over the classes that occur of how often an image of the class is answered right."""
    occurring = labels.targets[:, labels.targets.any(0)] * labels.shares[:, None]
    if not occurring.size:
        return float(right.mean())
    return float(np.clip(np.mean(right.mean(0) @ occurring / occurring.sum(0)), 0, 1))


def _rank(scores: CandidateScores) -> tuple[float, float]:
    assert scores.smoothed_accuracy is not None and scores.log_loss is not None
    return scores.smoothed_accuracy, -scores.log_loss


def _lead(ahead: NDArray[np.float64], labels: _Labels) -> tuple[float, float]:
    """The mean of differences in [-1, 1], float64[repeats, l], and its standard error.

    The folds of a cross-validation share most of what they train on, so that their differences scatter less
    than the truth. Nadeau and Bengio's correction (2003, Machine Learning 52, section 4.2) adds the ratio of
    tested to trained images to their variance; a quarter at five folds.
    """
    by_fold = np.array(
        [
            np.average(ahead[repeat][fold == number], weights=labels.shares[fold == number])
            for repeat, fold in enumerate(labels.folds)
            for number in set(fold)
        ]
    )
    variance = by_fold.var(ddof=1) * (1 / len(by_fold) + 1 / (FOLDS - 1))
    return float((ahead @ labels.shares).mean()), float(np.sqrt(variance))


def _expected(lead: float, error: float) -> float:
    """The posterior mean of a normal lead whose prior has mean 0 and deviation PRIOR.

    By so much the expected loss of staying exceeds that of switching.
    """
    return lead / (1 + (error / PRIOR) ** 2)


def _beats(best: _Result, plain: _Result, labels: _Labels) -> bool:
    lead, error = _lead(best.right.astype(float) - plain.right, labels)
    return _mean(best.right, labels) >= WELL or lead > error
