"""Near-duplicate images: close in the embedding, with similar thumbnails."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, PixelRows, Rows
from coreset_backend.selection import NeighborGraph, near_duplicate_groups

ALIKE = 0.85  # near-duplicates have thumbnails that correlate by more than this


COMPARED = 16  # pixels a side of those thumbnails


FLAT = 0.25  # a contrast as small as this, of 255, is that of rounding: images without any are alike


Compare = Callable[[PixelRows, Rows], NDArray[np.bool_]]


BLANK = 2.0  # an image whose contrast is up to so many times that of its noise shows nothing


def duplicate_groups(
    embeddings: Floats,
    labeled: Rows,
    graph: NeighborGraph,
    pixels: PixelRows,
    confirm: Compare | None = None,
) -> NDArray[np.int32]:
    """int32[m] by embedded task: the number of its group of near-duplicates, -1 where it stands alone.

    The ``near_duplicate_groups`` of the embeddings whose thumbnails look alike too: a well-trained network
    puts different images of one class close together. ``labeled`` are rows. ``confirm``: what compares the
    images of pairs, ``look_alike`` by default.
    """
    compare = confirm or look_alike
    return near_duplicate_groups(embeddings, labeled, graph, confirm=lambda pairs: compare(pixels, pairs))


def look_alike(pixels: PixelRows, pairs: Rows) -> NDArray[np.bool_]:
    """bool[p]: whether the images of each pair int64[p, 2] correlate, regardless of light and contrast.

    Two images of noise only count as alike.
    """
    rows = np.unique(pairs)
    values = COMPARED * COMPARED * 3
    small = np.full((len(rows), values + 1), FLAT * values**0.5, dtype=np.float32)
    for start in range(0, len(rows), 256):
        part, noise = _small(pixels[rows[start : start + 256]])
        part -= part.mean((1, 2, 3), keepdims=True)
        part[part.std((1, 2, 3)) < BLANK * noise] = 0
        small[start : start + 256, :values] = part.reshape(len(part), -1)
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    alike = np.empty(len(pairs), dtype=bool)
    for start in range(0, len(pairs), 4096):
        first, second = np.searchsorted(rows, pairs[start : start + 4096]).T
        alike[start : start + 4096] = np.einsum("ij,ij->i", small[first], small[second]) > ALIKE
    return alike


def _small(images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """The means of blocks, float32[m, COMPARED, COMPARED, 3], and the contrast that they would have by noise
    alone, float32[m]: if the pixels of a block were independent of each other."""
    block = images.shape[1] // COMPARED
    side = block * COMPARED
    blocks = images[:, :side, :side].reshape(len(images), COMPARED, block, COMPARED, block, 3)
    means: Floats = blocks.mean((2, 4), dtype=np.float32)
    noise: Floats = np.sqrt(blocks.var((2, 4), dtype=np.float32).mean((1, 2, 3))) / block
    return means, noise
