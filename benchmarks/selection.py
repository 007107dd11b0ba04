"""k-Center on one core: ours against plain numpy, scikit-activeml and fpsample, in one run.

    pip install -r benchmarks/requirements-selection.txt        # into an environment of its own
    OMP_NUM_THREADS=1 python benchmarks/selection.py [--only NAME] [--images FOLDER]

Every measurement is a process of its own: CPU seconds, and the peak of memory beyond the vectors. The
features are made here: Gaussian mixtures of intrinsic dimension 16, points on the unit sphere, and with
--images those of a small CNN trained on the folder (a subfolder a class), repeated with noise to 50,000.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from coreset_backend.selection import Coverage, Pool, covering_radius, k_center_greedy, robust_k_center

CASES = {  # name: (features, n, d, labelled, batch)
    "T1": ("mixture", 50_000, 512, 100, 1000),
    "T1 CNN": ("images", 50_000, 256, 100, 1000),
    "T2": ("mixture", 50_000, 512, 1000, 5000),
    "T3": ("mixture", 200_000, 512, 1000, 1000),
    "T4": ("mixture", 1_000_000, 128, 100, 1000),
    "T6": ("sphere", 50_000, 512, 100, 1000),
}
COMPARED = ("T1", "T1 CNN", "T6")
NUMPY_STEPS = 200
"""Steps that plain numpy is timed for; each costs the same, the rest is multiplied."""


def make(features: str, n: int, d: int, images: Path | None) -> np.ndarray:
    """float32[n, d] of the kind named."""
    rng = np.random.default_rng(0)
    if features == "images":
        assert images is not None
        found = cnn_features(images)
        copies = [found + rng.normal(0, 0.05, found.shape) * found.std() for _ in range(-(-n // len(found)))]
        return np.concatenate(copies)[:n].astype(np.float32)
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


def cnn_features(folder: Path) -> np.ndarray:
    """float32[n, 256]: the images of the folder, seen by a CNN trained on a third of them."""
    from PIL import Image

    from coreset_backend import model

    class Pixels:
        def __init__(self, array: np.ndarray) -> None:
            self.array, self.shape = array, array.shape

        def __len__(self) -> int:
            return len(self.array)

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            return self.array[rows]

    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
    pixels = Pixels(
        np.stack([np.asarray(Image.open(path).convert("RGB").resize((32, 32))) for path in paths])
    )
    names = sorted({path.parent.name for path in paths})
    codes = np.array([names.index(path.parent.name) for path in paths])
    rows = np.arange(0, len(paths), 3)
    classifier, _ = model.fit(
        model.choose_backbone("small_cnn", None),
        model.PixelSubset(pixels, rows),
        np.eye(len(names), dtype=np.float32)[codes[rows]],
        multiple=False,
        holdout=np.zeros(len(rows), dtype=bool),
        seed=0,
    )
    return model.embed_and_predict(classifier, pixels)[0]


def ours(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> np.ndarray:
    return k_center_greedy(Pool(vectors, labeled), batch).rows


def numpy_steps(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> np.ndarray:
    """One pass over all vectors per center, in place: what everybody writes first."""
    norms = np.einsum("ij,ij->i", vectors, vectors)
    nearest, picked = np.full(len(vectors), np.inf, dtype=np.float32), []
    for step in range(min(NUMPY_STEPS, len(labeled) + batch)):
        row = labeled[step] if step < len(labeled) else int(nearest.argmax())
        picked.append(row)
        distances = vectors @ vectors[row]
        distances *= -2
        distances += norms
        distances += norms[row]
        np.minimum(nearest, distances, out=nearest)
    return np.array(picked[len(labeled) :])


def scikit_activeml(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> np.ndarray:
    from skactiveml.pool import CoreSet

    labels = np.full(len(vectors), np.nan)
    labels[labeled] = 0
    return CoreSet(random_state=0).query(vectors, labels, batch_size=batch)


def fpsample_all(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> np.ndarray:
    """fpsample knows no labelled set: it is given one start, and as many picks as the others have centers."""
    import fpsample

    return fpsample.fps_sampling(vectors, len(labeled) + batch, start_idx=int(labeled[0]))[len(labeled) :]


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "ours": ours,
    "plain numpy": numpy_steps,
    "scikit-activeml": scikit_activeml,
    "fpsample": fpsample_all,
}


def measure(method: str, path: Path, labeled: int, batch: int) -> dict[str, float]:
    """In this process: CPU seconds, MB beyond the vectors, and for ours the next batch."""
    vectors = np.load(path)
    rows = np.sort(np.random.default_rng(1).permutation(len(vectors))[:labeled])
    METHODS[method](vectors[: labeled + 4000].copy(), np.arange(labeled), 5)  # imports and first pages
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_memory()
    started = time.process_time()
    picked = METHODS[method](vectors, rows, batch)
    seconds = time.process_time() - started
    if method == "plain numpy":
        seconds *= (labeled + batch) / min(NUMPY_STEPS, labeled + batch)
    peak = peak_memory() - before
    found = {"seconds": seconds, "megabytes": peak, "distinct": float(len(np.unique(picked)))}
    if method != "plain numpy":
        found["radius"] = covering_radius(vectors, np.unique(np.concatenate([rows, picked])))
    return found if method != "ours" else {**found, **next_batch(vectors, rows, picked)}


def peak_memory() -> float:
    """The peak of this process's memory in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def next_batch(vectors: np.ndarray, rows: np.ndarray, picked: np.ndarray) -> dict[str, float]:
    """T7: 100 more rows on kept state."""
    kept = Coverage(vectors, rows)
    kept.pick(len(picked))
    started = time.process_time()
    k_center_greedy(Pool(vectors, np.concatenate([rows, picked])), 100, coverage=kept)
    seconds = time.process_time() - started
    return {"next": seconds}


def robust(path: Path, n: int, batch: int, seconds: float) -> dict[str, float | str]:
    """R1: the robust radius as a share of greedy's, one row in 1000 left out."""
    vectors = np.load(path)[:n]
    labeled = np.arange(n // 20 if n <= 1000 else 100)
    pool, rng = Pool(vectors, labeled), np.random.default_rng(0)
    hurried = robust_k_center(pool, batch, rng, outliers=1, seconds=0)
    started = time.process_time()
    found = robust_k_center(pool, batch, rng, outliers=1, seconds=seconds)
    return {
        "seconds": time.process_time() - started,
        "ratio": found.radius_after / hurried.radius_after,
        "status": found.status,
    }


def in_a_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def hardware() -> str:
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    names = ("numpy", "scipy", "scikit-activeml", "fpsample")
    return f"{cpu.split(': ')[1]}, {os.cpu_count()} cores; Python {platform.python_version()}; " + ", ".join(
        f"{name} {installed(name)}" for name in names
    )


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def report(name: str, folder: Path, images: Path | None) -> None:
    features, n, d, labeled, batch = CASES[name]
    path = folder / "vectors.npy"
    np.save(path, make(features, n, d, images))
    methods = [method for method in METHODS if method == "ours" or name in COMPARED]
    base = None
    for method in methods:
        if method in ("scikit-activeml", "fpsample") and installed(method) == "absent":
            continue
        found = in_a_process(method, str(path), str(labeled), str(batch))
        base = base or found["seconds"]
        radius = f"{found['radius']:.4f}" if "radius" in found else "same"
        more = f", next 100 on kept state {found['next']:.3f} s" if "next" in found else ""
        print(
            f"| {name} | {features} {n} x {d}, L {labeled}, b {batch} | {method} | {found['seconds']:.3f} "
            f"| {found['seconds'] / base:.1f} | {found['megabytes']:.0f} | {radius}{more} |",
            flush=True,
        )
    if name.startswith("T1"):
        for size, picks, seconds in ((1000, 50, 30), (10_000, 1000, 10)):
            found = in_a_process("robust", str(path), str(size), str(picks), str(seconds))
            print(
                f"| R1 | {features} {size}, b {picks}, {seconds} s | robust_k_center "
                f"| {found['seconds']:.2f} | | | {found['ratio']:.4f} of greedy's, {found['status']} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        method, path, *numbers = given.measure
        run = robust if method == "robust" else lambda *more: measure(method, *more)
        print(json.dumps(run(Path(path), *(int(number) for number in numbers))))
        return
    print(hardware())
    print(
        "| target | data | method | CPU s | times ours | MB beyond | radius |\n|---|---|---|---|---|---|---|"
    )
    for name in [given.only] if given.only else CASES:
        if given.images or CASES[name][0] != "images":
            with tempfile.TemporaryDirectory() as folder:
                report(name, Path(folder), given.images)


if __name__ == "__main__":
    main()
