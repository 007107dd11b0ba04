"""Label Studio's JSON <-> Task, Labels, Snapshot, Prediction. Pure: no I/O.

The fields of the JSON are those that Label Studio 1.23.2 was observed to send."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from coreset_backend.errors import UnsupportedLabelConfig
from coreset_backend.foreign_text import one_line
from coreset_backend.label_studio.annotations import Answer, agreed_label
from coreset_backend.label_studio.label_config import LabelConfig, parse_label_config
from coreset_backend.label_studio.task_images import image_uris
from coreset_backend.project import MOST_CLASSES, MOST_REASONS, Labels, Prediction, Snapshot, Task, TaskState

Json = Any


def parse_project_id(value: object) -> int:
    """The project's id from ``<id>`` or ``<id>.<created at>``, Label Studio's two forms; else ValueError."""
    number = str(value).partition(".")[0] if isinstance(value, str | int | float) else ""
    if isinstance(value, bool) or not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise ValueError(f"The project must be a number, as in 7 or '7.1795444315', not {str(value)[:40]!r}.")
    return int(number)


def task_id_of(task: Json) -> int:
    """The task's id; -1, which no round contains, for a task that is not stored yet."""
    value = task.get("id")
    return value if isinstance(value, int) and 0 <= value < 2**63 else -1


def parse_snapshot(
    project: Json, tasks: Iterable[Json], now: datetime, control: str | None = None
) -> Snapshot:
    """The Snapshot of a project from the JSON of the project and of its tasks with their annotations.

    A task that appears twice (a list may change between two pages) counts once. ``control`` is the argument
    of :func:`coreset_backend.label_studio.label_config.parse_label_config`.
    """
    config = parse_label_config(project["label_config"], control)
    if config.labels and len(config.labels.names) > MOST_CLASSES:
        raise UnsupportedLabelConfig(
            f"The label config has {len(config.labels.names):,} choices; the limit is {MOST_CLASSES:,}. "
            "Remove unused choices in Label Studio: Settings > Labeling Interface."
        )
    by_id = {task["id"]: parse_task(task, config) for task in tasks}
    ordered = tuple(by_id[task_id] for task_id in sorted(by_id))
    return Snapshot(
        project_id=int(project["id"]),
        title=one_line(str(project.get("title") or ""), most=200),
        model_version=project.get("model_version") or None,
        labels=config.labels,
        tasks=ordered,
        taken_at=now,
        label_config=str(project["label_config"]),
        remarks=tuple(unread_remarks(ordered)),
    )


def parse_task(task: Json, config: LabelConfig) -> Task:
    """The Task of one task's JSON."""
    annotations = task.get("annotations") or []
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    state: TaskState = "labeled" if kept else "skipped" if annotations else "pool"
    answer = Answer(None)
    if kept:
        answer = agreed_label(kept, config.control) if config.control else Answer(None, config.untrained)
    uri = next(iter(image_uris(config.image, task.get("data"))), None)
    return Task(int(task["id"]), uri, state, answer.label, answer.why, answer.unknown)


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


def prediction_json(prediction: Prediction, labels: Labels | None) -> Json:
    """The body of one prediction for Label Studio's import; ``result`` is empty without a label."""
    return {
        "task": prediction.task_id,
        "score": prediction.score,
        "model_version": prediction.model_version,
        "result": result_json(prediction, labels),
    }


def result_json(prediction: Prediction, labels: Labels | None) -> list[Json]:
    """The regions of a prediction: another model's regions, and at most one choices region of its own.

    "None of these" has no region.
    """
    carried = list(prediction.regions)
    answered = {region.get("from_name") for region in carried}
    if labels is None or not prediction.label or labels.from_name in answered:
        return carried
    region = {
        "from_name": labels.from_name,
        "to_name": labels.to_name,
        "type": "choices",
        "value": {"choices": [labels.value_of(name) for name in prediction.label]},
    }
    return [*carried, region if prediction.confidence is None else {**region, "score": prediction.confidence}]
