"""A publication that was asked for is done, whatever comes in between, and never shows an answer to check."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from backend_run import environment_of
from fake_label_studio import TOKEN, FakeLabelStudio
from finishing_pool import Pool, made_pool

from coreset_backend.arrays import unwatched
from coreset_backend.backend import Backend
from coreset_backend.errors import LabelStudioError
from coreset_backend.finish.session import Kind, read_session
from coreset_backend.finish.work import Wish
from coreset_backend.jobs.finishing import start_finish, undo_finish
from coreset_backend.jobs.keys import redis_key
from coreset_backend.jobs.lease import project_lease
from coreset_backend.jobs.queue import forget_state, request_publication, request_round
from coreset_backend.jobs.requests import cancel_round
from coreset_backend.jobs.tasks import reconcile_job, run_round_job
from coreset_backend.rounds.publishing import publish_round


@pytest.fixture
def pool(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pool]:
    """A pool whose batch is served, with the answers of the model."""
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN, preannotate="on")
    for name, value in environment_of(backend.settings).items():
        monkeypatch.setenv(name, value)
    found = made_pool(backend, studio)
    publish_round(backend, found.stored, unwatched)
    yield found


def asked(pool: Pool) -> tuple[int, ...]:
    session = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert session and session.asked
    return session.asked


def in_front(pool: Pool) -> bool:
    return tuple(pool.studio.queue(pool.project_id)[: len(asked(pool))]) == asked(pool)


def shown(pool: Pool, task_ids: tuple[int, ...]) -> int:
    """How many of the tasks show an answer."""
    return sum(any(each["result"] for each in pool.studio.predictions_of(id_)) for id_ in task_ids)


def is_asked_for(pool: Pool) -> bool:
    return bool(pool.backend.redis.exists(redis_key(pool.project_id, "republish")))


def test_what_is_asked_for_while_a_publication_ends_is_published_by_the_next_job(pool: Pool) -> None:
    def begin(_query: object) -> bytes:
        start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
        return b"[]"

    request_publication(pool.backend, pool.project_id)
    # Tabs are read once the batch is served: the job has looked for an audit long before.
    pool.studio.fail("answer", "/api/dm/views", method="GET", times=1, answer=begin)
    assert run_round_job(pool.project_id) == "round 1 is published again"
    assert is_asked_for(pool) and not in_front(pool)
    assert run_round_job(pool.project_id) == "round 1 is published again"
    assert in_front(pool) and not is_asked_for(pool)


def lost_by_redis(pool: Pool) -> None:
    forget_state(pool.backend.redis, pool.project_id)
    reconcile_job()


def lost_with_its_job(pool: Pool) -> None:
    pool.backend.redis.delete(redis_key(pool.project_id, "waiting"))
    reconcile_job()


def cancelled(pool: Pool) -> None:
    assert cancel_round(pool.backend, pool.project_id)


@pytest.mark.parametrize("happens", [lost_by_redis, lost_with_its_job, cancelled])
def test_a_publication_that_a_finish_needs_is_done_whatever_loses_it(
    pool: Pool, happens: Callable[[Pool], None]
) -> None:
    served = pool.studio.queue(pool.project_id)
    for change in (
        lambda: start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9)),
        lambda: undo_finish(pool.backend, pool.project_id, Kind.MODEL),
    ):
        change()
        happens(pool)
        assert is_asked_for(pool) and pool.backend.redis.exists(redis_key(pool.project_id, "waiting"))
        assert "published again" in run_round_job(pool.project_id)
        if read_session(pool.backend.store, pool.project_id, Kind.MODEL):
            assert in_front(pool)
        assert not is_asked_for(pool)
        reconcile_job()
        assert not is_asked_for(pool), "once is enough"
    assert pool.studio.queue(pool.project_id)[:10] == served[:10]
    request_publication(pool.backend, pool.project_id)
    assert cancel_round(pool.backend, pool.project_id)
    assert not is_asked_for(pool), "a person's own request can be cancelled"


def test_the_answers_to_check_leave_the_queue_before_the_tasks_come_first(pool: Pool) -> None:
    """Label Studio's editor shows all predictions of the version, whatever their scores."""
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    assert shown(pool, asked(pool)) == len(asked(pool)) == 40
    before = pool.studio.queue(pool.project_id)
    for path, method, left in (("/api/predictions", "DELETE", 40), ("import/predictions", "POST", 0)):
        pool.studio.fail(500, path, method=method)
        with pytest.raises(LabelStudioError):
            publish_round(pool.backend, pool.stored, unwatched)
        pool.studio.heal()
        assert shown(pool, asked(pool)) == left
        served = [task_id for task_id in before if left or task_id not in asked(pool)]
        assert pool.studio.queue(pool.project_id) == served, "nothing to check is served meanwhile"
    publish_round(pool.backend, pool.stored, unwatched)
    assert in_front(pool) and shown(pool, asked(pool)) == 0
    assert sorted(pool.studio.queue(pool.project_id)) == pool.task_ids


def test_a_cancel_pauses_though_the_round_has_just_ended(pool: Pool) -> None:
    """A round that a person starts ends an earlier pause when it is done."""
    redis, store = pool.backend.redis, pool.backend.store
    store.hold(pool.project_id, "A person cancelled the last round.")
    redis.rpush(redis_key(pool.project_id, "demands"), "start")
    with project_lease(pool.backend, pool.project_id):
        cancelling = threading.Thread(target=cancel_round, args=(pool.backend, pool.project_id))
        cancelling.start()
        while redis.exists(redis_key(pool.project_id, "demands")):
            pass
        store.release(pool.project_id)
    cancelling.join()
    assert store.held(pool.project_id)


def test_a_round_answers_the_publication_that_was_asked_for_before_it(pool: Pool) -> None:
    backend, first = pool.backend, pool.stored
    told = replace(
        first.record, fingerprint=backend.label_studio.fetch_snapshot(pool.project_id).fingerprint()
    )
    with backend.store.draft(pool.project_id) as draft:  # it only has to be published
        arrays = {name.removesuffix(".npy"): first.array(name.removesuffix(".npy")) for name in told.hashes}
        draft.save(replace(told, number=draft.number, model_version="coreset-2-now"), arrays)
    request_publication(backend, pool.project_id)
    request_round(backend, pool.project_id, "start", force=True)
    assert run_round_job(pool.project_id) == "round 2: start"
    assert not is_asked_for(pool)
