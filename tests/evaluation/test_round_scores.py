from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from saved_rounds import LABELS, record

from coreset_backend.evaluation.round_scores import batch_scores, holdout_accuracy, holdout_evaluation
from coreset_backend.evaluation.scores import proportion
from coreset_backend.project import Snapshot, Task
from coreset_backend.reports import TrainingReport
from coreset_backend.store.record import Evaluation
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

CLASSES = ("cat", "dog")
TASKS = tuple(Task(n, f"/{n}", "labeled", (CLASSES[n % 2],)) for n in range(1, 9))
SNAPSHOT = Snapshot(7, "Pets", None, LABELS, TASKS, datetime.now(UTC))
EMBEDDED = np.array([1, 2, 3, 4, 5, 6, 8])  # the image of task 7 could not be read
RIGHT = np.eye(2, dtype=np.float32)[EMBEDDED % 2]
WRONG = RIGHT[:, ::-1]


def previous_round(tmp_path: Path, probabilities: np.ndarray) -> StoredRound:
    with Store(tmp_path).draft(7) as draft:
        arrays = {"embedded_task_ids": EMBEDDED, "probabilities": probabilities}
        return draft.save(record(draft.number, holdout=(2, 5, 7)), arrays)


def test_a_round_is_measured_on_the_readable_tasks_of_its_hold_out() -> None:
    scores = holdout_evaluation(SNAPSHOT, None, EMBEDDED, frozenset({2, 3, 5, 7}), RIGHT)
    assert scores and scores.accuracy.value == 1 and scores.accuracy.n == 3
    assert [(each.name, each.n) for each in scores.per_class] == [("cat", 1), ("dog", 2)]
    assert scores.gain is None


def test_two_rounds_are_compared_on_what_neither_was_trained_on(tmp_path: Path) -> None:
    previous = previous_round(tmp_path, WRONG)
    scores = holdout_evaluation(SNAPSHOT, previous, EMBEDDED, frozenset({2, 3, 5, 7}), RIGHT)
    assert scores and scores.gain and scores.gain.value == 1 and scores.gain.n == 2  # tasks 2 and 5


def test_a_torn_previous_round_costs_the_comparison_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    previous = previous_round(tmp_path, WRONG)
    (previous.path / "probabilities.npy").write_bytes(b"torn")
    scores = holdout_evaluation(SNAPSHOT, previous, EMBEDDED, frozenset({2, 5}), RIGHT)
    assert scores and scores.accuracy.n == 2 and scores.gain is None
    assert "round 1 is not compared with" in caplog.text


def test_without_a_model_or_a_hold_out_nothing_is_measured() -> None:
    assert holdout_evaluation(SNAPSHOT, None, EMBEDDED, frozenset(), RIGHT) is None
    assert holdout_evaluation(SNAPSHOT, None, EMBEDDED, frozenset({2}), None) is None


def test_the_last_batch_is_told_apart_by_who_picked_it(tmp_path: Path) -> None:
    said = np.array([RIGHT[0], WRONG[1], RIGHT[2], WRONG[3], RIGHT[4], RIGHT[5], WRONG[6]])
    with Store(tmp_path).draft(7) as draft:
        arrays = {"embedded_task_ids": EMBEDDED, "probabilities": said}
        # Task 3 was no part of it; 7 cannot be read and 99 is not labelled yet.
        saved = draft.save(
            record(draft.number, batch=(1, 2, 4, 5, 7, 8, 99), random_slice=(1, 4, 99)), arrays
        )
    scores = batch_scores(SNAPSHOT, saved)
    assert scores and scores.pool_accuracy and scores.picked_accuracy
    assert (scores.pool_accuracy.value, scores.pool_accuracy.n) == (0.5, 2)  # 1 right, 4 wrong
    assert scores.picked_accuracy.n == 3 and scores.picked_accuracy.value == pytest.approx(1 / 3)


def test_a_batch_without_a_slice_measures_nothing(tmp_path: Path) -> None:
    assert batch_scores(SNAPSHOT, previous_round(tmp_path, RIGHT)) is None
    assert batch_scores(SNAPSHOT, None) is None


def test_a_record_has_one_accuracy_and_an_old_one_without_an_evaluation_that_of_its_fit() -> None:
    fitted = TrainingReport(holdout_accuracy=0.5, n_holdout=40)
    evaluated = Evaluation(proportion(30, 40), proportion(20, 40))
    assert holdout_accuracy(record(training=fitted, evaluation=evaluated)) == proportion(30, 40)
    assert holdout_accuracy(record(training=fitted)) == proportion(20, 40)
    assert holdout_accuracy(record(training=TrainingReport(n_train=5))) is None
    assert holdout_accuracy(record()) is None
