"""What no scene should show, as costs of decoded boxes with a gradient: boxes in each other, vehicles off the road.

A scene that is almost right breaks these rules by decimetres: a queue a little too dense, one agent in two cells. While
it is sampled its estimates take a step down the gradient, and the denoiser makes the rest of the scene fit; nothing is
moved afterwards. (Gradient of a cost of the denoised estimate: Universal Guidance, arXiv 2302.07121; discs along a box:
CTG, arXiv 2210.17366.)
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sdiff import KINDS, WINDOW_M
from sdiff.model.detection import Boxes
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS

SIGMA_BELOW = 2.0
"""Noise level from which on there are boxes to speak of."""
STEPS, RATE = 2, 0.5
"""Steps down the gradient per call, and their size: scaled latents per metre."""
GAP_M = 0.2
"""What boxes keep from each other: discs miss a box's corners."""
DISCS = 5
MOST = 64
"""Boxes of a scene that are looked at, the most probable ones: as many as a scene can have."""
LIKELY = 0.2
"""Boxes less probable than this meet nobody."""
OFF_ROAD_CELLS, OFF_ROAD_STEPS = 128, 8
"""Cells a side of the field of distances to the road, and how many of them it reaches beside it."""
_DRIVABLE = MAP_CHANNELS.index("drivable_area")
_ON_FOOT = [KINDS.index("pedestrian"), KINDS.index("other")]


def obeyed(scaled: Tensor, decode: Callable[[Tensor], Boxes], off_road_m: Tensor) -> Tensor:
    """Estimated latents (B, C, 32, 32), a little less against the rules.

    decode: scaled latents to the MOST probable boxes. off_road_m: `off_road_field` of the maps.
    """
    for _ in range(STEPS):
        with torch.enable_grad():
            z = scaled.detach().requires_grad_()
            boxes = decode(z)
            cost = overlap_m(boxes).sum() + off_road(boxes, off_road_m).sum()
            (slope,) = torch.autograd.grad(cost, z)
        scaled = scaled - RATE * slope
    return scaled


def overlap_m(boxes: Boxes) -> Tensor:
    """How far the boxes of each scene reach into each other: at their worst pose and on average, summed, (B,) [m].

    Each pair counts with the probability of both. A box is DISCS discs along it, as wide as it is.
    """
    size = boxes.log_size.clamp(-3, 4).exp()
    radius, half = size.amin(-1) / 2, size.amax(-1) / 2
    pose, probable = boxes.pose, boxes.logit.sigmoid()
    with torch.no_grad():
        away = (pose[:, :, None, :, :2] - pose[:, None, :, :, :2]).norm(dim=-1).amin(-1)
        near = (away < half[:, :, None] + half[:, None] + GAP_M).triu(1)
        near &= (probable[:, :, None] > LIKELY) & (probable[:, None] > LIKELY)
        scene, i, j = near.nonzero(as_tuple=True)

    def discs(of: Tensor) -> Tensor:
        """Centres (P, W, DISCS, 2) of the boxes `of` the pairs."""
        at, r = pose[scene, of], radius[scene, of]
        along = torch.linspace(-1, 1, DISCS, device=pose.device) * (half[scene, of] - r)[:, None]
        ahead = torch.stack([at[..., 2].cos(), at[..., 2].sin()], -1)
        return at[..., None, :2] + along[:, None, :, None] * ahead[:, :, None]

    gap = (discs(i)[:, :, :, None] - discs(j)[:, :, None]).pow(2).sum(-1).flatten(2).amin(-1).add(1e-4).sqrt()
    into = (radius[scene, i] + radius[scene, j] + GAP_M)[:, None] - gap
    worst = into.clamp(min=0).amax(-1) + into.clamp(min=0).mean(-1)
    both = probable[scene, i] * probable[scene, j]
    return probable.new_zeros(len(probable)).index_add(0, scene, worst * both)


def off_road(boxes: Boxes, off_road_m: Tensor) -> Tensor:
    """How far the vehicles of each scene are beside the road, mean over their poses, summed, (B,) [m]."""
    at = boxes.pose[..., :2]
    seen = (at.abs() < WINDOW_M / 2).all(-1)
    columns_then_rows = at.flip(-1) * (-2 / WINDOW_M)
    beside = F.grid_sample(off_road_m, columns_then_rows, padding_mode="border", align_corners=False)[:, 0]
    driven = 1 - boxes.kind_logits.softmax(-1)[..., _ON_FOOT].sum(-1)
    return ((beside * seen).mean(-1) * driven * boxes.logit.sigmoid()).sum(-1)


def off_road_field(map_bev: Tensor) -> Tensor:
    """(B, 1, 128, 128) float32 distance to the drivable area, up to 6 m [m]. map_bev: (B, 8, 256, 256) uint8."""
    road = (map_bev[:, _DRIVABLE : _DRIVABLE + 1] > 0).to(torch.float32)
    road = F.max_pool2d(road, BEV_PIXELS // OFF_ROAD_CELLS)
    beside = 1 - road
    for _ in range(OFF_ROAD_STEPS - 1):
        road = F.max_pool2d(road, 3, stride=1, padding=1)
        beside = beside + 1 - road
    return beside * (WINDOW_M / OFF_ROAD_CELLS)
