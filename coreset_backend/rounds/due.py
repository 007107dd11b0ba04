"""Whether a project needs a round, and why."""

from dataclasses import dataclass

import numpy as np

from coreset_backend.backend import Backend
from coreset_backend.errors import CorruptRound
from coreset_backend.finish.session import labeled_by_us
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.filters import after_id, all_of, query
from coreset_backend.label_studio.overlap import fetch_overlaps
from coreset_backend.rounds.choose import state_code
from coreset_backend.rounds.features import features_at_hand
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound

NOTHING_NEW = ("labeled", "unreadable", "model", "copy")
"""States of a round in which a task's annotation teaches the next round nothing: it was known, its image
cannot be read, or no person has made it."""


@dataclass(frozen=True, slots=True)
class Due:
    """Why a project needs a round now, in words; None if it does not.

    ``done``: how many tasks of the batch of round ``number`` nobody has to label any more: they are
    annotated, skipped or deleted; None if it was not counted.
    """

    reason: str | None
    number: int = 0
    done: int | None = None


def round_due(backend: Backend, project_id: int) -> Due:
    """Whether the project needs a round now, and how much of its batch is labelled.

    Requests the annotated tasks from Label Studio, which takes a fraction of a second.
    """
    stored = backend.store.latest(project_id)
    if stored is None:
        return Due("the project has no round yet")
    number = stored.record.number
    if stored.publication is None:
        return Due(f"round {number} is not published yet")
    settings = backend.settings_by_round(project_id, stored.record)
    if settings.trigger == "manual":
        return Due(None)
    if new := _new_tasks(backend.label_studio, stored):
        return Due(f"{new} new tasks, and none was left to select")
    if answered := _last_second_opinions(backend.label_studio, stored):
        given = "1 second opinion was" if answered == 1 else f"{answered} second opinions were"
        return Due(f"{given} given, and no other task was served")
    annotated = backend.label_studio.fetch_annotated(project_id)
    left = [task_id for task_id in stored.record.batch if task_id not in annotated]
    done = len(stored.record.batch) - len(backend.label_studio.fetch_existing(project_id, left))
    try:
        # Where the labels choose the backbone, features of the pool are compared first.
        features = "" if settings.labels_choose_backbone else features_at_hand(backend.store, project_id)
        by_us = labeled_by_us(backend.store, project_id)
        reason = _due(settings, stored, annotated, done, by_us, features)
    except CorruptRound as error:
        reason = f"round {number} is damaged: {error.why}"
    return Due(reason, number, done)


def _due(
    settings: Settings,
    stored: StoredRound,
    annotated: dict[int, bool],
    done: int,
    by_us: frozenset[int],
    features: str,
) -> str | None:
    batch = stored.record.batch
    if batch and done >= settings.batch_done * len(batch):
        return f"{done} of the batch's {len(batch)} tasks are done"
    is_old = np.isin(stored.array("states"), [state_code(state) for state in NOTHING_NEW])
    before = by_us.union(stored.array("task_ids")[is_old].tolist())
    new = sum(labeled and task_id not in before for task_id, labeled in annotated.items())
    if new >= settings.labels_for_a_round:
        return f"{new} new labels"
    # A batch without labels is selected again; a batch that is being labelled stays.
    better = features not in ("", stored.record.features) and not done and not new
    return "better features were learned on the pool" if better else None


def _last_second_opinions(label_studio: LabelStudio, stored: StoredRound) -> int:
    """Number of second opinions that a round without a batch asked for, once all are given; else 0."""
    asked = {each.task_id: each.annotators for each in stored.record.label_errors.asked}
    if stored.record.batch or not asked:
        return 0
    found = fetch_overlaps(label_studio, stored.record.project_id, list(asked))
    is_open = any(each.annotators <= asked[task_id] for task_id, each in found.items())
    return 0 if is_open else len(found)


def _new_tasks(label_studio: LabelStudio, stored: StoredRound) -> int:
    """Number of tasks added after a round that had none left to select; 0 while a batch is served."""
    if stored.record.batch:
        return 0
    project_id, newest = stored.record.project_id, int(stored.array("task_ids").max(initial=0))
    asked = query(all_of(after_id(newest)))
    tasks, total = label_studio.page(project_id, 1, 1, include="id", query=asked)
    if all(task.task_id > newest for task in tasks):
        return total
    # An early release ignores the filter. Then tasks that were deleted hide as many that were added.
    return max(total - sum(stored.record.counts.values()), 0)
