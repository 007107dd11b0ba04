"""Imported predictions of another model, and whether a round used them, as they are kept."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from coreset_backend.reports import Count, Moment, Share, TaskId


@dataclass(frozen=True, slots=True)
class Imported:
    """By task, ascending, the probability of each class in ``names``; ``source`` says where they are from.

    In single choice those of a task add up to 1.
    """

    source: str
    at: Moment
    names: tuple[str, ...]
    multiple: bool
    task_ids: tuple[TaskId, ...]
    probabilities: tuple[tuple[Share, ...], ...]


@dataclass(frozen=True, slots=True)
class ImportUse:
    """Whether imported predictions of a ``source`` chose a batch, and ``why``; ``tasks`` had one.

    ``accuracy`` and ``own_accuracy``: shares that they and our own model answered right of the ``compared``
    images of the hold-out; None where they could not be compared.
    """

    source: str
    used: bool
    tasks: Count
    why: str = ""
    accuracy: Share | None = None
    own_accuracy: Share | None = None
    compared: Count = 0

    @property
    def sentence(self) -> str:
        """Which uncertainty the batch was chosen by."""
        if self.used:
            return (
                f"The batch was chosen by the uncertainty of the imported predictions ({self.source}) on "
                f"{self.tasks:,} images: {self.why}."
            )
        return f"The imported predictions ({self.source}) were not used: {self.why}."


IMPORTED = TypeAdapter(Imported)
