"""Weights from a hub: found on disk, downloaded whole or not at all, given up where the network is dead.

The hub is a real HTTP server; what asks it is a process of its own, since huggingface_hub reads HF_ENDPOINT
and HF_HOME once.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, serving_hub, timm_folder

pytestmark = pytest.mark.slow
CHILD = """
import json, sys, time
from coreset_backend import model
from coreset_backend.errors import CoresetError
print("ready", flush=True)
for line in sys.stdin:
    name, download = json.loads(line)
    seen, started, answer = [], time.monotonic(), {}
    try:
        chosen = model.choose_backbone(name, None, download=download, progress=lambda *n: seen.append(n))
        answer = {"description": chosen.description, "weights": str(chosen.weights)}
        answer["size"] = chosen.backbone.size
    except CoresetError as error:
        answer = {"error": type(error).__name__, "told": str(error)}
    answer |= {"seen": seen, "seconds": time.monotonic() - started}
    print(json.dumps(answer), flush=True)
"""


@dataclass
class Client:
    """A process that chooses backbones, with a cache of its own in ``home``."""

    process: subprocess.Popen[str]
    home: Path

    def choose(self, name: str, download: bool = True) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([name, download]) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def started(home: Path, url: str, **more: str) -> Client:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(home),
        "HF_ENDPOINT": url,
        **more,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Client(process, home)


def ended(client: Client) -> None:
    client.process.kill()
    client.process.communicate()


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with serving_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = started(tmp_path_factory.mktemp("home"), hub.url)
    assert client.process.stdout and client.process.stdout.readline() == "ready\n"
    yield client
    ended(client)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return timm_folder(tmp_path_factory.mktemp("models") / "tiny", license=None)


def test_weights_are_downloaded_once_with_progress_and_then_found_on_disk(
    hub: FakeHub, client: Client, tiny: Path
) -> None:
    card = b"---\nlicense: cc-by-nc-4.0\nlibrary_name: timm\n---\n# Tiny\n"
    hub.add("org/once", tiny, **{"README.md": card})
    assert client.choose("hf-hub:org/once", download=False)["error"] == "ConfigError"
    assert not [line for line in hub.asked if "once" in line], (
        "nobody may be asked where downloads are forbidden"
    )
    first = client.choose("hf-hub:org/once")
    assert first["size"] == 160
    assert first["description"].endswith("licence CC-BY-NC-4.0: read it before commercial use")
    done, total = first["seen"][-1]
    assert done == total > len(hub.repositories["org/once"].files["model.safetensors"])
    asked = len(hub.asked)
    again = client.choose("hf-hub:org/once", download=False)
    assert again["description"] == first["description"]
    assert len(hub.asked) == asked, "what is on disk is not asked for"
    pinned = client.choose("hf-hub:org/once@v2")
    assert pinned["weights"] == first["weights"] and hub.downloads("org/once") == 1


def test_a_network_of_timm_is_downloaded_from_its_repository(
    hub: FakeHub, client: Client, tiny: Path
) -> None:
    hub.add("timm/test_vit.r160_in1k", tiny)
    for name in ("timm/test_vit", "test_vit.r160_in1k"):
        assert client.choose(name)["description"].startswith("timm/test_vit")
    assert hub.downloads("timm/test_vit.r160_in1k") == 1


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        ("gated", "ConfigError", "is gated: accept its licence at http"),
        ("altered", "DownloadFailed", "its SHA-256 is not what the hub says"),
        ("torn", "DownloadFailed", "could not be downloaded"),
        ("broken", "DownloadFailed", "503"),
        ("dead", "DownloadFailed", "could not be downloaded"),
        ("silent", "DownloadFailed", "no answer for 5 s"),
    ],
)
def test_what_goes_wrong_is_told_within_seconds_and_leaves_nothing_half_done(
    fault: str, error: str, told: str, hub: FakeHub, client: Client, tiny: Path
) -> None:
    repository = hub.add(f"org/{fault}", tiny, fault)
    answer = client.choose(f"hf-hub:org/{fault}")
    assert (answer["error"], told in answer["told"]) == (error, True), answer["told"]
    assert answer["seconds"] < 30, "the limits are 3 and 5 s; the rest is a busy machine"
    folder = client.home / "hub" / f"models--org--{fault}"
    assert not list(folder.glob("snapshots/*/model.safetensors"))
    repository.fault = ""
    assert "description" in client.choose(f"hf-hub:org/{fault}"), "mended, it is downloaded"


def test_a_slow_download_goes_on_while_bytes_come(hub: FakeHub, client: Client, tiny: Path) -> None:
    hub.add("org/slow", tiny, "slow")
    answer = client.choose("hf-hub:org/slow")
    assert "description" in answer
    assert len({done for done, _ in answer["seen"]}) > 2, "its progress is seen"


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("hf-hub:org/nobody", "ConfigError", "knows no org/nobody, or it is private"),
        ("hf-hub:org/plain@v9", "ConfigError", "has no revision 'v9'"),
        ("hf-hub:org/empty", "ConfigError", "has no weights of a known name"),
    ],
)
def test_a_wrong_name_is_told_apart_from_a_dead_network(
    name: str, error: str, told: str, hub: FakeHub, client: Client, tiny: Path
) -> None:
    hub.add("org/plain", tiny)
    hub.add("org/empty", tiny).files.pop("model.safetensors")
    answer = client.choose(name)
    assert (answer["error"], told in answer["told"]) == (error, True), answer["told"]


def test_workers_that_download_at_once_share_one_cache(hub: FakeHub, tiny: Path, tmp_path: Path) -> None:
    hub.add("org/shared", tiny, "slow")
    clients = [started(tmp_path, hub.url) for _ in range(2)]
    try:
        for client in clients:
            assert client.process.stdin
            client.process.stdin.write('["hf-hub:org/shared", true]\n')
            client.process.stdin.flush()
        for client in clients:
            assert client.process.stdout and client.process.stdout.readline() == "ready\n"
            assert "description" in json.loads(client.process.stdout.readline())
    finally:
        for client in clients:
            ended(client)
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_black_hole_costs_seconds_and_offline_nothing(tiny: Path, tmp_path: Path) -> None:
    """The black hole is a socket that lets connections wait and never accepts one."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hole:
        port = hole.getsockname()[1]
        filler = [socket.socket() for _ in range(4)]
        for each in filler:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        silent = started(tmp_path / "a", f"http://127.0.0.1:{port}")
        offline = started(tmp_path / "b", f"http://127.0.0.1:{port}", HF_HUB_OFFLINE="1")
        try:
            for client, most, told in ((silent, 30, "could not be"), (offline, 5, "HF_HUB_OFFLINE is set")):
                assert client.process.stdout and client.process.stdout.readline() == "ready\n"
                answer = client.choose("hf-hub:org/any")
                assert answer["error"] == "DownloadFailed" and told in answer["told"], answer
                assert answer["seconds"] < most
        finally:
            for client in (silent, offline):
                ended(client)
            for each in filler:
                each.close()
