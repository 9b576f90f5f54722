"""Two oriented boxes: whether they overlap, how far apart they are, when they will collide. Exact, compiled, scalar.

A box is (c, s, length, width): cosine and sine of its heading, and its size [m]. dx, dy: from the centre of a to that
of b [m]; dvx, dvy: velocity of b less that of a [m/s]; all in one frame. Every test projects onto the four axes along
and across the boxes: on each, the centres lie `gap` apart and the boxes reach over `reach`.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sdiff.scene import Agents

compiled = njit(cache=True, nogil=True, error_model="numpy")


def poses(agents: Agents) -> tuple[NDArray[Any], ...]:
    """Arguments of the loops over agents: x, y, cos and sin of heading, vx, vy (N, T), length, width (N,), valid."""
    x, y, heading, vx, vy, length, width = (
        getattr(agents, name).astype(np.float64)
        for name in ("x_m", "y_m", "heading_rad", "vx_mps", "vy_mps", "length_m", "width_m")
    )
    return x, y, np.cos(heading), np.sin(heading), vx, vy, length, width, np.ascontiguousarray(agents.valid)


@compiled
def _axes(a, b):  # type: ignore[no-untyped-def]
    """The four separating axes and how far the half boxes reach along them together."""
    c, s = abs(a[0] * b[0] + a[1] * b[1]), abs(a[1] * b[0] - a[0] * b[1])
    return (
        (a[0], a[1], (a[2] + c * b[2] + s * b[3]) / 2),
        (-a[1], a[0], (a[3] + s * b[2] + c * b[3]) / 2),
        (b[0], b[1], (b[2] + c * a[2] + s * a[3]) / 2),
        (-b[1], b[0], (b[3] + s * a[2] + c * a[3]) / 2),
    )


@compiled
def overlap(dx, dy, a, b):  # type: ignore[no-untyped-def]
    """Whether the boxes overlap by more than a touch, as `geometry.boxes_overlap`."""
    for ax, ay, reach in _axes(a, b):  # noqa: SIM110  numba compiles no generators
        if abs(ax * dx + ay * dy) >= reach:
            return False
    return True


@compiled
def _corner_distance(dx, dy, a, b):  # type: ignore[no-untyped-def]
    """Smallest distance from a corner of b to box a [m]."""
    least = np.inf
    for along, across in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
        x = dx + (along * b[0] * b[2] - across * b[1] * b[3]) / 2
        y = dy + (along * b[1] * b[2] + across * b[0] * b[3]) / 2
        outside_x = max(abs(x * a[0] + y * a[1]) - a[2] / 2, 0.0)
        outside_y = max(abs(y * a[0] - x * a[1]) - a[3] / 2, 0.0)
        least = min(least, np.hypot(outside_x, outside_y))
    return least


@compiled
def distance(dx, dy, a, b):  # type: ignore[no-untyped-def]
    """Distance between the boxes, 0 where they overlap [m]. Apart, it is that of a corner of one from the other."""
    if overlap(dx, dy, a, b):
        return 0.0
    return min(_corner_distance(dx, dy, a, b), _corner_distance(-dx, -dy, b, a))


@compiled
def contact_interval(dx, dy, dvx, dvy, a, b):  # type: ignore[no-untyped-def]
    """From when until when the boxes overlap if both keep velocity and heading, from now on [s]; inf, inf: never.

    Solved exactly by moving separating axes (Eberly, "The Method of Separating Axes"): on each axis the boxes overlap
    during one interval, and in the plane while all four intervals last.
    """
    enter, leave = 0.0, np.inf
    for ax, ay, reach in _axes(a, b):
        gap, speed = ax * dx + ay * dy, ax * dvx + ay * dvy
        if speed == 0.0:
            if abs(gap) >= reach:
                return np.inf, np.inf
            continue
        one, two = (-reach - gap) / speed, (reach - gap) / speed
        enter, leave = max(enter, min(one, two)), min(leave, max(one, two))
        if enter >= leave:
            return np.inf, np.inf
    return enter, leave


@compiled
def time_to_collision(dx, dy, dvx, dvy, a, b):  # type: ignore[no-untyped-def]
    """Time until the boxes overlap if both keep velocity and heading [s]; 0 where they do, inf where they never will.

    Two-dimensional time to collision (Hayward 1972; for boxes Jiao 2023, github.com/Yiru-Jiao/
    Two-Dimensional-Time-To-Collision).
    """
    return contact_interval(dx, dy, dvx, dvy, a, b)[0]
