"""Decides which webhook events request a round. An event only triggers a check; its content is
not trusted.
"""

from typing import Literal

from coreset_backend.backend import Backend
from coreset_backend.jobs.queue import request_round
from coreset_backend.label_studio.payloads import parse_project_id

START_TRAINING = "START_TRAINING"
WORK_EVENTS = {
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATION_DELETED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
}
"""Events of people's changes to annotations and tasks. PROJECT_UPDATED is not one of them: the backend causes
it itself when it switches the version, so rounds would never end.
"""


Taken = Literal["queued", "already waiting", "manual", "disconnected"]


def event_project_id(project: object) -> int:
    """The id in an event's ``project``, a number or an object with the id; raises ValueError."""
    return parse_project_id(project.get("id") if isinstance(project, dict) else project)


def concerns_us(action: str) -> bool:
    """Whether an event can request a round."""
    return action in WORK_EVENTS or action == START_TRAINING


def take_event(backend: Backend, project_id: int, action: str) -> Taken:
    """Register the project and queue a check of it; returns the result of the request.

    "manual": the project's ``trigger`` allows only Start Training to start rounds. Raises QueueError.
    """
    if backend.store.is_disconnected(project_id):  # an event sent before that
        return "disconnected"
    backend.store.register(project_id)
    forced = action == START_TRAINING
    if not forced and backend.trigger_of(project_id) == "manual":
        return "manual"
    return "queued" if request_round(backend, project_id, action, force=forced) else "already waiting"
