"""Labels in bulk by a person, step by step: what was asked for, what is written, what is undone.

    MODEL_DIR/projects/<id>/bulk.json    the latest writes, the newest first

Every step can be repeated: a job that was killed in the middle is completed by the next one, since each
annotation in Label Studio names the write that made it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import TypeAdapter

from coreset_backend.backend import Backend
from coreset_backend.errors import BulkError, CorruptFile, ProjectError
from coreset_backend.finish.session import is_audited
from coreset_backend.label_studio.answers import Annotation
from coreset_backend.label_studio.bulk_labels import (
    annotations_among,
    delete_write,
    is_of_write,
    write_label,
)
from coreset_backend.label_studio.label_config import parse_label_config
from coreset_backend.project import Labels
from coreset_backend.reports import Count, Moment, TaskId
from coreset_backend.store.record import as_saved
from coreset_backend.store.storage import Kept
from coreset_backend.store.store import Store

AT_ONCE = 25
"""Annotations between two looks: so soon an undo is noticed, and so few are looked at again after a kill."""
MOST_TASKS = 5000
KEPT_WRITES = 20


class BulkState(StrEnum):
    WRITING = "writing"
    WRITTEN = "written"
    UNDOING = "undoing"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class BulkWrite:
    """One write. ``label``: the classes; ``corrects``: also where people have answered differently.

    So many of ``task_ids`` are ``done``: an annotation is ``written``, or they are ``left_out`` because
    people have answered them, or ``gone``. ``version`` names the write in Label Studio. ``remark``: why it
    stands still, "" if it does not.
    """

    version: str
    label: tuple[str, ...]
    task_ids: tuple[TaskId, ...]
    corrects: bool
    at: Moment
    state: BulkState = BulkState.WRITING
    done: Count = 0
    written: Count = 0
    left_out: Count = 0
    gone: Count = 0
    remark: str = ""


@dataclass(frozen=True, slots=True)
class BulkWrites:
    writes: tuple[BulkWrite, ...] = ()


WRITES = TypeAdapter(BulkWrites)
WORK = (BulkState.WRITING, BulkState.UNDOING)


class Fate(StrEnum):
    """What becomes of a task."""

    WRITE = "written"
    CORRECT = "corrected"
    LEAVE_OUT = "left_out"
    IS_WRITTEN = "is written"


def read_writes(store: Store, project_id: int) -> tuple[BulkWrite, ...]:
    """The latest writes of the project, the newest first. Raises BulkError where the file is damaged."""
    try:
        saved = _kept(store, project_id).read_as(WRITES)
        return () if saved is None else saved.writes
    except (CorruptFile, ValueError) as error:
        raise BulkError(
            f"The labels in bulk of project {project_id} cannot be read: {error}. Delete bulk.json in the "
            "project's folder below MODEL_DIR; written labels stay in Label Studio."
        ) from None


def keep_write(store: Store, project_id: int, write: BulkWrite) -> None:
    """Keep the write, new or changed, and the latest others. Raises BulkError and Unwritable."""
    others = [each for each in read_writes(store, project_id) if each.version != write.version]
    known = sorted([write, *others], key=lambda each: each.at, reverse=True)
    _keep(store, project_id, known[:KEPT_WRITES])


def _keep(store: Store, project_id: int, writes: Sequence[BulkWrite]) -> None:
    _kept(store, project_id).write(as_saved(WRITES, BulkWrites(tuple(writes))))


def new_write(label: Sequence[str], task_ids: Sequence[int], *, corrects: bool) -> BulkWrite:
    """A write of the label on the tasks, each once. Raises BulkError for none, or too many."""
    once = tuple(dict.fromkeys(task_ids))
    if not once:
        raise BulkError("No image is selected. Select at least one.")
    if len(once) > MOST_TASKS:
        raise BulkError(f"{len(once):,} images are selected; at once it is up to {MOST_TASKS:,}.")
    now = datetime.now(UTC)
    return BulkWrite(f"bulk-{now:%Y%m%dT%H%M%S.%f}", tuple(label), once, corrects, now.isoformat())


def classes_to_write(backend: Backend, project_id: int, label: Sequence[str]) -> Labels:
    """The classes of the label config as it is now. Raises BulkError where the label is none of them."""
    newest = backend.store.latest(project_id)
    control = backend.settings_by_round(project_id, newest.record if newest else None).control
    labels = parse_label_config(backend.label_studio.fetch_project(project_id).label_config, control).labels
    if labels is None:
        raise BulkError("The label config has no <Choices> on the image, so there is no class to give.")
    if unknown := [name for name in label if name not in labels.names]:
        known = ", ".join(labels.names[:20])
        raise BulkError(f"The label config has no class '{unknown[0]}'; it has {known}.")
    if not label or (len(label) > 1 and not labels.multiple):
        wanted = "at least one class" if labels.multiple else "exactly one class"
        raise BulkError(f"A label in bulk names {wanted}, not {len(label)}.")
    return labels


def fates(backend: Backend, project_id: int, write: BulkWrite, task_ids: Sequence[int]) -> dict[int, Fate]:
    """What becomes of each of the tasks that still exists. Raises LabelStudioError."""
    found = annotations_among(backend.label_studio, project_id, task_ids)
    existing = backend.label_studio.fetch_existing(project_id, task_ids)
    return {each: _fate(write, found.get(each, ())) for each in task_ids if each in existing}


def _fate(write: BulkWrite, answers: Sequence[Annotation]) -> Fate:
    if any(is_of_write(each, write.version) for each in answers):
        return Fate.IS_WRITTEN
    if not answers:
        return Fate.WRITE
    if not write.corrects or any(each.ground_truth for each in answers):
        return Fate.LEAVE_OUT
    return Fate.CORRECT


def advance_bulk(backend: Backend, project_id: int) -> str:
    """Do the next step of a write or an undo; what was done in words, "" if there is nothing to do.

    During an audit it waits. Hold the project's lease. Raises LabelStudioError, BulkError.
    """
    write = open_write(backend.store, project_id)
    if write is None or is_audited(backend.store, project_id):
        return ""
    try:
        step = _undo_some if write.state is BulkState.UNDOING else _write_some
        after = step(backend, project_id, write)
    except ProjectError as error:  # the label config has changed
        after = replace(write, remark=str(error))
    keep_write(backend.store, project_id, after)
    if after.state is BulkState.UNDONE:
        return f"{write.written} labels in bulk are undone"
    return f"{after.written} labels in bulk are written"


def open_write(store: Store, project_id: int) -> BulkWrite | None:
    """The newest write that a worker has something to do for. Raises BulkError."""
    return next((each for each in read_writes(store, project_id) if is_open(each)), None)


def is_open(write: BulkWrite) -> bool:
    """Whether a worker has something to do for it."""
    return write.state in WORK and not write.remark


def _write_some(backend: Backend, project_id: int, write: BulkWrite) -> BulkWrite:
    some = write.task_ids[write.done : write.done + AT_ONCE]
    labels = classes_to_write(backend, project_id, write.label)
    fate_of = fates(backend, project_id, write, some)
    became = {each: _settle(backend, write, each, fate_of.get(each), labels) for each in some}
    became |= _give_way(backend, project_id, write, some, labels)
    found, done = Counter(became.values()), write.done + len(some)
    return replace(
        write,
        done=done,
        written=write.written + found["written"],
        left_out=write.left_out + found["left_out"],
        gone=write.gone + found["gone"],
        state=BulkState.WRITTEN if done == len(write.task_ids) else BulkState.WRITING,
    )


def _settle(backend: Backend, write: BulkWrite, task_id: int, fate: Fate | None, labels: Labels) -> str:
    """Write the label where it is to be written; the count to which the task belongs."""
    if fate is Fate.LEAVE_OUT:
        return "left_out"
    if fate is Fate.IS_WRITTEN:
        return "written"
    corrects = fate is Fate.CORRECT
    if fate is not None and write_label(
        backend.label_studio, task_id, labels, write.label, write.version, corrects=corrects
    ):
        return "written"
    return "gone"


def _give_way(
    backend: Backend, project_id: int, write: BulkWrite, task_ids: Sequence[int], labels: Labels
) -> dict[int, str]:
    """Where people have answered since the look before, do what is done where they had; the counts to which
    these tasks belong."""
    label_studio, became = backend.label_studio, dict[int, str]()
    for task_id, answers in annotations_among(label_studio, project_id, task_ids).items():
        ours = [each for each in answers if is_of_write(each, write.version)]
        fate = _fate(write, [each for each in answers if each not in ours])
        stays = fate is Fate.WRITE or (fate is Fate.CORRECT and all(each.ground_truth for each in ours))
        if ours and not stays:
            delete_write(label_studio, project_id, write.version, [task_id])
            became[task_id] = _settle(backend, write, task_id, fate, labels)
    return became


def _undo_some(backend: Backend, project_id: int, write: BulkWrite) -> BulkWrite:
    """Delete from the end on, so that ``done`` tells how many may still have an annotation."""
    some = write.task_ids[max(write.done - AT_ONCE, 0) : write.done]
    delete_write(backend.label_studio, project_id, write.version, some)
    done = write.done - len(some)
    return replace(write, done=done, state=BulkState.UNDOING if done else BulkState.UNDONE)


def undo_write(store: Store, project_id: int, version: str) -> BulkWrite:
    """Decide that what the write has made is removed, by the next steps. Raises BulkError."""
    known = {each.version: each for each in read_writes(store, project_id)}
    write = known.get(version)
    if write is None:
        raise BulkError(f"There is no write '{version}' to undo; the latest {KEPT_WRITES} are kept.")
    if write.state is BulkState.UNDONE:
        return write
    # The step that was under way when its worker was killed may have written beyond `done`.
    done = min(write.done + AT_ONCE, len(write.task_ids)) if write.state is BulkState.WRITING else write.done
    undoing = replace(write, state=BulkState.UNDOING, done=done, remark="")
    keep_write(store, project_id, undoing)
    return undoing


def _kept(store: Store, project_id: int) -> Kept:
    return store.kept(project_id, "bulk.json")
