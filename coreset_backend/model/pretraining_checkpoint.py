"""A pretraining between two steps, and on disk: all that the next slice needs."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coreset_backend.errors import CorruptRound
from coreset_backend.model.networks import SmallCnn
from coreset_backend.model.saving import read_tensors, write_tensors

log = logging.getLogger(__name__)
FORMAT = 1


@dataclass(frozen=True, slots=True)
class PretrainingState:
    """How far a pretraining is: ``seen`` of ``budget`` images, on a pool of ``images``, in ``seconds``.

    ``loss`` is the last one measured. ``note`` says what was unusual.
    """

    images: int
    seen: int
    budget: int
    seconds: float
    loss: float | None
    device: str
    note: str = ""

    @property
    def finished(self) -> bool:
        return self.seen >= self.budget


@dataclass(slots=True)
class Run:
    """A pretraining between two steps. ``first`` .. ``budget`` is the part that its schedule spans.

    ``known``: int64[m], ascending, names the images that it was begun or extended for.
    """

    network: SmallCnn
    projector: nn.Sequential
    optimizer: torch.optim.AdamW
    known: Tensor
    size: int
    seed: int
    device: torch.device
    first: int
    seen: int
    budget: int
    batch: int
    seconds: float = 0.0
    loss: float | None = None
    note: str = ""

    def manifest(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "images": len(self.known),
            "size": self.size,
            "seed": self.seed,
            "first": self.first,
            "seen": self.seen,
            "budget": self.budget,
            "batch": self.batch,
            "seconds": round(self.seconds, 1),
            "loss": self.loss,
            "device": str(self.device),
            "note": self.note,
        }

    def state(self) -> PretrainingState:
        return state_of(self.manifest())

    def save(self, path: Path) -> None:
        """Write all that the next slice needs, whole or not at all."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"projector.{name}": value for name, value in self.projector.state_dict().items()}
        for place, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": value for name, value in moments.items()}
        write_tensors(path, self.manifest(), {**tensors, "known": self.known})

    def restore(self, manifest: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
        """Take over what `save` wrote."""
        self.network.load_state_dict(_part(tensors, "network."))
        self.projector.load_state_dict(_part(tensors, "projector."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer.").items():
            place, _, moment = name.partition(".")
            moments.setdefault(int(place), {})[moment] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.known = tensors["known"]
        for name in ("first", "seen", "budget", "batch", "seconds", "loss", "note"):
            setattr(self, name, manifest[name])


def read_saved(path: Path) -> tuple[dict[str, object], dict[str, Tensor]] | None:
    if not path.is_file():
        return None
    try:
        manifest, tensors = read_tensors(path)
    except CorruptRound as error:
        log.warning("%s is of no use: %s", path.name, error.why)
        return None
    return (manifest, tensors) if manifest["format"] == FORMAT else None


def state_of(manifest: Mapping[str, Any]) -> PretrainingState:
    names = ("images", "seen", "budget", "seconds", "loss", "device", "note")
    return PretrainingState(**{name: manifest[name] for name in names})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
