"""The process that drives Ray for a round: it reads a job from its input and reports on its output.

Ray ends the process that drives it when the head of the cluster is lost, so that is not the round's. When the
input ends, the round is gone: this process ends too, and Ray stops its tasks on all machines.
"""

import contextlib
import ctypes
import itertools
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coreset_backend import __version__
from coreset_backend.decoding import DECODER
from coreset_backend.errors import ClusterError, ConfigError, CoresetError
from coreset_backend.files import replacing
from coreset_backend.fleet import ray_tasks
from coreset_backend.fleet.messages import JOB, REPORT, Done, Job, Machine, Order, Report, Tasks

log = logging.getLogger(__name__)
REACHED_WITHIN, HEALTHY_WITHIN, DESCRIBED_WITHIN = 10.0, 120.0, 120.0
NO_ANSWER = "Failed to connect to GCS"
"""What Ray says where something accepts its connection that does not speak its protocol, or not yet."""
GPU_SHARE = 0.25
"""Of a GPU for each task: the others fetch and decode while one computes."""
QUEUED = 2
"""Tasks for each place: one that runs and one that waits for it."""
WAITS_AFTER, FIRST_AFTER = 30.0, 90.0
"""Without a shard for so long the round is said to wait for a machine; the first shard takes longer, as
processes start and load the network."""
LOST_AFTER = 60.0
"""Without any machine for so long the job fails."""
LEAST_STORE = 256_000_000
RAY = (sys.executable, "-P", "-m", "ray.scripts.scripts")
PR_SET_PDEATHSIG = 1
Say = Callable[[Report], None]


def main() -> None:
    """Run the job that is the first line of the input, and end with the input."""
    say = _reporter()
    job = JOB.validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        with _joined(job):
            if job.shards:
                _Work(job, say).run()
            else:
                say(Report(lines=_described(job.cluster.device)))
    except CoresetError as error:
        say(Report(kind=type(error).__name__, failed=str(error)))
    except (RayError, OSError, RuntimeError, ValueError) as error:
        say(Report(kind="ClusterError", failed=f"Ray failed: {_last_line(str(error))}"))
    say(Report(ended=True))


def _reporter() -> Say:
    """Writes reports where the output was; what libraries print goes to the errors."""
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(report: Report) -> None:
        output.write(REPORT.dump_json(report) + b"\n")

    return say


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it did not say why"


@contextlib.contextmanager
def _joined(job: Job) -> Iterator[None]:
    """Connected to the cluster, or to one of this machine that ends with the block."""
    weights = Path(job.weights).stat().st_size if job.weights else 0
    store = max(LEAST_STORE, 2 * weights)
    address = job.cluster.address
    if address is None:
        _connect(address="local", ip="127.0.0.1", include_dashboard=False, object_store_memory=store)
        yield
        return
    ip = _checked(address)
    with tempfile.TemporaryFile() as output:
        node = _start_node(address, ip, store, output.fileno())
        try:
            _connect(address=address, ip=ip)
            yield
        except ConnectionError as error:
            output.seek(0)
            told = _last_line(output.read().decode(errors="replace"))
            raise ClusterError(f"This machine could not join the Ray cluster at {address}: {told}") from error
        finally:
            node.terminate()


def _connect(address: str, ip: str, **options: object) -> None:
    ray.init(
        address=address, log_to_driver=False, logging_level=logging.ERROR, _node_ip_address=ip, **options
    )


def _checked(address: str) -> str:
    """The address of this machine in the cluster's network.

    Raises ClusterError if the head does not answer, and ConfigError if it refuses our token or takes any.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACHED_WITHIN) as connection:
            ip = str(connection.getsockname()[0])
    except OSError as error:
        raise ClusterError(
            f"No Ray cluster answers at {address} ({error.strerror or error}). Start its head, or correct "
            "CORESET_RAY_ADDRESS."
        ) from None
    ours, admits_everybody = _health(address)
    if admits_everybody:
        raise ConfigError(
            f"The Ray cluster at {address} admits everybody: whoever reaches it can run code on it. Start it "
            "with RAY_AUTH_MODE=token and a token."
        )
    if ours.returncode:
        if "auth" in ours.stderr.lower():
            raise ConfigError(f"The Ray cluster at {address} refuses the token in CORESET_RAY_TOKEN.")
        raise ClusterError(f"The Ray cluster at {address} is not well: {_last_line(ours.stderr)}")
    return ip


def _health(address: str) -> "tuple[subprocess.CompletedProcess[str], bool]":
    """What the head answers to our token, and whether it admits another one; raises ClusterError."""
    asked, began = [*RAY, "health-check", f"--address={address}"], time.monotonic()
    another = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_TOKEN")}
    with _started(asked, another | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}) as stranger:
        try:
            ours = subprocess.run(asked, capture_output=True, text=True, timeout=HEALTHY_WITHIN)
            answered = ours.returncode == 0 or NO_ANSWER not in ours.stderr
            if answered:
                return ours, stranger.wait(HEALTHY_WITHIN) == 0
        except subprocess.TimeoutExpired:
            pass
        finally:
            stranger.kill()
    raise ClusterError(
        f"Something accepts connections at {address}, but no Ray cluster has answered there in "
        f"{time.monotonic() - began:.0f} s. Its head may be starting or overloaded, or another service has "
        "that port. Wait for the head or restart it, or correct CORESET_RAY_ADDRESS."
    )


def _started(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )


def _start_node(address: str, ip: str, store: int, output: int) -> subprocess.Popen[bytes]:
    """This machine as one of the cluster that runs no tasks: Ray can be driven only from such a machine."""
    command = [*RAY, "start", "--block", "--disable-usage-stats", f"--address={address}"]
    command += [f"--node-ip-address={ip}", "--num-cpus=0", "--num-gpus=0", f"--object-store-memory={store}"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=_end_with_parent
    )


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class _Work:
    """The shards of a job: those in work, by the reference of their task, and what was done so far."""

    job: Job
    say: Say
    images: int = 0
    machines: set[str] = field(default_factory=set)
    running: "dict[ray.ObjectRef[object], tuple[str, int]]" = field(default_factory=dict)
    last_done: float = field(default_factory=time.monotonic)
    last_machine: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Embed all shards; a task whose machine is lost runs again on another.

        Raises ConfigError if a machine computes otherwise, ClusterError.
        """
        job, gpus = self.job, GPU_SHARE if self.job.cluster.device == "cuda" else 0
        weights = [ray.put(Path(job.weights).read_bytes())]
        assert job.resize
        here = (__version__, DECODER, job.refreshed_at)
        order = Order(job.network, job.arithmetic, job.cluster.device, job.resize, *here)
        embed = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1, scheduling_strategy="SPREAD")(
            ray_tasks.embed
        )
        waiting = iter(job.shards)
        while True:
            for name, tasks in _taken(waiting, self._places(gpus) * QUEUED - len(self.running)):
                self.running[embed.remote(order, weights, tasks)] = name, len(tasks)
            if not self.running:
                return
            for done in ray.wait(list(self.running), num_returns=1, timeout=1.0)[0]:
                self._keep(done)
            patience = WAITS_AFTER if self.machines else FIRST_AFTER
            waits = time.monotonic() - self.last_done > patience
            self.say(Report(self.images, len(self.machines), waits))

    def _places(self, gpus: float) -> int:
        """How many tasks the cluster can run at a time; at least one, so that there is one to wait for."""
        there = ray.cluster_resources()
        places = int(
            there.get("CPU", 0) if not gpus else min(there.get("CPU", 0), there.get("GPU", 0) / gpus)
        )
        if places:
            self.last_machine = time.monotonic()
        elif time.monotonic() - self.last_machine > LOST_AFTER:
            what = "GPU" if gpus else "core"
            raise ClusterError(f"The Ray cluster has had no machine with a {what} for {LOST_AFTER:.0f} s.")
        return max(places, 1)

    def _keep(self, reference: "ray.ObjectRef[object]") -> None:
        """Write the shard of a task that has ended."""
        name, images = self.running.pop(reference)
        try:
            done = ray.get(reference)
        except RayTaskError as error:
            raise ClusterError(f"A shard failed on the Ray cluster: {_last_line(str(error))}") from None
        if not isinstance(done, Done):
            kind = ConfigError if done.kind == "ConfigError" else ClusterError
            raise kind(f"The machine {done.machine} of the Ray cluster refuses a shard: {done.why}")
        with replacing(Path(self.job.folder) / name, durable=False) as partial:
            partial.write_bytes(done.packed)
        self.machines.add(done.machine)
        self.images += images
        self.last_done = time.monotonic()


def _taken(waiting: Iterator[tuple[str, Tasks]], count: int) -> Iterator[tuple[str, Tasks]]:
    return itertools.islice(waiting, max(count, 0))


def _described(device: str) -> tuple[tuple[str, bool], ...]:
    """What doctor says of the machines that embed: (line, whether it is a problem)."""
    here = ray.get_runtime_context().get_node_id()
    embedding = [each["NodeID"] for each in ray.nodes() if each["Alive"] and each["Resources"].get("CPU")]
    describe = ray.remote(num_cpus=0)(ray_tasks.describe)
    asked = [
        describe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(device)
        for node in (here, *embedding)
    ]
    try:
        ours, *others = ray.get(asked, timeout=DESCRIBED_WITHIN)
    except GetTimeoutError:
        raise ClusterError(
            f"Not all {len(asked)} machines of the Ray cluster have answered in {DESCRIBED_WITHIN:.0f} s. "
            "They may be starting or overloaded: try again, or look at their logs."
        ) from None
    if not others:
        return (("No machine of the Ray cluster embeds images: none has a core. Start some.", True),)
    others.sort(key=lambda machine: machine.address)
    names = ", ".join(f"{each.address} ({each.arithmetic})" for each in others)
    lines = [(f"Machines that embed images: {len(others)}, {names}.", False)]
    return tuple(lines + [(line, True) for each in others for line in _differences(each, ours)])


def _differences(machine: Machine, ours: Machine) -> Iterator[str]:
    """Why that machine could not embed shards of a round that is run here."""
    if machine.problem:
        yield f"{machine.address} cannot embed images: {machine.problem}"
    for (name, theirs), (_, own) in zip(machine.versions, ours.versions, strict=True):
        if theirs != own:
            yield f"{machine.address} has {name} {theirs}, this machine {own}. Give all the same image."
    if machine.arithmetic and machine.arithmetic != ours.arithmetic:
        yield (
            f"{machine.address} computes in {machine.arithmetic}, this machine in {ours.arithmetic}: it will "
            "refuse shards. Give all machines the same kind of processor."
        )


if __name__ == "__main__":
    main()
