"""One more annotator is asked for a labelled task, until somebody answers."""

import json
from collections.abc import Callable

import pytest
from fake_label_studio import TOKEN, FakeLabelStudio

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import connect, disconnect
from coreset_backend.connection.second_opinions import ask_second_opinions, read_asked
from coreset_backend.errors import LabelStudioError
from coreset_backend.label_studio.people import fetch_people
from coreset_backend.store.record import SecondOpinion


@pytest.fixture
def backend(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> Backend:
    return make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)


@pytest.fixture
def project_id(backend: Backend, studio: FakeLabelStudio) -> int:
    """Four tasks, of which annotator 1 has labelled three."""
    project_id = studio.create_project(4)
    backend.store.register(project_id)
    for task in studio.tasks_of(project_id)[:3]:
        studio.annotate(task["id"], "cat", by=1)
    return project_id


def ask(backend: Backend, project_id: int, *task_ids: int, annotators: int = 1) -> list[int]:
    wanted = [SecondOpinion(task_id, annotators, 0.5) for task_id in task_ids]
    return ask_second_opinions(backend.label_studio, backend.store, project_id, wanted)


def ids(studio: FakeLabelStudio, project_id: int) -> list[int]:
    return [task["id"] for task in studio.tasks_of(project_id)]


def overlaps(studio: FakeLabelStudio, project_id: int) -> list[tuple[int, bool]]:
    return [(task["overlap"], task["is_labeled"]) for task in studio.tasks_of(project_id)]


def test_a_task_is_asked_for_until_another_annotator_has_answered(
    backend: Backend, studio: FakeLabelStudio, project_id: int
) -> None:
    tasks = ids(studio, project_id)
    before = overlaps(studio, project_id)
    assert ask(backend, project_id, tasks[0], tasks[1]) == tasks[:2]
    assert overlaps(studio, project_id) == [(2, False), (2, False), (1, True), (1, False)]
    assert ask(backend, project_id, tasks[0], tasks[1]) == tasks[:2]  # again: nothing changes
    assert overlaps(studio, project_id)[:2] == [(2, False), (2, False)]

    studio.annotate(tasks[0], None, cancelled=True, by=2)  # a skip is no answer
    assert ask(backend, project_id, tasks[0], tasks[1]) == tasks[:2]
    studio.annotate(tasks[0], "dog", by=3)
    assert ask(backend, project_id, tasks[0], tasks[1]) == [tasks[1]]  # the same round, published again
    assert overlaps(studio, project_id) == [(1, True), (2, False), (1, True), (1, False)]

    assert ask(backend, project_id) == []  # the next round wants none
    assert overlaps(studio, project_id) == before
    assert read_asked(backend.store, project_id) == ()


def test_a_third_annotator_is_asked_where_two_disagree_and_the_first_overlap_comes_back(
    backend: Backend, studio: FakeLabelStudio, project_id: int
) -> None:
    task_id = ids(studio, project_id)[0]
    ask(backend, project_id, task_id)
    studio.annotate(task_id, "dog", by=2)
    assert ask(backend, project_id, task_id, annotators=2) == [task_id]
    assert overlaps(studio, project_id)[0] == (3, False)
    studio.annotate(task_id, "dog", by=3)
    assert ask(backend, project_id, task_id, annotators=2) == []
    assert overlaps(studio, project_id)[0] == (1, True)


def test_two_who_answered_at_once_do_not_lock_the_task(
    backend: Backend, studio: FakeLabelStudio, project_id: int
) -> None:
    """Label Studio shows nobody a task with as many answers as it wants."""
    task_id = ids(studio, project_id)[0]
    studio.annotate(task_id, "dog", by=2)
    ask(backend, project_id, task_id, annotators=2)
    assert overlaps(studio, project_id)[0] == (3, False)


def test_a_project_that_asks_several_annotators_anyway_stays_as_it_is(
    backend: Backend, studio: FakeLabelStudio, project_id: int
) -> None:
    task_id = ids(studio, project_id)[0]
    studio.tasks[task_id] |= {"overlap": 2, "is_labeled": False}
    assert ask(backend, project_id, task_id) == [task_id]  # it comes first
    ask(backend, project_id)
    assert overlaps(studio, project_id)[0] == (2, False)


@pytest.mark.parametrize("done", range(6))
def test_what_was_cut_off_is_completed_and_can_be_put_back(
    backend: Backend, studio: FakeLabelStudio, project_id: int, done: int
) -> None:
    """Label Studio goes down after each of the requests of a change from two tasks to another two."""
    tasks, before = ids(studio, project_id), overlaps(studio, project_id)
    ask(backend, project_id, *tasks[:2])
    studio.fail(503, "/api/tasks/", skip=done)
    try:
        ask(backend, project_id, *tasks[1:3])
        assert done > 2
    except LabelStudioError:
        assert done < 3
    studio.heal()
    assert ask(backend, project_id, *tasks[1:3]) == tasks[1:3]
    assert overlaps(studio, project_id) == [(1, True), (2, False), (2, False), (1, False)]
    ask(backend, project_id)
    assert overlaps(studio, project_id) == before


def test_what_a_person_has_changed_and_what_is_gone_is_left_alone(
    backend: Backend, studio: FakeLabelStudio, project_id: int
) -> None:
    tasks = ids(studio, project_id)
    ask(backend, project_id, *tasks[:3])
    studio.tasks[tasks[0]]["overlap"] = 5
    studio.delete_task(tasks[1])
    assert ask(backend, project_id, *tasks[1:3]) == [tasks[2]]
    assert overlaps(studio, project_id) == [(5, False), (2, False), (1, False)]
    studio.tasks[tasks[2]]["annotations"].clear()  # the first answer was deleted: it is an unlabelled task
    assert ask(backend, project_id, tasks[2]) == []
    assert overlaps(studio, project_id)[1] == (1, False)


def test_a_damaged_file_keeps_no_round_from_running(
    backend: Backend, studio: FakeLabelStudio, project_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = ids(studio, project_id)
    ask(backend, project_id, tasks[0])
    path = backend.store.root / f"projects/{project_id}/second-opinions.json"
    path.write_text(json.dumps({"tasks": 3}))
    assert ask(backend, project_id, tasks[1]) == [tasks[1]]
    assert "second opinions are not withdrawn" in caplog.text


def test_disconnect_withdraws_what_is_asked_for(
    backend: Backend, studio: FakeLabelStudio, project_id: int
) -> None:
    before, tasks = overlaps(studio, project_id), ids(studio, project_id)
    list(connect(backend, project_id))
    ask(backend, project_id, tasks[0])
    said = list(disconnect(backend, project_id))
    assert "1 tasks ask for no second annotator any more." in said
    assert overlaps(studio, project_id) == before


def test_annotators_are_named_by_their_addresses_where_label_studio_tells_them(
    backend: Backend, studio: FakeLabelStudio, project_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    studio.annotate(ids(studio, project_id)[0], "dog", by=7)
    assert fetch_people(backend.label_studio) == {"1": "lead@example.com", "7": "7@example.com"}
    studio.fail(403, "/api/users")
    assert fetch_people(backend.label_studio) == {}
    assert "shown by their ids" in caplog.text
