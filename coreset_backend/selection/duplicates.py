"""Near-duplicates: groups of rows far closer together than rows of this pool usually are.

A group is an anchor and the rows within its reach, never a chain: a row that is near a copy and near
another image does not connect the two. "Close" is derived from the pool itself: a sample so thin that
copies are rare in it shows how far apart different images lie.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows, Vectors
from coreset_backend.selection.geometry import blocks, normalized, require_finite, sample_mean, squared_norms
from coreset_backend.selection.graph import exact_graph, squared_distances
from coreset_backend.selection.pool import NeighborGraph

CLOSE = 0.4
"""The reach, as a share of the distance to the nearest other row that nine tenths of the sample stay within.

On CIFAR-10 it finds 89 to 93 % of the images with shifted, brightened, noisy copies, and takes 0.1 to 0.6 %
of a clean pool for copies, whether the network was trained on 0, 200, 1000 or 3000 labels.
"""
SAMPLE = 1000
NEIGHBORS = 32
ROUNDING = 1e-3
"""Equal rows lie no farther apart than this share of the pool's spread, as float32 measures."""

ASKED_AT_ONCE = 64
"""Leaders that are compared with all others at once: 32 MB of distances among 125,000."""

Confirm = Callable[[Rows], NDArray[np.bool_]]
"""Pairs of rows int64[p, 2] -> whether they are copies of each other, bool[p]."""


def near_duplicate_reach(vectors: Vectors, *, cosine: bool = False) -> float:
    """Rows of float[n, d] that are closer than this are near-duplicates; below 8 rows, exact copies are.

    Scales with the vectors. ``cosine``: between L2-normalised rows. Raises NotFinite.
    """
    size = min(SAMPLE, max(len(vectors) // 4, 1))
    sample = vectors[:: len(vectors) // size][:size] if size > 1 else vectors
    sample = normalized(sample) if cosine else sample
    usual = float(np.quantile(exact_graph(sample, 1).distances, 0.9)) if size > 1 else 0.0
    spread = float(np.sqrt(sample.var(axis=0, dtype=np.float64).sum()))
    return max(CLOSE * usual, ROUNDING * spread)


def near_duplicate_groups(
    vectors: Vectors,
    labeled_rows: Rows,
    graph: NeighborGraph | None = None,
    *,
    confirm: Confirm | None = None,
) -> NDArray[np.int32]:
    """The number of every row's group of near-duplicates, -1 where it stands alone: int32[n].

    Numbered from 0, the largest group first. Labelled rows are anchors first, then the rows with most
    copies. ``graph`` holds near rows of float[n, d]; without one they are found exactly, in time that
    grows with n². ``confirm`` may strike pairs out. Raises NotFinite.
    """
    graph = exact_graph(vectors, NEIGHBORS) if graph is None else graph
    near = _Near(vectors, graph, near_duplicate_reach(vectors, cosine=graph.normalized), confirm)
    labeled = np.zeros(len(vectors), dtype=bool)
    labeled[labeled_rows] = True
    order = np.lexsort((-near.copies, ~labeled))
    group = np.full(len(vectors), -1, dtype=np.int32)
    for row in order[near.copies[order] > 0]:
        if group[row] >= 0 and not labeled[row]:
            continue
        is_anchor = group[row] < 0
        group[row] = row if is_anchor else group[row]
        members = near.members(row, group < 0)
        # A labelled copy brings in its own copies, but no third label: a group stays within two reaches.
        members = members if is_anchor else members[~labeled[members]]
        group[members] = group[row]
    return _numbered(group)


class _Near:
    """Which rows lie within reach of each other."""

    def __init__(self, vectors: Vectors, graph: NeighborGraph, reach: float, confirm: Confirm | None) -> None:
        self.vectors, self.cosine, self.reach, self.confirm = vectors, graph.normalized, reach, confirm
        n = len(vectors)
        close = (graph.rows >= 0) & (graph.distances <= reach)
        self.has_more = close.all(axis=1) & (graph.rows.shape[1] < n - 1) & (graph.rows.shape[1] > 0)
        pairs = _pairs(graph.rows, close)
        pairs = pairs[confirm(pairs)] if confirm and len(pairs) else pairs
        self.near, self.starts = _lists(pairs, n)
        self.copies = np.diff(self.starts)
        self._blocks: _Blocks | None = None

    def members(self, row: int, is_open: NDArray[np.bool_]) -> Rows:
        """The rows near ``row`` that are still open: int64[m]; what a full list lacks is looked for."""
        if not self.has_more[row]:
            listed: Rows = self.near[self.starts[row] : self.starts[row + 1]].astype(np.int64)
            return listed[is_open[listed]]
        if self._blocks is None:
            self._blocks = _Blocks(self)
        others = self._blocks.around(row)
        others = others[is_open[others] & (others != row)]
        points = self.points(np.append(others, row))
        points -= points[-1]
        norms = squared_norms(points)
        require_finite(points, norms)
        near: Rows = others[norms[:-1] <= np.float32(self.reach) ** 2]
        if self.confirm is None or not len(near):
            return near
        return near[self.confirm(np.stack([np.full(len(near), row), near], axis=1))]

    def points(self, rows: Rows) -> Floats:
        """The vectors of the rows as the graph compares them: a new float32[m, d]."""
        points = self.vectors[rows].astype(np.float32)
        return normalized(points) if self.cosine and len(points) else points


class _Blocks:
    """The rows with copies, in blocks around leaders.

    A row is compared only with blocks that can hold a row within its reach: the distance between the leaders
    and the radii of both blocks tell which. All rows would cost the square of a burst.
    """

    def __init__(self, near: _Near) -> None:
        self._block, leaders = _led(near)
        rows = np.flatnonzero(self._block >= 0)
        self._rows = rows[np.argsort(self._block[rows], kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(self._block[rows]))])
        points = near.points(leaders)
        radii = self._radii(near, points)
        asked = np.unique(self._block[rows[near.has_more[rows]]])
        self._around = _within_reach(points, radii, near.reach, asked)

    def _radii(self, near: _Near, points: Floats) -> Floats:
        """The largest distance of a row of each block to its leader: float32."""
        far = np.empty(len(self._rows), dtype=np.float32)
        for part in blocks(len(self._rows), points.shape[1]):
            rows = self._rows[part]
            far[part] = squared_norms(near.points(rows) - points[self._block[rows]])
        return np.sqrt(np.maximum.reduceat(far, self._starts[:-1]))

    def around(self, row: int) -> Rows:
        """All rows that may lie within reach of ``row``, itself among them: int64[m]."""
        blocks = self._around[self._block[row]]
        return np.concatenate([self._rows[self._starts[each] : self._starts[each + 1]] for each in blocks])


def _led(near: _Near) -> tuple[NDArray[np.int32], Rows]:
    """Each row's block int32[n], -1 without copies; and the leaders, which lead their copies, by block."""
    block = np.full(len(near.copies), -1, dtype=np.int32)
    leaders: list[int] = []
    for row in np.argsort(-near.copies, kind="stable")[: np.count_nonzero(near.copies)]:
        if block[row] < 0:
            own = near.near[near.starts[row] : near.starts[row + 1]]
            block[own[block[own] < 0]] = block[row] = len(leaders)
            leaders.append(row)
    return block, np.array(leaders, dtype=np.int64)


def _within_reach(points: Floats, radii: Floats, reach: float, asked: Rows) -> dict[int, Rows]:
    """Block -> the blocks that can hold a row within reach of one of its rows, for each block asked."""
    points = points - sample_mean(points)
    norms = squared_norms(points)
    rounding = 1e-5 * float(norms.max())
    found: dict[int, Rows] = {}
    for start in range(0, len(asked), ASKED_AT_ONCE):
        some = asked[start : start + ASKED_AT_ONCE]
        most = np.square(1.01 * (reach + radii[some, None] + radii)) + rounding
        is_near = squared_distances(points[some], norms[some], points, norms) <= most
        found |= {int(block): np.flatnonzero(each) for block, each in zip(some, is_near, strict=True)}
    return found


def _pairs(rows: NDArray[np.int32], close: NDArray[np.bool_]) -> Rows:
    """Each pair of a row and one of its close near rows once, the lower row first, ascending: int64[p, 2]."""
    first, second = np.repeat(np.arange(len(rows)), close.sum(axis=1)), rows[close]
    codes = np.minimum(first, second) * len(rows)
    codes += np.maximum(first, second)
    codes.sort()
    codes = codes[np.diff(codes, prepend=-1) != 0]
    return np.stack(np.divmod(codes, max(len(rows), 1)), axis=1)


def _lists(pairs: Rows, n: int) -> tuple[NDArray[np.int32], Rows]:
    """The rows that each row is paired with, one after the other, and where those of each of n rows begin."""
    one, other = pairs.astype(np.int32).T
    first, second = np.concatenate([one, other]), np.concatenate([other, one])
    starts = np.concatenate([[0], np.cumsum(np.bincount(first, minlength=n))])
    return second[np.argsort(first, kind="stable")], starts


def _numbered(group: NDArray[np.int32]) -> NDArray[np.int32]:
    """Groups of two rows or more, numbered from 0 by falling size; the others -1."""
    named, place, sizes = np.unique(group, return_inverse=True, return_counts=True)
    grouped = np.flatnonzero((named >= 0) & (sizes > 1))
    number = np.full(len(named), -1, dtype=np.int32)
    number[grouped[np.argsort(-sizes[grouped], kind="stable")]] = np.arange(len(grouped))
    numbers: NDArray[np.int32] = number[place]
    return numbers
