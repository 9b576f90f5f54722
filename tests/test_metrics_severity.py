"""Surrogate safety measures are what a stopwatch and a ruler would read."""

from dataclasses import replace

import numpy as np
import pytest
from traffic import TIME_S, traffic

from sdiff.geometry import box_corners, boxes_overlap
from sdiff.metrics.safety import scenario_columns
from sdiff.metrics.severity import approach, encroachment
from sdiff.scene import STEPS_PAST, Agents, AgentTokens


def crossing(second_later_s: float, ego_mps: float = 10.0, other_mps: float = 8.0) -> Agents:
    """The ego drives along x, another along y; the other's bumper reaches the ego's lane so long after the ego left."""
    ego_leaves_s = (1.0 + 2.0) / ego_mps  # the rear, 2 m behind its centre, passes the other's far side at x = 1
    y = -1.0 - 2.0 - other_mps * (ego_leaves_s + second_later_s)
    return traffic([0.0, 0.0], [0.0, y], [0.0, np.pi / 2], [ego_mps, other_mps])


@pytest.mark.parametrize("later_s", [0.07, 0.5, 1.234])
def test_post_encroachment_time_is_what_passes_between_the_rear_of_one_and_the_front_of_the_other(
    later_s: float,
) -> None:
    found = encroachment(crossing(later_s))
    assert found.pet_s[0, 1] == pytest.approx(later_s, abs=1e-4)
    assert np.isinf(found.pet_s[1, 0])  # the ego does not come where the other has been
    left, entered = TIME_S[found.leave_step[0, 1]], TIME_S[found.enter_step[0, 1]]
    assert left <= 0.3 <= left + 0.1 + 1e-6 and entered - 0.1 - 1e-6 <= 0.3 + later_s <= entered


def test_behind_a_leader_post_encroachment_time_is_the_time_gap() -> None:
    found = encroachment(traffic([0.0, 19.0], [0.0, 0.0], 0.0, 10.0))
    assert found.pet_s[1, 0] == pytest.approx((19 - 4) / 10, abs=1e-4)


def test_post_encroachment_time_is_the_least_lag_at_which_the_boxes_would_overlap() -> None:
    rng = np.random.default_rng(3)
    found_some = 0
    for _ in range(20):
        n = 4
        scene = traffic(rng.uniform(-15, 15, n), rng.uniform(-15, 15, n), rng.uniform(-3, 3, n), rng.uniform(0, 12, n))
        pet = encroachment(scene).pet_s
        corners = box_corners(scene.x_m, scene.y_m, scene.heading_rad, scene.length_m[:, None], scene.width_m[:, None])
        for i, j in np.argwhere(~np.eye(n, dtype=bool)):
            hit = boxes_overlap(corners[i][:, None], corners[j][None])  # [step of i, step of j]
            lags = np.subtract.outer(np.arange(41), np.arange(41)).T  # j's step less i's
            coarse = lags[hit & (lags >= 0)].min(initial=1000) * 0.1
            assert np.isinf(pet[i, j]) if coarse > 5 else coarse - 0.2 - 1e-6 <= pet[i, j] <= coarse + 1e-6
            found_some += 0 < pet[i, j] < np.inf
    assert found_some > 20


def test_boxes_that_meet_leave_no_time_and_those_never_there_at_once_still_have_one() -> None:
    hit = crossing(-0.1)
    assert encroachment(hit).pet_s[0, 1] == 0
    apart = crossing(0.5)
    seen = apart.valid.copy()
    seen[0, STEPS_PAST + 5 :] = seen[1, : STEPS_PAST + 5] = False
    found = encroachment(replace(apart, valid=seen))
    assert found.pet_s[0, 1] == pytest.approx(0.5, abs=1e-4)
    assert np.isinf(approach(replace(apart, valid=seen)).min_distance_m).all()


def test_braking_at_the_rate_to_avoid_a_crash_stops_at_the_leaders_bumper() -> None:
    gap_m, behind_mps, ahead_mps = 20.0, 14.0, 8.0
    scene = traffic([0.0, gap_m + 4.0], [0.0, 0.0], 0.0, [behind_mps, ahead_mps])
    at_t0 = replace(scene, valid=scene.valid & (np.abs(TIME_S) < 1e-6))
    rate = approach(at_t0).max_drac_mps2[0, 1]
    until_equal_s = (behind_mps - ahead_mps) / rate
    closed_m = (behind_mps - ahead_mps) * until_equal_s - rate * until_equal_s**2 / 2
    assert closed_m == pytest.approx(gap_m, rel=1e-5)


def test_the_steps_of_the_extremes() -> None:
    # the ego comes up behind a parked car, 40 m ahead at t0: nearest, and hardest to avoid, at the end
    found = approach(traffic([0.0, 40.0], [0.0, 0.0], 0.0, [10.0, 0.0]))
    assert found.ttc_step[0, 1] == found.drac_step[1, 0] == found.distance_step[0, 1] == 40
    assert found.min_distance_m[0, 1] == pytest.approx(40 - 4 - 20, rel=1e-5)
    assert found.max_drac_mps2[0, 1] == pytest.approx(10**2 / (2 * 16), rel=1e-5)
    # it passes one on the next lane: nearest when side by side, and never on the way to a crash
    passing = approach(traffic([0.0, 1.0], [0.0, 3.5], 0.0, [10.0, 0.0]))
    assert passing.min_distance_m[0, 1] == pytest.approx(1.5, rel=1e-5)
    assert passing.ttc_step[0, 1] == passing.drac_step[0, 1] == -1 and passing.max_drac_mps2[0, 1] == 0


def test_columns_of_a_scenario_look_at_their_own_pairs() -> None:
    rest = traffic([0.0, 30.0], [40.0, 40.0], 0.0, [9.0, 1.0])  # these two close in at 8 m/s, 26 m apart at t0
    near = crossing(0.6)
    both = Agents(**{name: np.concatenate([getattr(near, name), getattr(rest, name)]) for name in FIELDS})
    both = replace(both, is_ego=np.arange(4) == 0)
    token = AgentTokens.unspecified(1)
    token.x_m[:], token.y_m[:] = 30.0, 40.0
    found = scenario_columns(both, token, np.full((256, 256), 255, np.uint8))
    assert found["ego_min_pet_s"] == pytest.approx(0.6, abs=1e-4)
    assert np.isnan(found["target_min_pet_s"])
    assert found["max_drac_mps2"] == pytest.approx(8**2 / (2 * (30 - 4 - 16)), rel=1e-4)
    assert found["ego_max_drac_mps2"] < found["max_drac_mps2"] or np.isnan(found["ego_max_drac_mps2"])


FIELDS = (
    *("agent_id", "kind", "length_m", "width_m", "is_ego", "x_m", "y_m", "heading_rad", "vx_mps", "vy_mps", "valid"),
)
