"""Connects and disconnects a project: makes and undoes the settings in Label Studio.

Every step first checks the current setting and changes only what differs, so both can be repeated.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from coreset_backend.connection.record import (
    A_BATCH,
    Connection,
    chosen_version,
    is_at,
    keep_connection,
    read_connection,
    written_versions,
)
from coreset_backend.errors import LabelStudioError, ProjectGone, Rejected
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.label_config import LabelConfig, parse_label_config
from coreset_backend.label_studio.tabs import BATCH, delete_tabs, make_batch_tab
from coreset_backend.label_studio.task_images import image_uris
from coreset_backend.project import Json
from coreset_backend.store.store import Store

TITLE = "Core-Set"
SAMPLING = "Uncertainty sampling"
OLDEST_RELEASE = (1, 12)
SECRET_HEADER = "X-Coreset-Secret"
MOST_NAMED = 8
PRIVATE_ADDRESS = (
    "Label Studio refuses to call {url}: it blocks private addresses by default ({answer}). "
    "Start Label Studio with LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false and "
    "LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false, both of them, and connect again. "
    "(Stricter: LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false with "
    "LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS=169.254.0.0/16.)"
)


def connect(
    label_studio: LabelStudio,
    store: Store,
    project_id: int,
    *,
    url: str,
    secret: str,
    basic_auth: tuple[str, str] | None = None,
    override_version: bool = True,
    control: str | None = None,
) -> Iterator[str]:
    """Connect the project to the backend at ``url``; yields a sentence for each step.

    ``control`` names the <Choices> to train on, unless the label config does. The store keeps the project's
    previous settings for ``disconnect``. Raises LabelStudioError with the fix if Label Studio is too old,
    blocks the address, cannot reach it or refuses the token, and UnsupportedLabelConfig if the project shows
    no image.
    """
    user = label_studio.whoami().get("email", "unknown user")
    yield f"Label Studio {supported_release(label_studio)} at {label_studio.url}, as {user}."
    project = checked_project(label_studio, project_id)
    config = parse_label_config(project["label_config"], control)
    yield f"Project {project_id} '{project['title']}': images in '{config.image}', {_trained_on(config)}."
    yield from config.notes
    if first := label_studio.fetch_first_task(project_id):
        yield from image_words(first, config)
    before = _stood_before(label_studio, store, project, url)
    if before.model_version and project.get("model_version") == before.model_version:
        yield _what_happens_to(before.model_version, label_studio, project_id, override_version)
    elif before.model_version:
        yield (
            f"The batch is shown instead of version '{before.model_version}'; disconnect shows that version "
            "again."
        )
    yield _add_backend(label_studio, project_id, url, basic_auth)
    keep_connection(store, project_id, before)
    yield _sign_webhook(label_studio, project_id, f"{url}/webhook", secret)
    yield _set_sampling(label_studio, project)
    yield _make_tab(label_studio, project_id)
    keep_connection(store, project_id, replace(before, complete=True))


def complete(
    label_studio: LabelStudio, store: Store, project: Json, *, url: str, secret: str
) -> Iterator[str]:
    """Do the remaining steps of ``connect`` for a project that was connected in Label Studio's form or SDK.

    Yields a sentence for each change; none if Label Studio has no backend at ``url``. Keeps what a person
    changed since the project was connected, except the webhook's secret, which only this backend reads.
    """
    project_id = project["id"]
    known = read_connection(store, project_id)
    if known is None or not known.complete:
        if not own_backends(label_studio, project_id, url):
            return
        before = known or _stood_before(label_studio, store, project, url)
        keep_connection(store, project_id, before)
        yield _set_sampling(label_studio, project)
        yield _make_tab(label_studio, project_id)
        keep_connection(store, project_id, replace(before, complete=True))
    for webhook in own_webhooks(label_studio, project_id, f"{url}/webhook"):
        if not is_signed(webhook, secret):
            yield _sign_webhook(label_studio, project_id, webhook["url"], secret)


def disconnect(label_studio: LabelStudio, store: Store, project_id: int, *, url: str) -> Iterator[str]:
    """Undo what ``connect`` and the rounds changed in Label Studio; yields a sentence for each step.

    Keeps what a person changed since, the rounds and the labels. The caller holds the project's lease. Raises
    LabelStudioError; disconnecting again then does the remaining steps.
    """
    try:
        project = label_studio.fetch_project(project_id)
    except ProjectGone:
        yield f"{label_studio.url} has no project {project_id} any more, so there is nothing to undo."
    else:
        before = read_connection(store, project_id)
        addresses = list(dict.fromkeys([url, *([before.url] if before else [])]))
        yield _delete_webhooks(label_studio, project_id, addresses)
        yield from _put_version_back(label_studio, store, project, before, url)
        yield _delete_backends(label_studio, project_id, addresses)
        yield _put_sampling_back(label_studio, project, before)
        yield from delete_tabs(label_studio, project_id)
    store.disconnect(project_id)


def supported_release(label_studio: LabelStudio) -> str:
    """The release of Label Studio, as in ``1.23.2``; raises LabelStudioError if it is too old."""
    release = label_studio.version()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and tuple(map(int, numbers.groups())) < OLDEST_RELEASE:
        oldest = ".".join(map(str, OLDEST_RELEASE))
        raise LabelStudioError(
            f"The Label Studio at {label_studio.url} is release {release}, which cannot delete old "
            f"predictions. The oldest release that this backend works with is {oldest}: upgrade Label Studio."
        )
    return release


def _stood_before(label_studio: LabelStudio, store: Store, project: Json, url: str) -> Connection:
    known = read_connection(store, project["id"])
    if known and not store.is_disconnected(project["id"]):
        return known
    written = written_versions(store, project["id"])
    return Connection(
        url=url,
        sampling=str(project.get("sampling") or ""),
        model_version=chosen_version(label_studio, project, written, url),
    )


def _what_happens_to(version: str, label_studio: LabelStudio, project_id: int, override: bool) -> str:
    count = label_studio.model_versions(project_id).get(version, 0)
    shown = f"The project shows predictions of version '{version}' ({count} of them)."
    if not override:
        return (
            f"{shown} CORESET_OVERRIDE_VERSION is off, so no batch is published: clear the version in the "
            "project's settings, or turn CORESET_OVERRIDE_VERSION on."
        )
    return (
        f"{shown} From the first batch on it shows the batch's version instead. Annotators still see the old "
        "version's regions on unlabelled tasks. No prediction of it is deleted, and "
        f"`coreset-backend disconnect --project {project_id}` shows that version again."
    )


def _trained_on(config: LabelConfig) -> str:
    if config.labels is None:
        return f"selection only{', because ' if config.untrained else ''}{config.untrained}"
    names = config.labels.names
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"trained on <Choices> '{config.labels.from_name}' ({', '.join(names[:MOST_NAMED])}{more})"


def image_words(task: Json, config: LabelConfig) -> Iterator[str]:
    """A sentence if the task shows no image or several images."""
    images = image_uris(config.image, task.get("data"))
    if len(images) > 1:
        yield f"Task {task['id']} shows {len(images)} images. Only the first image of a task is read."
    if not images:
        keys = ", ".join(f"'{key}'" for key in list(task.get("data") or ())[:MOST_NAMED]) or "nothing"
        yield (
            f"Task {task['id']} has no image at '{config.image}': its data has {keys}. "
            "Such tasks are listed as unreadable. Correct the value of the <Image>, or the tasks."
        )


def checked_project(label_studio: LabelStudio, project_id: int) -> Json:
    try:
        return label_studio.fetch_project(project_id)
    except Rejected as error:
        if error.status != 404:
            raise
        raise LabelStudioError(
            f"{label_studio.url} has no project {project_id} that the token's user may see. "
            "The number is in the address of the project's page: /projects/<number>/data."
        ) from None


def _add_backend(
    label_studio: LabelStudio, project_id: int, url: str, basic_auth: tuple[str, str] | None
) -> str:
    existing = own_backends(label_studio, project_id, url)
    # A blocked address leaves a backend without a webhook in the list: connect it again.
    if existing and own_webhooks(label_studio, project_id, f"{url}/webhook"):
        return f"Backend {url} is already connected."
    for backend in existing:
        label_studio.request("DELETE", f"/api/ml/{backend['id']}")
    body: dict[str, Any] = {"project": project_id, "title": TITLE, "url": url, "auth_method": "NONE"}
    if basic_auth:
        user, password = basic_auth
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
    try:
        label_studio.request("POST", "/api/ml/", json=body, timeout=60)
    except Rejected as error:
        for backend in own_backends(label_studio, project_id, url):
            label_studio.request("DELETE", f"/api/ml/{backend['id']}")
        raise LabelStudioError(_why_not_connected(error, url)) from None
    return f"Backend {url} connected."


def _why_not_connected(error: Rejected, url: str) -> str:
    if error.status == 403 and "reserved network address" in error.body:
        return PRIVATE_ADDRESS.format(url=url, answer=error.body)
    if error.status == 403:
        return f"The token's user may not connect a backend to the project: {error.body}"
    return (
        f"Label Studio could not connect to the backend at {url}: {error.body} "
        "Check that `coreset-backend serve` runs and that CORESET_URL is the address at which Label Studio "
        "reaches it (in a container: http://host.docker.internal:9090 or the service's name, not localhost)."
    )


def own_backends(label_studio: LabelStudio, project_id: int, url: str) -> list[Json]:
    return [each for each in label_studio.backends(project_id) if is_at(each, url)]


def own_webhooks(label_studio: LabelStudio, project_id: int, url: str) -> list[Json]:
    return [each for each in label_studio.webhooks(project_id) if is_at(each, url)]


def is_signed(webhook: Json, secret: str) -> bool:
    return bool((webhook.get("headers") or {}).get(SECRET_HEADER) == secret)


def _sign_webhook(label_studio: LabelStudio, project_id: int, url: str, secret: str) -> str:
    wanted = {
        "url": url,
        "project": project_id,
        "send_payload": True,
        "send_for_all_actions": True,
        "is_active": True,
        "headers": {SECRET_HEADER: secret},
    }
    first, *doubles = own_webhooks(label_studio, project_id, url) or [None]
    for double in doubles:  # left by deleted backends: each sends every event once more
        label_studio.request("DELETE", f"/api/webhooks/{double['id']}/")
    if first is None:
        label_studio.request("POST", "/api/webhooks/", params={"project": project_id}, json=wanted)
        return "Webhook created, with the secret."
    label_studio.request("PATCH", f"/api/webhooks/{first['id']}/", json=wanted)
    return "Secret set on the webhook."


def _set_sampling(label_studio: LabelStudio, project: Json) -> str:
    found = project.get("sampling")
    if found == SAMPLING:
        return f"Task sampling is already '{SAMPLING}'."
    label_studio.request("PATCH", f"/api/projects/{project['id']}/", json={"sampling": SAMPLING})
    return f"Task sampling set to '{SAMPLING}' (it was '{found}'): tasks are served by score."


def _make_tab(label_studio: LabelStudio, project_id: int) -> str:
    if make_batch_tab(label_studio, project_id):
        return f"Tab '{BATCH}' created, sorted by score."
    return f"Tab '{BATCH}' already exists."


def _delete_webhooks(label_studio: LabelStudio, project_id: int, addresses: Sequence[str]) -> str:
    found = [each for url in addresses for each in own_webhooks(label_studio, project_id, f"{url}/webhook")]
    for webhook in {each["id"]: each for each in found}.values():
        label_studio.request("DELETE", f"/api/webhooks/{webhook['id']}/")
    return "Webhook deleted." if found else "There was no webhook."


def _delete_backends(label_studio: LabelStudio, project_id: int, addresses: Sequence[str]) -> str:
    found = label_studio.backends(project_id)
    ours = [each for each in found if any(is_at(each, url) for url in addresses)]
    for backend in ours:
        label_studio.request("DELETE", f"/api/ml/{backend['id']}")
    if ours:
        return f"Backend {ours[0]['url']} deleted."
    return f"Backend {addresses[0]} was not connected{named_others(found)}."


def named_others(backends: Sequence[Json]) -> str:
    addresses = ", ".join(str(each.get("url")) for each in backends)
    return f"; connected are {addresses}" if addresses else ""


def _put_sampling_back(label_studio: LabelStudio, project: Json, before: Connection | None) -> str:
    found = project.get("sampling")
    if before is None:
        return f"Task sampling stays '{found}': the previous setting is unknown."
    if found == before.sampling or not before.sampling:
        return f"Task sampling stays '{found}', the previous setting."
    if found != SAMPLING:
        return f"Task sampling stays '{found}': a person has changed it since."
    label_studio.request("PATCH", f"/api/projects/{project['id']}/", json={"sampling": before.sampling})
    return f"Task sampling set back to '{before.sampling}'."


def _put_version_back(
    label_studio: LabelStudio, store: Store, project: Json, before: Connection | None, url: str
) -> Iterator[str]:
    """Show the previous version again, and delete this backend's predictions."""
    project_id, written = project["id"], written_versions(store, project["id"])
    chosen, shown = chosen_version(label_studio, project, written, url), project.get("model_version")
    # Label Studio sets null if a batch's predictions were deleted; a person sets "".
    shows_ours = bool(shown and not chosen) or shown is None
    wanted = (before.model_version if before else "") if shows_ours else str(shown)
    count = sum(n for version, n in label_studio.model_versions(project_id).items() if version in written)
    _show_version(label_studio, project_id, wanted)  # first, so that annotators see no half-deleted batch
    kept = label_studio.delete_versions(project_id, written)
    left = f" Version {kept[0]} could not be deleted; the log has the reason." if kept else ""
    yield (
        f"{count} predictions of this backend deleted.{left}"
        if count
        else "The project has no predictions of this backend."
    )
    # When any version is deleted, Label Studio stops showing a live backend.
    is_shown = _show_version(label_studio, project_id, wanted)
    yield _what_is_shown(wanted, is_shown, shows_ours)
    yield from _strange_versions(label_studio, project_id, written)


def _show_version(label_studio: LabelStudio, project_id: int, version: str) -> bool:
    """Make the project show the version; False if there is no prediction and no live backend of it."""
    path = f"/api/projects/{project_id}/"
    try:
        label_studio.request("PATCH", path, json={"model_version": version})
        return True
    except Rejected as error:
        if error.status != 400 or not version:
            raise
        label_studio.request("PATCH", path, json={"model_version": ""})
        return False


def _what_is_shown(version: str, is_shown: bool, was_ours: bool) -> str:
    if not is_shown:
        return f"The previously shown version '{version}' has no predictions any more; no version is shown."
    if not was_ours:
        return f"The project still shows version '{version}', which a person has chosen since."
    return f"The project shows version '{version}' again." if version else "The project shows no version."


def _strange_versions(label_studio: LabelStudio, project_id: int, written: Collection[str]) -> Iterator[str]:
    strange = [
        v for v in label_studio.model_versions(project_id) if A_BATCH.fullmatch(v) and v not in written
    ]
    if strange:
        yield (
            f"Predictions of {', '.join(strange)} are kept: they look like batches of this backend, but its "
            "store has no such rounds. You can delete them under Settings > Predictions."
        )
