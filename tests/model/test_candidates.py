"""Which backbone an audition ends at: the best where that is clear, the one in use where it is not."""

import numpy as np
import pytest

from coreset_backend.model import Candidate, compare_backbones
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
    assert better.accuracy is not None and before.accuracy is not None and better.lead is not None
    assert better.lead == pytest.approx(better.accuracy - before.accuracy)
    assert better.lead_error is not None and 0 < better.lead_error < better.lead / 2
    assert before.lead is None and before.lead_error is None
    assert (better.seconds, before.seconds) == (0.5, 0.01)
    again = compare_backbones(candidates[::-1], targets, multiple=False, current="in use")
    assert again == found


def test_a_small_lead_on_few_labels_changes_nothing() -> None:
    points, targets = pool(50, 0)
    candidates = [Candidate("in use", seen_by(points, 1.2, 1)), Candidate("other", seen_by(points, 0.8, 2))]
    found = compare_backbones(candidates, targets, multiple=False, current="in use")
    assert found.chosen == "in use"


def test_without_the_backbone_in_use_the_best_is_chosen() -> None:
    points, targets = pool(60, 0)
    candidates = [Candidate("a", seen_by(points, 6.0, 1)), Candidate("b", seen_by(points, 0.3, 2))]
    found = compare_backbones(candidates, targets, multiple=False, current="small_cnn")
    assert found.chosen == "b" and {each.lead for each in found.scores} == {None}


def switches(backbones: int, seed: int) -> int:
    """How often equal backbones are exchanged as the labels of one pool grow from 50 to 200."""
    points, targets = pool(200, seed)
    seen = {str(k): seen_by(points, 2.0, 1000 * seed + k) for k in range(backbones)}
    current, exchanged = "0", 0
    for labels in (50, 100, 200):
        candidates = [Candidate(name, embeddings[:labels]) for name, embeddings in seen.items()]
        chosen = compare_backbones(candidates, targets[:labels], multiple=False, current=current).chosen
        exchanged, current = exchanged + (chosen != current), chosen
    return exchanged


@pytest.mark.parametrize(
    ("backbones", "pools"),
    [
        pytest.param(2, 20, marks=pytest.mark.slow),
        pytest.param(2, 50, marks=pytest.mark.soak),
        pytest.param(4, 50, marks=pytest.mark.soak),
    ],
)
def test_equal_candidates_are_not_exchanged(backbones: int, pools: int) -> None:
    exchanged = [switches(backbones, seed) for seed in range(pools)]
    assert sum(map(bool, exchanged)) <= 0.05 * pools


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
