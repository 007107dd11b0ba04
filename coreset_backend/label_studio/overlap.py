"""A task that people have labelled, served once more: to annotators who have not labelled it yet.

Label Studio Community has no request for that, but a task's ``overlap`` (how many annotators it needs) and
``is_labeled`` can be changed. A task that needs one more annotator and is not labelled is served by every
queue of the project, without the answers of others. Both fields must be sent: Label Studio compares them only
when an annotation changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from coreset_backend.errors import Rejected
from coreset_backend.label_studio.client import LabelStudio

OVERLAPS = "id,overlap,is_labeled,annotations,completed_by,was_cancelled"


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many annotators a task needs (``wants``), and how many have answered it; skips are no answers."""

    wants: int
    annotators: int
    is_labeled: bool


def fetch_overlaps(label_studio: LabelStudio, project_id: int, task_ids: Sequence[int]) -> dict[int, Overlap]:
    """By task id; tasks that are gone are absent. Raises LabelStudioError."""
    return {
        task.task_id: Overlap(
            task.overlap,
            len({each.voter for each in task.annotations if not each.was_cancelled}),
            task.is_labeled,
        )
        for task in label_studio.listed(project_id, task_ids, OVERLAPS, fields="all")
    }


def set_overlap(label_studio: LabelStudio, task_id: int, wants: int, *, is_labeled: bool) -> None:
    """Set how many annotators the task needs; a task that is gone is passed over. Raises LabelStudioError."""
    body = {"overlap": wants, "is_labeled": is_labeled}
    try:
        label_studio.request("PATCH", f"/api/tasks/{task_id}/", json=body)
    except Rejected as error:
        if error.status != 404:
            raise
