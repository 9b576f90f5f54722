"""ScenarioNet: scenarios come out as they stand in the pickle; what is broken costs itself alone."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from on_lanes import share_along_lanes

from sdiff import KINDS, storage
from sdiff.geometry import wrap_angle
from sdiff.logs import scenarionet
from sdiff.logs.driving_log import BadRecord, DrivingLog

STEPS = 30


def car(y: float = 0.0, type: str = "VEHICLE", **state: Any) -> dict[str, Any]:
    """Drives along x at 10 m/s."""
    x = np.arange(STEPS, dtype=np.float32)
    flat = np.zeros(STEPS, np.float32)
    values = {
        "position": np.stack([x, flat + y, flat], -1),
        "heading": flat,
        "velocity": np.stack([flat + 10, flat], -1),
        "length": flat + 4.5,
        "width": flat + 2,
        "height": flat + 1.5,
        "valid": flat > -1,
    }
    return {"type": type, "state": {**values, **state}, "metadata": {"type": type}}


def lane(points: list[tuple[float, ...]], **more: Any) -> dict[str, Any]:
    return {"type": "LANE_SURFACE_STREET", "polyline": np.array(points, np.float32), **more}


def neighbour(name: str, vertices: int) -> dict[str, str]:
    return {"feature_id": name, "self_start_index": "0", "self_end_index": str(vertices)}


MAP = {
    "1": lane([(0, 0, 9), (40, 0, 9)], exit_lanes=[3], left_neighbor=[neighbour("2", 1)], speed_limit_kmh=36.0),
    "2": lane([(0, 3.5, 9), (40, 3.5, 9)], polygon=[(0, 1.75), (40, 1.75), (40, 5.25), (0, 5.25)]),
    "3": {**lane([(40, 0), (80, 0)], entry_lanes=["1"]), "type": "LANE_BIKE_LANE"},
    "4": lane([(0, 0)]),
    "boundary_0": {"type": "ROAD_LINE_BROKEN_SINGLE_WHITE", "polyline": [(0, 1.75), [40, 1.75]]},
    "e": {"type": "ROAD_EDGE_BOUNDARY", "polyline": [(0, -2), (80, -2)]},
    "c": {"type": "CROSSWALK", "polygon": np.array([(50, -2, 0), (53, -2, 0), (53, 5, 0), (50, 5, 0)])},
    "s": {"type": "STOP_SIGN", "lane": [3, 99], "position": np.zeros(3)},
    "?": {"type": "SOMETHING_ELSE", "polyline": [(0, 0), (1, 1)]},
}
SIGNAL = {"lane": 1, "stop_point": np.array([38.0, 0, 0]), "state": {"object_state": ["LANE_STATE_STOP"] * STEPS}}


def scenario(**changed: Any) -> dict[str, Any]:
    metadata = {"ts": np.arange(STEPS) * np.float32(0.1), "sdc_id": "a", "dataset": "waymo", "coordinate": "waymo"}
    return {
        "id": "abc",
        "version": "1",
        "length": STEPS,
        "tracks": {"a": car(), "b": car(3.5), "p": car(9, "PEDESTRIAN"), "cone": car(9, "TRAFFIC_CONE")},
        "dynamic_map_states": {"1": SIGNAL},
        "map_features": MAP,
        **changed,
        "metadata": metadata | changed.get("metadata", {}),
    }


def write(folder: Path, document: Any, name: str = "sd_a.pkl") -> str:
    (folder / name).write_bytes(pickle.dumps(document))
    return str(folder / name)


def read(source: str) -> tuple[DrivingLog, list[BadRecord]]:
    items = list(scenarionet.read(source))
    (log,) = (i for i in items if isinstance(i, DrivingLog))
    return log, [i for i in items if isinstance(i, BadRecord)]


def test_a_scenario_is_read_whole(tmp_path: Path) -> None:
    log, bad = read(write(tmp_path, scenario()))
    assert not bad
    assert (log.log_id, log.split_key, log.dataset, log.region, log.recorder) == (
        "abc",
        "abc",
        "scenarionet",
        "waymo",
        0,
    )
    t, m = log.tracks, log.map
    assert [KINDS[k] for k in t.kind] == ["vehicle", "vehicle", "pedestrian", "other"]
    np.testing.assert_array_equal(t.x_m[1], np.arange(STEPS))
    assert (t.y_m[1] == 3.5).all() and (t.vx_mps == 10).all() and (t.width_m == 2).all()
    assert m.feature_id[:3].tolist() == ["lane_1", "lane_2", "lane_3"] and not m.links_derived
    assert m.successors.tolist() == [[0, 2]] and m.left[:3].tolist() == [1, -1, -1]
    assert m.lane_type[:3].tolist() == [0, 0, 2] and m.speed_limit_mps[0] == 10 and np.isnan(m.speed_limit_mps[1])
    assert [len(m.of_kind(k)) for k in ("lane_boundary", "road_edge", "crosswalk")] == [1, 1, 1]
    areas = m.of_kind("drivable_area")
    assert len(areas) >= 2 and m.derived[areas].tolist() == [False] + [True] * (len(areas) - 1)
    np.testing.assert_allclose(m.points(m.of_kind("stop_line")[0]).mean(0), [40, 0], atol=1e-6)
    assert log.lights.lane.tolist() == [0] and log.lights.x_m.tolist() == [38.0] and (log.lights.state == 1).all()


def test_links_are_derived_where_the_source_has_none(tmp_path: Path) -> None:
    features = {"1": lane([(0, 0), (40, 0)]), "2": lane([(40, 0), (80, 0)]), "3": lane([(0, 3.6), (40, 3.6)])}
    log, _ = read(write(tmp_path, scenario(map_features=features)))
    assert log.map.links_derived and log.map.successors.tolist() == [[0, 1]] and log.map.left[0] == 2


@pytest.mark.parametrize(
    ("word", "index"),
    [
        ("LANE_STATE_GO", 3),
        ("LANE_STATE_ARROW_STOP", 1),
        ("LANE_STATE_FLASHING_CAUTION", 2),
        ("LANE_STATE_UNKNOWN", 0),
        ("TRAFFIC_LIGHT_GREEN", 3),
        (None, 0),
    ],
)
def test_every_word_of_a_signal(tmp_path: Path, word: Any, index: int) -> None:
    signal = {**SIGNAL, "state": {"object_state": [word] * STEPS}}
    assert (read(write(tmp_path, scenario(dynamic_map_states={"1": signal})))[0].lights.state == index).all()


def test_what_nuscenes_gets_wrong_is_put_right(tmp_path: Path) -> None:
    ego = car(length=np.full((STEPS, 1), 1.73), width=np.full((STEPS, 1), 4.08))
    bus = {**car(3.5), "metadata": {"type": "vehicle.bus.rigid"}}
    about = {"dataset": "nuscenes", "map": "boston-seaport", "coordinate": "right-handed"}
    features = {"1": lane([(0, 0), (40, 0)], speed_limit_kmh=100)}
    log, _ = read(write(tmp_path, scenario(metadata=about, tracks={"a": ego, "b": bus}, map_features=features)))
    assert (log.region, log.license) == ("boston-seaport", "CC BY-NC-SA 4.0")
    np.testing.assert_allclose([log.tracks.length_m[0], log.tracks.width_m[0]], [4.08, 1.73])
    assert KINDS[log.tracks.kind[1]] == "bus" and np.isnan(log.map.speed_limit_mps[0])
    assert log.size_known is not None and log.size_known.tolist() == [False, True]


def test_a_recorder_of_nuscenes_is_at_its_centre_and_not_at_its_rear_axle(tmp_path: Path) -> None:
    """It turns on the spot around the axle by 1 rad/s: the centre goes around it at 1.385 m/s."""
    turning = car(position=np.zeros((STEPS, 3)), heading=np.arange(STEPS) * 0.1, velocity=np.zeros((STEPS, 2)))
    log, _ = read(write(tmp_path, scenario(metadata={"dataset": "nuscenes"}, tracks={"a": turning, "b": car()})))
    t = log.tracks
    np.testing.assert_allclose(np.hypot(t.x_m[0], t.y_m[0]), 1.385)
    np.testing.assert_allclose([t.x_m[0, 0], t.y_m[0, 0]], [1.385, 0], atol=1e-6)
    np.testing.assert_allclose(np.hypot(t.vx_mps[0], t.vy_mps[0])[1:-1], 1.385, rtol=0.01)
    np.testing.assert_array_equal(t.x_m[1], np.arange(STEPS))
    other, _ = read(write(tmp_path, scenario(tracks={"a": turning})))
    assert (other.tracks.x_m == 0).all(), "Waymo's poses are those of the centre"


def procedural_lane(y: float, left: list[str], right: list[str], limit: float = 1000) -> dict[str, Any]:
    links = {"left_neighbor": left, "right_neighbor": right, "entry_lanes": [], "exit_lanes": ["out"]}
    return lane([(0, y), (40, y)], **links, polygon=None, speed_limit_kmh=limit)


def test_a_procedural_map_names_all_lanes_beside_one(tmp_path: Path) -> None:
    """From left to right 0, 1, 2, as ids in a list: the neighbour is the nearest of them."""
    features = {
        "0": procedural_lane(7.0, [], ["1", "2"]),
        "1": procedural_lane(3.5, ["0"], ["2"]),
        "2": procedural_lane(0.0, ["0", "1"], [], limit=60.0),
        "out": lane([(40, 0), (80, 0)]),
    }
    about = {"dataset": "metadrive", "coordinate": "metadrive", "metadrive_processed": True}
    log, bad = read(write(tmp_path, scenario(map_features=features, metadata=about, dynamic_map_states={})))
    m = log.map
    assert log.log_id.startswith("abc-") and m.map_id == log.log_id, "ids of simulated scenarios count from 0 each time"
    assert not bad and not m.links_derived and log.license == "unknown"
    assert m.left[:3].tolist() == [-1, 0, 1] and m.right[:3].tolist() == [1, 2, -1]
    assert m.successors.tolist() == [[0, 3], [1, 3], [2, 3]]
    np.testing.assert_allclose(m.speed_limit_mps[:3] * 3.6, [np.nan, np.nan, 60.0], rtol=1e-6)
    assert log.size_known is not None and log.size_known.all(), "what is simulated has the size of its model"


def test_what_a_conversion_of_argoverse_makes_up_does_not_pass_for_the_source_s(tmp_path: Path) -> None:
    features = {"1": lane([(0, 0), (40, 0)], exit_lanes=["2"], speed_limit_kmh=136.8), "2": lane([(40, 0), (80, 0)])}
    tracks = {"AV": car(length=np.full(STEPS, 4.0)), "7": car(3.5)}
    log, _ = read(
        write(tmp_path, scenario(map_features=features, tracks=tracks, metadata={"dataset": "av2", "sdc_id": "AV"}))
    )
    assert np.isnan(log.map.speed_limit_mps).all()
    assert log.size_known is not None and not log.size_known.any()
    np.testing.assert_allclose([log.tracks.length_m[0], log.tracks.width_m[0]], [4.877, 2.0])
    assert log.license == "CC BY-NC-SA 4.0"


def test_the_recorder_s_size_of_nuplan_is_that_of_its_make(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, scenario(metadata={"dataset": "nuplan"})))
    assert log.size_known is not None and log.size_known.tolist() == [False, True, True, True]


GAP = np.where(np.arange(STEPS)[:, None] == 5, np.nan, np.zeros((STEPS, 3)))


@pytest.mark.parametrize(
    ("bad_track", "reason"),
    [
        (car(position=np.zeros((STEPS - 1, 3))), "position is no array of 30 rows"),
        (car(position=np.zeros(STEPS)), "IndexError"),
        (car(position=GAP), "_m is not a finite number"),
        (car(heading=None), "heading is no array"),
        (car(width=np.zeros(STEPS)), "box size"),
        (car(valid=np.zeros(STEPS)), "no valid step"),
        ({"type": "VEHICLE"}, "KeyError 'state'"),
        (None, "TypeError"),
    ],
)
def test_a_bad_track_costs_itself_alone(tmp_path: Path, bad_track: Any, reason: str) -> None:
    log, (bad,) = read(write(tmp_path, scenario(tracks={"bad": bad_track, "a": car()})))
    assert log.tracks.agent_id.tolist() == ["a"] and log.recorder == 0
    assert bad.record == "bad" and reason in bad.reason


BACKWARDS = np.arange(STEPS)[::-1] * 0.1


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "KeyError 'metadata'"),
        ([], "not a ScenarioNet scenario"),
        (None, "not a ScenarioNet scenario"),
        (scenario(id=7), "a name of up to 200 characters"),
        (scenario(id="x" * 201), "a name of up to 200 characters"),
        (scenario(length=STEPS + 1), "30 times, expected 31"),
        (scenario(length=10**12), "1 tracks of 1000000000000 steps"),
        (scenario(metadata={"ts": np.arange(STEPS) * 0.5}), "step 0 lasts 0.5 s"),
        (scenario(metadata={"ts": BACKWARDS}), "step 0 lasts -0.1 s"),
        (scenario(metadata={"sdc_id": "z"}), "sdc_id is 'z', which is no track"),
        (scenario(metadata={"coordinate": "left-handed"}), "coordinate is 'left-handed'"),
        (scenario(tracks={}), "which is no track"),
        (scenario(tracks={"a": None}), "no usable track"),
        (scenario(map_features={}), "no lanes"),
        (scenario(map_features={"1": lane([(0, 0), (np.nan, 0)])}), "a vertex of the map"),
        (scenario(map_features={"1": {"polyline": []}}), "KeyError 'type'"),
        (scenario(map_features={"1": lane([(0, 0), (0, 1e6)])}), "one of them 1e+06 m"),
        (scenario(dynamic_map_states={"1": {**SIGNAL, "state": {"object_state": []}}}), "a signal has 0 states"),
        (scenario(dynamic_map_states={"1": {**SIGNAL, "stop_point": np.full(3, np.inf)}}), "stop point of a signal"),
    ],
)
def test_a_bad_scenario_says_what_is_wrong(tmp_path: Path, document: Any, reason: str) -> None:
    source = write(tmp_path, document)
    with pytest.raises(BadRecord) as caught:
        list(scenarionet.read(source))
    assert reason in str(caught.value)


def test_one_line_that_many_lanes_share_is_not_copied_for_all(tmp_path: Path) -> None:
    """An array of some kilobytes, mentioned by a hundred thousand features, would be gigabytes of map."""
    line = np.zeros((1000, 2), np.float32)
    features = {f"{i}": {"type": "ROAD_LINE", "polyline": line} for i in range(100_000)} | {"lane": MAP["1"]}
    with pytest.raises(BadRecord, match="the map has 100000002 vertices"):
        list(scenarionet.read(write(tmp_path, scenario(map_features=features))))


def test_one_state_that_many_tracks_share_is_not_copied_for_all(tmp_path: Path) -> None:
    one = car()
    with pytest.raises(BadRecord, match="200000 tracks of 30 steps"):
        list(scenarionet.read(write(tmp_path, scenario(tracks={f"{i}": one for i in range(200_000)}))))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarionet, "MAX_BYTES", 100)
    with pytest.raises(BadRecord, match="bytes long, expected at most 100"):
        list(scenarionet.read(write(tmp_path, scenario())))


class Evil:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def test_a_pickle_that_calls_is_a_bad_record_and_calls_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "called"
    with pytest.raises(BadRecord, match=r"mentions (posix|nt)\.mkdir"):
        list(scenarionet.read(write(tmp_path, scenario(metadata={"x": Evil(str(mark))}))))
    assert not mark.exists()


def test_a_cut_off_file_is_a_bad_record(tmp_path: Path) -> None:
    source = Path(write(tmp_path, scenario()))
    whole = source.read_bytes()
    for length in range(0, len(whole), 97):
        source.write_bytes(whole[:length])
        with pytest.raises(BadRecord, match="not a whole pickle"):
            list(scenarionet.read(str(source)))


def test_scenarios_are_found_and_indices_are_not(tmp_path: Path) -> None:
    for name in ("dataset_summary.pkl", "dataset_mapping.pkl", "readme.txt"):
        (tmp_path / name).write_bytes(b"")
    source = write(tmp_path, scenario())
    assert scenarionet.find(str(tmp_path)) == [f"file://{source}"]
    with pytest.raises(storage.StorageError, match="no scenario"):
        scenarionet.find(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("folder", "count"), [("scenarionet_nuscenes", 7), ("scenarionet_waymo", 2)])
def test_real_scenarios_are_what_python_loads(real_data: Path, folder: str, count: int) -> None:
    sources = scenarionet.find(str(real_data / folder))
    assert len(sources) == count
    for source in sources:
        log, bad = read(source)
        assert not bad, source
        raw = pickle.loads(storage.read_bytes(source))
        t = log.tracks
        assert t.agent_id.tolist() == list(raw["tracks"])
        assert t.agent_id[log.recorder] == raw["metadata"]["sdc_id"]
        for i, track in enumerate(raw["tracks"].values()):
            state = track["state"]
            valid = np.asarray(state["valid"], bool)
            assert (t.valid[i] == valid).all()
            from_axle = i == log.recorder and folder == "scenarionet_nuscenes"
            ahead_m = 1.385 * from_axle * np.stack([np.cos(t.heading_rad[i]), np.sin(t.heading_rad[i])])
            assert np.abs(t.x_m[i] - ahead_m[0] - state["position"][:, 0])[valid].max() < 0.01
            assert np.abs(t.y_m[i] - ahead_m[1] - state["position"][:, 1])[valid].max() < 0.01
            assert np.abs(wrap_angle(t.heading_rad[i] - np.ravel(state["heading"])))[valid].max() < 0.001
            assert from_axle or np.abs(np.stack([t.vx_mps[i], t.vy_mps[i]], -1) - state["velocity"])[valid].max() < 0.01
        assert np.median(t.length_m[np.isin(t.kind, [KINDS.index("car"), KINDS.index("vehicle")])]) > 4
        assert share_along_lanes(log) > 0.85, source  # maps are cut out: some drive beyond the rim


def test_a_closed_boundary_of_nuscenes_outlines_the_road_and_is_no_paint(tmp_path: Path) -> None:
    ring = np.array([(-20, -20), (20, -20), (20, 20), (-20, 20), (-20, -20)], np.float64)
    painted = {"type": "ROAD_LINE_SOLID_SINGLE_WHITE", "polyline": ring}
    features = MAP | {"boundary_0": painted, "line_0": {**painted, "polyline": ring[:2]}}
    log, _ = read(write(tmp_path, scenario(map_features=features)))
    kinds = {kind: [log.map.points(f) for f in log.map.of_kind(kind)] for kind in ("lane_boundary", "road_edge")}
    assert [len(line) for line in kinds["lane_boundary"]] == [2]
    assert [len(line) for line in kinds["road_edge"]][-1:] == [5]
    areas = [shapely.Polygon(log.map.points(f)) for f in log.map.of_kind("drivable_area")]
    assert any(area.area == pytest.approx(40**2) for area in areas)


def centre_ahead_m(log: DrivingLog) -> list[tuple[float, float]]:
    """Rate of turn and sideways speed of the recorder where it drives a curve: their ratio is how far before the point
    that follows its heading, the rear axle, its place is."""
    t, r = log.tracks, log.recorder
    heading = np.unwrap(t.heading_rad[r])
    turn = (heading[4:] - heading[:-4]) / 0.4
    vx, vy = ((p[4:] - p[:-4]) / 0.4 for p in (t.x_m[r], t.y_m[r]))
    along, aside = (np.cos(heading[2:-2]) * a + np.sin(heading[2:-2]) * b for a, b in ((vx, vy), (vy, -vx)))
    bends = (along > 2) & (np.abs(turn) > 0.05) & t.valid[r, 2:-2]
    return list(zip(turn[bends], aside[bends], strict=True))


def test_real_recorders_of_nuscenes_swing_out_as_a_centre_does(real_data: Path) -> None:
    """The rear axle goes where the vehicle heads; a point a ahead of it goes sideways at a times the rate of turn."""
    sources = scenarionet.find(str(real_data / "scenarionet_nuscenes"))
    turn, aside = np.array([x for source in sources for x in centre_ahead_m(read(source)[0])]).T
    assert len(turn) > 100
    assert (turn * aside).sum() / (turn**2).sum() == pytest.approx(1.385, abs=0.3)
