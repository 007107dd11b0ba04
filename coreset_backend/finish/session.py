"""A finish of a project as it is kept in the store: what is promised, how far it is, what was written.

    MODEL_DIR/projects/<id>/finish.json             labels by the model; absent where there are none
    MODEL_DIR/projects/<id>/finish-proposal.json    its answers, frozen when it began
    MODEL_DIR/projects/<id>/copies.json             labels of copies, and
    MODEL_DIR/projects/<id>/copies-proposal.json    the labels that they would take
    MODEL_DIR/projects/<id>/finish-served.json      how far both were when the queue was last published

The answers are frozen when the finish begins. Later rounds learn from the audit, but do not change
them, so the model that is checked has never seen the checked images.
"""

import contextlib
import logging
from dataclasses import dataclass
from enum import StrEnum

from pydantic import TypeAdapter

from coreset_backend.errors import CorruptFile, FinishError
from coreset_backend.finish.proposal import Proposal
from coreset_backend.store.record import as_saved, taken
from coreset_backend.store.storage import Kept
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)


class Kind(StrEnum):
    """Whose labels are written: the model's, or those of an original on its near-duplicates."""

    MODEL = "model"
    COPIES = "copies"


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
    get the label. ``annotations``: as annotations too, else as predictions only. ``written``: how many tasks
    have it now. ``tasks`` of the project, and how many people have labelled, at the last look.
    ``refused``: on how many Label Studio did not accept it. ``contradicted``: groups of near-duplicates that
    people labelled differently. ``remark``: why the finish stands still, "" if it does not.
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
    written: int = 0
    tasks: int = 0
    people: int = 0
    looked: str = ""
    refused: int = 0
    contradicted: int = 0
    remark: str = ""
    kind: Kind = Kind.MODEL


@dataclass(frozen=True, slots=True)
class Served:
    """How far the ``finishes`` of a project were when its queue was published."""

    finishes: tuple[str, ...] = ()


SESSION = TypeAdapter(Session)
SERVED = TypeAdapter(Served)
PROPOSAL = TypeAdapter(Proposal)
NAMES = {Kind.MODEL: "finish", Kind.COPIES: "copies"}
"""How the files of a kind begin."""


def read_session(store: Store, project_id: int, kind: Kind) -> Session | None:
    """The project's finish of that kind; None without one. Raises FinishError where its file is damaged."""
    try:
        return _kept(store, project_id, kind).read_as(SESSION)
    except (CorruptFile, ValueError) as error:
        raise FinishError(
            f"The finish of project {project_id} cannot be read: {error}. {_advice(kind)}"
        ) from None


def session_to(act: str, store: Store, project_id: int, kind: Kind) -> Session:
    """The project's finish, to ``act`` on it. Raises FinishError without one."""
    session = read_session(store, project_id, kind)
    if session is None:
        raise FinishError(f"Project {project_id} has no finish to {act}; `{command(kind)}` begins one.")
    return session


def command(kind: Kind) -> str:
    """How the finish is asked for in a terminal."""
    return "coreset-backend finish --copies" if kind is Kind.COPIES else "coreset-backend finish"


def _advice(kind: Kind) -> str:
    name = NAMES[kind]
    return (
        f"Delete {name}.json and {name}-proposal.json in the project's folder below MODEL_DIR to begin anew."
    )


def read_proposal(store: Store, project_id: int, kind: Kind) -> Proposal:
    """The answers that the project's finish is about. Raises FinishError where they are damaged."""
    kept = _kept_proposal(store, project_id, kind)
    try:
        saved = kept.read()
        if saved is None:
            raise CorruptFile(kept, "it is missing")
        return taken(PROPOSAL, saved)
    except (CorruptFile, ValueError) as error:
        raise FinishError(f"The answers of the finish cannot be read: {error}. {_advice(kind)}") from None


def keep_proposal(store: Store, project_id: int, kind: Kind, proposal: Proposal) -> None:
    """Keep it; before the session that is about it. Raises Unwritable."""
    _kept_proposal(store, project_id, kind).write(as_saved(PROPOSAL, proposal))


def keep_session(store: Store, project_id: int, session: Session) -> None:
    """Keep it; raises Unwritable."""
    _kept(store, project_id, session.kind).write(as_saved(SESSION, session))


def forget_session(store: Store, project_id: int, kind: Kind) -> None:
    """End the finish; raises Unwritable."""
    _kept(store, project_id, kind).delete()
    _kept_proposal(store, project_id, kind).delete()


def readable_sessions(store: Store, project_id: int) -> list[Session]:
    """The project's finishes of both kinds; the log names those that cannot be read."""
    found = []
    for kind in Kind:
        try:
            session = read_session(store, project_id, kind)
        except FinishError as error:  # the rounds go on without
            log.error("project %d: %s", project_id, error)
        else:
            found += [session] if session else []
    return found


def is_audited(store: Store, project_id: int) -> bool:
    """Whether people check labels of the model or of copies."""
    return any(each.state is FinishState.AUDITING for each in readable_sessions(store, project_id))


def labeled_by_us(store: Store, project_id: int) -> frozenset[int]:
    """The tasks whose annotations are the model's or a copy's, or are about to be."""
    sessions = readable_sessions(store, project_id)
    return frozenset(task_id for each in sessions if each.annotations for task_id in each.accepted)


def audit_in_front(store: Store, project_id: int) -> tuple[int, ...]:
    """The tasks that people are asked to check next, in order; without the answer."""
    auditing = [each for each in readable_sessions(store, project_id) if each.state is FinishState.AUDITING]
    return tuple(task_id for each in auditing for task_id in each.asked)


def steps_of_finishes(store: Store, project_id: int) -> tuple[str, ...]:
    """How far each finish is; a step after which the queue has to be published again changes it."""
    return tuple(
        f"{each.version}: {each.state}, {len(each.ever_asked)} asked, {len(each.accepted)} accepted"
        for each in readable_sessions(store, project_id)
    )


def is_queue_behind(store: Store, project_id: int) -> bool:
    """Whether a finish has got further since the queue was published."""
    now = steps_of_finishes(store, project_id)
    return now != _served(store, project_id) and store.latest(project_id) is not None


def keep_served(store: Store, project_id: int, steps: tuple[str, ...]) -> None:
    """Note that the published queue is that of these steps; raises Unwritable."""
    if steps != _served(store, project_id):
        _kept_served(store, project_id).write(as_saved(SERVED, Served(steps)))


def _served(store: Store, project_id: int) -> tuple[str, ...] | None:
    """None where the file is damaged."""
    try:
        saved = _kept_served(store, project_id).read_as(SERVED)
        return () if saved is None else saved.finishes
    except (CorruptFile, ValueError) as error:
        log.error("project %d: its queue is published again: %s", project_id, error)
        return None


def _kept_served(store: Store, project_id: int) -> Kept:
    return store.kept(project_id, "finish-served.json")


def finished_behind(store: Store, project_id: int) -> tuple[frozenset[int], list[int]] | None:
    """The tasks that have the label of the model or of a copy, and the others by how they are served.

    None before anything is written; the list is empty if only labels of copies are.
    """
    written = {
        each.kind: each for each in readable_sessions(store, project_id) if each.state is FinishState.WRITTEN
    }
    if not written:
        return None
    labeled = frozenset(task_id for each in written.values() for task_id in each.accepted)
    by_model, surest_first = written.get(Kind.MODEL), list[int]()
    if by_model:
        with contextlib.suppress(FinishError):
            surest_first = list(read_proposal(store, project_id, Kind.MODEL).task_ids)
    hardest_last = by_model is None or by_model.rest is Rest.HARDEST_LAST
    return labeled, surest_first if hardest_last else surest_first[::-1]


def _kept(store: Store, project_id: int, kind: Kind) -> Kept:
    return store.kept(project_id, f"{NAMES[kind]}.json")


def _kept_proposal(store: Store, project_id: int, kind: Kind) -> Kept:
    return store.kept(project_id, f"{NAMES[kind]}-proposal.json")
