"""Near-duplicate groups and the outlier cap, around every strategy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.selection import (
    STRATEGIES,
    NeighborGraph,
    Pool,
    Selection,
    covering_radius,
    exact_graph,
    near_duplicate_groups,
    near_duplicate_reach,
    normalized,
    outliers,
    random_rows,
    strategy_named,
    with_options,
)
from coreset_backend.selection.annoy_index import build_index

NONE = np.empty(0, dtype=np.int64)


def originals(n: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 12)).astype(np.float32)


def with_copies(n: int = 200, bursts: tuple[int, ...] = (60, 5, 1), seed: int = 0) -> np.ndarray:
    """``n`` different rows, then slightly altered copies of the first ones, so many of each."""
    vectors = originals(n, seed)
    copied = np.repeat(np.arange(len(bursts)), bursts)
    noise = np.random.default_rng(seed + 1).normal(0, 0.05, (len(copied), 12))
    return np.concatenate([vectors, (vectors[copied] + noise).astype(np.float32)])


def pool_of(vectors: np.ndarray, labeled: np.ndarray = NONE) -> Pool:
    """A pool with all that any strategy may ask for."""
    odds = np.exp(vectors[:, :4])
    return Pool(vectors, labeled, odds / odds.sum(1, keepdims=True), exact_graph(vectors, 20))


def chance(pool: Pool, batch: int, rng: np.random.Generator) -> Selection:
    """Somebody's own strategy."""
    return random_rows(pool, batch, rng)


AROUND = (*STRATEGIES, f"{__name__}:chance")


@pytest.mark.parametrize("cosine", [False, True])
def test_groups_are_the_copies_and_a_clean_pool_has_none(cosine: bool) -> None:
    vectors = with_copies()
    if cosine:
        vectors = normalized(vectors)
    graph = exact_graph(vectors, 20, normalized=cosine)
    groups = near_duplicate_groups(vectors, NONE, graph)
    expected = np.full(266, -1)
    expected[[0, *range(200, 260)]] = 0  # more copies than a row has neighbours
    expected[[1, *range(260, 265)]] = 1
    expected[[2, 265]] = 2
    assert groups.tolist() == expected.tolist()
    assert near_duplicate_groups(100 * vectors, NONE).tolist() == expected.tolist()
    assert (near_duplicate_groups(originals(3000, 5), NONE) >= 0).mean() < 0.005


def test_annoys_neighbours_make_the_same_groups(tmp_path: Path) -> None:
    vectors = with_copies(1000, (20, 8, 3))
    graph = build_index(vectors, tmp_path / "n.ann").graph(64)
    assert (
        near_duplicate_groups(vectors, NONE, graph).tolist() == near_duplicate_groups(vectors, NONE).tolist()
    )


def test_a_chain_of_rows_is_no_group() -> None:
    """Two thousand frames of a camera that drifts, each nearer to the next than the reach."""
    chain = np.zeros((2000, 12), dtype=np.float32)
    vectors = np.concatenate([originals(2000), chain])
    reach = near_duplicate_reach(vectors)
    vectors[2000:, 0] = 20 + 0.3 * reach * np.arange(2000)
    reach = near_duplicate_reach(vectors)
    groups = near_duplicate_groups(vectors, NONE)
    assert (groups[2000:] >= 0).mean() > 0.9
    assert len(np.unique(groups[2000:])) > 200
    for number in np.unique(groups[2000:])[1:]:
        members = vectors[groups == number]
        assert np.linalg.norm(members - members[:1], axis=1).max() <= 2.001 * reach


def test_a_labelled_row_is_an_anchor_and_labelled_copies_share_a_group() -> None:
    vectors = with_copies()
    groups = near_duplicate_groups(vectors, np.array([203, 204, 261]))
    assert (groups[[0, *range(200, 260)]] == groups[203]).all() and groups[203] >= 0
    assert groups[261] == groups[1]


def test_pairs_that_are_not_confirmed_are_no_copies() -> None:
    vectors = with_copies()
    apart = near_duplicate_groups(vectors, NONE, confirm=lambda pairs: (pairs % 2 == 0).all(axis=1))
    assert (apart[[row for row in range(266) if row % 2]] == -1).all()
    assert apart[200] == apart[202] >= 0


def test_tiny_pools_group_exact_copies_only() -> None:
    vectors = np.array([[0, 0], [0, 0], [0.1, 0], [5, 5]], dtype=np.float32)
    assert near_duplicate_groups(vectors, NONE).tolist() == [0, 0, -1, -1]
    assert near_duplicate_groups(vectors[:1], NONE).tolist() == [-1]
    assert near_duplicate_groups(np.ones((30, 3), np.float32), NONE).tolist() == [0] * 30


@pytest.mark.parametrize("name", AROUND)
def test_at_most_one_of_a_group_and_none_where_one_is_labelled(name: str) -> None:
    pool = pool_of(with_copies(60, (30, 9, 4)), np.array([1, 70]))  # 70 is a copy of 0
    groups = near_duplicate_groups(pool.vectors, pool.labeled_rows, pool.neighbors)
    choose = with_options(strategy_named(name), groups=groups)
    some = choose(pool, 10, np.random.default_rng(0))
    assert len(some.rows) == 10
    every = choose(pool, 999, np.random.default_rng(0))
    left = [row for row in range(60) if row > 1]
    chosen = sorted(row if row < 60 else 2 for row in every.rows.tolist())  # any copy stands for row 2
    assert chosen == left
    numbers = groups[every.rows][groups[every.rows] >= 0]
    assert len(numbers) == len(set(numbers.tolist())) == 1
    assert every.lower_bound is None and every.status == ""
    space = normalized(pool.vectors) if every.normalized else pool.vectors
    assert every.radius_before == pytest.approx(covering_radius(space, pool.labeled_rows), rel=1e-5)
    centers = np.concatenate([pool.labeled_rows, every.rows])
    assert every.radius_after == pytest.approx(covering_radius(space, centers), rel=1e-5)


@pytest.mark.parametrize("name", AROUND)
def test_a_pool_of_files_gives_the_same_rows_and_leaves_no_file(name: str, tmp_path: Path) -> None:
    pool = pool_of(with_copies(60, (30, 9, 4)), np.array([1, 70]))
    graph = pool.neighbors
    assert graph
    vectors, near, far = (
        mapped(tmp_path / f"{place}.npy", array)
        for place, array in enumerate((pool.vectors, graph.rows, graph.distances))
    )
    of_files = replace(pool, vectors=vectors, neighbors=NeighborGraph(near, far))
    groups = near_duplicate_groups(pool.vectors, pool.labeled_rows, graph)
    kept = np.setdiff1d(np.arange(len(groups)), np.arange(2, 90, 5))  # as if the others were skipped
    choose = with_options(strategy_named(name), groups=groups[kept], outlier_share=0.1)
    plain, found = (choose(some.among(kept), 10, np.random.default_rng(0)) for some in (pool, of_files))
    assert found.rows.tolist() == plain.rows.tolist() and len(found.rows) == 10
    assert found.distances.tolist() == plain.distances.tolist()
    assert len(list(tmp_path.iterdir())) == 3


def mapped(path: Path, array: np.ndarray) -> np.ndarray:
    np.save(path, array)
    return np.asarray(np.load(path, mmap_mode="c"))


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_of_any_first_picks_no_larger_share_are_outliers(name: str, share: float) -> None:
    vectors = originals(300)
    vectors[:15] *= 30
    pool = pool_of(vectors, np.array([3, 40]))
    far = outliers(vectors, pool.neighbors)
    assert np.flatnonzero(far).tolist() == list(range(15))
    selection = with_options(strategy_named(name), outlier_share=share)(pool, 50, np.random.default_rng(0))
    assert len(set(selection.rows.tolist())) == 50
    assert (np.cumsum(far[selection.rows]) <= share * np.arange(1, 51) + 1e-9).all()
    if name == "k_center" and share:
        assert far[selection.rows].sum() == 5


@pytest.mark.parametrize("name", AROUND)
def test_both_options_together_and_a_pool_of_which_nothing_is_left(name: str) -> None:
    vectors = with_copies(100, (30, 9, 4))
    vectors[90:95] *= 20
    pool = pool_of(vectors, np.array([0, 5]))
    groups = near_duplicate_groups(vectors, pool.labeled_rows, pool.neighbors)
    choose = with_options(strategy_named(name), groups=groups, outlier_share=0.05)
    rows = choose(pool, 40, np.random.default_rng(0)).rows
    far = outliers(vectors, pool.neighbors)
    assert (np.cumsum(far[rows]) <= 0.05 * np.arange(1, 41) + 1e-9).all()
    numbers = groups[rows][groups[rows] >= 0]
    assert len(rows) == 40 and len(set(numbers.tolist())) == len(numbers) and groups[0] not in numbers
    labeled = np.arange(100, dtype=np.int64)
    used_up = pool_of(vectors, labeled)
    groups = near_duplicate_groups(vectors, labeled, used_up.neighbors)
    assert (
        with_options(strategy_named(name), groups=groups)(used_up, 5, np.random.default_rng(0)).rows.tolist()
        == []
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 12), st.floats(0, 1), st.sampled_from(["k_center", "random"]))
def test_options_keep_the_contract_on_any_pool(seed: int, labels: int, share: float, name: str) -> None:
    rng = np.random.default_rng(seed)
    vectors = with_copies(40, tuple(rng.integers(1, 12, 4).tolist()), seed)
    pool = pool_of(vectors, rng.permutation(len(vectors))[:labels])
    groups = near_duplicate_groups(vectors, pool.labeled_rows, pool.neighbors)
    choose = with_options(strategy_named(name), groups=groups, outlier_share=share)
    rows = choose(pool, 25, np.random.default_rng(0)).rows
    assert len(set(rows.tolist()) - set(pool.labeled_rows.tolist())) == len(rows)
    taken = groups[np.concatenate([rows, np.unique(pool.labeled_rows)])]
    for number in np.unique(groups[rows][groups[rows] >= 0]):
        assert (taken == number).sum() == 1
    far = outliers(vectors, pool.neighbors)[rows]
    assert (np.cumsum(far) <= share * np.arange(1, len(rows) + 1) + 1e-9).all()


def test_options_that_make_no_sense_are_refused() -> None:
    pool = pool_of(originals())
    with pytest.raises(ValueError, match="share of outliers"):
        with_options(random_rows, outlier_share=1.5)
    with pytest.raises(ValueError, match="groups has 3 rows"):
        with_options(random_rows, groups=np.zeros(3, np.int32))(pool, 3, np.random.default_rng(0))


def test_without_options_it_is_the_strategy() -> None:
    pool = pool_of(originals())
    plain = random_rows(pool, 9, np.random.default_rng(1))
    assert with_options(random_rows)(pool, 9, np.random.default_rng(1)).rows.tolist() == plain.rows.tolist()
