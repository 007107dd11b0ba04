"""The pages for people: projects, one project, and the images on them. Loads no torch.

A page is complete without JavaScript, which updates it and draws the charts.
"""

import datetime
from collections.abc import Sequence

import numpy as np
from flask import Blueprint, Response, render_template, request
from werkzeug.exceptions import HTTPException, NotFound

from coreset_backend.errors import CoresetError, RoundNotFound
from coreset_backend.redaction import redacted
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.web.embedding_map import map_bytes
from coreset_backend.web.errors import status_of
from coreset_backend.web.overview import project_page, projects_page
from coreset_backend.web.page_contents import TaskCount
from coreset_backend.web.requests import connected_project, current_backend

THUMBNAIL_SIDE = 192
UNCHANGING = "private, max-age=86400, immutable"
TABS = {"now": "Now", "learned": "Learned", "pool": "Pool", "history": "History"}
"""The tabs of a project's page, as in ``?tab=pool``; each is a template in templates/tabs."""

pages = Blueprint("pages", __name__)


@pages.get("/projects")
def projects() -> str:
    """All connected projects."""
    return render_template("projects.html", view=projects_page(current_backend()))


@pages.get("/projects/<int:project_id>")
def project(project_id: int) -> str:
    """One project: what runs, how accurate the model is, when to stop. ``?tab=`` is one of `TABS`."""
    tab = request.args.get("tab", "now")
    if tab not in TABS:
        raise NotFound(f"The page has no tab of this name; it has {', '.join(TABS)}.")
    view = project_page(current_backend(), connected_project(project_id))
    return render_template("project.html", view=view, tab=tab, tabs=TABS)


@pages.get("/projects/<int:project_id>/rounds/<int:number>/thumbnails/<int:task_id>.jpg")
def thumbnail(project_id: int, number: int, task_id: int) -> Response:
    """The image of a task of that round, from the cache. 404 for a task of another project."""
    from coreset_backend.images.thumbnails import cached_thumbnail  # Pillow is loaded at the first thumbnail

    stored = _round(project_id, number)
    key = _image_key(stored, task_id)
    jpeg = cached_thumbnail(current_backend().store.image_cache, key, THUMBNAIL_SIDE) if key else None
    if jpeg is None:
        raise NotFound(f"Round {number} of project {project_id} has no cached image of task {task_id}.")
    return Response(jpeg, mimetype="image/jpeg", headers={"Cache-Control": UNCHANGING})


@pages.get("/projects/<int:project_id>/rounds/<int:number>/map")
def embedding_map(project_id: int, number: int) -> Response:
    """The points of the round's embedding map; `map_bytes` has the format."""
    stored = _round(project_id, number)
    if not stored.has("layout"):
        raise NotFound(f"Round {number} of project {project_id} was saved without a map.")
    headers = {"Cache-Control": UNCHANGING}
    return Response(map_bytes(stored), mimetype="application/octet-stream", headers=headers)


def _round(project_id: int, number: int) -> StoredRound:
    try:
        return current_backend().store.open(connected_project(project_id), number)
    except RoundNotFound as error:
        raise NotFound(str(error)) from None


def _image_key(stored: StoredRound, task_id: int) -> str | None:
    if not stored.has("image_keys"):
        return None
    if task_id >= 2**63:
        return None
    with stored.reading():
        task_ids = stored.array("embedded_task_ids", mapped=True)
        row = int(np.searchsorted(task_ids, task_id))
        known = row < len(task_ids) and task_ids[row] == task_id
        return stored.array("image_keys", mapped=True)[row].tobytes().hex() if known else None


@pages.errorhandler(HTTPException)
@pages.errorhandler(CoresetError)
def _show_error(error: HTTPException | CoresetError) -> tuple[str, int, dict[str, str]]:
    status = error.code or 500 if isinstance(error, HTTPException) else status_of(error)
    words = redacted(str(error.description if isinstance(error, HTTPException) else error))
    headers = dict(error.get_headers()) if isinstance(error, HTTPException) else {}
    return render_template("error.html", status=status, words=words), status, headers


# ---------------------------------------------------------------- words for numbers


@pages.app_template_filter("percent")
def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


@pages.app_template_filter("number")
def number(value: float | None, digits: int = 0) -> str:
    """The number with thin spaces between thousands; a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


@pages.app_template_filter("duration")
def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@pages.app_template_filter("moment")
def moment(text: str | None) -> str:
    """An ISO time as day and minute, UTC."""
    return f"{datetime.datetime.fromisoformat(text):%d %b %Y, %H:%M}" if text else "–"


def bar(counts: Sequence[TaskCount], width: float = 1000) -> list[tuple[str, float, float]]:
    """(state, x, width) of each part of a stacked bar that is ``width`` wide."""
    total, start, parts = sum(each.count for each in counts) or 1, 0.0, []
    for each in counts:
        wide = width * each.count / total
        parts.append((each.state, round(start, 2), round(wide, 2)))
        start += wide
    return parts


pages.add_app_template_global(bar, "bar")
