"""Second opinions in Label Studio: one more annotator is asked for a labelled task, until somebody answers.

    MODEL_DIR/projects/<id>/second-opinions.json     the tasks that are asked for, and their overlap before

The file is written before Label Studio is changed, so that a process that is killed in between leaves no task
that nobody would put back.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from coreset_backend.errors import CorruptFile
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.overlap import Overlap, fetch_overlaps, set_overlap
from coreset_backend.store.record import SecondOpinion, as_saved
from coreset_backend.store.storage import Kept
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """A task that ``wants`` so many annotators since it is asked for, and wanted ``before`` before."""

    task_id: int
    before: int
    wants: int


@dataclass(frozen=True, slots=True)
class AskedTasks:
    tasks: tuple[Asked, ...] = ()


ASKED = TypeAdapter(AskedTasks)


def ask_second_opinions(
    label_studio: LabelStudio, store: Store, project_id: int, wanted: Sequence[SecondOpinion]
) -> list[int]:
    """Have Label Studio serve the ``wanted`` tasks once more; returns those that are not answered yet.

    Tasks that were asked for before and are not wanted any more, or answered, get back the overlap that they
    had, unless a person has changed it since. Can be repeated. Raises LabelStudioError and Unwritable.
    """
    known = {each.task_id: each for each in read_asked(store, project_id)}
    now = fetch_overlaps(label_studio, project_id, sorted(known.keys() | {each.task_id for each in wanted}))
    open_ones = [each for each in wanted if _is_open(each, now)]
    asked = {each.task_id: _asked(each, known, now) for each in open_ones}
    if known or asked:
        _keep(store, project_id, {**known, **asked})
    for task_id, each in known.items():
        if task_id not in asked and task_id in now:
            _withdraw(label_studio, each, now[task_id])
    for task_id, each in asked.items():
        if now[task_id].is_labeled:
            set_overlap(label_studio, task_id, each.wants, is_labeled=False)
    if known or asked:
        _keep(store, project_id, asked)
    return [each.task_id for each in open_ones]


def withdraw_second_opinions(label_studio: LabelStudio, store: Store, project_id: int) -> int:
    """Ask for none any more; how many were withdrawn or answered. Raises LabelStudioError and Unwritable."""
    count = len(read_asked(store, project_id))
    ask_second_opinions(label_studio, store, project_id, ())
    return count


def read_asked(store: Store, project_id: int) -> tuple[Asked, ...]:
    """The tasks that are asked for; none where the file is damaged, which leaves them as they are."""
    try:
        saved = _kept(store, project_id).read_as(ASKED)
        return () if saved is None else saved.tasks
    except (CorruptFile, ValueError) as error:
        log.error("project %d: its second opinions are not withdrawn: %s", project_id, error)
        return ()


def _is_open(wanted: SecondOpinion, now: Mapping[int, Overlap]) -> bool:
    """Whether the task still has as few answers as when it was chosen."""
    found = now.get(wanted.task_id)
    return found is not None and 0 < found.annotators <= wanted.annotators


def _asked(wanted: SecondOpinion, known: Mapping[int, Asked], now: Mapping[int, Overlap]) -> Asked:
    """What to ask for: one annotator more than have answered."""
    found, before = now[wanted.task_id], known.get(wanted.task_id)
    if before and (not found.is_labeled or found.wants == before.before):
        return before
    original = before.before if before else found.wants
    return Asked(wanted.task_id, original, max(found.wants, found.annotators) + found.is_labeled)


def _withdraw(label_studio: LabelStudio, asked: Asked, now: Overlap) -> None:
    if now.wants == asked.wants != asked.before:
        is_labeled = now.annotators >= asked.before
        set_overlap(label_studio, asked.task_id, asked.before, is_labeled=is_labeled)


def _keep(store: Store, project_id: int, asked: Mapping[int, Asked]) -> None:
    _kept(store, project_id).write(as_saved(ASKED, AskedTasks(tuple(asked.values()))))


def _kept(store: Store, project_id: int) -> Kept:
    return store.kept(project_id, "second-opinions.json")
