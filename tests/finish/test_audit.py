"""An audit in simulation: what it takes, what it promises, and how often the promise is broken."""

import numpy as np
import pytest

from coreset_backend.finish.audit import (
    FEWEST,
    RIGHT,
    UNKNOWN,
    WRONG,
    Answers,
    Goal,
    Marks,
    checks_needed,
    set_sizes,
    standing,
    to_check,
)
from coreset_backend.finish.bound import LOOK, random_order


def answers(doubts: np.ndarray, seed: int) -> Answers:
    return Answers(doubts, random_order(len(doubts), (), np.ones(len(doubts), bool), seed))


def audited(wrong: np.ndarray, doubts: np.ndarray, goal: Goal, seed: int) -> tuple[int, Marks]:
    proposed, marks = answers(doubts, seed), np.full(len(wrong), UNKNOWN, dtype=np.int8)
    now = standing(proposed, marks, goal)
    while now.known < goal.most and len(rows := to_check(proposed, marks, now, LOOK)):
        marks[rows] = wrong[rows]
        now = standing(proposed, marks, goal, now.taken)
    assert standing(proposed, marks, goal).taken >= now.taken  # what was taken stays taken
    return now.taken, marks


@pytest.mark.parametrize("kind", ["calibrated", "sure of errors", "just above"])
def test_a_thousand_audits_break_their_promise_in_one_of_twenty_at_most(kind: str) -> None:
    rng, goal, n = np.random.default_rng(0), Goal(0.05, most=150), 600
    doubts = np.sort(rng.beta(0.4, 4, n))
    wrong = rng.random(n) < doubts
    if kind == "sure of errors":
        doubts, wrong = doubts / 10, rng.random(n) < 0.12
    if kind == "just above":
        doubts, wrong = np.full(n, 0.01), np.arange(n) % 18 == 0
    broken = []
    for seed in range(1000):
        taken, marks = audited(wrong, doubts, goal, seed)
        left = (wrong[:taken] & (marks[:taken] == UNKNOWN)).sum()
        broken.append(left > goal.wrong * taken)
    assert np.mean(broken) <= 0.05


def test_half_of_what_the_truth_allows_is_taken_of_a_mediocre_model() -> None:
    rng = np.random.default_rng(1)
    doubts = np.sort(rng.beta(0.5, 2, 4000))
    wrong = rng.random(4000) < doubts
    best = int(np.flatnonzero(np.cumsum(wrong) <= 0.05 * np.arange(1, 4001)).max()) + 1
    taken = np.mean([audited(wrong, doubts, Goal(0.05), seed)[0] for seed in range(5)])
    assert taken >= 0.45 * best


def test_the_bound_is_on_what_is_left_wrong_and_a_correction_lowers_it() -> None:
    proposed, goal = answers(np.linspace(0, 0.04, 400), 3), Goal(0.1)
    marks = np.full(400, UNKNOWN, dtype=np.int8)
    marks[proposed.order[:120]] = RIGHT
    clean = standing(proposed, marks, goal)
    assert (clean.taken, clean.audited) == (400, 400)
    marks[proposed.order[:120:40]] = WRONG
    found = standing(proposed, marks, goal)
    assert found.wrong == 3
    assert 0 < found.most_wrong <= 0.1 * found.taken
    marks[proposed.order[119:]] = RIGHT
    assert standing(proposed, marks, goal).most_wrong <= found.most_wrong


def test_too_little_is_known_until_enough_was_checked_and_it_says_how_much_is_missing() -> None:
    proposed, goal = answers(np.linspace(0, 0.2, 1000), 0), Goal()
    marks = np.full(1000, UNKNOWN, dtype=np.int8)
    now = standing(proposed, marks, goal)
    assert (now.taken, now.most_wrong, now.audited) == (0, 0, next(set_sizes(proposed.doubts, goal)))
    needed = checks_needed(proposed, marks, goal, now.audited)
    assert needed is not None
    marks[to_check(proposed, marks, now, needed - LOOK)] = RIGHT
    assert standing(proposed, marks, goal).taken == 0
    marks[to_check(proposed, marks, now, LOOK)] = RIGHT
    assert standing(proposed, marks, goal).taken >= now.audited


def test_a_model_that_is_often_wrong_gets_nothing_and_is_told_so() -> None:
    proposed, goal = answers(np.full(500, 0.01), 0), Goal(0.05, most=100)
    marks = np.full(500, UNKNOWN, dtype=np.int8)
    now = standing(proposed, marks, goal)
    while now.known < goal.most and len(rows := to_check(proposed, marks, now, LOOK)):
        marks[rows] = rows % 3 == 0
        now = standing(proposed, marks, goal)
    assert (now.taken, now.known) == (0, 100)
    assert checks_needed(proposed, marks, goal, now.audited) is None


@pytest.mark.parametrize("n", [0, 1, 7, FEWEST, FEWEST + 1, 5000])
def test_sets_grow_to_the_whole(n: int) -> None:
    sizes = list(set_sizes(np.linspace(0, 0.5, n), Goal()))
    assert sizes == sorted(set(sizes))
    assert sizes[-1:] == ([n] if n else [])
