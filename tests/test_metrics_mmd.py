"""The distance between scenes is 0 for one distribution and grows as two differ."""

import numpy as np
import pytest
from traffic import traffic

from sdiff.metrics.mmd import mmd2_trafficgen, mmd2_unbiased, scene_mmd2, scene_mmd2_trafficgen


def samples(shift: float, runs: int = 400, n: int = 8) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(n, 2)), rng.normal(size=(n + 3, 2)) + np.array([shift, 0])) for _ in range(runs)]


def test_two_samples_of_one_distribution_are_at_no_distance_on_average() -> None:
    values = [mmd2_unbiased(a, b, 1.0) for a, b in samples(0.0)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert np.mean([mmd2_trafficgen(a, b) for a, b in samples(0.0)]) > 0.05  # their estimate is biased


def test_the_distance_grows_with_the_shift_between_two_distributions() -> None:
    for estimate in (lambda a, b: mmd2_unbiased(a, b, 1.0), mmd2_trafficgen):
        means = [np.mean([estimate(a, b) for a, b in samples(s, 50)]) for s in (0.0, 0.5, 1.0, 2.0, 4.0)]
        assert (np.diff(means) > 0).all()


def test_the_unbiased_estimate_is_the_sum_over_pairs_of_different_points() -> None:
    a, b = np.array([[0.0, 0], [3, 4]]), np.array([[0.0, 1], [0, 2], [0, 3]])

    def k(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.exp(-((p - q) ** 2).sum() / (2 * 2.0**2)))

    within_a = np.mean([k(a[i], a[j]) for i in range(2) for j in range(2) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(3) for j in range(3) if i != j])
    between = np.mean([k(p, q) for p in a for q in b])
    assert mmd2_unbiased(a, b, 2.0) == pytest.approx(within_a + within_b - 2 * between)


def test_traffic_the_other_way_round_differs_in_heading_and_velocity_alone() -> None:
    x, y = [0.0, 10, 20, 30, 40], [0.0, 0, 3.5, 3.5, 0]
    there, back = traffic(x, y, 0.0, 10.0), traffic(x, y, np.pi, 10.0)
    distance = scene_mmd2(there, back)
    assert distance["heading"] > 1.9 and distance["velocity"] > 1.9
    assert distance["position"] < 0 and distance["size"] == pytest.approx(0)
    assert scene_mmd2_trafficgen(there, back)["heading"] > 0.5


def test_the_ego_does_not_count_and_alone_has_no_distance() -> None:
    fast, slow = (traffic([0.0, 10, 20], [0.0, 0, 0], 0.0, [ego, 5.0, 6.0]) for ego in (20.0, 0.0))
    assert scene_mmd2(fast, slow) == scene_mmd2(slow, slow)
    alone, pair = traffic([0.0], [0.0]), traffic([0.0, 9], [0.0, 0])
    assert np.isnan(list(scene_mmd2(alone, pair).values())).all()
    assert np.isnan(list(scene_mmd2_trafficgen(alone, pair).values())).all()
