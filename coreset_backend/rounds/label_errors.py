"""Labels that their neighbours contradict."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows

ASKED = 10  # labelled neighbours that a label is compared with


LABELS_COMPARED = 20_000


def label_suspects(
    vectors: Floats, codes: NDArray[np.int16], seed: int
) -> tuple[Rows, NDArray[np.int16], Floats]:
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


def _nearest_codes(vectors: Floats, codes: NDArray[np.int16], compared: Rows) -> NDArray[np.int16]:
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
