"""The measures of one scene at its place, and their means over many scenes."""

from collections import defaultdict
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
    """One line of the report: the mean of the pooled values named `source`, or a quantile of them."""

    key: str
    label: str
    unit: str
    source: str
    quantile: float | None = None


def _mean(key: str, label: str, unit: str) -> Measure:
    return Measure(key, label, unit, key)


MEASURES = (
    _mean("agents", "agents per scenario", ""),
    *(_mean(f"agents.{kind}", f"  {kind}", "") for kind in KINDS),
    _mean("agents_error", "agents more or fewer than in the log, absolute", ""),
    *(_mean(f"mmd2.{name}", f"MMD² {name}, unbiased", "") for name in SIGMA),
    *(_mean(f"mmd2_trafficgen.{name}", f"MMD² {name}, TrafficGen's rule", "") for name in SIGMA),
    _mean("drivable_share", "vehicle positions on drivable area", "share"),
    _mean("on_lane_share", "vehicle positions on a lane", "share"),
    _mean("lane_heading_error_rad", "lane-heading error", "rad"),
    _mean("collision_t0", "agents in collision at t0", "share"),
    _mean("collision", "agents in collision at any of 41 poses", "share"),
    _mean("has_collision", "scenarios with a collision", "share"),
    _mean("token_match", f"tokens matched within {LOOSE[0]} m, {LOOSE[1]} rad", "share"),
    _mean("token_match_tight", f"tokens matched within {TIGHT[0]} m, {TIGHT[1]} rad", "share"),
    _mean("token_speed_error_mps", "speed error of matched tokens, t0", "m/s"),
    _mean("token_end_speed_error_mps", "speed error of matched tokens, +2 s", "m/s"),
    _mean("slip_rad", "lateral slip", "rad"),
    Measure("slip_p95_rad", "lateral slip, 95 %", "rad", "slip_rad", 0.95),
    _mean("reversing", "poses that drive backwards", "share"),
    Measure("acceleration_p50_mps2", "acceleration over 1 s, 50 %", "m/s²", "acceleration_mps2", 0.50),
    Measure("acceleration_p95_mps2", "acceleration over 1 s, 95 %", "m/s²", "acceleration_mps2", 0.95),
    Measure("acceleration_p99_mps2", "acceleration over 1 s, 99 %", "m/s²", "acceleration_mps2", 0.99),
)
"""Everything the report holds, in its order."""

_QUANTILE_RANGE = {"slip_rad": np.pi / 2, "acceleration_mps2": 50.0}
_BINS = 5000


@dataclass(frozen=True)
class Place:
    """What the log says about one place.

    agents: the log's own, 41 steps. drivable: square bool image. lanes: window frame.
    """

    window_id: str
    log_id: str
    agents: Agents
    drivable: NDArray[np.bool_]
    lanes: LaneSegments


def scene_values(agents: Agents, place: Place) -> Values:
    """All measures of one scene by itself and on its map: per measure the values to be pooled."""
    present = at_t0(agents.valid).astype(bool)
    kinds = np.bincount(agents.kind[present], minlength=len(KINDS))
    in_collision = contact(agents).in_collision
    heading_error = lane_heading_error_rad(agents, place.lanes)
    slip, reversing = kinematics.slip_rad(agents)
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
    }


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
    return {
        "token_match": (loose[placed] >= 0).astype(np.float64),
        "token_match_tight": (tight[placed] >= 0).astype(np.float64),
        "token_speed_error_mps": speed,
        "token_end_speed_error_mps": end_speed,
    }


def split_distance_values(agents: Agents, rng: np.random.Generator) -> Values:
    """The same between random halves of one scene, two samples of one distribution: the lower end of the scale."""
    order = rng.permutation(len(agents))
    values = distance_values(agents.take(order[::2]), agents.take(order[1::2]))
    return {k: v for k, v in values.items() if k != "agents_error"}


class Tally:
    """Running sums of the measures of many scenes. Its size does not grow with them; NaN values do not count."""

    def __init__(self) -> None:
        self._sum: defaultdict[str, float] = defaultdict(float)
        self._weight: defaultdict[str, float] = defaultdict(float)
        self._histogram = {key: np.zeros(_BINS) for key in _QUANTILE_RANGE}

    def add(self, values: Values, weight: float = 1.0) -> None:
        """Pool the values of one scene, each counting `weight` times."""
        for key, found in values.items():
            found = found[~np.isnan(found)]
            self._sum[key] += weight * float(found.sum())
            self._weight[key] += weight * len(found)
            if key in self._histogram:
                bins = np.minimum(found / _QUANTILE_RANGE[key] * _BINS, _BINS - 1).astype(np.int64)
                self._histogram[key] += weight * np.bincount(bins, minlength=_BINS)

    def result(self) -> dict[str, float | None]:
        """Every measure of MEASURES by its key; None where nothing was measured.

        Quantiles come from a histogram of 5000 bins: within 0.01 m/s2 and 0.0003 rad, accelerations up to 50 m/s2.
        """
        return {m.key: self._value(m) if self._weight[m.source] else None for m in MEASURES}

    def _value(self, measure: Measure) -> float:
        if measure.quantile is None:
            return self._sum[measure.source] / self._weight[measure.source]
        below = np.cumsum(self._histogram[measure.source])
        upper_edge = np.searchsorted(below, measure.quantile * below[-1]) + 1
        return float(upper_edge / _BINS * _QUANTILE_RANGE[measure.source])


def _one(value: float | np.generic) -> NDArray[np.float64]:
    return np.array([value], np.float64)
