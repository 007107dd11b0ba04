"""Files of weights: read without running any code, checked by their hashes, described in words."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from coreset_backend.errors import ConfigError
from coreset_backend.model.backbone import Backbone, ChosenBackbone, Mismatch
from coreset_backend.model.licences import in_words

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
ONNX = ".onnx"
NESTED = ("state_dict", "model")
"""Where checkpoints of trainings keep the weights, beside their optimizer."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or .pth file by name; ConfigError if it is neither."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix.lower() == ONNX:  # the file as it is: OpenVINO reads it
            return {"content": torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no weights file {path}.") from error
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigError(
            f"The weights file {path} cannot be read ({str(error)[:200]}). Expected was a .safetensors file "
            "or a .pth file with a state dict, such as torchvision publishes."
        ) from error
    for name in NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"The weights file {path} holds no state dict (names with tensors).")
    return {name.removeprefix("module."): value for name, value in state.items()}


def loaded(backbone: Backbone, weights: Path) -> nn.Module:
    """The network with the weights of that file; raises ConfigError where they are not for it."""
    try:
        return backbone.load(read_weights(weights))
    except Mismatch as error:
        raise ConfigError(f"{weights} does not hold the weights of {backbone.name}: {error}.") from error


def pretrained_network(chosen: ChosenBackbone) -> nn.Module:
    """The network of the chosen backbone with its weights, frozen, in evaluation mode, on the CPU."""
    assert chosen.weights is not None
    return loaded(chosen.backbone, chosen.weights).eval().requires_grad_(False)


def with_weights(backbone: Backbone, weights: Path, why: str) -> ChosenBackbone:
    """The backbone with that file, whose hash is checked where its name holds one; raises ConfigError."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (named := named_hash(weights)) and not digest.startswith(named):
        raise ConfigError(
            f"The weights file {weights} is damaged or was altered: its SHA-256 begins with {digest[:8]} and "
            f"not with {named[:8]}, as its name says. Fetch it again."
        )
    description = f"{backbone.name} with pretrained weights from {weights.name} (sha256 {digest[:16]}){why}"
    return ChosenBackbone(backbone, weights, f"{description}, {in_words(backbone.licence)}")


def named_hash(path: Path) -> str:
    """The beginning of the file's SHA-256 as its name says it; empty where it says none.

    torchvision's files end in it, as resnet18-f37072fd.pth; the hub's cache calls a file by the whole.
    """
    ending = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    if ending:
        return ending[1]
    blob = path.resolve().name
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else ""
