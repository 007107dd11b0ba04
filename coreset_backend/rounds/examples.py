"""The images that a person marked, as weights of a round's selection."""

import logging
from collections.abc import Sequence

import numpy as np

from coreset_backend.arrays import Floats, TaskIds
from coreset_backend.errors import CorruptFile
from coreset_backend.selection.examples import example_weights
from coreset_backend.selection.graph import Nearest
from coreset_backend.store.examples import read_examples
from coreset_backend.store.record import Example
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)


def examples_among(store: Store, project_id: int, embedded: TaskIds) -> tuple[Example, ...]:
    """The marked images that have an embedding; none where their file is damaged."""
    try:
        known = set(embedded.tolist())
        return tuple(each for each in read_examples(store, project_id) if each.task_id in known)
    except CorruptFile as error:  # the round goes on without
        log.error("project %d: no example weighs on the selection: %s", project_id, error)
        return ()


def weights_by_examples(
    examples: Sequence[Example], index: Nearest, embedded: TaskIds, embeddings: Floats
) -> Floats | None:
    """How much each image counts, float32[m] by image row; None where nothing is marked."""
    if not examples:
        return None
    rows = np.searchsorted(embedded, [each.task_id for each in examples])
    weights = np.array([each.weight for each in examples], dtype=np.float32)
    return example_weights(index, embeddings, rows, weights)
