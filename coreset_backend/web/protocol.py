"""Label Studio 1.23's ML-backend protocol: the routes and their functions.

The SDK's model (sdk_model.py) calls the same functions from its own routes. Label Studio waits 1 s for
/health and /webhook, 3 s for /setup and 100 s for /predict, so no route computes: predictions are read from
the store, work is queued.
"""

import logging
from collections.abc import Mapping, Sequence

from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest

from coreset_backend import __version__
from coreset_backend.backend import Backend
from coreset_backend.errors import ConfigError, QueueError, UnsupportedLabelConfig
from coreset_backend.evaluation.predictions import AnswerCache, Answers, pool_version
from coreset_backend.jobs.progress import note_unseen
from coreset_backend.jobs.queue import request_round
from coreset_backend.label_studio.label_config import is_unwritten, parse_label_config
from coreset_backend.label_studio.payloads import result_json
from coreset_backend.project_settings import label_config_attributes, project_settings
from coreset_backend.web.access import require_signature
from coreset_backend.web.errors import refused_in_the_form
from coreset_backend.web.events import concerns_us, event_project_id, take_event
from coreset_backend.web.requests import current_answers, current_backend, json_body, named_project
from coreset_backend.web.schemas import (
    Health,
    PredictBody,
    Predictions,
    SetupAnswer,
    SetupBody,
    TaskPrediction,
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
    """Liveness: this process answers, without a login and without asking another process."""
    return Health(status="UP", model_class="Coreset", version=__version__)


@protocol.post("/setup")
@answers(SetupAnswer, takes=SetupBody)
def setup() -> SetupAnswer | Response:
    """Label Studio connects or checks a project: register it and return the version of /predict."""
    body = json_body(SetupBody)
    try:
        version = set_up_project(current_backend(), current_answers(), body)
    except (ConfigError, UnsupportedLabelConfig) as error:
        return refused_in_the_form(error)
    return SetupAnswer(model_version=version)


@protocol.post("/predict")
@answers(Predictions, takes=PredictBody)
def predict() -> Predictions:
    """One result for each task, in order, from the newest round; unseen tasks get an empty one."""
    body = json_body(PredictBody)
    results = predict_tasks(current_backend(), current_answers(), body.project, body.task_ids)
    return Predictions(results)


@protocol.post("/webhook")
@answers(WebhookAnswer, takes=WebhookBody)
def webhook() -> tuple[WebhookAnswer, int]:
    """Label Studio reports an event, which only triggers a check; its content is not trusted."""
    body = json_body(WebhookBody)
    require_signature(body.action)
    if not concerns_us(body.action):
        return WebhookAnswer(status="ignored", action=body.action), 200
    try:
        project_id = event_project_id(body.project)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    taken = take_event(current_backend(), project_id, body.action)
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


def set_up_project(backend: Backend, answers: AnswerCache, body: SetupBody) -> str:
    """Register a connected project and request its first round; returns the version of its predictions.

    Can be repeated. Raises ConfigError or UnsupportedLabelConfig for wrong settings, and then saves nothing.
    """
    project_id, given = body.project, body.extra_params
    known = given if given is not None else backend.known_params(project_id)
    settings = project_settings(backend.settings, known, label_config_attributes(body.label_config))
    if not is_unwritten(body.label_config):
        parse_label_config(body.label_config, settings.control)
    if backend.store.register(project_id):
        try:
            request_round(backend, project_id, "the project was connected")
        except QueueError as error:  # the poll will find the project in the store
            log.warning("project %d: %s", project_id, error)
    if isinstance(given, Mapping):
        backend.store.keep_extra_params(project_id, given)
    return pool_version(answers.latest(project_id))


def predict_tasks(
    backend: Backend, answers: AnswerCache, project_id: int, task_ids: Sequence[int]
) -> list[TaskPrediction]:
    """One result for each task, in order, from the newest round; unseen tasks get an empty one.

    -1 is the id of a task that is not stored yet.
    """
    newest = answers.latest(project_id)
    unseen = [task_id for task_id in task_ids if task_id >= 0 and not (newest and newest.knows(task_id))]
    note_unseen(backend.redis, project_id, unseen)
    settings = backend.settings_by_round(project_id, newest.record if newest else None)
    return predict_results(newest, task_ids, settings.preannotate)


def predict_results(
    answers: Answers | None, task_ids: Sequence[int], preannotate: str
) -> list[TaskPrediction]:
    """The answer to /predict: one result for each task, in order; an empty one where nothing is known."""
    version = pool_version(answers)
    if answers is None:
        return [TaskPrediction(result=[], score=1.0, model_version=version) for _ in task_ids]
    predictions = (
        answers.prediction(task_id, answers.score(task_id), version, preannotate) for task_id in task_ids
    )
    return [
        TaskPrediction(
            result=result_json(prediction, answers.record.labels),
            score=prediction.score,
            model_version=version,
        )
        for prediction in predictions
    ]
