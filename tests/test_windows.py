"""Windows: the same traffic, seen from one vehicle at t0."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import driving_log, moved

from sdiff import KINDS, windows
from sdiff.geometry import SE2
from sdiff.logs.driving_log import DrivingLog, Lights
from sdiff.scene import STEPS_PAST


def turned(log: DrivingLog, angle_rad: float) -> DrivingLog:
    """The whole log turned about the map's origin."""
    frame, t = SE2(0.0, 0.0, angle_rad), log.tracks
    x, y = frame.apply(t.x_m, t.y_m)
    vx, vy = frame.rotate(t.vx_mps, t.vy_mps)
    tracks = replace(t, x_m=x, y_m=y, vx_mps=vx, vy_mps=vy, heading_rad=t.heading_rad + angle_rad)
    return replace(log, tracks=tracks, map=replace(log.map, xy_m=np.stack(frame.apply(*log.map.xy_m.T), -1)))


def test_the_ego_is_at_the_origin_and_faces_forward() -> None:
    for window in windows.cut(turned(driving_log(), 2.0)):
        ego = window.agents.take(window.agents.is_ego)
        assert len(ego) == 1
        assert ego.agent_id[0] == window.ego_agent_id
        at_t0 = [float(v[0, STEPS_PAST]) for v in (ego.x_m, ego.y_m, ego.heading_rad, ego.vy_mps)]
        assert at_t0 == pytest.approx([0, 0, 0, 0], abs=1e-5)
        assert ego.vx_mps[0, STEPS_PAST] > 0
        assert ego.valid.all()


@pytest.mark.parametrize("change", [lambda log: turned(log, 1.3), lambda log: moved(log, 1e7, -2e6)])
def test_windows_do_not_depend_on_where_the_map_frame_lies(change) -> None:
    log = driving_log()
    for a, b in zip(windows.cut(log), windows.cut(change(log)), strict=True):
        assert a.window_id == b.window_id
        assert (a.agents.agent_id == b.agents.agent_id).all()
        for name in ("x_m", "y_m", "vx_mps", "vy_mps"):
            assert getattr(a.agents, name) == pytest.approx(getattr(b.agents, name), abs=2.1e-3), "a digit at most"


def test_the_way_back_to_the_map_leads_to_the_tracks() -> None:
    log = turned(driving_log(), -2.5)
    window = list(windows.cut(log))[7]
    x, y = window.map_SE2_window.apply(window.agents.x_m, window.agents.y_m)
    rows = [log.tracks.agent_id.tolist().index(a) for a in window.agents.agent_id]
    steps = slice(window.step - 20, window.step + 21)
    assert x == pytest.approx(log.tracks.x_m[rows, steps], abs=1e-3)
    assert y == pytest.approx(log.tracks.y_m[rows, steps], abs=1e-3)


def test_velocity_is_the_rate_of_the_position() -> None:
    for window in windows.cut(turned(driving_log(), 0.9)):
        for place, rate in (("x_m", "vx_mps"), ("y_m", "vy_mps")):
            moved_m = np.diff(getattr(window.agents, place), axis=1)
            assert moved_m / 0.1 == pytest.approx(getattr(window.agents, rate)[:, 1:], abs=0.012)


def test_values_have_the_digits_that_the_schema_names() -> None:
    log = turned(driving_log(), 0.9)
    steps_per_unit = {"x_m": 2**10, "y_m": 2**10, "heading_rad": 2**12, "vx_mps": 2**9, "vy_mps": 2**9}
    for window in windows.cut(log):
        for name, n in steps_per_unit.items():
            value = getattr(window.agents, name).astype(np.float64) * n
            whole = value[np.abs(getattr(window.agents, name)) < np.float32(np.pi)] if name == "heading_rad" else value
            assert (whole == np.rint(whole)).all(), name


def test_a_window_comes_every_half_second_with_two_seconds_on_either_side() -> None:
    log = driving_log(steps=91)
    times = [w.t0_us for w in windows.cut(log, stride_s=0.5, stand_ins=0)]
    assert times == list(range(2_000_000, 7_000_001, 500_000))
    assert [w.t0_us for w in windows.cut(driving_log(steps=41), stand_ins=0)] == [2_000_000]
    assert not list(windows.cut(driving_log(steps=40)))


def test_no_window_where_the_ego_is_not_seen_all_the_time() -> None:
    log = driving_log(steps=91)
    valid = log.tracks.valid.copy()
    valid[0, 50] = False
    seen = replace(log, tracks=replace(log.tracks, valid=valid))
    assert [w.step for w in windows.cut(seen, stand_ins=0)] == [20, 25]
    assert [w.step for w in windows.cut(log, stand_ins=0)] == list(range(20, 71, 5))


def test_agents_are_those_in_the_square_at_t0() -> None:
    log = driving_log(agents=30)
    for window in windows.cut(log):
        x, y = window.map_SE2_window.inverse().apply(log.tracks.x_m[:, window.step], log.tracks.y_m[:, window.step])
        inside = (np.abs(x) < 50) & (np.abs(y) < 50)
        assert window.agents.agent_id.tolist() == log.tracks.agent_id[inside].tolist()


def test_values_are_zero_where_an_agent_was_not_seen() -> None:
    log = driving_log()
    valid = log.tracks.valid.copy()
    valid[2, :40] = False
    window = next(w for w in windows.cut(replace(log, tracks=replace(log.tracks, valid=valid))) if w.step == 50)
    row = window.agents.agent_id.tolist().index("a2")
    assert window.agents.valid[row].tolist() == [False] * 10 + [True] * 31
    assert not any(getattr(window.agents, n)[row, :10].any() for n in ("x_m", "y_m", "heading_rad", "vx_mps", "vy_mps"))


def test_the_recorder_comes_first_then_the_vehicles_that_drive_farthest() -> None:
    log = driving_log(agents=9)
    egos = windows.egos(log, stand_ins=3)
    speed = np.abs(log.tracks.vx_mps[:, 0])
    others = [i for i in np.argsort(-speed) if i != 0]
    assert egos.tolist() == [0, *others[:3]]
    assert windows.egos(replace(log, recorder=None), 2).tolist() == np.argsort(-speed)[:2].tolist()
    assert [w.ego_is_recorder for w in windows.cut(log)] == [w.ego_agent_id == "a0" for w in windows.cut(log)]


def test_only_vehicles_that_move_stand_in() -> None:
    log = driving_log(agents=5)
    kind = log.tracks.kind.copy()
    kind[1] = KINDS.index("cyclist")
    still = log.tracks.vx_mps.copy()
    still[2] = 0
    tracks = replace(log.tracks, kind=kind, vx_mps=still)
    assert windows.egos(replace(log, tracks=tracks), stand_ins=5).tolist() == [0, 3]


def test_headings_lie_in_the_half_open_circle() -> None:
    for angle in (0.0, np.pi, -np.pi, 3 * np.pi, 1e-9 - np.pi):
        for window in windows.cut(turned(driving_log(), angle)):
            heading = window.agents.heading_rad
            assert ((heading > -np.float32(np.pi)) & (heading <= np.float32(np.pi))).all()


def test_signals_inside_the_window_come_with_their_states() -> None:
    log = driving_log(steps=91)
    state = (np.arange(91) % 3 + 1).astype(np.int8)[None]
    near = Lights(np.zeros(1, np.int32), np.array([18.0]), np.array([-1.75]), state)
    far = replace(near, x_m=np.array([500.0]))
    unknown = replace(near, state=np.zeros_like(state))
    window = next(windows.cut(replace(log, lights=near)))
    assert window.lights.feature_id.tolist() == ["forward"]
    assert window.lights.state.tolist() == [state[0, :41].tolist()]
    ego_x = window.map_SE2_window.x_m
    assert window.lights.x_m.tolist() == pytest.approx([18.0 - ego_x])
    for other in (far, unknown):
        assert len(next(windows.cut(replace(log, lights=other))).lights) == 0


def test_an_id_names_one_window() -> None:
    ids = [w.window_id for w in windows.cut(driving_log(agents=9))]
    assert len(set(ids)) == len(ids)


def test_a_single_agent_has_windows_too() -> None:
    alone = list(windows.cut(driving_log(agents=1)))
    assert alone
    assert all(len(w.agents) == 1 for w in alone)


@pytest.mark.parametrize("stride_s", [0.0, -0.5, 0.25])
def test_a_stride_that_is_no_multiple_of_a_step_is_refused(stride_s: float) -> None:
    with pytest.raises(ValueError, match="multiple of"):
        list(windows.cut(driving_log(), stride_s=stride_s))


def test_a_log_is_wholly_train_or_val_and_a_tenth_is_val() -> None:
    log = driving_log()
    splits = [windows.split_of(replace(log, log_id=str(i)), 0.1) for i in range(5000)]
    assert splits.count("val") == pytest.approx(500, rel=0.15)
    shared = {windows.split_of(replace(log, log_id=str(i), split_key="run"), 0.5) for i in range(50)}
    assert len(shared) == 1
    assert windows.split_of(log, 0.0) == "train"
    assert windows.split_of(log, 1.0) == "val"
