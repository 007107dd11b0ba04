"""The application: which request makes which calls on a model."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Flask, jsonify, request

from .model import LabelStudioMLBase

TRAIN_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING")
app = Flask(__name__)
models: list[type[LabelStudioMLBase]] = []


def init_app(model_class: type[LabelStudioMLBase]) -> Flask:
    models[:] = [model_class]
    return app


def said(view: Callable[[], Any]) -> Callable[[], Any]:
    @wraps(view)
    def guarded() -> Any:
        try:
            return view()
        except Exception as error:  # noqa: BLE001
            return jsonify(detail=f"{type(error).__name__}: {error}"), 500

    return guarded


@app.post("/predict")
@said
def predict() -> Any:
    body = request.get_json()
    params = dict(body.get("params") or {})
    context = params.pop("context", {})
    model = models[0](
        project_id=str(body.get("project")).split(".", 1)[0], label_config=body.get("label_config")
    )
    return jsonify(results=model.predict(body.get("tasks"), context=context, **params) or [])


@app.post("/setup")
@said
def setup() -> Any:
    body = request.get_json()
    model = models[0](project_id=body["project"].split(".", 1)[0], label_config=body.get("schema"))
    if body.get("extra_params"):
        model.set_extra_params(body["extra_params"])
    return jsonify(model_version=model.get("model_version"))


@app.post("/webhook")
def webhook() -> Any:
    body = request.get_json()
    event = body.pop("action")
    if event not in TRAIN_EVENTS:
        return jsonify(status="Unknown event"), 200
    project = body["project"]
    model = models[0](str(project["id"]), label_config=project["label_config"])
    return jsonify(result=model.fit(event, body), status="ok"), 201


@app.get("/health")
def health() -> Any:
    return jsonify(status="UP", model_class=models[0].__name__)
