"""The queue of Label Studio: the batch first, then its reserve, then every other unlabelled task.

Label Studio considers only tasks with a prediction of the project's version. If other annotators have all of
these open, it answers "no tasks", whatever else the project contains. Therefore every unlabelled task gets a
prediction, up to QUEUE of them.

A queue of at most SMALL predictions is published as a new version, and the old version is deleted. A larger
queue keeps its version: deleting 2,000 predictions locks Label Studio's SQLite for 5 to 30 s, in which
annotators get errors. Instead the new batch gets scores below all others, which makes Label Studio serve it.
Then the predictions that it replaces are deleted one by one: that takes twice as long as everything before.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from coreset_backend.arrays import Progress, unwatched
from coreset_backend.label_studio.answers import Project
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.filters import UNSOLVED, Filter, all_of, query, score_filter
from coreset_backend.label_studio.task_lists import PAGE_SIZE
from coreset_backend.project import Labels, Prediction
from coreset_backend.reports import Publication

QUEUE = 5_000
SMALL = 100
AT_ONCE = 100
MOST_ASKED = 10_000
"""Known tasks that are asked for, a hundred at a time, before all that lack a prediction are listed."""
# Label Studio drops scores outside [0, 1]. The tasks behind keep scores above the mean of a replaced pair.
FIRST_HEAD = (0.4, 0.8)
BEHIND = (0.9, 1.0)
NEXT_HEAD = 0.9
LEAST = 1e-200
ANSWERS = "id,predictions,result,model_version,score"


Ids = Sequence[int]


def publish_queue(
    label_studio: LabelStudio,
    project_id: int,
    head: Ids,
    labels: Labels | None,
    *,
    order: Callable[[Ids], Ids],
    predict: Callable[[Ids], Sequence[Prediction]],
    written: Collection[str],
    progress: Progress,
    on_served: Callable[[Publication], None] = unwatched,
    known: Ids = (),
) -> Publication:
    """Make Label Studio serve the tasks of ``head``, then all other unlabelled tasks as ``order`` sorts them.

    ``predict`` returns the predictions of tasks, all of one version. ``on_served`` is called as soon as
    annotators get the head. Then the predictions that the head replaces, and the versions that this backend
    has ``written`` before, are deleted. ``known``: tasks of the project, so that a large one need not list
    all that wait. Can be repeated; an unlabelled task in the queue never loses its last prediction meanwhile,
    unless that shows an answer and the task is to show none. Raises LabelStudioError.
    """
    project, first = label_studio.fetch_project(project_id), predict(head)
    if kept := _kept_version(label_studio, project, first[0].model_version, written):
        waiting = {task.task_id for task in label_studio.listed(project_id, head, "id", UNSOLVED)}
        wanted = [prediction for prediction in first if prediction.task_id in waiting]
        behind = predict(_lacking(label_studio, project_id, order, known, frozenset(head)))
        return _amend(label_studio, project_id, kept, wanted, behind, labels, written, progress, on_served)
    behind = predict(_waiting(label_studio, project_id, order, known, frozenset(head)))
    queue = [*_scored(first, *FIRST_HEAD), *_scored(behind, *BEHIND)]
    published = label_studio.publish(project_id, queue, labels, written=written, progress=progress)
    sent = len(first) - len({*head} & {*published.gone})
    published = replace(published, sent=sent, below=FIRST_HEAD[1], behind=len(behind))
    on_served(published)
    return published


def _waiting(
    label_studio: LabelStudio,
    project_id: int,
    order: Callable[[Ids], Ids],
    known: Ids,
    head: frozenset[int],
) -> Ids:
    """The unlabelled tasks that the queue has room for, in order; those of ``head`` are left out."""
    if len(known) > MOST_ASKED and (found := _first(label_studio, project_id, order, known, head, QUEUE)):
        return found
    return order([task_id for task_id in label_studio.fetch_waiting(project_id) if task_id not in head])[
        :QUEUE
    ]


def _lacking(
    label_studio: LabelStudio,
    project_id: int,
    order: Callable[[Ids], Ids],
    known: Ids,
    head: frozenset[int],
) -> Ids:
    """The tasks without a prediction that the queue has room for, in order, without those of ``head``."""
    room = QUEUE - label_studio.count_waiting(project_id, served=True)
    count = label_studio.count_waiting(project_id, served=False)
    if room <= 0 or not count:
        return []
    without = score_filter("empty", True)
    if count > PAGE_SIZE and (found := _first(label_studio, project_id, order, known, head, room, without)):
        return found
    asked = {"include": "id", "query": query(all_of(UNSOLVED, without))}
    every = [task.task_id for task in label_studio.tasks(project_id, asked)]
    return order([task_id for task_id in sorted(every) if task_id not in head])[:room]


def _first(
    label_studio: LabelStudio,
    project_id: int,
    order: Callable[[Ids], Ids],
    known: Ids,
    head: frozenset[int],
    room: int,
    *only: Filter,
) -> list[int]:
    """The first ``room`` of the ``known`` tasks that are unlabelled and for which ``only`` holds, in order.

    They are asked for in their order, so that a large project need not list all that wait. Empty if there are
    too few among the first MOST_ASKED.
    """
    found: list[int] = []
    ordered = order([task_id for task_id in known if task_id not in head])
    for start in range(0, min(len(ordered), MOST_ASKED), AT_ONCE):
        some = ordered[start : start + AT_ONCE]
        listed = label_studio.listed(project_id, some, "id", UNSOLVED, *only)
        fitting = {task.task_id for task in listed}
        found += [task_id for task_id in some if task_id in fitting]
        if len(found) >= room:
            return found[:room]
    return []


def queue_is_short(label_studio: LabelStudio, project_id: int, version: str) -> bool:
    """Whether the queue of ``version`` has room and unlabelled tasks are missing in it.

    False while the project shows another version. Raises LabelStudioError.
    """
    if label_studio.fetch_project(project_id).model_version != version:
        return False
    if not label_studio.count_waiting(project_id, served=False):
        return False
    return label_studio.count_waiting(project_id, served=True) < QUEUE / 2


def _kept_version(
    label_studio: LabelStudio, project: Project, version: str, written: Collection[str]
) -> str | None:
    """The version whose queue is updated in place; None if the new ``version`` is published instead."""
    served = project.model_version
    if served is None or served not in written:
        return None
    count = label_studio.model_versions(project.project_id).get(served, 0)
    large = count > SMALL and _lowest(label_studio, project.project_id) > LEAST
    return served if large or (served == version and count > 0) else None


def _amend(
    label_studio: LabelStudio,
    project_id: int,
    version: str,
    head: Sequence[Prediction],
    lacking: Sequence[Prediction],
    labels: Labels | None,
    written: Collection[str],
    progress: Progress,
    on_served: Callable[[Publication], None],
) -> Publication:
    """Add the head in front of the queue of ``version``, and the missing tasks behind it."""
    order = [prediction.task_id for prediction in head]
    progress(0, 4)
    _drop_superseded(label_studio, project_id, version)
    progress(1, 4)
    if lacking:
        behind = [replace(each, model_version=version) for each in lacking]
        label_studio.add_predictions(project_id, _scored(behind, *BEHIND), labels)
    progress(2, 4)
    _put_in_front(label_studio, project_id, version, head, labels)
    waiting = label_studio.count_waiting(project_id, served=True)
    # The label stream goes by the lowest score of a task already; the Data Manager by the mean, until later.
    on_served(Publication(version, len(order), serves=tuple(order), behind=waiting - len(order)))
    progress(3, 4)
    _drop_superseded(label_studio, project_id, version)
    kept = label_studio.delete_versions(project_id, {*written} - {version})
    served = label_studio.first_served(project_id, len(order))
    return Publication(
        version,
        sent=len(order),
        gone=(),
        serves=tuple(served),
        kept=kept,
        below=max(served.values(), default=0.0) * (1 + 1e-6),
        behind=label_studio.count_waiting(project_id, served=True) - len(served),
    )


def _put_in_front(
    label_studio: LabelStudio,
    project_id: int,
    version: str,
    head: Sequence[Prediction],
    labels: Labels | None,
) -> None:
    """Have Label Studio serve the head first, in its order; its tasks without an answer show none."""
    bare = [each.task_id for each in head if not (each.label or each.regions)]
    hide_answers(label_studio, project_id, bare, {version})
    order = [each.task_id for each in head]
    if list(label_studio.first_served(project_id, len(order))) != order:
        top = _lowest(label_studio, project_id)
        first = [replace(each, model_version=version) for each in head]
        label_studio.add_predictions(project_id, _scored(first, NEXT_HEAD * top, top), labels)


def hide_answers(
    label_studio: LabelStudio, project_id: int, task_ids: Ids, versions: Collection[str]
) -> None:
    """Delete the predictions of these versions that show an answer on the tasks, in the order of the queue.

    Done before the tasks come first in the queue: Label Studio's editor shows every prediction of the
    project's version, whatever its score. A task that has none left is not served until it gets another.
    """
    answers = [
        each
        for task in label_studio.listed(project_id, task_ids, ANSWERS, fields="all")
        for each in task.predictions
        if each.model_version in versions and each.result
    ]
    for answer in sorted(answers, key=lambda each: each.score or 0.0):
        label_studio.delete_prediction(answer.prediction_id)


def _drop_superseded(label_studio: LabelStudio, project_id: int, version: str) -> None:
    """Of several predictions of ``version`` on a task, keep the one with the lowest score.

    The Data Manager sorts by the mean of their scores.
    """
    for task in list(label_studio.fetch_predictions(project_id, BEHIND[0])):
        ours = [each for each in task.predictions if each.model_version == version]
        for superseded in sorted(ours, key=lambda each: each.score or 0.0)[1:]:
            label_studio.delete_prediction(superseded.prediction_id)


def _lowest(label_studio: LabelStudio, project_id: int) -> float:
    """The lowest score among all predictions of the shown version, also of labelled tasks."""
    return min(label_studio.first_served(project_id, 1, unsolved=False).values(), default=FIRST_HEAD[1])


def _scored(predictions: Sequence[Prediction], low: float, high: float) -> list[Prediction]:
    """The predictions with ascending scores in [``low``, ``high``)."""
    step = (high - low) / max(len(predictions), 1)
    return [replace(each, score=low + rank * step) for rank, each in enumerate(predictions)]
