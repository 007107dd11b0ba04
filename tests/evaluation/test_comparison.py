"""Core-set against random, as the page of a project tells it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreset_backend.evaluation.comparison import MeanCurve, keep_replay, read_replay, slice_summary
from coreset_backend.store.store import Store


def line(pool: tuple[int, int] | None, picks: tuple[int, int] | None) -> dict[str, Any]:
    """A round of the history whose slice had (hits, images)."""
    shares = {
        name: counted and {"value": counted[0] / counted[1], "low": 0, "high": 1, "n": counted[1]}
        for name, counted in (("pool_accuracy", pool), ("picked_accuracy", picks))
    }
    return {"random_slice": {"tasks": 5, **shares}}


def test_the_slices_of_all_rounds_are_counted_together() -> None:
    rounds = [{"random_slice": None}, line(None, None), line((3, 4), (2, 11)), line((5, 6), (3, 13))]
    summary = slice_summary(rounds)
    assert (summary["pool_accuracy"]["value"], summary["pool_accuracy"]["n"]) == (0.8, 10)
    assert (summary["picked_accuracy"]["value"], summary["picked_accuracy"]["n"]) == (
        pytest.approx(5 / 24),
        24,
    )
    assert summary["pool_accuracy"]["low"] < 0.8 < summary["pool_accuracy"]["high"]
    assert (
        "right about 80 % of the 10 images sampled at random and about 21 % of the 24" in summary["sentence"]
    )
    assert "harder than the pool" in summary["sentence"]


@pytest.mark.parametrize(
    ("pool", "picks", "words"),
    [
        ((2, 4), (2, 5), "intervals still overlap"),
        ((5, 50), (40, 50), "easier than the pool"),
        ((3, 4), None, "75 % of the 4 images sampled at random: that is its accuracy on the pool"),
    ],
)
def test_the_sentence_says_no_more_than_the_intervals_allow(pool: Any, picks: Any, words: str) -> None:
    assert words in slice_summary([line(pool, picks)])["sentence"]


def test_without_a_labelled_slice_there_is_nothing_to_say() -> None:
    assert slice_summary([]) is None
    assert slice_summary([{"random_slice": None}, line(None, None)]) is None


def test_a_replay_is_kept_whole_and_a_torn_one_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.register(7)
    assert read_replay(store, 7) is None
    labels, mean, spread = np.array([10, 20]), np.array([0.5, 0.75]), np.array([0.25, 0.0])
    keep_replay(store, 7, [MeanCurve("k_center", 10, labels, mean, spread, 2)], "k_center is better.")
    kept = read_replay(store, 7)
    assert kept["sentence"] == "k_center is better."
    assert kept["lines"][0]["points"] == [
        {"labels": 10, "value": 0.5, "low": 0.25, "high": 0.75},
        {"labels": 20, "value": 0.75, "low": 0.75, "high": 0.75},
    ]
    store.replay_path(7).write_text('{"sen')
    assert read_replay(store, 7) is None
