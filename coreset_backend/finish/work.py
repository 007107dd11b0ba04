"""A finish, step by step: begin, look, serve what is to be checked, write what was accepted, undo.

Every step can be repeated: a job that was killed in the middle is completed by the next one, from what the
session in the store says. Hold the project's lease.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from coreset_backend.backend import Backend
from coreset_backend.errors import FinishError, ProjectGone
from coreset_backend.finish.proposal import propose
from coreset_backend.finish.session import (
    FinishState,
    Look,
    Rest,
    Session,
    forget_session,
    keep_proposal,
    keep_session,
    look,
    noted,
    read_proposal,
    read_session,
    session_to,
)
from coreset_backend.label_studio.annotations import MODEL_LABELS
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.model_labels import (
    annotate_as_predicted,
    annotations_by_model,
    delete_annotations,
    hide_model_labels,
    show_model_labels,
)
from coreset_backend.project import Labels, Prediction, Snapshot

BARE_SCORE = 1.0
"""Orders nothing: the project never shows the version of the model's labels."""


def new_session(
    backend: Backend, project_id: int, *, wrong: float, confidence: float, most: int, per_class: bool
) -> Look:
    """A finish of the project's newest round as it would begin; nothing is kept or changed.

    Raises FinishError where there is nothing to propose, and LabelStudioError.
    """
    stored = backend.store.latest(project_id)
    if stored is None:
        raise FinishError(f"Project {project_id} has no round yet, so no model proposes labels.")
    proposal, now = propose(stored), datetime.now(UTC)
    if not proposal.task_ids:
        raise FinishError(f"Round {stored.record.number} left no unlabelled image to finish.")
    session = Session(
        round=stored.record.number,
        version=f"{MODEL_LABELS}{stored.record.number}-{now:%Y%m%dT%H%M%S}",
        wrong=wrong,
        confidence=confidence,
        most=most,
        per_class=per_class,
        started=now.isoformat(),
    )
    snapshot = _labels_of(backend, project_id, proposal.labels)
    found = look(session, proposal, {task.task_id: task for task in snapshot.tasks}, frozenset())
    return replace(found, session=noted(found))


def begin(backend: Backend, project_id: int, found: Look) -> None:
    """Keep the new finish: its audit is served with the next publication."""
    keep_proposal(backend.store, project_id, found.proposal)
    keep_session(backend.store, project_id, found.session)


def look_again(backend: Backend, project_id: int, session: Session) -> Look:
    """How far the finish is, by what people have labelled so far. Raises FinishError and LabelStudioError."""
    proposal = read_proposal(backend.store, project_id)
    snapshot = _labels_of(backend, project_id, proposal.labels)
    labeled = {task.task_id: task for task in snapshot.tasks}
    open_ones = [task_id for task_id in session.ever_asked if task_id not in labeled]
    gone = frozenset(open_ones) - backend.label_studio.fetch_existing(project_id, open_ones)
    found = look(session, proposal, labeled, gone)
    return replace(found, session=noted(found))


def _labels_of(backend: Backend, project_id: int, labels: Labels) -> Snapshot:
    """The labelled tasks of the project; raises FinishError where its classes are not those any more."""
    newest = backend.store.latest(project_id)
    control = backend.settings_by_round(project_id, newest.record if newest else None).control
    snapshot = backend.label_studio.fetch_labels(project_id, control=control)
    if snapshot.labels != labels:
        raise FinishError(
            "The classes of the label config are not those that the model answered, so the finish stands "
            "still. Put the label config back, or remove the finish with `coreset-backend finish --undo` "
            "and begin anew after the next round."
        )
    return snapshot


def advance(backend: Backend, project_id: int) -> tuple[str, bool]:
    """Do what the finish needs next: what was done in words, "" for nothing, and whether to publish again."""
    session = read_session(backend.store, project_id)
    if session is None:
        return "", False
    if session.state is FinishState.UNDOING:
        return _undo(backend, project_id, session), True
    try:
        if session.state is FinishState.WRITING:
            return _write(backend, project_id, session), True
        return _serve_checks(backend, project_id, session)
    except ProjectGone:
        raise
    except FinishError as error:
        if str(error) != session.remark:
            keep_session(backend.store, project_id, replace(session, remark=str(error)))
        return "", False


def _serve_checks(backend: Backend, project_id: int, session: Session) -> tuple[str, bool]:
    """Look, and ask for the next checks where some are done; what was written is counted anew."""
    found = look_again(backend, project_id, session)
    now = replace(found.session, remark="")
    if now == session:
        return "", False
    keep_session(backend.store, project_id, now)
    if not set(now.asked) - set(session.asked):
        return "", False
    return f"{len(now.asked)} answers of the model are to be checked", True


def has_work(backend: Backend, project_id: int) -> bool:
    """Whether `advance` has something to do. Raises FinishError, LabelStudioError."""
    session = read_session(backend.store, project_id)
    if session is None or session.state is FinishState.WRITTEN:
        return False
    if session.state is not FinishState.AUDITING:
        return not session.remark
    annotated = backend.label_studio.fetch_annotated(project_id)
    return any(task_id in annotated for task_id in session.asked)


def _write(backend: Backend, project_id: int, session: Session) -> str:
    """Write the accepted labels, never where a person has labelled or skipped the task since."""
    label_studio, found = backend.label_studio, look_again(backend, project_id, session)
    rows = {found.proposal.task_ids[row]: row for row in found.rows_to_write}
    accepted = [task_id for task_id in session.accepted if task_id in rows]
    predictions = [
        Prediction(
            task_id,
            BARE_SCORE,
            session.version,
            found.proposal.named(rows[task_id]),
            1 - found.proposal.doubts[rows[task_id]],
        )
        for task_id in accepted
    ]
    gone = set(label_studio.add_missing(project_id, predictions, found.proposal.labels))
    show_model_labels(label_studio, project_id, session.version)
    if session.annotations:
        named = [each.task_id for each in predictions if each.label and each.task_id not in gone]
        annotate_as_predicted(label_studio, project_id, session.version, named)
    kept = tuple(task_id for task_id in accepted if task_id not in gone)
    done = noted(
        replace(found, session=replace(session, state=FinishState.WRITTEN, accepted=kept, remark=""))
    )
    keep_session(backend.store, project_id, done)
    return f"the model's labels are written on {len(kept)} tasks"


def _undo(backend: Backend, project_id: int, session: Session) -> str:
    """Remove all that the finish has written, and nothing else."""
    count = remove_labels(backend.label_studio, project_id, session.version)
    forget_session(backend.store, project_id)
    return f"the finish is undone, {count} annotations of the model are deleted"


def remove_labels(label_studio: LabelStudio, project_id: int, version: str) -> int:
    """Delete the version's annotations that no person has changed, its predictions and the tab; how many
    annotations there were."""
    annotation_ids: Sequence[int] = [
        each for ids, _ in annotations_by_model(label_studio, project_id, version).values() for each in ids
    ]
    delete_annotations(label_studio, annotation_ids)
    if kept := label_studio.delete_versions(project_id, {version}):
        raise FinishError(f"The predictions of version '{kept[0]}' could not be deleted; it is tried again.")
    hide_model_labels(label_studio, project_id)
    return len(annotation_ids)


def accept(backend: Backend, project_id: int, *, annotations: bool, rest: Rest) -> Look:
    """Decide that the labels with a bound are written, by the next `advance`. Raises FinishError."""
    session = session_to("accept", backend.store, project_id)
    if session.state is not FinishState.AUDITING:
        raise FinishError(f"The labels of the model are {session.state} already.")
    found = acceptable(backend, project_id, session)
    accepted = tuple(found.proposal.task_ids[row] for row in found.rows_to_write)
    decided = replace(
        found.session,
        state=FinishState.WRITING,
        accepted=accepted,
        annotations=annotations,
        rest=rest,
        asked=(),
        remark="",
    )
    keep_session(backend.store, project_id, decided)
    return replace(found, session=decided)


def acceptable(backend: Backend, project_id: int, session: Session) -> Look:
    """The look by which labels would be accepted now. Raises FinishError where nothing has a bound yet."""
    found = look_again(backend, project_id, session)
    if not len(found.rows_to_write):
        needed = [each.needed for each in found.audited() if each.needed is not None]
        more = f"about {min(needed)} more checks are needed" if needed else "the budget of checks is used up"
        raise FinishError(
            f"Too little is known to promise {1 - session.wrong:.0%} right labels: {more}. "
            "Nothing was written."
        )
    return found


def undo(backend: Backend, project_id: int) -> Session:
    """Decide that what the finish wrote is removed, by the next `advance`; ends an audit too."""
    session = session_to("undo", backend.store, project_id)
    undoing = replace(session, state=FinishState.UNDOING, asked=(), remark="")
    keep_session(backend.store, project_id, undoing)
    return undoing
