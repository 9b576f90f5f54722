"""How agents sit on the map: on drivable ground, along a lane."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, VEHICLE_KINDS, WINDOW_M
from sdiff.geometry import SE2
from sdiff.logs.driving_log import LANE_TYPES, VectorMap
from sdiff.metrics.boxes import compiled
from sdiff.scene import Agents

LANE_WIDTH_M = 3.6
"""Width of a lane whose source does not say."""

_CARRIAGEWAY = np.array([kind in VEHICLE_KINDS for kind in KINDS])


def vehicle_poses(agents: Agents) -> NDArray[np.bool_]:
    """Poses of vehicles that were observed inside the window, (N, T)."""
    inside = (np.abs(agents.x_m) < WINDOW_M / 2) & (np.abs(agents.y_m) < WINDOW_M / 2)
    return agents.valid & inside & _CARRIAGEWAY[agents.kind][:, None]


def offroad(agents: Agents, drivable: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Whether the centre lies outside the drivable area, (M,), one per pose of `vehicle_poses`.

    drivable: square image of the window as map_bev's channel, forward up, left left; not 0 = drivable.
    """
    poses = vehicle_poses(agents)
    return ~on_drivable_area(agents.x_m[poses], agents.y_m[poses], drivable)


def on_drivable_area(
    x_m: NDArray[np.floating], y_m: NDArray[np.floating], drivable: NDArray[np.generic]
) -> NDArray[np.bool_]:
    """Whether points of the window frame, (M,) [m], lie on the drivable area; see `offroad`."""
    per_m = len(drivable) / WINDOW_M
    row = ((WINDOW_M / 2 - x_m) * per_m).astype(np.int64).clip(0, len(drivable) - 1)
    column = ((WINDOW_M / 2 - y_m) * per_m).astype(np.int64).clip(0, len(drivable) - 1)
    return np.asarray(drivable[row, column] != 0)


def leaves_road(agents: Agents, drivable: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Whether each agent is a vehicle whose centre is at some pose outside the drivable area, (N,). See `offroad`."""
    of_agent = np.nonzero(vehicle_poses(agents))[0]
    return np.bincount(of_agent, offroad(agents, drivable), len(agents)) > 0


def offroad_fraction(agents: Agents, drivable: NDArray[np.generic]) -> float:
    """Share of vehicle positions outside the drivable area; NaN with no vehicle. See `offroad`."""
    off = offroad(agents, drivable)
    return float(off.mean()) if len(off) else float("nan")


@dataclass(frozen=True)
class LaneSegments:
    """S straight pieces of lane centrelines, in driving direction.

    start_m, end_m: (S, 2) float64 [m]. half_width_m: (S,) float64, half the lane's width.
    """

    start_m: NDArray[np.float64]
    end_m: NDArray[np.float64]
    half_width_m: NDArray[np.float64]

    def window(self, map_SE2_window: SE2) -> "LaneSegments":
        """The segments that reach into a window, in its frame."""
        window_SE2_map = map_SE2_window.inverse()
        start = np.stack(window_SE2_map.apply(self.start_m[:, 0], self.start_m[:, 1]), -1)
        end = np.stack(window_SE2_map.apply(self.end_m[:, 0], self.end_m[:, 1]), -1)
        edge = WINDOW_M / 2 + self.half_width_m[:, None]
        near = ((np.minimum(start, end) < edge) & (np.maximum(start, end) > -edge)).all(-1)
        return LaneSegments(start[near], end[near], self.half_width_m[near])

    @staticmethod
    def join(parts: "Sequence[LaneSegments]") -> "LaneSegments":
        """All segments of some parts in one frame."""
        none = LaneSegments(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
        return LaneSegments(
            *(np.concatenate([getattr(p, f) for p in (none, *parts)]) for f in ("start_m", "end_m", "half_width_m"))
        )

    @staticmethod
    def from_polylines(
        start: NDArray[np.int64], xy_m: NDArray[np.float64], width_m: NDArray[np.floating]
    ) -> "LaneSegments":
        """From ragged centrelines: line l is xy_m[start[l]:start[l + 1]]. width_m: (L,), NaN where unknown."""
        line = np.repeat(np.arange(len(start) - 1), np.diff(start))
        head = np.flatnonzero(line[1:] == line[:-1]) if len(line) else np.zeros(0, np.int64)
        half = np.where(np.isnan(width_m), LANE_WIDTH_M, width_m).astype(np.float64) / 2
        return LaneSegments(xy_m[head], xy_m[head + 1], half[line[head]])

    @staticmethod
    def from_map(vector_map: VectorMap) -> "LaneSegments":
        """The lanes of a map that vehicles drive on, map frame."""
        lanes = vector_map.of_kind("lane_centerline")
        lanes = lanes[~np.isin(vector_map.lane_type[lanes], [LANE_TYPES.index("bike"), LANE_TYPES.index("pedestrian")])]
        points = [vector_map.points(f) for f in lanes]
        start = np.cumsum([0, *map(len, points)])
        xy_m = np.concatenate(points) if points else np.zeros((0, 2))
        return LaneSegments.from_polylines(start, xy_m, vector_map.width_m[lanes])


def lane_heading_error_rad(agents: Agents, lanes: LaneSegments) -> NDArray[np.float64]:
    """Smallest angle between the heading and any lane whose width covers the place, in [0, pi] [rad].

    lanes: window frame. Returns (M,), one per pose of `vehicle_poses`; NaN where no lane covers the place.
    """
    poses = vehicle_poses(agents)
    x, y, heading = (v.astype(np.float64) for v in (agents.x_m, agents.y_m, agents.heading_rad))
    return _smallest_angle(x, y, heading, poses, lanes.start_m, lanes.end_m, lanes.half_width_m)[poses]


@compiled
def _smallest_angle(x, y, heading, poses, start, end, half_width):  # type: ignore[no-untyped-def]
    error = np.full(x.shape, np.nan)
    for i in range(len(x)):
        at = np.flatnonzero(poses[i])
        if len(at) == 0:
            continue
        xs, ys = x[i][at], y[i][at]
        x_min, x_max, y_min, y_max = xs.min(), xs.max(), ys.min(), ys.max()
        for s in range(len(start)):
            (x0, y0), (x1, y1), reach = start[s], end[s], half_width[s]
            if min(x0, x1) - reach > x_max or max(x0, x1) + reach < x_min:
                continue
            if min(y0, y1) - reach > y_max or max(y0, y1) + reach < y_min:
                continue
            length, direction = np.hypot(x1 - x0, y1 - y0), np.arctan2(y1 - y0, x1 - x0)
            ux, uy = np.cos(direction), np.sin(direction)
            for p in range(len(at)):
                along, across = ux * (xs[p] - x0) + uy * (ys[p] - y0), ux * (ys[p] - y0) - uy * (xs[p] - x0)
                beyond = max(-along, along - length, 0.0)
                if length == 0.0 or across**2 + beyond**2 > reach**2:
                    continue
                angle = abs((heading[i, at[p]] - direction + np.pi) % (2 * np.pi) - np.pi)
                if not error[i, at[p]] <= angle:
                    error[i, at[p]] = angle
    return error
