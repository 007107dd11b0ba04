"""How long a round takes to save and to open, in a folder and in a bucket, in the same run.

    python benchmarks/storage.py [--tasks 100000] [--dimension 256]

The bucket is on moto's server on this machine, so its figures are those of this code, not of a network. CPU
seconds are those of this process, without moto's.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from sys import path as places
from typing import TypeVar

ROOT = Path(__file__).parent.parent
places[:0] = [str(ROOT), str(ROOT / "tests/support")]

import numpy as np  # noqa: E402
from buckets import InBucket, InFolder, running_s3  # noqa: E402
from saved_rounds import record  # noqa: E402

from coreset_backend.store.saved_round import Arrays, StoredRound  # noqa: E402
from coreset_backend.store.store import Store  # noqa: E402

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=256)
    given = parser.parse_args()
    arrays = round_of(given.tasks, given.dimension)
    size = sum(array.nbytes for array in arrays.values())
    print(f"{given.tasks:,} tasks, {size / 1e6:,.0f} MB; {os.cpu_count()} cores, {platform.machine()}")
    print("| | folder, s | CPU s | bucket, s | CPU s | ratio |\n|---|---|---|---|---|---|")
    with running_s3() as s3, tempfile.TemporaryDirectory() as folder:
        os.environ.update(s3.environment)
        places = InFolder(Path(folder) / "data"), InBucket("s3://rounds/benchmark", Path(folder) / "copies")
        measured = [measure(place, arrays) for place in places]
    for name, (seconds, cpu) in measured[0].items():
        bucket, bucket_cpu = measured[1][name]
        print(
            f"| {name} | {seconds:.4f} | {cpu:.4f} | {bucket:.4f} | {bucket_cpu:.4f} "
            f"| {bucket / seconds:.1f} |"
        )


def round_of(tasks: int, dimension: int) -> Arrays:
    """What a round of frozen features saves, but for its index."""
    made = np.random.default_rng(0)
    ids = np.arange(1, tasks + 1)
    return {
        "task_ids": ids,
        "embedded_task_ids": ids,
        "states": np.zeros(tasks, np.uint8),
        "scores": made.random(tasks, np.float32),
        "embeddings": made.random((tasks, dimension), np.float32),
        "image_keys": made.integers(0, 256, (tasks, 32), np.uint8),
        "probabilities": made.random((tasks, 3), np.float32),
        "neighbor_rows": made.integers(0, tasks, (tasks, 64), np.int32),
        "neighbor_distances": made.random((tasks, 64), np.float32),
        "layout": made.random((tasks, 2), np.float32),
    }


def measure(place: InFolder | InBucket, arrays: Arrays) -> dict[str, tuple[float, float]]:
    """What was done -> (seconds, CPU seconds)."""
    one, other = place.store, place.store
    found = {}
    found["save"] = timed(lambda: _save(one, arrays))[1:]
    stored, *found["record, as a page reads it first"] = timed(lambda: _latest(other))
    stored, *found["record again"] = timed(lambda: _latest(other))
    found["all arrays, first at another host"] = timed(lambda: [stored.array(name) for name in arrays])[1:]
    found["all arrays again"] = timed(lambda: [_latest(other).array(name) for name in arrays])[1:]
    return {name: (seconds, cpu) for name, (seconds, cpu) in found.items()}


def _save(store: Store, arrays: Arrays) -> StoredRound:
    with store.draft(7) as draft:
        return draft.save(record(draft.number), arrays)


def _latest(store: Store) -> StoredRound:
    stored = store.latest(7)
    assert stored
    return stored


def timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """The result, the seconds and the CPU seconds of this process."""
    begun, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - begun, time.process_time() - cpu


if __name__ == "__main__":
    main()
