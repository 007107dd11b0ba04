"""Training: the small CNN from scratch, or a linear head on the features of a frozen pretrained backbone.

Recipe for the small CNN: AdamW with a linear warm-up and decay, label smoothing, mirrored and shifted
images, batches in which every class comes equally often. Everything random comes from the seed.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import NotFinite, TooFewLabels
from .backbones import PATCH_FEATURES, ChosenBackbone, pretrained_network
from .classifier import (
    Classifier,
    PixelRows,
    Progress,
    device_named,
    embed_and_predict,
    half_precision,
    halved,
    images_from,
    predict,
    size_of,
)
from .networks import patch_features_for, small_cnn_for, zero_head

log = logging.getLogger(__name__)
SAMPLE = 2000  # images that stems and patch features are fitted on


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the small CNN is trained. ``images``: how many are seen in all, augmented; None: by the labels.

    ``shift`` is a share of the image's side. ``mirror`` shows half the images mirrored: switch it off
    where left and right are different classes.
    """

    images: int | None = None
    batch: int = 64
    learning_rate: float = 4e-3
    warm_up: float = 0.2
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    shift: float = 0.1
    mirror: bool = True

    def images_for(self, labels: int) -> int:
        """How many images are seen in a fit on that many labels."""
        return self.images or int(min(max(16_000, 8 * labels), 8_000 + 8 * labels))


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
    ``multiple``), ``holdout`` bool[n]: never trained on, measures the accuracy. Pretrained backbones
    stay frozen and get a linear head. Same seed, same result on the CPU.
    Raises TooFewLabels, NotFinite, OutOfMemory, ConfigError.
    """
    if not len(pixels) == len(targets) == len(holdout):
        raise ValueError(f"{len(pixels)} images, {len(targets)} targets, {len(holdout)} hold-out flags")
    size_of(pixels, chosen.backbone)
    rows = np.flatnonzero(~holdout).astype(np.int64)
    _require_labels(targets[rows], multiple)
    started = time.monotonic()
    task = _Task(chosen, pixels, targets, multiple, rows, seed, device_named(device), progress)
    fitted = _fit_head(task) if chosen.weights else _fit_small_cnn(task, recipe or Recipe())
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
    network = patch_features_for(_sample(pixels, chosen, seed), torch.Generator().manual_seed(seed))
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


def _sample(pixels: PixelRows, chosen: ChosenBackbone, seed: int) -> Tensor:
    """At most SAMPLE images as float32[k, 3, size, size] on the CPU."""
    rows = np.random.default_rng(seed).permutation(len(pixels))[:SAMPLE]
    return images_from(pixels[np.sort(rows)], chosen.backbone, torch.device("cpu"))


# ---------------------------------------------------------------------------------------------------
# the small CNN, from scratch


def _fit_small_cnn(task: _Task, recipe: Recipe) -> _Fitted:
    generator = torch.Generator().manual_seed(task.seed)
    pixels = torch.as_tensor(task.pixels[task.rows])
    targets = torch.from_numpy(task.targets[task.rows])
    sample = images_from(pixels[:SAMPLE], task.chosen.backbone, torch.device("cpu"))
    network = small_cnn_for(sample, generator).to(task.device)
    head = zero_head(task.chosen.backbone.dimension, targets.shape[1]).to(task.device)
    weights = [w for w in network.parameters() if w.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=recipe.weight_decay)
    budget, batch, seen, note = recipe.images_for(len(pixels)), recipe.batch, 0, ""
    recent: list[float] = []
    network.train()
    stream = _balanced_rows(targets, generator)
    rows = torch.empty(0, dtype=torch.int64)
    while seen < budget:
        while len(rows) < batch:
            rows = torch.cat([rows, next(stream)])
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(seen / budget, recipe.warm_up)
        try:
            views = images_from(
                _augmented(pixels[rows[:batch]], recipe, generator), task.chosen.backbone, task.device
            )
            with half_precision(task.device):
                logits = head(network(views))
            loss = _loss(
                logits.float(), targets[rows[:batch]].to(task.device), task.multiple, recipe.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            batch = halved(batch, error)
            note = f"memory ran out: trained with {batch} images at a time instead of {recipe.batch}"
            continue
        optimizer.step()
        recent.append(_finite(loss.item(), seen))
        rows, seen = rows[batch:], seen + batch
        if task.progress:
            task.progress(min(seen, budget), budget)
    last = recent[-max(1, len(recent) // 10) :]
    classifier = _classifier(
        task.chosen, network, head, pixels.shape[1], task.multiple, task.seed, task.device
    )
    return _Fitted(classifier, seen / len(pixels), float(np.mean(last)), note)


def _schedule(done: float, warm_up: float) -> float:
    """The learning rate's factor when the share ``done`` of the images was seen."""
    return min(done / warm_up + 0.02, (1 - done) / (1 - warm_up), 1.0)


def _finite(loss: float, seen: int) -> float:
    if not np.isfinite(loss):
        raise NotFinite(
            f"The training loss became {loss} after {seen} images. Lower the learning rate, or look for "
            "broken images among the labelled tasks, and start again."
        )
    return loss


def _loss(logits: Tensor, targets: Tensor, multiple: bool, smoothing: float) -> Tensor:
    if multiple:
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def _balance(targets: Tensor) -> Tensor:
    """How often each row of float32[n, classes] shall be drawn, float64[n], mean 1: all classes equally.

    A row with several labels counts for each of them by halves, thirds, ...; rows without any label are
    a class of their own.
    """
    none = (targets.sum(1, keepdim=True) == 0).double()
    shares = torch.cat([targets.double(), none], 1)
    shares /= shares.sum(1, keepdim=True)
    weights = (shares / shares.sum(0).clamp_min(1e-9)).sum(1)
    return weights / weights.mean()


def _balanced_rows(targets: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows in random order, int64, for ever; each comes in as often as `_balance` says, up to rounding.

    Systematic sampling: with balanced classes every epoch holds every row exactly once.
    """
    weights = _balance(targets)
    while True:
        order = torch.randperm(len(weights), generator=generator)
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        times = torch.floor(weights[order].cumsum(0) + offset).diff(prepend=torch.zeros(1))
        drawn = order.repeat_interleave(times.long())
        yield drawn[torch.randperm(len(drawn), generator=generator)]


def _augmented(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """uint8[k, size, size, 3], each image shifted (its edge reflected) and half of them mirrored."""
    count, size = pixels.shape[:2]
    most = round(recipe.shift * size)
    shifts = torch.randint(-most, most + 1, (2, count, 1), generator=generator)
    down, across = (torch.arange(size) + shifts).abs()
    down, across = (size - 1 - (size - 1 - place).abs() for place in (down, across))
    if recipe.mirror:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        across = torch.where(mirrored, size - 1 - across, across)
    return pixels[torch.arange(count)[:, None, None], down[:, :, None], across[:, None, :]]


# ---------------------------------------------------------------------------------------------------
# a linear head on frozen features


def _fit_head(task: _Task) -> _Fitted:
    size = size_of(task.pixels, task.chosen.backbone)
    network = pretrained_network(task.chosen)
    frozen = _classifier(task.chosen, network, None, size, task.multiple, task.seed, task.device)
    chosen_rows = _Rows(task.pixels, task.rows)
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


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some rows of other pixels, read when asked."""

    pixels: PixelRows
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        return self.pixels[self.rows[rows]]


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
    inputs, balance = (features - mean) / deviation, _balance(targets)
    weight = torch.zeros((targets.shape[1], features.shape[1]), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(targets.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=HEAD_STEPS, line_search_fn="strong_wolfe")
    measured: list[float] = []

    def penalized_loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(inputs, weight, bias)
        if multiple:
            losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        else:
            losses = F.cross_entropy(logits, targets, reduction="none")
        loss = (losses * balance).mean()
        measured.append(_finite(loss.item(), len(features)))
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
    probabilities = predict(classifier, _Rows(pixels, rows))
    assert probabilities is not None
    if classifier.multiple:
        right = ((probabilities > 0.5) == (targets[rows] > 0.5)).all(1)
    else:
        right = probabilities.argmax(1) == targets[rows].argmax(1)
    return float(right.mean())
