"""The safety columns of a scenario."""

import numpy as np
from numpy.typing import NDArray

from sdiff.metrics import at_t0
from sdiff.metrics.collision import contact
from sdiff.metrics.kinematics import possible
from sdiff.metrics.map_fit import offroad_fraction
from sdiff.metrics.matching import fulfilling, match_rate, match_tokens
from sdiff.metrics.severity import approach, encroachment
from sdiff.scene import Agents, AgentTokens


def min_ttc_s(agents: Agents) -> NDArray[np.float64]:
    """Smallest time to collision of each pair over all steps at which both are seen [s], see `severity.approach`.

    Returns (N, N), symmetric, inf where a pair never closes in and on the diagonal.
    """
    return approach(agents).min_ttc_s


def scenario_columns(agents: Agents, tokens: AgentTokens, drivable: NDArray[np.generic]) -> dict[str, float | bool]:
    """The columns of `scenarios` to filter on, NaN where the schema says null.

    drivable: (256, 256), channel drivable_area of the place's map_bev; not 0 = drivable.
    Keys: min_ttc_s, ego_min_ttc_s, target_min_ttc_s, ego_min_pet_s, target_min_pet_s, max_drac_mps2,
    ego_max_drac_mps2, min_distance_m, has_collision, has_impossible_motion, is_fulfilled, offroad_fraction,
    token_match_rate. The targets are the agents
    that `matching.token_index` gives a token. The measures of pairs: `sdiff.metrics.severity`.
    """
    near = approach(agents)
    pet_s = encroachment(agents).pet_s
    pet_s = np.minimum(pet_s, pet_s.T)
    matched = match_tokens(tokens, agents)
    ego, targets = agents.is_ego, matched[matched >= 0]
    touching = contact(agents)
    return {
        "min_ttc_s": _least(near.min_ttc_s),
        "ego_min_ttc_s": _least(near.min_ttc_s[ego]),
        "target_min_ttc_s": _least(near.min_ttc_s[ego][:, targets]),
        "ego_min_pet_s": _least(pet_s[ego]),
        "target_min_pet_s": _least(pet_s[ego][:, targets]),
        "max_drac_mps2": _most(near.max_drac_mps2),
        "ego_max_drac_mps2": _most(near.max_drac_mps2[ego]),
        "min_distance_m": touching.min_distance_m,
        "has_collision": bool(touching.in_collision.any()),
        "has_impossible_motion": not possible(agents).all(),
        "is_fulfilled": bool((fulfilling(tokens, agents) >= 0).all()),
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


def _least(values: NDArray[np.float64]) -> float:
    least = values.min(initial=np.inf)
    return float(least) if np.isfinite(least) else float("nan")


def _most(values: NDArray[np.float64]) -> float:
    most = values.max(initial=0.0)
    return float(most) if most > 0 else float("nan")
