"""Selection on one core: ours against plain numpy, scikit-activeml, fpsample and lightly-mundig, in one run.

    make .peers/.installed                                              # the others
    export PYTHONPATH=.peers OMP_NUM_THREADS=1
    .venv/bin/python benchmarks/selection.py [--only T1 T4] [--images FOLDER]

Every measurement is a process of its own: CPU seconds, and the peak of memory beyond the vectors. The
features are made here: Gaussian mixtures of intrinsic dimension 16, points on the unit sphere, and with
--images those of two small CNNs trained on the folder (a subfolder a class), side by side: of every image and
of shifted copies of it, and of the cells of the map in their middle. The names of the cases are those of the
table in docs/selection.md.
"""

import argparse
import heapq
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from coreset_backend.errors import NotFinite
from coreset_backend.selection import (
    Coverage,
    Pool,
    covering_radius,
    k_center_greedy,
    max_herding,
    neighbors_for,
    normalized,
    robust_k_center,
)

CASES = {  # name: (features, n, d, labelled, batch)
    "T1": ("images", 50_000, 512, 100, 1000),
    "T1 mixture": ("mixture", 50_000, 512, 100, 1000),
    "T2": ("images", 50_000, 512, 1000, 5000),
    "T3": ("mixture", 200_000, 512, 1000, 1000),
    "T4": ("patches", 960_000, 128, 100, 1000),
    "T4 mixture": ("mixture", 1_000_000, 128, 100, 1000),
    "T6": ("sphere", 50_000, 512, 100, 1000),
}
FROM_IMAGES = ("images", "patches")
COMPARED = {"T1": 4, "T1 mixture": 4, "T6": 1}
"""How many of the others a case is run with: plain numpy first."""
ROBUST = ((1000, 50, 50, 30), (10_000, 100, 1000, 10), (10_000, 100, 1000, 90), (50_000, 100, 1000, 90))
"""R1: rows, labelled, batch, seconds."""
PITFALLS = ("an offset of 1e4", "7 distinct points", "a value of NaN", "a value of 1e30", "no labels")
TIMED_PICKS = 200
"""Picks that the others are timed for: each center costs them the same, the rest is multiplied."""


def make(features: str, n: int, d: int) -> np.ndarray:
    """float32[n, d] of the kind named: "mixture" or "sphere"."""
    rng = np.random.default_rng(0)
    if features == "sphere":
        vectors = rng.normal(size=(n, d)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    spread = rng.normal(size=(16, d)).astype(np.float32)
    middles = 2 * rng.normal(size=(200, 16)).astype(np.float32)
    vectors = (middles[rng.integers(0, 200, n)] + rng.normal(size=(n, 16)).astype(np.float32)) @ spread
    for start in range(0, n, 50_000):
        part = vectors[start : start + 50_000]
        part += 0.3 * rng.normal(size=part.shape).astype(np.float32)
    return vectors


def save_cnn_features(images: Path, folder: Path) -> None:
    """Writes images.npy, float32[5 n, 512], and patches.npy, float32[98 n, 128], of n images.

    The first holds the embeddings of each image and of four shifted copies of it, the second the 7 x 7 cells
    of the first block's map, of each image and one copy; by two CNNs trained on a third of the images.
    """
    import torch
    from PIL import Image

    from coreset_backend import model
    from coreset_backend.model.classifier import images_from

    paths = sorted(path for path in images.rglob("*") if path.suffix in (".jpg", ".png"))
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((32, 32))) for path in paths])
    names = sorted({path.parent.name for path in paths})
    codes = np.array([names.index(path.parent.name) for path in paths])
    rows = np.arange(0, len(paths), 3)
    padded = np.pad(pixels, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
    views = [pixels, *(padded[:, y : y + 32, x : x + 32] for y, x in ((0, 2), (6, 3), (3, 0), (2, 6)))]
    embeddings, cells = [], []
    for seed in (0, 1):
        classifier, _ = model.fit(
            model.choose_backbone("small_cnn", None),
            pixels[rows],
            np.eye(len(names), dtype=np.float32)[codes[rows]],
            multiple=False,
            holdout=np.zeros(len(rows), dtype=bool),
            seed=seed,
            device="cpu",
        )
        embeddings.append(np.concatenate([model.embed_and_predict(classifier, view)[0] for view in views]))
        with torch.inference_mode():
            maps = [
                classifier.network.blocks(images_from(part, classifier.backbone, classifier.device))[0]
                for view in views[:2]
                for part in np.array_split(view, 40)
            ]
        cells.append(torch.cat(maps).permute(0, 2, 3, 1).reshape(-1, 64).numpy())
    np.save(folder / "images.npy", np.concatenate(embeddings, axis=1))
    np.save(folder / "patches.npy", np.concatenate(cells, axis=1))


def vectors_of(features: str, n: int, d: int, folder: Path) -> np.ndarray:
    """float32[n, d] of the kind named: n rows of what the images gave, or made."""
    if features not in FROM_IMAGES:
        return make(features, n, d)
    found = np.load(folder / f"{features}.npy", mmap_mode="r")
    if len(found) < n:
        raise SystemExit(
            f"The images give {len(found)} rows of {features}, the case takes {n}: give more images."
        )
    return found[np.random.default_rng(0).permutation(len(found))[:n]]


def ours(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> np.ndarray:
    return k_center_greedy(Pool(vectors, labeled), batch).rows


def plain_numpy(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> np.ndarray:
    """One pass over all vectors per center, in place: what everybody writes first."""
    norms = np.einsum("ij,ij->i", vectors, vectors)
    nearest, picked = np.full(len(vectors), np.inf, dtype=np.float32), []
    for step in range(len(labeled) + batch):
        row = labeled[step] if step < len(labeled) else int(nearest.argmax())
        picked.append(row)
        distances = vectors @ vectors[row]
        distances *= -2
        distances += norms
        distances += norms[row]
        np.minimum(nearest, distances, out=nearest)
    return np.array(picked[len(labeled) :], dtype=np.int64)


def scikit_activeml(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> np.ndarray:
    from skactiveml.pool import CoreSet

    labels = np.full(len(vectors), np.nan)
    labels[labeled] = 0
    return CoreSet(random_state=0).query(vectors, labels, batch_size=batch)


def fpsample_all(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> np.ndarray:
    """fpsample counts its starts among the samples, and gives them back first."""
    import fpsample

    found = fpsample.fps_sampling(vectors, len(labeled) + batch, start_idx=labeled.tolist())
    return np.asarray(found[len(labeled) :], dtype=np.int64)


def lightly_mundig(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> np.ndarray:
    from lightly_mundig import Selection

    selection = Selection()
    selection.add_diversifying_strategy(vectors, 1.0)
    found = selection.run_selection(labeled.tolist(), len(vectors), len(labeled) + batch)
    return np.array(found[len(labeled) :], dtype=np.int64)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "ours": ours,
    "plain numpy": plain_numpy,
    "scikit-activeml": scikit_activeml,
    "fpsample": fpsample_all,
    "lightly-mundig": lightly_mundig,
}


def measure(method: str, path: Path, labeled: int, batch: int) -> dict[str, float]:
    """In this process: CPU seconds, MB beyond the vectors; for ours the next batch and the certificate."""
    vectors = np.load(path)
    rows = np.sort(np.random.default_rng(1).permutation(len(vectors))[:labeled])
    METHODS[method](vectors[: labeled + 4000].copy(), np.arange(labeled), 5)  # imports and first pages
    seconds, peak, asked = [], 0.0, batch if method == "ours" else TIMED_PICKS
    for _ in range(3 if method == "ours" else 1):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak_memory()
        started = time.process_time()
        picked = METHODS[method](vectors, rows, asked)
        seconds.append(time.process_time() - started)
        peak = max(peak, peak_memory() - before)
    radius = covering_radius(vectors, np.concatenate([rows, picked[:TIMED_PICKS]]))
    found = {"seconds": min(seconds), "megabytes": peak, "radius": radius}
    if method == "ours":
        return found | {"next": next_batch(vectors, rows, picked), "gap": largest_gap(vectors, rows, picked)}
    return found | {"seconds": min(seconds) * (labeled + batch) / (labeled + asked)}


def peak_memory() -> float:
    """The peak of this process's memory in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def next_batch(vectors: np.ndarray, rows: np.ndarray, picked: np.ndarray) -> float:
    """T7: CPU seconds for 100 more rows on kept state."""
    kept = Coverage(vectors, rows)
    kept.pick(len(picked))
    started = time.process_time()
    k_center_greedy(Pool(vectors, np.concatenate([rows, picked])), 100, coverage=kept)
    return time.process_time() - started


def largest_gap(vectors: np.ndarray, rows: np.ndarray, picked: np.ndarray) -> float:
    """By how much any pick was nearer than the farthest row, as a share, in float64."""
    shift = vectors[::100].mean(axis=0, dtype=np.float64)
    nearest, gap = np.full(len(vectors), np.inf), 0.0
    centers = vectors[np.concatenate([rows, picked])] - shift
    norms = np.einsum("ij,ij->i", centers, centers)
    squares = np.concatenate(
        [((vectors[start : start + 8192] - shift) ** 2).sum(axis=1) for start in range(0, len(vectors), 8192)]
    )
    for start in range(0, len(centers), 64):
        part = slice(start, start + 64)
        far = np.empty((len(centers[part]), len(vectors)))
        for column in range(0, len(vectors), 8192):
            points = vectors[column : column + 8192] - shift
            far[:, column : column + 8192] = -2 * centers[part] @ points.T
        far += squares
        far += norms[part, None]
        for place, distances in enumerate(far, start):
            if place >= len(rows):
                own = nearest[picked[place - len(rows)]]
                gap = max(gap, 1 - float(np.sqrt(max(own, 0) / nearest.max())))
            np.minimum(nearest, distances, out=nearest)
    return gap


def robust(path: Path, n: int, labeled: int, batch: int, seconds: int) -> dict[str, float | str]:
    """R1: the robust radius as a share of greedy's, one row left out."""
    from coreset_backend.selection.annoy_index import build_index

    vectors = np.load(path)[:n]
    graph = None
    if n > 20_000:
        with tempfile.TemporaryDirectory() as folder:
            graph = build_index(vectors, Path(folder) / "neighbors.ann").graph(neighbors_for(n))
    pool, rng = Pool(vectors, np.arange(labeled), None, graph), np.random.default_rng(0)
    hurried = robust_k_center(pool, batch, rng, outliers=1, seconds=0)
    started, clock = time.process_time(), time.monotonic()
    found = robust_k_center(pool, batch, rng, outliers=1, seconds=seconds)
    return {
        "seconds": time.process_time() - started,
        "clock": time.monotonic() - clock,
        "ratio": found.radius_after / hurried.radius_after,
        "status": found.status,
    }


def herding(path: Path, n: int, batch: int) -> dict[str, float]:
    """max_herding on Annoy's neighbours: CPU seconds of index, graph and choice, MB beyond the vectors."""
    from coreset_backend.selection.annoy_index import build_index

    vectors = np.load(path)[:n]
    Path("/proc/self/clear_refs").write_text("5")
    before, started = peak_memory(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        graph = build_index(vectors, Path(folder) / "neighbors.ann").graph(neighbors_for(n))
    indexed = time.process_time() - started
    pool = Pool(vectors, np.arange(100), None, graph)
    rows = max_herding(pool, batch, np.random.default_rng(0)).rows
    found = {
        "index": indexed,
        "seconds": time.process_time() - started - indexed,
        "megabytes": peak_memory() - before,
    }
    if n <= 10_000:
        found["coverage"] = kernel_coverage(vectors, rows) / kernel_coverage(
            vectors, whole_kernel_rows(vectors, batch)
        )
    return found


def whole_kernel_rows(vectors: np.ndarray, batch: int) -> np.ndarray:
    """Greedy on the whole kernel, lazily: the truth that the neighbours approximate."""
    units = normalized(vectors)
    kernel = np.exp((2 * units @ units.T - 2) / 0.5)
    covered, picked = kernel[:, :100].max(axis=1), []
    first = [np.maximum(part - covered, 0).sum(axis=1) for part in np.array_split(kernel, 64)]
    queue = [(-float(gain), row) for row, gain in enumerate(np.concatenate(first)) if row >= 100]
    heapq.heapify(queue)
    while len(picked) < batch:
        row = queue[0][1]
        heapq.heapreplace(queue, (-float(np.maximum(kernel[row] - covered, 0).sum()), row))
        if queue[0][1] == row:
            heapq.heappop(queue)
            picked.append(row)
            covered = np.maximum(covered, kernel[row])
    return np.array(picked)


def kernel_coverage(vectors: np.ndarray, rows: np.ndarray) -> float:
    """The mean kernel value of every row with its nearest center."""
    units = normalized(vectors)
    nearest = (units @ units[np.concatenate([np.arange(100), rows])].T).max(axis=1)
    return float(np.exp((2 * nearest - 2) / 0.5).mean())


def pitfall(method: str, name: str) -> dict[str, str]:
    """E1: what the method makes of one of PITFALLS, in words."""
    vectors, labeled = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32), np.arange(5)
    if name == "a value of NaN":
        vectors[40, 2] = np.nan
    elif name == "a value of 1e30":
        vectors[40, 2] = 1e30
    elif name == "7 distinct points":
        vectors = vectors[np.arange(2000) % 7]
    elif name == "no labels":
        labeled = labeled[:0]
    offset = np.float32(1e4 if name == "an offset of 1e4" else 0)
    choose = METHODS[method]
    try:
        picked = choose(vectors + offset, labeled, 50)
    except NotFinite:
        return {"answer": "clear error"}
    except (ValueError, TypeError, IndexError, AssertionError, RuntimeError) as error:
        return {"answer": type(error).__name__}
    if offset:
        radii = [
            covering_radius(vectors, np.concatenate([labeled, rows]))
            for rows in (picked, choose(vectors, labeled, 50))
        ]
        return {"answer": f"{radii[0] / radii[1]:.3f} of the radius without it"}
    return {"answer": f"{len(set(picked.tolist()) - set(labeled.tolist()))} of 50 rows"}


def in_a_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode < 0 and arguments[0] == "pitfall":
        return {"answer": "crash"}
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ran.stderr}")
    return json.loads(ran.stdout)


def hardware() -> str:
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    names = ("numpy", "scipy", "annoy", "scikit-activeml", "fpsample", "lightly-mundig")
    return (
        f"{datetime.now(UTC):%d %B %Y}; {cpu.split(': ')[1]}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.0f}; Python {platform.python_version()}, "
        + ", ".join(f"{name} {installed(name)}" for name in names)
    )


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def present() -> list[str]:
    return [
        method for method in METHODS if method in ("ours", "plain numpy") or installed(method) != "absent"
    ]


def say(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def report_speed(name: str, path: Path) -> None:
    features, n, d, labeled, batch = CASES[name]
    base = None
    for method in present()[: COMPARED.get(name, 0) + 1]:
        found = in_a_process(method, path, labeled, batch)
        base = base or found["seconds"]
        say(
            name,
            f"{features} {n:,} x {d}, L {labeled}, b {batch}",
            method,
            f"{found['seconds']:.3f}",
            f"{found['seconds'] / base:.0f}",
            f"{found['megabytes']:.0f}",
            f"{found['radius']:.4f}",
            f"{found['gap']:.1e}" if "gap" in found else "",
            f"{found['next']:.3f}" if "next" in found else "",
        )


def report_robust(path: Path) -> None:
    print("\n| R1 | seconds allowed | CPU s | by the clock | of greedy's radius | status |")
    print("|---|---|---|---|---|---|")
    for n, labeled, batch, seconds in ROBUST:
        found = in_a_process("robust", path, n, labeled, batch, seconds)
        times = f"{found['seconds']:.1f}", f"{found['clock']:.1f}"
        say(f"n {n:,}, L {labeled}, b {batch}", seconds, *times, f"{found['ratio']:.4f}", found["status"])


def report_herding(folder: Path) -> None:
    print("\n| H | CPU s, index and graph | CPU s, choice | MB beyond | coverage, of the whole kernel's |")
    print("|---|---|---|---|---|")
    for n, d, batch in ((10_000, 256, 1000), (100_000, 256, 1000), (1_000_000, 128, 1000)):
        np.save(folder / "herd.npy", make("mixture", n, d))
        found = in_a_process("herding", folder / "herd.npy", n, batch)
        share = f"{found['coverage']:.4f}" if "coverage" in found else ""
        times = f"{found['index']:.1f}", f"{found['seconds']:.1f}"
        say(f"mixture {n:,} x {d}, L 100, b {batch}", *times, f"{found['megabytes']:.0f}", share)


def report_pitfalls() -> None:
    methods = present()
    print(f"\n| E1, 50 rows of 2,000 | {' | '.join(methods)} |\n|---|{'---|' * len(methods)}")
    for name in PITFALLS:
        say(name, *(in_a_process("pitfall", method, name)["answer"] for method in methods))


def run_one(what: str, *given: str) -> dict[str, float] | dict[str, str] | dict[str, float | str]:
    """What a child process measures."""
    if what == "pitfall":
        return pitfall(*given)
    path, numbers = Path(given[0]), [int(number) for number in given[1:]]
    if what == "robust":
        return robust(path, *numbers)
    return herding(path, *numbers) if what == "herding" else measure(what, path, *numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", default=[*CASES, "R1", "H", "E1"])
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(run_one(*given.measure)))
        return
    print(hardware())
    print(
        "\n| case | vectors | by | CPU s | x ours | MB beyond | radius at 200 | gap | next 100, CPU s |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder, made = Path(name), ""
        if given.images:
            save_cnn_features(given.images, folder)
        for case in [case for case in CASES if case in given.only]:
            features, n, d, _, _ = CASES[case]
            if features in FROM_IMAGES and not given.images:
                continue
            if made != f"{features} {n} {d}":
                np.save(folder / "vectors.npy", vectors_of(features, n, d, folder))
                made = f"{features} {n} {d}"
            report_speed(case, folder / "vectors.npy")
        if "R1" in given.only and given.images:
            np.save(folder / "vectors.npy", vectors_of("images", 50_000, 512, folder))
            report_robust(folder / "vectors.npy")
        if "H" in given.only:
            report_herding(folder)
    if "E1" in given.only:
        report_pitfalls()


if __name__ == "__main__":
    main()
