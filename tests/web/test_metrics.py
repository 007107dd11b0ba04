"""What /metrics, /ready and status say, against what is; and what the alerts and the dashboard ask for."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from forked import Command, start
from paths import ROOT
from prometheus_client.parser import text_string_to_metric_families
from saved_rounds import record
from waiting import wait_until

from coreset_backend.backend import Backend
from coreset_backend.cli.status import status_lines
from coreset_backend.jobs.monitoring import HEARTBEAT_SECONDS, alive_key, count, heartbeat_ages
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.status import project_status
from coreset_backend.reports import TrainingReport
from coreset_backend.web.app import create_app

MakeBackend = Callable[..., Backend]
DOCKER = ROOT / "docker"


def figures(client: FlaskClient) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) -> value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def save_round(backend: Backend) -> None:
    with backend.store.draft(7) as draft:
        draft.save(
            record(
                draft.number,
                counts={"labeled": 3, "pool": 5},
                timings={"fit": 2.5},
                radius_after=0.5,
                training=TrainingReport(holdout_accuracy=0.9, n_holdout=20),
            ),
            {"task_ids": np.arange(8)},
        )


def test_requests_are_timed_by_route_and_not_by_what_strangers_type(client: FlaskClient) -> None:
    client.get("/health")
    client.post("/setup", json={"project": "x"})
    client.get("/nowhere/1")
    client.open("/nowhere/2", method="BREW")
    found = figures(client)
    name = "coreset_http_request_duration_seconds_count"
    assert found[name, "GET", "/health", "200"] == 1
    assert found[name, "POST", "/setup", "400"] == 1
    assert found[name, "unknown", "unknown", "404"] == 2
    assert found["coreset_http_requests_in_progress",] == 1  # the scrape itself


def test_two_apps_in_one_process_count_apart(make_backend: MakeBackend) -> None:
    one, other = (create_app(make_backend()).test_client() for _ in range(2))
    one.get("/health")
    key = ("coreset_http_request_duration_seconds_count", "GET", "/health", "200")
    assert key in figures(one)
    assert key not in figures(other)


def test_the_newest_round_of_each_project_is_told(backend: Backend, client: FlaskClient) -> None:
    save_round(backend)
    save_round(backend)
    found = figures(client)
    assert found["coreset_round", "7"] == 2
    assert found["coreset_round_published", "7"] == 0
    assert found["coreset_pool_tasks", "7", "labeled"] == 3
    assert found["coreset_pool_tasks", "7", "pool"] == 5
    assert found["coreset_covering_radius", "7"] == 0.5
    assert found["coreset_holdout_accuracy", "7"] == 0.9
    assert found["coreset_round_duration_seconds", "fit", "7"] == 2.5
    assert found["coreset_disk_free_bytes",] > 0


def test_queue_states_and_counts_come_from_redis(backend: Backend, client: FlaskClient) -> None:
    backend.store.register(7)
    request_round(backend, 7, "a test")
    count(backend.redis, "coreset_rounds", "7", "failed", "Unreachable")
    count(backend.redis, "coreset_rounds", "7", "failed", "Unreachable")
    count(backend.redis, "coreset_round_phase_seconds", "fit", amount=1.5)
    found = figures(client)
    assert found["coreset_redis_up",] == 1
    assert found["coreset_workers",] == 0
    assert found["coreset_jobs", "queued"] == 1
    assert found["coreset_project_state", "7", "waiting"] == 1
    assert found["coreset_project_state", "7", "running"] == 0
    assert found["coreset_rounds_total", "Unreachable", "failed", "7"] == 2
    assert found["coreset_round_phase_seconds_total", "fit"] == 1.5


def test_without_redis_the_rest_is_told(make_backend: MakeBackend) -> None:
    backend = make_backend(redis_url="redis://127.0.0.1:1")
    save_round(backend)
    client = create_app(backend).test_client()
    found = figures(client)
    assert found["coreset_redis_up",] == 0
    assert found["coreset_round", "7"] == 1
    assert client.get("/ready").status_code == 503


@pytest.fixture
def worker(backend: Backend, redis_url: str, tmp_path: Path) -> Iterator[Command]:
    """A real worker on the test's Redis and store, with a poll each second."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REDIS_URL": redis_url}
    environment |= {"MODEL_DIR": str(backend.settings.model_dir), "CORESET_POLL_SECONDS": "1"}
    process = start("work", environment=environment, output=tmp_path / "worker.log")
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_readiness_and_status_tell_a_living_worker_from_a_killed_one(
    backend: Backend, client: FlaskClient, worker: Command
) -> None:
    ready = wait_until(lambda: (client.get("/ready").json or {}).get("workers"), "the worker")
    assert ready == 1
    assert figures(client)["coreset_worker_heartbeat_age_seconds",] < HEARTBEAT_SECONDS
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    wait_until(lambda: client.get("/ready").status_code == 503, "the truth about it")
    assert heartbeat_ages(backend.queue) == {}
    assert figures(client)["coreset_workers",] == 0
    backend.store.register(7)  # a living worker would note that it has no Label Studio
    request_round(backend, 7, "a test")
    told = status_lines(project_status(backend, 7))
    assert told[0] == "Project 7: waiting" and "no worker listens" in told[1]


# ---------------------------------------------------------------- alerts and dashboard


def exported(client: FlaskClient, backend: Backend) -> set[str]:
    """Every name that /metrics can have, of samples, once there is a round, a worker and a count."""
    save_round(backend)
    backend.redis.sadd("rq:workers:coreset", "rq:worker:w")
    backend.redis.set(alive_key("w"), "1", ex=HEARTBEAT_SECONDS)
    count(backend.redis, "coreset_rounds", "7", "done", "")
    count(backend.redis, "coreset_round_phase_seconds", "fit")
    client.get("/health")
    return {name for name, *_ in figures(client)}


@pytest.mark.parametrize("file", ["alerts.yaml", "grafana-dashboard.json"])
def test_alerts_and_dashboard_ask_for_figures_that_exist(
    client: FlaskClient, backend: Backend, file: str
) -> None:
    asked = set(re.findall(r"\bcoreset_\w+", (DOCKER / file).read_text()))
    assert len(asked) >= 6
    assert asked <= exported(client, backend)


def test_every_panel_of_the_dashboard_asks_for_something() -> None:
    dashboard = json.loads((DOCKER / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(target["expr"] for panel in panels for target in panel["targets"])


def test_promtool_takes_the_alerts() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; the package `prometheus` has it")
    subprocess.run([promtool, "check", "rules", str(DOCKER / "alerts.yaml")], check=True)
