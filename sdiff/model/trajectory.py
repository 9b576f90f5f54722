"""Waypoints to 41 poses at 10 Hz: a smooth curve through the waypoints, its derivative as the velocity."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff import STEP_S
from sdiff.geometry import wrap_angle
from sdiff.model.batch import T0, TIMES_S
from sdiff.scene import STEPS_FUTURE, STEPS_PAST

_KNOTS = np.array(TIMES_S)
_TIMES = (np.arange(STEPS_PAST + STEPS_FUTURE + 1) - STEPS_PAST) * STEP_S


class Motion(NamedTuple):
    """N agents over T steps of 0.1 s: x, y [m], heading [rad], velocity [m/s]; each (N, T) float32."""

    x_m: NDArray[np.float32]
    y_m: NDArray[np.float32]
    heading_rad: NDArray[np.float32]
    vx_mps: NDArray[np.float32]
    vy_mps: NDArray[np.float32]


def interpolate(pose: NDArray[np.float32]) -> Motion:
    """Poses (N, W, 3) at TIMES_S to motion at every step.

    The position is a cubic Hermite curve through the waypoints, in the frame of the agent at t0, with slopes of the
    parabola through neighbouring waypoints, limited so that no coordinate overshoots (Fritsch and Carlson 1980): an
    agent that stops does not roll back. It is exact for constant acceleration. Headings interpolate the decoded
    headings by the same rule, never the direction of travel, so that reversing stays reversing.
    """
    pose = np.asarray(pose, np.float64)
    heading0 = pose[:, T0, 2]
    c, s = np.cos(heading0)[:, None], np.sin(heading0)[:, None]
    dx, dy = pose[..., 0] - pose[:, T0 : T0 + 1, 0], pose[..., 1] - pose[:, T0 : T0 + 1, 1]
    along, along_dot = _hermite(c * dx + s * dy)
    across, across_dot = _hermite(c * dy - s * dx)
    heading, _ = _hermite(np.unwrap(pose[..., 2], axis=1))
    motion = (
        c * along - s * across + pose[:, T0 : T0 + 1, 0],
        s * along + c * across + pose[:, T0 : T0 + 1, 1],
        wrap_angle(heading),
        c * along_dot - s * across_dot,
        s * along_dot + c * across_dot,
    )
    return Motion(*(m.astype(np.float32) for m in motion))


def _hermite(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values (N, W) at the knots to values and derivatives (N, T) at every step."""
    slope = _limited_slopes(values)
    i = np.clip(np.searchsorted(_KNOTS, _TIMES + 1e-9, side="right") - 1, 0, len(_KNOTS) - 2)
    h = np.diff(_KNOTS)[i]
    u = (_TIMES - _KNOTS[i]) / h
    p0, p1, m0, m1 = values[:, i], values[:, i + 1], slope[:, i] * h, slope[:, i + 1] * h
    curve = (
        (2 * u**3 - 3 * u**2 + 1) * p0 + (u**3 - 2 * u**2 + u) * m0 + (3 * u**2 - 2 * u**3) * p1 + (u**3 - u**2) * m1
    )
    dot = (6 * u**2 - 6 * u) * (p0 - p1) + (3 * u**2 - 4 * u + 1) * m0 + (3 * u**2 - 2 * u) * m1
    return curve, dot / h


def _limited_slopes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slopes (N, W) at the knots: of the parabola through three neighbours, zero at an extremum, at most 3 secants."""
    h = np.diff(_KNOTS)
    secant = np.diff(values, axis=1) / h
    before, after = secant[:, :-1], secant[:, 1:]
    inner = (before * h[1:] + after * h[:-1]) / (h[1:] + h[:-1])
    first = secant[:, :1] + (secant[:, :1] - inner[:, :1])
    last = secant[:, -1:] + (secant[:, -1:] - inner[:, -1:])
    slope = np.concatenate([first, inner, last], 1)
    left = np.concatenate([secant[:, :1], secant], 1)
    right = np.concatenate([secant, secant[:, -1:]], 1)
    limit = np.where(left * right > 0, 3 * np.minimum(abs(left), abs(right)), 0)
    return np.sign(left) * np.clip(slope * np.sign(left), 0, limit)
