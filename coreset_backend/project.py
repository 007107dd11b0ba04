"""Label Studio JSON <-> Task, Labels, Snapshot, Prediction. Pure: nothing here opens anything.

A *row* is a position in ``Snapshot.tasks``; a *task_id* is Label Studio's. Shapes and fields of the
JSON are those that Label Studio 1.23.2 was seen to send.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import UnsupportedLabelConfig

Json = Any
TaskState = Literal["pool", "labeled", "skipped"]


@dataclass(frozen=True, slots=True)
class Labels:
    """The <Choices> that is trained on; the order of ``names`` is the class index."""

    from_name: str
    to_name: str
    names: tuple[str, ...]
    multiple: bool


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What a label config asks: ``image_key`` of the task's data, and ``labels``, None where none fits."""

    image_key: str
    labels: Labels | None


@dataclass(frozen=True, slots=True)
class Task:
    """One task: ``uri`` of its image (None: its data has none) and the agreed ``label``.

    ``label`` holds class names; None when nobody named a known class. A task that has an annotation
    counts as labeled even then: somebody has looked at it.
    """

    task_id: int
    uri: str | None
    state: TaskState = "pool"
    label: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A project as Label Studio described it at ``taken_at``; tasks are sorted by task_id."""

    project_id: int
    title: str
    model_version: str | None
    labels: Labels | None
    tasks: tuple[Task, ...]
    taken_at: datetime
    label_config: str = ""

    @property
    def task_ids(self) -> NDArray[np.int64]:
        """int64[n], ascending."""
        return np.array([task.task_id for task in self.tasks], dtype=np.int64)

    def rows_in(self, state: TaskState) -> NDArray[np.int64]:
        """int64[k]: rows of the tasks in ``state``, ascending."""
        return np.array([row for row, task in enumerate(self.tasks) if task.state == state], dtype=np.int64)

    def fingerprint(self) -> str:
        """Hex digest that changes with any task, label or class: the same one needs no new round."""
        digest = hashlib.sha256(repr((self.project_id, self.labels)).encode())
        for task in self.tasks:
            digest.update(repr((task.task_id, task.uri, task.state, task.label)).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is told to Label Studio about a task.

    ``score`` in [0, 1] orders the queue (0 = first). ``confidence`` in [0, 1] is the classifier's and
    travels as the region's score; it says nothing about the order. ``label`` None shows no answer.
    ``regions`` are another model's, as Label Studio stores them: they are shown too, and instead of the label
    where they answer its control.
    """

    task_id: int
    score: float
    model_version: str
    label: tuple[str, ...] | None = None
    confidence: float | None = None
    regions: tuple[Json, ...] = ()


def parse_project_id(value: object) -> int:
    """The id in what Label Studio calls a project: ``<id>`` or ``<id>.<created at>``; else ValueError."""
    number = str(value).partition(".")[0] if isinstance(value, str | int | float) else ""
    if isinstance(value, bool) or not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise ValueError(f"The project must be a number, as in 7 or '7.1795444315', not {str(value)[:40]!r}.")
    return int(number)


def task_id_of(task: Json) -> int:
    """The task's id; -1, which no round knows, for a task that is not stored yet."""
    value = task.get("id")
    return value if isinstance(value, int) and 0 <= value < 2**63 else -1


def parse_label_config(label_config: str) -> LabelConfig:
    """The image key and the first <Choices> on that <Image>.

    Raises UnsupportedLabelConfig when it is no XML or has no <Image> with a ``$variable``.
    """
    try:
        root = ElementTree.fromstring(label_config)
    except ElementTree.ParseError as error:
        raise UnsupportedLabelConfig(
            f"The label config is no XML ({error}). Save it again in Label Studio."
        ) from None
    images = {tag.get("name", ""): tag.get("value", "") for tag in root.iter("Image")}
    usable = {name: value.removeprefix("$") for name, value in images.items() if value.startswith("$")}
    if not usable:
        raise UnsupportedLabelConfig(
            'The label config has no <Image name="…" value="$…"> to read images from. '
            "This backend works on projects whose tasks show an image; "
            "add the tag in Settings > Labeling Interface."
        )
    labels = next((_labels(tag) for tag in root.iter("Choices") if _is_classification(tag, usable)), None)
    image = labels.to_name if labels else next(iter(usable))
    return LabelConfig(usable[image], labels)


def _is_classification(choices: ElementTree.Element, images: Mapping[str, str]) -> bool:
    about_the_image = choices.get("perRegion", "false") != "true"
    return choices.get("toName") in images and about_the_image and choices.find(".//Choice") is not None


def _labels(choices: ElementTree.Element) -> Labels:
    named = (choice.get("alias") or choice.get("value") for choice in choices.iter("Choice"))
    return Labels(
        from_name=choices.get("name", ""),
        to_name=choices.get("toName", ""),
        names=tuple(dict.fromkeys(name for name in named if name)),
        multiple=choices.get("choice", "single") == "multiple",
    )


def parse_snapshot(project: Json, tasks: Iterable[Json], now: datetime) -> Snapshot:
    """The Snapshot of a project's JSON and its tasks' (with annotations where there are any).

    A task that appears twice, as happens when paging over a list that changes, counts once.
    """
    config = parse_label_config(project["label_config"])
    by_id = {task["id"]: parse_task(task, config) for task in tasks}
    return Snapshot(
        project_id=int(project["id"]),
        title=str(project.get("title") or ""),
        model_version=project.get("model_version") or None,
        labels=config.labels,
        tasks=tuple(by_id[task_id] for task_id in sorted(by_id)),
        taken_at=now,
        label_config=str(project["label_config"]),
    )


def parse_task(task: Json, config: LabelConfig) -> Task:
    """The Task of one task's JSON."""
    data = task.get("data") or {}
    uri = data.get(config.image_key, data.get("$undefined$"))
    annotations = task.get("annotations") or []
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    state: TaskState = "labeled" if kept else "skipped" if annotations else "pool"
    label = agreed_label(kept, config.labels) if config.labels else None
    return Task(int(task["id"]), uri if isinstance(uri, str) and uri else None, state, label)


def agreed_label(annotations: Sequence[Json], labels: Labels) -> tuple[str, ...] | None:
    """The class names that the annotators agree upon; None when no annotation names a known class.

    A ground truth wins. Otherwise each annotator's latest annotation has one vote: single choice takes
    the most votes (of equals, the latest annotation's), multiple choice every class that at least half named.
    """
    decisive = [annotation for annotation in annotations if annotation.get("ground_truth")] or annotations
    by_annotator = {annotation.get("completed_by"): annotation for annotation in sorted(decisive, key=_age)}
    votes = [choice for annotation in by_annotator.values() if (choice := _choice(annotation, labels))]
    if not votes:
        return None
    count = Counter(name for vote in votes for name in vote)
    if labels.multiple:
        return tuple(name for name in labels.names if 2 * count[name] >= len(votes))
    latest_first = [name for vote in reversed(votes) for name in vote]
    return (max(latest_first, key=lambda name: count[name]),)


def _age(annotation: Json) -> tuple[str, int]:
    return str(annotation.get("updated_at") or ""), int(annotation.get("id") or 0)


def _choice(annotation: Json, labels: Labels) -> tuple[str, ...]:
    chosen = {
        name
        for region in annotation.get("result") or []
        if region.get("type") == "choices" and region.get("from_name") == labels.from_name
        for name in region.get("value", {}).get("choices") or []
        if isinstance(name, str)
    }
    known = tuple(name for name in labels.names if name in chosen)
    return known if labels.multiple else known[:1]


def class_targets(tasks: Sequence[Task], labels: Labels) -> NDArray[np.float32]:
    """float32[n, classes]: 1 where the task's label names the class; every task must have a label."""
    targets = np.zeros((len(tasks), len(labels.names)), dtype=np.float32)
    column = {name: index for index, name in enumerate(labels.names)}
    for row, task in enumerate(tasks):
        for name in task.label or ():
            targets[row, column[name]] = 1
    return targets


def prediction_json(prediction: Prediction, labels: Labels | None) -> Json:
    """The body of one prediction as Label Studio's import takes it; ``result`` is empty without a label."""
    return {
        "task": prediction.task_id,
        "score": prediction.score,
        "model_version": prediction.model_version,
        "result": result_json(prediction, labels),
    }


def result_json(prediction: Prediction, labels: Labels | None) -> list[Json]:
    """The regions of a prediction: those that it carries, and at most one choices region of its own."""
    carried = list(prediction.regions)
    answered = {region.get("from_name") for region in carried}
    if labels is None or prediction.label is None or labels.from_name in answered:
        return carried
    region = {
        "from_name": labels.from_name,
        "to_name": labels.to_name,
        "type": "choices",
        "value": {"choices": list(prediction.label)},
    }
    return [*carried, region if prediction.confidence is None else {**region, "score": prediction.confidence}]
