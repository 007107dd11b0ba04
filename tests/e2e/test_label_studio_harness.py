"""The real Label Studio without our backend: what the other tests here, and the recipe, rely on."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from coreset_backend.errors import Rejected
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = pytest.mark.e2e
N = 12
VERSION = "coreset-1-by-hand"


@pytest.fixture(scope="module")
def images(label_studio: demo.LabelStudioServer) -> Path:
    folder = label_studio.document_root / "harness"
    make_images(folder, N, seed=1, size=64)
    return folder


def local_files_project(label_studio: demo.LabelStudioServer, images: Path, title: str) -> int:
    return demo_project.create_demo_project(
        label_studio.url, label_studio.login.token, images, title, CLASSES
    )


def uploaded_project(label_studio: demo.LabelStudioServer, images: Path, title: str) -> int:
    with demo_project.open_session(label_studio.url, label_studio.login.token) as session:
        project_id = demo_project.create_project(session, title, demo_project.choices_config(CLASSES))
        demo_project.upload_images(session, project_id, sorted(images.iterdir()))
    return project_id


@pytest.fixture(params=[local_files_project, uploaded_project])
def project_id(request: Any, label_studio: demo.LabelStudioServer, images: Path) -> int:
    how, test = request.param, request.node.originalname
    return how(label_studio, images, f"{how.__name__} {test}"[:50])  # a longer title is refused


def tasks_of(admin: httpx.Client, project_id: int) -> dict[int, str]:
    """Image address by task id."""
    query = {"project": project_id, "include": "id,data", "page_size": 1000}
    tasks = admin.get("/api/tasks/", params=query).raise_for_status().json()["tasks"]
    return {task["id"]: task["data"]["image"] for task in tasks}


def publish(admin: httpx.Client, project_id: int, task_ids: list[int]) -> None:
    """Serve these tasks first and in this order, by the steps of the recipe."""
    admin.patch(f"/api/projects/{project_id}/", json={"sampling": "Uncertainty sampling"}).raise_for_status()
    rows = [
        {"task": task_id, "result": [], "score": rank / len(task_ids), "model_version": VERSION}
        for rank, task_id in enumerate(task_ids)
    ]
    answer = admin.post(f"/api/projects/{project_id}/import/predictions", json=rows).raise_for_status()
    assert answer.json()["created"] == len(task_ids)
    admin.patch(f"/api/projects/{project_id}/", json={"model_version": VERSION}).raise_for_status()


def test_every_image_becomes_one_task_that_serves_its_bytes(
    admin: httpx.Client, project_id: int, images: Path
) -> None:
    tasks = tasks_of(admin, project_id)
    served = sorted(admin.get(address).raise_for_status().content for address in tasks.values())
    assert served == sorted(path.read_bytes() for path in images.iterdir())


def test_addresses_name_no_host_so_that_the_port_may_change(admin: httpx.Client, project_id: int) -> None:
    assert all(address.startswith("/data/") for address in tasks_of(admin, project_id).values())


def test_two_annotators_get_the_published_tasks_in_order(
    admin: httpx.Client, new_annotator: Callable[[str], Any], project_id: int
) -> None:
    order = sorted(tasks_of(admin, project_id), reverse=True)[2:8]
    publish(admin, project_id, order)
    people = [new_annotator(f"{name}-{project_id}@example.com") for name in ("cleo", "dora")]
    served = []
    for turn in range(len(order)):
        person = people[turn % 2]
        task_id = person.next_task(project_id)
        served.append(task_id)
        person.submit(task_id, CLASSES[0])
    assert served == order
    assert people[0].next_task(project_id) not in order


def test_a_task_held_by_one_annotator_is_not_shown_to_the_next(
    admin: httpx.Client, new_annotator: Callable[[str], Any], project_id: int
) -> None:
    order = sorted(tasks_of(admin, project_id))[:2]
    publish(admin, project_id, order)
    people = [new_annotator(f"{name}-{project_id}@example.com") for name in ("emma", "flora", "gerda")]
    assert [person.next_task(project_id) for person in people] == [*order, None]
    assert people[0].next_task(project_id) == order[0]


def test_a_skipped_task_is_no_label_and_goes_to_somebody_else(
    admin: httpx.Client, new_annotator: Callable[[str], Any], project_id: int
) -> None:
    order = sorted(tasks_of(admin, project_id))[:3]
    publish(admin, project_id, order)
    first, second = (new_annotator(f"{name}-{project_id}@example.com") for name in ("hilda", "ida"))
    assert first.next_task(project_id) == order[0]
    first.skip(order[0])
    assert first.next_task(project_id) == order[1]
    assert second.next_task(project_id) == order[0]
    assert not admin.get(f"/api/tasks/{order[0]}/").json()["is_labeled"]


def test_the_demo_project_is_made_once_and_found_by_its_whole_title(
    admin: httpx.Client, label_studio: demo.LabelStudioServer, images: Path
) -> None:
    longer = local_files_project(label_studio, images, "Finds on a table")
    project_id = local_files_project(label_studio, images, "Finds on a")
    assert project_id != longer
    assert local_files_project(label_studio, images, "Finds on a") == project_id
    assert len(tasks_of(admin, project_id)) == N


def test_more_images_than_one_request_may_carry_are_uploaded(
    admin: httpx.Client, label_studio: demo.LabelStudioServer, tmp_path: Path
) -> None:
    make_images(tmp_path / "many", 110, seed=2, size=32)
    project_id = uploaded_project(label_studio, tmp_path / "many", "More than a hundred")
    assert len(tasks_of(admin, project_id)) == 110


@pytest.mark.soak
def test_a_thousand_uploaded_images_are_listed_whole(
    admin: httpx.Client, label_studio: demo.LabelStudioServer, tmp_path: Path
) -> None:
    """Label Studio 1.23.2 on SQLite answers 500 to a page of more than 998 of them."""
    names = make_images(tmp_path / "many", 1000, seed=2, size=32)
    project_id = uploaded_project(label_studio, tmp_path / "many", "A thousand")
    with contextlib.closing(LabelStudio(label_studio.url, label_studio.login.token)) as client:
        assert len(client.fetch_task_ids(project_id)) == len(list(names)) == 1000


def test_a_folder_outside_the_document_root_is_refused_with_the_reason(
    label_studio: demo.LabelStudioServer, tmp_path: Path
) -> None:
    with pytest.raises(Rejected, match="Absolute local path"):
        local_files_project(label_studio, tmp_path, "Images elsewhere")


def test_a_refusal_says_what_label_studio_objects_to(
    label_studio: demo.LabelStudioServer, images: Path
) -> None:
    with pytest.raises(Rejected, match="no more than 50 characters"):
        local_files_project(label_studio, images, "A title " * 10)
