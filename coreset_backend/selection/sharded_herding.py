"""Herding on a pool that is divided among processes or machines: the picks of one process, exactly.

Gains only fall, so what a row once gained bounds what it gains now. The coordinator asks all shards for the
kernel of the rows of largest bound, picks among them as long as none outside could gain more, and tells the
shards the new centers. Gains are sums in fixed point, the same in any order.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import hstack  # type: ignore[import-untyped]

from coreset_backend.arrays import Floats, Progress, Rows
from coreset_backend.selection.geometry import fixed_point, normalized
from coreset_backend.selection.herd import TAKEN, Gains, Herd
from coreset_backend.selection.herd_shard import CandidateColumns, KernelEntries
from coreset_backend.selection.herding import picked_on_whole_kernel, sampled, takes_whole_kernel
from coreset_backend.selection.lookahead import Floor
from coreset_backend.selection.nearest import distances_in_order
from coreset_backend.selection.pool import Selection, require_batch
from coreset_backend.selection.sharded import Coordinator, ShardedSelection, Shards
from coreset_backend.selection.shortlist import Shortlist

CANDIDATES = 1024
"""Rows whose kernel the shards send at a time: about 100 entries of 8 bytes each."""


def sharded_herding(
    shards: Shards,
    labeled_rows: Rows,
    batch: int,
    rng: np.random.Generator,
    *,
    width: int,
    at_once: int = CANDIDATES,
    progress: Progress | None = None,
) -> ShardedSelection:
    """The rows that `max_herding`, or herding by the shards' weights, selects from the whole pool.

    ``labeled_rows``: int64[l] of the whole pool; ``width``: how many near rows the graph lists; ``at_once``:
    how many candidates the coordinator looks at. Raises NotFinite, and ValueError for labelled rows outside
    the pool, a negative batch, and shards without a graph.
    """
    require_batch(batch)
    coordinator = Coordinator(shards)
    labeled = coordinator.require_rows(np.unique(labeled_rows))
    free = np.setdiff1d(np.arange(coordinator.n), labeled, assume_unique=True)
    batch = min(batch, len(free))
    length = np.concatenate(coordinator.ask(lambda shard: shard.herd.lengths))
    vectors = coordinator.vectors_of(labeled).vectors
    units = normalized(vectors) if len(labeled) else vectors
    coordinator.ask(lambda shard: shard.herd.cover(units))
    if takes_whole_kernel(batch + len(labeled), width, coordinator.n):
        part = sampled(free, rng)
        covered = np.concatenate(coordinator.ask(lambda shard: shard.herd.covered(part)))
        weights = np.concatenate(coordinator.ask(lambda shard: shard.herd.weights))[part]
        units = normalized(coordinator.vectors_of(part).vectors) if len(part) else units
        rows = part[picked_on_whole_kernel(units, covered, weights, batch, progress)]
    else:
        heaviest = max(coordinator.ask(lambda shard: float(shard.herd.weights.max(initial=0))))
        exponent = fixed_point(heaviest or 1.0, coordinator.n)
        bounds = _first_gains(coordinator, length, exponent)
        bounds[labeled] = TAKEN
        rows = _picked(coordinator, bounds, exponent, batch, at_once, progress)
    return _measured(coordinator, labeled, rows)


def _first_gains(coordinator: Coordinator, length: Floats, exponent: int) -> Gains:
    """What each row of the pool would add to the coverage by the labelled rows: int64[n]."""
    n = coordinator.n
    sent = coordinator.ask(lambda shard: shard.herd.near(length))
    entries = KernelEntries(
        np.concatenate([part.rows for part in sent]),
        np.concatenate([part.columns for part in sent]),
        np.concatenate([part.values for part in sent]),
    )
    return sum(
        coordinator.ask(lambda shard: shard.herd.gains(entries, n, exponent)), np.zeros(n, dtype=np.int64)
    )


def _picked(
    coordinator: Coordinator,
    bounds: Gains,
    exponent: int,
    batch: int,
    at_once: int,
    progress: Progress | None,
) -> Rows:
    """The row of largest gain, ``batch`` times, the lowest among equals: int64[batch]. Lowers the bounds."""
    picked: list[int] = []
    shortlist, new, known = Shortlist(bounds), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    while len(picked) < batch:
        candidates = shortlist.largest(at_once)
        candidates = candidates[bounds[candidates] != TAKEN]
        parts = _columns(coordinator, candidates, new)
        for part in parts:
            # Candidates of the last round are up to date, and what is taken stays so.
            others = ~np.isin(part.losing, known) & (bounds[part.losing] != TAKEN)
            bounds[part.losing[others]] -= part.lost[others]
        herd, floor, before = _herd_of(parts, exponent), _floor_of(bounds, candidates), len(picked)
        while len(picked) < batch:
            place = int(np.argmax(herd.gains))
            gain, row = int(herd.gains[place]), int(candidates[place])
            if gain == TAKEN or not floor.is_below(gain, row):
                break
            herd.take(place)
            picked.append(row)
        bounds[candidates], known = herd.gains, candidates
        new = np.array(picked[before:], dtype=np.int64)
        if progress:
            progress(len(picked), batch)
    return np.array(picked, dtype=np.int64)


def _floor_of(bounds: Gains, candidates: Rows) -> Floor:
    """What the other rows may gain, and the lowest of those that may gain most."""
    if len(candidates) == len(bounds):
        return Floor()
    kept, bounds[candidates] = bounds[candidates], TAKEN
    row = int(np.argmax(bounds))
    floor = Floor(int(bounds[row]), row)
    bounds[candidates] = kept
    return floor


def _columns(coordinator: Coordinator, candidates: Rows, new: Rows) -> Sequence[CandidateColumns]:
    coordinator.rounds += 1
    return coordinator.ask(lambda shard: shard.herd.columns(candidates, new))


def _herd_of(parts: Sequence[CandidateColumns], exponent: int) -> Herd:
    """The candidates with all rows of the pool that they are near to."""
    kernel = hstack([part.kernel for part in parts], format="csr")
    covered = np.concatenate([part.covered for part in parts])
    weights = np.concatenate([part.weights for part in parts])
    return Herd.begin(kernel, kernel.T.tocsr(), covered, weights, exponent)


def _measured(coordinator: Coordinator, labeled: Rows, rows: Rows) -> ShardedSelection:
    """The selection with its evidence, Euclidean, as `measured` does in one process."""
    before = _radius(coordinator, labeled)
    after = _radius(coordinator, np.concatenate([labeled, rows]))
    vectors = coordinator.vectors_of(np.concatenate([labeled, rows])).vectors
    order, far = np.arange(len(vectors)), np.empty(0, dtype=np.float32)
    if len(rows):
        far = distances_in_order(vectors, order[: len(labeled)], order[len(labeled) :])
    return coordinator.report(Selection(rows, far, before, after))


def _radius(coordinator: Coordinator, centers: Rows) -> float:
    if not len(centers):
        return float("inf")
    coordinator.begin(centers)
    return coordinator.radius()
