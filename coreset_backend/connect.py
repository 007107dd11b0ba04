"""Connect a project, and check a connection: what a lead would otherwise set by hand, and get wrong.

Every step looks first and changes only what differs, so connecting twice is harmless.
"""

from collections.abc import Iterator
from typing import Any

from coreset_backend.errors import LabelStudioError, Rejected
from coreset_backend.label_studio import BATCH_VERSION_PREFIX, LabelStudio
from coreset_backend.project import Json, parse_label_config
from coreset_backend.tabs import BATCH, make_batch_tab

TITLE = "Core-Set"
SAMPLING = "Uncertainty sampling"
SECRET_HEADER = "X-Coreset-Secret"
PRIVATE_ADDRESS = (
    "Label Studio refuses to talk to {url}: it blocks private addresses by default ({answer}). "
    "Start Label Studio with LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false and "
    "LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false, both of them, and connect again. "
    "(Tighter: LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false with "
    "LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS=169.254.0.0/16.)"
)


def connect(
    label_studio: LabelStudio,
    project_id: int,
    *,
    url: str,
    secret: str,
    basic_auth: tuple[str, str] | None = None,
) -> Iterator[str]:
    """Connect the project to the backend at ``url``; yields a sentence for each thing done or found done.

    Raises LabelStudioError with the fix when Label Studio blocks the address, cannot reach it or refuses
    the token, and UnsupportedLabelConfig when the project shows no image.
    """
    user = label_studio.whoami().get("email", "unknown user")
    yield f"Label Studio {label_studio.version()} at {label_studio.url}, as {user}."
    project = _project(label_studio, project_id)
    config = parse_label_config(project["label_config"])
    trained = f"trained on <Choices> '{config.labels.from_name}'" if config.labels else "selection only"
    yield f"Project {project_id} '{project['title']}': images in '{config.image_key}', {trained}."
    yield _add_backend(label_studio, project_id, url, basic_auth)
    yield _sign_webhook(label_studio, project_id, f"{url}/webhook", secret)
    yield _set_sampling(label_studio, project)
    yield _make_tab(label_studio, project_id)


def _project(label_studio: LabelStudio, project_id: int) -> Json:
    try:
        return label_studio.fetch_project(project_id)
    except Rejected as error:
        if error.status != 404:
            raise
        raise LabelStudioError(
            f"{label_studio.url} has no project {project_id} that this user may see. "
            "The number is in the address of the project's page: /projects/<number>/data."
        ) from None


def _add_backend(
    label_studio: LabelStudio, project_id: int, url: str, basic_auth: tuple[str, str] | None
) -> str:
    existing = _ours(label_studio, project_id, url)
    # A backend in the list without its webhook is what a blocked address leaves behind: connect anew.
    if existing and _our_webhooks(label_studio, project_id, f"{url}/webhook"):
        return f"Backend {url} is connected already."
    for backend in existing:
        label_studio.request("DELETE", f"/api/ml/{backend['id']}")
    body: dict[str, Any] = {"project": project_id, "title": TITLE, "url": url, "auth_method": "NONE"}
    if basic_auth:
        user, password = basic_auth
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
    try:
        label_studio.request("POST", "/api/ml/", json=body, timeout=60)
    except Rejected as error:
        for backend in _ours(label_studio, project_id, url):
            label_studio.request("DELETE", f"/api/ml/{backend['id']}")
        raise LabelStudioError(_why_not_connected(error, url)) from None
    return f"Backend {url} connected."


def _why_not_connected(error: Rejected, url: str) -> str:
    if error.status == 403 and "reserved network address" in error.body:
        return PRIVATE_ADDRESS.format(url=url, answer=error.body)
    if error.status == 403:
        return f"This user may not connect a backend to the project: {error.body}"
    return (
        f"Label Studio could not connect to the backend at {url}: {error.body} "
        "Check that `coreset-backend serve` runs and that CORESET_URL is its address as Label Studio reaches "
        "it (from a container: http://host.docker.internal:9090 or the service's name, not localhost)."
    )


def _ours(label_studio: LabelStudio, project_id: int, url: str) -> list[Json]:
    return [each for each in label_studio.backends(project_id) if str(each.get("url", "")).rstrip("/") == url]


def _our_webhooks(label_studio: LabelStudio, project_id: int, url: str) -> list[Json]:
    return [each for each in label_studio.webhooks(project_id) if each.get("url") == url]


def _sign_webhook(label_studio: LabelStudio, project_id: int, url: str, secret: str) -> str:
    wanted = {
        "url": url,
        "project": project_id,
        "send_payload": True,
        "send_for_all_actions": True,
        "is_active": True,
        "headers": {SECRET_HEADER: secret},
    }
    first, *doubles = _our_webhooks(label_studio, project_id, url) or [None]
    for double in doubles:  # left behind by backends that were deleted: each would send every event again
        label_studio.request("DELETE", f"/api/webhooks/{double['id']}/")
    if first is None:
        label_studio.request("POST", "/api/webhooks/", params={"project": project_id}, json=wanted)
        return "Webhook made, signed with the secret."
    label_studio.request("PATCH", f"/api/webhooks/{first['id']}/", json=wanted)
    return "Webhook signed with the secret."


def _set_sampling(label_studio: LabelStudio, project: Json) -> str:
    found = project.get("sampling")
    if found == SAMPLING:
        return f"Task sampling is '{SAMPLING}' already."
    label_studio.request("PATCH", f"/api/projects/{project['id']}/", json={"sampling": SAMPLING})
    return f"Task sampling set to '{SAMPLING}' (it was '{found}'), so that scores order the queue."


def _make_tab(label_studio: LabelStudio, project_id: int) -> str:
    if make_batch_tab(label_studio, project_id):
        return f"Tab '{BATCH}' made, sorted by score."
    return f"Tab '{BATCH}' is there already."


def problems(
    label_studio: LabelStudio,
    project_id: int,
    *,
    url: str,
    secret: str,
    basic_auth: tuple[str, str] | None = None,
) -> Iterator[str]:
    """What keeps the connection of the project from working, each with its fix; nothing when it is sound."""
    project = _project(label_studio, project_id)
    parse_label_config(project["label_config"])
    again = f"run `coreset-backend connect --project {project_id}`"
    backends = _ours(label_studio, project_id, url)
    if not backends:
        yield f"No backend with the address {url} is connected; {again}."
    if basic_auth and any(backend.get("auth_method") != "BASIC_AUTH" for backend in backends):
        yield (
            "Label Studio calls the backend without the login of BASIC_AUTH_USER and is refused; "
            f"delete the backend in Settings > Model, then {again}."
        )
    webhooks = _our_webhooks(label_studio, project_id, f"{url}/webhook")
    if not webhooks:
        yield (
            f"There is no webhook to {url}/webhook, so annotations are only noticed by polling. Label Studio "
            "leaves it out when it blocks private addresses: set LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false, "
            f"then {again}."
        )
    if webhooks and not any((hook.get("headers") or {}).get(SECRET_HEADER) == secret for hook in webhooks):
        yield f"The webhook does not carry this backend's secret and is answered with 401; {again}."
    if webhooks and not any(hook.get("is_active", True) for hook in webhooks):
        yield f"The webhook is switched off; {again}."
    if project.get("sampling") != SAMPLING:
        yield f"Task sampling is '{project.get('sampling')}', so the batch is not served first; {again}."
    version = project.get("model_version") or ""
    if not version.startswith(BATCH_VERSION_PREFIX):
        yield f"The project shows predictions of version '{version}', not of a batch; start a round."
