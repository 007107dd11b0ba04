"""Suspected label errors: how well wrong labels are ranked and listed, where the wrong ones are known.

    python benchmarks/label_errors.py                                    # drawn pools, no download
    python benchmarks/label_errors.py --features X.npy --classes y.npy   # features of images
    pip install cleanlab; python benchmarks/label_errors.py --cleanlab   # beside cleanlab

Labels of a random sample are replaced by another class; in multiple choice (four attributes, of which each
class has some) one attribute of the image is turned over. Means over the draws:

    AP           average precision of the ranking of all labels by their quality
    listed       number of labels that are listed as probably wrong; of these
    precision    the share that is wrong, and
    recall       the share of the wrong labels that is listed
    cut          precision of the other ranking, cut to the length of our list

*cleanlab* ranks and lists by the same out-of-sample probabilities that ours goes by (its best ranking,
self-confidence, and its default list). *vote* is the neighbour vote of earlier releases.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from finish import drawn_pool
from numpy.typing import NDArray

from coreset_backend.model import fit_preparation, prepared
from coreset_backend.rounds.label_errors import GivenLabels, held_out_logits, label_quality
from coreset_backend.selection import nearest_others

Numbers = NDArray[np.float64]
Wrong = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A ranking: ``doubts`` float64[l], the higher the more doubtful, and the rows that are ``listed``."""

    doubts: Numbers
    listed: Rows
    seconds: float


def turned(targets: NDArray[np.float32], share: float, multiple: bool, seed: int) -> Wrong:
    """Make a share of the ``targets`` wrong, in place; bool[l]: which."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(targets))[: round(share * len(targets))]
    wrong = np.zeros(len(targets), dtype=bool)
    wrong[rows] = True
    classes = targets.shape[1]
    if multiple:
        columns = rng.integers(0, classes, len(rows))
        targets[rows, columns] = 1 - targets[rows, columns]
    else:
        codes = (targets[rows].argmax(1) + rng.integers(1, classes, len(rows))) % classes
        targets[rows] = np.eye(classes, dtype=np.float32)[codes]
    return wrong


def ours(vectors: NDArray[np.float32], given: GivenLabels) -> Found:
    started = time.process_time()
    quality = label_quality(vectors, given, seed=0)
    doubts = 1 - quality.quality.astype(np.float64)
    return Found(doubts, quality.suspects, time.process_time() - started)


def vote(vectors: NDArray[np.float32], given: GivenLabels) -> Found:
    """Of ten neighbours, at most a tenth share the label, three quarters agree on another one."""
    started, codes = time.process_time(), given.targets.argmax(1)
    asked = np.minimum(np.bincount(codes)[codes] - 1, 10)
    near, _ = nearest_others(vectors, 10)
    shares = np.zeros(given.targets.shape)
    for row, count in enumerate(asked):
        shares[row] = given.targets[near[row, :count]].sum(0) / max(count, 1)
    every = np.arange(len(codes))
    own = shares[every, codes]
    shares[every, codes] = 0
    other = shares.max(1)
    listed = np.flatnonzero((asked >= 4) & (own <= 0.1) & (other >= 0.75))
    return Found(other - own, listed, time.process_time() - started)


def by_cleanlab(vectors: NDArray[np.float32], given: GivenLabels) -> Found:
    """cleanlab on the probabilities of the same cross-validation; it is slow to load."""
    from cleanlab import filter as issues
    from cleanlab import multilabel_classification as several
    from cleanlab import rank

    logits = torch.from_numpy(held_out_logits(vectors, given))
    started = time.process_time()
    if given.multiple:
        labels = [np.flatnonzero(row).tolist() for row in given.targets]
        odds = logits.sigmoid().numpy()
        scores = several.get_label_quality_scores(labels, odds)
        listed = several.filter.find_label_issues(labels, odds, return_indices_ranked_by="self_confidence")
    else:
        codes, odds = given.targets.argmax(1), logits.softmax(1).numpy()
        scores = rank.get_label_quality_scores(codes, odds)
        listed = issues.find_label_issues(codes, odds, return_indices_ranked_by="self_confidence")
    return Found(-np.asarray(scores), np.asarray(listed, np.int64), time.process_time() - started)


def average_precision(doubts: Numbers, wrong: Wrong) -> float:
    in_order = wrong[np.argsort(-doubts, kind="stable")]
    precision = np.cumsum(in_order) / np.arange(1, len(wrong) + 1)
    return float(precision[in_order].mean()) if wrong.any() else float("nan")


def measured(found: Found, wrong: Wrong, length: int) -> tuple[float, ...]:
    hits = int(wrong[found.listed].sum())
    first = np.argsort(-found.doubts, kind="stable")[:length]
    return (
        average_precision(found.doubts, wrong),
        len(found.listed),
        hits / len(found.listed) if len(found.listed) else float("nan"),
        hits / wrong.sum() if wrong.any() else float("nan"),
        float(wrong[first].mean()) if length else float("nan"),
        found.seconds,
    )


def samples(
    given: argparse.Namespace, labels: int, seed: int
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.int64]]]:
    """Embeddings and classes of a sample, of the features given or of drawn pools."""
    if given.features:
        pools = {"given": (np.load(given.features), np.load(given.classes).astype(np.int64))}
    else:
        pools = {"drawn": drawn_pool(10_000, 1, seed), "drawn tail": drawn_pool(10_000, 0.05, seed)}
    for name, (features, classes) in pools.items():
        vectors = prepared(fit_preparation(features, seed), features)
        rows = np.random.default_rng(seed).permutation(len(classes))[:labels]
        yield name, vectors[rows], classes[rows]


def targets_of(classes: NDArray[np.int64], multiple: bool) -> NDArray[np.float32]:
    """One-hot; in multiple choice the four attributes of a class are the digits of its number."""
    if multiple:
        return (classes[:, None] >> np.arange(4) & 1).astype(np.float32)
    return np.eye(int(classes.max()) + 1, dtype=np.float32)[classes]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, help="float32[n, d]")
    parser.add_argument("--classes", type=Path, help="whole numbers[n]")
    parser.add_argument("--labels", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.0, 0.05, 0.15])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--multiple", action="store_true", help="multiple choice")
    parser.add_argument("--cleanlab", action="store_true", help="compare with cleanlab, if it is installed")
    return parser


def main() -> None:
    given = arguments().parse_args()
    torch.set_num_threads(1)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.0f}"
    )
    if given.cleanlab:
        from cleanlab import __version__

        print(f"cleanlab {__version__}")
    print("\n| pool | labels | wrong | method | AP | listed | precision | recall | cut | CPU-s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for labels in given.labels:
        for share in given.wrong:
            print_table(given, labels, share)


def print_table(given: argparse.Namespace, labels: int, share: float) -> None:
    for (pool, name), figures in figures_of(given, labels, share).items():
        ap, listed, precision, recall, cut, seconds = figures
        print(
            f"| {pool} | {labels:,} | {share:.0%} | {name} | {ap:.3f} | {listed:.0f} | {precision:.2f} "
            f"| {recall:.2f} | {cut:.2f} | {seconds:.1f} |",
            flush=True,
        )


def figures_of(given: argparse.Namespace, labels: int, share: float) -> dict[tuple[str, str], Numbers]:
    """(pool, method) -> what `measured` gives, the mean over the draws."""
    methods = {"ours": ours}
    if not given.multiple:
        methods["vote"] = vote
    if given.cleanlab:
        methods["cleanlab"] = by_cleanlab
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for seed in range(given.draws):
        for pool, vectors, classes in samples(given, labels, seed):
            targets = targets_of(classes, given.multiple)
            wrong = turned(targets, share, given.multiple, seed)
            labelled = GivenLabels.of_one_annotator(targets, multiple=given.multiple)
            found = {name: method(vectors, labelled) for name, method in methods.items()}
            for name, each in found.items():
                rows.setdefault((pool, name), []).append(measured(each, wrong, len(found["ours"].listed)))
    return {key: np.mean(figures, axis=0) for key, figures in sorted(rows.items())}


if __name__ == "__main__":
    main()
