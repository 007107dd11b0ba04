"""What Label Studio 1.23.2 really sent, replayed: through our own app, and through the SDK's.

The files of payloads/ were recorded from a running Label Studio whose project has id 1, in which a
person connected a backend, imported, labelled, skipped, deleted, and pressed Start Training.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from paths import SUPPORT
from saved_rounds import record
from waiting import wait_until

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.evaluation.calibration import lower_bound
from coreset_backend.evaluation.scores import proportion
from coreset_backend.local import label_studio as demo
from coreset_backend.store.record import NO_ROUND_VERSION, Evaluation, SureAnswers
from coreset_backend.web.app import create_app

PAYLOADS = {path.stem: json.loads(path.read_text()) for path in (SUPPORT / "payloads").iterdir()}
START_ROUNDS = {
    "tasks_created",
    "tasks_created_with_annotations",
    "tasks_deleted",
    "annotation_created",
    "annotation_created_by_skipping",
    "annotation_updated",
    "annotations_created",
    "annotations_deleted",
    "start_training",
}
MakeBackend = Callable[..., Backend]


def save_round(backend: Backend) -> None:
    """Round 1 of project 1, whose model is sure that tasks 2, 3 and 4 are cats."""
    task_ids = np.array([2, 3, 4])
    share = proportion(57, 60)
    evaluation = Evaluation(share, share, sure=SureAnswers(60, 57, lower_bound(57, 60)))
    with backend.store.draft(1) as draft:
        draft.save(
            record(draft.number, project_id=1, evaluation=evaluation),
            {
                "task_ids": task_ids,
                "states": np.ones(3, dtype=np.uint8),
                "scores": np.full(3, 0.5, dtype=np.float32),
                "embedded_task_ids": task_ids,
                "probabilities": np.array([[0.95, 0.05]] * 3, dtype=np.float32),
            },
        )


def body(name: str) -> Any:
    return PAYLOADS[name]["body"]


def webhooks() -> list[str]:
    return sorted(name for name, payload in PAYLOADS.items() if payload["path"] == "/webhook")


@pytest.mark.parametrize("name", webhooks())
def test_every_event_starts_one_job_or_none(make_backend: MakeBackend, name: str) -> None:
    backend = make_backend()
    client = create_app(backend).test_client()
    for _ in range(3):
        answer = client.post("/webhook", json=body(name), headers={SECRET_HEADER: backend.webhook_secret})
        assert answer.status_code in (200, 202)
    assert backend.jobs_waiting == (name in START_ROUNDS)
    assert bool(backend.redis.exists("coreset:1:demands")) == (name == "start_training")


def test_the_recorded_events_are_all_that_label_studio_sends() -> None:
    assert set(webhooks()) == START_ROUNDS | {"project_updated"}


def test_setup_predict_and_versions_as_recorded(make_backend: MakeBackend) -> None:
    backend = make_backend()
    save_round(backend)
    client = create_app(backend).test_client()
    assert client.post("/setup", json=body("connect_setup")).json == {"model_version": "pool-1-now"}
    answer = client.post("/predict", json=body("predict_on_opening_a_task")).json or {}
    assert [result["model_version"] for result in answer["results"]] == ["pool-1-now"]
    assert answer["results"][0]["result"][0]["value"] == {"choices": ["cat"]}
    assert client.get(PAYLOADS["versions"]["path"]).json == {"versions": []}


# ---------------------------------------------------------------- the SDK's own app

SDK2 = SUPPORT / "sdk2"
SERVER = """
import inspect, sys
from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLBase
from coreset_backend.web.sdk_model import SDK2, CoresetModel
if __name__ == "__main__":
    folder, port, sdk2 = sys.argv[1:]
    assert str(SDK2) == sdk2
    options = {} if SDK2 else {"model_dir": folder}
    init_app(CoresetModel, **options).run("127.0.0.1", int(port))
"""


@pytest.fixture(params=["1.0.9", "2.x"])
def sdk(request: pytest.FixtureRequest, make_backend: MakeBackend, tmp_path: Path) -> Iterator[httpx.Client]:
    """What calls an SDK that serves CoresetModel: a process of its own, as it keeps its state in globals."""
    backend, port, second = make_backend(), demo.free_port(), request.param == "2.x"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([*([str(SDK2)] if second else []), *sys.path]),
        "HOME": str(tmp_path),
        "REDIS_URL": backend.settings.redis_url or "",
        "MODEL_DIR": str(backend.settings.model_dir),
        "CORESET_DEBOUNCE_SECONDS": "0",
    }
    script, log = tmp_path / "server.py", tmp_path / "sdk.log"
    script.write_text(SERVER)
    command = [sys.executable, str(script), str(tmp_path / "sdk"), str(port), str(second)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240, trust_env=False)

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return client.get("/health").status_code == 200
        return False

    try:
        wait_until(answers, "the SDK's server")
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait(60)


@pytest.mark.slow
def test_the_sdk_answers_as_our_own_web_does(sdk: httpx.Client, make_backend: MakeBackend) -> None:
    """The version of /setup is that of /predict, extra params are kept, and tasks need not name a project."""
    backend = make_backend()
    own = create_app(backend).test_client()
    setup = body("connect_setup") | {"extra_params": None}
    asked = body("predict_on_opening_a_task")
    before = sdk.post("/setup", json=setup | {"extra_params": {"batch_size": 7}})
    assert before.json() == {"model_version": NO_ROUND_VERSION}
    assert backend.store.projects() == [1] and backend.store.extra_params(1) == {"batch_size": 7}
    assert len(backend.queue.jobs) == 1  # the first round
    save_round(backend)
    nameless = [{name: v for name, v in task.items() if name != "project"} for task in asked["tasks"]]
    unseen = [*nameless, {"id": 99, "data": {}}]
    for path, sent in (
        ("/setup", setup),
        ("/setup", setup | {"extra_params": {"batch_size": 8}}),
        ("/setup", setup | {"extra_params": {"batch_size": "many"}}),
        ("/setup", setup | {"extra_params": {"coreset_nonsense": 1}}),
        ("/setup", setup | {"schema": "<View/>"}),
        ("/setup", setup | {"schema": '<View><Text name="t" value="$t"/></View>'}),
        ("/predict", asked),
        ("/predict", asked | {"tasks": nameless}),
        ("/predict", asked | {"tasks": unseen}),
    ):
        ours, theirs = own.post(path, json=sent), sdk.post(path, json=sent)
        assert theirs.status_code == ours.status_code, theirs.text
        expected = dict(ours.json or {})
        assert {name: theirs.json()[name] for name in expected} == expected
        if ours.status_code == 400:
            assert theirs.reason_phrase == ours.status.removeprefix("400 ")
    assert backend.store.extra_params(1) == {"batch_size": 8}
    assert backend.redis.smembers("coreset:1:unseen") == {b"99"}


@pytest.mark.slow
def test_the_recorded_events_through_the_sdk(
    sdk: httpx.Client, make_backend: MakeBackend, request: pytest.FixtureRequest
) -> None:
    backend = make_backend()
    save_round(backend)
    second = "2.x" in request.node.name
    assert sdk.post("/setup", json=body("connect_setup") | {"extra_params": None}).status_code == 200
    backend.redis.flushall()
    # 2.x passes on single annotations and Start Training only: the poll finds the rest.
    for name, jobs in (
        ("project_updated", 0),
        ("annotations_deleted", not second),
        ("annotation_created", 1),
    ):
        assert sdk.post("/webhook", json=body(name)).status_code in (200, 201)
        if jobs:
            wait_until(lambda: backend.jobs_waiting, f"the job of {name}")
        assert backend.jobs_waiting == jobs
    assert sdk.post("/webhook", json=body("start_training")).status_code == 201
    wait_until(lambda: backend.high_priority_queue.count, "the round that a person asked for")
    wait_until(lambda: backend.jobs_waiting == 1, "it to replace the job of the annotation")


def test_without_a_request_the_model_knows_its_project_by_its_number_or_by_the_tasks(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend()
    save_round(backend)
    code = (
        "import json, sys; from coreset_backend.web.sdk_model import CoresetModel;"
        "tasks, = json.load(sys.stdin); named = CoresetModel('1.1795444315', label_config='<View/>');"
        "named.set_extra_params({'batch_size': 9}); nameless = [{'id': 3}];"
        "print(json.dumps([CoresetModel().predict(tasks), named.predict(nameless, context=None),"
        "named.get('model_version'), named.fit('ANNOTATION_CREATED', {'project': {'id': 1}})]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PYTHONPATH": os.pathsep.join([str(SDK2), *sys.path]),
            "REDIS_URL": backend.settings.redis_url or "",
            "MODEL_DIR": str(backend.settings.model_dir),
        },
        input=json.dumps([body("predict_on_opening_a_task")["tasks"]]),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    by_task, by_number, version, fitted = json.loads(ran.stdout)
    assert [by_task[0]["model_version"], by_number[0]["model_version"], version] == ["pool-1-now"] * 3
    assert fitted["status"] in ("queued", "already waiting")
    assert backend.store.extra_params(1) == {"batch_size": 9}
