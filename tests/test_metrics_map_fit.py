"""Agents fit the map when they are on drivable ground and along a lane."""

import numpy as np
import pytest
from synthetic import road_map
from traffic import traffic

from sdiff.geometry import SE2
from sdiff.metrics.map_fit import LaneSegments, lane_heading_error_rad, offroad_fraction

LEFT_HALF = np.zeros((256, 256), np.uint8)
LEFT_HALF[:, :128] = 255  # y > 0

LANES = LaneSegments.from_map(road_map())


def test_the_left_half_of_the_image_is_the_left_half_of_the_window() -> None:
    assert offroad_fraction(traffic([0.0, 10.0], [0.2, 30.0]), LEFT_HALF) == 0
    assert offroad_fraction(traffic([0.0, 10.0], [-0.2, -30.0]), LEFT_HALF) == 1
    front = LEFT_HALF.T
    assert offroad_fraction(traffic([20.0], [0.0]), front) == 0
    assert offroad_fraction(traffic([-20.0], [0.0]), front) == 1


def test_pedestrians_and_poses_outside_the_window_do_not_count() -> None:
    assert np.isnan(offroad_fraction(traffic([0.0], [-5.0], kind="pedestrian"), LEFT_HALF))
    leaving = traffic([40.0], [-5.0], 0.0, 10.0)
    on_the_left_later = traffic([49.0, 0.0], [-5.0, 5.0], 0.0, [10.0, 0.0])
    assert offroad_fraction(leaving, LEFT_HALF) == 1
    assert offroad_fraction(on_the_left_later, LEFT_HALF) == pytest.approx(21 / (21 + 41))


def test_a_car_along_its_lane_has_no_heading_error_and_one_across_has_a_right_angle() -> None:
    along = lane_heading_error_rad(traffic([0.0, 10.0], [-1.75, 1.75], [0.0, np.pi]), LANES)
    across = lane_heading_error_rad(traffic([0.0], [-1.75], [np.pi / 2]), LANES)
    wrong_way = lane_heading_error_rad(traffic([0.0], [-1.75], [np.pi]), LANES)
    np.testing.assert_allclose(along, 0, atol=1e-6)
    np.testing.assert_allclose(across, np.pi / 2, atol=1e-6)
    np.testing.assert_allclose(wrong_way, np.pi, atol=1e-6)


def test_where_lanes_cross_the_best_one_counts() -> None:
    cross = LaneSegments.from_polylines(
        np.array([0, 2, 4]), np.array([[-20.0, 0], [20, 0], [0, -20], [0, 20]]), np.array([3.5, np.nan])
    )
    turning = lane_heading_error_rad(traffic([0.0], [0.0], [np.deg2rad(70)]), cross)
    np.testing.assert_allclose(turning, np.deg2rad(20), atol=1e-6)


def test_off_the_lane_there_is_no_heading_error() -> None:
    assert np.isnan(lane_heading_error_rad(traffic([0.0], [8.0]), LANES)).all()
    nothing = LaneSegments.join([])
    assert np.isnan(lane_heading_error_rad(traffic([0.0], [0.0]), nothing)).all()


def test_lanes_move_into_the_window_frame() -> None:
    turned = LANES.window(SE2(0.0, -1.75, np.pi / 2))
    np.testing.assert_allclose(lane_heading_error_rad(traffic([0.0], [0.0], [-np.pi / 2]), turned), 0, atol=1e-6)
    assert len(LANES.window(SE2(500.0, 0.0, 0.0)).half_width_m) == 0
