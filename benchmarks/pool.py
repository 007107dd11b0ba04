"""How fast a pool is read: fetched, decoded and embedded, against the bare forward pass of the same run.

    python benchmarks/pool.py [--images 256] [--pool 5000] [BACKBONE ...]

JPEGs of 500 x 375 pixels are made and served by a process of their own on the loopback; weights are random,
which costs the same time. Rates are images per CPU-second, so that other work on the machine moves them
little. The network computes on one thread. ``share`` is torch's embedding from the cache over its forward
pass alone, by that thread's time; by all threads' it also counts the one that reads the cache and checks its
hashes. OpenVINO's rate is embedding by all threads' time; ``ratio`` is that rate over torch's. With --pool,
so many tasks are fetched, decoded and embedded end to end.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from round import photograph, processor  # noqa: E402

from coreset_backend import model  # noqa: E402
from coreset_backend.arrays import Resize  # noqa: E402
from coreset_backend.decoding import decoded_pixels  # noqa: E402
from coreset_backend.images import Images, open_images  # noqa: E402
from coreset_backend.model.classifier import batch_for, features_of, images_from  # noqa: E402

FILES = 100
REPEATS = 5
MOST_PIXELS = 50_000_000
BACKBONES = ("efficientnet_lite0", "resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0")
BACKBONES += ("convnext_tiny", "vit_b_16", "vit_small_patch16_224", "small_cnn", "self_supervised")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: list[bytes] = []  # noqa: RUF012

    def do_GET(self) -> None:
        body = self.files[int(self.path.rsplit("/", 1)[1]) % len(self.files)]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serve(files: list[bytes], port: Connection) -> None:
    Handler.files = files
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def served(files: list[bytes]) -> Iterator[str]:
    """The address of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(files, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def rates(count: int, work: Callable[[], object]) -> tuple[float, float]:
    """Images per CPU-second of this thread, and of the whole process with those that it started and ended."""
    thread, process = time.thread_time(), sum(os.times()[:4])
    work()
    return count / (time.thread_time() - thread), count / (sum(os.times()[:4]) - process)


def rate(count: int, work: Callable[[], object]) -> float:
    """Images per CPU-second of the whole process."""
    return rates(count, work)[1]


def random_classifier(name: str, folder: Path) -> model.Classifier:
    """The backbone with random weights and no head, as a round without labels has it."""
    backbone = model.backbone_named(name)
    torch.manual_seed(0)
    network, path = backbone.build(), folder / f"{backbone.name.replace('/', '-')}.safetensors"
    if next(network.parameters()).is_meta:
        network.to_empty(device="cpu")
    for value_name, value in network.state_dict().items():
        if value.ndim > 1:
            torch.nn.init.kaiming_normal_(value)
        elif value.is_floating_point():
            value.fill_(float(value_name.endswith(("weight", "var", "gamma"))))
    save_file(network.state_dict(), path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, backbone.size, backbone.size, 3), np.uint8)
    return model.untrained(model.ChosenBackbone(backbone, path, name), pixels, seed=0, device="cpu")


def tasks(count: int, first: int = 0) -> list[tuple[int, str | None]]:
    return [(number, f"/data/upload/1/{number}") for number in range(first, first + count)]


def opened(url: str, folder: Path) -> Images:
    return open_images(label_studio_url=url, auth=None, cache_dir=folder)


def front_rates(url: str, files: list[bytes], folder: Path, count: int) -> None:
    """Print the rates of what comes before the network."""
    images = opened(url, folder / "front")
    bilinear, bicubic = Resize(224), Resize(224, "bicubic")
    decode, cubic = decode_rates(files, count, (bilinear, bicubic))
    both = rate(count, lambda: images.fetch(tasks(count), bicubic))
    again = rate(count, lambda: images.fetch(tasks(count), bicubic))
    images.close()
    fetch = 1 / (1 / both - 1 / cubic)
    print("| phase | images per CPU-second |\n|---|---|")
    print(f"| fetch and write to the cache | {fetch:,.0f} |")
    print(f"| decode to 224 pixels, bilinear | {decode:,.0f} |")
    print(f"| decode to 224 pixels, bicubic | {cubic:,.0f} |")
    print(f"| fetch and decode, bicubic | {both:,.0f} |")
    print(f"| found in the cache (next rounds) | {again:,.0f} |\n", flush=True)


def decode_rates(files: list[bytes], count: int, ways: Sequence[Resize]) -> list[float]:
    """Images per CPU-second by each of the ways, in turns; of each the least disturbed counts."""

    def decode(way: Resize) -> None:
        for number in range(count):
            decoded_pixels(files[number % FILES], way, MOST_PIXELS)

    found = [[rate(count, partial(decode, way)) for way in ways] for _ in range(REPEATS)]
    return [max(each) for each in zip(*found, strict=True)]


def embed_rates(name: str, url: str, folder: Path, count: int) -> dict[str, float]:
    """Images per CPU-second: torch's ``forward`` alone, embedding from the cache by torch's ``thread`` and by
    all of the ``process``, and by ``openvino`` (all of the process; 0 where it is not used), in turns."""
    classifier = random_classifier(name, folder)
    by_torch = replace(classifier, runtime=None)
    images = opened(url, folder / f"embed-{classifier.size}")
    pixels, failures = images.fetch(tasks(count), classifier.backbone.resize())
    assert not failures
    at_once = min(batch_for(classifier.size, classifier.device), count)
    batch = images_from(pixels[np.arange(at_once)], classifier.backbone, classifier.device)
    times = max(count // at_once, 1)
    bare_forward(classifier, batch, 1)
    best: dict[str, float] = {"openvino": 0}
    for _ in range(REPEATS):  # the least disturbed of each counts
        found = {"forward": rate(at_once * times, lambda: bare_forward(classifier, batch, times))}
        found["thread"], found["process"] = rates(count, lambda: model.embed(by_torch, pixels))
        if classifier.runtime:
            found["openvino"] = rate(count, lambda: model.embed(classifier, pixels))
        best = {what: max(found.get(what, 0), best.get(what, 0)) for what in best | found}
    images.close()
    return best


@torch.inference_mode()
def bare_forward(classifier: model.Classifier, batch: torch.Tensor, times: int) -> None:
    for _ in range(times):
        features_of(classifier, batch)


def end_to_end(name: str, url: str, folder: Path, count: int) -> None:
    classifier = random_classifier(name, folder)
    images = opened(url, folder / f"end-{name}")
    wall, cpu = time.monotonic(), time.process_time()
    pixels, failures = images.fetch(tasks(count, first=10**6), classifier.backbone.resize())
    fetched = time.process_time()
    model.embed(classifier, pixels)
    done = time.process_time()
    images.close()
    print(
        f"| {name} | {classifier.size} | {count:,} | {len(failures)} | {fetched - cpu:.0f} | "
        f"{done - fetched:.0f} | {done - cpu:.0f} | {time.monotonic() - wall:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--pool", type=int, default=0)
    parser.add_argument("backbones", nargs="*", default=list(BACKBONES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, n = {given.images}\n")
    files = [photograph(seed) for seed in range(FILES)]
    with tempfile.TemporaryDirectory(prefix="pool-") as place, served(files) as url:
        folder = Path(place)
        front_rates(url, files, folder, given.images)
        print("| backbone | pixels | forward alone | embedding | share | share by all | OpenVINO | ratio |")
        print("|---|---|---|---|---|---|---|---|")
        for name in given.backbones:
            size = model.backbone_named(name).size
            found = embed_rates(name, url, folder, given.images)
            print(
                f"| {name} | {size} | {found['forward']:,.1f} | {found['thread']:,.1f} | "
                f"{found['thread'] / found['forward']:.0%} | {found['process'] / found['forward']:.0%} | "
                f"{found['openvino']:,.1f} | {found['openvino'] / found['process']:.2f} |",
                flush=True,
            )
        if given.pool:
            print("\n| backbone | pixels | tasks | failures | read CPU-s | embed CPU-s | all CPU-s | s |")
            print("|---|---|---|---|---|---|---|---|")
            for backbone in ("self_supervised", "efficientnet_lite0"):
                end_to_end(backbone, url, folder, given.pool)


if __name__ == "__main__":
    main()
