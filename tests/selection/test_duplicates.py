"""Near-duplicates by blocks of rows, against the plain algorithm that compares a row with all others."""

import numpy as np
import pytest
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, Rows
from coreset_backend.selection import near_duplicate_groups, near_duplicate_reach, normalized
from coreset_backend.selection.duplicates import Confirm
from coreset_backend.selection.graph import exact_graph


def plain_groups(vectors: Floats, labeled: Rows, width: int, confirm: Confirm) -> list[int]:
    """The group of every row: labelled rows collect theirs first, then the rows with most listed copies."""
    graph = exact_graph(vectors, width)
    reach = near_duplicate_reach(vectors)
    n, width = len(vectors), graph.rows.shape[1]
    listed: list[set[int]] = [set() for _ in range(n)]
    for row in range(n):
        for other in graph.rows[row][graph.distances[row] <= reach].tolist():
            if confirm(np.array([sorted((row, other))]))[0]:
                listed[row].add(other)
                listed[other].add(row)
    is_full = [bool(width < n - 1 and (graph.distances[row] <= reach).all()) for row in range(n)]
    group = [-1] * n
    for row in sorted(range(n), key=lambda row: (row not in labeled, -len(listed[row]))):
        if not listed[row] or (group[row] >= 0 and row not in labeled):
            continue
        near = listed[row]
        if is_full[row]:
            far = np.linalg.norm(vectors - vectors[row], axis=1)
            near = {other for other in range(n) if listed[other] and other != row and far[other] <= reach}
            near = {other for other in near if confirm(np.array([[row, other]]))[0]}
        joins = [other for other in near if group[other] < 0 and (group[row] < 0 or other not in labeled)]
        group[row] = row if group[row] < 0 else group[row]
        for other in joins:
            group[other] = group[row]
    return group


def same_parts(one: list[int], other: list[int]) -> bool:
    """Whether two rows are in one group by the first exactly if they are by the second; alone is alone."""
    ones, others = np.array(one), np.array(other)
    in_one = (ones[:, None] == ones) & (ones >= 0) & ((ones[:, None] == ones).sum(1) > 1)
    in_other = (others[:, None] == others) & (others >= 0)
    return bool((in_one == in_other).all())


def pools() -> dict[str, Floats]:
    rng = np.random.default_rng(0)
    scenes = rng.normal(0, 1, (300, 16))
    burst = np.repeat(scenes[:6], 50, axis=0) + rng.normal(0, 0.02, (300, 16))
    line = scenes[:1] + np.linspace(0, 30, 400)[:, None] * scenes[1:2] / 4
    clumps = np.repeat(scenes[:1], 80, axis=0)
    beside = clumps + 0.5 * np.eye(16)[0]
    return {
        "none": scenes,
        "all equal": np.ones((120, 4)),
        "bursts": np.concatenate([scenes[100:], burst]),
        "a chain": np.concatenate([scenes[100:200], line]),
        "two clumps within reach": np.concatenate([scenes[1:], clumps, beside]),
        "pairs": np.concatenate([scenes, scenes[:150] + 0.01]),
        "far from the origin": np.concatenate([scenes[100:], burst]) + 1000,
    }


@pytest.mark.parametrize("name", pools())
@pytest.mark.parametrize("labels", [0, 12])
def test_groups_are_those_of_the_plain_algorithm(name: str, labels: int) -> None:
    vectors = pools()[name].astype(np.float32)
    labeled = np.random.default_rng(labels).permutation(len(vectors))[:labels]

    def confirm(pairs: Rows) -> NDArray[np.bool_]:
        return np.asarray(pairs.sum(axis=1) % 7 != 0)

    graph = exact_graph(vectors, 10)
    groups = near_duplicate_groups(vectors, labeled, graph, confirm=confirm)
    assert same_parts(plain_groups(vectors, labeled, 10, confirm), groups.tolist())
    alike = near_duplicate_groups(vectors, labeled, graph)
    everything = plain_groups(vectors, labeled, 10, lambda pairs: np.ones(len(pairs), bool))
    assert same_parts(everything, alike.tolist())


def test_cosine_groups_are_those_of_the_unit_vectors() -> None:
    vectors = pools()["bursts"].astype(np.float32)
    units = normalized(vectors)
    scaled = units * np.random.default_rng(1).uniform(0.1, 9, (len(units), 1)).astype(np.float32)
    by_cosine = near_duplicate_groups(scaled, np.arange(3), exact_graph(units, 10, normalized=True))
    assert by_cosine.tolist() == near_duplicate_groups(units, np.arange(3), exact_graph(units, 10)).tolist()
