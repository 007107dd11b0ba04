"""What it costs Label Studio that many tasks stand in its queue: seconds of publishing, and of the next task.

    .venv/bin/python benchmarks/queue_costs.py http://localhost:8080 <legacy token> 5000

Makes a project of that many tasks in a running Label Studio and leaves it there. Compared are a queue of 100
tasks, as of batch and reserve, and one of the whole pool: the import, the import of the next batch, what an
annotator waits for the next task, and the deletion of the old version while somebody goes on labelling.
"""

import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402

from coreset_backend.label_studio.client import LabelStudio  # noqa: E402
from coreset_backend.local import demo_project  # noqa: E402
from coreset_backend.project import Prediction  # noqa: E402

HEAD = 100


def main(url: str, token: str, n: int) -> None:
    client, session = LabelStudio(url, token), demo_project.open_session(url, token)
    project_id = demo_project.create_project(
        session, f"Queue of {n}", demo_project.choices_config(("a", "b"))
    )
    session.patch(
        f"/api/projects/{project_id}/", json={"sampling": "Uncertainty sampling"}
    ).raise_for_status()
    for start in range(0, n, 20_000):
        tasks = [
            {"image": f"https://example.com/{each}.png"} for each in range(start, min(n, start + 20_000))
        ]
        session.post(f"/api/projects/{project_id}/import", json=tasks).raise_for_status()
    task_ids = sorted(client.fetch_task_ids(project_id))

    def import_(version: str, some: list[int], low: float) -> None:
        step = 0.1 / len(some)
        predictions = [Prediction(each, low + step * rank, version) for rank, each in enumerate(some)]
        client.add_predictions(project_id, predictions, None)
        session.patch(f"/api/projects/{project_id}/", json={"model_version": version}).raise_for_status()

    seconds(f"import of {HEAD}", lambda: import_("head", task_ids[:HEAD], 0.5))
    annotate(session, project_id, f"next task, {HEAD} in the queue")
    seconds(f"import of all {n}", lambda: import_("whole", task_ids, 0.9))
    annotate(session, project_id, f"next task, {n} in the queue")
    seconds(f"import of {HEAD} more", lambda: import_("whole", task_ids[:HEAD], 0.5))
    for version, size in (("head", HEAD), ("whole", n)):
        meanwhile(
            session,
            project_id,
            f"deletion of {size}",
            partial(client.delete_versions, project_id, [version]),
        )


def seconds(name: str, do: Callable[[], object]) -> None:
    started = time.monotonic()
    do()
    print(f"{name}: {time.monotonic() - started:.2f} s", flush=True)


def annotate(session: httpx.Client, project_id: int, name: str, n: int = 10) -> None:
    """The median of what the next task takes."""
    spent = []
    for _ in range(n):
        started = time.monotonic()
        task_id = label_one(session, project_id, spent, started)
        session.post(f"/api/tasks/{task_id}/annotations/", json={"result": []}).raise_for_status()
    print(f"{name}: {1000 * statistics.median(spent):.0f} ms", flush=True)


def label_one(session: httpx.Client, project_id: int, spent: list[float], started: float) -> int:
    where = {"id": "next_task", "project": project_id}
    answer = session.post("/api/dm/actions/", params=where, json={"project": project_id}).raise_for_status()
    spent.append(time.monotonic() - started)
    return int(answer.json()["id"])


def meanwhile(session: httpx.Client, project_id: int, name: str, do: Callable[[], object]) -> None:
    """Time ``do``, and the longest request of somebody who labels in the meantime; count the errors."""
    done, longest, errors = threading.Event(), [0.0], [0]

    def label() -> None:
        while not done.is_set():
            started = time.monotonic()
            try:
                task_id = label_one(session, project_id, [], started)
                session.post(f"/api/tasks/{task_id}/annotations/", json={"result": []}).raise_for_status()
            except httpx.HTTPStatusError:
                errors[0] += 1
            longest[0] = max(longest[0], time.monotonic() - started)

    annotator = threading.Thread(target=label, daemon=True)
    annotator.start()
    seconds(name, do)
    done.set()
    annotator.join()
    print(f"  meanwhile a label took up to {longest[0]:.1f} s; errors: {errors[0]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
