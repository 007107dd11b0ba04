"""The embedding map of a round, packed for the browser that draws it."""

import numpy as np

from coreset_backend.evaluation.scores import named_classes
from coreset_backend.store.saved_round import StoredRound

NO_CLUSTER = 255


def map_bytes(stored: StoredRound) -> bytes:
    """The embedding map for a browser, little-endian: uint32 n and version 2; then n values of each of

    float64 task id, uint16 x and y (in pairs), int16 label, int16 predicted class (-1 for none, else
    the place in class_table; of several classes the first and the likeliest), uint8 state (by index in
    STATES), uint8 cluster (0 the largest; all 255 in rounds of early releases). Raises CorruptRound.
    """
    with stored.reading():
        return _map_bytes(stored)


def _map_bytes(stored: StoredRound) -> bytes:
    task_ids, embedded = stored.array("task_ids"), stored.array("embedded_task_ids")
    rows = np.searchsorted(task_ids, embedded)
    labels, predicted = stored.record.labels, np.full(len(rows), -1)
    given = stored.array("label_codes")[rows]
    if labels and stored.has("probabilities"):
        probabilities = stored.array("probabilities")
        named = named_classes(probabilities, labels.multiple)
        predicted = np.where(named.any(1), probabilities.argmax(1), len(labels.names))
    if labels and stored.has("label_sets"):
        given = np.where((stored.array("label_sets")[rows] == 0).all(1), len(labels.names), given)
    clusters = stored.array("clusters") if stored.has("clusters") else np.full(len(rows), NO_CLUSTER)
    parts = (
        np.array([len(rows), 2], dtype="<u4"),
        embedded.astype("<f8"),
        stored.array("layout").astype("<u2"),
        given.astype("<i2"),
        predicted.astype("<i2"),
        stored.array("states")[rows].astype("u1"),
        clusters.astype("u1"),
    )
    return b"".join(part.tobytes() for part in parts)
