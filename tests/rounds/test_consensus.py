"""Which label counts where annotators disagree, and who agrees with the others."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from saved_rounds import flip_a_byte, record

from coreset_backend.backend import Backend
from coreset_backend.project import Labels, Snapshot, Task
from coreset_backend.rounds.consensus import annotator_agreement, is_tied, settled
from coreset_backend.store.saved_round import StoredRound

N = 110
PETS = Labels("label", "image", ("cat", "dog"), multiple=False)
DEFECTS = Labels("label", "image", ("crack", "hole"), multiple=True)
TRUTH = np.arange(N) % 2
HOLDOUT = frozenset({5})


def vectors() -> np.ndarray:
    """Two classes well apart, but for the first image, which lies between them."""
    found = np.eye(2, 8)[TRUTH] * 3 + np.random.default_rng(0).normal(0, 0.4, (N, 8))
    found[0] = found.mean(0)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def previous(backend: Backend) -> StoredRound:
    with backend.store.draft(7) as draft:
        arrays = {"embedded_task_ids": np.arange(N), "embeddings": vectors()}
        return draft.save(record(draft.number), arrays)


def labelled(row: int, *votes: Sequence[str], by: str = "123") -> Task:
    many = tuple(tuple(vote) for vote in votes) if len(votes) > 1 else ()
    who = tuple(by[: len(votes)])
    return Task(row, "a", "labeled", tuple(votes[0]), votes=many, annotators=who)


def snapshot(tasks: Sequence[Task], labels: Labels = PETS) -> Snapshot:
    return Snapshot(7, "Pets", None, labels, tuple(tasks), datetime.now(UTC))


def by_class(labels: Labels = PETS) -> list[Task]:
    return [labelled(row, (labels.names[TRUTH[row]],)) for row in range(N)]


def test_where_two_disagree_the_class_counts_that_the_image_looks_like(previous: StoredRound) -> None:
    tasks = by_class()
    tasks[2] = labelled(2, ("dog",), ("cat",))  # a cat, row 2; the latest answer, a dog, is first
    tasks[3] = labelled(3, ("dog",), ("cat",))
    tasks[5] = labelled(5, ("cat",), ("dog",))  # a dog of the hold-out: the latest answer counts
    tasks[7] = labelled(7, ("cat",), ("cat",), ("dog",))  # two against one
    found = settled(snapshot(tasks), previous, HOLDOUT, 0)
    assert [found.tasks[row].label for row in (2, 3, 5, 7)] == [("cat",), ("dog",), ("cat",), ("cat",)]
    assert [task.label for task in found.tasks[8:]] == [task.label for task in tasks[8:]]


@pytest.mark.parametrize(("careless", "expected"), [("1", "cat"), ("2", "dog")])
def test_where_the_image_tells_little_the_careful_annotator_counts(
    previous: StoredRound, careless: str, expected: str
) -> None:
    """Annotator 1 says dog, 2 says cat; whose other answers are often wrong decides."""
    tasks = by_class()
    tasks[0] = labelled(0, ("dog",), ("cat",), by="12")
    for row in range(8, N):
        who = "12"[row // 2 % 2]
        wrong = who == careless and row % 5 < 2
        tasks[row] = labelled(row, (PETS.names[(TRUTH[row] + wrong) % 2],), by=who)
    assert settled(snapshot(tasks), previous, HOLDOUT, 0).tasks[0].label == (expected,)


def test_in_multiple_choice_the_classes_that_half_of_them_named_are_settled(previous: StoredRound) -> None:
    tasks = by_class(DEFECTS)
    tasks[2] = labelled(2, ("crack", "hole"), ("crack",))
    tasks[3] = labelled(3, ("crack", "hole"), ("hole",))
    found = settled(snapshot(tasks, DEFECTS), previous, HOLDOUT, 0)
    assert [found.tasks[row].label for row in (2, 3)] == [("crack",), ("hole",)]


def test_without_an_opinion_the_latest_answer_counts(
    previous: StoredRound, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = by_class()
    tasks[2] = labelled(2, ("dog",), ("cat",))
    whole = snapshot(tasks)
    assert settled(whole, None, HOLDOUT, 0) is whole
    assert settled(replace(whole, labels=None), previous, HOLDOUT, 0).tasks == whole.tasks
    few = snapshot(tasks[:40])
    assert settled(few, previous, HOLDOUT, 0) is few
    agreed = snapshot(by_class())
    assert settled(agreed, previous, HOLDOUT, 0) is agreed
    flip_a_byte(previous.path / "embeddings.npy")
    with caplog.at_level(logging.ERROR):
        assert settled(whole, previous, HOLDOUT, 0) is whole
    assert "settled by the latest answer" in caplog.text


@pytest.mark.parametrize(
    ("votes", "labels", "expected"),
    [
        ((("cat",),), PETS, False),
        ((("cat",), ("dog",)), PETS, True),
        ((("cat",), ("cat",)), PETS, False),
        ((("cat",), ("dog",), ("dog",)), PETS, False),
        ((("crack",), ()), DEFECTS, True),
        ((("crack",), ("crack",)), DEFECTS, False),
    ],
)
def test_a_tie_is_one_where_as_many_say_one_thing_as_another(
    votes: Sequence[Sequence[str]], labels: Labels, expected: bool
) -> None:
    assert is_tied(labelled(1, *votes), labels) == expected
    assert not is_tied(replace(labelled(1, *votes), is_truth=True), labels)


def test_who_agrees_how_often_is_counted_where_several_have_answered() -> None:
    tasks = [
        labelled(1, ("cat",), ("cat",), by="12"),
        replace(labelled(2, ("cat",), ("dog",), by="12"), label=("dog",)),
        labelled(3, ("cat",), by="3"),
        labelled(4, ("dog",), by="1"),
    ]
    one, two, three = annotator_agreement(tasks, {"1": "ann@example.com"})
    assert (one.name, one.labeled) == ("ann@example.com", 3)
    assert one.agreement and (one.agreement.value, one.agreement.n) == (0.5, 2)
    assert 0 < one.agreement.low < 0.5 < one.agreement.high < 1
    assert (two.name, two.labeled) == ("annotator 2", 2)
    assert two.agreement and two.agreement.value == 1
    assert (three.labeled, three.agreement) == (1, None)
