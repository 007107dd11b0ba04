"""Rounds of a large project: seconds, CPU-seconds and memory by phase, against a recorded Label Studio.

    .venv/bin/python benchmarks/scale.py --tasks 100000 1000000 [--later] [--labelled 2000] [--skipped 0]
    .venv/bin/python benchmarks/scale.py --bursts 80000 160000

A real first round of a small project gives a model and embeddings. From them an early state of the large
project is made up: its images have embeddings and were never fetched. Then two rounds run for real, each in a
process of its own. The first reads all tasks, finds all neighbours and draws the map. Before the later one
the batch is labelled and some images are imported. With ``--later`` neighbours are made up too, and only a
later round runs. Label Studio is the fake of the tests in a process of its own; it answers as the real one,
page by page. Memory is the peak resident set of the process that runs the round, files that it maps included;
that of its children is told beside it.

``--bursts``: CPU-seconds to group near-duplicates, where half the images come in bursts of a hundred.
"""

import argparse
import functools
import itertools
import math
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from sys import path as places
from typing import Any

ROOT = Path(__file__).parent.parent
places[:0] = [str(ROOT), str(ROOT / "tests/support")]

import numpy as np  # noqa: E402
from fake_label_studio import TOKEN, FakeLabelStudio, picture  # noqa: E402

from coreset_backend import model  # noqa: E402
from coreset_backend.arrays import Floats, Resize  # noqa: E402
from coreset_backend.backend import Backend, open_backend  # noqa: E402
from coreset_backend.images import CachedPixels  # noqa: E402
from coreset_backend.images.lookup import pixel_key  # noqa: E402
from coreset_backend.images.sources import address_digest  # noqa: E402
from coreset_backend.label_studio.reading import read_tasks  # noqa: E402
from coreset_backend.reports import Publication  # noqa: E402
from coreset_backend.rounds.features import choose_project_backbone  # noqa: E402
from coreset_backend.rounds.run import run_round  # noqa: E402
from coreset_backend.selection import exact_graph, near_duplicate_groups, neighbors_for  # noqa: E402
from coreset_backend.selection.annoy_index import build_index  # noqa: E402
from coreset_backend.settings import Settings  # noqa: E402
from coreset_backend.store.record import STATES  # noqa: E402
from coreset_backend.store.saved_round import StoredRound  # noqa: E402

SMALL = 600
CLASSES = ("cat", "dog")
SPAWN = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, nargs="*", default=[])
    parser.add_argument("--later", action="store_true")
    parser.add_argument("--labelled", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--new", type=int, default=20)
    parser.add_argument("--skipped", type=int, default=0)
    parser.add_argument("--strategy", default=Settings.model_fields["strategy"].default)
    parser.add_argument("--backbone", default="auto")
    parser.add_argument("--bursts", type=int, nargs="*", default=[])
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    for n in given.bursts:
        apart(group_bursts, n)
    measured = [(n, measure(n, given)) for n in given.tasks]
    for (n, before), (m, after) in itertools.pairwise(measured):
        print(
            f"CPU-seconds grow from {n:,} to {m:,} tasks with the power of n that stands behind each phase:"
        )
        for name in before:
            print(f"  {name}: " + ", ".join(growth(before[name], after[name], m / n)))


def growth(before: dict[str, float], after: dict[str, float], ratio: float) -> list[str]:
    return [
        f"{phase} {math.log(after[phase] / before[phase]) / math.log(ratio):.2f}"
        for phase in after
        if before.get(phase, 0) > 0.5
    ]


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a process of its own that then ends."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as process:
        return process.submit(function, *arguments).result()


def measure(n: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run two rounds of a project with n tasks; the CPU-seconds of each by phase."""
    studio, theirs = SPAWN.Pipe()
    server = SPAWN.Process(target=serve, args=(theirs, n), daemon=True)
    server.start()
    url, small, large = studio.recv()
    with tempfile.TemporaryDirectory(prefix="large-") as name:
        options = {
            "model_dir": str(Path(name) / "model"),
            "redis_url": "redis://127.0.0.1:1",  # a round asks for none
            "label_studio_url": url,
            "label_studio_api_key": TOKEN,
            "backbone": given.backbone,
            "batch_size": given.batch,
            "strategy": given.strategy,
        }
        ask(studio, "label", apart(make_up, options, small, large, n, given.labelled, given.later))
        ask(studio, "skip", given.skipped)
        first: dict[str, float] = {}
        if not given.later:
            first, batch = apart(watched_round, "first round", options, large)
            ask(studio, "label", dict.fromkeys(batch, 0))
        ask(studio, "import", given.new)
        later, _ = apart(watched_round, "later round", options, large)
    server.terminate()
    return {"first round": first, "later round": later}


# ---------------------------------------------------------------- Label Studio


class Pictures(dict[str, bytes]):
    """The files of the small project, and for any other path one of two hundred pictures."""

    def get(self, path: str, _: Any = None) -> bytes:  # type: ignore[override]
        return self[path] if path in self else _picture(hash(path) % 200)


_picture = functools.cache(lambda seed: picture(10_000 + seed, 300))


class RecordedLabelStudio(FakeLabelStudio):
    """Keeps the answers to a query until something is written, or each page of a million takes seconds."""

    def __init__(self) -> None:
        self._written, self._answers = 0, {}
        super().__init__()
        self.files = Pictures(self.files)

    def listing(self, project_id: int, wanted: str) -> list[Any]:
        written = sum(method != "GET" for method, _ in self.asked) + len(self.tasks)
        if written != self._written:
            self._written, self._answers = written, {}
        if (project_id, wanted) not in self._answers:
            self._answers[project_id, wanted] = super().listing(project_id, wanted)
        return self._answers[project_id, wanted]


def serve(pipe: Connection, tasks: int) -> None:
    """A fake Label Studio with a small and a large project, which labels and imports on request."""
    studio = RecordedLabelStudio()
    small = studio.create_project(SMALL, labels=CLASSES)
    large = studio.create_project(labels=CLASSES)
    for number in range(tasks):
        studio.add_task(large, {"image": f"/data/upload/{large}/{number}.png"})
    pipe.send((studio.url, small, large))
    while True:
        what, value = pipe.recv()
        if what == "label":
            for task_id, code in value.items():
                studio.annotate(task_id, CLASSES[code])
        elif what == "skip":
            waiting = [task["id"] for task in studio.tasks_of(large) if not task["annotations"]]
            for task_id in waiting[:value]:
                studio.annotate(task_id, None, cancelled=True)
        else:
            for seed in range(value):
                studio.add_task(large, {"image": f"/data/upload/{large}/new-{seed}.png"})
        studio.asked.append(("POST", what))
        pipe.send("done")


def ask(studio: Connection, what: str, value: object) -> None:
    studio.send((what, value))
    studio.recv()


# ---------------------------------------------------------------- an early state of the large project


def make_up(
    options: dict[str, Any], small: int, large: int, n: int, labelled: int, with_neighbors: bool
) -> dict[int, int]:
    """Save a round of the large project that embedded its images; returns task id -> class of some tasks.

    ``with_neighbors``: it has read the tasks, searched neighbours and drawn a map, too.
    """
    backend = open_backend(Settings(**options))
    first = run_round(backend, small)
    if (chosen := backend.store.backbone_choice(small)) is not None:
        backend.store.keep_backbone_choice(large, chosen)
    if with_neighbors:
        read = read_tasks(backend.label_studio, large, None)
        backend.store.keep_known_tasks(large, read.known)
        task_ids = read.snapshot.task_ids
        del read
    else:
        task_ids = np.sort(np.fromiter(all_task_ids(backend, large), np.int64))
    assert len(task_ids) == n
    embeddings, sources = scattered(first.array("embeddings"), n)
    classifier = frozen_as(backend, first, n)
    record = replace(
        first.record,
        project_id=large,
        fingerprint="another",
        network=model.network_name(classifier),
        batch=(),
        reserve=(),
        random_slice=(),
        distances=(),
        holdout=(),
        failures=(),
        counts={"pool": n},
    )
    with backend.store.draft(large) as draft:
        model.save_classifier(classifier, draft.path / "model.safetensors")
        arrays = {
            "task_ids": task_ids,
            "states": np.full(n, STATES.index("pool"), np.uint8),
            "scores": np.ones(n, np.float32),
            "embedded_task_ids": task_ids,
            "embeddings": embeddings,
            "image_keys": note_images(backend, large, n, classifier.backbone.resize(classifier.size)),
        }
        arrays |= neighbors_by_source(embeddings, sources) if with_neighbors else {}
        draft.save(replace(record, number=draft.number), arrays).mark_published(Publication())
    rows = np.random.default_rng(1).permutation(n)[:labelled]
    codes = (embeddings[rows] - embeddings[rows].mean(0))[:, 0] > 0
    return dict(zip(task_ids[rows].tolist(), codes.astype(int).tolist(), strict=True))


def all_task_ids(backend: Backend, project_id: int) -> Any:
    return (task.task_id for task in backend.label_studio.tasks(project_id, {"include": "id"}))


def scattered(known: Floats, n: int) -> tuple[Floats, np.ndarray]:
    """Unit vectors float32[n, d] around those of ``known``, and the row of the known one of each."""
    rng = np.random.default_rng(0)
    sources = rng.integers(0, len(known), n)
    vectors = np.empty((n, known.shape[1]), np.float32)
    for start in range(0, n, 10_000):
        part = known[sources[start : start + 10_000]]
        part = part + rng.normal(0, 0.04, part.shape)
        vectors[start : start + 10_000] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return vectors, sources


def neighbors_by_source(vectors: Floats, sources: np.ndarray) -> dict[str, np.ndarray]:
    """What a round saves of neighbours and map: the nearest rows of each among those of the same source."""
    n, k = len(vectors), neighbors_for(len(vectors))
    rows, distances = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
    for own in np.split(np.argsort(sources, kind="stable"), np.cumsum(np.bincount(sources))[:-1]):
        if len(own) > 1:
            graph = exact_graph(vectors[own], k)
            rows[own, : graph.rows.shape[1]] = own[graph.rows]
            distances[own, : graph.rows.shape[1]] = graph.distances
    return {
        "neighbor_rows": rows,
        "neighbor_distances": distances,
        "layout": np.random.default_rng(0).integers(0, 65536, (n, 2)).astype(np.uint16),
        "compared_pairs": np.empty((0, 2), np.int32),
        "compared_alike": np.empty(0, bool),
    }


def frozen_as(backend: Backend, small: StoredRound, n: int) -> model.Classifier:
    """The network of the small round with its preparation, as if that had been fitted on n images."""
    project_id, settings = small.record.project_id, backend.settings
    chosen = choose_project_backbone(backend.store, settings, project_id)
    pixels = CachedPixels(backend.store.image_cache, small.array("image_keys"))
    frozen = model.untrained(
        chosen, pixels, seed=settings.seed, device=settings.device, cache=settings.local_dir / "converted"
    )
    preparation = model.load_classifier(small.path / "model.safetensors", "cpu").preparation
    if preparation is not None:
        preparation.images.fill_(n)
    return replace(frozen, preparation=preparation)


def note_images(backend: Backend, project_id: int, n: int, resize: Resize) -> np.ndarray:
    """Have all addresses count as read, with different contents; their keys in the cache uint8[n, 32]."""
    images, keys = backend.images, bytearray()
    table = images._revisions._connection
    assert table is not None
    table.execute("BEGIN")
    for number in range(n):
        address = address_digest(images._site, f"/data/upload/{project_id}/{number}.png")
        table.execute("REPLACE INTO seen VALUES (?, ?, 'none', ?)", (address, address, time.time()))
        keys += bytes.fromhex(pixel_key(address, resize))
    table.execute("COMMIT")
    return np.frombuffer(keys, np.uint8).reshape(n, 32)


# ---------------------------------------------------------------- a round, watched


@dataclass(slots=True)
class Watch:
    """Notes seconds, CPU-seconds and the peak resident set of each phase of a round."""

    phase: str = ""
    begun: tuple[float, float] = (0.0, 0.0)
    found: dict[str, tuple[float, float, int, int]] = field(default_factory=dict)

    def __call__(self, phase: str, done: int = 0, total: int = 0) -> None:
        if phase == self.phase:
            return
        now = time.monotonic(), sum(os.times()[:4])
        if self.phase:
            before = self.found.get(self.phase, (0.0, 0.0, 0, 0))
            spent = now[0] - self.begun[0] + before[0], now[1] - self.begun[1] + before[1]
            self.found[self.phase] = (*spent, max(peak(), before[2]), mapped())
        peak()
        self.phase, self.begun = phase, now


def peak() -> int:
    """The peak resident set of this process in MB since the last call."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) // 1000


def mapped() -> int:
    """MB of the resident set that are pages of files, which the system can drop: libraries, mapped arrays."""
    return int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0]) // 1000


def watched_round(name: str, options: dict[str, Any], project_id: int) -> tuple[dict[str, float], list[int]]:
    """Run the next round and print what it took; its CPU-seconds by phase and its batch."""
    backend, watch = open_backend(Settings(**options)), Watch()
    watch("begin")
    stored = run_round(backend, project_id, watch)
    watch("end")
    record, published = stored.record, stored.publication
    assert record.reading and record.work and published
    seconds, cpu, most, _ = (list(each) for each in zip(*watch.found.values(), strict=True))
    late = watch.found["publish"][0] - (published.seconds or 0)
    print(
        f"{sum(record.counts.values()):,} tasks, {record.counts['labeled']:,} labels, {name}: "
        f"{sum(seconds) - late:.1f} s to the served batch, {sum(seconds):.1f} s in all, "
        f"{sum(cpu):.1f} CPU-s, peak {max(most):,} MB, children "
        f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000:,} MB, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for phase, (took, spent, mb, of_files) in watch.found.items():
        print(
            f"  {phase:10} {took:7.1f} s {spent:7.1f} CPU-s {mb:6,} MB, at its end {of_files:,} MB of files"
        )
    print(f"  read {record.reading.words}\n  {record.work.words}", flush=True)
    return {phase: spent for phase, (_, spent, *_) in watch.found.items()}, list(record.batch)


# ---------------------------------------------------------------- bursts


def group_bursts(n: int) -> None:
    """Print what it takes to group n images, half of them in bursts of a hundred, by the neighbour graph."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(0, 1, (n // 2 + n // 200, 64)).astype(np.float32)
    source = np.concatenate([np.arange(n // 2), np.repeat(np.arange(n // 2, len(scenes)), 100)])
    vectors = scenes[source] + rng.normal(0, 0.01, (len(source), 64)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        graph = build_index(vectors, Path(folder) / "neighbors.ann").graph(64)
    cpu, _ = time.process_time(), peak()
    groups = near_duplicate_groups(vectors, np.arange(10), graph)
    spent = time.process_time() - cpu
    print(
        f"{len(vectors):,} images, half in bursts of 100: {groups.max() + 1:,} groups of "
        f"{np.count_nonzero(groups >= 0):,} images in {spent:.2f} CPU-s, peak {peak():,} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
