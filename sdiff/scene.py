"""What a window and a scenario have in common: agents, the tokens that describe them, the token of the scene."""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STEPS_PAST = 20
STEPS_FUTURE = 20
"""Steps of 0.1 s before and after t0; t0 is index STEPS_PAST."""

MAP_CHANNELS = (
    "drivable_area",
    "lane_sin",
    "lane_cos",
    "lane_boundary",
    "crosswalk",
    "stop_line",
    "light",
    "speed_limit",
)
"""Channels of `map_bev`. lane_sin, lane_cos and light are signed (128 + 127 v), the others 255 v.

light: +1 go, -0.5 caution, -1 stop, on the lanes under the signal. speed_limit: v = limit / 35 m/s, at most 1.
"""
SIGNED_MAP_CHANNELS = ("lane_sin", "lane_cos", "light")

WAYPOINTS_S = (-2.0, -1.0, 1.0, 2.0)
"""Times of the displacement channels of `agent_bev` [s]."""

AGENT_CHANNELS = (
    "occupancy",
    "sin",
    "cos",
    "kind",
    *(f"{axis}_{t:+.0f}s" for t in WAYPOINTS_S for axis in ("dx", "dy")),
)
"""Channels of `agent_bev`, filled inside each box, later agents over earlier ones.

occupancy: 255. kind: code + 1, 0 where empty. The others are signed (128 + 127 v): sin, cos of the heading in the
window frame; displacement d from t0 in the window frame as v = sign(d) sqrt(|d| / 64 m); where the agent was not
observed at that time, the displacement at constant velocity.
"""
DISPLACEMENT_SCALE_M = 64.0
BEV_PIXELS = 256


@dataclass(frozen=True)
class Agents:
    """N agents over T steps of 0.1 s, window frame.

    agent_id: (N,) str. kind: (N,) int8, index into KINDS. length_m, width_m: (N,) float32. is_ego: (N,) bool.
    x_m, y_m, heading_rad, vx_mps, vy_mps: (N, T) float32 [m, rad, m/s]; 0 where not valid. valid: (N, T) bool.
    score: (N,) float32 and token_index: (N,) int32 for generated agents, else None. size_known, repaired,
    on_drivable_area: (N,) bool for agents of logs, else None; see schemas/windows.yaml.
    """

    agent_id: NDArray[np.str_]
    kind: NDArray[np.int8]
    length_m: NDArray[np.float32]
    width_m: NDArray[np.float32]
    is_ego: NDArray[np.bool_]
    x_m: NDArray[np.float32]
    y_m: NDArray[np.float32]
    heading_rad: NDArray[np.float32]
    vx_mps: NDArray[np.float32]
    vy_mps: NDArray[np.float32]
    valid: NDArray[np.bool_]
    score: NDArray[np.float32] | None = None
    token_index: NDArray[np.int32] | None = None
    size_known: NDArray[np.bool_] | None = None
    repaired: NDArray[np.bool_] | None = None
    on_drivable_area: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, index: NDArray[Any]) -> "Agents":
        """The agents at `index` (positions or a mask)."""
        return replace(self, **{f.name: v[index] for f in fields(self) if (v := getattr(self, f.name)) is not None})


class Sample(NamedTuple):
    """What a model makes for one place.

    agents: no two boxes of them overlap at t0. found: every box, also those that overlap one that was asked for, or is
    more probable.
    """

    agents: Agents
    found: Agents


@dataclass(frozen=True)
class AgentTokens:
    """K agent tokens, window frame. NaN = not specified; kind -1 = not specified.

    All fields (K,) float32 but kind, (K,) int8, index into KINDS; see schemas/agent_tokens.yaml.
    """

    x_m: NDArray[np.float32]
    y_m: NDArray[np.float32]
    heading_rad: NDArray[np.float32]
    speed_mps: NDArray[np.float32]
    end_x_m: NDArray[np.float32]
    end_y_m: NDArray[np.float32]
    end_heading_rad: NDArray[np.float32]
    end_speed_mps: NDArray[np.float32]
    length_m: NDArray[np.float32]
    width_m: NDArray[np.float32]
    kind: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, index: NDArray[Any]) -> "AgentTokens":
        """The tokens at `index` (positions or a mask)."""
        return AgentTokens(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def unspecified(n: int) -> "AgentTokens":
        """n tokens that say nothing."""
        numbers = {name: np.full(n, np.nan, np.float32) for name in TOKEN_NUMBERS}
        return AgentTokens(**numbers, kind=np.full(n, -1, np.int8))


TOKEN_NUMBERS = tuple(f.name for f in fields(AgentTokens) if f.name != "kind")
"""Names of the numeric token features, in the order in which the model takes them."""


@dataclass(frozen=True)
class SceneToken:
    """How busy the scene is; NaN = not specified. See schemas/parts.yaml."""

    p_mask: float = float("nan")
    n_agents: float = float("nan")
    moving_share: float = float("nan")
    mean_speed_mps: float = float("nan")
    vru_share: float = float("nan")


SCENE_NUMBERS = tuple(f.name for f in fields(SceneToken) if f.name != "p_mask")
"""Names of what a scene token says of the scene itself, in the order in which the model takes them."""
