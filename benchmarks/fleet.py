"""What Ray costs and survives: CPU seconds beside plain processes, a lost machine, a cancel, a resume.

    python benchmarks/fleet.py --images 2000     # needs root, for a network of its own, and the extra `ray`

Everything runs on this machine: two nodes of one core each, a head without one, and a recorded Label Studio.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

import numpy as np  # noqa: E402
from fake_label_studio import TOKEN, running  # noqa: E402
from ray_nodes import Nodes, descendants, own_network  # noqa: E402

from coreset_backend import model  # noqa: E402
from coreset_backend.arrays import Resize  # noqa: E402
from coreset_backend.backend import images_by, label_studio_by, proxies_by  # noqa: E402
from coreset_backend.fleet.embed_shard import embed_shard  # noqa: E402
from coreset_backend.fleet.messages import Report  # noqa: E402
from coreset_backend.fleet.plan import plan_shards  # noqa: E402
from coreset_backend.fleet.ray_cluster import embed_on_cluster  # noqa: E402
from coreset_backend.fleet.shelf import Shelf  # noqa: E402
from coreset_backend.images import Images  # noqa: E402
from coreset_backend.settings import Settings  # noqa: E402

RESIZE = Resize(224, "bicubic")
TICKS = os.sysconf("SC_CLK_TCK")
Tasks = Sequence[tuple[int, str]]


def serve(images: int, pipe: Connection) -> None:
    """A Label Studio with so many images; sends its address and its tasks."""
    with running() as studio:
        studio.create_project(images)
        pipe.send((studio.url, [(each["id"], each["data"]["image"]) for each in studio.tasks_of(1)]))
        pipe.recv()


def network() -> model.Classifier:
    return model.untrained(model.choose_candidate(model.LITE0), np.zeros((0, 224, 224, 3), np.uint8), seed=0)


def images_of(settings: Settings) -> Images:
    proxies = proxies_by(settings)
    return images_by(settings, label_studio_by(settings, proxies), proxies, settings.model_dir / "images")


def plain(settings: Settings, folder: Path, tasks: Tasks, part: int, pipe: Connection) -> None:
    """Every second shard, in this process; sends its CPU seconds after the network was loaded."""
    frozen, images = network(), images_of(settings)
    shards = plan_shards(model.features_name(frozen), ids(tasks), [uri for _, uri in tasks])[part::2]
    shelf = Shelf(folder, model.features_name(frozen))
    embed_shard(frozen, images, tasks[:4], RESIZE)
    before = used()
    for shard in shards:
        shelf.put(
            shard.name, embed_shard(frozen, images, [tasks[row] for row in shard.rows], RESIZE).packed()
        )
    images.close()
    pipe.send(used() - before)


def ids(tasks: Tasks) -> np.ndarray:
    return np.array([task_id for task_id, _ in tasks], dtype=np.int64)


def used() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def used_by(pids: Sequence[int]) -> float:
    """CPU seconds of these processes and of their children that have ended."""
    seconds = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[11:15])) / TICKS
    return seconds


def digest(folder: Path, frozen: model.Classifier) -> str:
    """SHA-256 of the features, in the order of their keys."""
    index = Shelf(folder, model.features_name(frozen)).index()
    features = np.empty((len(index.keys), frozen.dimension), np.float32)
    order = np.lexsort(index.keys.T[::-1])
    assert index.read(index.find(index.keys), features).all()
    return hashlib.sha256(features[order].tobytes()).hexdigest()[:16]


@dataclass
class Watch:
    """Notes when how many images were embedded by how many CPU seconds; calls ``act`` once at ``share``."""

    used: Callable[[], float]
    share: float = 2.0
    act: Callable[[], None] = print
    seen: list[tuple[float, int, float]] = field(default_factory=list)

    def __call__(self, report: Report, total: int) -> None:
        self.seen.append((time.monotonic(), report.images, self.used()))
        if report.images >= self.share * total:
            self.share = 2.0
            self.act()

    def seconds_an_image(self) -> float:
        """CPU seconds an image, after the first shards came back: both nodes have loaded the network then."""
        loaded = [each for each in self.seen if each[1] > 0.2 * self.seen[-1][1]]
        (_, first, before), (_, last, after) = loaded[0], loaded[-1]
        return (after - before) / (last - first)


@dataclass
class Bench:
    settings: Settings
    frozen: model.Classifier
    tasks: Tasks
    nodes: Nodes
    folder: Path

    def embed(self, name: str, watch: Watch) -> float:
        """Have the cluster embed into the folder ``name``; how many seconds it takes."""
        began, uris = time.monotonic(), [uri for _, uri in self.tasks]
        embed_on_cluster(self.settings, self.frozen, self.tasks, uris, RESIZE, self.folder / name, watch)
        return time.monotonic() - began

    def watch(self, share: float = 2.0, act: Callable[[], None] = print) -> Watch:
        return Watch(self.nodes_used, share, act)

    def nodes_used(self) -> float:
        pids = [node.pid for node in self.nodes.running.values()]
        return used_by([*pids, *(child for pid in pids for child in descendants(pid))])


class Cancelled(Exception):
    pass


def cancel() -> None:
    raise Cancelled


def measured(bench: Bench) -> Iterator[tuple[str, object]]:
    """(name, value) of each figure."""
    n = len(bench.tasks)
    plain_cpu, plain_seconds = two_plain_processes(bench)
    watch = bench.watch()
    seconds = bench.embed("ray", watch)
    yield "2 plain processes: CPU ms an image, s", (round(1000 * plain_cpu / n, 2), round(plain_seconds, 1))
    yield "2 Ray nodes: CPU ms an image, s", (round(1000 * watch.seconds_an_image(), 2), round(seconds, 1))
    yield "CPU of Ray over plain", round(watch.seconds_an_image() * n / plain_cpu, 3)
    yield (
        "same features",
        digest(bench.folder / "plain", bench.frozen) == digest(bench.folder / "ray", bench.frozen),
    )
    watch = bench.watch(0.3, lambda: bench.nodes.kill(3))
    lost = bench.embed("lost", watch)
    yield "s with one of two nodes killed at 30 %", round(lost, 1)
    yield "longest pause in it, s", round(max(longest_pause(watch)), 1)
    yield (
        "same features after it",
        digest(bench.folder / "lost", bench.frozen) == digest(bench.folder / "ray", bench.frozen),
    )
    with contextlib.suppress(Cancelled):
        bench.embed("cancelled", bench.watch(0.5, cancel))
    began = time.monotonic()
    while busy(bench.nodes):
        time.sleep(0.05)
    yield "s from a cancel to idle nodes", round(time.monotonic() - began, 2)
    shards = plan_shards(model.features_name(bench.frozen), ids(bench.tasks), [uri for _, uri in bench.tasks])
    in_work = 2 * max(len(shard.rows) for shard in shards)
    yield "images in work at a time, which a cancel costs, at most", f"{in_work} of {n}"


def longest_pause(watch: Watch) -> Iterator[float]:
    last, images, _ = watch.seen[0]
    for moment, count, _ in watch.seen:
        if count > images:
            yield moment - last
            last, images = moment, count


def busy(nodes: Nodes) -> bool:
    pids = [child for node in nodes.running.values() for child in descendants(node.pid)]
    with contextlib.suppress(OSError):
        return any(Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::embed") for pid in pids)
    return True


def two_plain_processes(bench: Bench) -> tuple[float, float]:
    folder = bench.folder / "plain"
    folder.mkdir()
    context, pipes, began = multiprocessing.get_context("spawn"), [], time.monotonic()
    for part in range(2):
        ours, theirs = context.Pipe()
        settings = bench.settings.model_copy(update={"model_dir": bench.folder / f"plain-{part}"})
        context.Process(target=plain, args=(settings, folder, bench.tasks, part, theirs)).start()
        pipes.append(ours)
    return sum(pipe.recv() for pipe in pipes), time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with own_network(), tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        context.Process(target=serve, args=(chosen.images, theirs), daemon=True).start()
        url, tasks = pipe.recv()
        access = {"LABEL_STUDIO_URL": url, "LABEL_STUDIO_API_KEY": TOKEN}
        nodes = Nodes(Path(folder), access)
        try:
            nodes.start(1, cores=0)
            nodes.start(2)
            nodes.start(3)
            settings = Settings(
                label_studio_url=url,
                label_studio_api_key=TOKEN,
                model_dir=Path(folder) / "data",
                cluster="ray",
                ray_address=nodes.address,
                ray_token=nodes.token,
            )
            bench = Bench(settings, network(), tasks, nodes, Path(folder))
            print(json.dumps({"images": chosen.images, "load": round(os.getloadavg()[0], 1)}))
            for name, value in measured(bench):
                print(f"{name}: {value}", flush=True)
        finally:
            nodes.stop()
            pipe.send("end")


if __name__ == "__main__":
    main()
