"""Divides the tasks to embed into shards that stay the same while tasks come and go."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Rows, TaskIds
from coreset_backend.decoding import DECODER

LEAST_IMAGES = 256
"""Fewer images are embedded at once, without shards: they take seconds."""
SHARDS = 400
"""About so many shards have a pool, so that those in work when a process dies are less than 1 % of it."""
SMALLEST, LARGEST = 8, 128
"""Images of a shard on average: a batch of 224 pixels on a CPU, a batch on a GPU."""


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A range of task ids: their ``rows`` int64[k] in what was planned. ``name``: a digest of what determines
    its features."""

    name: str
    rows: Rows


def plan_shards(network: str, task_ids: TaskIds, images: Sequence[str]) -> list[Shard]:
    """The shards of the tasks ``task_ids`` int64[n], ascending; ``images``: a digest of each task's image.

    ``network`` is the name of what computes the features, which holds its arithmetic and the images' size.
    The ids alone decide where a shard ends, so a new or deleted task changes one shard.
    """
    size = average_size(len(task_ids))
    begins = np.flatnonzero(_mixed(task_ids) % np.uint64(size) == 0)
    parts = [
        part[start : start + 2 * size]
        for part in np.split(np.arange(len(task_ids), dtype=np.int64), begins)
        for start in range(0, len(part), 2 * size)
    ]
    return [
        Shard(_name(network, [(int(task_ids[row]), images[row]) for row in rows]), rows) for rows in parts
    ]


def average_size(n: int) -> int:
    """Images of a shard on average in a pool of ``n``: a power of two, so that it rarely changes."""
    power_of_two = 1 << (max(n // SHARDS, 1).bit_length() - 1)
    return min(max(power_of_two, SMALLEST), LARGEST)


def _mixed(task_ids: TaskIds) -> NDArray[np.uint64]:
    """A hash of each id (splitmix64): ids with gaps of any pattern end shards equally often."""
    mixed = task_ids.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _name(network: str, tasks: Sequence[tuple[int, str]]) -> str:
    parts = [network, str(DECODER), *(f"{task_id} {image}" for task_id, image in tasks)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
