"""Our calls to a Label Studio that fails in every way a server and a network can."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fake_label_studio import FakeLabelStudio
from label_studio_contract import LabelStudioContract, create_project, predictions

from coreset_backend.errors import LabelStudioError, Rejected, Unauthorized, Unreachable
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.overlap import fetch_overlaps
from coreset_backend.label_studio.task_lists import PAGE_SIZE


@pytest.fixture
def project(admin: httpx.Client) -> tuple[int, list[int]]:
    return create_project(admin)


@pytest.fixture
def lose_counts(studio: FakeLabelStudio) -> Callable[[int], None]:
    return studio.uncounted.add


class TestTheFake(LabelStudioContract):
    """The fake answers as the real one does, or the other tests of this file would show nothing."""


def test_each_answer_of_deleted_users_is_that_of_an_annotator(
    studio: FakeLabelStudio, client: LabelStudio, project: tuple[int, list[int]]
) -> None:
    project_id, (task_id, *_) = project
    for by, skipped in ((None, False), (None, False), (3, False), (3, False), (None, True)):
        studio.add_annotation(task_id, {"result": [], "completed_by": by, "was_cancelled": skipped})
    assert fetch_overlaps(client, project_id, [task_id])[task_id].annotators == 3


# ---------------------------------------------------------------- every fault, at every call

Call = Callable[[LabelStudio, int, list[int]], Any]
CALLS: dict[str, Call] = {
    "whoami": lambda client, project_id, task_ids: client.whoami(),
    "fetch_project": lambda client, project_id, task_ids: client.fetch_project(project_id),
    "fetch_snapshot": lambda client, project_id, task_ids: client.fetch_snapshot(project_id),
    "fetch_annotated": lambda client, project_id, task_ids: client.fetch_annotated(project_id),
    "publish": lambda client, project_id, task_ids: client.publish(
        project_id, predictions(task_ids, "coreset-2-b", None), None
    ),
}
FAULTS: dict[str, tuple[dict[str, Any], type[LabelStudioError], str]] = {
    "error page": ({"kind": 500}, Rejected, "answered 500"),
    "overload": ({"kind": 503}, Rejected, "answered 503"),
    "too many requests": ({"kind": 429}, Rejected, "answered 429"),
    "token refused": ({"kind": 401}, Unauthorized, "LABEL_STUDIO_API_KEY"),
    "forbidden": ({"kind": 403}, Rejected, "answered 403"),
    "cut in mid-body": ({"kind": "cut"}, Unreachable, "does not answer"),
    "a page instead of JSON": ({"kind": "html"}, Unreachable, "not with the JSON"),
    "half a JSON": ({"kind": "torn"}, Unreachable, "not with the JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_every_fault_is_an_error_of_ours_that_says_what_came(
    studio: FakeLabelStudio, client: LabelStudio, project: tuple[int, list[int]], call: str, fault: str
) -> None:
    options, kind, words = FAULTS[fault]
    studio.fail(**options)
    with pytest.raises(kind, match=words):
        CALLS[call](client, *project)
    studio.heal()
    CALLS[call](client, *project)


def test_a_fault_that_passes_is_not_noticed_by_a_reader(
    studio: FakeLabelStudio, client: LabelStudio, project: tuple[int, list[int]]
) -> None:
    expected = client.fetch_snapshot(project[0]).tasks
    for kind in (500, 429, "cut"):
        studio.heal()
        studio.fail(kind, "/api/tasks", times=2)
        assert client.fetch_snapshot(project[0]).tasks == expected


def test_json_of_another_shape_is_refused_with_what_came(
    studio: FakeLabelStudio, client: LabelStudio, project: tuple[int, list[int]]
) -> None:
    for path in ("/api/projects/[0-9]+/$", "/api/tasks/"):
        studio.heal()
        studio.fail("other", path)
        with pytest.raises(Unreachable, match=r"not with the JSON of a Label Studio: '\[\]'"):
            client.fetch_snapshot(project[0])


def test_retry_after_is_waited_for_by_any_method(
    studio: FakeLabelStudio, client: LabelStudio, project: tuple[int, list[int]]
) -> None:
    project_id, task_ids = project
    studio.fail(429, "import/predictions", times=1, headers={"Retry-After": "2"})
    started = time.monotonic()
    assert client.publish(project_id, predictions(task_ids, "coreset-1-a"), None).sent == len(task_ids)
    assert time.monotonic() - started >= 2
    assert studio.versions(project_id) == {"coreset-1-a": len(task_ids)}


def test_a_server_that_is_down_is_named_and_found_again(
    studio: FakeLabelStudio, client: LabelStudio, project: tuple[int, list[int]]
) -> None:
    assert client.fetch_project(project[0]).project_id == project[0]
    studio.down()
    with pytest.raises(Unreachable, match=r"Label Studio at http://127.0.0.1:\d+ does not answer"):
        client.request("POST", "/api/projects/", json={})
    studio.up()
    assert client.fetch_project(project[0]).project_id == project[0]


def test_a_task_list_that_shrinks_while_it_is_read(studio: FakeLabelStudio, client: LabelStudio) -> None:
    """Tasks deleted between two pages: the page after the last is a 404, which ends the list."""
    project_id = studio.create_project()
    task_ids = [studio.add_task(project_id, {"image": f"/{n}.png"}) for n in range(PAGE_SIZE + 5)]

    def delete_the_second_page(read: int, _total: int) -> None:
        for task_id in task_ids[PAGE_SIZE:] if read == PAGE_SIZE else ():
            studio.delete_task(task_id)

    snapshot = client.fetch_snapshot(project_id, delete_the_second_page)
    assert [task.task_id for task in snapshot.tasks] == task_ids[:PAGE_SIZE]


def test_a_thousand_uploaded_images_are_listed_and_served(
    studio: FakeLabelStudio, client: LabelStudio
) -> None:
    """On SQLite Label Studio has no page of so many."""
    project_id = studio.create_project()
    task_ids = [studio.add_task(project_id, {"image": f"/data/upload/1/{n}.png"}) for n in range(1000)]
    assert client.fetch_task_ids(project_id) == set(task_ids)
    client.publish(project_id, predictions(task_ids, "coreset-1-a"), None)
    assert list(client.first_served(project_id, 1000)) == task_ids
    assert list(client.first_served(project_id, 7)) == task_ids[:7]
    assert client.first_served(project_id, 0) == {}


# ---------------------------------------------------------------- a publish that is interrupted

STEPS = {
    "reading the versions": ("GET", "model-versions", 0),
    "importing": ("POST", "import/predictions", 0),
    "switching": ("PATCH", r"/api/projects/\d+/$", 0),
    "reading the old versions": ("GET", "model-versions", 1),
    "deleting the old version": ("DELETE", "model-versions", 0),
    "reading the order back": ("GET", "/api/tasks", 0),
}


@pytest.mark.parametrize("kind", [500, "cut", 401])
@pytest.mark.parametrize("step", STEPS)
def test_annotators_see_the_old_batch_or_the_new_one_never_a_mixture(
    studio: FakeLabelStudio,
    client: LabelStudio,
    project: tuple[int, list[int]],
    step: str,
    kind: int | str,
) -> None:
    project_id, task_ids = project
    old, new = task_ids[:3], task_ids[3:]
    client.publish(project_id, predictions(old, "coreset-1-a"), None)
    method, path, skip = STEPS[step]
    studio.fail(kind, path, method=method, skip=skip)
    written = ["coreset-1-a"]
    tidying = step in ("reading the old versions", "deleting the old version")
    with contextlib.nullcontext() if tidying else pytest.raises(LabelStudioError):
        published = client.publish(project_id, predictions(new, "coreset-2-b"), None, written=written)
        assert published.serves == tuple(new)
        assert published.kept == (("coreset-1-a",) if step == "deleting the old version" else ())
    switched = tidying or step == "reading the order back"
    assert studio.queue(project_id) == (new if switched else old)
    studio.heal()
    published = client.publish(project_id, predictions(new, "coreset-2-b"), None, written=written)
    assert published.serves == tuple(new)
    assert studio.queue(project_id) == new
    assert studio.versions(project_id) == {"coreset-2-b": len(new)}


def test_an_import_that_was_stored_but_not_answered_is_not_stored_twice(
    studio: FakeLabelStudio, client: LabelStudio, project: tuple[int, list[int]]
) -> None:
    project_id, task_ids = project
    for count in (len(task_ids), 2):  # all of it, or a part of it
        version = f"coreset-{count}-a"
        studio.predictions.clear()
        client.publish(project_id, predictions(task_ids[:count], version), None)
        client.publish(project_id, predictions(task_ids, version), None)
        assert studio.versions(project_id) == {version: len(task_ids)}


# ---------------------------------------------------------------- tokens


def test_a_personal_token_survives_a_restart_of_label_studio_and_a_failing_token_desk(
    studio: FakeLabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
) -> None:
    key = admin.post("/api/token/", json={}).json()["token"]
    client = LabelStudio(studio.url, key)
    studio.fail(500, "/api/token/refresh")
    with pytest.raises(Rejected, match="answered 500 to POST /api/token/refresh/"):
        client.fetch_project(project[0])
    studio.heal()
    assert client.fetch_project(project[0]).project_id == project[0]
    studio.personal_token = ""
    client.auth._access = "signed with the secret of before the restart"
    with pytest.raises(Unauthorized, match="does not accept the token in LABEL_STUDIO_API_KEY"):
        client.fetch_project(project[0])
    client.close()
