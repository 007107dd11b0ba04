from collections.abc import Callable

import pytest
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from coreset_backend.backend import Backend
from coreset_backend.jobs import request_round


def queued_projects(backend: Backend) -> list[int]:
    return [int(job_id.split("-")[1]) for job_id in backend.queue.job_ids]


def test_a_busy_project_has_one_place_in_the_queue_and_goes_to_its_end_after_its_turn(
    make_backend: Callable[..., Backend], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    for number in range(50):
        request_round(backend, 1, f"event {number}")
    for project_id in (2, 3):
        request_round(backend, project_id, "an event")
    assert queued_projects(backend) == [1, 2, 3]

    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("MODEL_DIR", str(backend.settings.model_dir))
    worker = SimpleWorker([backend.queue], connection=backend.redis, serializer=JSONSerializer)
    worker.work(burst=True, max_jobs=1)  # without a Label Studio, project 1's turn is a short one
    for number in range(50):
        request_round(backend, 1, f"event {number}")
    assert queued_projects(backend) == [2, 3, 1]
