"""The reports of a round's steps, which its record keeps: a fit, an unreadable image, a publication.

Plain values that ``model``, ``images`` and ``label_studio`` make and ``store`` keeps, so that none of them
needs to know another. A field that an early release did not keep has its default.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
TaskId = Annotated[int, Field(ge=0, lt=2**63)]


def _dated(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Moment = Annotated[str, AfterValidator(_dated)]
"""ISO 8601, in UTC."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a fit was and what came out.

    ``epochs``: how often each trained image was seen, on average. ``train_loss``: mean over the last tenth
    of the fit. ``n_train`` images were trained on and ``n_holdout`` held out. ``note`` says what was
    unusual. ``holdout_accuracy`` is that of early releases, whose rounds have no evaluation; now None.
    """

    epochs: float = 0.0
    seconds: float = 0.0
    train_loss: float | None = None
    holdout_accuracy: Share | None = None
    n_train: Count = 0
    n_holdout: Count = 0
    device: str = ""
    seed: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """A backbone in an audition, cross-validated on the labels so far.

    ``accuracy``: share of the images answered right, in multiple choice with the whole set of classes;
    ``balanced_accuracy``: the mean of that over the classes; ``smoothed_accuracy``: the mean of the accuracy
    and of the mean probability of the right answer. ``lead``: that minus the one of the backbone in use, in
    [-1, 1], and ``lead_error`` its standard error; ``expected_lead``: how much of it is to be expected, the
    less the fewer labels there are; all None for the one in use. ``seconds``: how long an image took to
    embed. ``problem``: why the backbone could not be compared, and has no figures.
    """

    name: str
    accuracy: Share | None = None
    balanced_accuracy: Share | None = None
    log_loss: float | None = None
    smoothed_accuracy: Share | None = None
    lead: float | None = None
    lead_error: float | None = None
    expected_lead: float | None = None
    seconds: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """A task whose image cannot be used. ``uri`` is safe to show: without password and signature."""

    task_id: TaskId
    uri: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Publication:
    """The result of a publish: number of ``sent`` predictions, deleted tasks (``gone``), and the order.

    ``serves``: the ids of the tasks that Label Studio serves first, in order, as read back from it.
    ``kept``: earlier versions that could not be deleted. Scores of batch and reserve are lower than
    ``below``; ``behind``: number of tasks after them in the queue. ``shown_before``: the version shown until
    then, "" for none; ``carried``: number of tasks to which its regions were copied. ``seconds``: duration;
    ``at``: time of the publish.
    """

    version: str = ""
    sent: int = 0
    gone: tuple[int, ...] = ()
    serves: tuple[int, ...] = ()
    kept: tuple[str, ...] = ()
    below: float = 1.0
    behind: int = 0
    shown_before: str = ""
    carried: int = 0
    seconds: float | None = None
    at: Moment | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How a round read the project's tasks: ``listed`` of all its ``tasks`` were asked for, and ``why`` all.

    ``why`` is empty where only those were that are new or have changed since the last reading.
    ``refreshed_at``: the last refresh before it, Unix time; 0 without any.
    """

    tasks: Count
    listed: Count
    why: str = ""
    refreshed_at: float = 0.0

    @property
    def words(self) -> str:
        """The reading as a part of a sentence."""
        if self.why:
            return f"all {self.tasks:,} tasks, because {self.why}"
        return f"{self.listed:,} of {self.tasks:,} tasks: those that are new or have changed"


@dataclass(frozen=True, slots=True)
class Work:
    """What a round computed; the rest it carried over from the round before.

    Of ``images`` so many were looked for in the cache or at their address (``touched``) and ``embedded``.
    ``searched``: the neighbours of all images were searched and the map drawn anew; if not, both follow the
    images that came or went, ``changed`` since the last search. ``compared``: pairs of images that were
    compared by their pixels. ``index``: what searched, "annoy" or "faiss"; "" where nothing was searched.
    """

    images: Count
    touched: Count
    embedded: Count
    searched: bool
    changed: Count
    compared: Count
    index: str = ""

    @property
    def words(self) -> str:
        """The work as a part of a sentence."""
        rest = "neighbours searched and map drawn for all"
        if not self.searched:
            rest = f"neighbours and map follow {self.changed:,} changed images"
        return (
            f"{self.touched:,} image files looked up, {self.embedded:,} of {self.images:,} images embedded; "
            f"{rest}; {self.compared:,} pairs compared"
        )
