"""Which agent fulfils which token, one to one, and how well."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sdiff import KINDS, STEP_S, VEHICLE_KINDS
from sdiff.geometry import Array, wrap_angle
from sdiff.metrics import at_t0
from sdiff.scene import STEPS_PAST, Agents, AgentTokens

LOOSE = (2.2, 0.2)
"""Largest distance [m] and angle [rad] of a match in the Scenario Diffusion paper."""
TIGHT = (1.0, 0.1)
"""A stricter match: the box stands where it was asked for."""

SPEED_TOLERANCE_MPS = 2.0
"""Of a fulfilled token: the width of the paper's bins of speed."""

END_STEP = STEPS_PAST + round(2.0 / STEP_S)
_NO_MATCH = 1e6


def assign(distance: Array, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """One-to-one assignment of rows to columns: as many allowed pairs as can be, then the least total distance.

    distance, allowed: (K, N). Returns (K,), the column of each row, -1 for none.
    """
    column = np.full(len(distance), -1, np.int64)
    rows, columns = linear_sum_assignment(np.where(allowed, distance, _NO_MATCH))
    kept = allowed[rows, columns]
    column[rows[kept]] = columns[kept]
    return column


def match_tokens(
    tokens: AgentTokens, agents: Agents, max_distance_m: float = LOOSE[0], max_angle_rad: float = LOOSE[1]
) -> NDArray[np.int64]:
    """The agent that fulfils each token at t0, by the Hungarian method.

    A token without a heading is matched by position alone; one without a position by nothing.
    Returns (K,), index of the agent, -1 for none.
    """
    seen = np.flatnonzero(at_t0(agents.valid))
    x, y, heading = (at_t0(v)[seen].astype(np.float64) for v in (agents.x_m, agents.y_m, agents.heading_rad))
    distance = np.hypot(tokens.x_m[:, None] - x, tokens.y_m[:, None] - y)
    angle = np.abs(wrap_angle(tokens.heading_rad[:, None] - heading))
    allowed = (distance <= max_distance_m) & ~(angle > max_angle_rad)  # NaN: a heading that was not asked for
    found = assign(distance, allowed)
    found[found >= 0] = seen[found[found >= 0]]
    return found


def token_index(tokens: AgentTokens, agents: Agents) -> NDArray[np.int32]:
    """Which token asked for each agent, (N,) int32; -1: none. Matches as in the paper, 2.2 m and 0.2 rad."""
    agent = match_tokens(tokens, agents)
    index = np.full(len(agents), -1, np.int32)
    index[agent[agent >= 0]] = np.flatnonzero(agent >= 0)
    return index


def alike(a: Agents, b: Agents) -> bool:
    """Whether two scenes of one place have the same agents at t0, each within 1 m and 0.1 rad of its counterpart."""
    if len(a) != len(b):
        return False
    there = AgentTokens.unspecified(len(a))
    for name in ("x_m", "y_m", "heading_rad"):
        getattr(there, name)[:] = at_t0(getattr(a, name))
    return bool((match_tokens(there, b, *TIGHT) >= 0).all())


def match_rate(tokens: AgentTokens, matched: NDArray[np.int64]) -> float:
    """Share of the tokens with a position that an agent fulfils; NaN without such tokens.

    matched: (K,) as from `match_tokens`.
    """
    placed = has_position(tokens)
    return float((matched[placed] >= 0).mean()) if placed.any() else float("nan")


def fulfilling(tokens: AgentTokens, agents: Agents) -> NDArray[np.int64]:
    """The agent that does all that each token says, one to one, (K,), -1 for none.

    Position and heading within 2.2 m and 0.2 rad, speed within 2 m/s, at t0 and at +2 s; and of the kind asked for,
    where `vehicle` is any car, truck or bus. What a token does not say is not asked, a size least of all.
    """
    asked_kind, kind = np.maximum(tokens.kind, 0)[:, None], agents.kind
    allowed = (tokens.kind[:, None] < 0) | (asked_kind == kind)
    allowed |= (asked_kind == KINDS.index("vehicle")) & np.isin(kind, [KINDS.index(k) for k in VEHICLE_KINDS])
    away = np.zeros(allowed.shape)
    for prefix, step in (("", STEPS_PAST), ("end_", END_STEP)):
        said = [getattr(tokens, f"{prefix}{name}")[:, None] for name in ("x_m", "y_m", "heading_rad", "speed_mps")]
        x, y, heading, speed = said
        distance = np.hypot(x - agents.x_m[:, step], y - agents.y_m[:, step])
        angle = np.abs(wrap_angle(heading - agents.heading_rad[:, step]))
        faster = np.abs(speed - np.hypot(agents.vx_mps[:, step], agents.vy_mps[:, step]))
        # What is NaN was not asked for.
        allowed &= ~(distance > LOOSE[0]) & ~(angle > LOOSE[1]) & ~(faster > SPEED_TOLERANCE_MPS)
        allowed &= agents.valid[:, step] | np.isnan(said).all(0)
        away += np.nan_to_num(distance)
    return assign(away, allowed)


def has_position(tokens: AgentTokens) -> NDArray[np.bool_]:
    """Whether each token asks for a position, (K,)."""
    return np.isfinite(tokens.x_m) & np.isfinite(tokens.y_m)


def speed_errors(
    tokens: AgentTokens, agents: Agents, matched: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Absolute errors of the speed at t0 and at +2 s, over matched tokens that ask for one and agents seen then [m/s].

    matched: (K,) as from `match_tokens`. Returns two arrays of any length.
    """
    asked = np.flatnonzero(matched >= 0)
    errors = []
    for wanted, step in ((tokens.speed_mps, STEPS_PAST), (tokens.end_speed_mps, END_STEP)):
        if not len(asked):
            errors.append(np.zeros(0))
            continue
        agent = matched[asked]
        speed = np.hypot(agents.vx_mps[agent, step], agents.vy_mps[agent, step])
        error = np.abs(wanted[asked] - speed).astype(np.float64)
        errors.append(error[np.isfinite(error) & agents.valid[agent, step]])
    return errors[0], errors[1]
