"""Suspected label errors: labels that differ from those of the nearest labelled images."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows
from coreset_backend.selection import nearest_others

ASKED = 10
"""Number of labelled neighbours that a label is compared with."""
LEAST_ASKED = 4
"""With fewer neighbours, as in a rare class, no label is suspected."""
MOST_SHARING = 0.1
LEAST_AGREEING = 0.75
LABELS_COMPARED = 20_000
"""Neighbours are searched among at most this many labels, randomly sampled: time is n²."""


def label_suspects(
    vectors: Floats, codes: NDArray[np.int16], seed: int
) -> tuple[Rows, NDArray[np.int16], Floats]:
    """Suspect labels, the worst first: rows int64[s], the class that the neighbours suggest int16[s], and
    the share of the neighbours that have it float32[s].

    ``vectors`` float32[l, d] and ``codes`` int16[l] are of the labelled images. A label is suspect when, of
    its nearest labelled images (ASKED, but no more than its class has others, or rare classes would always
    be suspect), at most a tenth share it and three quarters agree on one other class.
    """
    if not len(codes):
        return np.empty(0, np.int64), np.empty(0, np.int16), np.empty(0, np.float32)
    asked = np.minimum(np.bincount(codes)[codes] - 1, ASKED)
    compared = np.random.default_rng(seed).permutation(len(codes))[:LABELS_COMPARED]
    near, _ = nearest_others(vectors, ASKED, among=compared)
    shares = _class_shares(codes[near], asked, int(codes.max()) + 1)
    every = np.arange(len(codes))
    own = shares[every, codes]
    shares[every, codes] = 0
    suggested, agreeing = shares.argmax(1), shares.max(1)
    rows = np.flatnonzero((asked >= LEAST_ASKED) & (own <= MOST_SHARING) & (agreeing >= LEAST_AGREEING))
    rows = rows[np.argsort(-agreeing[rows], kind="stable")]
    return rows, suggested[rows].astype(np.int16), agreeing[rows].astype(np.float32)


def _class_shares(near: NDArray[np.int16], asked: Rows, classes: int) -> NDArray[np.float64]:
    """float64[l, classes]: the share of each class in the first ``asked`` (int64[l]) neighbours."""
    shares = np.zeros((len(near), classes))
    for row, count in enumerate(asked):
        shares[row] = np.bincount(near[row, :count], minlength=classes) / max(count, 1)
    return shares
