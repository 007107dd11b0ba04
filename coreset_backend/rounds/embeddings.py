"""The embeddings of a round, reused from the previous round if neither network nor image has changed.

A frozen network gives the same embedding for the same image, so a round embeds only new tasks; a network
that was trained in the round has other weights and therefore another name.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.arrays import Floats, KeyRows, Progress, Rows, forget_pages
from coreset_backend.errors import CorruptRound
from coreset_backend.fleet.local import Features, PoolPixels, pool_features
from coreset_backend.project import Snapshot
from coreset_backend.store.saved_round import StoredRound

log = logging.getLogger(__name__)
AT_ONCE = 8192
"""Images whose features are held at once: 109 MB of EfficientNet-Lite0's."""


def is_frozen(chosen: model.ChosenBackbone, snapshot: Snapshot, device: str) -> bool:
    """Whether the network embeds the same image alike in each round: the labels are too few to change it."""
    labels = sum(task.label is not None for task in snapshot.tasks)
    return not model.trains_network(chosen, labels, device)


def embedded_keys(
    previous: StoredRound | None, chosen: model.ChosenBackbone, snapshot: Snapshot, device: str
) -> KeyRows | None:
    """The images, by their keys, of which the previous round has embeddings that this round can use."""
    if previous is None or not previous.record.backbone.startswith(chosen.description):
        return None
    if not is_frozen(chosen, snapshot, device) or not previous.has("image_keys"):
        return None
    return _keys(previous)


def count_embedded(previous: StoredRound | None, network: str, keys: NDArray[np.uint8]) -> int:
    """Number of the images ``keys`` uint8[n, 32] that the previous round had not embedded by ``network``."""
    if previous is None or previous.record.network != network or not previous.has("image_keys"):
        return len(keys)
    known = _keys(previous)
    return int((known.find(keys) < 0).sum()) if known else len(keys)


def _keys(stored: StoredRound) -> KeyRows | None:
    try:
        return KeyRows(stored.array("image_keys"))
    except CorruptRound as error:
        log.error("all images are looked for again: %s", error)
        return None


def embed_round(
    classifier: model.Classifier,
    pixels: PoolPixels,
    previous: StoredRound | None,
    step: Progress | None = None,
    shards: Path | None = None,
) -> Floats:
    """float32[n, dimension]: the classifier's embeddings of all images.

    ``shards``: a folder that keeps them until the round is saved. Raises NotFinite, OutOfMemory.
    """
    known, vectors = _known(model.network_name(classifier), pixels, previous)
    fresh = np.flatnonzero(known < 0)
    embeddings = np.empty((len(pixels), classifier.dimension), np.float32)
    _take_over(embeddings, known, vectors)
    if len(fresh):
        embeddings[fresh] = pool_features(classifier, pixels, fresh, shards, step)(fresh, step)
    log.info("%d of %d images were embedded, the others are unchanged", len(fresh), len(pixels))
    return embeddings


def embed_prepared(
    frozen: model.Classifier,
    pixels: PoolPixels,
    previous: StoredRound | None,
    seed: int,
    step: Progress | None = None,
    shards: Path | None = None,
) -> tuple[model.Classifier, Floats]:
    """``frozen`` with the preparation of its features, and the embeddings float32[n, dimension].

    The previous round's preparation is used while it fits, so that only new images are embedded; otherwise a
    new one is fitted on all images. ``shards``: a folder that keeps features until the round is saved. Raises
    NotFinite, OutOfMemory.
    """
    before = _preparation_before(model.features_name(frozen), previous)
    if before:
        classifier = replace(frozen, preparation=before)
        known, vectors = _known(model.network_name(classifier), pixels, previous)
        fresh = np.flatnonzero(known < 0)
        some = fresh[model.fitted_rows(len(fresh), seed)]
        features_of = pool_features(frozen, pixels, fresh, shards, step)
        features = features_of(some, step)
        if before.fits(features, len(pixels)):
            embeddings = np.empty((len(pixels), classifier.dimension), np.float32)
            _take_over(embeddings, known, vectors)
            embeddings[some] = model.prepared(before, features)
            _embed_rest(features_of, before, np.setdiff1d(fresh, some), embeddings, step)
            log.info("%d of %d images were embedded, the others are unchanged", len(fresh), len(pixels))
            return classifier, embeddings
        log.info("a new preparation is fitted: the pool has changed since the last fit")
    everything = np.arange(len(pixels), dtype=np.int64)
    return prepare_all(pool_features(frozen, pixels, everything, shards, step), seed, step)


def prepare_all(
    features_of: Features, seed: int, step: Progress | None = None
) -> tuple[model.Classifier, Floats]:
    """The network with a preparation fitted on these images, and their embeddings float32[n, dimension].

    Features are held of the images that it is fitted on, and of the others some thousand at a time.
    """
    frozen, pixels = features_of.frozen, features_of.pixels
    rows = model.fitted_rows(len(pixels), seed)
    features = features_of(rows, step)
    preparation = model.preparation_by(features, len(pixels))
    classifier = replace(frozen, preparation=preparation)
    embeddings = np.empty((len(pixels), classifier.dimension), np.float32)
    embeddings[rows] = model.prepared(preparation, features)
    del features
    rest = np.setdiff1d(np.arange(len(pixels)), rows, assume_unique=True)
    _embed_rest(features_of, preparation, rest, embeddings, step)
    return classifier, embeddings


def _embed_rest(
    features_of: Features,
    preparation: model.Preparation,
    rows: Rows,
    embeddings: Floats,
    step: Progress | None,
) -> None:
    """Embed the images of ``rows`` into ``embeddings``, without holding the features of all of them."""
    done, total = len(embeddings) - len(rows), len(embeddings)
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        before = done + start
        tell = (lambda some, _, before=before: step(before + some, total)) if step else None
        embeddings[part] = model.prepared(preparation, features_of(part, tell))


def _take_over(embeddings: Floats, known: Rows, vectors: Floats) -> None:
    """Copy the vectors of the rows that are ``known`` (int64[n], -1 if not), some thousand at a time."""
    rows = np.flatnonzero(known >= 0)
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        embeddings[part] = vectors[known[part]]
        forget_pages(vectors)


def _preparation_before(features: str, previous: StoredRound | None) -> model.Preparation | None:
    """The previous round's preparation of the same features; None if it had others, or none."""
    if previous is None:
        return None
    try:
        return model.load_preparation(previous.file("model.safetensors"), features)
    except CorruptRound as error:
        log.error("a new preparation is fitted: %s", error)
        return None


def _known(network: str, pixels: PoolPixels, previous: StoredRound | None) -> tuple[Rows, Floats]:
    """Each image's row in the previous round's embeddings, int64[n], -1 if none; and these embeddings."""
    nowhere = np.full(len(pixels), -1, dtype=np.int64)
    nothing = nowhere, np.empty((0, 0), np.float32)
    if previous is None or previous.record.network != network or not previous.has("image_keys"):
        return nothing
    try:
        before, vectors = previous.array("image_keys"), previous.array("embeddings", mapped=True)
    except CorruptRound as error:
        log.error("all images are embedded again: %s", error)
        return nothing
    return KeyRows(before).find(pixels.keys), vectors
