"""A file of ONNX as a backbone: the model itself says what images it takes; OpenVINO computes it.

Its input may be NCHW or NHWC, float or uint8, of one size or any, of any batch or a fixed one. Its output may
be vectors, maps or tokens; maps and tokens are averaged. The saved classifier holds the file.
"""

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from coreset_backend.arrays import Floats, Interpolation
from coreset_backend.errors import ConfigError
from coreset_backend.model import openvino_runtime
from coreset_backend.model.backbone import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    Backbone,
    State,
    Triple,
    interpolation_named,
)
from coreset_backend.model.onnx_files import CannotRead, OnnxModel, in_short, read_onnx

DEFAULT_SIZE = 224
PREPROCESSOR = "preprocessor_config.json"
"""What the hub's exports describe their input in: beside the file or in the folder above."""
RESAMPLE: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's numbers of them."""
PIXELS_AS_THEY_ARE: tuple[Triple, Triple] = (0.0, 0.0, 0.0), (1 / 255,) * 3
log = logging.getLogger(__name__)


class Described(TypedDict):
    """What a saved classifier keeps of the backbone, besides the file itself."""

    bytes: int
    size: int
    dimension: int
    any_size: bool
    mean: Triple
    deviation: Triple
    interpolation: Interpolation


class OnnxNetwork(nn.Module):
    """float32[k, 3, size, size] to float32[k, dimension], computed by OpenVINO in float32 on the CPU.

    ``content`` is the file, uint8[bytes]. It cannot be trained.
    """

    content: Tensor

    def __init__(self, content: Tensor) -> None:
        super().__init__()
        self.register_buffer("content", content)
        self._compiled: openvino_runtime.OpenVino | None = None
        self._lock = threading.Lock()

    def model(self) -> OnnxModel:
        """What the file holds; raises CannotRead."""
        return read_onnx(self.content.cpu().numpy().tobytes())

    def forward(self, images: Tensor) -> Tensor:
        with self._lock:
            if self._compiled is None:
                self._compiled = openvino_runtime.compile_model(self.model().network, half=False)
        features = self._compiled(np.ascontiguousarray(images.detach().float().cpu().numpy()))
        return torch.from_numpy(features).to(images.device)


def read_onnx_backbone(path: Path) -> Backbone:
    """The backbone in the file, which is tried on one image; raises ConfigError."""
    if not openvino_runtime.is_installed():
        raise ConfigError(f"{path.name} is read by OpenVINO. Run: pip install 'coreset-backend[fast]'")
    try:
        content = path.read_bytes()
        found = read_onnx(content)
        told = _told(path, found.metadata)
        size = found.size or told.size or DEFAULT_SIZE
        mean, deviation = _normalisation(path.name, found, told)
        dimension = _dimension(found, size)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error
    except CannotRead as error:
        raise ConfigError(f"{path.name} cannot be used as a backbone: {error}") from error
    described = Described(
        bytes=len(content),
        size=size,
        dimension=dimension,
        any_size=found.size is None,
        mean=mean,
        deviation=deviation,
        interpolation=told.interpolation,
    )
    log.info("%s takes images of %d pixels a side, resized as %s", path.name, size, told.interpolation)
    return _backbone(path.name, described)


def saved_onnx_backbone(name: str, configuration: str) -> Backbone:
    """The backbone of a saved classifier."""
    described: Described = json.loads(configuration)
    return _backbone(name, described)


def _backbone(name: str, described: Described) -> Backbone:
    def load(state: State) -> nn.Module:
        return OnnxNetwork(state["content"])

    return Backbone(
        name,
        described["size"],
        described["dimension"],
        lambda: OnnxNetwork(torch.empty(described["bytes"], dtype=torch.uint8, device="meta")),
        load,
        any_size=described["any_size"],
        trainable=False,
        mean=_triple(described["mean"]),
        deviation=_triple(described["deviation"]),
        interpolation=described.get("interpolation", "bilinear"),
        configuration=json.dumps(described),
    )


def _dimension(found: OnnxModel, size: int) -> int:
    """The length of an embedding, seen on two images."""
    try:
        features = openvino_runtime.compile_model(found.network, half=False)(_two_images(size))
    except RuntimeError as error:
        raise CannotRead(f"an image of {size} pixels gave: {in_short(error)}") from error
    if features.ndim != 2 or len(features) != 2:
        raise CannotRead(f"two images gave {list(features.shape)}; expected was an embedding for each.")
    if not np.isfinite(features).all():
        raise CannotRead("its embedding of an image is not finite.")
    return int(features.shape[1])


def _two_images(size: int) -> Floats:
    return np.random.default_rng(0).random((2, 3, size, size), np.float32)


@dataclass(frozen=True, slots=True)
class _Preprocessing:
    """What the file's metadata say, or the file beside it; empty or None what they do not say."""

    mean: Sequence[float] = ()
    deviation: Sequence[float] = ()
    size: int | None = None
    origin: str = ""
    interpolation: Interpolation = "bilinear"


def _told(path: Path, metadata: Mapping[str, str]) -> _Preprocessing:
    """What the file says, or else the one beside it; an interpolation in the metadata goes for both."""
    told = _metadata(metadata) or _beside(path) or _Preprocessing()
    if named := metadata.get("interpolation"):
        kind = interpolation_named(named.strip(), f"The metadata of {path.name}")
        return replace(told, interpolation=kind)
    return told


def _normalisation(name: str, found: OnnxModel, told: _Preprocessing) -> tuple[Triple, Triple]:
    """Mean and deviation that were told, or ImageNet's."""
    if found.takes_bytes:
        log.info("%s takes pixels from 0 to 255, as they are", name)
        return PIXELS_AS_THEY_ARE
    if not told.mean:
        log.info(
            "%s does not say how its input is normalised: ImageNet's mean and deviation are taken. Its "
            "metadata may have `mean` and `std`, or %s beside it `image_mean` and `image_std`",
            name,
            PREPROCESSOR,
        )
        return IMAGENET_MEAN, IMAGENET_DEVIATION
    mean, deviation = _triple(told.mean), _triple(told.deviation)
    if min(deviation) <= 0:
        raise CannotRead(
            f"the deviation in {told.origin} is {list(deviation)}; expected were numbers above 0."
        )
    log.info("%s: mean %s, deviation %s, from %s", name, mean, deviation, told.origin)
    return mean, deviation


def _metadata(metadata: Mapping[str, str]) -> _Preprocessing | None:
    """What the file's own ``metadata_props`` say: mean, std and size, as JSON or comma-separated."""
    mean, deviation = (_numbers(metadata.get(name, "")) for name in ("mean", "std"))
    size = next((_numbers(metadata[name])[-1:] for name in ("size", "imgsz") if name in metadata), ())
    if not (mean and deviation) and not size:
        return None
    if max((*mean, *deviation), default=0) > 2:  # of pixels from 0 to 255
        mean, deviation = ([value / 255 for value in values] for values in (mean, deviation))
    both = bool(mean and deviation)
    return _Preprocessing(
        mean if both else (), deviation if both else (), int(size[0]) if size else None, "its metadata"
    )


def _beside(path: Path) -> _Preprocessing | None:
    for folder in (path.parent, path.parent.parent):
        try:
            told = json.loads((folder / PREPROCESSOR).read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise CannotRead(f"{folder / PREPROCESSOR} cannot be read as JSON.") from error
        size = told.get("crop_size") or told.get("size") or {}
        sides = [size] if isinstance(size, int) else [size.get("height"), size.get("shortest_edge")]
        side = next((int(each) for each in sides if each), None)
        normalised = told.get("do_normalize", True)
        mean = told.get("image_mean") if normalised else [0.0]
        deviation = told.get("image_std") if normalised else [1.0]
        return _Preprocessing(mean or (), deviation or (), side, PREPROCESSOR, _resample(told))
    return None


def _resample(told: Mapping[str, object]) -> Interpolation:
    """The field ``resample``: a number of Pillow's, as the hub has it."""
    given = told.get("resample")
    if given is None:
        return "bilinear"
    if given not in range(len(RESAMPLE)):
        raise CannotRead(f"{PREPROCESSOR} has resample {given!r}; expected was a number from 0 to 5.")
    return RESAMPLE[int(str(given))]


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.strip("[]() ").split(",") if each.strip()]
    except ValueError as error:
        raise CannotRead(f"its metadata have {text[:60]!r} where numbers are expected.") from error


def _triple(values: Sequence[float]) -> Triple:
    if len(values) not in (1, 3):
        raise CannotRead(
            f"{list(values)[:6]} are {len(values)} numbers; expected was one for each of 3 colours."
        )
    first, second, third = [float(each) for each in values] * (3 // len(values))
    return first, second, third
