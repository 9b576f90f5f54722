"""Agent tokens and scene tokens as tensors: every feature with a presence bit, so that any subset directs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sdiff import KINDS, VEHICLE_KINDS, WINDOW_M
from sdiff.model.autoencoder import LATENT_CELLS
from sdiff.model.batch import T0, SceneBatch
from sdiff.model.blocks import fourier
from sdiff.model.draw import write
from sdiff.model.lane_frame import lane_direction, turned_back
from sdiff.scene import TOKEN_NUMBERS, AgentTokens, SceneToken

P_MASK_BINS = 10
UNNAMED_SHARE = 0.1
"""Of the agents whose kind training does not name: logs that do not know it are read by the same weights."""
EGO_AT_ORIGIN_M = 0.01
"""A window's origin is its ego's centre."""
SPEED_SCALE_MPS = 10.0
SIZE_SCALE_M = 5.0
_GROUPS = (
    ("x_m", "y_m"),
    ("heading_rad",),
    ("speed_mps",),
    ("end_x_m", "end_y_m"),
    ("end_heading_rad",),
    ("end_speed_mps",),
)
"""Features that are specified or dropped together in training; sizes and the kind are groups of their own."""
_VEHICLE, _OTHER = KINDS.index("vehicle"), KINDS.index("other")
_IS_VEHICLE = torch.tensor([kind in VEHICLE_KINDS for kind in KINDS])
_INDEX = {name: i for i, name in enumerate(TOKEN_NUMBERS)}


class Conditions(NamedTuple):
    """What directs B scenes. Values are 0 where not given.

    numbers: (B, K, F) float32 in the order of TOKEN_NUMBERS; given: (B, K, F) bool. kind: (B, K) int64, -1 = not given.
    used: (B, K) bool, false for padding. p_mask: (B,) float32. scene: (B, 2) float32, n_agents and moving_share;
    scene_given: (B, 2) bool.
    """

    numbers: Tensor
    given: Tensor
    kind: Tensor
    used: Tensor
    p_mask: Tensor
    scene: Tensor
    scene_given: Tensor

    def to(self, device: torch.device | str) -> "Conditions":
        """On another device."""
        return Conditions(*(t.to(device) for t in self))


def from_tokens(tokens: Sequence[AgentTokens], scene: Sequence[SceneToken], max_tokens: int = 64) -> Conditions:
    """Conditions for sampling. p_mask not specified counts as 1 where no token is given, else as one half."""
    b = len(tokens)
    numbers = np.full((b, max_tokens, len(TOKEN_NUMBERS)), np.nan, np.float32)
    kind = np.full((b, max_tokens), -1, np.int64)
    used = np.zeros((b, max_tokens), bool)
    for i, t in enumerate(tokens):
        if len(t) > max_tokens:
            raise ValueError(f"{len(t)} agent tokens in one scene, expected at most {max_tokens}")
        numbers[i, : len(t)] = np.stack([getattr(t, name) for name in TOKEN_NUMBERS], -1)
        kind[i, : len(t)] = t.kind
        used[i, : len(t)] = True
    busy = np.array([[s.n_agents, s.moving_share] for s in scene], np.float32)
    free = [1.0 if len(t) <= 1 else 0.5 for t in tokens]
    p_mask = np.array([f if np.isnan(s.p_mask) else s.p_mask for s, f in zip(scene, free, strict=True)], np.float32)
    return Conditions(
        torch.from_numpy(np.nan_to_num(numbers)),
        torch.from_numpy(~np.isnan(numbers)),
        torch.from_numpy(kind),
        torch.from_numpy(used),
        torch.from_numpy(p_mask),
        torch.from_numpy(np.nan_to_num(busy)),
        torch.from_numpy(~np.isnan(busy)),
    )


def from_scenes(scenes: SceneBatch, generator: torch.Generator | None = None, as_published: bool = False) -> Conditions:
    """Conditions for training, drawn from the scenes themselves.

    p_mask = 0 for 40 % of the scenes, uniform for the rest; each agent's token is dropped with probability p_mask, but
    the ego's stays in half of the scenes: who generates freely still says where the AV is. Of the tokens that stay,
    half are whole; in the others each group of features is dropped with probability one half. One kind in ten is
    said as `vehicle` or `other`, as by a log that does not know better. Scene features are dropped with probability one
    half each. as_published: every token that stays is whole, the ego's is dropped like any other.
    """

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=scenes.real.device)

    b, m = scenes.real.shape
    pose, last = scenes.pose[:, :, T0], scenes.pose[:, :, -1]
    columns = {
        "x_m": pose[..., 0],
        "y_m": pose[..., 1],
        "heading_rad": pose[..., 2],
        "speed_mps": scenes.speed[..., 0],
        "end_x_m": last[..., 0],
        "end_y_m": last[..., 1],
        "end_heading_rad": last[..., 2],
        "end_speed_mps": scenes.speed[..., 1],
        "length_m": scenes.size[..., 0],
        "width_m": scenes.size[..., 1],
    }
    numbers = torch.stack([columns[name] for name in TOKEN_NUMBERS], -1)
    p_mask = torch.where(rand(b) < 0.4, torch.zeros(b, device=pose.device), rand(b))
    is_ego = pose[..., :2].abs().amax(-1) < EGO_AT_ORIGIN_M
    used = scenes.real & ((rand(b, m) >= p_mask[:, None]) | (is_ego & (rand(b, 1) < 0.5) & (not as_published)))
    whole = (rand(b, m) < 0.5) | as_published
    given = torch.ones_like(numbers, dtype=torch.bool)
    for group in (*_GROUPS, ("length_m", "width_m")):
        keep = whole | (rand(b, m) < 0.5)
        for name in group:
            given[..., _INDEX[name]] = keep
    for name in ("end_x_m", "end_y_m", "end_heading_rad", "end_speed_mps"):
        given[..., _INDEX[name]] &= scenes.seen[:, :, -1]
    given &= used[..., None]
    named = unnamed(scenes.kind, generator)
    kind = torch.where(used & (whole | (rand(b, m) < 0.5)), named, -1)
    count = scenes.real.sum(1)
    moving = ((scenes.speed[..., 0] > 0.5) & scenes.real).sum(1) / count.clamp(min=1)
    scene = torch.stack([count.float(), moving], -1)
    scene_given = rand(b, 2) < 0.5
    return Conditions(numbers * given, given, kind, used, p_mask, scene * scene_given, scene_given)


def unnamed(kind: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Kinds (B, M), UNNAMED_SHARE of them said as a log says them that does not know better: `vehicle`, or `other`."""
    vague = torch.where(_IS_VEHICLE.to(kind.device)[kind], _VEHICLE, _OTHER)
    return torch.where(torch.rand(kind.shape, generator=generator, device=kind.device) < UNNAMED_SHARE, vague, kind)


class TokenEncoder(nn.Module):
    """Conditions to: a vector per token (B, K, width), an image of the tokens (B, width / 2, 32, 32), a scene vector.

    The image holds each token that has a position around it, so that the U-Net need not learn where metres are;
    tokens without one act through attention alone. There, heading and way to the end are in the frame of the lane, as
    in the latents.
    """

    frequencies: Tensor

    def __init__(self, width: int, scene_width: int) -> None:
        super().__init__()
        frequencies = 2 * torch.pi / torch.tensor([200.0, 100.0, 50.0, 25.0, 12.5, 6.25, 3.125])
        self.register_buffer("frequencies", frequencies, persistent=False)
        f = len(TOKEN_NUMBERS)
        c_in = 4 * 2 * len(frequencies) + 4 + 4 + f + len(KINDS) + 1
        self.token = nn.Sequential(nn.Linear(c_in, width), nn.SiLU(), nn.Linear(width, width))
        self.painted = nn.Linear(width + 4, width // 2)
        self.scene = nn.Sequential(
            nn.Linear(P_MASK_BINS + 4, scene_width), nn.SiLU(), nn.Linear(scene_width, scene_width)
        )

    def forward(self, c: Conditions, lanes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """lanes: field of lane directions."""
        column = {name: c.numbers[..., i] for name, i in _INDEX.items()}
        given = {name: c.given[..., i] for name, i in _INDEX.items()}
        metres = torch.stack([column[n] for n in ("x_m", "y_m", "end_x_m", "end_y_m")], -1)
        metres_given = torch.stack([given[n] for n in ("x_m", "y_m", "end_x_m", "end_y_m")], -1)
        where = (fourier(metres, self.frequencies) * metres_given[..., None]).flatten(2)
        angle = torch.stack([column["heading_rad"], column["end_heading_rad"]], -1)
        angle_given = torch.stack([given["heading_rad"], given["end_heading_rad"]], -1)
        turned = torch.cat([angle.sin() * angle_given, angle.cos() * angle_given], -1)
        rest = torch.stack(
            [
                column["speed_mps"] / SPEED_SCALE_MPS,
                column["end_speed_mps"] / SPEED_SCALE_MPS,
                column["length_m"] / SIZE_SCALE_M,
                column["width_m"] / SIZE_SCALE_M,
            ],
            -1,
        )
        kind = nn.functional.one_hot(c.kind + 1, len(KINDS) + 1).to(rest.dtype)
        token = self.token(torch.cat([where, turned, rest, c.given.to(rest.dtype), kind], -1))
        bins = (c.p_mask * P_MASK_BINS).long().clamp(0, P_MASK_BINS - 1)
        busy = c.scene * c.scene.new_tensor([1 / 32, 1.0])
        scene = torch.cat(
            [nn.functional.one_hot(bins, P_MASK_BINS).to(busy.dtype), busy, c.scene_given.to(busy.dtype)], -1
        )
        heading = torch.stack([angle[..., 0].cos(), angle[..., 0].sin()], -1) * angle_given[..., :1]
        return token, self._paint(token, heading, metres, metres_given, c.used, lanes), self.scene(scene)

    def _paint(
        self, token: Tensor, heading: Tensor, metres: Tensor, metres_given: Tensor, used: Tensor, lanes: Tensor
    ) -> Tensor:
        at = metres[..., :2]
        placed = used & metres_given[..., :2].all(-1) & (at.abs() < WINDOW_M / 2).all(-1)
        ends = (metres[..., 2:] - at) / SPEED_SCALE_MPS * metres_given[..., 2:]
        along = lane_direction(lanes, at)
        told = self.painted(torch.cat([token, turned_back(heading, along), turned_back(ends, along)], -1))
        scene = torch.nonzero(placed, as_tuple=True)[0]
        return write(told[placed], scene, at[placed], len(token), LATENT_CELLS)
