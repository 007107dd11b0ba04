from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.project import Labels, Snapshot, Task
from coreset_backend.rounds.choose import COLD_START, Choice, choose_batch, random_rows_of, spread, state_code
from coreset_backend.selection import (
    NEED_PROBABILITIES,
    STRATEGIES,
    Pool,
    covering_radius,
    exact_graph,
)
from coreset_backend.settings import Settings

N = 60
VECTORS = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)


def chosen(labeled: int, vectors: np.ndarray = VECTORS, **given: object) -> Choice:
    tasks = tuple(Task(100 + row, f"/{row}", "labeled" if row < labeled else "pool") for row in range(N))
    snapshot = Snapshot(7, "Pets", None, None, tasks, datetime.now(UTC))
    settings = Settings(batch_size=10, **given)  # type: ignore[arg-type]
    return choose_batch(settings, snapshot, np.arange(N), vectors, None)


def test_without_a_slice_the_batch_is_the_strategys_own() -> None:
    choice = chosen(5)
    assert choice.random_slice == ()
    assert np.isfinite(choice.distances).all() and len(choice.batch) == 10


@pytest.mark.parametrize("strategy", sorted(NEED_PROBABILITIES))
def test_without_a_classifier_a_strategy_that_asks_one_leaves_the_choice_to_the_cold_start(
    strategy: str,
) -> None:
    choice = chosen(0, strategy=strategy)
    assert choice.strategy == COLD_START
    assert choice.batch == chosen(0, strategy=COLD_START).batch


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_strategies_that_need_a_classifier_are_those_that_refuse_to_do_without(name: str) -> None:
    graph = exact_graph(VECTORS, 9)
    pool, rng = Pool(VECTORS, np.arange(3), None, graph), np.random.default_rng(0)
    if name in NEED_PROBABILITIES:
        with pytest.raises(ValueError, match=r"needs Pool\.probabilities"):
            STRATEGIES[name](pool, 3, rng)
    else:
        assert len(STRATEGIES[name](pool, 3, rng).rows) == 3


@pytest.mark.parametrize("strategy", ["k_center", "random"])
@pytest.mark.parametrize("labeled", [0, 5])
def test_a_slice_is_part_of_the_batch_spread_over_it_and_chosen_without_the_strategy(
    strategy: str, labeled: int
) -> None:
    choice = chosen(labeled, strategy=strategy, random_slice=0.2)
    assert len(set(choice.batch)) == 10 and len(choice.random_slice) == 2
    assert sorted(choice.batch.index(task_id) for task_id in choice.random_slice) == [2, 7]
    assert not set(choice.batch) & set(choice.reserve) and min(choice.batch) >= 100 + labeled
    assert len(choice.distances) == len(choice.batch) + len(choice.reserve)
    assert np.isinf(choice.distances[[2, 7]]).all()
    other = chosen(labeled, strategy="k_center_cosine", random_slice=0.2)
    assert other.random_slice == choice.random_slice


def test_the_radius_before_is_that_before_the_slice_too() -> None:
    choice = chosen(5, random_slice=0.5)
    assert choice.radius_before == covering_radius(VECTORS, np.arange(5))
    assert choice.radius_after == covering_radius(
        VECTORS, np.array([*range(5), *np.array(choice.batch) - 100])
    )


@pytest.mark.parametrize("strategy", ["k_center", "k_center_cosine", "random", "robust_k_center"])
def test_both_radii_are_measured_alike_over_all_tasks(strategy: str) -> None:
    choice = chosen(5, strategy=strategy)
    space = VECTORS
    if strategy == "k_center_cosine":
        space = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    centers = np.array([*range(5), *np.array(choice.batch) - 100])
    assert choice.radius_before == pytest.approx(covering_radius(space, centers[:5]), rel=1e-5)
    assert choice.radius_after == pytest.approx(covering_radius(space, centers), rel=1e-5)


def test_a_batch_of_robust_k_center_is_its_solution_for_that_size_and_not_half_of_a_larger_one() -> None:
    as_it_is = {"outlier_share": 1.0, "group_duplicates": False}
    robust = chosen(5, strategy="robust_k_center", **as_it_is)
    greedy = chosen(5, strategy="k_center", **as_it_is)
    assert robust.radius_after <= greedy.radius_after
    assert len(robust.reserve) == len(greedy.reserve) and not set(robust.reserve) & set(robust.batch)


def with_copies() -> np.ndarray:
    """Rows 40 to 59 are copies of row 7, rows 30 to 39 of row 2."""
    vectors = np.random.default_rng(3).normal(size=(N, 20)).astype(np.float32)
    vectors[40:], vectors[30:40] = vectors[7], vectors[2]
    return vectors + np.random.default_rng(1).normal(0, 0.01, vectors.shape).astype(np.float32)


@pytest.mark.parametrize("strategy", ["k_center", "random", "max_herding"])
@pytest.mark.parametrize("random_slice", [0.0, 0.3])
def test_of_near_duplicates_one_is_chosen_and_the_others_are_counted_as_such(
    strategy: str, random_slice: float
) -> None:
    choice = chosen(5, with_copies(), strategy=strategy, random_slice=random_slice, group_duplicates=True)
    picked = {task_id - 100 for task_id in (*choice.batch, *choice.reserve)}
    assert picked == set(range(5, 30))  # row 2 is labelled, row 7 speaks for its copies
    duplicates = np.flatnonzero(choice.states == state_code("duplicate"))
    assert duplicates.tolist() == list(range(30, 60))
    labeled = chosen(8, with_copies(), strategy=strategy, group_duplicates=True)
    assert min(labeled.batch) >= 108 and np.bincount(labeled.states)[state_code("labeled")] == 8
    without = chosen(5, with_copies(), strategy=strategy, random_slice=random_slice, group_duplicates=False)
    assert (without.states != state_code("duplicate")).all()


def test_a_batch_holds_no_more_outliers_than_its_share() -> None:
    vectors = VECTORS.copy()
    vectors[57:] *= 30
    assert {157, 158, 159} <= set(chosen(5, vectors, strategy="k_center").batch)
    some = chosen(5, vectors, strategy="k_center", outlier_share=0.1)
    assert len({157, 158, 159} & set(some.batch)) == 1
    capped = chosen(5, vectors, strategy="k_center", outlier_share=0.0)
    assert not {157, 158, 159} & {*capped.batch, *capped.reserve} and len(capped.batch) == 10


def test_a_slice_of_a_pool_that_is_nearly_used_up_takes_what_is_left() -> None:
    choice = chosen(N - 1, random_slice=0.2)
    assert choice.batch == choice.random_slice == (100 + N - 1,) and choice.reserve == ()
    assert chosen(N, random_slice=0.2).batch == ()


def test_each_row_is_as_likely_as_any_other_and_labels_move_the_draw_on() -> None:
    times = np.zeros(20, dtype=int)
    for seed in range(2000):
        times[random_rows_of(np.arange(4, 20), 4, seed, 4)] += 1
    assert (times[:4] == 0).all()
    expected = 2000 * 4 / 16
    assert np.abs(times[4:] - expected).max() < 5 * np.sqrt(expected * 0.75)
    draws = [random_rows_of(np.arange(5, N), 5, 0, labels).tolist() for labels in (5, 5, 6)]
    assert draws[0] == draws[1] != draws[2]


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 15), st.integers(0, 10))
def test_spreading_keeps_everything_in_order(own: int, drawn: int, reserve: int) -> None:
    distances = np.arange(own + reserve, dtype=np.float32)
    batch, far = spread(np.arange(own), 100 + np.arange(drawn), distances)
    assert [row for row in batch.tolist() if row < 100] == list(range(own))
    assert [row for row in batch.tolist() if row >= 100] == list(range(100, 100 + drawn))
    assert far[np.isfinite(far)].tolist() == distances.tolist()
    assert np.isinf(far[: own + drawn]).tolist() == (batch >= 100).tolist()


@pytest.mark.parametrize(("classes", "doubtful"), [(1, [0.5]), (2, [0.02, 0.45]), (2, [0.98, 0.52])])
def test_in_multiple_choice_the_model_is_unsure_where_one_class_is_in_doubt(
    classes: int, doubtful: list[float]
) -> None:
    labels = Labels("label", "image", ("a", "b")[:classes], multiple=True)
    tasks = tuple(Task(100 + row, f"/{row}") for row in range(N))
    snapshot = Snapshot(7, "Spots", None, labels, tasks, datetime.now(UTC))
    odds = np.full((N, classes), 0.01, dtype=np.float32)  # surely none of these
    odds[1], odds[17] = 0.99, doubtful
    settings = Settings(batch_size=1, strategy="margin", group_duplicates=False)
    assert choose_batch(settings, snapshot, np.arange(N), VECTORS, odds).batch == (117,)
