"""The results of a simulation as table, CSV, plot and sentences."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from coreset_backend.evaluation.comparison import MeanCurve
from coreset_backend.files import write_atomically
from coreset_backend.foreign_text import fit_cell
from coreset_backend.simulation.cells import Cell


def lines(cells: Iterable[Cell]) -> list[MeanCurve]:
    """One for each strategy and batch, the greatest area first."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.strategy, cell.batch), []).append(cell)
    found = []
    for (strategy, batch), members in groups.items():
        accuracies = np.array([[point.accuracy for point in cell.points] for cell in members])
        spread = accuracies.std(0, ddof=1) if len(members) > 1 else np.zeros(accuracies.shape[1])
        labels = np.array([point.labels for point in members[0].points])
        found.append(MeanCurve(strategy, batch, labels, accuracies.mean(0), spread, len(members)))
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
            writer.writerow([fit_cell(cell.strategy), cell.batch, cell.seed, point.labels, *figures])
    return out.getvalue()


def table(found: Sequence[MeanCurve]) -> str:
    """Accuracy in percent, mean and standard deviation over the seeds, by labels."""
    rows = []
    for line in found:
        rows.append(f"{line.strategy}, batches of {line.batch}: mean over the labels {100 * line.area:.1f} %")
        for labels, mean, spread in zip(line.labels, line.mean, line.deviation, strict=True):
            rows.append(f"  {labels:>7,} labels  {100 * mean:5.1f} ± {100 * spread:.1f} %")
    return "\n".join(rows)


def recommendation(found: Sequence[MeanCurve], target: float | None) -> str:
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
    random = next((line for line in others if line.strategy == "random"), None)
    if random and (enough := best.labels_to(float(random.mean[-1]))):
        words.append(
            f"It reached random's {random.mean[-1]:.1%} with {enough:,} labels; "
            f"random needed {random.labels[-1]:,}."
        )
    if target is not None:
        need = best.labels_to(target)
        words.append(
            f"It reached {target:.0%} with {need:,} labels."
            if need
            else f"It did not reach {target:.0%} with {int(best.labels[-1]):,} labels."
        )
    return " ".join(words)


INKS = ("#1b6ca8", "#c8553d", "#2e8b57", "#8e5ea2", "#b8860b", "#444444", "#17a2b8", "#d63384")


def svg(found: Sequence[MeanCurve]) -> str:
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


def write_results(cells: Sequence[Cell], folder: Path) -> list[MeanCurve]:
    """``results.csv`` and ``curves.svg`` in ``folder``."""
    found = lines(cells)
    write_atomically(folder / "results.csv", csv_text(cells).encode())
    write_atomically(folder / "curves.svg", svg(found).encode())
    return found
