"""The small CNN from scratch: accuracy on unseen images by labels and CPU-seconds.

    python benchmarks/small_cnn.py TRAIN TEST [--labels 500,2000,10000] [--images 8000,16000,32000]

Two folders with a subfolder of images for each class. For each number of labels, drawn anew for each seed,
and of images seen in the fit: mean accuracy, its standard deviation over the seeds, and CPU-seconds with one
thread, which other work on the machine moves little. ``auto`` is the number that the product takes.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from round import processor  # noqa: E402

from coreset_backend import model  # noqa: E402
from coreset_backend.arrays import Resize  # noqa: E402
from coreset_backend.simulation.images import LabeledImages, read_folder  # noqa: E402


def measured(
    pool: LabeledImages, test: LabeledImages, labels: int, images: int | None, seed: int
) -> tuple[float, float]:
    """Accuracy on the test images and CPU-seconds of the fit."""
    rows = np.random.default_rng(seed).permutation(len(pool))[:labels]
    targets = np.eye(len(pool.names), dtype=np.float32)[classes_of(pool)[rows]]
    started = time.process_time()
    classifier, _ = model.fit(
        model.choose_backbone("small_cnn", None),
        pool.pixels[rows],
        targets,
        multiple=False,
        holdout=np.zeros(len(rows), dtype=bool),
        seed=seed,
        device="cpu",
        recipe=model.Recipe(images=images),
    )
    seconds = time.process_time() - started
    said = model.predict(classifier, test.pixels)
    assert said is not None
    return float((said.argmax(1) == classes_of(test)).mean()), seconds


def classes_of(images: LabeledImages) -> NDArray[np.int64]:
    return np.array([images.names.index(name) for (name,) in images.chosen], dtype=np.int64)


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--labels", type=numbers, default=[500, 2000, 10_000])
    parser.add_argument("--images", type=numbers, default=[8000, 16_000, 32_000])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    decoded = Path(tempfile.mkdtemp())
    pool, test = (
        read_folder(folder, Resize(given.size), decoded / f"{folder.name}.npy")
        for folder in (given.train, given.test)
    )
    load = os.getloadavg()[0]
    print(f"{processor()}, {os.cpu_count()} cores, load {load:.1f}; {len(test):,} test images\n")
    print("| labels | images seen | n | accuracy % | CPU-s | images per CPU-second |")
    print("|---|---|---|---|---|---|")
    for labels in given.labels:
        auto = model.Recipe().images_for(labels)
        for images in (*given.images, None):
            found = [measured(pool, test, labels, images, seed) for seed in range(given.seeds)]
            right, seconds = np.array(found).T
            shown = f"{images:,}" if images else f"auto: {auto:,}"
            accuracy = f"{100 * right.mean():.1f} ± {100 * right.std():.1f}"
            print(
                f"| {labels:,} | {shown} | {given.seeds} | {accuracy} | "
                f"{seconds.mean():.1f} | {(images or auto) / seconds.mean():,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
