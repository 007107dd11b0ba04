"""What CORESET_BACKBONE may say: the kinds of names, and the nearest to a name that nobody knows."""

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from coreset_backend.errors import ConfigError
from coreset_backend.model.timm_networks import is_timm_name, timm_names
from coreset_backend.model.torchvision_networks import torchvision_names
from coreset_backend.model.weights import SUFFIXES

LITE0, SMALL_CNN, SELF_SUPERVISED = "efficientnet_lite0", "small_cnn", "self_supervised"
OURS = (LITE0, SELF_SUPERVISED, SMALL_CNN)
EXPECTED = (
    "Expected was auto, " + ", ".join(OURS) + ", a network of torchvision (resnet18) or timm "
    "(timm/vit_small_patch14_dinov2.lvd142m), hf-hub:org/name@revision, local-dir:/path, or a file "
    "(.safetensors, .pth, .onnx)."
)
NEAREST = 3


class Kind(StrEnum):
    """Where the network of a name comes from."""

    OURS = "ours"
    TORCHVISION = "torchvision"
    TIMM = "timm"
    HUB = "hf-hub"
    FOLDER = "local-dir"
    FILE = "file"
    ONNX = "onnx"


@dataclass(frozen=True, slots=True)
class Name:
    """A name taken apart. ``identifier``: the name within its kind, or a path; ``revision``: of the hub."""

    kind: Kind
    identifier: str
    revision: str = ""

    @property
    def path(self) -> Path:
        """The file or folder that is named."""
        return Path(self.identifier).expanduser().absolute()


def parsed(name: str) -> Name:
    """The name taken apart; raises ConfigError with the nearest known names where there is no such one.

    A bare name that torchvision and timm both have is torchvision's; ``timm/`` in front makes it timm's.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix.replace("_", "-") == Kind.HUB:
        return _on_hub(name, rest)
    if colon and prefix.replace("_", "-") == Kind.FOLDER:
        return Name(Kind.FOLDER, rest)
    suffix = Path(name).suffix.lower()
    if suffix in (".onnx", *SUFFIXES):
        return Name(Kind.ONNX if suffix == ".onnx" else Kind.FILE, name)
    if name in OURS:
        return Name(Kind.OURS, name)
    owner, slash, bare = name.partition("/")
    if name in torchvision_names() or (owner == Kind.TORCHVISION and bare in torchvision_names()):
        return Name(Kind.TORCHVISION, bare if slash else name)
    if is_timm_name(name) or (owner == Kind.TIMM and is_timm_name(bare)):
        return Name(Kind.TIMM, bare if slash else name)
    raise ConfigError(f"There is no backbone {name!r}.{_hint(name)} {EXPECTED}")


def _on_hub(name: str, rest: str) -> Name:
    repository, _, revision = rest.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConfigError(f"{name!r} names no repository of the hub; expected was hf-hub:org/name@revision.")
    return Name(Kind.HUB, repository, revision)


def _hint(name: str) -> str:
    owner, slash, bare = name.partition("/")
    if slash and owner not in (Kind.TIMM, Kind.TORCHVISION):
        if name.startswith(("/", "./", "../", "~")):
            return f" Is it a folder? Then write local-dir:{name}"
        return f" Is it on the hub? Then write hf-hub:{name}" + "."
    found = nearest_names(bare if slash else name)
    return f" The nearest are: {', '.join(found)}." if found else ""


def nearest_names(name: str, count: int = NEAREST) -> list[str]:
    """The known names most like ``name``, best first; without their tag where it has none."""
    known = [*OURS, *torchvision_names(), *timm_names()]
    if "." not in name:
        known = list(dict.fromkeys(each.partition(".")[0] for each in known))
    return difflib.get_close_matches(name.lower(), known, n=count, cutoff=0.6)
