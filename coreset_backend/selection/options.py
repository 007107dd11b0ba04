"""Options around any strategy: one row of each group of near-duplicates, and a cap on outliers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Rows, Vectors
from coreset_backend.selection.coverage import covering_radius
from coreset_backend.selection.geometry import normalized
from coreset_backend.selection.graph import exact_graph
from coreset_backend.selection.nearest import distances_in_order
from coreset_backend.selection.pool import NeighborGraph, Pool, Selection

ISOLATED = 0.95
"""Outliers are the rows beyond this quantile of isolation."""
NEAR = 10
SLACK = 1e-9
"""Seven of a hundred are within a share of 0.07, which is a little less in binary."""

Around = Callable[..., Selection]


def with_options(
    strategy: Around, *, groups: NDArray[np.int32] | None = None, outlier_share: float = 1.0
) -> Around:
    """``strategy`` as another that is called alike and keeps to the options, whatever the strategy does.

    ``groups``: int32[n] of near_duplicate_groups. Of each group at most one row is chosen, and none where
    one is labelled; the strategy does not see the others. ``outlier_share``: of the first k rows chosen,
    for any k, at most this share are outliers, the 5 % of the pool that lie farthest from their ten
    nearest rows. Fewer rows than asked come back where the options leave no more. Distances and radii
    are measured again over the whole pool, in the strategy's space. Rows that are left out cost a copy
    of the other vectors. Raises ValueError for a share outside [0, 1] or groups of another length.
    """
    if not 0 <= outlier_share <= 1:
        raise ValueError(f"the share of outliers lies in [0, 1], not {outlier_share}")

    def choose(pool: Pool, batch: int, rng: np.random.Generator, **more: object) -> Selection:
        kept = np.ones(len(pool.vectors), dtype=bool) if groups is None else ~redundant_rows(groups, pool)
        selection = _among(strategy, pool, kept, batch, rng, more)
        if outlier_share == 1 or not len(selection.rows):
            return selection
        isolated = outliers(pool.vectors, pool.neighbors)
        if _in_proportion(isolated[selection.rows], outlier_share):
            return selection
        far = selection.rows[isolated[selection.rows]][: int(outlier_share * batch + SLACK)]
        taken = replace(pool, labeled_rows=np.concatenate([pool.labeled_rows, far]))
        kept = kept & ~isolated
        kept[taken.labeled_rows] = True
        near = _among(strategy, taken, kept, batch - len(far), rng, more)
        rows = _woven(near.rows, far, outlier_share)
        return measured_again(pool, replace(near, rows=rows))

    return choose


def redundant_rows(groups: NDArray[np.int32], pool: Pool) -> NDArray[np.bool_]:
    """Redundant rows: unlabelled near-duplicates already represented by another row of their group: bool[n].

    A labelled row represents its group, else the first row does: the only one that a batch may hold.
    """
    if len(groups) != len(pool.vectors):
        raise ValueError(f"groups has {len(groups)} rows, vectors has {len(pool.vectors)}")
    labeled = np.zeros(len(groups), dtype=bool)
    labeled[pool.labeled_rows] = True
    order = np.lexsort((~labeled, groups))
    first = np.ones(len(groups), dtype=bool)
    first[order[1:]] = np.diff(groups[order]) > 0
    redundant: NDArray[np.bool_] = (groups >= 0) & ~first & ~labeled
    return redundant


def outliers(vectors: Vectors, graph: NeighborGraph | None = None) -> NDArray[np.bool_]:
    """The rows beyond the 0.95 quantile of the mean distance to their ten nearest rows: bool[n].

    A quantile moves little however far the farthest lie. ``graph`` spares the search, which costs n².
    """
    graph = exact_graph(vectors, NEAR) if graph is None else graph
    far = np.where(graph.rows[:, :NEAR] >= 0, graph.distances[:, :NEAR], 0)
    found = np.count_nonzero(graph.rows[:, :NEAR] >= 0, axis=1)
    mean = np.where(found > 0, far.sum(axis=1) / np.maximum(found, 1), np.inf)
    isolated: NDArray[np.bool_] = mean > np.quantile(mean, ISOLATED, method="lower")
    return isolated


def _among(
    strategy: Around,
    pool: Pool,
    kept: NDArray[np.bool_],
    batch: int,
    rng: np.random.Generator,
    more: dict[str, object],
) -> Selection:
    """What ``strategy`` chooses of the kept rows (bool[n], all labelled ones among them)."""
    if kept.all():
        return strategy(pool, batch, rng, **more)
    rows = np.flatnonzero(kept)
    selection = strategy(pool.among(rows), batch, rng, **more)
    return measured_again(pool, replace(selection, rows=rows[selection.rows]))


def measured_again(pool: Pool, selection: Selection, rows: Rows | None = None) -> Selection:
    """The selection with distances and radii over the whole pool, in the space it was made in.

    ``rows``: other rows that take the place of the selected ones.
    """
    if rows is not None:
        selection = replace(selection, rows=rows)
    vectors = normalized(pool.vectors) if selection.normalized else pool.vectors
    labeled = np.unique(pool.labeled_rows)
    return replace(
        selection,
        radii=None,
        lower_bound=None,  # what is proven of a part of the pool is not of the whole
        status="",
        distances=distances_in_order(vectors, labeled, selection.rows),
        radius_before=covering_radius(vectors, labeled),
        radius_after=covering_radius(vectors, np.concatenate([labeled, selection.rows])),
    )


def _in_proportion(is_far: NDArray[np.bool_], share: float) -> bool:
    """Whether of the first k at most ``share`` are far, for every k."""
    return bool((np.cumsum(is_far) <= share * np.arange(1, len(is_far) + 1) + SLACK).all())


def _woven(near: Rows, far: Rows, share: float) -> Rows:
    """Both in their order, a far row as early as the share allows; the far ones it never does are dropped."""
    rows: list[int] = []
    used = 0
    while len(rows) < len(near) + len(far):
        if used < len(far) and used + 1 <= share * (len(rows) + 1) + SLACK:
            rows.append(int(far[used]))
            used += 1
        elif len(rows) - used < len(near):
            rows.append(int(near[len(rows) - used]))
        else:
            break
    return np.array(rows, dtype=np.int64)
