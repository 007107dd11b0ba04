"""Greedy k-Center is what its documentation says."""

import inspect
import textwrap
from typing import Any

import numpy as np

from coreset_backend.selection import Pool, greedy, k_center_greedy


def test_the_picks_are_those_of_the_documented_loop() -> None:
    rng = np.random.default_rng(4)
    vectors, labeled_rows = rng.normal(size=(300, 6)).astype(np.float32), np.array([17, 4, 250])
    _, _, indented = inspect.getdoc(greedy).partition("::\n\n")
    loop = "\n".join(line for line in indented.splitlines() if line.startswith("    ") or not line)
    known: dict[str, Any] = {"np": np, "vectors": vectors, "labeled_rows": labeled_rows, "batch": 40}
    exec(textwrap.dedent(loop), known)
    assert k_center_greedy(Pool(vectors, labeled_rows), 40).rows.tolist() == known["picks"]
