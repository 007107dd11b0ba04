"""Runs a round: read the project, fit, embed, select, save, publish."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.arrays import Progress, RoundWatch, unwatched
from coreset_backend.backend import Backend
from coreset_backend.errors import CorruptRound, EmptyPool, ImageError, TooManyImageFailures, Unwritable
from coreset_backend.evaluation.imported import merged_probabilities, uncertainty_source, usable_import
from coreset_backend.evaluation.round_scores import batch_scores, holdout_evaluation
from coreset_backend.evaluation.scores import answer_codes
from coreset_backend.evaluation.working_time import snapshot_working_time
from coreset_backend.finish.proposal import could_finish
from coreset_backend.fleet.shelf import clear_shards
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.people import fetch_people
from coreset_backend.label_studio.reading import read_tasks
from coreset_backend.logs import set_log_context
from coreset_backend.project import Snapshot
from coreset_backend.project_settings import label_config_attributes
from coreset_backend.reports import Reading
from coreset_backend.rounds.carried import Neighborhood, carried_over, neighborhood
from coreset_backend.rounds.choose import Choice, choose_batch
from coreset_backend.rounds.clock import Clock
from coreset_backend.rounds.embeddings import count_embedded
from coreset_backend.rounds.examples import examples_among, weights_by_examples
from coreset_backend.rounds.explain import gather_evidence
from coreset_backend.rounds.label_errors import JudgedLabels, judged_labels
from coreset_backend.rounds.learned import Learned, learn_round
from coreset_backend.rounds.publishing import publish_round
from coreset_backend.rounds.relabel import label_errors
from coreset_backend.settings import Settings
from coreset_backend.store.imported import ImportUse
from coreset_backend.store.record import STATES, Example, LabelErrors
from coreset_backend.store.saved_round import Arrays, Draft, StoredRound
from coreset_backend.store.store import Round, Store

log = logging.getLogger(__name__)


def run_round(backend: Backend, project_id: int, progress: RoundWatch = unwatched) -> StoredRound:
    """Run the project's next round; returns it saved and published.

    A saved round that was not published because Label Studio was down is published if nothing has changed
    since. Raises any CoresetError; then no incomplete round and no incomplete batch is left.
    """
    clock = Clock(progress)
    with clock.phase("snapshot") as step:
        snapshot, reading = _read_tasks(backend, project_id, step)
    stored = backend.store.latest(project_id)
    attributes = label_config_attributes(snapshot.label_config)
    settings = backend.settings_by_label_config(project_id, attributes)
    if stored is None or not _can_be_published(stored, snapshot, reading):
        stored = _compute(backend, settings, snapshot, reading, stored, clock)
    with clock.phase("publish") as step:
        publish_round(backend, stored, step)
    backend.store.prune(project_id, backend.settings.keep_rounds)
    log.info("project %d: round %d is published: %s", project_id, stored.record.number, clock)
    return stored


def _read_tasks(backend: Backend, project_id: int, step: Progress) -> tuple[Snapshot, Reading]:
    """The project's snapshot, of which only what has changed was read where the store knows the rest."""
    control = backend.settings_by_label_config(project_id, {}).control
    known, refreshed_at = backend.store.known_tasks(project_id), backend.store.refreshed_at(project_id)
    read = read_tasks(
        backend.label_studio, project_id, known, step, control=control, refreshed_at=refreshed_at
    )
    if not read.snapshot.tasks:
        title = read.snapshot.title
        raise EmptyPool(f"Project {project_id} '{title}' has no tasks yet. Import images into it.")
    try:
        backend.store.keep_known_tasks(project_id, read.known)
    except Unwritable as error:  # the next round reads all tasks, or more of them
        log.warning("project %d: %s", project_id, error)
    return read.snapshot, read.reading


def _can_be_published(stored: StoredRound, snapshot: Snapshot, reading: Reading) -> bool:
    """Whether the round is not published yet, belongs to the current snapshot and refresh, and has no damaged
    file."""
    if stored.publication or stored.record.fingerprint != snapshot.fingerprint():
        return False
    if reading.refreshed_at > (stored.record.reading.refreshed_at if stored.record.reading else 0):
        return False
    try:
        stored.verify()
    except CorruptRound as error:
        log.error("project %d: a new round replaces it: %s", snapshot.project_id, error)
        return False
    return True


def _compute(
    backend: Backend,
    settings: Settings,
    snapshot: Snapshot,
    reading: Reading,
    previous: StoredRound | None,
    clock: Clock,
) -> StoredRound:
    """The new round. If an image is gone that was trusted to be there, all images are looked for first."""
    try:
        return _compute_once(backend, settings, snapshot, reading, previous, clock)
    except TooManyImageFailures:
        raise
    except ImageError as error:
        log.warning("project %d: all images are looked for again: %s", snapshot.project_id, error)
        return _compute_once(backend, settings, snapshot, reading, previous, clock, look_for_all=True)


def _compute_once(
    backend: Backend,
    settings: Settings,
    as_read: Snapshot,
    reading: Reading,
    previous: StoredRound | None,
    clock: Clock,
    *,
    look_for_all: bool = False,
) -> StoredRound:
    names = _annotator_names(backend.label_studio, as_read)
    learned = learn_round(backend, settings, as_read, reading, previous, clock, look_for_all=look_for_all)
    snapshot = learned.snapshot
    with backend.store.draft(snapshot.project_id) as draft:
        set_log_context(project=draft.project_id, round=draft.number)
        with clock.phase("neighbors"):
            learned = replace(learned, embeddings=draft.keep("embeddings", learned.embeddings))
        learned, use = _with_imported(backend.store, snapshot, learned)
        examples = examples_among(backend.store, snapshot.project_id, learned.pixels.task_ids)
        choice, errors, evidence, near = _choose(
            settings, snapshot, learned, names, examples, previous, draft, clock
        )
        with clock.phase("save"):
            model.save_classifier(learned.classifier, draft.path / "model.safetensors")
            record = _record(settings, as_read, previous, draft, learned, choice, clock)
            embedded = count_embedded(previous, learned.network, learned.pixels.keys)
            record = replace(
                record,
                reading=reading,
                work=near.work(learned.pixels, embedded),
                label_errors=errors,
                examples=examples,
                imported=use,
                working_time=snapshot_working_time(snapshot, len(choice.batch)),
                could_finish=_could_finish(snapshot, learned, choice),
            )
            stored = draft.save(record, {**_arrays(snapshot, learned, choice, near), **evidence})
    clear_shards(backend.store.shards(snapshot.project_id))
    return stored


def _arrays(snapshot: Snapshot, learned: Learned, choice: Choice, near: Neighborhood) -> Arrays:
    """What the round saves beside its record and its evidence."""
    arrays: Arrays = {
        "task_ids": snapshot.task_ids,
        "states": choice.states,
        "scores": choice.scores,
        "embedded_task_ids": learned.pixels.task_ids,
        "embeddings": learned.embeddings,
        "image_keys": learned.pixels.keys,
    }
    if learned.is_frozen:
        arrays |= near.arrays()
    if learned.probabilities is not None:
        arrays["probabilities"] = learned.probabilities
        if snapshot.labels:
            arrays["predicted"] = answer_codes(learned.probabilities, snapshot.labels.multiple)
    return arrays


def _annotator_names(label_studio: LabelStudio, snapshot: Snapshot) -> dict[str, str]:
    """The annotators' e-mail addresses by their ids, asked for where several people have labelled."""
    people = {who for task in snapshot.tasks for who in task.annotators}
    return fetch_people(label_studio) if len(people) > 1 else {}


def _with_imported(store: Store, snapshot: Snapshot, learned: Learned) -> tuple[Learned, ImportUse | None]:
    """What was learned, with the imported predictions to select by where they are better, and whether so."""
    imported, task_ids = usable_import(store, snapshot.project_id), learned.pixels.task_ids
    use = uncertainty_source(imported, snapshot, task_ids, learned.holdout, learned.probabilities)
    if imported is None or use is None or not use.used:
        return learned, use
    merged = merged_probabilities(imported, task_ids, learned.uncalibrated)
    return replace(learned, uncalibrated=merged), use


def _choose(
    settings: Settings,
    snapshot: Snapshot,
    learned: Learned,
    names: Mapping[str, str],
    examples: Sequence[Example],
    previous: StoredRound | None,
    draft: Draft,
    clock: Clock,
) -> tuple[Choice, LabelErrors, Arrays, Neighborhood]:
    """The choice, what is known of errors in the labels, the evidence, and what it stands on; the index stays
    in the draft.
    """
    readable, embeddings, pixels, seed = learned.readable, learned.embeddings, learned.pixels, settings.seed
    with clock.phase("neighbors"):
        carried = carried_over(previous, learned.network, pixels.task_ids, pixels.keys)
        is_labeled = np.array([snapshot.tasks[row].state == "labeled" for row in readable], dtype=bool)
        path = draft.path / "neighbors.ann"
        near = neighborhood(carried, embeddings, pixels, np.flatnonzero(is_labeled), path, seed)
        if learned.is_frozen:  # for the next round; a trained network will have other neighbours
            near = near.kept(draft)
    with clock.phase("select"):
        judged = _judge(snapshot, learned, seed)
        errors = label_errors(settings, judged, learned.holdout, names) if judged else LabelErrors()
        new_images = settings.model_copy(update={"batch_size": settings.batch_size - len(errors.asked)})
        weights = weights_by_examples(examples, near.index, pixels.task_ids, embeddings)
        uncalibrated, graph, groups = learned.uncalibrated, near.graph, near.groups
        choice = choose_batch(
            new_images, snapshot, readable, embeddings, uncalibrated, graph, groups, weights
        )
    with clock.phase("map"):
        picked = (*choice.batch, *choice.reserve)
        places = near.places(embeddings, seed)
        evidence = gather_evidence(snapshot, pixels, embeddings, places, near.groups, picked, judged, seed)
    return choice, errors, evidence, near


def _judge(snapshot: Snapshot, learned: Learned, seed: int) -> JudgedLabels | None:
    """The labels of the readable images with the quality of each; None in a project without classes."""
    tasks = [snapshot.tasks[row] for row in learned.readable]
    rows = [row for row, task in enumerate(tasks) if task.label is not None]
    if snapshot.labels is None:
        return None
    labeled, vectors = [tasks[row] for row in rows], learned.embeddings[rows]
    prepared = learned.classifier.preparation is not None
    return judged_labels(labeled, snapshot.labels, vectors, seed, prepared=prepared)


def _record(
    settings: Settings,
    snapshot: Snapshot,
    previous: StoredRound | None,
    draft: Draft,
    learned: Learned,
    choice: Choice,
    clock: Clock,
) -> Round:
    embedded = learned.pixels.task_ids
    return Round(
        project_id=snapshot.project_id,
        title=snapshot.title,
        number=draft.number,
        model_version=f"coreset-{draft.number}-{snapshot.taken_at:%Y%m%dT%H%M%S}",
        fingerprint=snapshot.fingerprint(),
        taken_at=snapshot.taken_at.isoformat(),
        attributes=label_config_attributes(snapshot.label_config),
        labels=snapshot.labels,
        strategy=choice.strategy,
        seed=settings.seed,
        batch=choice.batch,
        reserve=choice.reserve,
        random_slice=choice.random_slice,
        distances=tuple(np.where(np.isfinite(choice.distances), choice.distances, -1).tolist()),
        radius_before=_finite(choice.radius_before),
        radius_after=_finite(choice.radius_after),
        counts=_counted(choice.states),
        failures=tuple(learned.failures),
        backbone=learned.classifier.description,
        network=learned.network,
        features=learned.features,
        audition=learned.audition,
        training=learned.training,
        holdout=tuple(sorted(learned.holdout)),
        evaluation=holdout_evaluation(snapshot, previous, embedded, learned.holdout, learned.probabilities),
        batch_figures=batch_scores(snapshot, previous),
        remarks=snapshot.remarks,
        timings=clock.timings,
    )


def _could_finish(snapshot: Snapshot, learned: Learned, choice: Choice) -> int | None:
    if snapshot.labels is None or learned.probabilities is None:
        return None
    states = choice.states[learned.readable]
    return could_finish(states, learned.probabilities, snapshot.labels.multiple)


def _counted(states: NDArray[np.uint8]) -> dict[str, int]:
    """Tasks by state, in the order of STATES."""
    return dict(zip(STATES, np.bincount(states, minlength=len(STATES)).tolist(), strict=True))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
