"""Agents as an encoder sees them, sparse, on any device: the pixels that boxes cover, or a vector at each centre.

The covered pixels are those of `raster.agent_bev`. A box covers some 50 of 65,536, so the image itself is never laid
out: what reads it sums over them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sdiff import KINDS, WINDOW_M
from sdiff.model.batch import T0, TIMES_S, SceneBatch
from sdiff.scene import BEV_PIXELS, DISPLACEMENT_SCALE_M

IMAGE_CHANNELS = 3 + len(KINDS) + 2 * (len(TIMES_S) - 1)
"""occupancy, sin, cos, one channel per kind, then dx, dy per waypoint."""
CENTRE_FEATURES = 2 + 2 + 2 + len(KINDS) + 5 * (len(TIMES_S) - 1)
"""offset in the cell; sin, cos; log length, width; kinds; per waypoint dx, dy, sin and 1 - cos of the turn, seen."""
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


def centred(scenes: SceneBatch, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a cell of a `cells` x `cells` grid is told of the agent whose centre it holds.

    Features (B, M, CENTRE_FEATURES) float32, of order 1; row and column (B, M) int64.
    """
    pose = scenes.pose[:, :, T0]
    at = (WINDOW_M / 2 - pose[..., :2]) * (cells / WINDOW_M)
    cell = at.floor().clamp(0, cells - 1)
    others = [i for i in range(len(TIMES_S)) if i != T0]
    step = (scenes.pose[:, :, others, :2] - pose[:, :, None, :2]) / CENTRE_STEP_M
    turn = scenes.pose[:, :, others, 2] - pose[..., 2:]
    heading = pose[..., 2]
    parts = [
        2 * (at - cell) - 1,
        torch.stack([heading.sin(), heading.cos()], -1),
        scenes.size.clamp(min=0.1).log(),
        torch.nn.functional.one_hot(scenes.kind, len(KINDS)).to(at.dtype),
        step.flatten(2),
        turn.sin(),
        1 - turn.cos(),
        scenes.seen[:, :, others].to(at.dtype),
    ]
    row, column = cell.long().unbind(-1)
    return torch.cat(parts, -1), row, column
