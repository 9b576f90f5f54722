"""Time to collision of every pair of agents, and the safety columns of a scenario."""

import numpy as np
from numpy.typing import NDArray

from sdiff.metrics import at_t0, boxes
from sdiff.metrics.collision import contact
from sdiff.metrics.map_fit import offroad_fraction
from sdiff.metrics.matching import match_rate, match_tokens
from sdiff.scene import Agents, AgentTokens


def min_ttc_s(agents: Agents) -> NDArray[np.float64]:
    """Smallest time to collision of each pair over all steps at which both are seen [s].

    From every pose both agents go on at the velocity and heading they have there, see `boxes.time_to_collision`; it
    is 0 where they overlap. Returns (N, N), symmetric, inf where a pair never closes in and on the diagonal.
    """
    return _min_ttc(*boxes.poses(agents))


def scenario_columns(agents: Agents, tokens: AgentTokens, drivable: NDArray[np.generic]) -> dict[str, float | bool]:
    """The columns of `scenarios` to filter on, NaN where the schema says null.

    drivable: (256, 256), channel drivable_area of the place's map_bev; not 0 = drivable.
    Keys: min_ttc_s, ego_min_ttc_s, target_min_ttc_s, min_distance_m, has_collision, offroad_fraction,
    token_match_rate. The targets are the agents that `matching.token_index` gives a token.
    """
    ttc = min_ttc_s(agents)
    matched = match_tokens(tokens, agents)
    with_ego = ttc[agents.is_ego]
    touching = contact(agents)
    return {
        "min_ttc_s": _least(ttc),
        "ego_min_ttc_s": _least(with_ego),
        "target_min_ttc_s": _least(with_ego[:, matched[matched >= 0]]),
        "min_distance_m": touching.min_distance_m,
        "has_collision": bool(touching.in_collision.any()),
        "offroad_fraction": offroad_fraction(agents, drivable),
        "token_match_rate": match_rate(tokens, matched),
    }


def found_columns(found: Agents) -> dict[str, float]:
    """The columns of `scenarios` on all boxes that the model found, NaN where the schema says null.

    Keys: n_found, found_collision_t0, found_collision.
    """
    present = at_t0(found.valid).astype(bool)
    hit = contact(found).in_collision[present]
    at_once, ever = (at_t0(hit), hit.any(-1)) if len(hit) else (np.array([np.nan]), np.array([np.nan]))
    return {
        "n_found": int(present.sum()),
        "found_collision_t0": float(at_once.mean()),
        "found_collision": float(ever.mean()),
    }


def _least(ttc_s: NDArray[np.float64]) -> float:
    least = ttc_s.min(initial=np.inf)
    return float(least) if np.isfinite(least) else float("nan")


@boxes.compiled
def _min_ttc(x, y, c, s, vx, vy, length, width, valid):  # type: ignore[no-untyped-def]
    n, steps = valid.shape
    least = np.full((n, n), np.inf)
    radius = np.hypot(length, width) / 2
    for i in range(n):
        for j in range(i + 1, n):
            reach2 = (radius[i] + radius[j]) ** 2
            for t in range(steps):
                if not (valid[i, t] and valid[j, t]):
                    continue
                dx, dy = x[j, t] - x[i, t], y[j, t] - y[i, t]
                dvx, dvy = vx[j, t] - vx[i, t], vy[j, t] - vy[i, t]
                far2, closing = dx * dx + dy * dy - reach2, -(dx * dvx + dy * dvy)
                # The circles around the boxes will never meet, so neither will the boxes.
                if far2 > 0 and (closing <= 0 or far2 * (dvx * dvx + dvy * dvy) > closing * closing):
                    continue
                a, b = (c[i, t], s[i, t], length[i], width[i]), (c[j, t], s[j, t], length[j], width[j])
                ttc = boxes.time_to_collision(dx, dy, dvx, dvy, a, b)
                least[i, j] = least[j, i] = min(least[i, j], ttc)
    return least
