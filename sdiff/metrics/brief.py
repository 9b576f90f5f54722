"""What queries ask of each agent of a scene, in one number per agent."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S
from sdiff.metrics import at_t0, boxes
from sdiff.metrics.kinematics import ACCELERATION_STEPS
from sdiff.scene import Agents


def agents_t0(agents: Agents) -> dict[str, NDArray[Any]]:
    """The members of column `agents_t0` of scenarios, (N,) each, NaN where the schema says null."""
    now = {name: at_t0(getattr(agents, name)) for name in ("valid", "x_m", "y_m", "heading_rad", "vx_mps", "vy_mps")}
    return {**now, "braking_mps2": braking_mps2(agents), "ego_distance_m": ego_distance_m(agents)}


def scene_columns(agents: Agents) -> dict[str, float | str]:
    """Columns of `scenarios` that say for the whole scene what `agents_t0` says of each agent, NaN where null.

    Keys: kinds, max_braking_mps2, ego_min_distance_m.
    """
    present = np.unique(agents.kind[at_t0(agents.valid).astype(bool)])
    return {
        "kinds": ",".join(sorted(KINDS[k] for k in present)),
        "max_braking_mps2": float(np.fmax.reduce(braking_mps2(agents), initial=np.nan)),
        "ego_min_distance_m": float(np.fmin.reduce(ego_distance_m(agents), initial=np.nan)),
    }


def braking_mps2(agents: Agents) -> NDArray[np.float64]:
    """Largest mean loss of speed over any second at whose both ends an agent is there, (N,), at least 0 [m/s2].

    NaN for an agent that is not there for a second.
    """
    speed = np.hypot(agents.vx_mps, agents.vy_mps).astype(np.float64)
    there = agents.valid[:, ACCELERATION_STEPS:] & agents.valid[:, :-ACCELERATION_STEPS]
    lost = (speed[:, :-ACCELERATION_STEPS] - speed[:, ACCELERATION_STEPS:]) / (ACCELERATION_STEPS * STEP_S)
    most = np.where(there, lost, 0.0).max(1, initial=0.0)
    return np.where(there.any(1), most, np.nan)


def ego_distance_m(agents: Agents) -> NDArray[np.float64]:
    """Smallest distance of each agent's box from the ego's over the steps at which both are there, (N,) [m].

    0 where they overlap; NaN for the ego, for an agent that is never there with it, and in a scene without an ego.
    """
    least = np.full(len(agents), np.inf)
    for ego in np.flatnonzero(agents.is_ego)[:1]:
        least = np.asarray(_distance_from(int(ego), *boxes.poses(agents)))
    return np.where(np.isfinite(least), least, np.nan)


@boxes.compiled
def _distance_from(i, x, y, c, s, vx, vy, length, width, valid):  # type: ignore[no-untyped-def]
    n, steps = valid.shape
    least = np.full(n, np.inf)
    for j in range(n):
        for t in range(steps):
            if j != i and valid[i, t] and valid[j, t]:
                a, b = (c[i, t], s[i, t], length[i], width[i]), (c[j, t], s[j, t], length[j], width[j])
                least[j] = min(least[j], boxes.distance(x[j, t] - x[i, t], y[j, t] - y[i, t], a, b))
    return least
