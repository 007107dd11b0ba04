"""Search by example: rows that are like marked ones count more, or less, in the selection."""

import numpy as np

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.selection.graph import Nearest
from coreset_backend.selection.herding import WIDTH
from coreset_backend.selection.options import Around, measured_again
from coreset_backend.selection.pool import Pool, Selection

WEIGHTED = frozenset({"max_herding", "uncertainty_herding"})
"""The strategies whose gain Pool.weights multiplies."""
NEAR_SHARE = 0.1
LEAST_NEAR, MOST_NEAR = 50, 2000
"""Near rows of an example that it has a say in: a tenth of the pool within these."""
FORESIGHT = 4
"""How many times the batch another strategy orders, before the order is weighed."""


def example_weights(index: Nearest, vectors: Vectors, rows: Rows, weights: Floats) -> Floats:
    """How much each row counts, float32[n]: 1 where nothing like it is marked.

    ``rows`` (int64[m]) are the marked rows and ``weights`` (float32[m], above 0) what images just like them
    count. With the likeness s in [0, 1], the kernel of herding, a row counts weight^s; among several
    examples the most alike raises it, the most alike lowers it, and both multiply.
    """
    n = len(vectors)
    raised, lowered = np.zeros(n), np.zeros(n)
    near, _ = index.nearest(rows, min(n, max(LEAST_NEAR, min(MOST_NEAR, round(NEAR_SHARE * n)))))
    for row, found, weight in zip(rows, near, weights, strict=True):
        others = found[found >= 0]
        likeness = _likeness(vectors[row], vectors[others])
        side = raised if weight > 1 else lowered
        side[others] = np.maximum(side[others], abs(float(np.log(weight))) * likeness)
    return np.exp(raised - lowered).astype(np.float32)


def _likeness(vector: Vectors, others: Vectors) -> Floats:
    """The kernel of herding between a vector and others, float32[m]; 1 for the same direction."""
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(vector)
    cosine = others.astype(np.float32) @ vector.astype(np.float32) / np.maximum(lengths, 1e-12)
    return np.asarray(np.exp((2 * cosine - 2) / WIDTH))


def by_examples(strategy: Around) -> Around:
    """``strategy`` as another whose order is weighed: what would come as pick 40 and counts 4 comes as 10.

    For strategies that do not multiply their gain by Pool.weights.
    """

    def choose(pool: Pool, batch: int, rng: np.random.Generator, **more: object) -> Selection:
        if pool.weights is None:
            return strategy(pool, batch, rng, **more)
        order = strategy(pool, FORESIGHT * batch, rng, **more)
        places = np.arange(1, len(order.rows) + 1) / pool.weights[order.rows]
        return measured_again(pool, order, rows=order.rows[np.argsort(places, kind="stable")[:batch]])

    return choose
