"""`coreset-backend select`: embeddings and labelled rows from files; the selected rows as CSV or JSON."""

import inspect
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from coreset_backend.arrays import PhaseProgress, Progress, Rows, Vectors
from coreset_backend.cli.terminal import file_option
from coreset_backend.errors import ConfigError
from coreset_backend.selection import (
    MOST_ROWS,
    NeighborGraph,
    Pool,
    Selection,
    near_duplicate_groups,
    neighbors_for,
    normalized,
    radii_in_order,
    strategy_named,
    with_options,
)
from coreset_backend.selection.annoy_index import build_index

GRAPH_STRATEGIES = ("annoy", "max_herding", "uncertainty_herding")


@click.command()
@click.option("--embeddings", type=file_option, required=True, help="float[n, d] as .npy.")
@click.option("--labeled", type=file_option, help="Text file, one row number per line; the first row is 0.")
@click.option("--probabilities", type=file_option, help="float[n, classes] as .npy, for uncertainty.")
@click.option("--batch", type=click.IntRange(1), required=True, help="Number of rows to select.")
@click.option("--strategy", default="k_center", show_default=True, help="Name, or package.module:function.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--group-duplicates", is_flag=True, help="Select at most one row of each group of near-duplicates."
)
@click.option(
    "--outlier-share",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Largest share of the batch that may be outliers.",
)
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON instead of CSV.")
def select(
    embeddings: Path,
    labeled: Path | None,
    probabilities: Path | None,
    batch: int,
    strategy: str,
    seed: int,
    group_duplicates: bool,
    outlier_share: float,
    json_wanted: bool,
) -> None:
    """Select rows of a file of embeddings, without Label Studio.

    The selected rows go to standard output; progress and the covering radius go to standard error.
    """
    selection = select_from_files(
        embeddings=embeddings,
        labeled=labeled,
        probabilities=probabilities,
        batch=batch,
        strategy=strategy,
        seed=seed,
        group_duplicates=group_duplicates,
        outlier_share=outlier_share,
        progress=_show_progress,
    )
    click.echo(err=True)
    click.echo(as_json(selection) if json_wanted else as_csv(selection))
    if not json_wanted:
        before, after = selection.radius_before, selection.radius_after
        click.echo(f"covering radius {before:.6g} before, {after:.6g} after", err=True)
        if selection.status:
            least = selection.lower_bound or 0.0
            click.echo(
                f"{selection.status}; no {len(selection.rows)} rows have a radius below {least:.6g}", err=True
            )


def _show_progress(phase: str, done: int, total: int) -> None:
    count = f"{done} of {total}" if total else "..."
    click.echo(f"\r{phase} {count}", err=True, nl=False)


def select_from_files(
    *,
    embeddings: Path,
    labeled: Path | None,
    probabilities: Path | None,
    batch: int,
    strategy: str,
    seed: int,
    group_duplicates: bool,
    outlier_share: float,
    progress: PhaseProgress,
) -> Selection:
    """The rows that ``strategy`` selects from a .npy file of float[n, d], with the radius after every pick.

    The file is read as a memory map. ``labeled`` is a text file, one row number per line, counted from 0;
    ``probabilities`` is a .npy file of float[n, classes]. Raises ConfigError for files that cannot be read
    or do not match.
    """
    choose = strategy_named(strategy)
    vectors = _array(embeddings)
    rows = _rows(labeled) if labeled else np.empty(0, dtype=np.int64)
    odds = np.asarray(_array(probabilities), dtype=np.float32) if probabilities else None
    more: dict[str, Progress] = {}
    if "progress" in inspect.signature(choose).parameters:
        more["progress"] = lambda done, total: progress("select", done, total)
    try:
        pool = Pool(vectors, rows, odds)
        groups = None
        large = strategy == "robust_k_center" and len(vectors) > MOST_ROWS
        if strategy in GRAPH_STRATEGIES or large or group_duplicates or outlier_share < 1:
            pool = Pool(vectors, rows, odds, _graph(vectors, seed, progress))
        if group_duplicates:
            groups = near_duplicate_groups(vectors, rows, pool.neighbors)
        progress("select", 0, 0)
        within_options = with_options(choose, groups=groups, outlier_share=outlier_share)
        return _with_radii(pool, within_options(pool, batch, np.random.default_rng(seed), **more))
    except ValueError as error:
        raise ConfigError(f"{embeddings}: {error}") from error


def _with_radii(pool: Pool, selection: Selection) -> Selection:
    """The selection with the radius after every pick."""
    if selection.radii is not None:
        return selection
    space = normalized(pool.vectors) if selection.normalized else pool.vectors
    return replace(selection, radii=radii_in_order(space, pool.labeled_rows, selection.rows))


def as_csv(selection: Selection) -> str:
    """``rank,row,distance,radius`` per pick: its distance to the nearest center, the radius after it."""
    assert selection.radii is not None
    picks = zip(selection.rows.tolist(), selection.distances.tolist(), selection.radii.tolist(), strict=True)
    lines = [f"{rank},{row},{far:.7g},{radius:.7g}" for rank, (row, far, radius) in enumerate(picks)]
    return "\n".join(["rank,row,distance,radius", *lines])


def as_json(selection: Selection) -> str:
    """Rows, distances and radii, after every pick too; null where a distance is infinite."""
    assert selection.radii is not None
    return json.dumps(
        {
            "rows": selection.rows.tolist(),
            "distances": [_finite(distance) for distance in selection.distances.tolist()],
            "radii": [_finite(radius) for radius in selection.radii.tolist()],
            "radius_before": _finite(selection.radius_before),
            "radius_after": _finite(selection.radius_after),
            "lower_bound": selection.lower_bound,
            "status": selection.status,
        }
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _graph(vectors: Vectors, seed: int, progress: PhaseProgress) -> NeighborGraph:
    with tempfile.TemporaryDirectory() as folder:
        index = build_index(
            vectors,
            Path(folder) / "neighbors.ann",
            seed=seed,
            progress=lambda done, total: progress("index", done, total),
        )
        progress("neighbors", 0, 0)
        return index.graph(neighbors_for(len(vectors)))


def _array(path: Path) -> Vectors:
    try:
        array: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a .npy array: {error}") from error
    return array


def _rows(path: Path) -> Rows:
    try:
        return np.array([int(line) for line in path.read_text().split()], dtype=np.int64)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} must hold one row number per line: {error}") from error
