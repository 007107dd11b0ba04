"""Computes the contents of the pages from the store and Redis."""

import logging
from collections.abc import Sequence
from dataclasses import fields
from functools import partial

import numpy as np

from coreset_backend.backend import Backend
from coreset_backend.errors import CoresetError, CorruptRound, QueueError
from coreset_backend.evaluation.comparison import read_replay, slice_summary
from coreset_backend.evaluation.history import project_history
from coreset_backend.evaluation.round_scores import holdout_accuracy
from coreset_backend.finish.session import Kind
from coreset_backend.finish.tally import tally
from coreset_backend.jobs.bulk import bulk_status
from coreset_backend.jobs.finishing import shown_finish
from coreset_backend.jobs.status import ProjectProgress, backbone_choice, project_progress, unknown_progress
from coreset_backend.jobs.work_left import work_left
from coreset_backend.project_settings import LABEL_CONFIG, known_settings, settings_table
from coreset_backend.settings import Settings
from coreset_backend.store.examples import examples_words, shown_examples
from coreset_backend.store.findings import label_names, largest_duplicates, suspects
from coreset_backend.store.record import STATES
from coreset_backend.store.saved_round import StoredRound, computed_once
from coreset_backend.store.store import Round
from coreset_backend.web.annotators import annotators_card
from coreset_backend.web.class_table import class_table
from coreset_backend.web.page_contents import (
    Neighbor,
    Pick,
    ProjectLine,
    ProjectPage,
    ProjectsPage,
    RoundDetails,
    RoundFindings,
    RoundLine,
    Setting,
    TaskCount,
)

log = logging.getLogger(__name__)

MOST_FAILURES = 200
"""Images that could not be read, of which a page says why."""
# Every task of a snapshot is in exactly one of these states.
STATE_WORDS = {
    "labeled": ("Labelled", "it has an annotation"),
    "selected": ("Selected", "in the batch that is served now"),
    "reserve": ("Reserve", "served after the batch: the next picks of the same selection"),
    "pool": ("Pool", "not selected yet; served in random order after the reserve"),
    "skipped": ("Skipped", "annotators skipped it"),
    "unreadable": ("Unreadable", "its image could not be read"),
    "duplicate": (
        "Duplicate",
        "shows the same file as another task or, with group_duplicates, nearly the same image",
    ),
    "model": ("By the model", "a finish has annotated it with the model's label; no person has"),
    "copy": ("Copy", "it is annotated with the label of a near-duplicate; no person has annotated it"),
}
FARTHEST = "Each is the image farthest from all images that were labelled or picked before it"
STANDS_FOR = "Each is the image that represents the largest part of the pool not represented before it"
CHOICE_WORDS = {
    "k_center": FARTHEST,
    "k_center_cosine": FARTHEST,
    "robust_k_center": "Together they minimize the covering radius of the pool, a few outliers left out",
    "max_herding": STANDS_FOR,
    "uncertainty_herding": f"{STANDS_FOR}; images that the model is unsure of count more",
    "random": "They were sampled at random",
}
"""Strategy -> how it selects a batch, as the beginning of a sentence."""


def projects_page(backend: Backend) -> ProjectsPage:
    """Every known project, ordered by id; a project that cannot be read has the reason instead."""
    return ProjectsPage(
        tuple(
            ProjectLine(project_id, title(None, project_id), unknown_progress(found))
            if isinstance(found, CoresetError)
            else found
            for project_id, found in backend.of_each_project(partial(project_line, backend))
        )
    )


def project_line(backend: Backend, project_id: int) -> ProjectLine:
    """A project in the list of projects; raises StoreError."""
    stored = backend.store.latest(project_id)
    known = title(stored, project_id), shown_progress(backend, project_id, stored)
    if stored is None:
        return ProjectLine(project_id, *known)
    record, accuracy = stored.record, holdout_accuracy(stored.record)
    return ProjectLine(
        project_id,
        *known,
        number=record.number,
        labeled=record.counts.get("labeled", 0),
        total=sum(record.counts.values()),
        accuracy=accuracy.value if accuracy else None,
    )


def shown_progress(backend: Backend, project_id: int, newest: StoredRound | None) -> ProjectProgress:
    """The progress of the project's round; unknown if Redis does not answer."""
    try:
        return project_progress(backend, project_id, newest)
    except QueueError as error:
        return unknown_progress(error)


def project_page(backend: Backend, project_id: int) -> ProjectPage:
    """Everything on the page of one project; raises StoreError."""
    rounds = list(backend.store.readable(project_id))
    newest, served = rounds[0] if rounds else None, served_number(rounds)
    history = project_history(backend.store, project_id, rounds)
    finish = shown_finish(backend.store, project_id, Kind.MODEL, newest)
    return ProjectPage(
        project=project_id,
        title=title(newest, project_id),
        label_studio=label_studio_address(backend.settings, project_id),
        progress=shown_progress(backend, project_id, newest),
        settings=project_settings_lines(backend, project_id, newest),
        round=newest_details(rounds, served),
        rounds=tuple(
            round_line(stored, served) for stored in sorted(rounds, key=lambda stored: -stored.record.number)
        ),
        history=history.rounds,
        advice=history.advice,
        slice=slice_summary(history.rounds),
        replay=read_replay(backend.store, project_id),
        backbone_choice=backbone_choice(backend.settings, backend.store, project_id, newest),
        finish=finish,
        copies=shown_finish(backend.store, project_id, Kind.COPIES, newest),
        labels=tally(backend.store, project_id, newest),
        annotators=annotators_card(backend, newest),
        work=work_left(backend.settings, newest.record, history.advice, finish) if newest else None,
        bulk=bulk_status(backend, project_id),
        examples=shown_examples(backend.store, project_id),
    )


def project_settings_lines(
    backend: Backend, project_id: int, newest: StoredRound | None
) -> tuple[Setting, ...]:
    """The settings of the project; those in the label config as its newest round read them."""
    attributes = known_settings(newest.record.attributes if newest else {}, LABEL_CONFIG)
    table = settings_table(backend.settings, backend.known_params(project_id), attributes)
    return tuple(Setting(**line) for line in table)


def newest_details(rounds: Sequence[StoredRound], served: int | None) -> RoundDetails | None:
    """The details of the first round without damaged files."""
    for stored in rounds:
        try:
            return round_details(stored, served)
        except CorruptRound as error:
            log.error("ignored: %s", error)
    return None


def round_details(stored: StoredRound, served: int | None) -> RoundDetails:
    """The page's details of the current round; raises CorruptRound."""
    record = stored.record
    known = (round_line(stored, served), computed_once(round_findings, stored))
    return RoundDetails(
        **{each.name: getattr(part, each.name) for part in known for each in fields(part)},
        counts=task_counts(record),
        total=sum(record.counts.values()),
        choice=choice_words(record),
        imported=record.imported,
        failures=record.failures[:MOST_FAILURES],
        failure_count=len(record.failures),
        remarks=record.remarks,
        control=record.labels.from_name if record.labels else None,
        map=stored.has("layout"),
        multiple=record.labels is not None and record.labels.multiple,
    )


def round_findings(stored: StoredRound) -> RoundFindings:
    """What the page reads from the round's arrays; raises CorruptRound."""
    with stored.reading():
        listed, counts = largest_duplicates(stored)
        return RoundFindings(
            batch=picks(stored),
            classes=class_table(stored),
            duplicates=listed,
            duplicate_counts=counts,
            suspects=suspects(stored),
        )


def choice_words(record: Round) -> str:
    """How the batch was selected, and what weighed on it."""
    words = CHOICE_WORDS.get(record.strategy, f"The strategy {record.strategy} selected them")
    if record.examples:
        return f"{words}. Images like those marked {examples_words(record.examples)} weighed on it"
    return words


def served_number(rounds: Sequence[StoredRound]) -> int | None:
    """The number of the round whose batch Label Studio serves: the last published, maybe not the newest."""
    published = [
        (publication.at or "", stored.record.number)
        for stored in rounds
        if (publication := stored.publication)
    ]
    return max(published)[1] if published else None


def title(stored: StoredRound | None, project_id: int) -> str:
    """The project's title when the round read it."""
    return (stored.record.title if stored else "") or f"Project {project_id}"


def label_studio_address(settings: Settings, project_id: int) -> str | None:
    """The address at which browsers reach the project's Data Manager."""
    url = settings.label_studio_browser_url or settings.label_studio_url
    return f"{url}/projects/{project_id}/data" if url else None


def task_counts(record: Round) -> tuple[TaskCount, ...]:
    """The tasks by state in a fixed order, states that never occurred included."""
    return tuple(TaskCount(state, *STATE_WORDS[state], record.counts.get(state, 0)) for state in STATES)


def round_line(stored: StoredRound, served: int | None) -> RoundLine:
    """The row of a round in the table of rounds; ``served``: the number of the round that is served now."""
    record = stored.record
    accuracy, publication = holdout_accuracy(record), stored.publication
    return RoundLine(
        number=record.number,
        model_version=record.model_version,
        taken_at=record.taken_at,
        strategy=record.strategy,
        backbone=record.backbone,
        labeled=record.counts.get("labeled", 0),
        selected=len(record.batch),
        radius_before=record.radius_before,
        radius_after=record.radius_after,
        accuracy=accuracy.value if accuracy else None,
        interval=(accuracy.low, accuracy.high) if accuracy else None,
        n_holdout=accuracy.n if accuracy else None,
        seconds=round(sum(stored.timings(publication).values()), 1),
        published=publication is not None,
        published_at=publication.at if publication else None,
        served=record.number == served,
    )


def picks(stored: StoredRound) -> tuple[Pick, ...]:
    """The batch in pick order, each with its distance and its nearest images; raises CorruptRound."""
    record = stored.record
    label_of = label_names(stored)
    known = stored.has("pick_neighbors") and stored.has("pick_distances")
    near = stored.array("pick_neighbors") if known else np.empty((0, 2), np.int64)
    far = stored.array("pick_distances") if known else np.empty((0, 2), np.float32)
    return tuple(
        Pick(
            rank=rank + 1,
            task_id=task_id,
            distance=None if distance < 0 else distance,
            labeled=_neighbor(near[rank, 0], far[rank, 0], label_of) if rank < len(near) else None,
            earlier=_neighbor(near[rank, 1], far[rank, 1], {}) if rank < len(near) else None,
        )
        for rank, (task_id, distance) in enumerate(zip(record.batch, record.distances, strict=False))
    )


def _neighbor(task_id: np.int64, distance: np.float32, label_of: dict[int, str]) -> Neighbor | None:
    if task_id < 0:
        return None
    return Neighbor(int(task_id), float(distance), label_of.get(int(task_id)))
