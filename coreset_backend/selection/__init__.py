"""Selects the rows to label next: k-Center, herding and others. Arrays in, a Selection out.

Pure numpy and scipy: importing this package opens nothing and needs no torch, Flask, Redis or Annoy, and
scipy only when a strategy runs: the web, which names them, has none.
A strategy is a function of a Pool, a batch size and a Generator; adding one is one line below, and
the contract suite then tests it.
"""

import importlib

from coreset_backend.errors import ConfigError
from coreset_backend.selection.approximate import approximate_k_center
from coreset_backend.selection.baselines import random_rows
from coreset_backend.selection.coverage import Coverage, covering_radius, radii_in_order
from coreset_backend.selection.duplicates import near_duplicate_groups, near_duplicate_reach
from coreset_backend.selection.geometry import normalized
from coreset_backend.selection.graph import exact_graph, nearest_others
from coreset_backend.selection.greedy import k_center_cosine, k_center_greedy
from coreset_backend.selection.herding import max_herding, neighbors_for, uncertainty_herding
from coreset_backend.selection.nearest import nearest_center_distances
from coreset_backend.selection.options import outliers, redundant_rows, with_options
from coreset_backend.selection.pool import NeighborGraph, Pool, Selection, Strategy
from coreset_backend.selection.robust import MOST_ROWS, robust_k_center
from coreset_backend.selection.typicality import typiclust
from coreset_backend.selection.uncertainty import badge, entropy, margin, margin_k_center, weighted_k_center

STRATEGIES: dict[str, Strategy] = {
    "k_center": k_center_greedy,
    "k_center_cosine": k_center_cosine,
    "robust_k_center": robust_k_center,
    "annoy": approximate_k_center,
    "random": random_rows,
    "margin": margin,
    "entropy": entropy,
    "margin_k_center": margin_k_center,
    "weighted_k_center": weighted_k_center,
    "badge": badge,
    "typiclust": typiclust,
    "max_herding": max_herding,
    "uncertainty_herding": uncertainty_herding,
}
NEED_PROBABILITIES = frozenset(
    {"margin", "entropy", "margin_k_center", "weighted_k_center", "badge", "uncertainty_herding"}
)
"""The strategies that need a classifier and therefore cannot select the first batch."""
NOT_CUT = frozenset({"robust_k_center"})
"""The strategies whose rows are a solution together: the first of them are none for a smaller batch."""

__all__ = [
    "MOST_ROWS",
    "NEED_PROBABILITIES",
    "NOT_CUT",
    "STRATEGIES",
    "Coverage",
    "NeighborGraph",
    "Pool",
    "Selection",
    "Strategy",
    "covering_radius",
    "exact_graph",
    "k_center_cosine",
    "k_center_greedy",
    "max_herding",
    "near_duplicate_groups",
    "near_duplicate_reach",
    "nearest_center_distances",
    "nearest_others",
    "neighbors_for",
    "normalized",
    "outliers",
    "radii_in_order",
    "random_rows",
    "redundant_rows",
    "robust_k_center",
    "strategy_named",
    "uncertainty_herding",
    "with_options",
]


def strategy_named(name: str) -> Strategy:
    """The strategy called ``name``: a key of STRATEGIES, or 'package.module:function' of your own.

    Raises ConfigError, listing the known names, for anything else. A path runs code: take it from
    the settings only, never from a request.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    module_name, _, function_name = name.partition(":")
    known = f"Known strategies: {', '.join(STRATEGIES)}; or your own as 'package.module:function'."
    if not function_name:
        raise ConfigError(f"There is no strategy {name!r}. {known}")
    try:
        strategy: Strategy = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"The strategy {name!r} cannot be imported: {error}. {known}") from error
    if not callable(strategy):
        raise ConfigError(f"The strategy {name!r} is not a function. {known}")
    return strategy
