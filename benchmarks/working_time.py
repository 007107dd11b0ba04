"""Whether the 90 % interval of the work on the next labels contains it, by simulated annotators.

    python benchmarks/working_time.py [--repetitions 1000]

Annotators differ in speed, their times are skewed, and some leave the editor open for one minute to eight
hours. Either each label is by anybody, or each batch of 50 has its own people. It prints the table of
docs/hours.md.
"""

import argparse
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from coreset_backend.evaluation.working_time import effort, working_time
from coreset_backend.project import TimedAnswer

BATCH = 50
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """``known`` labels by ``people`` whose speeds have ``speeds`` as standard deviation of their logarithm.

    The times are log-normal with ``sigma``, or of the ``shape`` "gamma" or "two kinds": 15 % of the images
    take eight times as long. A share ``idle`` of the editors is left open. ``batches``: each batch has its
    own mix of people.
    """

    known: int
    ahead: int = BATCH
    people: int = 3
    speeds: float = 0.4
    sigma: float = 0.8
    idle: float = 0.05
    shape: str = "log-normal"
    batches: bool = False


CASES = (
    Case(20),
    Case(50),
    Case(240),
    Case(1000),
    Case(240, people=1, speeds=0.0),
    Case(240, batches=True),
    Case(240, idle=0.0),
    Case(240, idle=0.1),
    Case(240, idle=0.2),
    Case(240, sigma=0.4),
    Case(240, sigma=1.1),
    Case(240, shape="gamma"),
    Case(240, shape="two kinds"),
    Case(240, 2000),
    Case(1000, 5000),
    Case(1000, 5000, batches=True),
)


@dataclass(frozen=True, slots=True)
class Found:
    """``covered``: the share of repetitions whose interval contains the truth; ``width``: the median of its
    upper end over its lower; ``bias``: of the estimated mean, relative, on average."""

    covered: float
    width: float
    bias: float


def simulate(case: Case, repetitions: int, seed: int = 0) -> Found:
    rng = np.random.default_rng(seed)
    covered, widths, biases = 0, [], []
    for _ in range(repetitions):
        who, work = _labels(case, rng)
        seen, truth = work[: case.known].copy(), work[case.known :].sum()
        idle = rng.random(case.known) < case.idle
        seen[idle] += np.exp(rng.uniform(np.log(60), np.log(8 * 3600), int(idle.sum())))
        answers = [
            TimedAnswer(int(person), float(seconds), float(place))
            for place, (person, seconds) in enumerate(zip(who[: case.known], seen, strict=True))
        ]
        known = working_time(answers, BATCH, 1, datetime.fromtimestamp(case.known, UTC))
        assert known
        found = effort(known, case.ahead)
        covered += int(found.low <= truth <= found.high)
        widths.append(found.high / found.low)
        biases.append(known.seconds / work.mean())
    return Found(covered / repetitions, float(np.median(widths)), float(np.mean(biases)) - 1)


def _labels(case: Case, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """Who makes each label, and the work on it in seconds."""
    count = case.known + case.ahead
    speeds = 6 * np.exp(case.speeds * rng.standard_normal(case.people))
    shares = rng.dirichlet(np.full(case.people, 2.0))
    mixes = np.tile(shares, (count // BATCH + 1, 1))
    if case.batches:
        mixes = rng.dirichlet(3 * shares + 1e-3, count // BATCH + 1)
    draws = rng.random((count, 1)) > np.cumsum(mixes[np.arange(count) // BATCH], axis=1)
    who = np.minimum(draws.sum(1), case.people - 1)
    return who, speeds[who] * _times(case, count, rng)


def _times(case: Case, count: int, rng: np.random.Generator) -> Floats:
    if case.shape == "gamma":
        return rng.gamma(2.0, 1.0, count)
    if case.shape == "two kinds":
        return np.exp(0.4 * rng.standard_normal(count)) * np.where(rng.random(count) < 0.15, 8.0, 1.0)
    return np.exp(case.sigma * rng.standard_normal(count))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--repetitions", type=int, default=1000)
    repetitions = options.parse_args().repetitions
    print("| known | ahead | people | times | idle | who | covered | width | estimate |")
    print(9 * "|---" + "|")
    for case in CASES:
        found = simulate(case, repetitions)
        times = f"log-normal {case.sigma}" if case.shape == "log-normal" else case.shape
        who = "each batch others" if case.batches else "anybody"
        print(
            f"| {case.known:,} | {case.ahead:,} | {case.people} | {times} | {case.idle:.0%} | {who} "
            f"| {found.covered:.0%} | {found.width:.2f} | {found.bias:+.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
