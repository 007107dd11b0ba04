"""Core-set against random on a project's page: the random slices of the batches, and a replay.

The slices compare randomly sampled images with the strategy's picks: how well the strategy finds images that
the model gets wrong. Only a replay tells how accurate models become that are trained on one or the other:
:mod:`coreset_backend.simulation.replay`, on images with known labels.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import CorruptFile
from coreset_backend.evaluation.history import HistoryLine
from coreset_backend.evaluation.learning_curve import area_under
from coreset_backend.evaluation.scores import proportion
from coreset_backend.store.record import (
    REPLAY,
    Interval,
    Replay,
    ReplayLine,
    ReplayPoint,
    as_saved,
    taken,
)
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)

REPLAY_FILE = "replay.json"


@dataclass(frozen=True, slots=True)
class SliceSummary:
    """The random slices of all rounds together, and a ``sentence`` about them.

    Accuracy of the previous model's predictions, made before the images were labelled: ``pool_accuracy`` on
    images sampled at random, ``picked_accuracy`` on the strategy's picks (None without picks).
    """

    sentence: str
    pool_accuracy: Interval
    picked_accuracy: Interval | None


def slice_summary(rounds: Iterable[HistoryLine]) -> SliceSummary | None:
    """The summary of the random slices of a history; None as long as none is labelled."""
    slices = [line.random_slice for line in rounds if line.random_slice]
    pool = _together(each.pool_accuracy for each in slices)
    picked = _together(each.picked_accuracy for each in slices)
    return SliceSummary(_sentence(pool, picked), pool, picked) if pool else None


def _together(intervals: Iterable[Interval | None]) -> Interval | None:
    """The share over all of them."""
    counted = [(round(each.value * each.n), each.n) for each in intervals if each]
    n = sum(count for _, count in counted)
    return proportion(sum(hits for hits, _ in counted), n) if n else None


def _sentence(pool: Interval, picked: Interval | None) -> str:
    words = (
        f"The model predicted {100 * pool.value:.0f} % of the {pool.n:,} randomly sampled images correctly"
    )
    if picked is None:
        return f"{words}: that is its accuracy on the pool."
    words += f" and {100 * picked.value:.0f} % of the {picked.n:,} images that the strategy picked: "
    if picked.high < pool.low:
        return words + "the picks are harder than the pool, as intended."
    if picked.low > pool.high:
        return words + "the picks are easier than the pool, so a random sample would help the model more."
    return words + "the intervals still overlap."


# ---------------------------------------------------------------- a replay


@dataclass(frozen=True, slots=True)
class MeanCurve:
    """Accuracy of one strategy and batch size: mean and deviation over the seeds, float64[points] each."""

    strategy: str
    batch: int
    labels: NDArray[np.int64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    seeds: int

    @property
    def area(self) -> float:
        """Mean accuracy over the labels; that of the only point where there is but one."""
        return (
            area_under(self.labels.tolist(), self.mean.tolist())
            if len(self.labels) > 1
            else float(self.mean[0])
        )

    def labels_to(self, accuracy: float) -> int | None:
        """The fewest labels at which the mean reached that accuracy."""
        reached = np.flatnonzero(self.mean >= accuracy)
        return int(self.labels[reached[0]]) if len(reached) else None


def keep_replay(store: Store, project_id: int, curves: Iterable[MeanCurve], sentence: str) -> None:
    """Remember what a replay on the project's images measured, for its page; raises Unwritable."""
    replay = Replay(sentence, tuple(map(_replay_line, curves)))
    store.kept(project_id, REPLAY_FILE).write(as_saved(REPLAY, replay))


def _replay_line(curve: MeanCurve) -> ReplayLine:
    measured = zip(curve.labels.tolist(), curve.mean.tolist(), curve.deviation.tolist(), strict=True)
    points = (ReplayPoint(labels, mean, mean - spread, mean + spread) for labels, mean, spread in measured)
    return ReplayLine(curve.strategy, curve.batch, curve.seeds, tuple(points))


def read_replay(store: Store, project_id: int) -> Replay | None:
    """The last replay that was kept; None without one that can be read."""
    kept = store.kept(project_id, REPLAY_FILE)
    try:
        saved = kept.read(unsealed_too=True)
        return None if saved is None else taken(REPLAY, saved)
    except (CorruptFile, ValueError) as error:
        log.error("ignored: %s: %s", kept, error)
        return None
