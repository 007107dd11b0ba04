"""The near rows of millions: faiss and Annoy on one thread, their CPU seconds, memory and recall.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/neighbors.py [--rows 2000000] [--dimension 256]

The pool is a Gaussian mixture of intrinsic dimension 16, as in benchmarks/selection.py, float32, in a file
that is mapped to memory, as a round's embeddings are. Each index is built and searched in a process of its
own; --queries 20000 searches the neighbours of so many random rows and scales the time up. Recall is that of
the first ten of 64 neighbours of 1,000 random rows, against an exact search.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from selection import make

from coreset_backend.selection.graph import others_of
from coreset_backend.selection.neighbor_search import Index, build_index

WIDTH, CHECKED, SAMPLE = 64, 10, 1000
NEVER = sys.maxsize
STARTS_FROM = {"faiss": 0, "annoy": NEVER}
"""From how many rows on each of them is told to use faiss."""


class Memory(threading.Thread):
    """Notes four times a second how much memory this process has of its own, without files, in MB."""

    most = 0

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start()

    def run(self) -> None:
        while True:
            self.most = max(self.most, resident("RssAnon"))
            time.sleep(0.25)


def resident(kind: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) // 1000


def measure(path: Path, name: str, queries: int) -> dict[str, object]:
    """Build the index of that name, search the neighbours of all rows or of ``queries``; what it took."""
    vectors, memory = np.load(path, mmap_mode="r"), Memory()
    began, started = time.monotonic(), time.process_time()
    index = build_index(vectors, path.with_suffix(".ann"), faiss_from=STARTS_FROM[name])
    built = time.process_time()
    if index.name != name:
        raise SystemExit(f"{name} is not installed: {index.name} was used.")
    if queries:
        index.nearest(drawn(len(vectors), queries), WIDTH + 1)
    else:
        index.graph(WIDTH)
    searched, seconds = time.process_time() - built, time.monotonic() - began
    return {
        "index": name,
        "CPU s, build": round(built - started),
        "CPU s, graph": round(searched * (len(vectors) / queries if queries else 1)),
        "s": round(seconds),
        "MB, own": memory.most,
        "MB, with files": resident("VmHWM"),
        "recall@10": round(recall(index, vectors), 3),
    }


def drawn(n: int, count: int) -> np.ndarray:
    """int64[count], ascending: random rows."""
    return np.sort(np.random.default_rng(1).permutation(n)[:count])


def recall(index: Index, vectors: np.ndarray) -> float:
    """The share of the nearest ten that the index finds as its first ten, on a sample."""
    sample = drawn(len(vectors), SAMPLE)
    rows, distances = np.empty((SAMPLE, 0), dtype=np.int64), np.empty((SAMPLE, 0), dtype=np.float32)
    for start in range(0, len(vectors), 50_000):
        block = vectors[start : start + 50_000]
        squared = (block**2).sum(axis=1) - 2 * vectors[sample] @ block.T
        here = np.broadcast_to(np.arange(start, start + len(block)), squared.shape)
        squared[here == sample[:, None]] = np.inf
        rows, distances = np.hstack([rows, here]), np.hstack([distances, squared])
        nearest = np.argpartition(distances, CHECKED, axis=1)[:, :CHECKED]
        rows = np.take_along_axis(rows, nearest, axis=1)
        distances = np.take_along_axis(distances, nearest, axis=1)
    found, _ = others_of(sample, *index.nearest(sample, WIDTH + 1))
    return float(
        np.mean([np.isin(true, own).mean() for true, own in zip(rows, found[:, :CHECKED], strict=True)])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--only", nargs="+", choices=STARTS_FROM, default=list(STARTS_FROM))
    parser.add_argument(
        "--queries", type=int, default=0, help="rows whose neighbours are searched; all by default"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.only[0], given.queries)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, make("mixture", given.rows, given.dimension))
        for name in given.only:
            load = round(os.getloadavg()[0], 1)
            print(f"{given.rows:,} x {given.dimension}, load {load}:", flush=True)
            chosen = ["--measure", path, "--only", name, "--queries", str(given.queries)]
            subprocess.run([sys.executable, __file__, *chosen], check=True)


if __name__ == "__main__":
    main()
