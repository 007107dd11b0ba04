"""A person's requests for a finish: begin its audit, look, accept, undo; and its status in words."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from redis.exceptions import RedisError

from coreset_backend.backend import Backend
from coreset_backend.errors import FinishError, QueueError
from coreset_backend.finish.session import (
    Audited,
    FinishState,
    Look,
    Rest,
    Session,
    keep_session,
    read_session,
    session_to,
)
from coreset_backend.finish.work import accept, acceptable, begin, look_again, new_session, undo
from coreset_backend.jobs.keys import FINISH_LEASE
from coreset_backend.jobs.lease import project_lease
from coreset_backend.jobs.queue import request_publication
from coreset_backend.jobs.requests import PATIENCE, require_connected
from coreset_backend.reports import Count, Share

MOST_CHECKS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishStatus:
    """The finish of a project; docs/finish.md and docs/api.md describe each field.

    ``state`` is None where there is no finish, or only a plan of one. Every image that was unlabelled when it
    began is counted once in ``by_people``, ``by_model`` or ``left``. ``to_write``: so many images get the
    model's label if it is accepted now.
    """

    project: int
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
    to_check: Count = 0
    to_write: Count = 0
    by_people: Count = 0
    by_model: Count = 0
    left: Count = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks a finish for; raises FinishError for what cannot be promised."""

    accuracy: float = 0.95
    confidence: float = 0.95
    audits: int = 300
    per_class: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.accuracy < 1:
            raise FinishError(f"The accuracy must be from 0.5 to below 1, as in 0.95, not {self.accuracy}.")
        if not 0.5 <= self.confidence < 1:
            raise FinishError(f"The confidence must be from 0.5 to below 1, not {self.confidence}.")
        if not 1 <= self.audits <= MOST_CHECKS:
            raise FinishError(f"The audits must be from 1 to {MOST_CHECKS:,}, not {self.audits}.")


def finish_status(backend: Backend, project_id: int) -> FinishStatus:
    """The finish as the store has it: what was known at the last look. Raises FinishError."""
    session = read_session(backend.store, project_id)
    return no_finish(project_id) if session is None else _status(project_id, session)


def shown_finish(backend: Backend, project_id: int) -> FinishStatus:
    """The same for the page; what is wrong with it is its sentence."""
    try:
        return finish_status(backend, project_id)
    except FinishError as error:
        return replace(no_finish(project_id), sentence=str(error))


def no_finish(project_id: int) -> FinishStatus:
    return FinishStatus(
        project=project_id, state=None, sentence="No labels by the model are proposed for this project yet."
    )


def plan_finish(backend: Backend, project_id: int, wish: Wish) -> FinishStatus:
    """What the audit would be, without changing anything. Raises FinishError and LabelStudioError."""
    require_connected(backend.store, project_id)
    found = _new(backend, project_id, wish)
    return _status(project_id, found.session, planned=True)


def start_finish(backend: Backend, project_id: int, wish: Wish) -> FinishStatus:
    """Begin the audit: its images come first in the queue. Raises FinishError where one is under way."""
    with _held(backend, project_id):
        if (known := read_session(backend.store, project_id)) is not None:
            raise FinishError(
                f"A finish of project {project_id} is {known.state} already. Accept it, or undo it first."
            )
        found = _new(backend, project_id, wish)
        begin(backend, project_id, found)
    return _status(project_id, found.session, len(found.rows_to_write))


def _new(backend: Backend, project_id: int, wish: Wish) -> Look:
    return new_session(
        backend,
        project_id,
        wrong=round(1 - wish.accuracy, 6),
        confidence=wish.confidence,
        most=wish.audits,
        per_class=wish.per_class,
    )


def look_at_finish(backend: Backend, project_id: int) -> FinishStatus:
    """The finish by what people have labelled until now. Raises FinishError and LabelStudioError."""
    session = read_session(backend.store, project_id)
    if session is None:
        return no_finish(project_id)
    if session.state in (FinishState.WRITING, FinishState.UNDOING):
        return _status(project_id, session)
    with _held(backend, project_id):
        session = read_session(backend.store, project_id) or session
        found = look_again(backend, project_id, session)
        keep_session(backend.store, project_id, found.session)
    return _status(project_id, found.session, len(found.rows_to_write))


def plan_acceptance(backend: Backend, project_id: int) -> FinishStatus:
    """What would be written if the finish was accepted now. Raises FinishError where nothing has a bound."""
    session = session_to("accept", backend.store, project_id)
    found = acceptable(backend, project_id, session)
    return _status(project_id, found.session, len(found.rows_to_write))


def accept_finish(backend: Backend, project_id: int, *, annotations: bool, rest: Rest) -> FinishStatus:
    """Have a worker write the labels that have a bound. Raises FinishError where none has."""
    with _held(backend, project_id):
        found = accept(backend, project_id, annotations=annotations, rest=rest)
    return _status(project_id, found.session)


def undo_finish(backend: Backend, project_id: int) -> FinishStatus:
    """Have a worker remove all that the finish wrote, or end its audit. Raises FinishError without one."""
    with _held(backend, project_id):
        session = undo(backend, project_id)
    return _status(project_id, session)


@contextlib.contextmanager
def _held(backend: Backend, project_id: int) -> Iterator[None]:
    """Hold the finish while the block changes it; afterwards a worker goes on with it."""
    require_connected(backend.store, project_id)
    try:
        with project_lease(backend, project_id, FINISH_LEASE, patience=PATIENCE) as is_ours:
            if not is_ours:
                raise QueueError(
                    f"A worker is busy with the finish of project {project_id}. Try again in a moment."
                )
            yield
        request_publication(backend, project_id)
    except RedisError as error:
        raise QueueError(
            f"Redis does not answer ({error}). Check that Redis runs, then try again."
        ) from error


def _status(project_id: int, session: Session, to_write: int = 0, *, planned: bool = False) -> FinishStatus:
    return FinishStatus(
        project=project_id,
        state=None if planned else session.state,
        sentence=_sentence(session, to_write, planned),
        round=session.round,
        version=session.version,
        accuracy=round(1 - session.wrong, 6),
        confidence=session.confidence,
        audits=session.most,
        per_class=session.per_class,
        annotations=session.annotations,
        rest=session.rest,
        groups=session.audited,
        to_check=len(session.asked),
        to_write=to_write,
        by_people=session.by_people,
        by_model=session.by_model,
        left=session.left,
    )


def labels_left(found: FinishStatus) -> int:
    """How many images people still label if what has a bound now gets the model's labels."""
    if found.state is FinishState.WRITTEN:
        return found.left
    return found.left - sum(group.by_model for group in found.groups)


def counts_line(found: FinishStatus) -> str:
    """Who labels the images that were unlabelled when the finish began."""
    total = found.by_people + found.by_model + found.left
    counts = f"{found.by_people:,} by people + {found.by_model:,} by the model + {found.left:,} left"
    return f"Images: {total:,} = {counts}"


def _sentence(session: Session, to_write: int, planned: bool) -> str:
    """The state of the finish and what to do next, in words."""
    if session.remark:
        return session.remark
    if session.state is FinishState.WRITING:
        return f"The model's labels are being written on {len(session.accepted):,} images."
    if session.state is FinishState.UNDOING:
        return "What the finish wrote is being removed."
    if session.state is FinishState.WRITTEN:
        return f"{session.by_model:,} images are labelled by the model. {_bounds(session)}"
    images = sum(group.images for group in session.audited)
    if planned:
        each = " of each class" if session.per_class else ""
        return (
            f"The model of round {session.round} would propose labels for {images:,} images. People "
            f"would check at most {session.most:,}{each}, first in the queue, "
            f"without seeing its answer. {_bounds(session)}"
        )
    return f"{_bounds(session)} {_next(session)}".strip()


def _bounds(session: Session) -> str:
    return " ".join(_bound(session, group) for group in session.audited) or "There is nothing to check."


def _bound(session: Session, group: Audited) -> str:
    """What is known of a group of answers, in one sentence."""
    name = f"{group.name}: " if group.name else ""
    if not group.set_size:
        if group.needed is None:
            more = "the audit allows no more checks than are left"
        else:
            more = f"about {group.needed:,} more checks are needed"
        return f"{name}Too little is known of {group.images:,} images: {more}."
    return (
        f"{name}By {group.checked:,} checked answers {group.set_size:,} of {group.images:,} images can be "
        f"finished: at most {group.most_wrong:,} of them get a wrong label "
        f"({group.most_wrong / group.set_size:.1%}), at {session.confidence:.0%} confidence. "
        f"{_model_share(group)}"
    )


def _model_share(group: Audited) -> str:
    """The same count as a share of the labels by the model, which may all be among the wrong ones."""
    if not group.by_model:
        return "None of them would have the model's label."
    share = min(group.most_wrong / group.by_model, 1)
    return f"They are up to {share:.1%} of the {group.by_model:,} labels by the model."


def _next(session: Session) -> str:
    if session.asked:
        return f"{len(session.asked):,} answers to check are first in the queue."
    return "No more answers are to be checked."
