"""How near each pair of agents comes to a crash: surrogate safety measures on oriented boxes, exact, compiled."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff import STEP_S
from sdiff.metrics import boxes
from sdiff.scene import Agents

Pairs = NDArray[np.float64]
Steps = NDArray[np.int64]


class Approach(NamedTuple):
    """How each pair of agents closes in, over the steps at which both are seen. All (N, N), symmetric.

    min_ttc_s: smallest time to collision, inf where the pair never closes in; 0 where boxes overlap [s].
    max_drac_mps2: largest deceleration rate to avoid a crash; 0 where the pair never closes in [m/s2].
    min_distance_m: smallest distance between the boxes; inf where the two are never seen at once [m].
    ttc_step, drac_step, distance_step: the first step at which each of these is reached; -1 where it never is.
    On the diagonals: inf, 0, inf, -1.
    """

    min_ttc_s: Pairs
    max_drac_mps2: Pairs
    min_distance_m: Pairs
    ttc_step: Steps
    drac_step: Steps
    distance_step: Steps


class Encroachment(NamedTuple):
    """Who comes where another has just been.

    pet_s: (N, N) post-encroachment time, row: who leaves first, column: who comes after; inf where the second never
    comes where the first was; 0 where boxes overlap [s]. leave_step, enter_step: (N, N) the step at which the first
    is last seen there, and that at which the second is first seen there; -1 where it never is.
    """

    pet_s: Pairs
    leave_step: Steps
    enter_step: Steps


def approach(agents: Agents) -> Approach:
    """Time to collision, deceleration to avoid it and distance of each pair, from every pose of the two.

    Time to collision (Hayward 1972): both go on at the velocity and heading they have, see `boxes.time_to_collision`.
    Deceleration rate to avoid a crash (Cooper & Ferguson 1976; Almqvist, Hyden & Risser 1991): v^2 / (2 d) with v the
    speed at which the two close in and d the way left until the boxes meet, which is v / (2 TTC): behind a leader, the
    constant braking by which the follower just does not touch it. Steps at which boxes overlap do not count to it.
    """
    return Approach(*_approach(*boxes.poses(agents)))


def encroachment(agents: Agents) -> Encroachment:
    """Post-encroachment time of each ordered pair: from when the first leaves a place until the second gets there.

    Defined by Allen, Shin & Cooper (1978) at the place where two ways cross; on moving boxes, as FHWA-HRT-08-051
    (SSAM), the least such time over all places that both boxes sweep. Behind a leader that is the time gap. Poses are
    joined by straight moves at constant speed; where boxes turn within a step, exact to a part of it.
    """
    x, y, c, s, _, _, length, width, valid = boxes.poses(agents)
    return Encroachment(*_encroachment(x, y, c, s, length, width, valid))


@boxes.compiled
def _approach(x, y, c, s, vx, vy, length, width, valid):  # type: ignore[no-untyped-def]
    n, steps = valid.shape
    least, hardest, nearest = np.full((n, n), np.inf), np.zeros((n, n)), np.full((n, n), np.inf)
    ttc_step, drac_step, distance_step = np.full((n, n), -1), np.full((n, n), -1), np.full((n, n), -1)
    radius = np.hypot(length, width) / 2
    for i in range(n):
        for j in range(i + 1, n):
            reach = radius[i] + radius[j]
            ttc_ij, drac_ij, distance_ij = np.inf, 0.0, np.inf
            for t in range(steps):
                if not (valid[i, t] and valid[j, t]):
                    continue
                dx, dy = x[j, t] - x[i, t], y[j, t] - y[i, t]
                dvx, dvy = vx[j, t] - vx[i, t], vy[j, t] - vy[i, t]
                a, b = (c[i, t], s[i, t], length[i], width[i]), (c[j, t], s[j, t], length[j], width[j])
                centres2 = dx * dx + dy * dy
                if centres2 < (reach + distance_ij) ** 2:  # else they are farther apart than they were
                    apart = boxes.distance(dx, dy, a, b)
                    if apart < distance_ij:
                        distance_ij, distance_step[i, j] = apart, t
                far2, closing, speed2 = centres2 - reach * reach, -(dx * dvx + dy * dvy), dvx * dvx + dvy * dvy
                # The circles around the boxes will never meet, so neither will the boxes.
                if far2 > 0 and (closing <= 0 or far2 * speed2 > closing * closing):
                    continue
                ttc = boxes.time_to_collision(dx, dy, dvx, dvy, a, b)
                if ttc < ttc_ij:
                    ttc_ij, ttc_step[i, j] = ttc, t
                if 0.0 < ttc < np.inf and np.sqrt(speed2) / (2 * ttc) > drac_ij:
                    drac_ij, drac_step[i, j] = np.sqrt(speed2) / (2 * ttc), t
            least[i, j] = least[j, i] = ttc_ij
            hardest[i, j] = hardest[j, i] = drac_ij
            nearest[i, j] = nearest[j, i] = distance_ij
            ttc_step[j, i], drac_step[j, i] = ttc_step[i, j], drac_step[i, j]
            distance_step[j, i] = distance_step[i, j]
    return least, hardest, nearest, ttc_step, drac_step, distance_step


@boxes.compiled
def _encroachment(x, y, c, s, length, width, valid):  # type: ignore[no-untyped-def]
    n, steps = valid.shape
    pet, left, entered = np.full((n, n), np.inf), np.full((n, n), -1), np.full((n, n), -1)
    radius = np.hypot(length, width) / 2
    swept = np.full((n, 4), np.inf)  # least x, y and least -x, -y of the circle around the box
    for i in range(n):
        for t in range(steps):
            if valid[i, t]:
                swept[i, 0], swept[i, 1] = min(swept[i, 0], x[i, t]), min(swept[i, 1], y[i, t])
                swept[i, 2], swept[i, 3] = min(swept[i, 2], -x[i, t]), min(swept[i, 3], -y[i, t])
        swept[i] -= radius[i]
    for i in range(n):
        for j in range(n):
            apart = -swept[i, 2] < swept[j, 0] or -swept[j, 2] < swept[i, 0]
            if i == j or apart or -swept[i, 3] < swept[j, 1] or -swept[j, 3] < swept[i, 1]:
                continue
            reach2, best = (radius[i] + radius[j]) ** 2, np.inf
            for lag in range(steps):
                if (lag - 2) * STEP_S >= best:  # a pose may overstate the time by less than a step, on either side
                    break
                for t in range(steps - lag):
                    u = t + lag
                    dx, dy = x[j, u] - x[i, t], y[j, u] - y[i, t]
                    if dx * dx + dy * dy > reach2 or not (valid[i, t] and valid[j, u]):
                        continue
                    a, b = (c[i, t], s[i, t], length[i], width[i]), (c[j, u], s[j, u], length[j], width[j])
                    if not boxes.overlap(dx, dy, a, b):
                        continue
                    gap = _between_poses(x, y, valid, i, t, j, u, a, b) if lag > 0 else 0.0
                    if gap < best:
                        best, pet[i, j], left[i, j], entered[i, j] = gap, gap, t, u
    return pet, left, entered


@boxes.compiled
def _between_poses(x, y, valid, i, t, j, u, a, b):  # type: ignore[no-untyped-def]
    """Time from when i, seen at step t, leaves the box where j is at step u, until j got there; at least 0 [s]."""
    dx, dy, gap = x[j, u] - x[i, t], y[j, u] - y[i, t], (u - t) * STEP_S
    if valid[j, u - 1]:
        vx, vy = (x[j, u - 1] - x[j, u]) / STEP_S, (y[j, u - 1] - y[j, u]) / STEP_S
        back = min(boxes.contact_interval(dx, dy, vx, vy, a, b)[1], STEP_S) * (1 - 1e-9)  # hardly touching still
        dx, dy, gap = dx + vx * back, dy + vy * back, gap - back
    if valid[i, t + 1]:
        vx, vy = (x[i, t + 1] - x[i, t]) / STEP_S, (y[i, t + 1] - y[i, t]) / STEP_S
        gap -= min(boxes.contact_interval(dx, dy, -vx, -vy, a, b)[1], STEP_S)
    return max(gap, 0.0)
