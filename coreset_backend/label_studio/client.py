"""All HTTP requests to Label Studio: reads a project, publishes a batch, and makes the requests of `connect`.

Written against the observed behaviour of Label Studio Community 1.23.2; comments mark the surprising parts.
Every method raises Unreachable, Unauthorized or Rejected, never an error of httpx.
"""

import contextlib
import itertools
import json
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from coreset_backend.arrays import Progress, unwatched
from coreset_backend.errors import LabelStudioError, ProjectGone, Rejected, Unreachable
from coreset_backend.label_studio.answers import (
    LIMITS,
    MOST_TASKS,
    Limits,
    bound_body,
    checked_count,
    checked_counts,
    checked_list,
    checked_page,
    checked_project,
)
from coreset_backend.label_studio.auth import TokenAuth, read_answer
from coreset_backend.label_studio.payloads import parse_snapshot, prediction_json
from coreset_backend.network.outbound import TRUST_ADVICE, Proxy, retry_after, tls_context
from coreset_backend.project import Json, Labels, Prediction, Snapshot
from coreset_backend.reports import Publication

log = logging.getLogger(__name__)

PAGE_SIZE = 1000
TASKS_IN_AN_ADDRESS = 100
PASSING = (500, 502, 503, 504)
LONGEST_PAUSE = 30.0
"""Seconds: a longer Retry-After of a busy Label Studio is not waited for in full."""
# Label Studio recounts the whole project inside the import request: 34 s at 20,000 tasks.
PATIENT = httpx.Timeout(30.0, read=600.0)
ANNOTATED = {
    "conjunction": "or",
    "items": [
        {"filter": f"filter:tasks:{count}", "operator": "greater", "type": "Number", "value": 0}
        for count in ("total_annotations", "cancelled_annotations")
    ],
}
UNSOLVED = {"filter": "filter:tasks:completed_at", "operator": "empty", "type": "Datetime", "value": True}
BY_SCORE = ["tasks:predictions_score"]


def score_filter(operator: str, value: object) -> Json:
    """A filter item on the task's score under the project's version."""
    return {
        "filter": "filter:tasks:predictions_score",
        "operator": operator,
        "type": "Number",
        "value": value,
    }


class LabelStudio:
    """The client of the Label Studio at ``url``, with one pool of kept-alive connections.

    ``pauses``: seconds between the attempts of a request; there is one attempt more than pauses.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        verify: bool = True,
        proxy: Proxy | None = None,
        pauses: Sequence[float] = (1.0, 2.0),
        limits: Limits = LIMITS,
    ) -> None:
        self._pauses = pauses
        self.url = url.rstrip("/")
        self.auth = TokenAuth(self.url, api_key)
        self._proxy = proxy
        self._client = httpx.Client(
            auth=self.auth,
            verify=tls_context(verify),
            proxy=proxy.for_httpx() if proxy else None,
            trust_env=False,  # network/outbound.py decides on the proxy, for images too
            timeout=httpx.Timeout(30.0, connect=5.0),
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [lambda response: bound_body(response, limits)]},
        )

    def close(self) -> None:
        self._client.close()

    def request(self, method: str, path: str, *, expect: Sequence[str] = (), **options: Any) -> Json:
        """The JSON of the answer, an object with the keys ``expect``; None if it has no body.

        A GET is retried if the server does not answer or answers 5xx, any method if it answers 429. Raises
        Unreachable, Unauthorized or Rejected.
        """
        for pause in (*self._pauses, None):
            try:
                response = self._client.request(method, self.url + path, **options)
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
                if pause is None or method != "GET":
                    raise Unreachable(_unreachable(self.url, self._proxy, error)) from error
            else:
                busy = response.status_code == 429 or (method == "GET" and response.status_code in PASSING)
                if pause is None or not busy:
                    return read_answer(response, f"{method} {path}", expect)
                asked = retry_after(response.headers.get("retry-after")) or 0.0
                pause = max(pause, min(asked, LONGEST_PAUSE))
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def get(self, path: str, *, expect: Sequence[str] = (), **params: Any) -> Json:
        return self.request("GET", path, expect=expect, params=params)

    def whoami(self) -> Json:
        """The user to whom the token belongs."""
        return self.get("/api/current-user/whoami", expect=("id",))

    def version(self) -> str:
        """The release of Label Studio, as in ``1.23.2``."""
        return str(self.get("/api/version", expect=("release",))["release"])[:40]

    def fetch_project(self, project_id: int) -> Json:
        """The project's JSON; raises ProjectGone."""
        with self._gone_if_404(project_id):
            answer = self.get(f"/api/projects/{project_id}/", expect=("id", "label_config"))
            return checked_project(answer, project_id)

    def fetch_first_task(self, project_id: int) -> Json | None:
        """Id and data of the project's first task; None if it has no task."""
        tasks, _ = self._page(project_id, 1, 1, include="id,data")
        return tasks[0] if tasks else None

    def fetch_snapshot(
        self, project_id: int, progress: Progress = unwatched, *, control: str | None = None
    ) -> Snapshot:
        """The project with all its tasks and their annotations; raises ProjectGone.

        ``control`` names the <Choices> to train on, unless the label config does.
        """
        project = self.fetch_project(project_id)
        pool = list(self._tasks(project_id, {"include": "id,data"}, progress))
        annotated = self._tasks(
            project_id,
            {
                "fields": "all",
                "include": "id,data,annotations,result,was_cancelled,ground_truth,completed_by,updated_at",
                "query": json.dumps({"filters": ANNOTATED}),
            },
        )
        present = {task["id"] for task in pool}
        with_annotations = [task for task in annotated if task["id"] in present]
        return parse_snapshot(project, [*pool, *with_annotations], datetime.now(UTC), control)

    def fetch_annotated(self, project_id: int) -> dict[int, bool]:
        """Task id -> True if it is annotated, False if only skipped; other tasks are absent. Raises
        ProjectGone.
        """
        query = json.dumps({"filters": ANNOTATED})
        with self._gone_if_404(project_id):
            tasks = self._tasks(project_id, {"include": "id,total_annotations", "query": query})
            return {task["id"]: bool(task.get("total_annotations")) for task in tasks}

    def fetch_waiting(self, project_id: int) -> dict[int, float | None]:
        """Unlabelled task id -> its score under the project's version, or None without a prediction of it."""
        query = _query([UNSOLVED], ordering=BY_SCORE)  # early releases omit the score without the ordering
        tasks = self._tasks(project_id, {"include": "id,predictions_score", "query": query})
        scores = {task["id"]: task.get("predictions_score") for task in tasks}
        return {task_id: scores[task_id] for task_id in sorted(scores)}

    def count_waiting(self, project_id: int, *, served: bool) -> int:
        """Number of unlabelled tasks with (``served``) or without a prediction of the project's version."""
        items = [UNSOLVED, score_filter("empty", not served)]
        return self._page(project_id, 1, 1, include="id", query=_query(items))[1]

    def fetch_task_ids(self, project_id: int) -> set[int]:
        return {task["id"] for task in self._tasks(project_id, {"include": "id"})}

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

    def _tasks(
        self, project_id: int, params: Mapping[str, str], progress: Progress = unwatched
    ) -> Iterator[Json]:
        """The tasks of all pages, each once; all pages are read, whatever total is reported."""
        seen: set[int] = set()
        read = 0
        for page in itertools.count(1):
            try:
                tasks, total = self._page(project_id, page, PAGE_SIZE, **params)
            except Rejected as error:
                if error.status == 404 and page > 1:  # tasks were deleted meanwhile: the page is gone
                    return
                raise
            fresh = {task["id"]: task for task in tasks if task["id"] not in seen}
            seen.update(fresh)
            read += len(tasks)
            goes_on = len(tasks) >= PAGE_SIZE or (tasks and read < total)
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

    def _page(self, project_id: int, page: int, size: int, **params: str) -> tuple[list[Json], int]:
        """The tasks on a page of the Data Manager's list, and the number of tasks on all pages."""
        return checked_page(
            self.request(
                "GET",
                "/api/tasks/",
                expect=("tasks", "total"),
                params={"project": project_id, "page": page, "page_size": size, **params},
                timeout=PATIENT,
            )
        )

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
        bodies = {each.task_id: prediction_json(each, labels) for each in predictions}
        progress(0, 3)
        gone = self._import_missing(project_id, version, bodies)
        progress(1, 3)
        self.request("PATCH", f"/api/projects/{project_id}/", json={"model_version": version})
        progress(2, 3)
        kept = self.delete_versions(project_id, set(written) - {version})
        sent = len(bodies) - len(gone)
        serves = tuple(self.first_served(project_id, min(sent, PAGE_SIZE)))
        return Publication(version, sent, gone, serves, kept)

    def _import_missing(self, project_id: int, version: str, bodies: Mapping[int, Json]) -> tuple[int, ...]:
        """Import one prediction of the version for each task; returns the tasks that no longer exist."""
        held = self._held(project_id, version, bodies)
        missing = {task_id: body for task_id, body in bodies.items() if task_id not in held}
        if not missing:
            return ()
        try:
            self._import(project_id, version, missing)
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
        held = self._held(project_id, version, bodies)  # predictions with paths are sent one by one
        left = {each: missing[each] for each in missing if each in present and each not in held}
        self._import(project_id, version, left)
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

    def _import(self, project_id: int, version: str, bodies: Mapping[int, Json]) -> None:
        if self._post_predictions(project_id, bodies.values()) == len(bodies):
            return
        # Label Studio drops invalid predictions silently; usually a label was removed since the snapshot.
        held = self.fetch_results(project_id, version, bodies)
        bare = [{**body, "result": []} for task_id, body in bodies.items() if task_id not in held]
        log.warning(
            "Label Studio did not accept %d of %d predictions; they are sent without answers",
            len(bare),
            len(bodies),
        )
        created = self._post_predictions(project_id, bare)
        if created != len(bare):
            raise Rejected(201, f"created {created} of {len(bare)} predictions", "import/predictions")

    def _post_predictions(self, project_id: int, bodies: Iterable[Json]) -> int:
        path, all_of_them = f"/api/projects/{project_id}/import/predictions", list(bodies)
        # The import checks choices against the label config, which fails if they are paths.
        nested = [body for body in all_of_them if _has_paths(body)]
        created = len(nested)
        if at_once := [body for body in all_of_them if not _has_paths(body)]:
            answer = self.request("POST", path, expect=("created",), json=at_once, timeout=PATIENT)
            created += checked_count(answer["created"], "created")
        for body in nested:
            self.request("POST", "/api/predictions/", expect=("id",), json=body)
        return created

    def fetch_results(self, project_id: int, version: str, task_ids: Iterable[int]) -> dict[int, list[Json]]:
        """Task id -> regions of its newest prediction of the version; tasks without one are absent."""
        wanted, found = list(task_ids), {}
        for start in range(0, len(wanted), TASKS_IN_AN_ADDRESS):
            some = wanted[start : start + TASKS_IN_AN_ADDRESS]
            params = {
                "fields": "all",
                "include": "id,predictions,result,model_version",
                "query": json.dumps({"selectedItems": {"all": False, "included": some}}),
            }
            for task in self._tasks(project_id, params):
                ours = [each for each in task["predictions"] if each.get("model_version") == version]
                if ours:
                    found[task["id"]] = max(ours, key=lambda each: each["id"]).get("result") or []
        return found

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Version -> number of its predictions in the project."""
        return checked_counts(self.get(f"/api/projects/{project_id}/model-versions/"), "model versions")

    def delete_versions(self, project_id: int, versions: Collection[str]) -> tuple[str, ...]:
        """Delete the predictions of the versions; returns the versions that could not be deleted (see the
        log).

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
        items = [score_filter("empty", False), *([UNSOLVED] if unsolved else [])]
        query = _query(items, ordering=BY_SCORE)
        tasks = self._page(project_id, 1, max(count, 1), include="id,predictions_score", query=query)[0]
        return {task["id"]: task["predictions_score"] for task in tasks[:count]}

    def fetch_predictions(self, project_id: int, below: float) -> Iterator[list[Json]]:
        """The predictions of each unlabelled task with a score lower than ``below``."""
        query = _query([UNSOLVED, score_filter("less", below)])
        parameters = {"fields": "all", "include": "id,predictions", "query": query}
        for task in self._tasks(project_id, parameters):
            yield task["predictions"]

    def add_predictions(
        self, project_id: int, predictions: Sequence[Prediction], labels: Labels | None
    ) -> None:
        """Import the predictions; without their answers if Label Studio does not accept all of them."""
        bodies = [prediction_json(each, labels) for each in predictions]
        created = self._post_predictions(project_id, bodies)
        if created == len(bodies):
            return
        # Label Studio drops invalid predictions silently; usually a label was removed since the snapshot.
        log.warning(
            "Label Studio accepted %d of %d predictions; they are sent without answers", created, len(bodies)
        )
        created = self._post_predictions(project_id, [{**body, "result": []} for body in bodies])
        if created != len(bodies):
            raise Rejected(201, f"created {created} of {len(bodies)} predictions", "import/predictions")

    def delete_prediction(self, prediction_id: int) -> None:
        self.request("DELETE", f"/api/predictions/{prediction_id}/", timeout=PATIENT)

    def count_unserved(self, project_id: int, task_ids: Sequence[int]) -> int:
        """Number of the tasks that are unlabelled and have no prediction of the shown version."""
        filters = {"conjunction": "and", "items": [UNSOLVED, score_filter("empty", True)]}
        count = 0
        for start in range(0, len(task_ids), TASKS_IN_AN_ADDRESS):
            some = {"all": False, "included": list(task_ids[start : start + TASKS_IN_AN_ADDRESS])}
            query = json.dumps({"filters": filters, "selectedItems": some})
            count += self._page(project_id, 1, 1, include="id", query=query)[1]
        return count

    def backends(self, project_id: int) -> list[Json]:
        return checked_list(self.get("/api/ml", project=project_id), "backends")

    def webhooks(self, project_id: int) -> list[Json]:
        return checked_list(self.get("/api/webhooks/", project=project_id), "webhooks")


def _has_paths(body: Json) -> bool:
    """Whether the prediction answers nested choices."""
    return any(
        isinstance(choice, list)
        for region in body["result"]
        for choice in (region.get("value") or {}).get("choices") or []
    )


def _query(items: Sequence[Json], **more: Json) -> str:
    """The Data Manager's query for the tasks that match all ``items``."""
    return json.dumps({"filters": {"conjunction": "and", "items": list(items)}, **more})


def _unreachable(url: str, proxy: Proxy | None, error: Exception) -> str:
    if "CERTIFICATE" in str(error).upper():
        return f"The certificate of Label Studio at {url} is not trusted ({error}). {TRUST_ADVICE}"
    if "WRONG_VERSION_NUMBER" in str(error):
        return f"{url} does not speak TLS: LABEL_STUDIO_URL should begin with http://, or name another port."
    by = f" through the proxy {proxy} (CORESET_LABEL_STUDIO_PROXY)" if proxy else ""
    return (
        f"Label Studio at {url} does not answer{by} ({type(error).__name__}: {error}). "
        "Check that it runs and that LABEL_STUDIO_URL is the address at which this process reaches it; "
        "in a container, 'localhost' is the container itself."
    )
