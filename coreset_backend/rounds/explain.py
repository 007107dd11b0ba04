"""What the pages show of a round beside the choice itself, computed while its embeddings are in memory.

Arrays in, named arrays out, saved with the round; the web process only reads them. ``embedded_task_ids``
is what every array "by embedded task" is aligned with.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coreset_backend.project import Labels, Snapshot, Task, class_targets
from coreset_backend.rounds.pool_map import layout
from coreset_backend.selection import NeighborGraph, near_duplicate_groups

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]

ALIKE = 0.85  # near-duplicates have thumbnails that correlate by more than this
COMPARED = 16  # pixels a side of those thumbnails
FLAT = 0.25  # a contrast as small as this, of 255, is that of rounding: images without any are alike
BLANK = 2.0  # an image whose contrast is up to so many times that of its noise shows nothing
ASKED = 10  # labelled neighbours that a label is compared with
LABELS_COMPARED = 20_000


class ImageRows(Protocol):
    """Images by rows, uint8[m, side, side, 3]."""

    def __getitem__(self, rows: Ids, /) -> NDArray[np.uint8]: ...


class PixelRows(ImageRows, Protocol):
    """And whose they are, int64[m]."""

    task_ids: Ids


def gather_evidence(
    snapshot: Snapshot,
    pixels: PixelRows,
    embeddings: Vectors,
    graph: NeighborGraph,
    groups: NDArray[np.int32],
    picked: Sequence[int],
    seed: int,
) -> dict[str, NDArray[Any]]:
    """The arrays by name. ``pixels``, ``embeddings``, ``groups`` have the same rows; ``picked``: task ids."""
    rows = np.searchsorted(snapshot.task_ids, pixels.task_ids)
    codes = label_codes(snapshot.tasks, snapshot.labels)
    labeled = np.array([snapshot.tasks[row].state == "labeled" for row in rows], dtype=bool)
    neighbors, far = pick_neighbors(pixels.task_ids, embeddings, picked, pixels.task_ids[labeled])
    evidence: dict[str, NDArray[Any]] = {
        "label_codes": codes,
        "pick_neighbors": neighbors,
        "pick_distances": far,
        "layout": layout(embeddings, graph, seed),
        "duplicate_groups": groups,
    }
    if snapshot.labels and snapshot.labels.multiple:
        evidence["label_sets"] = label_sets(snapshot.tasks, snapshot.labels)
    elif snapshot.labels:
        known = np.flatnonzero(codes[rows] >= 0)
        suspects, other, shares = label_suspects(embeddings[known], codes[rows][known], seed)
        evidence["suspects"] = pixels.task_ids[known[suspects]]
        evidence["suspect_codes"], evidence["suspect_shares"] = other, shares
    return evidence


def label_codes(tasks: Sequence[Task], labels: Labels | None) -> NDArray[np.int16]:
    """int16[n] by task: the index of the (first) class that its label names, -1 where there is none."""
    index = {name: code for code, name in enumerate(labels.names)} if labels else {}
    return np.array([index.get(task.label[0], -1) if task.label else -1 for task in tasks], dtype=np.int16)


def label_sets(tasks: Sequence[Task], labels: Labels) -> NDArray[np.int8]:
    """int8[n, classes] by task: whether its label names the class, 1 or 0; -1 throughout without a label."""
    sets = class_targets(tasks, labels).astype(np.int8)
    sets[[task.label is None for task in tasks]] = -1
    return sets


def pick_neighbors(
    embedded_task_ids: Ids, embeddings: Vectors, picked: Sequence[int], labeled: Ids
) -> tuple[Ids, Vectors]:
    """Why each pick was made: what it is nearest to, and how far that is.

    int64[k, 2] task ids and float32[k, 2] Euclidean distances, in pick order: the nearest labelled task,
    and the nearest earlier pick. -1 at distance inf where there is none. For k-Center the smaller of the
    two distances is the distance at which the task was picked.
    """
    picks = embeddings[np.searchsorted(embedded_task_ids, picked)]
    centers = embeddings[np.searchsorted(embedded_task_ids, labeled)]
    ids = np.full((len(picks), 2), -1, dtype=np.int64)
    distances = np.full((len(picks), 2), np.inf, dtype=np.float32)
    for place, pick in enumerate(picks):
        for column, (others, names) in enumerate(
            ((centers, labeled), (picks[:place], np.asarray(picked[:place])))
        ):
            if len(others):
                far = np.linalg.norm(others - pick, axis=1)
                nearest = int(far.argmin())
                ids[place, column], distances[place, column] = names[nearest], far[nearest]
    return ids, distances


def duplicate_groups(
    embeddings: Vectors, labeled: Ids, graph: NeighborGraph, pixels: ImageRows
) -> NDArray[np.int32]:
    """int32[m] by embedded task: the number of its group of near-duplicates, -1 where it stands alone.

    ``near_duplicate_groups`` of the embeddings, where the thumbnails look alike too: a network that has
    learned its classes well puts unlike images of one class close together. ``labeled`` are rows.
    """
    return near_duplicate_groups(embeddings, labeled, graph, confirm=lambda pairs: look_alike(pixels, pairs))


def look_alike(pixels: ImageRows, pairs: Ids) -> NDArray[np.bool_]:
    """bool[p]: whether the images of each pair int64[p, 2] correlate, whatever their light and contrast.

    Two that show nothing but noise are alike.
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


def _small(images: NDArray[np.uint8]) -> tuple[Vectors, Vectors]:
    """The means of blocks, float32[m, COMPARED, COMPARED, 3], and the contrast that they would have by noise
    alone, float32[m]: if the pixels of a block were independent of each other."""
    block = images.shape[1] // COMPARED
    side = block * COMPARED
    blocks = images[:, :side, :side].reshape(len(images), COMPARED, block, COMPARED, block, 3)
    means: Vectors = blocks.mean((2, 4), dtype=np.float32)
    noise: Vectors = np.sqrt(blocks.var((2, 4), dtype=np.float32).mean((1, 2, 3))) / block
    return means, noise


def label_suspects(
    vectors: Vectors, codes: NDArray[np.int16], seed: int
) -> tuple[Ids, NDArray[np.int16], Vectors]:
    """Labels that their neighbours contradict, the worst first: rows int64[s], the class that the
    neighbours name int16[s], and the share of them that does float32[s].

    ``vectors`` float32[l, d] and ``codes`` int16[l] are of the labelled images. A label is suspect when, of
    its nearest labelled images (ASKED, but no more than its class has others, or rare classes would always
    be suspect), at most a tenth share it and three quarters agree on one other class.
    """
    classes, n = int(codes.max(initial=-1)) + 1, len(codes)
    asked = np.minimum(np.bincount(codes, minlength=classes)[codes] - 1, ASKED) if n else np.zeros(0, int)
    compared = np.random.default_rng(seed).permutation(n)[:LABELS_COMPARED]
    near = _nearest_codes(vectors, codes, compared)
    shares = np.stack(
        [
            np.bincount(near[row, : max(asked[row], 1)], minlength=classes)[:classes] / max(asked[row], 1)
            for row in range(n)
        ]
        or [np.zeros(classes)]
    )[:n]
    own = shares[np.arange(n), codes] if n else np.zeros(0)
    shares[np.arange(n), codes] = 0
    other = shares.argmax(1) if classes else np.zeros(0, dtype=np.int64)
    agreeing = shares.max(1, initial=0)
    rows = np.flatnonzero((asked >= 4) & (own <= 0.1) & (agreeing >= 0.75))
    rows = rows[np.argsort(-agreeing[rows], kind="stable")]
    return rows, other[rows].astype(np.int16), agreeing[rows].astype(np.float32)


def _nearest_codes(vectors: Vectors, codes: NDArray[np.int16], compared: Ids) -> NDArray[np.int16]:
    """int16[l, ASKED]: the classes of each row's nearest others among ``compared``, nearest first."""
    others = vectors[compared]
    squares = np.einsum("ij,ij->i", others, others)
    near = np.zeros((len(vectors), ASKED), dtype=np.int16)
    for start in range(0, len(vectors), 512):
        rows = np.arange(start, min(start + 512, len(vectors)))
        far = squares - 2 * vectors[rows] @ others.T  # the row's own square changes no order
        far[rows[:, None] == compared] = np.inf
        few = np.argpartition(far, min(ASKED, len(others) - 1), axis=1)[:, :ASKED]
        found = np.take_along_axis(few, np.argsort(np.take_along_axis(far, few, 1), axis=1), 1)
        near[rows, : found.shape[1]] = codes[compared[found]]
    return near
