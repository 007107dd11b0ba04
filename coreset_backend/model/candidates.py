"""Which backbone suits a pool: candidates compared by what a head makes of them on the labels so far.

Every candidate is cross-validated on the same images in the same folds, by the head that a round would fit
on it. A candidate replaces the backbone in use only where its lead is clear: an embedding of the whole pool
is costly, and a choice that swings with every few labels helps nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

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
LEVEL = 0.01
"""How often one audition of equal candidates may end in a switch, however many they are."""
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
    plain: Candidate | None = None,
) -> Comparison:
    """Compare backbones by cross-validated accuracy on ``targets`` float32[l, classes].

    ``current`` names the one in use, which is replaced by the best of the others if its lead is clear; where
    it is no candidate, the best is chosen. ``plain``: plain colours, which no backbone is.
    Raises ValueError without a candidate, or for embeddings of another number of rows.
    """
    if not candidates or any(len(each.embeddings) != len(targets) for each in candidates):
        rows = [len(each.embeddings) for each in candidates]
        raise ValueError(f"{len(targets)} targets, candidates with {rows} embeddings")
    folds = np.stack([folds_of(targets, seed) for seed in range(REPEATS)])
    results = [_cross_validated(each, targets, multiple, folds) for each in candidates]
    in_use = next((each for each in results if each.name == current), None)
    scores = [each.scores(in_use, targets, multiple) for each in results]
    ranked = sorted(zip(scores, results, strict=True), key=lambda pair: _rank(pair[0]), reverse=True)
    rivals = [pair for pair in ranked if pair[1] is not in_use]
    chosen = current if in_use else ranked[0][0].name
    if in_use and rivals and _is_clear(rivals[0][0], len(rivals)):
        chosen = rivals[0][0].name
    beats = plain is None or _beats(ranked[0][1], _cross_validated(plain, targets, multiple, folds))
    return Comparison(chosen, tuple(score for score, _ in ranked), beats)


@dataclass(frozen=True, slots=True, eq=False)
class _Result:
    """A candidate's answers to images held out: ``right`` bool[repeats, l], ``logits`` of the first repeat,
    float64[l, classes], and the ``folds`` int64[repeats, l] of all."""

    name: str
    right: NDArray[np.bool_]
    logits: Tensor
    folds: Rows
    seconds: float | None

    def scores(self, in_use: "_Result | None", targets: Floats, multiple: bool) -> CandidateScores:
        lead = error = None
        if in_use and in_use is not self:
            lead, error = _lead(self, in_use)
        return CandidateScores(
            name=self.name,
            accuracy=float(self.right.mean()),
            balanced_accuracy=_balanced(self.right, targets),
            log_loss=_log_loss(self.logits, targets, multiple),
            lead=lead,
            lead_error=error,
            seconds=self.seconds,
        )


def _cross_validated(candidate: Candidate, targets: Floats, multiple: bool, folds: Rows) -> _Result:
    logits = held_out_logits(
        candidate.embeddings, targets, folds, multiple=multiple, prepared=candidate.prepared
    )
    right = np.stack([_is_right(each, targets, multiple) for each in logits])
    return _Result(candidate.name, right, logits[0], folds, candidate.seconds)


def _is_right(logits: Tensor, targets: Floats, multiple: bool) -> NDArray[np.bool_]:
    """bool[l]: in multiple choice, the whole set of classes."""
    if multiple:
        return np.asarray(((logits.numpy() > 0) == (targets > 0.5)).all(1))
    return np.asarray(logits.argmax(1).numpy() == targets.argmax(1))


def _balanced(right: NDArray[np.bool_], targets: Floats) -> float:
    """Mean over the classes that occur of how often an image of the class is answered right."""
    occurring = targets[:, targets.any(0)]
    if not occurring.size:
        return float(right.mean())
    return float(np.mean(right.mean(0) @ occurring / occurring.sum(0)))


def _log_loss(logits: Tensor, targets: Floats, multiple: bool) -> float:
    """At the temperature that suits the logits best: how sure a head is has its own remedy."""
    wanted = torch.from_numpy(targets).double()
    return float(loss_of(logits / best_temperature(logits, wanted, multiple), wanted, multiple).mean())


def _rank(scores: CandidateScores) -> tuple[float, float, float]:
    assert (
        scores.accuracy is not None and scores.balanced_accuracy is not None and scores.log_loss is not None
    )
    return scores.accuracy, scores.balanced_accuracy, -scores.log_loss


def _lead(one: _Result, other: _Result) -> tuple[float, float]:
    """How much more of the images ``one`` answers right, in [-1, 1], and the standard error of that.

    The folds of a cross-validation share most of what they train on, so that their differences scatter less
    than the truth. Nadeau and Bengio's correction (2003, Machine Learning 52, section 4.2) adds the ratio of
    tested to trained images to their variance; a quarter at five folds.
    """
    ahead = one.right.astype(float) - other.right
    by_fold = np.array(
        [
            ahead[repeat][fold == number].mean()
            for repeat, fold in enumerate(one.folds)
            for number in set(fold)
        ]
    )
    variance = by_fold.var(ddof=1) * (1 / len(by_fold) + 1 / (FOLDS - 1))
    return float(ahead.mean()), float(np.sqrt(variance))


def _is_clear(scores: CandidateScores, rivals: int) -> bool:
    """Whether the best of so many rivals leads by more than its standard error allows for at LEVEL.

    A level of 1 % and not 5, since a project holds half a dozen auditions and each may swing: of 43 pools
    with equal candidates and four auditions each, one or two had a switch, with one rival as with three.
    `test_equal_candidates_are_not_exchanged` counts again.
    """
    assert scores.lead is not None and scores.lead_error is not None
    return scores.lead > NormalDist().inv_cdf(1 - LEVEL / rivals) * scores.lead_error


def _beats(best: _Result, plain: _Result) -> bool:
    lead, error = _lead(best, plain)
    return bool(best.right.mean() >= WELL) or lead > error
