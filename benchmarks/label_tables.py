"""The tables of benchmarks/label_efficiency.py, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.evaluation.learning_curve import area_under

BUDGETS = (40, 100, 200, 400, 600, 1000, 2000)
Cells = Sequence[Mapping[str, Any]]
LAST = {"redundant": ("distinct", "different images"), "long_tail": ("rare", "of the 4 rarest")}
"""What the last column counts at the largest budget: a cell's field, and its title."""


def tables(cells: Cells) -> str:
    """One table for each pool and learner that there are cells of, with what all labels give below it."""
    parts = []
    for pool in dict.fromkeys(cell["pool"] for cell in cells):
        here = [cell for cell in cells if cell["pool"] == pool]
        scratch = _mean_at_most([cell for cell in here if _is(cell, "scratch", "random")])
        for learner in dict.fromkeys(cell["learner"] for cell in here):
            own = [cell for cell in here if cell["learner"] == learner]
            parts += [f"**{pool}, {learner}**\n", table(own, pool, scratch), _whole(own)]
    return "\n".join(parts)


def table(cells: Cells, pool: str, scratch: float | None) -> str:
    """The strategies of one pool and learner, the greatest log-AUC first: accuracy in %, mean ± sd.

    ``scratch``: random-from-scratch's accuracy at the largest budget, where it is known.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        if cell["strategy"] != "all":
            groups.setdefault(cell["strategy"], []).append(cell)
    if not groups:
        return ""
    budgets = max((cell["labels"] for group in groups.values() for cell in group), key=len)
    field, title = LAST.get(pool, ("", ""))
    titles = ["strategy", "n", *map(str, budgets), "AUC", "log-AUC", "log-AUC over random"]
    titles += ["labels to random's last"] + (["labels to scratch's last"] if scratch else [])
    titles += [title] if field else []
    rows = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    random = groups.get("random", [])
    goals = [_mean_at_most(random), *([scratch] if scratch else [])]
    for strategy, group in sorted(groups.items(), key=lambda item: -_areas(item[1], log=True).mean()):
        curves = 100 * np.array([cell["curve"] for cell in group])
        shown = [strategy.replace(">", ", then ").replace("@", " from "), _how_often(group)]
        shown += [_spread(column) for column in curves.T]
        shown += [_spread(_areas(group, log=log)) for log in (False, True)]
        shown.append(_spread(_over(group, random), sign="+") if random else "-")
        shown += [_labels_to(budgets, curves.mean(0), goal) for goal in goals]
        if field:
            known = [cell[field] for cell in group if field in cell]
            shown.append(f"{np.mean(known):.0f}" if known else "-")
        rows.append(f"| {' | '.join(shown)} |")
    return "\n".join([*rows, ""])


def _is(cell: Mapping[str, Any], learner: str, strategy: str) -> bool:
    return bool(cell["learner"] == learner and cell["strategy"] == strategy)


def _mean_at_most(cells: Cells) -> float | None:
    """The mean accuracy, in %, at the largest budget."""
    return 100 * float(np.mean([cell["curve"][-1] for cell in cells])) if cells else None


def _how_often(group: Cells) -> str:
    draws = len({cell["draw"] for cell in group})
    return f"{len(group)} ({draws} draw{'s' if draws > 1 else ''})"


def _spread(values: NDArray[np.float64], sign: str = "") -> str:
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{round(values.mean(), 1) + 0.0:{sign}.1f}{deviation}"  # never -0.0


def _areas(group: Cells, *, log: bool) -> NDArray[np.float64]:
    areas = [area_under(cell["labels"], cell["curve"], log=log) for cell in group]
    return 100 * np.array(areas)


def _over(group: Cells, random: Cells) -> NDArray[np.float64]:
    """By how much each cell's log-AUC exceeds the mean of random's on the same draw."""
    own = _areas(group, log=True)
    means = {
        draw: _areas([cell for cell in random if cell["draw"] == draw], log=True).mean()
        for draw in {cell["draw"] for cell in random}
    }
    kept = [
        area - means[cell["draw"]] for area, cell in zip(own, group, strict=True) if cell["draw"] in means
    ]
    return np.array(kept)


def _labels_to(budgets: Sequence[int], mean: NDArray[np.float64], goal: float | None) -> str:
    """The number of labels at which the mean curve, straight between budgets, first reaches the goal."""
    if goal is None or mean.max() < goal:
        return "-"
    reached = int(np.argmax(mean >= goal))
    if not reached:
        return f"≤ {budgets[0]}"
    low, high = mean[reached - 1], mean[reached]
    share = (goal - low) / (high - low)
    return f"{budgets[reached - 1] + share * (budgets[reached] - budgets[reached - 1]):,.0f}"


def _whole(cells: Cells) -> str:
    found = [cell for cell in cells if cell["strategy"] == "all"]
    if not found:
        return ""
    shares = 100 * np.array([cell["curve"][-1] for cell in found])
    return f"All {found[0]['labels'][-1]:,} labels: {_spread(shares)} %.\n"
