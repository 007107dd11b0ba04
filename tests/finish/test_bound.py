"""The bound against brute force: how often it misleads is counted, not believed."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from coreset_backend.finish.bound import LOOK, boundary, fewer_wrong, looks, most_wrong, random_order


def drawn(size: int, wrong: int, n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.arange(size) < wrong)[:n]


@pytest.mark.parametrize(("size", "wrong"), [(60, 4), (400, 21), (3000, 151), (3000, 301)])
def test_looking_at_every_tenth_answer_misleads_in_one_of_twenty_at_most(size: int, wrong: int) -> None:
    rng, allowed = np.random.default_rng(0), np.array(boundary(size, wrong, 0.05, 300))
    found = np.stack([np.cumsum(drawn(size, wrong, 300, rng))[LOOK - 1 :: LOOK] for _ in range(4000)])
    misled = (found <= allowed).any(1).mean()
    assert misled <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)
    assert misled > 0.01 or size == 60  # the chance is used, not saved


def test_one_look_is_the_hypergeometric_test() -> None:
    (limit,) = boundary(200, 20, 0.05, LOOK)
    assert hypergeom.cdf(limit, 200, 20, LOOK) <= 0.05 < hypergeom.cdf(limit + 1, 200, 20, LOOK)


def test_a_set_that_was_checked_whole_is_known() -> None:
    checked = np.zeros(60, dtype=bool)
    checked[::12] = True
    assert most_wrong(60, checked, chance=0.05, most=60) == 5


def test_nothing_is_known_without_a_look_and_more_checks_lower_the_bound() -> None:
    clean = np.zeros(300, dtype=bool)
    bounds = [most_wrong(2000, clean[:n], chance=0.05, most=300) for n in (0, 9, 60, 150, 300)]
    assert bounds[:2] == [2000, 1991]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] <= 20
    assert fewer_wrong(2000, bounds[-1] + 1, clean, chance=0.05, most=300)


def test_looks_end_with_the_set_or_the_budget() -> None:
    assert looks(35, 300) == (10, 20, 30)
    assert looks(10_000, 50) == (10, 20, 30, 40, 50)


def test_what_was_sampled_before_comes_first_and_the_order_stays_random() -> None:
    among = np.arange(40) % 2 == 0
    rng, places = np.random.default_rng(1), np.zeros(40)
    for seed in range(4000):
        slice_ = rng.choice(np.flatnonzero(among), 5, replace=False)
        order = random_order(40, slice_, among, seed)
        assert sorted(order) == list(range(40))
        assert set(order[among[order]][:5]) == set(slice_)
        places[order[:10]] += 1
    assert np.abs(places / 4000 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 4000)
