"""All HTTP requests to Label Studio: reads a project, publishes a batch, and makes the requests of `connect`.

Written against the observed behaviour of Label Studio Community 1.23.2; comments mark the surprising parts.
Every method raises Unreachable, Unauthorized or Rejected, never an error of httpx.
"""

import contextlib
import itertools
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from coreset_backend.arrays import Progress, unwatched
from coreset_backend.errors import LabelStudioError, ProjectGone, Rejected
from coreset_backend.label_studio.answers import (
    MOST_TASKS,
    ConnectedBackend,
    ListedTask,
    Project,
    Webhook,
    read_backends,
    read_count,
    read_counts,
    read_page,
    read_project,
    read_webhooks,
)
from coreset_backend.label_studio.api import PATIENT, Api
from coreset_backend.label_studio.filters import (
    ANNOTATED,
    ANNOTATION_FIELDS,
    BY_SCORE,
    COUNTS,
    UNSOLVED,
    Filter,
    all_of,
    in_addresses,
    query,
    score_filter,
)
from coreset_backend.label_studio.payloads import (
    PredictionBody,
    is_importable,
    parse_snapshot,
    prediction_json,
    without_result,
)
from coreset_backend.project import Labels, Prediction, Region, Snapshot
from coreset_backend.reports import Publication

log = logging.getLogger(__name__)

PAGE_SIZE = 900
"""Label Studio 1.23 on SQLite answers 500 to a page with 999 or more uploaded images: it asks for their files
in one condition, which SQLite finds too deep."""


class LabelStudio(Api):
    """What is asked of a Label Studio; see ``Api`` for how it is opened."""

    def whoami(self) -> str:
        """The e-mail address of the user to whom the token belongs."""
        user = self.request_object("GET", "/api/current-user/whoami", ("id",))
        return str(user.get("email") or "unknown user")

    def version(self) -> str:
        """The release of Label Studio, as in ``1.23.2``."""
        return str(self.request_object("GET", "/api/version", ("release",))["release"])[:40]

    def fetch_project(self, project_id: int) -> Project:
        """The project's JSON; raises ProjectGone."""
        with self._gone_if_404(project_id):
            answer = self.request_object("GET", f"/api/projects/{project_id}/", ("id", "label_config"))
            return read_project(answer, project_id)

    def fetch_first_task(self, project_id: int) -> ListedTask | None:
        """Id and data of the project's first task; None if it has no task."""
        tasks, _ = self.page(project_id, 1, 1, include="id,data")
        return tasks[0] if tasks else None

    def fetch_snapshot(
        self, project_id: int, progress: Progress = unwatched, *, control: str | None = None
    ) -> Snapshot:
        """The project with all its tasks and their annotations; raises ProjectGone.

        ``control`` names the <Choices> to train on, unless the label config does.
        """
        project = self.fetch_project(project_id)
        tasks = self._pool_and_annotated(project_id, progress)
        return parse_snapshot(project, tasks, datetime.now(UTC), control)

    def _pool_and_annotated(self, project_id: int, progress: Progress) -> Iterator[ListedTask]:
        """All tasks, and then those that have annotations again, with them."""
        present = set()
        for task in self.tasks(project_id, {"include": "id,data"}, progress):
            present.add(task.task_id)
            yield task
        for task in self.annotated_tasks(project_id):
            if task.task_id in present:
                yield task

    def fetch_labels(self, project_id: int, *, control: str | None = None) -> Snapshot:
        """The project with only its annotated and skipped tasks; raises ProjectGone."""
        project = self.fetch_project(project_id)
        return parse_snapshot(project, self.annotated_tasks(project_id), datetime.now(UTC), control)

    def annotated_tasks(self, project_id: int, task_ids: Sequence[int] | None = None) -> Iterator[ListedTask]:
        """The tasks (all, or among up to a hundred) that are annotated or skipped, with their annotations."""
        asked = query(ANNOTATED, task_ids=task_ids)
        return self.tasks(project_id, {"fields": "all", "include": ANNOTATION_FIELDS, "query": asked})

    def listed(
        self, project_id: int, task_ids: Sequence[int], include: str = "id,data", *only: Filter, **more: str
    ) -> Iterator[ListedTask]:
        """Those of the tasks that the project still has and on which the conditions ``only`` hold."""
        for some in in_addresses(task_ids):
            asked = query(all_of(*only) if only else None, task_ids=some)
            yield from self.tasks(project_id, {"include": include, "query": asked, **more})

    def fetch_existing(self, project_id: int, task_ids: Sequence[int]) -> set[int]:
        """Which of the tasks the project still has."""
        return {task.task_id for task in self.listed(project_id, task_ids, "id")} & set(task_ids)

    def add_missing(
        self, project_id: int, predictions: Sequence[Prediction], labels: Labels
    ) -> tuple[int, ...]:
        """Import the predictions, all of one version, that their tasks lack; returns tasks that are gone.

        What Label Studio does not accept is left out: an empty prediction would answer "none of these".
        """
        return self._import_missing(project_id, predictions, labels, bare=False) if predictions else ()

    def fetch_annotated(self, project_id: int) -> dict[int, bool]:
        """Task id -> True if annotated, False if only skipped; others are absent. Raises ProjectGone."""
        found, uncounted = dict[int, bool](), list[int]()
        with self._gone_if_404(project_id):
            for task in self.tasks(project_id, {"include": COUNTS, "query": query(ANNOTATED)}):
                found[task.task_id] = bool(task.is_annotated)
                if task.is_annotated is None:
                    uncounted.append(task.task_id)
            for some in in_addresses(uncounted):
                for task in self.annotated_tasks(project_id, some):
                    found[task.task_id] = not all(each.was_cancelled for each in task.annotations)
        return found

    def fetch_waiting(self, project_id: int) -> dict[int, float | None]:
        """Unlabelled task id -> its score under the project's version, or None without a prediction of it."""
        # Early releases omit the score without the ordering.
        asked = query(all_of(UNSOLVED), ordering=BY_SCORE)
        tasks = self.tasks(project_id, {"include": "id,predictions_score", "query": asked})
        scores = {task.task_id: task.score for task in tasks}
        return {task_id: scores[task_id] for task_id in sorted(scores)}

    def count_waiting(self, project_id: int, *, served: bool) -> int:
        """Number of unlabelled tasks with (``served``) or without a prediction of the project's version."""
        asked = query(all_of(UNSOLVED, score_filter("empty", not served)))
        return self.page(project_id, 1, 1, include="id", query=asked)[1]

    def fetch_task_ids(self, project_id: int) -> set[int]:
        return {task.task_id for task in self.tasks(project_id, {"include": "id"})}

    @contextlib.contextmanager
    def _gone_if_404(self, project_id: int) -> Iterator[None]:
        """Raise ProjectGone if a request of the block, valid for any existing project, is
        answered with 404.
        """
        try:
            yield
        except Rejected as error:
            if error.status != 404:
                raise
            self.whoami()  # only a Label Studio answers this: another server's 404 ends no project
            raise ProjectGone(404, error.body, f"project {project_id}") from error

    def tasks(
        self, project_id: int, asked: Mapping[str, str], progress: Progress = unwatched, size: int = PAGE_SIZE
    ) -> Iterator[ListedTask]:
        """The tasks of all pages of ``size``, each once; all are read, whatever total is reported."""
        seen: set[int] = set()
        read = 0
        for page in itertools.count(1):
            try:
                tasks, total = self.page(project_id, page, size, **asked)
            except Rejected as error:
                if error.status == 404 and page > 1:  # tasks were deleted meanwhile: the page is gone
                    return
                raise
            fresh = {task.task_id: task for task in tasks if task.task_id not in seen}
            seen.update(fresh)
            read += len(tasks)
            goes_on = len(tasks) >= size or (tasks and read < total)
            if len(seen) > MOST_TASKS or (goes_on and not fresh):
                raise LabelStudioError(
                    f"Label Studio's list of the tasks of project {project_id} does not end: page {page} "
                    f"{'repeats earlier ones' if not fresh else f'goes beyond {MOST_TASKS:,} tasks'}. "
                    "Nothing was changed."
                )
            yield from fresh.values()
            progress(len(seen), max(total, len(seen)))
            if not goes_on:
                return

    def page(self, project_id: int, page: int, size: int, **more: str) -> tuple[list[ListedTask], int]:
        """The tasks on a page of the Data Manager's list, and the number of tasks on all pages."""
        answer = self.request_object(
            "GET",
            "/api/tasks/",
            ("tasks", "total"),
            params={"project": project_id, "page": page, "page_size": size, **more},
            timeout=PATIENT,
        )
        return read_page(answer)

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
            self._import(project_id, missing, labels, version if bare else None)
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
        self._import(project_id, left, labels, version if bare else None)
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
        self, project_id: int, bodies: Mapping[int, PredictionBody], labels: Labels | None, bare: str | None
    ) -> None:
        """Import the predictions; what is not accepted is sent without answers if they are of ``bare``."""
        if self._all_taken(project_id, list(bodies.values()), labels) or bare is None:
            return
        held = self.fetch_results(project_id, bare, bodies)
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

    def first_served(self, project_id: int, count: int, *, unsolved: bool = True) -> dict[int, float]:
        """Task id -> score of the first ``count`` tasks of the queue, in order.

        Read from the Data Manager, which orders by score as the label stream does; reading the label stream
        itself would lock tasks for the token's user.
        """
        scored = score_filter("empty", False)
        asked = query(all_of(scored, UNSOLVED) if unsolved else all_of(scored), ordering=BY_SCORE)
        wanted = {"include": "id,predictions_score", "query": asked}
        tasks = self.tasks(project_id, wanted, size=min(max(count, 1), PAGE_SIZE))
        return {task.task_id: task.score or 0.0 for task in itertools.islice(tasks, count)}

    def fetch_predictions(self, project_id: int, below: float) -> Iterator[ListedTask]:
        """The unlabelled tasks with a score lower than ``below``, with their predictions."""
        asked = query(all_of(UNSOLVED, score_filter("less", below)))
        return self.tasks(project_id, {"fields": "all", "include": "id,predictions", "query": asked})

    def add_predictions(
        self, project_id: int, predictions: Sequence[Prediction], labels: Labels | None
    ) -> None:
        """Import the predictions; without their answers if Label Studio does not accept all of them."""
        bodies = [prediction_json(each, labels) for each in predictions]
        if not self._all_taken(project_id, bodies, labels):
            self._post_bare(project_id, bodies)

    def delete_prediction(self, prediction_id: int) -> None:
        self.request("DELETE", f"/api/predictions/{prediction_id}/", timeout=PATIENT)

    def count_unserved(self, project_id: int, task_ids: Sequence[int]) -> int:
        """Number of the tasks that are unlabelled and have no prediction of the shown version."""
        unserved = all_of(UNSOLVED, score_filter("empty", True))
        asked = (query(unserved, task_ids=some) for some in in_addresses(task_ids))
        return sum(self.page(project_id, 1, 1, include="id", query=each)[1] for each in asked)

    def backends(self, project_id: int) -> list[ConnectedBackend]:
        """The ML backends that the project has."""
        return read_backends(self.request("GET", "/api/ml", params={"project": project_id}))

    def webhooks(self, project_id: int) -> list[Webhook]:
        """The webhooks that the project has."""
        return read_webhooks(self.request("GET", "/api/webhooks/", params={"project": project_id}))
