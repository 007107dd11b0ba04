"""A person's requests for a finish: begin its audit, look, accept, undo; and its status in words.

Of both kinds: labels by the model, and those of copies.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from coreset_backend.backend import Backend
from coreset_backend.errors import FinishError, QueueError
from coreset_backend.finish.bulk import BulkState, open_write
from coreset_backend.finish.look import Look
from coreset_backend.finish.session import (
    Audited,
    FinishState,
    Kind,
    Rest,
    Session,
    keep_session,
    read_session,
    readable_sessions,
)
from coreset_backend.finish.tally import Tally, tally, tally_of
from coreset_backend.finish.words import sentence
from coreset_backend.finish.work import (
    Wish,
    accept,
    acceptable,
    begin,
    look_again,
    new_session,
    read_labels,
    recount,
    undo,
)
from coreset_backend.jobs.keys import BULK_LEASE, FINISH_LEASE
from coreset_backend.jobs.queue import request_publication
from coreset_backend.jobs.requests import held_work, require_connected
from coreset_backend.reports import Count, Share
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

NONE_YET = {
    Kind.MODEL: "No labels by the model are proposed for this project yet.",
    Kind.COPIES: "Near-duplicates do not take the label of their original in this project.",
}
WHOSE = {Kind.MODEL: "finish by the model", Kind.COPIES: "finish of copies"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishStatus:
    """A finish of a project; docs/finish.md and docs/api.md describe each field.

    ``state`` is None where there is no finish of the ``kind``, or only a plan of one. ``labels`` counts all
    tasks of the project. ``to_write``: so many images get the label if it is accepted now.
    """

    project: int
    kind: Kind
    state: FinishState | None
    sentence: str
    round: Count = 0
    version: str = ""
    accuracy: Share = 0.95
    confidence: Share = 0.95
    audits: Count = 0
    per_class: bool = False
    annotations: bool = False
    rest: Rest = Rest.HARDEST_FIRST
    groups: tuple[Audited, ...] = ()
    contradicted: Count = 0
    to_check: Count = 0
    to_write: Count = 0
    written: Count = 0
    labels: Tally = field(default_factory=Tally)


def finish_status(backend: Backend, project_id: int, kind: Kind) -> FinishStatus:
    """The finish as the store has it: what was known at the last look. Raises FinishError."""
    return _known(backend.store, project_id, kind, backend.store.latest(project_id))


def shown_finish(store: Store, project_id: int, kind: Kind, newest: StoredRound | None) -> FinishStatus:
    """The same for the page, by the ``newest`` round; what is wrong with it is its sentence."""
    try:
        return _known(store, project_id, kind, newest)
    except FinishError as error:
        return _none_yet(store, project_id, kind, newest, str(error))


def _known(store: Store, project_id: int, kind: Kind, newest: StoredRound | None) -> FinishStatus:
    session = read_session(store, project_id, kind)
    if session is None:
        return _none_yet(store, project_id, kind, newest, NONE_YET[kind])
    return _status(store, project_id, session, newest)


def _none_yet(
    store: Store, project_id: int, kind: Kind, newest: StoredRound | None, sentence: str
) -> FinishStatus:
    labels = tally(store, project_id, newest)
    return FinishStatus(project=project_id, kind=kind, state=None, sentence=sentence, labels=labels)


def plan_finish(backend: Backend, project_id: int, wish: Wish) -> FinishStatus:
    """What the audit would be, without changing anything. Raises FinishError and LabelStudioError."""
    require_connected(backend.store, project_id)
    found = new_session(backend, project_id, wish)
    return _status_now(backend, project_id, found.session, planned=True)


def start_finish(backend: Backend, project_id: int, wish: Wish) -> FinishStatus:
    """Begin the audit: its images come first in the queue.

    Raises FinishError where one is under way, or labels in bulk are.
    """
    _require_no_bulk(backend.store, project_id)  # at once: the worker that writes them holds their lease
    with _held(backend, project_id), _no_new_bulk(backend, project_id):
        _require_no_other(backend, project_id, wish.kind)
        found = new_session(backend, project_id, wish)
        begin(backend, project_id, found)
    return _status_now(backend, project_id, found.session, len(found.rows_to_write))


def _require_no_other(backend: Backend, project_id: int, kind: Kind) -> None:
    """Raises FinishError where there is such a finish, or one of the other kind is not done."""
    if (known := read_session(backend.store, project_id, kind)) is not None:
        act = "Undo it first" if kind is Kind.COPIES else "Accept it, or undo it first"
        raise FinishError(f"A {WHOSE[kind]} of project {project_id} is {known.state} already. {act}.")
    for other in readable_sessions(backend.store, project_id):
        if other.state is not FinishState.WRITTEN:
            raise FinishError(
                f"A {WHOSE[other.kind]} of project {project_id} is {other.state}, and people check only one "
                "at a time. Wait until its labels are written, or undo it first."
            )


def _require_no_bulk(store: Store, project_id: int) -> None:
    """Raises FinishError while labels in bulk are written or undone."""
    if (write := open_write(store, project_id)) is not None:
        act = "undone" if write.state is BulkState.UNDOING else "written"
        raise FinishError(
            f"Labels in bulk of project {project_id} are being {act}, and would bias the checks. "
            f"Begin once they are {act}."
        )


@contextlib.contextmanager
def _no_new_bulk(backend: Backend, project_id: int) -> Iterator[None]:
    """Keep labels in bulk from beginning while the block runs. Raises FinishError where they have."""
    with held_work(backend, project_id, BULK_LEASE, "labels in bulk", lambda: None):
        _require_no_bulk(backend.store, project_id)
        yield


def look_at_finish(backend: Backend, project_id: int, kind: Kind) -> FinishStatus:
    """The finish by what people have labelled until now. Raises FinishError and LabelStudioError."""

    def is_decided() -> bool:
        session = read_session(backend.store, project_id, kind)
        return session is None or session.state in (FinishState.WRITING, FinishState.UNDOING)

    if is_decided():
        return finish_status(backend, project_id, kind)
    try:
        with _held(backend, project_id, is_decided):
            found = _look(backend, project_id, kind)
    except QueueError:  # the worker that holds it may have found meanwhile what this look was to find
        if not is_decided():
            raise
        return finish_status(backend, project_id, kind)
    if found is None:
        return finish_status(backend, project_id, kind)
    return _status_now(backend, project_id, found.session, len(found.rows_to_write))


def _look(backend: Backend, project_id: int, kind: Kind) -> Look | None:
    session = read_session(backend.store, project_id, kind)
    if session is None:
        return None
    labeled = read_labels(backend, project_id)
    found = look_again(backend, project_id, session, labeled)
    keep_session(backend.store, project_id, found.session)
    recount(backend, project_id, labeled)
    return found


def plan_acceptance(backend: Backend, project_id: int) -> FinishStatus:
    """What would be written if the finish was accepted now. Raises FinishError where nothing has a bound."""
    found = acceptable(backend, project_id)
    return _status_now(backend, project_id, found.session, len(found.rows_to_write))


def accept_finish(backend: Backend, project_id: int, *, annotations: bool, rest: Rest) -> FinishStatus:
    """Have a worker write the labels that have a bound. Raises FinishError where none has."""
    with _held(backend, project_id):
        found = accept(backend, project_id, annotations=annotations, rest=rest)
    return _status_now(backend, project_id, found.session)


def undo_finish(backend: Backend, project_id: int, kind: Kind) -> FinishStatus:
    """Have a worker remove all that the finish wrote, or end its audit. Raises FinishError without one."""
    with _held(backend, project_id):
        session = undo(backend, project_id, kind)
    return _status_now(backend, project_id, session)


def _held(
    backend: Backend, project_id: int, give_up: Callable[[], bool] = lambda: False
) -> contextlib.AbstractContextManager[None]:
    """Hold the finish while the block changes it; afterwards a worker goes on with it."""
    require_connected(backend.store, project_id)
    go_on = partial(request_publication, backend, project_id)
    return held_work(backend, project_id, FINISH_LEASE, "finish", go_on, give_up)


def _status_now(
    backend: Backend, project_id: int, session: Session, to_write: int = 0, *, planned: bool = False
) -> FinishStatus:
    newest = backend.store.latest(project_id)
    return _status(backend.store, project_id, session, newest, to_write, planned=planned)


def _status(
    store: Store,
    project_id: int,
    session: Session,
    newest: StoredRound | None,
    to_write: int = 0,
    *,
    planned: bool = False,
) -> FinishStatus:
    asked = () if planned else session.asked
    others = [each for each in readable_sessions(store, project_id) if each.kind is not session.kind]
    labels = tally_of([*others, replace(session, asked=asked)], newest)
    return FinishStatus(
        project=project_id,
        kind=session.kind,
        state=None if planned else session.state,
        sentence=sentence(session, planned),
        round=session.round,
        version=session.version,
        accuracy=round(1 - session.wrong, 6),
        confidence=session.confidence,
        audits=session.most,
        per_class=session.per_class,
        annotations=session.annotations,
        rest=session.rest,
        groups=session.audited,
        contradicted=session.contradicted,
        to_check=len(session.asked),
        to_write=to_write,
        written=session.written,
        labels=labels,
    )


def labels_left(found: FinishStatus) -> int:
    """How many images people still label if what has a bound now gets the model's labels."""
    left = found.labels.left + found.labels.audit
    if found.state is FinishState.WRITTEN:
        return left
    return left - sum(group.by_model for group in found.groups)


def counts_line(labels: Tally) -> str:
    """Who labels the tasks of the project."""
    return (
        f"Labels: {labels.tasks:,} tasks = {labels.by_people:,} by people + {labels.by_copies:,} as copies "
        f"+ {labels.by_model:,} by the model + {labels.audit:,} in the audit + {labels.left:,} left"
    )
