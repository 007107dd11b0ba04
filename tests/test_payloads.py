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
from test_store import record
from waiting import wait_until

from coreset_backend import demo
from coreset_backend.backend import Backend
from coreset_backend.connect import SECRET_HEADER
from coreset_backend.web import create_app

PAYLOADS = {
    path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "payloads").iterdir()
}
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
    with backend.store.draft(1) as draft:
        draft.save(
            record(draft.number, project_id=1, training={"holdout_accuracy": 0.95, "n_holdout": 60}),
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
    assert len(backend.queue.jobs) == (name in START_ROUNDS)
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

SERVER = """
import sys
from label_studio_ml.api import init_app
from coreset_backend.coreset_model import CoresetModel
init_app(CoresetModel, model_dir=sys.argv[1]).run("127.0.0.1", int(sys.argv[2]))
"""


@pytest.fixture
def sdk_url(make_backend: MakeBackend, tmp_path: Path) -> Iterator[str]:
    """label-studio-ml 1.0.9 serving CoresetModel: a process of its own, as it keeps its state in globals."""
    backend, port = make_backend(), demo.free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(tmp_path),
        "REDIS_URL": backend.settings.redis_url or "",
        "MODEL_DIR": str(backend.settings.model_dir),
        "CORESET_DEBOUNCE_SECONDS": "0",
    }
    script, log = tmp_path / "server.py", tmp_path / "sdk.log"
    script.write_text(f"if __name__ == '__main__':\n{SERVER.replace(chr(10), chr(10) + '    ')}")
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "sdk"), str(port)],
            env=environment,
            stdout=output,
            stderr=output,
        )

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health", trust_env=False).status_code == 200
        return False

    try:
        wait_until(answers, "the SDK's server")
        yield url
    finally:
        server.terminate()
        server.wait(10)


def test_the_recorded_payloads_through_the_sdk(sdk_url: str, make_backend: MakeBackend) -> None:
    backend = make_backend()
    save_round(backend)
    with httpx.Client(base_url=sdk_url, timeout=60, trust_env=False) as studio:
        assert studio.post("/setup", json=body("connect_setup")).status_code == 200
        predicted = studio.post("/predict", json=body("predict_on_opening_a_task")).json()["results"]
        assert predicted[0]["model_version"] == "pool-1-now"
        assert predicted[0]["result"][0]["value"] == {"choices": ["cat"]}
        for name, jobs in (("project_updated", 0), ("annotations_deleted", 1), ("start_training", 1)):
            assert studio.post("/webhook", json=body(name)).status_code == 201
            forced = "coreset:1:demands" if name == "start_training" else None
            if jobs:
                wait_until(
                    lambda forced=forced: backend.redis.exists(forced) if forced else backend.queue.jobs,
                    f"the job of {name}",
                    60,
                )
            assert len(backend.queue.jobs) == jobs


SDK2_MODEL = '''
class LabelStudioMLBase:
    """The signatures of label-studio-ml 2.x, which no package registry carries."""

    def __init__(self, project_id=None, label_config=None):
        self.project_id = project_id
        self.setup()

    def setup(self):
        """2.x calls this in the constructor."""
'''


def test_it_fits_the_base_class_of_sdk_2(make_backend: MakeBackend, tmp_path: Path) -> None:
    backend = make_backend()
    save_round(backend)
    package = tmp_path / "label_studio_ml"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.py").write_text(SDK2_MODEL)
    code = (
        "import json, sys; from coreset_backend.coreset_model import CoresetModel;"
        "tasks, event = json.load(sys.stdin); model = CoresetModel('1.1795444315', label_config='<View/>');"
        "print(json.dumps([model.predict(tasks, context=None), model.fit(event['action'], event)]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "REDIS_URL": backend.settings.redis_url or "",
            "MODEL_DIR": str(backend.settings.model_dir),
        },
        input=json.dumps([body("predict_on_opening_a_task")["tasks"], body("annotation_created")]),
        capture_output=True,
        text=True,
        check=True,
    )
    predicted, fitted = json.loads(ran.stdout)
    assert predicted[0]["model_version"] == "pool-1-now"
    assert fitted == {"status": "queued"}
    assert len(backend.queue.jobs) == 0  # waits for the debounce, in RQ's list of scheduled jobs
    assert backend.redis.exists("coreset:1:waiting")
