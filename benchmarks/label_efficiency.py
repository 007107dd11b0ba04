"""What a label buys: accuracy over the number of labels, by strategy, on one pool.

    python benchmarks/label_efficiency.py --pool FOLDER --cache DIR

FOLDER holds train/<class>/ and test/<class>/ with images, or <class>/ alone: then a fifth of each class
measures. Or the name of a pool that is made here: balanced, redundant and long_tail of such a folder that
--images names, digits, mnist, fruit and textures of nothing. The rounds are production's: its backbone,
preparation, head, choice of the batch and near-duplicates, by the package's own simulation.

A *draw* is a seed of the picks, and of the pool where it is made anew (redundant, long_tail). Random draws
from all images, without grouping near-duplicates. DIR keeps the features, each image is embedded once, and
cells.jsonl, where every replay is written as soon as it is done: a second run goes on from there. Last comes
the table. One core: `OMP_NUM_THREADS=1`.
"""

import argparse
import io
import json
import os
import platform
import re
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_tables import BUDGETS, Cell, keep_cell, read_cells, tables
from numpy.typing import NDArray
from pools import POOLS, pool_folder

from coreset_backend import model
from coreset_backend.arrays import Floats, PixelSubset
from coreset_backend.errors import CoresetError
from coreset_backend.files import write_atomically
from coreset_backend.selection import STRATEGIES
from coreset_backend.settings import Settings
from coreset_backend.simulation.images import LabeledImages, read_folder
from coreset_backend.simulation.replay import Learned, frozen_features, pool_and_test, pretrained_on, replay

DEFAULT = Settings.model_fields["strategy"].default
WITHOUT_GROUPS = ("random",)
"""Strategies that are replayed without grouping near-duplicates: what labelling in any order would give."""


def main(line: Sequence[str] | None = None) -> None:
    given = arguments().parse_args(line)
    print(conditions())
    torch.set_num_threads(1)
    given.cache.mkdir(parents=True, exist_ok=True)
    kept = given.cache / "cells.jsonl"
    cells = read_cells(kept)
    for cell in missing_cells(given, cells):
        cells.append(cell)
        keep_cell(kept, cell)
        print(cell["pool"], cell["strategy"], cell["draw"], *percent(cell["curve"]), flush=True)
    name = pool_name(given.pool)
    print(tables([cell for cell in cells if cell["pool"] == name and cell["budgets"] == given.budgets]))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", required=True, help=f"{', '.join(POOLS)}, or a folder of images by class")
    parser.add_argument("--images", type=Path, help="what balanced, redundant and long_tail are made of")
    parser.add_argument("--strategies", type=names, default=["random", DEFAULT])
    parser.add_argument("--budgets", type=numbers, default=list(BUDGETS), help="such as 20,40,100")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--backbone", default="auto")
    parser.add_argument("--size", type=int, help="pixels a side; the backbone's own if left out")
    parser.add_argument("--cache", type=Path, required=True, help="where pools, features and cells are kept")
    return parser


def names(text: str) -> list[str]:
    if unknown := [name for name in text.split(",") if name not in STRATEGIES]:
        raise argparse.ArgumentTypeError(f"no strategy {unknown[0]!r}; there are {', '.join(STRATEGIES)}")
    return text.split(",")


def numbers(text: str) -> list[int]:
    return sorted({int(each) for each in text.split(",")})


def conditions() -> str:
    """The machine and the versions that the figures were made with."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    packages = ("coreset-backend", "torch", "timm", "numpy")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores, one thread, "
        f"load {os.getloadavg()[0]:.1f}; {versions}; {time.strftime('%d %B %Y')}"
    )


def percent(shares: Sequence[float]) -> list[float]:
    return [round(100 * share, 1) for share in shares]


def pool_name(pool: str) -> str:
    return pool if pool in POOLS else Path(pool).resolve().name


# ---------------------------------------------------------------- the cells


def missing_cells(given: argparse.Namespace, cells: Sequence[Cell]) -> Iterator[Cell]:
    """Each replay that is not among ``cells``, draw after draw: a pool is read once for all of them."""
    chosen = model.choose_backbone(given.backbone, None)
    resize = chosen.backbone.resize(given.size)
    settings = Settings(backbone=given.backbone, image_size=resize.size, device="cpu", model_dir=given.cache)
    done = {key_of(cell) for cell in cells}
    read: tuple[Path, Rounds] | None = None
    for draw, strategy in product(range(given.draws), given.strategies):
        cell = {"pool": pool_name(given.pool), "backbone": chosen.backbone.name}
        cell |= {"size": resize.size, "interpolation": resize.interpolation}
        cell |= {"strategy": strategy, "draw": draw, "budgets": given.budgets}
        if key_of(cell) in done:
            continue
        folder = pool_folder(given.pool, given.images, draw, given.cache)
        if read is None or read[0] != folder:
            read = folder, Rounds.of(settings, chosen, folder)
        yield cell | read[1].replayed(strategy, draw, given.budgets)


def key_of(cell: Cell) -> str:
    parts = ("pool", "backbone", "size", "interpolation", "strategy", "draw", "budgets")
    return json.dumps([cell.get(part, "bilinear") for part in parts])  # the first cells do not name it


@dataclass(frozen=True, slots=True)
class Rounds:
    """A pool that is read and embedded, to replay rounds on."""

    settings: Settings
    chosen: model.ChosenBackbone
    pool: LabeledImages
    test: LabeledImages
    frozen: Learned

    @classmethod
    def of(cls, settings: Settings, chosen: model.ChosenBackbone, folder: Path) -> "Rounds":
        parts = folder / "train", folder / "test"
        pool_part, test_part = parts if all(part.is_dir() for part in parts) else (folder, None)
        pixels = settings.local_dir / "pixels"
        pool, test = pool_and_test(
            settings, lambda resize: read_folder(pool_part, resize, pixels / "pool.npy"), test_part, pixels
        )
        print(f"{folder}: {len(pool):,} images to choose from, {len(test):,} to measure", flush=True)
        pretraining = pretrained_on(settings, pool, settings.local_dir / f"pretraining-{pool.digest()[:16]}")
        chosen = yield_of(pretraining) if chosen.weights is None else chosen
        return cls(settings, chosen, pool, test, embedded(settings, chosen, pool, test))

    def replayed(self, strategy: str, seed: int, budgets: Sequence[int]) -> Cell:
        """Labels, accuracy on the test images and calibration error on the rest of the pool, by budget."""
        began = time.process_time()
        grouped = strategy not in WITHOUT_GROUPS
        changed = {"strategy": strategy, "seed": seed, "group_duplicates": grouped}
        settings = self.settings.model_copy(update=changed)
        points = list(replay(settings, self.chosen, self.pool, self.test, budgets, self.frozen))
        return {
            "labels": [point.labels for point in points],
            "curve": [round(point.accuracy, 4) for point in points],
            "off": [point.calibration_error and round(point.calibration_error, 4) for point in points],
            "cpu_seconds": round(time.process_time() - began, 1),
        }


def yield_of(lines: Generator[str, None, model.ChosenBackbone]) -> model.ChosenBackbone:
    """What the generator returns; its lines of progress are printed."""
    while True:
        try:
            print(next(lines), flush=True)
        except StopIteration as stop:
            return stop.value


def embedded(
    settings: Settings, chosen: model.ChosenBackbone, pool: LabeledImages, test: LabeledImages
) -> Learned:
    """As `frozen_features` gives them, but of images that were embedded before the features are kept."""
    if not chosen.backbone.published:
        return frozen_features(settings, chosen, pool, test)
    frozen = model.untrained(chosen, pool.pixels, seed=0, device=settings.device)
    place = settings.local_dir / "features" / f"{model.features_name(frozen)[:16]}.npz"
    features, test_features = (features_kept_in(place, frozen, images) for images in (pool, test))
    preparation = model.fit_preparation(features, seed=0)
    classifier = replace(frozen, preparation=preparation)
    embeddings, tested = (model.prepared(preparation, part) for part in (features, test_features))
    return Learned.of(classifier, embeddings, tested, seed=0)


def features_kept_in(place: Path, frozen: model.Classifier, images: LabeledImages) -> Floats:
    """float32[n, dimension]: the features of the images; those that the file lacks are added to it."""
    known: dict[bytes, Floats] = {}
    if place.exists():
        with np.load(place) as file:
            known = dict(zip(map(bytes, file["keys"]), file["features"], strict=True))
    keys = [bytes(key) for key in images.image_keys()]
    fresh = np.array([row for row, key in enumerate(keys) if key not in known], dtype=np.int64)
    if len(fresh):
        features = model.embed(frozen, PixelSubset(images.pixels, fresh), progress=show_embedded)
        known |= zip((keys[row] for row in fresh), features, strict=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        listed = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
        write_atomically(place, npz(keys=listed, features=np.stack(list(known.values()))))
    return np.stack([known[key] for key in keys])


def npz(**arrays: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def show_embedded(done: int, total: int) -> None:
    if done == total or done % 1000 < 50:
        print(f"\rembedded {done:,} of {total:,}", end="\n" if done == total else "", flush=True)


if __name__ == "__main__":
    try:
        main()
    except CoresetError as error:
        raise SystemExit(str(error)) from error
