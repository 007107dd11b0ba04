"""A Docker engine, found or started, and `docker compose` on the project's own file."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from paths import ROOT
from waiting import wait_until


@dataclass(frozen=True)
class Docker:
    """The docker command line, with the environment that reaches the engine."""

    environment: dict[str, str]

    def __call__(
        self, *arguments: str, seconds: float = 240, cwd: Path = ROOT
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def works(self, *arguments: str) -> bool:
        return self(*arguments).returncode == 0


@pytest.fixture(scope="session")
def docker() -> Docker:
    """The docker command line of this machine."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    return Docker({**os.environ, "DOCKER_BUILDKIT": "1"})


@pytest.fixture(scope="session")
def compose(docker: Docker) -> Sequence[str]:
    """The words that begin a `docker compose` command on our file."""
    if not docker.works("compose", "version"):
        pytest.skip("docker compose is not installed")
    return ("compose", "-f", str(ROOT / "docker/compose.yaml"))


@pytest.fixture(scope="session")
def engine(docker: Docker) -> Docker:
    """A Docker engine that runs already."""
    if not docker.works("info"):
        pytest.skip("no Docker engine runs here")
    return docker


@pytest.fixture(scope="session")
def own_engine(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that reaches an engine with the base images: the one that runs, else a private one."""
    if docker.works("info") and docker.works("compose", "version"):
        yield docker.environment
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("no Docker engine with Compose runs here, and starting one takes root and dockerd")
    folder = tmp_path_factory.mktemp("engine")
    started = subprocess.run([ROOT / "tests/docker/engine.sh", folder], capture_output=True, text=True)
    try:
        if started.returncode:
            pytest.skip(f"no Docker engine can start here: {started.stderr[-500:]}")
        reached = {"DOCKER_HOST": f"unix://{folder}/docker.sock"}
        if (folder / "config").exists():
            reached["DOCKER_CONFIG"] = str(folder / "config")
        yield docker.environment | reached
    finally:
        stop_engine(folder)


def stop_engine(folder: Path) -> None:
    """End the engine of this folder, and remove what it held: up to twenty gigabytes, with all images."""
    with contextlib.suppress(FileNotFoundError):
        pid = int((folder / "dockerd.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"the end of the engine in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
