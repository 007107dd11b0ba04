"""Whether it pays to train a pretrained network on: accuracy and CPU-seconds, beside its head alone.

    python benchmarks/fine_tuning.py --pool FOLDER --cache DIR [--labels 2000] [--rates 0.0001,0.001]

FOLDER, --images and DIR are those of benchmarks/label_efficiency.py. For each draw of random labels: the head
that a round fits on frozen, prepared features, then EfficientNet-Lite0 trained on from a head, all its
weights, as a round does it on a GPU, once for each learning rate. The results are kept in
DIR/fine_tuning.jsonl, and a second run goes on from there. One core: `OMP_NUM_THREADS=1`.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from auditions import entrant, images_of, one_hot
from label_efficiency import conditions, numbers, pool_name
from label_tables import keep_cell, read_cells
from pools import POOLS, pool_folder

from coreset_backend import model
from coreset_backend.arrays import PixelSubset, Rows
from coreset_backend.settings import Settings
from coreset_backend.simulation.images import LabeledImages

Result = Mapping[str, Any]


def main(line: Sequence[str] | None = None) -> None:
    given = arguments().parse_args(line)
    print(conditions())
    torch.set_num_threads(1)
    given.cache.mkdir(parents=True, exist_ok=True)
    kept = given.cache / "fine_tuning.jsonl"
    results = read_cells(kept)
    kind = {"pool": pool_name(given.pool), "size": given.size, "seen": given.seen}
    results = [each for each in results if kind.items() <= each.items()]
    for result in missing(given, results):
        results.append({**kind, **result})
        keep_cell(kept, results[-1])
        print(results[-1], flush=True)
    print(table(results))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", required=True, help=f"{', '.join(POOLS)}, or a folder of images by class")
    parser.add_argument("--images", type=Path, help="what balanced, redundant and long_tail are made of")
    parser.add_argument("--labels", type=numbers, default=[2000], help="such as 400,2000")
    parser.add_argument("--rates", type=rates, default=[1e-4, 1e-3], help="learning rates")
    parser.add_argument("--seen", type=int, help="images seen in a fit; the product's number if left out")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--cache", type=Path, required=True, help="where features and results are kept")
    return parser


def rates(text: str) -> list[float]:
    return [float(each) for each in text.split(",")]


def missing(given: argparse.Namespace, results: Sequence[Result]) -> Iterator[Result]:
    """Each fit that is not among the results; the rate of the head alone is None."""
    done = {(each["draw"], each["labels"], each["rate"]) for each in results}
    settings = Settings(backbone="auto", image_size=given.size, device="cpu", model_dir=given.cache)
    pool, test = images_of(settings, pool_folder(given.pool, given.images, 0, given.cache))
    frozen = entrant(settings, model.choose_backbone(settings.backbone, None), pool, test)
    for draw, labels, rate in product(range(given.draws), given.labels, (None, *given.rates)):
        if (draw, labels, rate) in done:
            continue
        rows, began = np.random.default_rng(draw).permutation(len(pool))[:labels], time.process_time()
        if rate is None:
            right = frozen.accuracy(rows, one_hot(pool), one_hot(test))
        else:
            recipe = model.Recipe(images=given.seen, learning_rate=rate)
            right = accuracy_trained_on(pool, test, rows, draw, recipe)
        seconds = round(time.process_time() - began, 1)
        yield {"draw": draw, "labels": labels, "rate": rate, "right": right, "cpu_seconds": seconds}


def accuracy_trained_on(
    pool: LabeledImages, test: LabeledImages, rows: Rows, seed: int, recipe: model.Recipe
) -> float:
    """On the test images, of Lite0 trained on with those rows of the pool."""
    classifier, _ = model.fit(
        model.choose_backbone("auto", None),
        PixelSubset(pool.pixels, rows),
        one_hot(pool)[rows],
        multiple=False,
        holdout=np.zeros(len(rows), bool),
        seed=seed,
        device="cpu",
        progress=show_seen,
        recipe=recipe,
        whole=True,
    )
    said = model.predict(classifier, test.pixels)
    assert said is not None
    return float((said.argmax(1) == one_hot(test).argmax(1)).mean())


def show_seen(done: int, total: int) -> None:
    if done % 1000 < 64:
        print(f"{done:,} of {total:,} images, {time.process_time():.0f} CPU-s", flush=True)


def table(results: Sequence[Result]) -> str:
    """Mean and standard deviation over the draws."""
    rows = ["| labels | trained | n | accuracy % | CPU-s |", "|---|---|---|---|---|"]
    for labels, rate in dict.fromkeys((each["labels"], each["rate"]) for each in results):
        found = [each for each in results if (each["labels"], each["rate"]) == (labels, rate)]
        right, seconds = np.array([(100 * each["right"], each["cpu_seconds"]) for each in found]).T
        trained = f"all, at a rate of {rate}" if rate else "head alone"
        figures = f"{right.mean():.1f} ± {right.std():.1f} | {seconds.mean():.0f}"
        rows.append(f"| {labels:,} | {trained} | {len(found)} | {figures} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
