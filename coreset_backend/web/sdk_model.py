"""The same backend as a model of Label Studio's own SDK, for those who serve many models with it.

    from label_studio_ml.api import init_app
    app = init_app(CoresetModel, model_dir="sdk")

Works under label-studio-ml 1.0.9 and 2.x, whose base classes differ. The app of :mod:`web.app`
answers more events, checks who calls, and is what `coreset-backend serve` runs. The only door to the SDK.
"""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

from flask import Response, after_this_request, has_request_context, jsonify, request

try:
    from label_studio_ml.model import LabelStudioMLBase  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}. CoresetModel needs Label Studio's SDK, which is not installed with the rest, for its pins "
        "contradict it: pip install --no-deps label-studio-ml==1.0.9 label-studio-tools attrs colorama lxml "
        "appdirs requests; or 2.x with `pip install git+` and the address of its repository. "
        "`coreset-backend serve` needs neither.",
        name=error.name,
    ) from error

from coreset_backend.backend import Backend, open_backend
from coreset_backend.errors import ConfigError, UnsupportedLabelConfig
from coreset_backend.evaluation.predictions import AnswerCache, pool_version
from coreset_backend.label_studio.payloads import parse_project_id, task_id_of
from coreset_backend.settings import read_settings
from coreset_backend.store.record import NO_ROUND_VERSION
from coreset_backend.web.errors import refused_in_the_form
from coreset_backend.web.events import concerns_us, event_project_id, take_event
from coreset_backend.web.protocol import predict_tasks, set_up_project
from coreset_backend.web.schemas import SetupBody

T = TypeVar("T")
SDK2 = "project_id" in inspect.signature(LabelStudioMLBase.__init__).parameters


class CoresetModel(LabelStudioMLBase):  # type: ignore[misc]
    """Answers /setup and /predict from the store, as our own web process does, and turns events into rounds.

    It never trains in the SDK's process. Of the project it is told by the request that the SDK answers, or,
    used without one, by ``project_id``, as in ``"7.1795444315"``, or the tasks.
    """

    def __init__(
        self, project_id: str | None = None, label_config: str | None = None, **sdk_options: object
    ) -> None:
        self._values: dict[str, object] = {}
        if SDK2:
            super().__init__(project_id=project_id, label_config=label_config)
        else:  # it would parse the label config by rules of its own, and fail on what Label Studio takes
            super().__init__(**sdk_options)
            self.project_id, self.label_config = project_id, label_config
        if has_request_context() and request.path == "/setup":
            after_this_request(_answer_setup)

    def predict(
        self, tasks: list[dict[str, object]], *_context: object, **_options: object
    ) -> list[dict[str, object]]:
        """One result for each task, in order, from the newest round of the project."""
        if not tasks:
            return []
        project_id = self._project(tasks)
        with _opened() as (backend, answers):
            task_ids = [task_id_of(task) for task in tasks]
            return [asdict(each) for each in predict_tasks(backend, answers, project_id, task_ids)]

    def fit(self, *given: object, **named: object) -> dict[str, str]:
        """Ask for a round; returns what became of the request.

        SDK 2.x calls ``fit(event, data)`` inside the webhook, 1.0.9 ``fit((), event=, data=, job_id=)`` in
        a process of its own. Both must return at once, and this does.
        """
        event, data = _first((named.get("event"), *given), str), _first((named.get("data"), *given), dict)
        if not event or not data or not concerns_us(event):
            return {"status": "ignored"}
        project_id = event_project_id(data.get("project"))
        with _opened() as (backend, _):
            return {"status": take_event(backend, project_id, event)}

    def process_event(self, event: str, data: object, job_id: str, _options: object) -> dict[str, str]:
        """SDK 1.0.9 only: its own list lacks Start Training and plurals, and holds PROJECT_UPDATED."""
        return self.fit((), event=event, data=data, job_id=job_id)

    def _project(self, tasks: Sequence[dict[str, object]] = ()) -> int:
        """The number of the project; ValueError where nothing names it."""
        body = request.get_json(silent=True) if has_request_context() else None
        asked = body.get("project") if isinstance(body, dict) else None
        named = (self.project_id, asked, *(task.get("project") for task in tasks[:1]))
        return parse_project_id(next((name for name in named if name not in (None, "", "None")), None))

    # ------------------------------------------------------------ what SDK 2.x keeps in files of its own

    @property
    def model_version(self) -> str:
        """What `predict` answers under, so that Label Studio knows which predictions it has already."""
        try:
            project_id = self._project()
        except ValueError:  # the SDK asks in its constructor, where nothing may name one yet
            return NO_ROUND_VERSION
        with _opened() as (_, answers):
            return pool_version(answers.latest(project_id))

    def use_label_config(self, label_config: str) -> None:
        """Take no part in how the SDK reads label configs: a round reads its own."""
        self.set("label_config", label_config)

    def set_extra_params(self, extra_params: object) -> None:
        """Keep what the project's lead has set in Label Studio's form; ConfigError for what cannot be."""
        with _opened() as (backend, answers):
            body = {"project": self._project(), "schema": self.get("label_config")}
            set_up_project(backend, answers, SetupBody.model_validate(body | {"extra_params": extra_params}))

    def get(self, key: str) -> object:
        return self.model_version if key == "model_version" else self._values.get(key)

    def set(self, key: str, value: object) -> None:
        self._values[key] = value

    def has(self, key: str) -> bool:
        return key == "model_version" or key in self._values


def _answer_setup(answer: Response) -> Response:
    """What our own web process answers, in place of what the SDK has made of it.

    SDK 1.0.9 names a version of its own, "INITIAL", 2.x "0.0.1": Label Studio would then take the tasks'
    predictions for those of another version and ask for each a second time.
    """
    try:
        body = SetupBody.model_validate(request.get_json(silent=True))
        with _opened() as (backend, answers):
            version = set_up_project(backend, answers, body)
    except (ConfigError, UnsupportedLabelConfig) as error:
        return refused_in_the_form(error)
    except ValueError:  # the SDK has said what it makes of such a request
        return answer
    return jsonify(model_version=version)


@contextlib.contextmanager
def _opened() -> Iterator[tuple[Backend, AnswerCache]]:
    with contextlib.closing(open_backend(read_settings())) as backend:
        yield backend, AnswerCache(backend.store)


def _first(given: Sequence[object], kind: type[T]) -> T | None:
    return next((value for value in given if isinstance(value, kind)), None)
