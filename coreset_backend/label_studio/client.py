"""All HTTP requests to Label Studio: reads a project, publishes a batch, and makes the requests of `connect`.

Every method raises Unreachable, Unauthorized or Rejected, never an error of httpx.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from coreset_backend.arrays import Progress, unwatched
from coreset_backend.errors import LabelStudioError, Rejected
from coreset_backend.label_studio.answers import (
    ConnectedBackend,
    Webhook,
    read_backends,
    read_count,
    read_counts,
    read_webhooks,
)
from coreset_backend.label_studio.api import PATIENT
from coreset_backend.label_studio.filters import in_addresses, query
from coreset_backend.label_studio.payloads import (
    PredictionBody,
    is_importable,
    prediction_json,
    without_result,
)
from coreset_backend.label_studio.task_lists import PAGE_SIZE, TaskLists
from coreset_backend.project import Labels, Prediction, Region
from coreset_backend.reports import Publication

log = logging.getLogger(__name__)


class LabelStudio(TaskLists):
    """What is asked of a Label Studio; see ``Api`` for how it is opened."""

    def publish(
        self,
        project_id: int,
        predictions: Sequence[Prediction],
        labels: Labels | None,
        *,
        written: Collection[str] = (),
        progress: Progress = unwatched,
    ) -> Publication:
        """Make Label Studio serve exactly the tasks of ``predictions`` first, in the order of their scores.

        All predictions have one new version. After the project was switched to it, the versions that this
        backend has ``written`` before are deleted; other versions never are. Before the switch Label Studio
        serves the old batch, also if publishing fails. Can be repeated: only missing predictions are sent.
        ``progress`` is called before each change. Raises Rejected if Label Studio drops predictions.
        """
        version = predictions[0].model_version
        progress(0, 3)
        gone = self._import_missing(project_id, predictions, labels)
        progress(1, 3)
        self.request("PATCH", f"/api/projects/{project_id}/", json={"model_version": version})
        progress(2, 3)
        kept = self.delete_versions(project_id, set(written) - {version})
        sent = len({each.task_id for each in predictions}) - len(gone)
        serves = tuple(self.first_served(project_id, min(sent, PAGE_SIZE)))
        return Publication(version, sent, gone, serves, kept)

    def add_missing(
        self, project_id: int, predictions: Sequence[Prediction], labels: Labels
    ) -> tuple[int, ...]:
        """Import the predictions, all of one version, that their tasks lack; returns tasks that are gone.

        What Label Studio does not accept is left out: an empty prediction would answer "none of these".
        """
        return self._import_missing(project_id, predictions, labels, bare=False) if predictions else ()

    def _import_missing(
        self, project_id: int, predictions: Sequence[Prediction], labels: Labels | None, *, bare: bool = True
    ) -> tuple[int, ...]:
        """Import one prediction of their version for each task; returns the tasks that no longer exist."""
        version = predictions[0].model_version
        bodies = {each.task_id: prediction_json(each, labels) for each in predictions}
        held = self._held(project_id, version, bodies)
        missing = {task_id: body for task_id, body in bodies.items() if task_id not in held}
        if not missing:
            return ()
        try:
            self._import(project_id, version, missing, labels, bare=bare)
            return ()
        except Rejected as error:
            if error.status != 400:
                raise
        # Label Studio refuses an import with an unknown task id: tasks were deleted since the snapshot.
        present = self.fetch_task_ids(project_id)
        gone = tuple(task_id for task_id in missing if task_id not in present)
        if len(gone) == len(bodies):
            raise LabelStudioError(
                f"All {len(gone)} selected tasks of project {project_id} have been deleted."
            )
        log.warning(
            "%d selected tasks of project %d were deleted; the others are published", len(gone), project_id
        )
        held = self._held(project_id, version, bodies)  # some predictions are sent one by one
        left = {each: missing[each] for each in missing if each in present and each not in held}
        self._import(project_id, version, left, labels, bare=bare)
        return gone

    def _held(self, project_id: int, version: str, task_ids: Collection[int]) -> Collection[int]:
        """The tasks that have a prediction of the version from an earlier attempt."""
        count = self.model_versions(project_id).get(version, 0)
        if count in (0, len(task_ids)):
            return task_ids if count else ()
        held = self.fetch_results(project_id, version, task_ids)
        if len(held) == count:
            return held
        self._delete_version(project_id, version)  # some tasks have two, or other tasks have one
        return ()

    def _import(
        self,
        project_id: int,
        version: str,
        bodies: Mapping[int, PredictionBody],
        labels: Labels | None,
        *,
        bare: bool,
    ) -> None:
        """Import the version's predictions; what is not accepted is sent without its answer if ``bare``."""
        if self._all_taken(project_id, list(bodies.values()), labels) or not bare:
            return
        held = self.fetch_results(project_id, version, bodies)
        self._post_bare(project_id, [body for task_id, body in bodies.items() if task_id not in held])

    def _all_taken(self, project_id: int, bodies: Sequence[PredictionBody], labels: Labels | None) -> bool:
        """Import the predictions. Label Studio drops some silently, as where a label was removed since."""
        dropped = len(bodies) - self._post(project_id, bodies, labels)
        if dropped:
            log.warning("Label Studio did not accept %d of %d predictions", dropped, len(bodies))
        return not dropped

    def _post_bare(self, project_id: int, bodies: Sequence[PredictionBody]) -> None:
        """Send the predictions without their answers; raises Rejected if not even these are accepted."""
        created = self._post(project_id, [without_result(body) for body in bodies], None)
        if created != len(bodies):
            raise Rejected(201, f"created {created} of {len(bodies)} predictions", "import/predictions")

    def _post(self, project_id: int, bodies: Sequence[PredictionBody], labels: Labels | None) -> int:
        """How many of the predictions Label Studio accepted."""
        # The import checks choices against the label config, and fails at valid ones too; this path does not.
        one_by_one = [body for body in bodies if not is_importable(body, labels)]
        created = len(one_by_one)
        if at_once := [body for body in bodies if is_importable(body, labels)]:
            path = f"/api/projects/{project_id}/import/predictions"
            answer = self.request_object("POST", path, ("created",), json=at_once, timeout=PATIENT)
            created += read_count(answer["created"], "'created'")
        for body in one_by_one:
            self.request_object("POST", "/api/predictions/", ("id",), json=body)
        return created

    def fetch_results(
        self, project_id: int, version: str, task_ids: Iterable[int]
    ) -> dict[int, Sequence[Region]]:
        """Task id -> regions of its newest prediction of the version; tasks without one are absent."""
        found = {}
        for some in in_addresses(list(task_ids)):
            parameters = {
                "fields": "all",
                "include": "id,predictions,result,model_version",
                "query": query(task_ids=some),
            }
            for task in self.tasks(project_id, parameters):
                ours = [each for each in task.predictions if each.model_version == version]
                if ours:
                    found[task.task_id] = max(ours, key=lambda each: each.prediction_id).result
        return found

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Version -> number of its predictions in the project."""
        answer = self.request("GET", f"/api/projects/{project_id}/model-versions/")
        return read_counts(answer, "model versions")

    def delete_versions(self, project_id: int, versions: Collection[str]) -> tuple[str, ...]:
        """Delete the predictions of the versions; returns those that could not be deleted (see the log).

        If the project shows one of them, or a live backend, Label Studio resets it to show none.
        """
        kept = []
        try:
            for version in sorted(set(self.model_versions(project_id)) & set(versions)):
                kept.append(version)
                self._delete_version(project_id, version)
                kept.pop()
        except LabelStudioError as error:  # the next publish retries
            log.warning("project %d: old predictions could not be deleted: %s", project_id, error)
        return tuple(kept)

    def _delete_version(self, project_id: int, version: str) -> None:
        path = f"/api/projects/{project_id}/model-versions/"
        self.request("DELETE", path, json={"model_version": version}, timeout=PATIENT)

    def add_predictions(
        self, project_id: int, predictions: Sequence[Prediction], labels: Labels | None
    ) -> None:
        """Import the predictions; without their answers if Label Studio does not accept all of them."""
        bodies = [prediction_json(each, labels) for each in predictions]
        if not self._all_taken(project_id, bodies, labels):
            self._post_bare(project_id, bodies)

    def delete_prediction(self, prediction_id: int) -> None:
        self.request("DELETE", f"/api/predictions/{prediction_id}/", timeout=PATIENT)

    def backends(self, project_id: int) -> list[ConnectedBackend]:
        """The ML backends that the project has."""
        return read_backends(self.request("GET", "/api/ml", params={"project": project_id}))

    def webhooks(self, project_id: int) -> list[Webhook]:
        """The webhooks that the project has."""
        return read_webhooks(self.request("GET", "/api/webhooks/", params={"project": project_id}))
