"""The three pools of the label-efficiency benchmark, made of a folder <split>/<class>/<number>.jpg."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreset_backend.decoding import decoded_pixels

POOLS = ("balanced", "long_tail", "redundant")
DISTINCT, COPIED, SIZE = 2000, 400, 10_000
"""The redundant pool: 2,000 distinct images, and near-copies of 400 of them up to 10,000."""


@dataclass(frozen=True, slots=True, eq=False)
class LabeledImages:
    """``pixels`` uint8[n, size, size, 3]; ``classes``, ``origins`` (the image each was made of) int64[n]."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    origins: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: NDArray[np.int64]) -> "LabeledImages":
        return LabeledImages(self.pixels[rows], self.classes[rows], self.origins[rows])


def read_images(folder: Path, size: int = 32) -> LabeledImages:
    """All images of folder/<class>/*.jpg, ordered by number, then class: any prefix is nearly balanced."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    paths = sorted(folder.glob("*/*.jpg"), key=lambda path: (path.stem, path.parent.name))
    pixels = np.stack([decoded_pixels(path.read_bytes(), size, 10**6) for path in paths])
    classes = np.array([names.index(path.parent.name) for path in paths], dtype=np.int64)
    return LabeledImages(pixels, classes, np.arange(len(paths)))


def pool_named(name: str, train: LabeledImages, seed: int) -> LabeledImages:
    """The pool: `balanced` all; `long_tail` 1,000 to 10 a class; `redundant` near-copies of few."""
    rng = np.random.default_rng(seed)
    if name == "balanced":
        return train
    return _long_tail(train, rng) if name == "long_tail" else _redundant(train, rng)


def _long_tail(train: LabeledImages, rng: np.random.Generator) -> LabeledImages:
    order = rng.permutation(int(train.classes.max()) + 1)
    most = int(np.bincount(train.classes).min())
    kept = []
    for rank, label in enumerate(order):
        rows = np.flatnonzero(train.classes == label)
        kept.append(rows[: round(most * 100 ** (-rank / (len(order) - 1)))])
    return train.take(rng.permutation(np.concatenate(kept)))


def _redundant(train: LabeledImages, rng: np.random.Generator) -> LabeledImages:
    distinct = rng.permutation(len(train))[:DISTINCT]
    bursts = rng.pareto(1.2, COPIED) + 0.2
    copied = rng.choice(distinct[:COPIED], SIZE - DISTINCT, p=bursts / bursts.sum())
    rows = np.concatenate([distinct, copied])
    made = train.take(rows)
    near = np.stack([_near_copy(train.pixels[row], rng) for row in copied])
    pixels = np.concatenate([made.pixels[:DISTINCT], near])
    order = rng.permutation(len(rows))
    return LabeledImages(pixels, made.classes, made.origins).take(order)


def _near_copy(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Shifted by at most 2 pixels, contrast and brightness changed by at most 15 %, with a little noise."""
    down, across = rng.integers(-2, 3, 2)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    size = len(image)
    moved = padded[2 + down : 2 + down + size, 2 + across : 2 + across + size].astype(np.float32)
    contrast, brightness = rng.uniform(0.85, 1.15), rng.uniform(-0.15, 0.15) * 128
    changed = (moved - 128) * contrast + 128 + brightness + rng.normal(0, 3, moved.shape)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)
