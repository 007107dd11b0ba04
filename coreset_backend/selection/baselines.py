"""Random choice: the baseline every other strategy has to beat."""

import numpy as np

from coreset_backend.selection.coverage import measured
from coreset_backend.selection.pool import Pool, Selection, require_batch


def random_rows(pool: Pool, batch: int, rng: np.random.Generator) -> Selection:
    """``batch`` unlabelled rows, each as likely as any other, in random order. Euclidean evidence."""
    require_batch(batch)
    free = pool.unlabeled_rows
    return measured(pool.vectors, pool.labeled_rows, rng.permutation(free)[:batch])
