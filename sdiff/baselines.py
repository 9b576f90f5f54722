"""What a generator stands between: agents put down naively, and another draw of the same traffic."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sdiff import KINDS, STEP_S, VEHICLE_KINDS, WINDOW_M
from sdiff.geometry import SE2, wrap_angle
from sdiff.metrics import at_t0
from sdiff.metrics.map_fit import LaneSegments
from sdiff.scene import MAP_CHANNELS, STEPS_FUTURE, STEPS_PAST, Agents

LAYOUT_CELLS = 16
_LAYOUT_CHANNELS = [MAP_CHANNELS.index(name) for name in ("drivable_area", "lane_sin", "lane_cos")]

AGAIN_M, AGAIN_RAD, AGAIN_S = 2.0, 0.1, 60.0
"""Another draw of a place: an ego this near its pose, in another log, this long before or after."""

_JOINT_M = 0.5
"""A lane goes on where another one starts this near its end."""
_TIMES_S = (np.arange(STEPS_PAST + 1 + STEPS_FUTURE) - STEPS_PAST) * STEP_S


def layout(map_bev: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the roads of a place look like from far: drivable area and lane direction on 16 x 16 cells, flat.

    map_bev: (8, 256, 256). Returns (768,) float32, each of order 1.
    """
    image = map_bev[_LAYOUT_CHANNELS].astype(np.float32) / 127 - np.array([0, 1, 1], np.float32)[:, None, None]
    cells = image.reshape(len(image), LAYOUT_CELLS, image.shape[1] // LAYOUT_CELLS, LAYOUT_CELLS, -1)
    return cells.mean((2, 4)).ravel()


@dataclass(frozen=True)
class TrainingScenes:
    """Random training windows, which baselines take their agents from.

    scenes: agents of the windows. log_ids: the log of each. layouts: (N, 768), the places' `layout`.
    """

    scenes: Sequence[Agents]
    log_ids: Sequence[str]
    layouts: NDArray[np.float32]

    def any(self, log_id: str, rng: np.random.Generator) -> Agents | None:
        """The agents of one window of a log other than `log_id`; None where there is no other log.

        Pasted into another place they fit each other but not the map.
        """
        others = self._of_other_logs(log_id)
        return self.scenes[int(rng.choice(others))] if len(others) else None

    def nearest(self, log_id: str, place: NDArray[np.float32]) -> Agents | None:
        """The agents of the window, of a log other than `log_id`, whose roads look most like those of `place`."""
        others = self._of_other_logs(log_id)
        if not len(others):
            return None
        return self.scenes[int(others[np.square(self.layouts[others] - place).sum(1).argmin()])]

    def _of_other_logs(self, log_id: str) -> NDArray[np.int64]:
        return np.flatnonzero(np.array(self.log_ids) != log_id)


def along_lanes(agents: Agents, lanes: dict[str, LaneSegments], rng: np.random.Generator) -> Agents:
    """The same agents, each put down anywhere on the lanes, driving along them at the speed that it had at t0.

    The naive way to make traffic: kinds, sizes and speeds are the logs', heading and path are the lane's; agents know
    nothing of each other. The ego stays at the origin. lanes: window frame, by who uses them: `vehicle`, `cyclist`,
    `pedestrian`; who has none of its own is on the vehicles', and pedestrians walk either way. No agent is left where
    there are no lanes.
    """
    agents = agents.take(at_t0(agents.valid))
    tracks = []
    for i in range(len(agents)):
        kind = KINDS[agents.kind[i]]
        name = "vehicle" if kind in VEHICLE_KINDS else kind
        own = lanes.get(name)
        used = own if own is not None and len(own.half_width_m) else lanes["vehicle"]
        speed = float(np.hypot(agents.vx_mps[i, STEPS_PAST], agents.vy_mps[i, STEPS_PAST]))
        if not len(used.half_width_m):
            return agents.take(np.zeros(len(agents), bool))
        start = _nearest(used, np.zeros(2)) if agents.is_ego[i] else _anywhere(used, rng)
        turned_round = kind == "pedestrian" and rng.random() < 0.5
        tracks.append(_drive(used, *start, -speed if turned_round else speed, rng))
    if not tracks:
        return agents
    x, y, heading = np.moveaxis(np.stack(tracks), -1, 0)
    speeds = np.hypot(agents.vx_mps, agents.vy_mps)[:, STEPS_PAST, None]
    made: dict[str, Any] = {
        "x_m": x,
        "y_m": y,
        "heading_rad": heading,
        "vx_mps": speeds * np.cos(heading),
        "vy_mps": speeds * np.sin(heading),
    }
    return replace(
        agents, **{k: v.astype(np.float32) for k, v in made.items()}, valid=np.ones_like(agents.valid, dtype=np.bool_)
    )


def _nearest(lanes: LaneSegments, at: NDArray[np.float64]) -> tuple[int, float]:
    """The segment nearest to a place, and how far along it."""
    way = lanes.end_m - lanes.start_m
    length = np.hypot(*way.T).clip(1e-6)
    along = np.einsum("sd,sd->s", at - lanes.start_m, way) / length
    along = along.clip(0, length)
    away = np.hypot(*(lanes.start_m + way * (along / length)[:, None] - at).T)
    best = int(away.argmin())
    return best, float(along[best])


def _anywhere(lanes: LaneSegments, rng: np.random.Generator) -> tuple[int, float]:
    """A segment and a distance along it, so that each metre of lane in the window is as likely."""
    length = np.hypot(*(lanes.end_m - lanes.start_m).T)
    for _ in range(20):
        segment = int(rng.choice(len(length), p=length / length.sum()))
        along = float(rng.uniform(0, length[segment]))
        way = (lanes.end_m[segment] - lanes.start_m[segment]) / max(length[segment], 1e-6)
        if np.abs(lanes.start_m[segment] + along * way).max() < WINDOW_M / 2:
            break
    return segment, along


def _drive(
    lanes: LaneSegments, segment: int, along_m: float, speed_mps: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(41, 3) x, y, heading along the lanes, straight on where they end. A negative speed goes against them."""
    forward = _path(lanes, segment, True, abs(speed_mps) * 2 + 100, rng)
    backward = _path(lanes, segment, False, abs(speed_mps) * 2 + 100, rng)
    points = np.concatenate([backward[::-1], forward])
    length = np.r_[0.0, np.hypot(*np.diff(points, axis=0).T).cumsum()]
    at = length[len(backward) - 1] + along_m + speed_mps * _TIMES_S
    piece = np.searchsorted(length, at, side="right").clip(1, len(length) - 1) - 1
    way = np.diff(points, axis=0)[piece] / np.diff(length)[piece, None].clip(1e-6)
    xy = points[piece] + (at - length[piece])[:, None] * way
    heading = np.arctan2(way[:, 1], way[:, 0]) + (np.pi if speed_mps < 0 else 0.0)
    return np.concatenate([xy, wrap_angle(heading)[:, None]], -1)


def _path(
    lanes: LaneSegments, segment: int, ahead: bool, length_m: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Corner points from the start of `segment` backward, or from its end forward, through lanes that join."""
    here, there = (lanes.end_m, lanes.start_m) if ahead else (lanes.start_m, lanes.end_m)
    points = [here[segment]]
    while length_m > 0:
        ways = np.flatnonzero(np.hypot(*(there - here[segment]).T) < _JOINT_M)
        ways = ways[ways != segment]
        if not len(ways):
            break
        after = int(rng.choice(ways))
        step = float(np.hypot(*(here[after] - there[after])))
        if step > 0:
            points.append(here[after])
        segment, length_m = after, length_m - max(step, 0.1)
    return np.array(points)


@dataclass(frozen=True)
class Visits:
    """When and how egos stood where: N windows.

    map_id, log_id: (N,) str. pose: (N, 3) float64, x, y, heading of the window in the map [m, m, rad]. t0_s: (N,).
    """

    map_id: NDArray[np.str_]
    log_id: NDArray[np.str_]
    pose: NDArray[np.float64]
    t0_s: NDArray[np.float64]

    def again(self, asked: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """For each of the windows `asked`, those of other draws of its traffic at its place, nearest first.

        The same map, a pose within AGAIN_M and AGAIN_RAD, another log, and AGAIN_S before or after: by then most of
        the vehicles are others.
        """
        of_map = np.unique(self.map_id, return_inverse=True)[1]
        direction = np.stack([np.cos(self.pose[:, 2]), np.sin(self.pose[:, 2])], -1) * (AGAIN_M / AGAIN_RAD)
        found = [np.zeros(0, np.int64)] * len(asked)
        for index in np.unique(of_map[asked]):
            here = np.flatnonzero(of_map == index)
            places = np.concatenate([self.pose[here, :2], direction[here]], -1)
            tree = cKDTree(places)
            for k in np.flatnonzero(of_map[asked] == index):
                place = places[np.searchsorted(here, asked[k])]
                near = np.array(tree.query_ball_point(place, AGAIN_M), np.int64)
                near = near[np.argsort(np.square(places[near] - place).sum(1), kind="stable")]
                other = (np.abs(self.t0_s[here[near]] - self.t0_s[asked[k]]) >= AGAIN_S) & (
                    self.log_id[here[near]] != self.log_id[asked[k]]
                )
                found[k] = here[near[other]]
        return found


def seen_from(agents: Agents, window_SE2_other: SE2) -> Agents:
    """The agents of another window, in the frame of this one; those that stand inside it at t0."""
    x, y = window_SE2_other.apply(agents.x_m, agents.y_m)
    vx, vy = window_SE2_other.rotate(agents.vx_mps, agents.vy_mps)
    made = {"x_m": x, "y_m": y, "heading_rad": window_SE2_other.turn(agents.heading_rad), "vx_mps": vx, "vy_mps": vy}
    shown: dict[str, Any] = {k: np.where(agents.valid, v, 0).astype(np.float32) for k, v in made.items()}
    moved = replace(agents, **shown)
    at = np.maximum(np.abs(at_t0(moved.x_m)), np.abs(at_t0(moved.y_m)))
    return moved.take(at_t0(moved.valid) & (at < WINDOW_M / 2))
