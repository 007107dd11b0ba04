"""What one replay measured."""

from dataclasses import dataclass


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
