"""Publishes a round to Label Studio: the queue for annotators, and the tabs of the Data Manager."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from coreset_backend.arrays import Progress
from coreset_backend.backend import Backend
from coreset_backend.connection.publication import prepare_publication, show_findings
from coreset_backend.connection.queue import hide_answers, publish_queue
from coreset_backend.connection.record import regions_shown
from coreset_backend.connection.second_opinions import ask_second_opinions
from coreset_backend.errors import LabelStudioError
from coreset_backend.evaluation.predictions import Answers
from coreset_backend.finish.session import (
    audit_in_front,
    finished_behind,
    keep_served,
    steps_of_finishes,
)
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.project import Prediction
from coreset_backend.reports import Publication
from coreset_backend.rounds.choose import order_behind
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)


def publish_round(backend: Backend, stored: StoredRound, step: Progress) -> None:
    """Make Label Studio serve the round's batch first, then its reserve, then all others; can be repeated.

    While a finish is audited, the answers to check come before the batch, and so do the labels that a second
    annotator is asked for; both show no answer.
    The round counts as published as soon as annotators get its batch. ``step(done, total)`` is called before
    each change; an exception in it ends the publish.
    """
    record, project_id = stored.record, stored.record.project_id
    steps = steps_of_finishes(backend.store, project_id)  # first, so that what changes meanwhile is noticed
    audit, wanted = audit_in_front(backend.store, project_id), record.label_errors.asked
    is_any = audit or wanted or record.batch or record.reserve
    prepared = prepare_publication(backend, project_id) if is_any else None
    if prepared:
        step(0, 4)
        blind = [*audit, *(each.task_id for each in wanted)]
        hide_answers(backend.label_studio, project_id, blind, prepared[0])
    asked = ask_second_opinions(backend.label_studio, backend.store, project_id, wanted)
    head = list(dict.fromkeys([*audit, *asked, *record.batch, *record.reserve]))
    if prepared and head:
        # An answer on the random slice would make people agree with it, and the slice measures the model.
        bare = frozenset({*audit, *asked, *record.random_slice})
        _publish_head(backend, stored, head, bare, prepared, step)
    else:
        stored.mark_published(Publication(stored.record.model_version, seconds=0.0, at=_now()))
    keep_served(backend.store, project_id, steps)
    _show_findings(backend.label_studio, stored)


def _publish_head(
    backend: Backend,
    stored: StoredRound,
    head: Sequence[int],
    to_check: frozenset[int],
    prepared: tuple[set[str], str],
    step: Progress,
) -> None:
    record, started = stored.record, time.monotonic()
    written, shown_before = prepared
    ours = _Publishing(backend, stored, to_check, started, shown_before)
    try:
        publication = publish_queue(
            backend.label_studio,
            record.project_id,
            head,
            record.labels,
            order=lambda waiting: _order_behind(backend.store, stored, waiting),
            predict=ours.predict,
            written=written,
            progress=step,
            on_served=ours.mark,
            known=stored.array("task_ids").tolist(),
        )
    except LabelStudioError as error:
        if not ours.served_at:
            raise
        log.warning(
            "project %d: the next publish deletes the replaced predictions: %s", record.project_id, error
        )
    else:
        ours.mark(publication)


def _order_behind(store: Store, stored: StoredRound, waiting: Sequence[int]) -> list[int]:
    """The order behind batch and reserve; after a finish by how hard the rest is, what it labelled last."""
    ordered = order_behind(stored, waiting)
    if (finished := finished_behind(store, stored.record.project_id)) is None:
        return ordered
    labeled, rest = finished
    place = {task_id: rank for rank, task_id in enumerate(rest)}
    return sorted(ordered, key=lambda task_id: (task_id in labeled, place.get(task_id, -1)))


@dataclass(slots=True)
class _Publishing:
    """A running publish.

    ``to_check``: the tasks that show no answer; ``carried``: those to which another version's regions are
    copied.
    """

    backend: Backend
    stored: StoredRound
    to_check: frozenset[int]
    started: float
    shown_before: str
    carried: set[int] = field(default_factory=set)
    served_at: str = ""
    seconds: float = 0.0

    def predict(self, task_ids: Sequence[int]) -> list[Prediction]:
        record = self.stored.record
        shown = regions_shown(self.backend.label_studio, record.project_id, self.shown_before, task_ids)
        self.carried.update(shown)
        preannotate = self.backend.settings_by_round(record.project_id, record).preannotate
        answers = Answers(self.stored)
        return [
            Prediction(task_id, 0.0, record.model_version)
            if task_id in self.to_check
            else replace(
                answers.prediction(task_id, 0.0, record.model_version, preannotate),
                regions=shown.get(task_id, ()),
            )
            for task_id in task_ids
        ]

    def mark(self, publication: Publication) -> None:
        """Save the publication; its time is that of the first call, when annotators start to get
        the batch.
        """
        if not self.served_at:
            self.served_at, self.seconds = _now(), round(time.monotonic() - self.started, 3)
        self.stored.mark_published(
            replace(
                publication,
                shown_before=self.shown_before,
                carried=len(self.carried),
                seconds=self.seconds,
                at=self.served_at,
            )
        )


def _show_findings(label_studio: LabelStudio, stored: StoredRound) -> None:
    """Update the tabs; a failure is only logged, because the batch is served without them."""
    try:
        show_findings(label_studio, stored)
    except LabelStudioError as error:
        log.warning("project %d: the tabs could not be updated: %s", stored.record.project_id, error)


def _now() -> str:
    return datetime.now(UTC).isoformat()
