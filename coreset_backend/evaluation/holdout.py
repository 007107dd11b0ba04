"""The hold-out: the labelled tasks that measure the model and never train it."""

import hashlib
from collections import Counter
from collections.abc import Iterable

from coreset_backend.project import Task


def holdout_task_ids(
    tasks: Iterable[Task], previous: Iterable[int], share: float, seed: int
) -> frozenset[int]:
    """The labelled tasks that measure the model and never train it: ``share`` of each class, rounded down.

    A task of several classes counts for the rarest of them; tasks of "none of these" form a class of their
    own. A task stays in the hold-out (``previous``) as long as it has a label, so that accuracies of
    different rounds are comparable. A hash of the id decides which tasks join, not their order. A task with
    the same image as a hold-out task joins too; otherwise the model would be tested on an image that it was
    trained on.
    """
    labeled = [(task, task.label) for task in tasks if task.label is not None]
    count = Counter(name for _, label in labeled for name in label)
    by_class: dict[str | None, list[int]] = {}
    for task, label in labeled:
        rarest = min(label, key=lambda name: (count[name], name), default=None)
        by_class.setdefault(rarest, []).append(task.task_id)
    uris = {task.task_id: task.uri for task, _ in labeled}
    fixed = set(previous)
    holdout: set[int] = set()
    for members in by_class.values():
        members.sort(key=lambda task_id: (task_id not in fixed, _draw(task_id, seed)))
        stay = sum(task_id in fixed for task_id in members)
        holdout.update(members[: max(stay, int(share * len(members)))])
    images = {uris[task_id] for task_id in holdout} - {None}
    return frozenset(holdout | {task_id for task_id, uri in uris.items() if uri in images})


def _draw(task_id: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{task_id}".encode()).digest()
