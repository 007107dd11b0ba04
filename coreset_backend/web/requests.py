"""Reads the parts of a request: the backend, the project, the JSON body."""

from typing import TypeVar

from flask import current_app, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import BadRequest, ClientDisconnected, NotFound, RequestEntityTooLarge

from coreset_backend.backend import Backend
from coreset_backend.evaluation.predictions import AnswerCache
from coreset_backend.label_studio.payloads import parse_project_id

Body = TypeVar("Body", bound=BaseModel)


def current_backend() -> Backend:
    """The backend of the current application."""
    backend: Backend = current_app.extensions["backend"]
    return backend


def current_answers() -> AnswerCache:
    """The newest rounds' answers, read once per round by the application that answers."""
    answers: AnswerCache = current_app.extensions["answers"]
    return answers


def json_body(shape: type[Body]) -> Body:
    """The object that was sent, of that shape; raises BadRequest or RequestEntityTooLarge."""
    try:
        return shape.model_validate(_json_object())
    except ValidationError as error:
        raise BadRequest(_complaint(shape, error)) from None


def _complaint(shape: type[BaseModel], error: ValidationError) -> str:
    """The complaint about the first wrong field: its parser's message, or what the field must be."""
    first = error.errors(include_url=False, include_input=False)[0]
    if refusal := first.get("ctx", {}).get("error"):
        return str(refusal)
    expected = {field.alias or name: field.description for name, field in shape.model_fields.items()}
    name = str(first["loc"][0])
    return f"`{name}` must be {expected[name]}."


def _json_object() -> dict[str, object]:
    try:
        sent = request.get_data()
    except ClientDisconnected:
        raise BadRequest("The body is incomplete: it was truncated, malformed or too slow.") from None
    if len(sent) == request.max_content_length:  # Werkzeug truncates a body of unknown length there
        raise RequestEntityTooLarge
    try:
        body = request.get_json(silent=True)
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object, sent with Content-Type: application/json.")
    return body


def named_project(value: object) -> int:
    """The project's id, however Label Studio writes it; raises BadRequest."""
    try:
        return parse_project_id(value)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def connected_project(value: object) -> int:
    """The id of a project that is connected; raises BadRequest or NotFound."""
    project_id = named_project(value)
    if project_id not in current_backend().store.projects():
        raise NotFound(f"Project {project_id} is not connected. Run `coreset-backend connect --project N`.")
    return project_id
