"""Time to collision of oriented boxes, and the safety columns of a scenario."""

import numpy as np
from numpy.typing import NDArray

from sdiff.geometry import Array
from sdiff.metrics.collision import contact
from sdiff.metrics.map_fit import offroad_fraction
from sdiff.metrics.matching import match_rate, match_tokens
from sdiff.scene import Agents, AgentTokens


def boxes_time_to_collision(
    dx_m: Array, dy_m: Array, dvx_mps: Array, dvy_mps: Array, a_box: tuple[Array, ...], b_box: tuple[Array, ...]
) -> Array:
    """Time until two boxes that keep velocity and heading overlap [s]; 0 where they do, inf where they never will.

    dx_m, dy_m, dvx_mps, dvy_mps: centre and velocity of b less those of a. a_box, b_box: heading [rad], length, width
    [m]. All broadcast to one shape, which is that of the result.
    Two-dimensional time to collision (Hayward 1972; for boxes Jiao 2023, github.com/Yiru-Jiao/
    Two-Dimensional-Time-To-Collision), solved exactly by moving separating axes (Eberly, "The Method of Separating
    Axes"): on each axis the projections overlap during one interval; the boxes overlap while all intervals do.
    """
    enter: Array = np.array(-np.inf)
    leave: Array = np.array(np.inf)
    turn_c, turn_s = np.abs(np.cos(b_box[0] - a_box[0])), np.abs(np.sin(b_box[0] - a_box[0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        for this, other in ((a_box, b_box), (b_box, a_box)):
            c, s = np.cos(this[0]), np.sin(this[0])
            reach_along = (this[1] + turn_c * other[1] + turn_s * other[2]) / 2
            reach_across = (this[2] + turn_s * other[1] + turn_c * other[2]) / 2
            for ax, ay, reach in ((c, s, reach_along), (-s, c, reach_across)):
                gap, speed = ax * dx_m + ay * dy_m, ax * dvx_mps + ay * dvy_mps
                one, two = (-reach - gap) / speed, (reach - gap) / speed
                enter = np.maximum(enter, np.minimum(one, two))
                leave = np.minimum(leave, np.maximum(one, two))
        return np.where((enter < leave) & (leave > 0), np.maximum(enter, 0.0), np.inf)


def pair_min_ttc_s(agents: Agents, first: NDArray[np.int64], second: NDArray[np.int64]) -> Array:
    """Smallest time to collision of each pair over all steps at which both are seen [s]; inf where it never closes in.

    first, second: (P,) indices of agents. Returns (P,) float64.
    """
    both = agents.valid[first] & agents.valid[second]
    x, y, vx, vy, heading = (
        getattr(agents, name).astype(np.float64) for name in ("x_m", "y_m", "vx_mps", "vy_mps", "heading_rad")
    )
    pair, step = np.nonzero(both)
    a, b = first[pair], second[pair]
    dx, dy = x[b, step] - x[a, step], y[b, step] - y[a, step]
    dvx, dvy = vx[b, step] - vx[a, step], vy[b, step] - vy[a, step]
    # Two circles around the boxes meet whenever the boxes do: leaves the few poses on a collision course.
    radius = np.hypot(agents.length_m, agents.width_m).astype(np.float64) / 2
    reach2, d2, v2 = (radius[a] + radius[b]) ** 2, dx**2 + dy**2, dvx**2 + dvy**2
    closing = dx * dvx + dy * dvy
    may = (d2 <= reach2) | ((closing < 0) & ((d2 - reach2) * v2 <= closing**2))
    pair, step, a, b = pair[may], step[may], a[may], b[may]
    boxes = [(heading[k, step], agents.length_m[k].astype(float), agents.width_m[k].astype(float)) for k in (a, b)]
    ttc = boxes_time_to_collision(dx[may], dy[may], dvx[may], dvy[may], *boxes)
    least = np.full(len(first), np.inf)
    np.minimum.at(least, pair, ttc)
    return least


def scenario_columns(agents: Agents, tokens: AgentTokens, drivable: NDArray[np.uint8]) -> dict[str, float | bool]:
    """The columns of `scenarios` to filter on, NaN where the schema says null.

    drivable: (256, 256), channel drivable_area of the place's map_bev; not 0 = drivable.
    Keys: min_ttc_s, ego_min_ttc_s, target_min_ttc_s, min_distance_m, has_collision, offroad_fraction,
    token_match_rate. The targets are the agents that `matching.token_index` gives a token.
    """
    first, second = np.triu_indices(len(agents), 1)
    ttc = pair_min_ttc_s(agents, first, second)
    target = np.zeros(len(agents), bool)
    matched = match_tokens(tokens, agents)
    target[matched[matched >= 0]] = True
    ego = agents.is_ego
    with_ego = ego[first] | ego[second]
    with_target = (ego[first] & target[second]) | (ego[second] & target[first])
    touching = contact(agents)
    return {
        "min_ttc_s": _least(ttc),
        "ego_min_ttc_s": _least(ttc[with_ego]),
        "target_min_ttc_s": _least(ttc[with_target]),
        "min_distance_m": touching.min_distance_m,
        "has_collision": bool(touching.in_collision.any()),
        "offroad_fraction": offroad_fraction(agents, drivable),
        "token_match_rate": match_rate(tokens, matched),
    }


def _least(ttc_s: Array) -> float:
    least = ttc_s.min(initial=np.inf)
    return float(least) if np.isfinite(least) else float("nan")
