"""Overlap of and distance between the agents' boxes, exact, at every pose."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff.geometry import Array, box_corners, boxes_overlap
from sdiff.scene import Agents


class Contact(NamedTuple):
    """What the boxes of one scene do to each other.

    in_collision: (N, T) bool, whether the agent's box overlaps another one at the step.
    min_distance_m: smallest distance between two boxes at any step, 0 where they overlap; NaN where no two agents
    are seen at one step.
    """

    in_collision: NDArray[np.bool_]
    min_distance_m: float


def contact(agents: Agents) -> Contact:
    """Overlaps and the smallest distance over all pairs and steps. A touch is not an overlap.

    Only poses that can decide the answer are looked at: circles around the boxes bound their distance from below,
    circles inside them from above.
    """
    in_collision = np.zeros(agents.valid.shape, bool)
    first, second = np.triu_indices(len(agents), 1)
    x, y = agents.x_m.astype(np.float64), agents.y_m.astype(np.float64)
    both = agents.valid[first] & agents.valid[second]
    if not both.any():
        return Contact(in_collision, float("nan"))
    centres = np.where(both, np.hypot(x[first] - x[second], y[first] - y[second]), np.inf)
    outer = np.hypot(agents.length_m, agents.width_m).astype(np.float64) / 2
    inner = np.minimum(agents.length_m, agents.width_m).astype(np.float64) / 2
    at_least = centres - (outer[first] + outer[second])[:, None]
    at_most = np.maximum(centres - (inner[first] + inner[second])[:, None], 0).min()
    pair, step = np.nonzero(both & (at_least <= at_most))
    a, b = first[pair], second[pair]
    corners = [
        box_corners(x[k, step], y[k, step], agents.heading_rad[k, step], agents.length_m[k], agents.width_m[k])
        for k in (a, b)
    ]
    overlap = boxes_overlap(*corners)
    in_collision[a[overlap], step[overlap]] = True
    in_collision[b[overlap], step[overlap]] = True
    return Contact(in_collision, 0.0 if overlap.any() else float(_edge_distance(*corners).min()))


def boxes_distance(a_corners: Array, b_corners: Array) -> Array:
    """Distance between oriented boxes, 0 where they overlap [m]. (..., 4, 2) each, broadcast -> (...)."""
    return np.where(boxes_overlap(a_corners, b_corners), 0.0, _edge_distance(a_corners, b_corners))


def _edge_distance(a_corners: Array, b_corners: Array) -> Array:
    """Distance of boxes that do not overlap: between a corner of one and an edge of the other."""
    a_corners, b_corners = np.broadcast_arrays(a_corners, b_corners)
    return np.minimum(_corner_to_edge(a_corners, b_corners), _corner_to_edge(b_corners, a_corners))


def _corner_to_edge(corners: Array, ring: Array) -> Array:
    start, edge = ring[..., None, :, :], (np.roll(ring, -1, -2) - ring)[..., None, :, :]
    to_corner = corners[..., :, None, :] - start
    length2 = np.maximum((edge**2).sum(-1), np.finfo(np.float64).tiny)
    along = np.clip((to_corner * edge).sum(-1) / length2, 0, 1)
    gap = to_corner - along[..., None] * edge
    return np.sqrt((gap**2).sum(-1).min((-2, -1)))
