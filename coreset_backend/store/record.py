"""The record of a round and the other JSON files of a project, checked when they are read."""

from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from coreset_backend.project import KnownTasks, Labels
from coreset_backend.reports import (
    CandidateScores,
    Count,
    ImageFailure,
    Moment,
    Publication,
    Reading,
    Share,
    TaskId,
    TrainingReport,
    Work,
)
from coreset_backend.store.imported import ImportUse

T = TypeVar("T")


def _require_share(interval: "Interval") -> "Interval":
    if not 0 <= interval.value <= 1:
        raise ValueError(f"{interval.value} is not a share in [0, 1]")
    return interval


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval, measured on ``n`` images; ``low <= value <= high``."""

    value: float
    low: float
    high: float
    n: Count


ShareInterval = Annotated[Interval, AfterValidator(_require_share)]


@dataclass(frozen=True, slots=True)
class ClassScores:
    """A class on the hold-out: ``n`` images have it; a score that they do not determine is None."""

    name: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether a model is as sure as it is right, on a hold-out of ``n`` images.

    ``error``: the expected calibration error, in ``bins`` bins of equally many answers. A model that is just
    as sure as it is right shows ``by_chance`` on average on so few images, and one time in twenty more than
    ``at_most``: an error below that shows nothing wrong.
    """

    error: Share
    by_chance: Share
    at_most: Share
    n: Count
    bins: Count

    @property
    def words(self) -> str:
        """The error with what a reader must know to judge it, as a part of a sentence."""
        verdict = "larger than chance" if self.error > self.at_most else "no larger than chance"
        return (
            f"calibration error {100 * self.error:.1f} % on {self.n:,} images, {verdict} "
            f"(a calibrated model: {100 * self.by_chance:.1f} % on average, up to {100 * self.at_most:.1f} %)"
        )


@dataclass(frozen=True, slots=True)
class SureAnswers:
    """The ``n`` images of a hold-out that the model is at least 90 % sure of; so many it has ``right``.

    ``low``: the share of such answers that is right, at least, with a confidence of 95 %; 0 without any.
    """

    n: Count
    right: Count
    low: Share


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of a model on the hold-out.

    ``accuracy``: share of images whose answer is right; in multiple choice, the whole set of classes.
    ``macro_f1``: mean F1 of the classes that the hold-out has. ``gain``: accuracy minus that of the round
    before on the same images, which neither model was trained on; None where there are none. ``calibration``
    is None on a hold-out that is too small to tell, and like ``sure`` in rounds of early releases.
    """

    accuracy: ShareInterval
    macro_f1: ShareInterval
    per_class: tuple[ClassScores, ...] = ()
    gain: Interval | None = None
    calibration: Calibration | None = None
    sure: SureAnswers | None = None


@dataclass(frozen=True, slots=True)
class BatchScores:
    """Accuracy of the previous model's predictions on its own batch, made before it was labelled.

    ``pool_accuracy``: on the tasks sampled at random, an unbiased sample of the pool; ``picked_accuracy``: on
    the strategy's picks. None if no such task is labelled. On disk they are ``pool`` and ``picks``.
    ``of_round``: the number of that model's round; None in rounds of early releases.
    """

    pool_accuracy: Annotated[ShareInterval | None, Field(alias="pool")]
    picked_accuracy: Annotated[ShareInterval | None, Field(alias="picks")]
    of_round: Count | None = None


@dataclass(frozen=True, slots=True)
class Audition:
    """Backbones compared by cross-validation on a project's labels; ``sentence`` says how it ended.

    ``current`` was in use, ``chosen`` is from the next round on; ``candidates``, the best first, last those
    that could not be compared. It was held at ``labels`` labels, ``at`` that time, on ``images`` of them: the
    hold-out has no part. ``wants_pretraining``: none was better than plain colours. ``features``: the SHA-256
    of the features learned on the pool that took part, "" without any.
    """

    current: str
    chosen: str
    candidates: tuple[CandidateScores, ...]
    images: Count
    labels: Count = 0
    sentence: str = ""
    wants_pretraining: bool = False
    features: str = ""
    at: Moment | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """An image that a person marked: images just like it count ``weight`` times as much in the selection.

    More than 1 for "more like these", less for "fewer like these".
    """

    task_id: TaskId
    weight: Annotated[float, Field(gt=0, le=100)]


@dataclass(frozen=True, slots=True)
class ReplayPoint:
    """Mean accuracy after ``labels`` labels, plus and minus one standard deviation over the seeds."""

    labels: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ReplayLine:
    """The learning curve of one strategy and batch size over ``seeds`` repetitions."""

    strategy: str
    batch: int
    seeds: int
    points: tuple[ReplayPoint, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """Strategies compared on a project's images; ``sentence`` says which is better."""

    sentence: str
    lines: tuple[ReplayLine, ...]


@dataclass(frozen=True, slots=True)
class Pace:
    """How many answers people give by the calendar, in UTC: ``per_day`` on each of the ``with_labels`` days
    that have any, of the last ``days``. ``spread``: the relative standard deviation over all those days.
    """

    per_day: float
    days: Count
    with_labels: Count
    spread: float


@dataclass(frozen=True, slots=True)
class WorkingTime:
    """How long people work on an answer: ``seconds`` on average, from the times of ``answers`` by ``people``.

    ``idle``: so many of them are left out because the editor stood open. ``spread``: the relative standard
    deviation of one answer; ``between``: that of the mean of ``block`` answers in a row because of who gives
    them. ``overlap``: so many people answer each task. ``pace`` is None where there are too few days.
    """

    seconds: Annotated[float, Field(gt=0)]
    spread: Annotated[float, Field(ge=0)]
    between: Annotated[float, Field(ge=0)]
    block: Annotated[int, Field(ge=1)]
    answers: Annotated[int, Field(ge=2)]
    idle: Count
    people: Count
    overlap: Annotated[int, Field(ge=1)]
    pace: Pace | None


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """A labelled task that one more annotator is asked for; so many ``annotators`` have labelled it.

    ``gain``: by how much the answer is expected to raise the probability that the task's label is right.
    """

    task_id: TaskId
    annotators: Count
    gain: Share


@dataclass(frozen=True, slots=True)
class AnnotatorAgreement:
    """How often an annotator's answer is the label that was agreed upon, on tasks that several answered.

    ``agreement`` is None where there is no such task; ``labeled``: all tasks that the annotator labelled.
    """

    name: str
    labeled: Count
    agreement: ShareInterval | None


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """What a round knows of its labels' errors; a ``rate`` of None is not known yet.

    ``rate``: the share of the annotators' answers that is estimated to be wrong. ``asked``: the tasks that a
    second annotator is asked for, and why these or none in a ``sentence``; ``annotators``: all who have
    labelled a task.
    """

    rate: Share | None = None
    asked: tuple[SecondOpinion, ...] = ()
    annotators: tuple[AnnotatorAgreement, ...] = ()
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """The record of a round. ``batch`` and ``reserve`` are task ids in the order they are served.

    ``distances``: from each task of batch and reserve to its nearest center when it was picked.
    ``counts``: tasks by state; every task of the snapshot is in exactly one. ``training`` is None on a cold
    start. ``timings``: seconds by phase. ``hashes``: SHA-256 of every file of the round. ``title``: the
    project's. ``attributes``: the settings in the label config. ``remarks``: why answers could not be
    trained on. ``evaluation`` is None without a hold-out. ``random_slice``: the task ids of the batch that
    were sampled uniformly at random. ``batch_figures`` is None where the batch of the round before had no
    random slice. ``features``: the SHA-256 of the features learned on the pool, "" without any.
    ``network``: names what made the embeddings by its weights. ``audition``: the one that chose the backbone,
    None where none was held, or a setting chose it. ``reading``: how the tasks were read; ``work``: what was
    computed; both are None in rounds of early releases. ``working_time`` is None where too few answers have
    one, and in early rounds, as is ``could_finish``: the number of unlabelled images that a finish at 95 %
    could comprise if the model is wrong as often as it expects. ``label_errors``: those of its labels, as
    estimated. ``examples``: the images that a person marked, and that weighed on the selection. ``imported``:
    whether imported predictions chose the batch, None without any.
    """

    project_id: int
    number: int
    model_version: str
    fingerprint: str
    taken_at: Moment
    strategy: str
    backbone: str
    seed: int
    labels: Labels | None
    batch: tuple[TaskId, ...]
    reserve: tuple[TaskId, ...]
    distances: tuple[float, ...]
    radius_before: float | None
    radius_after: float | None
    training: TrainingReport | None
    holdout: tuple[TaskId, ...]
    counts: dict[str, Count]
    failures: tuple[ImageFailure, ...]
    timings: dict[str, float]
    hashes: dict[str, str] = field(default_factory=dict)
    title: str = ""
    evaluation: Evaluation | None = None
    random_slice: tuple[TaskId, ...] = ()
    batch_figures: BatchScores | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    features: str = ""
    network: str = ""
    remarks: tuple[str, ...] = ()
    audition: Audition | None = None
    reading: Reading | None = None
    working_time: WorkingTime | None = None
    could_finish: Count | None = None
    label_errors: LabelErrors = LabelErrors()
    examples: tuple[Example, ...] = ()
    work: Work | None = None
    imported: ImportUse | None = None

    @property
    def pool_version(self) -> str:
        """The version of answers to /predict and /setup; with the batch's version a task would join the
        batch.

        It ends like the batch's version, so that no other model's version has the same name.
        """
        return f"pool-{self.model_version.removeprefix('coreset-')}"


@dataclass(frozen=True, slots=True)
class Hold:
    """The reason, in words, why no round of the project starts automatically until a person starts one.

    ``number``: the round that was rolled back to; it is the current round until there is one after
    ``newest``. None without a rollback.
    """

    reason: str
    number: int | None
    newest: int


@dataclass(frozen=True, slots=True)
class BackboneChoice:
    """The backbone that 'auto' chose for a project: its name, and why.

    ``images_per_second``: how fast it was when it was chosen, None where that did not matter. ``wanted``: a
    better one that could not be downloaded, to be tried again at ``retry_at`` (Unix time).
    """

    name: str
    why: str
    images_per_second: float | None = None
    wanted: str = ""
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Refresh:
    """When a person last asked that all is read anew, Unix time; later than any such time before."""

    at: float


CHOICE = TypeAdapter(BackboneChoice)
REFRESH = TypeAdapter(Refresh)
ROUND = TypeAdapter(Round)
HOLD = TypeAdapter(Hold)
PUBLICATION = TypeAdapter(Publication)
REPLAY = TypeAdapter(Replay)
AUDITION = TypeAdapter(Audition)
KNOWN_TASKS = TypeAdapter(KnownTasks)


def taken(adapter: TypeAdapter[T], saved: object) -> T:
    """The saved record, without fields that only a newer release knows.

    Raises ValueError with the name of a field whose value has another type.
    """
    try:
        return adapter.validate_python(saved)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise ValueError(f"{place}: {first['msg']}") from None


def as_saved(adapter: TypeAdapter[T], record: T) -> dict[str, object]:
    """The fields of a record as they are written to disk; ``taken`` reads them back."""
    fields: dict[str, object] = adapter.dump_python(record, by_alias=True)
    return fields


NO_ROUND_VERSION = "pool-0-no-round-yet"


STATES = ("labeled", "selected", "reserve", "pool", "skipped", "unreadable", "duplicate", "model", "copy")
