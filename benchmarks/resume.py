"""What a cancel and a killed worker cost: how many images are embedded twice, and how soon the machines stop.

    python benchmarks/resume.py --images 40000            # on Ray: needs root, for a network of its own
    python benchmarks/resume.py --images 40000 --local    # the worker embeds the same shards itself

A real worker runs a round of a recorded Label Studio, with a small network at 32 pixels. The round is
cancelled at 25 %, started again, killed with its worker at 50 % (SIGKILL), and finished by another worker. On
Ray there are two nodes of one core each and a head without one. Label Studio counts how often it sends an
image, and the nodes lose their image cache before each start, so every image that a node embeds again counts.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fake_label_studio import TOKEN, FakeLabelStudio, running  # noqa: E402
from ray_nodes import Nodes, descendants, own_network  # noqa: E402
from training_images import begin, textures  # noqa: E402
from waiting import wait_until  # noqa: E402
from worker_site import Site, running_site  # noqa: E402

from coreset_backend.fleet.plan import average_size  # noqa: E402
from coreset_backend.fleet.shelf import Shelf  # noqa: E402
from coreset_backend.jobs.queue import request_round  # noqa: E402
from coreset_backend.jobs.requests import cancel_round  # noqa: E402
from coreset_backend.rounds.ahead import SAMPLE  # noqa: E402

LONG = 7200


@dataclass
class Run:
    """A round of ``project_id`` that is ended early and begun again."""

    site: Site
    studio: FakeLabelStudio
    project_id: int
    settings: dict[str, str]
    nodes: Nodes | None

    def start_worker(self) -> None:
        self.site.start_worker(**self.settings)

    def begin(self) -> None:
        """Ask for the round; the nodes have no image in their caches."""
        for cache in self.nodes.folder.glob("data-*/images") if self.nodes else ():
            shutil.rmtree(cache)
        request_round(self.site.backend, self.project_id, "asked by a benchmark", force=True)

    def wait_for_share(self, share: float) -> tuple[int, int]:
        """Wait until so much of the pool is embedded; the images that are, of how many."""
        phase = "cluster" if self.nodes else "embed"

        def there() -> tuple[int, int] | None:
            written = self.site.state(self.project_id).written
            if written.error and "its worker was killed" not in written.error:
                raise SystemExit(f"the round failed: {written.error}")
            is_there = written.phase == phase and written.done >= share * written.total > 0
            return (written.done, written.total) if is_there else None

        found: tuple[int, int] = wait_until(there, f"{share:.0%} of the images", LONG, pause=0.02)
        return found

    def kept(self) -> int:
        """The images whose features are in shards on disk."""
        folder = self.site.backend.store.shards(self.project_id)
        names = {path.name[:32] for path in folder.glob("*.npz")}
        return sum(len(Shelf(folder, name).index().keys) for name in names)

    def lost(self) -> int:
        """The images that nodes have fetched so far and whose features are in no shard."""
        fetched = sum(path.startswith("/data/upload/") for _, path in list(self.studio.asked))
        return fetched - SAMPLE - self.kept()

    def kill_worker(self) -> None:
        worker = self.site.workers[-1]
        for pid in (worker.pid, *descendants(worker.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def seconds_until_idle(self) -> float:
        """Until no process of the round, of Ray's driver or of a shard is left."""
        began = time.monotonic()
        wait_until(lambda: not self._busy(), "idle machines", 120, pause=0.05)
        return time.monotonic() - began

    def _busy(self) -> bool:
        nodes = self.nodes.running.values() if self.nodes else ()
        below = [child for node in nodes for child in descendants(node.pid)]
        with contextlib.suppress(OSError):
            embeds = any(Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::embed") for pid in below)
            return embeds or bool(self.site.round_processes())
        return True


def measure(run: Run) -> None:
    run.start_worker()
    run.begin()
    embedded, total = run.wait_for_share(0.25)
    began = time.monotonic()
    assert cancel_round(run.site.backend, run.project_id)
    stopped = time.monotonic() - began
    idle = stopped + run.seconds_until_idle()
    print(f"cancelled at {embedded:,} of {total:,}: answered in {stopped:.1f} s, idle after {idle:.1f} s")
    lost = tell_lost(run, total, 0)
    run.begin()
    embedded, _ = run.wait_for_share(0.5)
    run.kill_worker()
    print(f"worker killed at {embedded:,}: idle after {run.seconds_until_idle():.1f} s")
    tell_lost(run, total, lost)
    run.begin()
    run.start_worker()
    stored = run.site.wait_for_round(run.project_id, 1, LONG)
    assert len(stored.array("embeddings")) == total
    assert not run.site.backend.store.shards(run.project_id).exists()
    print("the round was finished with all images")


def tell_lost(run: Run, total: int, before: int) -> int:
    """Say how many images the interruption cost; the number of those lost so far."""
    if not run.nodes:
        most = 2 * average_size(total)
        print(f"in shards: {run.kept():,}; in work was one shard, at most {most} images", flush=True)
        return 0
    lost = run.lost()
    print(
        f"in shards: {run.kept():,}; embedded again: {lost - before:,}, {(lost - before) / total:.2%}",
        flush=True,
    )
    return lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--local", action="store_true", help="without Ray")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(contextlib.nullcontext() if chosen.local else own_network())
        studio = stack.enter_context(running())
        project_id = studio.create_project(chosen.images)
        site = stack.enter_context(running_site(folder / "site", studio))
        site.backend.store.register(project_id)
        begin(folder, textures(48)[0])
        settings = {
            "CORESET_BACKBONE": "self_supervised",
            "CORESET_WEIGHTS": str(folder / "features.safetensors"),
            "CORESET_IMAGE_SIZE": "32",
            "CORESET_POLL_SECONDS": "3600",
        }
        nodes = None
        if not chosen.local:
            nodes = start_nodes(folder / "ray", studio, stack.callback)
            ray = {"CORESET_CLUSTER": "ray", "CORESET_RAY_ADDRESS": nodes.address}
            settings |= ray | {"CORESET_RAY_TOKEN": nodes.token}
        print(f"{chosen.images:,} images, load {os.getloadavg()[0]:.1f}", flush=True)
        measure(Run(site, studio, project_id, settings, nodes))


def start_nodes(
    folder: Path, studio: FakeLabelStudio, at_end: Callable[[Callable[[], None]], object]
) -> Nodes:
    folder.mkdir()
    nodes = Nodes(folder, {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": TOKEN})
    at_end(nodes.stop)
    nodes.start(1, cores=0)
    nodes.start(2)
    nodes.start(3)
    return nodes


if __name__ == "__main__":
    main()
