"""Our errors as answers: one table from class to status, and no traceback to the caller."""

import logging
import secrets

from flask import Response, jsonify, request
from werkzeug.exceptions import HTTPException

from coreset_backend.errors import CoresetError
from coreset_backend.redaction import redacted
from coreset_backend.web.requests import status_of

log = logging.getLogger(__name__)


def _answer_error(error: Exception) -> tuple[Response, int]:
    if isinstance(error, HTTPException):
        answer = jsonify(
            error=redacted(str(error.description)), status=error.code
        )  # it may quote the request
        for name, value in error.get_response().headers:
            if name in ("Allow", "Location", "Retry-After", "WWW-Authenticate"):
                answer.headers[name] = value
        return answer, error.code or 500
    error_id = secrets.token_hex(4)
    if isinstance(error, CoresetError):
        status = status_of(error)
        log.warning("%s: %s: %s", error_id, type(error).__name__, error)
        return jsonify(error=str(error), error_id=error_id, status=status), status
    log.exception("%s: %s %s failed", error_id, request.method, request.path)
    return jsonify(error=f"An unexpected error; the log has it under {error_id}.", error_id=error_id), 500
