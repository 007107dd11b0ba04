"""The status of a project: the same for the pages, the API, the command line, doctor and the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from coreset_backend.backend import Backend
from coreset_backend.errors import CoresetError
from coreset_backend.evaluation.history import advice
from coreset_backend.evaluation.round_scores import holdout_accuracy
from coreset_backend.evaluation.stop_advice import Advice
from coreset_backend.finish.session import Kind
from coreset_backend.finish.tally import Tally, tally
from coreset_backend.jobs.finishing import FinishStatus, shown_finish
from coreset_backend.jobs.monitoring import workers_alive
from coreset_backend.jobs.next_step import UNKNOWN, NextStep, next_step
from coreset_backend.jobs.progress import (
    Failure,
    Labeling,
    PretrainingProgress,
    WrittenProgress,
    read_progress,
)
from coreset_backend.jobs.sentences import sentence
from coreset_backend.jobs.states import Phase, RoundState, Step, steps
from coreset_backend.jobs.work_left import WorkLeft, work_left
from coreset_backend.reports import (
    Count,
    ImageFailure,
    Publication,
    Reading,
    Share,
    TrainingReport,
    Work,
)
from coreset_backend.settings import Settings
from coreset_backend.store.imported import ImportUse
from coreset_backend.store.record import Audition, Calibration, Interval, SecondOpinion
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectProgress:
    """The progress of the project's round; docs/api.md describes each state and field.

    ``sentence``: the state in words. ``next``: what happens next, and who does it. ``startable``: whether a
    person's start would change something. ``workers``: number of listening workers. ``percent`` of the whole
    round and ``seconds_left`` are None unless a round runs; the seconds also until a first round has
    measured its phases. ``steps``: the phases of a round.
    """

    state: RoundState
    sentence: str
    next: NextStep
    startable: bool
    phase: str | None = None
    done: Count = 0
    total: Count = 0
    percent: Count | None = None
    seconds_left: float | None = None
    reason: str = ""
    error: str | None = None
    retry_at: float | None = None
    last_failure: Failure | None = None
    labeling: Labeling | None = None
    connection: tuple[str, ...] = ()
    paused_reason: str | None = None
    pretraining: PretrainingProgress | None = None
    unseen: Count = 0
    workers: Count = 0
    demanded: bool = False
    republish: bool = False
    queued: bool = False
    lost: bool = False
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelErrorsStatus:
    """The share of the annotators' answers that is wrong by estimate, and the tasks asked for once more."""

    rate: Share | None
    asked: tuple[SecondOpinion, ...]
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStatus:
    """The record of a round without its longest lists, and its publication."""

    number: int
    taken_at: str
    model_version: str
    strategy: str
    backbone: str
    batch: tuple[int, ...]
    counts: dict[str, Count]
    radius_before: float | None
    radius_after: float | None
    accuracy: Interval | None
    calibration: Calibration | None
    training: TrainingReport | None
    unreadable: tuple[ImageFailure, ...]
    label_errors: LabelErrorsStatus
    remarks: tuple[str, ...]
    reading: Reading | None
    work: Work | None
    timings: dict[str, float]
    published: Publication | None
    imported: ImportUse | None


@dataclass(frozen=True, slots=True)
class BackboneStatus:
    """Who chose the backbone, in a ``sentence``; ``audition``: the last one, None where none was held."""

    sentence: str
    audition: Audition | None


@dataclass(frozen=True, slots=True)
class ProjectStatus:
    """A project's progress and its newest round; ``round`` and ``advice`` are None before the first.

    ``backbone_choice`` is None while no audition was held and no setting names a backbone; ``finish`` while
    the model is not to label the rest, ``copies`` while near-duplicates do not take the label of their
    original. ``labels``: who labels the tasks. ``work``: how long people work, None
    before the first round.
    """

    project: int
    progress: ProjectProgress
    round: RoundStatus | None
    advice: Advice | None
    backbone_choice: BackboneStatus | None
    finish: FinishStatus | None
    work: WorkLeft | None
    copies: FinishStatus | None
    labels: Tally


@dataclass(frozen=True, slots=True)
class UnreadableProject:
    """A project whose status cannot be read; ``error`` says why."""

    project: int
    error: str


@dataclass(frozen=True, slots=True)
class WholeRound:
    """``percent`` done of a round, all phases together; ``seconds_left`` is None if unknown."""

    percent: int
    seconds_left: float | None


def project_status(backend: Backend, project_id: int) -> ProjectStatus:
    """The status of the project. Raises QueueError if Redis does not answer, and StoreError."""
    rounds = list(backend.store.readable(project_id))
    stored, records = next(iter(rounds), None), backend.store.history(project_id, rounds)
    when_to_stop = advice(records) if records else None
    finish, copies = (shown_finish(backend.store, project_id, kind, stored) for kind in Kind)
    return ProjectStatus(
        project=project_id,
        progress=project_progress(backend, project_id, stored),
        round=round_status(stored) if stored else None,
        advice=when_to_stop,
        backbone_choice=backbone_choice(backend.settings, backend.store, project_id, stored),
        finish=finish if finish.state else None,
        work=work_left(backend.settings, stored.record, when_to_stop, finish) if stored else None,
        copies=copies if copies.state else None,
        labels=tally(backend.store, project_id, stored),
    )


def backbone_choice(
    settings: Settings, store: Store, project_id: int, newest: StoredRound | None
) -> BackboneStatus | None:
    """Who chose the project's backbone: a setting, or the labels by an audition; None while neither did."""
    held = store.audition(project_id)
    if not settings.labels_choose_backbone:
        name = (
            f"CORESET_WEIGHTS={settings.weights}"
            if settings.weights
            else f"CORESET_BACKBONE={settings.backbone}"
        )
        return BackboneStatus(f"The setting {name} chooses the backbone, so the labels do not.", held)
    if held is None:
        return None
    waits = held.chosen != held.current and newest and newest.record.audition != held
    return BackboneStatus(held.sentence + (" It is used from the next round on." if waits else ""), held)


def all_statuses(backend: Backend) -> list[ProjectStatus | UnreadableProject]:
    """The status of every known project. Raises QueueError if Redis does not answer."""
    workers_alive(backend.queue)  # raises once, instead of an error for each project
    return [
        UnreadableProject(project_id, str(found)) if isinstance(found, CoresetError) else found
        for project_id, found in backend.of_each_project(partial(project_status, backend))
    ]


def project_progress(backend: Backend, project_id: int, newest: StoredRound | None) -> ProjectProgress:
    """The progress of the project's round. Raises QueueError if Redis does not answer."""
    known = read_progress(backend.redis, backend.store, project_id)
    settings = backend.settings_by_round(project_id, newest.record if newest else None)
    workers, written = workers_alive(backend.queue), known.written
    running = known.state is RoundState.RUNNING
    finishes = [shown_finish(backend.store, project_id, kind, newest) for kind in Kind]
    whole = None
    if running:
        whole = whole_round(written, newest.timings(newest.publication) if newest else None)
    return ProjectProgress(
        state=known.state,
        sentence=sentence(known, workers, newest, settings),
        next=next_step(known, workers, newest, settings, finishes),
        startable=not running and not known.demanded,
        phase=written.phase,
        done=written.done,
        total=written.total,
        percent=whole.percent if whole else None,
        seconds_left=whole.seconds_left if whole else None,
        reason=written.reason,
        error=written.error,
        retry_at=written.retry_at,
        last_failure=written.last_failure,
        labeling=written.labeling,
        connection=written.connection,
        paused_reason=known.paused_reason,
        pretraining=known.pretraining,
        unseen=known.unseen,
        workers=workers,
        demanded=known.demanded,
        republish=known.republish,
        queued=known.queued,
        lost=known.lost,
        steps=steps(written.phase if running else None),
    )


def unknown_progress(error: CoresetError) -> ProjectProgress:
    """The progress of a project whose state cannot be read."""
    return ProjectProgress(state=RoundState.UNKNOWN, sentence=str(error), next=UNKNOWN, startable=True)


def whole_round(written: WrittenProgress, timings: Mapping[str, float] | None) -> WholeRound:
    """The share of the round that is done, by ``timings``: the last round's seconds by phase."""
    seconds = {str(phase): (timings or {}).get(phase, phase.seconds) for phase in Phase}
    phases = list(seconds)
    current = written.phase if written.phase in seconds else phases[0]
    share = min(written.done / written.total, 1.0) if written.total else 0.0
    done = sum(seconds[phase] for phase in phases[: phases.index(current)]) + share * seconds[current]
    whole = sum(seconds.values())
    left = round(whole - done, 1) if timings else None
    return WholeRound(min(int(100 * done / whole), 99) if whole else 0, left)


def round_status(stored: StoredRound) -> RoundStatus:
    """The status of a round in the store."""
    record, publication, errors = stored.record, stored.publication, stored.record.label_errors
    return RoundStatus(
        number=record.number,
        taken_at=record.taken_at,
        model_version=record.model_version,
        strategy=record.strategy,
        backbone=record.backbone,
        batch=record.batch,
        counts=record.counts,
        radius_before=record.radius_before,
        radius_after=record.radius_after,
        accuracy=holdout_accuracy(record),
        calibration=record.evaluation.calibration if record.evaluation else None,
        training=record.training,
        unreadable=record.failures,
        label_errors=LabelErrorsStatus(errors.rate, errors.asked, errors.sentence),
        remarks=record.remarks,
        reading=record.reading,
        work=record.work,
        timings=stored.timings(publication),
        published=publication,
        imported=record.imported,
    )
