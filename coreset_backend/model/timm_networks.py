"""timm's networks as backbones: from a name that timm knows, or from a folder with a config.json of timm.

Size, mean, deviation, interpolation and licence come from the network's ``pretrained_cfg``.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn
from typing_extensions import TypedDict

from coreset_backend.errors import ConfigError
from coreset_backend.model.backbone import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    Backbone,
    Mismatch,
    State,
    Triple,
    in_single_precision,
    interpolation_named,
)

DYNAMIC = {"dynamic_img_size": True, "dynamic_img_pad": True}
"""Arguments by which a vision transformer takes images of any size."""
NOT_ITS_WEIGHTS = (RuntimeError, KeyError, AttributeError, ValueError, TypeError, AssertionError)
"""What timm raises for the weights of another network."""


class Described(TypedDict, total=False):
    """The fields that we read of a ``pretrained_cfg``; the others go to timm as they are."""

    input_size: tuple[int, int, int]
    fixed_input_size: bool
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classifier: str | list[str] | None
    license: str
    hf_hub_id: str
    url: str


class Configuration(TypedDict):
    """What timm writes into ``config.json``."""

    architecture: str
    model_args: dict[str, object]
    pretrained_cfg: Described


@functools.cache
def timm_names() -> tuple[str, ...]:
    """The names of timm's networks for which weights are published, each with its tag."""
    return tuple(timm.list_models(pretrained=True))


def is_timm_name(name: str) -> bool:
    """Whether timm publishes weights by that name, with or without their tag."""
    architecture, _, tag = name.partition(".")
    return bool(timm.is_model(architecture) and timm.is_model_pretrained(name if tag else architecture))


def timm_backbone(name: str, known_as: str = "") -> Backbone:
    """The network that timm calls ``name``, with or without the tag of its weights."""
    architecture = name.partition(".")[0]
    given = {"architecture": architecture, "model_args": {}, "pretrained_cfg": _published(name)}
    return configured_backbone(known_as or name, json.dumps(given))


def described(name: str) -> tuple[str, int]:
    """The licence of timm's ``name`` and the side of its images in pixels, without building it."""
    fields = _published(name)
    return fields.get("license") or "", fields.get("input_size", (3, 224, 224))[2]


def hub_repository(name: str) -> str:
    """The hub's repository with the weights of timm's ``name``; empty for the few that are not on the hub."""
    return str(_published(name).get("hf_hub_id") or "")


def weights_address(name: str) -> str:
    """Where the weights of timm's ``name`` were published first; may be empty."""
    return str(_published(name).get("url") or "")


def _published(name: str) -> Described:
    found = get_pretrained_cfg(name)
    assert found is not None  # `is_timm_name` has said so
    described: Described = found.to_dict()  # type: ignore[no-untyped-call]
    return described


def folder_backbone(name: str, folder: Path, licence: str = "") -> Backbone:
    """The network that ``config.json`` in the folder describes, as timm writes it.

    ``licence``: where the configuration names none. Raises ConfigError.
    """
    path = folder / "config.json"
    try:
        given = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{name} has no config.json. Expected was what timm writes: config.json and a weights file."
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({str(error)[:100]}).") from error
    if not isinstance(given, dict) or not timm.is_model(str(given.get("architecture", ""))):
        came = given.get("architecture", "none") if isinstance(given, dict) else "none"
        raise ConfigError(
            f"The config.json of {name} must name an architecture of timm; it names {came!r}. "
            "Only models made for timm are read, since no code of others is run."
        )
    if "pretrained_cfg" not in given:  # as timm wrote it before 2023: all in one
        given = {"architecture": given["architecture"], "pretrained_cfg": given}
    described = {key: value for key, value in given["pretrained_cfg"].items() if value is not None}
    taken: Configuration = {
        "architecture": given["architecture"],
        "model_args": given.get("model_args") or {},
        "pretrained_cfg": {"license": licence, **described},  # type: ignore[typeddict-item]
    }
    return configured_backbone(name, json.dumps(taken))


@functools.cache
def configured_backbone(name: str, configuration: str) -> Backbone:
    """The network of a ``Backbone.configuration``; raises ConfigError where timm cannot build it."""
    given: Configuration = json.loads(configuration)
    described = given["pretrained_cfg"]
    channels, height, width = described.get("input_size", (3, 224, 224))
    if channels != 3:
        raise ConfigError(f"{name} takes images of {channels} channels; expected were 3 (red, green, blue).")
    if height != width:
        raise ConfigError(f"{name} takes images of {width} x {height} pixels; expected was a square.")
    with_sizes: Configuration = {**given, "model_args": {**given["model_args"], **_size_arguments(given)}}
    network = _built(with_sizes, meta=True).eval()
    made = json.dumps(with_sizes)
    return Backbone(
        name,
        int(height),
        _dimension(name, network, made, int(height)),
        functools.partial(_network, made),
        functools.partial(_loaded, made),
        any_size=_takes_any_size(network),
        mean=_triple(described.get("mean", IMAGENET_MEAN)),
        deviation=_triple(described.get("std", IMAGENET_DEVIATION)),
        interpolation=interpolation_named(described.get("interpolation") or "bicubic", name),
        licence=str(described.get("license") or ""),
        configuration=configuration,
    )


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = values
    return red, green, blue


def _size_arguments(given: Configuration) -> dict[str, bool]:
    """What lets a network of one size take others, where its class knows how."""
    if not given["pretrained_cfg"].get("fixed_input_size"):
        return {}
    try:
        _built({**given, "model_args": {**given["model_args"], **DYNAMIC}}, meta=True)
    except TypeError:
        return {}
    return DYNAMIC


def _built(given: Configuration, *, meta: bool = False, **more: object) -> nn.Module:
    """The network without its classifier. Random weights come from a generator of their own."""
    described = _without_source(given["pretrained_cfg"])
    create: Callable[..., nn.Module] = timm.create_model
    device = torch.device("meta") if meta else contextlib.nullcontext()
    with device, torch.random.fork_rng(devices=[]):
        return create(
            given["architecture"], pretrained_cfg=described, num_classes=0, **given["model_args"], **more
        )


def _without_source(described: Described) -> dict[str, object]:
    """Without the addresses by which timm would download the weights."""
    return {
        name: value
        for name, value in described.items()
        if name not in ("url", "file", "source", "hf_hub_id", "hf_hub_filename")
    }


def _network(configuration: str) -> nn.Module:
    return _built(json.loads(configuration))


def _loaded(configuration: str, state: State) -> nn.Module:
    """timm renames and reshapes the tensors, and refuses those that do not fit."""
    given: Configuration = json.loads(configuration)
    described = given["pretrained_cfg"]
    named = described.get("classifier") or ()
    heads = (named,) if isinstance(named, str) else tuple(named)
    kept = {
        name: value
        for name, value in in_single_precision(state).items()
        if not name.startswith(tuple(f"{head}." for head in heads))
    }
    overlay = {"state_dict": kept, "num_classes": 0}
    try:
        network = _built(given, pretrained=True, pretrained_cfg_overlay=overlay)
    except NOT_ITS_WEIGHTS as error:
        if not _is_only_surplus(error):
            raise Mismatch(" ".join(str(error).split())[:300]) from error
        network = _built(given, pretrained=True, pretrained_cfg_overlay=overlay, pretrained_strict=False)
    network.pretrained_cfg = network.default_cfg = {}  # type: ignore[assignment]
    return network


def _is_only_surplus(error: Exception) -> bool:
    """Whether every tensor of the network came, and others beside: those of a head with several layers."""
    told = str(error)
    return "Unexpected key" in told and "Missing key" not in told and "size mismatch" not in told


@torch.inference_mode()
def _takes_any_size(network: nn.Module) -> bool:
    try:
        for size in (96, 224):
            network(torch.zeros(1, 3, size, size, device="meta"))
    except (RuntimeError, AssertionError, ValueError):
        return False
    return True


@torch.inference_mode()
def _dimension(name: str, network: nn.Module, configuration: str, size: int) -> int:
    try:
        found = network(torch.zeros(1, 3, size, size, device="meta"))
    except (RuntimeError, NotImplementedError):  # an operation that is not made for the meta device
        found = _network(configuration).eval()(torch.zeros(1, 3, size, size))
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        raise ConfigError(f"{name} gives no embedding: it is not a network that classifies images.")
    return int(found.shape[1])
