"""Overlap of and distance between the agents' boxes, exact, at every pose."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff.metrics import boxes
from sdiff.scene import Agents


class Contact(NamedTuple):
    """What the boxes of one scene do to each other.

    in_collision: (N, T) bool, whether the agent's box overlaps another one at the step; a touch is not an overlap.
    min_distance_m: smallest distance between two boxes at any step, 0 where they overlap; NaN where no two agents
    are seen at one step.
    """

    in_collision: NDArray[np.bool_]
    min_distance_m: float


def contact(agents: Agents) -> Contact:
    """Overlaps and the smallest distance over all pairs and steps."""
    in_collision, least = _contact(*boxes.poses(agents))
    return Contact(in_collision, least if np.isfinite(least) else float("nan"))


@boxes.compiled
def _contact(x, y, c, s, vx, vy, length, width, valid):  # type: ignore[no-untyped-def]
    n, steps = valid.shape
    in_collision, least = np.zeros((n, steps), np.bool_), np.inf
    radius = np.hypot(length, width) / 2
    for i in range(n):
        for j in range(i + 1, n):
            reach = radius[i] + radius[j]
            for t in range(steps):
                if not (valid[i, t] and valid[j, t]):
                    continue
                dx, dy = x[j, t] - x[i, t], y[j, t] - y[i, t]
                # The circles around the boxes are apart, and farther apart than other boxes are.
                if dx * dx + dy * dy > (reach + least) ** 2:
                    continue
                a, b = (c[i, t], s[i, t], length[i], width[i]), (c[j, t], s[j, t], length[j], width[j])
                apart = boxes.distance(dx, dy, a, b)
                least = min(least, apart)
                if apart == 0.0 and boxes.overlap(dx, dy, a, b):  # a touch is at distance 0 too
                    in_collision[i, t] = in_collision[j, t] = True
    return in_collision, least


def meetings(agents: Agents) -> NDArray[np.bool_]:
    """Whether two agents' boxes overlap at any step, (N, N); false on the diagonal."""
    return np.asarray(_meetings(*boxes.poses(agents)))


@boxes.compiled
def _meetings(x, y, c, s, vx, vy, length, width, valid):  # type: ignore[no-untyped-def]
    n, steps = valid.shape
    meets = np.zeros((n, n), np.bool_)
    for i in range(n):
        for j in range(i + 1, n):
            for t in range(steps):
                if valid[i, t] and valid[j, t]:
                    a, b = (c[i, t], s[i, t], length[i], width[i]), (c[j, t], s[j, t], length[j], width[j])
                    if boxes.overlap(x[j, t] - x[i, t], y[j, t] - y[i, t], a, b):
                        meets[i, j] = meets[j, i] = True
                        break
    return meets
