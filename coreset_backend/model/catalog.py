"""A short list of backbones that are good features for images, and those of them that 'auto' may take.

Chosen by licence, size and what others measured; the labels of a project decide between those at hand.
"""

from dataclasses import replace

from coreset_backend.model import timm_networks, torchvision_networks
from coreset_backend.model.backbone import ChosenBackbone
from coreset_backend.model.backbones import backbone_named, choose_backbone, is_at_hand
from coreset_backend.model.hub import is_offline
from coreset_backend.model.names import LITE0, Kind, parsed
from coreset_backend.model.speed import Cost, cost_of, images_per_second
from coreset_backend.model.timm_networks import timm_names
from coreset_backend.model.torchvision_networks import torchvision_names

STRONGER = "timm/vit_small_patch14_dinov2.lvd142m"
"""DINOv2 (Oquab et al. 2023), 22 M weights, Apache-2.0: what 'auto' takes where it is quick enough."""
CATALOG = (
    LITE0,
    STRONGER,
    "timm/vit_pe_core_tiny_patch16_384.fb",
    "timm/vit_pe_core_small_patch16_384.fb",
    "timm/convnext_tiny.fb_in22k",
    "timm/vit_base_patch14_dinov2.lvd142m",
    "timm/vit_base_patch16_siglip_224.v2_webli",
    "timm/vit_small_patch16_dinov3.lvd1689m",
    "resnet50",
)
"""In the order in which `coreset-backend backbones` shows them."""
AFFORDABLE_SECONDS = 180.0
"""'auto' takes the stronger network where it embeds the whole pool in this time."""
AUTO_SIZE = {STRONGER: 224}
"""Pixels a side that 'auto' takes where the network's own 518 cost seven times as much for little."""


def candidates_at_hand(named: str = "auto") -> tuple[str, ...]:
    """The names of backbones whose weights are on this machine: ``named``, and what 'auto' may take."""
    names = [LITE0, STRONGER] if named in ("auto", LITE0) else [named, LITE0, STRONGER]
    return tuple(name for name in dict.fromkeys(names) if is_at_hand(name))


def names_with(text: str) -> list[str]:
    """The names of torchvision and timm that contain the text."""
    timms = (f"timm/{name}" for name in timm_names())
    return [name for name in (*torchvision_names(), *timms) if text.lower() in name.lower()]


def looked_up(name: str) -> tuple[str, int]:
    """The licence of the backbone and the side of its images in pixels, without building it."""
    what = parsed(name)
    if what.kind is Kind.TIMM:
        return timm_networks.described(what.identifier)
    return torchvision_networks.described(what.identifier)


def why_not_stronger(*, download: bool) -> str:
    """Why the stronger network cannot be had here; empty where it can, or where a download may be tried."""
    if is_at_hand(STRONGER) or (download and not is_offline()):
        return ""
    return f"{STRONGER} is not on this machine, and downloads are forbidden"


def why_too_slow(images: int, rate: float) -> str:
    """Why the stronger network is not for so many images at ``rate`` images per second; empty where it is."""
    if images / rate <= AFFORDABLE_SECONDS:
        return ""
    took = f"{images / rate / 60:.0f} min for {images:,} images here"
    return f"{STRONGER} would take {took}, more than {AFFORDABLE_SECONDS / 60:.0f} min"


def cost_of_candidate(name: str, size: int | None = None) -> Cost:
    """Arithmetic and weights of the backbone, at the size that 'auto' takes it at where none is set."""
    return cost_of(backbone_named(name), size or AUTO_SIZE.get(name))


def speed_of_candidate(name: str, size: int | None = None, device: str = "auto") -> float:
    """Images per second of the backbone on this machine, at the size that 'auto' takes it at.

    ``size``: pixels a side, where they are set. Measured within seconds, weights or none.
    """
    return images_per_second(backbone_named(name), size or AUTO_SIZE.get(name), device)


def choose_candidate(name: str) -> ChosenBackbone:
    """The backbone called ``name`` with its weights on this machine, at the image size of 'auto'.

    Raises ConfigError.
    """
    chosen = choose_backbone(name, None, download=False)
    size = AUTO_SIZE.get(name, chosen.backbone.size)
    return replace(chosen, backbone=replace(chosen.backbone, size=size))
