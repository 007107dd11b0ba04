"""What a machine of a Ray cluster runs. Its settings and secrets come from its own environment."""

import importlib.metadata
import importlib.util
import platform
import tempfile
from functools import lru_cache
from pathlib import Path

import ray

from coreset_backend import __version__, model
from coreset_backend.backend import images_by, label_studio_by, proxies_by
from coreset_backend.decoding import DECODER
from coreset_backend.errors import ConfigError, CoresetError
from coreset_backend.fleet.embed_shard import embed_shard
from coreset_backend.fleet.messages import Done, Machine, Order, Refused, Tasks
from coreset_backend.images import Images
from coreset_backend.settings import read_settings


def embed(order: Order, weights: "list[ray.ObjectRef[bytes]]", tasks: Tasks) -> Done | Refused:
    """A shard of ``tasks``; ``weights``: a reference to the network's file, which is read once."""
    machine = ray.util.get_node_ip_address()
    try:
        frozen = _network(order, _Weights(weights[0]))
        shard = embed_shard(frozen, _images(), tasks, order.resize, order.refreshed_at)
        return Done(machine, shard.packed())
    except CoresetError as error:
        return Refused(machine, type(error).__name__, str(error))


class _Weights:
    """A reference that is not part of the key of a cache."""

    def __init__(self, reference: "ray.ObjectRef[bytes]") -> None:
        self.reference = reference

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Weights)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=1)
def _network(order: Order, weights: _Weights) -> model.Classifier:
    """The network of the order, loaded once for a process."""
    here = (__version__, DECODER)
    if here != (order.version, order.decoder):
        raise ConfigError(
            f"coreset-backend {here[0]} with decoder {here[1]} is installed on it, but the round is run by "
            f"{order.version} with decoder {order.decoder}. Give all machines the same image"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        path.write_bytes(ray.get(weights.reference))
        cache = read_settings().local_dir / "converted"
        return model.load_frozen(path, order.network, order.arithmetic, order.device, cache)


@lru_cache(maxsize=1)
def _images() -> Images:
    settings = read_settings()
    proxies = proxies_by(settings)
    return images_by(
        settings,
        label_studio_by(settings, proxies),
        proxies,
        settings.local_dir / "images",
        max_failed_share=1.0,  # of a shard; the round judges the whole pool
    )


def describe(device: str) -> Machine:
    """This machine, as doctor compares it with the others; what it computes on its ``device``."""
    try:
        arithmetic, problem = model.arithmetic_of(device), ""
        settings = read_settings()
        label_studio_by(settings, proxies_by(settings)).whoami()
    except CoresetError as error:
        arithmetic, problem = "", str(error)
    return Machine(ray.util.get_node_ip_address(), tuple(installed().items()), arithmetic, problem)


def installed() -> dict[str, str]:
    """The versions that must be the same on all machines, by name."""
    return {
        "Python": platform.python_version(),
        "Ray": ray.__version__,
        "coreset-backend": __version__,
        "torch": importlib.metadata.version("torch"),
        "decoder": str(DECODER),
        "OpenVINO": "installed" if importlib.util.find_spec("openvino") else "not installed",
    }
