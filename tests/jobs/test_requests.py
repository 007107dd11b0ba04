"""What a person does to rounds that real worker processes run: start, cancel, roll back, publish again."""

import os
import re
import signal
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from fake_label_studio import TOKEN
from rq.timeouts import HorseMonitorTimeoutException
from saved_rounds import record
from waiting import wait_until
from worker_site import Site, assert_nothing_lost
from written_progress import changed

from coreset_backend.errors import CorruptRound, RoundNotFound
from coreset_backend.jobs.keys import DAY
from coreset_backend.jobs.monitoring import read_counts
from coreset_backend.jobs.progress import write_progress
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.requests import cancel_round, publish_again, roll_back
from coreset_backend.jobs.states import Phase
from coreset_backend.jobs.tasks import reconcile_job
from coreset_backend.jobs.worker import RoundWorker
from coreset_backend.reports import Publication
from coreset_backend.web.app import create_app

IMAGES = 12


@pytest.mark.slow
def test_an_expected_failure_is_one_line_in_the_log_and_is_not_repeated_by_the_queue(site: Site) -> None:
    project_id = site.studio.create_project()
    site.start_worker()
    request_round(site.backend, project_id, "asked by a test")
    wait_until(lambda: site.state(project_id).state == "failed", "the state failed")
    assert "has no tasks yet. Import images into it." in site.error(project_id)
    lines = [line for line in site.log.read_text().splitlines() if " ERROR " in line]
    assert len(lines) == 1
    assert re.search(rf"project {project_id}, round 1: EmptyPool: .*Import images into it\.", lines[0])
    assert "Traceback" not in site.log.read_text()
    assert read_counts(site.backend.redis)["coreset_rounds"] == {(str(project_id), "failed", "EmptyPool"): 1}


@pytest.mark.slow
def test_jobs_that_the_release_before_left_in_redis_are_run(site: Site) -> None:
    project_id = site.studio.create_project()
    queues = site.backend.queue, site.backend.low_priority_queue
    waiting, spare = (
        queue.enqueue(f"coreset_backend.jobs.{name}", project_id)
        for queue, name in zip(queues, ("run_round_job", "pretrain_job"), strict=True)
    )
    poll = site.backend.queue.enqueue("coreset_backend.jobs.reconcile_job")
    assert b'"coreset_backend.jobs.run_round_job"' in waiting.data
    site.start_worker(CORESET_POLL_SECONDS="3600")
    wait_until(lambda: spare.get_status(refresh=True).value == "finished", "the job of the lowest rank", 240)
    assert spare.return_value() == "there is nothing to pretrain"
    assert poll.get_status(refresh=True).value == "finished"
    assert waiting.get_status(refresh=True).value == "failed" and "has no tasks yet" in site.error(project_id)
    assert "asks for a function that is not this backend's" not in site.log.read_text()


@pytest.fixture
def poll(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """The poll as a worker runs it, in this process."""
    settings = site.backend.settings
    for name, value in (
        ("REDIS_URL", settings.redis_url),
        ("MODEL_DIR", settings.model_dir),
        ("LABEL_STUDIO_URL", settings.label_studio_url),
        ("LABEL_STUDIO_API_KEY", TOKEN),
        ("CORESET_DEBOUNCE_SECONDS", 0),
    ):
        monkeypatch.setenv(name, str(value))
    return reconcile_job


def published_round(site: Site) -> int:
    """A project whose first round is served; its number."""
    project_id = site.studio.create_project(4)
    tasks = [task["id"] for task in site.studio.tasks_of(project_id)]
    with site.backend.store.draft(project_id) as draft:
        arrays = {"task_ids": np.array(tasks), "states": np.full(4, 3, np.uint8)}
        draft.save(record(1, project_id=project_id, batch=tuple(tasks[:2])), arrays).mark_published(
            Publication()
        )
    return project_id


def test_a_deleted_project_is_put_aside_with_all_that_redis_knew(site: Site, poll: Callable[[], str]) -> None:
    gone, here = published_round(site), published_round(site)
    for project_id in (gone, here):
        write_progress(site.backend.redis, project_id, changed(state="idle"))
    site.studio.fail(404, "/")  # something else at the address of Label Studio
    poll()
    assert site.backend.store.projects() == [gone, here]
    assert site.state(gone).state == "failed" and "404" in site.error(gone)
    site.studio.heal()
    poll()
    assert site.state(gone).state == "idle" and site.error(gone) == ""

    site.studio.delete_project(gone)
    poll()
    assert site.backend.store.projects() == [here]
    assert not site.backend.redis.keys(f"coreset:{gone}:*")
    long_gone = site.backend.store.root / "gone/99-1700000000"
    long_gone.mkdir()
    poll()
    (aside,) = (site.backend.store.root / "gone").iterdir()
    assert (aside / "round-00001/round.json").exists()
    assert create_app(site.backend).test_client().get(f"/api/projects/{gone}/status").status_code == 404


def test_a_start_that_nobody_could_answer_is_found_by_the_poll(site: Site, poll: Callable[[], str]) -> None:
    project_id = published_round(site)
    assert poll() == "nothing to do"
    site.backend.redis.set(f"coreset:{project_id}:spared", "1", ex=3600)  # as after costly failures
    request_round(site.backend, project_id, "started by hand", force=True)
    site.backend.queue.empty()
    site.backend.redis.delete(f"coreset:{project_id}:waiting")  # as after the queue's last try
    assert poll() == f"requested rounds in [{project_id}]"
    assert site.backend.queue.count == 1


def test_a_job_that_a_worker_took_and_lost_before_it_began_is_asked_for_again(
    site: Site, poll: Callable[[], str]
) -> None:
    site.backend.store.register(project_id := site.studio.create_project(2))
    assert request_round(site.backend, project_id, "an event")
    taken = site.backend.redis.lpop(site.backend.queue.key)
    assert taken and site.backend.queue.fetch_job(taken.decode()).get_status().value == "queued"  # type: ignore[union-attr]
    waiting = f"coreset:{project_id}:waiting"
    site.backend.redis.expire(waiting, DAY + 60)  # as just now, however slow the test is
    assert not request_round(site.backend, project_id, "it may be about to begin")
    site.backend.redis.expire(waiting, DAY - 60)  # as a minute later
    poll()
    assert site.backend.queue.count == 1


def test_a_worker_killed_in_its_maintenance_holds_up_the_others_for_seconds(site: Site) -> None:
    queue = site.backend.queue
    assert queue.acquire_maintenance_lock()
    assert not queue.acquire_maintenance_lock()
    assert 0 < site.backend.redis.ttl(queue.registry_cleaning_key) <= 20


def test_how_a_process_ended_is_known_though_the_alarm_rings_in_that_moment(site: Site) -> None:
    worker = RoundWorker([site.backend.queue], connection=site.backend.redis)

    def ring(_number: int, _frame: object) -> None:
        raise HorseMonitorTimeoutException

    before = signal.signal(signal.SIGCHLD, ring)  # the kernel sends it as the process ends
    try:
        command = ["sh", "-c", "read line; sleep 0.3; exit 7"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            worker._horse_pid = process.pid
            assert process.stdin
            with pytest.raises(HorseMonitorTimeoutException):
                process.stdin.close()  # from here on it may end at any time
                worker.wait_for_horse()
            assert os.waitstatus_to_exitcode(worker.wait_for_horse()[1] or 0) == 7
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.slow
def test_cancel_ends_the_round_and_rollback_and_publish_tell_label_studio_the_batch_again(site: Site) -> None:
    project_id = site.studio.create_project(IMAGES)
    client = create_app(site.backend).test_client()
    site.backend.store.register(project_id)
    assert not cancel_round(site.backend, project_id)
    site.start_worker()
    request_round(site.backend, project_id, "asked by a test")
    first = site.wait_for_round(project_id, 1)
    site.wait_until_idle(project_id)

    for task_id in first.record.batch:
        site.studio.annotate(task_id, "cat")
    held = site.studio.fail("held", "import/predictions", times=1)
    wait_until(lambda: held.times == 0, "the poll to find the labels and the import to begin", 240)
    assert (client.post(f"/api/projects/{project_id}/cancel").json or {})["status"] == "cancelled"
    held.released.set()
    wait_until(lambda: len(site.studio.versions(project_id)) == 2, "the import to be done all the same")
    assert site.state(project_id).paused_reason == "A person cancelled the last round."
    assert site.studio.projects[project_id]["model_version"] == first.record.model_version
    assert not cancel_round(site.backend, project_id)

    request_round(site.backend, project_id, "a webhook")
    wait_until(lambda: site.state(project_id).state == "idle", "the hold to be respected")
    assert site.studio.projects[project_id]["model_version"] == first.record.model_version
    assert client.post(f"/api/projects/{project_id}/start").status_code == 202
    second = site.wait_for_round(project_id, 2)
    site.wait_until_idle(project_id)
    assert_nothing_lost(site.backend, site.studio, project_id, [1, 2])
    assert site.state(project_id).paused_reason is None
    counts = read_counts(site.backend.redis)
    assert counts["coreset_rounds"] == {(str(project_id), "done", ""): 2}
    rare = {Phase.WEIGHTS, Phase.CLUSTER}  # small_cnn has no weights to download, and there is no cluster
    assert {phase for (phase,) in counts["coreset_round_phase_seconds"]} == set(Phase) - rare

    assert client.post(f"/api/projects/{project_id}/rollback", json={"round": 1}).status_code == 202
    served = site.studio.projects[project_id]
    wait_until(lambda: served["model_version"] == first.record.model_version, "round 1 to be served")
    site.wait_until_idle(project_id)
    assert site.backend.store.newest_first(project_id) == [1, 2]
    answer = client.post("/predict", json={"project": project_id, "tasks": [{"id": first.record.batch[0]}]})
    assert (answer.json or {})["results"][0]["model_version"] == first.record.pool_version

    site.studio.predictions.clear()  # as when Label Studio is restored from an older backup
    assert publish_again(site.backend, project_id)
    whole = {first.record.model_version: IMAGES}
    wait_until(lambda: site.studio.versions(project_id) == whole, "the batch to be published again")
    new = site.studio.add_task(project_id, {"image": f"/data/upload/{project_id}/0.png"})
    wait_until(
        lambda: site.studio.queue(project_id)[-1] == new, "the new task to be served, without a round", 240
    )
    assert site.backend.store.newest_first(project_id) == [1, 2]
    with pytest.raises(RoundNotFound, match="has no round 9"):
        roll_back(site.backend, project_id, 9)
    embeddings = second.path / "embeddings.npy"
    embeddings.write_bytes(embeddings.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptRound, match=r"embeddings\.npy does not match"):
        roll_back(site.backend, project_id, 2)
    assert site.backend.store.newest_first(project_id) == [1, 2]
