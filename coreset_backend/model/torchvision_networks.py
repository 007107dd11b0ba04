"""torchvision's classification networks as backbones, by their names there."""

import functools

import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn

from coreset_backend.model.backbone import Backbone, State, interpolation_named, load_exactly

HEADS = {
    "mobilenet_v3_small": "classifier",
    "mobilenet_v3_large": "classifier",
    "squeezenet1_0": "classifier",
    "squeezenet1_1": "classifier",
}
"""What is removed of a network where that is more than its last linear layer."""
ARGUMENTS: dict[str, dict[str, int]] = {
    # As their weights need them: other input statistics, auxiliary classifiers, or another size.
    "googlenet": {"transform_input": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
    "vit_h_14": {"image_size": 518},
}
DEFAULT_LICENCE = "BSD-3-Clause"


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """The names of torchvision's classification networks."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


@functools.cache
def torchvision_backbone(name: str) -> Backbone:
    """The network of that name; size, mean, deviation and interpolation are those of its default weights."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    inputs = weights.transforms()
    size = int(inputs.crop_size[0])
    head = HEADS.get(name) or _last_linear(_with_head(name))
    network = _without_head(name, head).eval()
    return Backbone(
        name,
        size,
        _dimension(network, size),
        functools.partial(_without_head, name, head),
        functools.partial(_loaded, name, head),
        any_size=_takes_any_size(network),
        mean=tuple(inputs.mean),
        deviation=tuple(inputs.std),
        interpolation=interpolation_named(inputs.interpolation.value, name),
        licence=_licence(weights.meta.get("license", "")),
    )


def described(name: str) -> tuple[str, int]:
    """The licence of the network's weights and the side of its images in pixels, without building it."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    return _licence(weights.meta.get("license", "")), int(weights.transforms().crop_size[0])


def weights_address(name: str) -> str:
    """Where torchvision publishes the network's default weights."""
    url: str = torchvision.models.get_model_weights(name).DEFAULT.url
    return url


def _licence(page: str) -> str:
    """SWAG's weights are the only ones with a licence of their own."""
    return f"CC-BY-NC-4.0 ({page})" if page else DEFAULT_LICENCE


def _with_head(name: str) -> nn.Module:
    """On torch's meta device; those that compute their shape by torch are built on the CPU."""
    given, get_model = ARGUMENTS.get(name, {}), torchvision.models.get_model
    try:
        with torch.device("meta"):
            network: nn.Module = get_model(name, weights=None, **given)
    except NotImplementedError:
        with torch.random.fork_rng(devices=[]):
            network = get_model(name, weights=None, **given)
    return network


def _last_linear(network: nn.Module) -> str:
    names: list[str] = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    return names[-1]


def _without_head(name: str, head: str) -> nn.Module:
    network = _with_head(name)
    owner, _, attribute = head.rpartition(".")
    pool = name.startswith("squeezenet")
    setattr(network.get_submodule(owner), attribute, nn.AdaptiveAvgPool2d(1) if pool else nn.Identity())
    return network


def _loaded(name: str, head: str, state: State) -> nn.Module:
    kept = {key: value for key, value in state.items() if not key.startswith(f"{head}.")}
    return load_exactly(_without_head(name, head), kept)


@torch.inference_mode()
def _dimension(network: nn.Module, size: int) -> int:
    device = next(network.parameters()).device
    return int(network(torch.zeros(1, 3, size, size, device=device)).shape[1])


@torch.inference_mode()
def _takes_any_size(network: nn.Module) -> bool:
    device = next(network.parameters()).device
    try:
        network(torch.zeros(1, 3, 96, 96, device=device))
    except (RuntimeError, AssertionError):
        return False
    return True
