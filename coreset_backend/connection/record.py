"""The settings of a project before it was connected, and the versions that this backend has written there.

The store keeps them, so that `disconnect` can restore the settings, also after a restart. A version counts as
this backend's only if a round in the store names it: another backend may use similar names.
"""

import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from coreset_backend.errors import CorruptFile
from coreset_backend.label_studio.answers import Project
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.project import Region
from coreset_backend.store.record import NO_ROUND_VERSION
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import CONNECTION_FILE, Store

log = logging.getLogger(__name__)

A_BATCH = re.compile(r"coreset-\d+-\d{8}T\d{6}")
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Connection:
    """The project's settings before it was connected: task ``sampling`` and shown ``model_version``.

    ``model_version``: a version of predictions or the title of a live backend, "" for none; if a person has
    chosen another version since, that one. ``url``: this backend's address when the project was connected.
    ``complete``: whether all steps of `connect` were done.
    """

    url: str
    sampling: str
    model_version: str = ""
    complete: bool = False


CONNECTION = TypeAdapter(Connection)


def read_connection(store: Store, project_id: int) -> Connection | None:
    """The record of the project's connection; None if it is not connected or the file is damaged."""
    try:
        return store.kept(project_id, CONNECTION_FILE).read_as(CONNECTION)
    except (CorruptFile, ValueError) as error:
        log.error(
            "project %d: its settings from before it was connected cannot be read: %s", project_id, error
        )
        return None


def keep_connection(store: Store, project_id: int, connection: Connection) -> None:
    store.register(project_id)
    store.kept(project_id, CONNECTION_FILE).write(asdict(connection))


def written_versions(store: Store, project_id: int) -> set[str]:
    """The versions of predictions that this backend may have written in the project."""
    records = store.history(project_id)
    names = {name for record in records for name in (record.model_version, record.pool_version)}
    return names | {NO_ROUND_VERSION}


def is_at(address: str, url: str) -> bool:
    """Whether ``address`` in Label Studio's lists is ``url``, also under another name of the machine."""
    return _place(address) == _place(url)


def _place(url: str) -> tuple[str, str, int | None, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", url, None, ""
    host = THIS_MACHINE[0] if host in THIS_MACHINE else host
    return parts.scheme, host, port or {"http": 80, "https": 443}.get(parts.scheme), parts.path.rstrip("/")


def chosen_version(label_studio: LabelStudio, project: Project, written: Collection[str], url: str) -> str:
    """The version that the project shows if it is not this backend's, else "".

    The title of another live backend counts; this backend's title does not, because Label Studio sets it
    automatically. A batch that the store does not know counts as this backend's, from before it lost its
    store.
    """
    version = project.model_version
    if not version or version in written or A_BATCH.fullmatch(version):
        return ""
    ours = (backend for backend in label_studio.backends(project.project_id) if is_at(backend.url, url))
    return "" if any(backend.title == version for backend in ours) else version


def regions_shown(
    label_studio: LabelStudio, project_id: int, version: str, task_ids: Iterable[int]
) -> dict[int, tuple[Region, ...]]:
    """Task id -> the regions shown under ``version``, which may be the title of a live backend."""
    if not version:
        return {}
    live = {backend.title: backend.model_version for backend in label_studio.backends(project_id)}
    found = label_studio.fetch_results(project_id, live.get(version) or version, task_ids)
    return {task_id: tuple(regions) for task_id, regions in found.items() if regions}


def why_not_served(
    label_studio: LabelStudio, stored: StoredRound, written: Collection[str], url: str
) -> tuple[str, bool] | None:
    """Why Label Studio does not serve the round's batch, and whether a person chose that; None if it does.

    Requests the project from Label Studio and one count per hundred tasks of batch and reserve.
    """
    record, published = stored.record, stored.publication
    if not published or not published.sent:
        return None
    project = label_studio.fetch_project(record.project_id)
    shown = project.model_version or ""
    if shown != published.version:
        if chosen := chosen_version(label_studio, project, written, url):
            return f"a person chose version '{chosen}' instead of the batch", True
        return f"the project shows version '{shown}' instead of the batch", False
    asked = [each.task_id for each in record.label_errors.asked]
    lacking = label_studio.count_unserved(record.project_id, [*asked, *record.batch, *record.reserve])
    return (
        (f"the predictions of {lacking} tasks of the batch and its reserve were deleted", False)
        if lacking
        else None
    )
