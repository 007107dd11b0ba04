"""A later round of a large project: seconds and CPU-seconds by phase, against a recorded Label Studio.

    .venv/bin/python benchmarks/large_round.py --tasks 100000 --labels 50 [--new 20] [--backbone NAME]

A real first round of a small project gives a model and embeddings. From them a first round of the large
project is made up: its images are never fetched, as in a project whose images have all been embedded. Then
its batch is labelled, some images are imported, and the second round runs: what it reads, fetches, computes
and publishes is real. Label Studio is the fake of the tests in a process of its own; it answers as the real
one. Memory is the peak resident set of this process, which runs the round.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from sys import path as places

ROOT = Path(__file__).parent.parent
places[:0] = [str(ROOT), str(ROOT / "tests/support")]

import httpx  # noqa: E402
import numpy as np  # noqa: E402
from fake_label_studio import TOKEN, FakeLabelStudio, picture  # noqa: E402

from coreset_backend import model  # noqa: E402
from coreset_backend.arrays import Resize, unwatched  # noqa: E402
from coreset_backend.backend import Backend, open_backend  # noqa: E402
from coreset_backend.images import CachedPixels  # noqa: E402
from coreset_backend.images.fetch import _pixel_key  # noqa: E402
from coreset_backend.images.sources import address_digest  # noqa: E402
from coreset_backend.label_studio.reading import read_tasks  # noqa: E402
from coreset_backend.rounds.carried import neighborhood  # noqa: E402
from coreset_backend.rounds.features import choose_project_backbone  # noqa: E402
from coreset_backend.rounds.publishing import publish_round  # noqa: E402
from coreset_backend.rounds.run import run_round  # noqa: E402
from coreset_backend.settings import Settings  # noqa: E402
from coreset_backend.store.record import STATES  # noqa: E402
from coreset_backend.store.saved_round import StoredRound  # noqa: E402

SMALL = 600


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--new", type=int, default=20)
    parser.add_argument("--backbone", default="auto")
    given = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, given.tasks), daemon=True
    )
    server.start()
    url, small, large = ours.recv()
    with tempfile.TemporaryDirectory(prefix="large-") as name:
        settings = Settings(
            model_dir=Path(name) / "model",
            redis_url="redis://127.0.0.1:1",  # a round asks for none
            label_studio_url=url,
            label_studio_api_key=TOKEN,
            backbone=given.backbone,
            batch_size=given.labels,
        )
        backend = open_backend(settings)
        measure(backend, small, large, given.new, ours)
    server.terminate()


def serve(pipe: Connection, tasks: int) -> None:
    """A fake Label Studio with a small and a large project; on "import" it adds so many images."""
    studio = FakeLabelStudio()
    small = studio.create_project(SMALL, labels=("cat", "dog"))
    large = studio.create_project(labels=("cat", "dog"))
    pictures = [picture(seed, 300) for seed in range(200)]

    def add(count: int) -> None:
        for _ in range(count):
            path = f"/data/upload/{large}/{len(studio.tasks)}.png"
            studio.files[path] = pictures[len(studio.tasks) % len(pictures)]
            studio.add_task(large, {"image": path})

    add(tasks)
    pipe.send((studio.url, small, large))
    while True:
        pictures = [picture(10_000 + seed, 300) for seed in range(200)]
        add(pipe.recv())
        pipe.send("done")


def measure(backend: Backend, small: int, large: int, new: int, pipe: Connection) -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    first = make_up_a_round(backend, run_round(backend, small), large)
    label(backend, first.record.batch)
    pipe.send(new)
    pipe.recv()
    started, cpu = time.monotonic(), os.times()
    second = run_round(backend, large)
    seconds, now = time.monotonic() - started, os.times()
    spent = sum(now[:4]) - sum(cpu[:4])
    record, published = second.record, second.publication
    assert record.reading and record.work and published
    phases = ", ".join(f"{phase} {took:.2f}" for phase, took in second.timings(published).items())
    to_batch = seconds if published.seconds is None else sum(second.timings(published).values())
    print(f"{len(first.array('task_ids')):,} tasks, {len(first.record.batch)} labels, {new} new images:")
    print(f"  {to_batch:.1f} s to the served batch, {seconds:.1f} s in all, {spent:.1f} CPU-s ({phases})")
    print(f"  read {record.reading.words}")
    print(f"  {record.work.words}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"  peak {peak} MB, load {os.getloadavg()[0]:.1f}", flush=True)


class Noise:
    """Images by rows, all different: pairs of them are compared as in a first round, and none looks alike."""

    shape = (2**31, 32, 32, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        blocks = np.random.default_rng(rows[0]).integers(0, 256, (len(rows), 8, 8, 3), dtype=np.uint8)
        return np.kron(blocks, np.ones((1, 4, 4, 1), np.uint8))


def label(backend: Backend, task_ids: tuple[int, ...]) -> None:
    region = {"from_name": "label", "to_name": "image", "type": "choices"}
    with httpx.Client(base_url=backend.label_studio.url, headers={"Authorization": f"Token {TOKEN}"}) as http:
        for number, task_id in enumerate(task_ids):
            value = {"choices": [("cat", "dog")[number % 2]]}
            body = {"result": [{**region, "value": value}]}
            http.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()


def make_up_a_round(backend: Backend, small: StoredRound, project_id: int) -> StoredRound:
    """A published first round of the large project, with embeddings scattered around those of ``small``."""
    if (chosen := backend.store.backbone_choice(small.record.project_id)) is not None:
        backend.store.keep_backbone_choice(project_id, chosen)
    read = read_tasks(backend.label_studio, project_id, None)
    backend.store.keep_known_tasks(project_id, read.known)
    n, rng = len(read.snapshot.tasks), np.random.default_rng(0)
    known = small.array("embeddings")
    embeddings = known[rng.integers(0, len(known), n)] + rng.normal(0, 0.04, (n, known.shape[1]))
    embeddings = embeddings.astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    classifier = frozen_as(backend, small, n)
    resize = classifier.backbone.resize(classifier.size)
    keys = np.frombuffer(
        b"".join(bytes.fromhex(note_image(backend, task.uri or "", resize)) for task in read.snapshot.tasks),
        np.uint8,
    ).reshape(n, 32)
    states = np.full(n, STATES.index("pool"), np.uint8)
    rows = rng.permutation(n)[: len(small.record.batch)]
    states[rows] = STATES.index("selected")
    with backend.store.draft(project_id) as draft:
        model.save_classifier(classifier, draft.path / "model.safetensors")
        index, none = draft.path / "neighbors.ann", np.empty(0, np.int64)
        near = neighborhood(None, embeddings, Noise(), none, index, 0)
        record = replace(
            small.record,
            project_id=project_id,
            number=draft.number,
            fingerprint="another",
            network=model.network_name(classifier),
            batch=tuple(read.snapshot.task_ids[rows].tolist()),
            reserve=(),
            random_slice=(),
            distances=tuple(0.1 for _ in rows),
            holdout=(),
            failures=(),
            counts={"pool": n - len(rows), "selected": len(rows)},
        )
        stored = draft.save(
            record,
            {
                "task_ids": read.snapshot.task_ids,
                "states": states,
                "scores": np.ones(n, np.float32),
                "embedded_task_ids": read.snapshot.task_ids,
                "embeddings": embeddings,
                "image_keys": keys,
                "layout": near.places(embeddings, 0),
                "duplicate_groups": near.groups,
                **near.arrays(),
            },
        )
    publish_round(backend, stored, unwatched)
    return stored


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


def note_image(backend: Backend, uri: str, resize: Resize) -> str:
    """Have the address count as read, with content of its own; its key in the cache."""
    images = backend.images
    address = address_digest(images._site, uri)
    images._revisions.note(address, address, "none")
    return _pixel_key(address, resize)


if __name__ == "__main__":
    main()
