"""Label Studio's JSON <-> Task, Labels, Snapshot, Prediction. Pure: no I/O.

The fields of the JSON are those that Label Studio 1.23.2 was observed to send."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypedDict

from coreset_backend.errors import UnsupportedLabelConfig
from coreset_backend.foreign_text import one_line
from coreset_backend.label_studio.annotations import (
    COPY_LABELS,
    LABELLED_BY,
    MODEL_LABELS,
    Answer,
    agreed_label,
    choices_in,
    is_by_model,
    is_in_bulk,
)
from coreset_backend.label_studio.answers import Fields, ListedTask, Project
from coreset_backend.label_studio.label_config import LabelConfig, parse_label_config
from coreset_backend.label_studio.task_images import image_uris
from coreset_backend.project import (
    MOST_CLASSES,
    MOST_REASONS,
    Labels,
    Prediction,
    Region,
    Snapshot,
    Task,
    TaskState,
    TimedAnswer,
)


class PredictionBody(TypedDict):
    """The body of one prediction for Label Studio's import; ``result`` is empty without a label."""

    task: int
    score: float
    model_version: str
    result: list[Region]


def is_importable(body: PredictionBody, labels: Labels | None) -> bool:
    """Whether Label Studio's import accepts the prediction: it knows no paths of nested choices."""
    unknown = labels.unimportable if labels else ()
    chosen = [choice for region in body["result"] for choice in choices_in(region)]
    return not any(isinstance(choice, list) or choice in unknown for choice in chosen)


def without_result(body: PredictionBody) -> PredictionBody:
    return {**body, "result": []}


def parse_project_id(value: object) -> int:
    """The project's id from ``<id>`` or ``<id>.<created at>``, Label Studio's two forms; else ValueError."""
    number = str(value).partition(".")[0] if isinstance(value, str | int | float) else ""
    if isinstance(value, bool) or not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise ValueError(f"The project must be a number, as in 7 or '7.1795444315', not {str(value)[:40]!r}.")
    return int(number)


def task_id_of(task: Fields) -> int:
    """The task's id; -1, which no round contains, for a task that is not stored yet."""
    value = task.get("id")
    return value if isinstance(value, int) and 0 <= value < 2**63 else -1


def parse_snapshot(
    project: Project,
    tasks: Iterable[ListedTask],
    now: datetime,
    control: str | None = None,
    uris: Mapping[int, str | None] | None = None,
) -> Snapshot:
    """The Snapshot of a project and of its tasks with their annotations.

    A task that appears twice (a list may change between two pages) counts once, as it came last. ``control``
    is the argument of :func:`coreset_backend.label_studio.label_config.parse_label_config`. ``uris``: all
    tasks with the addresses of their images, if ``tasks`` are only those with annotations.
    """
    config = parse_label_config(project.label_config, control)
    if config.labels and len(config.labels.names) > MOST_CLASSES:
        raise UnsupportedLabelConfig(
            f"The label config has {len(config.labels.names):,} choices; the limit is {MOST_CLASSES:,}. "
            "Remove unused choices in Label Studio: Settings > Labeling Interface."
        )
    by_id = {task_id: Task(task_id, uri) for task_id, uri in (uris or {}).items()}
    by_id |= {
        task.task_id: parse_task(task, config) for task in tasks if uris is None or task.task_id in by_id
    }
    ordered = tuple(by_id[task_id] for task_id in sorted(by_id))
    return Snapshot(
        project_id=project.project_id,
        title=one_line(project.title, most=200),
        model_version=project.model_version or None,
        labels=config.labels,
        tasks=ordered,
        taken_at=now,
        label_config=project.label_config,
        remarks=tuple(unread_remarks(ordered)),
        overlap=max(project.overlap, 1),
    )


def parse_task(task: ListedTask, config: LabelConfig) -> Task:
    """The task as the label config reads it: its image, and what annotators agreed upon."""
    by_people = [annotation for annotation in task.annotations if not is_by_model(annotation)]
    kept = [annotation for annotation in by_people if not annotation.was_cancelled]
    state: TaskState = "labeled" if kept else "skipped" if by_people else _state_without_people(task)
    answer = Answer(None)
    if kept:
        answer = agreed_label(kept, config.control) if config.control else Answer(None, config.untrained)
    uri = next(iter(image_uris(config.image, task.data)), None)
    return Task(
        task_id=task.task_id,
        uri=uri,
        state=state,
        label=answer.label,
        unread=answer.why,
        unknown=answer.unknown,
        votes=answer.votes,
        is_truth=answer.is_truth,
        annotators=answer.annotators,
        in_bulk=any(is_in_bulk(each) for each in kept),
        timed=tuple(
            TimedAnswer(each.annotator, each.lead_time, each.created_at)
            for each in by_people
            if each.lead_time is not None
        ),
    )


def _state_without_people(task: ListedTask) -> TaskState:
    if not task.annotations:
        return "pool"
    return "copy" if any(is_by_model(each, COPY_LABELS) for each in task.annotations) else "model"


def unread_remarks(tasks: Sequence[Task]) -> list[str]:
    """A sentence for each reason why answers cannot be trained on, the most frequent first."""
    unread = Counter(task.unread for task in tasks if task.unread)
    partly = Counter(task.unknown for task in tasks if task.unknown and not task.unread)
    sentences = [
        f"{_annotated(count)} no answer that can be trained on, because {why}."
        for why, count in unread.most_common(MOST_REASONS)
    ]
    if (rest := unread.total() - sum(count for _, count in unread.most_common(MOST_REASONS))) > 0:
        sentences.append(f"{_annotated(rest)} no answer that can be trained on, for other reasons.")
    if partly:
        value, _ = partly.most_common(1)[0]
        sentences.append(
            f"{_annotated(partly.total())} choices that the label config does not have, such as '{value}'; "
            "the model is trained on their other choices only."
        )
    if strange := [task.unknown for task in tasks if task.unknown]:
        value, _ = Counter(strange).most_common(1)[0]
        sentences.append(
            f"If '{value}' was renamed, add alias=\"{value}\" to the new <Choice>: its answers then count."
        )
    return sentences


def _annotated(count: int) -> str:
    return "1 annotated task holds" if count == 1 else f"{count:,} annotated tasks hold"


def prediction_json(prediction: Prediction, labels: Labels | None) -> PredictionBody:
    """The body of the prediction."""
    return {
        "task": prediction.task_id,
        "score": prediction.score,
        "model_version": prediction.model_version,
        "result": result_json(prediction, labels),
    }


def result_json(prediction: Prediction, labels: Labels | None) -> list[Region]:
    """The regions of a prediction: another model's regions, and at most one choices region of its own.

    "None of these" has no region.
    """
    carried = list(prediction.regions)
    answered = {region.get("from_name") for region in carried}
    if labels is None or not prediction.label or labels.from_name in answered:
        return carried
    is_finish = prediction.model_version.startswith(MODEL_LABELS)
    region = {
        "from_name": labels.from_name,
        "to_name": labels.to_name,
        "type": "choices",
        "value": {"choices": [labels.value_of(name) for name in prediction.label]},
        **({LABELLED_BY: prediction.model_version} if is_finish else {}),
    }
    return [*carried, region if prediction.confidence is None else {**region, "score": prediction.confidence}]
