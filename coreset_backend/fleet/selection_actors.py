"""The shards of a pool in Ray actors: each is held by one actor, on whichever machine has its file.

Ray, the extra `ray`, is joined by the caller (`ray.init`). If an actor is lost its selection ends with Ray's
error: it takes seconds, so begin again.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import ray

from coreset_backend.selection.pool_shard import PoolShard
from coreset_backend.selection.sharded import Answer

CORES = 1
"""Reserved for each actor: a shard computes on one thread."""


class ShardHolder:
    """What an actor is: one shard, whose vectors are mapped to memory from a .npy file of float[n, d]."""

    def __init__(self, path: Path, first_row: int) -> None:
        self._shard = PoolShard(np.load(path, mmap_mode="r", allow_pickle=False), first_row, str(path))

    def answer(self, work: Callable[[PoolShard], Answer]) -> Answer:
        return work(self._shard)


class ActorShards:
    """The shards of a pool, files in the order of its rows; its actors live as long as the context.

    ``resources``: of Ray, for each file, where a machine holds only some of them.
    """

    def __init__(self, paths: Sequence[Path], resources: Sequence[dict[str, float]] | None = None) -> None:
        sizes = [len(np.load(path, mmap_mode="r", allow_pickle=False)) for path in paths]
        holder = ray.remote(num_cpus=CORES)(ShardHolder)
        wanted = resources or [{}] * len(paths)
        self._actors = [
            holder.options(resources=some).remote(path, first)
            for path, first, some in zip(paths, accumulate(sizes, initial=0), wanted, strict=False)
        ]

    def each(self, work: Callable[[PoolShard], Answer], /) -> Sequence[Answer]:
        """What ``work`` returns for every shard; they work at the same time. Raises what an actor raises."""
        sent = ray.put(work)  # once, not for every actor
        answers: list[Answer] = ray.get([actor.answer.remote(sent) for actor in self._actors])
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            ray.kill(actor)
