"""Annotators who label a whole project at full speed, and an account of what Label Studio served them."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
from e2e_stack import Annotator

UNSOLVED = (
    '{"filters": {"conjunction": "and", "items": [{"filter": "filter:tasks:completed_at", '
    '"operator": "empty", "type": "Datetime", "value": true}]}}'
)


@dataclass
class Account:
    """What the annotators saw.

    ``served``: when the first request that was answered with a task began, and when the first answer came.
    ``submitted``: the tasks of the labels that were taken. ``no_tasks``: when the answer "no tasks" came, and
    the tasks that had waited before it was asked for. ``refused``: answers of 500, which Label Studio gives
    while its SQLite is locked; they are asked again.
    """

    served: dict[int, tuple[float, float]] = field(default_factory=dict)
    submitted: list[int] = field(default_factory=list)
    no_tasks: list[tuple[float, set[int]]] = field(default_factory=list)
    refused: int = 0
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sent_away(self) -> list[set[int]]:
        """The free tasks at each answer "no tasks": those that waited, and were asked for by nobody."""
        free = [
            {task for task in waiting if self.served.get(task, (at, at))[0] >= at}
            for at, waiting in self.no_tasks
        ]
        return [tasks for tasks in free if tasks]

    def out_of_turn(self, order: Sequence[int]) -> list[int]:
        """Tasks that were given out before one ahead of them in ``order`` was even asked for."""
        found, latest = [], 0.0
        for task_id in order:
            began, answered = self.served[task_id]
            if answered < latest:
                found.append(task_id)
            latest = max(latest, began)
        return found


def unsolved(http: httpx.Client, project_id: int) -> set[int]:
    """The tasks that still want labels."""
    parameters = {"project": project_id, "page_size": 10_000, "include": "id", "query": UNSOLVED}
    return {
        task["id"] for task in http.get("/api/tasks/", params=parameters).raise_for_status().json()["tasks"]
    }


def label_all(
    annotators: Sequence[Annotator], project_id: int, choices: Sequence[str], *, sleeper: bool = False
) -> Account:
    """Have all label until nothing waits; a ``sleeper``, the first, opens a task and submits it last."""
    account, started = Account(), time.monotonic()
    held = _ask(annotators[0], project_id, set(), account, started) if sleeper else None
    with ThreadPoolExecutor(len(annotators)) as pool:
        workers = annotators[1:] if sleeper else annotators
        list(pool.map(lambda each: _label(each, project_id, choices, account), workers))
    if held:
        annotators[0].submit(held, choices[0])
        account.submitted.append(held)
    account.seconds = time.monotonic() - started
    return account


def _label(annotator: Annotator, project_id: int, choices: Sequence[str], account: Account) -> None:
    """Label until nothing waits, or others have all that does. What waits is listed after each "no tasks"."""
    waiting: set[int] = set()
    began = (
        None  # a request that SQLite refused may have locked a task, which then comes with the next answer
    )
    while True:
        try:
            began = began or time.monotonic()
            task_id = _ask(annotator, project_id, waiting, account, began)
            began = None
            if task_id is not None:
                annotator.submit(task_id, choices[task_id % len(choices)])
                account.submitted.append(task_id)
                waiting = set()
                continue
            waiting = unsolved(annotator.http, project_id)
            if waiting <= account.served.keys():
                return
        except httpx.HTTPStatusError:
            with account.lock:
                account.refused += 1


def _ask(
    annotator: Annotator, project_id: int, waiting: set[int], account: Account, began: float
) -> int | None:
    task_id = annotator.next_task(project_id)
    with account.lock:
        if task_id is None:
            account.no_tasks.append((time.monotonic(), waiting))
        else:
            answered = time.monotonic()
            first = account.served.get(task_id, (began, answered))
            account.served[task_id] = min(first[0], began), min(first[1], answered)
    return task_id
