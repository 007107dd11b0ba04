"""What somebody who can write to Redis gets a worker to do: nothing but our own two functions."""

import json
import pickle
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from serving import Echo, serving
from waiting import wait_until
from worker_site import Site

from coreset_backend.jobs.keys import RECONCILE_JOB, ROUND_JOB

OURS = json.dumps([RECONCILE_JOB, None, [], {}]).encode()


def os_mkdir(path: Path) -> bytes:
    """A pickle that makes a folder when it is loaded."""
    return f"cos\nmkdir\n(V{path}\ntR.".encode()


def put(redis: Redis, queue: str, job_id: str, **fields: Any) -> None:
    """A job as RQ keeps it, with these fields, at the end of the queue."""
    known = {"data": OURS, "origin": queue, "status": "queued", "timeout": "60"}
    known |= {"created_at": "2026-01-01T00:00:00.000000Z", "result_ttl": "60"}
    redis.hset(f"rq:job:{job_id}", mapping=known | fields)
    redis.rpush(f"rq:queue:{queue}", job_id)


def wait_for_the_next(site: Site) -> None:
    """An honest job behind all others is run, by the same worker."""
    after = site.backend.queue.enqueue(RECONCILE_JOB)
    wait_until(lambda: after.get_status(refresh=True).value == "finished", "the job behind them", 400)
    assert site.workers[0].poll() is None


@pytest.mark.slow
def test_a_pickle_or_another_function_is_not_run(site: Site, tmp_path: Path) -> None:
    pickled, named, control = tmp_path / "by-pickle", tmp_path / "by-name", tmp_path / "control"
    pickle.loads(os_mkdir(control))
    assert control.exists()
    calls: dict[str, Any] = {
        "named": ["os.mkdir", None, [str(named)], {}],
        "method": ["mkdir", "cos\nmkdir\n", [str(named)], {}],
        "ours-of-an-object": [ROUND_JOB, "os", [7], {}],
        "ours-with-a-path": [ROUND_JOB, None, ["../../etc"], {}],
        "ours-with-more": [ROUND_JOB, None, [7], {"project_id": 8}],
        "no-list": {"func": "os.mkdir"},
        "too-short": ["os.mkdir"],
    }
    site.start_worker()
    put(site.backend.redis, "coreset", "pickle", data=os_mkdir(pickled))
    for name, call in calls.items():
        put(site.backend.redis, "coreset", name, data=json.dumps(call).encode())
    site.backend.redis.set("coreset:7:progress", os_mkdir(pickled))
    wait_for_the_next(site)
    assert not pickled.exists() and not named.exists()
    assert not site.backend.store.projects()


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    return tmp_path / "sprung"


@pytest.mark.slow
def test_no_callback_or_address_of_a_job_is_called(site: Site, trap: Path, redis_url: str) -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Echo)) as address:
        hook = json.dumps([{"url": address, "job_status": "finished"}])
        fields = {f"{when}_callback_name": "trap.spring" for when in ("success", "failure", "stopped")}

        with Redis.from_url(redis_url) as redis:  # a worker of RQ's own falls into it
            redis.flushall()
            put(redis, "plain", "trapped", data=json.dumps(["time.time", None, [], {}]).encode(), **fields)
            queue = Queue("plain", connection=redis, serializer=JSONSerializer)
            SimpleWorker([queue], connection=redis, serializer=JSONSerializer).work(burst=True)
        assert trap.exists()
        trap.unlink()

        site.start_worker(TRAP=str(trap))
        put(site.backend.redis, "coreset", "trapped", webhooks=hook, **fields)
        put(site.backend.redis, "coreset", "failing", data=b"torn", webhooks=hook, **fields)
        wait_for_the_next(site)
    assert not trap.exists()


FIELDS = (
    *("data", "created_at", "origin", "worker_name", "description", "enqueued_at", "started_at", "ended_at"),
    *(
        "last_heartbeat",
        "result",
        "timeout",
        "result_ttl",
        "failure_ttl",
        "ttl",
        "status",
        "meta",
        "exc_info",
    ),
    *("number_of_retries", "retries_left", "retry_intervals", "repeats_left", "repeat_intervals"),
    *("success_callback_name", "success_callback_timeout", "failure_callback_name", "stopped_callback_name"),
    *("webhooks", "dependency_ids", "dependency_id", "group_id", "rate_limit_key", "rate_limit_concurrency"),
    *("enqueue_at_front", "enqueue_at_front_on_retry", "allow_dependency_failures"),
)


@pytest.mark.slow
def test_any_field_may_hold_anything_and_the_worker_lives(site: Site, tmp_path: Path) -> None:
    pickled = tmp_path / "by-pickle"
    for field in FIELDS:
        for number, value in enumerate((os_mkdir(pickled), b"\xff\x00", b"-1")):
            put(site.backend.redis, "coreset", f"{field}-{number}", **{field: value})
    site.start_worker()
    wait_for_the_next(site)
    assert not pickled.exists()
