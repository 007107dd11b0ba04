"""Has a cluster fetch and embed the new images of a round before the round reads any."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.arrays import KeyRows, Resize
from coreset_backend.backend import Backend
from coreset_backend.fleet.messages import Report
from coreset_backend.fleet.plan import LEAST_IMAGES
from coreset_backend.fleet.ray_cluster import embed_on_cluster
from coreset_backend.fleet.shelf import Shelf
from coreset_backend.project import Snapshot
from coreset_backend.rounds.clock import Clock
from coreset_backend.rounds.embeddings import embedded_keys, is_frozen
from coreset_backend.rounds.learn import frozen_network
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound

SAMPLE = 64
"""Images that this machine reads itself, to choose what computes the network."""


def embedded_images(
    backend: Backend,
    settings: Settings,
    chosen: model.ChosenBackbone,
    snapshot: Snapshot,
    previous: StoredRound | None,
    clock: Clock,
    refreshed_at: float,
) -> KeyRows | None:
    """The keys of the images that the round need not read: those embedded before, and those that the cluster
    embeds now.

    It embeds none if they are few, and none for a network that is trained in the round, which needs the
    pixels here. ``refreshed_at`` as in ``Images.fetch``. Raises ClusterError, ConfigError.
    """
    known = embedded_keys(previous, chosen, snapshot, settings.device)
    if settings.cluster is None or not is_frozen(chosen, snapshot, settings.device):
        return known
    resize = chosen.backbone.resize(settings.image_size)
    new = _new_images(backend, snapshot, resize, known)
    if len(new) < LEAST_IMAGES:
        return known

    def watch(report: Report, total: int) -> None:
        clock.progress("cluster", report.images, total, 0 if report.waits else max(report.machines, 1))

    with clock.phase("cluster"):
        sample, _ = backend.images.fetch(new[:SAMPLE], resize, refreshed_at=refreshed_at)
        shelf = embed_on_cluster(
            settings,
            frozen_network(settings, chosen, sample),
            new,
            backend.images.addresses(uri for _, uri in new),
            resize,
            backend.store.shards(snapshot.project_id),
            watch,
            refreshed_at,
        )
        found = _noted(backend, shelf, dict(new), refreshed_at)
    return known.with_more(found) if known else KeyRows(found)


def _new_images(
    backend: Backend, snapshot: Snapshot, resize: Resize, known: KeyRows | None
) -> list[tuple[int, str]]:
    """The (task id, address) of all images that are not among the ``known``."""
    tasks = [(task_id, uri) for task_id, uri in snapshot.image_uris if uri]
    keys = backend.images.last_keys([uri for _, uri in tasks], resize)
    return [tasks[row] for row in np.flatnonzero(known.find(keys) < 0)] if known else tasks


def _noted(backend: Backend, shelf: Shelf, uris: dict[int, str], refreshed_at: float) -> NDArray[np.uint8]:
    """The keys of the images on the shelf, uint8[m, 32], after their files were noted as read."""
    for source in shelf.sources():
        if uri := uris.get(source.task_id):
            backend.images.note_seen(uri, source.content, source.validator, refreshed_at)
    return shelf.index().keys
