"""Agents as an encoder sees them, sparse, on any device: the pixels that boxes cover, or a vector at each centre.

The covered pixels are those of `raster.agent_bev`. A box covers some 50 of 65,536, so the image itself is never laid
out: what reads it sums over them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sdiff import KINDS, WINDOW_M
from sdiff.model.batch import T0, TIMES_S, SceneBatch
from sdiff.model.lane_frame import lane_direction, turned_back
from sdiff.scene import BEV_PIXELS, DISPLACEMENT_SCALE_M, WAYPOINTS_S

IMAGE_CHANNELS = 3 + len(KINDS) + 2 * len(WAYPOINTS_S)
"""occupancy, sin, cos, one channel per kind, then dx, dy per waypoint."""
CENTRE_FEATURES = 2 + 2 + len(KINDS) + 5 * (len(TIMES_S) - 1)
"""cos, sin; log length, width; kinds; per waypoint dx, dy in the agent's frame, sin and 1 - cos of the turn, seen."""
CENTRE_STEP_M = 10.0
_PATCH = 56  # pixels a side; covers a box of 21 m in any direction, the middle of a longer one


class CoveredPixels(NamedTuple):
    """P covered pixels of B scenes: scene, row, column and the agent on top (the last in order), each (P,) int64."""

    scene: Tensor
    row: Tensor
    column: Tensor
    agent: Tensor


def covered_pixels(scenes: SceneBatch) -> CoveredPixels:
    """The pixels whose centre lies inside a box at t0."""
    b, _m = scenes.real.shape
    metres = WINDOW_M / BEV_PIXELS
    which, agent = scenes.real.nonzero(as_tuple=True)
    x, y, heading = scenes.pose[which, agent, T0].unbind(-1)
    half = scenes.size[which, agent] / 2
    # A box is tested on a square patch of pixels around its centre.
    steps = torch.arange(_PATCH, device=x.device) - _PATCH // 2
    rows = ((WINDOW_M / 2 - x) / metres).floor().long()[:, None] + steps  # (N, P)
    columns = ((WINDOW_M / 2 - y) / metres).floor().long()[:, None] + steps
    dx = (WINDOW_M / 2 - (rows + 0.5) * metres - x[:, None])[:, :, None]
    dy = (WINDOW_M / 2 - (columns + 0.5) * metres - y[:, None])[:, None, :]
    c, s = heading.cos()[:, None, None], heading.sin()[:, None, None]
    inside = ((c * dx + s * dy).abs() <= half[:, :1, None]) & ((c * dy - s * dx).abs() <= half[:, 1:, None])
    inside &= ((rows >= 0) & (rows < BEV_PIXELS))[:, :, None] & ((columns >= 0) & (columns < BEV_PIXELS))[:, None, :]
    n, i, j = inside.nonzero(as_tuple=True)
    pixel = (which[n] * BEV_PIXELS + rows[n, i]) * BEV_PIXELS + columns[n, j]
    top = torch.full((b * BEV_PIXELS * BEV_PIXELS,), -1, dtype=torch.long, device=x.device)
    top.scatter_reduce_(0, pixel, agent[n], "amax")
    pixel = (top >= 0).nonzero()[:, 0]
    scene, within = pixel // BEV_PIXELS**2, pixel % BEV_PIXELS**2
    return CoveredPixels(scene, within // BEV_PIXELS, within % BEV_PIXELS, top[pixel])


def painted(scenes: SceneBatch) -> Tensor:
    """(B, M, IMAGE_CHANNELS) float32 in [-1, 1]: what is painted inside each box, the kind as one channel each."""
    heading = scenes.pose[:, :, T0, 2]
    displacement = scenes.pose[..., :2] - scenes.pose[:, :, T0 : T0 + 1, :2]
    drawn = [TIMES_S.index(t) for t in WAYPOINTS_S]
    v = displacement[:, :, drawn].flatten(2) / DISPLACEMENT_SCALE_M
    v = (v.sign() * v.abs().sqrt()).clamp(-1, 1)
    kind = torch.nn.functional.one_hot(scenes.kind, len(KINDS)).to(v.dtype)
    plain = torch.stack([torch.ones_like(heading), heading.sin(), heading.cos()], -1)
    return torch.cat([plain, kind, v], -1)


def write(vectors: Tensor, scene: Tensor, xy_m: Tensor, n_scenes: int, cells: int) -> Tensor:
    """An image (B, C, cells, cells) of N vectors (N, C) at places (N, 2) [m] in scenes (N,) int64.

    Each is spread over the four cells around its place by bilinear weights, so that what is written moves with it;
    in the outer half of the outermost cells, over the nearest four, by the same weights carried on. Sums in the
    precision of the places, whatever that of the vectors: under autocast they come in bfloat16.
    """
    at = (WINDOW_M / 2 - xy_m) * (cells / WINDOW_M) - 0.5
    corner = at.floor().clamp(0, cells - 2)
    part = at - corner  # of the way from that cell's centre to the next
    image = part.new_zeros(n_scenes * cells * cells, vectors.shape[-1])
    for down in (0, 1):
        for right in (0, 1):
            row, column = (corner.long() + corner.new_tensor([down, right]).long()).unbind(-1)
            weight = (part if down else 1 - part)[:, :1] * (part if right else 1 - part)[:, 1:]
            image = image.index_add(0, (scene * cells + row) * cells + column, vectors * weight)
    return image.view(n_scenes, cells, cells, -1).permute(0, 3, 1, 2).contiguous()


def centred(scenes: SceneBatch, lanes: Tensor) -> Tensor:
    """What the cells around an agent's centre are told of it: (N, CENTRE_FEATURES) float32, of order 1, N real agents.

    The heading is in the frame of the lane, the waypoints in the agent's. lanes: field of lane directions.
    """
    real = scenes.real
    poses = scenes.pose[real]
    pose = poses[:, T0]
    along = lane_direction(lanes, scenes.pose[:, :, T0, :2])[real]
    heading = torch.stack([pose[:, 2].cos(), pose[:, 2].sin()], -1)
    others = [i for i in range(len(TIMES_S)) if i != T0]
    step = turned_back(poses[:, others, :2] - pose[:, None, :2], heading[:, None]) / CENTRE_STEP_M
    turn = poses[:, others, 2] - pose[:, 2:]
    parts = [
        turned_back(heading, along),
        scenes.size[real].clamp(min=0.1).log(),
        torch.nn.functional.one_hot(scenes.kind[real], len(KINDS)).to(pose.dtype),
        step.flatten(1),
        turn.sin(),
        1 - turn.cos(),
        scenes.seen[real][:, others].to(pose.dtype),
    ]
    return torch.cat(parts, -1)
