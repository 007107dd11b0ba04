"""What is asked of Label Studio's Data Manager: filters, orders and fields of its list of tasks. Pure."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TypedDict

BY_SCORE = ["tasks:predictions_score"]
NEWEST_FIRST = ["-tasks:updated_at"]
NO_TASK = -1
TASKS_IN_AN_ADDRESS = 100
COUNTS = "id,total_annotations,cancelled_annotations"
ANNOTATION_FIELDS = (
    "id,data,annotations,result,was_cancelled,ground_truth,completed_by,updated_at,updated_by,"
    "lead_time,created_at,import_id"
)


class Filter(TypedDict):
    """One condition on a task; ``filter`` names the column."""

    filter: str
    operator: str
    type: str
    value: object


class Filters(TypedDict):
    """Conditions that all ("and") or any ("or") must hold."""

    conjunction: str
    items: list[Filter]


def _column(name: str, operator: str, kind: str, value: object) -> Filter:
    return {"filter": f"filter:tasks:{name}", "operator": operator, "type": kind, "value": value}


UNSOLVED = _column("completed_at", "empty", "Datetime", True)
ANNOTATED: Filters = {
    "conjunction": "or",
    "items": [
        _column("total_annotations", "greater", "Number", 0),
        _column("cancelled_annotations", "greater", "Number", 0),
        _column("annotators", "empty", "List", False),
    ],
}
"""Annotated or skipped. Label Studio may count nothing on a task that is annotated during an import of
predictions, until it counts again at the next one; its annotators are always known."""


def score_filter(operator: str, value: float | bool) -> Filter:
    """A condition on the task's score under the version that the project shows."""
    return _column("predictions_score", operator, "Number", value)


def after_id(task_id: int) -> Filter:
    """A condition on the task's id: greater than ``task_id``."""
    return _column("id", "greater", "Number", task_id)


def updated_after(moment: datetime) -> Filter:
    """A condition on when the task was last saved, by the clock of Label Studio."""
    return _column("updated_at", "greater", "Datetime", _as_filtered(moment))


def created_before(moment: datetime) -> Filter:
    """A condition on when the task was imported, by the clock of Label Studio."""
    return _column("created_at", "less", "Datetime", _as_filtered(moment))


def _as_filtered(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # another form is answered with 500


def all_of(*items: Filter) -> Filters:
    """The filter for tasks on which every condition holds."""
    return {"conjunction": "and", "items": list(items)}


def one_of(task_ids: Sequence[int]) -> Filters:
    """The filter for exactly these tasks, in a form that the Data Manager can show."""
    items = [_column("id", "equal", "Number", task_id) for task_id in task_ids or [NO_TASK]]
    return {"conjunction": "or", "items": items}


def in_addresses(task_ids: Sequence[int]) -> Iterator[list[int]]:
    """The task ids in parts that fit into the address of a request."""
    for start in range(0, len(task_ids), TASKS_IN_AN_ADDRESS):
        yield list(task_ids[start : start + TASKS_IN_AN_ADDRESS])


def query(
    filters: Filters | None = None,
    *,
    ordering: Sequence[str] = (),
    task_ids: Sequence[int] | None = None,
) -> str:
    """The parameter `query` of the task list: which of ``task_ids``, or of all tasks, and in what order."""
    asked: dict[str, object] = {}
    if filters:
        asked["filters"] = filters
    if ordering:
        asked["ordering"] = ordering
    if task_ids is not None:
        asked["selectedItems"] = {"all": False, "included": list(task_ids)}
    return json.dumps(asked)
