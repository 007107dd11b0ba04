"""The tabs of Label Studio's Data Manager that show the batch and the findings of the newest round.

A tab has a filter, not a list of tasks. Batch and reserve are the tasks with the lowest scores of the current
version. The other tabs filter by task id, for the first LISTED tasks; the project's page lists all of them.
"""

from collections.abc import Iterator, Mapping, Sequence

from coreset_backend.label_studio.answers import Tab, read_tabs
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.filters import BY_SCORE, Filters, all_of, one_of, score_filter

BATCH, SECOND, SUSPECTS, DUPLICATES, UNREADABLE = (
    "Core-set batch",
    "Second opinion",
    "Suspected label errors",
    "Near-duplicates",
    "Unreadable",
)
LISTED = 100  # the Data Manager's form shows one row per id


def refresh_tabs(
    label_studio: LabelStudio, project_id: int, findings: Mapping[str, Sequence[int]], *, below: float
) -> None:
    """Update the project's tabs. The batch has scores lower than ``below``; ``findings``: title -> task ids.

    A tab is created once it has tasks to show. Columns, widths and orders that a person set in a tab stay.
    Raises LabelStudioError.
    """
    found = find_tabs(label_studio, project_id)
    if BATCH in found:
        _change(label_studio, project_id, found[BATCH], scores_below(below))
    for title, task_ids in findings.items():
        filters = one_of(task_ids[:LISTED])
        if title in found:
            _change(label_studio, project_id, found[title], filters)
        elif task_ids:
            _make(label_studio, project_id, title, filters)


def make_batch_tab(label_studio: LabelStudio, project_id: int) -> bool:
    """Create the tab of the batch, sorted by score; False if it exists already."""
    if BATCH in find_tabs(label_studio, project_id):
        return False
    _make(label_studio, project_id, BATCH, scores_below(1.0), ordering=BY_SCORE)
    return True


def make_tab(label_studio: LabelStudio, project_id: int, title: str, filters: Filters) -> None:
    """Create the tab, or give it this filter."""
    tab = find_tabs(label_studio, project_id).get(title)
    if tab is None:
        _make(label_studio, project_id, title, filters)
    else:
        _change(label_studio, project_id, tab, filters)


def delete_tabs(label_studio: LabelStudio, project_id: int) -> Iterator[str]:
    """Delete the tabs that this backend created, except those with a changed filter; yields a
    line for each.
    """
    found = find_tabs(label_studio, project_id)
    for title in (BATCH, SECOND, SUSPECTS, DUPLICATES, UNREADABLE):
        if title in found:
            if _is_as_made(title, found[title]):
                label_studio.request("DELETE", f"/api/dm/views/{found[title].tab_id}/")
                yield f"Tab '{title}' deleted."
            else:
                yield f"Tab '{title}' stays: a person has changed its filter."


def _is_as_made(title: str, tab: Tab) -> bool:
    """Whether its filter is of a kind that this backend creates: by score, or by task ids."""
    filters = tab.filters
    items = filters.get("items") if isinstance(filters, Mapping) else None
    if not isinstance(items, list) or not items:
        return False
    wanted = "filter:tasks:predictions_score" if title == BATCH else "filter:tasks:id"
    return all(isinstance(item, Mapping) and item.get("filter") == wanted for item in items)


def scores_below(score: float) -> Filters:
    """The filter for tasks with a score lower than ``score``."""
    return all_of(score_filter("less", score))


def find_tabs(label_studio: LabelStudio, project_id: int) -> dict[str, Tab]:
    """The tabs by their titles."""
    answer = label_studio.request("GET", "/api/dm/views/", params={"project": project_id})
    return {tab.title: tab for tab in read_tabs(answer)}


def _make(
    label_studio: LabelStudio,
    project_id: int,
    title: str,
    filters: Filters,
    *,
    ordering: Sequence[str] = (),
) -> None:
    data = {"title": title, "type": "list", "target": "tasks", "filters": filters}
    if ordering:
        data["ordering"] = ordering
    label_studio.request("POST", "/api/dm/views/", json={"project": project_id, "data": data})


def _change(label_studio: LabelStudio, project_id: int, tab: Tab, filters: Filters) -> None:
    if tab.filters != filters:
        body = {"project": project_id, "data": {**tab.data, "filters": filters}}
        label_studio.request("PATCH", f"/api/dm/views/{tab.tab_id}/", json=body)
