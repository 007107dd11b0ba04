"""A network with or without a head: embedding and predicting, image after image."""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coreset_backend.arrays import Floats, PixelRows, Progress, Rows
from coreset_backend.errors import ConfigError, NotFinite, OutOfMemory, memory_ran_out
from coreset_backend.model.backbone import Backbone
from coreset_backend.model.preparation import COMPONENTS, Preparation

EMBED_BATCH = 128
EMBED_PIXELS = 402_000
"""In a batch on the CPU: 8 images of 224 pixels, half as fast again as 16, which leave the cache."""
log = logging.getLogger(__name__)


class Runtime(Protocol):
    """What computes a network's features in torch's place; ``name`` says what it is and its arithmetic."""

    @property
    def name(self) -> str: ...
    def __call__(self, pixels: NDArray[np.uint8], /) -> Floats:
        """float32[k, dimension] of uint8[k, size, size, 3], before any preparation."""


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A network in evaluation mode; ``head`` is None as long as there was nothing to learn from.

    ``size`` is the side in pixels of the images it was fitted on and takes. ``mirror``: the features
    are the mean over the image and its mirror image. ``preparation`` makes embeddings of them; without one
    they are the embeddings. ``temperature`` divides the head's logits, so that it is as sure as it is right.
    ``runtime`` computes the features; None: torch does. ``exact``: in float32 even where the device has
    bfloat16.
    """

    backbone: Backbone
    network: nn.Module
    head: nn.Linear | None
    size: int
    multiple: bool
    seed: int
    device: torch.device
    mirror: bool
    description: str
    preparation: Preparation | None = None
    temperature: float = 1.0
    runtime: Runtime | None = None
    exact: bool = False

    @property
    def classes(self) -> int:
        """How many classes it tells apart; 0 without a head."""
        return self.head.out_features if self.head else 0

    @property
    def dimension(self) -> int:
        """The length of an embedding."""
        return COMPONENTS if self.preparation else self.backbone.dimension

    @property
    def arithmetic(self) -> str:
        """What computes the features, and how precisely: others give other last digits."""
        if self.runtime:
            return self.runtime.name
        half = computes_in_bfloat16(self.device) and not self.exact
        return f"torch {'bfloat16' if half else 'float32'}"


def device_named(name: str) -> torch.device:
    """'auto' is a GPU if torch can use one, else the CPU; ConfigError for a device torch does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"torch cannot use the device {name!r}: {error}. Known are auto, cpu, cuda."
        ) from error
    return device


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 of its own: same accuracy, up to twice as fast."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def arithmetic_of(device: str) -> str:
    """How torch computes on this machine's device of that name, in words."""
    place = device_named(device)
    return f"{'bfloat16' if computes_in_bfloat16(place) else 'float32'} on {place.type}"


def half_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 where the device computes with it, else nothing."""
    able = computes_in_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16) if able else contextlib.nullcontext()


def images_from(pixels: NDArray[np.uint8] | Tensor, backbone: Backbone, device: torch.device) -> Tensor:
    """uint8[k, size, size, 3] as the backbone's input: float32[k, 3, size, size], channels last."""
    count, height, width, _ = pixels.shape
    # A row of pixels at a time and in place: nine times as fast as a plane of a colour at a time.
    rows = torch.as_tensor(pixels).to(device).reshape(count * height, width * 3).float()
    mean = torch.tensor(backbone.mean, device=device) * 255
    deviation = torch.tensor(backbone.deviation, device=device) * 255
    rows.sub_(mean.repeat(width)).div_(deviation.repeat(width))
    return rows.view(count, height, width, 3).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class Sample:
    """Random images of a pool, at most ``count``, as the backbone's inputs on the device, block by block.

    float32[k, 3, size, size], k <= EMBED_BATCH: however many and large they are, the memory stays small.
    """

    pixels: PixelRows
    backbone: Backbone
    count: int
    seed: int
    device: torch.device

    def __len__(self) -> int:
        return min(self.count, len(self.pixels))

    def __iter__(self) -> Iterator[Tensor]:
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(self.pixels))[: self.count])
        for start in range(0, len(rows), EMBED_BATCH):
            yield images_from(self.pixels[rows[start : start + EMBED_BATCH]], self.backbone, self.device)


def size_of(pixels: PixelRows, backbone: Backbone) -> int:
    """The side of the images in pixels; ConfigError if the backbone cannot take it."""
    shape = tuple(pixels.shape)
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(f"expected pixels of shape (n, size, size, 3), not {shape}")
    if shape[1] < 16 or (not backbone.any_size and shape[1] != backbone.size):
        wanted = "at least 16" if backbone.any_size else f"exactly {backbone.size}"
        raise ConfigError(f"{backbone.name} takes images of {wanted} pixels, not of {shape[1]}.")
    return int(shape[1])


def halved(batch: int, error: RuntimeError | MemoryError) -> int:
    """Half the batch if ``error`` says that memory ran out (OutOfMemory at 1); any other is raised again."""
    if not memory_ran_out(error):
        raise error
    if batch == 1:
        raise OutOfMemory(
            "Not even one image fits into memory. Choose a smaller backbone or image size."
        ) from error
    log.warning("out of memory with %d images at a time: going on with %d", batch, batch // 2)
    return batch // 2


def embed(
    classifier: Classifier, pixels: PixelRows, *, batch: int | None = None, progress: Progress | None = None
) -> Floats:
    """float32[n, dimension]: what the head and the selection read. Raises NotFinite, OutOfMemory."""
    return embed_and_predict(classifier, pixels, progress, batch=batch)[0]


def predict(
    classifier: Classifier, pixels: PixelRows, *, batch: int | None = None, progress: Progress | None = None
) -> Floats | None:
    """float32[n, classes]: probabilities (adding up to 1, or one by one if multiple); None without a head."""
    return embed_and_predict(classifier, pixels, progress, batch=batch)[1]


def embed_and_predict(
    classifier: Classifier,
    pixels: PixelRows,
    progress: Progress | None = None,
    *,
    batch: int | None = None,
) -> tuple[Floats, Floats | None]:
    """Embeddings float32[n, dimension] and probabilities float32[n, classes], reading the pixels once.

    The probabilities are None if the classifier has no head. ``batch``: images at a time; None: as many as
    the device likes. Raises NotFinite, OutOfMemory.
    """
    if (size := size_of(pixels, classifier.backbone)) != classifier.size:
        raise ValueError(f"the classifier takes images of {classifier.size} pixels, not of {size}")
    embeddings = np.empty((len(pixels), classifier.dimension), np.float32)
    probabilities = np.empty((len(pixels), classifier.classes), np.float32)
    batch = batch or batch_for(size, classifier.device)
    for rows, features, chances in _forward(classifier, pixels, batch):
        embeddings[rows], probabilities[rows] = features, chances
        if not np.isfinite(features).all():
            raise NotFinite(_not_finite_advice(classifier, rows, features))
        if progress:
            progress(int(rows[-1]) + 1, len(pixels))
    return embeddings, probabilities if classifier.head else None


def _not_finite_advice(classifier: Classifier, rows: Rows, features: Floats) -> str:
    row = int(rows[~np.isfinite(features).all(1)][0])
    return (
        f"{classifier.backbone.name} gave an embedding that is not finite for row {row}. "
        "Train again, or check the weights file."
    )


def batch_for(size: int, device: torch.device) -> int:
    """How many images of ``size`` pixels are embedded at a time."""
    return EMBED_BATCH if device.type == "cuda" else min(EMBED_BATCH, max(EMBED_PIXELS // size**2, 1))


def _forward(classifier: Classifier, pixels: PixelRows, batch: int) -> Iterator[tuple[Rows, Floats, Floats]]:
    at_once = batch
    for rows, block in _read_ahead(pixels, batch):
        done = 0
        while done < len(rows):
            part = slice(done, done + at_once)
            try:
                features, chances = _forward_rows(classifier, block[part])
            except (RuntimeError, MemoryError) as error:
                at_once = halved(at_once, error)
                continue
            yield rows[part], features, chances
            done += at_once


def _read_ahead(pixels: PixelRows, batch: int) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
    """The pixels, block by block with their rows; the next is read while the caller works on one."""
    blocks = [
        np.arange(start, min(start + batch, len(pixels)), dtype=np.int64)
        for start in range(0, len(pixels), batch)
    ]
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        ahead = reader.submit(pixels.__getitem__, blocks[0]) if blocks else None
        for place, rows in enumerate(blocks):
            assert ahead
            block = ahead.result()
            if place + 1 < len(blocks):
                ahead = reader.submit(pixels.__getitem__, blocks[place + 1])
            yield rows, block


@torch.inference_mode()
def _forward_rows(classifier: Classifier, pixels: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    if classifier.runtime:
        features = _prepared(classifier, torch.from_numpy(classifier.runtime(pixels)))
    else:
        features = features_of(classifier, images_from(pixels, classifier.backbone, classifier.device))
    if classifier.head is None:
        return features.cpu().numpy(), np.empty((len(features), 0), np.float32)
    return features.cpu().numpy(), _chances(classifier, classifier.head, features, classifier.temperature)


def _chances(classifier: Classifier, head: nn.Linear, features: Tensor, temperature: float) -> Floats:
    logits = head(features) / temperature
    chances: Floats = (logits.sigmoid() if classifier.multiple else logits.softmax(1)).cpu().numpy()
    return chances


@torch.inference_mode()
def probabilities_of(classifier: Classifier, embeddings: Floats, *, calibrated: bool = True) -> Floats | None:
    """float32[n, classes] as `predict` gives them, of float32[n, dimension] embeddings; None without head.

    Not ``calibrated``: without the temperature. These are less sure, and herding by them gains one point.
    """
    if classifier.head is None:
        return None
    temperature = classifier.temperature if calibrated else 1.0
    found = np.empty((len(embeddings), classifier.classes), np.float32)
    for start in range(0, len(embeddings), 8192):
        features = torch.from_numpy(embeddings[start : start + 8192]).to(classifier.device)
        found[start : start + 8192] = _chances(classifier, classifier.head, features, temperature)
    return found


def features_of(classifier: Classifier, images: Tensor) -> Tensor:
    """float32[k, dimension] of float32[k, 3, size, size], computed by torch."""
    with contextlib.nullcontext() if classifier.exact else half_precision(classifier.device):
        features: Tensor = classifier.network(images).float()
        if classifier.mirror:
            features = (features + classifier.network(images.flip(3)).float()) / 2
    return _prepared(classifier, features)


def _prepared(classifier: Classifier, features: Tensor) -> Tensor:
    return features if classifier.preparation is None else classifier.preparation(features)
