"""The web process: one Flask application made of the routes of four modules. It loads no torch."""

from contextlib import ExitStack

from flask import Flask, g, request
from jinja2 import StrictUndefined

from coreset_backend.backend import Backend
from coreset_backend.evaluation.predictions import AnswerCache
from coreset_backend.web.access import guard_app
from coreset_backend.web.api import api
from coreset_backend.web.bulk import bulk
from coreset_backend.web.errors import answer_error
from coreset_backend.web.metrics import measure_app
from coreset_backend.web.pages import pages
from coreset_backend.web.protocol import protocol


def create_app(backend: Backend) -> Flask:
    """The WSGI application for one backend; several can live in one process."""
    app = Flask("coreset_backend.web")
    app.extensions["backend"] = backend
    app.extensions["answers"] = AnswerCache(backend.store)
    app.jinja_env.undefined = StrictUndefined  # a page that reads an unknown field is an error
    guard_app(app, backend)
    _read_at_once(app, backend)
    measure_app(app, backend)
    app.register_blueprint(protocol)  # for Label Studio
    app.register_blueprint(api)  # for scripts and monitoring
    app.register_blueprint(bulk)
    app.register_blueprint(pages)  # for people
    app.register_error_handler(Exception, answer_error)
    return app


def _read_at_once(app: Flask, backend: Backend) -> None:
    """Let requests that only read see the store as it is when they begin."""

    @app.before_request
    def begin() -> None:
        g.store = ExitStack()
        if request.method == "GET":
            g.store.enter_context(backend.store.as_of_now())

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        if "store" in g:
            g.pop("store").close()
