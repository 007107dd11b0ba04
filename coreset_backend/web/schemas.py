"""What the API answers and takes, as pydantic models: the description in OpenAPI is made of them.

A view names the model of its answer by :func:`answers`. Tests hold every answer against its model.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, ParamSpec

from flask import Response, jsonify
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, to_jsonable_python

from coreset_backend.evaluation.stop_advice import Advice
from coreset_backend.reports import ImageFailure
from coreset_backend.store.record import Interval

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


@dataclass(frozen=True)
class DescribedBy:
    """Annotates a value of any type that has the JSON schema of ``model``."""

    model: type[BaseModel]

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(self.model.__pydantic_core_schema__)


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


class Failure(BaseModel):
    error: str
    at: float


class Labeling(BaseModel):
    """How many tasks of the batch of that round were done when the worker last looked."""

    round: Count
    done: Count


class Pretraining(BaseModel):
    state: Literal["running", "waiting", "done", "failed"]
    sentence: str
    images: Count
    seen: Count
    budget: Count
    seconds_left: float | None
    error: str | None


class Step(Exactly):
    """A phase of a round, as the page shows it."""

    phase: str
    name: str
    status: Literal["done", "current", "pending"]


class ProjectProgress(BaseModel):
    """How far the project's round is; docs/api.md says what each state and field means."""

    state: Literal["idle", "waiting", "running", "failed", "unknown"]
    sentence: str
    startable: bool
    phase: str | None = None
    done: Count | None = None
    total: Count | None = None
    percent: int | None = None
    seconds_left: float | None = None
    error: str | None = None
    retry_at: float | None = None
    last_failure: Failure | None = None
    labeling: Labeling | None = None
    pretraining: Pretraining | None = None
    connection: list[str] = []
    paused_reason: str | None = None
    unseen: Count = 0
    workers: Count = 0
    demanded: bool = False
    republish: bool = False
    queued: bool = False
    lost: bool = False


class ProgressSteps(ProjectProgress):
    steps: list[Step]


class KnownProgress(ProjectProgress):
    """ProjectProgress where Redis answers."""

    state: Literal["idle", "waiting", "running", "failed"]
    paused_reason: str | None
    unseen: Count
    workers: Count
    demanded: bool
    republish: bool
    queued: bool
    lost: bool
    pretraining: Pretraining | None


class LiveProgress(Exactly):
    """``number``: the current round, 0 before the first. ``published_at``: when its batch was published."""

    project: int
    progress: ProgressSteps
    number: Count
    published_at: str | None


class RoundStatus(BaseModel):
    """The record of the newest round, and what Label Studio took of it."""

    number: int
    taken_at: str
    model_version: str
    strategy: str
    backbone: str
    batch: list[int]
    counts: dict[str, Count]
    radius_before: float | None
    radius_after: float | None
    accuracy: Interval | None
    training: dict[str, Any] | None
    unreadable: list[ImageFailure]
    remarks: list[str]
    timings: dict[str, float]
    published: dict[str, Any] | None


class ProjectStatus(Exactly):
    project: int
    progress: KnownProgress
    round: RoundStatus | None
    advice: Advice | None


class Requested(Exactly):
    status: Literal["queued", "already waiting"]


class Cancelled(Exactly):
    status: Literal["cancelled", "nothing to cancel"]


class RollbackBody(BaseModel):
    round: Annotated[int, Field(ge=1)]


class RolledBack(Exactly):
    status: Literal["queued"]
    round: int
