"""The JSON API: a project's status, the four actions on it, and the routes for monitoring."""

from typing import Literal

from flask import Blueprint, Response, current_app

from coreset_backend.evaluation.history import History, project_history
from coreset_backend.finish.session import Kind
from coreset_backend.finish.work import Wish
from coreset_backend.jobs.finishing import (
    FinishStatus,
    accept_finish,
    finish_status,
    look_at_finish,
    plan_acceptance,
    plan_finish,
    start_finish,
    undo_finish,
)
from coreset_backend.jobs.monitoring import heartbeat_ages
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.requests import cancel_round, publish_again, roll_back
from coreset_backend.jobs.status import ProjectStatus, project_status
from coreset_backend.web.metrics import CONTENT_TYPE, metrics_text
from coreset_backend.web.openapi import description
from coreset_backend.web.overview import project_page, shown_progress
from coreset_backend.web.page_contents import ProjectPage
from coreset_backend.web.requests import connected_project, current_backend, json_body
from coreset_backend.web.schemas import (
    AcceptBody,
    Cancelled,
    CopiesBody,
    Description,
    FinishBody,
    LiveProgress,
    Readiness,
    Requested,
    RollbackBody,
    RolledBack,
    answers,
)

api = Blueprint("api", __name__)


@api.get("/api/projects/<project>/status")
@answers(ProjectStatus)
def status(project: str) -> ProjectStatus:
    """Progress and the newest round of the project."""
    return project_status(current_backend(), connected_project(project))


@api.get("/api/projects/<project>/history")
@answers(History)
def history(project: str) -> History:
    """The measurements of every round, pruned rounds included."""
    return project_history(current_backend().store, connected_project(project))


@api.get("/api/projects/<project>/overview")
@answers(ProjectPage)
def overview(project: str) -> ProjectPage:
    """Every number of the project's page."""
    return project_page(current_backend(), connected_project(project))


@api.get("/api/projects/<project>/progress")
@answers(LiveProgress)
def live_progress(project: str) -> LiveProgress:
    """The progress of the running round, the number of the current round, and the time of its publication;
    the page requests it every second.
    """
    project_id, backend = connected_project(project), current_backend()
    newest = backend.store.latest(project_id)
    publication = newest.publication if newest else None
    return LiveProgress(
        project=project_id,
        progress=shown_progress(backend, project_id, newest),
        number=newest.record.number if newest else 0,
        published_at=publication.at if publication else None,
    )


@api.post("/api/projects/<project>/start")
@answers(Requested, status=202)
def start(project: str) -> Requested:
    """Start a round now, due or not."""
    queued = request_round(current_backend(), connected_project(project), "started by hand", force=True)
    return Requested(status="queued" if queued else "already waiting")


@api.post("/api/projects/<project>/cancel")
@answers(Cancelled)
def cancel(project: str) -> Cancelled:
    """Cancel the running round and the waiting one."""
    stopped = cancel_round(current_backend(), connected_project(project))
    return Cancelled(status="cancelled" if stopped else "nothing to cancel")


@api.post("/api/projects/<project>/publish")
@answers(Requested, status=202)
def publish(project: str) -> Requested:
    """Publish the current batch again."""
    queued = publish_again(current_backend(), connected_project(project))
    return Requested(status="queued" if queued else "already waiting")


@api.post("/api/projects/<project>/rollback")
@answers(RolledBack, status=202, takes=RollbackBody)
def rollback(project: str) -> RolledBack:
    """Roll back to ``{"round": n}``."""
    number = json_body(RollbackBody).round
    roll_back(current_backend(), connected_project(project), number)
    return RolledBack(status="queued", round=number)


@api.get("/api/projects/<project>/finish")
@answers(FinishStatus)
def finish(project: str) -> FinishStatus:
    """The finish of the project, as it was last looked at."""
    return finish_status(current_backend(), connected_project(project), Kind.MODEL)


@api.post("/api/projects/<project>/finish")
@answers(FinishStatus, takes=FinishBody)
def start_a_finish(project: str) -> FinishStatus:
    """Begin the audit of labels by the model; with ``dry_run`` only show what would be audited."""
    project_id, body = connected_project(project), json_body(FinishBody)
    wish = Wish(Kind.MODEL, body.accuracy, body.confidence, body.audits, body.per_class)
    return (plan_finish if body.dry_run else start_finish)(current_backend(), project_id, wish)


@api.post("/api/projects/<project>/finish/look")
@answers(FinishStatus)
def look_at_the_finish(project: str) -> FinishStatus:
    """What can be promised by what people have labelled until now."""
    return look_at_finish(current_backend(), connected_project(project), Kind.MODEL)


@api.post("/api/projects/<project>/finish/accept")
@answers(FinishStatus, takes=AcceptBody)
def accept_the_finish(project: str) -> FinishStatus:
    """Write the labels that have a bound; with ``dry_run`` only show what would be written."""
    project_id, body = connected_project(project), json_body(AcceptBody)
    if body.dry_run:
        return plan_acceptance(current_backend(), project_id)
    return accept_finish(current_backend(), project_id, annotations=body.annotations, rest=body.rest)


@api.post("/api/projects/<project>/finish/undo")
@answers(FinishStatus)
def undo_the_finish(project: str) -> FinishStatus:
    """Remove all that the finish wrote, or end its audit."""
    return undo_finish(current_backend(), connected_project(project), Kind.MODEL)


@api.get("/api/projects/<project>/copies")
@answers(FinishStatus)
def copies(project: str) -> FinishStatus:
    """The labels of copies, as they were last looked at."""
    return finish_status(current_backend(), connected_project(project), Kind.COPIES)


@api.post("/api/projects/<project>/copies")
@answers(FinishStatus, takes=CopiesBody)
def let_copies_follow(project: str) -> FinishStatus:
    """Have near-duplicates take the label of their original, once an audit of them shows that most are right;
    with ``dry_run`` only show which."""
    project_id, body = connected_project(project), json_body(CopiesBody)
    wish = Wish(Kind.COPIES, body.accuracy, body.confidence, body.audits, annotations=body.annotations)
    return (plan_finish if body.dry_run else start_finish)(current_backend(), project_id, wish)


@api.post("/api/projects/<project>/copies/look")
@answers(FinishStatus)
def look_at_copies(project: str) -> FinishStatus:
    """What is known of the copies by what people have labelled until now."""
    return look_at_finish(current_backend(), connected_project(project), Kind.COPIES)


@api.post("/api/projects/<project>/copies/undo")
@answers(FinishStatus)
def undo_copies(project: str) -> FinishStatus:
    """Remove all labels that copies took, or end their audit."""
    return undo_finish(current_backend(), connected_project(project), Kind.COPIES)


@api.get("/ready")
@answers(Readiness)
def ready() -> tuple[Readiness, int]:
    """Whether rounds can run: Redis answers, and a worker sent a heartbeat within half a minute."""
    ages = heartbeat_ages(current_backend().queue)
    youngest = round(min(ages.values()), 1) if ages else None
    status: Literal["READY", "NO WORKER"] = "READY" if ages else "NO WORKER"
    return Readiness(status=status, workers=len(ages), heartbeat_age_seconds=youngest), 200 if ages else 503


@api.get("/metrics")
def metrics() -> Response:
    """The metrics of web, workers and projects in Prometheus' text format."""
    return Response(metrics_text(current_app), content_type=CONTENT_TYPE)


@api.get("/openapi.json")
@answers(Description)
def openapi() -> dict[str, object]:
    """This description of the API, for machines."""
    return description(current_app)
