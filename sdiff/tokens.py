"""The tokens that describe a scene, computed from its agents."""

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S, VRU_KINDS
from sdiff.scene import STEPS_PAST, Agents, AgentTokens, SceneToken

END_S = 2.0
"""When the end of a token is, after t0 [s]."""
MOVING_MPS = 0.5
"""An agent moves when it is faster than this [m/s]."""


def agent_tokens(agents: Agents) -> AgentTokens:
    """One token per agent: values at t0 and, as end_*, at +2 s, window frame; NaN where the agent is not valid then."""
    end = STEPS_PAST + round(END_S / STEP_S)
    return AgentTokens(
        **_at(agents, STEPS_PAST, ""),
        **_at(agents, end, "end_"),
        length_m=agents.length_m.astype(np.float32),
        width_m=agents.width_m.astype(np.float32),
        kind=agents.kind,
    )


def scene_token(agents: Agents) -> SceneToken:
    """How many agents are there at t0, which share moves, how fast, who. p_mask is not specified: it is a choice."""
    speed = _at(agents, STEPS_PAST, "")["speed_mps"]
    present = ~np.isnan(speed)
    n = int(present.sum())
    if not n:
        return SceneToken(n_agents=0.0)
    moving = speed[present] > MOVING_MPS
    return SceneToken(
        n_agents=float(n),
        moving_share=float(moving.mean()),
        mean_speed_mps=float(speed[present][moving].mean()) if moving.any() else float("nan"),
        vru_share=float(np.isin(agents.kind[present], [KINDS.index(k) for k in VRU_KINDS]).mean()),
    )


def _at(agents: Agents, step: int, prefix: str) -> dict[str, NDArray[np.float32]]:
    valid = agents.valid[:, step]
    values = {
        "x_m": agents.x_m[:, step],
        "y_m": agents.y_m[:, step],
        "heading_rad": agents.heading_rad[:, step],
        "speed_mps": np.hypot(agents.vx_mps[:, step], agents.vy_mps[:, step]),
    }
    return {f"{prefix}{k}": np.where(valid, v, np.float32(np.nan)).astype(np.float32) for k, v in values.items()}
