"""Predictions of another model, imported for a project: whether a round takes its uncertainty from them.

    MODEL_DIR/projects/<id>/imported-predictions.json    absent where none are imported

They choose the batch until our own model answers the hold-out better. Nothing is trained on them, and
annotators never see them.
"""

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, TaskIds
from coreset_backend.errors import CorruptFile, ImportRefused
from coreset_backend.evaluation.scores import named_classes
from coreset_backend.project import Snapshot, class_targets
from coreset_backend.store.imported import IMPORTED, Imported, ImportUse
from coreset_backend.store.record import as_saved, taken
from coreset_backend.store.storage import Kept
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)


def read_imported(store: Store, project_id: int) -> Imported | None:
    """The imported predictions; None without any. Raises ImportRefused where their file is damaged."""
    try:
        saved = _kept(store, project_id).read()
        return None if saved is None else taken(IMPORTED, saved)
    except (CorruptFile, ValueError) as error:
        raise ImportRefused(f"The imported predictions cannot be read: {error}. Import them again.") from None


def usable_import(store: Store, project_id: int) -> Imported | None:
    """The same for a round, which goes on without what cannot be read."""
    try:
        return read_imported(store, project_id)
    except ImportRefused as error:
        log.error("project %d: %s", project_id, error)
        return None


def keep_imported(store: Store, project_id: int, imported: Imported) -> None:
    """Keep them instead of earlier ones, also for a project that is not connected yet; raises Unwritable."""
    store.make_disconnected(project_id)  # no round starts before it is connected
    _kept(store, project_id).write(as_saved(IMPORTED, imported))


def forget_imported(store: Store, project_id: int) -> bool:
    """Remove them; False without any. Raises Unwritable."""
    return _kept(store, project_id).delete()


def uncertainty_source(
    imported: Imported | None,
    snapshot: Snapshot,
    task_ids: TaskIds,
    holdout: frozenset[int],
    own: Floats | None,
) -> ImportUse | None:
    """Whether the batch is chosen by the imported predictions; None without any.

    ``task_ids`` (int64[m]): the tasks whose images can be read. ``own`` (float32[m, classes]): our model's
    probabilities for them, None without a model.
    """
    if imported is None:
        return None
    use = ImportUse(imported.source, False, int(np.isin(task_ids, imported.task_ids).sum()))
    if snapshot.labels is None or snapshot.labels.names != imported.names:
        return replace(use, why="the label config has other classes by now; import them again")
    if snapshot.labels.multiple != imported.multiple:
        answers = "several classes" if snapshot.labels.multiple else "one class"
        return replace(use, why=f"an answer may have {answers} by now; import them again")
    if not use.tasks:
        return replace(use, why="none of their tasks has an image that can be read")
    return _compared(use, imported, snapshot, task_ids, holdout, own)


def _compared(
    use: ImportUse,
    imported: Imported,
    snapshot: Snapshot,
    task_ids: TaskIds,
    holdout: frozenset[int],
    own: Floats | None,
) -> ImportUse:
    """Both models on the images of the hold-out that have an imported prediction."""
    measured = np.flatnonzero(np.isin(task_ids, list(holdout)))
    if own is None or not len(measured):
        return replace(use, used=True, why="our own model is not measured yet")
    rows = measured[np.isin(task_ids[measured], imported.task_ids)]
    if not len(rows):
        return replace(use, why="none of them is for an image of the hold-out, where models are measured")
    tasks = [snapshot.tasks[row] for row in np.searchsorted(snapshot.task_ids, task_ids[rows])]
    assert snapshot.labels is not None
    actual = class_targets(tasks, snapshot.labels) == 1
    theirs = _right(probabilities_for(imported, task_ids[rows]), actual, imported.multiple)
    ours = _right(own[rows], actual, imported.multiple)
    return replace(
        use,
        used=theirs > ours,
        why=f"of {len(rows):,} images of the hold-out they have {theirs:.0%} right, our own model {ours:.0%}",
        accuracy=theirs,
        own_accuracy=ours,
        compared=len(rows),
    )


def _right(probabilities: Floats, actual: NDArray[np.bool_], multiple: bool) -> float:
    return float((named_classes(probabilities, multiple) == actual).all(1).mean())


def probabilities_for(imported: Imported, task_ids: TaskIds) -> Floats:
    """float32[n, classes]: the imported probabilities of the tasks, NaN for a task without any."""
    given = np.array(imported.probabilities, dtype=np.float32).reshape(-1, len(imported.names))
    known = np.array(imported.task_ids, dtype=np.int64)
    found = np.full((len(task_ids), len(imported.names)), np.nan, dtype=np.float32)
    rows = np.searchsorted(known, task_ids).clip(max=len(known) - 1)
    has = known[rows] == task_ids
    found[has] = given[rows[has]]
    return found


def merged_probabilities(imported: Imported, task_ids: TaskIds, own: Floats | None) -> Floats:
    """float32[m, classes]: the imported probabilities, and ``own`` where there are none.

    Without a model of our own such a task counts as unsure as the median of the others.
    """
    found = probabilities_for(imported, task_ids)
    lacking = np.isnan(found).any(1)
    if own is not None:
        found[lacking] = own[lacking]
    elif lacking.any():
        given = found[~lacking]
        doubt = np.abs(given - 0.5).min(1) if imported.multiple else given.max(1)
        found[lacking] = given[np.argsort(doubt, kind="stable")[len(doubt) // 2]]
    return found


def _kept(store: Store, project_id: int) -> Kept:
    return store.kept(project_id, "imported-predictions.json")
