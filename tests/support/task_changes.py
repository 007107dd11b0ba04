"""What people do to the tasks of a project, at random, over the API of a Label Studio."""

from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np

CLASSES = ("cat", "dog")


class TaskChanges:
    """Changes a project at random; ``made`` names what was done, the last at the end."""

    def __init__(self, admin: httpx.Client, project_id: int, seed: int) -> None:
        self.admin, self.project_id = admin, project_id
        self.rng = np.random.default_rng(seed)
        self.made: list[str] = []
        self._count = 0

    def make_some(self, most: int = 3) -> None:
        """Up to ``most`` changes, and sometimes none."""
        for _ in range(self.rng.integers(0, most + 1)):
            change = self._one_of(CHANGES)
            change(self)
            self.made.append(change.__name__)

    def import_tasks(self) -> None:
        data = [{"image": self._address()} for _ in range(self.rng.integers(1, 4))]
        self._done(self.admin.post(f"/api/projects/{self.project_id}/import", json=data))

    def change_data(self) -> None:
        for task in self._some_task():
            body = {"data": {"image": self._address()}}
            self._done(self.admin.patch(f"/api/tasks/{task['id']}/", json=body))

    def delete_task(self) -> None:
        for task in self._some_task():
            self._done(self.admin.delete(f"/api/tasks/{task['id']}/"))

    def delete_the_newest_and_import_again(self) -> None:
        """On SQLite the new task gets the id of the deleted one."""
        if tasks := self._tasks():
            self._done(self.admin.delete(f"/api/tasks/{tasks[-1]['id']}/"))
        self.import_tasks()

    def annotate(self) -> None:
        for task in self._some_task():
            self._done(self.admin.post(f"/api/tasks/{task['id']}/annotations/", json=self._answer()))

    def change_annotation(self) -> None:
        for annotation in self._some_annotation():
            self._done(self.admin.patch(f"/api/annotations/{annotation['id']}/", json=self._answer()))

    def delete_annotation(self) -> None:
        for annotation in self._some_annotation():
            self._done(self.admin.delete(f"/api/annotations/{annotation['id']}/"))

    def delete_annotations_of_a_task(self) -> None:
        for task in self._some_task():
            self._done(
                self.admin.post(
                    "/api/dm/actions/",
                    params={"id": "delete_tasks_annotations", "project": self.project_id},
                    json={
                        "project": self.project_id,
                        "selectedItems": {"all": False, "included": [task["id"]]},
                    },
                )
            )

    def import_predictions(self) -> None:
        body = [
            {"task": task["id"], "result": [], "score": 0.5, "model_version": f"v{self._next()}"}
            for task in self._some_task()
        ]
        self._done(self.admin.post(f"/api/projects/{self.project_id}/import/predictions", json=body))

    def _tasks(self) -> list[Any]:
        asked = {"project": self.project_id, "fields": "all", "include": "id,annotations", "page_size": 1000}
        tasks = self._done(self.admin.get("/api/tasks/", params=asked)).json()["tasks"]
        return sorted(tasks, key=lambda task: task["id"])

    def _some_task(self) -> list[Any]:
        tasks = self._tasks()
        return [self._one_of(tasks)] if tasks else []

    def _some_annotation(self) -> list[Any]:
        found = [each for task in self._tasks() for each in task["annotations"]]
        return [self._one_of(found)] if found else []

    def _answer(self) -> dict[str, Any]:
        if self.rng.random() < 0.2:
            return {"result": [], "was_cancelled": True}
        region = {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [self._one_of(CLASSES)]},
        }
        return {"result": [region]}

    def _address(self) -> str:
        number, kind = self._next(), self.rng.random()
        if kind < 0.1:
            return f"https://example.com/{number}.jpg?X-Amz-Signature=secret{number}"
        return f"/data/local-files/?d=a/{number}.jpg" if kind < 0.5 else f"https://example.com/{number}.jpg"

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _one_of(self, found: Sequence[Any]) -> Any:
        return found[self.rng.integers(len(found))]

    @staticmethod
    def _done(answer: httpx.Response) -> httpx.Response:
        return answer.raise_for_status()


CHANGES: tuple[Callable[[TaskChanges], None], ...] = (
    TaskChanges.import_tasks,
    TaskChanges.change_data,
    TaskChanges.delete_task,
    TaskChanges.delete_the_newest_and_import_again,
    TaskChanges.annotate,
    TaskChanges.annotate,
    TaskChanges.change_annotation,
    TaskChanges.delete_annotation,
    TaskChanges.delete_annotations_of_a_task,
    TaskChanges.import_predictions,
)
