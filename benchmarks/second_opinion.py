"""Second opinions: accuracy by the number of annotations, where annotators give wrong labels.

    python benchmarks/second_opinion.py --digits                              # scikit-learn's, 1,797 images
    python benchmarks/second_opinion.py --images FOLDER                       # FOLDER/<class>/, through Lite0
    python benchmarks/second_opinion.py --features X.npy --classes y.npy      # embeddings of images

A fifth of the images tests; of the rest a pool is drawn for each draw. Three annotators label it in rounds by
the product's selection and head. Each gives a wrong class to a share of the images, at random. *new* spends
every annotation on a new image. *second* has the product ask a second or third annotator for a part of each
batch, and settle where they disagree.

    accuracy    on the test images, whose classes are right, as the mean over the draws
    labels      share of the labels that are wrong
    rate        the error rate as the product estimates it; *asked*: annotations on labelled images
    needed      annotations that *second* needs for each of *new* to be as accurate as *new* in its last three
                rounds, by the means over the draws and between two rounds by a straight line
"""

import argparse
import gzip
import importlib.util
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.model.heads import anchored_head
from coreset_backend.project import Labels, Task
from coreset_backend.rounds import relabel
from coreset_backend.rounds.choose import COLD_START
from coreset_backend.rounds.consensus import LEAST_LABELS, decisions, is_tied, learned_targets
from coreset_backend.rounds.label_errors import JudgedLabels, judged_labels
from coreset_backend.selection import STRATEGIES, NeighborGraph, Pool, neighbors_for
from coreset_backend.selection.graph import exact_graph
from coreset_backend.settings import Settings
from coreset_backend.simulation.images import read_folder
from coreset_backend.store.record import SecondOpinion

ANNOTATORS = 3
Vectors = NDArray[np.float32]
Classes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """A pool and the images that test, with their right classes."""

    vectors: Vectors
    classes: Classes
    tested: Vectors
    answers: Classes
    graph: NeighborGraph

    @classmethod
    def drawn(cls, vectors: Vectors, classes: Classes, size: int, draw: int) -> "Images":
        order = np.random.default_rng(0).permutation(len(classes))
        test, rest = np.split(order, [len(order) // 5])
        rows = np.random.default_rng([draw, 1]).permutation(rest)[:size]
        preparation = model.fit_preparation(vectors[rows], draw)
        pool = model.prepared(preparation, vectors[rows])
        graph = exact_graph(pool, neighbors_for(len(pool)))
        return cls(pool, classes[rows], model.prepared(preparation, vectors[test]), classes[test], graph)


@dataclass(slots=True)
class Project:
    """Images that are being labelled: by row the annotators' ``votes``, and the labels that were settled."""

    images: Images
    wrong: float
    rng: np.random.Generator
    votes: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    settled: dict[int, int] = field(default_factory=dict)

    @property
    def labels(self) -> Labels:
        names = tuple(str(code) for code in range(int(self.images.classes.max()) + 1))
        return Labels("label", "image", names, multiple=False)

    def annotate(self, row: int) -> None:
        """An annotator who has not labelled the image yet answers."""
        classes, right = len(self.labels.names), int(self.images.classes[row])
        done = {who for who, _ in self.votes.get(row, [])}
        free = [str(who) for who in range(ANNOTATORS) if str(who) not in done]
        shift = int(self.rng.integers(1, classes)) if self.rng.random() < self.wrong else 0
        self.votes.setdefault(row, []).append((str(self.rng.choice(free)), (right + shift) % classes))

    def tasks(self) -> list[Task]:
        """The labelled tasks, by row; where annotators disagree with the label that was settled."""
        found = []
        for row, cast in sorted(self.votes.items()):
            codes = [code for _, code in reversed(cast)]
            label = self.settled.get(row, max(codes, key=codes.count))
            votes = tuple((str(code),) for _, code in cast) if len(cast) > 1 else ()
            who = tuple(who for who, _ in cast)
            found.append(Task(row, None, "labeled", (str(label),), votes=votes, annotators=who))
        return found

    def judged(self, seed: int) -> JudgedLabels:
        """The labels with their quality, after those that are tied were settled, as a round does."""
        self.settled.clear()
        judged = self._judged(seed)
        tied = frozenset(task.task_id for task in judged.tasks if is_tied(task, self.labels))
        if not tied or len(judged.tasks) < LEAST_LABELS:
            return judged
        decided = decisions(judged, self.labels, tied)
        self.settled.update({row: int(label[0]) for row, label in decided.items()})
        return self._judged(seed)

    def _judged(self, seed: int) -> JudgedLabels:
        tasks = self.tasks()
        vectors = self.images.vectors[[task.task_id for task in tasks]]
        return judged_labels(tasks, self.labels, vectors, seed, prepared=True)


@dataclass(frozen=True, slots=True)
class Point:
    annotations: int
    accuracy: float
    wrong: float
    rate: float
    asked: int


def curve(images: Images, wrong: float, asks: bool, given: argparse.Namespace, draw: int) -> Iterator[Point]:
    project = Project(images, wrong, np.random.default_rng([draw, 2]))
    settings = Settings(batch_size=given.batch, second_opinion="auto" if asks else "off")
    odds: Vectors | None = None
    wanted: tuple[SecondOpinion, ...] = ()
    rate, asked = 0.0, 0
    for annotations in range(given.batch, given.annotations + 1, given.batch):
        labeled = np.array(sorted(project.votes), dtype=np.int64)
        strategy = STRATEGIES[COLD_START if odds is None else "uncertainty_herding"]
        pool = Pool(images.vectors, labeled, odds, images.graph)
        picked = strategy(pool, given.batch - len(wanted), np.random.default_rng((draw, annotations)))
        for row in [*(each.task_id for each in wanted), *picked.rows.tolist()]:
            project.annotate(row)
        asked += len(wanted)
        judged = project.judged(draw)
        errors = relabel.label_errors(settings, judged, (), {})
        wanted, rate = errors.asked, errors.rate or 0.0
        odds, accuracy = fitted(images, judged, as_given=given.as_given)
        mistaken = [int((task.label or ("",))[0]) != images.classes[task.task_id] for task in project.tasks()]
        yield Point(annotations, accuracy, float(np.mean(mistaken)), rate, asked)


def fitted(images: Images, judged: JudgedLabels, *, as_given: bool) -> tuple[Vectors, float]:
    """The probabilities of the pool's images by a head on the labels, and its accuracy."""
    rows = [task.task_id for task in judged.tasks]
    targets = judged.given.targets if as_given else learned_targets(judged.given, judged.quality)
    head, _ = anchored_head(images.vectors[rows], targets, multiple=False)
    with torch.inference_mode():
        pool, tested = (head(torch.from_numpy(each)) for each in (images.vectors, images.tested))
    return pool.softmax(1).numpy(), float((tested.argmax(1).numpy() == images.answers).mean())


# ---------------------------------------------------------------- the images


def read_images(given: argparse.Namespace) -> tuple[str, Vectors, Classes]:
    if given.digits:
        return "digits", *digits()
    if given.images:
        return given.images.name, *embedded(given.images)
    if given.features and given.classes:
        return "given", np.load(given.features), np.load(given.classes).astype(np.int64)
    raise SystemExit("Give --digits, --images FOLDER, or --features X.npy with --classes y.npy.")


def digits() -> tuple[Vectors, Classes]:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, read without importing the package."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise SystemExit("scikit-learn is not installed: pip install scikit-learn")
    with gzip.open(Path(found.origin).parent / "datasets/data/digits.csv.gz", "rt") as file:
        rows = np.loadtxt(file, delimiter=",")
    return rows[:, :-1].astype(np.float32), rows[:, -1].astype(np.int64)


def embedded(folder: Path) -> tuple[Vectors, Classes]:
    """The images of the folder as EfficientNet-Lite0 embeds them."""
    chosen = model.choose_backbone(model.LITE0, None)
    with tempfile.TemporaryDirectory() as temporary:
        images = read_folder(folder, chosen.backbone.resize(), Path(temporary) / "pixels.npy")
        classifier = model.untrained(chosen, images.pixels, seed=0, device="cpu", cache=Path(temporary))
        vectors = model.embed(classifier, images.pixels)
    codes = [images.names.index(name) for (name,) in images.chosen]
    return vectors, np.array(codes, dtype=np.int64)


# ---------------------------------------------------------------- the table


def needed(new: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Annotations that ``second`` needs per annotation of ``new`` to be as accurate as ``new`` in its last
    three rounds; infinite where it never is. Both float64[rounds]: accuracies."""
    goal = float(new[-3:].mean())
    return _reached(second, goal) / _reached(new, goal)


def _reached(accuracy: NDArray[np.float64], goal: float) -> float:
    """The round, as a fraction, in which the accuracy is first as high as the goal."""
    if accuracy.max() < goal:
        return float("inf")
    place = int(np.argmax(accuracy >= goal))
    if not place:
        return 1.0
    before, after = accuracy[place - 1], accuracy[place]
    return float(place + (goal - before) / (after - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--images", type=Path, help="folder with a subfolder of images for each class")
    parser.add_argument("--features", type=Path, help="float32[n, d]")
    parser.add_argument("--classes", type=Path, help="whole numbers[n]")
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.0, 0.05, 0.2])
    parser.add_argument("--share", type=float, help="largest share of a batch; default: the product's")
    parser.add_argument("--as-given", action="store_true", help="fit on the labels as they are given")
    parser.add_argument("--pool", type=int, default=1400)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--annotations", type=int, default=600)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    if given.share is not None:
        relabel.SHARE = given.share
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, {given.draws} draws\n")
    name, vectors, classes = read_images(given)
    draws = [Images.drawn(vectors, classes, given.pool, draw) for draw in range(given.draws)]
    print("| images | wrong answers | annotations | new | second | labels: new | second | rate | asked |")
    print("|---|---|---|---|---|---|---|---|---|")
    for wrong in given.wrong:
        print_table(name, draws, wrong, given)


def print_table(name: str, draws: list[Images], wrong: float, given: argparse.Namespace) -> None:
    runs = [
        [list(curve(images, wrong, asks, given, draw)) for draw, images in enumerate(draws)]
        for asks in (False, True)
    ]
    accuracy = [np.array([[point.accuracy for point in run] for run in arm]) for arm in runs]
    for place in range(1, len(runs[0][0]), 2):
        new, second = ([run[place] for run in arm] for arm in runs)
        gain = accuracy[1][:, place] - accuracy[0][:, place]
        print(
            f"| {name} | {wrong:.0%} | {new[0].annotations} | {mean(new, 'accuracy'):.1%} "
            f"| {mean(second, 'accuracy'):.1%} ({100 * gain.mean():+.1f} ± {100 * gain.std(ddof=1):.1f}) "
            f"| {mean(new, 'wrong'):.1%} | {mean(second, 'wrong'):.1%} "
            f"| {mean(second, 'rate'):.0%} | {mean(second, 'asked'):.0f} |",
            flush=True,
        )
    print(f"needed at {wrong:.0%}: {needed(accuracy[0].mean(0), accuracy[1].mean(0)):.2f}", flush=True)


def mean(points: list[Point], what: str) -> float:
    return float(np.mean([getattr(point, what) for point in points]))


if __name__ == "__main__":
    main()
