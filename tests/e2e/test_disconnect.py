"""A team's own predictions and settings on a real Label Studio: kept, shown, and put back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e_stack import Stack
from label_studio_contract import import_by_hand
from waiting import wait_until

from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = pytest.mark.e2e
YOLO = "pool-detector-v3"


@pytest.fixture
def client(label_studio: demo.LabelStudioServer) -> Iterator[LabelStudio]:
    opened = LabelStudio(label_studio.url, label_studio.login.token)
    yield opened
    opened.close()


@pytest.fixture
def project_id(admin: httpx.Client, tmp_path: Path) -> int:
    made = demo_project.create_project(admin, "A team's project", demo_project.choices_config(CLASSES))
    names = [name for name, _ in make_images(tmp_path, 40, seed=41)]
    demo_project.upload_images(admin, made, [tmp_path / name for name in names])
    return made


def everything_shown(admin: httpx.Client, client: LabelStudio, project_id: int) -> Any:
    """What a person sees of the project's settings and tabs, but for ids."""
    project = admin.get(f"/api/projects/{project_id}/").json()
    tabs = admin.get("/api/dm/views/", params={"project": project_id}).json()
    return {
        "sampling": project["sampling"],
        "version": project["model_version"] or "",
        "versions": client.model_versions(project_id),
        "backends": [each.url for each in client.backends(project_id)],
        "webhooks": [each.url for each in client.webhooks(project_id)],
        "tabs": [tab["data"]["title"] for tab in tabs],
    }


def test_a_teams_predictions_stay_in_sight_and_disconnect_puts_all_back(
    stack: Stack, admin: httpx.Client, client: LabelStudio, project_id: int
) -> None:
    task_ids = sorted(client.fetch_task_ids(project_id))
    import_by_hand(admin, project_id, task_ids, YOLO, CLASSES[1])
    admin.patch(f"/api/projects/{project_id}/", json={"model_version": YOLO}).raise_for_status()
    before = everything_shown(admin, client, project_id)

    assert f"shows predictions of version '{YOLO}' (40 of them)" in stack.connect(project_id)
    first = stack.wait_for_round(project_id, 1)
    shown = client.fetch_results(project_id, first["model_version"], first["batch"])
    assert [shown[each][0]["value"]["choices"] for each in first["batch"]] == [[CLASSES[1]]] * 24
    assert client.model_versions(project_id)[YOLO] == 40
    stack.wait_until_idle(project_id)
    assert f"instead of version '{YOLO}'" in stack.cli("status", "--project", str(project_id)).stdout

    action = {"selectedItems": {"all": False, "included": first["batch"][:10]}}
    where = {"id": "delete_tasks_predictions", "project": project_id}
    admin.post("/api/dm/actions/", params=where, json=action).raise_for_status()
    wait_until(
        lambda: client.count_unserved(project_id, first["batch"]) == 0, "the batch to be published again", 240
    )
    stack.wait_until_idle(project_id)

    for words in ("Backend", "was not connected"):
        disconnected = stack.cli("disconnect", "--project", str(project_id))
        assert disconnected.returncode == 0, disconnected.stderr
        assert words in disconnected.stdout
        found = everything_shown(admin, client, project_id)
        assert found == {**before, "versions": {YOLO: 30}}, disconnected.stdout
        assert stack.status(project_id)["round"] is None

    stack.connect(project_id)
    assert stack.wait_for_round(project_id, 1)["batch"] == first["batch"]
    stack.cli("disconnect", "--project", str(project_id))
    assert everything_shown(admin, client, project_id) == {**before, "versions": {YOLO: 30}}


def test_a_project_connected_by_an_sdk_is_served_from_its_first_round(
    stack: Stack, admin: httpx.Client, client: LabelStudio, project_id: int
) -> None:
    address = stack.environment["CORESET_URL"].replace("localhost", "127.0.0.1")
    body = {"project": project_id, "title": "By an SDK", "url": address}
    admin.post("/api/ml/", json=body).raise_for_status()
    stack.wait_for_round(project_id, 1)
    stack.wait_until_idle(project_id)
    assert admin.get(f"/api/projects/{project_id}/").json()["sampling"] == "Uncertainty sampling"
    [webhook] = client.webhooks(project_id)
    assert webhook.headers[SECRET_HEADER]
    checked = stack.cli("doctor", "--project", str(project_id))
    assert checked.returncode == 0, checked.stdout
    stack.cli("disconnect", "--project", str(project_id))
    assert client.backends(project_id) == []
