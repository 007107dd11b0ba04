"""What routes ask of a request: the backend it is for, the project that it names, its body; and a refusal."""

import logging
import re
from typing import Any

from flask import Response, current_app, jsonify, request
from werkzeug.exceptions import BadRequest, ClientDisconnected, NotFound, RequestEntityTooLarge

from coreset_backend.backend import Backend
from coreset_backend.errors import (
    ConfigError,
    CoresetError,
    LabelStudioError,
    ProjectError,
    QueueError,
    RoundNotFound,
    StoreError,
    Unwritable,
)
from coreset_backend.label_studio.payloads import parse_project_id

log = logging.getLogger(__name__)
STATUS = {
    QueueError: 503,
    RoundNotFound: 404,
    Unwritable: 503,
    StoreError: 409,
    ProjectError: 409,
    LabelStudioError: 502,
    ConfigError: 500,
    CoresetError: 500,
}


def status_of(error: CoresetError) -> int:
    """The status that says of which kind the error is."""
    return next(code for kind, code in STATUS.items() if isinstance(error, kind))


def current_backend() -> Backend:
    """The backend of the application that answers."""
    backend: Backend = current_app.extensions["backend"]
    return backend


def json_body() -> dict[str, Any]:
    """The object that was sent; raises BadRequest or RequestEntityTooLarge."""
    try:
        sent = request.get_data()
    except ClientDisconnected:
        raise BadRequest("The body did not come whole: it was cut off, malformed or too slow.") from None
    if len(sent) == request.max_content_length:  # Werkzeug cuts a body of unknown length there
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


def refused_in_the_form(error: CoresetError) -> Response:
    """A 400 whose reason phrase holds the words: Label Studio's form shows that, and nothing of the body."""
    answer = jsonify(error=str(error), status=400)
    words = re.sub(r"[^ -~]", "?", " ".join(str(error).split()))
    answer.status = f"400 {words[:400]}"
    return answer
