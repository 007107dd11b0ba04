"""Rounds replayed on a folder of labelled images: which strategy, which batch, how many labels?

The model, the choice of the batch and the figures are those of production. Every combination of strategy,
batch and seed is a *cell*, kept as soon as it is done, so that a simulation that was killed goes on.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreset_backend.batch import choose_batch
from coreset_backend.curves import area_under
from coreset_backend.errors import ConfigError, ImageError
from coreset_backend.evaluation import evaluate
from coreset_backend.project import Labels, Snapshot, Task
from coreset_backend.rounds import fit_snapshot
from coreset_backend.selection import strategy_named
from coreset_backend.settings import Settings

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


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of a replay: accuracy and macro-F1 on the test images after training on ``labels``."""

    labels: int
    accuracy: float
    macro_f1: float
    radius_before: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """One replay: its points, the fewest labels first."""

    strategy: str
    batch: int
    seed: int
    points: tuple[Measured, ...]


def read_folder(folder: Path, size: int) -> LabeledImages:
    """The images below ``folder``, at ``size`` pixels a side; each subfolder is a class.

    Raises ConfigError without two classes, or naming a file that is no readable image.
    """
    from coreset_backend.images.decode import decoded_pixels

    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()
    found = [(path, code) for code, name in enumerate(names) for path in _image_files(folder / name)]
    if len({code for _, code in found}) < 2:
        raise ConfigError(f"{folder} must hold a subfolder of images for each of two or more classes.")
    pixels = np.empty((len(found), size, size, 3), np.uint8)
    for row, (path, _) in enumerate(found):
        try:
            pixels[row] = decoded_pixels(path.read_bytes(), size, MOST_PIXELS)
        except ImageError as error:
            raise ConfigError(f"{path} cannot be used: {error}.") from error
    return LabeledImages(pixels, np.array([code for _, code in found], dtype=np.int64), names)


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
    folder: Path,
    test_folder: Path | None,
    *,
    strategies: Sequence[str],
    batches: Sequence[str],
    rounds: int,
    seeds: int,
    target: float | None,
    out: Path,
) -> Iterator[str]:
    """The whole command, line by line: read, replay, write the results below ``out``, recommend."""
    from coreset_backend import model

    size = settings.image_size or model.choose_backbone(settings.backbone, settings.weights).backbone.size
    pool = read_folder(folder, size)
    pool, test = (pool, read_folder(test_folder, size)) if test_folder else split(pool)
    if pool.names != test.names:
        raise ConfigError(f"{test_folder} has the classes {test.names}, {folder} has {pool.names}.")
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

    A cell belongs to the images, the model and the number of rounds that it was made with: with others it
    is made anew. Yields a line of progress for each round, and each cell when it is done. Raises ConfigError
    for an unknown strategy.
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
            _write(path, json.dumps(asdict(cell)))
        else:
            yield f"{name}: done before"
        yield cell


def _origin(settings: Settings, pool: LabeledImages, test: LabeledImages, rounds: int) -> str:
    """A digest of everything but strategy, batch and seed that a cell's points depend on."""
    digest = hashlib.sha256(repr((settings.backbone, settings.weights, rounds, pool.names)).encode())
    for images in (pool, test):
        digest.update(images.pixels.tobytes())
        digest.update(images.codes.tobytes())
    return digest.hexdigest()


def _read_cell(path: Path) -> Cell | None:
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    return Cell(**{**fields, "points": tuple(Measured(**point) for point in fields["points"])})


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


# ---------------------------------------------------------------- what they show


@dataclass(frozen=True, slots=True)
class Line:
    """Mean and standard deviation over the seeds, float64[points] each, of one strategy and batch."""

    strategy: str
    batch: int
    labels: NDArray[np.int64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    seeds: int

    @property
    def area(self) -> float:
        """Mean accuracy over the labels; that of the only point where there is but one."""
        return (
            area_under(self.labels.tolist(), self.mean.tolist())
            if len(self.labels) > 1
            else float(self.mean[0])
        )

    def labels_to(self, accuracy: float) -> int | None:
        """The fewest labels at which the mean reached that accuracy."""
        reached = np.flatnonzero(self.mean >= accuracy)
        return int(self.labels[reached[0]]) if len(reached) else None


def lines(cells: Iterable[Cell]) -> list[Line]:
    """One for each strategy and batch, the greatest area first."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.strategy, cell.batch), []).append(cell)
    found = []
    for (strategy, batch), members in groups.items():
        accuracies = np.array([[point.accuracy for point in cell.points] for cell in members])
        spread = accuracies.std(0, ddof=1) if len(members) > 1 else np.zeros(accuracies.shape[1])
        labels = np.array([point.labels for point in members[0].points])
        found.append(Line(strategy, batch, labels, accuracies.mean(0), spread, len(members)))
    return sorted(found, key=lambda line: -line.area)


def csv_text(cells: Iterable[Cell]) -> str:
    """Every point of every cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["strategy", "batch", "seed", "labels", "accuracy", "macro_f1", "radius_before"])
    for cell in cells:
        for point in cell.points:
            radius = "" if point.radius_before is None else round(point.radius_before, 6)
            figures = (round(point.accuracy, 6), round(point.macro_f1, 6), radius)
            writer.writerow([cell.strategy, cell.batch, cell.seed, point.labels, *figures])
    return out.getvalue()


def table(found: Sequence[Line]) -> str:
    """Accuracy in percent, mean and standard deviation over the seeds, by labels."""
    rows = []
    for line in found:
        rows.append(f"{line.strategy}, batches of {line.batch}: mean over the labels {100 * line.area:.1f} %")
        for labels, mean, spread in zip(line.labels, line.mean, line.deviation, strict=True):
            rows.append(f"  {labels:>7,} labels  {100 * mean:5.1f} ± {100 * spread:.1f} %")
    return "\n".join(rows)


def recommendation(found: Sequence[Line], target: float | None) -> str:
    """Which strategy and batch, by how much, and the labels to ``target``, in words."""
    best, others = found[0], found[1:]
    words = [f"Best here: {best.strategy} in batches of {best.batch}."]
    if others:
        lead = 100 * (best.area - others[0].area)
        noise = 100 * float(np.hypot(best.deviation.mean(), others[0].deviation.mean()))
        sure = "clear" if best.seeds > 1 and lead > 2 * noise / np.sqrt(best.seeds) else "not clear"
        words.append(
            f"It leads {others[0].strategy} in batches of {others[0].batch} by {lead:.1f} points on average "
            f"over the labels, which is {sure} with {best.seeds} seeds."
        )
    if target is not None:
        need = best.labels_to(target)
        words.append(
            f"{target:.0%} were reached with {need:,} labels."
            if need
            else f"{target:.0%} were not reached with {int(best.labels[-1]):,} labels."
        )
    return " ".join(words)


INKS = ("#1b6ca8", "#c8553d", "#2e8b57", "#8e5ea2", "#b8860b", "#444444", "#17a2b8", "#d63384")


def svg(found: Sequence[Line]) -> str:
    """The curves with a band of one standard deviation, as an SVG image."""
    width, height, left, bottom = 760, 440, 60, 50
    most = max(int(line.labels[-1]) for line in found)
    low = min(float((line.mean - line.deviation).min()) for line in found)
    high = max(float((line.mean + line.deviation).max()) for line in found)
    scale = (height - bottom - 20) / max(high - low, 1e-9)

    def places(labels: Iterable[int], accuracies: Iterable[float]) -> list[str]:
        return [
            f"{left + (width - left - 20) * n / most:.1f},{height - bottom - scale * (share - low):.1f}"
            for n, share in zip(labels, accuracies, strict=True)
        ]

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
        f'<path d="M{left} 20V{height - bottom}H{width - 20}" fill="none" stroke="black"/>'
        f'<text x="{left}" y="{height - bottom + 18}">0</text>'
        f'<text x="{width - 20}" y="{height - bottom + 18}" text-anchor="end">{most:,} labels</text>'
        f'<text x="{left - 6}" y="{height - bottom}" text-anchor="end">{100 * low:.0f} %</text>'
        f'<text x="{left - 6}" y="28" text-anchor="end">{100 * high:.0f} %</text>'
    ]
    for order, line in enumerate(found):
        ink = INKS[order % len(INKS)]
        upper = places(line.labels, line.mean + line.deviation)
        lower = places(line.labels[::-1], (line.mean - line.deviation)[::-1])
        parts.append(f'<polygon points="{" ".join(upper + lower)}" fill="{ink}" opacity="0.15"/>')
        middle = " ".join(places(line.labels, line.mean))
        parts.append(f'<polyline points="{middle}" fill="none" stroke="{ink}" stroke-width="2"/>')
        parts.append(
            f'<text x="{width - 24}" y="{height - bottom - 12 - 16 * (len(found) - 1 - order)}" fill="{ink}" '
            f'text-anchor="end">{line.strategy}, batches of {line.batch}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def write_results(cells: Sequence[Cell], folder: Path) -> list[Line]:
    """``results.csv`` and ``curves.svg`` in ``folder``."""
    found = lines(cells)
    _write(folder / "results.csv", csv_text(cells))
    _write(folder / "curves.svg", svg(found))
    return found
