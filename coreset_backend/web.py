"""The web process: the ML-backend protocol of Label Studio 1.23.2, and status. It loads no torch.

Label Studio waits 1 s for /health and /webhook, 3 s for /setup and 100 s for /predict, so nothing here
computes: answers come from the store, work goes to the queue.
"""

import base64
import binascii
import hmac
import logging
import secrets
import threading
from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify, request
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, Unauthorized

from coreset_backend import __version__
from coreset_backend.answers import Answers
from coreset_backend.backend import Backend
from coreset_backend.connect import SECRET_HEADER
from coreset_backend.errors import (
    ConfigError,
    CoresetError,
    CorruptRound,
    LabelStudioError,
    ProjectError,
    QueueError,
    RoundNotFound,
)
from coreset_backend.jobs import note_unseen, request_round, workers_alive
from coreset_backend.pages import pages
from coreset_backend.project import Json, result_json
from coreset_backend.status import project_status

log = logging.getLogger(__name__)

MAX_BODY = 256 * 1024 * 1024
STATUS = {
    QueueError: 503,
    RoundNotFound: 404,
    ProjectError: 409,
    LabelStudioError: 502,
    ConfigError: 500,
    CoresetError: 500,
}
# What people do to annotations and tasks. PROJECT_UPDATED is not among them: our own switch of the
# version fires it, and training on it would never end.
WORK_EVENTS = {
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATION_DELETED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
}
START_TRAINING = "START_TRAINING"

protocol = Blueprint("protocol", __name__)


def create_app(backend: Backend) -> Flask:
    """The WSGI application for one backend; several can live in one process."""
    app = Flask("coreset_backend")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.extensions["backend"] = backend
    app.extensions["answers"] = AnswerCache(backend)
    app.before_request(_require_login)
    app.register_blueprint(protocol)
    app.register_blueprint(pages)
    app.register_error_handler(Exception, _answer_error)
    return app


class AnswerCache:
    """The answers of each project's newest round, read once per round and process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._answers: dict[int, Answers] = {}
        self._lock = threading.Lock()

    def latest(self, project_id: int) -> Answers | None:
        """None while the project has no round that can be read."""
        numbers = self._backend.store.numbers(project_id)
        with self._lock:
            cached = self._answers.get(project_id)
            if cached and numbers and cached.record.number == numbers[-1]:
                return cached
            for number in reversed(numbers):
                try:
                    answers = Answers(self._backend.store.open(project_id, number))
                except CorruptRound as error:
                    log.error("passed over: %s", error)
                    continue
                self._answers[project_id] = answers
                return answers
        return None


def _backend() -> Backend:
    backend: Backend = current_app.extensions["backend"]
    return backend


def _answers(project_id: int) -> Answers | None:
    cache: AnswerCache = current_app.extensions["answers"]
    return cache.latest(project_id)


# ---------------------------------------------------------------- who may call


def _require_login() -> None:
    login = _backend().basic_auth
    if request.endpoint in ("protocol.health", "protocol.webhook") or login is None:
        return
    if not _logged_in(login):
        raise Unauthorized(
            "This needs the user name and password of BASIC_AUTH_USER and BASIC_AUTH_PASS. In Label Studio "
            "they are set in the backend's form (Settings > Model), or by `coreset-backend connect`.",
            www_authenticate=None,
        )


def _logged_in(login: tuple[str, str]) -> bool:
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    try:
        came = base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        came = b""
    return hmac.compare_digest(came, ":".join(login).encode())


def _require_webhook_secret(action: str) -> None:
    """Events carry the secret that `connect` installed; Start Training carries the login instead."""
    came = request.headers.get(SECRET_HEADER, "").encode()
    login = _backend().basic_auth
    signed = hmac.compare_digest(came, _backend().webhook_secret.encode())
    if signed or (login and _logged_in(login)):
        return
    if action == START_TRAINING and login is None and not came:
        return
    log.warning("a webhook with action %.40r was refused: it carries no valid %s", action, SECRET_HEADER)
    raise Unauthorized(
        f"The webhook must carry the header {SECRET_HEADER}. Run `coreset-backend connect --project N`, "
        "which installs it; until then the project is only polled."
    )


# ---------------------------------------------------------------- the protocol


@protocol.get("/")
@protocol.get("/health")
def health() -> Response:
    return jsonify(status="UP", model_class="Coreset", version=__version__)


@protocol.get("/ready")
def ready() -> tuple[Response, int]:
    """Whether rounds can run: Redis answers and a worker listens."""
    workers = workers_alive(_backend())
    return jsonify(status="READY" if workers else "NO WORKER", workers=workers), 200 if workers else 503


@protocol.post("/setup")
def setup() -> Response:
    """Label Studio connects a project, or checks on it: remember it and name the version of /predict."""
    project_id = _project_id(_body().get("project"))
    backend = _backend()
    if backend.store.register(project_id):
        try:
            request_round(backend, project_id, "the project was connected")
        except QueueError as error:  # the poll will find the project in the store
            log.warning("project %d: %s", project_id, error)
    return jsonify(model_version=_pool_version(_answers(project_id)))


@protocol.post("/predict")
def predict() -> Response:
    """One result for each task, in order, from the newest round; unseen tasks get an empty one."""
    body = _body()
    project_id, tasks = _project_id(body.get("project")), body.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BadRequest("`tasks` must be a list of task objects, as Label Studio sends them.")
    answers = _answers(project_id)
    task_ids = [_task_id(task) for task in tasks]
    unseen = [task_id for task_id in task_ids if task_id >= 0 and not (answers and answers.knows(task_id))]
    note_unseen(_backend(), project_id, unseen)
    return jsonify(results=[_result(answers, task_id) for task_id in task_ids])


def _result(answers: Answers | None, task_id: int) -> Json:
    if answers is None:
        return {"result": [], "score": 1.0, "model_version": _pool_version(None)}
    version = _pool_version(answers)
    shown = current_app.extensions["backend"].settings.preannotate
    prediction = answers.prediction(task_id, answers.score(task_id), version, shown)
    result = result_json(prediction, answers.record.labels)
    return {"result": result, "score": prediction.score, "model_version": version}


def _pool_version(answers: Answers | None) -> str:
    return answers.record.pool_version if answers else "pool-0"


@protocol.post("/webhook")
def webhook() -> tuple[Response, int]:
    """Label Studio says that something happened: a hint to go and look, never the truth itself."""
    body = _body()
    action = body.get("action")
    if not isinstance(action, str):
        raise BadRequest("`action` must name the event, as in ANNOTATION_CREATED.")
    _require_webhook_secret(action)
    if action not in WORK_EVENTS and action != START_TRAINING:
        return jsonify(status="ignored", action=action), 200
    project = body.get("project")
    project_id = _project_id(project.get("id") if isinstance(project, dict) else project)
    backend = _backend()
    backend.store.register(project_id)
    forced = action == START_TRAINING
    if backend.settings.trigger == "manual" and not forced:
        return jsonify(status="ignored", reason="rounds start on Start Training only"), 200
    queued = request_round(backend, project_id, action, force=forced)
    return jsonify(status="queued" if queued else "already waiting"), 202


@protocol.get("/versions")
def versions() -> Response:
    """The versions of /predict, newest first; Label Studio asks without naming a project."""
    if "project" not in request.args:
        return jsonify(versions=[])
    project_id = _project_id(request.args["project"])
    return jsonify(versions=[f"pool-{n}" for n in reversed(_backend().store.numbers(project_id))])


@protocol.get("/api/projects/<project>/status")
def status(project: str) -> Response:
    """Progress and the newest round of the project."""
    return jsonify(project_status(_backend(), _known_project(project)))


@protocol.post("/api/projects/<project>/start")
def start(project: str) -> tuple[Response, int]:
    """Start a round now, due or not."""
    queued = request_round(_backend(), _known_project(project), "started by hand", force=True)
    return jsonify(status="queued" if queued else "already waiting"), 202


# ---------------------------------------------------------------- what came, and what went wrong


def _body() -> dict[str, Any]:
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object, sent with Content-Type: application/json.")
    return body


def _project_id(value: object) -> int:
    """Label Studio writes ``<id>`` or ``<id>.<time of creation>``."""
    number = str(value).partition(".")[0] if isinstance(value, str | int | float) else ""
    if isinstance(value, bool) or not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise BadRequest(f"The project must be a number, as in 7 or '7.1795444315', not {str(value)[:40]!r}.")
    return int(number)


def _known_project(value: str) -> int:
    project_id = _project_id(value)
    if project_id not in _backend().store.projects():
        raise NotFound(f"Project {project_id} is not connected. Run `coreset-backend connect --project N`.")
    return project_id


def _task_id(task: Json) -> int:
    """The task's id; -1, which no round knows, for a task that is not stored yet."""
    value = task.get("id")
    return value if isinstance(value, int) and 0 <= value < 2**63 else -1


def _answer_error(error: Exception) -> tuple[Response, int]:
    if isinstance(error, HTTPException):
        return jsonify(error=error.description, status=error.code), error.code or 500
    error_id = secrets.token_hex(4)
    if isinstance(error, CoresetError):
        status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
        log.warning("%s: %s: %s", error_id, type(error).__name__, error)
        return jsonify(error=str(error), error_id=error_id, status=status), status
    log.exception("%s: %s %s failed", error_id, request.method, request.path)
    return jsonify(error=f"An unexpected error; the log has it under {error_id}.", error_id=error_id), 500
