"""Exports a project: reads Label Studio and the store, writes the folder, changes nothing in either."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coreset_backend.arrays import PhaseProgress, unwatched
from coreset_backend.backend import Backend
from coreset_backend.errors import CorruptRound, ExportError
from coreset_backend.export.card import Contents, model_card
from coreset_backend.export.class_folders import class_folders
from coreset_backend.export.folder import MARK, drafted_folder, mark_folder
from coreset_backend.export.image_folder import ImageFiles, write_images, write_metadata
from coreset_backend.export.labels import LabeledTask, Status, labeled_tasks, written_labels
from coreset_backend.export.model_files import ModelFiles, has_model, write_model
from coreset_backend.export.tables import write_tables
from coreset_backend.files import saving, write_atomically
from coreset_backend.project import Snapshot
from coreset_backend.reports import ImageFailure
from coreset_backend.store.saved_round import StoredRound

log = logging.getLogger(__name__)
DATASET, IMAGES, CLASSES, CARD = "dataset", "images", "classes.json", "README.md"
MOST_FAILED = 0.5
"""Share of the labelled images that may be unreadable; beyond it something is wrong with all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export holds. ``tasks``: number of tasks by source of their label, or by status without one.

    ``model_version`` is empty without a model. ``onnx_difference``: the largest of a probability by
    model.onnx to torch's; None without that file. ``remarks`` say what is missing, and why.
    """

    folder: str
    tasks: Mapping[str, int]
    images: int
    unreadable: Sequence[ImageFailure]
    model_version: str
    onnx_difference: float | None
    remarks: Sequence[str]


def export_project(
    backend: Backend,
    project_id: int,
    place: Path,
    *,
    with_images: bool = True,
    with_model: bool = True,
    progress: PhaseProgress = unwatched,
) -> Exported:
    """Write the project's dataset and model into the folder ``place``, which appears whole at the end.

    Raises ExportError where ``place`` holds something that would be lost, LabelStudioError and StoreError.
    An export that was stopped goes on with the images that it has.
    """
    with drafted_folder(place, project_id) as folder:
        _clear(folder, with_images)
        control = backend.settings_by_label_config(project_id, {}).control
        snapshot = backend.label_studio.fetch_snapshot(
            project_id, lambda done, total: progress("tasks", done, total), control=control
        )
        names = snapshot.labels.names if snapshot.labels else ()
        written, remarks = written_labels(backend.store, project_id, names)
        tasks = list(labeled_tasks(snapshot, written))
        images = ImageFiles({}, [])
        if with_images:
            images = _write_images(backend, snapshot, tasks, folder / DATASET / IMAGES, progress)
        _write_dataset(folder / DATASET, snapshot, tasks, images)
        stored, model = _write_model(backend, snapshot, folder, progress) if with_model else (None, None)
        remarks += _model_remarks(snapshot, stored, model, with_model)
        contents = Contents(
            snapshot, tasks, len(images.files), with_images, stored.record if stored else None, model, remarks
        )
        write_atomically(folder / CARD, model_card(contents).encode())
        exported = _exported(place, contents, images)
        mark_folder(folder, project_id, tasks=exported.tasks, model_version=exported.model_version)
    return exported


def _clear(folder: Path, with_images: bool) -> None:
    """Remove what an export that was stopped has left, but its images."""
    with saving(folder):
        for path in folder.iterdir():
            if path.name == DATASET and with_images:
                for part in path.iterdir():
                    if part.name != IMAGES:
                        part.unlink()
            elif path.name != MARK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / DATASET).mkdir(exist_ok=True)


def _write_images(
    backend: Backend, snapshot: Snapshot, tasks: Sequence[LabeledTask], folder: Path, progress: PhaseProgress
) -> ImageFiles:
    labels = snapshot.labels
    labeled = {task.task_id: task.label for task in tasks if task.status is Status.LABELED}
    wanted = [(task.task_id, task.uri) for task in snapshot.tasks if task.task_id in labeled]
    names = class_folders(labels.names) if labels and not labels.multiple else {}
    folders = {task_id: names[label[0]] if names and label else "" for task_id, label in labeled.items()}
    images = write_images(
        backend.images, folder, wanted, folders, lambda done, total: progress("images", done, total)
    )
    if len(images.failures) > MOST_FAILED * len(wanted):
        raise ExportError(
            f"{len(images.failures):,} of {len(wanted):,} labelled images could not be read, so nothing was "
            f"exported. The first reason was: {images.failures[0].reason}. With --no-images, labels and "
            "model are exported alone."
        )
    if labels and labels.multiple:
        write_metadata(folder, images.files, tasks)
    return images


def _write_dataset(
    folder: Path, snapshot: Snapshot, tasks: Sequence[LabeledTask], images: ImageFiles
) -> None:
    labels = snapshot.labels
    multiple = bool(labels and labels.multiple)
    names = labels.names if labels else ()
    folders: Mapping[str, str | None] = dict.fromkeys(names) if multiple else class_folders(names)
    classes = [{"name": name, "folder": folder} for name, folder in folders.items()]
    write_atomically(folder / CLASSES, (json.dumps(classes, indent=2) + "\n").encode())
    write_tables(
        folder,
        tasks,
        multiple=multiple,
        files={task_id: f"{IMAGES}/{name}" for task_id, name in images.files.items()},
        unreadable={failure.task_id: failure.reason for failure in images.failures},
    )


def _write_model(
    backend: Backend, snapshot: Snapshot, folder: Path, progress: PhaseProgress
) -> tuple[StoredRound | None, ModelFiles | None]:
    """The newest round whose model can be read, and what was written of it."""
    progress("model", 0, 0)
    for stored in backend.store.readable(snapshot.project_id):
        if has_model(stored):
            try:
                return stored, write_model(stored, backend.images, snapshot.image_uris, folder)
            except CorruptRound as error:
                log.error("ignored: %s", error)
    return None, None


def _model_remarks(
    snapshot: Snapshot, stored: StoredRound | None, model: ModelFiles | None, with_model: bool
) -> list[str]:
    if not with_model:
        return []
    if stored is None or model is None:
        return ["There is no model: no round of the project has one."]
    remarks = [f"There is no model.onnx. {model.without}"] if model.without else []
    if stored.record.labels != snapshot.labels:
        remarks.append(
            "The label config has changed since the model was trained; config.json has the classes it knows."
        )
    return remarks


def _exported(place: Path, contents: Contents, images: ImageFiles) -> Exported:
    counts = Counter(str(task.source or task.status) for task in contents.tasks)
    return Exported(
        folder=str(place),
        tasks=dict(sorted(counts.items())),
        images=len(images.files),
        unreadable=images.failures,
        model_version=contents.record.model_version if contents.record else "",
        onnx_difference=contents.model.difference if contents.model else None,
        remarks=contents.remarks,
    )
