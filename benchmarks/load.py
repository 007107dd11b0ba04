"""How the web process holds under load, while a training has the same cores: a table, and what it was run on.

    python benchmarks/load.py [--soak SECONDS]

It starts a Redis, the web process as `coreset-backend serve` does, and a process that trains our CNN without
a pause. Latencies are those of a client on the same machine, so they hold its own waiting for a core too.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from coreset_backend.backend import Backend, open_backend
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.jobs.queue import request_round
from coreset_backend.local.label_studio import free_port, tied_to_parent
from coreset_backend.local.redis_server import embedded_redis, wait_for_redis
from coreset_backend.local.stack import wait_for_web
from coreset_backend.project import Labels
from coreset_backend.reports import TrainingReport
from coreset_backend.settings import Settings
from coreset_backend.store.record import STATES
from coreset_backend.store.store import Round

ROOT = Path(__file__).parent.parent
PROJECTS = range(1, 11)
TASKS = 10_000
CLASSES = ("cat", "dog", "horse", "cow")

TRAINING = """
import os
import numpy as np
from coreset_backend import model
from coreset_backend.jobs.worker import NICENESS
os.nice(NICENESS)
chosen = model.choose_backbone("small_cnn", None)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (400, chosen.backbone.size, chosen.backbone.size, 3), dtype=np.uint8)
targets = np.eye(4, dtype=np.float32)[rng.integers(0, 4, 400)]
while True:
    model.fit(chosen, images, targets, multiple=False, holdout=np.arange(400) % 5 == 0, seed=0, device="cpu",
              progress=lambda done, total: print(done, total, flush=True))
"""


SLOW_CLIENTS = """
import socket, sys, time
port, count, kinds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
HEAD = b"GET /projects HTTP/1.1\\r\\nHost: localhost\\r\\n"
BODY = HEAD.replace(b"GET /projects", b"POST /setup") + b"Content-Length: 90000\\r\\n\\r\\n"
SENT = {"idle": (b"", b""), "head": (HEAD, b"X: y\\r\\n"), "body": (BODY, b" ")}
def connected(kind):
    client = socket.create_connection(("127.0.0.1", port), 20)
    client.sendall(SENT[kind][0])
    client.setblocking(False)
    return client
clients = [(kind, connected(kind)) for kind in kinds for _ in range(count)]
print("connected", flush=True)
while True:
    for place, (kind, client) in enumerate(clients):
        time.sleep(1 / len(clients))
        try:
            client.send(SENT[kind][1])
            closed = client.recv(1000) == b""
        except BlockingIOError:
            closed = False
        except OSError:
            closed = True
        if closed:
            client.close()
            clients[place] = kind, connected(kind)
"""


@dataclass(frozen=True)
class Web:
    """The web process under load."""

    backend: Backend
    process: subprocess.Popen[bytes]

    def post(
        self, path: str, body: object, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, float]:
        """(status, body, seconds) of one request over a connection of its own, as Label Studio makes it."""
        return self._ask("POST", path, json.dumps(body).encode(), headers or {})

    def get(self, path: str) -> tuple[int, bytes, float]:
        return self._ask("GET", path, None, {})

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes, float]:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.backend.settings.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            content = answer.read()
        return answer.status, content, time.perf_counter() - began

    def webhook(self, project_id: int) -> tuple[int, bytes, float]:
        event = {"action": "ANNOTATION_CREATED", "project": {"id": project_id, "title": "Load"}}
        return self.post("/webhook", event, {SECRET_HEADER: self.backend.webhook_secret})

    def setup(self, project_id: int) -> tuple[int, bytes, float]:
        return self.post("/setup", {"project": f"{project_id}.1795444315", "schema": "<View/>"})

    def predict(self, project_id: int, n: int) -> tuple[int, bytes, float]:
        tasks = [
            {"id": task_id, "data": {"image": f"/data/upload/1/{task_id}.jpg"}} for task_id in range(1, n + 1)
        ]
        return self.post("/predict", {"project": f"{project_id}.1795444315", "tasks": tasks})

    def processes(self) -> list[int]:
        """The process ids of gunicorn's master and its workers, the master first."""
        master = self.process.pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [master, *map(int, children)]

    def memory(self) -> list[float]:
        """Resident megabytes of each of them."""
        return [_status_kb(pid, "VmRSS") / 1024 for pid in self.processes()]

    def cpu_seconds(self) -> float:
        ticks = os.sysconf("SC_CLK_TCK")
        fields = (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.processes()
        )
        return sum(int(each[11]) + int(each[12]) for each in fields) / ticks


def _status_kb(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@contextlib.contextmanager
def started_web(folder: Path) -> Iterator[Web]:
    """Redis and web on a fresh store with ten projects, the first of them with a round of 10,000 tasks."""
    with contextlib.ExitStack() as stack:
        redis, redis_url = embedded_redis(folder, stack)
        redis.start()
        stack.callback(redis.stop)
        settings = Settings(redis_url=redis_url, model_dir=folder, port=free_port())
        backend = open_backend(settings)
        stack.callback(backend.close)
        wait_for_redis(backend.redis)
        for project_id in PROJECTS:
            backend.store.register(project_id)
        save_round(backend, PROJECTS[0], TASKS)
        process = stack.enter_context(our_process("-m", "coreset_backend", "serve", settings=settings))
        wait_for_web(settings, threading.Event())
        yield Web(backend, process)


@contextlib.contextmanager
def our_process(*arguments: str, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process with these settings, ended with the block."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": settings.redis_url or "",
        "MODEL_DIR": str(settings.model_dir),
        "PORT": str(settings.port),
        "LOG_LEVEL": "WARNING",
    }
    with subprocess.Popen(
        tied_to_parent([sys.executable, *arguments]), env=environment, cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextlib.contextmanager
def training(settings: Settings) -> Iterator[None]:
    """Our CNN trains beside the block, on every core that it can get."""
    with our_process("-c", TRAINING, settings=settings) as process:
        assert process.stdout
        process.stdout.readline()  # its first step is done: torch is loaded
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield
        assert process.poll() is None, "the training ended early"


def save_round(backend: Backend, project_id: int, n: int) -> None:
    """A round of ``n`` tasks with a model's probabilities, as a worker saves it."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(len(CLASSES)), n).astype(np.float32)
    batch, reserve = tuple(range(1, 51)), tuple(range(51, 101))
    with backend.store.draft(project_id) as draft:
        record = Round(
            project_id=project_id,
            number=draft.number,
            model_version="coreset-1-load",
            fingerprint="load",
            taken_at=datetime.now(UTC).isoformat(),
            strategy="k_center",
            backbone="small_cnn",
            seed=0,
            labels=Labels("label", "image", CLASSES, multiple=False),
            batch=batch,
            reserve=reserve,
            distances=(1.0,) * 100,
            radius_before=None,
            radius_after=1.0,
            training=TrainingReport(holdout_accuracy=0.9, n_holdout=100),
            holdout=(),
            counts={"pool": n},
            failures=(),
            timings={},
        )
        arrays = {
            "task_ids": np.arange(1, n + 1),
            "states": np.full(n, STATES.index("pool"), dtype=np.uint8),
            "scores": rng.random(n, dtype=np.float32),
            "embedded_task_ids": np.arange(1, n + 1),
            "embeddings": rng.random((n, 128), dtype=np.float32),
            "probabilities": probabilities,
        }
        draft.save(record, arrays)


# ---------------------------------------------------------------- what is measured


def latencies(ask: Callable[[int], tuple[int, bytes, float]], n: int, seconds: float) -> list[float]:
    """Seconds of each of ``n`` requests, spread evenly over ``seconds`` and the ten projects."""
    began = time.perf_counter()

    def one(number: int) -> float:
        time.sleep(max(0.0, began + number * seconds / n - time.perf_counter()))
        status, content, took = ask(PROJECTS[number % len(PROJECTS)])
        assert status < 300, (status, content[:200])
        return took

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, range(n)))


def row(what: str, goal: str, took: list[float]) -> str:
    p50, p99 = np.quantile(took, (0.5, 0.99)) * 1000
    return f"| {what} | {len(took)} | {p50:.1f} ms | {p99:.1f} ms | {max(took) * 1000:.1f} ms | {goal} |"


def measure_slow_clients(web: Web) -> None:
    """Liveness beside clients without a login that keep their connections and drip, and what they cost."""
    print()
    for kinds in (["idle"], ["head"], ["body"], ["idle", "head", "body"]):
        arguments = (str(web.backend.settings.port), "200", *kinds)
        with our_process("-c", SLOW_CLIENTS, *arguments, settings=web.backend.settings) as crowd:
            assert crowd.stdout
            crowd.stdout.readline()  # all have connected once
            took = latencies(lambda _: web.get("/health"), 1000, 20)
            memory = rounded(web.memory())
        what = f"`GET /health` beside {' and '.join(f'200 slow-{kind}' for kind in kinds)} clients"
        print(row(what.replace("slow-idle", "idle"), "p99 < 300 ms", took), f"{memory} MB", flush=True)
        assert np.quantile(took, 0.99) <= 0.3, f"{kinds} hold up /health"


def measure_latencies(web: Web, load: str) -> None:
    for what, goal, ask in (
        ("`GET /health`", "p99 < 50 ms", lambda _: web.get("/health")),
        ("`POST /setup`", "p99 < 300 ms", web.setup),
        ("`POST /webhook`", "p99 < 200 ms", web.webhook),
    ):
        print(row(f"{what}, {load}", goal, latencies(ask, 1000, 20)), flush=True)


def measure_burst(web: Web) -> None:
    """1,000 webhooks in 10 s over 10 projects: none lost, one job a project."""
    forget_jobs(web.backend)
    before = web.cpu_seconds()
    took = latencies(web.webhook, 1000, 10)
    cpu = web.cpu_seconds() - before
    jobs = web.backend.queue.scheduled_job_registry.get_job_ids() + web.backend.queue.job_ids
    print(row("1,000 webhooks in 10 s, while training", "p99 < 200 ms", took))
    print(f"\n{len(jobs)} jobs wait for {len(PROJECTS)} projects; the web used {cpu:.1f} s of CPU in 10 s.")
    assert len(jobs) == len(PROJECTS), jobs


def measure_predict(web: Web) -> None:
    took = []
    for _ in range(5):
        status, content, seconds = web.predict(PROJECTS[0], TASKS)
        assert status == 200 and len(json.loads(content)["results"]) == TASKS
        took.append(seconds)
    print(row("`POST /predict` of 10,000 tasks, while training", "<= 5 s", took))


def measure_fairness(web: Web) -> None:
    """A project that floods the queue has one place in it, and goes to its end after its turn."""
    forget_jobs(web.backend)
    patient = web.backend
    eager = open_backend(patient.settings.model_copy(update={"debounce_seconds": 0}))
    for number in range(500):
        request_round(eager, 1, f"event {number}")
    for project_id in PROJECTS[1:]:
        request_round(eager, project_id, "an event")
    order = [int(job_id.split("-")[1]) for job_id in eager.queue.job_ids]
    print(f"\n500 events of project 1, then one of each other: the queue holds {order}.")
    assert order == list(PROJECTS)
    eager.close()


def forget_jobs(backend: Backend) -> None:
    backend.redis.flushdb()


def soak(web: Web, seconds: float) -> None:
    """Mixed load for ``seconds``; memory of the serving process minute by minute."""
    print("\n| minute | requests | MB |\n|---|---|---|")
    began, done = time.monotonic(), 0
    samples: list[tuple[float, float]] = []
    while (now := time.monotonic() - began) < seconds:
        for ask in (lambda _: web.get("/health"), web.setup, web.webhook, lambda _: web.predict(1, 500)):
            done += len(latencies(ask, 60, 15))
        samples.append((now / 3600, max(web.memory())))
        if len(samples) % 5 == 1:
            print(f"| {now / 60:.1f} | {done} | {samples[-1][1]:.1f} |", flush=True)
    warm = samples[len(samples) // 5 :]
    slope = np.polyfit(*zip(*warm, strict=True), 1)[0] if len(warm) > 2 else float("nan")
    print(f"\n{done} requests; {slope:+.1f} MB an hour after the first fifth.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--soak", type=float, default=180, metavar="SECONDS", help="length of the soak")
    arguments = parser.parse_args()
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    print(
        f"{os.cpu_count()} cores, {cpu.partition(':')[2].strip()}, {platform.system()} {platform.release()}"
    )
    print(f"Load of the machine before: {os.getloadavg()[0]:.1f}\n")
    print("| what | n | p50 | p99 | max | goal |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, started_web(Path(folder)) as web:
        idle = web.memory()
        measure_latencies(web, "idle")
        measure_slow_clients(web)
        with training(web.backend.settings):
            measure_latencies(web, "while training")
            measure_predict(web)
            measure_burst(web)
            measure_fairness(web)
            soak(web, arguments.soak)
        loaded = web.memory()
    print(f"\nMemory of each web process: {rounded(idle)} MB at the start, {rounded(loaded)} MB at the end.")
    print(f"Load of the machine after: {os.getloadavg()[0]:.1f}")


def rounded(megabytes: list[float]) -> str:
    return " + ".join(f"{each:.0f}" for each in megabytes)


if __name__ == "__main__":
    main()
