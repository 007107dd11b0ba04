"""What a backbone is: a network that turns images into embeddings, and the input that it expects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from torch import Tensor, nn

from coreset_backend.arrays import Interpolation, Resize
from coreset_backend.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
Triple = tuple[float, float, float]
State = Mapping[str, Tensor]


OTHER_NAMES: dict[str, Interpolation] = {"random": "bicubic", "nearest-exact": "nearest"}
"""Of interpolations, in configurations. timm's "random" draws bilinear or bicubic anew for each image in
training, and bicubic is what timm takes where nothing is said. Pillow has one "nearest".
"""


class Mismatch(Exception):
    """The tensors do not belong to the network; the message says which of them."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network that turns images into embeddings.

    ``size`` is the side of its images in pixels: the default where ``any_size``, else the only one.
    ``dimension`` is an embedding's length. ``build()`` gives the network without its weights and without its
    classifier: float[k, 3, size, size] to float[k, dimension]. ``load(state)`` gives it with the weights of a
    file, which may hold a classifier too; it raises Mismatch. ``published``: others publish weights for it,
    trained on other images. Its images are resized by ``interpolation``; ``mean`` and ``deviation`` normalise
    input pixels in [0, 1]. ``configuration``: the JSON from which a saved timm or ONNX network is rebuilt,
    else empty. ``trainable``: whether it has gradients.
    """

    name: str
    size: int
    dimension: int
    build: Callable[[], nn.Module]
    load: Callable[[State], nn.Module]
    pretrained: bool = True
    published: bool = True
    any_size: bool = True
    trainable: bool = True
    mean: Triple = IMAGENET_MEAN
    deviation: Triple = IMAGENET_DEVIATION
    interpolation: Interpolation = "bilinear"
    licence: str = ""
    configuration: str = ""

    def resize(self, size: int | None = None) -> Resize:
        """How its images are resized: to ``size`` pixels a side, or to its own."""
        return Resize(size or self.size, self.interpolation)


def interpolation_named(name: str, owner: str) -> Interpolation:
    """The interpolation that the configuration of ``owner`` calls ``name``; raises ConfigError."""
    known: dict[str, Interpolation] = {each: each for each in get_args(Interpolation)} | OTHER_NAMES
    if (found := known.get(name.lower())) is None:
        raise ConfigError(
            f"{owner} names the interpolation {name!r}; expected was one of {', '.join(known)}."
        )
    return found


@dataclass(frozen=True, slots=True)
class ChosenBackbone:
    """A backbone with the weights it starts from; ``description`` says in words which and why."""

    backbone: Backbone
    weights: Path | None
    description: str


def load_exactly(network: nn.Module, state: State) -> nn.Module:
    """``network`` with exactly those weights, in float32; raises Mismatch."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    came = {name: tuple(value.shape) for name, value in state.items()}
    for name, shape in expected.items():
        if name not in came:
            raise Mismatch(f"{name} is missing")
        if came[name] != shape:
            raise Mismatch(f"{name} has shape {came[name]} instead of {shape}")
    if surplus := sorted(came.keys() - expected.keys()):
        raise Mismatch(f"{surplus[0]} is unknown to it")
    network.load_state_dict(in_single_precision(state), assign=True)
    return network


def in_single_precision(state: State) -> dict[str, Tensor]:
    """The tensors with float32 where they have another floating-point type."""
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
