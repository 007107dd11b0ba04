"""Greedy k-Center gives ties to the lowest row, in one process and however the pool is divided."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.errors import NotFinite
from coreset_backend.selection import Pool, k_center_greedy
from coreset_backend.selection.rounding import exact_squares
from coreset_backend.selection.sharded import LocalShards, sharded_k_center

POOLS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "integers": lambda rng, n, d: rng.integers(0, 4, size=(n, d)),
    "bits": lambda rng, n, d: rng.integers(0, 2, size=(n, d)),
    "all equal": lambda rng, n, d: np.full((n, d), 3.3),
    "seven distinct": lambda rng, n, d: rng.normal(size=(7, d))[rng.integers(0, 7, n)],
    "far from the origin": lambda rng, n, d: rng.normal(size=(n, d)) + 1e4,
    "cloud": lambda rng, n, d: rng.normal(size=(n, d)),
    "clusters": lambda rng, n, d: (
        9 * rng.normal(size=(20, d))[rng.integers(0, 20, n)] + rng.normal(size=(n, d))
    ),
}


def textbook(vectors: np.ndarray, labeled: np.ndarray, batch: int) -> list[int]:
    """The largest distance as float32, the lowest row among equals: one center at a time."""
    exact = vectors.astype(np.float64)
    picked = [] if len(labeled) else [int(squares(exact, exact.mean(axis=0)).argmin())]
    nearest = np.min([squares(exact, exact[row]) for row in [*labeled, *picked]], axis=0)
    nearest[[*labeled, *picked]] = -1
    while len(picked) < min(batch, len(vectors) - len(labeled)):
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, squares(exact, exact[picked[-1]]))
        nearest[picked] = -1
    return picked[:batch]


def squares(exact: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.square(exact - point).sum(axis=1).astype(np.float32)


def cut(vectors: np.ndarray, shards: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Parts of any sizes, among them some of no row and of one."""
    return np.split(vectors, np.sort(rng.integers(0, len(vectors) + 1, shards - 1)))


@pytest.mark.parametrize("kind", POOLS)
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 30, 400]), st.sampled_from([1, 3, 17]))
def test_one_process_and_1_2_4_16_shards_pick_the_lowest_of_the_farthest_rows(
    kind: str, seed: int, n: int, d: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = POOLS[kind](rng, n, d).astype(rng.choice([np.float16, np.float32]))
    vectors = vectors if np.isfinite(vectors).all() else vectors.astype(np.float32)
    labeled = np.sort(rng.permutation(n)[: rng.integers(0, n // 2 + 1)])
    batch = int(rng.integers(0, min(n, 60) + 3))
    one = k_center_greedy(Pool(vectors, labeled), batch)
    assert one.rows.tolist() == textbook(vectors, labeled, batch)
    for count in (1, 2, 4, 16):
        found = sharded_k_center(LocalShards.of_parts(cut(vectors, count, rng)), labeled, batch).selection
        assert found.rows.tolist() == one.rows.tolist()
        assert found.radius_after == one.radius_after
        np.testing.assert_allclose(found.distances, one.distances, rtol=1e-4, atol=1e-4)
        assert found.radii is not None and len(found.radii) == len(found.rows)


@pytest.mark.parametrize("kind", ["integers", "clusters"])
def test_large_shards_send_parts_of_their_rows_and_less_than_a_message_for_each_pick(kind: str) -> None:
    rng = np.random.default_rng(3)
    vectors, labeled = POOLS[kind](rng, 30_000, 8).astype(np.float32), np.arange(40, 60)
    one = k_center_greedy(Pool(vectors, labeled), 500)
    seen: list[tuple[int, int]] = []
    for count in (2, 16):  # all labels are in the first shard
        shards = LocalShards.of_parts(np.array_split(vectors, count))
        found = sharded_k_center(shards, labeled, 500, progress=lambda *done: seen.append(done))
        assert found.selection.rows.tolist() == one.rows.tolist()
        assert found.messages < 500
        assert found.rounds > 2
    assert seen[-1] == (500, 500)


def test_an_exact_distance_is_the_same_bits_in_every_block() -> None:
    rng = np.random.default_rng(0)
    for d in (1, 3, 16, 129, 512):
        points, centers = rng.normal(size=(2, 200, d)).astype(np.float32)
        whole = exact_squares(points, centers)
        for rows in (slice(0, 1), slice(3, 10), slice(7, 200, 2)):
            assert (exact_squares(points[rows].copy(), centers[rows]) == whole[rows]).all()


def test_a_shard_says_which_values_cannot_be_compared_and_what_does_not_fit() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    broken = vectors.copy()
    broken[7, 2] = np.nan
    none = np.empty(0, dtype=np.int64)
    for labeled in (none, np.array([3])):
        with pytest.raises(NotFinite, match=r"begins with row 60: .* is row 7\."):
            sharded_k_center(LocalShards.of_parts([vectors, broken]), labeled, 5)
    with pytest.raises(ValueError, match=r"must lie in \[0, 60\)"):
        sharded_k_center(LocalShards.of_parts([vectors]), np.array([60]), 5)
    with pytest.raises(ValueError, match=r"\[4, 3\] values"):
        sharded_k_center(LocalShards.of_parts([vectors, vectors[:, :3]]), none, 5)
    with pytest.raises(ValueError, match="0 rows or more"):
        sharded_k_center(LocalShards.of_parts([vectors]), none, -1)
