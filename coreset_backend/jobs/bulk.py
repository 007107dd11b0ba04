"""A person's requests for labels in bulk: show what would be written, write, undo; their status in words."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from coreset_backend.backend import Backend
from coreset_backend.errors import BulkError
from coreset_backend.finish.bulk import (
    BulkState,
    BulkWrite,
    Fate,
    classes_to_write,
    fates,
    is_open,
    keep_write,
    new_write,
    open_write,
    read_writes,
    undo_write,
)
from coreset_backend.finish.session import is_audited
from coreset_backend.jobs.keys import BULK_LEASE
from coreset_backend.jobs.queue import request_work
from coreset_backend.jobs.requests import held_work, require_connected
from coreset_backend.reports import Count

COUNTS = "They count as labels by a person, and the next round learns from them."


@dataclass(frozen=True, slots=True)
class BulkWriteStatus:
    """A write of one label on many images; docs/api.md describes each field."""

    version: str
    label: tuple[str, ...]
    corrects: bool
    at: str
    state: BulkState
    images: Count
    done: Count
    written: Count
    left_out: Count
    gone: Count
    sentence: str


@dataclass(frozen=True, slots=True)
class BulkStatus:
    """The latest writes, the newest first. ``sentence``: what the newest does, or what would be written."""

    project: int
    sentence: str
    writes: tuple[BulkWriteStatus, ...] = ()


def bulk_status(backend: Backend, project_id: int) -> BulkStatus:
    """The project's labels in bulk; what is wrong with their file is the sentence."""
    try:
        waits = is_audited(backend.store, project_id)
        writes = tuple(_status(each, waits) for each in read_writes(backend.store, project_id))
    except BulkError as error:
        return BulkStatus(project_id, str(error))
    return BulkStatus(project_id, writes[0].sentence if writes else "", writes)


def plan_bulk(
    backend: Backend, project_id: int, label: Sequence[str], task_ids: Sequence[int], *, corrects: bool
) -> BulkStatus:
    """What would be written, without changing anything. Raises BulkError and LabelStudioError."""
    write = _wanted(backend, project_id, label, task_ids, corrects)
    _require_no_audit(backend, project_id)
    found = Counter(fates(backend, project_id, write, write.task_ids).values())
    user = backend.label_studio.whoami()
    gone = len(write.task_ids) - found.total()
    return BulkStatus(project_id, _plan(write, found, gone, user))


def start_bulk(
    backend: Backend, project_id: int, label: Sequence[str], task_ids: Sequence[int], *, corrects: bool
) -> BulkStatus:
    """Have a worker write the label. Raises BulkError, LabelStudioError and QueueError."""
    write = _wanted(backend, project_id, label, task_ids, corrects)
    with _changing(backend, project_id):
        _require_no_audit(backend, project_id)
        keep_write(backend.store, project_id, write)
    return bulk_status(backend, project_id)


def _wanted(
    backend: Backend, project_id: int, label: Sequence[str], task_ids: Sequence[int], corrects: bool
) -> BulkWrite:
    """The write, checked to be possible. Raises BulkError and LabelStudioError."""
    require_connected(backend.store, project_id)
    write = new_write(label, task_ids, corrects=corrects)
    classes_to_write(backend, project_id, label)
    return write


def undo_bulk(backend: Backend, project_id: int, version: str) -> BulkStatus:
    """Have a worker delete what the write has made. Raises BulkError and QueueError."""
    require_connected(backend.store, project_id)
    with _changing(backend, project_id):
        _require_no_audit(backend, project_id)
        undo_write(backend.store, project_id, version)
    return bulk_status(backend, project_id)


def _require_no_audit(backend: Backend, project_id: int) -> None:
    """Raises BulkError during an audit: it counts labels that people gave without seeing an answer."""
    if is_audited(backend.store, project_id):
        raise BulkError(
            "People are checking labels of the model or of copies, and labels in bulk that come or go would "
            "bias these checks. Accept the labels that are checked, or undo them, first."
        )


def _changing(backend: Backend, project_id: int) -> contextlib.AbstractContextManager[None]:
    """Hold the writes while the block changes them; afterwards a worker goes on with them."""
    go_on = partial(request_work, backend, project_id, "labels in bulk")
    return held_work(backend, project_id, BULK_LEASE, "labels", go_on)


def has_bulk_work(backend: Backend, project_id: int) -> bool:
    """Whether a write or an undo was left behind, by a killed worker or a lost job. Raises BulkError."""
    left = open_write(backend.store, project_id)
    return left is not None and not is_audited(backend.store, project_id)


# ---------------------------------------------------------------- in words


def _status(write: BulkWrite, waits: bool) -> BulkWriteStatus:
    return BulkWriteStatus(
        version=write.version,
        label=write.label,
        corrects=write.corrects,
        at=write.at,
        state=write.state,
        images=len(write.task_ids),
        done=write.done,
        written=write.written,
        left_out=write.left_out,
        gone=write.gone,
        sentence=write.remark or (_waiting(write) if waits and is_open(write) else _sentence(write)),
    )


def _plan(write: BulkWrite, found: Counter[Fate], gone: int, user: str) -> str:
    """What a write would do, in sentences that each name a number of images."""
    named, fresh, corrected = _named(write), found[Fate.WRITE], found[Fate.CORRECT]
    parts = [f"{_annotations(fresh + corrected)} {named} will be written as {user}."]
    if corrected:
        parts.append(
            f"{_images(corrected)} already answered by people {_get(corrected)} a ground truth, which counts "
            "instead; their annotations stay."
        )
    if left_out := found[Fate.LEAVE_OUT]:
        why = "with a ground truth" if write.corrects else "already answered by people"
        parts.append(f"{_images(left_out)} {why} {_are(left_out)} left out.")
    if gone:
        parts.append(f"{_images(gone)} {_are(gone)} no longer in Label Studio.")
    return " ".join([*parts, COUNTS] if fresh + corrected else [*parts, "Nothing would change."])


def _waiting(write: BulkWrite) -> str:
    act = "undone" if write.state is BulkState.UNDOING else "written"
    return f"{_named(write)} is {act} further once nobody checks labels of the model or of copies any more."


def _sentence(write: BulkWrite) -> str:
    named, total = _named(write), len(write.task_ids)
    if write.state is BulkState.WRITING:
        return f"{named} is being written: {write.done:,} of {_images(total)}."
    if write.state is BulkState.UNDOING:
        return f"{named} is being undone: {write.done:,} of {_images(total)} are left."
    if write.state is BulkState.UNDONE:
        return f"{named} is undone; annotations that people have changed since stay."
    parts = [f"{named} is written on {_images(write.written)}."]
    if write.left_out:
        parts.append(f"{write.left_out:,} left out: people have answered them.")
    if write.gone:
        parts.append(f"{write.gone:,} no longer in Label Studio.")
    return " ".join([*parts, COUNTS] if write.written else parts)


def _named(write: BulkWrite) -> str:
    return f"“{', '.join(write.label)}”"


def _annotations(count: int) -> str:
    return "1 annotation" if count == 1 else f"{count:,} annotations"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _get(count: int) -> str:
    return "gets" if count == 1 else "get"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
