"""Whether a round takes its uncertainty from imported predictions, and what they are by image."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from coreset_backend.evaluation.imported import (
    merged_probabilities,
    probabilities_for,
    uncertainty_source,
)
from coreset_backend.project import Labels, Snapshot, Task
from coreset_backend.store.imported import Imported

LABELS = Labels("label", "image", ("cat", "dog"), multiple=False)
IMPORTED = Imported(
    "old.csv",
    "2026-11-30T00:00:00+00:00",
    ("cat", "dog"),
    False,
    (2, 4, 6, 8),
    ((0.9, 0.1), (0.2, 0.8), (0.6, 0.4), (0.5, 0.5)),
)
TASK_IDS = np.arange(1, 9)
HOLDOUT = frozenset({2, 3, 4})


def snapshot(labels: Labels | None = LABELS) -> Snapshot:
    tasks = tuple(Task(int(each), None, "labeled", ("cat",)) for each in TASK_IDS)
    return Snapshot(1, "", None, labels, tasks, datetime.now(UTC))


def own(sure_of_cat: float) -> np.ndarray:
    return np.tile(np.array([[sure_of_cat, 1 - sure_of_cat]], dtype=np.float32), (len(TASK_IDS), 1))


def test_they_are_used_until_our_own_model_answers_the_same_images_better() -> None:
    unmeasured = uncertainty_source(IMPORTED, snapshot(), TASK_IDS, frozenset(), own(0.9))
    assert unmeasured and unmeasured.used and unmeasured.tasks == 4
    assert "our own model is not measured yet" in unmeasured.sentence
    worse = uncertainty_source(IMPORTED, snapshot(), TASK_IDS, HOLDOUT, own(0.1))
    assert worse and worse.used  # tasks 2 and 4: they have one of two right, we none
    assert (worse.accuracy, worse.own_accuracy, worse.compared) == (0.5, 0.0, 2)
    better = uncertainty_source(IMPORTED, snapshot(), TASK_IDS, HOLDOUT, own(0.9))
    assert better and not better.used
    assert better.sentence == (
        "The imported predictions (old.csv) were not used: of 2 images of the hold-out they have 50% right, "
        "our own model 100%."
    )
    alike = replace(IMPORTED, probabilities=((0.9, 0.1),) * 4)
    equal = uncertainty_source(alike, snapshot(), TASK_IDS, HOLDOUT, own(0.9))
    assert equal and not equal.used


def test_what_cannot_be_compared_or_has_other_classes_is_not_used() -> None:
    apart = uncertainty_source(IMPORTED, snapshot(), TASK_IDS, frozenset({3}), own(0.9))
    assert apart and not apart.used and "where models are measured" in apart.why
    renamed = snapshot(replace(LABELS, names=("cat", "wolf")))
    other = uncertainty_source(IMPORTED, renamed, TASK_IDS, HOLDOUT, None)
    assert other and not other.used and "other classes by now" in other.why
    several = snapshot(replace(LABELS, multiple=True))
    other = uncertainty_source(IMPORTED, several, TASK_IDS, HOLDOUT, own(0.9))
    assert other and not other.used and "an answer may have several classes by now" in other.why
    nowhere = uncertainty_source(IMPORTED, snapshot(), np.array([1, 3]), HOLDOUT, None)
    assert nowhere and not nowhere.used and nowhere.tasks == 0
    assert uncertainty_source(None, snapshot(), TASK_IDS, HOLDOUT, own(0.9)) is None


def test_images_without_one_keep_our_own_answer_or_count_as_the_median() -> None:
    assert np.isnan(probabilities_for(IMPORTED, np.array([1, 9]))).all()
    mixed = merged_probabilities(IMPORTED, TASK_IDS, own(0.75))
    assert mixed[[0, 2]].tolist() == [[0.75, 0.25]] * 2
    np.testing.assert_allclose(mixed[1], [0.9, 0.1], atol=1e-6)
    alone = merged_probabilities(IMPORTED, TASK_IDS, None)
    np.testing.assert_allclose(alone[[0, 2, 4, 6]], [[0.2, 0.8]] * 4, atol=1e-6)
    assert np.isfinite(alone).all()
