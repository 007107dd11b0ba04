"""Labels by the model with a bound: what share of the pool is taken, and how often the bound is broken.

    python benchmarks/finish.py                                    # drawn pools, no download
    python benchmarks/finish.py --features X.npy --classes y.npy   # embeddings of images

A pool is labelled in rounds by the product's selection and head. Then its audit is simulated: the product's
own, and the naive one, which audits shares of the pool from small to large by a new sample of 100 each with
the exact binomial bound. The *oracle* knows all labels and takes the largest set of which at most the allowed
share is wrong. Shares count every image of the set taken, those that people checked included.

    taken    mean size of the set taken, over the oracle's
    model    the same without the images that people checked
    broken   share of the audits after which more labels of the set are wrong than was promised
    none     share of the audits that end without any set

``--least-favourable`` simulates answers whose errors make a wrong promise as likely as can be.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from coreset_backend.finish.audit import UNKNOWN, Answers, Goal, standing, to_check
from coreset_backend.finish.bound import LOOK, random_order
from coreset_backend.model.heads import anchored_head, temperature_of
from coreset_backend.model.preparation import fit_preparation, prepared
from coreset_backend.rounds.choose import COLD_START
from coreset_backend.selection import STRATEGIES, NeighborGraph, Pool, neighbors_for
from coreset_backend.selection.graph import exact_graph

BUDGETS = (40, 100, 200, 400, 1000, 2000)
Wrong = NDArray[np.bool_]
Figures = dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A model's answers on the unlabelled rest of a pool, the surest first."""

    name: str
    labels: int
    doubts: NDArray[np.float64]
    wrong: Wrong


Row = tuple[Answered, Figures, Figures]


def drawn_pool(n: int, tail: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Ten overlapping classes in 64 dimensions; the rarest has ``tail`` times the images of the commonest."""
    rng = np.random.default_rng(seed)
    weights = np.geomspace(1, tail, 10)
    classes = rng.choice(10, n, p=weights / weights.sum())
    centers = rng.normal(0, 1, (10, 64)) * np.geomspace(0.55, 0.2, 64)
    return (centers[classes] + rng.normal(0, 1, (n, 64))).astype(np.float32), classes.astype(np.int64)


def long_tail(classes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Rows of which the commonest class has a hundred times as many as the rarest."""
    rng = np.random.default_rng(seed)
    order, most = rng.permutation(int(classes.max()) + 1), int(np.bincount(classes).min())
    kept = [
        rng.permutation(np.flatnonzero(classes == label))[: round(most * 100 ** (-rank / (len(order) - 1)))]
        for rank, label in enumerate(order)
    ]
    return rng.permutation(np.concatenate(kept))


def answered(
    name: str, features: NDArray[np.float32], classes: NDArray[np.int64], seed: int
) -> Iterator[Answered]:
    """The answers after each budget of labels, up to half of the pool."""
    vectors = prepared(fit_preparation(features, seed), features)
    targets = np.eye(int(classes.max()) + 1, dtype=np.float32)[classes]
    graph = exact_graph(vectors, neighbors_for(len(vectors)))
    labeled, odds = np.empty(0, np.int64), None
    for budget in BUDGETS:
        if budget > len(vectors) / 2:
            return
        labeled = next_labels(vectors, graph, labeled, odds, budget, seed)
        head, _ = anchored_head(vectors[labeled], targets[labeled], multiple=False)
        temperature = temperature_of(vectors[labeled], targets[labeled], multiple=False)
        with torch.inference_mode():
            logits = head(torch.from_numpy(vectors))
            odds, calibrated = (each.softmax(1).numpy() for each in (logits, logits / temperature))
        rest = np.setdiff1d(np.arange(len(vectors)), labeled)
        surest = rest[np.argsort(-calibrated[rest].max(1), kind="stable")]
        doubts = 1 - calibrated[surest].max(1).astype(np.float64)
        yield Answered(name, budget, doubts, calibrated[surest].argmax(1) != classes[surest])


def next_labels(
    vectors: NDArray[np.float32],
    graph: NeighborGraph,
    labeled: NDArray[np.int64],
    odds: NDArray[np.float32] | None,
    budget: int,
    seed: int,
) -> NDArray[np.int64]:
    strategy = STRATEGIES[COLD_START if odds is None else "uncertainty_herding"]
    pool = Pool(vectors, labeled, odds, graph)
    chosen = strategy(pool, budget - len(labeled), np.random.default_rng((seed, budget)))
    return np.concatenate([labeled, chosen.rows])


def oracle(wrong: Wrong, share: float) -> int:
    """The size of the largest set of which at most the share is wrong."""
    so_far = np.cumsum(wrong) <= share * np.arange(1, len(wrong) + 1)
    return int(np.flatnonzero(so_far).max(initial=-1)) + 1


def audited(answers: Answered, goal: Goal, seed: int) -> tuple[int, Wrong]:
    """The size of the set taken by the product's audit, and bool[n]: who was checked."""
    everybody = np.ones(len(answers.wrong), dtype=bool)
    proposed = Answers(answers.doubts, random_order(len(answers.wrong), (), everybody, seed))
    marks = np.full(len(answers.wrong), UNKNOWN, dtype=np.int8)
    now = standing(proposed, marks, goal)
    while now.known < goal.most and len(rows := to_check(proposed, marks, now, LOOK)):
        marks[rows] = answers.wrong[rows]
        now = standing(proposed, marks, goal, now.taken)
    return now.taken, marks != UNKNOWN


def naively_audited(answers: Answered, goal: Goal, seed: int) -> tuple[int, Wrong]:
    """Shares of 5, 10, 15 ... % by a sample of 100 each, until one fails or no audits are left."""
    rng, n = np.random.default_rng(seed), len(answers.wrong)
    taken, checked = 0, np.zeros(n, dtype=bool)
    for size in (np.arange(0.05, 1.01, 0.05) * n).astype(int):
        sample = rng.permutation(size)[:100]
        if (checked.sum() + (~checked[sample]).sum()) > goal.most:
            break
        checked[sample] = True
        found = int(answers.wrong[sample].sum())
        if found > most_found(len(sample), goal):
            break
        taken = int(size)
    return taken, checked


def most_found(n: int, goal: Goal) -> int:
    """So many errors among ``n`` have Clopper and Pearson's upper bound at the allowed share; -1 for none."""
    odds = [comb(n, k) * goal.wrong**k * (1 - goal.wrong) ** (n - k) for k in range(n + 1)]
    return int((np.cumsum(odds) <= goal.chance).sum()) - 1


PROCEDURES = {"ours": audited, "naive": naively_audited}


def simulated(answers: Answered, procedure: str, goal: Goal, runs: int) -> Figures:
    best = max(oracle(answers.wrong, goal.wrong), 1)
    rows = []
    for seed in range(runs):
        taken, checked = PROCEDURES[procedure](answers, goal, seed)
        left = ~checked[:taken]
        broken = taken > 0 and (answers.wrong[:taken] & left).sum() > goal.wrong * taken
        rows.append((taken / best, left.sum() / best, broken, taken == 0, checked.sum()))
    return dict(
        zip(("taken", "model", "broken", "none", "audits"), np.mean(rows, axis=0).tolist(), strict=True)
    )


def least_favourable(goal: Goal) -> Iterator[Answered]:
    """Every set from the first on has so many wrong answers more than allowed: a few, or ever more."""
    for n in (400, 1000, 3000, 10_000):
        for first in (150, 600, 2000):
            for excess in (1, 2, 4, 7, 11):
                for growth in (1.0, 1.5):
                    if first <= n:
                        allowed = np.arange(1, n + 1) * goal.wrong
                        allowed[first:] = allowed[first - 1] + growth * (allowed[first:] - allowed[first - 1])
                        wanted = np.floor(
                            allowed + excess * np.clip(np.arange(1, n + 1) / first, 0, 1) + 1e-9
                        )
                        wrong = np.diff(wanted, prepend=0) > 0
                        doubts = np.where(np.arange(n) < first, 0.0, 1.0)
                        yield Answered(f"n={n} first={first} excess={excess} x{growth}", 0, doubts, wrong)


def pools(given: argparse.Namespace) -> Iterator[Answered]:
    for seed in range(given.draws):
        if given.features:
            features, classes = np.load(given.features), np.load(given.classes).astype(np.int64)
            yield from answered(f"balanced-{seed}", features, classes, seed)
            rows = long_tail(classes, seed)
            yield from answered(f"long_tail-{seed}", features[rows], classes[rows], seed)
        else:
            yield from answered(f"drawn-{seed}", *drawn_pool(given.size, 1.0, seed), seed)
            yield from answered(f"drawn_tail-{seed}", *drawn_pool(given.size // 3, 0.05, seed), seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, help="float32[n, d]")
    parser.add_argument("--classes", type=Path, help="whole numbers[n]")
    parser.add_argument("--size", type=int, default=10_000, help="images of a drawn pool")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1000, help="simulated audits of each pool")
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.05, 0.1], help="the allowed share")
    parser.add_argument("--audits", type=int, nargs="+", default=[300])
    parser.add_argument("--labels", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--least-favourable", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, {platform.machine()}; {given.runs} audits of each pool; confidence 95 %")
    begun = time.monotonic()
    known = None if given.least_favourable else [each for each in pools(given) if each.labels in given.labels]
    for share in given.wrong:
        for audits in given.audits:
            goal = Goal(wrong=share, most=audits)
            print(f"\nat most {share:.0%} wrong, {audits} audits")
            rows: list[Row] = []
            for answers in known if known is not None else least_favourable(goal):
                ours, naive = (simulated(answers, name, goal, given.runs) for name in PROCEDURES)
                rows.append((answers, ours, naive))
                print(line(answers, ours, naive, goal), flush=True)
            print(summary(rows))
    print(f"{time.monotonic() - begun:.0f} s")


def line(answers: Answered, ours: Figures, naive: Figures, goal: Goal) -> str:
    n = len(answers.wrong)
    return (
        f"{answers.name:28s} {answers.labels:5d} labels, {n:6,d} left, model {1 - answers.wrong.mean():.1%}, "
        f"oracle {oracle(answers.wrong, goal.wrong) / n:5.1%} | "
        f"taken {ours['taken']:.2f} model {ours['model']:.2f} "
        f"broken {ours['broken']:.3f} none {ours['none']:.2f} audits {ours['audits']:.0f} "
        f"| naive {naive['taken']:.2f} broken {naive['broken']:.3f}"
    )


def summary(rows: Sequence[Row]) -> str:
    ours, naive = [row[1] for row in rows], [row[2] for row in rows]
    return (
        f"mean of {len(rows)} pools: taken {np.mean([each['taken'] for each in ours]):.2f}, "
        f"naive {np.mean([each['taken'] for each in naive]):.2f}; "
        f"broken at most {max(each['broken'] for each in ours):.3f}"
    )


if __name__ == "__main__":
    main()
