"""The whole stack in containers, with a Label Studio: a round, kills, an upgrade; nothing is lost."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from paths import ROOT
from waiting import wait_until

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = pytest.mark.docker
BATCH = 12
SETTINGS = f"""\
CORESET_BATCH_SIZE={BATCH}
CORESET_DEBOUNCE_SECONDS=1
# So rare that only webhooks can have started a round.
CORESET_POLL_SECONDS=3600
# Small, since it is not the training that is tested here.
CORESET_IMAGE_SIZE=32
CORESET_KEEP_ROUNDS=20
OMP_NUM_THREADS=1
"""


@dataclass(frozen=True)
class Stack:
    """A copy of what is built, its containers, and where they answer."""

    context: Path
    environment: dict[str, str]

    def compose(self, *arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", "-f", "docker/compose.yaml", "--profile", "label-studio", *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=self.context, capture_output=True, text=True, timeout=seconds
        )

    def up(self) -> None:
        started = self.compose("up", "-d", "--build", "--wait", seconds=1800)
        assert started.returncode == 0, started.stderr[-3000:] + self.compose("logs", "--tail", "30").stdout

    def inside(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        return self.compose("exec", "-T", service, *command)

    def kill(self, service: str) -> None:
        """SIGKILL every process of the container but its init, which ends without them."""
        self.inside(service, "sh", "-c", "kill -9 -1")

    def secret(self, name: str) -> str:
        return (self.context / "docker/secrets" / name).read_text()

    def ask(self, path: str, method: str = "GET") -> Any:
        """The JSON of the web's answer, None while it gives none."""
        url = f"http://127.0.0.1:{self.environment['PORT']}{path}"
        login = ("coreset", self.secret("basic_auth_pass"))
        try:
            answer = httpx.request(method, url, auth=login, trust_env=False, timeout=10)
        except httpx.TransportError:
            return None
        return answer.json() if answer.is_success else None

    def round(self, project_id: int, number: int, seconds: float = 600) -> Any:
        """The record of the newest round once it has that number, or a higher one, and is published."""

        def published() -> Any:
            status = self.ask(f"/api/projects/{project_id}/status")
            newest = status and status["round"]
            return newest if newest and newest["number"] >= number and newest["published"] else None

        return wait_until(published, f"round {number}", seconds)


def copied_context(target: Path) -> Path:
    """What `docker build` reads, in a folder whose version, settings and secrets a test may change."""
    for name in ("coreset_backend", "docker"):
        shutil.copytree(
            ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "secrets", ".env")
        )
    for name in ("_wsgi.py", ".dockerignore"):
        shutil.copy(ROOT / name, target / name)
    (target / "docker/.env").write_text(SETTINGS)
    subprocess.run([target / "docker/make-secrets.sh"], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def stack(own_engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = own_engine | {
        "COMPOSE_PROJECT_NAME": f"coreset-test-{os.getpid()}",
        "IMAGE_TAG": "test",
        "PORT": str(demo.free_port()),
        "LABEL_STUDIO_PORT": str(demo.free_port()),
    }
    made = Stack(copied_context(tmp_path_factory.mktemp("context")), environment)
    try:
        made.up()
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def label_studio(stack: Stack) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{stack.environment['LABEL_STUDIO_PORT']}"
    with demo_project.open_session(url, stack.secret("label_studio_api_key")) as session:
        yield session


@pytest.fixture(scope="module")
def project_id(stack: Stack, label_studio: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> int:
    folder = tmp_path_factory.mktemp("images")
    names = dict(make_images(folder, 80, seed=3))
    made = demo_project.create_project(label_studio, "In containers", demo_project.choices_config(CLASSES))
    demo_project.upload_images(label_studio, made, [folder / name for name in names])
    connected = stack.inside("worker", "coreset-backend", "connect", "--project", str(made))
    assert connected.returncode == 0, connected.stderr
    return made


def submit(label_studio: httpx.Client, task_id: int, choice: str) -> None:
    value = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
    label_studio.post(f"/api/tasks/{task_id}/annotations/", json={"result": [value]}).raise_for_status()


def next_task(label_studio: httpx.Client, project_id: int) -> int:
    """What 'Label All Tasks' shows."""
    ask = {"id": "next_task", "project": project_id}
    answer = label_studio.post("/api/dm/actions/", params=ask, json={"project": project_id})
    return int(answer.raise_for_status().json()["id"])


@pytest.mark.parametrize("service", ["web", "worker"])
def test_a_container_is_nobody_and_can_write_its_data_only(stack: Stack, service: str) -> None:
    assert stack.inside(service, "id", "-u").stdout.strip() == "10001"
    assert "Read-only file system" in stack.inside(service, "touch", "/app/x").stderr
    assert stack.inside(service, "touch", "/data/.probe").returncode == 0
    state = stack.inside(service, "sh", "-c", "grep -E 'CapEff|NoNewPrivs' /proc/self/status").stdout
    assert state.split() == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1"]


def test_redis_refuses_without_the_password_and_shows_it_to_nobody(stack: Stack) -> None:
    assert "NOAUTH" in stack.inside("redis", "redis-cli", "get", "x").stdout
    commands = stack.inside("redis", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert "redis-server" in commands and stack.secret("redis_password") not in commands
    connect = "import socket; socket.create_connection(('redis', 6379), 3)"
    assert stack.inside("label-studio", "python3", "-c", connect).returncode != 0


def test_the_web_asks_for_the_login(stack: Stack) -> None:
    assert stack.ask("/ready")["workers"] == 1
    url = f"http://127.0.0.1:{stack.environment['PORT']}"
    assert httpx.get(f"{url}/ready", trust_env=False).status_code == 401
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200


def test_labels_start_the_next_round_by_webhook(
    stack: Stack, label_studio: httpx.Client, project_id: int
) -> None:
    batch = stack.round(project_id, 1)["batch"]
    assert len(batch) == BATCH
    for place, task_id in enumerate(batch):
        assert next_task(label_studio, project_id) == task_id
        submit(label_studio, task_id, CLASSES[place % len(CLASSES)])
    second = stack.round(project_id, 2)
    assert next_task(label_studio, project_id) == second["batch"][0]


def test_doctor_finds_nothing_wrong(stack: Stack, project_id: int) -> None:
    stack.round(project_id, 1)
    checked = stack.inside("worker", "coreset-backend", "doctor", "--project", str(project_id))
    assert checked.returncode == 0, checked.stdout


@pytest.mark.fault("the worker's container is killed", "snapshot")
def test_a_killed_worker_comes_back_and_runs_its_round_again(stack: Stack, project_id: int) -> None:
    before = stack.round(project_id, 1)
    stack.ask(f"/api/projects/{project_id}/start", "POST")

    def running() -> bool:
        status = stack.ask(f"/api/projects/{project_id}/status")
        return bool(status and status["progress"]["state"] == "running")

    wait_until(running, "a round that runs")
    stack.kill("worker")
    assert stack.round(project_id, before["number"] + 1)["model_version"] != before["model_version"]


@pytest.mark.fault("the container of Redis or of the web is killed", "between")
@pytest.mark.parametrize("service", ["redis", "web"])
def test_a_killed_container_comes_back_and_rounds_go_on(stack: Stack, project_id: int, service: str) -> None:
    before = stack.round(project_id, 1)
    stack.kill(service)
    wait_until(lambda: stack.ask("/ready"), f"a stack that is ready without its {service}")
    stack.ask(f"/api/projects/{project_id}/start", "POST")
    stack.round(project_id, before["number"] + 1)


def test_openvino_computes_the_features(stack: Stack, project_id: int) -> None:
    stack.round(project_id, 1)
    assert re.search(r"OpenVINO \S+ \w+ computes efficientnet_lite0", stack.compose("logs", "worker").stdout)


def test_a_rollback_in_a_container_serves_the_earlier_round(stack: Stack, project_id: int) -> None:
    newest = stack.round(project_id, 2)["number"]
    told = stack.inside("worker", "coreset-backend", "rollback", "--project", str(project_id), "--round", "1")
    assert told.returncode == 0, told.stderr
    assert stack.round(project_id, 1)["number"] == 1
    stack.ask(f"/api/projects/{project_id}/start", "POST")
    stack.round(project_id, newest + 1)


def documented(section: str) -> list[str]:
    """The commands of docs/deploy.md in the section of that name."""
    text = (ROOT / "docs/deploy.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def test_a_backup_made_and_restored_by_the_documented_lines_has_every_round(
    stack: Stack, project_id: int
) -> None:
    before = stack.round(project_id, 1)
    kept = stack.ask(f"/versions?project={project_id}")["versions"]
    backup, *restore = documented("Backup")
    typed = {"env": stack.environment, "cwd": stack.context, "check": True, "timeout": 300}
    subprocess.run(backup, shell=True, **typed)
    stack.inside("worker", "find", "/data", "-mindepth", "1", "-delete")
    assert stack.ask(f"/versions?project={project_id}")["versions"] == []
    for line in restore:
        subprocess.run(line.replace("--project 1", f"--project {project_id}"), shell=True, **typed)
    wait_until(lambda: stack.ask("/ready"), "a stack that is ready")
    assert stack.ask(f"/versions?project={project_id}")["versions"] == kept
    assert stack.round(project_id, before["number"])["model_version"] == before["model_version"]


@pytest.mark.fault("an upgrade in place", "between")
def test_an_upgrade_in_place_keeps_every_round(stack: Stack, project_id: int) -> None:
    before = stack.round(project_id, 1)
    version = stack.context / "coreset_backend/__init__.py"
    old = stack.ask("/health")["version"]
    version.write_text(version.read_text().replace(old, "99.0.0"))
    stack.up()
    assert stack.ask("/health")["version"] == "99.0.0"
    kept = stack.ask(f"/versions?project={project_id}")["versions"]
    assert [int(version.split("-")[1]) for version in kept] == list(range(before["number"], 0, -1))
    before = stack.round(project_id, before["number"])
    stack.ask(f"/api/projects/{project_id}/start", "POST")
    stack.round(project_id, before["number"] + 1)


def test_the_worker_builds_with_torch_from_an_index_of_its_own(own_engine: dict[str, str]) -> None:
    """Any index that has torch will do; PyPI's, without what it needs of CUDA, shows what was left out."""
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True
    )
    index = configured.stdout.strip() or "https://pypi.org/simple"
    build = ["docker", "build", "-q", "-f", "docker/Dockerfile", "--target", "worker-builder"]
    built = subprocess.run(
        [*build, "--build-arg", f"TORCH_INDEX_URL={index}", "."],
        env=own_engine,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    names = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    run = ["docker", "run", "--rm", built.stdout.strip(), "/opt/venv/bin/python", "-c", names]
    found = subprocess.run(run, env=own_engine, capture_output=True, text=True, check=True).stdout.split()
    lock = (ROOT / "docker/requirements-worker.txt").read_text()
    wanted = re.findall(r"^(torch(?:vision)?==[\d.]+)", lock, re.MULTILINE)
    assert len(wanted) == 2 and set(wanted) <= set(found)
    assert not [name for name in found if name.startswith(("nvidia", "cuda", "triton"))]
    assert any(name.startswith("annoy==") for name in found)


def test_no_secret_is_in_any_log(stack: Stack, project_id: int) -> None:
    stack.round(project_id, 1)
    logs = stack.compose("logs", "web", "worker", "redis").stdout
    assert "gunicorn" in logs
    assert not [
        name
        for name in json.loads(stack.compose("config", "--format", "json").stdout)["secrets"]
        if stack.secret(name) in logs
    ]
