"""The contents of each page as a frozen dataclass: its template reads it, the API returns it as JSON."""

from dataclasses import dataclass

from coreset_backend.evaluation.comparison import SliceSummary
from coreset_backend.evaluation.history import HistoryLine
from coreset_backend.evaluation.stop_advice import Advice
from coreset_backend.finish.tally import Tally
from coreset_backend.jobs.bulk import BulkStatus
from coreset_backend.jobs.finishing import FinishStatus
from coreset_backend.jobs.status import BackboneStatus, ProjectProgress
from coreset_backend.jobs.work_left import WorkLeft
from coreset_backend.reports import ImageFailure
from coreset_backend.store.examples import Examples
from coreset_backend.store.findings import DuplicateCounts, Suspect
from coreset_backend.store.imported import ImportUse
from coreset_backend.store.record import Replay
from coreset_backend.web.annotators import AnnotatorsCard


@dataclass(frozen=True, slots=True)
class ProjectLine:
    """A project in the list of projects; ``number`` is that of its current round, None before the first.

    ``accuracy`` is that on the hold-out, in [0, 1].
    """

    project: int
    title: str
    progress: ProjectProgress
    number: int | None = None
    labeled: int = 0
    total: int = 0
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class ProjectsPage:
    """The page /projects."""

    projects: tuple[ProjectLine, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of the project with its value; ``source``: where it was set."""

    name: str
    value: str | int | float | bool | None
    source: str


@dataclass(frozen=True, slots=True)
class TaskCount:
    """The number of tasks in a state."""

    state: str
    name: str
    meaning: str
    count: int


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A task near a pick; ``distance`` is the Euclidean distance of their embeddings."""

    task_id: int
    distance: float
    label: str | None


@dataclass(frozen=True, slots=True)
class Pick:
    """A task of the batch. ``distance`` to the nearest labelled or earlier picked task, None if sampled.

    ``labeled`` is the nearest labelled task, ``earlier`` the nearest earlier pick.
    """

    rank: int
    task_id: int
    distance: float | None
    labeled: Neighbor | None
    earlier: Neighbor | None


@dataclass(frozen=True, slots=True)
class ClassLine:
    """A class: tasks labelled with it, unlabelled tasks predicted to have it, and on the hold-out ``right``
    predictions of ``held_out`` images. None where nothing was measured.
    """

    name: str
    labeled: int
    predicted: int | None = None
    held_out: int | None = None
    right: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLine:
    """A row of the table of rounds.

    ``accuracy`` with its 95 % ``interval`` was measured on ``n_holdout`` images. ``served``: Label Studio
    serves this round's batch now. ``seconds``: how long the round took.
    """

    number: int
    model_version: str
    taken_at: str
    strategy: str
    backbone: str
    labeled: int
    selected: int
    radius_before: float | None
    radius_after: float | None
    accuracy: float | None
    interval: tuple[float, float] | None
    n_holdout: int | None
    seconds: float
    published: bool
    published_at: str | None
    served: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFindings:
    """What a page reads from a round's arrays.

    ``duplicates``: task ids by group of near-duplicates, the first of the largest groups;
    ``duplicate_counts`` has the numbers of all.
    """

    batch: tuple[Pick, ...]
    classes: tuple[ClassLine, ...]
    duplicates: list[list[int]]
    duplicate_counts: DuplicateCounts
    suspects: list[Suspect]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundDetails(RoundLine):
    """The round that the page is about, with its `RoundFindings`.

    ``choice``: how its strategy chose the batch, in words. ``imported``: whether imported predictions chose
    it, None without any. ``failures``: the first of ``failure_count`` images that could not be read.
    ``control``: the <Choices> that is trained on. ``multiple``: an answer may have several classes.
    ``map``: whether there is an embedding map.
    """

    counts: tuple[TaskCount, ...]
    total: int
    choice: str
    imported: ImportUse | None
    batch: tuple[Pick, ...]
    failures: tuple[ImageFailure, ...]
    failure_count: int
    remarks: tuple[str, ...]
    control: str | None
    classes: tuple[ClassLine, ...]
    map: bool
    multiple: bool
    duplicates: list[list[int]]
    duplicate_counts: DuplicateCounts
    suspects: list[Suspect]


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """The page /projects/<id>, and the answer of /api/projects/<id>/overview.

    ``label_studio``: the address of the project's Data Manager. ``rounds``: those in the store, the newest
    first. ``history``: what every round measured, the oldest first, pruned rounds included.
    ``backbone_choice``, ``labels`` and ``work``: as in the status.
    """

    project: int
    title: str
    label_studio: str | None
    progress: ProjectProgress
    settings: tuple[Setting, ...]
    round: RoundDetails | None
    rounds: tuple[RoundLine, ...]
    history: tuple[HistoryLine, ...]
    advice: Advice | None
    slice: SliceSummary | None
    replay: Replay | None
    backbone_choice: BackboneStatus | None
    finish: FinishStatus
    annotators: AnnotatorsCard | None
    work: WorkLeft | None
    copies: FinishStatus
    labels: Tally
    bulk: BulkStatus
    examples: Examples
