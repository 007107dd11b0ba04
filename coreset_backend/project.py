"""Label Studio JSON <-> Task, Labels, Snapshot, Prediction. Pure: nothing here opens anything.

A *row* is a position in ``Snapshot.tasks``; a *task_id* is Label Studio's. Shapes and fields of the
JSON are those that Label Studio 1.23.2 was seen to send.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import TaskIds

Region = Mapping[str, object]
"""One entry of the ``result`` of an annotation or prediction, as Label Studio has it."""
TaskState = Literal["pool", "labeled", "skipped", "model", "copy"]
NONE_OF_THESE = "none of these"
"""The name of an empty answer in multiple choice."""
MOST_CLASSES = 2_000
MOST_REASONS = 5
"""Largest number of reported reasons, so that a hundred renamed choices do not fill the page."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The <Choices> to train on; the order of ``names`` is the class index.

    ``multiple``: an answer has any number of classes, including none. ``paths``: with allowNested, the
    values from the top choice down to each class, in the order of ``names``; else empty. ``unimportable``:
    the names that Label Studio's import of predictions drops, though its editor shows them.
    """

    from_name: str
    to_name: str
    names: tuple[str, ...]
    multiple: bool
    paths: tuple[tuple[str, ...], ...] = ()
    unimportable: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def value_of(self, name: str) -> str | list[str]:
        """The class as it is in a result of Label Studio."""
        return list(self.paths[self.names.index(name)]) if self.paths else name


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """An answer, or a skip, whose time Label Studio measured: the ``seconds`` that its editor was open.

    ``at``: when it was first saved, Unix time; None where it was imported or that is not known.
    """

    annotator: int | str | None
    seconds: float
    at: float | None


@dataclass(frozen=True, slots=True)
class Task:
    """One task: ``uri`` of its image (None if its data have none) and the agreed ``label``.

    ``label``: class names, empty for "none of these"; None if no answer can be read, and ``unread`` says
    why. An annotated task counts as labeled even then, because a person has looked at it. ``unknown``: a
    selected value that the label config does not have. ``votes``: the classes that each annotator chose,
    where several did, and ``annotators`` who they are, in the same order; also where one alone answered.
    ``is_truth``: the label is that of a ground truth. ``in_bulk``: an answer was given to many images at
    once. ``timed``: the answers of people whose time is known.
    """

    task_id: int
    uri: str | None
    state: TaskState = "pool"
    label: tuple[str, ...] | None = None
    unread: str = ""
    unknown: str = ""
    votes: tuple[tuple[str, ...], ...] = ()
    is_truth: bool = False
    annotators: tuple[str, ...] = ()
    in_bulk: bool = False
    timed: tuple[TimedAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A project as read from Label Studio at ``taken_at``; tasks are sorted by task_id.

    ``remarks``: sentences on answers that cannot be trained on. ``overlap``: the number of people who answer
    each task.
    """

    project_id: int
    title: str
    model_version: str | None
    labels: Labels | None
    tasks: tuple[Task, ...]
    taken_at: datetime
    label_config: str = ""
    remarks: tuple[str, ...] = ()
    overlap: int = 1

    @property
    def task_ids(self) -> TaskIds:
        """int64[n], ascending."""
        return np.array([task.task_id for task in self.tasks], dtype=np.int64)

    @property
    def image_uris(self) -> list[tuple[int, str | None]]:
        """(task id, address of its image), by task."""
        return [(task.task_id, task.uri) for task in self.tasks]

    def fingerprint(self) -> str:
        """Hex digest that changes with any task, vote or class; an unchanged one needs no new round."""
        digest = hashlib.sha256(repr((self.project_id, self.labels)).encode())
        for task in self.tasks:
            digest.update(repr((task.task_id, task.uri, task.state, task.label)).encode())
            if task.votes or task.is_truth:
                digest.update(repr((task.votes, task.is_truth)).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class KnownTasks:
    """All tasks of a project as the last reading found them, so that the next asks only for what has changed.

    ``uris``: task id -> address of its image, None without one; addresses that hold a secret are left out and
    their tasks are ``withheld``. ``site``: the SHA-256 of Label Studio's address, which may hold a password.
    ``image``: the value of the label config that the addresses of images were read by.
    ``since``: a time on Label Studio's clock, ISO 8601, before the reading; "" if it could not be told.
    ``all_read_at``: when all tasks were read, Unix time of this machine; ``refreshed_at``: the last refresh
    before that.
    """

    site: str
    image: str
    since: str
    all_read_at: float
    uris: dict[int, str | None]
    withheld: tuple[int, ...] = ()
    refreshed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction for a task in Label Studio.

    ``score`` in [0, 1] orders the queue (0 = first). ``confidence`` in [0, 1] is the classifier's; it
    becomes the region's score and does not affect the order. A ``label`` of None shows no answer, and so
    does "none of these", which is empty. ``regions``: another model's regions as Label Studio stores them;
    they are shown too, and replace the label if they answer its control.
    """

    task_id: int
    score: float
    model_version: str
    label: tuple[str, ...] | None = None
    confidence: float | None = None
    regions: tuple[Region, ...] = ()


def class_targets(tasks: Sequence[Task], labels: Labels) -> NDArray[np.float32]:
    """float32[n, classes]: 1 where the task's label names the class; every task must have a label."""
    targets = np.zeros((len(tasks), len(labels.names)), dtype=np.float32)
    column = {name: index for index, name in enumerate(labels.names)}
    for row, task in enumerate(tasks):
        for name in task.label or ():
            targets[row, column[name]] = 1
    return targets
