"""A project of images in a Label Studio of our own, made through its API."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import httpx

from coreset_backend.errors import Rejected, Unreachable


def open_session(url: str, token: str) -> httpx.Client:
    """A client that speaks to one Label Studio, past any proxy of the environment; the caller closes it."""
    headers = {"Authorization": f"Token {token}"}
    return httpx.Client(base_url=url, headers=headers, timeout=300.0, trust_env=False)


def choices_config(labels: Sequence[str]) -> str:
    """A label config with one image and a single choice of ``labels``."""
    choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    return (
        '<View><Image name="image" value="$image"/>'
        f'<Choices name="label" toName="image" choice="single" showInline="true">{choices}</Choices></View>'
    )


def create_demo_project(url: str, token: str, images: Path, title: str, labels: Sequence[str]) -> int:
    """The id of the project ``title`` with the files of ``images`` as tasks; run again, it adds missing ones.

    ``images`` must lie strictly below the document root of Label Studio, which serves them from there.
    """
    with open_session(url, token) as session:
        project_id = _find_project(session, title)
        if project_id is None:
            project_id = create_project(session, title, choices_config(labels))
        connect_local_files(session, project_id, images)
        return project_id


def create_project(session: httpx.Client, title: str, label_config: str) -> int:
    """The id of a new project; Label Studio takes titles of 3 to 50 characters."""
    wanted = {"title": title, "label_config": label_config}
    return int(_ask(session, "POST", "/api/projects/", json=wanted)["id"])


def connect_local_files(session: httpx.Client, project_id: int, images: Path) -> None:
    """Make every image of the folder a task, without copying it; a folder once synced is left alone."""
    path = str(images.absolute())
    known = _ask(session, "GET", "/api/storages/localfiles/", params={"project": project_id})
    storage = next((storage for storage in known if storage["path"] == path), None)
    if storage is None:
        wanted = {"project": project_id, "title": images.name, "path": path, "use_blob_urls": True}
        wanted["regex_filter"] = r"(?i).*\.(jpe?g|png)$"
        storage = _ask(session, "POST", "/api/storages/localfiles/", json=wanted)
    if storage["status"] != "completed":
        _ask(session, "POST", f"/api/storages/localfiles/{storage['id']}/sync")


def upload_images(session: httpx.Client, project_id: int, images: Sequence[Path]) -> None:
    """Copy the files into Label Studio, one task each, in requests of 50: it takes 100 files at most.

    Every part needs a name of its own, since Label Studio keeps one file per name.
    """
    for start in range(0, len(images), 50):
        chunk = images[start : start + 50]
        parts = {path.name: (path.name, path.read_bytes(), "image/jpeg") for path in chunk}
        _ask(session, "POST", f"/api/projects/{project_id}/import", files=parts)


def _find_project(session: httpx.Client, title: str) -> int | None:
    """The project of exactly this title; Label Studio's own filter also finds longer ones."""
    page = _ask(session, "GET", "/api/projects/", params={"title": title, "page_size": 1000})
    return next((int(project["id"]) for project in page["results"] if project["title"] == title), None)


def _ask(session: httpx.Client, method: str, path: str, **content: Any) -> Any:
    """The JSON of Label Studio's answer, or ``Rejected``."""
    try:
        answer = session.request(method, path, **content)
    except httpx.TransportError as error:
        raise Unreachable(f"{session.base_url} gave no answer to {method} {path}: {error!r}") from error
    if answer.is_error:
        raise Rejected(answer.status_code, _objection(answer), f"{method} {path}")
    return answer.json()


def _objection(answer: httpx.Response) -> str:
    """What Label Studio objects to, without the wrapping that alone would fill a message."""
    try:
        return json.dumps(answer.json()["validation_errors"])
    except (ValueError, LookupError, TypeError):
        return answer.text
