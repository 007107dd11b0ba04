"""How much work, money and time a project still takes: by the working time of its labels and what is left."""

from dataclasses import dataclass
from enum import StrEnum

from coreset_backend.evaluation.stop_advice import Advice
from coreset_backend.evaluation.working_time import LEAST, Effort, days_for, done_on, effort, per_label
from coreset_backend.finish.proposal import UNLABELED
from coreset_backend.finish.session import FinishState
from coreset_backend.jobs.finishing import FinishStatus, labels_left
from coreset_backend.reports import Count, Moment
from coreset_backend.settings import Settings
from coreset_backend.settings.hourly_cost import HourlyCost, read_hourly_cost
from coreset_backend.store.record import Round, WorkingTime

AUDITED_SHARE, AUDITS = 0.7, 300
"""An audit of so many checks finishes this share of what could be finished, on average (docs/finish.md)."""
MOST_DAYS = 3 * 365


class Goal(StrEnum):
    BATCH = "batch"
    STOP = "stop"
    FINISH = "finish"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Range:
    """A figure with its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DoneOn:
    """When a goal is reached by the calendar, with a 90 % interval."""

    value: Moment
    low: Moment
    high: Moment


@dataclass(frozen=True, slots=True)
class GoalWork:
    """The work until a goal is reached: people label ``tasks`` images in ``seconds`` of work.

    ``cost`` is None without an hourly cost, ``done_on`` without a pace. ``sentence``: the same in words.
    """

    goal: Goal
    tasks: Count
    seconds: Range
    cost: Range | None
    done_on: DoneOn | None
    sentence: str


@dataclass(frozen=True, slots=True)
class WorkLeft:
    """The work of people on a project; ``sentence`` says how long a label takes, or why that is not known.

    ``seconds_per_label`` is the mean, None while too little is known; there are no ``goals`` then.
    ``pace_sentence``: how many labels the team makes by the calendar, "" while too little is known.
    """

    sentence: str
    pace_sentence: str
    seconds_per_label: Range | None
    measured: WorkingTime | None
    currency: str
    goals: tuple[GoalWork, ...]


def work_left(settings: Settings, newest: Round, advice: Advice | None, finish: FinishStatus) -> WorkLeft:
    """The work on the project of the newest round, by what that round knew and the finish as it is."""
    known = newest.working_time
    price = read_hourly_cost(settings.hourly_cost) if settings.hourly_cost else None
    if known is None:
        words = (
            f"How long a label takes is not known yet: round {newest.number} found fewer than {LEAST} labels "
            "that people made in Label Studio's editor."
        )
        return WorkLeft(words, "", None, None, price.currency if price else "", ())
    one = per_label(known)
    return WorkLeft(
        sentence=_measured_words(known, one),
        pace_sentence=_pace_words(known),
        seconds_per_label=_range(one),
        measured=known,
        currency=price.currency if price else "",
        goals=tuple(_goal(each, newest, known, price) for each in _aims(newest, advice, finish)),
    )


# ---------------------------------------------------------------- what is left


@dataclass(frozen=True, slots=True)
class _Aim:
    """For the goal people label ``tasks`` images, or ``low`` to ``high``; ``words`` begin its sentence."""

    goal: Goal
    tasks: int
    low: int
    high: int
    words: str


def _aims(newest: Round, advice: Advice | None, finish: FinishStatus) -> list[_Aim]:
    counts = newest.counts
    batch, unlabeled = counts.get("selected", 0), sum(counts.get(state, 0) for state in UNLABELED)
    found = [_Aim(Goal.BATCH, batch, batch, batch, f"The batch of {batch:,} takes")] if batch else []
    if unlabeled and advice:
        found += _stop(advice, unlabeled)
    if unlabeled:
        found += _finish(newest, finish, unlabeled)
        words = f"All {unlabeled:,} unlabelled images by hand take"
        found.append(_Aim(Goal.ALL, unlabeled, unlabeled, unlabeled, words))
    return found


def _stop(advice: Advice, unlabeled: int) -> list[_Aim]:
    more = advice.until_stop
    if more is None or advice.verdict == "stop" or not 0 < more.value <= unlabeled:
        return []
    high = unlabeled if more.high is None else min(more.high, unlabeled)
    words = (
        f"Until more labels change little, about {more.value:,} more are needed ({more.low:,} to {high:,}), "
        "which take"
    )
    return [_Aim(Goal.STOP, more.value, more.low, high, words)]


def _finish(newest: Round, finish: FinishStatus, unlabeled: int) -> list[_Aim]:
    """By the bound of a finish under way; before one, by how often the model expects to be wrong."""
    by_model = sum(group.by_model for group in finish.groups)
    if finish.state is FinishState.UNDOING:
        return []
    if finish.state is FinishState.WRITTEN or (finish.state and by_model):
        left = labels_left(finish)
        words = f"Finishing at {100 * finish.accuracy:g} %, people label {left:,} images: that takes"
        return [_Aim(Goal.FINISH, left, left, left, words)]
    if newest.could_finish is None:
        return []
    expected, most = (max(int(share * newest.could_finish) - AUDITS, 0) for share in (AUDITED_SHARE, 1.0))
    left, low = (max(unlabeled - each, 0) for each in (expected, most))
    words = (
        f"Finishing at 95 %, people label about {left:,} images, with the audit ({low:,} to {unlabeled:,}), "
        "if the model is as right as it expects: that takes"
    )
    return [_Aim(Goal.FINISH, left, low, unlabeled, words)] if expected else []


# ---------------------------------------------------------------- what that takes


def _goal(aim: _Aim, newest: Round, known: WorkingTime, price: HourlyCost | None) -> GoalWork:
    work = Range(effort(known, aim.tasks).seconds, effort(known, aim.low).low, effort(known, aim.high).high)
    cost = Range(*(price.of(each) for each in (work.value, work.low, work.high))) if price else None
    done = _done(aim, newest, known)
    return GoalWork(aim.goal, aim.tasks, work, cost, done, _goal_words(aim, work, cost, price, done))


def _done(aim: _Aim, newest: Round, known: WorkingTime) -> DoneOn | None:
    value, low, high = (days_for(known, tasks) for tasks in (aim.tasks, aim.low, aim.high))
    if value is None or low is None or high is None or high.high > MOST_DAYS:
        return None
    moments = (done_on(newest.taken_at, each).isoformat() for each in (value.value, low.low, high.high))
    return DoneOn(*moments)


def _range(found: Effort) -> Range:
    return Range(found.seconds, found.low, found.high)


# ---------------------------------------------------------------- in words


def work_words(seconds: float) -> str:
    """A duration of work: ``6.2 s``, ``5 min``, ``2 h 10 min``, ``34 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 600:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    return f"{minutes / 60:,.0f} h"


def _money(amount: float, currency: str) -> str:
    number = f"{amount:,.2f}" if amount < 10 else f"{amount:,.0f}"
    return f"{number} {currency}".strip()


def _measured_words(known: WorkingTime, one: Effort) -> str:
    people = "1 person" if known.people == 1 else f"{known.people} people"
    idle = f"; {known.idle:,} of them are left out because the editor stood open" if known.idle else ""
    several = f" {known.overlap} people label each image." if known.overlap > 1 else ""
    return (
        f"A label takes {work_words(one.seconds)} of work (90 % interval {work_words(one.low)} to "
        f"{work_words(one.high)}, from {known.answers:,} labels by {people}{idle}).{several}"
    )


def _pace_words(known: WorkingTime) -> str:
    pace = known.pace
    if pace is None:
        return ""
    return (
        f"The team made labels on {pace.with_labels} of the last {pace.days} days, "
        f"on average {pace.per_day:,.0f} on such a day."
    )


def _goal_words(
    aim: _Aim, work: Range, cost: Range | None, price: HourlyCost | None, done: DoneOn | None
) -> str:
    words = (
        f"{aim.words} {work_words(work.value)} of work ({work_words(work.low)} to {work_words(work.high)})"
    )
    if cost and price:
        currency = price.currency
        low, high = _money(cost.low, ""), _money(cost.high, currency)
        words += f", about {_money(cost.value, currency)} ({low} to {high})"
    if done and done.value[:10] != done.low[:10]:
        words += f"; at this pace done by {done.value[:10]} ({done.low[:10]} to {done.high[:10]})"
    return f"{words}."
