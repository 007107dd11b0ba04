"""What the API answers and takes, as pydantic models: the description in OpenAPI is made of them.

A view names the model of its answer by :func:`answers`. Tests hold every answer against its model.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, ParamSpec

from flask import Response, jsonify
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

from coreset_backend.jobs.status import ProjectProgress

P = ParamSpec("P")
ANSWER, BODY = "answer_model", "body_model"
"""The attributes of a view that hold its models."""
Count = Annotated[int, Field(ge=0)]


def answers(
    model: Any, status: int = 200, takes: type[BaseModel] | None = None
) -> Callable[[Callable[P, Any]], Callable[P, Response]]:
    """Answer the value of a view as JSON of the shape of ``model``.

    The view returns the value, or (value, status) where it is not always ``status``, or a whole Response.
    ``takes`` is the shape of the body that the view reads.
    """

    def decorate(view: Callable[P, Any]) -> Callable[P, Response]:
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


def _as_json(value: Any) -> Any:
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

ProjectId = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^\d{1,18}(\..*)?$")],
    Field(description="The project's id, as 7 or '7.1795444315'"),
]


class Health(Exactly):
    status: Literal["UP"]
    model_class: str
    version: str


class SetupBody(BaseModel):
    project: ProjectId
    schema_: Annotated[str, Field(alias="schema", description="The label config")] = ""
    extra_params: Any = None


class SetupAnswer(Exactly):
    model_version: str


class TaskBody(BaseModel):
    id: int | None = None


class PredictBody(BaseModel):
    project: ProjectId
    tasks: list[TaskBody]


class Prediction(Exactly):
    """``result``: regions in Label Studio's JSON. ``score``: in [0, 1], the next to label first."""

    result: list[dict[str, Any]]
    score: float
    model_version: str


class Predictions(Exactly):
    """One prediction for each task, in order."""

    results: list[Prediction]


class NamedProject(BaseModel):
    id: ProjectId


class WebhookBody(BaseModel):
    action: Annotated[str, Field(examples=["ANNOTATION_CREATED", "START_TRAINING"])]
    project: ProjectId | NamedProject | None = None


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
    paths: dict[str, Any]


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


class RollbackBody(BaseModel):
    round: Annotated[int, Field(ge=1)]


class RolledBack(Exactly):
    status: Literal["queued"]
    round: int
