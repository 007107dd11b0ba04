"""What goes wrong at real sites, on a real Label Studio: each time a clear sentence, and nothing lost."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e_stack import Stack, running_stack
from paths import ROOT

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = pytest.mark.e2e
BOXES = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image">'
    '<Label value="disc"/></RectangleLabels></View>'
)


# Large images make a fit last for seconds, so that something can happen in its middle.
SLOW_FIT = {"CORESET_BACKBONE": "small_cnn", "CORESET_IMAGE_SIZE": "192"}


def make_project(session: httpx.Client, title: str, config: str, images: list[Path]) -> int:
    project_id = demo_project.create_project(session, title, config)
    demo_project.upload_images(session, project_id, images)
    return project_id


def make_connected(
    stack: Stack, session: httpx.Client, title: str, images: list[Path], labels: Sequence[str] = CLASSES
) -> tuple[int, Any]:
    """A project of choices with its first round: its id and the round."""
    project_id = make_project(session, title, demo_project.choices_config(labels), images)
    stack.connect(project_id)
    return project_id, stack.wait_for_round(project_id, 1)


def draw(folder: Path, n: int, seed: int) -> list[Path]:
    return [folder / name for name, _ in make_images(folder, n, seed)]


def submit(session: httpx.Client, task_ids: list[int], result: list[dict[str, Any]]) -> None:
    for task_id in task_ids:
        body = {"result": result}
        session.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()


def choice(label: str) -> list[dict[str, Any]]:
    return [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}]


def test_broken_and_missing_images_are_named_and_left_out(
    stack: Stack, admin: httpx.Client, tmp_path: Path
) -> None:
    images = draw(tmp_path, 40, seed=21)
    images[3].write_bytes(images[3].read_bytes()[:200])
    images[4].write_bytes(b"<html>not an image</html>")
    project_id = make_project(admin, "Broken images", demo_project.choices_config(CLASSES), images)
    missing = [{"image": "/data/upload/1/never-uploaded.jpg"}]
    admin.post(f"/api/projects/{project_id}/import", json=missing).raise_for_status()
    stack.connect(project_id)
    first = stack.wait_for_round(project_id, 1)
    assert first["counts"]["unreadable"] == 3
    assert sum(first["counts"].values()) == 41
    assert len(first["batch"]) == 24
    reasons = {failure["uri"].rsplit("-", 1)[-1]: failure["reason"] for failure in first["unreadable"]}
    assert reasons.keys() == {images[3].name, images[4].name, "uploaded.jpg"}
    assert all(reasons.values())


def test_an_empty_project_says_so_and_starts_when_images_come(
    stack: Stack, admin: httpx.Client, tmp_path: Path
) -> None:
    project_id = make_project(admin, "Still empty", demo_project.choices_config(CLASSES), [])
    stack.connect(project_id)
    assert "has no tasks yet. Import images" in stack.wait_for_error(project_id)
    demo_project.upload_images(admin, project_id, draw(tmp_path, 60, seed=22))
    assert len(stack.wait_for_round(project_id, 1)["batch"]) == 24


def test_labels_are_found_although_the_webhook_is_gone(
    stack: Stack, admin: httpx.Client, tmp_path: Path
) -> None:
    project_id, first = make_connected(stack, admin, "Lost webhook", draw(tmp_path, 60, seed=23))
    for webhook in admin.get("/api/webhooks/", params={"project": project_id}).json():
        admin.delete(f"/api/webhooks/{webhook['id']}/").raise_for_status()
    submit(admin, first["batch"], choice(CLASSES[0]))
    assert stack.wait_for_round(project_id, 2)["counts"]["labeled"] == 24
    checked = stack.cli("doctor", "--project", str(project_id))
    assert checked.returncode == 1
    assert "coreset-backend connect --project" in checked.stdout


def test_a_project_of_boxes_is_selected_for_without_training(
    stack: Stack, admin: httpx.Client, tmp_path: Path
) -> None:
    project_id = make_project(admin, "Boxes", BOXES, draw(tmp_path, 60, seed=24))
    assert "selection only" in stack.connect(project_id)
    first = stack.wait_for_round(project_id, 1)
    box = {"x": 10, "y": 10, "width": 30, "height": 30, "rectanglelabels": ["disc"]}
    region = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": box}
    submit(admin, first["batch"], [region])
    second = stack.wait_for_round(project_id, 2)
    assert second["training"] is None
    assert second["counts"]["labeled"] == 24
    assert not set(second["batch"]) & set(first["batch"])
    assert second["published"]["serves"][: len(second["batch"])] == second["batch"]


def test_a_label_removed_from_the_config_keeps_the_rounds_going(
    stack: Stack, admin: httpx.Client, tmp_path: Path
) -> None:
    images = draw(tmp_path, 80, seed=25)
    project_id, first = make_connected(stack, admin, "Changing labels", images, [*CLASSES, "blob"])
    submit(admin, first["batch"][:12], choice("blob"))
    submit(admin, first["batch"][12:], choice(CLASSES[0]))
    second = stack.wait_for_round(project_id, 2)
    assert second["training"]["n_train"] + second["training"]["n_holdout"] == 24
    for annotation in _annotations(admin, project_id, "blob"):
        admin.delete(f"/api/annotations/{annotation}/").raise_for_status()
    admin.patch(
        f"/api/projects/{project_id}/", json={"label_config": demo_project.choices_config(CLASSES)}
    ).raise_for_status()
    stack.cli("start", "--project", str(project_id))
    third = stack.wait_for_round(project_id, 3)
    assert third["counts"]["labeled"] == 12
    assert third["training"] is None  # one class is left: nothing to tell apart
    stack.wait_until_idle(project_id)


def _annotations(admin: httpx.Client, project_id: int, label: str) -> list[int]:
    """The ids of the annotations with this answer."""
    params: dict[str, Any] = {"project": project_id, "page_size": 200, "fields": "all"}
    return [
        annotation["id"]
        for task in admin.get("/api/tasks/", params=params).json()["tasks"]
        for annotation in task["annotations"]
        if annotation["result"] and annotation["result"][0]["value"]["choices"] == [label]
    ]


def test_a_start_in_mid_round_starts_another_round_after_it(
    stack: Stack, admin: httpx.Client, tmp_path: Path
) -> None:
    project_id, first = make_connected(stack, admin, "Started twice", draw(tmp_path, 200, seed=26))
    before = first["number"]
    stack.wait_until_idle(project_id)
    assert stack.cli("start", "--project", str(project_id)).returncode == 0
    url = f"{stack.url}/api/projects/{project_id}/start"
    with stack.workers_stopped(lambda: stack.computes(project_id), "a round in the middle"):
        for _ in range(3):
            assert httpx.post(url, trust_env=False, timeout=60).status_code == 202
    stack.wait_for_round(project_id, before + 2)
    stack.wait_until_idle(project_id)
    assert stack.status(project_id)["round"]["number"] == before + 2


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A migrated data directory for a Label Studio that the test may kill."""
    executable = demo.find_label_studio(ROOT, os.environ.get("LABEL_STUDIO_COMMAND"))
    if executable is None:
        pytest.skip("label-studio is not installed; `make label-studio` installs it")
    (tmp_path / "files").mkdir()
    return demo.migrated_copy(
        demo.golden_data_dir(executable, ROOT / ".label-studio/golden"), tmp_path / "label-studio"
    )


@contextlib.contextmanager
def label_studio_on(data: Path, port: int, *, reaches: bool) -> Iterator[demo.LabelStudioServer]:
    executable = demo.find_label_studio(ROOT, os.environ.get("LABEL_STUDIO_COMMAND"))
    assert executable
    with demo.start_label_studio(
        executable, data, data.parent / "files", port=port, reaches_private_addresses=reaches
    ) as server:
        yield server


@pytest.mark.slow
@pytest.mark.fault("the real Label Studio is killed (SIGKILL), started again, its token changed", "train")
def test_label_studio_blocks_then_dies_in_mid_round_then_changes_its_token(
    own_data: Path, tmp_path: Path
) -> None:
    """A bad day: every time the command or the status says what to do, and the next step goes on."""
    port, images = demo.free_port(), draw(tmp_path / "images", 150, seed=27)
    with contextlib.ExitStack() as until_the_token_changes:
        with label_studio_on(own_data, port, reaches=False) as server:
            url, token = server.url, server.login.token
            with demo_project.open_session(url, token) as session:
                project_id = make_project(session, "Bad day", demo_project.choices_config(CLASSES), images)
            stack = until_the_token_changes.enter_context(running_stack(tmp_path, url, token, **SLOW_FIT))
            refused = stack.cli("connect", "--project", str(project_id))
            assert refused.returncode == 2
            assert "LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false" in refused.stderr

        away = stack.cli("connect", "--project", str(project_id))
        assert away.returncode == 2
        assert f"Label Studio at {url} does not answer" in away.stderr

        with label_studio_on(own_data, port, reaches=True) as server:
            stack.connect(project_id)
            with stack.workers_stopped(lambda: stack.computes(project_id), "a round in the middle"):
                os.killpg(server.process.pid, signal.SIGKILL)
        assert "does not answer" in stack.wait_for_error(project_id)
        saved = stack.status(project_id)["round"]
        assert saved["number"] == 1
        assert saved["published"] is None

        with label_studio_on(own_data, port, reaches=True) as server:
            stack.wait_for_round(project_id, 1)
            published = stack.status(project_id)["round"]
            assert published["model_version"] == saved["model_version"]
            assert published["published"]["serves"][:24] == saved["batch"]

            stack.wait_until_idle(project_id)
            stack.cli("start", "--project", str(project_id))
            with (
                stack.workers_stopped(lambda: stack.computes(project_id), "a round in the middle"),
                demo_project.open_session(url, token) as session,
            ):
                changed = session.post("/api/current-user/reset-token/").raise_for_status().json()["token"]
            assert "LABEL_STUDIO_API_KEY" in stack.wait_for_error(project_id)
            with demo_project.open_session(url, changed) as session:
                shown = session.get(f"/api/projects/{project_id}/").json()["model_version"]
            assert shown == saved["model_version"]
            renewed = stack.environment | {"LABEL_STUDIO_API_KEY": changed}

    # The login of this data directory holds the old token, so it is renewed as its owner would.
    login = own_data / "login.json"
    login.write_text(login.read_text().replace(token, changed))
    secrets_seen = stack.log.read_text()
    assert token not in secrets_seen
    with (
        label_studio_on(own_data, port, reaches=True),
        running_stack(tmp_path, url, renewed["LABEL_STUDIO_API_KEY"]) as stack,
    ):
        after = stack.wait_for_round(project_id, 2)
        assert after["published"]["serves"][:24] == after["batch"]
