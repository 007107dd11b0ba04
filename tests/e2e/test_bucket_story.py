"""The story with the store in a bucket, by two hosts on a real Label Studio."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from buckets import S3Server, running_s3
from e2e_stack import running_stack

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
TITLE = "Story by two hosts"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


def a_host(folder: Path, label_studio: demo.LabelStudioServer, s3: S3Server) -> Any:
    """A machine whose copies and Redis are in ``folder``, with web and worker."""
    return running_stack(
        folder,
        label_studio.url,
        label_studio.login.token,
        MODEL_DIR="s3://rounds/team a",
        CORESET_ALLOWED_HOSTS="127.0.0.1",
        **s3.environment,
    )


def test_a_second_host_goes_on_where_the_first_was_lost(
    label_studio: demo.LabelStudioServer,
    admin: httpx.Client,
    new_annotator: Callable[[str], Any],
    s3: S3Server,
    tmp_path: Path,
) -> None:
    folder = label_studio.document_root / "two-hosts"
    truth = dict(make_images(folder, 120, seed=11))
    project_id = demo_project.create_demo_project(
        label_studio.url, label_studio.login.token, folder, TITLE, CLASSES
    )
    person = new_annotator("ida@example.com")
    (one := tmp_path / "one").mkdir()
    with a_host(one, label_studio, s3) as stack:
        assert "Secret set on the webhook" in stack.connect(project_id)
        first = stack.wait_for_round(project_id, 1)
        _label(person, admin, project_id, first["batch"], truth)
        second = stack.wait_for_round(project_id, 2)
        assert second["training"]["n_train"] + second["training"]["n_holdout"] == len(first["batch"])
        stack.wait_until_idle(project_id)
        doctor = stack.cli("doctor", "--project", str(project_id))
        assert "Rounds are in s3://rounds/team a; this machine has its copies" in doctor.stdout
        assert doctor.returncode == 0, doctor.stdout
    (two := tmp_path / "two").mkdir()
    with a_host(two, label_studio, s3) as stack:
        assert stack.status(project_id)["round"]["number"] == 2
        page = httpx.get(f"{stack.url}/projects/{project_id}", trust_env=False, timeout=60)
        assert page.status_code == 200 and TITLE in page.text
        stack.connect(project_id)  # at its own address, with the same secret
        _label(person, admin, project_id, second["batch"], truth)
        third = stack.wait_for_round(project_id, 3)
        assert not set(third["batch"]) & {*first["batch"], *second["batch"]}
        stack.wait_until_idle(project_id)
        assert person.next_task(project_id) == third["batch"][0]
        back = stack.cli("rollback", "--project", str(project_id), "--round", "1")
        assert back.returncode == 0, back.stderr
    copies = list((tmp_path / "two/.cache/coreset-backend").glob("rounds-*/projects"))
    assert copies and not list(one.glob("data")), "rounds are nowhere but in the bucket and its copies"


def _label(
    person: Any, admin: httpx.Client, project_id: int, batch: list[int], truth: dict[str, str]
) -> None:
    params: dict[str, Any] = {"project": project_id, "page_size": 200, "include": "id,data"}
    tasks = admin.get("/api/tasks/", params=params | {"resolve_uri": "false"}).json()["tasks"]
    names = {task["id"]: task["data"]["image"].rsplit("/", 1)[-1] for task in tasks}
    for task_id in batch:
        person.submit(task_id, truth[names[task_id]])
