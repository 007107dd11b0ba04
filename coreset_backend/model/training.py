"""Training: a linear head on frozen pretrained features at few labels, the whole network from there at more.

Without pretrained weights the small CNN is trained from scratch. Everything random comes from the seed.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import TooFewLabels
from .backbones import PATCH_FEATURES, Backbone, ChosenBackbone, pretrained_network
from .classifier import (
    Classifier,
    PixelRows,
    PixelSubset,
    Progress,
    Sample,
    device_named,
    embed_and_predict,
    predict,
    size_of,
)
from .descent import Examples, Recipe, balance, descend, finite, loss_of
from .networks import PretrainedCnn, patch_features_for, small_cnn_for, zero_head

SAMPLE = 2000  # images that stems and patch features are fitted on
FINE_TUNED_FROM = 500
"""Labels from which a pretrained network is trained as a whole; with fewer, its head alone is."""
FINE = Recipe(learning_rate=2e-3)
GENTLE = Recipe(learning_rate=1e-4)
"""For large networks pretrained with labels on other images."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a fit was and what came out, in plain values.

    ``epochs``: how often each trained image was seen, on average. ``train_loss``: mean over the last
    tenth of the fit. ``holdout_accuracy``: share of the hold-out whose label (multiple: whole set of
    labels) is right; None without a hold-out. ``note`` says what was unusual.
    """

    epochs: float
    seconds: float
    train_loss: float
    holdout_accuracy: float | None
    n_train: int
    n_holdout: int
    device: str
    seed: int
    note: str = ""


def fit(
    chosen: ChosenBackbone,
    pixels: PixelRows,
    targets: NDArray[np.float32],
    *,
    multiple: bool,
    holdout: NDArray[np.bool_],
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    recipe: Recipe | None = None,
) -> tuple[Classifier, TrainingReport]:
    """A classifier fitted on the rows outside the hold-out, and its report.

    ``pixels`` uint8[n, size, size, 3], ``targets`` float32[n, classes] (one-hot, or multi-hot if
    ``multiple``), ``holdout`` bool[n]: never trained on, measures the accuracy. A pretrained backbone stays
    frozen and gets a linear head, and is trained as a whole where `is_fine_tuned` says so. Same seed, same
    result on the CPU.
    Raises TooFewLabels, NotFinite, OutOfMemory, ConfigError.
    """
    if not len(pixels) == len(targets) == len(holdout):
        raise ValueError(f"{len(pixels)} images, {len(targets)} targets, {len(holdout)} hold-out flags")
    size_of(pixels, chosen.backbone)
    rows = np.flatnonzero(~holdout).astype(np.int64)
    _require_labels(targets[rows], multiple)
    started = time.monotonic()
    task = _Task(chosen, pixels, targets, multiple, rows, holdout, seed, device_named(device), progress)
    if chosen.weights is None:
        fitted = _fit_small_cnn(task, recipe or Recipe())
    elif is_fine_tuned(chosen.backbone, len(rows), task.device):
        fitted = _fit_all(task, recipe or (GENTLE if chosen.backbone.published else FINE))
    else:
        fitted = _fit_head(task)
    accuracy = _holdout_accuracy(fitted.classifier, pixels, targets, holdout)
    report = TrainingReport(
        epochs=round(fitted.epochs, 2),
        seconds=round(time.monotonic() - started, 3),
        train_loss=fitted.loss,
        holdout_accuracy=accuracy,
        n_train=len(rows),
        n_holdout=int(holdout.sum()),
        device=str(task.device),
        seed=seed,
        note=fitted.note,
    )
    return fitted.classifier, report


def is_fine_tuned(backbone: Backbone, labels: int, device: torch.device) -> bool:
    """Whether a fit on so many labels trains the pretrained network too.

    torchvision's networks stay frozen on a CPU, where they would take an hour.
    """
    return labels >= FINE_TUNED_FROM and (not backbone.published or device.type == "cuda")


def untrained(
    chosen: ChosenBackbone,
    pixels: PixelRows,
    *,
    seed: int,
    device: str = "auto",
) -> Classifier:
    """A classifier without a head, for a project without labels: its embeddings need none.

    The pretrained backbone if there are weights, else patch features fitted on a sample of the pool.
    """
    size, place = size_of(pixels, chosen.backbone), device_named(device)
    if chosen.weights:
        return _classifier(chosen, pretrained_network(chosen), None, size, False, seed, place)
    sample = Sample(pixels, chosen.backbone, SAMPLE, seed, torch.device("cpu"))
    network = patch_features_for(sample, torch.Generator().manual_seed(seed))
    description = "patch features fitted on the pool without labels: no pretrained weights at hand"
    patches = ChosenBackbone(PATCH_FEATURES, None, description)
    return _classifier(patches, network, None, size, False, seed, place)


@dataclass(frozen=True, slots=True)
class _Task:
    chosen: ChosenBackbone
    pixels: PixelRows
    targets: NDArray[np.float32]
    multiple: bool
    rows: NDArray[np.int64]
    holdout: NDArray[np.bool_]
    seed: int
    device: torch.device
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class _Fitted:
    classifier: Classifier
    epochs: float
    loss: float
    note: str = ""


def _require_labels(targets: NDArray[np.float32], multiple: bool) -> None:
    if len(targets) < 2:
        raise TooFewLabels(len(targets), 2)
    if not np.isfinite(targets).all():
        raise ValueError("targets hold NaN or infinity")
    if multiple:
        return
    if not np.allclose(targets.sum(1), 1, atol=1e-4):
        raise ValueError("single choice needs targets that add up to 1 in every row")
    if np.count_nonzero(targets.any(0)) < 2:
        raise TooFewLabels(1, 2)


def _classifier(
    chosen: ChosenBackbone,
    network: nn.Module,
    head: nn.Linear | None,
    size: int,
    multiple: bool,
    seed: int,
    device: torch.device,
) -> Classifier:
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if head:
        head.eval().requires_grad_(False).to(device)
    return Classifier(
        backbone=chosen.backbone,
        network=network,
        head=head,
        size=size,
        multiple=multiple,
        seed=seed,
        device=device,
        mirror=not chosen.backbone.published,
        description=chosen.description,
    )


# ---------------------------------------------------------------------------------------------------
# by gradient descent: the small CNN from scratch, or a pretrained network all through


def _fit_small_cnn(task: _Task, recipe: Recipe) -> _Fitted:
    generator = torch.Generator().manual_seed(task.seed)
    labeled = PixelSubset(task.pixels, task.rows)
    sample = Sample(labeled, task.chosen.backbone, SAMPLE, task.seed, torch.device("cpu"))
    network = small_cnn_for(sample, generator)
    head = zero_head(task.chosen.backbone.dimension, task.targets.shape[1])
    return _descended(task, task.chosen, network, head, recipe, generator)


def _fit_all(task: _Task, recipe: Recipe) -> _Fitted:
    """The pretrained network with the linear head, both trained on from there."""
    start = _fit_head(task).classifier
    assert start.head
    network = start.network.requires_grad_(True)
    if isinstance(network, PretrainedCnn):
        network.encoder.stem.requires_grad_(False)  # it only whitens
    chosen = replace(
        task.chosen, description=f"{task.chosen.description}, fine-tuned on {len(task.rows)} labels"
    )
    head = start.head.requires_grad_(True)
    return _descended(task, chosen, network, head, recipe, torch.Generator().manual_seed(task.seed))


def _descended(
    task: _Task,
    chosen: ChosenBackbone,
    network: nn.Module,
    head: nn.Linear,
    recipe: Recipe,
    generator: torch.Generator,
) -> _Fitted:
    trained, held_out = (
        Examples(PixelSubset(task.pixels, rows), task.targets[rows])
        for rows in (task.rows, np.flatnonzero(task.holdout))
    )
    went = descend(
        network.to(task.device),
        head.to(task.device),
        chosen.backbone,
        trained,
        held_out,
        multiple=task.multiple,
        recipe=recipe,
        generator=generator,
        progress=task.progress,
    )
    size = size_of(task.pixels, chosen.backbone)
    classifier = _classifier(chosen, network, head, size, task.multiple, task.seed, task.device)
    return _Fitted(classifier, went.epochs, went.loss, went.note)


# ---------------------------------------------------------------------------------------------------
# a linear head on frozen features


def _fit_head(task: _Task) -> _Fitted:
    size = size_of(task.pixels, task.chosen.backbone)
    network = pretrained_network(task.chosen)
    frozen = _classifier(task.chosen, network, None, size, task.multiple, task.seed, task.device)
    chosen_rows = PixelSubset(task.pixels, task.rows)
    features, _ = embed_and_predict(frozen, chosen_rows, task.progress)
    targets = torch.from_numpy(task.targets[task.rows])
    head, loss = linear_head(
        torch.from_numpy(features), targets, multiple=task.multiple, scaled=not task.chosen.backbone.published
    )
    classifier = _classifier(task.chosen, network, head, size, task.multiple, task.seed, task.device)
    return _Fitted(classifier, HEAD_STEPS, loss)


HEAD_STEPS = 100
HEAD_PENALTY = 0.1
COMPONENT_PENALTY = 40.0
"""On principal components: over the number of labels, at most 0.3. Chosen on images outside the test set."""


def linear_head(
    features: Tensor, targets: Tensor, *, multiple: bool, scaled: bool
) -> tuple[nn.Linear, float]:
    """Logistic regression, classes weighted equally, and its loss: convex, so no seed is needed.

    ``features`` float[n, d], ``targets`` float[n, classes]. Each feature is brought to the same deviation
    first, unless they are ``scaled``: principal components, whose deviations say how much each means.
    """
    features, targets = features.double(), targets.double()
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    penalty = HEAD_PENALTY
    if scaled:
        deviation = deviation.square().mean().sqrt().expand_as(deviation)
        penalty = min(0.3, COMPONENT_PENALTY / len(features))
    inputs, weights = (features - mean) / deviation, balance(targets)
    weight = torch.zeros((targets.shape[1], features.shape[1]), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(targets.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=HEAD_STEPS, line_search_fn="strong_wolfe")
    measured: list[float] = []

    def penalized_loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(inputs, weight, bias)
        loss = (loss_of(logits, targets, multiple) * weights).mean()
        measured.append(finite(loss.item(), len(features)))
        total = loss + penalty / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(penalized_loss)  # type: ignore[no-untyped-call]
    head = zero_head(features.shape[1], targets.shape[1])
    with torch.no_grad():
        head.weight.copy_(weight / deviation)
        head.bias.copy_(bias - (weight / deviation) @ mean)
    return head, measured[-1]


def _holdout_accuracy(
    classifier: Classifier, pixels: PixelRows, targets: NDArray[np.float32], holdout: NDArray[np.bool_]
) -> float | None:
    rows = np.flatnonzero(holdout).astype(np.int64)
    if not len(rows):
        return None
    probabilities = predict(classifier, PixelSubset(pixels, rows))
    assert probabilities is not None
    if classifier.multiple:
        right = ((probabilities > 0.5) == (targets[rows] > 0.5)).all(1)
    else:
        right = probabilities.argmax(1) == targets[rows].argmax(1)
    return float(right.mean())
