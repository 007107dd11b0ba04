import math
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from coreset_backend.evaluation.working_time import (
    LEAST,
    RECENT,
    days_for,
    done_on,
    effort,
    per_label,
    working_time,
)
from coreset_backend.project import TimedAnswer
from coreset_backend.store.record import WorkingTime

sys.path.append(str(ROOT / "benchmarks"))
from working_time import Case, simulate

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)


def answers(seconds: list[float], annotator: int = 1) -> list[TimedAnswer]:
    return [TimedAnswer(annotator, each, float(place)) for place, each in enumerate(seconds)]


def known(given: list[TimedAnswer], batch: int = 50, overlap: int = 1) -> WorkingTime:
    found = working_time(given, batch, overlap, NOW)
    assert found
    return found


def skewed(count: int, seed: int = 0, sigma: float = 0.8) -> list[float]:
    return (6 * np.exp(sigma * np.random.default_rng(seed).standard_normal(count))).tolist()


@pytest.mark.parametrize(
    "case",
    [
        Case(50),
        Case(240),
        Case(240, batches=True),
        Case(240, shape="two kinds"),
        Case(240, idle=0.15),
        Case(1000, 5000),
    ],
)
def test_the_interval_contains_the_work_of_the_next_labels_in_about_90_of_100_cases(case: Case) -> None:
    found = simulate(case, 300)
    assert 0.83 <= found.covered <= 0.97  # 90 +- 4 standard errors
    assert abs(found.bias) < 0.1


def test_the_sum_of_skewed_times_is_their_mean_and_not_their_median() -> None:
    seconds = skewed(1000)
    found = known(answers(seconds))
    assert found.seconds == pytest.approx(np.mean(seconds), rel=0.05)
    assert found.seconds > 1.25 * float(np.median(seconds))
    assert found.idle < 5


def test_open_tabs_hardly_change_what_a_label_takes() -> None:
    seconds = skewed(240)
    plain = known(answers(seconds))
    opened = seconds.copy()
    for place in range(0, 240, 20):
        opened[place] += 3600 * (1 + place % 7)
    found = known(answers(opened))
    assert found.idle == plain.idle + 12 and found.answers == 240
    assert found.seconds == pytest.approx(plain.seconds, rel=0.1)
    assert effort(found, 50).high < 2 * effort(plain, 50).high


def test_a_slow_person_is_not_idle() -> None:
    slow = [replace(each, annotator=2, seconds=each.seconds * 12) for each in answers(skewed(100, 1))]
    found = known([*answers(skewed(100)), *slow])
    assert found.people == 2 and found.idle <= 2
    assert found.seconds == pytest.approx(6 * math.exp(0.32) * 6.5, rel=0.2)


def test_a_batch_by_one_of_two_unequal_people_is_less_certain_than_one_by_both() -> None:
    quick, slow = skewed(200, 2, 0.3), [4 * each for each in skewed(200, 3, 0.3)]
    turns, mixed = [], []
    for place in range(400):
        person = (place // 50) % 2
        turns.append(TimedAnswer(person, (slow if person else quick)[place // 2], float(place)))
        mixed.append(TimedAnswer(place % 2, (slow if place % 2 else quick)[place // 2], float(place)))
    in_turns, at_once = effort(known(turns), 50), effort(known(mixed), 50)
    assert in_turns.seconds == pytest.approx(at_once.seconds, rel=0.05)
    assert in_turns.high / in_turns.low > 1.5 * at_once.high / at_once.low


def test_too_few_answers_say_nothing_and_only_the_newest_count() -> None:
    assert working_time(answers([5.0] * (LEAST - 1)), 50, 1, NOW) is None
    assert working_time([], 50, 1, NOW) is None
    found = known(answers([60.0] * 500 + [5.0] * RECENT))
    assert (found.answers, found.seconds) == (RECENT, pytest.approx(5.0))


def test_more_labels_take_more_and_are_relatively_more_certain() -> None:
    found = known(answers(skewed(240)))
    some, many = effort(found, 50), effort(found, 5000)
    assert some.seconds == pytest.approx(50 * found.seconds)
    assert many.seconds == pytest.approx(100 * some.seconds)
    assert 1 < many.high / many.low < some.high / some.low
    one = per_label(found)
    assert one.low < one.seconds == found.seconds < one.high
    assert effort(found, 0).high == 0


def test_an_image_that_two_people_answer_takes_twice_the_work() -> None:
    seconds = answers(skewed(100))
    assert effort(known(seconds, overlap=2), 10).seconds == pytest.approx(
        2 * effort(known(seconds), 10).seconds
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1e-3, 9e8)), min_size=LEAST, max_size=60))
def test_any_times_give_a_positive_figure_with_an_ordered_interval(times: list[tuple[int, float]]) -> None:
    found = known([TimedAnswer(who, seconds, None) for who, seconds in times], batch=7)
    for count in (1, 50, 10_000):
        work = effort(found, count)
        assert 0 < work.low <= work.seconds <= work.high < math.inf


def on_days(counts: dict[int, int]) -> list[TimedAnswer]:
    """So many answers on the day so many days before NOW."""
    return [
        TimedAnswer(1, 5.0, (NOW - timedelta(days=age, seconds=place)).timestamp())
        for age, count in counts.items()
        for place in range(count)
    ]


def test_the_pace_is_of_the_last_weeks_without_today() -> None:
    week = dict.fromkeys((1, 2, 3, 6, 7, 8, 9, 10, 13, 14), 100)
    found = known([*on_days(week), *on_days({0: 7, 200: 1000})])
    assert found.pace and (found.pace.days, found.pace.with_labels) == (14, 10)
    assert found.pace.per_day == pytest.approx(100)
    days = days_for(found, 1000)
    assert days and days.value == pytest.approx(14)
    assert days.low < 14 < days.high < 40
    assert done_on("2026-03-30T12:00:00+00:00", days.value).date().isoformat() == "2026-04-13"


@pytest.mark.parametrize(
    "counts", [{0: 100}, {1: 50, 2: 50, 3: 50, 4: 50}, {40: 500}, {1: 10, 9: 10, 20: 10}]
)
def test_a_few_days_make_no_pace(counts: dict[int, int]) -> None:
    found = known([*on_days(counts), *answers(skewed(LEAST))])
    assert found.pace is None and days_for(found, 10) is None
