"""The JSON API of what a person does with many images at once: labels in bulk, and examples."""

from flask import Blueprint

from coreset_backend.jobs.bulk import BulkStatus, bulk_status, plan_bulk, start_bulk, undo_bulk
from coreset_backend.store.examples import FEWER, MORE, Examples, mark_examples, shown_examples
from coreset_backend.web.requests import connected_project, current_backend, json_body
from coreset_backend.web.schemas import BulkBody, BulkUndoBody, ExamplesBody, answers

bulk = Blueprint("bulk", __name__)


@bulk.get("/api/projects/<project>/bulk")
@answers(BulkStatus)
def status(project: str) -> BulkStatus:
    """The latest labels in bulk of the project, the newest first."""
    return bulk_status(current_backend(), connected_project(project))


@bulk.post("/api/projects/<project>/bulk")
@answers(BulkStatus, takes=BulkBody)
def write(project: str) -> BulkStatus:
    """Give many tasks one label, by a worker; with ``dry_run`` only show what would be written."""
    project_id, body = connected_project(project), json_body(BulkBody)
    act = plan_bulk if body.dry_run else start_bulk
    return act(current_backend(), project_id, body.label, body.task_ids, corrects=body.correct)


@bulk.post("/api/projects/<project>/bulk/undo")
@answers(BulkStatus, takes=BulkUndoBody)
def undo(project: str) -> BulkStatus:
    """Delete the annotations of a write that no person has changed since."""
    return undo_bulk(current_backend(), connected_project(project), json_body(BulkUndoBody).version)


@bulk.get("/api/projects/<project>/examples")
@answers(Examples)
def examples(project: str) -> Examples:
    """The images marked as examples, with the weight that images just like them have in the selection."""
    return shown_examples(current_backend().store, connected_project(project))


@bulk.post("/api/projects/<project>/examples")
@answers(Examples, takes=ExamplesBody)
def mark(project: str) -> Examples:
    """Have images like these count more, less, or as any other from the next round on."""
    project_id, body = connected_project(project), json_body(ExamplesBody)
    weight = {"more": MORE, "fewer": FEWER, "neither": None}[body.like]
    return Examples(mark_examples(current_backend().store, project_id, body.task_ids, weight))
