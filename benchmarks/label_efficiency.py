"""What a label buys: accuracy over the number of labels, by strategy and learner, on three pools.

    python benchmarks/label_efficiency.py IMAGES --pool balanced --work DIR

IMAGES holds train/<class>/*.jpg and test/<class>/*.jpg. A *draw* makes the pool and its pretraining from one
seed; on each draw every strategy is replayed for each seed of its picks. Learners:

    frozen     a linear head on self-supervised features, which also choose
    product    production's own rounds on the self-supervised backbone: from 500 labels on it is fine-tuned
    small_cnn  production's own rounds without pretraining: patch features, then the small CNN
    scratch    the small CNN in long fits of 24,000 to 80,000 images, on random labels

A cell (pool, learner, strategy, draw, seed) is kept in DIR/cells.jsonl as soon as it is known; a second run
goes on from there. Last come the tables. One core: `OMP_NUM_THREADS=1`.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_tables import BUDGETS, tables
from numpy.typing import NDArray
from pools import POOLS, LabeledImages, pool_named, read_images

from coreset_backend import model
from coreset_backend.model.training import linear_head
from coreset_backend.rounds.choose import COLD_START
from coreset_backend.selection import (
    NEED_PROBABILITIES,
    STRATEGIES,
    NeighborGraph,
    Pool,
    near_duplicate_groups,
    neighbors_for,
    with_options,
)
from coreset_backend.selection.annoy_index import build_index
from coreset_backend.settings import Settings
from coreset_backend.simulation import images
from coreset_backend.simulation import replay as simulate

Rows = NDArray[np.int64]
DRAWS_NOTHING = ("k_center", "k_center_cosine", "robust_k_center", "annoy")
"""Strategies that choose alike for every seed of the picks: only the draws tell how they vary."""
OWN_START = (*DRAWS_NOTHING, "typiclust", "max_herding", "uncertainty_herding")
"""Strategies that choose the first 40 themselves; the others begin with the seed's 40 random ones."""
HAND_OVERS = tuple(
    f"uncertainty_herding>{later}@{labels}"
    for later in ("margin", "margin_k_center", "k_center_cosine")
    for labels in (400, 1000)
)
"""``a>b@n``: a up to n labels, then b."""
DEFAULTS = {
    "frozen": ("random", "dedup_random", *STRATEGIES, "dedup_uncertainty_herding", *HAND_OVERS),
    "product": ("random", "uncertainty_herding", "dedup_uncertainty_herding"),
    "small_cnn": ("random", "uncertainty_herding", "margin_k_center", "k_center"),
    "scratch": ("random",),
}
REPLAYED = {"product": (40, 100, 200, 400, 1000, 2000), "small_cnn": (40, 100, 200, 400)}
"""Budgets of the learners that take a minute or two a cell."""


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """A pool with its pretrained features float32[n, 256], and what the product finds among them."""

    number: int
    pool: LabeledImages
    test: LabeledImages
    weights: model.ChosenBackbone
    features: NDArray[np.float32]
    test_features: NDArray[np.float32]
    graph: NeighborGraph
    groups: NDArray[np.int32]
    chosen: dict[tuple[int, tuple[str, ...]], Rows] = field(default_factory=dict)
    heads: dict[bytes, torch.nn.Linear] = field(default_factory=dict)


def draw_of(name: str, number: int, train: LabeledImages, test: LabeledImages, work: Path) -> Draw:
    """The pool, pretrained on (5 CPU-minutes for 10,000 images) unless ``work`` holds the result."""
    pool = pool_named(name, train, number)
    folder = work / f"{name}-{number}"
    if (chosen := model.pretrained_backbone(folder)) is None:
        keys = [hashlib.sha256(image.tobytes()).digest() for image in pool.pixels]
        state = model.pretrain(
            pool.pixels,
            np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32),
            folder,
            seed=number,
            device="cpu",
        )
        print(f"{name}, draw {number}: pretrained, {state.seconds:.0f} s by the clock", flush=True)
        chosen = model.pretrained_backbone(folder)
        assert chosen
    network = model.untrained(chosen, pool.pixels, seed=0, device="cpu")
    features = model.embed(network, pool.pixels)
    index = build_index(features, folder / "neighbors.ann", seed=0)
    graph = index.graph(neighbors_for(len(features)))
    groups = near_duplicate_groups(features, np.empty(0, np.int64), graph)
    return Draw(number, pool, test, chosen, features, model.embed(network, test.pixels), graph, groups)


def head_on(draw: Draw, rows: Rows) -> torch.nn.Linear:
    """The product's linear head on the frozen features of those rows; asked for again to choose the next."""
    key = rows.tobytes()
    if key not in draw.heads:
        draw.heads.clear()
        features, targets = draw.features[rows], one_hot(draw.pool.classes[rows])
        head = linear_head(torch.from_numpy(features), torch.from_numpy(targets), multiple=False, scaled=True)
        draw.heads[key] = head[0]
    return draw.heads[key]


def one_hot(classes: Rows) -> NDArray[np.float32]:
    return np.eye(10, dtype=np.float32)[classes]


@torch.inference_mode()
def said_by(head: torch.nn.Linear, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    chances: NDArray[np.float32] = head(torch.from_numpy(vectors)).softmax(1).numpy()
    return chances


# ---------------------------------------------------------------- who is labelled


def labeled_by(draw: Draw, strategy: str, seed: int) -> Iterator[Rows]:
    """The labelled rows at each budget that the pool holds, chosen in rounds on the frozen features."""
    first, _, later = strategy.partition(">")
    later, _, hand_over = later.partition("@")
    own_start = first.removeprefix("dedup_") in OWN_START
    start = np.random.default_rng(seed).permutation(len(draw.pool))[: BUDGETS[0]]
    labeled = start[:0] if own_start else start
    used: tuple[str, ...] = ()
    for budget in BUDGETS:
        if budget > len(draw.pool):
            return
        if budget > len(labeled):
            used += (later if later and len(labeled) >= int(hand_over) else first,)
            if (seed, used) not in draw.chosen:  # what is handed over later begins alike
                rng = np.random.default_rng((seed, budget))
                rows = next_rows(draw, used[-1], labeled, budget, rng)
                draw.chosen[seed, used] = np.concatenate([labeled, rows])
            labeled = draw.chosen[seed, used]
        yield labeled


def next_rows(draw: Draw, strategy: str, labeled: Rows, budget: int, rng: np.random.Generator) -> Rows:
    """The rows up to ``budget``; ``dedup_`` chooses one of each group of near-duplicates, while there is."""
    name = strategy.removeprefix("dedup_")
    odds = said_by(head_on(draw, labeled), draw.features) if len(labeled) else None
    choose = STRATEGIES[COLD_START if odds is None and name in NEED_PROBABILITIES else name]
    if name != strategy:
        choose = with_options(choose, groups=draw.groups)
    pool = Pool(draw.features, labeled, odds, draw.graph)
    rows = choose(pool, budget - len(labeled), rng).rows
    left = budget - len(labeled) - len(rows)
    if left:  # every group has spoken
        free = np.setdiff1d(pool.unlabeled_rows, rows)
        rows = np.concatenate([rows, rng.permutation(free)[:left]])
    return rows


# ---------------------------------------------------------------- who learns


def frozen_accuracy(draw: Draw, rows: Rows) -> float:
    said = said_by(head_on(draw, rows), draw.test_features).argmax(1)
    return float((said == draw.test.classes).mean())


def scratch_accuracy(draw: Draw, rows: Rows) -> float:
    images = min(max(24_000, 16_000 + 8 * len(rows)), 80_000)
    return fitted_accuracy(draw, rows, model.choose_backbone("small_cnn", None), model.Recipe(images=images))


def product_accuracy(draw: Draw, rows: Rows) -> float:
    return fitted_accuracy(draw, rows, draw.weights)


def fitted_accuracy(
    draw: Draw, rows: Rows, chosen: model.ChosenBackbone, recipe: model.Recipe | None = None
) -> float:
    """Accuracy on the test images of the product's fit on those rows."""
    classifier, _ = model.fit(
        chosen,
        draw.pool.pixels[rows],
        one_hot(draw.pool.classes[rows]),
        multiple=False,
        holdout=np.zeros(len(rows), dtype=bool),
        seed=draw.number,
        device="cpu",
        recipe=recipe,
    )
    said = model.predict(classifier, draw.test.pixels)
    assert said is not None
    return float((said.argmax(1) == draw.test.classes).mean())


LEARNERS = {"frozen": frozen_accuracy, "product": product_accuracy, "scratch": scratch_accuracy}


def replayed(draw: Draw, learner: str, strategy: str, seed: int, work: Path) -> dict[str, Any]:
    """The rounds of production, by the product's own simulation."""
    name = strategy.removeprefix("dedup_")
    grouped = name != strategy
    settings = Settings(model_dir=work, strategy=name, group_duplicates=grouped, seed=seed, device="cpu")
    chosen = draw.weights if learner == "product" else model.choose_backbone("small_cnn", None)
    names = tuple(map(str, range(10)))
    pool, test = (
        images.LabeledImages(part.pixels, tuple((names[code],) for code in part.classes), names)
        for part in (draw.pool, draw.test)
    )
    budgets = [budget for budget in REPLAYED[learner] if budget <= len(pool)]
    points = list(simulate.replay(settings, chosen, pool, test, budgets))
    return {"labels": [point.labels for point in points], "curve": [point.accuracy for point in points]}


def cell_of(draw: Draw, learner: str, strategy: str, seed: int, work: Path) -> dict[str, Any]:
    """Accuracy at each budget; at the last one also how many different images and rare classes it holds."""
    if strategy == "all":
        everything = np.arange(len(draw.pool))
        return {"labels": [len(everything)], "curve": [LEARNERS[learner](draw, everything)]}
    if learner in ("product", "small_cnn"):
        return replayed(draw, learner, strategy, seed, work)
    budgets = list(labeled_by(draw, strategy, seed))
    rare = np.argsort(np.bincount(draw.pool.classes), kind="stable")[:4]
    return {
        "labels": [len(rows) for rows in budgets],
        "curve": [LEARNERS[learner](draw, rows) for rows in budgets],
        "distinct": len(np.unique(draw.pool.origins[budgets[-1]])),
        "rare": int(np.isin(draw.pool.classes[budgets[-1]], rare).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--pool", choices=POOLS, nargs="+", default=list(POOLS))
    parser.add_argument("--learner", choices=DEFAULTS, nargs="+", default=["frozen"])
    parser.add_argument("--strategy", nargs="+", help="default: those that the learner is compared with")
    parser.add_argument("--seeds", type=int, default=5, help="of the picks, for each draw")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=Path, default=Path("label_efficiency"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    kept = given.work / "cells.jsonl"
    cells = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {tuple(cell[part] for part in ("pool", "learner", "strategy", "draw", "seed")) for cell in cells}
    train, test = (read_images(given.images / part) for part in ("train", "test"))
    for name, number in ((name, number) for number in given.draws for name in given.pool):
        draw = draw_of(name, number, train, test, given.work)
        for learner, strategy, seed in _wanted(given.learner, given.strategy, given.seeds):
            if (name, learner, strategy, number, seed) in done:
                continue
            began = time.process_time()
            cell = {"pool": name, "learner": learner, "strategy": strategy, "draw": number, "seed": seed}
            cell |= cell_of(draw, learner, strategy, seed, given.work)
            cell["cpu_seconds"] = round(time.process_time() - began, 1)
            cells.append(cell)
            with kept.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            print(*list(cell.values())[:5], [round(100 * share, 1) for share in cell["curve"]], flush=True)
    print(tables(cells))


def _wanted(
    learners: Sequence[str], strategies: Sequence[str] | None, seeds: int
) -> Iterator[tuple[str, str, int]]:
    for seed in range(seeds):
        for learner in learners:
            whole = () if learner == "small_cnn" else ("all",)  # that is scratch in a shorter fit
            for strategy in dict.fromkeys(strategies or (*DEFAULTS[learner], *whole)):
                alike = strategy == "all" or (learner == "frozen" and strategy in DRAWS_NOTHING)
                if not (seed and alike):
                    yield learner, strategy, seed


if __name__ == "__main__":
    main()
