"""The states of a project's round and the phases of a running one: their names, and the words for them."""

from enum import StrEnum


class RoundState(StrEnum):
    """The same on the page, in the API, on the command line, in doctor and in the metrics."""

    IDLE = "idle"
    """No round runs and none is about to: a batch is being labelled, or rounds are paused."""
    WAITING = "waiting"
    """A round comes by itself: it was asked for, is the first, is tried again, or its process was lost."""
    RUNNING = "running"
    FAILED = "failed"
    """The last round failed, and the queue does not try it again."""


class Phase(StrEnum):
    """The phases of a round in order.

    ``words`` name what is being done; ``seconds``: how long it is taken to last until a first round shows it.
    """

    words: str
    seconds: float

    def __new__(cls, name: str, words: str, seconds: float) -> "Phase":
        phase = str.__new__(cls, name)
        phase._value_, phase.words, phase.seconds = name, words, seconds
        return phase

    SNAPSHOT = "snapshot", "Reading the project", 2.0
    IMAGES = "images", "Reading images", 10.0
    TRAIN = "train", "Training the network", 30.0
    EMBED = "embed", "Embedding", 10.0
    FIT = "fit", "Fitting the model", 1.0
    NEIGHBORS = "neighbors", "Indexing neighbours", 1.0
    SELECT = "select", "Choosing", 1.0
    MAP = "map", "Drawing the map", 2.0
    SAVE = "save", "Saving", 1.0
    PUBLISH = "publish", "Publishing", 5.0
