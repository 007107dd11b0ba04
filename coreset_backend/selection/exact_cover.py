"""Is there a cover of so many rows? HiGHS answers, as an integer program.

Imported where a strategy runs, because scipy is: the web process, which names the strategies, has none.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]
from scipy.sparse import block_array, csr_array, eye_array  # type: ignore[import-untyped]

from coreset_backend.arrays import Rows
from coreset_backend.selection.cover import Reach

INFEASIBLE = 2


def find_cover(
    reach: Reach, required: NDArray[np.bool_], free: Rows, batch: int, outliers: int, *, seconds: float
) -> Rows | None:
    """``batch`` of the rows ``free`` that are near all ``required`` rows but the outliers: int64[batch].

    Empty where no rows are; None where the answer was not found within ``seconds``. ``required``: bool[n],
    ``free``: int64[f].

    u_i: row i is chosen; y_j: row j is covered. y_j <= sum of u_i near j, sum of u <= batch,
    sum of 1 - y <= outliers.
    """
    open_rows = np.flatnonzero(required)
    m = len(open_rows)
    near = _near_matrix(reach)[open_rows][:, free]
    chosen_ones = np.concatenate([np.ones(len(free)), np.zeros(m)])
    answer = milp(
        chosen_ones,
        integrality=chosen_ones,
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(block_array([[near, -eye_array(m)]], format="csr"), lb=0),
            LinearConstraint(chosen_ones[None], ub=batch),
            LinearConstraint(1 - chosen_ones[None], lb=m - outliers),
        ],
        options={"time_limit": max(seconds, 0.1), "mip_rel_gap": 1.0},
    )
    if answer.x is None:
        return np.empty(0, dtype=np.int64) if answer.status == INFEASIBLE else None
    chosen = free[answer.x[: len(free)] > 0.5]
    rest = np.setdiff1d(free, chosen)[: batch - len(chosen)]
    return np.concatenate([chosen, rest])


def _near_matrix(reach: Reach) -> csr_array:
    """Which rows are near each other: sparse float64[n, n]."""
    n = len(reach.is_whole)
    return csr_array((np.ones(len(reach.rows)), reach.rows, reach.starts), shape=(n, n))
