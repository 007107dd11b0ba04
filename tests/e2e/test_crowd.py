"""A crowd at the real Label Studio: nobody is sent away while a task is free, and no label is lost."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from crowd import Account, label_all
from e2e_stack import Annotator, Stack, running_stack

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

log = logging.getLogger(__name__)
pytestmark = pytest.mark.e2e
NewAnnotator = Callable[[str], Annotator]


def make_project(
    server: demo.LabelStudioServer,
    admin: httpx.Client,
    title: str,
    n: int,
    overlap: int = 1,
    trigger: str = "auto",
) -> int:
    """A project of ``n`` drawn images that Label Studio reads from a folder of its own."""
    folder = server.document_root / title
    folder.mkdir()
    make_images(folder, n, seed=n)
    config = demo_project.choices_config(CLASSES).replace("<View>", f'<View coreset_trigger="{trigger}">')
    project_id = demo_project.create_project(admin, title, config)
    admin.patch(f"/api/projects/{project_id}/", json={"maximum_annotations": overlap}).raise_for_status()
    demo_project.connect_local_files(admin, project_id, folder)
    return project_id


def annotations_by_task(admin: httpx.Client, project_id: int) -> Counter[int]:
    """Counted one by one: two that come at once may leave Label Studio's own count at one."""
    parameters = {"project": project_id, "page_size": 10_000, "fields": "all", "include": "id,annotations"}
    tasks = admin.get("/api/tasks/", params=parameters).raise_for_status().json()["tasks"]
    return Counter({task["id"]: len(task["annotations"]) for task in tasks})


def assert_all_is_labeled(account: Account, stored: Counter[int], n: int, overlap: int = 1) -> None:
    """Nobody was sent away from a free task, every task has its labels, and every label taken is there."""
    log.info(
        "%d tasks, %d labels in %.0f s; refused by a locked SQLite: %d; labelled more often than asked: %d; "
        "answers of no tasks, each while others had all that waited: %d",
        *(n, len(account.submitted), account.seconds, account.refused),
        *(sum(count > overlap for count in stored.values()), len(account.no_tasks)),
    )
    assert account.sent_away == []
    assert len(stored) == n and min(stored.values()) >= overlap
    taken = Counter(account.submitted)
    assert not taken - stored, "a label that was taken is lost"


@pytest.mark.slow
def test_eight_annotators_are_never_sent_away_where_no_round_follows(
    stack: Stack, label_studio: demo.LabelStudioServer, admin: httpx.Client, new_annotator: NewAnnotator
) -> None:
    """As where the worker is dead; one annotator opens a task and leaves it open to the end."""
    project_id = make_project(label_studio, admin, "Manual crowd", 64, trigger="manual")
    stack.connect(project_id)
    first = stack.wait_for_round(project_id, 1)
    stack.wait_until_idle(project_id)
    annotators = [new_annotator(f"manual{number}@example.com") for number in range(8)]
    account = label_all(annotators, project_id, CLASSES, sleeper=True)
    assert_all_is_labeled(account, annotations_by_task(admin, project_id), 64)
    assert account.out_of_turn(first["published"]["serves"]) == []
    assert stack.status(project_id)["round"]["number"] == 1


@pytest.mark.soak
@pytest.mark.parametrize(("n", "batch", "overlap"), [(120, 20, 1), (120, 20, 2), (2000, 50, 1)])
def test_eight_annotators_label_a_whole_pool_while_rounds_follow(
    label_studio: demo.LabelStudioServer,
    admin: httpx.Client,
    new_annotator: NewAnnotator,
    tmp_path: Path,
    n: int,
    batch: int,
    overlap: int,
) -> None:
    settings = {"CORESET_BATCH_SIZE": str(batch), "CORESET_BACKBONE": "small_cnn"}
    with running_stack(tmp_path, label_studio.url, label_studio.login.token, **settings) as stack:
        project_id = make_project(label_studio, admin, f"Crowd {n} {overlap}", n, overlap)
        stack.connect(project_id)
        stack.wait_for_round(project_id, 1, 600)
        annotators = [new_annotator(f"crowd{n}.{overlap}.{number}@example.com") for number in range(8)]
        account = label_all(annotators, project_id, CLASSES)
        assert_all_is_labeled(account, annotations_by_task(admin, project_id), n, overlap)
        log.info("%d rounds", stack.status(project_id)["round"]["number"])
