"""The problems of a project's connection, each with its fix."""

from collections.abc import Iterator

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import (
    SAMPLING,
    is_signed,
    named_others,
    own_backends,
    own_webhooks,
    visible_project,
)
from coreset_backend.connection.record import why_not_served, written_versions
from coreset_backend.label_studio.answers import Webhook
from coreset_backend.label_studio.label_config import parse_label_config


def problems(backend: Backend, project_id: int, *, batch_expected: bool = True) -> Iterator[str]:
    """A sentence with the fix for each problem of the project's connection.

    ``batch_expected``: whether a batch should be served now; it need not be during the first round.
    """
    label_studio, url = backend.label_studio, backend.settings.url
    project = visible_project(label_studio, project_id)
    parse_label_config(project.label_config)
    again = f"run `coreset-backend connect --project {project_id}`"
    backends = own_backends(label_studio, project_id, url)
    if not backends:
        others = named_others(label_studio.backends(project_id))
        address = "; set CORESET_URL if one of them is this backend" if others else ""
        yield f"No backend with the address {url} is connected{others}{address}; {again}."
    if backend.basic_auth and any(each.auth_method != "BASIC_AUTH" for each in backends):
        yield (
            "Label Studio calls the backend without the login of BASIC_AUTH_USER and gets 401; "
            f"delete the backend in Settings > Model, then {again}."
        )
    webhooks = own_webhooks(label_studio, project_id, f"{url}/webhook")
    yield from _webhook_problems(webhooks, url, backend.webhook_secret, again)
    if project.sampling != SAMPLING:
        yield f"Task sampling is '{project.sampling}', so the batch is not served first; {again}."
    if batch_expected:
        yield from _not_served(backend, project_id)


def _webhook_problems(webhooks: list[Webhook], url: str, secret: str, again: str) -> Iterator[str]:
    if not webhooks:
        yield (
            f"There is no webhook to {url}/webhook, so only the poll notices annotations. Label Studio "
            "creates none if it blocks private addresses: set LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false, "
            f"then {again}."
        )
    if webhooks and not any(is_signed(webhook, secret) for webhook in webhooks):
        yield f"The webhook does not carry this backend's secret and gets 401; {again}."
    if webhooks and not any(hook.is_active for hook in webhooks):
        yield f"The webhook is switched off; {again}."


def _not_served(backend: Backend, project_id: int) -> Iterator[str]:
    stored = backend.store.latest(project_id)
    if stored is None or stored.publication is None:
        yield "No batch is published yet; start a round."
        return
    written = written_versions(backend.store, project_id)
    found = why_not_served(backend.label_studio, stored, written, backend.settings.url)
    if found:
        why, is_wanted = found
        next_step = (
            "The next batch replaces it"
            if is_wanted
            else "The worker publishes the batch again within minutes"
        )
        yield (
            f"Label Studio does not serve the batch first: {why}. {next_step}; "
            f"`coreset-backend publish --project {project_id}` publishes the batch now."
        )
