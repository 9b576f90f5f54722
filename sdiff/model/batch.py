"""Scenes as padded tensors: what training and the losses take."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdiff import STEP_S
from sdiff.scene import STEPS_FUTURE, STEPS_PAST, Agents

_STRIDE = 5
_STEPS = list(range(0, STEPS_PAST + STEPS_FUTURE + 1, _STRIDE))
TIMES_S = tuple(round((step - STEPS_PAST) * STEP_S, 3) for step in _STEPS)
"""Times of the poses of a trajectory, t0 among them, every 0.5 s [s]."""
T0 = TIMES_S.index(0.0)


class SceneBatch(NamedTuple):
    """B scenes of up to M agents, window frame; entries outside `real` are 0.

    pose: (B, M, W, 3) float32, x, y, heading at TIMES_S [m, m, rad]; where not observed, at constant velocity.
    seen: (B, M, W) bool, whether it was. speed: (B, M, 2) float32, at t0 and at the last time [m/s].
    size: (B, M, 2) float32, length and width [m]. kind: (B, M) int64. real: (B, M) bool.
    """

    pose: Tensor
    seen: Tensor
    speed: Tensor
    size: Tensor
    kind: Tensor
    real: Tensor

    def to(self, device: torch.device | str) -> "SceneBatch":
        """On another device."""
        return SceneBatch(*(t.to(device, non_blocking=True) for t in self))


def pack(scenes: Sequence[Agents], max_agents: int = 64) -> dict[str, np.ndarray]:
    """Scenes as padded arrays, keyed as SceneBatch; of more than `max_agents`, those nearest the origin."""
    n = len(scenes)
    out = {
        "pose": np.zeros((n, max_agents, len(TIMES_S), 3), np.float32),
        "seen": np.zeros((n, max_agents, len(TIMES_S)), bool),
        "speed": np.zeros((n, max_agents, 2), np.float32),
        "size": np.zeros((n, max_agents, 2), np.float32),
        "kind": np.zeros((n, max_agents), np.int64),
        "real": np.zeros((n, max_agents), bool),
    }
    times = np.array(TIMES_S, np.float32)
    for i, agents in enumerate(scenes):
        if len(agents) > max_agents:
            distance = np.hypot(agents.x_m[:, STEPS_PAST], agents.y_m[:, STEPS_PAST])
            agents = agents.take(np.sort(np.argsort(distance, kind="stable")[:max_agents]))
        m = len(agents)
        seen = agents.valid[:, _STEPS]
        pose = np.stack([agents.x_m[:, _STEPS], agents.y_m[:, _STEPS], agents.heading_rad[:, _STEPS]], -1)
        velocity = np.stack([agents.vx_mps, agents.vy_mps], -1)
        coasted = pose[:, T0 : T0 + 1].repeat(len(times), 1)
        coasted[..., :2] += velocity[:, STEPS_PAST, None] * times[:, None]
        out["pose"][i, :m] = np.where(seen[..., None], pose, coasted)
        out["seen"][i, :m] = seen
        speed = np.hypot(agents.vx_mps, agents.vy_mps)
        out["speed"][i, :m, 0] = speed[:, STEPS_PAST]
        out["speed"][i, :m, 1] = np.where(seen[:, -1], speed[:, _STEPS[-1]], speed[:, STEPS_PAST])
        out["size"][i, :m] = np.stack([agents.length_m, agents.width_m], -1)
        out["kind"][i, :m] = agents.kind
        out["real"][i, :m] = True
    return out


def scene_batch(arrays: dict[str, np.ndarray]) -> SceneBatch:
    """Tensors from what `pack` gave."""
    return SceneBatch(**{k: torch.as_tensor(arrays[k]) for k in SceneBatch._fields})
