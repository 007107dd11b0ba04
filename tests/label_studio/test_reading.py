"""A project's tasks, of which only those are read that are new or have changed: as good as a full reading."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from fake_label_studio import FakeLabelStudio, choices_config
from label_studio_contract import readings_with_changes

from coreset_backend.errors import ProjectGone, Unreachable
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.reading import ALL_AGAIN_AFTER, ReadTasks, read_tasks
from coreset_backend.label_studio.task_lists import PAGE_SIZE
from coreset_backend.project import KnownTasks
from coreset_backend.store.store import Store


def checked(client: LabelStudio, project_id: int, known: KnownTasks | None) -> ReadTasks:
    """A reading that found what a full one finds."""
    read = read_tasks(client, project_id, known)
    assert read.snapshot.tasks == client.fetch_snapshot(project_id).tasks
    return read


@pytest.mark.parametrize("seed", range(10, 13))
def test_any_changes_between_two_readings_are_found(
    studio: FakeLabelStudio, client: LabelStudio, admin: httpx.Client, seed: int
) -> None:
    assert readings_with_changes(client, admin, studio.create_project(8), seed, 30) >= 9


def test_only_what_is_new_or_has_changed_is_listed(studio: FakeLabelStudio, client: LabelStudio) -> None:
    project_id = studio.create_project()
    task_ids = [studio.add_task(project_id, {"image": f"/{n}.png"}) for n in range(PAGE_SIZE + 600)]
    first = checked(client, project_id, None)
    assert first.reading.words == "all 1,500 tasks, because no earlier reading is known"
    studio.annotate(task_ids[3], "cat")
    studio.change_data(task_ids[7], {"image": "/other.png"})
    studio.add_task(project_id, {"image": "/new.png"})
    studio.asked.clear()
    second = checked(client, project_id, first.known)
    assert second.reading.words == "3 of 1,501 tasks: those that are new or have changed"
    studio.asked.clear()
    assert checked(client, project_id, second.known).reading.listed <= 3


def test_a_server_whose_clock_is_behind_hides_no_change(studio: FakeLabelStudio, client: LabelStudio) -> None:
    project_id = studio.create_project(6)
    task_ids = [task["id"] for task in studio.tasks_of(project_id)]
    studio.annotate(task_ids[0], "cat")
    known = checked(client, project_id, None).known
    for lag in (50, -50, 0, 50):
        studio.lag = timedelta(seconds=lag)
        studio.change_data(task_ids[1], {"image": f"/{lag}.png"})
        read = checked(client, project_id, known)
        assert not read.reading.why
        known = read.known


def test_tasks_saved_with_a_time_in_the_future_do_not_hide_later_changes(
    studio: FakeLabelStudio, client: LabelStudio
) -> None:
    """Label Studio saves the deletion of annotations with a local time that it takes for UTC."""
    project_id = studio.create_project(4)
    task_ids = [task["id"] for task in studio.tasks_of(project_id)]
    studio.lag = timedelta(hours=-9)
    studio.touch(task_ids[0])
    studio.lag = timedelta()
    known = checked(client, project_id, None).known
    studio.change_data(task_ids[1], {"image": "/other.png"})
    assert not checked(client, project_id, known).reading.why


WHY_ALL = {
    "a day": "the last time was a day ago",
    "clock": "the last time was a day ago",
    "image": "the label config shows another image",
    "site": "the last reading was of another address of Label Studio",
    "unfiltered": "Label Studio does not filter tasks by their ids",
    "refused": "Label Studio refuses to list only what has changed",
    "deleted": "Label Studio has 5 tasks, and 6 were known",
    "untimed": "Label Studio does not say when its tasks were changed",
    "moved": "Label Studio does not find the task that was changed last",
}


@pytest.mark.parametrize("case", WHY_ALL)
def test_all_tasks_are_read_where_a_change_could_be_missed(
    studio: FakeLabelStudio, client: LabelStudio, case: str
) -> None:
    project_id = studio.create_project(6)
    known, tasks = checked(client, project_id, None).known, studio.tasks_of(project_id)
    match case:
        case "a day":
            known = replace(known, all_read_at=known.all_read_at - ALL_AGAIN_AFTER)
        case "clock":
            known = replace(known, all_read_at=known.all_read_at + 3600)
        case "image":
            other = choices_config(("cat", "dog")).replace("$image", "$photo")
            studio.projects[project_id]["label_config"] = other
            tasks[2]["data"]["photo"] = "/photo.png"
        case "site":
            known = replace(known, site="http://elsewhere")
        case "unfiltered":
            studio.filters = False
        case "refused":
            studio.fail(500, "/api/tasks/", skip=1, times=3)  # the first is for the time
        case "deleted":
            studio.delete_task(tasks[3]["id"])
        case "untimed":
            for task in tasks:
                task["updated_at"] = None
        case "moved":
            future = datetime.fromisoformat(known.since) + timedelta(hours=5)
            known = replace(known, since=future.isoformat())
    read = checked(client, project_id, known)
    assert read.reading.why == WHY_ALL[case]
    assert read.reading.listed == read.reading.tasks == len(studio.tasks_of(project_id))
    if case not in ("unfiltered", "untimed"):
        assert not checked(client, project_id, read.known).reading.why


def test_addresses_with_secrets_are_not_kept_and_read_again(
    studio: FakeLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    project_id, store = studio.create_project(3), Store(tmp_path)
    for uri in (
        "https://bucket.example/a.jpg?X-Amz-Signature=s3cret",
        "https://user:s3cret@example.com/b.jpg",
        "DATA:image/png;base64,s3cret",
        "https://example.com/c.jpg#s3cret",
        "https://example.com/" + "s3cret" * 400,
    ):
        studio.add_task(project_id, {"image": uri})
    studio.add_task(project_id, {"text": "no image"})
    first = checked(client, project_id, None)
    store.keep_known_tasks(project_id, first.known)
    assert b"s3cret" not in (tmp_path / f"projects/{project_id}/tasks.json").read_bytes()
    known = store.known_tasks(project_id)
    assert known and known.uris == first.known.uris and len(known.withheld) == 5
    read = checked(client, project_id, known)
    assert not read.reading.why and read.known.uris == known.uris


def test_a_damaged_file_is_read_as_none(studio: FakeLabelStudio, client: LabelStudio, tmp_path: Path) -> None:
    project_id, store = studio.create_project(3), Store(tmp_path)
    assert store.known_tasks(project_id) is None
    store.keep_known_tasks(project_id, checked(client, project_id, None).known)
    path = tmp_path / f"projects/{project_id}/tasks.json"
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 20):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert store.known_tasks(project_id) is None


def test_a_label_studio_that_is_down_or_a_project_that_is_gone_is_an_error(
    studio: FakeLabelStudio, client: LabelStudio
) -> None:
    project_id = studio.create_project(3)
    known = checked(client, project_id, None).known
    studio.fail("cut", "/api/tasks/", skip=1)
    with pytest.raises(Unreachable):
        read_tasks(client, project_id, known)
    studio.heal()
    studio.delete_project(project_id)
    with pytest.raises(ProjectGone):
        read_tasks(client, project_id, known)
