"""What Label Studio 1.23 asks of an ML backend: the routes, and what each of them does.

The model of the SDK (sdk_model.py) calls the same functions from routes of its own.
Label Studio waits 1 s for /health and /webhook, 3 s for /setup and 100 s for /predict, so nothing here
computes: predictions come from the store, work goes to the queue.
"""

import logging
from collections.abc import Sequence

from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest

from coreset_backend import __version__
from coreset_backend.backend import Backend
from coreset_backend.errors import ConfigError, QueueError, UnsupportedLabelConfig
from coreset_backend.evaluation.predictions import AnswerCache, Answers, pool_version
from coreset_backend.jobs.progress import note_unseen
from coreset_backend.jobs.queue import request_round
from coreset_backend.label_studio.label_config import is_unwritten, parse_label_config
from coreset_backend.label_studio.payloads import result_json, task_id_of
from coreset_backend.project import Json
from coreset_backend.project_settings import label_config_attributes, project_settings
from coreset_backend.web.access import require_signature
from coreset_backend.web.errors import refused_in_the_form
from coreset_backend.web.events import concerns_us, take_event
from coreset_backend.web.requests import current_answers, current_backend, json_body, named_project
from coreset_backend.web.schemas import (
    Health,
    PredictBody,
    Predictions,
    SetupAnswer,
    SetupBody,
    Versions,
    WebhookAnswer,
    WebhookBody,
    answers,
)

log = logging.getLogger(__name__)
IGNORED = {
    "manual": "rounds start on Start Training only",
    "disconnected": "the project was disconnected",
}

protocol = Blueprint("protocol", __name__)


@protocol.get("/")
@protocol.get("/health")
@answers(Health)
def health() -> Health:
    """Liveness: this process answers. It asks nobody else and no login."""
    return Health(status="UP", model_class="Coreset", version=__version__)


@protocol.post("/setup")
@answers(SetupAnswer, takes=SetupBody)
def setup() -> SetupAnswer | Response:
    """Label Studio connects a project, or checks on it: remember it and name the version of /predict."""
    body = json_body()
    project_id, schema = named_project(body.get("project")), str(body.get("schema") or "")
    try:
        version = set_up_project(
            current_backend(), current_answers(), project_id, schema, body.get("extra_params")
        )
    except (ConfigError, UnsupportedLabelConfig) as error:
        return refused_in_the_form(error)
    return SetupAnswer(model_version=version)


@protocol.post("/predict")
@answers(Predictions, takes=PredictBody)
def predict() -> Json:
    """One result for each task, in order, from the newest round; unseen tasks get an empty one."""
    body = json_body()
    project_id, tasks = named_project(body.get("project")), body.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BadRequest("`tasks` must be a list of task objects, as Label Studio sends them.")
    return {"results": predict_tasks(current_backend(), current_answers(), project_id, tasks)}


@protocol.post("/webhook")
@answers(WebhookAnswer, takes=WebhookBody)
def webhook() -> tuple[WebhookAnswer, int]:
    """Label Studio reports an event: a hint to go and look, never the truth itself."""
    body = json_body()
    action = body.get("action")
    if not isinstance(action, str):
        raise BadRequest("`action` must name the event, as in ANNOTATION_CREATED.")
    require_signature(action)
    if not concerns_us(action):
        return WebhookAnswer(status="ignored", action=action), 200
    project = body.get("project")
    project_id = named_project(project.get("id") if isinstance(project, dict) else project)
    taken = take_event(current_backend(), project_id, action)
    if taken == "manual" or taken == "disconnected":
        return WebhookAnswer(status="ignored", reason=IGNORED[taken]), 200
    return WebhookAnswer(status=taken), 202


@protocol.get("/versions")
@answers(Versions)
def versions() -> Versions:
    """The versions of /predict, newest first; Label Studio asks without naming a project."""
    if "project" not in request.args:
        return Versions(versions=[])
    rounds = current_backend().store.readable(named_project(request.args["project"]))
    newest_first = sorted(rounds, key=lambda stored: -stored.record.number)
    return Versions(versions=[stored.record.pool_version for stored in newest_first])


# ---------------------------------------------------------------- what they do


def set_up_project(
    backend: Backend, answers: AnswerCache, project_id: int, schema: str, extra_params: Json
) -> str:
    """Remember a project that was connected, and ask for its first round; the version of its predictions.

    ``schema`` is its label config, ``extra_params`` what its lead has set, or None. Safe to repeat. Raises
    ConfigError or UnsupportedLabelConfig for what cannot be, and then remembers nothing.
    """
    known = extra_params if extra_params is not None else backend.known_params(project_id)
    settings = project_settings(backend.settings, known, label_config_attributes(schema))
    if not is_unwritten(schema):
        parse_label_config(schema, settings.control)
    if backend.store.register(project_id):
        try:
            request_round(backend, project_id, "the project was connected")
        except QueueError as error:  # the poll will find the project in the store
            log.warning("project %d: %s", project_id, error)
    if extra_params is not None:
        backend.store.keep_extra_params(project_id, extra_params)
    return pool_version(answers.latest(project_id))


def predict_tasks(
    backend: Backend, answers: AnswerCache, project_id: int, tasks: Sequence[Json]
) -> list[Json]:
    """One result for each task, in order, from the newest round; unseen tasks get an empty one."""
    newest = answers.latest(project_id)
    task_ids = [task_id_of(task) for task in tasks]
    unseen = [task_id for task_id in task_ids if task_id >= 0 and not (newest and newest.knows(task_id))]
    note_unseen(backend.redis, project_id, unseen)
    settings = backend.settings_of(project_id, newest.record if newest else None)
    return predict_results(newest, task_ids, settings.preannotate)


def predict_results(answers: Answers | None, task_ids: Sequence[int], preannotate: str) -> list[Json]:
    """The answer to /predict: one result for each task, in order; an empty one where nothing is known."""
    version = pool_version(answers)
    if answers is None:
        return [{"result": [], "score": 1.0, "model_version": version} for _ in task_ids]
    predictions = (
        answers.prediction(task_id, answers.score(task_id), version, preannotate) for task_id in task_ids
    )
    return [
        {
            "result": result_json(prediction, answers.record.labels),
            "score": prediction.score,
            "model_version": version,
        }
        for prediction in predictions
    ]
