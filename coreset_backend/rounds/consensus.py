"""Which label counts where annotators disagree or often err, and how often each agrees with the others.

Where as many annotators say one thing as another, each answer is weighed by how often its annotator errs
(Dawid and Skene 1979), beside the opinion of a model that has not seen the image's label. The hold-out is
left alone: it measures the model, so the model has no say in its labels, nor they in those that it learns.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats
from coreset_backend.errors import CorruptRound
from coreset_backend.evaluation.scores import proportion
from coreset_backend.project import Labels, Snapshot, Task
from coreset_backend.rounds.label_errors import GivenLabels, JudgedLabels, LabelQuality, judged_labels
from coreset_backend.store.record import AnnotatorAgreement
from coreset_backend.store.saved_round import StoredRound

log = logging.getLogger(__name__)
LEAST_LABELS = 100
"""With fewer labels the error rate is hardly known."""
NOISY = 0.1
"""From this share of wrong answers on, second opinions are asked for, and a model learns probabilities."""
KNOWN_ANSWERS = 20
"""An annotator's own error rate counts as much as that of all once so many answers are known."""

Numbers = NDArray[np.float64]


def learned_targets(given: GivenLabels, quality: LabelQuality) -> Floats:
    """float32[l, classes], what a head is fitted on: how probable each class is, if many answers are wrong.

    A doubtful label then counts for little, and a probable correction for much. Else the labels as given,
    as in multiple choice.
    """
    is_noisy = len(given.targets) >= LEAST_LABELS and quality.error_rate >= NOISY
    return quality.probabilities if is_noisy and not given.multiple else given.targets


def settled(snapshot: Snapshot, previous: StoredRound | None, holdout: frozenset[int], seed: int) -> Snapshot:
    """The snapshot with the more probable label wherever as many annotators say one thing as another.

    By the images as the ``previous`` round embedded them; without one, or with few labels, the latest answer
    counts, as it does in this round's ``holdout``, the ids of its tasks.
    """
    labels = snapshot.labels
    if labels is None or previous is None:
        return snapshot
    undecided = [task for task in snapshot.tasks if is_tied(task, labels) and task.task_id not in holdout]
    if not undecided:
        return snapshot
    try:
        judged = _judged_before(snapshot, labels, previous, holdout, seed)
    except CorruptRound as error:
        log.error("project %d: ties are settled by the latest answer: %s", snapshot.project_id, error)
        return snapshot
    if judged is None:
        return snapshot
    label_of = decisions(judged, labels, frozenset(task.task_id for task in undecided))
    tasks = [replace(task, label=label_of.get(task.task_id, task.label)) for task in snapshot.tasks]
    return replace(snapshot, tasks=tuple(tasks))


def is_tied(task: Task, labels: Labels) -> bool:
    """Whether as many annotators say one thing as another, and no ground truth decides."""
    if task.is_truth:
        return False
    count = Counter(name for vote in task.votes for name in vote)
    if labels.multiple:
        return any(2 * n == len(task.votes) for n in count.values())
    first_two = [n for _, n in count.most_common(2)]
    return len(first_two) == 2 and first_two[0] == first_two[1]


def _judged_before(
    snapshot: Snapshot, labels: Labels, previous: StoredRound, holdout: frozenset[int], seed: int
) -> JudgedLabels | None:
    """The labels outside the hold-out of the images that the previous round embedded; None for fewer than
    LEAST_LABELS."""
    embedded = previous.array("embedded_task_ids")
    tasks = [task for task in snapshot.tasks if task.label is not None and task.task_id not in holdout]
    ids = np.array([task.task_id for task in tasks], dtype=np.int64)
    known = np.isin(ids, embedded)
    if known.sum() < LEAST_LABELS:
        return None
    vectors = previous.array("embeddings")[np.searchsorted(embedded, ids[known])]
    is_prepared = bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3))
    found = [task for task, is_known in zip(tasks, known, strict=True) if is_known]
    return judged_labels(found, labels, vectors, seed, prepared=is_prepared)


def decisions(judged: JudgedLabels, labels: Labels, undecided: Collection[int]) -> dict[int, tuple[str, ...]]:
    """Task id -> the label of each ``undecided`` task."""
    error = min(max(judged.quality.error_rate, 1e-3), 0.499)
    weights = _weights(judged, labels, error)
    column = {name: index for index, name in enumerate(labels.names)}
    decide = _decide_multiple if labels.multiple else _decide_single
    return {
        task.task_id: decide(task, judged.quality.probabilities[row].astype(np.float64), column, weights)
        for row, task in enumerate(judged.tasks)
        if task.task_id in undecided
    }


def _weights(judged: JudgedLabels, labels: Labels, error: float) -> dict[str, float]:
    """By annotator: the log-odds that an answer is right, minus those at the average error rate."""
    column = {name: index for index, name in enumerate(labels.names)}
    answers, wrong = defaultdict[str, float](float), defaultdict[str, float](float)
    for row, task in enumerate(judged.tasks):
        p = judged.quality.probabilities[row]
        for who, vote in zip(task.annotators, task.votes or [task.label or ()], strict=True):
            named = [column[name] for name in vote]
            if labels.multiple:
                right = np.where(np.isin(np.arange(len(p)), named), p, 1 - p)
                answers[who] += len(p)
                wrong[who] += float((1 - right).sum())
            else:
                answers[who] += 1
                wrong[who] += 1 - float(p[named[0]])
    rates = {who: (KNOWN_ANSWERS * error + wrong[who]) / (KNOWN_ANSWERS + n) for who, n in answers.items()}
    return {who: float(_log_odds(1 - min(rate, 0.9)) - _log_odds(1 - error)) for who, rate in rates.items()}


def _decide_single(
    task: Task, p: Numbers, column: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[str, ...]:
    """The class that is the most probable of those with the most votes."""
    count = Counter(name for vote in task.votes for name in vote)
    score = {name: float(np.log(p[column[name]] + 1e-12)) for name in count}
    for who, vote in zip(task.annotators, task.votes, strict=True):
        score[vote[0]] += weights[who]
    return (
        max((name for name in score if count[name] == max(count.values())), key=lambda name: score[name]),
    )


def _decide_multiple(
    task: Task, p: Numbers, column: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[str, ...]:
    """Every class that most named; of those that half of them named, the probable ones."""
    agreed = []
    for name, index in column.items():
        named = [name in vote for vote in task.votes]
        odds = float(_log_odds(p[index]))
        for who, said in zip(task.annotators, named, strict=True):
            odds += weights[who] if said else -weights[who]
        if 2 * sum(named) > len(named) or (2 * sum(named) == len(named) and odds >= 0):
            agreed.append(name)
    return tuple(agreed)


def _log_odds(p: float | np.float64) -> np.float64:
    share = np.clip(p, 1e-6, 1 - 1e-6)
    return np.float64(np.log(share / (1 - share)))


def annotator_agreement(tasks: Sequence[Task], names: Mapping[str, str]) -> tuple[AnnotatorAgreement, ...]:
    """How often each annotator chose the agreed label, on tasks that several labelled; most labels first."""
    labeled, several, agreed = Counter[str](), Counter[str](), Counter[str]()
    for task in tasks:
        labeled.update(task.annotators)
        for who, vote in zip(task.annotators, task.votes, strict=False):
            several[who] += 1
            agreed[who] += set(vote) == set(task.label or ())
    return tuple(
        AnnotatorAgreement(
            name=names.get(who, f"annotator {who}"),
            labeled=count,
            agreement=proportion(agreed[who], several[who]) if several[who] else None,
        )
        for who, count in labeled.most_common()
    )
