"""The measures of one scene at its place."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS
from sdiff.metrics import at_t0, kinematics
from sdiff.metrics.collision import contact
from sdiff.metrics.map_fit import LaneSegments, lane_heading_error_rad, offroad
from sdiff.metrics.matching import LOOSE, TIGHT, has_position, match_tokens, speed_errors
from sdiff.metrics.mmd import SIGMA, scene_mmd2, scene_mmd2_trafficgen
from sdiff.scene import Agents, AgentTokens

Values = dict[str, NDArray[np.float64]]


class Measure(NamedTuple):
    """One line of the report.

    The mean of the pooled values named `source`; or a quantile of them; or, from_logs, how far their distribution is
    from the logs' (1-Wasserstein distance, the mean shift that makes one of the other). scaled: it has a better and a
    worse end, so that its place between another draw of the traffic and agents put down naively means something.
    """

    key: str
    label: str
    unit: str
    source: str
    quantile: float | None = None
    from_logs: bool = False
    scaled: bool = False


def _mean(key: str, label: str, unit: str, scaled: bool = False) -> Measure:
    return Measure(key, label, unit, key, scaled=scaled)


def _spread(source: str, label: str, unit: str) -> tuple[Measure, ...]:
    return (
        Measure(f"{source}.p50", f"{label}, 50 %", unit, source, quantile=0.50),
        Measure(f"{source}.p95", f"{label}, 95 %", unit, source, quantile=0.95),
        Measure(f"{source}.p99", f"{label}, 99 %", unit, source, quantile=0.99),
        Measure(f"{source}.from_logs", "  distance from the logs'", unit, source, from_logs=True),
    )


def _of_kinds(key: str) -> tuple[Measure, ...]:
    return tuple(_mean(f"{key}.{kind}", f"  {kind}", "share") for kind in KINDS)


MEASURES = (
    _mean("agents", "agents per scenario", ""),
    *(_mean(f"agents.{kind}", f"  {kind}", "") for kind in KINDS),
    _mean("agents_error", "agents more or fewer than in the log, absolute", "", scaled=True),
    *(_mean(f"mmd2.{name}", f"MMD² {name}, unbiased", "", scaled=True) for name in SIGMA),
    *(_mean(f"mmd2_trafficgen.{name}", f"MMD² {name}, TrafficGen's rule", "") for name in SIGMA),
    _mean("drivable_share", "vehicle positions on drivable area", "share"),
    _mean("on_lane_share", "vehicle positions on a lane", "share"),
    _mean("lane_heading_error_rad", "lane-heading error", "rad"),
    _mean("collision_t0", "agents in collision at t0", "share"),
    _mean("collision", "agents in collision at any of 41 poses", "share"),
    _mean("has_collision", "scenarios with a collision", "share"),
    _mean("found_collision_t0", "boxes found that overlap at t0, before any was left out", "share"),
    _mean("found_collision", "boxes found that overlap at any of 41 poses, before", "share"),
    _mean("token_match", f"tokens matched within {LOOSE[0]} m, {LOOSE[1]} rad", "share"),
    *_of_kinds("token_match"),
    _mean("token_match_tight", f"tokens matched within {TIGHT[0]} m, {TIGHT[1]} rad", "share"),
    *_of_kinds("token_match_tight"),
    _mean("token_speed_error_mps", "speed error of matched tokens, t0", "m/s"),
    _mean("token_end_speed_error_mps", "speed error of matched tokens, +2 s", "m/s"),
    _mean("unlike", "agents that another draw does not have", "share"),
    _mean("reversing", "poses that drive backwards", "share"),
    *_spread("slip_rad", "lateral slip", "rad"),
    *_spread("acceleration_mps2", "acceleration over 1 s", "m/s²"),
    *_spread("yaw_rate_radps", "yaw rate over 1 s", "rad/s"),
    *_spread("curvature_1pm", "curvature over 1 s", "1/m"),
)
"""Everything the report holds, in its order."""


@dataclass(frozen=True)
class Place:
    """What the log says about one place.

    agents: the log's own, 41 steps. drivable: square bool image. lanes: window frame, by who uses them: `vehicle`,
    `cyclist`, `pedestrian`.
    """

    window_id: str
    log_id: str
    region: str
    agents: Agents
    drivable: NDArray[np.bool_]
    lanes: dict[str, LaneSegments]


def scene_values(agents: Agents, place: Place) -> Values:
    """All measures of one scene by itself and on its map: per measure the values to be pooled."""
    present = at_t0(agents.valid).astype(bool)
    kinds = np.bincount(agents.kind[present], minlength=len(KINDS))
    in_collision = contact(agents).in_collision
    heading_error = lane_heading_error_rad(agents, place.lanes["vehicle"])
    slip, reversing = kinematics.slip_rad(agents)
    turning = dict(zip(("yaw_rate_radps", "curvature_1pm"), kinematics.turning(agents), strict=True))
    return {
        "agents": _one(present.sum()),
        **{f"agents.{kind}": _one(count) for kind, count in zip(KINDS, kinds, strict=True)},
        "drivable_share": (~offroad(agents, place.drivable)).astype(np.float64),
        "on_lane_share": (~np.isnan(heading_error)).astype(np.float64),
        "lane_heading_error_rad": heading_error,
        "collision_t0": at_t0(in_collision)[present].astype(np.float64),
        "collision": in_collision[present].any(-1).astype(np.float64),
        "has_collision": _one(in_collision.any()),
        "slip_rad": slip,
        "reversing": reversing.astype(np.float64),
        "acceleration_mps2": kinematics.acceleration_mps2(agents),
        **turning,
    }


def found_values(n_found: int, collision_t0: float | None, collision: float | None) -> Values:
    """What the columns of a scenario say of all boxes that the model found."""
    said = {"found_collision_t0": collision_t0, "found_collision": collision}
    return {key: np.full(n_found, value) for key, value in said.items() if value is not None}


def distance_values(agents: Agents, reference: Agents) -> Values:
    """How far a scene is from another one at the same place."""
    return {
        **{f"mmd2.{k}": _one(v) for k, v in scene_mmd2(agents, reference).items()},
        **{f"mmd2_trafficgen.{k}": _one(v) for k, v in scene_mmd2_trafficgen(agents, reference).items()},
        "agents_error": _one(abs(int(at_t0(agents.valid).sum()) - int(at_t0(reference.valid).sum()))),
    }


def token_values(tokens: AgentTokens, agents: Agents) -> Values:
    """How well a scene fulfils agent tokens; no values where no token asks."""
    placed = has_position(tokens)
    loose, tight = match_tokens(tokens, agents, *LOOSE), match_tokens(tokens, agents, *TIGHT)
    speed, end_speed = speed_errors(tokens, agents, loose)
    out = {"token_speed_error_mps": speed, "token_end_speed_error_mps": end_speed}
    for key, matched in (("token_match", loose), ("token_match_tight", tight)):
        out[key] = (matched[placed] >= 0).astype(np.float64)
        out |= {f"{key}.{k}": (matched[placed & (tokens.kind == i)] >= 0) * 1.0 for i, k in enumerate(KINDS)}
    return out


def unlike_values(a: Agents, b: Agents) -> Values:
    """Share of the agents of two scenes of one place that only one of them has, without those that were asked for."""
    a, b = (_not_asked_for(scene) for scene in (a, b))
    there = AgentTokens.unspecified(len(a))
    for name in ("x_m", "y_m", "heading_rad"):
        getattr(there, name)[:] = at_t0(getattr(a, name))
    common = int((match_tokens(there, b, *LOOSE) >= 0).sum())
    every = len(a) + len(b) - common
    return {"unlike": _one(1 - common / every) if every else np.zeros(0)}


def _not_asked_for(agents: Agents) -> Agents:
    chosen = at_t0(agents.valid) & ~agents.is_ego
    return agents.take(chosen if agents.token_index is None else chosen & (agents.token_index < 0))


def _one(value: float | np.generic) -> NDArray[np.float64]:
    return np.array([value], np.float64)
