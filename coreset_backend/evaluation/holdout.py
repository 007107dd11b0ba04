"""How good a model is, measured on labels that it never saw, each figure with its interval.

Pure: arrays in, figures out. An interval is a 95 % interval for what the figure would be on endless images
of the hold-out's kind. The hold-out is made of labelled tasks, and a batch is no fair sample of the pool: it
holds more rare and hard images. Its accuracy compares rounds; it is, as a rule, below that on the pool.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.project import Task

Z = 1.959964  # of a 95 % interval
DRAWS = 1000
NAMED = 0.5  # a class that is likelier is named in multiple choice; so a model that knows nothing names none

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval, measured on ``n`` images; ``low <= value <= high``."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """A class on the hold-out. ``n`` images have it; what cannot be measured on them is None."""

    name: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model on the hold-out.

    ``accuracy``: share of images whose answer is right; in multiple choice, the whole set of classes.
    ``macro_f1``: mean F1 of the classes that the hold-out has. ``gain``: accuracy minus that of the round
    before on the same images, which neither model was trained on; None where there are none.
    """

    accuracy: Interval
    macro_f1: Interval
    per_class: tuple[ClassFigures, ...]
    gain: Interval | None = None


# ---------------------------------------------------------------- who measures


def holdout_task_ids(
    tasks: Iterable[Task], previous: Iterable[int], share: float, seed: int
) -> frozenset[int]:
    """The labelled tasks that measure the model and never train it: ``share`` of each class, rounded down.

    A task of several classes counts for the rarest of them, one of none for a class of its own. Once chosen,
    a task stays (``previous``) for as long as it has a label: accuracies of different rounds are comparable.
    Which tasks join is decided by a hash of their id, not by their order. A task that shows the same image as
    one of them joins too, or the model would be asked what it was taught.
    """
    labeled = [(task, task.label) for task in tasks if task.label is not None]
    count = Counter(name for _, label in labeled for name in label)
    by_class: dict[str | None, list[int]] = {}
    for task, label in labeled:
        rarest = min(label, key=lambda name: (count[name], name), default=None)
        by_class.setdefault(rarest, []).append(task.task_id)
    uris = {task.task_id: task.uri for task, _ in labeled}
    fixed = set(previous)
    holdout: set[int] = set()
    for members in by_class.values():
        members.sort(key=lambda task_id: (task_id not in fixed, _draw(task_id, seed)))
        stay = sum(task_id in fixed for task_id in members)
        holdout.update(members[: max(stay, int(share * len(members)))])
    images = {uris[task_id] for task_id in holdout} - {None}
    return frozenset(holdout | {task_id for task_id, uri in uris.items() if uri in images})


def _draw(task_id: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{task_id}".encode()).digest()


# ---------------------------------------------------------------- what they measure


def evaluate(
    names: Sequence[str],
    targets: NDArray[np.floating[Any]],
    probabilities: NDArray[np.floating[Any]],
    *,
    multiple: bool,
    before: NDArray[np.floating[Any]] | None = None,
) -> Evaluation:
    """The figures of a model whose ``probabilities`` float[n, classes] are asked to be ``targets``, alike.

    ``before`` float[n, classes] is what the model of the round before said, NaN for images that do not
    compare the two. Raises ValueError for no image, or for shapes that differ.
    """
    if not len(targets) or targets.shape != probabilities.shape or targets.shape[1] != len(names):
        raise ValueError(f"targets {targets.shape}, probabilities {probabilities.shape}, {len(names)} names")
    is_so, said = targets > NAMED, named_classes(probabilities, multiple)
    right = (is_so == said).all(1)
    gain = None
    if before is not None and (both := ~np.isnan(before).any(1)).any():
        gain = paired_gain((is_so[both] == named_classes(before[both], multiple)).all(1), right[both])
    return Evaluation(
        accuracy=proportion(int(right.sum()), len(right)),
        macro_f1=macro_f1(is_so, said),
        per_class=class_figures(names, is_so, said),
        gain=gain,
    )


def named_classes(probabilities: NDArray[np.floating[Any]], multiple: bool) -> Flags:
    """bool[n, classes]: the answer to each image: the likeliest class, or every one that is likely."""
    if multiple:
        return np.asarray(probabilities > NAMED)
    said = np.zeros(probabilities.shape, dtype=bool)
    said[np.arange(len(said)), probabilities.argmax(1)] = True
    return said


def proportion(hits: int, n: int) -> Interval:
    """``hits`` of ``n`` with Wilson's interval (1927), which holds at small n and at 0 and 1 too."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits of {n}")
    share, spread = hits / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z * np.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return _interval(share, float(max(middle - half, 0)), float(min(middle + half, 1)), n)


def paired_gain(before: Flags, after: Flags) -> Interval:
    """How many more of the same images are right than before, as a share: in [-1, 1].

    ``before`` and ``after``: bool[n], which were right. Only images on which the two differ speak; the
    interval is Agresti and Min's (2005, half an image added to each of the four cells).
    """
    n = len(after)
    won, lost = (after & ~before).sum() + 0.5, (before & ~after).sum() + 0.5
    middle = (won - lost) / (n + 2)
    half = Z * np.sqrt((won + lost) - (won - lost) ** 2 / (n + 2)) / (n + 2)
    value = (int(after.sum()) - int(before.sum())) / n
    return _interval(value, float(max(middle - half, -1)), float(min(middle + half, 1)), n)


def macro_f1(is_so: Flags, said: Flags) -> Interval:
    """Mean F1 of the classes that occur in ``is_so`` bool[n, classes]; ``said`` alike is what was answered.

    The interval is a Bayesian bootstrap over the images (Rubin 1981) with half a hit, half a miss and half
    a false alarm added to each class, so that a class of three images, all right, is not thought perfect.
    """
    present = is_so.any(0)
    if not present.any():
        return Interval(0.0, 0.0, 1.0, len(is_so))
    cells = np.stack([is_so & said, is_so & ~said, ~is_so & said])[:, :, present]
    hits, misses, alarms = cells.sum(1)
    value = float((2 * hits / (2 * hits + misses + alarms)).mean())
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(DRAWS, len(is_so))).astype(np.float32)
    weights *= len(is_so) / weights.sum(1, keepdims=True)
    hits, misses, alarms = (
        weights @ cell.astype(np.float32) + rng.gamma(0.5, size=(DRAWS, int(present.sum()))) for cell in cells
    )
    drawn = (2 * hits / (2 * hits + misses + alarms)).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return _interval(value, float(low), float(high), len(is_so))


def class_figures(names: Sequence[str], is_so: Flags, said: Flags) -> tuple[ClassFigures, ...]:
    """Precision, recall and F1 of each class, in the order of ``names``; bool[n, classes] as in macro_f1."""
    hits, have, answered = (is_so & said).sum(0), is_so.sum(0), said.sum(0)
    return tuple(
        ClassFigures(
            name=name,
            n=int(have[code]),
            precision=float(hits[code] / answered[code]) if answered[code] else None,
            recall=float(hits[code] / have[code]) if have[code] else None,
            f1=float(2 * hits[code] / (have[code] + answered[code])) if have[code] else None,
        )
        for code, name in enumerate(names)
    )


def _interval(value: float, low: float, high: float, n: int) -> Interval:
    return Interval(float(value), min(low, float(value)), max(high, float(value)), n)
