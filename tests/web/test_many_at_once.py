"""The API of labels in bulk and of examples, and what their card shows."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_label_studio import TOKEN, FakeLabelStudio
from flask.testing import FlaskClient
from saved_rounds import LABELS, record

from coreset_backend.backend import Backend
from coreset_backend.finish.bulk import advance_bulk, read_writes
from coreset_backend.store.examples import MOST_EXAMPLES
from coreset_backend.web.app import create_app


@pytest.fixture
def backend(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> Backend:
    return make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)


@pytest.fixture
def client(backend: Backend) -> FlaskClient:
    return create_app(backend).test_client()


@pytest.fixture
def project_id(backend: Backend, studio: FakeLabelStudio) -> int:
    made = studio.create_project(6)
    task_ids = np.array([task["id"] for task in studio.tasks_of(made)])
    with backend.store.draft(made) as draft:
        arrays = {
            "task_ids": task_ids,
            "states": np.full(6, 3, dtype=np.uint8),
            "embedded_task_ids": task_ids,
            "layout": np.zeros((6, 2), dtype=np.uint16),
            "label_codes": np.full(6, -1, dtype=np.int16),
        }
        draft.save(record(1, project_id=made, labels=LABELS), arrays)
    return made


def post(client: FlaskClient, project_id: int, path: str, **body: Any) -> Any:
    return client.post(f"/api/projects/{project_id}/{path}", json=body)


def words(client: FlaskClient, project_id: int) -> str:
    html = client.get(f"/projects/{project_id}?tab=pool").text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html[html.index('id="bulk-status"') :]))


def test_a_label_is_shown_written_and_undone(
    backend: Backend, client: FlaskClient, studio: FakeLabelStudio, project_id: int
) -> None:
    some = [task["id"] for task in studio.tasks_of(project_id)][:3]
    planned = post(client, project_id, "bulk", task_ids=some, label=["cat"], dry_run=True)
    assert planned.status_code == 200
    assert planned.json["sentence"].startswith("3 annotations “cat” will be written as lead@example.com.")
    assert planned.json["writes"] == []
    begun = post(client, project_id, "bulk", task_ids=[*some, some[0]], label=["cat"]).json
    assert (begun["writes"][0]["images"], begun["writes"][0]["state"]) == (3, "writing")
    assert "data-open" in client.get(f"/projects/{project_id}?tab=pool").text
    assert backend.jobs_waiting == 1
    while advance_bulk(backend, project_id):
        pass
    assert "written “cat” is written on 3 images." in words(client, project_id)
    version = begun["writes"][0]["version"]
    undone = post(client, project_id, "bulk/undo", version=version).json
    assert undone["writes"][0]["state"] == "undoing"
    while advance_bulk(backend, project_id):
        pass
    assert not any(task["annotations"] for task in studio.tasks_of(project_id))
    assert client.get(f"/api/projects/{project_id}/bulk").json["writes"][0]["state"] == "undone"  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("bulk", {"task_ids": ["1"], "label": ["cat"]}, 400, "`task_ids` must be a list of up to 5,000 task"),
        ("bulk", {"task_ids": [0], "label": ["cat"]}, 400, "`task_ids` must be"),
        ("bulk", {"task_ids": list(range(1, 5002)), "label": ["cat"]}, 400, "up to 5,000"),
        ("bulk", {"task_ids": [1], "label": "cat"}, 400, "`label` must be a list of classes"),
        ("bulk", {"task_ids": [1], "label": ["cat"], "dry_run": 1}, 400, "`dry_run` must be true or false"),
        ("bulk", {"task_ids": [1], "label": ["wolf"]}, 409, "no class 'wolf'; it has cat, dog"),
        ("bulk", {"task_ids": [], "label": ["cat"]}, 409, "No image is selected"),
        ("bulk/undo", {"version": "bulk-1"}, 409, "no write 'bulk-1' to undo"),
        ("bulk/undo", {}, 400, "`version` must be the version of a write"),
        ("examples", {"task_ids": [1], "like": "most"}, 400, "`like` must be 'more', 'fewer' or 'neither'"),
        (
            "examples",
            {"task_ids": list(range(1, MOST_EXAMPLES + 2)), "like": "more"},
            409,
            "up to 200 can be",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(
    backend: Backend,
    client: FlaskClient,
    project_id: int,
    path: str,
    body: dict[str, Any],
    status: int,
    told: str,
) -> None:
    answer = post(client, project_id, path, **body)
    assert (answer.status_code, told in answer.json["error"]) == (status, True), answer.json
    assert read_writes(backend.store, project_id) == ()


def test_other_sites_and_strangers_write_nothing(
    make_backend: Callable[..., Backend], backend: Backend, project_id: int
) -> None:
    body = {"task_ids": [1], "label": ["cat"]}
    client = create_app(backend).test_client()
    for path in ("bulk", "bulk/undo", "examples"):
        foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        answer = client.post(f"/api/projects/{project_id}/{path}", json=body, headers=foreign)
        assert answer.status_code == 403
    guarded = make_backend(
        basic_auth_user="ops", basic_auth_pass="pass", model_dir=backend.settings.model_dir
    )
    client = create_app(guarded).test_client()
    for path in ("bulk", "bulk/undo", "examples"):
        assert client.post(f"/api/projects/{project_id}/{path}", json=body).status_code == 401


def test_examples_are_kept_shown_and_removed(client: FlaskClient, project_id: int) -> None:
    assert post(client, project_id, "examples", task_ids=[1, 2], like="more").status_code == 200
    marked = post(client, project_id, "examples", task_ids=[2], like="fewer").json
    assert marked["examples"] == [{"task_id": 1, "weight": 4.0}, {"task_id": 2, "weight": 0.25}]
    assert client.get(f"/api/projects/{project_id}/examples").json == marked
    assert "more × 4" in words(client, project_id) and "fewer × 0.25" in words(client, project_id)
    assert post(client, project_id, "examples", task_ids=[1, 2], like="neither").json["examples"] == []
    assert "× 4" not in words(client, project_id)


def test_damaged_files_are_told_on_the_page(backend: Backend, client: FlaskClient, project_id: int) -> None:
    folder = backend.store.root / f"projects/{project_id}"
    for name in ("bulk.json", "examples.json"):
        (folder / name).write_text("{}")
    told = words(client, project_id)
    assert "Delete bulk.json" in told and "Delete examples.json" in told
    assert post(client, project_id, "examples", task_ids=[1], like="more").status_code == 409
