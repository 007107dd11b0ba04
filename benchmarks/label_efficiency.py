"""What a label buys: accuracy over the number of labels, by strategy, on features pretrained without labels.

    python benchmarks/label_efficiency.py IMAGES --pool balanced --seeds 0 --features features.safetensors

IMAGES holds train/<class>/*.jpg and test/<class>/*.jpg. Each cell (pool, seed, strategy, labels) is written
to --cells as one JSON line as soon as it is known; a second run goes on from there and prints the table.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pools import POOLS, LabeledImages, pool_named, read_images

from coreset_backend import model
from coreset_backend.model.training import linear_head
from coreset_backend.selection import STRATEGIES, Pool

BUDGETS = (40, 100, 200, 400, 600, 1000, 2000)
OWN_START = ("k_center", "k_center_cosine", "typiclust")
"""Strategies that choose the first 40 themselves; the others begin with the seed's 40 random ones."""
NEAR = 0.05  # cosine distance below which dedup_random skips an image


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Embeddings float32[n, 256] and classes int64[n] of a pool and of the test images."""

    pool: NDArray[np.float32]
    classes: NDArray[np.int64]
    test: NDArray[np.float32]
    test_classes: NDArray[np.int64]


def features_of(weights: Path, pool: LabeledImages, test: LabeledImages) -> Features:
    chosen = model.choose_backbone("self_supervised", weights)
    network = model.untrained(chosen, pool.pixels, seed=0, device="cpu")
    return Features(
        model.embed(network, pool.pixels), pool.classes, model.embed(network, test.pixels), test.classes
    )


def head_on(features: Features, rows: NDArray[np.int64]) -> torch.nn.Linear:
    targets = np.eye(int(features.test_classes.max()) + 1, dtype=np.float32)[features.classes[rows]]
    inputs = torch.from_numpy(features.pool[rows])
    return linear_head(inputs, torch.from_numpy(targets), multiple=False, scaled=True)[0]


@torch.inference_mode()
def probabilities(head: torch.nn.Linear, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    chances: NDArray[np.float32] = head(torch.from_numpy(vectors)).softmax(1).numpy()
    return chances


def accuracy(features: Features, head: torch.nn.Linear) -> float:
    return float((probabilities(head, features.test).argmax(1) == features.test_classes).mean())


def labeled_curve(features: Features, strategy: str, seed: int) -> list[float]:
    """Accuracy at each budget that the pool holds, labelling in rounds."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(features.pool))
    labeled = order[:0] if strategy in OWN_START else order[: BUDGETS[0]]
    curve = []
    for budget in BUDGETS:
        if budget > len(features.pool):
            break
        if budget > len(labeled):
            labeled = np.concatenate([labeled, _next(features, strategy, labeled, budget, order, rng)])
        curve.append(accuracy(features, head_on(features, labeled)))
    return curve


def _next(
    features: Features,
    strategy: str,
    labeled: NDArray[np.int64],
    budget: int,
    order: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    if strategy == "dedup_random":
        return _distinct(features.pool, labeled, order, budget - len(labeled))
    known = probabilities(head_on(features, labeled), features.pool) if len(labeled) else None
    return STRATEGIES[strategy](Pool(features.pool, labeled, known), budget - len(labeled), rng).rows


def _distinct(
    vectors: NDArray[np.float32], labeled: NDArray[np.int64], order: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """The next rows of ``order`` that are no near-copy of a labelled or chosen one, then any."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen, passed = list(labeled), []
    for row in order[~np.isin(order, labeled)]:
        if len(chosen) == len(labeled) + count:
            break
        near = 1 - float((unit[chosen] @ unit[row]).max()) < NEAR
        (passed if near else chosen).append(row)
    return np.array([*chosen[len(labeled) :], *passed][:count], dtype=np.int64)


def table(cells: list[dict[str, object]], pool: str) -> str:
    """Markdown: mean ± sd over the seeds at each budget, and the means over labels and over log labels."""
    rows = ["| strategy | n | " + " | ".join(map(str, BUDGETS)) + " | AUC | log-AUC |"]
    rows.append("|---|---|" + "---|" * (len(BUDGETS) + 2))
    found: dict[str, list[list[float]]] = {}
    for cell in cells:
        if cell["pool"] == pool:
            found.setdefault(str(cell["strategy"]), []).append(cell["curve"])  # type: ignore[arg-type]
    for strategy, curves in sorted(found.items(), key=lambda item: -np.mean(item[1])):
        curve = 100 * np.array(curves)
        budgets = np.array(BUDGETS[: curve.shape[1]])
        shown = [f"{m:.1f} ± {s:.1f}" for m, s in zip(curve.mean(0), curve.std(0), strict=True)]
        shown += ["-"] * (len(BUDGETS) - len(shown))
        if len(budgets) > 1:
            for axis in (budgets, np.log(budgets)):
                area = np.trapezoid(curve, axis, axis=1) / (axis[-1] - axis[0])
                shown.append(f"{area.mean():.2f} ± {area.std():.2f}")
        rows.append(f"| {strategy} | {len(curves)} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--pool", choices=POOLS, default="balanced")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--pool-seed", type=int, default=0)
    parser.add_argument("--features", type=Path, required=True, help="weights pretrained on that pool")
    parser.add_argument("--cells", type=Path, default=Path("label_efficiency.jsonl"))
    parser.add_argument("--strategies", nargs="+", default=["random", "dedup_random", *STRATEGIES])
    given = parser.parse_args()
    pool = pool_named(given.pool, read_images(given.images / "train"), given.pool_seed)
    features = features_of(given.features, pool, read_images(given.images / "test"))
    cells = (
        [json.loads(line) for line in given.cells.read_text().splitlines()] if given.cells.exists() else []
    )
    done = {(cell["pool"], cell["strategy"], cell["seed"]) for cell in cells}
    whole = accuracy(features, head_on(features, np.arange(len(pool))))
    for seed in given.seeds:
        for strategy in dict.fromkeys(given.strategies):
            if (given.pool, strategy, seed) in done:
                continue
            curve = labeled_curve(features, strategy, seed)
            cells.append({"pool": given.pool, "strategy": strategy, "seed": seed, "curve": curve})
            with given.cells.open("a") as file:
                file.write(json.dumps(cells[-1]) + "\n")
            print(seed, strategy, [round(value, 3) for value in curve], flush=True)
    print(table(cells, given.pool))
    print(f"All {len(pool)} labels: {100 * whole:.1f} %")


if __name__ == "__main__":
    main()
