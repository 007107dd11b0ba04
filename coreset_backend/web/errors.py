"""Errors as HTTP answers: a table from class to status; the caller never gets a traceback."""

import logging
import re
import secrets

from flask import Response, jsonify, request
from werkzeug.exceptions import HTTPException

from coreset_backend.errors import (
    ConfigError,
    CoresetError,
    LabelStudioError,
    ProjectError,
    QueueError,
    RoundNotFound,
    StorageError,
    StoreError,
    Unwritable,
)
from coreset_backend.redaction import redacted

log = logging.getLogger(__name__)
STATUS = {
    QueueError: 503,
    RoundNotFound: 404,
    Unwritable: 503,
    StorageError: 503,
    StoreError: 409,
    ProjectError: 409,
    LabelStudioError: 502,
    ConfigError: 500,
    CoresetError: 500,
}
"""Class of error -> status; the first class that the error belongs to applies."""


def status_of(error: CoresetError) -> int:
    """The HTTP status of the error, by STATUS."""
    return next(status for kind, status in STATUS.items() if isinstance(error, kind))


def answer_error(error: Exception) -> tuple[Response, int]:
    """The error as JSON; the traceback of an unexpected error is logged, not sent."""
    if isinstance(error, HTTPException):
        return _answer_http_error(error)
    error_id = secrets.token_hex(4)
    if isinstance(error, CoresetError):
        status = status_of(error)
        log.warning("%s: %s: %s", error_id, type(error).__name__, error)
        return jsonify(error=str(error), error_id=error_id, status=status), status
    log.exception("%s: %s %s failed", error_id, request.method, request.path)
    return jsonify(error=f"An unexpected error; the log has it under {error_id}.", error_id=error_id), 500


def _answer_http_error(error: HTTPException) -> tuple[Response, int]:
    # The description may quote the request, and with it a secret.
    answer = jsonify(error=redacted(str(error.description)), status=error.code)
    for name, value in error.get_response().headers:
        if name in ("Allow", "Location", "Retry-After", "WWW-Authenticate"):
            answer.headers[name] = value
    return answer, error.code or 500


def refused_in_the_form(error: CoresetError) -> Response:
    """A 400 with the message as its reason phrase, which is all that Label Studio's form shows."""
    answer = jsonify(error=str(error), status=400)
    words = re.sub(r"[^ -~]", "?", " ".join(str(error).split()))
    answer.status = f"400 {words[:400]}"
    return answer
