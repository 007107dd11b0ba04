"""Suspected label errors: how probably each label is right, and the labels that are probably wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.arrays import Floats, Rows
from coreset_backend.project import Labels, Task, class_targets
from coreset_backend.selection import nearest_others

NEIGHBORS = 20
LEAST_LABELS = 5
"""Of a class with fewer labels neither the head nor the neighbours know enough to suspect one."""
LABELS_COMPARED = 20_000
"""Neighbours are searched among at most this many labels, randomly sampled: time is n²."""
CORRECTED_TO, REPEATS = 2_000, 3
"""Up to so many labels the cross-validation is repeated in other folds, and once more on the labels as they
probably are: average precision rises by .015 at 1,000 labels, and by .001 at 5,000."""
PROBABLY_WRONG = 0.5

Numbers = NDArray[np.float64]
Fit = tuple[Numbers, float]
"""float64[l, classes], how probable each class is, and the share of the annotators' answers that is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class GivenLabels:
    """The labels of l images: ``targets`` float32[l, classes], 1 where the label names the class.

    ``votes`` float32[l, classes]: how many annotators named the class, of ``annotators`` float32[l].
    ``is_truth`` bool[l]: marked as ground truth, which is never suspected.
    """

    targets: Floats
    multiple: bool
    votes: Floats
    annotators: Floats
    is_truth: NDArray[np.bool_]

    @classmethod
    def of_one_annotator(cls, targets: Floats, *, multiple: bool) -> "GivenLabels":
        """Labels of which each is the answer of one annotator."""
        ones = np.ones(len(targets), dtype=np.float32)
        return cls(targets, multiple, targets, ones, np.zeros(len(targets), dtype=bool))

    def __getitem__(self, rows: Rows) -> "GivenLabels":
        """Those of some rows."""
        targets, votes, annotators = self.targets[rows], self.votes[rows], self.annotators[rows]
        return GivenLabels(targets, self.multiple, votes, annotators, self.is_truth[rows])


def given_labels(tasks: Sequence[Task], labels: Labels) -> GivenLabels:
    """The labels and votes of tasks that all have a label."""
    targets = class_targets(tasks, labels)
    votes, annotators = targets.copy(), np.ones(len(tasks), dtype=np.float32)
    column = {name: index for index, name in enumerate(labels.names)}
    for row, task in enumerate(tasks):
        if task.votes:
            count = Counter(column[name] for vote in task.votes for name in vote)
            votes[row] = [count[index] for index in range(len(column))]
            annotators[row] = len(task.votes)
    is_truth = np.array([task.is_truth for task in tasks], dtype=bool)
    return GivenLabels(targets, labels.multiple, votes, annotators, is_truth)


@dataclass(frozen=True, slots=True, eq=False)
class LabelQuality:
    """``quality`` float32[l], the probability that the label is right: a ranking of all labels.

    ``probabilities`` float32[l, classes]: how probable each class is, its votes included. ``error_rate``: the
    share of the annotators' answers that is wrong, in multiple choice of their answers to a single class.
    ``suspects`` int64[s]: rows of the labels that are probably wrong, the worst first. By suspect:
    ``suggested`` int8[s, classes], 1 for the classes of the suggested label, and ``shares`` float32[s], the
    share of the nearest labelled images that have them.
    """

    quality: Floats
    probabilities: Floats
    error_rate: float
    suspects: Rows
    suggested: NDArray[np.int8]
    shares: Floats


@dataclass(frozen=True, slots=True, eq=False)
class JudgedLabels:
    """The labelled ``tasks``, their labels as ``given`` and their ``quality``, by the same rows."""

    tasks: Sequence[Task]
    given: GivenLabels
    quality: LabelQuality

    @property
    def rate_of_wrong_answers(self) -> float:
        """In multiple choice an answer is wrong as soon as one of its classes is."""
        decisions = self.given.targets.shape[1] if self.given.multiple else 1
        return float(1 - (1 - self.quality.error_rate) ** decisions)


def judged_labels(
    tasks: Sequence[Task], labels: Labels, vectors: Floats, seed: int, *, prepared: bool
) -> JudgedLabels:
    """The quality of the labels of ``tasks``, which all have one; ``vectors`` float32[l, d]: their images."""
    given = given_labels(tasks, labels)
    return JudgedLabels(tasks, given, label_quality(vectors, given, seed, prepared=prepared))


def label_quality(vectors: Floats, given: GivenLabels, seed: int, *, prepared: bool = True) -> LabelQuality:
    """The quality of every label of the images ``vectors`` float32[l, d].

    Two opinions that do not know the image's own label: heads of a cross-validation (``prepared`` as in
    `model.held_out_logits`) and the nearest labelled images. In multiple choice the quality of a label is
    that of its least probable class. In a class with few labels it is that of an average label.
    """
    common = _common(given)
    if not common.any():
        targets = given.targets.astype(np.float64)
        return _judged((targets, 0.0), given, targets)
    near = _neighbors(vectors, seed)
    fit = _fitted(vectors, given, given.targets, near, common, prepared)
    if len(vectors) <= CORRECTED_TO:
        fit = _fitted(vectors, given, fit[0].astype(np.float32), near, common, prepared)
    return _judged(fit, given, given.targets[near].mean(1, dtype=np.float64))


def _judged(fit: Fit, given: GivenLabels, near: Numbers) -> LabelQuality:
    """The quality by the ``fit`` and the classes' shares of the neighbours ``near`` float64[l, classes]."""
    probabilities, error_rate = fit
    named = given.targets > 0
    if given.multiple:
        right = np.where(named, probabilities, 1 - probabilities).min(1)
        suggested = probabilities > 0.5
        changed = suggested != named
    else:
        right = probabilities[named]
        others = np.where(named, -1, probabilities)
        suggested = changed = others == others.max(1, keepdims=True, initial=-1)
    rows = np.flatnonzero(right < PROBABLY_WRONG)
    rows = rows[np.argsort(right[rows], kind="stable")]
    agreeing = np.where(suggested, near, 1 - near)
    shares = np.where(changed, agreeing, 1).min(1, initial=1)[rows]
    return LabelQuality(
        quality=right.astype(np.float32),
        probabilities=probabilities.astype(np.float32),
        error_rate=error_rate,
        suspects=rows,
        suggested=suggested[rows].astype(np.int8),
        shares=shares.astype(np.float32),
    )


def _common(given: GivenLabels) -> NDArray[np.bool_]:
    """Which labels can be judged: bool[l], or bool[l, classes] in multiple choice."""
    named = given.targets > 0
    count = named.sum(0)
    if given.multiple:
        often = np.minimum(count, len(named) - count) >= LEAST_LABELS
        return np.asarray(often & np.ones_like(named))
    often = count >= LEAST_LABELS
    return np.asarray((named & often).any(1) & (often.sum() > 1))


def held_out_logits(
    vectors: Floats, given: GivenLabels, targets: Floats | None = None, prepared: bool = True
) -> Numbers:
    """Logits float64[l, classes] of heads that were fitted without the image, on ``targets`` or as given."""
    repeats = REPEATS if len(vectors) <= CORRECTED_TO else 1
    folds = np.stack([model.folds_of(given.targets, seed) for seed in range(repeats)])
    fitted = given.targets if targets is None else targets
    logits = model.held_out_logits(vectors, fitted, folds, multiple=given.multiple, prepared=prepared)
    mean: Numbers = logits.mean(0).numpy()
    return mean


def _neighbors(vectors: Floats, seed: int) -> Rows:
    """int64[l, NEIGHBORS]: the nearest other labelled images, among fewer of them all the others."""
    compared = np.random.default_rng(seed).permutation(len(vectors))[:LABELS_COMPARED]
    return nearest_others(vectors, NEIGHBORS, among=compared)[0]


def _fitted(
    vectors: Floats,
    given: GivenLabels,
    targets: Floats,
    near: Rows,
    common: NDArray[np.bool_],
    prepared: bool,
) -> Fit:
    """How probable each class is, by its votes and the ``targets`` of others, and how often people err."""
    logits = held_out_logits(vectors, given, targets, prepared)
    count = targets[near].sum(1, dtype=np.float64)
    fit = _fit_multiple if given.multiple else _fit_single
    return fit(logits, count, near.shape[1], given, common)


def _fit_single(
    logits: Numbers, count: Numbers, neighbors: int, given: GivenLabels, common: NDArray[np.bool_]
) -> Fit:
    named, classes = given.targets > 0, logits.shape[1]
    shares = np.log((count + 1 / classes) / (neighbors + 1))
    noise = model.fit_label_noise([logits, shares], given.votes.astype(np.float64), common & ~given.is_truth)
    error = float(noise.error_rate.mean())
    average = np.where(named, 1 - error, error / (classes - 1))
    probabilities = np.where(common[:, None], noise.probabilities, average)
    return np.where(given.is_truth[:, None], named, probabilities), error


def _fit_multiple(
    logits: Numbers, count: Numbers, neighbors: int, given: GivenLabels, common: NDArray[np.bool_]
) -> Fit:
    """Every class of every image is a choice of its own between absent and present."""
    shares = np.log((count + 0.5) / (neighbors - count + 0.5))
    zero = np.zeros(logits.size)
    opinions = [np.stack([zero, each.ravel()], 1) for each in (logits, shares)]
    absent = given.annotators[:, None] - given.votes
    votes = np.stack([absent.ravel(), given.votes.ravel()], 1).astype(np.float64)
    judged = common & ~given.is_truth[:, None]
    noise = model.fit_label_noise(opinions, votes, judged.ravel(), by_class=True)
    probabilities = np.where(judged, noise.probabilities[:, 1].reshape(logits.shape), given.targets)
    return probabilities, float((votes / votes.sum() @ noise.error_rate).sum())
