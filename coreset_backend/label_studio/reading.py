"""Reads a project's tasks: those that are new or have changed since the last reading, or all of them.

Listing 100,000 tasks takes Label Studio 25 to 80 s; what is new or has changed it finds in a second, and so
the annotated tasks, which are read in every round. All tasks are read where a change could be missed: a task
was deleted, the answers do not fit each other, or a day has passed. Whether a release of Label Studio can be
asked is decided by its answers.
"""

import hashlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from coreset_backend.arrays import Progress, unwatched
from coreset_backend.errors import LabelStudioError, ProjectGone, Unauthorized, Unreachable
from coreset_backend.label_studio.answers import ListedTask, Project
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.filters import (
    NEWEST_FIRST,
    Filter,
    after_id,
    all_of,
    created_before,
    query,
    updated_after,
)
from coreset_backend.label_studio.label_config import parse_label_config
from coreset_backend.label_studio.payloads import parse_snapshot
from coreset_backend.label_studio.task_images import image_uris
from coreset_backend.label_studio.task_lists import PAGE_SIZE
from coreset_backend.project import KnownTasks, Snapshot
from coreset_backend.reports import Reading

log = logging.getLogger(__name__)

ALL_AGAIN_AFTER = 86_400.0
"""Seconds after which all tasks are read again."""
OVERLAP = timedelta(seconds=60)
"""A server of several may be so far behind the others' clock; a change on it is found nevertheless."""
MOST_WITHHELD = 1_000
"""Tasks whose address is not kept are asked for one by one, a hundred at a time; more of them, with all."""
LONGEST_URI = 2_000
CHANGED = "id,data,updated_at"

Uris = dict[int, str | None]


class _Unclear(Exception):
    """The answers do not tell what has changed; the message says why, as the end of "because ..."."""


@dataclass(frozen=True, slots=True)
class ReadTasks:
    """A project as just read, what the next reading needs to know, and how it was read."""

    snapshot: Snapshot
    known: KnownTasks
    reading: Reading


def read_tasks(
    label_studio: LabelStudio,
    project_id: int,
    known: KnownTasks | None,
    progress: Progress = unwatched,
    *,
    control: str | None = None,
    refreshed_at: float = 0.0,
) -> ReadTasks:
    """The project's snapshot, the same as that of ``fetch_snapshot``; ``known`` is of the last reading.

    All tasks are read if that was before the refresh of ``refreshed_at``. Raises LabelStudioError, also
    ProjectGone, and UnsupportedLabelConfig.
    """
    project = label_studio.fetch_project(project_id)
    image = parse_label_config(project.label_config, control).image
    site = hashlib.sha256(label_studio.url.encode()).hexdigest()
    since = _moment(label_studio, project_id)
    fresh = KnownTasks(site, image, since, time.time(), {}, refreshed_at=refreshed_at)
    why = _why_all(known, fresh)
    found = listed = None
    if known and not why:
        try:
            found, listed = _with_changes(label_studio, project, known, progress)
            fresh = replace(fresh, all_read_at=known.all_read_at)
        except _Unclear as unclear:
            why = str(unclear)
    if found is None:
        found = _addresses(label_studio.tasks(project_id, {"include": "id,data"}, progress), image)
    annotated = label_studio.annotated_tasks(project_id)
    snapshot = parse_snapshot(project, annotated, datetime.now(UTC), control, found)
    reading = Reading(len(found), len(found) if listed is None else listed, why, refreshed_at)
    log.info("project %d: read %s", project_id, reading.words)
    return ReadTasks(snapshot, _to_keep(fresh, found), reading)


def _why_all(known: KnownTasks | None, fresh: KnownTasks) -> str:
    """Why all tasks are read, as the end of "because ..."; "" if what has changed may be asked for."""
    if known is None:
        return "no earlier reading is known"
    if known.refreshed_at < fresh.refreshed_at:
        return "a person asked for it"
    if known.site != fresh.site:
        return "the last reading was of another address of Label Studio"
    if known.image != fresh.image:
        return "the label config shows another image"
    if not 0 <= fresh.all_read_at - known.all_read_at < ALL_AGAIN_AFTER:
        return "the last time was a day ago"
    if not known.since or not fresh.since:
        return "Label Studio does not say when its tasks were changed"
    if len(known.withheld) > MOST_WITHHELD:
        return (
            f"the addresses of {len(known.withheld):,} images are not kept: they are long, or hold a secret"
        )
    return ""


def _moment(label_studio: LabelStudio, project_id: int) -> str:
    """A time on Label Studio's clock before which every change can be read now; "" if it is not known.

    Both the newest task and the answer's header say the time, and the earlier one is taken: releases that
    save a local time as UTC put tasks into the future, and a proxy may have a clock of its own.
    """
    asked = {"include": "id,updated_at", "query": query(ordering=NEWEST_FIRST)}
    try:
        tasks, _ = label_studio.page(project_id, 1, 1, **asked)
        told = [_when(task) for task in tasks] + [label_studio.clock]
    except (Unreachable, Unauthorized):
        raise
    except (LabelStudioError, _Unclear):
        return ""
    times = [each for each in told if each]
    return min(times).isoformat() if len(times) == 2 else ""


def _with_changes(
    label_studio: LabelStudio, project: Project, known: KnownTasks, progress: Progress
) -> tuple[Uris, int]:
    """The address of every task, and how many tasks were listed for it; raises _Unclear.

    A task may come or go between two requests: where the numbers differ they are asked for once more.
    """
    for _ in range(2):
        changed = _changed(label_studio, project.project_id, known)
        if (found := {**known.uris, **changed}) and len(found) == project.task_number:
            progress(len(found), len(found))
            return found, len(changed)
        project = label_studio.fetch_project(project.project_id)
    raise _Unclear(f"Label Studio has {project.task_number:,} tasks, and {len(found):,} were known")


def _changed(label_studio: LabelStudio, project_id: int, known: KnownTasks) -> Uris:
    """The addresses of tasks that were imported or changed since ``known``, and of those withheld there."""
    since, newest = datetime.fromisoformat(known.since), max((*known.uris, *known.withheld), default=0)
    try:
        new = _matching(label_studio, project_id, after_id(newest))
        if any(task.task_id <= newest for task in new):
            raise _Unclear("Label Studio does not filter tasks by their ids")
        listed = [*new, *_updated(label_studio, project_id, since)]
        listed += label_studio.listed(project_id, known.withheld)
    except (Unreachable, Unauthorized, ProjectGone):
        raise
    except LabelStudioError as error:
        raise _Unclear("Label Studio refuses to list only what has changed") from error
    return _addresses(listed, known.image)


def _updated(label_studio: LabelStudio, project_id: int, since: datetime) -> list[ListedTask]:
    """The tasks that were saved after ``since``, and some that were before; raises _Unclear.

    The last OVERLAP before ``since`` is asked for again, so the newest task of the last reading is found. If
    very many tasks were imported in it, only those are read that were changed after their import.
    """
    begin = since - OVERLAP
    recent = {"include": CHANGED, "query": query(all_of(updated_after(begin)))}
    tasks, total = label_studio.page(project_id, 1, PAGE_SIZE, **recent)
    if not tasks:
        raise _Unclear("Label Studio does not find the task that was changed last")
    if total > len(tasks):
        tasks = _matching(label_studio, project_id, updated_after(since))
        tasks += _matching(label_studio, project_id, updated_after(begin), created_before(begin))
    if any((moment := _when(task)) is None or moment <= begin for task in tasks):
        raise _Unclear("Label Studio does not filter tasks by when they were changed")
    return tasks


def _matching(label_studio: LabelStudio, project_id: int, *conditions: Filter) -> list[ListedTask]:
    parameters = {"include": CHANGED, "query": query(all_of(*conditions))}
    return list(label_studio.tasks(project_id, parameters))


def _when(task: ListedTask) -> datetime | None:
    """When the task was last saved; None where that is not said in UTC."""
    try:
        moment = datetime.fromisoformat(task.updated_at)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else None


def _addresses(tasks: Iterable[ListedTask], image: str) -> Uris:
    """Task id -> address of its image, None if its data have none."""
    return {task.task_id: next(iter(image_uris(image, task.data)), None) for task in tasks}


def _to_keep(fresh: KnownTasks, found: Uris) -> KnownTasks:
    kept = {task_id: uri for task_id, uri in found.items() if uri is None or _may_be_kept(uri)}
    return replace(fresh, uris=kept, withheld=tuple(found.keys() - kept.keys()))


def _may_be_kept(uri: str) -> bool:
    """Whether the address is short and holds no secret: a password, a signature or the image itself."""
    if len(uri) > LONGEST_URI or uri[:5].lower() == "data:":
        return False
    return uri.startswith("/") or not any(sign in uri for sign in "?#@")
