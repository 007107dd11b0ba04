from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from saved_rounds import LABELS, record

from coreset_backend.evaluation.round_scores import batch_figures, hold_out_figures
from coreset_backend.project import Snapshot, Task
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
    figures = hold_out_figures(SNAPSHOT, None, EMBEDDED, frozenset({2, 3, 5, 7}), RIGHT)
    assert figures and figures["accuracy"]["value"] == 1 and figures["accuracy"]["n"] == 3
    assert [(each["name"], each["n"]) for each in figures["per_class"]] == [("cat", 1), ("dog", 2)]
    assert figures["gain"] is None


def test_two_rounds_are_compared_on_what_neither_was_trained_on(tmp_path: Path) -> None:
    previous = previous_round(tmp_path, WRONG)
    figures = hold_out_figures(SNAPSHOT, previous, EMBEDDED, frozenset({2, 3, 5, 7}), RIGHT)
    assert figures and figures["gain"]["value"] == 1 and figures["gain"]["n"] == 2  # tasks 2 and 5


def test_a_torn_previous_round_costs_the_comparison_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    previous = previous_round(tmp_path, WRONG)
    (previous.path / "probabilities.npy").write_bytes(b"torn")
    figures = hold_out_figures(SNAPSHOT, previous, EMBEDDED, frozenset({2, 5}), RIGHT)
    assert figures and figures["accuracy"]["n"] == 2 and figures["gain"] is None
    assert "round 1 is not compared with" in caplog.text


def test_without_a_model_or_a_hold_out_nothing_is_measured() -> None:
    assert hold_out_figures(SNAPSHOT, None, EMBEDDED, frozenset(), RIGHT) is None
    assert hold_out_figures(SNAPSHOT, None, EMBEDDED, frozenset({2}), None) is None


def test_the_last_batch_is_told_apart_by_who_picked_it(tmp_path: Path) -> None:
    said = np.array([RIGHT[0], WRONG[1], RIGHT[2], WRONG[3], RIGHT[4], RIGHT[5], WRONG[6]])
    with Store(tmp_path).draft(7) as draft:
        arrays = {"embedded_task_ids": EMBEDDED, "probabilities": said}
        # Task 3 was no part of it; 7 cannot be read and 99 is not labelled yet.
        saved = draft.save(
            record(draft.number, batch=(1, 2, 4, 5, 7, 8, 99), random_slice=(1, 4, 99)), arrays
        )
    figures = batch_figures(SNAPSHOT, saved)
    assert figures and (figures["pool"]["value"], figures["pool"]["n"]) == (0.5, 2)  # 1 right, 4 wrong
    assert figures["picks"]["n"] == 3 and figures["picks"]["value"] == pytest.approx(1 / 3)


def test_a_batch_without_a_slice_measures_nothing(tmp_path: Path) -> None:
    assert batch_figures(SNAPSHOT, previous_round(tmp_path, RIGHT)) is None
    assert batch_figures(SNAPSHOT, None) is None
