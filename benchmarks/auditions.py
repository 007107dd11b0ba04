"""Which backbone the labels choose, and whether it is the best: accuracy on unseen images, by pool.

    python benchmarks/auditions.py --pool FOLDER --cache DIR

FOLDER, --images and DIR are those of benchmarks/label_efficiency.py. The candidates: EfficientNet-Lite0,
patch features, and with --pretraining the features that SimCLR learns on the pool, in minutes of CPU time.
Each draw takes random labels. At each number of labels production's audition compares the candidates on
them, first with Lite0 in use, then with what the last one ended with; once more from each other candidate.
For each candidate the head that a round fits on the same labels is measured on the test images. The results
are kept in DIR/auditions.jsonl, and a second run goes on from there. One core: `OMP_NUM_THREADS=1`.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_efficiency import conditions, features_kept_in, numbers, pool_name, yield_of
from pools import POOLS, pool_folder

from coreset_backend import model
from coreset_backend.arrays import Floats, Rows
from coreset_backend.rounds.audition import as_candidate
from coreset_backend.settings import Settings
from coreset_backend.simulation.images import LabeledImages, read_folder
from coreset_backend.simulation.replay import pool_and_test, pretrained_on

BUDGETS = (50, 100, 200, 400)
PATCHES = "patch_features"
Result = Mapping[str, Any]


def main(line: Sequence[str] | None = None) -> None:
    given = arguments().parse_args(line)
    print(conditions())
    torch.set_num_threads(1)
    given.cache.mkdir(parents=True, exist_ok=True)
    kept, name = given.cache / "auditions.jsonl", pool_name(given.pool)
    results = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    results = [each for each in results if _kind(each) == (name, given.size, given.pretraining)]
    draws = [draw for draw in range(given.draws) if draw not in {each["draw"] for each in results}]
    for result in measured(given, draws) if draws else ():
        results.append({"pool": name, "size": given.size, "pretraining": given.pretraining, **result})
        with kept.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    print(table(results))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", required=True, help=f"{', '.join(POOLS)}, or a folder of images by class")
    parser.add_argument("--images", type=Path, help="what balanced, redundant and long_tail are made of")
    parser.add_argument("--budgets", type=numbers, default=list(BUDGETS), help="such as 50,100")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="pixels a side for Lite0")
    parser.add_argument("--pretraining", action="store_true", help="learn features on the pool too")
    parser.add_argument(
        "--cache", type=Path, required=True, help="where pools, features and results are kept"
    )
    return parser


def _kind(result: Result) -> tuple[str, int, bool]:
    return result["pool"], result["size"], result["pretraining"]


# ---------------------------------------------------------------- the candidates


@dataclass(frozen=True, slots=True, eq=False)
class Entrant:
    """A backbone with its ``features`` float32[n, dimension] of the pool, before any preparation.

    ``frozen`` prepares as a round does; ``pool`` and ``test`` are the embeddings of both parts by it.
    """

    frozen: model.Classifier
    features: Floats
    pool: Floats
    test: Floats

    @property
    def name(self) -> str:
        return self.frozen.backbone.name

    def accuracy(self, rows: Rows, targets: Floats, wanted: Floats) -> float:
        """On the test images, of the head that a round fits on those rows of the pool."""
        nobody = np.zeros(len(rows), bool)
        fitted, _ = model.fit_head(
            self.frozen, self.pool[rows], targets[rows], multiple=False, holdout=nobody
        )
        said = model.probabilities_of(fitted, self.test)
        assert said is not None
        return float((said.argmax(1) == wanted.argmax(1)).mean())


def entrants(given: argparse.Namespace, folder: Path) -> tuple[list[Entrant], Floats, Floats]:
    """The candidates, the one that is in use at first before the others; one-hot targets of pool and test."""
    settings = Settings(backbone="auto", image_size=given.size, device="cpu", model_dir=given.cache)
    small = settings.model_copy(update={"backbone": "small_cnn", "image_size": None})
    found, targets = [], []
    for each in (settings, small):
        pool, test = images_of(each, folder)
        targets = [one_hot(pool), one_hot(test)]
        found.append(entrant(each, model.choose_backbone(each.backbone, None), pool, test))
    if given.pretraining:
        own = small.model_copy(update={"backbone": model.SELF_SUPERVISED})
        kept = given.cache / f"pretraining-{pool.digest()[:16]}"
        found.append(entrant(own, yield_of(pretrained_on(own, pool, kept)), pool, test))
    return found, *targets


def images_of(settings: Settings, folder: Path) -> tuple[LabeledImages, LabeledImages]:
    """The pool and the images to test, at the size of the backbone."""
    parts = folder / "train", folder / "test"
    pool_part, test_part = parts if all(part.is_dir() for part in parts) else (folder, None)
    decoded = settings.local_dir / "pixels" / settings.backbone
    return pool_and_test(
        settings, lambda size: read_folder(pool_part, size, decoded / "pool.npy"), test_part, decoded
    )


def entrant(
    settings: Settings, chosen: model.ChosenBackbone, pool: LabeledImages, test: LabeledImages
) -> Entrant:
    frozen = model.untrained(chosen, pool.pixels, seed=0, device=settings.device)
    place = settings.local_dir / "features" / f"{model.features_name(frozen)[:16]}.npz"
    features, tested = (features_kept_in(place, frozen, images) for images in (pool, test))
    if not frozen.backbone.published:
        return Entrant(frozen, features, features, tested)
    preparation = model.fit_preparation(features, seed=0)
    embeddings = (model.prepared(preparation, part) for part in (features, tested))
    return Entrant(replace(frozen, preparation=preparation), features, *embeddings)


def one_hot(images: LabeledImages) -> Floats:
    codes = [images.names.index(name) for (name,) in images.chosen]
    return np.eye(len(images.names), dtype=np.float32)[codes]


# ---------------------------------------------------------------- the auditions


def measured(given: argparse.Namespace, draws: Sequence[int]) -> Iterator[Result]:
    """For each draw and each number of labels: accuracies by candidate, and what the auditions ended with."""
    folder = pool_folder(given.pool, given.images, 0, given.cache)
    found, targets, wanted = entrants(given, folder)
    for draw in draws:
        order = np.random.default_rng(draw).permutation(len(targets)).astype(np.int64)
        rows_by_budget = [order[:budget] for budget in given.budgets if budget <= len(order)]
        in_use = {each.name: each.name for each in found}
        points = []
        for rows in rows_by_budget:
            compared = [as_candidate(each.frozen.backbone, each.features[rows], draw) for each in found]
            in_use = {
                first: model.compare_backbones(
                    compared, targets[rows], multiple=False, current=current
                ).chosen
                for first, current in in_use.items()
            }
            right = {each.name: round(each.accuracy(rows, targets, wanted), 4) for each in found}
            points.append({"labels": len(rows), "right": right, "ends": in_use})
            print(draw, points[-1], flush=True)
        yield {"draw": draw, "points": points}


def table(results: Sequence[Result]) -> str:
    """Means over the draws in per cent: each candidate, what the audition ends with, its gap to the best."""
    names = list(results[0]["points"][0]["right"])
    titles = ["labels", "n", *names, *(f"ends, from {name}" for name in names), "gap", "left"]
    rows = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for points in zip(*(each["points"] for each in results), strict=True):
        means = [100 * float(np.mean([point["right"][name] for point in points])) for name in names]
        ends = [
            100 * float(np.mean([point["right"][point["ends"][first]] for point in points]))
            for first in names
        ]
        gap = max(means) - ends[0]
        left = sum(point["ends"][names[0]] != names[0] for point in points)
        shown = [f"{value:.1f}" for value in (*means, *ends, gap)]
        rows.append(f"| {points[0]['labels']} | {len(points)} | {' | '.join(shown)} | {left} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
