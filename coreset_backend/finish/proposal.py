"""What a model proposes for the unlabelled images of a round, and the order in which people check it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import FinishError
from coreset_backend.evaluation.scores import named_classes
from coreset_backend.finish.audit import Answers
from coreset_backend.finish.bound import random_order
from coreset_backend.project import Labels
from coreset_backend.store.record import STATES
from coreset_backend.store.saved_round import StoredRound

UNLABELED = ("selected", "reserve", "pool", "duplicate")
NONE = "none of these"


@dataclass(frozen=True, slots=True)
class Proposal:
    """Answers for unlabelled tasks, the surest first, as they are kept on disk.

    ``answers``: by task, the position in ``label_sets`` of the classes it gets. ``doubts``: the model's
    probability that this is wrong, 0 for copies. ``order``: positions in ``task_ids``, in the random order of
    the audit. ``families``: for copies, the task ids of each group of near-duplicates; ``family_of``: by
    task, the position of its group.
    """

    labels: Labels
    task_ids: tuple[int, ...]
    answers: tuple[int, ...]
    label_sets: tuple[tuple[str, ...], ...]
    doubts: tuple[float, ...]
    order: tuple[int, ...]
    families: tuple[tuple[int, ...], ...] = ()
    family_of: tuple[int, ...] = ()

    def named(self, row: int) -> tuple[str, ...]:
        """The classes that the task at that position gets."""
        return self.label_sets[self.answers[row]]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Answers that are bounded together: all of them, or those of one class. ``rows``: their positions in the
    proposal, the surest first; an answer's position in ``answers`` is the position of its row here."""

    name: str
    rows: NDArray[np.int64]
    answers: Answers


def propose(stored: StoredRound, taken: frozenset[int] = frozenset()) -> Proposal:
    """What the model of the round answers for all images that were unlabelled then, but those ``taken``.

    Its random slice comes first in the order: those images were sampled uniformly at random and are labelled
    after the model had answered. What the strategy picked has no such place. Raises FinishError where the
    round has no model.
    """
    labels = stored.record.labels
    if labels is None or not stored.has("probabilities"):
        raise FinishError(
            f"Round {stored.record.number} has no model yet, so it proposes no labels. Label the current "
            "batch, with at least two classes; the next round learns from it."
        )
    with stored.reading():
        embedded = stored.array("embedded_task_ids")
        probabilities = stored.array("probabilities", mapped=True)
        states = stored.array("states")[np.searchsorted(stored.array("task_ids"), embedded)]
        unlabeled = _unlabeled(states)
        has_label = np.isin(embedded[unlabeled], np.array([*taken], dtype=np.int64))
        rows = unlabeled[~has_label]
        doubts = 1 - _set_probability(probabilities[rows], labels.multiple)
        rows = rows[np.argsort(doubts, kind="stable")]
        named = named_classes(probabilities[rows], labels.multiple)
    lacking, answers = np.unique(~named, axis=0, return_inverse=True)  # sorted by the order of the classes
    # Of a pool whose copies were labelled since, because others were, the slice is no random sample any more.
    random_slice = () if has_label.any() else stored.record.random_slice
    first = np.flatnonzero(np.isin(embedded[rows], random_slice))
    among = states[rows] != STATES.index("duplicate")
    order = random_order(len(rows), first.tolist(), among, stored.record.number)
    return Proposal(
        labels=labels,
        task_ids=tuple(embedded[rows].tolist()),
        answers=tuple(answers.reshape(-1).tolist()),
        label_sets=tuple(
            tuple(name for name, lacks in zip(labels.names, each, strict=True) if not lacks)
            for each in lacking
        ),
        doubts=tuple(np.sort(doubts).tolist()),
        order=tuple(order.tolist()),
    )


def _unlabeled(states: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.flatnonzero(np.isin(states, [STATES.index(name) for name in UNLABELED]))


def could_finish(
    states: NDArray[np.uint8], probabilities: NDArray[np.float32], multiple: bool, wrong: float = 0.05
) -> int:
    """The most unlabelled images of whose answers the model expects at most the share ``wrong`` to be wrong.

    ``states`` uint8[n] and ``probabilities`` float32[n, classes] are those of a round's images.
    """
    doubts = np.sort(1 - _set_probability(probabilities[_unlabeled(states)], multiple))
    expected = np.cumsum(doubts) / np.arange(1, len(doubts) + 1)
    return int(np.searchsorted(expected, wrong, side="right"))


def _set_probability(probabilities: NDArray[np.float32], multiple: bool) -> NDArray[np.float64]:
    """float64[n]: the model's probability that all it answers for an image is right."""
    odds = probabilities.astype(np.float64)
    if multiple:
        return np.asarray(np.maximum(odds, 1 - odds).prod(1))
    return np.asarray(odds.max(1))


def groups(proposal: Proposal, per_class: bool) -> list[Group]:
    """All answers as one group, or one for each class; in multiple choice for each set of classes."""
    doubts, order = np.array(proposal.doubts), np.array(proposal.order, dtype=np.int64)
    if not per_class:
        return [Group("", np.arange(len(doubts)), Answers(doubts, order))]
    codes, made = np.array(proposal.answers, dtype=np.int64), []
    for code, named in enumerate(proposal.label_sets):
        rows = np.flatnonzero(codes == code)
        inside = np.searchsorted(rows, order[codes[order] == code])
        made.append(Group(" + ".join(named) or NONE, rows, Answers(doubts[rows], inside)))
    return made
