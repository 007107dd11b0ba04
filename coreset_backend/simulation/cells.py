"""What one replay measured, and what several say together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.evaluation.learning_curve import area_under


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of a replay: accuracy and macro-F1 on the test images after training on ``labels``."""

    labels: int
    accuracy: float
    macro_f1: float
    radius_before: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """One replay: its points, the fewest labels first."""

    strategy: str
    batch: int
    seed: int
    points: tuple[Measured, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """Mean and standard deviation over the seeds, float64[points] each, of one strategy and batch."""

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
