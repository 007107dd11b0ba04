"""The web process: the ML-backend protocol of Label Studio 1.23.2, and status. It loads no torch.

Label Studio waits 1 s for /health and /webhook, 3 s for /setup and 100 s for /predict, so nothing here
computes: answers come from the store, work goes to the queue.
"""

import logging

from flask import Blueprint, Flask, Response, current_app, jsonify, request
from werkzeug.exceptions import BadRequest

from coreset_backend import __version__
from coreset_backend.backend import Backend
from coreset_backend.errors import ConfigError, UnsupportedLabelConfig
from coreset_backend.evaluation.history import project_history
from coreset_backend.evaluation.predictions import AnswerCache
from coreset_backend.jobs.monitoring import heartbeat_ages
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.requests import cancel_round, publish_again, roll_back
from coreset_backend.jobs.status import project_status
from coreset_backend.web.access import guard_app, require_signature
from coreset_backend.web.errors import _answer_error
from coreset_backend.web.events import concerns_us, take_event
from coreset_backend.web.metrics import CONTENT_TYPE, measure_app, metrics_text
from coreset_backend.web.openapi import description
from coreset_backend.web.overview import progress, project_overview
from coreset_backend.web.pages import pages
from coreset_backend.web.protocol import predict_tasks, set_up_project
from coreset_backend.web.requests import (
    connected_project,
    current_backend,
    json_body,
    named_project,
    refused_in_the_form,
)

log = logging.getLogger(__name__)

IGNORED = {
    "manual": "rounds start on Start Training only",
    "disconnected": "the project was disconnected",
}

protocol = Blueprint("protocol", __name__)


def create_app(backend: Backend) -> Flask:
    """The WSGI application for one backend; several can live in one process."""
    app = Flask("coreset_backend.web")
    app.extensions["backend"] = backend
    app.extensions["answers"] = AnswerCache(backend.store)
    guard_app(app, backend)
    measure_app(app, backend)
    app.register_blueprint(protocol)
    app.register_blueprint(pages)
    app.register_error_handler(Exception, _answer_error)
    return app


def _answers() -> AnswerCache:
    cache: AnswerCache = current_app.extensions["answers"]
    return cache


# ---------------------------------------------------------------- the protocol


@protocol.get("/")
@protocol.get("/health")
def health() -> Response:
    """Liveness: this process answers. It asks nobody else and no login."""
    return jsonify(status="UP", model_class="Coreset", version=__version__)


@protocol.get("/ready")
def ready() -> tuple[Response, int]:
    """Whether rounds can run: Redis answers, and a worker showed within half a minute that it lives."""
    ages = heartbeat_ages(current_backend())
    return jsonify(
        status="READY" if ages else "NO WORKER",
        workers=len(ages),
        heartbeat_age_seconds=round(min(ages.values()), 1) if ages else None,
    ), 200 if ages else 503


@protocol.get("/metrics")
def metrics() -> Response:
    """The figures of web, workers and projects in Prometheus' text format."""
    return Response(metrics_text(current_app), content_type=CONTENT_TYPE)


@protocol.get("/openapi.json")
def openapi() -> Response:
    """This description of the API, for machines."""
    return jsonify(description(current_app))


@protocol.post("/setup")
def setup() -> Response:
    """Label Studio connects a project, or checks on it: remember it and name the version of /predict."""
    body = json_body()
    project_id, schema = named_project(body.get("project")), str(body.get("schema") or "")
    try:
        version = set_up_project(current_backend(), _answers(), project_id, schema, body.get("extra_params"))
    except (ConfigError, UnsupportedLabelConfig) as error:
        return refused_in_the_form(error)
    return jsonify(model_version=version)


@protocol.post("/predict")
def predict() -> Response:
    """One result for each task, in order, from the newest round; unseen tasks get an empty one."""
    body = json_body()
    project_id, tasks = named_project(body.get("project")), body.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BadRequest("`tasks` must be a list of task objects, as Label Studio sends them.")
    return jsonify(results=predict_tasks(current_backend(), _answers(), project_id, tasks))


@protocol.post("/webhook")
def webhook() -> tuple[Response, int]:
    """Label Studio says that something happened: a hint to go and look, never the truth itself."""
    body = json_body()
    action = body.get("action")
    if not isinstance(action, str):
        raise BadRequest("`action` must name the event, as in ANNOTATION_CREATED.")
    require_signature(action)
    if not concerns_us(action):
        return jsonify(status="ignored", action=action), 200
    project = body.get("project")
    project_id = named_project(project.get("id") if isinstance(project, dict) else project)
    taken = take_event(current_backend(), project_id, action)
    if taken in IGNORED:
        return jsonify(status="ignored", reason=IGNORED[taken]), 200
    return jsonify(status=taken), 202


@protocol.get("/versions")
def versions() -> Response:
    """The versions of /predict, newest first; Label Studio asks without naming a project."""
    if "project" not in request.args:
        return jsonify(versions=[])
    rounds = current_backend().store.readable(named_project(request.args["project"]))
    newest_first = sorted(rounds, key=lambda stored: -stored.record.number)
    return jsonify(versions=[stored.record.pool_version for stored in newest_first])


@protocol.get("/api/projects/<project>/status")
def status(project: str) -> Response:
    """Progress and the newest round of the project."""
    return jsonify(project_status(current_backend(), connected_project(project)))


@protocol.get("/api/projects/<project>/history")
def history(project: str) -> Response:
    """What every round measured, also those whose files are gone; `project_history` has the shape."""
    return jsonify(project_history(current_backend().store, connected_project(project)))


@protocol.get("/api/projects/<project>/overview")
def overview(project: str) -> Response:
    """Every number of the project's page."""
    return jsonify(project_overview(current_backend(), connected_project(project)))


@protocol.get("/api/projects/<project>/progress")
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


@protocol.post("/api/projects/<project>/start")
def start(project: str) -> tuple[Response, int]:
    """Start a round now, due or not."""
    queued = request_round(current_backend(), connected_project(project), "started by hand", force=True)
    return jsonify(status="queued" if queued else "already waiting"), 202


@protocol.post("/api/projects/<project>/cancel")
def cancel(project: str) -> tuple[Response, int]:
    """End the running round and drop the waiting one."""
    stopped = cancel_round(current_backend(), connected_project(project))
    return jsonify(status="cancelled" if stopped else "nothing to cancel"), 200


@protocol.post("/api/projects/<project>/publish")
def publish(project: str) -> tuple[Response, int]:
    """Have the current batch published again."""
    queued = publish_again(current_backend(), connected_project(project))
    return jsonify(status="queued" if queued else "already waiting"), 202


@protocol.post("/api/projects/<project>/rollback")
def rollback(project: str) -> tuple[Response, int]:
    """Roll back to ``{"round": n}``."""
    number = json_body().get("round")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise BadRequest("`round` must be the number of a round, as in 3.")
    roll_back(current_backend(), connected_project(project), number)
    return jsonify(status="queued", round=number), 202


# ---------------------------------------------------------------- what went wrong
