"""How probable each class is for a labelled image, given a model's opinion, and labels that may be wrong.

The opinions must come from models that have not seen the image's own label. Their weights, and the rate at
which annotators err, are estimated by maximum likelihood of the labels. An image whose label the model nearly
rules out is unusual for its class, or the label is an error; the rate says which is more probable.
Out-of-sample probabilities and an estimated noise rate are Northcutt et al.'s idea (2021, Confident Learning,
arXiv 1911.00068); the votes of several annotators are weighed as Dawid and Skene do (1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

STEPS = 100
FITTED_ON = 100_000
"""Most rows that the weights and rates are fitted on, randomly sampled."""
FEW_ERRORS = (2.0, 20.0)
"""The prior of the error rate, a beta distribution: it decides where there are only some dozen labels."""
USUAL_WEIGHTS, DEVIATION = (2.0, 0.75), 0.5
"""The prior of the weights, a log-normal distribution. Out-of-sample heads on few labels are too unsure."""
SUREST, SURE, EVEN = 0.2, 0.6, 0.7
"""Of the surest fifth of the answers and of the surest three fifths, the shares that differ from the labels
are compared."""
LEAST_LEARNED = 0.01

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LabelNoise:
    """The fit: ``probabilities`` float64[n, classes] of the true class of each row, its votes included;
    ``error_rate`` float64[classes]: how often an annotator gives another class to an image of that class."""

    probabilities: Numbers
    error_rate: Numbers


def fit_label_noise(
    opinions: Sequence[Numbers], votes: Numbers, fitted: NDArray[np.bool_], *, by_class: bool = False
) -> LabelNoise:
    """The noise that explains ``votes`` float64[n, classes], how many annotators chose each class.

    ``opinions``: one or two of float64[n, classes], logits or log-probabilities, the better one first.
    ``fitted`` bool[n]: the rows that the fit goes by. ``by_class``: classes differ in their error rate, which
    needs many rows; else one rate serves all. Errors fall evenly on the other classes.
    """
    said, cast = torch.from_numpy(np.stack(opinions)), torch.from_numpy(votes)
    rows = torch.from_numpy(_sample(np.flatnonzero(fitted)))
    rates = votes.shape[1] if by_class else 1
    usual = USUAL_WEIGHTS[: len(said)]
    middle = torch.tensor([*np.log(usual), *[-3.0] * rates], dtype=torch.float64)
    values = middle.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([values], max_iter=STEPS, line_search_fn="strong_wolfe")
    of_rows, cast_of_rows = said[:, rows], cast[rows]

    def loss() -> Tensor:
        optimizer.zero_grad()
        weights, rate = values[: len(said)], values[len(said) :]
        likelihood = _joint(of_rows, cast_of_rows, weights, rate).logsumexp(1).sum()
        total = -(likelihood + _prior(weights, middle[: len(said)], rate)) / (len(rows) + 1)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        weights, rate = values[: len(said)], values[len(said) :]
        probabilities = _joint(said, cast, weights, rate).softmax(1)
        error_rate = torch.sigmoid(rate).expand(votes.shape[1])
        learned = _learned_errors(_opinion(said, weights), cast, rows, float(error_rate.max()))
    return learned or LabelNoise(probabilities.numpy(), error_rate.numpy())


def _learned_errors(opinion: Tensor, votes: Tensor, rows: Tensor, known: float) -> LabelNoise | None:
    """The noise where the model has learned the annotators' errors itself, so that no label surprises it.

    With many labels and easy classes it answers "95 % dog, 5 % wolf" where annotators confuse them. Then its
    surest answers differ from the labels as often as less sure ones; where images are hard to tell apart they
    differ less. None if the model has not learned errors. ``known``: the rate by the fit.
    """
    if not len(rows):
        return None
    sure, answer = opinion[rows].max(1)
    order = sure.argsort(descending=True, stable=True)[: max(int(SURE * len(rows)), 1)]
    cast, answer = votes[rows][order], answer[order]
    wrong = 1 - cast.gather(1, answer[:, None])[:, 0] / cast.sum(1).clamp_min(1)
    surest = wrong[: max(int(SUREST * len(rows)), 1)]
    least = float(surest.mean()) - 2 * float((surest.mean() * (1 - surest.mean()) / len(surest)).sqrt())
    if least < 2 * known + LEAST_LEARNED or surest.mean() < EVEN * wrong.mean():
        return None
    classes = votes.shape[1]
    chosen = functional.one_hot(answer, classes).to(cast).T @ cast
    rate = wrong.mean()
    usual = (1 - rate) * torch.eye(classes) + rate / max(classes - 1, 1) * (1 - torch.eye(classes))
    errors = (chosen + classes * usual) / (chosen + classes * usual).sum(1, keepdim=True)
    top, likeliest = opinion.max(1, keepdim=True)
    explained = top * errors[likeliest[:, 0]].scatter(1, likeliest, 0.0)
    true = (opinion - explained).clamp_min(1e-9)
    joint = true.log() + votes @ errors.log().T
    return LabelNoise(joint.softmax(1).numpy(), (1 - errors.diagonal()).numpy())


def _opinion(opinions: Tensor, weights: Tensor) -> Tensor:
    """float64[n, classes]: the probabilities by the opinions alone."""
    return torch.einsum("o,onc->nc", weights.exp(), opinions).softmax(1)


def _joint(opinions: Tensor, votes: Tensor, weights: Tensor, rate: Tensor) -> Tensor:
    """float64[n, classes]: the log-probability that the class is the true one and the votes are as they are.

    ``weights`` float64[opinions] are logarithms, ``rate`` float64[classes] or [1] the log-odds of an error.
    """
    prior = torch.einsum("o,onc->nc", weights.exp(), opinions).log_softmax(1)
    others = votes.sum(1, keepdim=True) - votes
    error = functional.logsigmoid(rate) - np.log(max(votes.shape[1] - 1, 1))
    joint: Tensor = prior + votes * functional.logsigmoid(-rate) + others * error
    return joint


def _prior(weights: Tensor, middle: Tensor, rate: Tensor) -> Tensor:
    """The log-density of the weights (log-normal) and of the error rates (beta)."""
    first, second = FEW_ERRORS
    rates = (first - 1) * functional.logsigmoid(rate) + (second - 1) * functional.logsigmoid(-rate)
    return rates.sum() - ((weights - middle) / DEVIATION).square().sum() / 2


def _sample(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(0).permutation(rows)[:FITTED_ON])
