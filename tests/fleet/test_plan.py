"""A shard is a range of task ids whose end the ids decide."""

import numpy as np
import pytest

from coreset_backend.fleet.plan import LARGEST, SHARDS, SMALLEST, Shard, average_size, plan_shards

PATTERNS = {
    "consecutive": np.arange(1, 20_001),
    "of one project among ninety": np.arange(1, 20_001) * 89,
    "two imports far apart": np.concatenate([np.arange(1, 10_001), 5_000_000 + np.arange(10_000)]),
    "large": (1 << 52) + np.arange(20_000),
}


def planned(task_ids: np.ndarray, network: str = "n", images: list[str] | None = None) -> list[Shard]:
    return plan_shards(network, task_ids.astype(np.int64), images or [f"i{each}" for each in task_ids])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_task_is_in_one_shard_and_no_shard_is_large(pattern: str) -> None:
    task_ids = PATTERNS[pattern]
    shards, size = planned(task_ids), average_size(len(task_ids))
    assert np.concatenate([shard.rows for shard in shards]).tolist() == list(range(len(task_ids)))
    assert max(len(shard.rows) for shard in shards) <= 2 * size
    assert len(task_ids) / size * 0.7 < len(shards) < len(task_ids) / size * 2
    assert len({shard.name for shard in shards}) == len(shards)


def test_what_is_in_work_at_a_time_is_less_than_a_percent() -> None:
    machines = 2
    for n in (2_500, 10_000, 40_000, 1_000_000):
        assert machines * average_size(n) < n / 100
    assert average_size(300) == SMALLEST and average_size(10**7) == LARGEST
    assert average_size(SHARDS * 64) == average_size(SHARDS * 127) == 64


@pytest.mark.parametrize("change", ["added", "deleted"])
def test_a_task_more_or_less_changes_one_or_two_shards(change: str) -> None:
    task_ids = PATTERNS["of one project among ninety"]
    other = (
        np.insert(task_ids, 7_000, task_ids[7_000] - 1) if change == "added" else np.delete(task_ids, 7_000)
    )
    before, after = ({shard.name for shard in planned(each)} for each in (task_ids, other))
    assert len(after - before) <= 3 and len(before & after) > len(before) - 3


def test_the_name_of_a_shard_says_what_its_features_depend_on() -> None:
    task_ids = np.arange(1, 9)
    images = [f"i{each}" for each in task_ids]
    names = [shard.name for shard in planned(task_ids, "n", images)]
    assert names == [shard.name for shard in planned(task_ids, "n", images)]
    for network, image in (("m", "i1"), ("n", "another")):
        assert planned(task_ids, network, [image, *images[1:]])[0].name != names[0]


def test_no_tasks_make_no_shards() -> None:
    assert planned(np.empty(0, np.int64)) == []
