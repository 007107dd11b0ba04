"""A person's imports of predictions of another model, which choose batches until our own model is better."""

from datetime import UTC, datetime
from pathlib import Path

from coreset_backend.backend import Backend
from coreset_backend.connection.scored_answers import scored_answers
from coreset_backend.errors import ImportRefused
from coreset_backend.evaluation.imported import forget_imported, keep_imported, read_imported
from coreset_backend.evaluation.imported_table import ByClass, read_table, whole_probabilities
from coreset_backend.store.imported import Imported

LARGEST_FILE = 500_000_000
NO_CLASSES = "The project is not trained on any <Choices>, so predictions have no class."


def import_file(backend: Backend, project_id: int, path: Path) -> Imported:
    """Import the predictions of a CSV file instead of earlier ones.

    Raises ImportRefused, and then nothing is changed, and LabelStudioError.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ImportRefused(f"{path.name} is larger than {LARGEST_FILE / 1e6:.0f} MB.")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ImportRefused(f"{path.name} cannot be read as text in UTF-8 ({error}).") from None
    snapshot = backend.label_studio.fetch_snapshot(project_id, control=_control(backend, project_id))
    if snapshot.labels is None:
        raise ImportRefused(NO_CLASSES)
    found = read_table(text, snapshot.labels, snapshot.tasks)
    return _keep(backend, project_id, path.name, snapshot.labels.names, snapshot.labels.multiple, found)


def import_version(backend: Backend, project_id: int, version: str) -> Imported:
    """Import the predictions of a version that Label Studio has, by their scores, instead of earlier ones.

    Raises ImportRefused, and then nothing is changed, and LabelStudioError.
    """
    labels, answers = scored_answers(
        backend.label_studio, project_id, version, control=_control(backend, project_id)
    )
    if labels is None:
        raise ImportRefused(NO_CLASSES)
    if not answers:
        known = ", ".join(f"'{each}'" for each in backend.label_studio.model_versions(project_id)) or "none"
        raise ImportRefused(
            f"No prediction of version '{version}' has a class of the project and a score from 0 to 1, so "
            f"nothing is imported. Versions in the project: {known}."
        )
    found = whole_probabilities(answers, labels)
    return _keep(backend, project_id, f"version {version}", labels.names, labels.multiple, found)


def _control(backend: Backend, project_id: int) -> str | None:
    newest = backend.store.latest(project_id)
    return backend.settings_by_round(project_id, newest.record if newest else None).control


def _keep(
    backend: Backend, project_id: int, source: str, names: tuple[str, ...], multiple: bool, found: ByClass
) -> Imported:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    imported = Imported(source, now, names, multiple, tuple(found), tuple(found.values()))
    keep_imported(backend.store, project_id, imported)
    return imported


def remove_import(backend: Backend, project_id: int) -> bool:
    """Remove the imported predictions; False without any."""
    return forget_imported(backend.store, project_id)


def import_words(backend: Backend, project_id: int) -> str:
    """What is imported, and whether the newest round used it."""
    imported = read_imported(backend.store, project_id)
    if imported is None:
        return "No predictions from elsewhere are imported."
    newest = backend.store.latest(project_id)
    use = newest.record.imported if newest else None
    used = f" Round {newest.record.number}: {use.sentence}" if newest and use else ""
    return (
        f"{len(imported.task_ids):,} predictions are imported ({imported.source}, {imported.at[:10]}). "
        f"The next round uses them unless its own model answers the hold-out better.{used}"
    )
