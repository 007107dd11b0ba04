"""What a round's model says of each task, read from the store; light enough for the web process."""

import numpy as np
from numpy.typing import NDArray

from coreset_backend.project import Prediction
from coreset_backend.store import StoredRound


class Answers:
    """What a round's model says of each task, from the store; light enough for the web process."""

    def __init__(self, stored: StoredRound) -> None:
        self.record = stored.record
        self._task_ids = stored.array("task_ids")
        self._scores = stored.array("scores")
        self._embedded = stored.array("embedded_task_ids")
        has_model = "probabilities.npy" in stored.record.hashes
        self._probabilities = stored.array("probabilities") if has_model else None

    def knows(self, task_id: int) -> bool:
        """Whether the task was in the round's snapshot."""
        return _position(self._task_ids, task_id) is not None

    def score(self, task_id: int) -> float:
        """In [0, 1], 0 first; a task that the round has not seen comes last."""
        row = _position(self._task_ids, task_id)
        return 1.0 if row is None else float(self._scores[row])

    def answer(self, task_id: int) -> tuple[tuple[str, ...], float] | None:
        """The classes the model names and how sure it is, in [0, 1]; None without a model or an image."""
        row = _position(self._embedded, task_id)
        labels = self.record.labels
        if row is None or labels is None or self._probabilities is None:
            return None
        probabilities = self._probabilities[row]
        if not labels.multiple:
            best = int(probabilities.argmax())
            return (labels.names[best],), float(probabilities[best])
        named = tuple(name for name, p in zip(labels.names, probabilities, strict=True) if p >= 0.5)
        sureness = np.maximum(probabilities, 1 - probabilities).min()
        return (named, float(sureness)) if named else None

    def prediction(self, task_id: int, score: float, version: str, preannotate: str) -> Prediction:
        """The task's prediction; it shows the answer only where ``preannotate`` lets it."""
        answer = self.answer(task_id)
        if answer is None or not self._is_shown(answer[1], preannotate):
            return Prediction(task_id, score, version)
        return Prediction(task_id, score, version, *answer)

    def _is_shown(self, confidence: float, preannotate: str) -> bool:
        # An answer already chosen on a task that the model knows least invites a wrong click.
        accuracy = (self.record.training or {}).get("holdout_accuracy") or 0.0
        return preannotate == "on" or (preannotate == "auto" and confidence >= 0.9 and accuracy >= 0.8)


def _position(ascending: NDArray[np.int64], task_id: int) -> int | None:
    row = int(np.searchsorted(ascending, task_id))
    return row if row < len(ascending) and ascending[row] == task_id else None
