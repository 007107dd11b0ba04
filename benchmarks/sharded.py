"""Selection from a pool in shards: the work of each shard and of the coordinator, messages, the same rows.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/sharded.py [--rows 1000000] [--dimension 384] [--batch 1000]
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/sharded.py --actors 4    # k-Center; root, the extra `ray`

The pool is a Gaussian mixture of intrinsic dimension 16, as in benchmarks/selection.py, and integers from 0
to 3, where many distances are equal. The shards are in this process; CPU seconds are the busiest one's. With
--actors each is a file in a Ray actor, in a network of the benchmark's own; the seconds begin when Ray and
the actors have started, and the coordinator's are with those of Ray in its process.
"""

import argparse
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from selection import make

from coreset_backend.selection import Pool, k_center_greedy, max_herding
from coreset_backend.selection.neighbor_search import build_index
from coreset_backend.selection.pool import NeighborGraph
from coreset_backend.selection.pool_shard import PoolShard
from coreset_backend.selection.sharded import Answer, LocalShards, ShardedSelection, sharded_k_center
from coreset_backend.selection.sharded_herding import sharded_herding

SHARDS = (1, 2, 4, 16)
COLUMNS = (
    "| pool | shards | CPU s, busiest shard | CPU s, coordinator | messages a pick | rounds | same rows |"
)
ROOT = Path(__file__).parents[1]


class TimedShards(LocalShards):
    """Shards that know how long each of them worked, in CPU seconds."""

    seconds: list[float]

    def each(self, work: Callable[[PoolShard], Answer], /) -> Sequence[Answer]:
        self.seconds = getattr(self, "seconds", [0.0] * len(self._shards))
        answers = []
        for place, shard in enumerate(self._shards):
            started = time.process_time()
            answers.append(work(shard))
            self.seconds[place] += time.process_time() - started
        return answers


def report(name: str, shards: TimedShards, choose: Callable[[], ShardedSelection], rows: np.ndarray) -> None:
    started = time.process_time()
    found = choose()
    whole = time.process_time() - started
    cells = (
        name,
        len(shards.seconds),
        f"{max(shards.seconds):.2f}",
        f"{whole - sum(shards.seconds):.2f}",
        f"{found.messages / max(len(rows), 1):.2f}",
        found.rounds,
        "yes" if found.selection.rows.tolist() == rows.tolist() else "NO",
    )
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def report_k_center(name: str, vectors: np.ndarray, batch: int) -> None:
    labeled = np.sort(np.random.default_rng(1).permutation(len(vectors))[:100])
    started = time.process_time()
    rows = k_center_greedy(Pool(vectors, labeled), batch).rows
    print(f"| {name} | one process | {time.process_time() - started:.2f} | | | | |", flush=True)
    for count in SHARDS:
        shards = TimedShards.of_parts(np.array_split(vectors, count))
        report(name, shards, lambda shards=shards: sharded_k_center(shards, labeled, batch), rows)


def report_actors(name: str, vectors: np.ndarray, batch: int, count: int) -> None:
    """The same by k-Center on the pool in ``count`` files, each in an actor."""
    from coreset_backend.fleet.selection_actors import ActorShards  # the extra `ray`

    labeled = np.sort(np.random.default_rng(1).permutation(len(vectors))[:100])
    began, started = time.monotonic(), time.process_time()
    rows = k_center_greedy(Pool(vectors, labeled), batch).rows
    whole, seconds = time.process_time() - started, time.monotonic() - began
    print(f"| {name} | one process | {whole:.2f} | | | | | {seconds:.1f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"part-{number}.npy" for number in range(count)]
        for path, part in zip(paths, np.array_split(vectors, count), strict=True):
            np.save(path, part)
        with ActorShards(paths) as shards:
            before = np.array(shards.each(lambda shard: time.process_time()))
            began, started = time.monotonic(), time.process_time()
            found = sharded_k_center(shards, labeled, batch)
            seconds, own = time.monotonic() - began, time.process_time() - started
            actors = np.array(shards.each(lambda shard: time.process_time())) - before
    same = "yes" if found.selection.rows.tolist() == rows.tolist() else "NO"
    told = f"{actors.max():.2f} | {own:.2f} | {found.messages / batch:.2f} | {found.rounds} | {same}"
    print(f"| {name} | {count} actors | {told} | {seconds:.1f} |", flush=True)


def start_ray(stack: ExitStack, actors: int) -> None:
    sys.path.insert(0, str(ROOT / "tests/support"))
    import ray
    from ray_nodes import own_network

    stack.enter_context(own_network())  # Ray listens on every address
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # or Ray writes one into the home folder
    ray.init(address="local", num_cpus=actors, include_dashboard=False, _node_ip_address="127.0.0.1")
    stack.callback(ray.shutdown)


def report_herding(vectors: np.ndarray, batch: int, folder: str) -> None:
    labeled = np.arange(100)
    graph = build_index(vectors, Path(folder) / "n.ann").graph(64)
    pool = Pool(vectors, labeled, None, graph)
    started = time.process_time()
    rows = max_herding(pool, batch, np.random.default_rng(0)).rows
    name = f"herding, mixture {len(vectors):,} x {vectors.shape[1]}, b {batch}"
    print(f"| {name} | one process | {time.process_time() - started:.2f} | | | | |", flush=True)
    for count in SHARDS:
        parts = np.array_split(np.arange(len(vectors)), count)
        shards = TimedShards(
            [
                PoolShard(
                    vectors[part], part[0], graph=NeighborGraph(graph.rows[part], graph.distances[part])
                )
                for part in parts
            ]
        )

        def choose(shards: TimedShards = shards) -> ShardedSelection:
            return sharded_herding(shards, labeled, batch, np.random.default_rng(0), width=64)

        report(name, shards, choose, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--herding-rows", type=int, default=100_000)
    parser.add_argument("--only", nargs="+", default=["mixture", "integers", "herding"])
    parser.add_argument("--actors", type=int, default=0, help="Ray actors that hold the shards")
    given = parser.parse_args()
    with ExitStack() as stack:
        if given.actors:
            start_ray(stack, given.actors)
        print(f"{COLUMNS} s |" if given.actors else COLUMNS)
        print("|---" * (8 if given.actors else 7) + "|")
        measure(given)


def measure(given: argparse.Namespace) -> None:
    n, d, batch = given.rows, given.dimension, given.batch

    def k_center(name: str, vectors: np.ndarray) -> None:
        if given.actors:
            report_actors(name, vectors, batch, given.actors)
        else:
            report_k_center(name, vectors, batch)

    if "mixture" in given.only:
        k_center(f"mixture {n:,} x {d}, b {batch}", make("mixture", n, d))
    if "integers" in given.only:
        integers = np.random.default_rng(0).integers(0, 4, size=(n // 10, 8)).astype(np.float32)
        k_center(f"integers {n // 10:,} x 8, b {batch}", integers)
    if "herding" in given.only and not given.actors:
        with tempfile.TemporaryDirectory() as folder:
            pool = make("mixture", given.herding_rows, 256)
            report_herding(pool, given.herding_rows // 50, folder)


if __name__ == "__main__":
    main()
