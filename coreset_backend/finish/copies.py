"""Copies follow their original: what unlabelled near-duplicates of labelled images would be labelled.

All copies are one set, and one audit is about all of them: people label some, drawn at random, without seeing
the label that they would get.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coreset_backend.errors import FinishError
from coreset_backend.finish.bound import random_order
from coreset_backend.finish.proposal import Proposal
from coreset_backend.finish.words import left_out_words
from coreset_backend.project import Labels, Task
from coreset_backend.store.findings import duplicates
from coreset_backend.store.saved_round import StoredRound

Answer = tuple[str, ...]


def said_by_people(family: Iterable[int], tasks: Mapping[int, Task]) -> set[Answer | None]:
    """The different labels that people gave the tasks of a group; None among them: one that cannot be read.

    Where several annotators labelled a task, each of their votes counts, unless a ground truth decided.
    """
    said: set[Answer | None] = set()
    for task_id in family:
        task = tasks.get(task_id)
        if task is not None and task.state == "labeled":
            said |= set(task.votes) if task.votes and not task.is_truth else {task.label}
    return said


@dataclass(frozen=True, slots=True)
class Followed:
    """Groups of near-duplicates: the task ids of each, and the one answer that people gave it.

    ``contradicted``: how many groups are left out because people gave them different answers.
    """

    families: list[tuple[int, ...]]
    answers: list[Answer]
    contradicted: int


def followed(families: Iterable[Sequence[int]], tasks: Mapping[int, Task]) -> Followed:
    """The groups in which people gave one answer that can be read."""
    found = Followed([], [], sum(len(said_by_people(each, tasks)) > 1 for each in families))
    for family in families:
        said = said_by_people(family, tasks)
        answer = next(iter(said), None)
        if len(said) == 1 and answer is not None:
            found.families.append(tuple(family))
            found.answers.append(answer)
    return found


def propose_copies(
    stored: StoredRound, labels: Labels, tasks: Mapping[int, Task], taken: frozenset[int]
) -> tuple[Proposal, int]:
    """The labels that near-duplicates would take, and how many groups people have labelled differently.

    ``tasks``: those that are annotated or skipped; they and those ``taken`` by the model take none. Raises
    FinishError where there is no copy.
    """
    found = followed(duplicates(stored), tasks)
    copies = [
        (task_id, code)
        for code, family in enumerate(found.families)
        for task_id in family
        if task_id not in tasks and task_id not in taken
    ]
    if not copies:
        raise FinishError(_why_none(stored, found.contradicted))
    label_sets = sorted({*found.answers})
    n = len(copies)
    proposal = Proposal(
        labels=labels,
        task_ids=tuple(task_id for task_id, _ in copies),
        answers=tuple(label_sets.index(found.answers[code]) for _, code in copies),
        label_sets=tuple(label_sets),
        doubts=(0.0,) * n,
        order=tuple(random_order(n, [], np.ones(n, dtype=bool), stored.record.number).tolist()),
        families=tuple(found.families),
        family_of=tuple(code for _, code in copies),
    )
    return proposal, found.contradicted


def _why_none(stored: StoredRound, contradicted: int) -> str:
    number = stored.record.number
    if not stored.has("duplicate_groups"):
        return f"Round {number} has no groups of near-duplicates; the next round finds them."
    return (
        "No unlabelled image is a near-duplicate of one that people have labelled."
        f"{left_out_words(contradicted)}"
    )
