"""The predictions of a round's model, read from the store; light enough for the web process."""

import threading

import numpy as np

from coreset_backend.arrays import TaskIds
from coreset_backend.evaluation.calibration import SURE
from coreset_backend.evaluation.scores import confidence, named_classes
from coreset_backend.project import Prediction
from coreset_backend.store.record import NO_ROUND_VERSION
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

RIGHT = 0.8
"""Answers are shown where at least that share of those that the model is as sure of is right."""


class Answers:
    """The predictions of a round's model for each task, read from the store."""

    def __init__(self, stored: StoredRound) -> None:
        self.record = stored.record
        self._task_ids = stored.array("task_ids", mapped=True)
        self._scores = stored.array("scores", mapped=True)
        self._embedded = stored.array("embedded_task_ids", mapped=True)
        has_model = "probabilities.npy" in stored.record.hashes
        self._probabilities = stored.array("probabilities", mapped=True) if has_model else None
        with stored.reading():
            self._require_fit()

    def _require_fit(self) -> None:
        """ValueError unless there is a score for each task and a probability for each image and class."""
        shapes = [(self._scores.shape, self._task_ids.shape)]
        if self._probabilities is not None and (labels := self.record.labels):
            shapes.append((self._probabilities.shape, (*self._embedded.shape, len(labels.names))))
        for found, expected in shapes:
            if found != expected or len(expected) > 2:
                raise ValueError(f"an array of {found} instead of {expected}")

    def knows(self, task_id: int) -> bool:
        """Whether the task was in the round's snapshot."""
        return _position(self._task_ids, task_id) is not None

    def score(self, task_id: int) -> float:
        """In [0, 1], 0 first; a task that the round has not seen comes last."""
        row = _position(self._task_ids, task_id)
        return 1.0 if row is None else float(self._scores[row])

    def answer(self, task_id: int) -> tuple[tuple[str, ...], float] | None:
        """The classes the model names and how sure it is, in [0, 1]; None without a model or an image.

        In multiple choice they may be none, which is an answer too.
        """
        row = _position(self._embedded, task_id)
        labels = self.record.labels
        if row is None or labels is None or self._probabilities is None:
            return None
        probabilities = self._probabilities[row : row + 1]
        is_named = named_classes(probabilities, labels.multiple)[0]
        named = tuple(name for name, said in zip(labels.names, is_named, strict=True) if said)
        return named, float(confidence(probabilities, labels.multiple)[0])

    def prediction(self, task_id: int, score: float, version: str, preannotate: str) -> Prediction:
        """The task's prediction; it shows the answer only where ``preannotate`` lets it."""
        answer = self.answer(task_id)
        if answer is None or not self._is_shown(answer[1], preannotate):
            return Prediction(task_id, score, version)
        return Prediction(task_id, score, version, *answer)

    def _is_shown(self, sureness: float, preannotate: str) -> bool:
        # A preselected answer on a task that the model knows least invites a wrong click.
        return preannotate == "on" or (preannotate == "auto" and sureness >= SURE and self._is_trusted())

    def _is_trusted(self) -> bool:
        """Whether the hold-out shows that answers of that sureness are right often enough."""
        evaluation = self.record.evaluation
        return evaluation is not None and evaluation.sure is not None and evaluation.sure.low >= RIGHT


class AnswerCache:
    """The answers of each project's newest round, read once per round and process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._answers: dict[int, Answers] = {}
        self._lock = threading.Lock()

    def latest(self, project_id: int) -> Answers | None:
        """None while the project has no round that can be read."""
        numbers = self._store.newest_first(project_id)
        with self._lock:
            cached = self._answers.get(project_id)
            if cached and numbers and cached.record.number == numbers[0]:
                return cached
            if found := self._store.first_read(project_id, Answers):
                self._answers[project_id] = found
            return found


def pool_version(answers: Answers | None) -> str:
    """The version of answers to /setup and /predict; with a batch's version a task would join the batch."""
    return answers.record.pool_version if answers else NO_ROUND_VERSION


def _position(ascending: TaskIds, task_id: int) -> int | None:
    row = int(np.searchsorted(ascending, task_id))
    return row if row < len(ascending) and ascending[row] == task_id else None
