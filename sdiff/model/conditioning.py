"""Agent tokens and scene tokens as tensors: every feature with a presence bit, so that any subset directs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sdiff import KINDS, VEHICLE_KINDS, VRU_KINDS, WINDOW_M
from sdiff.model.autoencoder import LATENT_CELLS
from sdiff.model.batch import T0, TIMES_S, SceneBatch
from sdiff.model.blocks import fourier
from sdiff.model.draw import write
from sdiff.model.lane_frame import lane_direction, turned_back
from sdiff.scene import SCENE_NUMBERS, TOKEN_NUMBERS, AgentTokens, SceneToken
from sdiff.tokens import MOVING_MPS

P_MASK_BINS = 10
UNNAMED_SHARE = 0.1
"""Of the agents whose kind training does not name: logs that do not know it are read by the same weights."""
PUBLISHED_MASKING = 0.4, 0.0
"""Shares of training scenes of which every agent is described, and none (Scenario Diffusion)."""
MASKING = 0.15, 0.25
"""Ours: what is described need only be copied, what is not is the harder part, and most of what is asked for."""
EGO_AT_ORIGIN_M = 0.01
"""A window's origin is its ego's centre."""
SPEED_SCALE_MPS = 10.0
SIZE_SCALE_M = 5.0
SCENE_SCALE = {"n_agents": 32.0, "moving_share": 1.0, "mean_speed_mps": SPEED_SCALE_MPS, "vru_share": 1.0}
USUAL_SIZE_M = {
    "car": (4.6, 1.8),
    "truck": (7.5, 2.4),
    "bus": (12.0, 2.5),
    "motorcyclist": (2.2, 0.9),
    "cyclist": (1.7, 0.65),
    "pedestrian": (0.5, 0.5),
    "vehicle": (4.6, 1.8),
    "other": (1.0, 1.0),
}
"""Length and width that a token is encoded with where it does not say."""
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
_IS_VRU = torch.tensor([kind in VRU_KINDS for kind in KINDS])
_INDEX = {name: i for i, name in enumerate(TOKEN_NUMBERS)}


class Conditions(NamedTuple):
    """What directs B scenes. Values are 0 where not given.

    numbers: (B, K, F) float32 in the order of TOKEN_NUMBERS; given: (B, K, F) bool. kind: (B, K) int64, -1 = not given.
    used: (B, K) bool, false for padding. p_mask: (B,) float32. scene: (B, S) float32 in the order of
    SCENE_NUMBERS; scene_given: (B, S) bool.
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
    busy = np.array([[getattr(s, name) for name in SCENE_NUMBERS] for s in scene], np.float32)
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

    p_mask is 0 or 1 for the shares of MASKING, uniform for the rest; each agent's token is dropped with probability
    p_mask, but the ego's stays in half of the scenes: who generates freely still says where the AV is. Of the tokens
    that stay, half are whole; in the others each group of features is dropped with probability one half. One kind in
    ten is said as `vehicle` or `other`, as by a log that does not know better. Scene features are dropped with
    probability one half each. as_published: PUBLISHED_MASKING, every token that stays is whole, the ego's is dropped
    like any other.
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
    none, all_ = PUBLISHED_MASKING if as_published else MASKING
    share = rand(b)
    p_mask = torch.where(share < none, 0.0, torch.where(share >= 1 - all_, 1.0, rand(b)))
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
    scene = scene_numbers(scenes)
    scene_given = (rand(b, len(SCENE_NUMBERS)) < 0.5) & ~scene.isnan()
    return Conditions(numbers * given, given, kind, used, p_mask, scene.nan_to_num() * scene_given, scene_given)


def scene_numbers(scenes: SceneBatch) -> Tensor:
    """(B, S) float32 what `tokens.scene_token` says of each scene, in the order of SCENE_NUMBERS."""
    speed, real = scenes.speed[..., 0], scenes.real
    moving = (speed > MOVING_MPS) & real
    vru = _IS_VRU.to(speed.device)[scenes.kind] & real
    n, n_moving = real.sum(1), moving.sum(1)
    told = {
        "n_agents": n.float(),
        "moving_share": n_moving / n,
        "mean_speed_mps": (speed * moving).sum(1) / n_moving,
        "vru_share": vru.sum(1) / n,
    }
    return torch.stack([told[name] for name in SCENE_NUMBERS], -1)


def unnamed(kind: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Kinds (B, M), UNNAMED_SHARE of them said as a log says them that does not know better: `vehicle`, or `other`."""
    vague = torch.where(_IS_VEHICLE.to(kind.device)[kind], _VEHICLE, _OTHER)
    return torch.where(torch.rand(kind.shape, generator=generator, device=kind.device) < UNNAMED_SHARE, vague, kind)


def token_scenes(c: Conditions, lanes: Tensor) -> SceneBatch:
    """Tokens that have a position as agents, as an encoder takes them.

    What is not given is as most have it: along the lane, of the kind's usual size, straight on from the given speed to
    the given final one, and of one speed where only one is given. Of the waypoints those count as seen that are given:
    the last, also where both speeds lead to it, and where a given speed leads within one step of either end.
    lanes: field of lane directions.
    """
    value = {name: c.numbers[..., i] for name, i in _INDEX.items()}
    given = {name: c.given[..., i] for name, i in _INDEX.items()}
    at = torch.stack([value["x_m"], value["y_m"]], -1)
    along = lane_direction(lanes, at)
    heading = torch.where(given["heading_rad"], value["heading_rad"], torch.atan2(along[..., 1], along[..., 0]))
    ahead = torch.stack([heading.cos(), heading.sin()], -1)
    times = heading.new_tensor(TIMES_S)
    speed = torch.where(given["speed_mps"], value["speed_mps"], value["end_speed_mps"])[..., None]
    gain = torch.where(given["end_speed_mps"], value["end_speed_mps"] - speed[..., 0], 0.0)[..., None] / TIMES_S[-1]
    way = speed * times + gain / 2 * times.clamp(min=0) ** 2
    where = at[:, :, None] + way[..., None] * ahead[:, :, None]
    step = torch.arange(len(TIMES_S), device=at.device)
    last, before_last = step == len(TIMES_S) - 1, step == len(TIMES_S) - 2
    turned = torch.where(given["end_heading_rad"], value["end_heading_rad"], heading)
    placed = (given["end_x_m"] & given["end_y_m"])[..., None]
    end = torch.where(placed, torch.stack([value["end_x_m"], value["end_y_m"]], -1), where[:, :, -1])
    back = value["end_speed_mps"][..., None] * (TIMES_S[-1] - TIMES_S[-2])
    near_end = end - back * torch.stack([turned.cos(), turned.sin()], -1)
    ended = placed | (given["speed_mps"] & given["end_speed_mps"])[..., None]
    known_end = ended & given["end_speed_mps"][..., None]
    where = torch.where((ended & last)[..., None], end[:, :, None], where)
    where = torch.where((known_end & before_last)[..., None], near_end[:, :, None], where)
    headings = torch.where(last | before_last, turned[..., None], heading[..., None])
    beside_t0 = given["speed_mps"][..., None] & ((step - T0).abs() == 1)
    kind = torch.where(c.kind >= 0, c.kind, _VEHICLE)
    size = torch.stack([value["length_m"], value["width_m"]], -1)
    sized = torch.stack([given["length_m"], given["width_m"]], -1)
    return SceneBatch(
        pose=torch.cat([where, headings[..., None]], -1),
        seen=(step == T0) | beside_t0 | (ended & last) | (known_end & before_last),
        speed=torch.stack([value["speed_mps"], value["end_speed_mps"]], -1),
        size=torch.where(sized, size, at.new_tensor([USUAL_SIZE_M[k] for k in KINDS])[kind]),
        kind=kind,
        real=c.used & given["x_m"] & given["y_m"] & (at.abs() < WINDOW_M / 2).all(-1),
    )


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
            nn.Linear(P_MASK_BINS + 2 * len(SCENE_NUMBERS), scene_width), nn.SiLU(), nn.Linear(scene_width, scene_width)
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
        busy = c.scene / c.scene.new_tensor([SCENE_SCALE[name] for name in SCENE_NUMBERS])
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
