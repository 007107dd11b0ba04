"""The networks of our own: a small CNN, the same read at several layers, and patch features.

All begin with a frozen whitening stem fitted on the images at hand (after K. Jordan's airbench): its
output has unit variance in every direction, which is most of what the first layer would have to learn.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 4  # pixels: the stem sees 4 x 4 patches, every second pixel
PATCH_DIM = 3 * PATCH * PATCH
CENTROIDS = 192
PATCH_FEATURE_DIM = 128
MOST_PATCHES = 100_000
PRETRAINED_WIDTHS = (96, 256)
PRETRAINED_DIM = 256


class Images(Protocol):
    """So many images as inputs float[k, 3, size, size], block by block, as often as asked for."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Tensor]: ...


class SmallCnn(nn.Module):
    """float[k, 3, size, size] to float[k, 2 * widths[1]]: global maximum and mean of the last block.

    Any size from 16 pixels on; the cost grows with the area. The stem is frozen: see `fit_stem`.
    """

    def __init__(self, widths: tuple[int, int] = (64, 128)) -> None:
        super().__init__()
        first, last = widths
        self.stem = nn.Conv2d(3, PATCH_DIM, PATCH, stride=2, bias=True)
        self.enter = _block(PATCH_DIM, first)
        self.deepen = _block(first, first)
        self.widen = _block(first, last)
        self.finish = _block(last, last)
        self.stem.requires_grad_(False)

    def blocks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The feature maps of the two blocks, float[k, widths[0], h, w] and [k, widths[1], h/2, w/2]."""
        maps = F.avg_pool2d(self.enter(self.stem(images)), 2)
        first = maps + self.deepen(maps)
        maps = F.avg_pool2d(self.widen(first), 2)
        return first, maps + self.finish(maps)

    def forward(self, images: Tensor) -> Tensor:
        _, maps = self.blocks(images)
        return torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1)


class PretrainedCnn(nn.Module):
    """float[k, 3, size, size] to float[k, 256]: a wider small CNN, read at both of its blocks.

    Each block gives the mean of every quadrant and its maximum; ``project`` standardises them and keeps
    their principal components. Reading several layers instead of the last gains 3 to 5 points of a linear
    probe with 10,000 labels: what a contrastive loss throws away at the end is still there in the middle.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SmallCnn(PRETRAINED_WIDTHS)
        self.project = nn.Linear(5 * sum(PRETRAINED_WIDTHS), PRETRAINED_DIM)

    def layers(self, images: Tensor) -> Tensor:
        """float[k, 1760]: what ``project`` reads."""
        read = []
        for maps in self.encoder.blocks(images):
            read += [F.adaptive_avg_pool2d(maps, 2).flatten(1), maps.amax((2, 3))]
        return torch.cat(read, 1)

    def forward(self, images: Tensor) -> Tensor:
        read = self.layers(images).float()
        # The components are small differences of large numbers, which half precision would lose.
        with torch.autocast(images.device.type, enabled=False):
            projected: Tensor = self.project(read)
        return projected


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class PatchFeatures(nn.Module):
    """float[k, 3, size, size] to float[k, 128]: which patches each quadrant of the image holds.

    Coates & Ng's single layer: whitened patches against k-means centroids, averaged over quadrants, and
    a half-whitened projection. Fitted without labels (`patch_features_for`), it serves until there is
    something to train on. Nearest-neighbour accuracy on 2,000 + 2,000 CIFAR-10 images: 50 %, against
    37 % for the small CNN with random weights and 33 % for the pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, PATCH_DIM, PATCH, stride=2, bias=True)
        self.centroids = nn.Conv2d(PATCH_DIM, CENTROIDS, 1, bias=True)
        self.project = nn.Linear(4 * CENTROIDS, PATCH_FEATURE_DIM)
        self.requires_grad_(False)

    def quadrants(self, images: Tensor) -> Tensor:
        """float[k, 4 * CENTROIDS]; the root tames centroids that answer everywhere (sky, wall)."""
        near = F.relu(self.centroids(self.stem(images)))
        pooled: Tensor = F.adaptive_avg_pool2d(near, 2)
        return pooled.flatten(1).sqrt()

    def forward(self, images: Tensor) -> Tensor:
        projected: Tensor = self.project(self.quadrants(images))
        return projected


def fit_stem(stem: nn.Conv2d, images: Images, generator: torch.Generator) -> Tensor:
    """Set the stem so that the patches of the images leave it white.

    Returns some of the whitened patches, float[m, PATCH_DIM].
    """
    most = max(MOST_PATCHES // len(images), 1)
    patches = torch.cat([_some_patches(block, most, generator) for block in images]).double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    # Directions in which natural images hardly vary hold noise: the floor keeps it from being blown up.
    whiten = (vectors / (values + values.mean() * 1e-2 + 1e-6).sqrt()).T
    with torch.no_grad():
        stem.weight.copy_(whiten.reshape_as(stem.weight))
        _bias(stem).copy_(-whiten @ mean)
    whitened: Tensor = ((patches - mean) @ whiten.T).float()
    return whitened


def _some_patches(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """float[m, PATCH_DIM]: random patches of float[k, 3, size, size], at most ``most`` of each image."""
    patches = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, PATCH_DIM)
    return patches[torch.randperm(len(patches), generator=generator)[: most * len(images)]]


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Give every layer its first weights from the generator, never from torch's global state."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_parameters()


def zero_head(dimension: int, classes: int) -> nn.Linear:
    """A linear layer of zeros: every class equally likely. (torch's own start draws from global state.)"""
    head = nn.Linear(dimension, classes, device="meta").to_empty(device="cpu")
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def small_cnn_for(
    images: Images, generator: torch.Generator, widths: tuple[int, int] = (64, 128)
) -> SmallCnn:
    """A small CNN to be trained, its stem fitted on the images."""
    with torch.device("meta"):
        network = SmallCnn(widths)
    network.to_empty(device="cpu")
    initialize(network, generator)
    fit_stem(network.stem, images, generator)
    return network.to(memory_format=torch.channels_last)


def patch_features_for(images: Images, generator: torch.Generator) -> PatchFeatures:
    """Patch features fitted on the images by spherical k-means and principal components."""
    with torch.device("meta"):
        network = PatchFeatures()
    network.to_empty(device="cpu")
    patches = fit_stem(network.stem, images, generator)
    centroids = _spherical_k_means(patches, CENTROIDS, generator)
    with torch.no_grad():
        network.centroids.weight.copy_(centroids[:, :, None, None])
        _bias(network.centroids).fill_(-0.5)
        _fit_projection(network.project, torch.cat([network.quadrants(block) for block in images]).double())
    return network.to(memory_format=torch.channels_last)


def fit_principal_components(project: nn.Linear, features: Tensor) -> None:
    """Set ``project`` to standardise float64[k, d] and keep the directions in which they vary most."""
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    scaled = (features - mean) / deviation
    weight = torch.zeros_like(project.weight, dtype=torch.float64)
    if len(scaled) < scaled.shape[1]:  # as many directions as images
        components = torch.linalg.svd(scaled, full_matrices=False).Vh
    else:
        components = torch.linalg.eigh(scaled.T @ scaled).eigenvectors.flip(1).T
    weight[: len(components)] = components[: len(weight)] / deviation
    with torch.no_grad():
        project.weight.copy_(weight)
        _bias(project).copy_(-weight @ mean)


def _fit_projection(project: nn.Linear, features: Tensor) -> None:
    """Principal components of float64[k, d], each scaled by its deviation to the power -0.75.

    Not -1: full whitening would raise the last, noisy components to the rank of the first.
    """
    mean = features.mean(0)
    values, vectors = torch.linalg.eigh((features - mean).T @ (features - mean) / len(features))
    values = values.flip(0)[: project.out_features].clamp_min(values.max() * 1e-4 + 1e-12)
    components = vectors.flip(1)[:, : project.out_features] * values**-0.375
    project.weight.copy_(components.T)
    _bias(project).copy_(-mean @ components)


def _spherical_k_means(patches: Tensor, count: int, generator: torch.Generator, rounds: int = 8) -> Tensor:
    """float[count, d] of unit length: the directions in which the patches, float[m, d], crowd."""
    start = torch.randn((count, patches.shape[1]), generator=generator)
    centroids = F.normalize(start)
    for _ in range(rounds):
        likeness, nearest = (patches @ centroids.T).max(1)
        pulled = torch.zeros_like(centroids).index_add_(0, nearest, patches * likeness[:, None])
        centroids = F.normalize(pulled + centroids)
    return centroids


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias
