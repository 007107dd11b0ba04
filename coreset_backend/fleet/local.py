"""Computes the features of a pool in this process."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.arrays import Floats, PixelRows, PixelSubset, Progress, Rows, TaskIds
from coreset_backend.fleet.plan import LEAST_IMAGES, plan_shards
from coreset_backend.fleet.shelf import Embedded, Index, Shelf

log = logging.getLogger(__name__)


class PoolPixels(PixelRows, Protocol):
    """Images by rows, the task of each, int64[n], and its key, uint8[n, 32]."""

    keys: NDArray[np.uint8]
    task_ids: TaskIds


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The features of images by rows of ``pixels``: read from the shards of ``index`` where they are there,
    else computed. ``places`` int64[n]: each image's place in the index."""

    frozen: model.Classifier
    pixels: PixelRows
    index: Index | None = None
    places: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __call__(self, rows: Rows, step: Progress | None = None) -> Floats:
        """float32[len(rows), dimension]. Raises NotFinite, OutOfMemory."""
        if self.index is None:
            return model.embed(self.frozen, PixelSubset(self.pixels, rows), progress=step)
        features = np.empty((len(rows), self.frozen.dimension), np.float32)
        missing = ~self.index.read(self.places[rows], features)
        if missing.any():
            features[missing] = model.embed(
                self.frozen, PixelSubset(self.pixels, rows[missing]), progress=step
            )
        return features


def pool_features(
    frozen: model.Classifier,
    pixels: PoolPixels,
    rows: Rows,
    folder: Path | None = None,
    step: Progress | None = None,
) -> Features:
    """The features of the images of ``rows``, ascending, which are all needed.

    Many are computed in shards, each kept in ``folder``: a round that was killed computes only the others.
    Few are computed when they are asked for, and without a folder all are. Raises NotFinite, OutOfMemory.
    """
    if folder is None or (len(rows) < LEAST_IMAGES and not folder.exists()):
        return Features(frozen, pixels)
    network = model.features_name(frozen)
    shelf = Shelf(folder, network)
    try:
        shelf.prepare()
        _embed_missing(frozen, pixels, rows, shelf, network, step)
    except OSError as error:  # a full disk: the others are computed when they are asked for
        log.warning("the shards of this round cannot be kept: %s", error)
    index = shelf.index()
    return Features(frozen, pixels, index, index.find(pixels.keys))


def _embed_missing(
    frozen: model.Classifier,
    pixels: PoolPixels,
    rows: Rows,
    shelf: Shelf,
    network: str,
    step: Progress | None,
) -> None:
    keys, done = pixels.keys[rows], 0
    is_there = shelf.index().find(keys) >= 0
    for shard in plan_shards(network, pixels.task_ids[rows], [key.tobytes().hex() for key in keys]):
        if not is_there[shard.rows].all():
            features = model.embed(frozen, PixelSubset(pixels, rows[shard.rows]))
            shelf.put(shard.name, Embedded(keys[shard.rows], features).packed())
        done += len(shard.rows)
        if step:
            step(done, len(rows))
