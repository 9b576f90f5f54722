"""The frame that directions are written in: along the lane at the place, where there is one.

Most vehicles drive along their lane. In this frame that is one and the same direction everywhere, in the window's frame
another one in every street.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sdiff import WINDOW_M
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS

FIELD_CELLS = 64
WIDE_CELLS, WIDE_SHARE = 8, 0.1
"""Share of the mean over so many cells a side: all there is on sidewalks and in car parks, beside the lanes."""
AHEAD = 0.001
"""Forward in the window, added to the rest: all there is where lanes cancel or are far."""
_COS, _SIN = MAP_CHANNELS.index("lane_cos"), MAP_CHANNELS.index("lane_sin")


def lane_field(map_bev: Tensor) -> Tensor:
    """(B, 2, 64, 64) float32, mean cos and sin of the lanes' directions around each cell, window frame.

    map_bev: (B, 8, 256, 256) uint8.
    """
    unit = F.avg_pool2d((map_bev[:, [_COS, _SIN]].to(torch.float32) - 128) / 127, BEV_PIXELS // FIELD_CELLS)
    near = F.avg_pool2d(unit, 3, stride=1, padding=1)
    wide = F.interpolate(F.avg_pool2d(unit, WIDE_CELLS), size=unit.shape[2:], mode="bilinear", align_corners=False)
    return near + WIDE_SHARE * wide + unit.new_tensor([AHEAD, 0.0]).view(1, 2, 1, 1)


def lane_direction(field: Tensor, xy_m: Tensor) -> Tensor:
    """(B, Q, 2) unit vectors, cos and sin of the lane's direction at places (B, Q, 2), window frame.

    Continuous in the place: who reads it a little beside where it was written reads a little off, not another street.
    """
    at = (xy_m.flip(-1) * (-2 / WINDOW_M))[:, None]  # columns then rows, from -1 to 1
    mean = F.grid_sample(field, at, padding_mode="border", align_corners=False)[:, :, 0]
    return F.normalize(mean.transpose(1, 2), dim=-1, eps=1e-6)


def turned(xy: Tensor, direction: Tensor) -> Tensor:
    """Vectors (..., 2) of a frame whose x axis points along `direction` (..., 2), unit, in the frame around it."""
    x, y = xy.unbind(-1)
    c, s = direction.unbind(-1)
    return torch.stack([c * x - s * y, s * x + c * y], -1)


def turned_back(xy: Tensor, direction: Tensor) -> Tensor:
    """The inverse of `turned`."""
    return turned(xy, direction * direction.new_tensor([1.0, -1.0]))
