"""Connects and disconnects a project: makes and undoes the settings in Label Studio.

Every step first checks the current setting and changes only what differs, so both can be repeated.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from coreset_backend.backend import Backend
from coreset_backend.connection.record import (
    A_BATCH,
    Connection,
    chosen_version,
    is_at,
    keep_connection,
    read_connection,
    written_versions,
)
from coreset_backend.connection.second_opinions import withdraw_second_opinions
from coreset_backend.errors import LabelStudioError, ProjectGone, Rejected
from coreset_backend.label_studio.answers import ConnectedBackend, ListedTask, Project, Webhook
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.label_config import LabelConfig, parse_label_config
from coreset_backend.label_studio.tabs import BATCH, delete_tabs, make_batch_tab
from coreset_backend.label_studio.task_images import image_uris
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


def connect(backend: Backend, project_id: int) -> Iterator[str]:
    """Connect the project to this backend; yields a sentence for each step.

    The store keeps the project's previous settings for ``disconnect``. Raises LabelStudioError with the fix
    if Label Studio is too old, blocks the address, cannot reach it or refuses the token, and
    UnsupportedLabelConfig if the project shows no image.
    """
    label_studio, store, url = backend.label_studio, backend.store, backend.settings.url
    user = label_studio.whoami()
    yield f"Label Studio {supported_release(label_studio)} at {label_studio.url}, as {user}."
    project = visible_project(label_studio, project_id)
    config = parse_label_config(
        project.label_config, backend.settings_by_label_config(project_id, {}).control
    )
    yield f"Project {project_id} '{project.title}': images in '{config.image}', {_trained_on(config)}."
    yield from config.notes
    if first := label_studio.fetch_first_task(project_id):
        yield from image_words(first, config)
    before = _stood_before(label_studio, store, project, url)
    if before.model_version and project.model_version == before.model_version:
        override = backend.settings.override_version
        yield _what_happens_to(before.model_version, label_studio, project_id, override)
    elif before.model_version:
        yield (
            f"The batch is shown instead of version '{before.model_version}'; disconnect shows that version "
            "again."
        )
    yield _add_backend(label_studio, project_id, url, backend.basic_auth)
    keep_connection(store, project_id, before)
    yield _sign_webhook(label_studio, project_id, f"{url}/webhook", backend.webhook_secret)
    yield _set_sampling(label_studio, project)
    yield _make_tab(label_studio, project_id)
    keep_connection(store, project_id, replace(before, complete=True))


def complete(backend: Backend, project: Project) -> Iterator[str]:
    """Do the remaining steps of ``connect`` for a project that was connected in Label Studio's form or SDK.

    Yields a sentence for each change; none if Label Studio has no backend at our address. Keeps what a person
    changed since the project was connected, except the webhook's secret, which only this backend reads.
    """
    label_studio, store, url = backend.label_studio, backend.store, backend.settings.url
    project_id, secret = project.project_id, backend.webhook_secret
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
            yield _sign_webhook(label_studio, project_id, webhook.url, secret)


def disconnect(backend: Backend, project_id: int) -> Iterator[str]:
    """Undo what ``connect`` and the rounds changed in Label Studio; yields a sentence for each step.

    Keeps what a person changed since, the rounds and the labels. The caller holds the project's lease. Raises
    LabelStudioError; disconnecting again then does the remaining steps.
    """
    label_studio, store, url = backend.label_studio, backend.store, backend.settings.url
    try:
        project = label_studio.fetch_project(project_id)
    except ProjectGone:
        yield f"{label_studio.url} has no project {project_id} any more, so there is nothing to undo."
    else:
        before = read_connection(store, project_id)
        addresses = list(dict.fromkeys([url, *([before.url] if before else [])]))
        yield _delete_webhooks(label_studio, project_id, addresses)
        if asked := withdraw_second_opinions(label_studio, store, project_id):
            yield f"{asked} tasks ask for no second annotator any more."
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


def _stood_before(label_studio: LabelStudio, store: Store, project: Project, url: str) -> Connection:
    known = read_connection(store, project.project_id)
    if known and not store.is_disconnected(project.project_id):
        return known
    written = written_versions(store, project.project_id)
    return Connection(
        url=url,
        sampling=project.sampling,
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


def image_words(task: ListedTask, config: LabelConfig) -> Iterator[str]:
    """A sentence if the task shows no image or several images."""
    images = image_uris(config.image, task.data)
    if len(images) > 1:
        yield f"Task {task.task_id} shows {len(images)} images. Only the first image of a task is read."
    if not images:
        found = list(task.data)[:MOST_NAMED] if isinstance(task.data, Mapping) else ()
        keys = ", ".join(f"'{key}'" for key in found) or "nothing"
        yield (
            f"Task {task.task_id} has no image at '{config.image}': its data has {keys}. "
            "Such tasks are listed as unreadable. Correct the value of the <Image>, or the tasks."
        )


def visible_project(label_studio: LabelStudio, project_id: int) -> Project:
    """The project; raises LabelStudioError that says where its number stands, if there is none."""
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
        _delete_backend(label_studio, backend)
    body = {"project": project_id, "title": TITLE, "url": url, "auth_method": "NONE"}
    if basic_auth:
        user, password = basic_auth
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
    try:
        label_studio.request("POST", "/api/ml/", json=body, timeout=60)
    except Rejected as error:
        for backend in own_backends(label_studio, project_id, url):
            _delete_backend(label_studio, backend)
        raise LabelStudioError(_why_not_connected(error, url)) from None
    return f"Backend {url} connected."


def _delete_backend(label_studio: LabelStudio, backend: ConnectedBackend) -> None:
    label_studio.request("DELETE", f"/api/ml/{backend.backend_id}")


def _why_not_connected(error: Rejected, url: str) -> str:
    if error.status == 403 and "reserved network address" in error.body:
        return PRIVATE_ADDRESS.format(url=url, answer=error.body)
    if error.status == 403:
        return f"The token's user may not connect a backend to the project: {error.body}"
    return (
        f"Label Studio could not connect to the backend at {url}: {error.body} "
        "Check that the backend runs and that CORESET_URL is the address at which Label Studio reaches it: "
        "from a container not localhost but http://host.docker.internal:9090, with HOST=0.0.0.0 and a login."
    )


def own_backends(label_studio: LabelStudio, project_id: int, url: str) -> list[ConnectedBackend]:
    """Those of the project's backends that are this one."""
    return [each for each in label_studio.backends(project_id) if is_at(each.url, url)]


def own_webhooks(label_studio: LabelStudio, project_id: int, url: str) -> list[Webhook]:
    """Those of the project's webhooks that lead to ``url``."""
    return [each for each in label_studio.webhooks(project_id) if is_at(each.url, url)]


def is_signed(webhook: Webhook, secret: str) -> bool:
    """Whether its requests carry the secret."""
    return webhook.headers.get(SECRET_HEADER) == secret


def _delete_webhook(label_studio: LabelStudio, webhook: Webhook) -> None:
    label_studio.request("DELETE", f"/api/webhooks/{webhook.webhook_id}/")


def _sign_webhook(label_studio: LabelStudio, project_id: int, url: str, secret: str) -> str:
    wanted = {
        "url": url,
        "project": project_id,
        "send_payload": True,
        "send_for_all_actions": True,
        "is_active": True,
        "headers": {SECRET_HEADER: secret},
    }
    found = own_webhooks(label_studio, project_id, url)
    if not found:
        label_studio.request("POST", "/api/webhooks/", params={"project": project_id}, json=wanted)
        return "Webhook created, with the secret."
    first, *doubles = found
    for double in doubles:  # left by deleted backends: each sends every event once more
        _delete_webhook(label_studio, double)
    label_studio.request("PATCH", f"/api/webhooks/{first.webhook_id}/", json=wanted)
    return "Secret set on the webhook."


def _set_sampling(label_studio: LabelStudio, project: Project) -> str:
    found = project.sampling
    if found == SAMPLING:
        return f"Task sampling is already '{SAMPLING}'."
    label_studio.request("PATCH", f"/api/projects/{project.project_id}/", json={"sampling": SAMPLING})
    return f"Task sampling set to '{SAMPLING}' (it was '{found}'): tasks are served by score."


def _make_tab(label_studio: LabelStudio, project_id: int) -> str:
    if make_batch_tab(label_studio, project_id):
        return f"Tab '{BATCH}' created, sorted by score."
    return f"Tab '{BATCH}' already exists."


def _delete_webhooks(label_studio: LabelStudio, project_id: int, addresses: Sequence[str]) -> str:
    found = [each for url in addresses for each in own_webhooks(label_studio, project_id, f"{url}/webhook")]
    for webhook in {each.webhook_id: each for each in found}.values():
        _delete_webhook(label_studio, webhook)
    return "Webhook deleted." if found else "There was no webhook."


def _delete_backends(label_studio: LabelStudio, project_id: int, addresses: Sequence[str]) -> str:
    found = label_studio.backends(project_id)
    ours = [each for each in found if any(is_at(each.url, url) for url in addresses)]
    for backend in ours:
        _delete_backend(label_studio, backend)
    if ours:
        return f"Backend {ours[0].url} deleted."
    return f"Backend {addresses[0]} was not connected{named_others(found)}."


def named_others(backends: Sequence[ConnectedBackend]) -> str:
    """What to append to "is not connected": the addresses of those that are."""
    addresses = ", ".join(each.url for each in backends)
    return f"; connected are {addresses}" if addresses else ""


def _put_sampling_back(label_studio: LabelStudio, project: Project, before: Connection | None) -> str:
    found = project.sampling
    if before is None:
        return f"Task sampling stays '{found}': the previous setting is unknown."
    if found == before.sampling or not before.sampling:
        return f"Task sampling stays '{found}', the previous setting."
    if found != SAMPLING:
        return f"Task sampling stays '{found}': a person has changed it since."
    label_studio.request("PATCH", f"/api/projects/{project.project_id}/", json={"sampling": before.sampling})
    return f"Task sampling set back to '{before.sampling}'."


def _put_version_back(
    label_studio: LabelStudio, store: Store, project: Project, before: Connection | None, url: str
) -> Iterator[str]:
    """Show the previous version again, and delete this backend's predictions."""
    project_id, shown = project.project_id, project.model_version
    written = written_versions(store, project_id)
    chosen = chosen_version(label_studio, project, written, url)
    # Label Studio sets null if a batch's predictions were deleted; a person sets "".
    shows_ours = bool(shown and not chosen) or shown is None
    wanted = (before.model_version if before else "") if shows_ours else shown or ""
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
