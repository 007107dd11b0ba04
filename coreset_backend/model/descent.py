"""Training a network and its head by gradient descent, from scratch or from pretrained weights.

AdamW with a linear warm-up and decay, label smoothing, mirrored and shifted images, batches in which every
class comes equally often. Everything random comes from the seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coreset_backend.arrays import Floats, PixelRows, Progress
from coreset_backend.errors import NotFinite
from coreset_backend.model.backbone import Backbone
from coreset_backend.model.classifier import EMBED_BATCH, half_precision, halved, images_from

FIRST_CHECK, CHECK_EVERY = 0.5, 0.1
"""The hold-out is measured before a fit, then after these shares of it: early accuracies vary too much."""
MOST_WORSE = 3
"""Checks in a row that are clearly worse than the best one, after which the fit ends."""
STANDARD_ERRORS = 3
"""A check is clearly worse if it is lower by more than so many standard errors of an accuracy on n images."""
LARGEST_DEVIATION = 0.5
"""The standard deviation of right or wrong, at most: that at an accuracy of 50 %."""
LEAST_HOLDOUT = 50
"""With fewer held-out images the accuracy is too uncertain to end a fit by."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyper-parameters of a fit. The defaults train the small CNN from scratch."""

    images: int | None = None
    """Images seen in all, each time augmented; None: `images_for` the number of labels."""
    batch: int = 64
    """Images per step; halved where memory runs out."""
    learning_rate: float = 4e-3
    """AdamW's, at its highest."""
    warm_up: float = 0.2
    """The share of the fit in which the learning rate rises to that; then it falls linearly to 0."""
    weight_decay: float = 0.05
    """AdamW's, on all weights."""
    label_smoothing: float = 0.1
    """The share of each target that is spread over all classes; single choice only."""
    shift: float = 0.1
    """Each image is shifted by up to this share of its side, the edge reflected."""
    mirror: bool = True
    """Half of the images are mirrored: switch it off where left and right are different classes."""

    def images_for(self, labels: int) -> int:
        """How many images are seen in a fit on that many labels."""
        return self.images or int(min(max(16_000, 8 * labels), 8_000 + 8 * labels))


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled images: ``pixels`` uint8[n, size, size, 3] with ``targets`` float32[n, classes]."""

    pixels: PixelRows
    targets: Floats


class Descent(NamedTuple):
    """How a training went: how often each image was seen, mean loss of the last tenth, what was unusual."""

    epochs: float
    loss: float
    note: str


def descend(
    network: nn.Module,
    head: nn.Linear,
    backbone: Backbone,
    trained: Examples,
    held_out: Examples,
    *,
    multiple: bool,
    recipe: Recipe,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Descent:
    """Train ``network`` (of its parameters those that ask for a gradient) and ``head`` in place.

    Where three checks of the hold-out in a row are clearly worse than the best one, the fit ends with the
    weights of the best check. (Smaller differences are noise: the last, slow tenths gain most.)
    Raises NotFinite, OutOfMemory.
    """
    device = head.weight.device
    weights = [w for w in network.parameters() if w.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=recipe.weight_decay)
    targets = torch.from_numpy(trained.targets)
    budget, batch, seen, note = recipe.images_for(len(targets)), recipe.batch, 0, ""
    watch = _Watch(network, head, backbone, held_out, multiple)
    watch.says_stop(0.0)
    recent: list[float] = []
    stream = balanced_rows(targets, generator)
    rows = torch.empty(0, dtype=torch.int64)
    network.train()
    while seen < budget:
        while len(rows) < batch:
            rows = torch.cat([rows, next(stream)])
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(seen / budget, recipe.warm_up)
        try:
            pixels = torch.as_tensor(trained.pixels[rows[:batch].numpy()])
            views = images_from(_augmented(pixels, recipe, generator), backbone, device)
            with half_precision(device):
                logits = head(network(views))
            loss = loss_of(
                logits.float(), targets[rows[:batch]].to(device), multiple, recipe.label_smoothing
            ).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        except (RuntimeError, MemoryError) as error:
            batch = halved(batch, error)
            note = f"memory ran out: trained with {batch} images at a time instead of {recipe.batch}"
            continue
        optimizer.step()
        recent.append(finite(loss.item(), seen))
        rows, seen = rows[batch:], seen + batch
        if progress:
            progress(min(seen, budget), budget)
        if watch.says_stop(seen / budget):
            note += ("; " if note else "") + f"ended after {seen} of {budget} images: it only got worse"
            watch.restore_best()
            break
    last = recent[-max(1, len(recent) // 10) :]
    return Descent(seen / len(targets), float(np.mean(last)), note)


class _Watch:
    """Measures the accuracy on the hold-out from time to time, and keeps the weights of the best check."""

    def __init__(
        self, network: nn.Module, head: nn.Linear, backbone: Backbone, held_out: Examples, multiple: bool
    ) -> None:
        self._parts = (network, head)
        self._backbone, self._held_out, self._multiple = backbone, held_out, multiple
        self._next = 0.0 if len(held_out.targets) >= LEAST_HOLDOUT else float("inf")
        self._most, self._worse = -1.0, 0
        self._best: list[dict[str, Tensor]] = []

    def says_stop(self, done: float) -> bool:
        """Whether to end the fit, of which the share ``done`` is over."""
        if done < self._next:
            return False
        self._next = max(self._next + CHECK_EVERY, FIRST_CHECK)
        right = self._accuracy()
        margin = STANDARD_ERRORS * LARGEST_DEVIATION / len(self._held_out.targets) ** 0.5
        if right >= self._most:
            self._most = right
            self._best = [
                {name: value.detach().clone() for name, value in part.state_dict().items()}
                for part in self._parts
            ]
        self._worse = self._worse + 1 if right < self._most - margin else 0
        return self._worse == MOST_WORSE

    def restore_best(self) -> None:
        for part, state in zip(self._parts, self._best, strict=True):
            part.load_state_dict(state)

    @torch.no_grad()
    def _accuracy(self) -> float:
        """Share of the hold-out whose label (multiple: whole set of labels) is right."""
        network, head = self._parts
        device, right = next(head.parameters()).device, 0
        targets = torch.from_numpy(self._held_out.targets)
        network.eval()
        for start in range(0, len(targets), EMBED_BATCH):
            rows = np.arange(start, min(start + EMBED_BATCH, len(targets)))
            views = images_from(self._held_out.pixels[rows], self._backbone, device)
            with half_precision(device):
                logits = head(network(views)).float().cpu()
            truth = targets[rows]
            same = (
                ((logits > 0) == (truth > 0.5)).all(1)
                if self._multiple
                else logits.argmax(1) == truth.argmax(1)
            )
            right += int(same.sum())
        network.train()
        return right / len(targets)


def _schedule(done: float, warm_up: float) -> float:
    """The learning rate's factor when the share ``done`` of the images was seen."""
    return min(done / warm_up + 0.02, (1 - done) / (1 - warm_up), 1.0)


def finite(loss: float, seen: int) -> float:
    """The loss; raises NotFinite if it is none."""
    if not np.isfinite(loss):
        raise NotFinite(
            f"The training loss became {loss} after {seen} images. Lower the learning rate, or look for "
            "broken images among the labelled tasks, and start again."
        )
    return loss


def loss_of(logits: Tensor, targets: Tensor, multiple: bool, smoothing: float = 0.0) -> Tensor:
    """float[n]: the loss of each row; of several labels, the mean over the classes."""
    if multiple:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")


def balance(targets: Tensor) -> Tensor:
    """How often each row of float32[n, classes] shall be drawn, float64[n], mean 1: all classes equally.

    A row with several labels counts for each of them by halves, thirds, ...; rows without any label are
    a class of their own.
    """
    none = (targets.sum(1, keepdim=True) == 0).double()
    shares = torch.cat([targets.double(), none], 1)
    shares /= shares.sum(1, keepdim=True)
    weights = (shares / shares.sum(0).clamp_min(1e-9)).sum(1)
    return weights / weights.mean()


def balanced_rows(targets: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows in random order, int64, for ever; each comes in as often as `balance` says, up to rounding.

    Systematic sampling: with balanced classes every epoch holds every row exactly once.
    """
    weights = balance(targets)
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
