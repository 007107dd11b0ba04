"""The same backend as a model of Label Studio's own SDK, for those who serve many models with it.

    from label_studio_ml.api import init_app
    app = init_app(CoresetModel, model_dir="sdk")

Works under label-studio-ml 1.0.9 and 2.x, whose base classes differ. The app of :mod:`coreset_backend.web`
answers more events, checks who calls, and is what `coreset-backend serve` runs. The only door to the SDK.
"""

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

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

from coreset_backend.answers import AnswerCache, predict_results
from coreset_backend.backend import open_backend
from coreset_backend.events import concerns_us, take_event
from coreset_backend.project import Json, parse_project_id, task_id_of
from coreset_backend.settings import read_settings

SDK2 = "project_id" in inspect.signature(LabelStudioMLBase.__init__).parameters


class CoresetModel(LabelStudioMLBase):  # type: ignore[misc]
    """Answers /predict from the store and turns events into rounds; it never trains in the SDK's process."""

    def __init__(
        self, project_id: str | None = None, label_config: str | None = None, **sdk_options: Any
    ) -> None:
        if SDK2:
            super().__init__(project_id=project_id, label_config=label_config)
        else:
            super().__init__(label_config=label_config, **sdk_options)

    def predict(self, tasks: list[Json], **_options: Any) -> list[Json]:
        """One result for each task, from the newest round of the project that the tasks name."""
        if not tasks:
            return []
        with contextlib.closing(open_backend(read_settings())) as backend:
            project_id = parse_project_id(tasks[0].get("project"))
            answers = AnswerCache(backend.store).latest(project_id)
            settings = backend.settings_for(project_id, answers.record.attributes if answers else {})
            return predict_results(answers, [task_id_of(task) for task in tasks], settings.preannotate)

    def fit(self, *given: Any, **named: Any) -> dict[str, str]:
        """Ask for a round; returns what became of the request.

        SDK 2.x calls ``fit(event, data)`` inside the webhook, 1.0.9 ``fit((), event=, data=, job_id=)`` in
        a process of its own. Both must return at once, and this does.
        """
        event, data = named.get("event") or _first(given, str), named.get("data") or _first(given, dict)
        if not event or not data or not concerns_us(event):
            return {"status": "ignored"}
        with contextlib.closing(open_backend(read_settings())) as backend:
            project = data.get("project")
            project_id = parse_project_id(project.get("id") if isinstance(project, dict) else project)
            return {"status": take_event(backend, project_id, event)}

    def process_event(self, event: str, data: Json, job_id: str, _options: Json) -> dict[str, str]:
        """SDK 1.0.9 only: its own list lacks Start Training and plurals, and holds PROJECT_UPDATED."""
        return self.fit((), event=event, data=data, job_id=job_id)


def _first(given: Sequence[Any], kind: type) -> Any:
    return next((value for value in given if isinstance(value, kind)), None)
