"""Linear heads on frozen features: convex fits, so that no seed is needed, and how sure they may be.

The head on prepared features is *anchored*: its logits start at ``ANCHOR`` times the cosine to the mean of
each class, which few labels estimate well, and what is learned on top is kept small. The temperature, found
by cross-validation, divides the logits: of the answers given at 80 %, four in five are right.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coreset_backend.arrays import Floats, Rows
from coreset_backend.model.descent import balance, finite, loss_of
from coreset_backend.model.networks import zero_head

STEPS = 100
ANCHOR = 8.0
PENALTY = 1e-3
"""On vectors of unit length, beside the mean loss of a label: accuracy differs by noise from 5e-4 to 3e-3."""
FOLDS = 5
TEMPERATURES = np.geomspace(0.1, 4.0, 60)
TRUSTED = 100
"""Labels at which half of what cross-validation says of the temperature is believed; it says little of 40."""
SCALED_PENALTY = 0.1
COMPONENT_PENALTY = 40.0
"""On principal components: over the number of labels, at most 0.3. Chosen on images outside the test set."""


def anchored_head(embeddings: Floats, targets: Floats, *, multiple: bool) -> tuple[nn.Linear, float]:
    """The head on embeddings float32[n, d] of unit length with targets float32[n, classes], and its loss.

    Classes weigh equally. In multiple choice a class starts at the mean of its images minus that of the rest.
    """
    inputs, wanted = torch.from_numpy(embeddings).double(), torch.from_numpy(targets).double()
    start = _anchors(inputs, wanted, multiple)
    weight, bias, loss = _minimized(inputs, wanted, start, PENALTY, multiple)
    return _linear(weight, bias), loss


def temperature_of(embeddings: Floats, targets: Floats, *, multiple: bool) -> float:
    """What to divide the logits of `anchored_head` by, from five-fold cross-validation; near 1 at few labels.

    Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    fold = _folds(targets)
    logits = torch.zeros(targets.shape, dtype=torch.float64)
    for number in range(FOLDS):
        held_out = fold == number
        if held_out.any() and not held_out.all():
            head, _ = anchored_head(embeddings[~held_out], targets[~held_out], multiple=multiple)
            with torch.inference_mode():
                logits[torch.from_numpy(held_out)] = head(torch.from_numpy(embeddings[held_out])).double()
    wanted = torch.from_numpy(targets).double()
    losses = [float(loss_of(logits / value, wanted, multiple).mean()) for value in TEMPERATURES]
    trust = len(targets) / (len(targets) + TRUSTED)
    return float(TEMPERATURES[int(np.argmin(losses))] ** trust)


def linear_head(
    features: Tensor, targets: Tensor, *, multiple: bool, scaled: bool
) -> tuple[nn.Linear, float]:
    """Logistic regression on raw features, classes weighted equally, and its loss.

    ``features`` float[n, d], ``targets`` float[n, classes]. Each feature is brought to the same deviation
    first, unless they are ``scaled``: principal components, whose deviations say how much each means.
    """
    features, targets = features.double(), targets.double()
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    penalty = SCALED_PENALTY
    if scaled:
        deviation = deviation.square().mean().sqrt().expand_as(deviation)
        penalty = min(0.3, COMPONENT_PENALTY / len(features))
    inputs = (features - mean) / deviation
    start = torch.zeros((targets.shape[1], features.shape[1]), dtype=torch.float64)
    weight, bias, loss = _minimized(inputs, targets, start, penalty, multiple)
    return _linear(weight / deviation, bias - (weight / deviation) @ mean), loss


def _anchors(inputs: Tensor, targets: Tensor, multiple: bool) -> Tensor:
    """float64[classes, d]: where the weights start; 0 for a class without an image."""
    means = (targets.T @ inputs) / targets.sum(0).clamp_min(1)[:, None]
    if multiple:
        others = ((1 - targets).T @ inputs) / (1 - targets).sum(0).clamp_min(1)[:, None]
        both = (targets.any(0) & (1 - targets).any(0))[:, None]
        return ANCHOR * torch.where(both, F.normalize(means - others), 0)
    return ANCHOR * F.normalize(means)


def _minimized(
    inputs: Tensor, targets: Tensor, start: Tensor, penalty: float, multiple: bool
) -> tuple[Tensor, Tensor, float]:
    """Weights float64[classes, d] near ``start``, biases float64[classes], the mean loss without penalty."""
    weights, base = balance(targets), inputs @ start.T
    change = torch.zeros_like(start, requires_grad=True)
    bias = torch.zeros(len(start), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([change, bias], max_iter=STEPS, line_search_fn="strong_wolfe")
    measured: list[float] = []

    def penalized_loss() -> Tensor:
        optimizer.zero_grad()
        logits = base + F.linear(inputs, change, bias)
        loss = (loss_of(logits, targets, multiple) * weights).mean()
        measured.append(finite(loss.item(), len(inputs)))
        total = loss + penalty / 2 * change.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(penalized_loss)  # type: ignore[no-untyped-call]
    return (start + change).detach(), bias.detach(), measured[-1]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    head = zero_head(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head


def _folds(targets: Floats) -> Rows:
    """int64[n]: the fold of each row; rows of the same labels are spread evenly over them."""
    order = np.random.default_rng(0).permutation(len(targets))
    kinds = order[np.lexsort(targets[order].T)]
    fold = np.empty(len(targets), dtype=np.int64)
    fold[kinds] = np.arange(len(targets)) % FOLDS
    return fold
