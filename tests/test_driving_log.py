"""Driving logs: what a reader may yield, and what costs a track, what costs a log."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import road_map

from sdiff import KINDS, logs, storage
from sdiff.logs.driving_log import BadRecord, DrivingLog, Lights, Tracks
from sdiff.maps import Features, Lanes, Lines, vector_map


def lanes(lines: Lines) -> Lanes:
    """Lanes along the lines, of which nothing else is known."""
    none, unknown = np.full(len(lines), -1, np.int32), np.full(len(lines), np.nan, np.float32)
    nowhere, vehicle = np.zeros(len(lines), bool), np.zeros(len(lines), np.int8)
    ids, links = [str(i) for i in range(len(lines))], np.zeros((0, 2), np.int32)
    return Lanes(ids, lines, links, none, none, nowhere, vehicle, unknown, unknown, links_derived=False)


def two_cars(offset_m: float = 0.0) -> DrivingLog:
    """Two cars at 10 m/s, one behind the other, over 50 steps; the second is observed for the first half."""
    t = np.arange(50) * 0.1
    valid = np.stack([np.ones(50, bool), t < 2.5])
    x = np.stack([10 * t, 10 * t - 15])
    tracks = Tracks(
        agent_id=np.array(["lead", "follow"]),
        kind=np.full(2, KINDS.index("car"), np.int8),
        length_m=np.full(2, 4.5, np.float32),
        width_m=np.full(2, 1.9, np.float32),
        x_m=np.where(valid, x + offset_m, np.nan),
        y_m=np.where(valid, offset_m, np.nan),
        heading_rad=np.where(valid, 4 * np.pi, np.nan),
        vx_mps=np.full((2, 50), 10.0),
        vy_mps=np.zeros((2, 50)),
        valid=valid,
    )
    lane = vector_map("m", lanes(Lines.of([np.array([[0.0, 0.0], [100.0, 0.0]]) + offset_m])), [])
    return DrivingLog("log", "test", "here", "none", tracks, lane, Lights.none(50), recorder=1)


def with_x(log: DrivingLog, agent: int, step: int, value: float) -> DrivingLog:
    x = log.tracks.x_m.copy()
    x[agent, step] = value
    return replace(log, tracks=replace(log.tracks, x_m=x))


def test_unobserved_poses_are_zero_and_headings_are_wrapped() -> None:
    (log,) = logs.usable(two_cars())
    assert isinstance(log, DrivingLog)
    assert (log.tracks.x_m[~log.tracks.valid] == 0).all()
    np.testing.assert_allclose(log.tracks.heading_rad, 0, atol=1e-12)


def test_a_bad_track_costs_that_track_alone_and_the_recorder_moves_up() -> None:
    bad, log = logs.usable(with_x(two_cars(), 0, 3, np.nan))
    assert isinstance(bad, BadRecord) and bad.record == "lead" and "x_m" in str(bad)
    assert isinstance(log, DrivingLog) and list(log.tracks.agent_id) == ["follow"]
    assert log.recorder == 0


def test_a_bad_recorder_leaves_the_log_without_one() -> None:
    _, log = logs.usable(with_x(two_cars(), 1, 3, np.inf))
    assert isinstance(log, DrivingLog) and log.recorder is None


def test_a_track_id_that_comes_twice_names_no_track() -> None:
    log = two_cars()
    twice = replace(log, tracks=replace(log.tracks, agent_id=np.array(["a", "a"])))
    found = logs.usable(twice)
    assert all("more than once" in str(next(found)) for _ in range(2))
    with pytest.raises(BadRecord, match="no usable track"):
        next(found)


@pytest.mark.parametrize(("length", "width"), [(0.0, 2.0), (4.0, -1.0), (100.0, 2.0), (np.nan, 2.0)])
def test_a_box_without_a_sane_size_costs_its_track(length: float, width: float) -> None:
    log = two_cars()
    sizes = {"length_m": np.array([length, 4], np.float32), "width_m": np.array([width, 2], np.float32)}
    bad, rest = logs.usable(replace(log, tracks=replace(log.tracks, **sizes)))
    assert isinstance(bad, BadRecord) and bad.record == "lead" and "size" in str(bad)
    assert isinstance(rest, DrivingLog)


def test_a_map_without_lanes_costs_the_log() -> None:
    log = two_cars()
    ring = Lines.of([[[0, 0], [9, 0], [9, 9]]])
    with pytest.raises(BadRecord, match="no lanes"):
        list(logs.usable(replace(log, map=vector_map("m", lanes(Lines.of([])), [Features("drivable_area", ring)]))))


def test_a_single_agent_is_a_log() -> None:
    log = two_cars()
    alone = Tracks(**{k: v[:1] for k, v in vars(log.tracks).items()})
    (out,) = logs.usable(replace(log, tracks=alone, recorder=0))
    assert isinstance(out, DrivingLog) and out.recorder == 0


def test_centimetres_survive_ten_thousand_kilometres_from_the_origin() -> None:
    (near,), (far,) = logs.usable(two_cars()), logs.usable(two_cars(1e7))
    assert isinstance(near, DrivingLog) and isinstance(far, DrivingLog)
    valid = near.tracks.valid
    np.testing.assert_allclose((far.tracks.x_m - 1e7)[valid], near.tracks.x_m[valid], atol=1e-6)
    np.testing.assert_allclose(far.map.xy_m - 1e7, near.map.xy_m, atol=1e-6)


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'kitti'.*argoverse2_motion, .*gpudrive, .*sumo"):
        logs.reader("kitti")


@pytest.mark.parametrize("name", ["argoverse2_motion", "gpudrive"])
def test_a_place_without_logs_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(storage.StorageError, match="nowhere"):
        logs.reader(name).find(str(tmp_path / "nowhere"))


def test_json_is_read_plain_gzipped_and_with_nan(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"x": 1}')
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'{"x": 1}'))
    (tmp_path / "c.json").write_bytes(b'{"x": NaN}')
    assert logs.read_json(str(tmp_path / "a.json")) == logs.read_json(str(tmp_path / "b.json.gz")) == {"x": 1}
    assert np.isnan(logs.read_json(str(tmp_path / "c.json"))["x"])


CUT_OFF = [b"", b'{"x": [1, 2', gzip.compress(b'{"x": 1}' * 99, mtime=0)[:40], b"\x1f\x8bnot gzip", b"\xff\xfe"]


@pytest.mark.parametrize("data", CUT_OFF)
def test_a_document_that_is_cut_off_is_a_bad_record(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(BadRecord, match=r"not a whole (JSON document|gzip file)"):
        logs.read_json(str(tmp_path / "a.json"))


def test_a_map_with_a_vertex_beyond_the_moon_is_refused() -> None:
    map = road_map()
    map.xy_m[0, 0] = 1e9
    with pytest.raises(BadRecord, match="a vertex is 1e\\+09 m from the origin"):
        map.validate()
