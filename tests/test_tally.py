"""Means over scenes come with how sure they are; a distribution is as far from another as it would have to move."""

from dataclasses import replace

import numpy as np
import pytest
from traffic import traffic

from sdiff.metrics.map_fit import LaneSegments
from sdiff.metrics.measures import Place
from sdiff.metrics.tally import Tally, ways_left

PLACE = Place("w", "log", "here", traffic([0.0], [0.0]), np.ones((1, 1), bool), {"vehicle": LaneSegments.join([])})


def tally(values: np.ndarray, key: str = "mmd2.position", region: str = "here") -> Tally:
    """One value a scene, each scene of a log of its own."""
    made = Tally()
    for i, value in enumerate(values):
        made.add({key: np.array([value])}, replace(PLACE, log_id=str(i), region=region))
    return made


def test_the_interval_of_a_mean_is_as_wide_as_independent_logs_make_it() -> None:
    values = np.random.default_rng(0).normal(5, 2, 2000)
    made = tally(values)
    low, high = made.intervals()["mmd2.position"] or (0, 0)
    assert made.result(made)["mmd2.position"] == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * 2 / np.sqrt(2000), rel=0.3)
    assert low < 5 < high


def test_many_windows_of_one_log_are_no_surer_than_one() -> None:
    rng = np.random.default_rng(0)
    of_logs = rng.normal(5, 2, 100)
    once, often = tally(of_logs), Tally()
    for i, value in enumerate(of_logs):
        often.add({"mmd2.position": np.full(50, value)}, replace(PLACE, log_id=str(i)))
    assert once.intervals()["mmd2.position"] == pytest.approx(often.intervals()["mmd2.position"])


def test_what_was_not_measured_has_no_value() -> None:
    made = tally(np.array([np.nan]))
    assert made.result(made)["mmd2.position"] is None and made.intervals()["mmd2.position"] is None


def test_regions_are_measured_by_themselves() -> None:
    made = tally(np.array([1.0, 2.0]))
    made.add({"mmd2.position": np.array([9.0])}, replace(PLACE, region="there"))
    assert made.regions == ["here", "there"]
    assert [made.result(made, r)["mmd2.position"] for r in (None, "here", "there")] == [4.0, 1.5, 9.0]


def test_quantiles_and_the_distance_of_distributions_are_in_the_values_unit() -> None:
    rng = np.random.default_rng(0)
    logs, faster = Tally(), Tally()
    values = rng.uniform(0, 10, 20_000)
    logs.add({"acceleration_mps2": values}, PLACE)
    faster.add({"acceleration_mps2": values[:5000] + 1.5}, PLACE)
    found = faster.result(logs)
    assert found["acceleration_mps2.p50"] == pytest.approx(6.5, abs=0.2)
    assert found["acceleration_mps2.p95"] == pytest.approx(11.0, abs=0.2)
    assert found["acceleration_mps2.from_logs"] == pytest.approx(1.5, abs=0.1)
    assert logs.result(logs)["acceleration_mps2.from_logs"] == 0


def test_the_way_left_is_0_like_another_draw_and_1_like_naive_agents() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.2, (3, 500))
    again, naive = tally(1 + noise[0]), tally(3 + noise[1])
    way = ways_left(tally(1.5 + noise[2]), again, naive)["mmd2.position"]
    assert way.left == pytest.approx(0.25, abs=0.02)
    assert way.interval[0] < 0.25 < way.interval[1]


def test_between_ends_that_do_not_differ_there_is_no_way() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.2, (3, 500))
    assert ways_left(tally(1.5 + noise[2]), tally(1 + noise[0]), tally(1 + noise[1])) == {}
