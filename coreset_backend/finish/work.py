"""A finish, step by step: begin, look, serve what is to be checked, write what was accepted, undo.

Every step can be repeated: a job that was killed in the middle is completed by the next one, from what the
session in the store says. Hold the project's lease.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from coreset_backend.backend import Backend
from coreset_backend.errors import FinishError, ProjectGone
from coreset_backend.finish.copies import propose_copies
from coreset_backend.finish.look import Look, look, noted
from coreset_backend.finish.proposal import Proposal, propose
from coreset_backend.finish.session import (
    FinishState,
    Kind,
    Rest,
    Session,
    command,
    forget_session,
    keep_proposal,
    keep_session,
    read_proposal,
    readable_sessions,
    session_to,
)
from coreset_backend.label_studio.annotations import COPY_LABELS, MODEL_LABELS
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.model_labels import (
    annotate_as_predicted,
    annotated_by_model,
    delete_by_model,
    show_model_labels,
)
from coreset_backend.project import Labels, Prediction, Snapshot, Task
from coreset_backend.store.saved_round import StoredRound

BARE_SCORE = 1.0
"""Orders nothing: the project never shows the version of the model's labels."""


MOST_CHECKS = 10_000
PREFIX = {Kind.MODEL: MODEL_LABELS, Kind.COPIES: COPY_LABELS}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks a finish for; raises FinishError for what cannot be promised."""

    kind: Kind = Kind.MODEL
    accuracy: float = 0.95
    confidence: float = 0.95
    audits: int = 300
    per_class: bool = False
    annotations: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.accuracy < 1:
            raise FinishError(f"The accuracy must be from 0.5 to below 1, as in 0.95, not {self.accuracy}.")
        if not 0.5 <= self.confidence < 1:
            raise FinishError(f"The confidence must be from 0.5 to below 1, not {self.confidence}.")
        if not 1 <= self.audits <= MOST_CHECKS:
            raise FinishError(f"The audits must be from 1 to {MOST_CHECKS:,}, not {self.audits}.")


@dataclass(frozen=True, slots=True)
class Labeled:
    """What is labelled now: the ``tasks`` that are annotated or skipped, of ``count`` in the project, and how
    many predictions each version has."""

    snapshot: Snapshot
    tasks: dict[int, Task]
    count: int
    versions: dict[str, int]


def read_labels(backend: Backend, project_id: int) -> Labeled:
    """What is labelled now. Raises LabelStudioError."""
    newest = backend.store.latest(project_id)
    control = backend.settings_by_round(project_id, newest.record if newest else None).control
    snapshot = backend.label_studio.fetch_labels(project_id, control=control)
    return Labeled(
        snapshot,
        {task.task_id: task for task in snapshot.tasks},
        backend.label_studio.fetch_project(project_id).task_number,
        backend.label_studio.model_versions(project_id),
    )


def new_session(backend: Backend, project_id: int, wish: Wish) -> Look:
    """A finish of the project's newest round as it would begin; nothing is kept or changed.

    Raises FinishError where there is nothing to propose, and LabelStudioError.
    """
    stored = backend.store.latest(project_id)
    if stored is None:
        raise FinishError(f"Project {project_id} has no round yet, so nothing can be proposed.")
    now, labeled = datetime.now(UTC), read_labels(backend, project_id)
    others = [each for each in readable_sessions(backend.store, project_id) if each.kind is not wish.kind]
    taken = {task_id for each in others for task_id in each.accepted}
    # No checks: whoever gave labels in bulk may have chosen the images by the model's answer.
    taken |= {task_id for task_id, task in labeled.tasks.items() if task.in_bulk}
    proposal, contradicted = _proposed(wish.kind, stored, labeled, frozenset(taken))
    # The chance of being misled is spent in proportion to the checks: on few copies all of it.
    most = min(wish.audits, len(proposal.task_ids)) if wish.kind is Kind.COPIES else wish.audits
    session = Session(
        round=stored.record.number,
        version=f"{PREFIX[wish.kind]}{stored.record.number}-{now:%Y%m%dT%H%M%S}",
        wrong=round(1 - wish.accuracy, 6),
        confidence=wish.confidence,
        most=most,
        per_class=wish.per_class,
        started=now.isoformat(),
        annotations=wish.annotations,
        contradicted=contradicted,
        kind=wish.kind,
    )
    found = look(session, proposal, labeled.tasks)
    return replace(found, session=_counted(noted(found), labeled))


def _proposed(
    kind: Kind, stored: StoredRound, labeled: Labeled, taken: frozenset[int]
) -> tuple[Proposal, int]:
    """What is proposed, and how many groups of copies people have labelled differently."""
    if kind is Kind.COPIES:
        if labeled.snapshot.labels is None:
            raise FinishError("The project is not trained on any <Choices>, so copies have no label to take.")
        return propose_copies(stored, labeled.snapshot.labels, labeled.tasks, taken)
    proposal = propose(stored, taken)
    if not proposal.task_ids:
        raise FinishError(f"Round {stored.record.number} left no unlabelled image to finish.")
    _require_same_classes(proposal.labels, labeled, kind)
    return proposal, 0


def begin(backend: Backend, project_id: int, found: Look) -> None:
    """Keep the new finish: its audit is served with the next publication."""
    keep_proposal(backend.store, project_id, found.session.kind, found.proposal)
    keep_session(backend.store, project_id, found.session)


def look_again(backend: Backend, project_id: int, session: Session, labeled: Labeled) -> Look:
    """How far the finish is, by what people have labelled so far. Raises FinishError and LabelStudioError."""
    proposal = read_proposal(backend.store, project_id, session.kind)
    _require_same_classes(proposal.labels, labeled, session.kind)
    open_ones = [task_id for task_id in session.ever_asked if task_id not in labeled.tasks]
    gone = frozenset(open_ones) - backend.label_studio.fetch_existing(project_id, open_ones)
    found = look(session, proposal, labeled.tasks, gone)
    return replace(found, session=_counted(noted(found), labeled))


def _require_same_classes(labels: Labels, labeled: Labeled, kind: Kind) -> None:
    """Raises FinishError where the label config has other classes than those that were answered."""
    if labeled.snapshot.labels != labels:
        raise FinishError(
            "The classes of the label config are not those that were answered, so the finish stands still. "
            f"Put the label config back, or remove the finish with `{command(kind)} --undo` and begin anew "
            "after the next round."
        )


def _counted(session: Session, labeled: Labeled) -> Session:
    """The session with the counts of its tasks, and of all the project's, that people have labelled."""
    people = {task.task_id for task in labeled.tasks.values() if task.state == "labeled"}
    written = 0
    if session.state is FinishState.WRITTEN:
        deleted = max(len(session.accepted) - labeled.versions.get(session.version, 0), 0)
        written = max(sum(task_id not in people for task_id in session.accepted) - deleted, 0)
    return replace(
        session,
        asked=tuple(task_id for task_id in session.asked if task_id not in people),
        written=written,
        tasks=labeled.count,
        people=len(people),
        looked=labeled.snapshot.taken_at.isoformat(),
    )


def advance(backend: Backend, project_id: int) -> tuple[str, bool]:
    """Do what the project's finishes need next: what was done in words, "" for nothing, and whether to
    publish again."""
    told, changes_queue, labeled = list[str](), False, None
    for session in readable_sessions(backend.store, project_id):
        if session.state is FinishState.UNDOING:
            done, changes = undo_now(backend, project_id, session), True
        else:
            labeled = labeled or read_labels(backend, project_id)
            done, changes = _advance(backend, project_id, session, labeled)
        told += [done] if done else []
        changes_queue |= changes
    return "; ".join(told), changes_queue


def recount(backend: Backend, project_id: int, labeled: Labeled) -> None:
    """Count anew, in every finish, what people have labelled."""
    for session in readable_sessions(backend.store, project_id):
        _keep_if_changed(backend, project_id, session, _counted(session, labeled))


def _advance(backend: Backend, project_id: int, session: Session, labeled: Labeled) -> tuple[str, bool]:
    try:
        found = look_again(backend, project_id, session, labeled)
        if due := _to_be_written(found):
            keep_session(backend.store, project_id, due)
            return _write(backend, project_id, replace(found, session=due), labeled), True
        return _serve_checks(backend, project_id, session, found)
    except ProjectGone:
        raise
    except FinishError as error:
        _keep_if_changed(backend, project_id, session, _counted(replace(session, remark=str(error)), labeled))
        return "", False


def _to_be_written(found: Look) -> Session | None:
    """The session whose labels are to be written now, None if none are.

    Those of copies are as soon as their bound is good enough, and again without those whose original got
    another label since.
    """
    session = found.session
    if session.state is FinishState.WRITING:
        return session
    if session.kind is not Kind.COPIES:
        return None
    if session.state is FinishState.AUDITING and any(now.taken for now in found.standings):
        return decided(found, annotations=session.annotations, rest=session.rest)
    if session.state is FinishState.WRITTEN and set(session.accepted) & found.contradicting:
        return replace(session, state=FinishState.WRITING, remark="")
    return None


def _serve_checks(backend: Backend, project_id: int, session: Session, found: Look) -> tuple[str, bool]:
    """Ask for the next checks where some are done; what was written is counted anew."""
    now = replace(found.session, remark="")
    _keep_if_changed(backend, project_id, session, now)
    if not set(now.asked) - set(session.asked):
        return "", False
    return f"{len(now.asked)} answers are to be checked", True


def _keep_if_changed(backend: Backend, project_id: int, session: Session, now: Session) -> None:
    if replace(now, looked=session.looked) != session:
        keep_session(backend.store, project_id, now)


def has_work(backend: Backend, project_id: int) -> bool:
    """Whether `advance` has something to do. Raises FinishError, LabelStudioError."""
    sessions = readable_sessions(backend.store, project_id)
    writing = FinishState.WRITING, FinishState.UNDOING
    if any(each.state in writing and not each.remark for each in sessions):
        return True
    asked = {task_id for each in sessions for task_id in each.asked}
    return bool(asked) and not asked.isdisjoint(backend.label_studio.fetch_annotated(project_id))


def _write(backend: Backend, project_id: int, found: Look, labeled: Labeled) -> str:
    """Make Label Studio have the accepted labels, and no other of this version.

    Never writes where a person has labelled or skipped the task since.
    """
    label_studio, session, proposal = backend.label_studio, found.session, found.proposal
    rows = {proposal.task_ids[row]: row for row in found.rows_to_write}
    accepted = [task_id for task_id in session.accepted if task_id in rows]
    predictions = [_prediction(session, proposal, rows[task_id]) for task_id in accepted]
    if not predictions:
        label_studio.delete_versions(project_id, {session.version})
    gone = set(label_studio.add_missing(project_id, predictions, proposal.labels))
    refused = _without_answer(label_studio, project_id, session.version, predictions) - gone
    kept = tuple(task_id for task_id in accepted if task_id not in gone | refused)
    show_model_labels(
        label_studio, project_id, [*_versions_shown(backend, project_id, session), session.version]
    )
    if session.annotations:
        _withdraw(label_studio, project_id, session.version, set(kept))
        named = [each.task_id for each in predictions if each.label and each.task_id not in gone | refused]
        annotate_as_predicted(label_studio, project_id, session.version, named)
    done = noted(
        replace(
            found,
            session=replace(
                session,
                state=FinishState.WRITTEN,
                accepted=kept,
                refused=session.refused + len(refused),
                remark="",
            ),
        )
    )
    now = replace(labeled, versions={session.version: len(kept)})
    keep_session(backend.store, project_id, _counted(done, now))
    whose = "the model's labels" if session.kind is Kind.MODEL else "the labels of copies"
    left_out = f", and not on {len(refused)}, where Label Studio did not accept them" if refused else ""
    return f"{whose} are written on {len(kept)} tasks{left_out}"


def _without_answer(
    label_studio: LabelStudio, project_id: int, version: str, predictions: Sequence[Prediction]
) -> set[int]:
    """The tasks on which Label Studio does not have the answer of the prediction: an annotation made there
    would say "none of these", or nothing, as if a person had."""
    answered = [each.task_id for each in predictions if each.label]
    kept = label_studio.fetch_results(project_id, version, answered)
    return {task_id for task_id in answered if not kept.get(task_id)}


def _prediction(session: Session, proposal: Proposal, row: int) -> Prediction:
    confidence = 1 - proposal.doubts[row] if session.kind is Kind.MODEL else None
    return Prediction(proposal.task_ids[row], BARE_SCORE, session.version, proposal.named(row), confidence)


def _versions_shown(backend: Backend, project_id: int, without: Session) -> list[str]:
    """The versions of labels in the tab besides those of that session."""
    others = [each for each in readable_sessions(backend.store, project_id) if each.kind is not without.kind]
    return [each.version for each in others if each.state is not FinishState.AUDITING]


def _withdraw(label_studio: LabelStudio, project_id: int, version: str, kept: set[int]) -> None:
    """Delete the version's annotations of other tasks: their original has another label by now."""
    made = annotated_by_model(label_studio, project_id, version)
    delete_by_model(label_studio, project_id, version, [each for each in made if each not in kept])


def undo_now(backend: Backend, project_id: int, session: Session) -> str:
    """Remove all that the finish has written, and nothing else."""
    label_studio = backend.label_studio
    label_studio.fetch_project(project_id)  # raises ProjectGone
    count = remove_labels(label_studio, project_id, session.version)
    show_model_labels(label_studio, project_id, _versions_shown(backend, project_id, session))
    forget_session(backend.store, project_id, session.kind)
    whose = "the model" if session.kind is Kind.MODEL else "copies"
    return f"the finish is undone, {count} annotations of {whose} are deleted"


def remove_labels(label_studio: LabelStudio, project_id: int, version: str) -> int:
    """Delete the version's annotations that no person has changed, and its predictions; how many annotations
    there were."""
    made = annotated_by_model(label_studio, project_id, version)
    count = delete_by_model(label_studio, project_id, version, list(made))
    if kept := label_studio.delete_versions(project_id, {version}):
        raise FinishError(f"The predictions of version '{kept[0]}' could not be deleted; it is tried again.")
    return count


def accept(backend: Backend, project_id: int, *, annotations: bool, rest: Rest) -> Look:
    """Decide that the model's labels with a bound are written, by the next `advance`. Raises FinishError."""
    found = acceptable(backend, project_id)
    now = decided(found, annotations=annotations, rest=rest)
    keep_session(backend.store, project_id, now)
    return replace(found, session=now)


def decided(found: Look, *, annotations: bool, rest: Rest) -> Session:
    """The session once it is decided that the labels with a bound are written."""
    return replace(
        found.session,
        state=FinishState.WRITING,
        accepted=found.tasks_to_write,
        annotations=annotations,
        rest=rest,
        asked=(),
        remark="",
    )


def acceptable(backend: Backend, project_id: int) -> Look:
    """The look by which labels would be accepted now. Raises FinishError where nothing has a bound yet."""
    session = session_to("accept", backend.store, project_id, Kind.MODEL)
    if session.state is not FinishState.AUDITING:
        raise FinishError(f"The labels of the model are {session.state} already.")
    found = look_again(backend, project_id, session, read_labels(backend, project_id))
    if not len(found.rows_to_write):
        needed = [each.needed for each in found.audited() if each.needed is not None]
        more = f"about {min(needed)} more checks are needed" if needed else "the budget of checks is used up"
        raise FinishError(
            f"Too little is known to promise {1 - session.wrong:.0%} right labels: {more}. "
            "Nothing was written."
        )
    return found


def undo(backend: Backend, project_id: int, kind: Kind) -> Session:
    """Decide that what the finish wrote is removed, by the next `advance`; ends an audit too."""
    session = session_to("undo", backend.store, project_id, kind)
    undoing = replace(session, state=FinishState.UNDOING, asked=(), remark="")
    keep_session(backend.store, project_id, undoing)
    return undoing
