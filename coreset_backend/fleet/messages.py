"""What a round, the process that drives Ray for it, and the machines of the cluster tell each other."""

from dataclasses import dataclass, field

from pydantic import TypeAdapter

from coreset_backend.arrays import Resize

Tasks = tuple[tuple[int, str | None], ...]
"""Tasks as (id, address of the image)."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which cluster: ``address`` of its head, host:port; None: one of the round's own on this machine.

    ``device``: cpu or cuda, what its tasks need.
    """

    address: str | None
    device: str


@dataclass(frozen=True, slots=True)
class Job:
    """Shards to embed, (name, tasks), by the network in the file ``weights``.

    Each is written into ``folder``. Without shards the machines of the cluster are described.
    ``refreshed_at``: the refresh that the round follows.
    """

    cluster: Cluster
    folder: str = ""
    network: str = ""
    arithmetic: str = ""
    weights: str = ""
    resize: Resize | None = None
    shards: tuple[tuple[str, Tasks], ...] = ()
    refreshed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """How far the job is: ``images`` that are embedded, and on how many ``machines``.

    ``waits``: no machine has a free place. ``failed``: why the job has ended without a result, with the name
    of the error as ``kind``. ``lines``: what doctor says. ``ended``: nothing follows.
    """

    images: int = 0
    machines: int = 0
    waits: bool = False
    kind: str = ""
    failed: str = ""
    lines: tuple[tuple[str, bool], ...] = field(default=())
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What all shards of a round have in common: the ``network`` by name, its ``arithmetic`` and ``device``,
    the versions of this package and of its decoder, and the refresh that it follows."""

    network: str
    arithmetic: str
    device: str
    resize: Resize
    version: str
    decoder: int
    refreshed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """A shard that ``machine`` has embedded: the content of its file."""

    machine: str
    packed: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """Why ``machine`` cannot embed a shard; ``kind``: the name of the error."""

    machine: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine of the cluster has; ``problem``: why it could embed nothing, else empty."""

    address: str
    versions: tuple[tuple[str, str], ...]
    arithmetic: str
    problem: str


JOB = TypeAdapter(Job)
REPORT = TypeAdapter(Report)
