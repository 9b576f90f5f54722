"""Waypoints to motion: what a curve through nine poses must and must not do."""

import numpy as np
import pytest

from sdiff.model.batch import TIMES_S
from sdiff.model.trajectory import interpolate
from sdiff.scene import STEPS_PAST

T = np.array(TIMES_S)
STEPS = (np.arange(41) - 20) * 0.1


def poses(x: np.ndarray, y: np.ndarray, heading: np.ndarray | float) -> np.ndarray:
    return np.stack(np.broadcast_arrays(x, y, heading), -1)[None].astype(np.float32)


def test_the_curve_passes_through_the_waypoints() -> None:
    rng = np.random.default_rng(0)
    pose = rng.normal(0, 10, (50, len(T), 3)).astype(np.float32)
    motion = interpolate(pose)
    at = STEPS_PAST + np.round(T * 10).astype(int)
    assert motion.x_m[:, at] == pytest.approx(pose[..., 0], abs=1e-4)
    assert motion.y_m[:, at] == pytest.approx(pose[..., 1], abs=1e-4)


def test_constant_acceleration_is_exact() -> None:
    motion = interpolate(poses(3 * T + 0.75 * T**2, 0 * T, 0.0))
    # x is monotone from -2 s on, so nothing is limited.
    assert motion.x_m[0] == pytest.approx(3 * STEPS + 0.75 * STEPS**2, abs=1e-4)
    assert motion.vx_mps[0] == pytest.approx(3 + 1.5 * STEPS, abs=1e-4)


def test_velocity_is_the_derivative_of_the_position() -> None:
    rng = np.random.default_rng(1)
    pose = np.cumsum(rng.normal(0, 0.8, (20, len(T), 3)), 1).astype(np.float32)
    motion = interpolate(pose)
    middle = (motion.x_m[:, 2:] - motion.x_m[:, :-2]) / 0.2
    inside = np.setdiff1d(np.arange(1, 40), np.arange(0, 41, 5))  # the second derivative jumps at waypoints
    assert motion.vx_mps[:, inside] == pytest.approx(middle[:, inside - 1], abs=0.3)


def test_a_vehicle_that_stops_does_not_roll_back() -> None:
    for angle in (0.0, 0.7, 2.5):
        along = np.array([-9.0, -5.5, -3.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        motion = interpolate(poses(along * np.cos(angle), along * np.sin(angle), angle))
        forward = motion.vx_mps[0] * np.cos(angle) + motion.vy_mps[0] * np.sin(angle)
        assert forward.min() > -1e-4
        assert np.abs(forward[STEPS_PAST:]).max() < 1e-4


def test_reversing_stays_reversing() -> None:
    motion = interpolate(poses(-2.0 * T, 0 * T, 0.1))
    assert motion.heading_rad[0] == pytest.approx(0.1, abs=1e-5)
    assert (motion.vx_mps[0] < 0).all()


def test_headings_take_the_short_way_round() -> None:
    heading = np.array([3.0, 3.05, 3.1, -3.13, -3.1, -3.05, -3.0, -2.95, -2.9])
    motion = interpolate(poses(5 * T, 0 * T, heading))
    assert np.abs(motion.heading_rad[0]).min() > 2.8
