"""What the API answers and takes, as pydantic models: the description in OpenAPI is made of them.

A view names the model of its answer by :func:`answers`, and reads its body with
:func:`coreset_backend.web.requests.json_body`. Tests hold every answer against its model.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, ParamSpec

from flask import Response, jsonify
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import to_jsonable_python

from coreset_backend.finish.bulk import MOST_TASKS
from coreset_backend.finish.session import Rest
from coreset_backend.finish.work import MOST_CHECKS
from coreset_backend.jobs.status import ProjectProgress
from coreset_backend.label_studio.payloads import parse_project_id, task_id_of
from coreset_backend.project import Region
from coreset_backend.reports import Count

P = ParamSpec("P")
ANSWER, BODY = "answer_model", "body_model"
"""The attributes of a view that hold its models."""


def answers(
    model: type, status: int = 200, takes: type[BaseModel] | None = None
) -> Callable[[Callable[P, object]], Callable[P, Response]]:
    """Answer the value of a view as JSON of the shape of ``model``.

    The view returns the value, or (value, status) where it is not always ``status``, or a whole Response.
    ``takes`` is the shape of the body that the view reads.
    """

    def decorate(view: Callable[P, object]) -> Callable[P, Response]:
        @functools.wraps(view)
        def answered(*args: P.args, **kwargs: P.kwargs) -> Response:
            value = view(*args, **kwargs)
            if isinstance(value, Response):
                return value
            value, code = value if isinstance(value, tuple) else (value, status)
            answer = jsonify(_as_json(value))
            answer.status_code = code
            return answer

        setattr(answered, ANSWER, model)
        setattr(answered, BODY, takes)
        return answered

    return decorate


def _as_json(value: object) -> object:
    """Models without the fields that were not set; dataclasses, dicts and lists whole."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    return to_jsonable_python(value)


class Exactly(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Error(BaseModel):
    """What went wrong: what came, what was expected, what to do. The log has more under ``error_id``."""

    error: str
    status: int | None = None
    error_id: str | None = None


# ---------------------------------------------------------------- Label Studio's protocol

PROJECT_ID = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d{1,18}(\..*)?$"}],
}
NAMED_PROJECT = {"type": "object", "properties": {"id": PROJECT_ID}, "required": ["id"]}
ProjectId = Annotated[
    int,
    BeforeValidator(parse_project_id),
    WithJsonSchema(PROJECT_ID),
    Field(description="the project's id, as in 7 or '7.1795444315'"),
]


class Health(Exactly):
    status: Literal["UP"]
    model_class: str
    version: str


def _label_config(text: object) -> str:
    """The text, without the halves of characters that JSON lets through and XML does not."""
    return str(text or "").encode(errors="replace").decode()


class SetupBody(BaseModel):
    """``extra_params``: what the project's lead typed into the form, whatever it is."""

    project: ProjectId
    label_config: Annotated[str, BeforeValidator(_label_config), Field(alias="schema")] = ""
    extra_params: object = None


class SetupAnswer(Exactly):
    model_version: str


TASKS = "a list of task objects, as Label Studio sends them"
TASK = {"type": "object", "properties": {"id": {"type": "integer"}}}


def _task_id(task: object) -> int:
    if not isinstance(task, dict):
        raise ValueError(f"`tasks` must be {TASKS}.")
    return task_id_of(task)


TaskId = Annotated[int, BeforeValidator(_task_id), WithJsonSchema(TASK)]


class PredictBody(BaseModel):
    """``task_ids``: of a task that is not stored yet -1, which no round knows."""

    project: ProjectId
    task_ids: Annotated[list[TaskId], Field(alias="tasks", description=TASKS)]


@dataclass(frozen=True, slots=True)
class TaskPrediction:
    """``result``: regions in Label Studio's JSON. ``score``: in [0, 1], the next to label first."""

    result: list[Region]
    score: float
    model_version: str


@dataclass(frozen=True, slots=True)
class Predictions:
    """One prediction for each task, in order."""

    results: list[TaskPrediction]


class WebhookBody(BaseModel):
    """``project`` is read once the webhook's secret has been checked, and only of events that concern us."""

    action: Annotated[str, Field(description="the name of the event, as in ANNOTATION_CREATED")]
    project: Annotated[object, WithJsonSchema({"anyOf": [PROJECT_ID, NAMED_PROJECT, {"type": "null"}]})] = (
        None
    )


class WebhookAnswer(Exactly):
    """``action``: that of an event that concerns nobody here; ``reason``: why an event starts no round."""

    status: Literal["queued", "already waiting", "ignored"]
    action: str | None = None
    reason: str | None = None


class Versions(Exactly):
    versions: list[str]


# ---------------------------------------------------------------- monitoring


class Readiness(Exactly):
    status: Literal["READY", "NO WORKER"]
    workers: Count
    heartbeat_age_seconds: float | None


class Information(BaseModel):
    title: str
    version: str


class Description(BaseModel):
    """An OpenAPI document."""

    openapi: str
    info: Information
    paths: dict[str, object]


# ---------------------------------------------------------------- a project


class LiveProgress(Exactly):
    """``number``: the current round, 0 before the first. ``published_at``: when its batch was published."""

    project: int
    progress: ProjectProgress
    number: Count
    published_at: str | None


class Requested(Exactly):
    status: Literal["queued", "already waiting"]


class Cancelled(Exactly):
    status: Literal["cancelled", "nothing to cancel"]


Percentage = Annotated[float, Field(ge=0.5, lt=1, strict=True, description="a share from 0.5 to below 1")]


class FinishBody(BaseModel):
    """What is promised, and by how many checks; ``dry_run``: show it only."""

    accuracy: Percentage = 0.95
    confidence: Percentage = 0.95
    audits: Annotated[int, Field(ge=1, le=MOST_CHECKS, strict=True, description="a number from 1")] = 300
    per_class: Annotated[bool, Field(strict=True, description="true or false")] = False
    dry_run: Annotated[bool, Field(strict=True, description="true or false")] = False


class CopiesBody(BaseModel):
    """What is promised of the copies' labels, and how they are written; ``dry_run``: show it only."""

    accuracy: Percentage = 0.95
    confidence: Percentage = 0.95
    audits: Annotated[int, Field(ge=1, le=MOST_CHECKS, strict=True, description="a number from 1")] = 300
    annotations: Annotated[bool, Field(strict=True, description="true or false")] = False
    dry_run: Annotated[bool, Field(strict=True, description="true or false")] = False


class AcceptBody(BaseModel):
    """What is written, and the order of the rest; ``dry_run``: show it only."""

    annotations: Annotated[bool, Field(strict=True, description="true or false")] = False
    rest: Annotated[Rest, Field(description="'hardest-first' or 'hardest-last'")] = Rest.HARDEST_FIRST
    dry_run: Annotated[bool, Field(strict=True, description="true or false")] = False


ListOfTasks = Annotated[
    list[Annotated[int, Field(ge=1, lt=2**63, strict=True)]],
    Field(max_length=MOST_TASKS, description=f"a list of up to {MOST_TASKS:,} task ids, as in [7, 12]"),
]


class BulkBody(BaseModel):
    """One label for many tasks. ``correct``: also where people have answered; ``dry_run``: show it only."""

    task_ids: ListOfTasks
    label: Annotated[
        list[Annotated[str, Field(max_length=1000, strict=True)]],
        Field(max_length=1000, description='a list of classes, as in ["cat"]'),
    ]
    correct: Annotated[bool, Field(strict=True, description="true or false")] = False
    dry_run: Annotated[bool, Field(strict=True, description="true or false")] = False


class BulkUndoBody(BaseModel):
    version: Annotated[
        str, Field(max_length=100, strict=True, description="the version of a write, as the status has it")
    ]


class ExamplesBody(BaseModel):
    """``like``: whether images like these count more or less in the selection, or as any other."""

    task_ids: ListOfTasks
    like: Annotated[Literal["more", "fewer", "neither"], Field(description="'more', 'fewer' or 'neither'")]


class RollbackBody(BaseModel):
    round: Annotated[int, Field(ge=1, strict=True, description="the number of a round, as in 3")]


class RolledBack(Exactly):
    status: Literal["queued"]
    round: int
