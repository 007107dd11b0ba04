"""One finish of a project as it is kept in the store: what is promised, how far it is, what was written.

    MODEL_DIR/projects/<id>/finish.json             the session; absent where there is none
    MODEL_DIR/projects/<id>/finish-proposal.json    the model's answers, frozen when it began

The answers are frozen when the finish begins. Later rounds learn from the audit, but do not change
them, so the model that is checked has never seen the checked images.
"""

import contextlib
import logging
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from coreset_backend.errors import CorruptFile, FinishError
from coreset_backend.files import flush, is_there, read_sealed, saving, write_sealed
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
from coreset_backend.finish.proposal import Group, Proposal, groups
from coreset_backend.project import Task
from coreset_backend.store.record import as_saved, taken
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)
AT_ONCE = 40
"""Images to check that are put in front of the queue at a time."""


class FinishState(StrEnum):
    AUDITING = "auditing"
    """People check answers; nothing of the model is written yet."""
    WRITING = "writing"
    """The model's labels are being written; a job that is killed goes on."""
    WRITTEN = "written"
    UNDOING = "undoing"
    """What was written is being removed; a job that is killed goes on."""


class Rest(StrEnum):
    HARDEST_FIRST = "hardest-first"
    HARDEST_LAST = "hardest-last"


@dataclass(frozen=True, slots=True)
class Audited:
    """How far a group is; docs/finish.md has each field. ``name`` is "" where all classes are one group.

    ``needed``: checks until the next set is decided if they turn out as those so far; None where the budget
    of checks does not reach that far. ``by_model``: the images of the set that would have the model's label.
    """

    name: str
    images: int
    checked: int
    wrong: int
    set_size: int
    most_wrong: int
    next_size: int
    needed: int | None
    by_model: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """A finish. ``version`` names the model's labels in Label Studio.

    ``asked``: the task ids to check next; ``ever_asked``: all that ever were. ``accepted``: the task ids that
    get the model's label. ``annotations``: as annotations too, else as predictions only. Every image of the
    proposal is labelled ``by_people``, ``by_model`` or ``left``. ``remark``: why the finish stands still, ""
    if it does not.
    """

    round: int
    version: str
    wrong: float
    confidence: float
    most: int
    per_class: bool
    started: str
    state: FinishState = FinishState.AUDITING
    rest: Rest = Rest.HARDEST_FIRST
    annotations: bool = False
    asked: tuple[int, ...] = ()
    ever_asked: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    audited: tuple[Audited, ...] = ()
    by_people: int = 0
    by_model: int = 0
    left: int = 0
    remark: str = ""


SESSION = TypeAdapter(Session)
PROPOSAL = TypeAdapter(Proposal)


def read_session(store: Store, project_id: int) -> Session | None:
    """The project's finish; None without one. Raises FinishError where its file is damaged."""
    path = _path(store, project_id)
    if not is_there(path):
        return None
    try:
        return taken(SESSION, read_sealed(path))
    except (CorruptFile, ValueError) as error:
        raise FinishError(f"The finish of project {project_id} cannot be read: {error}. {ADVICE}") from None


def session_to(act: str, store: Store, project_id: int) -> Session:
    """The project's finish, to ``act`` on it. Raises FinishError without one."""
    session = read_session(store, project_id)
    if session is None:
        raise FinishError(
            f"Project {project_id} has no finish to {act}; `coreset-backend finish` begins one."
        )
    return session


ADVICE = "Delete finish.json and finish-proposal.json in the project's folder below MODEL_DIR to begin anew."


def read_proposal(store: Store, project_id: int) -> Proposal:
    """The answers that the project's finish is about. Raises FinishError where they are damaged."""
    try:
        return taken(PROPOSAL, read_sealed(_proposal_path(store, project_id)))
    except (CorruptFile, ValueError) as error:
        raise FinishError(f"The answers of the finish cannot be read: {error}. {ADVICE}") from None


def keep_proposal(store: Store, project_id: int, proposal: Proposal) -> None:
    """Keep it; before the session that is about it. Raises Unwritable."""
    write_sealed(_proposal_path(store, project_id), as_saved(PROPOSAL, proposal))


def keep_session(store: Store, project_id: int, session: Session) -> None:
    """Keep it; raises Unwritable."""
    write_sealed(_path(store, project_id), as_saved(SESSION, session))


def forget_session(store: Store, project_id: int) -> None:
    """End the finish; raises Unwritable."""
    for path in (_path(store, project_id), _proposal_path(store, project_id)):
        with saving(path):
            path.unlink(missing_ok=True)
            flush(path.parent)


def labeled_by_model(store: Store, project_id: int) -> frozenset[int]:
    """The tasks whose annotations are the model's, or are about to be."""
    session = _readable(store, project_id)
    return frozenset(session.accepted) if session and session.annotations else frozenset()


def audit_in_front(store: Store, project_id: int) -> tuple[int, ...]:
    """The tasks that people are asked to check next, in order; without the model's answer."""
    session = _readable(store, project_id)
    return session.asked if session and session.state is FinishState.AUDITING else ()


def finished_behind(store: Store, project_id: int) -> tuple[frozenset[int], list[int]] | None:
    """The tasks that have the model's label, and the others by how they are served; None before."""
    session = _readable(store, project_id)
    if session is None or session.state is not FinishState.WRITTEN:
        return None
    with contextlib.suppress(FinishError):
        surest_first = list(read_proposal(store, project_id).task_ids)
        hardest_last = session.rest is Rest.HARDEST_LAST
        return frozenset(session.accepted), surest_first if hardest_last else surest_first[::-1]
    return None


def _readable(store: Store, project_id: int) -> Session | None:
    try:
        return read_session(store, project_id)
    except FinishError as error:  # the rounds go on without
        log.error("project %d: %s", project_id, error)
        return None


def goal_of(session: Session, group_count: int) -> Goal:
    """What is promised for each of so many groups; the promises hold together at the confidence."""
    return Goal(session.wrong, 1 - (1 - session.confidence) / max(group_count, 1), session.most)


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What is known of a finish: the ``standings`` of its ``groups``, by ``marks`` int8[n] of the answers."""

    session: Session
    proposal: Proposal
    groups: list[Group]
    standings: list[Standing]
    marks: NDArray[np.int8]
    by_people: NDArray[np.bool_]

    @property
    def rows_to_write(self) -> NDArray[np.int64]:
        """The proposal's rows that can get the model's label: in a set with a bound, and no person's."""
        rows = [group.rows[: now.taken] for group, now in zip(self.groups, self.standings, strict=True)]
        inside = np.sort(np.concatenate(rows)) if rows else np.empty(0, dtype=np.int64)
        return np.asarray(inside[self._gets_model_label(inside)])

    def _gets_model_label(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray((self.marks[rows] == UNKNOWN) & ~self.by_people[rows])

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
                by_model=int(self._gets_model_label(group.rows[: now.taken]).sum()),
            )
            for group, now in zip(self.groups, self.standings, strict=True)
        )


def look(session: Session, proposal: Proposal, labeled: dict[int, Task], gone: frozenset[int]) -> Look:
    """How far the finish is, by the tasks that people have ``labeled`` and those that are ``gone``.

    An answer counts as wrong where people skipped the task, deleted it, or said what cannot be read.
    """
    marks = np.full(len(proposal.task_ids), UNKNOWN, dtype=np.int8)
    by_people = np.zeros(len(marks), dtype=bool)
    for row, task_id in enumerate(proposal.task_ids):
        task = labeled.get(task_id)
        if task_id in gone:
            marks[row] = WRONG
        elif task is not None and task.state in ("labeled", "skipped"):
            right = task.label is not None and set(task.label) == set(proposal.named(row))
            marks[row] = RIGHT if right else WRONG
            by_people[row] = task.state == "labeled"
    parts = groups(proposal, session.per_class)
    goal = goal_of(session, len(parts))
    standings = [standing(group.answers, marks[group.rows], goal) for group in parts]
    return Look(session, proposal, parts, standings, marks, by_people)


def noted(found: Look) -> Session:
    """The session with what the look found, and which tasks to check next."""
    session = found.session
    by_model = np.isin(np.array(found.proposal.task_ids), session.accepted) & ~found.by_people
    asked = found.tasks_to_check(AT_ONCE) if session.state is FinishState.AUDITING else []
    return replace(
        session,
        asked=tuple(asked),
        ever_asked=tuple(sorted({*session.ever_asked, *asked})),
        audited=found.audited(),
        by_people=int(found.by_people.sum()),
        by_model=int(by_model.sum()),
        left=int((~found.by_people & ~by_model).sum()),
    )


def _path(store: Store, project_id: int) -> Path:
    return store.replay_path(project_id).with_name("finish.json")


def _proposal_path(store: Store, project_id: int) -> Path:
    return store.replay_path(project_id).with_name("finish-proposal.json")
