"""What computes a frozen network's features: torch, or OpenVINO where it is installed and agrees."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from coreset_backend.arrays import PixelRows
from coreset_backend.errors import ConfigError
from coreset_backend.model import openvino_runtime
from coreset_backend.model.classifier import (
    Classifier,
    Runtime,
    computes_in_bfloat16,
    images_from,
)
from coreset_backend.model.onnx_networks import OnnxNetwork
from coreset_backend.model.saving import features_name, load_classifier

AGREES, EACH_AGREES = 0.99, 0.9
"""The mean cosine to torch's float32 features, and the least of an image, that are taken for the same.

In bfloat16 torch's own have a mean of 0.998 and a least of 0.988 (Lite0, 96 images of CIFAR-10, 128 pixels).
"""
COMPARED = 16
"""Images of the pool that both compute."""
log = logging.getLogger(__name__)


def runtime_for(frozen: Classifier, pixels: PixelRows, cache: Path | None) -> Runtime | None:
    """OpenVINO, compiled for the network, if it computes these images like torch; None: torch computes.

    ``frozen`` is a classifier of torch's. On a GPU, and for small networks that are trained on the pool,
    torch always computes. ``cache``: a folder for the converted network. One line of the log says which.
    """
    name = frozen.backbone.name
    if frozen.device.type != "cpu" or not frozen.backbone.published or not len(pixels):
        return None
    if not openvino_runtime.is_installed():
        log.info("torch computes %s; OpenVINO (the extra `fast`) takes less than half the time", name)
        return None
    instead = "OpenVINO in float32" if isinstance(frozen.network, OnnxNetwork) else "torch"
    digest = features_name(frozen)
    rows = np.sort(np.random.default_rng(frozen.seed).permutation(len(pixels))[:COMPARED])
    try:
        runtime = _compiled(frozen, digest, cache)
        cosines = cosines_to_torch(frozen, runtime, pixels[rows])
    except Exception as error:  # noqa: BLE001 - whatever ails OpenVINO, torch computes the same
        log.warning("%s computes %s, since OpenVINO cannot: %s", instead, name, str(error).strip()[:500])
        return None
    told = f"mean cosine to float32 on {len(rows)} images {cosines.mean():.4f}, least {cosines.min():.4f}"
    if not (cosines.mean() >= AGREES and cosines.min() >= EACH_AGREES):
        log.warning("%s computes %s, since OpenVINO differs: %s", instead, name, told)
        openvino_runtime.forget_network(digest, cache)
        return None
    log.info("%s computes %s; %s", runtime.name, name, told)
    return runtime


def load_frozen(path: Path, network: str, arithmetic: str, device: str, cache: Path | None) -> Classifier:
    """The frozen network in that file, computed as it was where it was saved.

    ``network`` and ``arithmetic`` are its name and its arithmetic there. Raises ConfigError if this machine
    computes otherwise, CorruptRound.
    """
    frozen = load_classifier(path, device)
    if arithmetic.startswith("OpenVINO") and openvino_runtime.is_installed():
        frozen = replace(frozen, runtime=_compiled(frozen, features_name(frozen), cache))
    if features_name(frozen) != network:
        raise ConfigError(
            f"it computes in {frozen.arithmetic} on {frozen.device.type}, but this round's embeddings are "
            f"computed in {arithmetic} on {device}. They would differ: give all machines of the cluster, and "
            "that of the worker, the same kind of processor and the same image"
        )
    return frozen


def _compiled(frozen: Classifier, digest: str, cache: Path | None) -> openvino_runtime.OpenVino:
    network, half = frozen.network, computes_in_bfloat16(frozen.device)
    if isinstance(network, OnnxNetwork):
        return openvino_runtime.compile_for_pixels(network.model().network, frozen.backbone, half=half)
    return openvino_runtime.compile_network(network, frozen.backbone, frozen.size, digest, cache, half=half)


@torch.inference_mode()
def cosines_to_torch(frozen: Classifier, runtime: Runtime, pixels: NDArray[np.uint8]) -> Tensor:
    """float32[k]: the cosine of each image's features by ``runtime`` to those by torch in float32."""
    exact = frozen.network(images_from(pixels, frozen.backbone, frozen.device))
    return F.cosine_similarity(exact, torch.from_numpy(runtime(pixels)))
