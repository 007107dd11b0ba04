"""What Label Studio asks of an ML backend, whoever listens: our own web process or the app of the SDK."""

import logging
from collections.abc import Sequence

from coreset_backend.backend import Backend
from coreset_backend.errors import QueueError
from coreset_backend.evaluation.predictions import AnswerCache, pool_version, predict_results
from coreset_backend.jobs.progress import note_unseen
from coreset_backend.jobs.queue import request_round
from coreset_backend.label_studio.label_config import is_unwritten, parse_label_config
from coreset_backend.label_studio.payloads import task_id_of
from coreset_backend.project import Json
from coreset_backend.project_settings import label_config_attributes, project_settings

log = logging.getLogger(__name__)


def set_up_project(
    backend: Backend, answers: AnswerCache, project_id: int, schema: str, extra_params: Json
) -> str:
    """Remember a project that was connected, and ask for its first round; the version of its predictions.

    ``schema`` is its label config, ``extra_params`` what its lead has set, or None. Safe to repeat. Raises
    ConfigError or UnsupportedLabelConfig for what cannot be, and then remembers nothing.
    """
    known = extra_params if extra_params is not None else backend.store.extra_params(project_id)
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
    note_unseen(backend, project_id, unseen)
    settings = backend.settings_of(project_id, newest.record if newest else None)
    return predict_results(newest, task_ids, settings.preannotate)
