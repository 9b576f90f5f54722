"""Waymo scenarios as GPUDrive writes them: units, gaps and lights as the source means them, what bad files cost."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import ingest
from sdiff import KINDS, tables
from sdiff.geometry import wrap_angle
from sdiff.logs import gpudrive
from sdiff.logs.driving_log import LANE_TYPES, LIGHT_STATES, BadRecord, DrivingLog

STEPS = 30


def xy(*points: tuple[float, float], at: float = 0.0) -> list[dict[str, float]]:
    return [{"x": at + x, "y": at + y, "z": 0.0} for x, y in points]


def car(agent_id: int | None = 0, y: float = 0.0, at: float = 0.0, **changed: Any) -> dict[str, Any]:
    """A car that drives along y at 5 m/s, so that its heading is pi / 2."""
    thing = {
        "position": xy(*[(y, 0.5 * s) for s in range(STEPS)], at=at),
        "velocity": [{"x": 0.0, "y": 5.0}] * STEPS,
        "heading": [np.pi / 2] * STEPS,
        "valid": [True] * STEPS,
        "length": 4.5,
        "width": 2.0,
        "type": "vehicle",
        **changed,
    }
    return thing if agent_id is None else {"id": agent_id, **thing}


def scene(*objects: dict[str, Any], at: float = 0.0, **changed: Any) -> dict[str, Any]:
    """A street along y: lane 11 leads into lane 12, bike lane 13 beside it, the edge to its right."""
    roads = [
        {"type": "lane", "id": 11, "map_element_id": 2, "geometry": xy((0, 0), (0, 30), at=at)},
        {"type": "lane", "id": 12, "map_element_id": 2, "geometry": xy((0, 30), (0, 60), at=at)},
        {"type": "lane", "id": 13, "map_element_id": 3, "geometry": xy((2.6, 0), (2.6, 30), at=at)},
        {"type": "lane", "id": 14, "map_element_id": 2, "geometry": xy((9, 9), at=at)},
        {"type": "road_edge", "id": 15, "geometry": xy((4, 0), (4, 60), at=at)},
        {"type": "crosswalk", "id": 16, "geometry": xy((-2, 31), (4, 31), (4, 34), (-2, 34), at=at)},
        {"type": "stop_sign", "id": 17, "geometry": xy((5, 29), at=at)},
    ]
    return {"name": "x", "objects": list(objects), "roads": roads, "tl_states": {}, **changed}


def write(folder: Path, document: Any) -> str:
    path = folder / "some_scene.json"
    path.write_text(json.dumps(document))
    return str(path)


def read(source: str) -> tuple[DrivingLog, list[BadRecord]]:
    out = list(gpudrive.read(source))
    (log,) = (x for x in out if isinstance(x, DrivingLog))
    return log, [x for x in out if isinstance(x, BadRecord)]


def test_a_scene_is_read_as_it_was_written(tmp_path: Path) -> None:
    document = scene(car(5), car(9, type="cyclist"), metadata={"sdc_track_index": 1}, scenario_id="abc")
    log, bad = read(write(tmp_path, document))
    assert not bad
    assert (log.dataset, log.split_key) == ("gpudrive", "abc")
    assert list(log.tracks.agent_id) == ["5", "9"] and log.recorder == 1
    assert [KINDS[k] for k in log.tracks.kind] == ["vehicle", "cyclist"]
    np.testing.assert_allclose(log.tracks.y_m[0], 0.5 * np.arange(STEPS))
    np.testing.assert_allclose(log.tracks.vy_mps, 5.0)


WAYMO, CC = "Waymo Open Dataset License Agreement for Non-Commercial Use", "CC BY-NC-SA 4.0"


@pytest.mark.parametrize(
    ("told", "region", "license"),
    [
        ({"name": "tfrecord-00000-of-01000_402.json"}, "waymo", WAYMO),
        ({"scenario_id": "68d5053e5693f4ca"}, "waymo", WAYMO),
        ({"metadata": {"dataset_name": "WOMD"}}, "waymo", WAYMO),
        ({"metadata": {"map_name": "us-nv-las-vegas-strip", "log_name": "x"}}, "us-nv-las-vegas-strip", CC),
        ({"metadata": {"dataset": "nuscenes", "map": "boston-seaport"}}, "boston-seaport", CC),
        ({"name": "nuPlan_v1.1_7d5a5b1d8e8f5c3a.json", "scenario_id": "7d5a5b1d8e8f5c3a"}, "nuplan", CC),
        ({"metadata": {"dataset_name": "Elsewhere"}}, "Elsewhere", "unknown"),
        ({}, "unknown", "unknown"),
    ],
)
def test_region_and_license_are_those_that_the_file_tells(
    tmp_path: Path, told: dict[str, Any], region: str, license: str
) -> None:
    log, _ = read(write(tmp_path, scene(car(), **told)))
    assert (log.region, log.license) == (region, license)


@pytest.mark.parametrize(
    ("told", "recorder"),
    [
        ({"metadata": {"sdc_track_index": 1}}, 1),
        ({"sdc_track_index": 1}, 1),
        ({"metadata": {"ego_id": 9}}, 1),
        ({"ego_id": "9"}, 1),
        ({"ego_id": "8"}, None),
        ({}, None),
    ],
)
def test_the_recorder_is_told_in_several_ways(tmp_path: Path, told: dict[str, Any], recorder: int | None) -> None:
    assert read(write(tmp_path, scene(car(5), car(9, y=4.0), **told)))[0].recorder == recorder
    marked = scene(car(5, is_sdc=False), car(9, y=4.0, is_sdc=True))
    assert read(write(tmp_path, marked))[0].recorder == 1


def test_the_recorder_s_size_of_nuplan_is_that_of_its_make(tmp_path: Path) -> None:
    about = {"map_name": "us-ma-boston", "sdc_track_index": 1}
    log, _ = read(write(tmp_path, scene(car(5), car(9, y=4.0), metadata=about)))
    assert log.size_known is not None and log.size_known.tolist() == [True, False]


def test_scenes_of_one_name_in_two_folders_are_two_logs_on_two_maps(tmp_path: Path) -> None:
    """Waymo's validation and testing shards are both `-of-00150`."""
    for folder, at in (("validation", 0.0), ("testing", 500.0)):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        cars = [car(i, y=4.0 * i, at=at, position=xy(*[(4.0 * i, s) for s in range(60)], at=at)) for i in range(2)]
        for one in cars:
            one |= {k: one[k][:1] * 60 for k in ("velocity", "heading", "valid")}
        write(tmp_path / "raw" / folder, scene(*cars, at=at))
    ingest.run("gpudrive", str(tmp_path / "raw"), str(tmp_path / "out"))
    windows = tables.read(str(tmp_path / "out"), "windows", ["log_id", "map_id"]).to_pylist()
    assert len({w["log_id"] for w in windows}) == 2 and len({w["map_id"] for w in windows}) == 2
    names = [(f["map_id"], f["feature_id"]) for f in tables.read(str(tmp_path / "out"), "maps").to_pylist()]
    assert len(names) == len(set(names))


def test_a_scene_keeps_its_id_when_it_is_packed_or_moved(tmp_path: Path) -> None:
    plain = Path(write(tmp_path, scene(car())))
    (tmp_path / "other").mkdir()
    packed = tmp_path / "other" / "some_scene.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    ids = {read(str(p))[0].log_id for p in (plain, packed)}
    assert len(ids) == 1 and ids.pop().startswith("some_scene-")


def test_lanes_are_linked_and_what_was_derived_says_so(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, scene(car())))
    m = log.map
    assert list(m.feature_id[m.of_kind("lane_centerline")]) == ["lane_11", "lane_12", "lane_13"]
    assert m.links_derived and m.successors.tolist() == [[0, 1]]
    assert m.right[0] == 2 and m.left[2] == 0
    assert m.lane_type[2] == LANE_TYPES.index("bike")
    assert m.derived[m.of_kind("drivable_area")].all() and len(m.of_kind("drivable_area"))
    assert m.derived[m.of_kind("stop_line")].all() and len(m.of_kind("stop_line")) == 1
    assert not m.derived[m.of_kind("lane_centerline")].any()
    assert np.isnan(m.speed_limit_mps).all()


@pytest.mark.parametrize("heading", [90.0, 450.0, -270.0, np.pi / 2, 5 * np.pi / 2])
def test_headings_in_degrees_or_radians_point_the_way_the_cars_drive(tmp_path: Path, heading: float) -> None:
    log, _ = read(write(tmp_path, scene(car(heading=[heading] * STEPS))))
    np.testing.assert_allclose(log.tracks.heading_rad, np.pi / 2, atol=1e-6)


@pytest.mark.parametrize(("heading", "is_degrees"), [(90.0, True), (1.5, False)])
def test_where_nothing_moves_the_size_of_the_headings_tells_their_unit(
    tmp_path: Path, heading: float, is_degrees: bool
) -> None:
    parked = car(heading=[heading] * STEPS, velocity=[{"x": 0.0, "y": 0.0}] * STEPS)
    log, _ = read(write(tmp_path, scene(parked)))
    np.testing.assert_allclose(log.tracks.heading_rad, np.radians(heading) if is_degrees else heading)


def test_minus_ten_thousand_means_not_observed_but_is_a_place_by_itself(tmp_path: Path) -> None:
    nowhere = car(1)
    nowhere["position"][3] = {"x": -10000.0, "y": -10000.0}
    far_west = car(2, at=-10010.0)
    log, bad = read(write(tmp_path, scene(nowhere, far_west)))
    assert not bad and not log.tracks.valid[0, 3]
    assert log.tracks.valid[0].sum() == STEPS - 1 and log.tracks.valid[1].all()


def test_a_signal_names_its_lane_by_id_or_by_place(tmp_path: Path) -> None:
    """One by its id; one whose id names a lane far from its stop point; one at no lane."""

    def signal(x: float, y: float, state: str) -> dict[str, Any]:
        return {"x": [x] * 2, "y": [y] * 2, "time_index": [3, 4], "state": [state, "arrow_go"]}

    states = {"12": signal(0, 30, "stop"), "11": signal(2.5, 0.5, "flashing_caution"), "77": signal(900, 0, "go")}
    states["13"] = signal(0, 60, "go")
    log, _ = read(write(tmp_path, scene(car(), tl_states=states)))
    assert log.lights.lane.tolist() == [1, 2]
    assert [LIGHT_STATES[s] for s in log.lights.state[:, 3]] == ["stop", "caution"]
    assert [LIGHT_STATES[s] for s in log.lights.state[:, 4]] == ["go", "go"]
    assert (log.lights.state[:, 5] == 0).all()


def test_centimetres_survive_far_from_the_origin(tmp_path: Path) -> None:
    near, _ = read(write(tmp_path, scene(car())))
    far, _ = read(write(tmp_path, scene(car(at=1e7), at=1e7)))
    np.testing.assert_allclose(far.tracks.y_m - 1e7, near.tracks.y_m, atol=1e-6)
    for i in np.flatnonzero(~near.map.derived):
        np.testing.assert_allclose(far.map.points(int(i)) - 1e7, near.map.points(int(i)), atol=1e-6)
    np.testing.assert_array_equal(far.map.successors, near.map.successors)


def test_gzip_is_read_like_plain(tmp_path: Path) -> None:
    plain = Path(write(tmp_path, scene(car())))
    packed = tmp_path / "some_scene.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(read(str(plain))[0].tracks.x_m, read(str(packed))[0].tracks.x_m)
    assert gpudrive.find(str(tmp_path)) == sorted(f"file://{p}" for p in (plain, packed))


NAN_AT_5 = [{"x": float("nan") if s == 5 else 0.0, "y": 0.5 * s} for s in range(STEPS)]
NULL_AT_5 = [{"x": None if s == 5 else 0.0, "y": 0.5 * s} for s in range(STEPS)]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"position": NAN_AT_5}, "x_m is not a finite number"),
        ({"position": NULL_AT_5}, "x_m is not a finite number"),
        ({"heading": [None] * STEPS}, "heading_rad is not a finite number"),
        ({"position": xy((0, 0))}, r"\{'position': 1\} steps, expected 30"),
        ({"type": "spaceship"}, "'spaceship', expected one of"),
        ({"length": 0}, "box size"),
        ({"valid": [False] * STEPS}, "no valid step"),
        ({"id": 0}, "more than once"),
    ],
)
def test_a_bad_object_costs_its_track_alone(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    twin = car(0, y=4.0) if changed == {"id": 0} else car(3, y=4.0)
    log, bad = read(write(tmp_path, scene(twin, car(1, y=8.0), {**car(2), **changed})))
    assert len(bad) == (2 if changed == {"id": 0} else 1)
    for b in bad:
        assert b.record == str(changed.get("id", 2))
        assert any(word in str(b) for word in (reason, reason.replace("\\", "")))
    assert "1" in log.tracks.agent_id and str(changed.get("id", 2)) not in log.tracks.agent_id


def test_nan_at_a_step_that_is_not_valid_costs_nothing(tmp_path: Path) -> None:
    gap = car(2, position=NULL_AT_5, valid=[s != 5 for s in range(STEPS)])
    log, bad = read(write(tmp_path, scene(gap)))
    assert not bad and log.tracks.x_m[0, 5] == 0 and not log.tracks.valid[0, 5]


def without(document: dict[str, Any], *kinds: str) -> dict[str, Any]:
    return {**document, "roads": [r for r in document["roads"] if r["type"] not in kinds]}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "not a GPUDrive scenario: KeyError 'objects'"),
        ([], "not a GPUDrive scenario"),
        ("text", "not a GPUDrive scenario"),
        ({**scene(car()), "roads": None}, "not a GPUDrive scenario"),
        ({**scene(car()), "roads": [{"type": "lane", "geometry": [{"x": 1}, {"x": 2}]}]}, "KeyError 'y'"),
        (scene(), "no objects"),
        (without(scene(car()), "lane"), "no lanes"),
        (scene(car(length=-1)), "no usable track"),
        (scene(car(), metadata={"sdc_track_index": 7}), "sdc_track_index is 7, expected 0 to 0"),
        (scene(car(), tl_states={"11": {"x": [0], "y": [0], "state": ["go"], "time_index": [99]}}), "tl_states"),
        (scene(car(), tl_states=[1]), "not a GPUDrive scenario"),
    ],
)
def test_a_bad_document_says_what_is_wrong(tmp_path: Path, document: Any, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        list(gpudrive.read(write(tmp_path, document)))


def test_a_vertex_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    document = scene(car())
    document["roads"][4]["geometry"][0]["x"] = None
    with pytest.raises(BadRecord, match="vertex of a road_edge"):
        list(gpudrive.read(write(tmp_path, document)))


def test_a_map_of_lanes_alone_is_a_map(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, without(scene(car()), "road_edge", "crosswalk", "stop_sign")))
    assert len(log.map.of_kind("drivable_area"))


def test_all_real_scenes_are_read_whole(real_data: Path) -> None:
    sources = gpudrive.find(str(real_data / "waymo_gpudrive_json"))
    assert len(sources) == 61
    agents = recorders = lights = 0
    for source in sources:
        log, bad = read(source)
        assert not bad and (log.region, log.license) == ("waymo", WAYMO), source
        t = log.tracks
        agents += len(t.agent_id)
        recorders += log.recorder is not None
        lights += len(log.lights.lane)
        speed = np.hypot(t.vx_mps, t.vy_mps)
        rolling = t.valid & (speed > 2) & (t.kind == KINDS.index("vehicle"))[:, None]
        off = np.abs(wrap_angle(t.heading_rad - np.arctan2(t.vy_mps, t.vx_mps)))[rolling]
        assert np.median(off) < 0.1, source
        both = t.valid[:, 1:] & t.valid[:, :-1]
        step_mps = np.hypot(np.diff(t.x_m), np.diff(t.y_m)) / 0.1
        assert np.median(np.abs(step_mps - speed[:, 1:])[both]) < 0.1, source
    assert (agents, recorders, lights) == (3098, 6, 72)
