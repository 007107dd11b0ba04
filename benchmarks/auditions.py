"""Which backbone the labels choose, and whether it is the best: accuracy on unseen images, by pool.

    python benchmarks/auditions.py --pool FOLDER --cache DIR

FOLDER, --images and DIR are those of benchmarks/label_efficiency.py. The candidates: EfficientNet-Lite0,
patch features, with --pretraining the features that SimCLR learns on the pool, in minutes of CPU time, and
with --stages the last layer and the earlier stages of Lite0's features as two candidates of their own.
Each draw takes three quarters of the pool. The labels are those that production's strategy picks there, in
batches of 50, on the backbone that the last audition ended with; with --random they are random. At each
number of labels production's audition compares the candidates, first with Lite0 in use, then with what the
last one ended with; on random labels once more from each other candidate. For each candidate the head that a
round fits on the same labels is measured on the test images. The results are kept in DIR/auditions.jsonl, and
a second run goes on from there. One core: `OMP_NUM_THREADS=1`.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from label_efficiency import conditions, features_kept_in, numbers, pool_name, yield_of
from label_tables import keep_cell, read_cells
from pools import POOLS, pool_folder

from coreset_backend import model
from coreset_backend.arrays import Floats, Rows
from coreset_backend.project import Snapshot, Task
from coreset_backend.rounds.audition import as_candidate, stand_for
from coreset_backend.rounds.choose import choose_batch
from coreset_backend.rounds.near_duplicates import duplicate_groups
from coreset_backend.selection import neighbors_for
from coreset_backend.selection.annoy_index import build_index
from coreset_backend.settings import Settings
from coreset_backend.simulation.images import LabeledImages, read_folder
from coreset_backend.simulation.replay import pool_and_test, pretrained_on

BUDGETS = (50, 100, 200, 400)
BATCH, PART = 50, 0.75
"""Labels a round, and the share of the pool that a draw takes."""
STAGES = {"last layer": slice(0, 1280), "earlier stages": slice(1280, None)}
"""Of EfficientNet-Lite0's features (`model/stages.py`)."""
Result = Mapping[str, Any]


def main(line: Sequence[str] | None = None) -> None:
    given = arguments().parse_args(line)
    print(conditions())
    torch.set_num_threads(1)
    given.cache.mkdir(parents=True, exist_ok=True)
    kept, name = given.cache / "auditions.jsonl", pool_name(given.pool)
    results = read_cells(kept)
    kind = {"pool": name, "size": given.size, "pretraining": given.pretraining, "random": given.random}
    kind |= {"own_size": given.own_size, "stages": given.stages}
    results = [{"own_size": None, "stages": False, **each} for each in results]  # the first lack both
    results = [each for each in results if kind.items() <= each.items()]
    draws = [draw for draw in range(given.draws) if draw not in {each["draw"] for each in results}]
    for result in measured(given, draws) if draws else ():
        results.append({**kind, **result})
        keep_cell(kept, results[-1])
    print(table(results))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", required=True, help=f"{', '.join(POOLS)}, or a folder of images by class")
    parser.add_argument("--images", type=Path, help="what balanced, redundant and long_tail are made of")
    parser.add_argument("--budgets", type=numbers, default=list(BUDGETS), help="such as 50,100")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--size", type=int, default=128, help="pixels a side for Lite0")
    parser.add_argument("--own-size", type=int, help="pixels a side for what is learned on the pool")
    parser.add_argument("--pretraining", action="store_true", help="learn features on the pool too")
    parser.add_argument("--stages", action="store_true", help="also parts of Lite0's features")
    parser.add_argument("--random", action="store_true", help="random labels")
    parser.add_argument(
        "--cache", type=Path, required=True, help="where pools, features and results are kept"
    )
    return parser


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


def entrants(given: argparse.Namespace, folder: Path) -> tuple[list[Entrant], LabeledImages, Floats, Floats]:
    """The candidates, the first is in use at first; the pool's images; one-hot targets of pool and test."""
    settings = Settings(backbone="auto", image_size=given.size, device="cpu", model_dir=given.cache)
    small = settings.model_copy(update={"backbone": "small_cnn", "image_size": given.own_size})
    found, targets = [], []
    for each in (settings, small):
        pool, test = images_of(each, folder)
        targets = [one_hot(pool), one_hot(test)]
        whole = model.choose_backbone(each.backbone, None)
        found.append(entrant(each, whole, pool, test))
        if given.stages and each is settings:
            found += [entrant(each, whole, pool, test, stage) for stage in STAGES]
    if given.pretraining:
        own = small.model_copy(update={"backbone": model.SELF_SUPERVISED})
        kept = given.cache / f"pretraining-{pool.digest()[:16]}"
        found.append(entrant(own, yield_of(pretrained_on(own, pool, kept)), pool, test))
    return found, pool, *targets


def images_of(settings: Settings, folder: Path) -> tuple[LabeledImages, LabeledImages]:
    """The pool and the images to test, at the size of the backbone."""
    parts = folder / "train", folder / "test"
    pool_part, test_part = parts if all(part.is_dir() for part in parts) else (folder, None)
    decoded = settings.local_dir / "pixels" / settings.backbone
    return pool_and_test(
        settings, lambda size: read_folder(pool_part, size, decoded / "pool.npy"), test_part, decoded
    )


def entrant(
    settings: Settings,
    chosen: model.ChosenBackbone,
    pool: LabeledImages,
    test: LabeledImages,
    stage: str | None = None,
) -> Entrant:
    frozen = model.untrained(chosen, pool.pixels, seed=0, device=settings.device)
    place = settings.local_dir / "features" / f"{model.features_name(frozen)[:16]}.npz"
    features, tested = (features_kept_in(place, frozen, images) for images in (pool, test))
    if not frozen.backbone.published:
        return Entrant(frozen, features, features, tested)
    if stage:
        features, tested = features[:, STAGES[stage]], tested[:, STAGES[stage]]
        frozen = replace(frozen, backbone=replace(frozen.backbone, name=f"{frozen.backbone.name}, {stage}"))
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
    found, pool, targets, wanted = entrants(given, folder)
    for draw in draws:
        part = np.sort(np.random.default_rng(draw).permutation(len(pool))[: round(PART * len(pool))])
        project = Project(pool, part, draw)
        by_name = {each.name: each for each in found}
        in_use = {name: name for name in (by_name if given.random else [found[0].name])}
        points = []
        for budget in given.budgets:
            if given.random:
                project.label_at_random(budget)
            else:
                project.label_picks(by_name[in_use[found[0].name]], budget, targets)
            rows = project.labeled
            compared = [as_candidate(each.frozen.backbone, each.features[rows], draw) for each in found]
            ended = {each: project.audition(by_name[each], compared, targets) for each in {*in_use.values()}}
            in_use = {first: ended[current] for first, current in in_use.items()}
            right = {each.name: round(each.accuracy(rows, targets, wanted), 4) for each in found}
            points.append({"labels": len(rows), "right": right, "ends": in_use})
            print(draw, points[-1], flush=True)
        yield {"draw": draw, "points": points}


class Project:
    """A part of the pool, the rows ``part`` int64[n] of it, that is labelled step by step.

    ``labeled``: int64[l], rows of the pool.
    """

    def __init__(self, pool: LabeledImages, part: Rows, seed: int) -> None:
        self.pool, self.part, self.seed = pool, part, seed
        self.pixels = pool.pixels[part]
        self.is_labeled = np.zeros(len(part), bool)

    @property
    def labeled(self) -> Rows:
        return self.part[self.is_labeled]

    def label_at_random(self, budget: int) -> None:
        self.is_labeled[np.random.default_rng(self.seed).permutation(len(self.part))[:budget]] = True

    def label_picks(self, entrant: Entrant, budget: int, targets: Floats) -> None:
        """Label what a round on that backbone picks, batch after batch, until there are ``budget`` labels."""
        embeddings = entrant.pool[self.part]
        with TemporaryDirectory() as folder:
            index = build_index(embeddings, Path(folder) / "neighbors.ann", seed=self.seed)
            graph = index.graph(neighbors_for(len(index)))
        everything = np.arange(len(self.part), dtype=np.int64)
        while (missing := budget - int(self.is_labeled.sum())) > 0:
            settings = Settings(batch_size=min(missing, BATCH), seed=self.seed, model_dir=Path("unused"))
            groups = duplicate_groups(embeddings, np.flatnonzero(self.is_labeled), graph, self.pixels)
            odds = self._probabilities(entrant, embeddings, targets)
            picked = choose_batch(settings, self._snapshot(), everything, embeddings, odds, graph, groups)
            if not picked.batch:  # nothing is left but copies of what is labelled
                return
            self.is_labeled[list(picked.batch)] = True

    def audition(self, entrant: Entrant, compared: Sequence[model.Candidate], targets: Floats) -> str:
        """The backbone that production's audition ends with while that one is in use."""
        stands_for = stand_for(entrant.pool[self.part], np.flatnonzero(self.is_labeled), self.seed)
        known, current = targets[self.labeled], entrant.name
        return model.compare_backbones(
            compared, known, multiple=False, current=current, weights=stands_for
        ).chosen

    def _probabilities(self, entrant: Entrant, embeddings: Floats, targets: Floats) -> Floats | None:
        rows = self.labeled
        if not len(rows):
            return None
        nobody = np.zeros(len(rows), bool)
        fitted, _ = model.fit_head(
            entrant.frozen, entrant.pool[rows], targets[rows], multiple=False, holdout=nobody
        )
        return model.probabilities_of(fitted, embeddings, calibrated=False)

    def _snapshot(self) -> Snapshot:
        chosen = [self.pool.chosen[row] for row in self.part]
        tasks = tuple(
            Task(row, f"/{row}", "labeled", label) if known else Task(row, f"/{row}")
            for row, (label, known) in enumerate(zip(chosen, self.is_labeled, strict=True))
        )
        return Snapshot(0, "benchmark", None, self.pool.labels, tasks, datetime.now(UTC))


def table(results: Sequence[Result]) -> str:
    """Means over the draws in per cent: each candidate, what the audition ends with, its gap to the best.

    Wrong is a switch to a backbone that is worse on the same labels, its cost by how much.
    """
    names = list(results[0]["points"][0]["right"])
    firsts = list(results[0]["points"][0]["ends"])
    ends = [f"ends, from {name}" for name in firsts]
    titles = ["labels", "n", *names, *ends, "below the best", "switches", "wrong", "mean cost", "worst"]
    rows = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    before = [{first: first for first in firsts} for _ in results]
    for points in zip(*(each["points"] for each in results), strict=True):
        means = [mean([point["right"][name] for point in points]) for name in names]
        ended = [mean([point["right"][point["ends"][first]] for point in points]) for first in firsts]
        costs = [
            100 * (point["right"][held[first]] - point["right"][point["ends"][first]])
            for point, held in zip(points, before, strict=True)
            for first in firsts
            if held[first] != point["ends"][first]
        ]
        wrong = [cost for cost in costs if cost > 0]
        shown = [f"{value:.1f}" for value in (*means, *ended, max(means) - ended[0])]
        shown += [f"{len(costs)} of {len(points) * len(firsts)}", f"{len(wrong)}"]
        shown += [f"{np.mean(wrong):.1f}", f"{max(wrong):.1f}"] if wrong else ["-", "-"]
        rows.append(f"| {points[0]['labels']} | {len(points)} | {' | '.join(shown)} |")
        before = [point["ends"] for point in points]
    return "\n".join(rows)


def mean(shares: Sequence[float]) -> float:
    return 100 * float(np.mean(shares))


if __name__ == "__main__":
    main()
