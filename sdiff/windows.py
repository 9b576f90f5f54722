"""Windows cut out of driving logs: 100 m x 100 m around one vehicle, from 2 s before to 2 s after t0."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S, VEHICLE_KINDS, WINDOW_M
from sdiff.geometry import SE2, wrap_angle
from sdiff.logs.driving_log import DrivingLog, Lights
from sdiff.scene import STEPS_FUTURE, STEPS_PAST, Agents

POSITION_STEPS_PER_M, HEADING_STEPS_PER_RAD, VELOCITY_STEPS_PER_MPS = 1 << 10, 1 << 12, 1 << 9
"""Values of agents are multiples of 1 mm, .24 mrad and 2 mm/s: finer digits are noise, and half of a table's bytes."""
MIN_PATH_M = 5.0
"""A vehicle stands in for the recording vehicle only where it drives at least this far in the log [m]."""


@dataclass(frozen=True)
class WindowLights:
    """Signals of L lanes that stop inside the window, over its steps, window frame.

    feature_id: (L,) str. x_m, y_m: (L,) float32, where the lane must stop [m]. state: (L, 41) int8, LIGHT_STATES.
    """

    feature_id: NDArray[np.str_]
    x_m: NDArray[np.float32]
    y_m: NDArray[np.float32]
    state: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.feature_id)


@dataclass(frozen=True)
class Window:
    """One window of a log. step: index of t0 in the log. map_SE2_window: pose of the window frame in the map."""

    window_id: str
    step: int
    t0_us: int
    ego_agent_id: str
    ego_is_recorder: bool
    map_SE2_window: SE2
    agents: Agents
    lights: WindowLights


def cut(log: DrivingLog, stride_s: float = 0.5, stand_ins: int = 3) -> Iterator[Window]:
    """All windows of `log`: around the recording vehicle and up to `stand_ins` other moving vehicles, in a fixed order.

    A window every `stride_s` wherever the ego is valid over all 41 steps. Its agents are those valid at t0 with their
    centre inside the square, in the order of the tracks. Raises ValueError unless stride_s is a multiple of 0.1 s.
    """
    stride = stride_steps(stride_s)
    for ego in egos(log, stand_ins):
        for step in _steps(log.tracks.valid[ego], stride):
            yield _window(log, int(ego), int(step))


def stride_steps(stride_s: float) -> int:
    """Steps in a stride. Raises ValueError unless it is a positive multiple of 0.1 s."""
    stride = round(stride_s / STEP_S)
    if stride < 1 or abs(stride * STEP_S - stride_s) > 1e-9:
        raise ValueError(f"stride_s is {stride_s}, expected a positive multiple of {STEP_S} s")
    return stride


def egos(log: DrivingLog, stand_ins: int) -> NDArray[np.int64]:
    """Indices of the tracks that windows are cut around: the recording vehicle, then those that drive farthest."""
    tracks = log.tracks
    path_m = (np.hypot(tracks.vx_mps, tracks.vy_mps) * tracks.valid).sum(1) * STEP_S
    able = np.isin(tracks.kind, [KINDS.index(k) for k in VEHICLE_KINDS]) & (path_m >= MIN_PATH_M)
    able &= tracks.valid.sum(1) > STEPS_PAST + STEPS_FUTURE
    recorder = np.array([] if log.recorder is None else [log.recorder], np.int64)
    able[recorder] = False
    farthest = np.lexsort((tracks.agent_id, -np.round(path_m)))
    return np.concatenate([recorder, farthest[able[farthest]][:stand_ins]]).astype(np.int64)


def split_of(log: DrivingLog, val_share: float) -> str:
    """`train` or `val`, by a hash of the log's split key: the same wherever and whenever it is asked."""
    digest = hashlib.sha256((log.split_key or log.log_id).encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"


def _steps(valid: NDArray[np.bool_], stride: int) -> NDArray[np.int64]:
    """Steps t0, `stride` apart, at which the track is valid from t0 - 2 s to t0 + 2 s."""
    seen = np.concatenate([[0], np.cumsum(valid)])
    t0 = np.arange(STEPS_PAST, len(valid) - STEPS_FUTURE, stride)
    return t0[seen[t0 + STEPS_FUTURE + 1] - seen[t0 - STEPS_PAST] == STEPS_PAST + STEPS_FUTURE + 1]


def _window(log: DrivingLog, ego: int, step: int) -> Window:
    tracks = log.tracks
    pose = SE2(*(float(getattr(tracks, name)[ego, step]) for name in ("x_m", "y_m", "heading_rad")))
    pose = pose._replace(heading_rad=float(wrap_angle(pose.heading_rad)))
    t0_us = log.start_us + round(step * STEP_S * 1e6)
    agent_id = str(tracks.agent_id[ego])
    return Window(
        window_id=f"{log.log_id}:{agent_id}:{t0_us}",
        step=step,
        t0_us=t0_us,
        ego_agent_id=agent_id,
        ego_is_recorder=ego == log.recorder,
        map_SE2_window=pose,
        agents=_agents(log, ego, step, pose.inverse()),
        lights=_lights(log, step, pose.inverse()),
    )


def _agents(log: DrivingLog, ego: int, step: int, window_SE2_map: SE2) -> Agents:
    tracks = log.tracks
    present = np.flatnonzero(tracks.valid[:, step])
    inside = _in_square(*window_SE2_map.apply(tracks.x_m[present, step], tracks.y_m[present, step]))
    chosen = present[inside]
    steps = slice(step - STEPS_PAST, step + STEPS_FUTURE + 1)
    valid = tracks.valid[chosen, steps]

    def shown(values: NDArray[np.floating], steps_per_unit: int) -> NDArray[np.float32]:
        return (np.rint(np.where(valid, values, 0) * steps_per_unit) / steps_per_unit).astype(np.float32)

    x, y = window_SE2_map.apply(tracks.x_m[chosen, steps], tracks.y_m[chosen, steps])
    vx, vy = window_SE2_map.rotate(tracks.vx_mps[chosen, steps], tracks.vy_mps[chosen, steps])
    half_turn = np.float32(np.pi)
    heading = shown(window_SE2_map.turn(tracks.heading_rad[chosen, steps]), HEADING_STEPS_PER_RAD)
    return Agents(
        agent_id=tracks.agent_id[chosen],
        kind=tracks.kind[chosen],
        length_m=tracks.length_m[chosen],
        width_m=tracks.width_m[chosen],
        is_ego=chosen == ego,
        x_m=shown(x, POSITION_STEPS_PER_M),
        y_m=shown(y, POSITION_STEPS_PER_M),
        heading_rad=np.where(np.abs(heading) >= half_turn, half_turn, heading),  # rounding may leave (-pi, pi]
        vx_mps=shown(vx, VELOCITY_STEPS_PER_MPS),
        vy_mps=shown(vy, VELOCITY_STEPS_PER_MPS),
        valid=valid,
        size_known=np.ones(len(chosen), bool) if log.size_known is None else log.size_known[chosen],
        repaired=log.repaired()[chosen],
    )


def _lights(log: DrivingLog, step: int, window_SE2_map: SE2) -> WindowLights:
    lights: Lights = log.lights
    x, y = window_SE2_map.apply(lights.x_m, lights.y_m)
    state = lights.state[:, step - STEPS_PAST : step + STEPS_FUTURE + 1]
    shown = _in_square(x, y) & (state > 0).any(1)
    return WindowLights(
        feature_id=log.map.feature_id[lights.lane[shown]],
        x_m=x[shown].astype(np.float32),
        y_m=y[shown].astype(np.float32),
        state=state[shown],
    )


def _in_square(x_m: NDArray[np.floating], y_m: NDArray[np.floating]) -> NDArray[np.bool_]:
    return np.maximum(np.abs(x_m.astype(np.float32)), np.abs(y_m.astype(np.float32))) < WINDOW_M / 2
