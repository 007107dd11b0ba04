"""Training: a linear head on frozen pretrained features at few labels, the whole network from there at more.

Without pretrained weights the small CNN is trained from scratch. Everything random comes from the seed.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from coreset_backend.arrays import Floats, PixelRows, PixelSubset, Progress, Rows
from coreset_backend.errors import TooFewLabels
from coreset_backend.model.backbone import Backbone, ChosenBackbone
from coreset_backend.model.backbones import PATCH_FEATURES
from coreset_backend.model.classifier import (
    Classifier,
    Sample,
    device_named,
    embed,
    size_of,
)
from coreset_backend.model.descent import Examples, Recipe, descend
from coreset_backend.model.heads import STEPS, anchored_head, linear_head, temperature_of
from coreset_backend.model.networks import PretrainedCnn, patch_features_for, small_cnn_for, zero_head
from coreset_backend.model.runtimes import runtime_for
from coreset_backend.model.weights import pretrained_network
from coreset_backend.reports import TrainingReport

SAMPLE = 2000
"""Images that stems and patch features are fitted on."""
FINE_TUNED_FROM = 500
"""Labels from which a pretrained network is trained as a whole; with fewer, its head alone is."""
FINE = Recipe(learning_rate=2e-3)
GENTLE = Recipe(learning_rate=1e-4)
"""For large networks pretrained with labels on other images."""


def fit(
    chosen: ChosenBackbone,
    pixels: PixelRows,
    targets: Floats,
    *,
    multiple: bool,
    holdout: NDArray[np.bool_],
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    recipe: Recipe | None = None,
    whole: bool | None = None,
) -> tuple[Classifier, TrainingReport]:
    """A classifier fitted on the rows outside the hold-out, and its report.

    ``pixels`` uint8[n, size, size, 3], ``targets`` float32[n, classes] (one-hot, or multi-hot if
    ``multiple``), ``holdout`` bool[n]: never trained on. A pretrained backbone stays frozen and gets a linear
    head, or is trained as a ``whole``; None: where `is_fine_tuned` says so.
    Same seed, same result on the CPU.
    Raises TooFewLabels, NotFinite, OutOfMemory, ConfigError.
    """
    if not len(pixels) == len(targets) == len(holdout):
        raise ValueError(f"{len(pixels)} images, {len(targets)} targets, {len(holdout)} hold-out flags")
    size_of(pixels, chosen.backbone)
    _require_labels(targets[~holdout], multiple)
    task = _Task(
        chosen=chosen,
        pixels=pixels,
        targets=targets,
        multiple=multiple,
        holdout=holdout,
        seed=seed,
        device=device_named(device),
        progress=progress,
        started=time.monotonic(),
    )
    fitted = _fitted(task, recipe, whole)
    return fitted.classifier, _report(task, fitted)


def _fitted(task: "_Task", recipe: Recipe | None, whole: bool | None) -> "_Fitted":
    backbone = task.chosen.backbone
    if task.chosen.weights is None:
        return _fit_small_cnn(task, recipe or Recipe())
    if is_fine_tuned(backbone, len(task.rows), task.device) if whole is None else whole:
        return _fit_all(task, recipe or (GENTLE if backbone.published else FINE))
    return _fit_head(task)


def _report(task: "_Task", fitted: "_Fitted") -> TrainingReport:
    return TrainingReport(
        epochs=round(fitted.epochs, 2),
        seconds=round(time.monotonic() - task.started, 3),
        train_loss=fitted.loss,
        n_train=len(task.rows),
        n_holdout=int(task.holdout.sum()),
        device=str(task.device),
        seed=task.seed,
        note=fitted.note,
    )


def trains_network(chosen: ChosenBackbone, labels: int, device: str = "auto") -> bool:
    """Whether a fit on so many labels changes the network; else its embeddings are known before the fit."""
    return chosen.weights is None or is_fine_tuned(chosen.backbone, labels, device_named(device))


def is_fine_tuned(backbone: Backbone, labels: int, device: torch.device) -> bool:
    """Whether a fit on so many labels trains the pretrained network too.

    torchvision's networks stay frozen on a CPU, where they would take an hour.
    """
    affordable = not backbone.published or device.type == "cuda"
    return labels >= FINE_TUNED_FROM and backbone.trainable and affordable


def untrained(
    chosen: ChosenBackbone,
    pixels: PixelRows,
    *,
    seed: int,
    device: str = "auto",
    cache: Path | None = None,
) -> Classifier:
    """A classifier without a head, for a project without labels: its embeddings need none.

    The pretrained backbone if there are weights, else patch features fitted on a sample of the pool.
    ``cache``: a folder in which a faster runtime than torch may keep the converted network.
    """
    size, place = size_of(pixels, chosen.backbone), device_named(device)
    if chosen.weights:
        frozen = _classifier(chosen, pretrained_network(chosen), None, size, False, seed, place)
        runtime = runtime_for(frozen, pixels, cache)
        by = f", computed by {runtime.name}" if runtime else ""
        return replace(frozen, runtime=runtime, description=frozen.description + by)
    sample = Sample(pixels, chosen.backbone, SAMPLE, seed, torch.device("cpu"))
    network = patch_features_for(sample, torch.Generator().manual_seed(seed))
    description = "patch features fitted on the pool without labels: no pretrained weights at hand"
    patches = ChosenBackbone(PATCH_FEATURES, None, description)
    return _classifier(patches, network, None, size, False, seed, place)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What a fit is given: ``pixels``, ``targets`` and ``holdout`` have the same n rows."""

    chosen: ChosenBackbone
    pixels: PixelRows
    targets: Floats
    multiple: bool
    holdout: NDArray[np.bool_]
    seed: int
    device: torch.device
    progress: Progress | None
    started: float

    @property
    def rows(self) -> Rows:
        """The rows that are trained on, int64[l]: those outside the hold-out."""
        return np.flatnonzero(~self.holdout).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Fitted:
    classifier: Classifier
    epochs: float
    loss: float
    note: str = ""


def _require_labels(targets: Floats, multiple: bool) -> None:
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
    return Classifier(
        backbone=chosen.backbone,
        network=network,
        head=_still(head, device) if head else None,
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


def fit_head(
    frozen: Classifier,
    embeddings: Floats,
    targets: Floats,
    *,
    multiple: bool,
    holdout: NDArray[np.bool_],
) -> tuple[Classifier, TrainingReport]:
    """``frozen`` with a head fitted on the rows outside the hold-out of its ``embeddings``, and the report.

    ``embeddings`` float32[n, dimension], ``targets`` float32[n, classes], ``holdout`` bool[n].
    Raises TooFewLabels and NotFinite.
    """
    rows, started = np.flatnonzero(~holdout), time.monotonic()
    _require_labels(targets[rows], multiple)
    head, loss, temperature = _head(frozen, embeddings[rows], targets[rows], multiple)
    classifier = replace(frozen, head=_still(head, frozen.device), multiple=multiple, temperature=temperature)
    report = TrainingReport(
        epochs=STEPS,
        seconds=round(time.monotonic() - started, 3),
        train_loss=loss,
        n_train=len(rows),
        n_holdout=int(holdout.sum()),
        device=str(frozen.device),
        seed=frozen.seed,
    )
    return classifier, report


def _head(
    frozen: Classifier, embeddings: Floats, targets: Floats, multiple: bool
) -> tuple[nn.Linear, float, float]:
    """The head, its loss, and the temperature."""
    if frozen.preparation:
        head, loss = anchored_head(embeddings, targets, multiple=multiple)
        return head, loss, temperature_of(embeddings, targets, multiple=multiple)
    features, wanted = torch.from_numpy(embeddings), torch.from_numpy(targets)
    scaled = not frozen.backbone.published
    return *linear_head(features, wanted, multiple=multiple, scaled=scaled), 1.0


def _fit_head(task: _Task) -> _Fitted:
    """The head alone, for a fit that reads its images itself."""
    frozen = untrained(task.chosen, task.pixels, seed=task.seed, device=str(task.device))
    embeddings = embed(frozen, PixelSubset(task.pixels, task.rows), progress=task.progress)
    head, loss, temperature = _head(frozen, embeddings, task.targets[task.rows], task.multiple)
    head = _still(head, task.device)
    classifier = replace(frozen, head=head, multiple=task.multiple, temperature=temperature)
    return _Fitted(classifier, STEPS, loss)


def _still(head: nn.Linear, device: torch.device) -> nn.Linear:
    return head.eval().requires_grad_(False).to(device)
