"""What no scene should show, as costs of decoded boxes with a gradient.

These are boxes in each other, vehicles off the road, and described agents that are not as described. A scene that is
almost right breaks such rules by decimetres: a queue a little too dense, one agent in two cells. While it is sampled
its estimates take a step down the gradient, and the denoiser makes the rest of the scene fit; nothing is moved later.
(Gradient of a cost of the denoised estimate: Universal Guidance, arXiv 2302.07121; discs along a box: CTG, 2210.17366.)
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sdiff import KINDS, WINDOW_M
from sdiff.model.batch import T0, TIMES_S
from sdiff.model.conditioning import Conditions
from sdiff.model.detection import Boxes, chord, gathered
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, TOKEN_NUMBERS
from sdiff.span import Span

SIGMA_BELOW = 2.0
"""Noise level from which on there are boxes to speak of."""
STEPS, STEPS_LAST = 1, 20
"""Steps down the gradient at a noise level, and at the last one."""
RATE, RATE_UP, RATE_DOWN = 0.15, 1.5, 0.3
"""Size of the first step: scaled latents per metre; its factors after a step that was good, and one that was not."""
GAP_M = 0.2
"""What boxes keep from each other: discs miss a box's corners."""
DISCS = 5
MOST = 64
"""Boxes of a scene that are looked at, the most probable ones: as many as a scene can have."""
LOOKS = 13
"""Moments at which it is looked whether boxes touch, going on at their velocities."""
TTC_WEIGHT = 2.0
LIKELY = 0.2
"""Boxes less probable than this meet nobody."""
ASTRAY_M, ASTRAY_SMOOTH_M = 4.0, 1.0
"""How far from where it was asked for an agent is looked for, and below which error the pull on it fades."""
RAD_PER_M, MPS_PER_M = 0.1, 1.0
"""Radians, and metres a second, that count as much as one metre: about as what a scene may be off and still fulfil."""
OFF_ROAD_STEPS = 16
"""Pixels of the map image that the field of distances to the road reaches beside it."""
_DRIVABLE = MAP_CHANNELS.index("drivable_area")
_ON_FOOT = [KINDS.index("pedestrian"), KINDS.index("other")]


def obeyed(scaled: Tensor, broken: Callable[[Tensor], Tensor], steps: int = STEPS) -> Tensor:
    """Estimated latents (B, C, 32, 32), a little less against the rules. broken: scaled latents to `broken_m` (B,).

    Each scene goes down its gradient by a rate of its own: a step that makes it no better is taken back, and a smaller
    one tried. What a rule costs rises steeply on one side, so that no rate is right for all.
    """

    def costs(scaled: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = scaled.detach().requires_grad_()
            cost = broken(z)
            (slope,) = torch.autograd.grad(cost.sum(), z)
        return cost.detach(), slope

    cost, slope = costs(scaled)
    rate = torch.full_like(cost, RATE)
    for _ in range(steps):
        tried = scaled - rate[:, None, None, None] * slope
        cost_tried, slope_tried = costs(tried)
        better = cost_tried < cost
        scaled = torch.where(better[:, None, None, None], tried, scaled)
        slope = torch.where(better[:, None, None, None], slope_tried, slope)
        cost, rate = torch.where(better, cost_tried, cost), rate * torch.where(better, RATE_UP, RATE_DOWN)
    return scaled


def broken_m(
    boxes: Boxes,
    off_road_m: Tensor,
    asked: Conditions,
    collisions: bool = False,
    ttc_s: Span | None = None,
) -> Tensor:
    """How far each scene breaks the rules, (B,) [m].

    boxes: the MOST probable ones. off_road_m: `off_road_field` of the maps. collisions: boxes may overlap. ttc_s: range
    of the smallest time to collision of the first token's agent with another token's.
    """
    one, found = described(boxes, asked)
    cost = off_road(boxes, off_road_m) + astray(one, found, asked)
    if ttc_s is not None:
        cost = cost + TTC_WEIGHT * amiss_m(one, found, ttc_s)
    return cost if collisions else cost + overlap_m(boxes)


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
    """How far the vehicles of each scene are beside the road: at their worst pose and on average, summed, (B,) [m]."""
    at = boxes.pose[..., :2]
    seen = (at.abs() < WINDOW_M / 2).all(-1)
    columns_then_rows = at.flip(-1) * (-2 / WINDOW_M)
    beside = F.grid_sample(off_road_m, columns_then_rows, padding_mode="border", align_corners=False)[:, 0]
    driven = 1 - boxes.kind_logits.softmax(-1)[..., _ON_FOOT].sum(-1)
    beside = beside * seen
    return ((beside.amax(-1) + beside.mean(-1)) * driven * boxes.logit.sigmoid()).sum(-1)


def described(boxes: Boxes, asked: Conditions) -> tuple[Boxes, Tensor]:
    """The box of each token, (B, K, ...), and whether there is one, (B, K).

    A token's agent is the box within ASTRAY_M that fits it best, where that box fits no other token better. Tokens
    without a position have none.
    """
    said = {name: asked.numbers[..., i] for i, name in enumerate(TOKEN_NUMBERS)}
    given = {name: asked.given[..., i] for i, name in enumerate(TOKEN_NUMBERS)}
    with torch.no_grad():
        at = torch.stack([said["x_m"], said["y_m"]], -1)
        away = (at[:, :, None] - boxes.pose[:, None, :, T0, :2]).norm(dim=-1)
        turn = chord(said["heading_rad"][:, :, None] - boxes.pose[:, None, :, T0, 2]) * given["heading_rad"][..., None]
        misfit = away + turn + (1 - boxes.logit.sigmoid())[:, None]
        placed = asked.used & given["x_m"] & given["y_m"]
        misfit = misfit.masked_fill(~placed[..., None] | (away > ASTRAY_M), torch.inf)
        best = misfit.argmin(2)
        mutual = misfit.argmin(1).gather(1, best) == torch.arange(best.shape[1], device=best.device)
        found = mutual & misfit.gather(2, best[..., None])[..., 0].isfinite()
    return gathered(boxes, best), found


def amiss_m(one: Boxes, found: Tensor, ttc_s: Span) -> Tensor:
    """How far the first token's agent is from a smallest time to collision with another token's in a range, (B,) [m].

    That is what is missing for boxes to touch, going on from their closest pose for the longest time; or how far they
    reach into each other within the shortest.
    """
    met = found[:, :1] & found[:, 1:]
    near = [gap_m(one, seconds).masked_fill(~met[..., None], torch.inf).flatten(1).amin(-1) for seconds in ttc_s]
    return ((-near[0]).clamp(min=0) + near[1].clamp(min=0)).where(met.any(-1), near[0].new_zeros(()))


def gap_m(one: Boxes, seconds: float) -> Tensor:
    """Least gap between the first box of a scene and each other within `seconds` from each pose on, (B, K - 1, W) [m].

    Both go on at the velocity they have. A gap is along the one of the boxes' four axes that shows most of it; below 0
    they overlap by as much.
    """
    xy, half = one.pose[..., :2], one.log_size.clamp(-3, 4).exp() / 2
    (velocity,) = torch.gradient(xy, spacing=(one.pose.new_tensor(TIMES_S),), dim=2, edge_order=2)
    heading = one.pose[..., 2]
    ahead = torch.stack([heading.cos(), heading.sin()], -1)
    sides = torch.stack([ahead, torch.stack([-ahead[..., 1], ahead[..., 0]], -1)], -2)  # (B, K, W, 2 axes, 2)
    mine, theirs = sides[:, :1].expand_as(sides[:, 1:]), sides[:, 1:]
    axes = torch.cat([mine, theirs], -2)

    def reach(sides: Tensor, half: Tensor) -> Tensor:
        """How far a box reaches along each axis, (B, K - 1, W, 4)."""
        return ((axes[..., None, :] * sides[..., None, :, :]).sum(-1).abs() * half[:, :, None, None]).sum(-1)

    reached = reach(mine, half[:, :1]) + reach(theirs, half[:, 1:])
    away = ((xy[:, 1:] - xy[:, :1])[..., None, :] * axes).sum(-1)
    closing = ((velocity[:, 1:] - velocity[:, :1])[..., None, :] * axes).sum(-1)
    after = torch.linspace(0, seconds, LOOKS, device=xy.device)[:, None]
    return ((away[..., None, :] + closing[..., None, :] * after).abs() - reached[..., None, :]).amax(-1).amin(-1)


def astray(one: Boxes, found: Tensor, asked: Conditions) -> Tensor:
    """How far the agents that tokens describe are from what these say, summed over each scene's tokens, (B,) [m].

    one, found: as from `described`. All else counts in metres, too (RAD_PER_M and so on), a wrong kind or no agent by
    its cross-entropy.
    """
    said = {name: asked.numbers[..., i] for i, name in enumerate(TOKEN_NUMBERS)}
    given = {name: asked.given[..., i] for i, name in enumerate(TOKEN_NUMBERS)}
    pose = one.pose

    def smooth(distance: Tensor) -> Tensor:
        return (distance**2 + ASTRAY_SMOOTH_M**2).sqrt() - ASTRAY_SMOOTH_M

    def off(name: str, value: Tensor, per_m: float = 1.0) -> Tensor:
        return smooth((value - said[name]) / per_m) * given[name]

    def turned(name: str, heading: Tensor) -> Tensor:
        return smooth(chord(heading - said[name]) / RAD_PER_M) * given[name]

    # As `trajectory.interpolate` has them, so that what brakes is not asked for its mean speed of the last half second.
    (velocity,) = torch.gradient(pose[..., :2], spacing=(pose.new_tensor(TIMES_S),), dim=2, edge_order=2)
    speed = velocity.pow(2).sum(-1).add(1e-6).sqrt()
    kind = -one.kind_logits.log_softmax(-1).gather(2, asked.kind.clamp(min=0)[..., None])[..., 0]
    cost = (
        off("x_m", pose[:, :, T0, 0])
        + off("y_m", pose[:, :, T0, 1])
        + turned("heading_rad", pose[:, :, T0, 2])
        + off("speed_mps", speed[:, :, T0], MPS_PER_M)
        + off("end_x_m", pose[:, :, -1, 0])
        + off("end_y_m", pose[:, :, -1, 1])
        + turned("end_heading_rad", pose[:, :, -1, 2])
        + off("end_speed_mps", speed[:, :, -1], MPS_PER_M)
        + off("length_m", one.log_size[..., 0].exp())
        + off("width_m", one.log_size[..., 1].exp())
        + kind * (asked.kind >= 0)
        + F.softplus(-one.logit)
    )
    return (cost * found).sum(1)


def off_road_field(map_bev: Tensor) -> Tensor:
    """(B, 1, 256, 256) float32 distance to within the road, up to 6 m [m]. map_bev: (B, 8, 256, 256) uint8.

    Within: one pixel from the drivable area's edge, so that who is there is on the road for sure.
    """
    beside = (map_bev[:, _DRIVABLE : _DRIVABLE + 1] == 0).to(torch.float32)
    road = 1 - F.max_pool2d(beside, 3, stride=1, padding=1)
    away = 1 - road
    for _ in range(OFF_ROAD_STEPS - 1):
        road = F.max_pool2d(road, 3, stride=1, padding=1)
        away = away + 1 - road
    return away * (WINDOW_M / BEV_PIXELS)
