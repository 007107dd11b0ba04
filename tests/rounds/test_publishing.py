"""A round counts as published when annotators get its batch, whatever comes of clearing up after it."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
from fake_label_studio import TOKEN, FakeLabelStudio
from listening import worker_listens
from saved_rounds import record

from coreset_backend.backend import Backend
from coreset_backend.connection.queue import SMALL
from coreset_backend.errors import LabelStudioError
from coreset_backend.jobs.status import project_status
from coreset_backend.project import Labels
from coreset_backend.rounds.due import round_due
from coreset_backend.rounds.publishing import publish_round
from coreset_backend.store.record import LabelErrors, SecondOpinion
from coreset_backend.store.saved_round import StoredRound


@pytest.fixture
def backend(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> Backend:
    return make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)


def save(backend: Backend, project_id: int, tasks: list[int], head: list[int]) -> StoredRound:
    with backend.store.draft(project_id) as draft:
        arrays = {
            "task_ids": np.array(tasks),
            "embedded_task_ids": np.array(tasks),
            "states": np.full(len(tasks), 3, np.uint8),
            "scores": np.zeros(len(tasks)),
        }
        batch = tuple(head[: len(head) // 2])
        version = f"coreset-{draft.number}-20261129T21000{draft.number}"
        told = {"model_version": version, "batch": batch, "reserve": tuple(head[len(batch) :])}
        return draft.save(record(draft.number, project_id=project_id, **told), arrays)


def unwatched(_done: int, _total: int) -> None:
    """Of no interest."""


def test_a_batch_that_is_served_is_published_though_deleting_fails(
    backend: Backend, studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    project_id = studio.create_project()
    tasks = [studio.add_task(project_id, {"image": f"/{number}.png"}) for number in range(SMALL + 20)]
    publish_round(backend, save(backend, project_id, tasks, tasks[:10]), unwatched)
    second = save(backend, project_id, tasks, tasks[40:50])

    studio.fail(500, "import/predictions", method="POST")
    with pytest.raises(LabelStudioError):
        publish_round(backend, second, unwatched)
    assert second.publication is None
    studio.heal()

    studio.fail(500, "/api/predictions", method="DELETE")
    with caplog.at_level(logging.WARNING):
        publish_round(backend, second, unwatched)
    assert "the next publish deletes the replaced predictions" in caplog.text
    assert second.publication and second.publication.serves == tuple(tasks[40:50])
    assert studio.queue(project_id)[:10] == tasks[40:50]
    assert len(studio.predictions) > len(tasks)
    served_at = second.publication.at
    studio.heal()

    publish_round(backend, second, unwatched)
    assert len(studio.predictions) == len(tasks)
    assert second.publication.at and served_at and second.publication.at > served_at


def test_the_random_slice_shows_no_answer(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    """People would agree with it, and the slice measures the model."""
    known = {"label_studio_url": studio.url, "label_studio_api_key": TOKEN}
    backend, project_id = make_backend(**known, preannotate="on"), studio.create_project(6)
    tasks = [task["id"] for task in studio.tasks_of(project_id)]
    labels = Labels("label", "image", ("cat", "dog"), multiple=False)
    told = {"labels": labels, "batch": tuple(tasks[:4]), "reserve": (), "random_slice": tuple(tasks[1:3])}
    with backend.store.draft(project_id) as draft:
        arrays = {
            "task_ids": np.array(tasks),
            "embedded_task_ids": np.array(tasks),
            "states": np.full(6, 3, np.uint8),
            "scores": np.zeros(6),
            "probabilities": np.full((6, 2), [0.99, 0.01], np.float32),
        }
        stored = draft.save(record(1, project_id=project_id, distances=(1.0,) * 4, **told), arrays)
    publish_round(backend, stored, unwatched)
    shown = [any(each["result"] for each in studio.predictions_of(task_id)) for task_id in tasks]
    assert shown == [True, False, False, True, True, True]


def test_second_opinions_are_served_without_an_answer_and_the_last_ones_start_a_round(
    backend: Backend, studio: FakeLabelStudio
) -> None:
    project_id = studio.create_project()
    tasks = [studio.add_task(project_id, {"image": f"/{number}.png"}) for number in range(3)]
    for task_id in tasks:
        studio.annotate(task_id, "cat", by=1)
    with backend.store.draft(project_id) as draft:
        errors = LabelErrors(0.2, (SecondOpinion(tasks[1], 1, 0.4),))
        told = {
            "batch": (),
            "reserve": (),
            "model_version": "coreset-1-20261129T210001",
            "counts": {"labeled": 3},
        }
        stored = draft.save(
            record(draft.number, project_id=project_id, label_errors=errors, **told),
            {
                "task_ids": np.array(tasks),
                "embedded_task_ids": np.array(tasks),
                "states": np.zeros(3, np.uint8),
                "scores": np.zeros(3),
            },
        )
    body = {"project": project_id, "task": tasks[1], "result": [{"type": "choices"}], "score": 0.1}
    studio.predictions.append({**body, "id": studio.next_id(), "model_version": stored.record.model_version})
    studio.projects[project_id]["model_version"] = stored.record.model_version
    studio.fail(500, "/api/tasks/", method="PATCH")
    with pytest.raises(LabelStudioError):
        publish_round(backend, stored, unwatched)
    assert not studio.predictions, "an answer is gone before the task is served once more"
    studio.heal()
    publish_round(backend, stored, unwatched)
    assert (studio.queue(project_id, by=1), studio.queue(project_id, by=2)) == ([], [tasks[1]])
    assert [each["result"] for each in studio.predictions_of(tasks[1])] == [[]]
    assert round_due(backend, project_id).reason is None
    worker_listens(backend)
    told = project_status(backend, project_id).progress
    assert told.sentence.startswith("No new image is left to select; 1 labelled task waits for a second")
    assert told.next.does == "answer 1 labelled task once more; the worker then starts the next round."
    studio.annotate(tasks[1], "dog", by=2)
    assert round_due(backend, project_id).reason == "1 second opinion was given, and no other task was served"
    publish_round(backend, stored, unwatched)
    assert studio.queue(project_id, by=3) == [] and studio.tasks[tasks[1]]["overlap"] == 1
