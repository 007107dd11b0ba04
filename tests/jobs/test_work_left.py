"""The hours and the money that a project still takes: status, API, page and metrics say the same."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from saved_rounds import record, save

from coreset_backend.backend import Backend
from coreset_backend.cli.status import status_lines
from coreset_backend.evaluation.stop_advice import Advice, MoreLabels
from coreset_backend.finish.session import Audited, FinishState, Kind
from coreset_backend.finish.tally import Tally
from coreset_backend.jobs.finishing import FinishStatus
from coreset_backend.jobs.status import project_status
from coreset_backend.jobs.work_left import Goal, WorkLeft, work_left, work_words
from coreset_backend.settings import Settings
from coreset_backend.store.record import Pace, WorkingTime
from coreset_backend.web.app import create_app

NONE = FinishStatus(project=7, kind=Kind.MODEL, state=None, sentence="")

KNOWN = WorkingTime(
    seconds=6.2, spread=1.0, between=0.0, block=50, answers=240, idle=12, people=3, overlap=1, pace=None
)
COUNTS = {
    "labeled": 240,
    "selected": 50,
    "reserve": 50,
    "pool": 1850,
    "duplicate": 50,
    "model": 9,
    "skipped": 3,
}
ADVICE = Advice("keep labelling", "", None, None, None, (), MoreLabels(300, 200, 700))


def found(
    finish: FinishStatus | None = None, advice: Advice | None = None, cost: str | None = None, **given: Any
) -> WorkLeft:
    newest = record(**{"working_time": KNOWN, "counts": COUNTS, **given})
    settings = Settings(hourly_cost=cost)
    return work_left(settings, newest, advice, finish or NONE)


def tasks_by_goal(work: WorkLeft) -> dict[str, int]:
    return {str(each.goal): each.tasks for each in work.goals}


def auditing(by_model: int, state: FinishState = FinishState.AUDITING) -> FinishStatus:
    group = Audited("", 2000, 180, 3, by_model + 100, 40, by_model + 100, 0, by_model)
    return replace(NONE, state=state, groups=(group,), labels=Tally(left=1900))


def test_the_sentences_say_work_interval_and_cost() -> None:
    work = found(advice=ADVICE, cost="25 EUR")
    assert work.sentence == (
        "A label takes 6.2 s of work (90 % interval 5.5 s to 7.0 s, from 240 labels by 3 people; 12 of them "
        "are left out because the editor stood open)."
    )
    batch, stop, by_hand = (each.sentence for each in work.goals)
    assert batch == "The batch of 50 takes 5 min of work (4 min to 7 min), about 2.15 EUR (1.65 to 2.80 EUR)."
    assert stop.startswith(
        "Until more labels change little, about 300 more are needed (200 to 700), which take 31 min of work ("
    )
    assert by_hand.startswith("All 2,000 unlabelled images by hand take 3 h 27 min of work (")
    assert "about 86 EUR" in by_hand
    assert work.currency == "EUR"


def test_without_an_hourly_cost_there_is_no_money_and_zero_costs_nothing() -> None:
    assert all(each.cost is None and "about" not in each.sentence for each in found().goals)
    assert "about 0.00 (0.00 to 0.00)." in found(cost="0").goals[0].sentence


def test_what_is_left_is_what_the_others_count() -> None:
    assert tasks_by_goal(found(advice=ADVICE)) == {"batch": 50, "stop": 300, "all": 2000}
    assert tasks_by_goal(found(counts={"labeled": 90, "model": 10})) == {}
    assert tasks_by_goal(found(auditing(1200)))["finish"] == 700
    assert tasks_by_goal(found(auditing(1200, FinishState.WRITTEN)))["finish"] == 1900
    assert "finish" not in tasks_by_goal(found(auditing(0)))
    assert "finish" not in tasks_by_goal(found(auditing(1200, FinishState.UNDOING)))


def test_before_an_audit_the_finish_is_what_the_model_expects() -> None:
    (finish,) = (each for each in found(could_finish=1500).goals if each.goal is Goal.FINISH)
    assert finish.tasks == 2000 - (1050 - 300)
    assert "people label about 1,250 images, with the audit (800 to 2,000), if the model is as right" in (
        finish.sentence
    )
    assert finish.seconds.low < 800 * 6.2 and finish.seconds.high > 2000 * 6.2
    assert "finish" not in tasks_by_goal(found(could_finish=300))


@pytest.mark.parametrize(
    "advice",
    [
        replace(ADVICE, verdict="stop"),
        replace(ADVICE, until_stop=None),
        replace(ADVICE, until_stop=MoreLabels(0, 0, 10)),
        replace(ADVICE, until_stop=MoreLabels(2001, 900, None)),
    ],
)
def test_no_stop_is_promised_where_it_is_reached_unknown_or_beyond_the_pool(advice: Advice) -> None:
    assert "stop" not in tasks_by_goal(found(advice=advice))


def test_a_stop_that_may_be_beyond_the_pool_ends_there() -> None:
    work = found(advice=replace(ADVICE, until_stop=MoreLabels(300, 200, None)))
    assert "(200 to 2,000)" in work.goals[1].sentence


def test_the_calendar_is_said_where_there_is_a_pace() -> None:
    pace = Pace(per_day=100, days=14, with_labels=7, spread=1.0)
    work = found(working_time=replace(KNOWN, pace=pace, overlap=2))
    assert (
        work.pace_sentence == "The team made labels on 7 of the last 14 days, on average 100 on such a day."
    )
    batch, by_hand = work.goals
    assert batch.tasks == 50 and batch.seconds.value == pytest.approx(2 * 50 * 6.2)
    assert by_hand.done_on and by_hand.done_on.value == "2026-03-22T00:00:00+00:00"
    assert "; at this pace done by 2026-03-22 (2026-" in by_hand.sentence
    slow = found(working_time=replace(KNOWN, pace=replace(pace, per_day=1)))
    assert slow.goals[-1].done_on is None
    assert found().pace_sentence == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (6.24, "6.2 s"),
        (45, "45 s"),
        (89.6, "90 s"),
        (95, "2 min"),
        (5399, "1 h 30 min"),
        (7800, "2 h 10 min"),
        (7200, "2 h"),
        (35_990, "10 h"),
        (123_456, "34 h"),
        (12_345_678, "3,429 h"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert work_words(seconds) == words


def test_status_api_page_and_metrics_say_it_and_old_rounds_say_that_it_is_unknown(
    make_backend: Callable[..., Backend],
) -> None:
    backend = make_backend(hourly_cost="25 EUR")
    client = create_app(backend).test_client()
    save(backend.store)
    assert "is not known yet" in client.get("/projects/7").text
    assert 'coreset_label_seconds{project="7"}' not in client.get("/metrics").text
    save(backend.store, working_time=KNOWN, counts=COUNTS)
    sentence = "The batch of 50 takes 5 min of work (4 min to 7 min), about 2.15 EUR (1.65 to 2.80 EUR)."
    assert f"  {sentence}" in status_lines(project_status(backend, 7))
    answer = client.get("/api/projects/7/status").json or {}
    assert answer["work"]["goals"][0]["sentence"] == sentence
    assert answer["work"]["measured"]["answers"] == 240
    assert (client.get("/api/projects/7/overview").json or {})["work"] == answer["work"]
    assert sentence in client.get("/projects/7").text
    assert 'coreset_label_seconds{project="7"} 6.2' in client.get("/metrics").text
