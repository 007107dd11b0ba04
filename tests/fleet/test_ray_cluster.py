"""A real Ray cluster of three nodes embeds a pool: the same bits, whatever is killed meanwhile."""

import importlib
import importlib.util
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_label_studio import TOKEN, FakeLabelStudio, picture, running
from ray_nodes import Nodes, descendants, own_network, why_no_network
from training_images import begin, textures
from waiting import wait_until

from coreset_backend import model
from coreset_backend.arrays import Resize
from coreset_backend.backend import Backend, open_backend
from coreset_backend.errors import ClusterError, ConfigError
from coreset_backend.fleet.embed_shard import embed_shard
from coreset_backend.fleet.messages import Report
from coreset_backend.fleet.ray_cluster import embed_on_cluster
from coreset_backend.fleet.ray_process import describe_cluster
from coreset_backend.rounds.run import run_round
from coreset_backend.settings import Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(bool(why := why_no_network()), reason=f"no network of its own: {why}"),
]
POOL, SIZE = 320, 32
RESIZE = Resize(SIZE)


@pytest.fixture(scope="module")
def studio() -> Iterator[FakeLabelStudio]:
    """In a network of this file's own, with everything that is started after it."""
    with own_network(), running() as studio:
        studio.create_project(POOL)
        yield studio


@pytest.fixture(scope="module")
def nodes(studio: FakeLabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    # The path of a Unix socket below it must not be longer than 107 characters.
    folder = tmp_path_factory.mktemp("ray")
    nodes = Nodes(folder, {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": TOKEN})
    try:
        for number in (1, 2, 3):
            nodes.start(number)
        yield nodes
    finally:
        nodes.stop()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    begin(folder, textures(48)[0])
    return folder / "features.safetensors"


@pytest.fixture
def make(
    nodes: Nodes, studio: FakeLabelStudio, weights: Path, redis_url: str, tmp_path: Path
) -> Iterator[Callable[..., Backend]]:
    """Backends with the same settings, each with a folder of its own; by default on the cluster."""
    opened: list[Backend] = []

    def make(name: str, **given: object) -> Backend:
        known: dict[str, object] = {
            "redis_url": redis_url,
            "model_dir": tmp_path / name,
            "label_studio_url": studio.url,
            "label_studio_api_key": TOKEN,
            "weights": weights,
            "image_size": SIZE,
            "batch_size": 4,
            "device": "cpu",
            "cluster": "ray",
            "ray_address": nodes.address,
            "ray_token": nodes.token,
        }
        opened.append(open_backend(Settings(**{**known, **given})))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture(scope="module")
def frozen(weights: Path) -> model.Classifier:
    chosen = model.choose_backbone("self_supervised", weights)
    return model.untrained(chosen, textures(16)[0], seed=0, device="cpu")


@pytest.fixture
def embed(
    make: Callable[..., Backend], studio: FakeLabelStudio, frozen: model.Classifier, tmp_path: Path
) -> Callable[..., dict[bytes, bytes]]:
    """Has the cluster embed the pool; the features by the keys of their images."""

    def embed(
        watch: Callable[[Report, int], None], network: model.Classifier = frozen, **given: object
    ) -> dict[bytes, bytes]:
        backend, folder = make("embed", **given), tmp_path / "shards"
        tasks = [(task["id"], task["data"]["image"]) for task in studio.tasks_of(1)]
        addresses = backend.images.addresses(uri for _, uri in tasks)
        shelf = embed_on_cluster(backend.settings, network, tasks, addresses, RESIZE, folder, watch)
        index = shelf.index()
        features = np.empty((len(index.keys), network.dimension), np.float32)
        assert index.read(index.find(index.keys), features).all()
        return {key.tobytes(): row.tobytes() for key, row in zip(index.keys, features, strict=True)}

    return embed


@pytest.fixture(scope="module")
def undisturbed(
    studio: FakeLabelStudio, weights: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[bytes, bytes]]:
    """What one process without Ray computes, on one thread, as each task of Ray has."""
    torch.set_num_threads(1)
    settings = Settings(  # type: ignore[call-arg]
        redis_url=redis_url,
        model_dir=tmp_path_factory.mktemp("local"),
        label_studio_url=studio.url,
        label_studio_api_key=TOKEN,  # type: ignore[arg-type]
        weights=weights,
        image_size=SIZE,
        batch_size=4,
        device="cpu",
    )
    backend = open_backend(settings)
    round_ = run_round(backend, 1)
    yield {
        key.tobytes(): row.tobytes()
        for key, row in zip(round_.array("image_keys"), round_.array("embeddings"), strict=True)
    }
    backend.close()


def nothing(report: Report, total: int) -> None:
    """Watch, and let it go on."""


def at_share(share: float, act: Callable[[], None]) -> Callable[[Report, int], None]:
    """Watch, and act once when so much is embedded."""
    left = [act]

    def watch(report: Report, total: int) -> None:
        if left and report.images >= share * total:
            left.pop()()

    return watch


def busy(nodes: Nodes) -> list[int]:
    """The processes of the nodes that embed a shard at this moment, by the title that Ray gives them."""
    return [
        pid
        for node in nodes.running.values()
        for pid in descendants(node.pid)
        if command_line(pid).startswith(b"ray::embed")
    ]


def drivers() -> set[int]:
    return {
        pid for pid in descendants(os.getpid()) if b"coreset_backend.fleet.ray_driver" in command_line(pid)
    }


def command_line(pid: int) -> bytes:
    """Empty where the process has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_round_on_three_machines_has_the_bits_of_one_without_ray(
    make: Callable[..., Backend], undisturbed: dict[bytes, bytes], studio: FakeLabelStudio, nodes: Nodes
) -> None:
    backend, seen = make("round"), []
    # The first image comes when a second machine embeds too: one alone might be done before.
    studio.fail(
        "meanwhile",
        "/data/upload/",
        times=1,
        act=lambda: wait_until(lambda: len(busy(nodes)) > 1, "two machines"),
    )
    stored = run_round(backend, 1, lambda *told: seen.append(told))
    studio.heal()
    embeddings = zip(stored.array("image_keys"), stored.array("embeddings"), strict=True)
    assert {key.tobytes(): row.tobytes() for key, row in embeddings} == undisturbed
    assert stored.record.work and stored.record.work.touched == 0, "this machine reads no image again"
    told = [each[1:] for each in seen if each[0] == "cluster" and each[2]]
    assert told[-1][:2] == (POOL, POOL) and told[-1][2] >= 2
    assert [each[0] for each in told] == sorted(each[0] for each in told)
    assert not backend.store.shards(1).exists()
    # Few newcomers go straight on, and what is known is not embedded again.
    studio.add_task(1, {"image": "/data/upload/1/0.png"})
    later = run_round(backend, 1)
    assert later.record.work and later.record.work.embedded <= 1 and "cluster" not in later.record.timings
    studio.delete_task(max(task["id"] for task in studio.tasks_of(1)))


@pytest.mark.soak
def test_doctor_compares_the_machines(make: Callable[..., Backend]) -> None:
    lines = describe_cluster(make("doctor").settings)
    assert lines[0][0].startswith("Machines that embed images: 3, 127.0.0.1") and not lines[0][1]
    assert [line for line, problem in lines if problem] == []


@pytest.mark.fault("two of three machines of a Ray cluster are killed (SIGKILL)", "cluster")
def test_two_machines_that_are_lost_at_a_third_cost_their_shards_only(
    embed: Callable[..., dict[bytes, bytes]], nodes: Nodes, undisturbed: dict[bytes, bytes]
) -> None:
    def lose_two() -> None:
        nodes.kill(2)
        nodes.kill(3)

    assert embed(at_share(0.3, lose_two)) == undisturbed
    assert len(nodes.running) == 1


@pytest.mark.fault("a round on a Ray cluster is cancelled, and started again", "cluster")
def test_a_cancelled_round_ends_on_all_machines_and_the_next_goes_on_where_it_was(
    embed: Callable[..., dict[bytes, bytes]], nodes: Nodes, undisturbed: dict[bytes, bytes]
) -> None:
    class Cancelled(Exception):
        pass

    def cancel() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        embed(at_share(0.5, cancel))
    wait_until(lambda: not busy(nodes) and not drivers(), "the cluster to be idle")
    begun: list[int] = []
    assert embed(lambda report, total: begun.append(report.images)) == undisturbed
    assert min(begun, default=POOL) >= 0.5 * POOL  # none, where it was done before the cancel came


@pytest.mark.soak
@pytest.mark.fault("the process that drives Ray is killed (SIGKILL)", "cluster")
def test_a_process_that_is_killed_leaves_nothing_running(
    embed: Callable[..., dict[bytes, bytes]], nodes: Nodes
) -> None:
    def kill_driver() -> None:
        (driver,) = drivers()
        os.kill(driver, 9)

    with pytest.raises(ClusterError, match=r"was lost .* What it has embedded is kept"):
        embed(at_share(0.1, kill_driver))
    wait_until(lambda: not busy(nodes), "the cluster to be idle")


def test_a_machine_that_computes_otherwise_refuses_in_words(
    embed: Callable[..., dict[bytes, bytes]], frozen: model.Classifier
) -> None:
    class Other:
        name = "decimal float64"

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            return np.zeros((len(pixels), 256), np.float32)

    with pytest.raises(ConfigError) as refused:
        embed(nothing, replace(frozen, runtime=Other()))
    assert "127.0.0.1 of the Ray cluster refuses a shard: it computes in torch" in str(refused.value)
    assert "but this round's embeddings are computed in decimal float64 on cpu" in str(refused.value)


@pytest.mark.soak
def test_a_machine_without_the_secrets_of_a_worker_says_so(
    embed: Callable[..., dict[bytes, bytes]], nodes: Nodes, make: Callable[..., Backend]
) -> None:
    nodes.start(4, LABEL_STUDIO_API_KEY="")
    lines = describe_cluster(make("doctor").settings)
    assert [line for line, is_problem in lines if is_problem] == [
        "127.0.0.4 cannot embed images: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY are not both set, so Label "
        "Studio cannot be reached. Set both; the key is under Account & Settings in Label Studio."
    ]
    refused = r"127\.0\.0\.4 of the Ray cluster refuses a shard: LABEL_STUDIO_URL"
    with pytest.raises(ConfigError, match=refused):
        embed(nothing)
    nodes.kill(4)


def test_a_machine_reads_again_what_it_read_before_a_refresh(
    make: Callable[..., Backend], studio: FakeLabelStudio, frozen: model.Classifier
) -> None:
    images, path = make("machine").images, "/data/upload/1/replaced.png"
    studio.files[path] = picture(1)
    before = embed_shard(frozen, images, [(1, path)], RESIZE)
    studio.files[path] = picture(2)
    assert embed_shard(frozen, images, [(1, path)], RESIZE).sources == before.sources
    after = embed_shard(frozen, images, [(1, path)], RESIZE, refreshed_at=1.0)
    assert after.sources != before.sources and (after.keys != before.keys).any()


def test_a_wrong_token_is_refused(embed: Callable[..., dict[bytes, bytes]], nodes: Nodes) -> None:
    with pytest.raises(ConfigError, match="refuses the token in CORESET_RAY_TOKEN"):
        embed(nothing, ray_token="0" * 64)


@pytest.mark.soak
def test_a_cluster_that_admits_everybody_is_refused(
    embed: Callable[..., dict[bytes, bytes]], nodes: Nodes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("open")
    unguarded = Nodes(folder, {**nodes.environment, "RAY_AUTH_MODE": "disabled"}, port=6390)
    unguarded.start(1)
    try:
        with pytest.raises(ConfigError, match="admits everybody: whoever reaches it can run code on it"):
            embed(nothing, ray_address=unguarded.address, ray_token=nodes.token)
    finally:
        unguarded.stop()


def test_a_head_that_does_not_answer_is_named(make: Callable[..., Backend]) -> None:
    backend = make("away", ray_address="127.0.0.1:6111")
    with pytest.raises(
        ClusterError, match=r"No Ray cluster answers at 127\.0\.0\.1:6111 \(Connection refused\)"
    ):
        describe_cluster(backend.settings)


@pytest.mark.parametrize("given_up_by", ["us", "Ray"])
def test_a_head_that_accepts_and_says_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch, given_up_by: str
) -> None:
    ray_driver = importlib.import_module("coreset_backend.fleet.ray_driver")  # needs Ray
    monkeypatch.setattr(ray_driver, "HEALTHY_WITHIN", 1.0 if given_up_by == "us" else 120.0)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            ClusterError, match=rf"at {address}, but no Ray cluster has answered .* restart it"
        ):
            ray_driver._checked(address)


@pytest.mark.soak
def test_all_cores_of_this_machine_are_used_without_an_address(
    embed: Callable[..., dict[bytes, bytes]],
    undisturbed: dict[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
    nodes: Nodes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for name, value in nodes.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MODEL_DIR", str(tmp_path_factory.mktemp("own")))
    assert embed(nothing, ray_address=None, ray_token=None) == undisturbed
    assert not drivers()


@pytest.mark.soak
@pytest.mark.fault("the head of a Ray cluster is killed (SIGKILL)", "cluster")
def test_a_head_that_is_killed_fails_the_round_in_words_and_the_next_finishes_it(
    embed: Callable[..., dict[bytes, bytes]], nodes: Nodes, undisturbed: dict[bytes, bytes]
) -> None:
    for number in nodes.running.keys() - {1}:  # a head does not start beside nodes of another on one machine
        nodes.kill(number)
    with pytest.raises(ClusterError, match=r"cluster at 127\.0\.0\.1:6379 was lost"):
        embed(at_share(0.3, lambda: nodes.kill(1)))
    nodes.start(1)
    begun: list[int] = []
    assert embed(lambda report, total: begun.append(report.images)) == undisturbed
    assert min(begun, default=POOL) >= 0.25 * POOL
