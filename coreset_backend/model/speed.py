"""How many images a backbone embeds per second on this machine: measured, or estimated by its arithmetic."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from coreset_backend.model.backbone import Backbone
from coreset_backend.model.classifier import Classifier, batch_for, device_named, embed

SECONDS = 1.0
FEW = 8
"""Images at a time on a CPU, which is as fast as with more and soon over on a slow one."""


def images_per_second(backbone: Backbone, size: int | None = None, device: str = "auto") -> float:
    """Images of ``size`` pixels a side per second, by all threads of this process, within about two seconds.

    On random weights, which are as fast as any others.
    """
    place, size = device_named(device), size or backbone.size
    network = _with_random_weights(backbone).eval().requires_grad_(False)
    network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier = Classifier(backbone, network, None, size, False, 0, place, not backbone.published, "")
    batch = batch_for(size, place) if place.type == "cuda" else FEW
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    embed(classifier, pixels[: max(batch // 4, 1)])
    done, started = 0, time.monotonic()
    while time.monotonic() < started + SECONDS:
        embed(classifier, pixels)
        done += batch
    return done / (time.monotonic() - started)


def _with_random_weights(backbone: Backbone) -> nn.Module:
    network = backbone.build()
    if next(network.parameters()).is_meta:
        network.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(0)
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.01, 0.02, generator=generator)
            else:
                value.zero_()
    return network


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations for one image of ``pixels`` a side, and megabytes of weights in 32 bits."""

    flops: float
    megabytes: float
    pixels: int


def cost_of(backbone: Backbone, size: int | None = None) -> Cost:
    """What the network costs by its layers; nothing is computed."""
    size = size or backbone.size
    with torch.device("meta"):
        network = backbone.build().to("meta").eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, size, size))
    megabytes = sum(value.numel() for value in network.parameters()) * 4 / 1e6
    return Cost(float(counter.get_total_flops()), megabytes, size)
