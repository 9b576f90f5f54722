"""Agents that drive straight on, for tests of the metrics."""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from sdiff import KINDS
from sdiff.scene import STEPS_PAST, Agents

TIME_S = (np.arange(41) - STEPS_PAST) * 0.1


def traffic(
    x_m: ArrayLike,
    y_m: ArrayLike,
    heading_rad: ArrayLike = 0.0,
    speed_mps: ArrayLike = 0.0,
    kind: str | list[str] = "car",
    length_m: ArrayLike = 4.0,
    width_m: ArrayLike = 2.0,
) -> Agents:
    """Agents with these poses at t0 and constant velocity along their heading; the first one is the ego."""
    x, y, heading, speed, length, width = (
        np.array(v, np.float64) for v in np.broadcast_arrays(x_m, y_m, heading_rad, speed_mps, length_m, width_m)
    )
    n = len(x)
    vx, vy = speed * np.cos(heading), speed * np.sin(heading)

    def over_time(start: np.ndarray, rate: np.ndarray) -> np.ndarray:
        return (start[:, None] + rate[:, None] * TIME_S).astype(np.float32)

    return Agents(
        agent_id=np.array([f"agent{i}" for i in range(n)], str),
        kind=np.array([KINDS.index(k) for k in ([kind] * n if isinstance(kind, str) else kind)], np.int8),
        length_m=length.astype(np.float32),
        width_m=width.astype(np.float32),
        is_ego=np.arange(n) == 0,
        x_m=over_time(x, vx),
        y_m=over_time(y, vy),
        heading_rad=over_time(heading, 0 * heading),
        vx_mps=over_time(vx, 0 * vx),
        vy_mps=over_time(vy, 0 * vy),
        valid=np.ones((n, len(TIME_S)), bool),
    )


def logged(agents: Agents) -> Agents:
    """The agents as windows of logs have them: sizes known, nothing mended, on the road."""
    yes = np.ones(len(agents), bool)
    return replace(agents, size_known=yes, repaired=~yes, on_drivable_area=yes)
