"""Reads what a Label Studio has: its projects, and lists of their tasks.

Written against the observed behaviour of Label Studio Community 1.23.2; comments mark the surprising parts.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from coreset_backend.arrays import Progress, unwatched
from coreset_backend.errors import LabelStudioError, ProjectGone, Rejected
from coreset_backend.label_studio.answers import MOST_TASKS, ListedTask, Project, read_page, read_project
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
from coreset_backend.label_studio.payloads import parse_snapshot
from coreset_backend.project import Snapshot

PAGE_SIZE = 900
"""Label Studio 1.23 on SQLite answers 500 to a page with 999 or more uploaded images: it asks for their files
in one condition, which SQLite finds too deep."""


class TaskLists(Api):
    """Requests that change nothing: a project, and its tasks in the order and with the fields asked for."""

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

    def fetch_task_ids(self, project_id: int) -> set[int]:
        return {task.task_id for task in self.tasks(project_id, {"include": "id"})}

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

    def count_unserved(self, project_id: int, task_ids: Sequence[int]) -> int:
        """Number of the tasks that are unlabelled and have no prediction of the shown version."""
        unserved = all_of(UNSOLVED, score_filter("empty", True))
        asked = (query(unserved, task_ids=some) for some in in_addresses(task_ids))
        return sum(self.page(project_id, 1, 1, include="id", query=each)[1] for each in asked)

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
