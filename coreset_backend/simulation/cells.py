"""What one replay measured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of a replay: accuracy and macro-F1 on the test images after training on ``labels``.

    ``calibration_error`` is on the images of the pool that are not labelled; None where there are none.
    """

    labels: int
    accuracy: float
    macro_f1: float
    radius_before: float | None
    calibration_error: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One replay: its points, the fewest labels first."""

    strategy: str
    batch: int
    seed: int
    points: tuple[Measured, ...]
