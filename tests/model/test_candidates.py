"""Which backbone an audition ends at: the best where it is expected to lead, else the one in use."""

from collections.abc import Sequence

import numpy as np
import pytest

from coreset_backend.model import WANTED_LEAD, Candidate, compare_backbones
from coreset_backend.reports import CandidateScores

MEANS = np.random.default_rng(3).normal(size=(4, 12))


def pool(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points float64[n, 12] around the means of four classes, and one-hot targets float32[n, 4]."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, n)
    return MEANS[kinds] + rng.normal(size=(n, 12)), np.eye(4, dtype=np.float32)[kinds]


def seen_by(points: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """What a network with that much noise of its own makes of the points: unit length, float32."""
    blurred = points + noise * np.random.default_rng(seed).normal(size=points.shape)
    return (blurred / np.linalg.norm(blurred, axis=1, keepdims=True)).astype(np.float32)


def scores_of(scores: tuple[CandidateScores, ...], name: str) -> CandidateScores:
    return next(each for each in scores if each.name == name)


def test_a_clearly_better_backbone_is_chosen_and_all_figures_are_told() -> None:
    points, targets = pool(100, 0)
    candidates = [
        Candidate("in use", seen_by(points, 4.0, 1), seconds=0.01),
        Candidate("worse", seen_by(points, 9.0, 2)),
        Candidate("better", seen_by(points, 0.3, 3), seconds=0.5),
    ]
    found = compare_backbones(candidates, targets, multiple=False, current="in use")
    assert found.chosen == "better"
    assert [each.name for each in found.scores] == ["better", "in use", "worse"]
    better, before = scores_of(found.scores, "better"), scores_of(found.scores, "in use")
    assert better.smoothed_accuracy is not None and before.smoothed_accuracy is not None
    assert better.lead is not None and better.lead_error is not None and better.expected_lead is not None
    assert better.lead == pytest.approx(better.smoothed_accuracy - before.smoothed_accuracy)
    assert 0 < better.lead_error < better.lead / 2
    assert WANTED_LEAD < better.expected_lead < better.lead
    assert before.lead is None and before.lead_error is None and before.expected_lead is None
    assert (better.seconds, before.seconds) == (0.5, 0.01)
    again = compare_backbones(candidates[::-1], targets, multiple=False, current="in use")
    assert again == found


def test_a_lead_of_less_than_a_point_changes_nothing() -> None:
    points, targets = pool(100, 0)
    embeddings = seen_by(points, 1.0, 1)
    nearly = embeddings + 1e-3 * np.random.default_rng(0).normal(size=embeddings.shape).astype(np.float32)
    found = compare_backbones(
        [Candidate("in use", embeddings), Candidate("other", nearly)],
        targets,
        multiple=False,
        current="in use",
    )
    lead = scores_of(found.scores, "other").lead
    assert found.chosen == "in use" and lead is not None and abs(lead) < WANTED_LEAD


def test_the_fewer_labels_the_less_of_a_lead_is_expected() -> None:
    points, targets = pool(400, 0)
    seen = {"in use": seen_by(points, 2.0, 1), "other": seen_by(points, 1.0, 2)}
    shares = []
    for labels in (50, 100, 400):
        candidates = [Candidate(name, embeddings[:labels]) for name, embeddings in seen.items()]
        found = compare_backbones(candidates, targets[:labels], multiple=False, current="in use")
        other = scores_of(found.scores, "other")
        assert other.lead and other.expected_lead and other.lead > 0
        shares.append(other.expected_lead / other.lead)
    assert 0.5 < shares[0] < shares[1] < shares[2] < 1


def test_labels_count_for_the_images_that_they_stand_for() -> None:
    """The one in use fails on a tenth of the pool, which a strategy has picked half of the labels from."""
    rng = np.random.default_rng(0)
    points, targets = pool(120, 0)
    is_hard = np.arange(120) % 2 == 0
    in_use = seen_by(points, 0.5, 1)
    in_use[is_hard] = seen_by(rng.normal(size=(60, 12)), 0.5, 2)
    candidates = [Candidate("in use", in_use), Candidate("other", seen_by(points, 2.0, 3))]
    weights = np.where(is_hard, 1, 9).astype(np.float32)
    counted, plainly = (
        compare_backbones(candidates, targets, multiple=False, current="in use", weights=each)
        for each in (weights, None)
    )
    assert (counted.chosen, plainly.chosen) == ("in use", "other")
    whole, picked = (scores_of(each.scores, "in use").accuracy for each in (counted, plainly))
    assert whole and picked and whole > picked + 0.2


def test_without_the_backbone_in_use_the_best_is_chosen() -> None:
    points, targets = pool(60, 0)
    candidates = [Candidate("a", seen_by(points, 6.0, 1)), Candidate("b", seen_by(points, 0.3, 2))]
    found = compare_backbones(candidates, targets, multiple=False, current="small_cnn")
    assert found.chosen == "b" and {each.lead for each in found.scores} == {None}


def project(noises: Sequence[float], seed: int) -> list[int]:
    """The backbone in use, by its place, at first and after 50, 100 and 200 labels of one pool."""
    points, targets = pool(200, seed)
    seen = [seen_by(points, noise, 1000 * seed + place) for place, noise in enumerate(noises)]
    in_use = [0]
    for labels in (50, 100, 200):
        candidates = [Candidate(str(place), each[:labels]) for place, each in enumerate(seen)]
        current = str(in_use[-1])
        found = compare_backbones(candidates, targets[:labels], multiple=False, current=current)
        in_use.append(int(found.chosen))
    return in_use


@pytest.mark.parametrize(
    ("backbones", "pools", "most"),
    [
        pytest.param(2, 50, 0.8, marks=pytest.mark.soak),
        pytest.param(4, 50, 2.2, marks=pytest.mark.soak),
    ],
)
def test_equal_candidates_are_exchanged_once_or_twice_in_three_auditions(
    backbones: int, pools: int, most: float
) -> None:
    """Which costs an embedding of the pool and no accuracy."""
    held = [project([2.0] * backbones, seed) for seed in range(pools)]
    assert np.mean([np.count_nonzero(np.diff(each)) for each in held]) <= most


@pytest.mark.slow
def test_a_backbone_is_never_left_for_one_that_is_much_worse() -> None:
    held = [project([1.5, 4.0], seed) for seed in range(6)]
    assert all(each == [0, 0, 0, 0] for each in held)


def test_a_backbone_ten_points_better_is_found_by_400_labels() -> None:
    found = 0
    for seed in range(10):
        points, targets = pool(400, seed)
        candidates = [
            Candidate("in use", seen_by(points, 3.0, 2 * seed)),
            Candidate("better", seen_by(points, 2.0, 2 * seed + 1)),
        ]
        chosen = compare_backbones(candidates, targets, multiple=False, current="in use").chosen
        found += chosen == "better"
    assert found >= 8


def test_multiple_choice_counts_whole_sets() -> None:
    points, kinds = pool(80, 0)
    targets = np.stack([kinds[:, :2].max(1), kinds[:, 1:3].max(1)], 1)
    candidates = [Candidate("in use", seen_by(points, 8.0, 1)), Candidate("better", seen_by(points, 0.1, 2))]
    found = compare_backbones(candidates, targets, multiple=True, current="in use")
    assert found.chosen == "better"
    assert all(
        each.balanced_accuracy is not None and 0 <= each.balanced_accuracy <= 1 for each in found.scores
    )


@pytest.mark.parametrize(
    "counts",
    [(49, 1), (2, 1), (25, 25), (1, 1, 1, 1), (30, 19, 1)],
    ids=lambda counts: "-".join(map(str, counts)),
)
def test_two_classes_and_classes_of_one_label_are_compared_too(counts: tuple[int, ...]) -> None:
    kinds = np.repeat(np.arange(len(counts)), counts)
    points, targets = (
        MEANS[kinds] + 0.1,
        np.eye(4, dtype=np.float32)[kinds],
    )  # a class without a label as well
    candidates = [Candidate("in use", seen_by(points, 1.0, 1)), Candidate("other", seen_by(points, 1.0, 2))]
    found = compare_backbones(candidates, targets, multiple=False, current="in use")
    for each in found.scores:
        assert each.accuracy is not None and each.log_loss is not None and np.isfinite(each.log_loss)


def test_principal_components_get_the_head_that_a_round_fits_on_them() -> None:
    points, targets = pool(80, 0)
    components = (points @ np.linalg.svd(points, full_matrices=False)[2].T).astype(np.float32)
    candidates = [Candidate("in use", seen_by(points, 9.0, 1)), Candidate("own", components, prepared=False)]
    assert compare_backbones(candidates, targets, multiple=False, current="in use").chosen == "own"


def test_features_no_better_than_plain_colours_are_told() -> None:
    points, targets = pool(80, 0)
    plain, good = Candidate("colours", seen_by(points, 4.0, 1)), Candidate("good", seen_by(points, 0.5, 2))
    poor = Candidate("poor", seen_by(points, 8.0, 3))
    told = [
        compare_backbones([each], targets, multiple=False, current=each.name, plain=plain).beats_plain
        for each in (good, poor)
    ]
    assert told == [True, False]
    easy = Candidate("easy", targets)  # nothing is left to gain
    assert compare_backbones([easy], targets, multiple=False, current="easy", plain=easy).beats_plain


def test_embeddings_of_other_images_are_refused() -> None:
    points, targets = pool(50, 0)
    with pytest.raises(ValueError, match="50 targets"):
        compare_backbones([Candidate("a", seen_by(points, 1, 1)[:49])], targets, multiple=False, current="a")
    with pytest.raises(ValueError, match="50 targets"):
        compare_backbones([], targets, multiple=False, current="a")
