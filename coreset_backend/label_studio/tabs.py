"""The tabs of Label Studio's Data Manager that show what the newest round chose and found.

A tab holds a filter, not a list: batch and reserve are what has the lowest scores of the current version.
What has no column of its own is filtered by task id, the first LISTED of them; the page has them all.
"""

from collections.abc import Iterator, Mapping, Sequence

from coreset_backend.label_studio.client import BY_SCORE, LabelStudio, score_filter
from coreset_backend.project import Json

BATCH, SUSPECTS, DUPLICATES, UNREADABLE = (
    "Core-set batch",
    "Suspected label errors",
    "Near-duplicates",
    "Unreadable",
)
LISTED = 100  # the Data Manager draws a row of its form for each
NO_TASK = -1


def refresh_tabs(
    label_studio: LabelStudio, project_id: int, findings: Mapping[str, Sequence[int]], *, below: float
) -> None:
    """Update the project's tabs: the batch has scores ``below`` that, ``findings`` are task ids by title.

    A tab is made once there is something to show in it. Columns, widths and orders that somebody set in a
    tab stay. Raises LabelStudioError.
    """
    found = _tabs(label_studio, project_id)
    if BATCH in found:
        _change(label_studio, project_id, found[BATCH], scores_below(below))
    for title, task_ids in findings.items():
        filters = one_of(task_ids[:LISTED])
        if title in found:
            _change(label_studio, project_id, found[title], filters)
        elif task_ids:
            _make(label_studio, project_id, title, {"filters": filters})


def make_batch_tab(label_studio: LabelStudio, project_id: int) -> bool:
    """Make the tab of the batch, sorted by score; False where it is there already."""
    if BATCH in _tabs(label_studio, project_id):
        return False
    _make(label_studio, project_id, BATCH, {"filters": scores_below(1.0), "ordering": BY_SCORE})
    return True


def delete_tabs(label_studio: LabelStudio, project_id: int) -> Iterator[str]:
    """Delete the tabs that this backend made, but for one whose filter somebody has changed; yields both."""
    found = _tabs(label_studio, project_id)
    for title in (BATCH, SUSPECTS, DUPLICATES, UNREADABLE):
        if title in found:
            if _is_as_made(title, found[title]["data"].get("filters")):
                label_studio.request("DELETE", f"/api/dm/views/{found[title]['id']}/")
                yield f"Tab '{title}' deleted."
            else:
                yield f"Tab '{title}' stays: somebody has changed its filter."


def _is_as_made(title: str, filters: Json) -> bool:
    """Whether the filter is one that only this backend makes: what has a score, or tasks by their ids."""
    items = (filters or {}).get("items") or []
    wanted = "filter:tasks:predictions_score" if title == BATCH else "filter:tasks:id"
    return bool(items) and all(item.get("filter") == wanted for item in items)


def scores_below(score: float) -> Json:
    """The filter for what the queue has in front of ``score``."""
    return {"conjunction": "and", "items": [score_filter("less", score)]}


def one_of(task_ids: Sequence[int]) -> Json:
    """The filter for exactly these tasks, made of what the Data Manager's own form can show."""
    items = [
        {"filter": "filter:tasks:id", "operator": "equal", "type": "Number", "value": task_id}
        for task_id in task_ids or [NO_TASK]
    ]
    return {"conjunction": "or", "items": items}


def _tabs(label_studio: LabelStudio, project_id: int) -> dict[str, Json]:
    tabs = label_studio.get("/api/dm/views/", project=project_id)
    return {tab.get("data", {}).get("title"): tab for tab in tabs}


def _make(label_studio: LabelStudio, project_id: int, title: str, shown: Json) -> None:
    data = {"title": title, "type": "list", "target": "tasks", **shown}
    label_studio.request("POST", "/api/dm/views/", json={"project": project_id, "data": data})


def _change(label_studio: LabelStudio, project_id: int, tab: Json, filters: Json) -> None:
    if tab["data"].get("filters") != filters:
        body = {"project": project_id, "data": {**tab["data"], "filters": filters}}
        label_studio.request("PATCH", f"/api/dm/views/{tab['id']}/", json=body)
