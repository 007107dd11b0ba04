import re
from collections.abc import Callable

import pytest
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from waiting import wait_until
from worker_site import Site

from coreset_backend.backend import Backend
from coreset_backend.jobs.keys import redis_key
from coreset_backend.jobs.queue import request_round


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


def failing_project(site: Site) -> int:
    """A project none of whose images can be read: each of its rounds fails, and is tried again."""
    project_id = site.new_project(labeled=6)
    for path in [path for path in site.studio.files if path.startswith(f"/data/upload/{project_id}/")]:
        del site.studio.files[path]
    return project_id


def rounds_begun(site: Site) -> list[int]:
    return [int(found) for found in re.findall(r"project (\d+): a round starts", site.log.read_text())]


@pytest.mark.slow
def test_a_start_by_hand_waits_for_the_running_job_alone_whatever_fails_beside_it(site: Site) -> None:
    first, second = failing_project(site), failing_project(site)
    wanted, other = site.new_project(labeled=6), site.new_project(labeled=6)
    hold = site.hold_at("images")
    site.start_worker(CORESET_POLL_SECONDS="3600")
    request_round(site.backend, first, "an event")
    assert hold.reached.wait(240), site.log.read_text()
    for project_id in (second, other, wanted):
        request_round(site.backend, project_id, "an event")
    site.backend.redis.set(redis_key(wanted, "spared"), "1", ex=3600)  # as after costly failures
    request_round(site.backend, wanted, "started by hand", force=True)
    hold.release()
    site.wait_for_round(wanted, 1)
    site.wait_for_round(other, 1)
    wait_until(lambda: rounds_begun(site).count(first) > 1, "the next try of the first")
    begun = rounds_begun(site)
    assert begun[:2] == [first, wanted], "one running job, then what the person wants"
    assert begun.index(second) < begun.index(first, 1), "each gets its turn before a retry"


@pytest.mark.slow
def test_what_a_person_started_and_failed_is_tried_again_behind_the_start_of_another(site: Site) -> None:
    failing, wanted = failing_project(site), site.new_project(labeled=6)
    hold = site.hold_at("images")
    site.start_worker(CORESET_POLL_SECONDS="3600")
    request_round(site.backend, failing, "started by hand", force=True)
    assert hold.reached.wait(240), site.log.read_text()
    request_round(site.backend, wanted, "started by hand", force=True)
    hold.release()
    site.wait_for_round(wanted, 1)
    assert rounds_begun(site)[:2] == [failing, wanted]
    wait_until(lambda: len(rounds_begun(site)) > 2, "its next try")
    assert site.state(failing).demanded, "what the person wanted still stands"


@pytest.mark.slow
def test_a_worker_that_waits_for_a_project_gives_way_to_a_start_of_another(site: Site) -> None:
    busy, wanted = site.new_project(labeled=6), site.new_project(labeled=6)
    lease = site.backend.redis.lock(redis_key(busy, "lease"), timeout=1200)
    assert lease.acquire(blocking=False)
    site.start_worker(CORESET_POLL_SECONDS="3600")
    request_round(site.backend, busy, "started by hand", force=True)
    wait_until(lambda: not site.backend.high_priority_queue.count, "a worker to wait for the project")
    request_round(site.backend, wanted, "started by hand", force=True)
    site.wait_for_round(wanted, 1)
    assert rounds_begun(site) == [wanted]
    lease.release()
    site.wait_for_round(busy, 1)
