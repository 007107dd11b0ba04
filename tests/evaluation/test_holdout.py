import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.evaluation.holdout import holdout_task_ids
from coreset_backend.project import Task


def labeled_tasks(counts: dict[str, int]) -> list[Task]:
    ids = itertools.count(1)
    return [
        Task(task_id := next(ids), f"/{task_id}", "labeled", (name,))
        for name, n in counts.items()
        for _ in range(n)
    ]


def test_holdout_takes_its_share_of_each_class_and_stays() -> None:
    first = labeled_tasks({"cat": 20, "dog": 10, "rare": 3})
    chosen = holdout_task_ids(first, (), 0.2, seed=0)
    by_class = [task.label for task in first if task.task_id in chosen]
    assert sorted(map(str, by_class)) == ["('cat',)"] * 4 + ["('dog',)"] * 2
    more = [*first, *(Task(100 + n, f"/{100 + n}", "labeled", ("cat",)) for n in range(20))]
    assert chosen < holdout_task_ids(reversed(more), chosen, 0.2, seed=0)


def test_holdout_takes_its_share_of_none_of_these_and_of_each_rarest_class() -> None:
    several = [("common",), ("common", "rare"), (), ("common", "other")]
    tasks = [Task(n, f"/{n}", "labeled", several[n % 4]) for n in range(40)]
    chosen = holdout_task_ids(tasks, (), 0.2, seed=0)
    counted = [several[task_id % 4] for task_id in sorted(chosen)]
    assert sorted(counted) == sorted(several * 2)
    assert not holdout_task_ids([Task(1, "/1", "labeled", None)] * 9, (), 0.5, seed=0)


def test_holdout_forgets_a_task_whose_label_was_deleted() -> None:
    tasks = labeled_tasks({"cat": 10})
    chosen = holdout_task_ids(tasks, (), 0.2, seed=0)
    left = [task for task in tasks if task.task_id not in chosen]
    assert not chosen & holdout_task_ids(left, chosen, 0.2, seed=0)


def test_images_that_are_alike_are_held_out_together_or_not_at_all() -> None:
    scenes = [range(first, first + 5) for first in range(1, 301, 5)]
    tasks = [Task(n, f"/{n}", "labeled", ("cat",)) for scene in scenes for n in scene]
    chosen = holdout_task_ids(tasks, (), 0.2, 0, scenes)
    assert len(chosen) == 60
    assert all(len(chosen.intersection(scene)) in (0, 5) for scene in scenes)
    copy = Task(1000, "/1000", "labeled", ("cat",))
    for scene in scenes[:20]:  # a new copy is where its original is
        again = holdout_task_ids([*tasks, copy], chosen, 0.2, 0, [*scenes, [*scene, 1000]])
        assert again - {1000} == chosen and (1000 in again) == (scene[0] in chosen)
    apart = {scene[0] for scene in scenes}  # as an early release drew them
    whole = holdout_task_ids(tasks, apart, 0.2, 0, scenes)
    assert len(whole) == 120 and all(len(whole.intersection(scene)) in (0, 5) for scene in scenes)


def test_tasks_that_show_a_held_out_image_are_held_out_too() -> None:
    tasks = labeled_tasks({"cat": 10})
    chosen = holdout_task_ids(tasks, (), 0.2, seed=0)
    twins = [Task(100 + task.task_id, task.uri, "labeled", ("cat",)) for task in tasks]
    again = holdout_task_ids([*tasks, *twins], chosen, 0.0, seed=0)
    assert again == chosen | {100 + task_id for task_id in chosen}


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    share=st.floats(0, 0.5),
    later=st.integers(0, 40),
    seed=st.integers(0, 9),
)
def test_a_holdout_never_shrinks_nor_takes_more_than_its_share_of_new_labels(
    counts: list[int], share: float, later: int, seed: int
) -> None:
    tasks = labeled_tasks({f"class {code}": n for code, n in enumerate([*counts, later])})
    early = tasks[: sum(counts)]
    first = holdout_task_ids(early, (), share, seed)
    second = holdout_task_ids(tasks, first, share, seed)
    assert first <= second <= {task.task_id for task in tasks}
    assert len(first) == sum(int(share * n) for n in counts)
