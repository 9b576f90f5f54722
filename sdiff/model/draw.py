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
from sdiff.scene import BEV_PIXELS, DISPLACEMENT_SCALE_M

IMAGE_CHANNELS = 3 + len(KINDS) + 2 * (len(TIMES_S) - 1)
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
    others = [i for i in range(len(TIMES_S)) if i != T0]
    v = displacement[:, :, others].flatten(2) / DISPLACEMENT_SCALE_M
    v = (v.sign() * v.abs().sqrt()).clamp(-1, 1)
    kind = torch.nn.functional.one_hot(scenes.kind, len(KINDS)).to(v.dtype)
    plain = torch.stack([torch.ones_like(heading), heading.sin(), heading.cos()], -1)
    return torch.cat([plain, kind, v], -1)


class Centred(NamedTuple):
    """What cells are told of the N real agents of B scenes.

    features: (N, CENTRE_FEATURES) float32, of order 1, heading in the frame of the lane. scene, row, column: (N, 4)
    int64 and weight: (N, 4) float32, the four cells around the centre and how near each is; weights sum to 1.
    """

    features: Tensor
    scene: Tensor
    row: Tensor
    column: Tensor
    weight: Tensor


def centred(scenes: SceneBatch, lanes: Tensor, cells: int) -> Centred:
    """Agents for the cells around their centres on a grid of `cells` x `cells`. lanes: field of lane directions.

    An agent is told to four cells by bilinear weights, so that what is written moves with it.
    """
    real = scenes.real
    scene = torch.nonzero(real, as_tuple=True)[0]
    poses = scenes.pose[real]
    pose = poses[:, T0]
    at = (WINDOW_M / 2 - pose[:, :2]) * (cells / WINDOW_M)
    along = lane_direction(lanes, scenes.pose[:, :, T0, :2])[real]
    heading = torch.stack([pose[:, 2].cos(), pose[:, 2].sin()], -1)
    others = [i for i in range(len(TIMES_S)) if i != T0]
    step = turned_back(poses[:, others, :2] - pose[:, None, :2], heading[:, None]) / CENTRE_STEP_M
    turn = poses[:, others, 2] - pose[:, 2:]
    parts = [
        turned_back(heading, along),
        scenes.size[real].clamp(min=0.1).log(),
        torch.nn.functional.one_hot(scenes.kind[real], len(KINDS)).to(at.dtype),
        step.flatten(1),
        turn.sin(),
        1 - turn.cos(),
        scenes.seen[real][:, others].to(at.dtype),
    ]
    corner = (at - 0.5).floor()
    part = at - 0.5 - corner  # of the way from the corner's centre to the next
    corner = corner.long()
    rows = torch.stack([corner[:, 0], corner[:, 0], corner[:, 0] + 1, corner[:, 0] + 1], -1).clamp(0, cells - 1)
    columns = torch.stack([corner[:, 1], corner[:, 1] + 1, corner[:, 1], corner[:, 1] + 1], -1).clamp(0, cells - 1)
    u, v = part.unbind(-1)
    weight = torch.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v], -1)
    return Centred(torch.cat(parts, -1), scene[:, None].expand(-1, 4), rows, columns, weight)
