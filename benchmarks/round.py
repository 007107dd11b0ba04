"""Seconds from a webhook to the published batch, by phase, and memory, on a real Label Studio.

    make label-studio .venv/.dev && .venv/bin/python benchmarks/round.py 300 5000

For each number of tasks: images are drawn, a project is connected, the cold-start batch is labelled, and
the clock runs from the last Submit to the moment when Label Studio serves the next batch. Memory is the
peak resident set (VmHWM) of the largest process of each part; the worker's is the child that runs rounds.
"""

import contextlib
import os
import platform
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

import httpx  # noqa: E402
from e2e_stack import Stack, running_stack  # noqa: E402

from coreset_backend.local import demo_project  # noqa: E402
from coreset_backend.local import label_studio as demo  # noqa: E402
from coreset_backend.local.demo_images import CLASSES, make_images  # noqa: E402


def main(sizes: list[int]) -> None:
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
            for n in sizes:
                with peaks_of(stack) as peaks:
                    measure(server, stack, n)
                print(f"  peak MB at n = {n}: " + ", ".join(f"{part} {mb}" for part, mb in peaks.items()))


def measure(server: demo.LabelStudioServer, stack: Stack, n: int) -> None:
    folder = server.document_root / str(n)
    truth = dict(make_images(folder, n, seed=n))
    token = server.login.token
    project_id = demo_project.create_demo_project(server.url, token, folder, f"Round of {n}", CLASSES)
    stack.connect(project_id)
    started = time.monotonic()
    cold = stack.wait_for_round(project_id, 1, 1800)
    show(f"n = {n}, cold start", cold["timings"], time.monotonic() - started)
    with demo_project.open_session(server.url, token) as session:
        for task_id in cold["batch"]:
            label(session, task_id, truth)
    started = time.monotonic()
    warm = stack.wait_for_round(project_id, 2, 1800)
    show(f"n = {n}, {len(cold['batch'])} labels", warm["timings"], time.monotonic() - started)


def label(session: httpx.Client, task_id: int, truth: dict[str, str]) -> None:
    uri = session.get(f"/api/tasks/{task_id}/", params={"resolve_uri": "false"}).json()["data"]["image"]
    value = {"choices": [truth[uri.rsplit("/", 1)[-1]]]}
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": value}
    session.post(f"/api/tasks/{task_id}/annotations/", json={"result": [region]}).raise_for_status()


def show(what: str, timings: dict[str, float], seconds: float) -> None:
    phases = ", ".join(f"{phase} {took:.1f}" for phase, took in timings.items())
    print(f"  {what}: {seconds:.1f} s from the event to the published batch ({phases})", flush=True)


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
    main([int(given) for given in sys.argv[1:]] or [300, 5000])
