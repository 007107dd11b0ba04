from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreset_backend.batch import Choice, choose_batch, random_rows_of, spread
from coreset_backend.project import Snapshot, Task
from coreset_backend.selection import Pool, covering_radius
from coreset_backend.settings import Settings

N = 60
VECTORS = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)


def chosen(labeled: int, **given: object) -> Choice:
    tasks = tuple(Task(100 + row, f"/{row}", "labeled" if row < labeled else "pool") for row in range(N))
    snapshot = Snapshot(7, "Pets", None, None, tasks, datetime.now(UTC))
    settings = Settings(batch_size=10, **given)  # type: ignore[arg-type]
    return choose_batch(settings, snapshot, np.arange(N), VECTORS, None)


def test_without_a_slice_the_batch_is_the_strategys_own() -> None:
    choice = chosen(5)
    assert choice.random_slice == ()
    assert np.isfinite(choice.distances).all() and len(choice.batch) == 10


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


def test_a_slice_of_a_pool_that_is_nearly_used_up_takes_what_is_left() -> None:
    choice = chosen(N - 1, random_slice=0.2)
    assert choice.batch == choice.random_slice == (100 + N - 1,) and choice.reserve == ()
    assert chosen(N, random_slice=0.2).batch == ()


def test_each_row_is_as_likely_as_any_other_and_labels_move_the_draw_on() -> None:
    times = np.zeros(20, dtype=int)
    for seed in range(2000):
        times[random_rows_of(Pool(VECTORS[:20], np.arange(4)), 4, seed)] += 1
    assert (times[:4] == 0).all()
    expected = 2000 * 4 / 16
    assert np.abs(times[4:] - expected).max() < 5 * np.sqrt(expected * 0.75)
    draws = [random_rows_of(Pool(VECTORS, np.arange(n)), 5, 0).tolist() for n in (5, 5, 6)]
    assert draws[0] == draws[1] != draws[2]


@given(st.integers(0, 30), st.integers(0, 15), st.integers(0, 10))
def test_spreading_keeps_everything_in_order(own: int, drawn: int, reserve: int) -> None:
    distances = np.arange(own + reserve, dtype=np.float32)
    batch, far = spread(np.arange(own), 100 + np.arange(drawn), distances)
    assert [row for row in batch.tolist() if row < 100] == list(range(own))
    assert [row for row in batch.tolist() if row >= 100] == list(range(100, 100 + drawn))
    assert far[np.isfinite(far)].tolist() == distances.tolist()
    assert np.isinf(far[: own + drawn]).tolist() == (batch >= 100).tolist()
