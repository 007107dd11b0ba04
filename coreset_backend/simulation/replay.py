"""Replays rounds on labelled images, to compare strategies, batch sizes and numbers of labels.

Model, pretraining, selection and measurements are those of production. Every combination of strategy, batch
size and seed is a *cell*, saved as soon as it is done, so that a killed simulation resumes. Pixels stay on
disk.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from coreset_backend import __version__, model
from coreset_backend.arrays import Floats, Resize
from coreset_backend.errors import ConfigError
from coreset_backend.evaluation.calibration import calibration_error
from coreset_backend.evaluation.scores import evaluate
from coreset_backend.files import write_atomically
from coreset_backend.fleet.local import Features
from coreset_backend.project import Snapshot, Task, class_targets
from coreset_backend.rounds.choose import choose_batch
from coreset_backend.rounds.embeddings import prepare_all
from coreset_backend.rounds.features import LEAST_IMAGES
from coreset_backend.rounds.learn import Labeled, fit_head, labeled_among, train_network
from coreset_backend.rounds.near_duplicates import duplicate_groups
from coreset_backend.selection import NeighborGraph, neighbors_for, strategy_named
from coreset_backend.selection.annoy_index import build_index
from coreset_backend.settings import Settings
from coreset_backend.simulation.cells import Cell, Measured
from coreset_backend.simulation.images import LabeledImages, read_folder, split
from coreset_backend.simulation.report import recommendation, table, write_results

SLICE_SECONDS = 20.0  # of pretraining between two lines of progress


def pretrained_on(
    settings: Settings, pool: LabeledImages, folder: Path
) -> Generator[str, None, model.ChosenBackbone]:
    """The backbone of a project with these images: where the settings ask for it, pretrained on the pool.

    Yields lines of progress; killed, it goes on from ``folder``. Raises ConfigError.
    """
    chosen = _backbone_of(settings)
    own = settings.backbone == model.SELF_SUPERVISED and len(pool) >= LEAST_IMAGES
    if chosen.weights or not own:
        return chosen
    keys = pool.image_keys()
    while True:
        stop = partial(_is_past, time.monotonic() + SLICE_SECONDS)
        state = model.pretrain(
            pool.pixels, keys, folder, seed=settings.seed, device=settings.device, stop=stop
        )
        yield f"pretraining without labels: {state.seen / state.budget:.0%}"
        if state.finished:
            return model.choose_backbone(
                settings.backbone, settings.weights, model.pretrained_backbone(folder)
            )


def _backbone_of(settings: Settings) -> model.ChosenBackbone:
    return model.choose_backbone(settings.backbone, settings.weights, download=settings.download == "auto")


def _is_past(end: float) -> bool:
    return time.monotonic() > end


def replay(
    settings: Settings,
    chosen: model.ChosenBackbone,
    pool: LabeledImages,
    test: LabeledImages,
    budgets: Sequence[int],
    frozen: "Learned | None" = None,
) -> Iterator[Measured]:
    """One point for each of ``budgets``, rising numbers of labels: choose up to it, train, measure.

    Strategy, batch options and seed are those of ``settings``. Every label chosen is trained on; ends early
    when the pool is used up. The first batch is chosen without labels, as in production. ``frozen``: what
    `frozen_features` gives, for replays that share them.
    """
    everything, is_labeled = np.arange(len(pool), dtype=np.int64), np.zeros(len(pool), dtype=bool)
    pool_targets, targets = (class_targets(_tasks(part), part.labels) for part in (pool, test))
    snapshot = _snapshot(pool, is_labeled)
    learned = frozen = frozen or frozen_features(settings, chosen, pool, test)
    for budget in budgets:
        graph = learned.near_rows
        groups = duplicate_groups(learned.embeddings, np.flatnonzero(is_labeled), graph, pool.pixels)
        wanted = settings.model_copy(update={"batch_size": max(budget - int(is_labeled.sum()), 1)})
        odds = model.probabilities_of(learned.classifier, learned.embeddings, calibrated=False)
        choice = choose_batch(wanted, snapshot, everything, learned.embeddings, odds, graph, groups)
        if not choice.batch:
            return
        is_labeled[list(choice.batch)] = True
        snapshot = _snapshot(pool, is_labeled)
        learned = _learn(
            settings, chosen, pool, test, labeled_among(snapshot, everything, frozenset()), frozen
        )
        predicted = model.probabilities_of(learned.classifier, learned.test)
        if predicted is None:  # nothing to tell apart so far: the model can only answer what it has seen
            predicted = pool_targets[is_labeled][:1].repeat(len(test), axis=0)
        figures = evaluate(pool.names, targets, predicted, multiple=pool.multiple)
        before = choice.radius_before if np.isfinite(choice.radius_before) else None
        off = _calibration_error(learned, pool_targets, is_labeled)
        yield Measured(int(is_labeled.sum()), figures.accuracy.value, figures.macro_f1.value, before, off)


def _calibration_error(learned: "Learned", targets: Floats, is_labeled: NDArray[np.bool_]) -> float | None:
    """On the images of the pool that nobody labelled; None without a model, or where there are none."""
    rows = np.flatnonzero(is_labeled)
    said = model.pool_probabilities(learned.classifier, learned.embeddings, rows, targets[rows])
    if said is None or is_labeled.all():
        return None
    multiple = learned.classifier.multiple
    return calibration_error(targets[~is_labeled], said[~is_labeled], multiple=multiple)


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A classifier, its embeddings of pool and test images, float32[n, dimension], and the pool's graph."""

    classifier: model.Classifier
    embeddings: Floats
    test: Floats
    near_rows: NeighborGraph

    @classmethod
    def of(cls, classifier: model.Classifier, embeddings: Floats, test: Floats, seed: int) -> "Learned":
        """With the near rows that a round finds, by an index that is needed no longer."""
        with TemporaryDirectory() as folder:
            index = build_index(embeddings, Path(folder) / "neighbors.ann", seed=seed)
            return cls(classifier, embeddings, test, index.graph(neighbors_for(len(index))))


def frozen_features(
    settings: Settings, chosen: model.ChosenBackbone, pool: LabeledImages, test: LabeledImages
) -> Learned:
    """What is learned without labels: the embeddings of all images, and a classifier without a head."""
    classifier = model.untrained(chosen, pool.pixels, seed=settings.seed, device=settings.device)
    if classifier.backbone.published:
        classifier, embeddings = prepare_all(Features(classifier, pool.pixels), settings.seed)
    else:
        embeddings = model.embed(classifier, pool.pixels)
    return Learned.of(classifier, embeddings, model.embed(classifier, test.pixels), settings.seed)


def _learn(
    settings: Settings,
    chosen: model.ChosenBackbone,
    pool: LabeledImages,
    test: LabeledImages,
    labeled: Labeled | None,
    frozen: Learned,
) -> Learned:
    """What a round learns of the labels; on a frozen network no image is embedded twice."""
    if labeled is None:
        return frozen
    if model.trains_network(chosen, labeled.trained, settings.device):
        classifier, _ = train_network(settings, chosen, pool.pixels, labeled)
        embeddings, tested = (model.embed(classifier, part.pixels) for part in (pool, test))
        return Learned.of(classifier, embeddings, tested, settings.seed)
    classifier, _ = fit_head(frozen.classifier, frozen.embeddings, labeled)
    return replace(frozen, classifier=classifier)


def _snapshot(pool: LabeledImages, labeled: NDArray[np.bool_]) -> Snapshot:
    """The pool as a project: a task's id is its row."""
    tasks = tuple(
        task if known else Task(task.task_id, task.uri)
        for task, known in zip(_tasks(pool), labeled, strict=True)
    )
    return Snapshot(0, "simulation", None, pool.labels, tasks, datetime.now(UTC))


def _tasks(images: LabeledImages) -> list[Task]:
    return [Task(row, f"/{row}", "labeled", label) for row, label in enumerate(images.chosen)]


# ---------------------------------------------------------------- all cells, kept as they are done


def run_simulation(
    settings: Settings,
    read: Callable[[Resize], LabeledImages],
    *,
    test_folder: Path | None,
    strategies: Sequence[str],
    batches: Sequence[str],
    rounds: int,
    seeds: int,
    target: float | None,
    out: Path,
) -> Iterator[str]:
    """The whole command, line by line: read, replay, write the results below ``out``, recommend.

    ``read`` gives the labelled images, resized as it is told.
    """
    pool, test = pool_and_test(settings, read, test_folder, out)
    yield f"{len(pool):,} images in the pool, {len(test):,} test images."
    chosen = yield from pretrained_on(settings, pool, out / f"pretraining-{pool.digest()[:16]}")
    yield f"Backbone: {chosen.description}."
    cells = []
    for done in simulate(
        settings,
        chosen,
        pool,
        test,
        strategies=strategies,
        batches=[_batch_size(batch) for batch in batches],
        rounds=rounds,
        seeds=seeds,
        folder=out,
    ):
        if isinstance(done, str):
            yield done
        else:
            cells.append(done)
    found = write_results(cells, out)
    yield table(found)
    yield recommendation(found, target)
    yield f"Written: {out / 'results.csv'}, {out / 'curves.svg'}"


def pool_and_test(
    settings: Settings, read: Callable[[Resize], LabeledImages], test_folder: Path | None, out: Path
) -> tuple[LabeledImages, LabeledImages]:
    """What ``read`` gives, resized as the backbone needs it, and the images that measure.

    Those are in the folder ``test_folder``, or are a fifth of each class. Raises ConfigError where classes
    differ.
    """
    resize = _backbone_of(settings).backbone.resize(settings.image_size)
    pool = read(resize)
    if test_folder is None:
        return split(pool)
    test = read_folder(test_folder, resize, out / "test.npy")
    if pool.names != test.names:
        raise ConfigError(f"{test_folder} has the classes {test.names}, not {pool.names}.")
    if pool.multiple != test.multiple:
        raise ConfigError("--test has one class per image, but the project allows several: leave it out.")
    return pool, test


def _batch_size(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch takes comma-separated numbers, as in 50,100, not {text!r}.")
    return int(text)


def simulate(
    settings: Settings,
    chosen: model.ChosenBackbone,
    pool: LabeledImages,
    test: LabeledImages,
    *,
    strategies: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    seeds: int,
    folder: Path,
) -> Iterator[str | Cell]:
    """Every combination replayed for ``rounds`` rounds; finished cells in ``folder`` are taken from there.

    A cell belongs to the release, the images, the model and the number of rounds that it was made with: with
    others it is made anew. Yields a line of progress for each round, and each cell when it is done. Raises
    ConfigError for an unknown strategy.
    """
    for strategy in strategies:
        strategy_named(strategy)
    folder.mkdir(parents=True, exist_ok=True)
    origin = _origin(settings, chosen, pool, test, rounds)
    frozen: Learned | None = None
    for strategy, batch, seed in product(strategies, batches, range(seeds)):
        name = f"{strategy}, batches of {batch}, seed {seed}"
        key = hashlib.sha256(f"{origin} {strategy} {batch} {seed}".encode()).hexdigest()[:16]
        path = folder / f"cell-{key}.json"
        cell = _read_cell(path)
        if cell is None:
            wanted = settings.model_copy(update={"strategy": strategy, "seed": seed})
            frozen = frozen or frozen_features(settings, chosen, pool, test)
            points, budgets = [], [batch * (turn + 1) for turn in range(rounds)]
            for point in replay(wanted, chosen, pool, test, budgets, frozen):
                points.append(point)
                yield f"{name}: {point.labels} labels, accuracy {point.accuracy:.1%}"
            cell = Cell(strategy, batch, seed, tuple(points))
            write_atomically(path, json.dumps(asdict(cell)).encode())
        else:
            yield f"{name}: done before"
        yield cell


def _origin(
    settings: Settings, chosen: model.ChosenBackbone, pool: LabeledImages, test: LabeledImages, rounds: int
) -> str:
    """A digest of everything but strategy, batch and seed that a cell's points depend on."""
    options = (settings.random_slice, settings.group_duplicates, settings.outlier_share, rounds)
    learned = (chosen.description, settings.device, pool.digest(), test.digest())
    return hashlib.sha256(repr((__version__, options, learned)).encode()).hexdigest()


def _read_cell(path: Path) -> Cell | None:
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    return Cell(**{**fields, "points": tuple(Measured(**point) for point in fields["points"])})
