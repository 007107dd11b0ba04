"""The OpenAPI 3.1 document of the HTTP API, generated from the routes, so that none can be missing."""

import inspect
import re

from flask import Flask
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import DataclassField, ModelField, TypedDictField
from werkzeug.routing import IntegerConverter, Rule

from coreset_backend import __version__
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.web.access import OPEN_TO_ALL, SIGNED
from coreset_backend.web.schemas import ANSWER, BODY, Error

MEDIA = {
    "api.metrics": "text/plain",
    "pages.projects": "text/html",
    "pages.project": "text/html",
    "pages.thumbnail": "image/jpeg",
    "pages.embedding_map": "application/octet-stream",
    "static": "application/octet-stream",
}
"""Media types of answers that are not JSON."""
STATUSES = {
    "200": "Done",
    "202": "Accepted: a job is queued",
    "304": "Not modified",
    "400": "Malformed; `error` says what was expected",
    "401": "No login, or a wrong one",
    "403": "Requested by another web site, or under an unknown host name",
    "404": "No such project, round or image",
    "409": "The project or one of its rounds does not allow the request",
    "413": "The body is too large",
    "415": "The body is not JSON",
    "429": "Too many wrong attempts; `Retry-After` says how long to wait",
    "500": "Unexpected; the log has it under `error_id`",
    "502": "Label Studio does not answer, or refuses",
    "503": "Redis or the bucket of the store does not answer, no worker listens, or nothing can be written",
}
Schema = dict[str, object]
"""A JSON schema, or a part of the document."""
Schemas = dict[tuple[str, str], Schema]
"""By endpoint and ANSWER or BODY."""
ERROR = "error"
REFERENCE = "#/components/schemas/{model}"


def description(app: Flask) -> Schema:
    """The OpenAPI document of every route of ``app``."""
    schemas, components = _schemas(app)
    paths: dict[str, Schema] = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted(rule.methods or ()):
            if method not in ("HEAD", "OPTIONS"):
                paths.setdefault(path, {})[method.lower()] = _operation(app, rule, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "coreset_backend", "version": __version__},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "login": {"type": "http", "scheme": "basic"},
                "webhook": {"type": "apiKey", "in": "header", "name": SECRET_HEADER},
            },
        },
    }


class _Schemas(GenerateJsonSchema):
    """The schemas of pydantic, where an answer that is a dataclass has all its fields always."""

    def field_is_required(
        self,
        field: ModelField | DataclassField | TypedDictField,
        total: bool,
    ) -> bool:
        whole = self.mode == "serialization" and field["type"] == "dataclass-field"
        return whole or super().field_is_required(field, total)


def _schemas(app: Flask) -> tuple[Schemas, Schema]:
    """The JSON schema of each view's answer and body by (endpoint, kind), and the models named in them."""
    models = {(ERROR, ANSWER): Error}
    for endpoint, view in app.view_functions.items():
        for kind in (ANSWER, BODY):
            if model := getattr(view, kind, None):
                models[endpoint, kind] = model
    schemas, shared = TypeAdapter.json_schemas(
        [
            (key, "validation" if key[1] == BODY else "serialization", TypeAdapter(model))
            for key, model in models.items()
        ],
        ref_template=REFERENCE,
        schema_generator=_Schemas,
    )
    return {key: schema for (key, _), schema in schemas.items()}, shared.get("$defs", {})


def _operation(app: Flask, rule: Rule, schemas: Schemas) -> Schema:
    summary = (
        "A file of the pages."
        if rule.endpoint == "static"
        else inspect.getdoc(app.view_functions[rule.endpoint]) or ""
    )
    security: list[Schema] = [{"login": []}]
    if rule.endpoint == SIGNED:
        security.append({"webhook": []})
    operation: Schema = {
        "summary": " ".join(summary.partition("\n\n")[0].split()),
        "security": [] if rule.endpoint == OPEN_TO_ALL else security,
        "parameters": [_parameter(rule, name) for name in sorted(rule.arguments)],
        "responses": {
            status: {"description": meaning} | _content(rule.endpoint, status, schemas)
            for status, meaning in STATUSES.items()
        },
    }
    if schema := schemas.get((rule.endpoint, BODY)):
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _parameter(rule: Rule, name: str) -> Schema:
    number = isinstance(rule._converters[name], IntegerConverter)
    schema: Schema = {"type": "integer", "minimum": 0} if number else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _content(endpoint: str, status: str, schemas: Schemas) -> Schema:
    error, answer = schemas[ERROR, ANSWER], schemas.get((endpoint, ANSWER))
    if endpoint == "api.ready" and status == "503":  # no worker listens, or Redis does not answer
        schema: Schema | None = {"anyOf": [answer, error]}
    else:
        schema = error if status >= "400" else answer
    media = "application/json" if status >= "400" else MEDIA.get(endpoint, "application/json")
    return {"content": {media: {"schema": schema} if schema else {}}}
