"""The hold-out: the labelled tasks that measure the model and never train it."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from coreset_backend.project import Task


def holdout_task_ids(
    tasks: Iterable[Task],
    previous: Iterable[int],
    share: float,
    seed: int,
    alike: Iterable[Sequence[int]] = (),
) -> frozenset[int]:
    """The labelled tasks that measure the model and never train it: ``share`` of each class, rounded down.

    A task of several classes counts for the rarest of them; tasks of "none of these" form a class of their
    own. A task stays in the hold-out (``previous``) as long as it has a label, so that accuracies of
    different rounds are comparable. A hash of the id decides which tasks join, not their order. Tasks that
    show one image, or are ``alike`` (groups of task ids), are in it together or not at all; otherwise the
    model would be tested on what it was trained on. Where the hold-out would so become twice as large, some
    of its groups leave it.
    """
    labeled = [(task, task.label) for task in tasks if task.label is not None]
    count = Counter(name for _, label in labeled for name in label)
    by_class: dict[str | None, list[int]] = {}
    for task, label in labeled:
        rarest = min(label, key=lambda name: (count[name], name), default=None)
        by_class.setdefault(rarest, []).append(task.task_id)
    family = _families([task for task, _ in labeled], alike)
    fixed = set(previous).intersection(family)
    stays = {family[task_id] for task_id in fixed}
    chosen: set[int] = set()
    for members in by_class.values():
        size = Counter(family[task_id] for task_id in members)
        kept, were = sum(size[each] for each in size if each in stays), len(fixed.intersection(members))
        usual = int(share * len(members))
        most, taken = max(usual, min(kept, 2 * max(usual, were))), 0
        for each in sorted(size, key=lambda first: (first not in stays, _draw(first, seed))):
            if taken >= most:
                break
            chosen.add(each)
            taken += size[each]
    return frozenset(task_id for task_id, first in family.items() if first in chosen)


def _families(tasks: Sequence[Task], alike: Iterable[Sequence[int]]) -> dict[int, int]:
    """Task id -> the smallest id of those that show the same image or are alike."""
    first = {task.task_id: task.task_id for task in tasks}

    def root(task_id: int) -> int:
        while first[task_id] != task_id:
            task_id = first[task_id] = first[first[task_id]]
        return task_id

    by_uri: dict[str, list[int]] = {}
    for task in tasks:
        if task.uri is not None:
            by_uri.setdefault(task.uri, []).append(task.task_id)
    for group in (*by_uri.values(), *alike):
        roots = sorted({root(task_id) for task_id in group if task_id in first})
        for each in roots[1:]:
            first[each] = roots[0]
    return {task_id: root(task_id) for task_id in first}


def _draw(task_id: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{task_id}".encode()).digest()
