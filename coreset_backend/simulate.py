"""Rounds replayed on labelled images: which strategy, which batch, how many labels?

The model, the choice of the batch and the figures are those of production. Every combination of strategy,
batch and seed is a *cell*, kept as soon as it is done, so that a simulation that was killed goes on.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coreset_backend import __version__
from coreset_backend.batch import choose_batch
from coreset_backend.errors import ConfigError, ImageError, TooFewLabels, UnsupportedLabelConfig
from coreset_backend.evaluation import evaluate
from coreset_backend.project import Labels, Snapshot, Task
from coreset_backend.rounds import fit_snapshot
from coreset_backend.selection import strategy_named
from coreset_backend.settings import Settings
from coreset_backend.simulation_report import (
    Cell,
    Measured,
    recommendation,
    table,
    write_results,
    write_whole,
)

if TYPE_CHECKING:
    from coreset_backend.backend import Backend

MOST_PIXELS = 100_000_000
TEST_SHARE = 0.2
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True, eq=False)
class LabeledImages:
    """``pixels`` uint8[n, size, size, 3]; ``codes`` int64[n], positions in ``names``."""

    pixels: NDArray[np.uint8]
    codes: NDArray[np.int64]
    names: tuple[str, ...]

    def part(self, rows: NDArray[np.int64]) -> "LabeledImages":
        return LabeledImages(self.pixels[rows], self.codes[rows], self.names)


def read_folder(folder: Path, size: int) -> LabeledImages:
    """The images below ``folder``, at ``size`` pixels a side; each subfolder is a class.

    Raises ConfigError without two classes, or naming a file that is no readable image.
    """
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()
    found = [(path, code) for code, name in enumerate(names) for path in _image_files(folder / name)]
    if len({code for _, code in found}) < 2:
        raise ConfigError(f"{folder} must hold a subfolder of images for each of two or more classes.")
    return read_files(found, names, size)


def read_files(found: Sequence[tuple[Path, int]], names: tuple[str, ...], size: int) -> LabeledImages:
    """The files, each with the position of its class in ``names``, at ``size`` pixels a side.

    Raises ConfigError naming a file that is no readable image.
    """
    from coreset_backend.images.decode import decoded_pixels

    pixels = np.empty((len(found), size, size, 3), np.uint8)
    for row, (path, _) in enumerate(found):
        try:
            pixels[row] = decoded_pixels(path.read_bytes(), size, MOST_PIXELS)
        except ImageError as error:
            raise ConfigError(f"{path} cannot be used: {error}.") from error
    return LabeledImages(pixels, np.array([code for _, code in found], dtype=np.int64), names)


def read_project(backend: "Backend", project_id: int, size: int) -> LabeledImages:
    """The labelled images of a Label Studio project, at ``size`` pixels a side.

    Images that cannot be read are left out. Raises UnsupportedLabelConfig unless the project asks for one
    class of each image, TooFewLabels without two classes, and what Label Studio answers.
    """
    snapshot = backend.label_studio.fetch_snapshot(project_id)
    if snapshot.labels is None or snapshot.labels.multiple:
        raise UnsupportedLabelConfig(
            f"Project {project_id} '{snapshot.title}' does not ask for one class of each image, as simulate "
            "needs. Replay one with single-choice <Choices> on its <Image>."
        )
    labels = {task.task_id: task.label[0] for task in snapshot.tasks if task.label}
    if len(set(labels.values())) < 2:
        raise TooFewLabels(len(set(labels.values())), 2)
    uris = [(task.task_id, task.uri) for task in snapshot.tasks if task.label]
    pixels, _ = backend.images.fetch(uris, size)
    names = snapshot.labels.names
    codes = np.array([names.index(labels[task_id]) for task_id in pixels.task_ids.tolist()], dtype=np.int64)
    return LabeledImages(pixels[:], codes, names)


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)


def split(images: LabeledImages, share: float = TEST_SHARE) -> tuple[LabeledImages, LabeledImages]:
    """Pool and test images: ``share`` of each class, at least one, measures and is never chosen."""
    rng = np.random.default_rng(0)
    test = np.zeros(len(images.codes), dtype=bool)
    for code in range(len(images.names)):
        members = rng.permutation(np.flatnonzero(images.codes == code))
        test[members[: max(1, round(share * len(members)))]] = True
    return images.part(np.flatnonzero(~test)), images.part(np.flatnonzero(test))


def replay(
    settings: Settings, pool: LabeledImages, test: LabeledImages, budgets: Sequence[int]
) -> Iterator[Measured]:
    """One point for each of ``budgets``, rising numbers of labels: choose up to it, train, measure.

    Strategy, backbone and seed are those of ``settings``. Every label chosen is trained on; ends early
    when the pool is used up. The first batch is chosen without labels, as in production.
    """
    from coreset_backend import model

    chosen = model.choose_backbone(settings.backbone, settings.weights)
    everything, labeled = np.arange(len(pool.codes), dtype=np.int64), np.zeros(len(pool.codes), dtype=bool)
    snapshot = _snapshot(pool, labeled)
    classifier, _ = fit_snapshot(settings, chosen, snapshot, pool.pixels, everything, frozenset())
    for budget in budgets:
        embeddings, probabilities = model.embed_and_predict(classifier, pool.pixels)
        wanted = settings.model_copy(update={"batch_size": max(budget - int(labeled.sum()), 1)})
        choice = choose_batch(wanted, snapshot, everything, embeddings, probabilities)
        if not choice.batch:
            return
        labeled[list(choice.batch)] = True
        snapshot = _snapshot(pool, labeled)
        classifier, _ = fit_snapshot(settings, chosen, snapshot, pool.pixels, everything, frozenset())
        said = model.predict(classifier, test.pixels)
        if said is None:  # one class so far: the model can only name that one
            said = np.eye(len(pool.names), dtype=np.float32)[pool.codes[labeled][:1]].repeat(
                len(test.codes), axis=0
            )
        targets = np.eye(len(pool.names), dtype=np.float32)[test.codes]
        figures = evaluate(pool.names, targets, said, multiple=False)
        before = choice.radius_before if np.isfinite(choice.radius_before) else None
        yield Measured(int(labeled.sum()), figures.accuracy.value, figures.macro_f1.value, before)


def _snapshot(pool: LabeledImages, labeled: NDArray[np.bool_]) -> Snapshot:
    """The pool as a project: a task's id is its row."""
    tasks = tuple(
        Task(row, f"/{row}", "labeled" if known else "pool", (pool.names[code],) if known else None)
        for row, (code, known) in enumerate(zip(pool.codes, labeled, strict=True))
    )
    labels = Labels("label", "image", pool.names, multiple=False)
    return Snapshot(0, "simulation", None, labels, tasks, datetime.now(UTC))


# ---------------------------------------------------------------- all cells, kept as they are done


def run_simulation(
    settings: Settings,
    read: Callable[[int], LabeledImages],
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

    ``read`` gives the labelled images at a number of pixels a side.
    """
    from coreset_backend import model

    size = settings.image_size or model.choose_backbone(settings.backbone, settings.weights).backbone.size
    pool = read(size)
    pool, test = (pool, read_folder(test_folder, size)) if test_folder else split(pool)
    if pool.names != test.names:
        raise ConfigError(f"{test_folder} has the classes {test.names}, not {pool.names}.")
    yield f"{len(pool.codes):,} images to choose from, {len(test.codes):,} to measure."
    cells = []
    for done in simulate(
        settings,
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


def _batch_size(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch takes numbers separated by commas, as in 50,100, not {text!r}.")
    return int(text)


def simulate(
    settings: Settings,
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
    origin = _origin(settings, pool, test, rounds)
    for strategy, batch, seed in product(strategies, batches, range(seeds)):
        name = f"{strategy}, batches of {batch}, seed {seed}"
        key = hashlib.sha256(f"{origin} {strategy} {batch} {seed}".encode()).hexdigest()[:16]
        path = folder / f"cell-{key}.json"
        cell = _read_cell(path)
        if cell is None:
            wanted = settings.model_copy(update={"strategy": strategy, "seed": seed})
            points = []
            for point in replay(wanted, pool, test, [batch * (turn + 1) for turn in range(rounds)]):
                points.append(point)
                yield f"{name}: {point.labels} labels, {point.accuracy:.1%} right"
            cell = Cell(strategy, batch, seed, tuple(points))
            write_whole(path, json.dumps(asdict(cell)))
        else:
            yield f"{name}: done before"
        yield cell


def _origin(settings: Settings, pool: LabeledImages, test: LabeledImages, rounds: int) -> str:
    """A digest of everything but strategy, batch and seed that a cell's points depend on."""
    model = (settings.backbone, settings.weights, settings.random_slice)
    digest = hashlib.sha256(repr((__version__, model, rounds, pool.names)).encode())
    for images in (pool, test):
        digest.update(images.pixels.tobytes())
        digest.update(images.codes.tobytes())
    return digest.hexdigest()


def _read_cell(path: Path) -> Cell | None:
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    return Cell(**{**fields, "points": tuple(Measured(**point) for point in fields["points"])})
