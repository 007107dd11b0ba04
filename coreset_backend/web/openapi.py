"""The HTTP API described for machines (OpenAPI 3.1). Made from the routes, so that none can be missing."""

import inspect
import re
from typing import Any

from flask import Flask
from werkzeug.routing import IntegerConverter, Rule

from coreset_backend import __version__
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.web.access import OPEN_TO_ALL, SIGNED

Json = Any
PROJECT = {
    "description": "The project's id, as 7 or '7.1795444315'",
    "oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d{1,18}(\..*)?$"}],
}
REQUESTS: dict[str, Json] = {
    "protocol.setup": {
        "type": "object",
        "required": ["project"],
        "properties": {"project": PROJECT, "schema": {"type": "string"}, "extra_params": {}},
    },
    "protocol.predict": {
        "type": "object",
        "required": ["project", "tasks"],
        "properties": {
            "project": PROJECT,
            "tasks": {
                "type": "array",
                "items": {"type": "object", "properties": {"id": {"type": "integer"}}},
            },
        },
    },
    "protocol.webhook": {
        "type": "object",
        "required": ["action"],
        "properties": {
            "action": {"type": "string", "examples": ["ANNOTATION_CREATED", "START_TRAINING"]},
            "project": {"oneOf": [PROJECT, {"type": "object", "properties": {"id": PROJECT}}]},
        },
    },
    "api.rollback": {
        "type": "object",
        "required": ["round"],
        "properties": {"round": {"type": "integer", "minimum": 1}},
    },
}
"""What a body must look like, by endpoint; the other routes read none."""
TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _object(**properties: Json) -> Json:
    """An object that always has these; it may have more."""
    return {"type": "object", "required": sorted(properties), "properties": properties}


def _or_null(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


PROGRESS = _object(state={"type": "string", "enum": ["idle", "waiting", "running", "failed", "unknown"]})
ADVICE = _or_null(_object(sentence=TEXT))
ANSWERS: dict[str, Json] = {
    "protocol.health": _object(status=TEXT, model_class=TEXT, version=TEXT),
    "api.ready": _object(status=TEXT, workers=WHOLE, heartbeat_age_seconds=_or_null(NUMBER)),
    "api.openapi": _object(openapi=TEXT, info=_object(title=TEXT, version=TEXT), paths=_object()),
    "protocol.setup": _object(model_version=TEXT),
    "protocol.predict": _object(
        results=_list(_object(result=_list(_object()), score=NUMBER, model_version=TEXT))
    ),
    "protocol.webhook": _object(status=TEXT),
    "protocol.versions": _object(versions=_list(TEXT)),
    "api.status": _object(
        project=WHOLE,
        progress={**PROGRESS, "required": ["paused_reason", "sentence", "state", "unseen", "workers"]},
        round=_or_null(
            _object(
                number=WHOLE,
                model_version=TEXT,
                batch=_list(WHOLE),
                counts=_object(),
                remarks=_list(TEXT),
            )
        ),
        advice=ADVICE,
    ),
    "api.history": _object(
        project=WHOLE, title=TEXT, rounds=_list(_object(number=WHOLE, labels=WHOLE)), advice=ADVICE
    ),
    "api.overview": _object(
        project=WHOLE,
        title=TEXT,
        progress=PROGRESS,
        round=_or_null(_object(number=WHOLE)),
        rounds=_list(_object()),
    ),
    "api.live_progress": _object(project=WHOLE, progress=PROGRESS, number=WHOLE),
    "api.start": _object(status=TEXT),
    "api.cancel": _object(status=TEXT),
    "api.publish": _object(status=TEXT),
    "api.rollback": _object(status=TEXT, round=WHOLE),
}
"""What is answered with 200 or 202, by endpoint, in outline; docs/api.md says what the fields mean."""
MEDIA = {
    "api.metrics": "text/plain",
    "pages.projects": "text/html",
    "pages.project": "text/html",
    "pages.thumbnail": "image/jpeg",
    "pages.embedding_map": "application/octet-stream",
    "static": "application/octet-stream",
}
"""What is answered where it is not JSON."""
STATUSES = {
    "200": "Done",
    "202": "Taken: a worker will look at it",
    "304": "Not changed since",
    "400": "Malformed; `error` says what was expected",
    "401": "No login, or a wrong one",
    "403": "Asked for by another web site, or under a name that is not ours",
    "404": "No such project, round or image",
    "409": "The project, or a round of it, cannot be worked with as it is",
    "413": "The body is too large",
    "415": "The body is not JSON",
    "429": "Too many wrong attempts; `Retry-After` says how long to wait",
    "500": "Unexpected; the log has it under `error_id`",
    "502": "Label Studio did not do what was asked",
    "503": "Redis does not answer, no worker listens, or the store cannot be written",
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "status": {"type": "integer"},
        "error_id": {"type": "string"},
    },
}


def description(app: Flask) -> Json:
    """The OpenAPI document of every route of ``app``."""
    paths: dict[str, Json] = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted(rule.methods or ()):
            if method not in ("HEAD", "OPTIONS"):
                paths.setdefault(path, {})[method.lower()] = _operation(app, rule)
    return {
        "openapi": "3.1.0",
        "info": {"title": "coreset_backend", "version": __version__},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {
                "login": {"type": "http", "scheme": "basic"},
                "webhook": {"type": "apiKey", "in": "header", "name": SECRET_HEADER},
            },
        },
    }


def _operation(app: Flask, rule: Rule) -> Json:
    told = (
        "A file of the pages."
        if rule.endpoint == "static"
        else inspect.getdoc(app.view_functions[rule.endpoint]) or ""
    )
    security: list[Json] = [{"login": []}, *([{"webhook": []}] if rule.endpoint == SIGNED else [])]
    operation: dict[str, Json] = {
        "summary": " ".join(told.partition("\n\n")[0].split()),
        "security": [] if rule.endpoint == OPEN_TO_ALL else security,
        "parameters": [_parameter(rule, name) for name in sorted(rule.arguments)],
        "responses": {
            status: {"description": meaning} | _content(rule.endpoint, status)
            for status, meaning in STATUSES.items()
        },
    }
    if schema := REQUESTS.get(rule.endpoint):
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _parameter(rule: Rule, name: str) -> Json:
    number = isinstance(rule._converters[name], IntegerConverter)
    schema: Json = {"type": "integer", "minimum": 0} if number else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _content(endpoint: str, status: str) -> Json:
    if endpoint == "api.ready" and status == "503":
        status = "200"  # the same figures, whether a worker listens or not; without Redis an error
        schema: Json = {"anyOf": [ANSWERS[endpoint], {"$ref": "#/components/schemas/Error"}]}
    elif status >= "400":
        schema = {"$ref": "#/components/schemas/Error"}
    else:
        schema = ANSWERS.get(endpoint, {})
    media = "application/json" if status >= "400" else MEDIA.get(endpoint, "application/json")
    return {"content": {media: {"schema": schema} if schema else {}}}
