"""`coreset-backend select`: embeddings and labelled rows from files; the selected rows as CSV or JSON."""

import csv
import inspect
import io
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, PhaseProgress, Progress, Rows, Vectors
from coreset_backend.cli.shard_files import ShardFiles, read_shards, vectors_in
from coreset_backend.cli.terminal import file_option
from coreset_backend.errors import ConfigError, NotFinite
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
from coreset_backend.selection.neighbor_search import build_index
from coreset_backend.selection.sharded import LocalShards, sharded_k_center

BY_SHARDS = ("k_center", "k_center_cosine")
GRAPH_STRATEGIES = ("annoy", "max_herding", "uncertainty_herding")


@click.command()
@click.option(
    "--embeddings",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="float[n, d] as .npy, or a folder of .npy or Parquet files, which are one pool.",
)
@click.option(
    "--labeled",
    type=file_option,
    help="Text file, one row number per line, the first row is 0; one id per line where there are ids.",
)
@click.option(
    "--id-column", help="Column of the Parquet files that identifies rows.  [default: id, if there]"
)
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
    id_column: str | None,
    probabilities: Path | None,
    batch: int,
    strategy: str,
    seed: int,
    group_duplicates: bool,
    outlier_share: float,
    json_wanted: bool,
) -> None:
    """Select rows of a file or a folder of embeddings, without Label Studio.

    The selected rows go to standard output; progress and the covering radius go to standard error.
    """
    wanted = Wanted(batch, strategy, seed, group_duplicates, outlier_share)
    with tempfile.TemporaryDirectory() as temporary:
        files = read_shards(embeddings, id_column, Path(temporary))
        rows = files.rows_of(labeled) if labeled else np.empty(0, dtype=np.int64)
        odds = np.asarray(vectors_in(probabilities), dtype=np.float32) if probabilities else None
        try:
            selection = selected(files, rows, odds, wanted, _show_progress)
        except ValueError as error:
            raise ConfigError(f"{embeddings}: {error}") from error
    click.echo(err=True)
    click.echo(as_json(selection, files.ids) if json_wanted else as_csv(selection, files.ids))
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be selected, and how."""

    batch: int
    strategy: str
    seed: int
    group_duplicates: bool
    outlier_share: float


def selected(
    files: ShardFiles, labeled_rows: Rows, odds: Floats | None, wanted: Wanted, progress: PhaseProgress
) -> Selection:
    """The rows that the strategy selects, with the radius after every pick.

    ``odds``: float32[n, classes], for uncertainty. k-Center reads each of several files by itself, the others
    read them into one array. Raises ConfigError, ValueError and NotFinite.
    """
    choose = strategy_named(wanted.strategy)
    plain = not wanted.group_duplicates and wanted.outlier_share == 1
    if len(files.parts) > 1 and plain and wanted.strategy in BY_SHARDS:
        return _selected_by_shards(files, labeled_rows, wanted, progress)
    vectors = files.parts[0] if len(files.parts) == 1 else np.concatenate(files.parts)
    more: dict[str, Progress] = {}
    if "progress" in inspect.signature(choose).parameters:
        more["progress"] = lambda done, total: progress("select", done, total)
    pool, groups = Pool(vectors, labeled_rows, odds), None
    large = wanted.strategy == "robust_k_center" and len(vectors) > MOST_ROWS
    if wanted.strategy in GRAPH_STRATEGIES or large or not plain:
        pool = replace(pool, neighbors=_graph(vectors, wanted.seed, progress))
    if wanted.group_duplicates:
        groups = near_duplicate_groups(vectors, pool.labeled_rows, pool.neighbors)
    progress("select", 0, 0)
    within_options = with_options(choose, groups=groups, outlier_share=wanted.outlier_share)
    return _with_radii(pool, within_options(pool, wanted.batch, np.random.default_rng(wanted.seed), **more))


def _selected_by_shards(
    files: ShardFiles, labeled_rows: Rows, wanted: Wanted, progress: PhaseProgress
) -> Selection:
    """Each file is a shard: one pass over all of them, then only the rows that could be farthest."""
    is_cosine, parts = wanted.strategy == "k_center_cosine", files.parts
    names = [str(path) for path in files.paths]
    if is_cosine:
        parts = [_units(part, name) for part, name in zip(parts, names, strict=True)]
    progress("select", 0, 0)
    found = sharded_k_center(
        LocalShards.of_parts(parts, names),
        labeled_rows,
        wanted.batch,
        np.random.default_rng(wanted.seed),
        progress=lambda done, total: progress("select", done, total),
    )
    return replace(found.selection, normalized=is_cosine)


def _units(vectors: Vectors, name: str) -> Floats:
    try:
        return normalized(vectors)
    except NotFinite as error:
        raise NotFinite(f"{name}: {error}") from error


def _with_radii(pool: Pool, selection: Selection) -> Selection:
    """The selection with the radius after every pick."""
    if selection.radii is not None:
        return selection
    space = normalized(pool.vectors) if selection.normalized else pool.vectors
    return replace(selection, radii=radii_in_order(space, pool.labeled_rows, selection.rows))


def as_csv(selection: Selection, ids: NDArray[np.str_] | None = None) -> str:
    """``rank,row,distance,radius`` per pick: its distance to the nearest center, the radius after it.

    With ``ids`` of all rows, str[n], the pick's id follows its row.
    """
    assert selection.radii is not None
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["rank", "row", *([] if ids is None else ["id"]), "distance", "radius"])
    picks = zip(selection.rows.tolist(), selection.distances.tolist(), selection.radii.tolist(), strict=True)
    for rank, (row, far, radius) in enumerate(picks):
        lines.writerow([rank, row, *([] if ids is None else [ids[row]]), f"{far:.7g}", f"{radius:.7g}"])
    return text.getvalue().rstrip("\n")


def as_json(selection: Selection, ids: NDArray[np.str_] | None = None) -> str:
    """Rows, their ids, distances, and radii, after every pick too; null where a distance is infinite."""
    assert selection.radii is not None
    return json.dumps(
        {
            "rows": selection.rows.tolist(),
            **({} if ids is None else {"ids": ids[selection.rows].tolist()}),
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
