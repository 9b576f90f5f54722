"""One box with its trajectory per cell: what the head's channels mean, assignment, losses, decoding, suppression."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sdiff import KINDS, WINDOW_M
from sdiff.geometry import box_corners, boxes_overlap
from sdiff.model.batch import T0, TIMES_S, SceneBatch
from sdiff.model.lane_frame import lane_direction, turned, turned_back

GRID = 64
CELL_M = WINDOW_M / GRID
_OTHERS = [i for i in range(len(TIMES_S)) if i != T0]
HEAD_CHANNELS = 1 + 2 + 2 + 2 + len(KINDS) + 3 * len(_OTHERS)
"""logit; offset of the centre from the cell's centre; cos, sin; log length, width; kinds; step to each waypoint.

Offset in the window's frame. A step is an arc away from t0, to the next pose or the one before: way along and across
the mean of both headings, and turn. Who drives where it heads has nothing across: little slips by error.
"""
_STEP_SCALE_M = 5.0  # a head output of 1 is a step of 5 m between neighbouring waypoints
_STILL_STEP = (0.05, 0.02, 0.02)
_STILL_TURN = 0.02
"""Half of all agents stand, most of the others go straight on along their lane: as much less is nothing (`pressed`)."""


class Boxes(NamedTuple):
    """What the head says, cell by cell or of chosen cells; `...` is (B, GRID * GRID) or (B, M).

    logit: (...). pose: (..., W, 3), x, y, heading at TIMES_S. direction: (..., 2), cos and sin, not normalised.
    log_size: (..., 2). kind_logits: (..., K).
    """

    logit: Tensor
    pose: Tensor
    direction: Tensor
    log_size: Tensor
    kind_logits: Tensor


class DetectionLoss(NamedTuple):
    """Scalars: the terms of the loss, each per true box. presence: BCE over all cells; the rest over matched cells."""

    presence: Tensor
    box: Tensor
    corners: Tensor
    kind: Tensor
    waypoints: Tensor
    waypoint_headings: Tensor
    arcs: Tensor

    def total(self) -> Tensor:
        """Weighted sum; waypoints count in metres like corners."""
        motion = self.waypoints + 2 * self.waypoint_headings + self.arcs
        return self.presence + self.box + self.corners + 0.5 * self.kind + motion


def cell_centres(device: torch.device | str = "cpu") -> Tensor:
    """(GRID * GRID, 2) x, y of the cells' centres, window frame [m]; row 0 is ahead, column 0 is left."""
    axis = WINDOW_M / 2 - (torch.arange(GRID, device=device) + 0.5) * CELL_M
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)


def read_head(head: Tensor, lanes: Tensor | None = None, most: int | None = None) -> Boxes:
    """The head's output (B, HEAD_CHANNELS, GRID, GRID) as boxes per cell (B, GRID * GRID, ...).

    lanes: field of lane directions, where headings are in the frame of the lane at each box's centre; where None, they
    are in the window's. most: of each scene so many boxes alone, the most probable first.
    """
    cells = head.float().flatten(2).transpose(1, 2)
    at = cell_centres(head.device).expand(len(cells), -1, -1)
    if most is not None:
        best = cells[..., 0].topk(most, 1).indices[..., None]
        cells, at = cells.gather(1, best.expand(-1, -1, cells.shape[2])), at.gather(1, best.expand(-1, -1, 2))
    logit, offset, direction, log_size, kinds, steps = cells.split([1, 2, 2, 2, len(KINDS), 3 * len(_OTHERS)], dim=-1)
    centre = at + offset * CELL_M
    if lanes is not None:
        along, across = direction.split(1, -1)
        direction = torch.cat([along, pressed(across, _STILL_TURN)], -1)
        direction = turned(direction, lane_direction(lanes, centre.detach()))
    heading = torch.atan2(direction[..., 1], direction[..., 0])
    steps = pressed(steps.unflatten(-1, (len(_OTHERS), 3)), steps.new_tensor(_STILL_STEP))
    turn = _outward(steps[..., 2])
    middle = heading[..., None] + turn - steps[..., 2] / 2
    way = turned(steps[..., :2] * _STEP_SCALE_M, torch.stack([middle.cos(), middle.sin()], -1))
    out = torch.stack([*_outward(way.movedim(-1, 0)), turn], -1)
    out = torch.cat([out[..., :T0, :], torch.zeros_like(out[..., :1, :]), out[..., T0:, :]], -2)
    pose = torch.cat([centre, heading[..., None]], -1)[..., None, :] + out
    return Boxes(logit[..., 0], pose, direction, log_size, kinds)


def pressed(x: Tensor, still: Tensor | float) -> Tensor:
    """x without what is small against `still`; what is large loses `still`.

    What is usually nothing comes out as nothing although the latents it is read from are a little off: a parked car
    does not creep.
    """
    return x - still * torch.tanh(x / still)


def arcs(pose: Tensor) -> Tensor:
    """Steps between neighbouring poses (..., W, 3): along, across the mean heading [m], turn [rad]; (..., W - 1, 3)."""
    step = pose[..., 1:, :] - pose[..., :-1, :]
    turn = torch.remainder(step[..., 2] + torch.pi, 2 * torch.pi) - torch.pi
    middle = pose[..., :-1, 2] + turn / 2
    way = turned_back(step[..., :2], torch.stack([middle.cos(), middle.sin()], -1))
    return torch.cat([way, turn[..., None]], -1)


def _outward(steps: Tensor) -> Tensor:
    """Sums (..., W - 1) of steps away from t0, into the past and into the future."""
    return torch.cat([steps[..., :T0].flip(-1).cumsum(-1).flip(-1), steps[..., T0:].cumsum(-1)], -1)


Extent = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Numbers (..., F) that say where a box's edges are, of pose (..., 3), size (..., 2) and the cell (...) that has it."""


def log_size(pose: Tensor, size: Tensor, cell: Tensor) -> Tensor:
    """Log length and width."""
    return size.clamp(min=0.1).log()


def log_size_and_centre(pose: Tensor, size: Tensor, cell: Tensor) -> Tensor:
    """Log length and width, and the centre [m]."""
    return torch.cat([log_size(pose, size, cell), pose[..., :2]], -1)


def assign(boxes: Boxes, scenes: SceneBatch, extent: Extent = log_size) -> Tensor:
    """One cell for each true box, one box per cell: (B, M) int64 cell indices, arbitrary where not real.

    Each box ranks the 5 x 5 cells around its centre by 4 BCE + L1 + mean corner distance (Scenario Diffusion's cost);
    where two want the same cell the cheaper one keeps it and the other takes its next best.
    """
    b, m = scenes.real.shape
    x, y = scenes.pose[:, :, T0, 0], scenes.pose[:, :, T0, 1]
    row = ((WINDOW_M / 2 - x) / CELL_M).floor().long().clamp(0, GRID - 1)
    col = ((WINDOW_M / 2 - y) / CELL_M).floor().long().clamp(0, GRID - 1)
    near = torch.arange(-2, 3, device=x.device)
    rows = (row[..., None, None] + near[:, None]).expand(b, m, 5, 5)
    cols = (col[..., None, None] + near[None, :]).expand(b, m, 5, 5)
    inside = ((rows >= 0) & (rows < GRID) & (cols >= 0) & (cols < GRID)).flatten(2)
    cells = (rows.clamp(0, GRID - 1) * GRID + cols.clamp(0, GRID - 1)).flatten(2)  # (B, M, 25)
    cost = _assignment_cost(gathered(boxes, cells.flatten(1)), cells, scenes, extent).masked_fill(~inside, torch.inf)
    return _settle(cells, cost, scenes.real)


def chord(turn: Tensor) -> Tensor:
    """Length of the chord between two headings: near the angle itself [rad], where 1 - cos forgives small ones."""
    return (2 * (1 - turn.cos())).clamp(min=0).add(1e-6).sqrt()


def detection_loss(
    boxes: Boxes,
    scenes: SceneBatch,
    extent: Extent = log_size_and_centre,
    rank_by: Extent = log_size,
    turn_cost: Callable[[Tensor], Tensor] = chord,
) -> DetectionLoss:
    """Losses of the boxes against the scenes, with the assignment of `assign`, which ranks by `rank_by`.

    turn_cost: of the difference of a waypoint's headings [rad].
    """
    with torch.no_grad():
        cell = assign(boxes, scenes, rank_by)
    real = scenes.real
    n_boxes = real.sum().clamp(min=1)
    target = torch.zeros_like(boxes.logit)
    target[torch.nonzero(real, as_tuple=True)[0], cell[real]] = 1.0
    presence = F.binary_cross_entropy_with_logits(boxes.logit, target, reduction="sum") / n_boxes

    got = gathered(boxes, cell)
    true_heading = scenes.pose[:, :, T0, 2]
    direction = torch.stack([true_heading.cos(), true_heading.sin()], -1)
    said = extent(got.pose[:, :, T0], got.log_size.exp(), cell)
    box = (got.direction - direction).abs().sum(-1)
    box = box + (said - extent(scenes.pose[:, :, T0], scenes.size, cell)).abs().sum(-1)
    corners = _corner_distance(got.pose[:, :, T0], got.log_size.exp(), scenes)
    kind = F.cross_entropy(got.kind_logits.flatten(0, 1), scenes.kind.flatten(), reduction="none").view_as(box)

    seen = scenes.seen[:, :, _OTHERS] & real[..., None]
    n_seen = seen.sum().clamp(min=1)
    away = (got.pose[:, :, _OTHERS, :2] - scenes.pose[:, :, _OTHERS, :2]).pow(2).sum(-1).add(1e-4).sqrt()
    turn = turn_cost(got.pose[:, :, _OTHERS, 2] - scenes.pose[:, :, _OTHERS, 2])
    # From one waypoint to the next: little in where an agent gets to, and all of its speed and steering.
    arc = (arcs(got.pose) - arcs(scenes.pose)).abs() * got.pose.new_tensor([1.0, 1.0, 2.0])
    both = scenes.seen[:, :, 1:] & scenes.seen[:, :, :-1] & real[..., None]
    return DetectionLoss(
        presence=presence,
        box=box[real].sum() / n_boxes,
        corners=corners[real].sum() / n_boxes,
        kind=kind[real].sum() / n_boxes,
        waypoints=away[seen].sum() / n_seen,
        waypoint_headings=turn[seen].sum() / n_seen,
        arcs=arc[both].sum() / both.sum().clamp(min=1),
    )


class Detections(NamedTuple):
    """The boxes kept in one scene, most probable first.

    score: (N,). pose: (N, W, 3) at TIMES_S. size: (N, 2). kind: (N,) int64. All numpy.
    """

    score: NDArray[np.float32]
    pose: NDArray[np.float32]
    size: NDArray[np.float32]
    kind: NDArray[np.int64]


def detect(boxes: Boxes, min_score: float = 0.5) -> list[Detections]:
    """Boxes above `min_score`, scene by scene. They may overlap."""
    boxes = Boxes(*(field.detach() for field in boxes))
    score = boxes.logit.sigmoid()
    scenes = []
    for i, keep in enumerate(score >= min_score):
        order = score[i][keep].argsort(descending=True, stable=True)
        scenes.append(
            Detections(
                score[i][keep][order].cpu().numpy(),
                boxes.pose[i][keep][order].cpu().numpy(),
                boxes.log_size[i][keep][order].clamp(-3, 4).exp().cpu().numpy(),
                boxes.kind_logits[i][keep][order].argmax(-1).cpu().numpy(),
            )
        )
    return scenes


def suppressed(found: Detections, first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which boxes stay, (N,), so that no two overlap at t0; of two that do, one of `first`, else the more probable."""
    x, y, heading = found.pose[:, T0].T
    corners = box_corners(x, y, heading, *found.size.T)
    stay = np.zeros(len(first), bool)
    for i in np.argsort(~first, kind="stable"):
        stay[i] = not boxes_overlap(corners[i], corners[stay]).any()
    return stay


def gathered(boxes: Boxes, cell: Tensor) -> Boxes:
    """Boxes at cells (B, Q) int64."""

    def pick(field: Tensor) -> Tensor:
        flat = field.flatten(2) if field.dim() > 2 else field[..., None]
        picked = flat.gather(1, cell[..., None].expand(-1, -1, flat.shape[-1]))
        return picked.unflatten(-1, field.shape[2:]) if field.dim() > 2 else picked[..., 0]

    return Boxes(*(pick(f) for f in boxes))


def _corners(pose: Tensor, size: Tensor) -> Tensor:
    """(..., 4, 2) corners of boxes with pose (..., 3) and size (..., 2)."""
    signs = pose.new_tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    local = size[..., None, :] * signs
    c, s = pose[..., 2].cos()[..., None], pose[..., 2].sin()[..., None]
    x = c * local[..., 0] - s * local[..., 1]
    y = s * local[..., 0] + c * local[..., 1]
    return torch.stack([x, y], -1) + pose[..., None, :2]


def _corner_distance(pose: Tensor, size: Tensor, scenes: SceneBatch) -> Tensor:
    """Mean distance of the four corners to the true ones [m]; pose (B, M, 3), size (B, M, 2) -> (B, M)."""
    true = _corners(scenes.pose[:, :, T0], scenes.size)
    return (_corners(pose, size.clamp(max=60)) - true).pow(2).sum(-1).add(1e-6).sqrt().mean(-1)


def _assignment_cost(candidates: Boxes, cells: Tensor, scenes: SceneBatch, extent: Extent) -> Tensor:
    """(B, M, 25) cost of each candidate cell (B, M, 25) for each true box."""
    _b, m = scenes.real.shape
    grouped = Boxes(*(f.unflatten(1, (m, -1)) for f in candidates))
    heading = scenes.pose[:, :, T0, 2]
    direction = torch.stack([heading.cos(), heading.sin()], -1)[:, :, None]
    true_pose, true_size = scenes.pose[:, :, None, T0].expand(-1, -1, cells.shape[2], -1), scenes.size[:, :, None]
    said = extent(grouped.pose[..., T0, :], grouped.log_size.exp(), cells)
    l1 = (grouped.direction - direction).abs().sum(-1) + (said - extent(true_pose, true_size, cells)).abs().sum(-1)
    true = _corners(scenes.pose[:, :, T0], scenes.size)[:, :, None]
    away = (
        (_corners(grouped.pose[..., T0, :], grouped.log_size.clamp(max=4).exp()) - true).pow(2).sum(-1).sqrt().mean(-1)
    )
    bce = F.softplus(-grouped.logit)
    return 4 * bce.clamp(max=3) + l1 + away


def _settle(cells: Tensor, cost: Tensor, real: Tensor) -> Tensor:
    """(B, M) cells so that no two real boxes of a scene share one: losers of a conflict move to their next best."""
    b, m, q = cells.shape
    cost = cost.masked_fill(~real[..., None], torch.inf)
    flat = torch.arange(b, device=cells.device)[:, None] * (GRID * GRID)
    for _ in range(q):
        best_cost, best = cost.min(-1)
        chosen = cells.gather(-1, best[..., None])[..., 0]
        slot = (flat + chosen).flatten()
        cheapest = best_cost.new_full((b * GRID * GRID,), torch.inf)
        cheapest = cheapest.scatter_reduce(0, slot, best_cost.flatten(), "amin")
        # The index breaks ties, so that exactly one box wins a cell.
        order = torch.arange(b * m, device=cells.device)
        wins = best_cost.flatten() <= cheapest[slot]
        first = order.new_full((b * GRID * GRID,), b * m).scatter_reduce(0, slot[wins], order[wins], "amin")
        lost = (first[slot] != order).view(b, m) & real & best_cost.isfinite()
        if not lost.any():
            break
        cost = torch.where(lost[..., None], cost.scatter(-1, best[..., None], torch.inf), cost)
    return chosen
