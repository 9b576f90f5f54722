"""Places: windows whose map, signals and AV are as a job wants them."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np

from sdiff import WINDOW_M
from sdiff.geometry import SE2, wrap_angle
from sdiff.logs.driving_log import LANE_TYPES
from sdiff.maps.lanes import LaneGraph, LanePosition, Path, line
from sdiff.span import Span

REACH_M = 90.0
"""How far ahead and behind the ways from the AV are followed: beyond a corner of the window [m]."""

BESIDE_M, BESIDE_RAD = (1.0, 6.5), np.radians(20)
"""How far and how parallel the ways of two neighbouring lanes run [m, rad]."""

ROOM_M = WINDOW_M / 2
"""How far the way of an AV on a bare map goes on ahead and behind it at least: a window there is not half empty [m]."""

LIGHT_WORDS = ("go", "caution", "stop", "none")


@dataclass(frozen=True)
class Place:
    """An AV's pose on a map, with what the window says of it.

    load_graph: gives the lanes of the map, which are read only where they are needed. map_SE2_window: the window frame
    in the map. light_states: feature_id of a lane and the state of its signal at t0, a word of LIGHT_STATES. lines:
    those that have been looked up by name, None where there is none.
    """

    load_graph: Callable[[], LaneGraph]
    map_SE2_window: SE2
    ego_speed_mps: float = float("nan")
    light_states: tuple[tuple[str, str], ...] = ()
    lines: dict[str, Path | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def graph(self) -> LaneGraph:
        """The lanes of the map."""
        return self.load_graph()

    @cached_property
    def lane(self) -> LanePosition | None:
        """The lane under the AV, in its direction; None where there is none."""
        return self.graph.lane_at(self.map_SE2_window)

    @cached_property
    def paths(self) -> list[Path]:
        """The ways ahead from the AV's lane, the straightest first; [] off the lanes."""
        return [] if self.lane is None else self.graph.paths(self.lane, REACH_M, REACH_M)

    @property
    def has_room(self) -> bool:
        """Whether the map goes on for ROOM_M along the AV's lane, ahead and behind."""
        return bool(self.paths) and self.paths[0].covers(-ROOM_M) and self.paths[0].covers(ROOM_M)

    def beside(self, lane: int) -> LanePosition:
        """The AV's position beside it on another lane."""
        return self.graph.project(lane, self.map_SE2_window)

    @cached_property
    def road(self) -> list[int]:
        """The AV's lane and those beside it in the same direction, nearest first, the right ones before the left."""
        if self.lane is None:
            return []
        sides = [self.graph.neighbours(self.lane.lane, side) for side in ("right", "left")]
        ranked = [(i, side, n) for side, lanes in enumerate(sides) for i, n in enumerate(lanes)]
        return [self.lane.lane, *(n for _, _, n in sorted(ranked))]

    def beside_path(self, side: str) -> Path | None:
        """The way of the next lane to the `left` or `right`, where it runs along with the AV's way."""
        if self.lane is None:
            return None
        for lane in self.graph.neighbours(self.lane.lane, side)[:1]:
            for path in self.graph.paths(self.beside(lane), REACH_M, REACH_M):
                if _runs_along(self.paths[0], path, side):
                    return path
        return None

    def turning_path(self, turn: str) -> Path | None:
        """The nearest way from the AV's road that takes `turn` at the first junction ahead."""
        for lane in self.road:
            at = self.beside(lane)
            for path in self.paths if self.lane and lane == self.lane.lane else self.graph.paths(at, REACH_M, REACH_M):
                if path.turn == turn and path.junction_m and path.junction_m[0] < REACH_M - 20.0:
                    return path
        return None

    def oncoming_path(self) -> Path | None:
        """The nearest lane in the opposite direction beside the AV's way ahead; reference point beside the AV.

        It begins where who comes along it has come straight through all junctions: who turns into the AV's road there
        does not come towards the AV.
        """
        if not self.paths:
            return None
        way = self.paths[0]
        end_m = way.junction_m[0] if way.junction_m and way.turn != "straight" else np.inf
        for ahead_m in np.arange(0.0, 45.0, 5.0):
            if ahead_m > end_m:
                break
            here = way.pose(float(ahead_m))
            at = self.graph.lane_at(here, max_offset_m=15.0, max_angle_rad=np.pi / 8, opposite=True)
            if at is not None:
                path = self.graph.paths(at, REACH_M, REACH_M)[0]
                return self.graph.straight_behind(path).starting_at(float(ahead_m))  # driven until beside the AV
        return None

    @cached_property
    def crosswalks(self) -> list[tuple[float, Path]]:
        """Crosswalks over the AV's way ahead: how far, and the path across, from right to left, nearest first.

        The path's reference point is on the AV's way.
        """
        found: list[tuple[float, Path]] = []
        if not self.paths:
            return found
        way, vector_map = self.paths[0], self.graph.map
        here = np.array([self.map_SE2_window.x_m, self.map_SE2_window.y_m])
        for feature in vector_map.of_kind("crosswalk").tolist():
            ring = vector_map.points(feature)
            if len(ring) < 3 or np.hypot(*(ring - here).T).min() > REACH_M:
                continue
            s = way.crossings(ring, closed=True)
            s = s[s > 0]
            if len(s) < 2:
                continue
            s_m = float(s[:2].mean())
            found.append((s_m, _across(ring, way.pose(s_m))))
        return sorted(found, key=lambda c: c[0])

    @property
    def junctions_ahead_m(self) -> list[float]:
        """Distances along the ways ahead to where they enter a junction [m]."""
        return [p.junction_m[0] for p in self.paths if p.junction_m]

    def light(self) -> str:
        """State at t0 of the first signal that controls the AV's way ahead, or none."""
        states = dict(self.light_states)
        if self.paths:
            path, start = self.paths[0], self.lane.lane if self.lane else -1
            for lane in path.lanes[path.lanes.index(start) :]:
                state = states.get(str(self.graph.map.feature_id[lane]))
                if state is not None:
                    return state
        return "none"


def along_lanes(graph: LaneGraph, spacing_m: float) -> list[SE2]:
    """Poses on the lanes for cars, outside junctions, every `spacing_m`, the first at half of it; map frame."""
    for_cars = graph.drivable & (graph.map.lane_type == LANE_TYPES.index("vehicle")) & ~graph.map.in_junction
    paths = (graph.lane_path(lane) for lane in np.flatnonzero(for_cars).tolist())
    return [path.pose(float(s)) for path in paths for s in np.arange(spacing_m / 2, path.s_m[-1], spacing_m)]


def place_columns(place: Place) -> dict[str, float | str]:
    """The columns of `scenarios` that say what road a place is on, NaN where the schema says null.

    Keys: lanes_same_direction, junction_ahead_m [m], light.
    """
    return {
        "lanes_same_direction": len(place.road) or float("nan"),
        "junction_ahead_m": min(place.junctions_ahead_m, default=float("nan")),
        "light": place.light(),
    }


def _runs_along(way: Path, path: Path, side: str) -> bool:
    """Whether `path` keeps its direction and the distance of a lane to one side of `way` for the next 20 m."""
    for ahead_m in (0.0, 10.0, 20.0):
        there = path.pose(ahead_m)
        s_m, offset_m = way.project(there.x_m, there.y_m)
        if not BESIDE_M[0] <= (offset_m if side == "left" else -offset_m) <= BESIDE_M[1]:
            return False
        if abs(float(wrap_angle(way.heading(s_m) - there.heading_rad))) > BESIDE_RAD:
            return False
    return True


def _across(ring_m: np.ndarray, here: SE2) -> Path:
    """The straight path along a crosswalk through a pose on it, from the pose's right to its left."""
    edges = np.roll(ring_m, -1, 0) - ring_m
    longest = edges[np.argmax(np.hypot(*edges.T))]
    along = float(np.arctan2(longest[1], longest[0]))
    if np.sin(along - here.heading_rad) < 0:
        along += np.pi
    if abs(np.sin(along - here.heading_rad)) < np.sin(np.pi / 4):  # the ring is longer along the road than across
        along = here.heading_rad + np.pi / 2
    return line(SE2(here.x_m, here.y_m, along), 30.0, 30.0)


@dataclass(frozen=True)
class Wanted:
    """What a place must be like; None or () asks for nothing. The fields are the predicates' names in a job file."""

    junction_ahead_m: Span | None = None
    turn: tuple[str, ...] = ()
    lane_left: bool | None = None
    lane_right: bool | None = None
    oncoming: bool | None = None
    crosswalk_ahead_m: Span | None = None
    straight_ahead_m: float | None = None
    light: tuple[str, ...] = ()
    ego_speed_mps: Span | None = None

    def asked(self) -> list[str]:
        """Names of the predicates that ask for something."""
        return [f.name for f in fields(self) if getattr(self, f.name) not in (None, ())]

    def holds(self, predicate: str, place: Place) -> bool:
        """Whether one predicate holds at a place."""
        return _TESTS[predicate](getattr(self, predicate), place)


ANYWHERE = Wanted()
"""Asks for nothing."""


def _junction_ahead(wanted: Span, place: Place) -> bool:
    return bool(place.junctions_ahead_m) and wanted.contains(min(place.junctions_ahead_m))


_TESTS: dict[str, Callable[..., bool]] = {
    "junction_ahead_m": _junction_ahead,
    "turn": lambda wanted, place: any(place.turning_path(t) is not None for t in wanted),
    "lane_left": lambda wanted, place: wanted == (place.beside_path("left") is not None),
    "lane_right": lambda wanted, place: wanted == (place.beside_path("right") is not None),
    "oncoming": lambda wanted, place: wanted == (place.oncoming_path() is not None),
    "crosswalk_ahead_m": lambda wanted, place: any(wanted.contains(s) for s, _ in place.crosswalks[:1]),
    "straight_ahead_m": lambda wanted, place: bool(place.paths) and place.paths[0].reach_straight_m() >= wanted,
    "light": lambda wanted, place: place.light() in wanted,
    "ego_speed_mps": lambda wanted, place: wanted.contains(place.ego_speed_mps),
}
