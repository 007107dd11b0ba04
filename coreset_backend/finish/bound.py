"""How many of a set's answers are wrong at most, from answers that people checked in random order.

The set is finite and sampled without replacement, so the number of wrong answers among the first n checked
is hypergeometric. It is looked at after every LOOK answers, and the bound holds at all looks together: the
chance that any of them misleads is spent in proportion to the answers checked (Lan and DeMets 1983), and the
boundary that spends it is computed exactly.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

LOOK = 10
"""Checked answers between two looks."""
PROBABILITIES = NDArray[np.float64]


def looks(size: int, most: int) -> tuple[int, ...]:
    """How many answers of a set of ``size`` are checked at each look, when at most ``most`` are."""
    return tuple(range(LOOK, min(size, most) + 1, LOOK))


def fewer_wrong(size: int, wrong: int, checked: NDArray[np.bool_], *, chance: float, most: int) -> bool:
    """Whether the set has fewer than ``wrong`` wrong answers, by those ``checked`` in random order.

    ``checked``: bool[n], True where an answer was wrong. Where the set has ``wrong`` or more, this is True at
    any of the looks with a probability of at most ``chance``.
    """
    found = np.cumsum(checked)[LOOK - 1 : most : LOOK].astype(np.int64)
    # All numbers from `wrong` on must be refuted; no boundary lies more than 1 below that of a lower number.
    for number in range(wrong, size + 1):
        margin = np.max(boundary(size, number, chance, most)[: len(found)] - found, initial=-1)
        if margin != 0:
            return bool(margin > 0)
    return True


def most_wrong(size: int, checked: NDArray[np.bool_], *, chance: float, most: int) -> int:
    """The upper confidence bound on the set's wrong answers; the arguments are those of `fewer_wrong`."""
    low, high = int(checked.sum()), size - len(checked) + int(checked.sum())
    while low < high:
        middle = (low + high) // 2
        if fewer_wrong(size, middle + 1, checked, chance=chance, most=most):
            high = middle
        else:
            low = middle + 1
    return low


@lru_cache(maxsize=100_000)
def boundary(size: int, wrong: int, chance: float, most: int) -> NDArray[np.int64]:
    """int64[looks]: so many wrong answers found, or fewer, refute ``wrong`` in the set; -1 where none do."""
    planned = looks(size, most)
    cells = min(wrong, int(np.ceil(most * wrong / size)) + 1) + 1
    open_paths = np.zeros(cells)
    open_paths[0] = 1.0
    spent, allowed = 0.0, []
    for before, n in pairwise((0, *planned)):
        open_paths = _after(open_paths, size - before, wrong, n - before)
        crossing = spent + np.cumsum(open_paths)
        limit = int((crossing <= chance * n / most).sum()) - 1
        if limit >= 0:
            spent = float(crossing[limit])
            open_paths[: limit + 1] = 0.0
        allowed.append(limit)
    return np.array(allowed, dtype=np.int64)


def _after(paths: PROBABILITIES, left: int, wrong: int, drawn: int) -> PROBABILITIES:
    """The probabilities of 0, 1, ... wrong answers found, once ``drawn`` more of ``left`` are checked."""
    found, more = np.arange(len(paths))[:, None], np.arange(drawn + 1)[None]
    remaining = wrong - found
    chosen = _log_choose(remaining, more) + _log_choose(left - remaining, drawn - more)
    steps = paths[:, None] * np.exp(chosen - _log_choose(np.array(left), np.array(drawn)))
    after = np.zeros(len(paths) + drawn)
    for each in range(drawn + 1):
        after[each : each + len(paths)] += steps[:, each]
    return after[: len(paths)]


def _log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> PROBABILITIES:
    """The logarithm of n choose k, -inf where that is 0."""
    possible = (k >= 0) & (k <= n)
    n, k = np.where(possible, n, 0), np.where(possible, k, 0)
    factorial = _log_factorials(1 << int(n.max()).bit_length())
    return np.where(possible, factorial[n] - factorial[k] - factorial[n - k], -np.inf)


@lru_cache(maxsize=32)
def _log_factorials(count: int) -> PROBABILITIES:
    return np.cumsum(np.log(np.maximum(np.arange(float(count)), 1)))


def random_order(n: int, first: Sequence[int], among: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """int64[n]: all rows in uniformly random order, in which ``first`` come as early as may be.

    ``first`` are rows that were sampled uniformly at random among the rows ``among`` bool[n]: they take the
    first places of those, so that the order of all remains uniformly random.
    """
    rng = np.random.default_rng([seed, n])
    order = rng.permutation(n)
    places = np.flatnonzero(among[order])
    early = rng.permutation(np.asarray(first, dtype=np.int64))
    others = order[places][~np.isin(order[places], early)]
    order[places] = np.concatenate([early, others])
    return order
