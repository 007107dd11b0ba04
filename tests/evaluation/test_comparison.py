"""Core-set against random, as the page of a project tells it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_rounds import record

from coreset_backend.evaluation.comparison import MeanCurve, keep_replay, read_replay, slice_summary
from coreset_backend.evaluation.history import HistoryLine, history_line
from coreset_backend.store.record import BatchScores, Interval, Replay, ReplayLine, ReplayPoint
from coreset_backend.store.store import Store


def line(pool: tuple[int, int] | None, picks: tuple[int, int] | None) -> HistoryLine:
    """A round of the history; of the batch before, (hits, images) of the random slice and of the picks."""
    shares = (counted and Interval(counted[0] / counted[1], 0, 1, counted[1]) for counted in (pool, picks))
    return history_line(record(random_slice=(1, 2), batch_figures=BatchScores(*shares)))


def test_the_slices_of_all_rounds_are_counted_together() -> None:
    rounds = [history_line(record()), line(None, None), line((3, 4), (2, 11)), line((5, 6), (3, 13))]
    summary = slice_summary(rounds)
    assert summary and summary.picked_accuracy
    pool, picked = summary.pool_accuracy, summary.picked_accuracy
    assert (pool.value, pool.n) == (0.8, 10)
    assert (picked.value, picked.n) == (pytest.approx(5 / 24), 24)
    assert pool.low < 0.8 < pool.high
    assert (
        "predicted 80 % of the 10 randomly sampled images correctly and 21 % of the 24 images"
        in summary.sentence
    )
    assert "harder than the pool" in summary.sentence


@pytest.mark.parametrize(
    ("pool", "picks", "words"),
    [
        ((2, 4), (2, 5), "intervals still overlap"),
        ((5, 50), (40, 50), "easier than the pool"),
        ((3, 4), None, "75 % of the 4 randomly sampled images correctly: that is its accuracy on the pool"),
    ],
)
def test_the_sentence_says_no_more_than_the_intervals_allow(pool: Any, picks: Any, words: str) -> None:
    summary = slice_summary([line(pool, picks)])
    assert summary and words in summary.sentence


def test_without_a_labelled_slice_there_is_nothing_to_say() -> None:
    assert slice_summary([]) is None
    assert slice_summary([history_line(record()), line(None, None)]) is None


def test_a_replay_is_kept_whole_and_a_torn_one_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.register(7)
    assert read_replay(store, 7) is None
    labels, mean, spread = np.array([10, 20]), np.array([0.5, 0.75]), np.array([0.25, 0.0])
    keep_replay(store, 7, [MeanCurve("k_center", 10, labels, mean, spread, 2)], "k_center is better.")
    kept = read_replay(store, 7)
    points = (ReplayPoint(10, 0.5, 0.25, 0.75), ReplayPoint(20, 0.75, 0.75, 0.75))
    line = ReplayLine("k_center", 10, 2, points)
    assert kept == Replay("k_center is better.", (line,))
    (store.root / "projects/7/replay.json").write_text('{"sen')
    assert read_replay(store, 7) is None
