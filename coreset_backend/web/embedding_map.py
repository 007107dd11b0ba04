"""The embedding map of a round, packed for the browser that draws it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.evaluation.scores import answer_codes
from coreset_backend.store.record import STATES
from coreset_backend.store.saved_round import StoredRound

NO_CLUSTER = 255
MOST_DRAWN = 50_000
"""Points that are sent and drawn; of more images a sample, with the counts of all."""


def map_bytes(stored: StoredRound) -> bytes:
    """The embedding map for a browser, little-endian: uint32 n, version 2 or 3; then n values of each of

    float64 task id, uint16 x and y (in pairs), int16 label, int16 predicted class (-1 for none, else
    the place in class_table; of several classes the first and the likeliest), uint8 state (by index in
    STATES), uint8 cluster (0 the largest; all 255 in rounds of early releases). Raises CorruptRound.

    Version 3 is that of more than MOST_DRAWN images: a sample with all of batch, reserve and suspected label
    errors. Behind its version stand uint32 number of all images and uint32 0; behind its points, for
    state, label, predicted class and cluster in turn, uint32 m and m pairs of int32 value and uint32 number
    of images that have it.
    """
    with stored.reading():
        points = _points(stored)
        if len(points.rows) <= MOST_DRAWN:
            return np.array([len(points.rows), 2], dtype="<u4").tobytes() + points.packed()
        drawn = _drawn(stored, points)
        head = np.array([len(drawn), 3, len(points.rows), 0], dtype="<u4").tobytes()
        return head + points.packed(drawn) + points.counts()


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """By image row: its task, place and colours. ``rows``: int64[m], its row among all tasks."""

    rows: NDArray[np.int64]
    task_ids: NDArray[np.int64]
    places: NDArray[np.uint16]
    labels: NDArray[np.int16]
    predicted: NDArray[np.int16]
    states: NDArray[np.uint8]
    clusters: NDArray[np.uint8]

    def packed(self, drawn: NDArray[np.int64] | slice = slice(None)) -> bytes:
        parts = (
            self.task_ids[drawn].astype("<f8"),
            self.places[drawn].astype("<u2"),
            self.labels[drawn].astype("<i2"),
            self.predicted[drawn].astype("<i2"),
            self.states[drawn].astype("u1"),
            self.clusters[drawn].astype("u1"),
        )
        return b"".join(part.tobytes() for part in parts)

    def counts(self) -> bytes:
        told = b""
        for values in (self.states, self.labels, self.predicted, self.clusters):
            counts = np.bincount(values.astype(np.int32) + 1)
            codes = np.flatnonzero(counts)
            pairs = np.column_stack([codes - 1, counts[codes]]).astype("<i4")
            told += np.uint32(len(codes)).astype("<u4").tobytes() + pairs.tobytes()
        return told


def _points(stored: StoredRound) -> _Points:
    task_ids, embedded = stored.array("task_ids", mapped=True), stored.array("embedded_task_ids", mapped=True)
    rows = np.searchsorted(task_ids, embedded)
    labels, predicted = stored.record.labels, np.full(len(rows), -1, np.int16)
    given = stored.array("label_codes", mapped=True)[rows]
    if labels and stored.has("predicted"):
        predicted = stored.array("predicted", mapped=True)
    elif labels and stored.has("probabilities"):
        predicted = answer_codes(stored.array("probabilities", mapped=True), labels.multiple)
    if labels and stored.has("label_sets"):
        given = np.where(
            (stored.array("label_sets", mapped=True)[rows] == 0).all(1), len(labels.names), given
        )
    clusters = (
        stored.array("clusters", mapped=True) if stored.has("clusters") else np.full(len(rows), NO_CLUSTER)
    )
    places, states = stored.array("layout", mapped=True), stored.array("states", mapped=True)[rows]
    return _Points(rows, embedded, places, given, predicted, states, clusters.astype(np.uint8))


def _drawn(stored: StoredRound, points: _Points) -> NDArray[np.int64]:
    """MOST_DRAWN image rows, ascending: what a lead looks for, up to half of it labelled, and chance."""
    rng = np.random.default_rng(stored.record.number)
    wanted = np.isin(points.states, [STATES.index("selected"), STATES.index("reserve")])
    if stored.has("suspects"):
        wanted |= np.isin(points.task_ids, stored.array("suspects"))
    first = np.flatnonzero(wanted)[:MOST_DRAWN]
    is_labeled = (points.states == STATES.index("labeled")) & ~wanted
    labeled = rng.permutation(np.flatnonzero(is_labeled))[: max(MOST_DRAWN // 2 - len(first), 0)]
    others = rng.permutation(np.flatnonzero(~is_labeled & ~wanted))
    return np.sort(np.concatenate([first, labeled, others[: MOST_DRAWN - len(first) - len(labeled)]]))
