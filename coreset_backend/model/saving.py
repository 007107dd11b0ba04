"""A classifier as one safetensors file: tensors, a JSON manifest, and a hash over both. No pickle."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from coreset_backend.errors import CorruptRound
from coreset_backend.files import replacing
from coreset_backend.model.backbones import saved_backbone
from coreset_backend.model.classifier import Classifier, device_named
from coreset_backend.model.preparation import COMPONENTS, Preparation

FORMAT = 1
UNNAMED = "bilinear"
"""The interpolation of images where the file of a classifier names none, as before there was another."""


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Write the classifier, whole or not at all: a reader never sees half a file."""
    tensors = {f"network.{name}": value for name, value in classifier.network.state_dict().items()}
    if classifier.preparation:
        tensors |= {
            f"preparation.{name}": value for name, value in classifier.preparation.state_dict().items()
        }
    if classifier.head:
        tensors |= {f"head.{name}": value for name, value in classifier.head.state_dict().items()}
    manifest = {
        "format": FORMAT,
        "backbone": classifier.backbone.name,
        "configuration": classifier.backbone.configuration,
        "classes": classifier.classes,
        "multiple": classifier.multiple,
        "size": classifier.size,
        "interpolation": classifier.backbone.interpolation,
        "seed": classifier.seed,
        "mirror": classifier.mirror,
        "description": classifier.description,
        "temperature": classifier.temperature,
        "features": features_name(classifier),
    }
    write_tensors(path, manifest, tensors)


def network_name(classifier: Classifier) -> str:
    """A digest that two classifiers share if they embed alike: of weights, image size, and what computes."""
    name = features_name(classifier)
    if classifier.preparation is None:
        return name
    return _digest(name, _on_cpu(classifier.preparation))


def features_name(classifier: Classifier) -> str:
    """The same of the features alone, before they are prepared."""
    kind: tuple[object, ...] = (
        classifier.backbone.name,
        classifier.backbone.dimension,
        classifier.size,
        classifier.mirror,
        classifier.device.type,
        classifier.arithmetic,
    )
    if classifier.backbone.interpolation != UNNAMED:  # so that names of before stay as they were
        kind += (classifier.backbone.interpolation,)
    return _digest(repr(kind), _on_cpu(classifier.network))


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu().contiguous() for name, value in module.state_dict().items()}


def write_tensors(path: Path, manifest: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name and a JSON manifest as one file, whole or not at all, with a hash over both."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(manifest)
    try:
        with replacing(path) as partial:
            save_file(tensors, partial, {"manifest": text, "sha256": _digest(text, tensors)})
    except SafetensorError as error:  # how a full disk looks from there
        raise OSError(f"{path.name}: {error}") from error


def load_classifier(path: Path, device: str = "auto", *, exact: bool = False) -> Classifier:
    """The classifier in that file, on that device; torch computes its features.

    ``exact``: in float32 even where the device has bfloat16, as an exported ONNX file computes. Raises
    CorruptRound if the file is missing, torn or altered.
    """
    manifest, tensors = read_tensors(path)
    if manifest.get("format") != FORMAT:
        raise CorruptRound(path, f"its format is {manifest.get('format')}, but {FORMAT} was expected")
    backbone = saved_backbone(manifest["backbone"], manifest.get("configuration", ""))
    if backbone is None:
        raise CorruptRound(path, f"its backbone {manifest['backbone']!r} is unknown")
    backbone = replace(backbone, interpolation=manifest.get("interpolation", UNNAMED))
    place = device_named(device)
    network, head, preparation = backbone.build(), None, None
    try:
        network.load_state_dict(_part(tensors, "network."), assign=True)
        preparation = _preparation_in(tensors, backbone.dimension)
        if manifest["classes"]:
            dimension = COMPONENTS if preparation else backbone.dimension
            head = nn.Linear(dimension, manifest["classes"], device="meta")
            head.load_state_dict(_part(tensors, "head."), assign=True)
            head.requires_grad_(False).to(place)
    except RuntimeError as error:
        raise CorruptRound(path, f"its tensors do not fit {backbone.name}: {error}") from error
    network.eval().requires_grad_(False).to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(
        backbone=backbone,
        network=network,
        head=head,
        size=manifest["size"],
        multiple=manifest["multiple"],
        seed=manifest["seed"],
        device=place,
        mirror=manifest["mirror"],
        description=manifest["description"],
        preparation=preparation.to(place) if preparation else None,
        temperature=manifest.get("temperature", 1.0),
        exact=exact,
    )


def load_preparation(path: Path, features: str) -> Preparation | None:
    """The preparation of the classifier in that file, if its features are called ``features``; else None.

    Raises CorruptRound.
    """
    manifest, tensors = read_tensors(path)
    if manifest.get("features") != features:
        return None
    return (
        _preparation_in(tensors, tensors["preparation.mean"].shape[0])
        if "preparation.mean" in tensors
        else None
    )


def _preparation_in(tensors: Mapping[str, Tensor], dimension: int) -> Preparation | None:
    found = _part(tensors, "preparation.")
    if not found:
        return None
    preparation = Preparation(dimension)
    preparation.load_state_dict(found)
    return preparation


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write_tensors` wrote; CorruptRound if the file is missing, torn or altered."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CorruptRound(path, "the file is missing") from error
    except (OSError, SafetensorError) as error:
        raise CorruptRound(path, f"it is not a whole safetensors file ({error})") from error
    # "classifier" is what the manifest was called in the first rounds.
    manifest = metadata.get("manifest") or metadata.get("classifier", "")
    if metadata.get("sha256") != _digest(manifest, tensors):
        raise CorruptRound(path, "its content does not match the hash written with it")
    fields: dict[str, Any] = json.loads(manifest)
    return fields, tensors


def _digest(manifest: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(manifest.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
