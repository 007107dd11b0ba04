"""How far a finish is, by what people have labelled until now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coreset_backend.finish.audit import (
    RIGHT,
    UNKNOWN,
    WRONG,
    Goal,
    Standing,
    checks_needed,
    standing,
    to_check,
)
from coreset_backend.finish.copies import said_by_people
from coreset_backend.finish.proposal import Group, Proposal, groups
from coreset_backend.finish.session import Audited, FinishState, Session
from coreset_backend.project import Task

AT_ONCE = 40
"""Images to check that are put in front of the queue at a time."""
Flags = NDArray[np.bool_]


def goal_of(session: Session, group_count: int) -> Goal:
    """What is promised for each of so many groups; the promises hold together at the confidence."""
    return Goal(session.wrong, 1 - (1 - session.confidence) / max(group_count, 1), session.most)


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What is known of a finish: the ``standings`` of its ``groups``, by ``marks`` int8[n] of the answers.

    ``by_people``: the images that people labelled. ``follows``: those that can still take their answer,
    because nothing that people said of their original contradicts it.
    """

    session: Session
    proposal: Proposal
    groups: list[Group]
    standings: list[Standing]
    marks: NDArray[np.int8]
    by_people: Flags
    follows: Flags

    @property
    def rows_to_write(self) -> NDArray[np.int64]:
        """The proposal's rows that can get the label: in a set with a bound, and no person's."""
        rows = [group.rows[: now.taken] for group, now in zip(self.groups, self.standings, strict=True)]
        inside = np.sort(np.concatenate(rows)) if rows else np.empty(0, dtype=np.int64)
        return np.asarray(inside[self._gets_label(inside)])

    @property
    def contradicting(self) -> set[int]:
        """The copies whose original people have labelled otherwise since."""
        return {self.proposal.task_ids[row] for row in np.flatnonzero(~self.follows)}

    @property
    def tasks_to_write(self) -> tuple[int, ...]:
        """The tasks of those rows."""
        return tuple(self.proposal.task_ids[row] for row in self.rows_to_write)

    def _gets_label(self, rows: NDArray[np.int64]) -> Flags:
        return np.asarray((self.marks[rows] == UNKNOWN) & ~self.by_people[rows] & self.follows[rows])

    def tasks_to_check(self, count: int) -> list[int]:
        """The tasks to check next, of each group in turn."""
        goal, wanted = goal_of(self.session, len(self.groups)), []
        share = -(-count // max(len(self.groups), 1))
        for group, now in zip(self.groups, self.standings, strict=True):
            room = goal.most - self._checked(group)
            rows = to_check(group.answers, self.marks[group.rows], now, min(share, room))
            wanted += [self.proposal.task_ids[row] for row in group.rows[rows]]
        return wanted

    def _checked(self, group: Group) -> int:
        """How many answers of the group were checked because the audit asked for them."""
        asked = np.isin(np.array(self.proposal.task_ids, dtype=np.int64), self.session.ever_asked)
        return int((asked & (self.marks != UNKNOWN))[group.rows].sum())

    def audited(self) -> tuple[Audited, ...]:
        """How far each group is; once it is decided what is written, how far it was then."""
        if _decided(self.session):
            return tuple(
                replace(then, by_model=int(self._gets_label(group.rows[: then.set_size]).sum()))
                for group, then in zip(self.groups, self.session.audited, strict=True)
            )
        goal = goal_of(self.session, len(self.groups))
        return tuple(
            Audited(
                name=group.name,
                images=len(group.rows),
                checked=self._checked(group),
                wrong=now.wrong,
                set_size=now.taken,
                most_wrong=now.most_wrong,
                next_size=now.audited,
                needed=0
                if now.taken == now.audited
                else checks_needed(group.answers, self.marks[group.rows], goal, now.audited),
                by_model=int(self._gets_label(group.rows[: now.taken]).sum()),
            )
            for group, now in zip(self.groups, self.standings, strict=True)
        )


def look(
    session: Session, proposal: Proposal, labeled: Mapping[int, Task], gone: frozenset[int] = frozenset()
) -> Look:
    """How far the finish is, by the tasks that people have ``labeled`` and those that are ``gone``.

    An answer counts as wrong where people skipped the task, deleted it, said what cannot be read, or gave a
    label in bulk, which is no check.
    """
    marks = np.full(len(proposal.task_ids), UNKNOWN, dtype=np.int8)
    by_people = np.zeros(len(marks), dtype=bool)
    for row, task_id in enumerate(proposal.task_ids):
        task = labeled.get(task_id)
        if task_id in gone:
            marks[row] = WRONG
        elif task is not None and task.state in ("labeled", "skipped"):
            said = None if task.in_bulk else task.label
            right = said is not None and set(said) == set(proposal.named(row))
            marks[row] = RIGHT if right else WRONG
            by_people[row] = task.state == "labeled"
    parts = groups(proposal, session.per_class)
    goal, taken = goal_of(session, len(parts)), _decided(session) or [0] * len(parts)
    standings = [
        standing(group.answers, marks[group.rows], goal, since)
        for group, since in zip(parts, taken, strict=True)
    ]
    return Look(session, proposal, parts, standings, marks, by_people, _follows(proposal, labeled))


def _decided(session: Session) -> list[int]:
    """How many answers of each group were taken when it was decided to write them; empty before."""
    return [] if session.state is FinishState.AUDITING else [each.set_size for each in session.audited]


def _follows(proposal: Proposal, labeled: Mapping[int, Task]) -> Flags:
    """bool[n]: whether people still say of each copy's group what its answer is; True for the model."""
    said = [said_by_people(family, labeled) for family in proposal.families]
    rows = enumerate(proposal.family_of)
    follows = [said[code] == {proposal.named(row)} for row, code in rows]
    return np.array(follows or [True] * len(proposal.task_ids), dtype=bool)


def noted(found: Look) -> Session:
    """The session with what the look found, and which tasks to check next."""
    session = found.session
    asked = found.tasks_to_check(AT_ONCE) if session.state is FinishState.AUDITING else []
    return replace(
        session,
        asked=tuple(asked),
        ever_asked=tuple(sorted({*session.ever_asked, *asked})),
        audited=found.audited(),
    )
