"""Probabilities of a pool that are as sure as they are right, by the distance to the nearest label.

Labelled images are no sample of the pool. A strategy picks those that are hard, and one of each group of
near-duplicates, so that none is close to another; the pool may be full of near-copies of them. Two things
make up for it: the temperature rises with the distance to the nearest label, and in its fit each label weighs
as much as the images that it stands for.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from coreset_backend.arrays import Floats, Rows
from coreset_backend.model.classifier import Classifier, probabilities_of
from coreset_backend.model.descent import loss_of
from coreset_backend.model.heads import (
    TEMPERATURE_FOLDS,
    TEMPERATURES,
    folds_of,
    held_out_logits,
    trust_in_temperature,
)

STEPS = 100
VALUES = 2**24
"""Similarities computed at once: 64 MB."""


def pool_probabilities(
    classifier: Classifier, embeddings: Floats, rows: Rows, targets: Floats
) -> Floats | None:
    """float32[n, classes] of a pool's embeddings float32[n, dimension]; None without a head.

    ``rows`` int64[l] of the pool are those that the head was fitted on, with ``targets`` float32[l, classes].
    Embeddings that are not prepared have no unit length; their temperature is the classifier's own.
    """
    if classifier.head is None or classifier.preparation is None or not len(rows):
        return probabilities_of(classifier, embeddings)
    vectors = torch.from_numpy(embeddings)
    weight, bias = classifier.head.weight.detach().cpu(), classifier.head.bias.detach().cpu()
    logits = F.linear(vectors, weight, bias)
    distances, nearest = _nearest(vectors, vectors[rows])
    distances[rows] = 0
    stands_for = torch.bincount(nearest, minlength=len(rows))
    at_label, rise = _fitted_line(vectors[rows], logits[rows], targets, stands_for, classifier.multiple)
    tempered = logits / _temperatures(at_label, rise, distances)[:, None]
    chances: Floats = (tempered.sigmoid() if classifier.multiple else tempered.softmax(1)).numpy()
    return chances


def _fitted_line(
    labeled: Tensor, logits: Tensor, targets: Floats, stands_for: Tensor, multiple: bool
) -> tuple[float, float]:
    """The logarithm of the temperature at distance 0 and its rise, of least loss; near 0 at few labels.

    Each label counts twice: at its distance to the others, as a head answers that was fitted without it, and
    at distance 0, as the head itself answers, which stands for near-copies.
    """
    folds = folds_of(targets, folds=TEMPERATURE_FOLDS)
    held_out = held_out_logits(labeled.numpy(), targets, folds[None], multiple=multiple)[0]
    apart = _between_folds(labeled, folds)
    both = torch.cat([held_out, logits.double()])
    distances = torch.cat([apart, torch.zeros_like(apart)]).double()
    weights = (stands_for / stands_for.sum()).double().repeat(2)
    wanted = torch.from_numpy(targets).double().repeat(2, 1)
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        tempered = both / _temperatures(line[0], line[1], distances)[:, None]
        mean = (loss_of(tempered, wanted, multiple) * weights).sum()
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    at_label, rise = (trust_in_temperature(len(targets)) * line.detach()).tolist()
    return at_label, rise


def _temperatures(at_label: Tensor | float, rise: Tensor | float, distances: Tensor) -> Tensor:
    least, most = np.log(TEMPERATURES[[0, -1]])
    return (at_label + rise * distances).clamp(least, most).exp()


def _nearest(vectors: Tensor, labeled: Tensor) -> tuple[Tensor, Tensor]:
    """1 - cosine to the nearest of ``labeled`` float32[l, d], float32[n], and which it is, int64[n]."""
    blocks = torch.split(vectors, max(VALUES // len(labeled), 1))
    found = [(block @ labeled.T).max(1) for block in blocks]
    cosines, which = (torch.cat(parts) for parts in zip(*found, strict=True))
    return (1 - cosines).clamp_min(0), which


def _between_folds(labeled: Tensor, folds: Rows) -> Tensor:
    """float32[l]: the distance of each row to the nearest of another fold, 1 where there is none."""
    distances = torch.ones(len(labeled))
    for number in np.unique(folds):
        own = torch.from_numpy(folds == number)
        if not own.all():
            distances[own] = _nearest(labeled[own], labeled[~own])[0]
    return distances
