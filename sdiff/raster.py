"""Bird's-eye-view images of a window: exact (a pixel belongs to a shape when its centre does), drawn by numba kernels.

Pixel (i, j) is centred at x = 50 - (i + 1/2) r, y = 50 - (j + 1/2) r, r = 100 m / 256. The kernels work in pixel
coordinates (u, v), in which the centre of pixel (i, j) is (i, j).
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sdiff import STEP_S, WINDOW_M
from sdiff.geometry import SE2, box_corners
from sdiff.logs.driving_log import FEATURE_KINDS, LANE_TYPES, LIGHT_STATES, Lights, VectorMap
from sdiff.scene import (
    AGENT_CHANNELS,
    BEV_PIXELS,
    DISPLACEMENT_SCALE_M,
    MAP_CHANNELS,
    SIGNED_MAP_CHANNELS,
    STEPS_PAST,
    WAYPOINTS_S,
    Agents,
)

PIXEL_M = WINDOW_M / BEV_PIXELS
SPEED_LIMIT_SCALE_MPS = 35.0
LINE_RADIUS_M = 0.3
"""A pixel belongs to a thin line when its centre is at most this far from it [m]."""
STRAIGHT_M, STRAIGHT_RAD = 0.02, 0.015
"""Vertices that are less than this off a straight line, and turn it by less, are not seen: a tenth of a pixel."""
LONGEST_RUN = 1000
"""Of so many vertices one at least is kept on a straight line too: each is held against all left out before it."""
LANE_WIDTH_M = {"vehicle": 3.5, "bus": 3.5, "bike": 1.8}
"""Widths where the source has none [m]. Lanes of other types (pedestrian) have no driving direction to paint."""
LIGHT_VALUES = {"stop": -1.0, "caution": -0.5, "go": 1.0}
"""What the light channel shows, in the order of painting."""

_MITRE_LIMIT = 2.0
_UNIT = 1 << 14  # unit vectors are summed as integers, so that the sum does not depend on the order of the lanes

Bev = NDArray[np.uint8]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Shapes:
    """Ragged point sequences, map frame. xy_m: (P, 2); start: (S + 1,); box_m: (S, 4) x, y minimum, x, y maximum."""

    xy_m: Floats
    start: NDArray[np.int64]
    box_m: Floats

    @staticmethod
    def of(xy_m: Floats, start: NDArray[np.int64]) -> "Shapes":
        """With the bounding boxes computed; sequences without points are left out."""
        start = np.concatenate([[0], start[1:][np.diff(start) > 0]]).astype(np.int64)
        if len(start) == 1:
            return Shapes(np.zeros((0, 2)), start, np.zeros((0, 4)))
        low, high = (f.reduceat(xy_m, start[:-1], axis=0) for f in (np.minimum, np.maximum))
        return Shapes(np.ascontiguousarray(xy_m), start, np.concatenate([low, high], 1))


@dataclass(frozen=True)
class MapIndex:
    """What `map_bev` needs of a map, computed once per map: shapes with bounding boxes, lanes as strips of quads.

    lanes: one quad per centreline segment; lane_feature: (Q,) the feature it belongs to; lane_unit: (Q, 2) int32
    (sin, cos) of its direction in the map frame, times 2^14; lane_speed: (Q,) uint8, the value of speed_limit.
    """

    drivable_area: Shapes
    crosswalk: Shapes
    boundary: Shapes
    stop_line: Shapes
    lanes: Shapes
    lane_feature: NDArray[np.int64]
    lane_direction: Floats
    lane_speed: NDArray[np.uint8]

    @staticmethod
    def of(map: VectorMap) -> "MapIndex":
        """The index of `map`."""
        quads, feature, direction = _lane_quads(map)
        speed = np.nan_to_num(map.speed_limit_mps[feature] / SPEED_LIMIT_SCALE_MPS)
        return MapIndex(
            drivable_area=_shapes(map, "drivable_area"),
            crosswalk=_shapes(map, "crosswalk"),
            boundary=_segments(map, "lane_boundary", "road_edge"),
            stop_line=_segments(map, "stop_line"),
            lanes=Shapes.of(quads.reshape(-1, 2), np.arange(len(quads) + 1, dtype=np.int64) * 4),
            lane_feature=feature,
            lane_direction=direction,
            lane_speed=np.floor(255 * np.clip(speed, 0, 1) + 0.5).astype(np.uint8),
        )


def map_bev(map: VectorMap | MapIndex, lights: Lights, step: int, map_SE2_window: SE2) -> Bev:
    """Image of the map around a window's origin with the signals as they stand at `step` of the log.

    Returns (8, 256, 256) uint8, channels `sdiff.scene.MAP_CHANNELS`. Where lanes overlap, the direction is the mean of
    their unit vectors and the speed limit the highest; go is painted over caution over stop. Give a `MapIndex` where
    many windows share a map.
    """
    index = map if isinstance(map, MapIndex) else MapIndex.of(map)
    out = np.zeros((len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS), np.uint8)
    channel = {name: out[i] for i, name in enumerate(MAP_CHANNELS)}
    for name in SIGNED_MAP_CHANNELS:
        channel[name][:] = 128
    pose = np.array(map_SE2_window, np.float64)
    toggle = np.zeros((BEV_PIXELS, BEV_PIXELS + 1), np.uint8)
    for name, areas in (("drivable_area", index.drivable_area), ("crosswalk", index.crosswalk)):
        _draw_areas(areas.xy_m, areas.start, areas.box_m, pose, toggle, channel[name])
    for name, lines in (("lane_boundary", index.boundary), ("stop_line", index.stop_line)):
        _draw_lines(lines.xy_m, lines.box_m, pose, LINE_RADIUS_M / PIXEL_M, channel[name])
    near = _near(index.lanes.box_m, pose)
    uv = _to_pixels(index.lanes.xy_m.reshape(-1, 4, 2)[near], pose)
    direction = index.lane_direction[near] - map_SE2_window.heading_rad
    unit = np.floor(_UNIT * np.stack([np.sin(direction), np.cos(direction)], 1) + 0.5).astype(np.int32)
    _draw_lanes(
        uv, unit, index.lane_speed[near], toggle, *(channel[c] for c in ("lane_sin", "lane_cos", "speed_limit"))
    )
    feature = index.lane_feature[near]
    for state, value in LIGHT_VALUES.items():
        lanes = lights.lane[lights.state[:, step] == LIGHT_STATES.index(state)]
        if len(lanes):
            _fill_quads(uv[np.isin(feature, lanes)], toggle, int(_signed(value)), channel["light"])
    return out


def agent_bev(agents: Agents) -> Bev:
    """Image of the agents that are valid at t0, later ones over earlier ones.

    Returns (12, 256, 256) uint8, channels `sdiff.scene.AGENT_CHANNELS`.
    """
    out = np.zeros((len(AGENT_CHANNELS), BEV_PIXELS, BEV_PIXELS), np.uint8)
    out[[1, 2, *range(4, len(AGENT_CHANNELS))]] = 128
    present = agents.valid[:, STEPS_PAST]
    x, y, heading = (
        getattr(agents, name)[present, STEPS_PAST].astype(np.float64) for name in ("x_m", "y_m", "heading_rad")
    )
    corners = box_corners(x, y, heading, agents.length_m[present], agents.width_m[present])
    values = np.empty((len(x), len(AGENT_CHANNELS)), np.uint8)
    values[:, 0] = 255
    values[:, 1], values[:, 2] = _signed(np.sin(heading)), _signed(np.cos(heading))
    values[:, 3] = agents.kind[present] + 1
    displacement = _displacements(agents, present)
    values[:, 4:] = _signed(np.sign(displacement) * np.sqrt(np.abs(displacement) / DISPLACEMENT_SCALE_M))
    _draw_boxes((WINDOW_M / 2 - corners) / PIXEL_M - 0.5, values, np.zeros((BEV_PIXELS, BEV_PIXELS + 1), np.uint8), out)
    return out


def _displacements(agents: Agents, present: NDArray[np.bool_]) -> Floats:
    """dx, dy at each of WAYPOINTS_S: (N, 8) [m]; at constant velocity where the agent was not observed then."""
    times = np.array(WAYPOINTS_S)
    steps = STEPS_PAST + np.rint(times / STEP_S).astype(np.int64)
    known = agents.valid[present][:, steps]
    axes = []
    for at, velocity in (("x_m", "vx_mps"), ("y_m", "vy_mps")):
        place = getattr(agents, at)[present].astype(np.float64)
        speed = getattr(agents, velocity)[present, STEPS_PAST].astype(np.float64)
        axes.append(np.where(known, place[:, steps] - place[:, [STEPS_PAST]], speed[:, None] * times))
    return np.stack(axes, -1).reshape(len(known), 2 * len(times))


def _signed(value: NDArray[np.floating] | float) -> NDArray[np.floating]:
    return np.floor(128 + 127 * np.clip(value, -1, 1) + 0.5)


def _shapes(map: VectorMap, *kinds: str) -> Shapes:
    feature = np.flatnonzero(np.isin(map.kind, [FEATURE_KINDS.index(k) for k in kinds]))
    points, start = _gather(map.start[feature], map.start[feature + 1])
    return Shapes.of(map.xy_m[points], start)


def _segments(map: VectorMap, *kinds: str) -> Shapes:
    shapes = _shapes(map, *kinds)
    keep = _corners(shapes.xy_m, shapes.start)
    shapes = Shapes.of(shapes.xy_m[keep], np.concatenate([[0], np.cumsum(keep)])[shapes.start])
    first = _segment_starts(shapes.start)
    ends = np.stack([shapes.xy_m[first], shapes.xy_m[first + 1]], 1)
    return Shapes.of(ends.reshape(-1, 2), np.arange(len(first) + 1, dtype=np.int64) * 2)


def _gather(first: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of all points of the ranges first..end, joined, and where each range starts among them."""
    start = np.concatenate([[0], np.cumsum(end - first)]).astype(np.int64)
    return np.arange(start[-1]) + np.repeat(first - start[:-1], end - first), start


def _segment_starts(start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the first point of every segment of ragged polylines."""
    is_last = np.zeros(start[-1], bool)
    is_last[start[1:] - 1] = True
    return np.flatnonzero(~is_last)


@njit(cache=True, nogil=True)
def _corners(xy_m: Floats, start: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which vertices of ragged polylines one would see in the image: a straight road is one segment."""
    keep = np.zeros(len(xy_m), np.bool_)
    for line in range(len(start) - 1):
        first, last = start[line], start[line + 1] - 1
        keep[first] = keep[last] = True
        anchor = first
        for end in range(first + 2, last + 1):
            ax, ay = xy_m[anchor]
            dx, dy = xy_m[end, 0] - ax, xy_m[end, 1] - ay
            length = math.hypot(dx, dy)
            straight = length > 0 and end - anchor <= LONGEST_RUN
            for k in range(anchor, end):
                if not straight:
                    break
                off = abs(dx * (xy_m[k, 1] - ay) - dy * (xy_m[k, 0] - ax))
                ex, ey = xy_m[k + 1, 0] - xy_m[k, 0], xy_m[k + 1, 1] - xy_m[k, 1]
                turned = abs(dx * ey - dy * ex) > STRAIGHT_RAD * (dx * ex + dy * ey)
                straight = off <= STRAIGHT_M * length and not turned
            if not straight:
                anchor = end - 1
                keep[anchor] = True
    return keep


def _lane_quads(map: VectorMap) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Lanes as strips of quads that share their edges: corners (Q, 4, 2) [m], feature (Q,), direction (Q,) [rad]."""
    widths = np.array([LANE_WIDTH_M.get(t, 0.0) for t in LANE_TYPES])
    lane = map.of_kind("lane_centerline")
    lane = lane[widths[map.lane_type[lane]] > 0]
    points, start = _gather(map.start[lane], map.start[lane + 1])
    owner = np.repeat(lane, np.diff(start))
    xy = map.xy_m[points]
    moved = np.ones(len(xy), bool)  # repeated vertices have no direction
    moved[1:] = (np.abs(np.diff(xy, axis=0)) > 1e-6).any(1) | (np.diff(owner) != 0)
    xy, owner = xy[moved], owner[moved]
    keep = _corners(xy, np.flatnonzero(np.diff(owner, prepend=-1, append=-1)))
    xy, owner = xy[keep], owner[keep]
    joined = owner[1:] == owner[:-1]
    first = np.flatnonzero(joined)
    along = xy[first + 1] - xy[first]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    normal = np.stack([-along[:, 1], along[:, 0]], 1)
    at_vertex = np.zeros_like(xy)
    at_vertex[first] += normal
    at_vertex[first + 1] += normal
    at_vertex /= np.maximum(np.linalg.norm(at_vertex, axis=1, keepdims=True), 1e-9)
    known = map.width_m[owner]
    half = np.where(known > 0, known, widths[map.lane_type[owner]])[first] / 2

    def side(vertex: NDArray[np.int64]) -> Floats:
        mitre = np.einsum("kd,kd->k", at_vertex[vertex], normal)
        return at_vertex[vertex] * (half / np.maximum(mitre, 1 / _MITRE_LIMIT))[:, None]

    a, b, at_a, at_b = xy[first], xy[first + 1], side(first), side(first + 1)
    quads = np.stack([a + at_a, a - at_a, b - at_b, b + at_b], 1)
    return quads, owner[first], np.arctan2(along[:, 1], along[:, 0])


def _to_pixels(xy_m: Floats, pose: Floats) -> Floats:
    """Map frame to pixel coordinates (u, v): (..., 2)."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    dx, dy = xy_m[..., 0] - pose[0], xy_m[..., 1] - pose[1]
    return (WINDOW_M / 2 - np.stack([c * dx + s * dy, c * dy - s * dx], -1)) / PIXEL_M - 0.5


@njit(cache=True, nogil=True)
def _near(box_m: Floats, pose: Floats) -> NDArray[np.int64]:
    """Indices of the boxes that reach into the circle around the window."""
    reach = WINDOW_M / math.sqrt(2.0)
    found = np.empty(len(box_m), np.int64)
    n = 0
    for k in range(len(box_m)):
        if (
            box_m[k, 0] <= pose[0] + reach
            and box_m[k, 2] >= pose[0] - reach
            and box_m[k, 1] <= pose[1] + reach
            and box_m[k, 3] >= pose[1] - reach
        ):
            found[n] = k
            n += 1
    return found[:n].copy()


@njit(cache=True, nogil=True)
def _pixels(xy_m: Floats, pose: Floats) -> Floats:
    c, s = math.cos(pose[2]), math.sin(pose[2])
    uv = np.empty_like(xy_m)
    for k in range(len(xy_m)):
        dx, dy = xy_m[k, 0] - pose[0], xy_m[k, 1] - pose[1]
        uv[k, 0] = (WINDOW_M / 2 - (c * dx + s * dy)) / PIXEL_M - 0.5
        uv[k, 1] = (WINDOW_M / 2 - (c * dy - s * dx)) / PIXEL_M - 0.5
    return uv


@njit(cache=True, nogil=True)
def _outline(uv: Floats, toggle: Bev) -> tuple[int, int, int, int]:
    """Mark where each row of pixel centres enters and leaves the polygon (even-odd), in `toggle`.

    Returns the rows i0..i1 and columns j0..j1 (ends excluded) that hold marks. Half-open in u and v, so that polygons
    which share an edge neither share nor miss a pixel.
    """
    i0, i1, j0, j1 = BEV_PIXELS, 0, BEV_PIXELS, 0
    n = len(uv)
    for k in range(n):
        u0, v0 = uv[k, 0], uv[k, 1]
        u1, v1 = uv[(k + 1) % n, 0], uv[(k + 1) % n, 1]
        if u0 > u1:
            u0, v0, u1, v1 = u1, v1, u0, v0
        if u1 <= 0 or u0 > BEV_PIXELS - 1 or u0 == u1:
            continue
        first, end = max(0, math.ceil(u0)), min(BEV_PIXELS, math.ceil(u1))
        slope = (v1 - v0) / (u1 - u0)
        for i in range(first, end):
            j = math.ceil(min(max(v0 + (i - u0) * slope, 0.0), float(BEV_PIXELS)))
            toggle[i, j] ^= 1
            j0, j1 = min(j0, j), max(j1, j + 1)
        if first < end:
            i0, i1 = min(i0, first), max(i1, end)
    return i0, i1, j0, j1


@njit(cache=True, nogil=True)
def _fill(uv: Floats, toggle: Bev, value: int, out: Bev) -> None:
    i0, i1, j0, j1 = _outline(uv, toggle)
    for i in range(i0, i1):
        inside = 0
        for j in range(j0, j1):
            inside ^= toggle[i, j]
            toggle[i, j] = 0
            if inside and j < BEV_PIXELS:
                out[i, j] = value


@njit(cache=True, nogil=True)
def _draw_areas(xy_m: Floats, start: NDArray[np.int64], box_m: Floats, pose: Floats, toggle: Bev, out: Bev) -> None:
    for k in _near(box_m, pose):
        _fill(_pixels(xy_m[start[k] : start[k + 1]], pose), toggle, 255, out)


@njit(cache=True, nogil=True)
def _fill_quads(uv: Floats, toggle: Bev, value: int, out: Bev) -> None:
    for k in range(len(uv)):
        _fill(uv[k], toggle, value, out)


@njit(cache=True, nogil=True)
def _draw_boxes(uv: Floats, values: Bev, toggle: Bev, out: Bev) -> None:
    for k in range(len(uv)):
        i0, i1, j0, j1 = _outline(uv[k], toggle)
        for i in range(i0, i1):
            inside = 0
            for j in range(j0, j1):
                inside ^= toggle[i, j]
                toggle[i, j] = 0
                if inside and j < BEV_PIXELS:
                    for c in range(len(out)):
                        out[c, i, j] = values[k, c]


@njit(cache=True, nogil=True)
def _draw_lanes(
    uv: Floats, unit: NDArray[np.int32], speed: Bev, toggle: Bev, sin_out: Bev, cos_out: Bev, speed_out: Bev
) -> None:
    total = np.zeros((BEV_PIXELS, BEV_PIXELS, 3), np.int32)
    for k in range(len(uv)):
        i0, i1, j0, j1 = _outline(uv[k], toggle)
        for i in range(i0, i1):
            inside = 0
            for j in range(j0, j1):
                inside ^= toggle[i, j]
                toggle[i, j] = 0
                if inside and j < BEV_PIXELS:
                    total[i, j, 0] += unit[k, 0]
                    total[i, j, 1] += unit[k, 1]
                    total[i, j, 2] += 1
                    speed_out[i, j] = max(speed_out[i, j], speed[k])
    for i in range(BEV_PIXELS):
        for j in range(BEV_PIXELS):
            n = total[i, j, 2]
            if n:
                sin_out[i, j] = math.floor(128.5 + 127.0 * total[i, j, 0] / (n * _UNIT))
                cos_out[i, j] = math.floor(128.5 + 127.0 * total[i, j, 1] / (n * _UNIT))


@njit(cache=True, nogil=True)
def _draw_lines(ends_m: Floats, box_m: Floats, pose: Floats, radius: float, out: Bev) -> None:
    """Set the pixels within `radius` pixels of the segments whose ends are the pairs of rows of `ends_m`."""
    for k in _near(box_m, pose):
        uv = _pixels(ends_m[2 * k : 2 * k + 2], pose)
        u0, v0, du, dv = uv[0, 0], uv[0, 1], uv[1, 0] - uv[0, 0], uv[1, 1] - uv[0, 1]
        length2 = du * du + dv * dv
        first = max(0, math.ceil(min(u0, u0 + du) - radius))
        end = min(BEV_PIXELS, math.floor(max(u0, u0 + du) + radius) + 1)
        for i in range(first, end):
            t0, t1 = 0.0, 1.0  # the part of the segment that can be within reach of the row
            if abs(du) > 1e-9:
                a, b = (i - radius - u0) / du, (i + radius - u0) / du
                t0, t1 = max(t0, min(a, b)), min(t1, max(a, b))
            va, vb = v0 + t0 * dv, v0 + t1 * dv
            low = max(0, math.ceil(min(va, vb) - radius))
            for j in range(low, min(BEV_PIXELS, math.floor(max(va, vb) + radius) + 1)):
                t = 0.0 if length2 == 0 else min(max(((i - u0) * du + (j - v0) * dv) / length2, 0.0), 1.0)
                if (i - u0 - t * du) ** 2 + (j - v0 - t * dv) ** 2 <= radius * radius:
                    out[i, j] = 255
