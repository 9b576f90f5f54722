"""Whether agents move as vehicles can."""

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S
from sdiff.geometry import wrap_angle
from sdiff.scene import Agents

Array = NDArray[np.float64]

MOVING_MPS = 2.0
"""Below this speed the direction of the velocity is noise, and most agents stand."""
ACCELERATION_STEPS = 10
"""Accelerations are means over 1 s: at 0.1 s the tracking noise of recorded logs drowns them."""

MOST_ACCELERATION_MPS2 = 9.81
"""What dry asphalt gives a tyre, along and across together. Of logged agents 99 % stay below it."""
LEAST_TURNING_RADIUS_M = 4.0
LEAST_TURNING_RADIUS_TWO_WHEELS_M = 2.0
"""Of an agent's centre."""
MOST_SLIP_RAD = 0.35
TURN_TOLERANCE_RAD = 0.1
"""Turn within a second that is no more than the tracking noise of an agent that stands."""

_WHEELED = np.array([kind not in ("pedestrian", "other") for kind in KINDS])
_TWO_WHEELS = np.array([kind in ("motorcyclist", "cyclist") for kind in KINDS])


def slip_rad(agents: Agents) -> tuple[Array, NDArray[np.bool_]]:
    """Lateral slip, and whether the agent drives backwards, per pose of a wheeled agent faster than 2 m/s.

    Lateral slip: the angle between the velocity and the line of the heading, in [0, pi/2] [rad]. Returns two (M,).
    """
    speed = np.hypot(agents.vx_mps, agents.vy_mps)
    poses = agents.valid & (speed > MOVING_MPS) & _WHEELED[agents.kind][:, None]
    vx, vy, heading = (v[poses].astype(np.float64) for v in (agents.vx_mps, agents.vy_mps, agents.heading_rad))
    along = vx * np.cos(heading) + vy * np.sin(heading)
    across = vy * np.cos(heading) - vx * np.sin(heading)
    return np.arctan2(np.abs(across), np.abs(along)), along < 0


def acceleration_mps2(agents: Agents) -> Array:
    """Size of the mean acceleration over each second of a wheeled agent, (M,) [m/s2].

    Over the seconds at whose both ends the agent is seen, and at one of them faster than 2 m/s.
    """
    wheeled = agents.take(_WHEELED[agents.kind])
    both = wheeled.valid[:, ACCELERATION_STEPS:] & wheeled.valid[:, :-ACCELERATION_STEPS]
    change = [v[:, ACCELERATION_STEPS:] - v[:, :-ACCELERATION_STEPS] for v in (wheeled.vx_mps, wheeled.vy_mps)]
    moving = np.hypot(wheeled.vx_mps, wheeled.vy_mps) > MOVING_MPS
    both &= moving[:, ACCELERATION_STEPS:] | moving[:, :-ACCELERATION_STEPS]
    return np.hypot(*change)[both].astype(np.float64) / (ACCELERATION_STEPS * STEP_S)


def turning(agents: Agents) -> tuple[Array, Array]:
    """Yaw rate and curvature over each second of a wheeled agent, two (M,) [rad/s, 1/m], both without sign.

    Over the seconds that it is seen in and drives faster than 2 m/s at both ends. Curvature: turn per metre of way.
    """
    wheeled = agents.take(_WHEELED[agents.kind])
    steps = ACCELERATION_STEPS
    speed = np.hypot(wheeled.vx_mps, wheeled.vy_mps)
    driven = wheeled.valid & (speed > MOVING_MPS)
    both = driven[:, steps:] & driven[:, :-steps]
    turn = np.abs(wrap_angle(wheeled.heading_rad[:, steps:] - wheeled.heading_rad[:, :-steps]))[both]
    way = (speed[:, steps:] + speed[:, :-steps])[both] / 2
    seconds = steps * STEP_S
    return (turn / seconds).astype(np.float64), (turn / (way * seconds)).astype(np.float64)


def possible(agents: Agents) -> NDArray[np.bool_]:
    """Whether each agent moves as its kind can, (N,): within a tyre's grip, its turning circle, and without sliding.

    Over each second at whose both ends it is seen; sliding at every pose faster than 2 m/s. Who walks can do anything.
    """
    steps, seconds = ACCELERATION_STEPS, ACCELERATION_STEPS * STEP_S
    both = agents.valid[:, steps:] & agents.valid[:, :-steps]
    vx, vy, heading = agents.vx_mps, agents.vy_mps, agents.heading_rad
    speed = np.hypot(vx, vy)
    acceleration = np.hypot(vx[:, steps:] - vx[:, :-steps], vy[:, steps:] - vy[:, :-steps]) / seconds
    turn = np.abs(wrap_angle(heading[:, steps:] - heading[:, :-steps]))
    way = (speed[:, steps:] + speed[:, :-steps]) / 2 * seconds
    radius = np.where(_TWO_WHEELS[agents.kind], LEAST_TURNING_RADIUS_TWO_WHEELS_M, LEAST_TURNING_RADIUS_M)[:, None]
    across = np.abs(vy * np.cos(heading) - vx * np.sin(heading))
    slides = agents.valid & (speed > MOVING_MPS) & (across > np.sin(MOST_SLIP_RAD) * speed)
    wrong = both & ((acceleration > MOST_ACCELERATION_MPS2) | (turn > way / radius + TURN_TOLERANCE_RAD))
    return ~_WHEELED[agents.kind] | ~(wrong.any(-1) | slides.any(-1))
