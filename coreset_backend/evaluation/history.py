"""The history of a project: the measurements of all its rounds, pruned rounds included."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from coreset_backend.evaluation.learning_curve import Point
from coreset_backend.evaluation.round_scores import holdout_accuracy
from coreset_backend.evaluation.stop_advice import Advice, stop_advice
from coreset_backend.store.record import Calibration, ClassScores, Interval, Round
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store


@dataclass(frozen=True, slots=True)
class RandomSlice:
    """The number of randomly sampled ``tasks`` in this batch, and the previous model's accuracy on its own
    batch.

    ``pool_accuracy``: on the randomly sampled tasks, an unbiased estimate for the pool. ``picked_accuracy``:
    on the strategy's picks. A strategy works if its picks are harder than the pool.
    """

    tasks: int
    pool_accuracy: Interval | None
    picked_accuracy: Interval | None


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """A point of the learning curve.

    ``taken_at`` is ISO 8601 in UTC. ``labels`` tasks were annotated, the model was fitted on ``trained`` of
    them, and ``selected`` tasks were then chosen. ``accuracy`` and ``macro_f1`` are shares of the hold-out,
    ``gain`` in [-1, 1] is the accuracy minus that of the round before on the same images; None without a
    model or a hold-out. ``calibration``: whether that model is as sure as it is right. ``radius_before`` and
    ``radius_after`` the batch are covering radii in the space of this round's embeddings, None without a
    label: compare the two of one round, not those of several.
    """

    number: int
    taken_at: str
    strategy: str
    backbone: str
    model_version: str
    labels: int
    trained: int
    selected: int
    accuracy: Interval | None
    macro_f1: Interval | None
    gain: Interval | None
    per_class: tuple[ClassScores, ...]
    calibration: Calibration | None
    radius_before: float | None
    radius_after: float | None
    random_slice: RandomSlice | None


@dataclass(frozen=True, slots=True)
class History:
    """All rounds of a project, the oldest first; ``advice`` is None before a first."""

    project: int
    title: str
    rounds: tuple[HistoryLine, ...]
    advice: Advice | None


def project_history(store: Store, project_id: int, opened: Iterable[StoredRound] | None = None) -> History:
    """The history of a project; raises StoreError. ``opened`` is that of :meth:`Store.history`."""
    records = _each_batch_once(store.history(project_id, opened))
    return History(
        project=project_id,
        title=records[-1].title if records else "",
        rounds=tuple(history_line(record) for record in records),
        advice=advice(records) if records else None,
    )


def advice(records: Sequence[Round]) -> Advice:
    """When to stop, from the records of all rounds, oldest first; at least one.

    Rounds of another label config measured something else and are left out.
    """
    newest = records[-1]
    alike = [record for record in records if record.labels == newest.labels]
    points = [
        Point(record.counts.get("labeled", 0), accuracy.value, accuracy.n)
        for record in alike
        if (accuracy := holdout_accuracy(record))
    ]
    radii = [
        (record.radius_before, record.radius_after)
        for record in records
        if record.radius_before is not None and record.radius_after is not None
    ]
    return stop_advice(points, max(newest.counts.get("selected", 0), 1), radii)


def _each_batch_once(records: Sequence[Round]) -> list[Round]:
    """The records, oldest first; of several rounds that measured one batch, only the last has its scores.

    After a rollback a round measures the same batch again, by then perhaps with more labels.
    """
    last = {of_round: record.number for record in records if (of_round := _round_measured(record))}
    repeated = {record.number for record in records if _round_measured(record)} - set(last.values())
    return [
        replace(record, batch_figures=None) if record.number in repeated else record for record in records
    ]


def _round_measured(record: Round) -> int | None:
    """The number of the round whose batch this one measured, if any."""
    if record.batch_figures is None:
        return None
    return record.batch_figures.of_round or record.number - 1


def history_line(record: Round) -> HistoryLine:
    """The line of one round."""
    evaluation = record.evaluation
    return HistoryLine(
        number=record.number,
        taken_at=record.taken_at,
        strategy=record.strategy,
        backbone=record.backbone,
        model_version=record.model_version,
        labels=record.counts.get("labeled", 0),
        trained=record.training.n_train if record.training else 0,
        selected=record.counts.get("selected", 0),
        accuracy=holdout_accuracy(record),
        macro_f1=evaluation.macro_f1 if evaluation else None,
        gain=evaluation.gain if evaluation else None,
        per_class=evaluation.per_class if evaluation else (),
        calibration=evaluation.calibration if evaluation else None,
        radius_before=record.radius_before,
        radius_after=record.radius_after,
        random_slice=random_slice(record),
    )


def random_slice(record: Round) -> RandomSlice | None:
    """None if neither this batch nor the previous one has a random slice."""
    before = record.batch_figures
    if not record.random_slice and before is None:
        return None
    return RandomSlice(
        len(record.random_slice),
        before.pool_accuracy if before else None,
        before.picked_accuracy if before else None,
    )
