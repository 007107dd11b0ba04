"""k-Center beyond greedy, with outliers: the second step of Sener & Savarese (2018, section 4.2).

Is there a choice of ``batch`` rows that leaves at most Ξ rows farther than δ from every center? Greedy
max-coverage says yes for a δ well below that of farthest-first, and δ is bisected. On small pools HiGHS
then decides the question exactly, as a set cover, until radius and lower bound meet.
"""

import time

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_array, csr_array, eye_array  # type: ignore[import-untyped]

from coreset_backend.selection.approximate import distances_to_labeled
from coreset_backend.selection.geometry import sample_mean, shifted, squared_norms
from coreset_backend.selection.greedy import distances_in_order, k_center_greedy, require_batch
from coreset_backend.selection.herding import Herd
from coreset_backend.selection.pool import Floats, Pool, Rows, Selection

OUTLIERS = 1e-4
"""Share of the rows that may stay uncovered (the paper's)."""
MOST_ROWS = 20_000
"""Above, n² distances are not made and the answer is that of greedy."""
EXACT_ROWS = 1500
"""Up to here HiGHS is asked: a question takes it about 0.2 s at 1000 rows."""
PROBES = 12


def robust_k_center(
    pool: Pool, batch: int, rng: np.random.Generator, *, outliers: int | None = None, seconds: float = 10
) -> Selection:
    """A choice whose radius, but for the ``outliers`` farthest rows, is at most that of greedy.

    ``outliers`` is by default one row in 10,000. ``seconds`` bounds the search behind greedy, by the
    wall clock: a proof may need more. Radii in the answer leave the outliers out. ``lower_bound`` holds
    for every choice of ``batch`` rows; ``status`` is "optimal" where the radius meets it, "improved"
    where it is below greedy's, else "greedy", as it is above 20,000 rows. Memory: 4 n² bytes.
    """
    require_batch(batch)
    deadline = time.monotonic() + seconds
    n, free = len(pool.vectors), pool.unlabeled_rows
    outliers = int(OUTLIERS * n) if outliers is None else outliers
    greedy = k_center_greedy(pool, batch + outliers, rng)
    lower = greedy.radius_after / 2  # two of these rows share a center, whatever is chosen
    rows, radius = greedy.rows[:batch], _radius(pool, greedy.rows[:batch], outliers)
    start = radius
    if n <= MOST_ROWS and 0 < batch < len(free):
        search = _Search(pool, batch, outliers)
        rows, radius, lower = search.narrow(rows, radius, lower, deadline)
    optimal = radius <= lower * (1 + 1e-6)
    status = "optimal" if optimal else "improved" if radius < start * (1 - 1e-6) else "greedy"
    distances = distances_in_order(pool.vectors, np.unique(pool.labeled_rows), rows)
    return Selection(rows, distances, _radius(pool, rows[:0], outliers), radius, min(lower, radius), status)


def _radius(pool: Pool, rows: Rows, outliers: int) -> float:
    """The largest distance to the nearest center once the ``outliers`` largest are left out."""
    centers = np.concatenate([np.asarray(pool.labeled_rows, dtype=np.int64), rows])
    if not len(centers):
        return float("inf")
    nearest = np.maximum(distances_to_labeled(Pool(pool.vectors, centers)), 0)
    place = max(len(nearest) - 1 - outliers, 0)
    return float(np.partition(nearest, place)[place])


class _Search:
    """Which radii can be reached, asked of all pairs of rows."""

    def __init__(self, pool: Pool, batch: int, outliers: int) -> None:
        self.pool, self.batch, self.outliers = pool, batch, outliers
        self.distances = _all_distances(pool)
        self.labeled = np.unique(pool.labeled_rows)
        given = self.distances[self.labeled]
        self.to_labeled = given.min(axis=0) if len(given) else np.full(len(self.distances), np.inf, "f4")

    def narrow(self, rows: Rows, radius: float, lower: float, deadline: float) -> tuple[Rows, float, float]:
        """Better ``rows`` with their radius, and a higher lower bound, as far as time allows."""
        low = lower
        for _ in range(PROBES):
            if time.monotonic() > deadline or radius - low < 1e-4 * radius:
                break
            middle = (radius + low) / 2
            found = self._max_coverage(middle)
            if found is None:
                low = middle
            else:
                rows, radius = self._kept(rows, radius, found)
        if len(self.distances) <= EXACT_ROWS:
            rows, radius, lower = self._decide(rows, radius, lower, deadline)
        return rows, radius, lower

    def _kept(self, rows: Rows, radius: float, found: Rows) -> tuple[Rows, float]:
        """The better of two choices."""
        reached = _radius(self.pool, found, self.outliers)
        return (found, reached) if reached < radius else (rows, radius)

    def _near(self, reach: float) -> csr_array:
        """Which rows lie within ``reach`` of each other: sparse float32[n, n] of ones."""
        return csr_array(self.distances <= reach).astype(np.float32)

    def _max_coverage(self, reach: float) -> Rows | None:
        """``batch`` rows that leave at most ``outliers`` rows uncovered, if greedy finds such."""
        covered = (self.to_labeled <= reach).astype(np.float32)
        herd = Herd.begin(self._near(reach), covered, np.ones(len(covered), dtype=np.float32))
        herd.gains[self.labeled] = -np.inf
        rows = herd.pick(self.batch, None)
        return rows if len(covered) - herd.covered.sum() <= self.outliers else None

    def _decide(self, rows: Rows, radius: float, lower: float, deadline: float) -> tuple[Rows, float, float]:
        """Bisects the distances that occur, by questions that HiGHS answers with yes or no."""
        steps = np.unique(self.distances)
        low, high = np.searchsorted(steps, [lower, radius * (1 - 1e-5)])
        while low < high and (left := deadline - time.monotonic()) > 0:
            middle = (low + high) // 2
            answer = self._cover(float(steps[middle]), left)
            if answer is None:
                return rows, radius, max(lower, float(steps[low]))
            if len(answer):
                rows, radius = self._kept(rows, radius, answer)
                high = middle
            else:
                low = middle + 1
        proven = radius if low >= high else float(steps[low])
        return rows, radius, max(lower, min(proven, radius))

    def _cover(self, reach: float, seconds: float) -> Rows | None:
        """Rows that cover all but the outliers within ``reach``; none if there are no such; None: no answer.

        u_i chosen or not, y_j covered: y_j <= Σ u_i near j, Σ u <= batch, Σ (1 - y) <= outliers.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]

        open_rows = np.flatnonzero(self.to_labeled > reach)
        free, m = self.pool.unlabeled_rows, len(open_rows)
        near = csr_array((self.distances[np.ix_(open_rows, free)] <= reach).astype(np.float64))
        total = np.concatenate([np.ones(len(free)), np.zeros(m)])
        matrix = block_array([[near, -eye_array(m)]], format="csr")
        answer = milp(
            total,
            integrality=np.concatenate([np.ones(len(free)), np.zeros(m)]),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(matrix, lb=0),
                LinearConstraint(total[None], ub=self.batch),
                LinearConstraint(1 - total[None], lb=m - self.outliers),
            ],
            options={"time_limit": max(seconds, 0.1), "mip_rel_gap": 1.0},
        )
        if answer.x is None:
            return np.empty(0, dtype=np.int64) if answer.status == 2 else None
        chosen = free[answer.x[: len(free)] > 0.5]
        rest = np.setdiff1d(free, chosen)[: self.batch - len(chosen)]
        return np.concatenate([chosen, rest])


def _all_distances(pool: Pool) -> Floats:
    """Euclidean distances between all rows: float32[n, n]."""
    points: NDArray[np.floating] = shifted(pool.vectors, slice(None), sample_mean(pool.vectors))
    norms = squared_norms(points)
    squared = points @ points.T
    squared *= -2
    squared += norms
    squared += norms[:, None]
    np.fill_diagonal(squared, 0)
    distances: Floats = np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
    return distances
