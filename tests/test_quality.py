"""Tracks as recordings have them: what is wrong is mended, what is right stays bit for bit."""

from dataclasses import fields, replace

import numpy as np
import pytest
from synthetic import driving_log

from sdiff import KINDS, logs, windows
from sdiff.geometry import wrap_angle
from sdiff.logs import quality
from sdiff.logs.driving_log import DrivingLog, Tracks


def mend(tracks: Tracks, recorder: int | None = None) -> DrivingLog:
    """A log of these tracks, mended."""
    return quality.mend(replace(driving_log(), tracks=tracks, recorder=recorder))


def drive(agents: int = 2, steps: int = 60) -> Tracks:
    """Cars that drive 10 m/s along x, five metres beside each other."""
    time = np.arange(steps) * 0.1
    shape = (agents, steps)
    return Tracks(
        agent_id=np.array([f"car{i}" for i in range(agents)]),
        kind=np.full(agents, KINDS.index("car"), np.int8),
        length_m=np.full(agents, 4.5, np.float32),
        width_m=np.full(agents, 1.9, np.float32),
        x_m=np.broadcast_to(10 * time, shape).copy(),
        y_m=np.broadcast_to(5.0 * np.arange(agents)[:, None], shape).copy(),
        heading_rad=np.zeros(shape),
        vx_mps=np.full(shape, 10.0),
        vy_mps=np.zeros(shape),
        valid=np.ones(shape, bool),
    )


def lost(tracks: Tracks, agent: int, first: int, stop: int) -> Tracks:
    """The same with one agent not seen in steps [first, stop)."""
    valid = tracks.valid.copy()
    valid[agent, first:stop] = False
    values = {n: np.where(valid, getattr(tracks, n), 0.0) for n in logs.POSE_FIELDS}
    return replace(tracks, valid=valid, **values)


def test_what_is_right_stays_bit_for_bit() -> None:
    tracks = drive()
    mended = mend(tracks, 0)
    assert mended.repairs == {}
    assert mended.tracks is tracks


def test_a_short_gap_is_filled_along_the_way() -> None:
    tracks = lost(drive(), 1, 20, 25)
    turning = tracks.heading_rad.copy()
    turning[1, :20], turning[1, 25:] = np.pi - 0.03, -np.pi + 0.03  # the gap spans the seam of the angle
    mended = mend(replace(tracks, heading_rad=turning))
    assert mended.tracks.valid.all()
    assert mended.tracks.x_m[1, 20:25] == pytest.approx([2.0 * 10 + i for i in range(5)])
    assert mended.tracks.vx_mps[1] == pytest.approx(10.0)
    assert np.abs(mended.tracks.heading_rad[1, 20:25]).min() > np.pi - 0.03
    assert {k: v.tolist() for k, v in mended.repairs.items()} == {"gap": [False, True]}


def test_gaps_of_any_length_and_place_are_filled_as_lines_between_what_was_seen() -> None:
    random = np.random.default_rng(0)
    valid = random.random((40, 90)) < 0.5
    valid[:, [0, -1]] = True
    tracks = drive(40, 90)
    tracks = replace(tracks, x_m=np.where(valid, tracks.x_m + random.normal(0, 0.1, valid.shape), 0.0), valid=valid)
    mended = mend(tracks)
    assert len(mended.tracks.agent_id) > 40, "some gaps are long"
    step = np.arange(90)
    for name, seen, x_m in zip(mended.tracks.agent_id, mended.tracks.valid, mended.tracks.x_m, strict=True):
        agent = tracks.agent_id.tolist().index(str(name).partition("~")[0])
        line = np.interp(step, step[valid[agent]], tracks.x_m[agent, valid[agent]])
        assert np.diff(step[seen]).max(initial=1) == 1
        assert x_m[seen] == pytest.approx(line[seen], abs=1e-9)


def test_a_track_that_was_lost_for_long_goes_on_as_another() -> None:
    mended = mend(lost(drive(), 1, 20, 26))
    assert mended.tracks.agent_id.tolist() == ["car0", "car1", "car1~2"]
    assert mended.tracks.valid.sum(1).tolist() == [60, 20, 34]
    assert not (mended.tracks.valid[1] & mended.tracks.valid[2]).any()
    assert mended.repairs["long gap"].tolist() == [False, True, True]


def test_the_recorder_is_one_vehicle_however_long_it_was_lost() -> None:
    assert mend(lost(drive(), 1, 20, 40), recorder=1).tracks.agent_id.tolist() == ["car0", "car1"]


def test_an_id_that_jumps_is_two_agents() -> None:
    tracks = drive(3)
    tracks.x_m[1, 30:] += 50.0  # 50 m in 0.1 s
    taken = replace(tracks, agent_id=np.array(["car0", "car1", "car1~2"]))
    mended = mend(taken)
    assert mended.tracks.agent_id.tolist() == ["car0", "car1", "car1~2~", "car1~2"]
    assert "jump" in mended.repairs
    assert "velocity" not in mended.repairs, "both parts move as they say"


@pytest.mark.parametrize(("kind", "parts"), [("car", 1), ("pedestrian", 2)])
def test_two_metres_in_a_step_are_a_drive_but_no_walk(kind: str, parts: int) -> None:
    tracks = replace(drive(1), kind=np.array([KINDS.index(kind)], np.int8))
    tracks.x_m[0, 30:] += 2.0
    assert len(mend(tracks).tracks.agent_id) == parts


def test_a_velocity_that_is_not_the_positions_own_is_replaced_where_it_is_wrong() -> None:
    tracks = drive()
    tracks.vx_mps[1, 10:13] = 0.0
    tracks.vx_mps[0, 10:13] = 9.0  # a filter's lag is no defect
    mended = mend(tracks)
    assert mended.tracks.vx_mps[1] == pytest.approx(10.0)
    assert mended.tracks.vx_mps[0, 11] == 9.0
    assert mended.repairs["velocity"].tolist() == [False, True]


def test_of_a_velocity_and_positions_that_contradict_each_other_the_unsteady_one_is_wrong() -> None:
    tracks = drive()
    tracks.x_m[1, :3] += [1.2, 0.7, 0.3]  # smoothed towards the end of the track, as some recordings are
    assert mend(tracks).repairs == {}


def test_a_car_that_drives_does_not_stand_at_the_ends_of_its_track() -> None:
    tracks = lost(lost(drive(), 1, 0, 7), 1, 50, 60)
    tracks.vx_mps[1, [7, 49]] = 0.0
    tracks.vx_mps[0, [0, 59]] = 9.0
    mended = mend(tracks)
    assert mended.tracks.vx_mps[1, 7:50] == pytest.approx(10.0)
    assert (mended.tracks.vx_mps[1, [6, 50]] == 0).all(), "it is not seen there"
    assert mended.tracks.vx_mps[0, [0, 59]].tolist() == [9.0, 9.0]
    assert mended.repairs["velocity"].tolist() == [False, True]


def test_where_the_velocity_beside_the_last_is_wrong_the_last_is_mended_all_the_same() -> None:
    tracks = drive(2)
    tracks.vx_mps[0, 58:] = 0.0
    tracks.x_m[1, 58:] -= 2.0  # a step back, as nuScenes' recorder has it once: the last step is right again
    tracks.vx_mps[1, 56:] = [10.0, -10.0, 10.0, 0.0]
    mended = mend(tracks)
    assert mended.tracks.vx_mps[0] == pytest.approx(10.0)
    assert mended.tracks.vx_mps[1, -1] == pytest.approx(10.0)


def test_velocities_across_a_jump_belong_to_neither_part() -> None:
    tracks = drive(1)
    tracks.x_m[0, 30:] += 50.0
    tracks.vx_mps[0, 29:31] = 260.0  # over 0.2 s, as readers take it from positions
    mended = mend(tracks)
    assert mended.tracks.vx_mps[mended.tracks.valid] == pytest.approx(10.0)
    assert mended.repairs["velocity"].tolist() == [True, True]


def test_one_rough_step_at_the_end_of_a_track_is_no_reason_to_doubt_a_velocity() -> None:
    tracks = drive(1)
    tracks.vx_mps[0, 50:59] += [1.5, -1.5, 1.5, -1.5, 1.5, -1.5, 1.5, -1.5, 0.0]
    tracks.x_m[0, -1] += 0.7  # 7 m/s over 0.1 s
    assert mend(tracks).repairs == {}


def test_a_pose_alone_moves_as_its_source_says() -> None:
    tracks = lost(lost(drive(), 1, 0, 30), 1, 31, 60)
    assert mend(tracks).repairs == {}


@pytest.mark.parametrize("kind", ["car", "pedestrian"])
def test_a_vehicle_does_not_flip_while_it_stands(kind: str) -> None:
    tracks = drive(1)
    stands = {"x_m": np.zeros((1, 60)), "vx_mps": np.zeros((1, 60))}
    tracks = replace(tracks, kind=np.array([KINDS.index(kind)], np.int8), **stands)
    tracks.heading_rad[0, 40:50] = np.pi
    mended = mend(tracks)
    assert ("heading" in mended.repairs) == (kind == "car"), "people do turn on the spot"
    assert (mended.tracks.heading_rad == 0).all() == (kind == "car")


def test_a_vehicle_that_stands_has_the_heading_that_is_nearest_to_all_it_had() -> None:
    random = np.random.default_rng(1)
    shape = (12, 61)
    heading = wrap_angle(random.normal(random.uniform(-np.pi, np.pi, (12, 1)), random.uniform(0.3, 3, (12, 1)), shape))
    stands = np.ones(shape, bool)
    stands[:, 31] = False  # between two stands it drives on
    tracks = drive(*shape)
    tracks = replace(tracks, heading_rad=heading, vx_mps=np.where(stands, 0.0, 1.0), x_m=np.zeros(shape))
    mended = mend(tracks).tracks.heading_rad
    assert (mended[:, 31] == heading[:, 31]).all()
    for part in (slice(0, 31), slice(32, 61)):
        for had, has in zip(heading[:, part], mended[:, part], strict=True):
            apart = np.abs(wrap_angle(had[:, None] - had)).sum(0)
            assert (has == has[0]).all() and apart[had == has[0]] == pytest.approx(apart.min())


def test_of_many_tracks_each_is_mended_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = lost(lost(drive(7), 1, 20, 23), 4, 20, 30)
    tracks.vx_mps[5, 30:33] = 0.0
    tracks.x_m[6, 40:] += 50.0
    at_once = mend(tracks, 2)
    monkeypatch.setattr(quality, "BLOCK_POSES", 140)  # two tracks
    in_blocks = mend(tracks, 2)
    assert in_blocks.repairs.keys() == at_once.repairs.keys() == {"gap", "long gap", "jump", "velocity"}
    for word, where in at_once.repairs.items():
        assert (in_blocks.repairs[word] == where).all()
    for field in fields(Tracks):
        assert (getattr(in_blocks.tracks, field.name) == getattr(at_once.tracks, field.name)).all()


def test_repairs_are_counted_and_flagged_in_the_windows() -> None:
    log = driving_log(agents=4)
    log = replace(log, tracks=lost(log.tracks, 2, 30, 33), size_known=np.array([True, False, True, True]))
    mended = quality.mend(log)
    assert {word: int(where.sum()) for word, where in mended.repairs.items()} == {quality.GAP: 1}
    for window in windows.cut(mended):
        agents = window.agents
        assert agents.repaired is not None and agents.size_known is not None
        assert set(agents.agent_id[agents.repaired]) <= {"a2"}
        assert set(agents.agent_id[~agents.size_known]) <= {"a1"}
    assert any("a2" in w.agents.agent_id for w in windows.cut(mended))
