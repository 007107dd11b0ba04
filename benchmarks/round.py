"""Seconds from a webhook to the published batch, by phase, and memory, on a real Label Studio.

    make label-studio .venv/.dev && .venv/bin/python benchmarks/round.py [--photographs] 300 5000

For each number of tasks: images are drawn (with --photographs: JPEGs of 500 x 375 pixels, random labels),
a project is connected, the cold-start batch is labelled, and the clock runs from the last Submit to the
moment when Label Studio serves the next batch. CPU-seconds are those of the worker with all its children.
Memory is the peak resident set (VmHWM) of the largest process of each part; the worker's is the child that
runs rounds.
"""

import argparse
import contextlib
import io
import os
import platform
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

import httpx  # noqa: E402
import numpy as np  # noqa: E402
from e2e_stack import Stack, running_stack  # noqa: E402
from PIL import Image  # noqa: E402

from coreset_backend.local import demo_project  # noqa: E402
from coreset_backend.local import label_studio as demo  # noqa: E402
from coreset_backend.local.demo_images import CLASSES, make_images  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photographs", action="store_true")
    parser.add_argument("sizes", type=int, nargs="*", default=[300, 5000])
    given = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    executable = demo.find_label_studio(ROOT)
    if executable is None:
        sys.exit("label-studio is not installed; `make label-studio` installs it")
    with tempfile.TemporaryDirectory(prefix="round-") as name:
        folder = Path(name)
        (folder / "files").mkdir()
        golden = demo.golden_data_dir(executable, ROOT / ".label-studio/golden", print)
        data = demo.migrated_copy(golden, folder / "label-studio")
        with (
            demo.start_label_studio(executable, data, folder / "files") as server,
            running_stack(
                folder, server.url, server.login.token, CORESET_BATCH_SIZE="50", CORESET_DEBOUNCE_SECONDS="3"
            ) as stack,
        ):
            for n in given.sizes:
                with peaks_of(stack) as peaks:
                    measure(server, stack, n, photographs if given.photographs else make_images)
                print(f"  peak MB at n = {n}: " + ", ".join(f"{part} {mb}" for part, mb in peaks.items()))


def photographs(folder: Path, n: int, seed: int) -> list[tuple[str, str]]:
    """JPEGs as `photograph` draws them; (file name, class at random) in order."""
    folder.mkdir(parents=True)
    classes = np.random.default_rng(seed).choice(CLASSES, n)
    for number in range(n):
        (folder / f"{number:05d}.jpg").write_bytes(photograph(number))
    return [(f"{number:05d}.jpg", str(kind)) for number, kind in enumerate(classes)]


def photograph(seed: int) -> bytes:
    """A JPEG of 500 x 375 pixels: large shapes with fine noise on them, about 60 kB like a photograph's."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((500, 375))
    noisy = np.asarray(shapes, dtype=np.int16) + rng.normal(0, 12, (375, 500, 1)).astype(np.int16)
    body = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(body, "JPEG", quality=85)
    return body.getvalue()


def measure(
    server: demo.LabelStudioServer,
    stack: Stack,
    n: int,
    draw: Callable[[Path, int, int], list[tuple[str, str]]],
) -> None:
    folder = server.document_root / str(n)
    truth = dict(draw(folder, n, n))
    token = server.login.token
    project_id = demo_project.create_demo_project(server.url, token, folder, f"Round of {n}", CLASSES)
    started, cpu = time.monotonic(), cpu_seconds(stack)
    stack.connect(project_id)
    cold = stack.wait_for_round(project_id, 1, 1800)
    show(f"n = {n}, cold start", cold["timings"], time.monotonic() - started, cpu_seconds(stack) - cpu)
    with demo_project.open_session(server.url, token) as session:
        for task_id in cold["batch"]:
            label(session, task_id, truth)
    started, cpu = time.monotonic(), cpu_seconds(stack)
    warm = stack.wait_for_round(project_id, 2, 1800)
    show(
        f"n = {n}, {len(cold['batch'])} labels",
        warm["timings"],
        time.monotonic() - started,
        cpu_seconds(stack) - cpu,
    )


def label(session: httpx.Client, task_id: int, truth: dict[str, str]) -> None:
    uri = session.get(f"/api/tasks/{task_id}/", params={"resolve_uri": "false"}).json()["data"]["image"]
    value = {"choices": [truth[uri.rsplit("/", 1)[-1]]]}
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": value}
    session.post(f"/api/tasks/{task_id}/annotations/", json={"result": [region]}).raise_for_status()


def show(what: str, timings: dict[str, float], seconds: float, cpu: float) -> None:
    phases = ", ".join(f"{phase} {took:.1f}" for phase, took in timings.items())
    print(
        f"  {what}: {seconds:.1f} s from the event to the published batch, {cpu:.1f} CPU-s of the worker "
        f"({phases}), load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def cpu_seconds(stack: Stack) -> float:
    """CPU time of the worker and all its children, those that have ended too."""
    ticks = 0
    for pid in stack.processes("work"):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def peaks_of(stack: Stack) -> Iterator[dict[str, int]]:
    """Part -> the peak resident set in MB of its largest process so far; filled while the block runs."""
    peaks = {"gunicorn": 0, "work": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            for part in peaks:
                for pid in stack.processes(part):
                    peaks[part] = max(peaks[part], peak(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    yield peaks
    done.set()
    thread.join()


def peak(pid: int) -> int:
    try:
        told = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it ended meanwhile
        return 0
    return int(told[1]) // 1000 if told else 0


def processor() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
