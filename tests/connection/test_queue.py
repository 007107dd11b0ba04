"""The queue in Label Studio: whatever waits is in it, in order, however often it is published."""

from collections.abc import Callable, Iterator, Sequence

import pytest
from fake_label_studio import FakeLabelStudio

from coreset_backend.arrays import unwatched
from coreset_backend.connection.queue import MOST_ASKED, QUEUE, SMALL, publish_queue, queue_is_short
from coreset_backend.errors import LabelStudioError
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.project import Labels, Prediction
from coreset_backend.reports import Publication

LARGE = SMALL + 60
LABELS = Labels("label", "image", ("cat", "dog"), False)


@pytest.fixture
def client(studio: FakeLabelStudio) -> Iterator[LabelStudio]:
    opened = LabelStudio(studio.url, studio.token, pauses=(0.01,))
    yield opened
    opened.close()


def project_of(studio: FakeLabelStudio, n: int) -> tuple[int, list[int]]:
    project_id = studio.create_project()
    return project_id, [studio.add_task(project_id, {"image": f"/{number}.png"}) for number in range(n)]


def publish(
    client: LabelStudio,
    project_id: int,
    head: Sequence[int],
    number: int,
    label: str | None = None,
    on_served: Callable[[Publication], None] = unwatched,
    known: Sequence[int] = (),
) -> Publication:
    """Publish round ``number`` with that head; the rest follows in the order of the task ids."""

    def predict(task_ids: Sequence[int]) -> list[Prediction]:
        answer = (label,) if label else None
        return [Prediction(task_id, 0.0, f"coreset-{number}-x", answer) for task_id in task_ids]

    return publish_queue(
        client,
        project_id,
        head,
        LABELS,
        order=sorted,
        predict=predict,
        written=[f"coreset-{each}-x" for each in range(1, number + 1)],
        progress=lambda _done, _total: None,
        on_served=on_served,
        known=known,
    )


def imports(studio: FakeLabelStudio) -> int:
    return sum(path.endswith("import/predictions") for _, path in studio.asked)


@pytest.mark.parametrize("n", [30, LARGE])
def test_every_task_that_waits_is_served_batch_first(
    studio: FakeLabelStudio, client: LabelStudio, n: int
) -> None:
    project_id, tasks = project_of(studio, n)
    head = tasks[5:15][::-1]
    published = publish(client, project_id, head, 1)
    rest = [task for task in tasks if task not in head]
    assert studio.queue(project_id) == [*head, *rest]
    assert (published.sent, published.behind) == (10, len(rest))
    assert published.serves[:10] == tuple(head)
    assert all(0 <= each["score"] <= 1 for each in studio.predictions)


def test_a_large_project_is_not_asked_for_all_that_wait(studio: FakeLabelStudio, client: LabelStudio) -> None:
    project_id, tasks = project_of(studio, MOST_ASKED + 1)
    for task in tasks[20:120]:
        studio.annotate(task, "cat")
    publish(client, project_id, tasks[:10], 1, known=tasks)
    waiting = [*tasks[10:20], *tasks[120:]]
    assert studio.queue(project_id) == [*tasks[:10], *waiting[:QUEUE]]
    assert sum(path == "/api/tasks/" for _, path in studio.asked) < 60  # a hundred tasks each


def test_a_small_queue_is_published_anew_and_a_large_one_keeps_its_version(
    studio: FakeLabelStudio, client: LabelStudio
) -> None:
    for n, version in ((30, "coreset-2-x"), (LARGE, "coreset-1-x")):
        project_id, tasks = project_of(studio, n)
        publish(client, project_id, tasks[5:15], 1)
        for task in tasks[5:12]:
            studio.annotate(task, "cat")
        head = [tasks[20], tasks[14], *tasks[25:28]]
        published = publish(client, project_id, head, 2)
        assert published.version == studio.projects[project_id]["model_version"] == version
        waiting = [task for task in tasks if task not in tasks[5:12]]
        assert studio.queue(project_id)[:5] == head == list(published.serves)[:5]
        assert sorted(studio.queue(project_id)) == waiting
        for task in waiting:
            assert len(studio.predictions_of(task)) == 1, "a task is listed twice in the Data Manager"
        in_front = client.fetch_predictions(project_id, published.below)
        assert sorted(each.task_id for each in in_front) == sorted(head)
    # What an earlier round chose and nobody labelled comes before what nobody chose.
    assert studio.queue(project_id)[5:7] == tasks[12:14]


def test_a_batch_counts_as_served_before_what_it_supersedes_is_deleted(
    studio: FakeLabelStudio, client: LabelStudio
) -> None:
    """With 150 predictions in 5,000 tasks the deletions take 30 s of 47."""
    for n in (30, LARGE):
        project_id, tasks = project_of(studio, n)
        publish(client, project_id, tasks[:10], 1)
        head, seen = tasks[3:13], []

        def served(
            publication: Publication, project_id: int = project_id, seen: list[Publication] = seen
        ) -> None:
            assert studio.queue(project_id)[:10] == list(publication.serves)[:10]
            deleted = [path for method, path in studio.asked if method == "DELETE" and "predictions/" in path]
            assert not deleted
            seen.append(publication)

        final = publish(client, project_id, head, 2, on_served=served)
        assert [each.sent for each in seen] == [final.sent] == [10]
        assert (seen[0].version, seen[0].serves[:10]) == (final.version, final.serves[:10])
        assert seen[0].behind == final.behind == n - 10


@pytest.mark.parametrize("broken", [("DELETE", "/api/predictions"), ("POST", "import/predictions"), None])
def test_answers_that_are_not_to_be_shown_any_more_are_gone_before_the_head_is_served(
    studio: FakeLabelStudio, client: LabelStudio, broken: tuple[str, str] | None
) -> None:
    project_id, tasks = project_of(studio, LARGE)
    publish(client, project_id, tasks[:10], 1, "cat")
    head = tasks[5:15]

    def shown() -> int:
        return sum(bool(each["result"]) for task in head for each in studio.predictions_of(task))

    if broken:
        studio.fail(500, broken[1], method=broken[0])
        with pytest.raises(LabelStudioError):
            publish(client, project_id, head, 2)
        left = 0 if broken[0] == "POST" else 10
        assert shown() == left and [each for each in studio.queue(project_id) if each in head] == head[:left]
        studio.heal()
    seen: list[int] = []
    publish(client, project_id, head, 2, on_served=lambda _publication: seen.append(shown()))
    assert seen == [0] and studio.queue(project_id)[:10] == head
    assert sorted(studio.queue(project_id)) == tasks and len(studio.predictions) == LARGE


def test_publishing_again_changes_nothing(studio: FakeLabelStudio, client: LabelStudio) -> None:
    for n in (30, LARGE):
        project_id, tasks = project_of(studio, n)
        for number, head in ((1, tasks[:10]), (2, tasks[3:13])):
            publish(client, project_id, head, number)
            before, asked = list(studio.predictions), imports(studio)
            publish(client, project_id, head, number)
            assert studio.predictions == before and imports(studio) == asked


def test_many_rounds_stay_within_the_scores_that_label_studio_takes(
    studio: FakeLabelStudio, client: LabelStudio
) -> None:
    project_id, tasks = project_of(studio, LARGE)
    for number in range(1, 21):
        head = tasks[number : number + 3]
        publish(client, project_id, head, number)
        assert studio.queue(project_id)[:3] == head
    assert len(studio.predictions) == LARGE


def test_new_tasks_are_found_and_served_without_a_round(studio: FakeLabelStudio, client: LabelStudio) -> None:
    for n in (30, LARGE):
        project_id, tasks = project_of(studio, n)
        version = publish(client, project_id, tasks[:10], 1).version
        assert not queue_is_short(client, project_id, version)
        new = [studio.add_task(project_id, {"image": f"/new{number}.png"}) for number in range(3)]
        assert queue_is_short(client, project_id, version)
        assert not queue_is_short(client, project_id, "another version, which somebody chose")
        publish(client, project_id, tasks[:10], 1)
        assert studio.queue(project_id)[:10] == tasks[:10]
        assert sorted(studio.queue(project_id)) == [*tasks, *new]
        assert not queue_is_short(client, project_id, version)


STEPS = {
    "reading what waits": ("GET", "/api/tasks", 1),
    "looking for what is superseded": ("GET", "/api/tasks", 4),
    "importing": ("POST", "import/predictions", 0),
    "deleting what is superseded": ("DELETE", "/api/predictions", 1),
}


@pytest.mark.parametrize("kind", [500, "cut"])
@pytest.mark.parametrize("step", STEPS)
def test_a_large_queue_is_whole_and_in_one_order_whatever_breaks(
    studio: FakeLabelStudio, client: LabelStudio, step: str, kind: int | str
) -> None:
    project_id, tasks = project_of(studio, LARGE)
    old, new = tasks[:10], tasks[30:40]
    publish(client, project_id, old, 1)
    method, path, skip = STEPS[step]
    studio.fail(kind, path, method=method, skip=skip)
    with pytest.raises(LabelStudioError):
        publish(client, project_id, new, 2)
    assert studio.queue(project_id)[:10] in (old, new)
    assert sorted(studio.queue(project_id)) == tasks
    studio.heal()
    publish(client, project_id, new, 2)
    assert studio.queue(project_id)[:10] == new
    assert len(studio.predictions) == LARGE


def test_answers_of_a_class_that_is_gone_are_left_out(studio: FakeLabelStudio, client: LabelStudio) -> None:
    project_id, tasks = project_of(studio, LARGE)
    publish(client, project_id, tasks[:10], 1, "cat")
    config = studio.projects[project_id]["label_config"]
    studio.projects[project_id]["label_config"] = config.replace("cat", "horse")
    publish(client, project_id, tasks[20:30], 2, "cat")
    assert studio.queue(project_id)[:10] == tasks[20:30]
    assert studio.predictions_of(tasks[20])[0]["result"] == []


def test_a_queue_is_bounded_and_filled_again(studio: FakeLabelStudio, client: LabelStudio) -> None:
    project_id, tasks = project_of(studio, QUEUE + 200)
    version = publish(client, project_id, tasks[:100], 1).version
    assert len(studio.queue(project_id)) == QUEUE + 100
    assert not queue_is_short(client, project_id, version)
    for task in tasks[: QUEUE // 2 + 200]:
        studio.annotate(task, "cat")
    assert queue_is_short(client, project_id, version)
    publish(client, project_id, tasks[-100:], 2)
    assert len(studio.queue(project_id)) == QUEUE // 2


def test_a_large_project_is_asked_for_a_few_tasks_and_not_for_all_that_wait(
    studio: FakeLabelStudio, client: LabelStudio
) -> None:
    project_id, tasks = project_of(studio, QUEUE + 1500)
    publish(client, project_id, tasks[:100], 1)
    for task_id in tasks[:150]:
        studio.annotate(task_id, "cat")
    in_queue = set(studio.queue(project_id))
    outside = [task_id for task_id in tasks if task_id not in in_queue and task_id not in tasks[:150]]
    studio.delete_task(outside[0])
    studio.annotate(outside[1], "dog")
    studio.asked.clear()
    # Those beyond the first hundred are known, but stand last in the order.
    publish(client, project_id, tasks[200:210], 2, known=[*tasks[:300], *outside])
    added = [task_id for task_id in studio.queue(project_id) if task_id not in in_queue]
    assert added == outside[2 : 2 + len(added)] and len(added) == QUEUE - len(in_queue)
    assert sum(path == "/api/tasks/" for _, path in studio.asked) < 20
    studio.asked.clear()
    publish(client, project_id, tasks[220:230], 3, known=tasks[:300])  # new tasks are not known yet
    assert len(studio.queue(project_id)) == QUEUE
