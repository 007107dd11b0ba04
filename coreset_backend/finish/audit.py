"""The audit of a model's answers: which to check next, and how many can be taken by what was checked so far.

The answers are sorted by how sure the model is, and a *set* is the first so many of them. Sets grow by
GROWTH: only when the bound of one is low enough is the next one looked at, so no correction for many sets is
needed (fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test", section 4). All sets share one
random order of the images: the part of it that lies in a set is a random sample of that set, and what was
checked for a small set counts for every larger one.

The bound is on the images of a set that have a wrong label in the end. Those that people checked have theirs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.finish.bound import LOOK, fewer_wrong, most_wrong

GROWTH = 1.05
FIRST_ERRORS = 0.5
"""The first set is the one in which the model expects this share of the wrong answers that are allowed."""
FEWEST = 150
"""Images in the first set, where there are so many."""
UNKNOWN, RIGHT, WRONG = -1, 0, 1
Marks = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Goal:
    """The promise: at most the share ``wrong`` is wrong, at the ``confidence``, by up to ``most`` checks."""

    wrong: float = 0.05
    confidence: float = 0.95
    most: int = 300

    @property
    def chance(self) -> float:
        return 1 - self.confidence


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Answers of a model, the surest first.

    ``doubts`` float64[n] ascending: the probability by the model that an answer is wrong. ``order`` int64[n]:
    the rows in the random order in which they are checked.
    """

    doubts: NDArray[np.float64]
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.doubts)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an audit is.

    The first ``taken`` answers can be taken, 0 for none: at most ``most_wrong`` of those images have a wrong
    label in the end. ``known`` answers are known, ``wrong`` of them wrong. The set that is audited has
    ``audited`` images.
    """

    taken: int
    most_wrong: int
    known: int
    wrong: int
    audited: int


def set_sizes(doubts: NDArray[np.float64], goal: Goal) -> Iterator[int]:
    """The sizes of the sets in the order in which they are looked at, fixed before anything is checked."""
    if not len(doubts):
        return
    expected = np.cumsum(doubts) / np.arange(1, len(doubts) + 1)
    size = int(np.searchsorted(expected, FIRST_ERRORS * goal.wrong))
    size = min(max(size, FEWEST), len(doubts))
    yield size
    while size < len(doubts):
        size = min(max(int(size * GROWTH), size + 1), len(doubts))
        yield size


def standing(answers: Answers, marks: Marks, goal: Goal, since: int = 0) -> Standing:
    """How far the audit is; ``marks`` int8[n]: UNKNOWN, RIGHT or WRONG, whoever found out and why.

    ``since``: what was taken before with fewer marks, which stays taken.
    """
    taken = audited = since
    for audited in set_sizes(answers.doubts, goal):
        if audited > since:
            if not _passes(answers, marks, goal, audited):
                break
            taken = audited
    return Standing(
        taken=taken,
        most_wrong=_most_wrong(answers, marks, goal, taken) if taken else 0,
        known=int((marks != UNKNOWN).sum()),
        wrong=int((marks == WRONG).sum()),
        audited=audited,
    )


def to_check(answers: Answers, marks: Marks, now: Standing, count: int) -> NDArray[np.int64]:
    """The rows to check next, at most ``count``, for the set that is audited; none once all is taken."""
    if now.taken == now.audited:
        return np.empty(0, dtype=np.int64)
    inside = answers.order[answers.order < now.audited]
    rows: NDArray[np.int64] = inside[marks[inside] == UNKNOWN][: max(count, 0)]
    return rows


def _sample(answers: Answers, marks: Marks, size: int) -> NDArray[np.bool_]:
    """bool[n]: whether wrong, for the images of the set up to the first unknown one in the random order."""
    inside = marks[answers.order[answers.order < size]]
    unknown = np.flatnonzero(inside == UNKNOWN)
    return np.asarray(inside[: unknown[0] if len(unknown) else None] == WRONG)


def _passes(answers: Answers, marks: Marks, goal: Goal, size: int) -> bool:
    allowed = int(goal.wrong * size + 1e-9) + int((marks[:size] == WRONG).sum())
    sample = _sample(answers, marks, size)
    return fewer_wrong(size, allowed + 1, sample, chance=goal.chance, most=goal.most)


def _most_wrong(answers: Answers, marks: Marks, goal: Goal, size: int) -> int:
    bound = most_wrong(size, _sample(answers, marks, size), chance=goal.chance, most=goal.most)
    unknown = int((marks[:size] == UNKNOWN).sum())
    return min(max(bound - int((marks[:size] == WRONG).sum()), 0), unknown)


def checks_needed(answers: Answers, marks: Marks, goal: Goal, size: int) -> int | None:
    """How many more checks the set of ``size`` images needs, if as many of them find an error as so far.

    None where those that are left are too few.
    """
    known, corrected = _sample(answers, marks, size), int((marks[:size] == WRONG).sum())
    room = min(size, goal.most)
    rate = known.sum() / max(len(known), LOOK)
    for n in range(len(known) // LOOK * LOOK + LOOK, room + 1, LOOK):
        more = np.zeros(n - len(known), dtype=bool)
        expected = int(rate * len(more))
        more[len(more) - expected :] = True
        allowed = int(goal.wrong * size + 1e-9) + corrected + expected
        ahead = np.concatenate([known, more])
        if fewer_wrong(size, allowed + 1, ahead, chance=goal.chance, most=goal.most):
            return len(more)
    return None
