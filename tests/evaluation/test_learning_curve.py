import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.evaluation.learning_curve import Point, area_under, learning_curve
from coreset_backend.evaluation.stop_advice import radius_fall, stop_advice


def exact(a: float, b: float, c: float, labels: list[int], n_holdout: int = 10_000) -> list[Point]:
    return [Point(n, a - b * (n / labels[0]) ** -c, n_holdout) for n in labels]


def test_a_power_law_is_found_again() -> None:
    curve = learning_curve(exact(0.9, 0.4, 0.5, [50, 100, 200, 400, 800], n_holdout=10**7))
    assert curve
    assert curve.accuracy(800).value == pytest.approx(0.8, abs=0.01)
    assert curve.accuracy(1600).value == pytest.approx(0.9 - 0.4 * 32**-0.5, abs=0.015)
    target = curve.labels_to(0.82)
    assert target and target.value == pytest.approx(50 * 25, rel=0.2)
    assert curve.labels_to(0.999) is None
    assert curve.labels_to(0.82, most=1000) is None


@pytest.mark.parametrize(
    ("a", "b", "c", "n_holdout", "rounds"),
    [(0.9, 0.5, 0.5, 100, 3), (0.9, 0.5, 0.5, 100, 8), (0.7, 0.2, 0.3, 100, 10), (0.95, 0.6, 1.0, 300, 6)],
)
def test_the_forecast_holds_the_truth_in_about_90_of_100_cases(
    a: float, b: float, c: float, n_holdout: int, rounds: int
) -> None:
    rng, held = np.random.default_rng(0), 0
    labels = 50 * np.arange(1, rounds + 1)
    now, more = int(labels[-1]), int(labels[-1]) // 2
    truth = b * ((now / 50) ** -c - ((now + more) / 50) ** -c)
    for _ in range(100):
        hits = rng.binomial(n_holdout, a - b * (labels / 50) ** -c)
        points = [Point(int(n), hit / n_holdout, n_holdout) for n, hit in zip(labels, hits, strict=True)]
        curve = learning_curve(points)
        assert curve
        forecast = curve.gain(now, more)
        held += forecast.low <= truth <= forecast.high
    assert held >= 80


point = st.builds(Point, st.integers(1, 10_000), st.floats(0, 1), st.integers(1, 2_000))


@settings(max_examples=40, deadline=None)
@given(st.lists(point, min_size=3, max_size=12, unique_by=lambda found: found.labels))
def test_a_curve_never_falls_and_stays_a_share(points: list[Point]) -> None:
    curve = learning_curve(points)
    assert curve
    last = 0.0
    for labels in (curve.first, curve.first + 10, 10_000, 10**7):
        found = curve.accuracy(labels)
        assert found.low <= found.value <= found.high <= 1 + 1e-9
        assert found.value >= last - 1e-9
        last = found.value
    gain = curve.gain(100, 50)
    assert 0 <= gain.low <= gain.value <= gain.high


def test_the_order_of_the_points_does_not_matter_much_and_the_seed_makes_it_repeatable() -> None:
    points = exact(0.8, 0.3, 0.4, [50, 100, 150, 200], n_holdout=150)
    first, again = learning_curve(points), learning_curve(points)
    assert first and again and np.array_equal(first.a, again.a)
    turned = learning_curve(points[::-1])
    assert turned and turned.accuracy(300).value == pytest.approx(first.accuracy(300).value, abs=0.02)


def test_it_is_too_early_before_three_measured_rounds_and_with_a_small_hold_out() -> None:
    early = stop_advice(exact(0.9, 0.4, 0.5, [50, 100], 100), 50, [])
    assert early.verdict == "too early" and early.next_batch is None and early.curve == ()
    assert early.sentence == ("Too early to say: a forecast needs 3 measured rounds, and there are 2.")
    small = stop_advice(exact(0.9, 0.4, 0.5, [50, 100, 150], 12), 50, [(2.0, 1.8)])
    assert "the hold-out has 12 images" in small.sentence
    assert small.sentence.endswith("A batch lately shrinks the covering radius by 10 %.")
    nothing = stop_advice([], 50, [])
    assert "there are 0" in nothing.sentence and nothing.radius_fall is None


def test_a_steep_curve_says_go_on_and_a_flat_one_says_stop() -> None:
    steep = stop_advice(exact(0.95, 0.5, 0.5, [50, 100, 150, 200], 400), 50, [(4.0, 3.0)])
    assert steep.verdict == "keep labelling" and steep.sentence.startswith("Keep labelling: the next 50")
    assert steep.further and steep.next_batch and steep.further.labels == 100
    assert 0.01 < steep.next_batch.value < steep.further.value
    assert steep.curve[0].labels == 50 and steep.curve[-1].labels == 400
    flat = stop_advice([Point(50 * n, 0.9, 2000) for n in range(1, 11)], 50, [(1.0, 0.99)] * 4)
    assert flat.verdict == "stop" and flat.sentence.startswith("More labels will change little")
    assert flat.further and flat.further.high < 0.02


def test_a_noisy_curve_on_a_small_hold_out_is_hard_to_tell() -> None:
    wild = [Point(50, 0.6, 25), Point(100, 0.72, 25), Point(150, 0.56, 25), Point(200, 0.68, 25)]
    advice = stop_advice(wild, 50, [])
    assert advice.verdict == "hard to tell"
    assert "with a hold-out of 25 images" in advice.sentence


def test_the_radius_falls_by_the_mean_share_of_the_last_three_batches() -> None:
    assert radius_fall([(10.0, 1.0), (4.0, 3.0), (200.0, 150.0), (1.0, 0.75)]) == pytest.approx(0.25)
    assert radius_fall([]) is None
    assert radius_fall([(0.0, 0.0)]) is None


def test_area_under_a_curve_is_the_mean_accuracy_over_its_axis() -> None:
    assert area_under([100, 200, 400], [0.5, 0.7, 0.7]) == pytest.approx((60 + 140) / 300)
    assert area_under([100, 200, 400], [0.5, 0.7, 0.7], log=True) == pytest.approx(0.65)
    for labels in ([100], [100, 100], [200, 100]):
        with pytest.raises(ValueError, match="rising numbers"):
            area_under(labels, [0.5] * len(labels))


def test_the_labels_until_a_stop_are_where_the_forecast_falls_below_a_point() -> None:
    curve = learning_curve(exact(0.9, 0.4, 0.5, [50, 100, 200, 400, 800], n_holdout=10**7))
    assert curve
    flat = curve.labels_until_flat(0.01, 0.5)
    assert flat.low <= flat.value <= flat.high
    truth = 50 * (0.4 * (1 - 1.5**-0.5) / 0.01) ** 2
    assert flat.value == pytest.approx(truth, rel=0.2)
    assert curve.gain(flat.value, flat.value / 2).value == pytest.approx(0.01, abs=2e-4)


def test_advice_says_how_many_labels_are_left_until_a_stop() -> None:
    rising = stop_advice(exact(0.9, 0.4, 0.5, [50, 100, 200, 400], n_holdout=4000), 50, [])
    assert rising.verdict == "keep labelling" and rising.until_stop
    assert rising.until_stop.low <= rising.until_stop.value
    assert 1000 < rising.until_stop.value < 20_000
    flat = stop_advice(exact(0.9, 0.4, 2.0, [50, 100, 200, 400], n_holdout=4000), 50, [])
    assert flat.verdict == "stop" and flat.until_stop and flat.until_stop.value == 0
    assert stop_advice(exact(0.9, 0.4, 0.5, [50, 100]), 50, []).until_stop is None
