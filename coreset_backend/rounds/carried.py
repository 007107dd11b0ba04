"""What a round carries over from the one before, where the network has not changed.

The images that stayed keep their neighbours, their place on the map, and the answer to whether two of them
look alike. All of it is computed anew if much of the pool is new: neighbours of removed images are missing.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, PixelRows, Rows, TaskIds
from coreset_backend.errors import CorruptRound
from coreset_backend.images import Pixels
from coreset_backend.reports import Work
from coreset_backend.rounds.near_duplicates import duplicate_groups, look_alike
from coreset_backend.rounds.pool_map import followed_layout, layout
from coreset_backend.selection import NeighborGraph, neighbors_for
from coreset_backend.selection.followed_graph import MOST_ADDED, followed_graph
from coreset_backend.selection.graph import ExactIndex, Nearest
from coreset_backend.selection.neighbor_search import FAISS_FROM, build_index
from coreset_backend.store.saved_round import Arrays, Draft, StoredRound

log = logging.getLogger(__name__)

MOST_CHANGED = 0.2
"""The share of images that came or went since the last search, up to which the graph follows the pool."""
LEAST_WIDTH = 0.9
"""A graph has at least this share of the near rows that a pool of its size should have."""


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """An earlier round by the rows of this one.

    ``before``: int64[m], each image's row in the earlier round, ascending, -1 if it was not there or had
    another file. ``changed``: number of images that came or went since the neighbours of all were searched.
    """

    before: Rows
    changed: int
    graph: NeighborGraph
    layout: NDArray[np.uint16]
    compared: "ComparedPairs"


class ComparedPairs:
    """Whether pairs of the images look alike; pairs that an earlier round compared are not read again.

    ``codes``: int64[p], ascending, a pair (a, b) of rows with a < b as a * m + b; ``alike``: bool[p].
    """

    def __init__(self, m: int, codes: Rows | None = None, alike: NDArray[np.bool_] | None = None) -> None:
        self._m, self.read = m, 0
        self._codes = np.empty(0, np.int64) if codes is None else codes
        self._alike = np.empty(0, bool) if alike is None else alike
        self._new: list[tuple[Rows, NDArray[np.bool_]]] = []

    def confirm(self, pixels: PixelRows, pairs: Rows) -> NDArray[np.bool_]:
        """bool[p] for the pairs int64[p, 2], as ``look_alike``."""
        ordered = np.sort(pairs, axis=1)
        codes = ordered[:, 0] * self._m + ordered[:, 1]
        place = np.searchsorted(self._codes, codes).clip(max=max(len(self._codes) - 1, 0))
        known = self._codes[place] == codes if len(self._codes) else np.zeros(len(codes), dtype=bool)
        alike = np.zeros(len(codes), dtype=bool)
        alike[known] = self._alike[place[known]]
        if not known.all():
            alike[~known] = look_alike(pixels, ordered[~known])
            self._new.append((codes[~known], alike[~known]))
            self.read += int((~known).sum())
        return alike

    def arrays(self) -> Arrays:
        """``compared_pairs`` int32[p, 2] and ``compared_alike`` bool[p], by image rows."""
        codes = np.concatenate([self._codes, *(codes for codes, _ in self._new)])
        alike = np.concatenate([self._alike, *(alike for _, alike in self._new)])
        codes, first = np.unique(codes, return_index=True)
        pairs = np.stack(np.divmod(codes, max(self._m, 1)), axis=1).astype(np.int32)
        return {"compared_pairs": pairs, "compared_alike": alike[first]}


def carried_over(
    previous: StoredRound | None, network: str, task_ids: TaskIds, keys: NDArray[np.uint8]
) -> Carried | None:
    """What the images ``task_ids`` int64[m] with the ``keys`` uint8[m, 32] keep from the previous round.

    None if it had another network, saved no graph, is damaged, or if too many images came or went.
    """
    if previous is None or previous.record.network != network or not previous.has("neighbor_rows"):
        return None
    try:
        with previous.reading():
            return _carried(previous, task_ids, keys)
    except CorruptRound as error:
        log.error("neighbours and map are computed for all images: %s", error)
        return None


def _carried(previous: StoredRound, task_ids: TaskIds, keys: NDArray[np.uint8]) -> Carried | None:
    known_ids, known_keys = previous.array("embedded_task_ids"), previous.array("image_keys")
    place = np.searchsorted(known_ids, task_ids).clip(max=len(known_ids) - 1)
    stayed = (known_ids[place] == task_ids) & (known_keys[place] == keys).all(axis=1)
    before = np.where(stayed, place, -1)
    added, removed = int((~stayed).sum()), len(known_ids) - int(stayed.sum())
    changed = (previous.record.work.changed if previous.record.work else 0) + added + removed
    graph = NeighborGraph(
        previous.array("neighbor_rows", mapped=True), previous.array("neighbor_distances", mapped=True)
    )
    width = LEAST_WIDTH * neighbors_for(len(task_ids))
    if added > MOST_ADDED or changed > MOST_CHANGED * len(task_ids) or graph.rows.shape[1] < width:
        return None
    compared = _compared_before(previous, before, len(known_ids))
    return Carried(before, changed, graph, previous.array("layout"), compared)


def _compared_before(previous: StoredRound, before: Rows, count: int) -> ComparedPairs:
    now = np.full(count, -1, dtype=np.int64)
    now[before[before >= 0]] = np.flatnonzero(before >= 0)
    pairs, alike = now[previous.array("compared_pairs")], previous.array("compared_alike")
    kept = (pairs >= 0).all(axis=1)
    codes = pairs[kept, 0] * len(before) + pairs[kept, 1]
    order = np.argsort(codes)
    return ComparedPairs(len(before), codes[order], alike[kept][order])


@dataclass(frozen=True, slots=True, eq=False)
class Neighborhood:
    """The near rows of every image, ``groups`` int32[m] of near-duplicates, and what they are based on."""

    index: Nearest
    graph: NeighborGraph
    groups: NDArray[np.int32]
    compared: ComparedPairs
    carried: Carried | None
    index_name: str

    def places(self, embeddings: Floats, seed: int) -> NDArray[np.uint16]:
        """uint16[m, 2]: the places of all images on the map; those that stayed keep theirs."""
        if self.carried is None:
            return layout(embeddings, self.graph, seed)
        return followed_layout(self.carried.layout, self.carried.before, self.graph, seed)

    def kept(self, draft: Draft) -> "Neighborhood":
        """The same with its graph written to the draft, so that memory need not hold it."""
        rows = draft.keep("neighbor_rows", self.graph.rows)
        distances = draft.keep("neighbor_distances", self.graph.distances)
        return replace(self, graph=NeighborGraph(rows, distances, self.graph.normalized))

    def arrays(self) -> Arrays:
        """What the next round can carry over, besides the map."""
        graph: Arrays = {"neighbor_rows": self.graph.rows, "neighbor_distances": self.graph.distances}
        return graph | self.compared.arrays()

    def work(self, pixels: Pixels, embedded: int) -> Work:
        """What was computed for a round on ``pixels``, of which so many were ``embedded``."""
        return Work(
            images=len(pixels),
            touched=pixels.touched,
            embedded=embedded,
            searched=self.carried is None,
            changed=self.carried.changed if self.carried else 0,
            compared=self.compared.read,
            index=self.index_name,
        )


def neighborhood(
    carried: Carried | None,
    embeddings: Floats,
    pixels: PixelRows,
    labeled: Rows,
    path: Path,
    seed: int,
    faiss_from: int = FAISS_FROM,
) -> Neighborhood:
    """The neighbours and near-duplicates of all images; ``labeled`` are rows.

    If the neighbours of all are searched, an index of Annoy is written to ``path``, and from ``faiss_from``
    images on faiss searches.
    """
    k, compared = neighbors_for(len(embeddings)), ComparedPairs(len(embeddings))
    nearest: Nearest
    name = ""
    if carried is None:
        nearest = built = build_index(embeddings, path, seed=seed, faiss_from=faiss_from)
        graph, name = built.graph(k), built.name
    else:
        nearest, compared = ExactIndex(embeddings), carried.compared
        graph = followed_graph(carried.graph, carried.before, embeddings, k)
    groups = duplicate_groups(embeddings, labeled, graph, pixels, compared.confirm)
    return Neighborhood(nearest, graph, groups, compared, carried, name)
