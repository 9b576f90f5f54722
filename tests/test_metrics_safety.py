"""Time to collision is what a stopwatch would read if nobody braked or steered."""

from dataclasses import replace

import numpy as np
import pytest
from shapely import Polygon
from shapely.affinity import translate
from traffic import TIME_S, traffic

from sdiff.geometry import box_corners
from sdiff.metrics import boxes
from sdiff.metrics.safety import min_ttc_s, scenario_columns
from sdiff.scene import Agents, AgentTokens

EVERYWHERE = np.full((256, 256), 255, np.uint8)


def at_t0_only(agents: Agents) -> Agents:
    """The same agents, seen at t0 alone."""
    return replace(agents, valid=agents.valid & (np.abs(TIME_S) < 1e-6))


def columns(agents: Agents, tokens: AgentTokens | None = None) -> dict[str, float | bool]:
    return scenario_columns(agents, tokens or AgentTokens.unspecified(0), EVERYWHERE)


def token_at(x_m: float, y_m: float) -> AgentTokens:
    token = AgentTokens.unspecified(1)
    token.x_m[:], token.y_m[:] = x_m, y_m
    return token


def test_head_on_at_20_m_and_10_mps_leaves_the_gap_between_the_bumpers() -> None:
    head_on = at_t0_only(traffic([0.0, 20.0], [0.0, 0.0], [0.0, np.pi], [6.0, 4.0]))
    assert columns(head_on)["min_ttc_s"] == pytest.approx((20 - 4) / 10, rel=1e-5)


def test_the_smallest_time_of_all_poses_counts() -> None:
    following = traffic([0.0, 40.0], [0.0, 0.0], 0.0, [10.0, 0.0])
    assert columns(following)["min_ttc_s"] == pytest.approx((40 - 4 - 2 * 10) / 10, rel=1e-5)


def test_cars_that_keep_their_lane_or_drive_apart_never_collide() -> None:
    oncoming = traffic([0.0, 40.0], [0.0, 3.5], [0.0, np.pi], 10.0)
    apart = traffic([25.0, -25.0], [0.0, 0.0], [0.0, np.pi], 10.0)
    alike = traffic([0.0, 10.0], [0.0, 0.0], 0.0, 10.0)
    for scene in (oncoming, apart, alike):
        assert np.isnan(columns(scene)["min_ttc_s"])


def test_boxes_that_overlap_are_out_of_time() -> None:
    assert columns(traffic([0.0, 3.0], [0.0, 0.0]))["min_ttc_s"] == 0


def test_time_to_collision_is_the_first_contact_of_moving_polygons() -> None:
    rng = np.random.default_rng(0)
    n = 100
    dx, dy = rng.uniform(-25, 25, (2, n))
    dvx, dvy = -dx * 0.2 + rng.normal(0, 1, n), -dy * 0.2 + rng.normal(0, 1, n)
    shapes = [(rng.uniform(-3, 3, n), rng.uniform(3, 9, n), rng.uniform(1, 3, n)) for _ in range(2)]
    scalars = [zip(np.cos(h), np.sin(h), length, width, strict=True) for h, length, width in shapes]
    ttc = np.array([boxes.time_to_collision(*pair) for pair in zip(dx, dy, dvx, dvy, *scalars, strict=True)])
    assert 25 < np.isfinite(ttc).sum() < n
    a = [Polygon(p) for p in box_corners(0.0, 0.0, *shapes[0])]
    b = [Polygon(p) for p in box_corners(dx, dy, *shapes[1])]
    for i in range(n):
        if np.isinf(ttc[i]):
            swept = [translate(b[i], dvx[i] * t, dvy[i] * t).intersection(a[i]).area for t in np.arange(0, 20, 0.1)]
            assert max(swept) < 0.05
        elif ttc[i] > 0:
            at_contact = translate(b[i], dvx[i] * ttc[i], dvy[i] * ttc[i])
            assert at_contact.distance(a[i]) < 1e-6 and at_contact.intersection(a[i]).area < 1e-6
            later = ttc[i] + 1e-3
            assert translate(b[i], dvx[i] * later, dvy[i] * later).intersects(a[i])
        else:
            assert a[i].intersects(b[i])


def test_ego_and_target_columns_look_at_their_own_pairs() -> None:
    # the ego closes in on a parked car (3.6 s), two others on each other faster (0.6 s)
    scene = at_t0_only(traffic([0.0, 40.0, -30.0, -20.0], [0.0, 0.0, 20.0, 20.0], 0.0, [10.0, 0.0, 10.0, 0.0]))
    free = columns(scene)
    assert free["min_ttc_s"] == pytest.approx(0.6, rel=1e-4)
    assert free["ego_min_ttc_s"] == pytest.approx(3.6, rel=1e-4)
    assert np.isnan(free["target_min_ttc_s"]) and np.isnan(free["token_match_rate"])
    parked = columns(scene, token_at(40.5, 0.0))
    assert parked["target_min_ttc_s"] == pytest.approx(3.6, rel=1e-4)
    assert parked["token_match_rate"] == 1
    other = columns(scene, token_at(-30.0, 20.0))
    assert np.isnan(other["target_min_ttc_s"])
    assert columns(scene, token_at(0.0, 40.0))["token_match_rate"] == 0


def test_a_pair_has_the_least_time_of_the_steps_at_which_both_are_seen() -> None:
    scene = traffic([0.0, 40.0], [0.0, 0.0], 0.0, [10.0, 0.0])
    seen = scene.valid.copy()
    seen[1, 11:] = False
    ttc = min_ttc_s(replace(scene, valid=seen))
    assert ttc[0, 1] == ttc[1, 0] == pytest.approx((40 - 4) / 10 + 1.0, rel=1e-5)  # last seen together 1 s before t0
    assert np.isinf(np.diag(ttc)).all()


def test_an_empty_scene_has_no_numbers() -> None:
    nobody = traffic([0.0], [0.0]).take(np.zeros(1, bool))
    found = columns(nobody)
    assert found.pop("has_collision") is False and found.pop("has_impossible_motion") is False
    assert found.pop("is_fulfilled") is True, "nothing is asked for"
    assert all(np.isnan(v) for v in found.values())
