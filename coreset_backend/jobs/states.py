"""The states of a project's round and the phases of a running round: names and texts."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class RoundState(StrEnum):
    """The same on the page, in the API, on the command line, in doctor and in the metrics."""

    IDLE = "idle"
    """No round runs and none is queued: a batch is being labelled, or rounds are paused."""
    WAITING = "waiting"
    """A round is queued: a person requested it, it is the first, it is a retry, or its process was lost."""
    RUNNING = "running"
    FAILED = "failed"
    """The last round failed, and the queue does not retry it."""
    UNKNOWN = "unknown"
    """Redis does not answer, or the project's files cannot be read."""


class Phase(StrEnum):
    """The phases of a round in order.

    ``words``: the activity in words. ``seconds``: the assumed duration until a first round has measured it.
    """

    words: str
    seconds: float

    def __new__(cls, name: str, words: str, seconds: float) -> "Phase":
        phase = str.__new__(cls, name)
        phase._value_, phase.words, phase.seconds = name, words, seconds
        return phase

    SNAPSHOT = "snapshot", "Reading the project", 2.0
    WEIGHTS = "weights", "Downloading weights", 0.0
    CLUSTER = "cluster", "Embedding on the cluster", 0.0
    IMAGES = "images", "Reading images", 10.0
    TRAIN = "train", "Training the network", 30.0
    EMBED = "embed", "Embedding", 10.0
    FIT = "fit", "Fitting the model", 1.0
    NEIGHBORS = "neighbors", "Indexing neighbours", 1.0
    SELECT = "select", "Selecting", 1.0
    MAP = "map", "Drawing the map", 2.0
    SAVE = "save", "Saving", 1.0
    PUBLISH = "publish", "Publishing", 5.0


RARE = (Phase.WEIGHTS, Phase.CLUSTER)
"""Phases that few rounds have."""


@dataclass(frozen=True, slots=True)
class Step:
    """A phase of a round as the page lists it; ``name``: the activity in words."""

    phase: str
    name: str
    status: Literal["done", "current", "pending"]


def steps(current: str | None) -> tuple[Step, ...]:
    """The phases in order; all are pending if none is ``current``.

    An unknown phase of another release is shown before all others. Phases that few rounds have are listed
    only while they last.
    """
    phases = {str(phase): phase.words for phase in Phase if phase not in RARE or current == phase}
    if current and current not in phases:
        phases = {current: current.capitalize(), **phases}
    place = list(phases).index(current) if current else -1
    return tuple(
        Step(phase, words, "done" if number < place else "current" if number == place else "pending")
        for number, (phase, words) in enumerate(phases.items())
    )
