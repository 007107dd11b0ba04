"""From embeddings to the batch: the selected tasks, and the state of every task of the snapshot.

Four index spaces meet here:

- a *task id* is Label Studio's number,
- a *snapshot row* is a position in ``Snapshot.tasks``: index of states and scores,
- an *image row* is a position among the readable images: index of embeddings, probabilities, graph, groups,
- a *pool row* is a position in the Pool from which the batch is selected. The Pool has no skipped tasks and
  no tasks that show the same file as an earlier one. Selection uses pool rows only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows
from coreset_backend.project import Snapshot, Task
from coreset_backend.selection import (
    NEED_PROBABILITIES,
    NOT_CUT,
    NeighborGraph,
    Pool,
    Selection,
    covering_radius,
    near_duplicate_groups,
    nearest_center_distances,
    normalized,
    redundant_rows,
    strategy_named,
    with_options,
)
from coreset_backend.selection.examples import WEIGHTED, by_examples
from coreset_backend.settings import Settings
from coreset_backend.store.record import STATES
from coreset_backend.store.saved_round import StoredRound

COLD_START = "max_herding"
"""The strategy if the configured one needs a classifier and there is none: a first batch, no classes. It is
uncertainty_herding with every task equally uncertain, and the best by the tables in
docs/label-efficiency.md.
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """The selected task ids, and the state of every task of the snapshot.

    ``strategy``: the one that was used. ``states``: uint8[n] by snapshot row, positions in STATES.
    ``scores``: float32[n] by snapshot row, in [0, 1], by distance to the nearest center: 0 is the farthest
    of the pool, 1 a center or a task without an embedding. Both radii are of all rows of the pool, in the
    space that the strategy measures in. ``random_slice``: task ids of the batch sampled uniformly at random;
    their distance is inf.
    """

    strategy: str
    batch: tuple[int, ...]
    reserve: tuple[int, ...]
    distances: Floats
    radius_before: float
    radius_after: float
    states: NDArray[np.uint8]
    scores: Floats
    random_slice: tuple[int, ...] = ()


def choose_batch(
    settings: Settings,
    snapshot: Snapshot,
    readable: Rows,
    embeddings: Floats,
    probabilities: Floats | None,
    graph: NeighborGraph | None = None,
    groups: NDArray[np.int32] | None = None,
    weights: Floats | None = None,
) -> Choice:
    """The batch and the reserve, which continues it: a greedy order can be cut anywhere.

    ``readable``: int64[m], image row -> snapshot row. By image row: ``embeddings`` float32[m, d], ``weights``
    float32[m], ``probabilities`` float32[m, classes]; ``graph``, ``groups`` int32[m] are computed if missing.
    """
    states = _states_before(snapshot.tasks, readable)
    image_rows = _rows_in(states[readable], "pool", "labeled")  # pool row -> image row
    snapshot_rows = readable[image_rows]  # pool row -> snapshot row
    sure = _single_choice(probabilities, snapshot)
    pool = Pool(embeddings, _rows_in(states[readable], "labeled"), sure, graph, weights).among(image_rows)
    groups = _groups(settings, pool, None if groups is None else groups[image_rows])
    redundant = redundant_rows(groups, pool)
    strategy, selection, drawn = _select(settings, pool, groups, redundant)  # all in pool rows
    picked_rows, rest = np.split(selection.rows, [settings.batch_size - len(drawn)])
    picks, distances = spread(picked_rows, drawn, selection.distances)
    _mark(states, snapshot_rows, duplicate=np.flatnonzero(redundant), selected=picks, reserve=rest)
    centers = np.concatenate([pool.labeled_rows, picks])
    space = normalized(pool.vectors) if selection.normalized else pool.vectors
    task_ids = snapshot.task_ids[snapshot_rows]  # pool row -> task id
    return Choice(
        strategy=strategy,
        batch=tuple(task_ids[picks].tolist()),
        reserve=tuple(task_ids[rest].tolist()),
        distances=distances,
        radius_before=covering_radius(space, pool.labeled_rows),
        radius_after=covering_radius(space, centers),
        states=states,
        scores=_scores(pool.vectors, centers, snapshot_rows, len(states)),
        random_slice=tuple(task_ids[drawn].tolist()),
    )


def _single_choice(probabilities: Floats | None, snapshot: Snapshot) -> Floats | None:
    """Probabilities that add up to 1, as strategies need them; in multiple choice of the least certain class.

    The margin between two classes is meaningless if an image may have both or none.
    """
    if probabilities is None or snapshot.labels is None or not snapshot.labels.multiple:
        return probabilities
    doubtful = np.abs(probabilities - 0.5).argmin(1)
    present = probabilities[np.arange(len(probabilities)), doubtful]
    return np.stack([1 - present, present], 1)


def order_behind(stored: StoredRound, task_ids: Sequence[int]) -> list[int]:
    """The tasks in the order in which they are served behind batch and reserve.

    First the rest of the pool and tasks that are new to the round, in random order, because farthest first
    would serve outliers that lie close together. Then duplicates, skipped, unreadable and finally labelled
    tasks.
    """
    known_ids, states = stored.array("task_ids"), stored.array("states")
    ids = np.array(task_ids, dtype=np.int64)
    snapshot_rows = np.searchsorted(known_ids, ids).clip(max=len(known_ids) - 1)
    is_known = known_ids[snapshot_rows] == ids
    state = np.where(is_known, states[snapshot_rows], state_code("pool"))
    place = np.zeros(len(STATES), dtype=np.int64)
    for after, name in enumerate(("duplicate", "skipped", "unreadable", "labeled", "model", "copy"), start=1):
        place[state_code(name)] = after
    shuffled = np.random.default_rng([stored.record.seed, stored.record.number]).permutation(len(ids))
    ordered: list[int] = ids[np.lexsort((shuffled, place[state]))].tolist()
    return ordered


def _groups(settings: Settings, pool: Pool, known: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """int32[n]: the group of near-duplicates of every row of the pool; all -1 if grouping is off."""
    if not settings.group_duplicates:
        return np.full(len(pool.vectors), -1, dtype=np.int32)
    return near_duplicate_groups(pool.vectors, pool.labeled_rows, pool.neighbors) if known is None else known


def _select(
    settings: Settings, pool: Pool, groups: NDArray[np.int32], redundant: NDArray[np.bool_]
) -> tuple[str, Selection, Rows]:
    """The strategy's name, its picks for batch and reserve, and the random slice, in pool rows."""
    cold = settings.strategy in NEED_PROBABILITIES and pool.probabilities is None
    strategy = COLD_START if cold else settings.strategy
    free = np.setdiff1d(pool.unlabeled_rows, np.flatnonzero(redundant))
    slice_size = round(settings.random_slice * settings.batch_size)
    drawn = random_rows_of(free, slice_size, settings.seed, len(pool.labeled_rows))
    if len(drawn) == len(free):
        return strategy, Selection(np.empty(0, np.int64), np.empty(0, np.float32), 0, 0), drawn
    # The random slice will be labelled too, so the strategy need not cover it again.
    rest = replace(pool, labeled_rows=np.concatenate([pool.labeled_rows, drawn]))
    batch = settings.batch_size - len(drawn)
    if strategy not in NOT_CUT:
        return strategy, _picked(settings, strategy, rest, groups, batch + settings.reserve_size), drawn
    # Its rows are a solution together, and k-Center, whose order can be cut, continues them.
    first = _picked(settings, strategy, rest, groups, batch)
    behind = replace(rest, labeled_rows=np.concatenate([rest.labeled_rows, first.rows]))
    reserve = _picked(settings, "k_center", behind, groups, settings.reserve_size)
    rows = np.concatenate([first.rows, reserve.rows])
    distances = np.concatenate([first.distances, reserve.distances])
    return strategy, replace(first, rows=rows, distances=distances), drawn


def _picked(
    settings: Settings, strategy: str, pool: Pool, groups: NDArray[np.int32], wanted: int
) -> Selection:
    chosen = strategy_named(strategy)
    if pool.weights is not None and strategy not in WEIGHTED:
        chosen = by_examples(chosen)
    choose = with_options(chosen, groups=groups, outlier_share=settings.outlier_share)
    return choose(pool, wanted, np.random.default_rng(settings.seed))


def random_rows_of(free: Rows, size: int, seed: int, labels: int) -> Rows:
    """int64[<= size]: rows of ``free``, sampled uniformly at random, independent of the strategy.

    The strategy uses the seed itself, so this uses another random stream. The number of labels is part of its
    seed; otherwise every round would sample the same places of the pool.
    """
    return np.random.default_rng([seed, 1, labels]).permutation(free)[:size]


def spread(picked: Rows, drawn: Rows, distances: Floats) -> tuple[Rows, Floats]:
    """The batch int64[picked + drawn], the sampled rows spread evenly among the picks, and the distances.

    So a partly labelled batch has its share of both. ``distances`` are those of ``picked`` and of the reserve
    behind it; the distance of a sampled row is inf.
    """
    batch = np.empty(len(picked) + len(drawn), dtype=np.int64)
    is_drawn = np.zeros(len(batch), dtype=bool)
    is_drawn[((np.arange(len(drawn)) + 0.5) * len(batch) / max(len(drawn), 1)).astype(int)] = True
    batch[is_drawn], batch[~is_drawn] = drawn, picked
    far = np.full(len(batch), np.inf, dtype=np.float32)
    far[~is_drawn] = distances[: len(picked)]
    return batch, np.concatenate([far, distances[len(picked) :]])


def _states_before(tasks: Sequence[Task], readable: Rows) -> NDArray[np.uint8]:
    """uint8[n] by snapshot row: states before the selection; only the first task of a URI is in the pool."""
    states = np.full(len(tasks), state_code("unreadable"), dtype=np.uint8)
    seen = {tasks[row].uri for row in readable if tasks[row].state == "labeled"}
    for row in readable:
        task = tasks[row]
        states[row] = state_code(task.state)
        if task.state == "pool":
            if task.uri in seen:
                states[row] = state_code("duplicate")
            seen.add(task.uri)
    return states


def _mark(states: NDArray[np.uint8], snapshot_rows: Rows, **pool_rows: Rows) -> None:
    """Set the states of pool rows, by the state's name."""
    for name, rows in pool_rows.items():
        states[snapshot_rows[rows]] = state_code(name)


def state_code(state: str) -> int:
    return STATES.index(state)


def _rows_in(states: NDArray[np.uint8], *names: str) -> Rows:
    """The rows with one of the named states, ascending."""
    return np.flatnonzero(np.isin(states, [state_code(name) for name in names])).astype(np.int64)


def _scores(vectors: Floats, centers: Rows, snapshot_rows: Rows, n: int) -> Floats:
    """float32[n] by snapshot row: 1 at a center, falling to 0 at the farthest row; 1 outside the pool."""
    scores = np.ones(n, dtype=np.float32)
    distances = nearest_center_distances(vectors, centers, precise=True)
    if farthest := distances.max():
        scores[snapshot_rows] -= distances / farthest
    return scores
