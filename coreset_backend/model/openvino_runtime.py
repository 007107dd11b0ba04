"""The only door to OpenVINO, the extra `fast`: a frozen network's features in less than half torch's time.

Nothing is compiled when this is imported: a worker may fork after it.
"""

import secrets
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from coreset_backend.arrays import Floats
from coreset_backend.model.backbone import Backbone

# OpenVINO reports each import and conversion to its maker where this package is installed with it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino as openvino
    from openvino.preprocess import PrePostProcessor
except (ImportError, OSError):  # not installed, or not for this system
    openvino = None

KEPT = 4
"""Converted networks that are kept on disk, the most recently used."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenVino:
    """A compiled network, images to float32[k, dimension]; ``name``: what computes it.

    ``batch``: the only number of images that it takes at a time; 0: any.
    """

    name: str
    network: "openvino.CompiledModel"
    batch: int = 0

    def __call__(self, images: NDArray[np.uint8] | Floats) -> Floats:
        if not self.batch:
            features: Floats = self.network(images)[0]
            return features
        parts = [
            self._padded(images[start : start + self.batch]) for start in range(0, len(images), self.batch)
        ]
        return np.concatenate(parts)

    def _padded(self, images: NDArray[np.uint8] | Floats) -> Floats:
        """The features of at most ``batch`` images, which the network takes by exactly so many."""
        missing = self.batch - len(images)
        padded = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        features: Floats = self.network(padded)[0]
        return features[: len(images)]


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return openvino is not None


def compile_network(
    network: nn.Module, backbone: Backbone, size: int, digest: str, cache: Path | None, *, half: bool
) -> OpenVino:
    """The frozen ``network`` for images of ``size`` pixels, on as many threads as torch has.

    ``half``: in bfloat16. It is converted once and then read from the folder ``cache``, which is made;
    ``digest`` names weights and size. Whatever OpenVINO raises is raised.
    """
    kept = _kept(digest, cache) if cache else None
    model = _read(kept) if kept else None
    if model is None:
        model = _converted(network, size)
        if kept:
            _keep(model, kept)
    return compile_for_pixels(model, backbone, half=half)


def compile_for_pixels(model: "openvino.Model", backbone: Backbone, *, half: bool) -> OpenVino:
    """A model of float32[k, 3, size, size], compiled for uint8[k, size, size, 3]: it normalises by itself."""
    return compile_model(_with_pixels(model, backbone), half=half)


def forget_network(digest: str, cache: Path | None) -> None:
    """Delete the converted network, so that it is converted again next time."""
    if cache:
        shutil.rmtree(_kept(digest, cache), ignore_errors=True)


def _version() -> str:
    return str(openvino.get_version()).partition("-")[0]


def _kept(digest: str, cache: Path) -> Path:
    return cache / f"{digest[:32]}-{_version()}"


def compile_model(model: "openvino.Model", *, half: bool) -> OpenVino:
    """An OpenVINO model of one input compiled for this CPU, on as many threads as torch has."""
    wanted = {
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # other processes have a right to the cores too
    }
    compiled = openvino.Core().compile_model(model, "CPU", wanted)
    taken = model.inputs[0].partial_shape[0]
    batch = 0 if taken.is_dynamic else int(taken.get_length())
    return OpenVino(f"OpenVINO {_version()} {'bfloat16' if half else 'float32'}", compiled, batch)


def _converted(network: nn.Module, size: int) -> "openvino.Model":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, for every branch that the shape of an image decides
        model = openvino.convert_model(network, example_input=torch.zeros(2, 3, size, size))
    model.reshape([-1, 3, size, size])
    return model


def _with_pixels(model: "openvino.Model", backbone: Backbone) -> "openvino.Model":
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    normalise = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    normalise.mean([255 * value for value in backbone.mean])
    normalise.scale([255 * value for value in backbone.deviation])
    return steps.build()


def _read(kept: Path) -> "openvino.Model | None":
    """The converted network kept in that folder; None where there is none, or a damaged one."""
    try:
        model = openvino.Core().read_model(kept / "network.xml")
        kept.touch()
    except (RuntimeError, OSError):
        return None
    return model


def _keep(model: "openvino.Model", kept: Path) -> None:
    """Write the converted network, whole or not at all; the least recently used of the others goes."""
    partial = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        openvino.save_model(model, partial / "network.xml", compress_to_fp16=False)
        shutil.rmtree(kept, ignore_errors=True)
        partial.rename(kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    folders = sorted(kept.parent.iterdir(), key=lambda folder: folder.stat().st_mtime)
    for folder in folders[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
