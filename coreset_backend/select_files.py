"""`coreset-backend select`: vectors and labelled rows from files, the chosen rows as CSV or JSON."""

import inspect
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import ConfigError
from coreset_backend.selection import NeighborGraph, Pool, Selection, neighbors_for, strategy_named

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""

GRAPH_STRATEGIES = ("annoy", "max_herding", "uncertainty_herding")


def select_from_files(
    *,
    embeddings: Path,
    labeled: Path | None,
    probabilities: Path | None,
    batch: int,
    strategy: str,
    seed: int,
    progress: Progress,
) -> Selection:
    """What ``strategy`` chooses from a .npy file of float[n, d], read as a memory map.

    ``labeled`` is a text file of row numbers, one a line, the first row being 0; ``probabilities`` a
    .npy file of float[n, classes]. Raises ConfigError for files that cannot be read or do not fit.
    """
    choose = strategy_named(strategy)
    vectors = _array(embeddings)
    rows = _rows(labeled) if labeled else np.empty(0, dtype=np.int64)
    odds = np.asarray(_array(probabilities), dtype=np.float32) if probabilities else None
    more: dict[str, Any] = {}
    if "progress" in inspect.signature(choose).parameters:
        more["progress"] = lambda done, total: progress("select", done, total)
    try:
        pool = Pool(vectors, rows, odds)
        if strategy in GRAPH_STRATEGIES:
            pool = Pool(vectors, rows, odds, _graph(vectors, seed, progress))
        return choose(pool, batch, np.random.default_rng(seed), **more)
    except ValueError as error:
        raise ConfigError(f"{embeddings}: {error}") from error


def as_csv(selection: Selection) -> str:
    """``rank,row,distance``, one line a pick."""
    picks = zip(selection.rows.tolist(), selection.distances.tolist(), strict=True)
    lines = [f"{rank},{row},{distance:.7g}" for rank, (row, distance) in enumerate(picks)]
    return "\n".join(["rank,row,distance", *lines])


def as_json(selection: Selection) -> str:
    """Rows, distances and radii; null where a distance is infinite."""
    return json.dumps(
        {
            "rows": selection.rows.tolist(),
            "distances": [_finite(distance) for distance in selection.distances.tolist()],
            "radius_before": _finite(selection.radius_before),
            "radius_after": _finite(selection.radius_after),
            "lower_bound": selection.lower_bound,
            "status": selection.status,
        }
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _graph(vectors: NDArray[np.floating], seed: int, progress: Progress) -> NeighborGraph:
    from coreset_backend.neighbors import build_index

    with tempfile.TemporaryDirectory() as folder:
        index = build_index(
            vectors,
            Path(folder) / "neighbors.ann",
            seed=seed,
            progress=lambda done, total: progress("index", done, total),
        )
        progress("neighbors", 0, 0)
        return index.graph(neighbors_for(len(vectors)))


def _array(path: Path) -> NDArray[np.floating]:
    try:
        array: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a .npy array: {error}") from error
    return array


def _rows(path: Path) -> NDArray[np.int64]:
    try:
        return np.array([int(line) for line in path.read_text().split()], dtype=np.int64)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} must hold one row number a line: {error}") from error
