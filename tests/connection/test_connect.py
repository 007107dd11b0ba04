"""Connecting, disconnecting, and what others own in a project, on the fake Label Studio."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from fake_label_studio import TOKEN, FakeLabelStudio
from label_studio_contract import import_by_hand
from saved_rounds import record

from coreset_backend.backend import Backend
from coreset_backend.cli.doctor import examine
from coreset_backend.cli.status import status_lines
from coreset_backend.connection.connect import SAMPLING, SECRET_HEADER, connect
from coreset_backend.connection.problems import problems
from coreset_backend.connection.record import read_connection
from coreset_backend.errors import LabelStudioError, ProjectError, UnsupportedLabelConfig
from coreset_backend.jobs.requests import disconnect_project, publish_again, roll_back
from coreset_backend.jobs.status import project_status
from coreset_backend.jobs.tasks import note_connection, reconcile_job
from coreset_backend.label_studio.tabs import BATCH
from coreset_backend.local import demo_project
from coreset_backend.rounds.publishing import publish_round
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.web.app import create_app

YOLO = "yolo-v8"
LIVE = {"title": "YOLO", "url": "http://yolo:9090", "model_version": YOLO, "auth_method": "NONE"}


@pytest.fixture
def backend(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> Backend:
    return make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)


@pytest.fixture
def admin(studio: FakeLabelStudio) -> Iterator[httpx.Client]:
    with demo_project.open_session(studio.url, TOKEN) as session:
        yield session


def connected(backend: Backend, project_id: int) -> list[str]:
    return list(connect(backend, project_id))


def publish(backend: Backend, project_id: int, task_ids: list[int], day: int = 29) -> StoredRound:
    """The next round, of two tasks and two in reserve, saved and published."""
    with backend.store.draft(project_id) as draft:
        arrays = {
            "task_ids": np.array(task_ids),
            "embedded_task_ids": np.array(task_ids),
            "states": np.full(len(task_ids), 3, np.uint8),
            "scores": np.zeros(len(task_ids)),
        }
        saved = record(
            draft.number,
            project_id=project_id,
            model_version=f"coreset-{draft.number}-202611{day}T21000{draft.number}",
            batch=tuple(task_ids[:2]),
            reserve=tuple(task_ids[2:4]),
        )
        stored = draft.save(saved, arrays)
    publish_round(backend, stored, lambda _done, _total: None)
    note_connection(backend, stored)  # as the job does after it
    return stored


def tasks_of(studio: FakeLabelStudio, project_id: int) -> list[int]:
    return [task["id"] for task in studio.tasks_of(project_id)]


def everything_shown(studio: FakeLabelStudio, project_id: int) -> Any:
    """What a person sees of a project's settings in Label Studio, but for ids."""
    project = studio.projects[project_id]
    return {
        "sampling": project["sampling"],
        "version": project["model_version"] or "",
        "versions": studio.versions(project_id),
        "backends": [each["url"] for each in studio.backends.values() if each["project"] == project_id],
        "webhooks": [each["url"] for each in studio.webhooks.values() if each["project"] == project_id],
        "tabs": [each["data"]["title"] for each in studio.views.values() if each["project"] == project_id],
    }


def shown_on(studio: FakeLabelStudio, task_id: int) -> list[Any]:
    """The answers that an annotator of the task sees."""
    project = studio.projects[studio.tasks[task_id]["project"]]
    found = [
        each for each in studio.predictions_of(task_id) if each["model_version"] == project["model_version"]
    ]
    return [region["value"]["choices"] for each in found for region in each["result"]]


# ---------------------------------------------------------------- what is replaced, kept and put back


@pytest.mark.parametrize("kind", ["none", "static", "live"])
def test_disconnect_leaves_the_project_as_it_was_before_connect(
    make_backend: Callable[..., Backend],
    backend: Backend,
    studio: FakeLabelStudio,
    admin: httpx.Client,
    kind: str,
) -> None:
    project_id = studio.create_project(6)
    task_ids = tasks_of(studio, project_id)
    if kind == "live":
        admin.post("/api/ml/", json={**LIVE, "project": project_id})
    if kind != "none":
        import_by_hand(admin, project_id, task_ids[1:], YOLO, "dog")
        shown = "YOLO" if kind == "live" else YOLO
        admin.patch(f"/api/projects/{project_id}/", json={"model_version": shown}).raise_for_status()
    before = everything_shown(studio, project_id)

    said = " ".join(connected(backend, project_id))
    assert ("shows predictions of version" in said) == (kind != "none")
    for _round in range(2):
        stored = publish(backend, project_id, task_ids)
        assert studio.queue(project_id)[:4] == task_ids[:4]
        assert [shown_on(studio, each) for each in task_ids[:3]] == (
            [[]] * 3 if kind == "none" else [[], [["dog"]], [["dog"]]]
        )
    assert studio.projects[project_id]["model_version"] == stored.record.model_version
    assert studio.projects[project_id]["sampling"] == SAMPLING
    said = " ".join(connected(backend, project_id))  # once more
    assert "already connected" in said and "shows predictions of version" not in said
    assert ("The batch is shown instead of version" in said) == (kind != "none")
    assert BATCH in everything_shown(studio, project_id)["tabs"]
    lines = "\n".join(status_lines(project_status(backend, project_id)))
    assert ("is shown instead of version" in lines) == (kind != "none")

    again = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)  # as after a restart
    said = " ".join(disconnect_project(again, project_id))
    assert everything_shown(studio, project_id) == before, said
    assert backend.store.projects() == []
    assert backend.store.numbers(project_id) == [1, 2]
    said = " ".join(disconnect_project(again, project_id))
    assert everything_shown(studio, project_id) == before, said
    assert "was not connected" in said

    web, signed = create_app(backend).test_client(), {SECRET_HEADER: backend.webhook_secret}
    late = {"action": "ANNOTATION_CREATED", "project": {"id": project_id}}
    assert (web.post("/webhook", json=late, headers=signed).json or {})["status"] == "ignored"
    for refused in (publish_again, partial(roll_back, number=1)):
        with pytest.raises(ProjectError, match=f"connect --project {project_id}` resumes it"):
            refused(backend, project_id)
    assert backend.store.projects() == []

    assert "connected." in " ".join(connected(backend, project_id))
    assert backend.store.projects() == [project_id]
    assert read_connection(backend.store, project_id).sampling == before["sampling"]  # type: ignore[union-attr]
    list(disconnect_project(backend, project_id))
    assert everything_shown(studio, project_id) == before


def test_what_a_person_changed_after_connect_is_left_and_said(
    backend: Backend, studio: FakeLabelStudio, admin: httpx.Client
) -> None:
    project_id = studio.create_project(6)
    task_ids = tasks_of(studio, project_id)
    connected(backend, project_id)
    publish(backend, project_id, task_ids)
    import_by_hand(admin, project_id, task_ids, "chosen since")
    changed = {"model_version": "chosen since", "sampling": "Uniform sampling"}
    admin.patch(f"/api/projects/{project_id}/", json=changed).raise_for_status()
    tab = next(each for each in studio.views.values() if each["data"]["title"] == BATCH)
    tab["data"]["filters"] = {"conjunction": "and", "items": [{"filter": "filter:tasks:created_at"}]}
    said = " ".join(disconnect_project(backend, project_id))
    assert everything_shown(studio, project_id) == {
        "sampling": "Uniform sampling",
        "version": "chosen since",
        "versions": {"chosen since": 6},
        "backends": [],
        "webhooks": [],
        "tabs": [BATCH],
    }
    assert "still shows version 'chosen since'" in said
    assert "stays 'Uniform sampling': a person has changed it" in said
    assert f"'{BATCH}' stays" in said


def test_a_version_that_is_gone_is_said_and_none_is_shown(
    backend: Backend, studio: FakeLabelStudio, admin: httpx.Client
) -> None:
    project_id = studio.create_project(4)
    import_by_hand(admin, project_id, tasks_of(studio, project_id), YOLO)
    admin.patch(f"/api/projects/{project_id}/", json={"model_version": YOLO}).raise_for_status()
    connected(backend, project_id)
    publish(backend, project_id, tasks_of(studio, project_id))
    studio.predictions = [each for each in studio.predictions if each["model_version"] != YOLO]
    said = " ".join(disconnect_project(backend, project_id))
    assert f"The previously shown version '{YOLO}' has no predictions any more" in said
    assert everything_shown(studio, project_id)["version"] == ""


def test_a_disconnect_that_is_cut_off_is_finished_by_the_next(
    backend: Backend, studio: FakeLabelStudio, admin: httpx.Client
) -> None:
    for method, path in (
        ("DELETE", "/api/webhooks/"),
        ("DELETE", "model-versions"),
        ("PATCH", r"/api/projects/\d+/$"),
        ("DELETE", "/api/ml/"),
        ("DELETE", "/api/dm/views/"),
    ):
        project_id = studio.create_project(6)
        import_by_hand(admin, project_id, tasks_of(studio, project_id), YOLO)
        admin.patch(f"/api/projects/{project_id}/", json={"model_version": YOLO}).raise_for_status()
        before = everything_shown(studio, project_id)
        connected(backend, project_id)
        publish(backend, project_id, tasks_of(studio, project_id))
        studio.fail(500, path, method=method)
        try:
            list(disconnect_project(backend, project_id))
        except LabelStudioError:
            assert backend.store.projects() == [project_id]
        studio.heal()
        list(disconnect_project(backend, project_id))
        assert everything_shown(studio, project_id) == before, path


def test_a_project_deleted_in_label_studio_is_disconnected_too(
    backend: Backend, studio: FakeLabelStudio
) -> None:
    project_id = studio.create_project(4)
    connected(backend, project_id)
    studio.delete_project(project_id)
    assert "has no project" in " ".join(disconnect_project(backend, project_id))
    assert backend.store.projects() == []


# ---------------------------------------------------------------- ownership


def test_a_backend_that_lost_its_store_deletes_nothing_that_it_does_not_know(
    make_backend: Callable[..., Backend], backend: Backend, studio: FakeLabelStudio, tmp_path: Any
) -> None:
    project_id = studio.create_project(6)
    task_ids = tasks_of(studio, project_id)
    connected(backend, project_id)
    old = publish(backend, project_id, task_ids).record.model_version
    anew = make_backend(
        label_studio_url=studio.url,
        label_studio_api_key=TOKEN,
        model_dir=tmp_path / "new",
        override_version=False,
    )
    publish(anew, project_id, task_ids, 30)  # the batch of its earlier life is no choice of a person
    new = publish(anew, project_id, task_ids, 30).record.model_version
    assert studio.versions(project_id) == {old: 6, new: 6}
    said = " ".join(disconnect_project(anew, project_id))
    assert studio.versions(project_id) == {old: 6}
    assert f"Predictions of {old} are kept" in said


def test_a_version_that_a_person_chose_is_kept_where_that_is_wanted(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio, admin: httpx.Client
) -> None:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN, override_version=False)
    project_id = studio.create_project(4)
    import_by_hand(admin, project_id, tasks_of(studio, project_id), "coreset-mine")
    admin.patch(f"/api/projects/{project_id}/", json={"model_version": "coreset-mine"}).raise_for_status()
    assert "CORESET_OVERRIDE_VERSION is off" in " ".join(connected(backend, project_id))
    with pytest.raises(LabelStudioError, match="'coreset-mine', which a person chose"):
        publish(backend, project_id, tasks_of(studio, project_id))
    assert everything_shown(studio, project_id)["version"] == "coreset-mine"


# ---------------------------------------------------------------- connected by others, releases, the poll


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_project_connected_in_the_form_is_completed_by_its_first_round(
    backend: Backend, studio: FakeLabelStudio, admin: httpx.Client, host: str
) -> None:
    project_id = studio.create_project(6)
    address = backend.settings.url.replace("localhost", host)
    admin.post("/api/ml/", json={"project": project_id, "title": "By the SDK", "url": address})
    publish(backend, project_id, tasks_of(studio, project_id))
    assert studio.projects[project_id]["sampling"] == SAMPLING
    assert [each["headers"] for each in studio.webhooks.values()] == [{SECRET_HEADER: backend.webhook_secret}]
    assert project_status(backend, project_id).progress.connection == ()
    studio.projects[project_id]["sampling"] = "Uniform sampling"  # somebody wants it so
    publish(backend, project_id, tasks_of(studio, project_id))
    assert studio.projects[project_id]["sampling"] == "Uniform sampling"
    [sentence] = project_status(backend, project_id).progress.connection
    assert "Task sampling is 'Uniform sampling'" in sentence
    list(disconnect_project(backend, project_id))
    assert everything_shown(studio, project_id)["backends"] == []


def test_what_cannot_be_completed_is_said(
    backend: Backend, studio: FakeLabelStudio, admin: httpx.Client
) -> None:
    project_id = studio.create_project(6)
    admin.post("/api/ml/", json={"project": project_id, "title": "Elsewhere", "url": "http://other:9090"})
    publish(backend, project_id, tasks_of(studio, project_id))
    said = "\n".join(status_lines(project_status(backend, project_id)))
    assert (
        "No backend with the address" in said and "connected are http://other:9090; set CORESET_URL" in said
    )
    assert "Task sampling is 'Sequential sampling'" in said
    page = create_app(backend).test_client().get(f"/projects/{project_id}").text
    assert "connected are http://other:9090; set CORESET_URL" in page


@pytest.mark.parametrize("release", ["1.11.0", "1.8.2.post1", "0.9.1"])
def test_releases_that_are_too_old_are_refused_by_name(
    backend: Backend, studio: FakeLabelStudio, release: str
) -> None:
    project_id = studio.create_project(4)
    studio.release = release
    with pytest.raises(LabelStudioError, match=rf"release {release}.*oldest release .* is 1\.12"):
        connected(backend, project_id)
    assert studio.backends == {} and backend.store.projects() == []
    [problem] = dict(examine(backend, []))["Label Studio"]
    assert f"release {release}" in problem
    publish(backend, project_id, tasks_of(studio, project_id))
    second = publish(backend, project_id, tasks_of(studio, project_id))
    assert second.publication and second.publication.kept  # a warning, and rounds go on
    for release in ("1.12.1", "1.14.0.post0", "2.20.0", "unknown"):
        studio.release = release
        assert dict(examine(backend, []))["Label Studio"] == []


@pytest.fixture
def poll(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    settings = backend.settings
    for name, value in (
        ("REDIS_URL", settings.redis_url),
        ("MODEL_DIR", settings.model_dir),
        ("LABEL_STUDIO_URL", settings.label_studio_url),
        ("LABEL_STUDIO_API_KEY", TOKEN),
        ("CORESET_DEBOUNCE_SECONDS", 0),
    ):
        monkeypatch.setenv(name, str(value))
    return reconcile_job


@pytest.mark.parametrize("images", [6, 250])  # a small queue is published anew, a large one is amended
@pytest.mark.parametrize("lost", ["one", "all", "version"])
def test_the_poll_publishes_again_what_was_deleted(
    backend: Backend, studio: FakeLabelStudio, poll: Callable[[], str], lost: str, images: int
) -> None:
    project_id = studio.create_project(images)
    task_ids = tasks_of(studio, project_id)
    connected(backend, project_id)
    stored = publish(backend, project_id, task_ids)
    poll()
    assert backend.queue.count == 0
    if lost == "version":
        studio.projects[project_id]["model_version"] = ""
    else:
        studio.predictions = studio.predictions[1 if lost == "one" else len(studio.predictions) :]
    found = " ".join(problems(backend, project_id))
    assert "Label Studio does not serve the batch first" in found
    poll()
    assert backend.queue.count == 1
    publish_round(backend, stored, lambda _done, _total: None)
    assert studio.queue(project_id)[:4] == task_ids[:4]
    backend.redis.flushall()
    poll()
    assert backend.queue.count == 0


def test_the_poll_publishes_a_round_that_was_rolled_back_to_and_whose_job_was_lost(
    backend: Backend, studio: FakeLabelStudio, poll: Callable[[], str]
) -> None:
    project_id = studio.create_project(6)
    task_ids = tasks_of(studio, project_id)
    connected(backend, project_id)
    publish(backend, project_id, task_ids)
    publish(backend, project_id, task_ids[::-1])
    roll_back(backend, project_id, 1)
    backend.redis.flushall()
    poll()
    assert backend.queue.count == 1
    publish_round(backend, backend.store.open(project_id, 1), lambda _done, _total: None)
    assert studio.queue(project_id)[:2] == task_ids[:2]
    backend.redis.flushall()
    poll()
    assert backend.queue.count == 0


def test_the_poll_leaves_a_persons_choice_and_deleted_tasks_alone(
    backend: Backend, studio: FakeLabelStudio, admin: httpx.Client, poll: Callable[[], str]
) -> None:
    project_id = studio.create_project(6)
    task_ids = tasks_of(studio, project_id)
    connected(backend, project_id)
    publish(backend, project_id, task_ids)
    studio.delete_task(task_ids[0])
    studio.annotate(task_ids[2], "cat")
    studio.predictions = [each for each in studio.predictions if each["task"] != task_ids[2]]
    import_by_hand(admin, project_id, task_ids[4:], "chosen since")
    poll()
    assert backend.queue.count == 0
    admin.patch(f"/api/projects/{project_id}/", json={"model_version": "chosen since"}).raise_for_status()
    poll()
    assert backend.queue.count == 0
    backend.store.hold(project_id, "Held by hand.")
    studio.fail(500)
    poll()  # nobody wants a round: that Label Studio is away is no failure of one
    assert project_status(backend, project_id).progress.state == "idle"
    assert studio.projects[project_id]["model_version"] == "chosen since"


CAT = '<Choice value="cat"/>'
LABEL = f'<Choices name="label" toName="image">{CAT}<Choice value="dog"/></Choices>'


@pytest.mark.parametrize(
    ("tags", "data", "said"),
    [
        (f'<Image name="image" value="$image"/>{LABEL}', {"image": "/a.png"}, ["(cat, dog)."]),
        (
            f'<Image name="image" value="$meta.url"/>{LABEL}',
            {"id": 3, "meta": "?"},
            ["has no image at '$meta.url': its data has 'id', 'meta'"],
        ),
        (
            f'<Image name="image" value="$image"/>{LABEL}',
            {"image": ["/a.png", "/b.png"]},
            ["shows 2 images."],
        ),
        (
            f'<Image name="image" valueList="$pages"/><Image name="b" value="$b"/>{LABEL}'
            f'<Choices name="mood" toName="b">{CAT}</Choices>',
            {"pages": ["/a.png"], "b": "/b.png"},
            [
                "images in '$pages', trained on <Choices> 'label' (cat, dog)",
                "Not trained on: 'mood'.",
                "not read: 'b'",
                "Each task shows a list of images ($pages)",
            ],
        ),
        (
            '<Image name="image" value="$image"/><Choices name="label" toName="image" value="$options"/>',
            {"image": "/a.png"},
            ["selection only, because the choices of 'label' come from each task's data ($options)"],
        ),
    ],
)
def test_connect_says_how_it_has_read_the_label_config(
    backend: Backend, studio: FakeLabelStudio, tags: str, data: Any, said: list[str]
) -> None:
    project_id = studio.create_project()
    studio.projects[project_id]["label_config"] = f"<View>{tags}</View>"
    studio.add_task(project_id, data)
    lines = "\n".join(connected(backend, project_id))
    assert all(words in lines for words in said), lines


def test_connect_refuses_a_project_of_image_lists(backend: Backend, studio: FakeLabelStudio) -> None:
    project_id = studio.create_project()
    studio.projects[project_id]["label_config"] = (
        '<View><Repeater on="$images"><Image name="i{{idx}}" value="$images[{{idx}}]"/></Repeater></View>'
    )
    with pytest.raises(UnsupportedLabelConfig, match="several images per task"):
        connected(backend, project_id)
    assert not studio.backends
