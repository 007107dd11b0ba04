"""Herding selects the same rows in one process and however the pool and its graph are divided."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.selection import NeighborGraph, Pool, exact_graph, max_herding
from coreset_backend.selection.herding import WHOLE
from coreset_backend.selection.pool_shard import PoolShard
from coreset_backend.selection.sharded import LocalShards
from coreset_backend.selection.sharded_herding import sharded_herding


def divided(pool: Pool, cuts: np.ndarray) -> LocalShards:
    """The pool with its graph and weights in parts."""
    parts = np.split(np.arange(len(pool.vectors)), cuts)
    firsts = accumulate(map(len, parts), initial=0)
    assert pool.neighbors is not None
    near, far = pool.neighbors.rows, pool.neighbors.distances
    return LocalShards(
        [
            PoolShard(
                pool.vectors[rows],
                first,
                graph=NeighborGraph(near[rows], far[rows]),
                weights=None if pool.weights is None else pool.weights[rows],
            )
            for rows, first in zip(parts, firsts, strict=False)
        ]
    )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(["integers", "cloud", "copies"]), st.sampled_from([3, 40, 900])
)
def test_1_2_4_16_shards_select_the_rows_of_one_process(seed: int, kind: str, n: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 4))
    if kind == "integers":
        vectors = rng.integers(1, 4, size=(n, 4))
    if kind == "copies":
        vectors = vectors[rng.integers(0, min(n, 9), n)]
    vectors = vectors.astype(np.float32)
    labeled = np.sort(rng.permutation(n)[: rng.integers(0, n // 4 + 1)])
    weights = rng.random(n).astype(np.float32) if rng.random() < 0.5 else None
    width = min(n - 1, int(rng.choice([2, 20])))  # few near rows: the whole kernel; many: the sparse one
    pool = Pool(vectors, labeled, None, exact_graph(vectors, width), weights)
    batch = int(rng.integers(0, n + 2)) if n < 100 else int(rng.integers(1, 700))
    one = max_herding(pool, batch, np.random.default_rng(7))
    for count in (1, 2, 4, 16):
        shards = divided(pool, np.sort(rng.integers(0, n + 1, count - 1)))
        rng_of_sample, few = np.random.default_rng(7), int(rng.integers(1, 9))
        found = sharded_herding(
            shards, labeled, batch, rng_of_sample, width=width, at_once=1024 if n > 100 else few
        ).selection
        assert found.rows.tolist() == one.rows.tolist()
        assert found.radius_after == one.radius_after and found.radius_before == one.radius_before
        np.testing.assert_allclose(found.distances, one.distances, rtol=1e-5, atol=1e-5)


def test_sixteen_shards_need_less_than_ten_messages_for_each_pick() -> None:
    rng = np.random.default_rng(1)
    middles = 3 * rng.normal(size=(60, 6))
    vectors = (middles[rng.integers(0, 60, WHOLE)] + rng.normal(size=(WHOLE, 6))).astype(np.float32)
    pool = Pool(vectors, np.arange(30), None, exact_graph(vectors, 64))
    seen: list[tuple[int, int]] = []
    shards = divided(pool, np.arange(1, 16) * WHOLE // 16)
    found = sharded_herding(
        shards, pool.labeled_rows, 2500, rng, width=64, progress=lambda *done: seen.append(done)
    )
    assert found.selection.rows.tolist() == max_herding(pool, 2500, rng).rows.tolist()
    assert found.messages < 10 * 2500
    assert found.rounds > 5 and seen[-1] == (2500, 2500)


def test_a_shard_without_a_graph_says_so() -> None:
    shards = LocalShards.of_parts([np.ones((3, 2), dtype=np.float32)])
    with pytest.raises(ValueError, match="near rows"):
        sharded_herding(shards, np.array([0]), 1, np.random.default_rng(0), width=2)
