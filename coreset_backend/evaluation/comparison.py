"""Core-set against random on a project's page: what the random slice of each batch says, and a replay.

The slice compares images sampled at random with what the strategy picked: how well the strategy finds what
the model does not know. How good models become that learn from one or the other says a replay only, by
:mod:`coreset_backend.simulation.replay` on images whose labels are known.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import CorruptFile
from coreset_backend.evaluation.holdout import Interval, proportion
from coreset_backend.evaluation.learning_curve import area_under
from coreset_backend.files import is_there, read_sealed, write_sealed
from coreset_backend.store.record import REPLAY, taken
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)
Json = Any


def slice_summary(rounds: Iterable[Json]) -> Json:
    """All rounds' ``random_slice`` of the history together; None as long as none has been labelled.

    ``pool_accuracy`` and ``picked_accuracy``: ``{value, low, high, n}``, how accurate the previous model's
    predictions were on the images sampled at random and on those that the strategy picked, before anybody
    labelled them; ``picked_accuracy`` is None where the strategy picked none. ``sentence`` says it in words.
    """
    slices = [line["random_slice"] for line in rounds if line["random_slice"]]
    pool, picks = (
        _together(each[name] for each in slices if each[name])
        for name in ("pool_accuracy", "picked_accuracy")
    )
    if pool is None:
        return None
    return {
        "sentence": _sentence(pool, picks),
        "pool_accuracy": asdict(pool),
        "picked_accuracy": asdict(picks) if picks else None,
    }


def _together(intervals: Iterable[Json]) -> Interval | None:
    """The share over all of them."""
    counted = [(round(each["value"] * each["n"]), each["n"]) for each in intervals]
    n = sum(count for _, count in counted)
    return proportion(sum(hits for hits, _ in counted), n) if n else None


def _sentence(pool: Interval, picks: Interval | None) -> str:
    words = f"The model was right about {100 * pool.value:.0f} % of the {pool.n:,} images sampled at random"
    if picks is None:
        return f"{words}: that is its accuracy on the pool."
    words += f" and about {100 * picks.value:.0f} % of the {picks.n:,} that the strategy picked: "
    if picks.high < pool.low:
        return words + "its picks are harder than the pool, as they should be."
    if picks.low > pool.high:
        return words + "its picks are easier than the pool, so a random sample would teach the model more."
    return words + "their intervals still overlap."


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


def keep_replay(store: Store, project_id: int, lines: Sequence[MeanCurve], sentence: str) -> None:
    """Remember what a replay on the project's images measured, for its page."""
    body = {
        "sentence": sentence,
        "lines": [
            {
                "strategy": line.strategy,
                "batch": line.batch,
                "seeds": line.seeds,
                "points": [
                    {"labels": labels, "value": mean, "low": mean - spread, "high": mean + spread}
                    for labels, mean, spread in zip(
                        line.labels.tolist(), line.mean.tolist(), line.deviation.tolist(), strict=True
                    )
                ],
            }
            for line in lines
        ],
    }
    write_sealed(store.replay_path(project_id), body)


def read_replay(store: Store, project_id: int) -> Json:
    """``{sentence, lines}``, each line ``{strategy, batch, seeds, points}`` with ``points`` ``{labels, value,
    low, high}``: mean accuracy, and a standard deviation to either side. None without a whole one.
    """
    path = store.replay_path(project_id)
    if not is_there(path):
        return None
    try:
        return taken(REPLAY, read_sealed(path, unsealed_too=True))
    except (CorruptFile, ValueError) as error:
        log.error("passed over: %s: %s", path, error)
        return None
