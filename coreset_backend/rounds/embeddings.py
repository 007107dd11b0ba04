"""The embeddings of a round, reused from the previous round if neither network nor image has changed.

A frozen network gives the same embedding for the same image, so a round embeds only new tasks; a network
that was trained in the round has other weights and therefore another name.
"""

import logging
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.arrays import Floats, PixelRows, PixelSubset, Progress, Rows
from coreset_backend.errors import CorruptRound
from coreset_backend.store.saved_round import StoredRound

log = logging.getLogger(__name__)


class KeyedPixels(PixelRows, Protocol):
    """Images by rows and the key of each, uint8[n, 32]."""

    keys: NDArray[np.uint8]


def embed_round(
    classifier: model.Classifier,
    pixels: KeyedPixels,
    previous: StoredRound | None,
    step: Progress | None = None,
) -> Floats:
    """float32[n, dimension]: the classifier's embeddings of all images.

    Raises NotFinite, OutOfMemory.
    """
    known, vectors = _known(model.network_name(classifier), pixels, previous)
    fresh = np.flatnonzero(known < 0)
    embeddings = np.empty((len(pixels), classifier.dimension), np.float32)
    if len(fresh) < len(pixels):
        embeddings[known >= 0] = vectors[known[known >= 0]]
    if len(fresh):
        embeddings[fresh] = model.embed(classifier, PixelSubset(pixels, fresh), progress=step)
    log.info("%d of %d images were embedded, the others are unchanged", len(fresh), len(pixels))
    return embeddings


def embed_prepared(
    frozen: model.Classifier,
    pixels: KeyedPixels,
    previous: StoredRound | None,
    seed: int,
    step: Progress | None = None,
) -> tuple[model.Classifier, Floats]:
    """``frozen`` with the preparation of its features, and the embeddings float32[n, dimension].

    The previous round's preparation is used while it fits, so that only new images are embedded; otherwise a
    new one is fitted on all images. Raises NotFinite, OutOfMemory.
    """
    before = _preparation_before(model.features_name(frozen), previous)
    if before:
        classifier = replace(frozen, preparation=before)
        known, vectors = _known(model.network_name(classifier), pixels, previous)
        fresh = np.flatnonzero(known < 0)
        features = model.embed(frozen, PixelSubset(pixels, fresh), progress=step)
        if before.fits(features, len(pixels)):
            embeddings = np.empty((len(pixels), classifier.dimension), np.float32)
            embeddings[known >= 0] = vectors[known[known >= 0]]
            embeddings[fresh] = model.prepared(before, features)
            log.info("%d of %d images were embedded, the others are unchanged", len(fresh), len(pixels))
            return classifier, embeddings
        log.info("a new preparation is fitted: the pool has changed since the last fit")
    return prepare_all(frozen, pixels, seed, step)


def prepare_all(
    frozen: model.Classifier, pixels: PixelRows, seed: int, step: Progress | None = None
) -> tuple[model.Classifier, Floats]:
    """``frozen`` with a preparation fitted on these images, and their embeddings float32[n, dimension]."""
    features = model.embed(frozen, pixels, progress=step)
    preparation = model.fit_preparation(features, seed)
    return replace(frozen, preparation=preparation), model.prepared(preparation, features)


def _preparation_before(features: str, previous: StoredRound | None) -> model.Preparation | None:
    """The previous round's preparation of the same features; None if it had others, or none."""
    if previous is None:
        return None
    try:
        return model.load_preparation(previous.path / "model.safetensors", features)
    except CorruptRound as error:
        log.error("a new preparation is fitted: %s", error)
        return None


def _known(network: str, pixels: KeyedPixels, previous: StoredRound | None) -> tuple[Rows, Floats]:
    """Each image's row in the previous round's embeddings, int64[n], -1 if none; and these embeddings."""
    nowhere = np.full(len(pixels), -1, dtype=np.int64)
    nothing = nowhere, np.empty((0, 0), np.float32)
    if previous is None or previous.record.network != network or not previous.has("image_keys"):
        return nothing
    try:
        before, vectors = previous.array("image_keys"), previous.array("embeddings")
    except CorruptRound as error:
        log.error("all images are embedded again: %s", error)
        return nothing
    rows = {key.tobytes(): row for row, key in enumerate(before)}
    return np.array([rows.get(key.tobytes(), -1) for key in pixels.keys], dtype=np.int64), vectors
