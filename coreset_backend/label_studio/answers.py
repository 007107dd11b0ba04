"""Reads the JSON that Label Studio answers into typed values. Pure: no I/O.

The server at LABEL_STUDIO_URL may be broken, hostile, or not a Label Studio. A wrong answer is refused before
it is used; the error says what came and what was expected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeGuard

from coreset_backend.errors import LabelStudioError, UnsupportedLabelConfig
from coreset_backend.foreign_text import one_line
from coreset_backend.project import Region
from coreset_backend.redaction import redacted

MOST_TASKS = 10_000_000
MOST_CONFIG = 2_000_000
LONGEST_NAME = 1000
LARGEST_ID = 2**63
MOST_SECONDS = 1e9

Fields = Mapping[str, object]
"""A JSON object whose values are not checked yet."""
User = int | str | None
"""What identifies a user."""
USER, NUMBER = (int, str, type(None)), (int, float)


@dataclass(frozen=True, slots=True)
class Project:
    """A project's settings. ``model_version`` is the version that it shows, None or "" for none.

    ``sampling`` is the order of its queue, "" where none is told; ``task_number`` counts its tasks.
    ``overlap``: the number of people who answer each task.
    """

    project_id: int
    label_config: str
    title: str = ""
    model_version: str | None = None
    sampling: str = ""
    task_number: int = 0
    overlap: int = 1


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotator's answer. ``updated_at`` is ISO 8601, or "" where it is not known; ``was_updated``: a
    person has saved it, which Label Studio notes of all but those that it makes of predictions.

    ``lead_time``: seconds that its editor was open in all, None where Label Studio did not measure them;
    ``created_at``: when it was first saved, Unix time, None where it was imported or that is not known.
    """

    result: Sequence[Region]
    annotator: User = None
    annotation_id: int = 0
    updated_at: str = ""
    was_cancelled: bool = False
    ground_truth: bool = False
    was_updated: bool = False
    lead_time: float | None = None
    created_at: float | None = None

    @property
    def voter(self) -> object:
        """Whose vote it is. Deleted users cannot be told apart: each of their annotations is one."""
        return (self.annotation_id,) if self.annotator is None else self.annotator


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """A prediction that a task has. ``score`` None counts in no order."""

    prediction_id: int
    model_version: str | None
    score: float | None
    result: Sequence[Region]


@dataclass(frozen=True, slots=True)
class ListedTask:
    """A task of the Data Manager's list; what was not asked for is empty.

    ``data`` is as people imported it, of any shape. ``score`` is that under the version that the project
    shows. ``updated_at``: when it was last saved, ISO 8601. ``overlap``: how many annotators the task needs;
    ``is_labeled``: whether they have all answered. ``is_annotated``: True if anybody has, False if it was
    only skipped, None if Label Studio counts neither.
    """

    task_id: int
    data: object = None
    annotations: Sequence[Annotation] = ()
    predictions: Sequence[StoredPrediction] = ()
    is_annotated: bool | None = None
    score: float | None = None
    updated_at: str = ""
    overlap: int = 1
    is_labeled: bool = False


@dataclass(frozen=True, slots=True)
class ConnectedBackend:
    """An ML backend in a project's settings. ``model_version`` is what it predicts as, "" if unknown."""

    backend_id: int
    url: str
    title: str
    model_version: str
    auth_method: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of a project."""

    webhook_id: int
    url: str
    is_active: bool
    headers: Fields


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab of the Data Manager; ``data`` holds its title, filters, columns and orders."""

    tab_id: int
    data: Fields

    @property
    def title(self) -> str:
        return str(self.data.get("title") or "")

    @property
    def filters(self) -> object:
        return self.data.get("filters")


def unexpected(where: str, came: object, wanted: str) -> LabelStudioError:
    """The error for an answer in which ``where`` is ``came`` instead of ``wanted``."""
    return LabelStudioError(
        f"{where} in Label Studio's answer is {redacted(repr(came)[:200])[:80]}, not {wanted}. Nothing was "
        "changed. Check that LABEL_STUDIO_URL is the address of a Label Studio of a supported release."
    )


# ---------------------------------------------------------------- a project and what belongs to it


def read_project(answer: Fields, project_id: int) -> Project:
    """The project, with a label config and names of the expected types.

    Raises LabelStudioError, or UnsupportedLabelConfig for a label config beyond MOST_CONFIG characters.
    """
    if answer["id"] != project_id or isinstance(answer["id"], bool):
        raise unexpected(f"The id of project {project_id}", answer["id"], f"the number {project_id}")
    config = answer["label_config"]
    if not isinstance(config, str):
        raise unexpected("The label config", config, "a string")
    if len(config) > MOST_CONFIG:
        raise UnsupportedLabelConfig(
            f"The label config has {len(config):,} characters; the limit is {MOST_CONFIG:,}. Shorten it in "
            "Label Studio: Settings > Labeling Interface."
        )
    title = answer.get("title")
    return Project(
        project_id=project_id,
        label_config=config,
        title=title[:LONGEST_NAME] if isinstance(title, str) else "",
        model_version=_name(answer, "model_version"),
        sampling=_name(answer, "sampling") or "",
        task_number=read_count(answer.get("task_number") or 0, "'task_number'"),
        overlap=read_count(answer.get("maximum_annotations") or 1, "'maximum_annotations'"),
    )


def _name(fields: Fields, key: str) -> str | None:
    value = fields.get(key)
    if value is None or (isinstance(value, str) and len(value) <= LONGEST_NAME):
        return value
    raise unexpected(f"'{key}'", value, f"a string of up to {LONGEST_NAME} characters, or null")


def read_backends(answer: object) -> list[ConnectedBackend]:
    """The ML backends of a project."""
    return [
        ConnectedBackend(
            backend_id=_id(each, "a backend"),
            url=str(each.get("url") or ""),
            title=str(each.get("title") or ""),
            model_version=str(each.get("model_version") or ""),
            auth_method=str(each.get("auth_method") or ""),
        )
        for each in _objects(answer, "The list of backends")
    ]


def read_webhooks(answer: object) -> list[Webhook]:
    """The webhooks of a project."""
    return [
        Webhook(
            webhook_id=_id(each, "a webhook"),
            url=str(each.get("url") or ""),
            is_active=bool(each.get("is_active", True)),
            headers=read_fields(each.get("headers") or {}, "'headers' of a webhook"),
        )
        for each in _objects(answer, "The list of webhooks")
    ]


def read_tabs(answer: object) -> list[Tab]:
    """The tabs of a project's Data Manager."""
    return [
        Tab(_id(each, "a tab"), read_fields(each.get("data") or {}, "'data' of a tab"))
        for each in _objects(answer, "The list of tabs")
    ]


def read_people(answer: object) -> dict[str, str]:
    """User id -> e-mail address of a list of users; users without an address are left out."""
    people = _objects(answer, "The list of users")
    named = {str(_id(each, "a user")): one_line(str(each.get("email") or ""), most=100) for each in people}
    return {user: email for user, email in named.items() if email}


def read_counts(answer: object, name: str) -> dict[str, int]:
    """The answer, checked to be an object of whole numbers."""
    if not isinstance(answer, dict) or not all(map(_is_count, answer.values())):
        raise unexpected(f"The {name}", answer, "an object of whole numbers")
    return answer


def read_count(value: object, where: str) -> int:
    """The value, checked to be a whole number."""
    if not _is_count(value):
        raise unexpected(where, value, "a whole number")
    return value


def read_fields(value: object, where: str) -> Fields:
    """The value, checked to be a JSON object."""
    if not isinstance(value, dict):
        raise unexpected(where, value, "an object")
    return value


# ---------------------------------------------------------------- tasks


def read_page(answer: Fields) -> tuple[list[ListedTask], int]:
    """The tasks on a page of the Data Manager's list, and the number of all tasks."""
    tasks, total = answer["tasks"], read_count(answer["total"], "The number of all tasks")
    if not isinstance(tasks, list):
        raise unexpected("The list of tasks", tasks, "a list")
    return [read_task(task) for task in tasks], total


def read_task(task: object) -> ListedTask:
    """The task; runs a hundred thousand times for a large project, so errors are put in words when raised."""
    fields = read_fields(task, "A task")
    task_id = fields.get("id")
    if not (_is_count(task_id) and task_id > 0):
        raise unexpected("The id of a task", task_id, "a whole number from 1 on")
    annotations, predictions = fields.get("annotations"), fields.get("predictions")
    score = fields.get("predictions_score")
    annotated = _counted(fields, "total_annotations", task_id)
    skipped = _counted(fields, "cancelled_annotations", task_id)
    return ListedTask(
        task_id,
        fields.get("data"),
        _annotations(annotations, task_id) if annotations else (),
        _predictions(predictions, task_id) if predictions else (),
        annotated > 0 if annotated or skipped else None,
        None if score is None else _number(score, "'predictions_score'", task_id),
        str(fields.get("updated_at") or ""),
        read_count(fields.get("overlap") or 1, "'overlap' of a task"),
        bool(fields.get("is_labeled")),
    )


def _counted(fields: Fields, name: str, task_id: int) -> int:
    count = fields.get(name)
    if count is None:
        return 0
    if not isinstance(count, int):
        raise unexpected(f"{name!r} of task {task_id}", count, "a whole number")
    return count


def _annotations(found: object, task_id: int) -> Sequence[Annotation]:
    read = []
    for fields in _objects(found, "'annotations' of task", task_id):
        by = fields.get("completed_by")
        annotator = by.get("id") if isinstance(by, dict) else by
        if not isinstance(annotator, USER):
            raise unexpected(f"'completed_by' of an annotation of task {task_id}", by, "a user")
        read.append(
            Annotation(
                [_region(each) for each in _listed(fields.get("result"))],
                annotator,
                read_count(fields.get("id") or 0, "The id of an annotation"),
                str(fields.get("updated_at") or ""),
                bool(fields.get("was_cancelled")),
                bool(fields.get("ground_truth")),
                fields.get("updated_by") is not None,
                _seconds(fields.get("lead_time")),
                None if fields.get("import_id") is not None else _moment(fields.get("created_at")),
            )
        )
    return read


def _seconds(value: object) -> float | None:
    """A positive number; None for anything else, since a wrong time is no reason to refuse a label."""
    if isinstance(value, bool) or not isinstance(value, NUMBER):
        return None
    return float(value) if 0 < value < MOST_SECONDS else None


def _moment(value: object) -> float | None:
    """The Unix time of an ISO 8601 time, in UTC where it names no zone; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _predictions(found: object, task_id: int) -> Sequence[StoredPrediction]:
    read = []
    for fields in _objects(found, "'predictions' of task", task_id):
        version, score = fields.get("model_version"), fields.get("score")
        read.append(
            StoredPrediction(
                read_count(fields.get("id"), "The id of a prediction"),
                version if isinstance(version, str) else None,
                None if score is None else _number(score, "A prediction's score", task_id),
                [each for each in _listed(fields.get("result")) if isinstance(each, dict)],
            )
        )
    return read


def _listed(result: object) -> list[object]:
    """The entries of a result. Label Studio imports any shape; an odd one must not hide the other tasks."""
    return result if isinstance(result, list) else [result] if result else []


def _region(entry: object) -> Region:
    """The entry of an annotation's result; one that is no object is kept as an answer that names no control,
    so that it is not read as "none of these"."""
    return entry if isinstance(entry, dict) else {"value": entry}


def _objects(found: object, where: str, number: int | None = None) -> list[Fields]:
    """The list, checked to hold objects; ``where`` and ``number`` name it in an error."""
    if isinstance(found, list):
        for each in found:
            if not isinstance(each, dict):
                break
        else:
            return found
    raise unexpected(where if number is None else f"{where} {number}", found, "a list of objects")


def _number(value: object, where: str, task_id: int) -> float:
    if not isinstance(value, NUMBER):
        raise unexpected(f"{where} of task {task_id}", value, "a number")
    return value


def _id(fields: Fields, name: str) -> int:
    return read_count(fields.get("id"), f"The id of {name}")


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_ID
