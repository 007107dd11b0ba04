"""k-Center beyond greedy, with outliers: the second step of Sener & Savarese (2018, section 4.2).

Is there a choice of ``batch`` rows that leaves at most Ξ rows farther than δ from every center? Greedy
max-coverage says yes for a δ well below that of farthest-first, swaps of rows for one still smaller, and
on small pools HiGHS decides the question exactly, as a set cover, until radius and lower bound meet.
"""

import time

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Progress, Rows
from coreset_backend.selection.approximate import distances_to_labeled
from coreset_backend.selection.cover import Cover, Reach, exact_reach, graph_reach
from coreset_backend.selection.greedy import k_center_greedy
from coreset_backend.selection.nearest import beyond, distances_in_order, nearest_center_distances
from coreset_backend.selection.pool import Pool, Selection, require_batch

OUTLIERS = 1e-4
"""Share of the rows that may stay uncovered (the paper's)."""
MOST_ROWS = 20_000
"""Above, near rows are those of Pool.neighbors, where it has any."""
EXACT_ROWS = 1500
"""Up to here HiGHS is asked: a question takes it about 0.2 s at 1000 rows."""
PROBES = 12
REACHED = 0.88
"""Where max-coverage begins, as a share of the radius of greedy: it reached 0.91 to 0.95 where measured."""
FIRST_STEP, LAST_STEP = 0.01, 0.0005
"""How much smaller a radius the swaps try for, as a share of the one they have."""


def robust_k_center(
    pool: Pool,
    batch: int,
    rng: np.random.Generator,
    *,
    outliers: int | None = None,
    seconds: float = 10,
    progress: Progress | None = None,
) -> Selection:
    """A choice whose radius, but for the ``outliers`` farthest rows, is at most that of greedy.

    ``outliers`` is by default one row in 10,000. ``seconds`` bounds the search behind greedy, by the
    wall clock: a proof may need more. Radii in the answer leave the outliers out. ``lower_bound`` holds
    for every choice of ``batch`` rows; ``status`` is "optimal" where the radius meets it, "improved"
    where it is below greedy's, else "greedy". Above 20,000 rows the near rows are those of
    Pool.neighbors (Euclidean), without which the answer is that of greedy; below, all pairs within
    greedy's radius are kept, 8 bytes each. ``progress`` counts the picks of greedy.
    """
    require_batch(batch)
    deadline = time.monotonic() + seconds
    n, free = len(pool.vectors), pool.unlabeled_rows
    outliers = int(OUTLIERS * n) if outliers is None else outliers
    greedy = k_center_greedy(pool, batch + outliers, rng, progress=progress)
    lower = greedy.radius_after / 2  # two of these rows share a center, whatever is chosen
    rows, radius = greedy.rows[:batch], _radius(pool, greedy.rows[:batch], outliers)
    start = radius
    graph = None if pool.neighbors is None or pool.neighbors.normalized else pool.neighbors
    if 0 < batch < len(free) and radius > 0 and seconds > 0 and (n <= MOST_ROWS or graph is not None):
        reach = exact_reach(pool.vectors, radius) if n <= MOST_ROWS else graph_reach(graph, radius)  # type: ignore[arg-type]
        search = _Search(pool, batch, outliers, reach, deadline)
        rows, radius, lower = search.narrow(rows, radius, lower, rng)
    optimal = radius <= lower * (1 + 1e-6)
    status = "optimal" if optimal else "improved" if radius < start * (1 - 1e-6) else "greedy"
    distances = distances_in_order(pool.vectors, np.unique(pool.labeled_rows), rows)
    return Selection(rows, distances, _radius(pool, rows[:0], outliers), radius, min(lower, radius), status)


def _radius(pool: Pool, rows: Rows, outliers: int) -> float:
    """The largest distance to the nearest center once the ``outliers`` largest are left out."""
    centers = np.concatenate([np.asarray(pool.labeled_rows, dtype=np.int64), rows])
    if not len(centers):
        return float("inf")
    nearest = nearest_center_distances(pool.vectors, centers)
    place = max(len(nearest) - 1 - outliers, 0)
    return float(np.partition(nearest, place)[place])


class _Search:
    """Which radii can be reached by ``batch`` rows, as far as the near pairs of ``reach`` tell."""

    def __init__(self, pool: Pool, batch: int, outliers: int, reach: Reach, deadline: float) -> None:
        self.pool, self.batch, self.outliers, self.reach = pool, batch, outliers, reach
        self.deadline, self.free = deadline, pool.unlabeled_rows
        self.to_labeled = distances_to_labeled(pool)

    def narrow(
        self, rows: Rows, radius: float, lower: float, rng: np.random.Generator
    ) -> tuple[Rows, float, float]:
        """Better ``rows`` with their radius, and a higher lower bound, as far as time allows."""
        small = len(self.pool.vectors) <= EXACT_ROWS
        if self.reach.is_whole.all():
            rows, radius = self._bisect(rows, radius, lower)
        left = self.deadline - time.monotonic()
        rows, radius = self._descend(rows, radius, lower, self.deadline - (0.9 * left if small else 0), rng)
        if small:
            rows, radius, lower = self._decide(rows, radius, lower)
        return rows, radius, lower

    def _bisect(self, rows: Rows, radius: float, low: float) -> tuple[Rows, float]:
        """Halves what lies between ``low`` and the radius, by greedy max-coverage."""
        low = max(low, REACHED * radius)
        for _ in range(PROBES):
            if time.monotonic() > self.deadline or radius - low < 1e-4 * radius:
                break
            middle = (radius + low) / 2
            cover = Cover(self.reach.within(middle), self.to_labeled > middle, self.free)
            cover.fill(self.batch)
            if len(cover.uncovered) > self.outliers:
                low = middle
            else:
                rows, radius = self._kept(rows, radius, cover.chosen)
        return rows, radius

    def _descend(
        self, rows: Rows, radius: float, low: float, deadline: float, rng: np.random.Generator
    ) -> tuple[Rows, float]:
        """Smaller and smaller radii, by swaps that begin at the rows of the one before."""
        step = FIRST_STEP
        while step >= LAST_STEP and radius * (1 - step) > low and time.monotonic() < deadline:
            found = self._swapped(rows, radius * (1 - step), deadline, rng)
            if found is None:
                step /= 2
            else:
                rows, radius = found, radius * (1 - step)
        return rows, _radius(self.pool, rows, self.outliers)

    def _swapped(self, rows: Rows, middle: float, deadline: float, rng: np.random.Generator) -> Rows | None:
        """``batch`` rows that leave at most the outliers farther than ``middle``, if swaps find them.

        Rows with more near rows than are known are easy to cover, though their lists do not show it:
        they are asked for only once a cover of the others has left them out.
        """
        reach = self.reach.within(middle)
        asked = self.reach.is_whole | self._beyond(rows, middle)
        while time.monotonic() < deadline:
            cover = Cover(reach, asked & (self.to_labeled > middle), self.free)
            for row in rows:
                cover.add(int(row))
            if not cover.swap(self.outliers, deadline, rng):
                return None
            rows = cover.chosen
            far = self._beyond(rows, middle)
            if np.count_nonzero(far) <= self.outliers or not (far & ~asked).any():
                return rows
            asked |= far
        return None

    def _beyond(self, rows: Rows, distance: float) -> NDArray[np.bool_]:
        """Which rows lie farther than that from every labelled or chosen row: bool[n]."""
        far = self.to_labeled > distance
        far[far] = beyond(self.pool.vectors, np.flatnonzero(far), rows, distance)
        return far

    def _kept(self, rows: Rows, radius: float, found: Rows) -> tuple[Rows, float]:
        """The better of two choices."""
        reached = _radius(self.pool, found, self.outliers)
        return (found, reached) if reached < radius else (rows, radius)

    def _decide(self, rows: Rows, radius: float, lower: float) -> tuple[Rows, float, float]:
        """Bisects the distances that occur, by questions that HiGHS answers with yes or no."""
        from coreset_backend.selection.exact_cover import find_cover  # scipy, which the web process lacks

        steps = np.unique(self.reach.distances)
        low, high = np.searchsorted(steps, [lower, radius * (1 - 1e-5)])
        while low < high and (left := self.deadline - time.monotonic()) > 0:
            middle = (low + high) // 2
            reach = self.reach.within(float(steps[middle]))
            required = self.to_labeled > steps[middle]
            answer = find_cover(reach, required, self.free, self.batch, self.outliers, seconds=left)
            if answer is None:
                return rows, radius, max(lower, float(steps[low]))
            if len(answer):
                rows, radius = self._kept(rows, radius, answer)
                high = middle
            else:
                low = middle + 1
        proven = radius if low >= high else float(steps[low])
        return rows, radius, max(lower, min(proven, radius))
