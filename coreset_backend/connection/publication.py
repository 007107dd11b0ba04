"""The version and the queue of a project in Label Studio: checked before and after a publish and by each
poll.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import complete
from coreset_backend.connection.problems import problems
from coreset_backend.connection.queue import queue_is_short
from coreset_backend.connection.record import (
    Connection,
    chosen_version,
    keep_connection,
    read_connection,
    why_not_served,
    written_versions,
)
from coreset_backend.errors import CoresetError, LabelStudioError
from coreset_backend.label_studio.answers import Project
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.tabs import DUPLICATES, SECOND, SUSPECTS, UNREADABLE, refresh_tabs
from coreset_backend.reports import Publication
from coreset_backend.store.findings import duplicates, suspects
from coreset_backend.store.saved_round import StoredRound

log = logging.getLogger(__name__)


def prepare_publication(backend: Backend, project_id: int) -> tuple[set[str], str]:
    """Complete the project's connection before a publish.

    Returns the versions that this backend has written, and the version shown before them, or "". Raises
    LabelStudioError if a person chose the shown version and CORESET_OVERRIDE_VERSION is off.
    """
    project = backend.label_studio.fetch_project(project_id)
    _complete_connection(backend, project)
    written = written_versions(backend.store, project_id)
    return written, _shown_before(backend, project, written)


def _complete_connection(backend: Backend, project: Project) -> None:
    project_id = project.project_id
    try:
        for done in complete(backend, project):
            log.info("project %d: %s", project_id, done)
    except LabelStudioError as error:  # the batch can be published; connection_remarks says what lacks
        log.warning("project %d: the connection could not be completed: %s", project_id, error)


def _shown_before(backend: Backend, project: Project, written: set[str]) -> str:
    """The version that the project showed before the first batch; kept for `disconnect`."""
    project_id, url = project.project_id, backend.settings.url
    known = read_connection(backend.store, project_id)
    chosen = chosen_version(backend.label_studio, project, written, url)
    if not chosen:
        return known.model_version if known else ""
    if not backend.settings.override_version and not _is_live(backend, project_id, chosen):
        raise LabelStudioError(
            f"Project {project_id} shows predictions of version '{chosen}', which a person chose, and "
            "CORESET_OVERRIDE_VERSION is off. Clear the version in the project's settings, or turn "
            "CORESET_OVERRIDE_VERSION on."
        )
    before = known or Connection(url, project.sampling)
    keep_connection(backend.store, project_id, replace(before, model_version=chosen))
    return chosen


def _is_live(backend: Backend, project_id: int, version: str) -> bool:
    """Whether the version is the title of a live backend, which Label Studio sets automatically."""
    return any(each.title == version for each in backend.label_studio.backends(project_id))


def show_findings(label_studio: LabelStudio, stored: StoredRound) -> None:
    """Update the tabs of Label Studio's Data Manager to the batch and the findings of a round.

    Raises LabelStudioError.
    """
    findings = {
        SECOND: [each.task_id for each in stored.record.label_errors.asked],
        SUSPECTS: [suspect.task_id for suspect in suspects(stored)],
        DUPLICATES: [task_id for group in duplicates(stored) for task_id in group],
        UNREADABLE: [failure.task_id for failure in stored.record.failures],
    }
    below = stored.publication.below if stored.publication else 1.0
    refresh_tabs(label_studio, stored.record.project_id, findings, below=below)


def connection_remarks(backend: Backend, stored: StoredRound) -> list[str] | None:
    """Sentences on why the published batch is not served, and on the version that it replaced.

    None if Label Studio could not be asked.
    """
    project_id = stored.record.project_id
    try:
        return [*problems(backend, project_id), *_what_was_replaced(stored)]
    except CoresetError as error:
        log.warning("project %d: the connection could not be checked: %s", project_id, error)
        return None


def _what_was_replaced(stored: StoredRound) -> Iterator[str]:
    published = stored.publication or Publication()
    if version := published.shown_before:
        yield (
            f"The batch is shown instead of version '{version}'. Its predictions carry the regions of that "
            f"version on {published.carried} unlabelled tasks. "
            f"`coreset-backend disconnect --project {stored.record.project_id}` shows that version again."
        )
    if kept := published.kept:
        yield f"Old predictions of version '{kept[0]}' could not be deleted; the worker's log has the reason."


def why_to_publish_again(backend: Backend, project_id: int) -> str | None:
    """The reason why the project's batch must be published again; None if Label Studio serves it.

    A version that a person chose since is kept until the next round.
    """
    stored = backend.store.latest(project_id)
    if stored is None:
        return None
    written = written_versions(backend.store, project_id)
    found = why_not_served(backend.label_studio, stored, written, backend.settings.url)
    if found:
        return None if found[1] else found[0]
    published = stored.publication
    if published and published.sent and queue_is_short(backend.label_studio, project_id, published.version):
        return "unlabelled tasks are not in the queue yet"
    return None
