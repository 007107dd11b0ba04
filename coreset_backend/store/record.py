"""The record of a round and the notes beside it, taken from JSON only where they have the right shape."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from coreset_backend.project import Labels

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
TaskId = Annotated[int, Field(ge=0, lt=2**63)]


class _Interval(TypedDict):
    """A share of ``n`` images."""

    value: Share
    low: float
    high: float
    n: Count


class _Gain(TypedDict):
    """The difference of two shares."""

    value: float
    low: float
    high: float
    n: Count


class _ClassFigures(TypedDict):
    name: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


class _Evaluation(TypedDict, total=False):
    accuracy: _Interval | None
    macro_f1: _Interval | None
    gain: _Gain | None
    per_class: list[_ClassFigures] | tuple[_ClassFigures, ...]


class _Training(TypedDict, total=False):
    holdout_accuracy: float | None
    n_train: int
    n_holdout: int


class _BatchFigures(TypedDict):
    pool: _Interval | None
    picks: _Interval | None


class _Failure(TypedDict):
    task_id: TaskId
    uri: str | None
    reason: str


class _Publication(TypedDict, total=False):
    at: Annotated[str, AfterValidator(datetime.fromisoformat)]
    seconds: float
    sent: int


class _ReplayPoint(TypedDict):
    labels: int
    value: float
    low: float
    high: float


class _ReplayLine(TypedDict):
    strategy: str
    batch: int
    seeds: int
    points: list[_ReplayPoint]


class _Replay(TypedDict):
    sentence: str
    lines: list[_ReplayLine]


def _shaped(shape: Any) -> AfterValidator:
    """Has a value pass as it is, with all that another release may have added, where it has that shape."""
    adapter = TypeAdapter(shape)

    def check(value: Any) -> Any:
        adapter.validate_python(value, strict=True)
        return value

    return AfterValidator(check)


T = TypeVar("T")
Facts = dict[str, Any]
PUBLICATION: TypeAdapter[Facts] = TypeAdapter(Annotated[Facts, _shaped(_Publication)])
REPLAY: TypeAdapter[Facts] = TypeAdapter(Annotated[Facts, _shaped(_Replay)])


@dataclass(frozen=True, slots=True)
class Round:
    """The record of a round. ``batch`` and ``reserve`` are task ids in the order they are served.

    ``distances``: from each task of batch and reserve to its nearest center when it was picked.
    ``counts``: tasks by state; every task of the snapshot is in exactly one. ``training``: the fields of
    the fit's report, None on a cold start. ``failures``: ``{task_id, uri, reason}`` of unreadable images.
    ``timings``: seconds by phase. ``hashes``: SHA-256 of every file of the round. ``title``: the project's.
    ``attributes``: the settings in the label config. ``remarks``: why answers could not be trained on.
    ``evaluation``: the fields of an ``Evaluation``, None without a hold-out.
    ``random_slice``: the task ids of the batch that chance drew. ``batch_figures``: what the model of the
    round before had said of its batch, None without a random slice in it. ``features``: the SHA-256 of
    the features learned on the pool that were at hand, if any were. ``network``: names what made the
    embeddings by its weights.
    """

    project_id: int
    number: int
    model_version: str
    fingerprint: str
    taken_at: Annotated[str, AfterValidator(lambda text: datetime.fromisoformat(text) and text)]
    strategy: str
    backbone: str
    seed: int
    labels: Labels | None
    batch: tuple[TaskId, ...]
    reserve: tuple[TaskId, ...]
    distances: tuple[float, ...]
    radius_before: float | None
    radius_after: float | None
    training: Annotated[Facts | None, _shaped(_Training | None)]
    holdout: tuple[TaskId, ...]
    counts: dict[str, Count]
    failures: tuple[Annotated[Facts, _shaped(_Failure)], ...]
    timings: dict[str, float]
    hashes: dict[str, str] = field(default_factory=dict)
    title: str = ""
    evaluation: Annotated[Facts | None, _shaped(_Evaluation | None)] = None
    random_slice: tuple[TaskId, ...] = ()
    batch_figures: Annotated[Facts | None, _shaped(_BatchFigures | None)] = None
    attributes: dict[str, str] = field(default_factory=dict)
    features: str = ""
    network: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def pool_version(self) -> str:
        """What /predict and /setup answer under; never the batch's version, or a task would join it.

        It ends as the batch's does, so that no other model's version has the same name.
        """
        return f"pool-{self.model_version.removeprefix('coreset-')}"


@dataclass(frozen=True, slots=True)
class Hold:
    """Why no round of the project starts by itself, in words, until a person starts one.

    ``number`` is the round that was rolled back to, which stands for the newest until there is one after
    ``newest``; None where nothing was rolled back.
    """

    reason: str
    number: int | None
    newest: int


ROUND = TypeAdapter(Round)
HOLD = TypeAdapter(Hold)


def taken(adapter: TypeAdapter[T], saved: Mapping[str, Any]) -> T:
    """What was saved, without the fields that a newer release, before a way back, had added.

    Raises ValueError saying which field is not of the shape that was expected.
    """
    try:
        return adapter.validate_python(saved)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise ValueError(f"{place}: {first['msg']}") from None


NO_ROUND_VERSION = "pool-0-no-round-yet"


STATES = ("labeled", "selected", "reserve", "pool", "skipped", "unreadable", "duplicate")
