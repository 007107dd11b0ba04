"""Wrong labels are found and right ones left alone, on pools whose labels are known."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from coreset_backend.project import Labels, Task
from coreset_backend.rounds.label_errors import GivenLabels, given_labels, label_quality

Floats = NDArray[np.float32]


def pool(n: int, classes: int, seed: int, spread: float = 1.0) -> tuple[Floats, NDArray[np.int64]]:
    """Vectors of unit length around the centers of overlapping classes, and the class of each."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, classes, n)
    vectors = 2.5 * rng.normal(0, 1, (classes, 24))[codes] / np.sqrt(24) * np.sqrt(6)
    vectors = vectors + rng.normal(0, spread, (n, 24))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), codes


def one_hot(codes: NDArray[np.int64], classes: int) -> Floats:
    return np.eye(classes, dtype=np.float32)[codes]


def flipped(codes: NDArray[np.int64], classes: int, share: float, seed: int) -> NDArray[np.int64]:
    """The rows of a random share, whose classes are replaced in place."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(codes), round(share * len(codes)), replace=False)
    codes[rows] = (codes[rows] + rng.integers(1, classes, len(rows))) % classes
    return rows


def single(codes: NDArray[np.int64], classes: int) -> GivenLabels:
    return GivenLabels.of_one_annotator(one_hot(codes, classes), multiple=False)


@pytest.mark.parametrize(("classes", "share"), [(8, 0.05), (8, 0.15), (2, 0.1)])
def test_flipped_labels_are_listed_with_their_true_class_and_few_others(classes: int, share: float) -> None:
    vectors, true = pool(400, classes, seed=1)
    given = true.copy()
    wrong = flipped(given, classes, share, seed=2)
    found = label_quality(vectors, single(given, classes), seed=0)
    hits = np.isin(found.suspects, wrong)
    assert hits.mean() > 0.85
    assert hits.sum() > 0.85 * len(wrong)
    assert (found.suggested.argmax(1)[hits] == true[found.suspects[hits]]).mean() > 0.95
    assert (np.diff(found.quality[found.suspects]) >= 0).all()
    assert (found.quality[found.suspects] < 0.5).all()
    assert (found.shares >= 0).all()
    assert (found.shares <= 1).all()


@pytest.mark.parametrize("systematic", [True, False])
def test_errors_that_the_head_has_learned_are_found(systematic: bool) -> None:
    """So many labels of easy classes that the head predicts the errors too: each dog is a wolf at 5 %."""
    vectors, true = pool(3000, 6, seed=20, spread=0.6)
    given = true.copy()
    wrong = flipped(given, 6, 0.05, seed=21)
    if systematic:
        given[wrong] = (true[wrong] + 1) % 6
    found = label_quality(vectors, single(given, 6), seed=0)
    assert np.isin(found.suspects, wrong).mean() > 0.9
    assert np.isin(wrong, found.suspects).mean() > 0.9


def test_two_wrong_labels_among_forty_are_found() -> None:
    vectors, true = pool(40, 2, seed=2, spread=0.8)
    given = true.copy()
    wrong = flipped(given, 2, 0.05, seed=52)
    assert set(label_quality(vectors, single(given, 2), seed=0).suspects) == set(wrong)


@pytest.mark.parametrize("spread", [0.6, 1.5, 2.5])
def test_of_right_labels_few_are_listed_however_hard_the_classes_are_to_tell(spread: float) -> None:
    vectors, codes = pool(600, 6, seed=3, spread=spread)
    found = label_quality(vectors, single(codes, 6), seed=0)
    assert len(found.suspects) <= 6


def test_labels_of_classes_with_few_labels_are_not_suspected() -> None:
    vectors, codes = pool(300, 6, seed=4)
    keep = np.concatenate([np.flatnonzero(codes < 4), np.flatnonzero(codes == 4)[:2]])
    keep = np.append(keep, np.flatnonzero(codes == 5)[0])
    vectors, codes = vectors[keep], codes[keep]
    wrong = flipped(common := codes[codes < 4], 4, 0.06, seed=5)
    codes[codes < 4] = common
    found = label_quality(vectors, single(codes, 6), seed=0)
    assert (codes[found.suspects] < 4).all()
    assert np.isin(found.suspects, wrong).mean() > 0.85
    assert np.isin(wrong, found.suspects).mean() > 0.5
    assert (found.quality[codes >= 4] > 0.8).all()


def test_a_ground_truth_is_never_suspected() -> None:
    vectors, true = pool(300, 5, seed=6)
    given = true.copy()
    wrong = flipped(given, 5, 0.06, seed=7)
    labels = single(given, 5)
    found = label_quality(vectors, labels, seed=0).suspects
    certain = np.intersect1d(found, wrong)[:3]
    assert len(certain) == 3
    is_truth = np.isin(np.arange(300), certain)
    again = label_quality(vectors, replace(labels, is_truth=is_truth), seed=0)
    assert not np.isin(certain, again.suspects).any()
    assert (again.quality[certain] == 1).all()
    every = label_quality(vectors, replace(labels, is_truth=np.ones(300, dtype=bool)), seed=0)
    assert (len(every.suspects), every.quality.min()) == (0, 1)


def test_agreement_of_annotators_speaks_for_a_label_and_dissent_against_it() -> None:
    vectors, true = pool(300, 5, seed=8)
    given = true.copy()
    wrong = flipped(given, 5, 0.06, seed=9)
    labels = single(given, 5)
    alone = label_quality(vectors, labels, seed=0).quality
    votes, annotators = labels.votes.copy(), labels.annotators.copy()
    right = np.setdiff1d(np.arange(300), wrong)
    agreed, disputed = wrong[:6], right[np.argsort(alone[right])[:12]]
    votes[agreed] *= 4
    annotators[agreed] = 4
    votes[disputed, (true[disputed] + 1) % 5] += 1
    annotators[disputed] = 2
    several = label_quality(vectors, replace(labels, votes=votes, annotators=annotators), seed=0).quality
    assert several[agreed].mean() > alone[agreed].mean() + 0.3
    assert several[disputed].mean() < alone[disputed].mean() - 0.02


def test_in_multiple_choice_a_missing_and_an_added_class_are_found() -> None:
    """Six kinds of images, each with its own set of four classes; the last kind has none of them."""
    sets = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    vectors, kinds = pool(400, 6, seed=10)
    true = sets[kinds].astype(np.float32)
    targets, rng = true.copy(), np.random.default_rng(11)
    wrong = rng.choice(400, 24, replace=False)
    columns = rng.integers(0, 4, 24)
    targets[wrong, columns] = 1 - targets[wrong, columns]
    found = label_quality(vectors, GivenLabels.of_one_annotator(targets, multiple=True), seed=0)
    hits = np.isin(found.suspects, wrong)
    assert hits.mean() > 0.75
    assert hits.sum() > 18
    assert (found.suggested[hits] == true[found.suspects[hits]]).all(1).mean() > 0.9
    clean = label_quality(vectors, GivenLabels.of_one_annotator(true, multiple=True), seed=0)
    assert len(clean.suspects) <= 4


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("n", [0, 1, 3, 12])
def test_few_equal_or_no_labels_make_no_suspects(n: int, multiple: bool) -> None:
    targets = np.zeros((n, 3), np.float32)
    targets[:, 0] = 1
    vectors = np.ones((n, 4), np.float32) / 2
    found = label_quality(vectors, GivenLabels.of_one_annotator(targets, multiple=multiple), seed=0)
    assert (len(found.quality), len(found.suspects), len(found.suggested), len(found.shares)) == (n, 0, 0, 0)
    assert np.isfinite(found.quality).all()


def test_embeddings_of_a_trained_network_are_judged_too() -> None:
    vectors, true = pool(300, 4, seed=12)
    given = true.copy()
    wrong = flipped(given, 4, 0.06, seed=13)
    found = label_quality(vectors * 30 + 5, single(given, 4), seed=0, prepared=False)
    assert np.isin(wrong, found.suspects).mean() > 0.8


def test_votes_and_ground_truths_come_from_the_tasks() -> None:
    tasks = [
        Task(1, "a", "labeled", ("cat",), votes=(("cat",), ("dog",), ("cat",))),
        Task(2, "b", "labeled", ("dog",), is_truth=True),
        Task(3, "c", "labeled", ("dog",)),
    ]
    given = given_labels(tasks, Labels("l", "i", ("cat", "dog"), False))
    assert given.votes.tolist() == [[2, 1], [0, 1], [0, 1]]
    assert given.annotators.tolist() == [3, 1, 1]
    assert given.is_truth.tolist() == [False, True, False]
    several = [Task(1, "a", "labeled", ("cat",), votes=(("cat", "dog"), (), ("cat",)))]
    given = given_labels(several, Labels("l", "i", ("cat", "dog"), True))
    assert (given.votes.tolist(), given.targets.tolist()) == ([[2, 1]], [[1, 0]])
