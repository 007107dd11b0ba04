"""Which labels one more annotator is asked for."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from coreset_backend.project import Labels, Task
from coreset_backend.rounds.label_errors import JudgedLabels, LabelQuality, given_labels, judged_labels
from coreset_backend.rounds.relabel import MOST_ANNOTATORS, SHARE, expected_gain, label_errors
from coreset_backend.settings import Settings
from coreset_backend.store.record import LabelErrors

PETS = Labels("label", "image", ("cat", "dog", "owl"), multiple=False)
DEFECTS = Labels("label", "image", ("crack", "hole"), multiple=True)


def judged(
    tasks: Sequence[Task], labels: Labels, probabilities: list[list[float]], error: float
) -> JudgedLabels:
    none = np.empty(0)
    table = np.array(probabilities, dtype=np.float32)
    quality = LabelQuality(none, table, error, none.astype(np.int64), none.astype(np.int8), none)
    return JudgedLabels(tasks, given_labels(tasks, labels), quality)


def task(task_id: int, *label: str, by: Sequence[str] = ("1",)) -> Task:
    return Task(
        task_id, "a", "labeled", label, votes=(label,) * len(by) if len(by) > 1 else (), annotators=by
    )


def test_the_gain_is_how_much_one_answer_raises_the_probability_of_the_label() -> None:
    """Cat is right with .5: a dog is answered and right with .45 * .9, answered by mistake with .5 * .05."""
    found = expected_gain(judged([task(1, "cat")], PETS, [[0.5, 0.45, 0.05]], 0.1))
    assert found == pytest.approx([0.45 * 0.9 - 0.5 * 0.05 + 0.05 * 0.9 - 0.5 * 0.05])


def test_a_label_that_is_sure_or_as_doubtful_as_any_gains_nothing() -> None:
    sure = judged([task(1, "cat")], PETS, [[1, 0, 0]], 0.1)
    average = judged([task(1, "cat")], PETS, [[0.9, 0.05, 0.05]], 0.1)  # that of a rare class
    assert expected_gain(sure) == pytest.approx([0])
    assert expected_gain(average) == pytest.approx([0], abs=1e-6)


def test_in_multiple_choice_each_class_counts() -> None:
    both = judged([task(1, "crack"), task(2)], DEFECTS, [[0.2, 0.5], [0.0, 0.0]], 0.1)
    assert expected_gain(both) == pytest.approx([0.8 * 0.9 - 0.2 * 0.1 + 0.5 * 0.9 - 0.5 * 0.1 - 0.1, 0.0])


@functools.cache
def noisy(n: int, wrong: float, people: int = 2, classes: int = 4) -> tuple[JudgedLabels, set[int]]:
    """Labels of well separated classes, of which people got a share wrong; and which are wrong."""
    rng = np.random.default_rng(0)
    names = tuple("abcdefgh"[:classes])
    labels = Labels("label", "image", names, multiple=False)
    truth = rng.integers(0, classes, n)
    vectors = np.eye(classes, 16)[truth] * 3 + rng.normal(0, 0.5, (n, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    mistaken = set(rng.permutation(n)[: round(wrong * n)].tolist())
    shift = rng.integers(1, classes, n)
    tasks = [
        task(row, names[(truth[row] + (row in mistaken) * shift[row]) % classes], by=[str(row % people)])
        for row in range(n)
    ]
    return judged_labels(tasks, labels, vectors, 0, prepared=True), mistaken


def asked(judged: JudgedLabels, holdout: set[int] | None = None, **settings: object) -> LabelErrors:
    given = Settings(**{"batch_size": 20, **settings})
    return label_errors(given, judged, holdout or set(), {})


def test_wrong_labels_are_asked_for_where_many_are_wrong() -> None:
    labels, mistaken = noisy(160, 0.2)
    found = asked(labels)
    ids = [each.task_id for each in found.asked]
    assert found.rate == pytest.approx(0.2, abs=0.05)
    assert len(ids) == round(SHARE * 20) and set(ids) <= mistaken
    gains = [each.gain for each in found.asked]
    assert gains == sorted(gains, reverse=True) and {each.annotators for each in found.asked} == {1}


@pytest.mark.parametrize("wrong", [0.0, 0.05])
def test_none_is_asked_for_where_few_are_wrong(wrong: float) -> None:
    found = asked(noisy(160, wrong)[0])
    assert found.asked == () and found.rate == pytest.approx(wrong, abs=0.03)


def test_none_is_asked_for_where_nobody_could_answer_or_nobody_wants_it() -> None:
    alone, _ = noisy(160, 0.2, 1)
    assert asked(alone).asked == () and asked(alone).rate
    assert asked(noisy(160, 0.2)[0], second_opinion="off").asked == ()
    few = asked(noisy(80, 0.2)[0])
    assert (few.asked, few.rate) == ((), None) and few.annotators


def test_the_hold_out_ground_truths_and_what_three_have_answered_are_left_alone() -> None:
    labels, mistaken = noisy(160, 0.2)
    first = [each.task_id for each in asked(labels).asked]
    tasks = list(labels.tasks)
    tasks[first[1]] = replace(tasks[first[1]], is_truth=True)
    crowd = tuple(str(who) for who in range(MOST_ANNOTATORS))
    tasks[first[2]] = replace(tasks[first[2]], annotators=crowd, votes=(tasks[first[2]].label,) * len(crowd))
    found = asked(replace(labels, tasks=tasks), {first[0]})
    assert not {*first[:3]} & {each.task_id for each in found.asked}
    assert {each.task_id for each in found.asked} <= mistaken
