"""A small made-up driving log: a straight two-lane road with a bend, a crosswalk, a signal and traffic."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS
from sdiff.logs.driving_log import FEATURE_KINDS, LANE_TYPES, DrivingLog, Lights, Tracks, VectorMap


def road_map(map_id: str = "road") -> VectorMap:
    """A road along x, 200 m: lanes forward (y = -1.75) and back (y = 1.75), drivable 7 m wide, crosswalk, stop line."""
    features: list[tuple[str, str, list[tuple[float, float]]]] = [
        ("forward", "lane_centerline", [(-100, -1.75), (0, -1.75), (100, -1.75)]),
        ("back", "lane_centerline", [(100, 1.75), (-100, 1.75)]),
        ("area", "drivable_area", [(-100, -3.5), (100, -3.5), (100, 3.5), (-100, 3.5)]),
        ("zebra", "crosswalk", [(20, -3.5), (24, -3.5), (24, 3.5), (20, 3.5)]),
        ("stop", "stop_line", [(18, -3.5), (18, 0)]),
        ("edge", "road_edge", [(-100, -3.5), (100, -3.5)]),
    ]
    n = len(features)
    lane = np.array([f[1] == "lane_centerline" for f in features])
    return VectorMap(
        map_id=map_id,
        feature_id=np.array([f[0] for f in features]),
        kind=np.array([FEATURE_KINDS.index(f[1]) for f in features], np.int8),
        start=np.concatenate([[0], np.cumsum([len(f[2]) for f in features])]).astype(np.int64),
        xy_m=np.array([p for f in features for p in f[2]], np.float64),
        left=np.full(n, -1, np.int32),
        right=np.full(n, -1, np.int32),
        successors=np.array([[0, 1]], np.int32),
        speed_limit_mps=np.where(lane, 13.9, np.nan).astype(np.float32),
        width_m=np.where(lane, 3.5, np.nan).astype(np.float32),
        lane_type=np.where(lane, LANE_TYPES.index("vehicle"), -1).astype(np.int8),
        in_junction=np.zeros(n, bool),
        derived=np.zeros(n, bool),
    )


def driving_log(log_id: str = "log", agents: int = 6, steps: int = 91, seed: int = 0) -> DrivingLog:
    """Cars on both lanes at constant speed, the first is the recorder; the last is a pedestrian who stands."""
    random = np.random.default_rng(seed)
    time = np.arange(steps) * 0.1
    back = np.arange(agents) % 2 == 1
    speed = random.uniform(5, 12, agents)
    kind = np.full(agents, KINDS.index("car"), np.int8)
    if agents > 1:
        speed[-1], kind[-1] = 0.0, KINDS.index("pedestrian")
    sign = np.where(back, -1.0, 1.0)
    start = sign * (np.arange(agents) * 9.0 - 40.0)
    shape = (agents, steps)
    valid = np.ones(shape, bool)
    vx = np.broadcast_to((sign * speed)[:, None], shape)
    return DrivingLog(
        log_id=log_id,
        dataset="made_up",
        region="nowhere",
        license="none",
        tracks=Tracks(
            agent_id=np.array([f"a{i}" for i in range(agents)]),
            kind=kind,
            length_m=np.full(agents, 4.5, np.float32),
            width_m=np.full(agents, 1.9, np.float32),
            x_m=start[:, None] + vx * time,
            y_m=np.broadcast_to(np.where(back, 1.75, -1.75)[:, None], shape).copy(),
            heading_rad=np.broadcast_to(np.where(back, np.pi, 0.0)[:, None], shape).copy(),
            vx_mps=vx.copy(),
            vy_mps=np.zeros(shape),
            valid=valid,
        ),
        map=road_map(),
        lights=Lights(
            lane=np.zeros(1, np.int32),
            x_m=np.array([18.0]),
            y_m=np.array([-1.75]),
            state=np.full((1, steps), 3, np.int8),
        ),
        recorder=0,
    )


def moved(log: DrivingLog, x_m: float, y_m: float) -> DrivingLog:
    """The same log elsewhere."""
    t = log.tracks
    return replace(
        log,
        tracks=replace(t, x_m=t.x_m + x_m, y_m=t.y_m + y_m),
        map=replace(log.map, xy_m=log.map.xy_m + np.array([x_m, y_m])),
        lights=replace(log.lights, x_m=log.lights.x_m + x_m, y_m=log.lights.y_m + y_m),
    )


def gpudrive_json(log: DrivingLog) -> dict[str, Any]:
    """The log as GPUDrive writes it."""
    t, m = log.tracks, log.map
    types = {"lane_centerline": "lane", "road_edge": "road_edge", "crosswalk": "crosswalk"}

    def points(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[dict[str, float]]:
        return [{"x": a, "y": b} for a, b in zip(x.tolist(), y.tolist(), strict=True)]

    return {
        "name": log.log_id,
        "objects": [
            {
                "id": str(t.agent_id[i]),
                "type": "pedestrian" if KINDS[t.kind[i]] == "pedestrian" else "vehicle",
                "length": float(t.length_m[i]),
                "width": float(t.width_m[i]),
                "position": points(t.x_m[i], t.y_m[i]),
                "velocity": points(t.vx_mps[i], t.vy_mps[i]),
                "heading": t.heading_rad[i].tolist(),
                "valid": t.valid[i].tolist(),
            }
            for i in range(len(t.kind))
        ],
        "roads": [
            {"type": types[FEATURE_KINDS[m.kind[f]]], "geometry": points(*m.points(f).T)}
            for f in range(len(m.kind))
            if FEATURE_KINDS[m.kind[f]] in types
        ],
        "tl_states": {},
    }
