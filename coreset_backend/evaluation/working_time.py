"""How long people work on an answer, and so how long a number of them takes.

Label Studio measures how long an editor was open, which is the work and, now and then, an idle tab. The work
on many answers is a sum, so the mean counts: the median of skewed times is too low, and the plain mean holds
the idle tabs. So answers whose editor was open extraordinarily long for that person are left out, and the
mean of the others is raised by what a log-normal distribution of the same spread has in that tail. That is
a trimmed mean which is right for log-normal times, the usual shape of the times of a task (van der Linden
2006, Journal of Educational and Behavioral Statistics 31:181), and nearly right for others:
benchmarks/working_time.py measures it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from coreset_backend.project import Snapshot, TimedAnswer
from coreset_backend.store.record import Pace, WorkingTime

Floats = NDArray[np.float64]
LEAST = 20
"""Fewer timed answers say too little."""
RECENT = 1000
"""So many of the newest answers count: people become faster, and others come."""
IDLE_TIMES, IDLE_SIGMAS = 15.0, 2.5
"""An editor was idle if it was open longer than so many times a person's median, and than so many standard
deviations of the logarithm above it."""
TRIMS = 3
OWN_MEDIAN = 5
"""A person's median counts like that of all with so many answers of that person."""
MODEL_ERROR = 0.04
"""Relative standard error from what no number of answers shows: the shape of the tail, short breaks."""
Z90 = NormalDist().inv_cdf(0.95)
PACE_DAYS, LEAST_PACE_DAYS, LEAST_DAYS_WITH_LABELS = 28, 7, 5


@dataclass(frozen=True, slots=True)
class Effort:
    """The seconds of work on so many answers, with their 90 % interval."""

    answers: int
    seconds: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Days:
    """Days from a round on, by the calendar, with their 90 % interval."""

    value: float
    low: float
    high: float


# ---------------------------------------------------------------- measured by a round


def snapshot_working_time(snapshot: Snapshot, batch: int) -> WorkingTime | None:
    """The working time of the snapshot's answers by people; None where too few have one."""
    timed = [each for task in snapshot.tasks for each in task.timed]
    return working_time(timed, batch, snapshot.overlap, snapshot.taken_at)


def working_time(
    answers: Sequence[TimedAnswer], batch: int, overlap: int, now: datetime
) -> WorkingTime | None:
    """The working time of the newest answers; None for fewer than LEAST.

    ``batch`` answers in a row are mostly given by the same people; ``overlap`` people answer each task.
    """
    newest = sorted(answers, key=lambda each: each.at or 0.0)[-RECENT:]
    if len(newest) < LEAST:
        return None
    seconds = np.array([each.seconds for each in newest])
    people, person = np.unique([repr(each.annotator) for each in newest], return_inverse=True)
    works, idle_from, sigma = _working(np.log(seconds), person)
    mean = float(seconds[works].mean()) * _tail(idle_from / sigma, sigma)
    square = float((seconds[works] ** 2).mean()) * _tail(idle_from / sigma, 2 * sigma)
    block = max(1, min(batch, len(newest) // 4))
    return WorkingTime(
        seconds=mean,
        spread=math.sqrt(max(square / mean**2 - 1, 0.0)),
        between=_between_blocks(seconds, works, person, block),
        block=block,
        answers=len(newest),
        idle=int((~works).sum()),
        people=len(people),
        overlap=overlap,
        pace=_pace(answers, now),
    )


def _working(logs: Floats, person: NDArray[np.int64]) -> tuple[NDArray[np.bool_], float, float]:
    """Which answers are work, the limit for that above a person's median, and the spread of the logarithms.

    Median and spread are taken again from what is work, since many idle editors raise both.
    """
    works = np.ones(len(logs), dtype=bool)
    for _ in range(TRIMS):
        offsets = logs - _medians(logs, person, works)
        off_centre = np.abs(offsets[works] - np.median(offsets[works]))
        sigma = max(1.4826 * float(np.median(off_centre)), 1e-6)  # MAD of a normal
        idle_from = max(IDLE_SIGMAS * sigma, math.log(IDLE_TIMES))
        works = offsets <= idle_from
    return works, idle_from, sigma


def _medians(logs: Floats, person: NDArray[np.int64], works: NDArray[np.bool_]) -> Floats:
    """By answer the median of its person's work, drawn towards that of all where the person gave few."""
    everyone, medians = float(np.median(logs[works])), np.full(len(logs), np.median(logs[works]))
    for each in np.unique(person[works]):
        own = logs[works & (person == each)]
        weight = len(own) / (len(own) + OWN_MEDIAN)
        medians[person == each] = weight * np.median(own) + (1 - weight) * everyone
    return medians


def _tail(room: float, sigma: float) -> float:
    """The mean of a log-normal x over that of x below a cut ``room`` standard deviations above its median."""
    normal = NormalDist()
    return normal.cdf(room) / max(normal.cdf(room - sigma), 0.05)


def _between_blocks(
    seconds: Floats, works: NDArray[np.bool_], person: NDArray[np.int64], block: int
) -> float:
    """The relative standard deviation of the mean of a block of answers because of who gives them.

    Only what exceeds that of blocks whose answers come from people in random order.
    """
    whole = seconds[works].mean()
    own = np.array(
        [
            seconds[works & (person == each)].mean() if works[person == each].any() else whole
            for each in np.unique(person)
        ]
    )
    speed = own[person] / whole
    count = len(speed) // block
    means = speed[len(speed) - count * block :].reshape(count, block).mean(1)
    return math.sqrt(max(float(means.var(ddof=1)) - float(speed.var()) / block, 0.0)) if count > 1 else 0.0


def _pace(answers: Sequence[TimedAnswer], now: datetime) -> Pace | None:
    """Answers by day of the last PACE_DAYS days, today excepted; None where they are too few to go on."""
    today = now.astimezone(UTC).date()
    ages = Counter(
        (today - datetime.fromtimestamp(each.at, UTC).date()).days for each in answers if each.at is not None
    )
    counts = {age: count for age, count in ages.items() if 1 <= age <= PACE_DAYS}
    days = max(counts, default=0)
    if days < LEAST_PACE_DAYS or len(counts) < LEAST_DAYS_WITH_LABELS:
        return None
    by_day = np.array([counts.get(age, 0) for age in range(1, days + 1)], dtype=np.float64)
    return Pace(
        per_day=float(by_day[by_day > 0].mean()),
        days=days,
        with_labels=len(counts),
        spread=float(by_day.std(ddof=1) / by_day.mean()),
    )


# ---------------------------------------------------------------- read off a record


def effort(known: WorkingTime, tasks: int) -> Effort:
    """The work on so many tasks, each answered by as many people as the project asks."""
    count = tasks * known.overlap
    if not count:
        return Effort(0, 0.0, 0.0, 0.0)
    blocks = max(known.answers // known.block, 1)
    variance = (
        known.spread**2 * (1 / count + 1 / known.answers)
        + known.between**2 * (min(1.0, known.block / count) + 1 / blocks)
        + MODEL_ERROR**2
    )
    # Student's t for few answers, to the first order.
    quantile = Z90 * (1 + (Z90**2 + 1) / (4 * (known.answers - 1)))
    factor = math.exp(quantile * math.sqrt(math.log1p(variance)))
    seconds = count * known.seconds
    return Effort(count, seconds, seconds / factor, seconds * factor)


def per_label(known: WorkingTime) -> Effort:
    """The mean work on one answer, with the interval of the mean: that of one in very many answers."""
    many = 10**9
    found = effort(known, many)
    return Effort(1, known.seconds, found.low / found.answers, found.high / found.answers)


def days_for(known: WorkingTime, tasks: int) -> Days | None:
    """The days that so many tasks take at the pace of the last weeks; None where there is no such pace."""
    pace = known.pace
    if pace is None:
        return None
    days = tasks * known.overlap / (pace.per_day * pace.with_labels / pace.days)
    variance = pace.spread**2 * (1 / max(days, 1.0) + 1 / pace.days)
    factor = math.exp(Z90 * math.sqrt(math.log1p(variance)))
    return Days(days, days / factor, days * factor)


def done_on(taken_at: str, days: float) -> datetime:
    """The time so many days after a round was taken."""
    return datetime.fromisoformat(taken_at) + timedelta(days=days)
