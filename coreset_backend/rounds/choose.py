"""From embeddings to the batch: what is chosen, and where every task of the snapshot then stands."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows
from coreset_backend.project import Snapshot, Task
from coreset_backend.selection import (
    NEED_PROBABILITIES,
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
from coreset_backend.store.record import STATES
from coreset_backend.store.saved_round import StoredRound

if TYPE_CHECKING:
    from coreset_backend.settings import Settings

COLD_START = "max_herding"
"""Chooses where the strategy asks a classifier and there is none: a first batch, a project without classes.
It is uncertainty_herding with every task equally uncertain, and first by the tables in docs/learning.md."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, in task ids, and where every task of the snapshot stands.

    ``strategy``: the one that chose. ``states``: uint8[n], positions in STATES. ``scores``: float32[n] in
    [0, 1], by distance to the nearest center: 0 is the farthest of the pool, 1 a center or a task without an
    embedding. Both radii are of all embedded tasks, in the space that the strategy measures in.
    ``random_slice``: those of the batch that chance drew; their distance is inf.
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
    settings: "Settings",
    snapshot: Snapshot,
    readable: Rows,
    embeddings: Floats,
    probabilities: Floats | None,
    graph: NeighborGraph | None = None,
    groups: NDArray[np.int32] | None = None,
) -> Choice:
    """The batch and, as its continuation, the reserve: a greedy order may be cut anywhere.

    ``readable``: int64[m], the snapshot's rows whose image could be read. ``embeddings`` float32[m, d],
    ``probabilities`` float32[m, classes], ``graph`` and ``groups`` (of near_duplicate_groups) are of those
    rows, in that order; without a graph near rows are found exactly, without groups they are made if the
    settings ask for them.
    """
    states = _states_before(snapshot.tasks, readable)
    eligible = np.flatnonzero(np.isin(states[readable], _codes("pool", "labeled")))
    rows = readable[eligible]  # row of the pool -> row of the snapshot
    pool = Pool(
        embeddings[eligible],
        np.flatnonzero(states[rows] == state_code("labeled")).astype(np.int64),
        None if probabilities is None else _odds(probabilities[eligible], snapshot),
        None if graph is None else graph.among(eligible),
    )
    groups = _groups(settings, pool, None if groups is None else groups[eligible])
    behind = redundant_rows(groups, pool)
    free = np.setdiff1d(pool.unlabeled_rows, np.flatnonzero(behind))
    by_chance = round(settings.random_slice * settings.batch_size)
    drawn = random_rows_of(free, by_chance, settings.seed, len(pool.labeled_rows))
    strategy = _strategy(settings, pool)
    selection = _select(settings, strategy, pool, groups, drawn) if len(drawn) < len(free) else _nothing()
    own, reserve = np.split(selection.rows, [settings.batch_size - len(drawn)])
    batch, distances = spread(own, drawn, selection.distances)
    for state, those in (("duplicate", behind), ("selected", batch), ("reserve", reserve)):
        states[rows[those]] = state_code(state)
    chosen = np.concatenate([pool.labeled_rows, batch])
    space = normalized(pool.vectors) if selection.normalized else pool.vectors
    scores = np.ones(len(states), dtype=np.float32)
    scores[rows] = _scores(pool.vectors, chosen)
    return Choice(
        strategy=strategy,
        batch=tuple(snapshot.task_ids[rows[batch]].tolist()),
        reserve=tuple(snapshot.task_ids[rows[reserve]].tolist()),
        distances=distances,
        radius_before=covering_radius(space, pool.labeled_rows),
        radius_after=covering_radius(space, chosen),
        states=states,
        scores=scores,
        random_slice=tuple(snapshot.task_ids[rows[drawn]].tolist()),
    )


def _odds(probabilities: Floats, snapshot: Snapshot) -> Floats:
    """Probabilities that add up to 1, as strategies ask for: in multiple choice of the class in most doubt.

    The margin between two classes says nothing where an image may have both, or none.
    """
    if snapshot.labels is None or not snapshot.labels.multiple:
        return probabilities
    doubtful = np.abs(probabilities - 0.5).argmin(1)
    chance = probabilities[np.arange(len(probabilities)), doubtful]
    return np.stack([1 - chance, chance], 1)


def order_behind(stored: StoredRound, task_ids: Sequence[int]) -> list[int]:
    """The tasks in the order in which they are served behind batch and reserve.

    First the pool, and what the round does not know, at random: the farthest first would be a row of outliers
    near to each other. Then what is likely wasted or cannot be seen, last what somebody has labelled.
    """
    known, states = stored.array("task_ids"), stored.array("states")
    ids = np.array(task_ids, dtype=np.int64)
    rows = np.searchsorted(known, ids).clip(max=len(known) - 1)
    state = np.where(known[rows] == ids, states[rows], state_code("pool"))
    place = np.zeros(len(STATES), dtype=np.int64)
    place[_codes("duplicate", "skipped", "unreadable", "labeled")] = range(1, 5)
    chance = np.random.default_rng([stored.record.seed, stored.record.number]).permutation(len(ids))
    ordered: list[int] = ids[np.lexsort((chance, place[state]))].tolist()
    return ordered


def _groups(settings: "Settings", pool: Pool, known: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """int32[n]: the group of near-duplicates of every row of the pool; all -1 where nobody asks for them."""
    if not settings.group_duplicates:
        return np.full(len(pool.vectors), -1, dtype=np.int32)
    return near_duplicate_groups(pool.vectors, pool.labeled_rows, pool.neighbors) if known is None else known


def _strategy(settings: "Settings", pool: Pool) -> str:
    needs_a_classifier = settings.strategy in NEED_PROBABILITIES
    return COLD_START if needs_a_classifier and pool.probabilities is None else settings.strategy


def _select(
    settings: "Settings", strategy: str, pool: Pool, groups: NDArray[np.int32], drawn: Rows
) -> Selection:
    """The rest of the batch, and the reserve."""
    # What chance drew will be labelled too: the strategy need not cover it again.
    rest = replace(pool, labeled_rows=np.concatenate([pool.labeled_rows, drawn]))
    choose = with_options(strategy_named(strategy), groups=groups, outlier_share=settings.outlier_share)
    asked = settings.batch_size + settings.reserve_size - len(drawn)
    return choose(rest, asked, np.random.default_rng(settings.seed))


def random_rows_of(free: Rows, size: int, seed: int, labels: int) -> Rows:
    """int64[<= size]: some of ``free``, each as likely as any other, whatever the strategy would choose.

    Another stretch of the seed than the strategy's, or they would be what `random` picks; it moves on with
    the labels, or the same places of the pool would be drawn in every round.
    """
    return np.random.default_rng([seed, 1, labels]).permutation(free)[:size]


def spread(own: Rows, drawn: Rows, distances: Floats) -> tuple[Rows, Floats]:
    """The batch int64[own + drawn] with the drawn rows evenly among the strategy's own, and the distances.

    A batch that is labelled in part then has its share of both. ``distances`` are of ``own`` and of the
    reserve behind it; a drawn row has none: inf.
    """
    batch = np.empty(len(own) + len(drawn), dtype=np.int64)
    by_chance = np.zeros(len(batch), dtype=bool)
    by_chance[((np.arange(len(drawn)) + 0.5) * len(batch) / max(len(drawn), 1)).astype(int)] = True
    batch[by_chance], batch[~by_chance] = drawn, own
    far = np.full(len(batch), np.inf, dtype=np.float32)
    far[~by_chance] = distances[: len(own)]
    return batch, np.concatenate([far, distances[len(own) :]])


def _nothing() -> Selection:
    """The selection from a pool that has nothing left to label."""
    return Selection(np.empty(0, np.int64), np.empty(0, np.float32), 0, 0)


def _states_before(tasks: Sequence[Task], readable: Rows) -> NDArray[np.uint8]:
    """uint8[n]: where each task stands before the choice; of equal images only the first is in the pool."""
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


def state_code(state: str) -> int:
    return STATES.index(state)


def _codes(*states: str) -> list[int]:
    return [state_code(state) for state in states]


def _scores(vectors: Floats, center_rows: Rows) -> Floats:
    """float32[n]: 1 at a center, falling to 0 at the row farthest from all of them."""
    distances = nearest_center_distances(vectors, center_rows, precise=True)
    farthest = distances.max()
    return 1 - distances / farthest if farthest else np.ones(len(vectors), dtype=np.float32)
