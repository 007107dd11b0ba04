"""What a round learns: the readable images, the hold-out, the classifier, embeddings and probabilities."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coreset_backend import model
from coreset_backend.arrays import Floats, Rows
from coreset_backend.backend import Backend
from coreset_backend.images import Pixels
from coreset_backend.project import Snapshot
from coreset_backend.reports import ImageFailure, Reading, TrainingReport
from coreset_backend.rounds.ahead import embedded_images
from coreset_backend.rounds.backbone import prepare_backbone
from coreset_backend.rounds.clock import Clock
from coreset_backend.rounds.consensus import settled
from coreset_backend.rounds.embeddings import is_frozen
from coreset_backend.rounds.features import choose_project_backbone, features_at_hand
from coreset_backend.rounds.learn import held_out, labeled_among, learn_snapshot
from coreset_backend.settings import Settings
from coreset_backend.store.record import Audition
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """The learned arrays of the readable images. ``readable``: int64[m], image row -> snapshot row.

    ``snapshot``: ties outside the hold-out are settled. By image row are ``pixels``, ``embeddings``
    float32[m, d] and ``probabilities`` float32[m, classes], which are calibrated; the selection goes by those
    that are ``uncalibrated``, or imported. ``is_frozen``: labels did not change the network.
    """

    snapshot: Snapshot
    pixels: Pixels
    failures: Sequence[ImageFailure]
    readable: Rows
    holdout: frozenset[int]
    classifier: model.Classifier
    training: TrainingReport | None
    embeddings: Floats
    probabilities: Floats | None
    uncalibrated: Floats | None
    features: str
    network: str
    is_frozen: bool
    audition: Audition | None


def learn_round(
    backend: Backend,
    settings: Settings,
    snapshot: Snapshot,
    reading: Reading,
    previous: StoredRound | None,
    clock: Clock,
    *,
    look_for_all: bool = False,
) -> Learned:
    """Fetch the images, set the hold-out apart, and fit the classifier. Raises any CoresetError.

    ``look_for_all``: images that were embedded before are looked for too.
    """
    store, project_id = backend.store, snapshot.project_id
    features = features_at_hand(store, project_id)
    chosen = _backbone(store, settings, snapshot, previous, clock)
    pixels, failures = _fetched(
        backend, settings, chosen, snapshot, previous, reading.refreshed_at, clock, look_for_all=look_for_all
    )
    readable = np.searchsorted(snapshot.task_ids, pixels.task_ids)
    holdout = held_out(settings, snapshot, pixels, previous)
    snapshot = settled(snapshot, previous, holdout, settings.seed)
    labeled, phase = labeled_among(snapshot, readable, holdout), clock.phase
    learned = learn_snapshot(settings, chosen, pixels, labeled, previous, phase, store.shards(project_id))
    classifier, embeddings, probabilities, training = learned
    return Learned(
        snapshot=snapshot,
        pixels=pixels,
        failures=failures,
        readable=readable,
        holdout=holdout,
        classifier=classifier,
        training=training,
        embeddings=embeddings,
        probabilities=probabilities,
        uncalibrated=model.probabilities_of(classifier, embeddings, calibrated=False),
        features=features,
        network=model.network_name(classifier),
        is_frozen=is_frozen(chosen, snapshot, settings.device),
        audition=store.audition(project_id) if settings.labels_choose_backbone else None,
    )


def _fetched(
    backend: Backend,
    settings: Settings,
    chosen: model.ChosenBackbone,
    snapshot: Snapshot,
    previous: StoredRound | None,
    refreshed_at: float,
    clock: Clock,
    *,
    look_for_all: bool,
) -> tuple[Pixels, Sequence[ImageFailure]]:
    known = None
    if not look_for_all:
        known = embedded_images(backend, settings, chosen, snapshot, previous, clock, refreshed_at)
    uris, resize = snapshot.image_uris, chosen.backbone.resize(settings.image_size)
    with clock.phase("images") as step:
        return backend.images.fetch(uris, resize, step, known=known, refreshed_at=refreshed_at)


def _backbone(
    store: Store, settings: Settings, snapshot: Snapshot, previous: StoredRound | None, clock: Clock
) -> model.ChosenBackbone:
    project_id = snapshot.project_id
    prepare_backbone(store, settings, project_id, len(snapshot.tasks), previous, clock.step("weights"))
    chosen = choose_project_backbone(store, settings, project_id)
    if previous is None or not previous.record.backbone.startswith(chosen.description):
        log.info("project %d: the backbone is %s", project_id, chosen.description)
    return chosen
