"""The JSON API of this backend: a project's state, the four actions on it, and what monitoring asks."""

from flask import Blueprint, Response, current_app, jsonify
from werkzeug.exceptions import BadRequest

from coreset_backend.evaluation.history import project_history
from coreset_backend.jobs.monitoring import heartbeat_ages
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.requests import cancel_round, publish_again, roll_back
from coreset_backend.jobs.status import project_status
from coreset_backend.web.metrics import CONTENT_TYPE, metrics_text
from coreset_backend.web.openapi import description
from coreset_backend.web.overview import progress, project_overview
from coreset_backend.web.requests import connected_project, current_backend, json_body

api = Blueprint("api", __name__)


@api.get("/api/projects/<project>/status")
def status(project: str) -> Response:
    """Progress and the newest round of the project."""
    return jsonify(project_status(current_backend(), connected_project(project)))


@api.get("/api/projects/<project>/history")
def history(project: str) -> Response:
    """What every round measured, also those whose files are gone; `project_history` has the shape."""
    return jsonify(project_history(current_backend().store, connected_project(project)))


@api.get("/api/projects/<project>/overview")
def overview(project: str) -> Response:
    """Every number of the project's page."""
    return jsonify(project_overview(current_backend(), connected_project(project)))


@api.get("/api/projects/<project>/progress")
def live_progress(project: str) -> Response:
    """How far the running round is, the number of the round that speaks for the project, and when it was
    published; asked for every second.
    """
    project_id, backend = connected_project(project), current_backend()
    newest = backend.store.latest(project_id)
    return jsonify(
        project=project_id,
        progress=progress(backend, project_id, newest),
        number=newest.record.number if newest else 0,
        published_at=(newest.publication or {}).get("at") if newest else None,
    )


@api.post("/api/projects/<project>/start")
def start(project: str) -> tuple[Response, int]:
    """Start a round now, due or not."""
    queued = request_round(current_backend(), connected_project(project), "started by hand", force=True)
    return jsonify(status="queued" if queued else "already waiting"), 202


@api.post("/api/projects/<project>/cancel")
def cancel(project: str) -> tuple[Response, int]:
    """End the running round and drop the waiting one."""
    stopped = cancel_round(current_backend(), connected_project(project))
    return jsonify(status="cancelled" if stopped else "nothing to cancel"), 200


@api.post("/api/projects/<project>/publish")
def publish(project: str) -> tuple[Response, int]:
    """Have the current batch published again."""
    queued = publish_again(current_backend(), connected_project(project))
    return jsonify(status="queued" if queued else "already waiting"), 202


@api.post("/api/projects/<project>/rollback")
def rollback(project: str) -> tuple[Response, int]:
    """Roll back to ``{"round": n}``."""
    number = json_body().get("round")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise BadRequest("`round` must be the number of a round, as in 3.")
    roll_back(current_backend(), connected_project(project), number)
    return jsonify(status="queued", round=number), 202


@api.get("/ready")
def ready() -> tuple[Response, int]:
    """Whether rounds can run: Redis answers, and a worker showed within half a minute that it lives."""
    ages = heartbeat_ages(current_backend())
    return jsonify(
        status="READY" if ages else "NO WORKER",
        workers=len(ages),
        heartbeat_age_seconds=round(min(ages.values()), 1) if ages else None,
    ), 200 if ages else 503


@api.get("/metrics")
def metrics() -> Response:
    """The figures of web, workers and projects in Prometheus' text format."""
    return Response(metrics_text(current_app), content_type=CONTENT_TYPE)


@api.get("/openapi.json")
def openapi() -> Response:
    """This description of the API, for machines."""
    return jsonify(description(current_app))
