"""The tabs of Label Studio's Data Manager that show the batch and the findings of the newest round.

A tab has a filter, not a list of tasks. Batch and reserve are the tasks with the lowest scores of the current
version. The other tabs filter by task id, for the first LISTED tasks; the project's page lists all of them.
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
LISTED = 100  # the Data Manager's form shows one row per id
NO_TASK = -1


def refresh_tabs(
    label_studio: LabelStudio, project_id: int, findings: Mapping[str, Sequence[int]], *, below: float
) -> None:
    """Update the project's tabs. The batch has scores lower than ``below``; ``findings``: title -> task ids.

    A tab is created once it has tasks to show. Columns, widths and orders that a person set in a tab stay.
    Raises LabelStudioError.
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
    """Create the tab of the batch, sorted by score; False if it exists already."""
    if BATCH in _tabs(label_studio, project_id):
        return False
    _make(label_studio, project_id, BATCH, {"filters": scores_below(1.0), "ordering": BY_SCORE})
    return True


def delete_tabs(label_studio: LabelStudio, project_id: int) -> Iterator[str]:
    """Delete the tabs that this backend created, except those with a changed filter; yields a
    line for each.
    """
    found = _tabs(label_studio, project_id)
    for title in (BATCH, SUSPECTS, DUPLICATES, UNREADABLE):
        if title in found:
            if _is_as_made(title, found[title]["data"].get("filters")):
                label_studio.request("DELETE", f"/api/dm/views/{found[title]['id']}/")
                yield f"Tab '{title}' deleted."
            else:
                yield f"Tab '{title}' stays: a person has changed its filter."


def _is_as_made(title: str, filters: Json) -> bool:
    """Whether the filter is of a kind that this backend creates: by score, or by task ids."""
    items = (filters or {}).get("items") or []
    wanted = "filter:tasks:predictions_score" if title == BATCH else "filter:tasks:id"
    return bool(items) and all(item.get("filter") == wanted for item in items)


def scores_below(score: float) -> Json:
    """The filter for tasks with a score lower than ``score``."""
    return {"conjunction": "and", "items": [score_filter("less", score)]}


def one_of(task_ids: Sequence[int]) -> Json:
    """The filter for exactly these tasks, in a form that the Data Manager can show."""
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
