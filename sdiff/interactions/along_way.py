"""A window as seen along the AV's way: who is in its lane, beside it or on a crossing course, at every step."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, VEHICLE_KINDS
from sdiff.geometry import SE2, wrap_angle
from sdiff.maps.lanes import LanePosition, Path
from sdiff.maps.places import Place
from sdiff.metrics.severity import Approach, Encroachment, approach, encroachment
from sdiff.scene import STEPS_PAST, Agents

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]

OWN_LANE_M = 1.5
"""An AV whose centre strays farther than this from every way of its lane changes lanes: then it has no way [m]."""
HALF_LANE_M = 1.75
"""Half a lane where the map does not say how wide it is: urban lanes are 3 to 3.6 m (AASHTO Green Book) [m]."""
FAR_M = 1e3


@dataclass(frozen=True)
class Signals:
    """Signals of a window. lane: (L,) feature ids of controlled lanes. x_m, y_m: (L,) where to stop, window frame [m].
    state: (L, T) int8, index into LIGHT_STATES."""

    lane: NDArray[np.str_]
    x_m: Array
    y_m: Array
    state: NDArray[np.int8]


@dataclass(frozen=True)
class AlongWay:
    """The agents of a window in coordinates along the AV's way.

    The way is that of the lane under the AV at t0 which the AV's own track follows; its coordinates are 0 at the AV's
    place at t0. Raises nothing; `way` is None where the AV is off the lanes, changes lanes or is not there.
    """

    agents: Agents
    place: Place
    signals: Signals

    @cached_property
    def ego(self) -> int:
        """Index of the AV, -1 where there is none."""
        found = np.flatnonzero(self.agents.is_ego)
        return int(found[0]) if len(found) else -1

    @cached_property
    def in_map(self) -> tuple[Array, Array, Array]:
        """x, y and heading of every agent at every step, map frame (N, T) [m, rad]."""
        map_SE2_window, a = self.place.map_SE2_window, self.agents
        return *map_SE2_window.apply(a.x_m, a.y_m), map_SE2_window.turn(a.heading_rad)

    @cached_property
    def way(self) -> Path | None:
        """The way of the AV's lane that the AV takes."""
        if self.ego < 0 or not self.place.paths:
            return None
        x, y, _ = self.in_map
        seen = self.agents.valid[self.ego]
        own = np.stack([x[self.ego, seen], y[self.ego, seen]], 1)
        strays = [float(np.abs(project(path, own)[1]).max()) for path in self.place.paths]
        best = int(np.argmin(strays))
        return self.place.paths[best] if strays[best] <= OWN_LANE_M else None

    @cached_property
    def half_lane_m(self) -> float:
        """Half the width of the AV's lane at t0."""
        width = self.place.graph.map.width_m[self.place.lane.lane] if self.place.lane else np.nan
        return float(np.clip(width / 2, 1.3, 2.0)) if np.isfinite(width) else HALF_LANE_M

    @cached_property
    def _frenet(self) -> tuple[Array, Array, Array]:
        x, y, heading = self.in_map
        assert self.way is not None
        seen = self.agents.valid
        s, lateral, angle = np.zeros(x.shape), np.full(x.shape, FAR_M), np.zeros(x.shape)
        s[seen], offset, direction = project(self.way, np.stack([x[seen], y[seen]], 1))
        away = (s[seen] <= self.way.s_m[0]) | (s[seen] >= self.way.s_m[-1])
        lateral[seen] = np.where(away, FAR_M, offset)
        angle[seen] = wrap_angle(heading[seen] - direction)
        return s, lateral, angle

    @property
    def s_m(self) -> Array:
        """Arc length along the way (N, T)."""
        return self._frenet[0]

    @property
    def lateral_m(self) -> Array:
        """Offset of the box centre to the left of the way (N, T); FAR_M where not seen or past the way's ends."""
        return self._frenet[1]

    @property
    def angle_rad(self) -> Array:
        """Heading less the way's direction (N, T), in (-pi, pi]."""
        return self._frenet[2]

    @cached_property
    def ahead_m(self) -> Array:
        """How far ahead of the AV each centre is along the way (N, T); negative behind."""
        return self.s_m - self.s_m[self.ego]

    @cached_property
    def gap_m(self) -> Array:
        """Room between the AV's and each agent's box along the way (N, T), negative where they are side by side."""
        c, s = np.abs(np.cos(self.angle_rad)), np.abs(np.sin(self.angle_rad))
        reach = (c * self.agents.length_m[:, None] + s * self.agents.width_m[:, None]) / 2
        return np.abs(self.ahead_m) - reach - reach[self.ego]

    @cached_property
    def beside_m(self) -> Array:
        """From the way's centre line to the nearest point of each box (N, T); negative where the box covers it."""
        c, s = np.abs(np.cos(self.angle_rad)), np.abs(np.sin(self.angle_rad))
        return np.abs(self.lateral_m) - (s * self.agents.length_m[:, None] + c * self.agents.width_m[:, None]) / 2

    @cached_property
    def in_lane(self) -> Mask:
        """Whether the agent's centre is in the AV's lane, in its direction (N, T); never for the AV."""
        found = (np.abs(self.lateral_m) < self.half_lane_m) & (np.abs(self.angle_rad) < np.pi / 4)
        found[self.ego] = False
        return found

    @cached_property
    def in_strip(self) -> Mask:
        """Whether the agent's box reaches into the strip that the AV sweeps along its way (N, T); never for the AV."""
        found = self.beside_m < self.agents.width_m[self.ego] / 2
        found[self.ego] = False
        return found

    @cached_property
    def speed_mps(self) -> Array:
        """(N, T)."""
        return np.hypot(self.agents.vx_mps, self.agents.vy_mps).astype(np.float64)

    @cached_property
    def yaw_rad(self) -> Array:
        """Change of heading from the first to the last pose seen (N,), left is positive."""
        heading = np.where(self.agents.valid, self.agents.heading_rad, 0.0).astype(np.float64)
        both = self.agents.valid[:, 1:] & self.agents.valid[:, :-1]
        return np.asarray((wrap_angle(np.diff(heading, axis=1)) * both).sum(1), np.float64)

    @cached_property
    def vehicle(self) -> Mask:
        """(N,) whether the agent belongs on the carriageway."""
        return self.of_kind(*VEHICLE_KINDS)

    def of_kind(self, *kinds: str) -> Mask:
        """(N,) whether the agent is of one of `kinds`."""
        return np.isin(self.agents.kind, [KINDS.index(k) for k in kinds])

    @cached_property
    def approach(self) -> Approach:
        """How each pair closes in."""
        return approach(self.agents)

    @cached_property
    def encroachment(self) -> Encroachment:
        """Who comes where another has just been."""
        return encroachment(self.agents)

    def pose(self, agent: int, step: int) -> SE2:
        """map_SE2_agent."""
        x, y, heading = self.in_map
        return SE2(float(x[agent, step]), float(y[agent, step]), float(heading[agent, step]))

    def lane_at(self, agent: int, step: int, max_offset_m: float = 2.5, opposite: bool = False) -> LanePosition | None:
        """The lane under an agent."""
        return self.place.graph.lane_at(self.pose(agent, step), max_offset_m, opposite=opposite)


def entries(inside: Mask, seen: Mask) -> NDArray[np.int64]:
    """(N,) the step, t0 or later, at which an agent comes in and has been outside one step before; -1 where none.

    inside, seen: (N, T). Of several the last one counts.
    """
    came = np.zeros_like(inside)
    came[:, 1:] = inside[:, 1:] & ~inside[:, :-1] & seen[:, :-1] & seen[:, 1:]
    came[:, :STEPS_PAST] = False
    last = came.shape[1] - 1 - np.argmax(came[:, ::-1], axis=1)
    return np.where(came.any(1), last, -1)


def project(path: Path, xy_m: Array) -> tuple[Array, Array, Array]:
    """Arc length, left offset and the path's direction at the points of a path nearest to points (P, 2) [m, rad]."""
    a, along = path.xy_m[:-1], np.diff(path.xy_m, axis=0)
    squared = np.maximum((along**2).sum(1), 1e-12)
    off = xy_m[:, None] - a
    t = np.clip((off * along).sum(-1) / squared, 0.0, 1.0)
    off = off - t[..., None] * along
    distance = np.hypot(off[..., 0], off[..., 1])
    rows, i = np.arange(len(xy_m)), distance.argmin(1)
    side = along[i, 0] * off[rows, i, 1] - along[i, 1] * off[rows, i, 0]
    s = path.s_m[i] + t[rows, i] * np.sqrt(squared[i])
    return s, np.copysign(distance[rows, i], side), np.arctan2(along[i, 1], along[i, 0])
