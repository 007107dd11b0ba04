"""The tables of benchmarks/label_efficiency.py, in Markdown.

    python benchmarks/label_tables.py DOCUMENT...

writes the tables of label_efficiency.jsonl into the documents, each between the lines
``<!-- table: POOL BACKBONE SIZE -->`` and ``<!-- end -->``.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.evaluation.learning_curve import area_under

BUDGETS = (20, 40, 100, 200, 400, 1000, 2000)
SURE_FROM = 200
"""Labels from which the calibration error is looked at."""
Cell = Mapping[str, Any]
Cells = Sequence[Cell]
CELLS = Path(__file__).with_suffix("").parent / "label_efficiency.jsonl"
TABLE = re.compile(r"(<!-- table: (\S+) (\S+) (\d+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(documents: Sequence[Path]) -> None:
    cells = read_cells(CELLS)
    for path in documents:
        path.write_text(with_tables(path.read_text(), cells))


def read_cells(path: Path) -> list[Cell]:
    """The results that were kept in the file so far; none without it."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep_cell(path: Path, cell: Cell) -> None:
    """Append the result to the file, so that a second run goes on from there."""
    with path.open("a") as file:
        file.write(json.dumps(cell) + "\n")


def with_tables(text: str, cells: Cells) -> str:
    """The document with the tables of these cells in their places."""

    def made(found: re.Match[str]) -> str:
        of = (found[2], found[3], int(found[4]))
        return f"{found[1]}{table([cell for cell in cells if _kind(cell) == of])}{found[5]}"

    return TABLE.sub(made, text)


def tables(cells: Cells) -> str:
    """One table for each pool, backbone and size that there are cells of."""
    parts = []
    for kind in dict.fromkeys(map(_kind, cells)):
        pool, backbone, size = kind
        parts += [f"**{pool}, {backbone}, {size} pixels**\n", table([c for c in cells if _kind(c) == kind])]
    return "\n".join(parts)


def table(cells: Cells) -> str:
    """The strategies of one pool, the greatest log-AUC first: accuracy in %, mean ± sd over the draws."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell["strategy"], []).append(cell)
    if not groups:
        return ""
    budgets = max((cell["labels"] for cell in cells), key=len)
    titles = ["strategy", "n", *(f"{budget:,}" for budget in budgets)]
    titles += ["log-AUC", "over random", "least over random", "calibration error"]
    rows = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    random = groups.get("random", [])
    for strategy, group in sorted(groups.items(), key=lambda item: -_areas(item[1]).mean()):
        curves = 100 * np.array([cell["curve"] for cell in group])
        shown = [strategy, str(len(group)), *(_spread(column) for column in curves.T), _spread(_areas(group))]
        shown += [_spread(_over(group, random), sign="+") if random else "-"]
        shown += [_least_over(curves, random), _worst_calibration(group)]
        rows.append(f"| {' | '.join(shown)} |")
    return "\n".join([*rows, ""])


def _kind(cell: Cell) -> tuple[str, str, int]:
    return cell["pool"], cell["backbone"], cell["size"]


def _spread(values: NDArray[np.float64], sign: str = "") -> str:
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{round(values.mean(), 1) + 0.0:{sign}.1f}{deviation}"  # never -0.0


def _areas(group: Cells) -> NDArray[np.float64]:
    return 100 * np.array([area_under(cell["labels"], cell["curve"], log=True) for cell in group])


def _over(group: Cells, random: Cells) -> NDArray[np.float64]:
    """By how much each cell's log-AUC exceeds random's on the same draw, or its mean where that has none."""
    means = dict(zip((cell["draw"] for cell in random), _areas(random), strict=True))
    usual = np.mean(list(means.values()))
    over = zip(_areas(group), (cell["draw"] for cell in group), strict=True)
    return np.array([area - means.get(draw, usual) for area, draw in over])


def _least_over(curves: NDArray[np.float64], random: Cells) -> str:
    """The least that the mean exceeds random's mean by, over the budgets."""
    if not random:
        return "-"
    means = 100 * np.array([cell["curve"] for cell in random]).mean(0)
    return f"{(curves.mean(0) - means).min() + 0.0:+.1f}"


def _worst_calibration(group: Cells) -> str:
    """The greatest, over the budgets from SURE_FROM on, of the mean over the draws, in %."""
    known = [
        np.mean([100 * cell["off"][place] for cell in group])
        for place, labels in enumerate(group[0]["labels"])
        if labels >= SURE_FROM and all(cell.get("off") and cell["off"][place] is not None for cell in group)
    ]
    return f"{max(known):.1f}" if known else "-"


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
