"""Our calls against the real Label Studio, where it is most surprising."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator

import httpx
import pytest
from e2e_stack import Annotator
from label_studio_contract import LabelStudioContract, create_project, predictions

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import connect
from coreset_backend.connection.second_opinions import ask_second_opinions
from coreset_backend.errors import LabelStudioError, Unauthorized, Unreachable, UnsupportedLabelConfig
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.overlap import Overlap, fetch_overlaps
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.store.record import SecondOpinion

pytestmark = pytest.mark.e2e


@pytest.fixture
def client(label_studio: demo.LabelStudioServer) -> Iterator[LabelStudio]:
    opened = LabelStudio(label_studio.url, label_studio.login.token)
    yield opened
    opened.close()


@pytest.fixture
def project(admin: httpx.Client) -> tuple[int, list[int]]:
    return create_project(admin)


@pytest.fixture
def lose_counts(label_studio: demo.LabelStudioServer) -> Callable[[int], None]:
    """Has Label Studio forget how many annotations a task has, as an import at the same time does."""
    database = label_studio.data_dir / "label_studio.sqlite3"
    if not database.exists():
        pytest.skip("counts are changed in the file of SQLite")
    change = "UPDATE task SET total_annotations = 0, cancelled_annotations = 0 WHERE id = ?"

    def lose(task_id: int) -> None:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as opened, opened:
            opened.execute(change, (task_id,))

    return lose


class TestTheRealOne(LabelStudioContract):
    """The questions of the contract, to a real Label Studio."""


def test_an_imported_answer_has_its_time_but_no_day(
    client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
) -> None:
    project_id, task_ids = project
    image = {"image": "https://example.com/moved.jpg"}
    for annotation in ({"id": 77, "result": [], "lead_time": 4.5}, {"id": 78, "result": []}):
        body = [{"data": image, "annotations": [annotation]}]
        admin.post(f"/api/projects/{project_id}/import", json=body).raise_for_status()
    admin.patch(f"/api/projects/{project_id}/", json={"maximum_annotations": 2}).raise_for_status()
    snapshot = client.fetch_snapshot(project_id)
    timed = [task.timed for task in snapshot.tasks if task.task_id not in task_ids]
    assert [[(each.seconds, each.at) for each in answers] for answers in timed] == [[(4.5, None)], []]
    assert snapshot.overlap == 2


def test_a_second_opinion_is_asked_of_another_annotator_who_does_not_see_the_first_answer(
    client: LabelStudio,
    admin: httpx.Client,
    project: tuple[int, list[int]],
    make_backend: Callable[..., Backend],
    new_annotator: Callable[[str], Annotator],
) -> None:
    (project_id, task_ids), store = project, make_backend().store
    store.register(project_id)
    first, second = new_annotator("first@example.com"), new_annotator("second@example.com")
    client.publish(project_id, predictions(task_ids, "coreset-1-a", None), None)
    admin.patch(f"/api/projects/{project_id}/", json={"sampling": "Uncertainty sampling"}).raise_for_status()
    for task_id in task_ids[:2]:
        assert first.next_task(project_id) == task_id
        first.submit(task_id, "cat")
    assert second.next_task(project_id) == task_ids[2]  # and keeps it until it is labelled
    second.submit(task_ids[2], "cat")

    wanted = [SecondOpinion(task_ids[0], 1, 0.5)]
    assert ask_second_opinions(client, store, project_id, wanted) == [task_ids[0]]
    assert first.next_task(project_id) == task_ids[3]
    body = {"project": project_id}
    shown = second.http.post("/api/dm/actions/", params={"id": "next_task", **body}, json=body).json()
    assert (shown["id"], shown["annotations"]) == (task_ids[0], [])
    assert [each["result"] for each in shown["predictions"]] == [[]]
    second.skip(task_ids[0])
    assert second.next_task(project_id) != task_ids[0] != first.next_task(project_id)
    assert ask_second_opinions(client, store, project_id, wanted) == [task_ids[0]]
    second.submit(task_ids[0], "dog")
    assert ask_second_opinions(client, store, project_id, wanted) == []
    (task,) = [each for each in client.fetch_snapshot(project_id).tasks if each.task_id == task_ids[0]]
    assert sorted(task.votes) == [("cat",), ("dog",)] and len(set(task.annotators)) == 2
    assert fetch_overlaps(client, project_id, task_ids[:1])[task_ids[0]] == Overlap(1, 2, True)


def test_connecting_refuses_what_cannot_work_with_the_fix(
    client: LabelStudio,
    admin: httpx.Client,
    label_studio: demo.LabelStudioServer,
    project: tuple[int, list[int]],
    make_backend: Callable[..., Backend],
) -> None:
    backend = make_backend(url="http://localhost:1")

    def attempt(project_id: int, studio: LabelStudio = client) -> None:
        backend.label_studio = studio
        list(connect(backend, project_id))

    with pytest.raises(LabelStudioError, match="has no project 99999"):
        attempt(99999)
    with pytest.raises(LabelStudioError, match="could not connect to the backend at http://localhost:1"):
        attempt(project[0])
    assert client.backends(project[0]) == []
    assert backend.store.projects() == []  # a project that was refused is none of ours
    text = (
        '<View><Text name="t" value="$t"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>'
    )
    with pytest.raises(UnsupportedLabelConfig, match="no <Image"):
        attempt(demo_project.create_project(admin, "Only text", text))
    for url, token, error in (
        (label_studio.url, "0" * 40, Unauthorized),
        (f"http://127.0.0.1:{demo.free_port()}", "0" * 40, Unreachable),
    ):
        wrong = LabelStudio(url, token)
        with pytest.raises(error, match="LABEL_STUDIO_"):
            attempt(project[0], wrong)
        wrong.close()
