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
TEMPERATURE_FOLDS = 10
"""A head on nine tenths of the labels is nearly as sure and as right as one on all of them."""
FITTED_AT_ONCE = 200_000
"""Weights of heads that are fitted together: their descent keeps two hundred copies of them."""
TEMPERATURES = np.geomspace(0.1, 4.0, 60)
TRUSTED = 100
"""Labels at which half of what cross-validation says of the temperature is believed, an eighth at 40, four
fifths at 200."""
SCALED_PENALTY = 0.1
COMPONENT_PENALTY = 40.0
"""On principal components: over the number of labels, at most 0.3. Chosen on images outside the test set."""


def anchored_head(embeddings: Floats, targets: Floats, *, multiple: bool) -> tuple[nn.Linear, float]:
    """The head on embeddings float32[n, d] of unit length with targets float32[n, classes], and its loss.

    Classes weigh equally. In multiple choice a class starts at the mean of its images minus that of the rest.
    """
    inputs, wanted = torch.from_numpy(embeddings).double(), torch.from_numpy(targets).double()
    everything = torch.ones((1, len(inputs)), dtype=torch.bool)
    start = _anchors(inputs, wanted, everything, multiple)
    weight, bias, loss = _minimized(inputs, wanted, everything, start, PENALTY, multiple)
    return _linear(weight[0], bias[0]), loss


def temperature_of(embeddings: Floats, targets: Floats, *, multiple: bool) -> float:
    """What to divide the logits of `anchored_head` by, from ten-fold cross-validation; near 1 at few labels.

    Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    folds = folds_of(targets, folds=TEMPERATURE_FOLDS)
    logits = held_out_logits(embeddings, targets, folds[None], multiple=multiple)[0]
    best = best_temperature(logits, torch.from_numpy(targets).double(), multiple)
    return float(best ** trust_in_temperature(len(targets)))


def trust_in_temperature(labels: int) -> float:
    """How much of what cross-validation on so many labels says of a temperature is believed, 0 to 1."""
    return 1 / (1 + (TRUSTED / labels) ** 2)


def best_temperature(logits: Tensor, targets: Tensor, multiple: bool) -> float:
    """The one of TEMPERATURES at which logits float64[n, classes] have the least loss."""
    losses = [float(loss_of(logits / value, targets, multiple).mean()) for value in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def held_out_logits(
    embeddings: Floats, targets: Floats, folds: Rows, *, multiple: bool, prepared: bool = True
) -> Tensor:
    """float64[repeats, n, classes]: of each row, by the head fitted on the rows of the other folds.

    ``folds`` int64[repeats, n]. ``prepared``: embeddings of unit length, which get an anchored head; else
    principal components, which get a logistic regression. A row whose fold holds all rows gets 0.
    """
    inputs, wanted = torch.from_numpy(embeddings).double(), torch.from_numpy(targets).double()
    if not prepared:
        inputs = (inputs - inputs.mean(0)) / inputs.std(0).clamp_min(1e-6).square().mean().sqrt()
    penalty = PENALTY if prepared else _component_penalty(len(inputs))
    logits = torch.zeros((*folds.shape, targets.shape[1]), dtype=torch.float64)
    fits = [(repeat, number) for repeat, fold in enumerate(folds) for number in np.unique(fold)]
    at_once = max(FITTED_AT_ONCE // (targets.shape[1] * inputs.shape[1]), 1)
    for first in range(0, len(fits), at_once):
        part = fits[first : first + at_once]
        held_out = torch.from_numpy(np.stack([folds[repeat] == number for repeat, number in part]))
        start = _anchors(inputs, wanted, ~held_out, multiple)
        start = start if prepared else torch.zeros_like(start)
        weight, bias, _ = _minimized(inputs, wanted, ~held_out, start, penalty, multiple)
        for place, (repeat, _) in enumerate(part):
            rows = held_out[place]
            logits[repeat, rows] = F.linear(inputs[rows], weight[place], bias[place])
    return logits


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
        penalty = _component_penalty(len(features))
    inputs = (features - mean) / deviation
    everything = torch.ones((1, len(inputs)), dtype=torch.bool)
    start = torch.zeros((1, targets.shape[1], features.shape[1]), dtype=torch.float64)
    weights, biases, loss = _minimized(inputs, targets, everything, start, penalty, multiple)
    weight = weights[0] / deviation
    return _linear(weight, biases[0] - weight @ mean), loss


def _component_penalty(labels: int) -> float:
    return min(0.3, COMPONENT_PENALTY / labels)


def _anchors(inputs: Tensor, targets: Tensor, fitted: Tensor, multiple: bool) -> Tensor:
    """float64[fits, classes, d]: where the weights of each fit on the rows ``fitted`` bool[fits, n] start.

    0 for a class without an image among them.
    """
    of_class = targets.T * fitted[:, None]
    means = _mean_of(of_class, inputs)
    if multiple:
        of_others = (1 - targets).T * fitted[:, None]
        both = (of_class.any(2) & of_others.any(2))[..., None]
        return ANCHOR * torch.where(both, F.normalize(means - _mean_of(of_others, inputs), dim=2), 0)
    return ANCHOR * F.normalize(means, dim=2)


def _mean_of(members: Tensor, inputs: Tensor) -> Tensor:
    """float64[fits, classes, d]: the mean input by the weights ``members`` float64[fits, classes, n]."""
    return (members @ inputs) / members.sum(2).clamp_min(1)[..., None]


def _minimized(
    inputs: Tensor, targets: Tensor, fitted: Tensor, start: Tensor, penalty: float, multiple: bool
) -> tuple[Tensor, Tensor, float]:
    """Weights float64[fits, classes, d] near ``start``, biases float64[fits, classes], the mean loss.

    Each fit is on the rows ``fitted`` bool[fits, n]; they are independent, and one descent of all is several
    times as fast as one after the other.
    """
    fits, classes, _ = start.shape
    shares = torch.zeros(fitted.shape, dtype=torch.float64)
    for place, rows in enumerate(fitted):
        shares[place, rows] = balance(targets[rows]) / rows.sum().clamp_min(1)
    base, wanted = inputs @ start.mT, targets.expand(fits, -1, -1).reshape(-1, classes)
    change = torch.zeros_like(start, requires_grad=True)
    bias = torch.zeros((fits, 1, classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([change, bias], max_iter=STEPS, line_search_fn="strong_wolfe")
    measured: list[float] = []

    def penalized_loss() -> Tensor:
        optimizer.zero_grad()
        logits = base + inputs @ change.mT + bias
        losses = loss_of(logits.reshape(-1, classes), wanted, multiple).reshape(fitted.shape)
        loss = (losses * shares).sum()
        measured.append(finite(loss.item() / fits, len(inputs)))
        total = loss + penalty / 2 * change.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(penalized_loss)  # type: ignore[no-untyped-call]
    return (start + change).detach(), bias.detach()[:, 0], measured[-1]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    head = zero_head(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head


def folds_of(targets: Floats, seed: int = 0, folds: int = FOLDS) -> Rows:
    """int64[n]: the fold of each row; rows of the same labels are spread evenly over them."""
    order = np.random.default_rng(seed).permutation(len(targets))
    kinds = order[np.lexsort(targets[order].T)]
    fold = np.empty(len(targets), dtype=np.int64)
    fold[kinds] = np.arange(len(targets)) % folds
    return fold
