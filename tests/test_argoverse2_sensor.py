"""Argoverse 2 sensor logs: boxes in the city's frame, the recording vehicle among them, and what bad files cost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from sdiff import KINDS
from sdiff.logs import argoverse2_sensor
from sdiff.logs.driving_log import BadRecord, DrivingLog
from sdiff.windows import cut

LOG = "aaaa-bbbb"
STEPS = 50
T0_NS = 315_966_253_000_000_000
NORTH = (np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5))
"""A quarter turn to the left."""


def annotations(tracks: dict[str, tuple[str, float, float]]) -> dict[str, list[Any]]:
    """Rows of tracks {id: (category, x, y)} at a fixed place in the vehicle's frame, facing its way."""
    rows: dict[str, list[Any]] = {name: [] for name in argoverse2_sensor._ANNOTATION}
    for step in range(STEPS):
        for track, (category, x, y) in tracks.items():
            values = (T0_NS + step * 100_000_000, track, category, 4.5, 1.9, 1.0, 0.0, 0.0, 0.0, x, y, 0.0)
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
    return rows


def poses(speed_mps: float = 5.0) -> dict[str, list[Any]]:
    """The vehicle drives north from (1000, 2000)."""
    step = np.arange(STEPS)
    return {
        "timestamp_ns": list(T0_NS + step * 100_000_000),
        **{name: [value] * STEPS for name, value in zip(("qw", "qx", "qy", "qz"), NORTH, strict=True)},
        "tx_m": [1000.0] * STEPS,
        "ty_m": list(2000.0 + speed_mps * 0.1 * step),
        "tz_m": [7.0] * STEPS,
    }


def points(*xy: tuple[float, float]) -> list[dict[str, float]]:
    return [{"x": x, "y": y, "z": 0.0} for x, y in xy]


def street() -> dict[str, Any]:
    """One lane to the north, 4 m wide around x = 1000, whose left boundary has a vertex more."""
    lane = {
        "id": 7,
        "left_lane_boundary": points((998, 1900), (998, 2010), (998, 2100)),
        "right_lane_boundary": points((1002, 1900), (1002, 2100)),
        "left_lane_mark_type": "SOLID_YELLOW",
        "right_lane_mark_type": "NONE",
        "left_neighbor_id": None,
        "right_neighbor_id": None,
        "predecessors": [],
        "successors": [],
        "is_intersection": False,
        "lane_type": "VEHICLE",
    }
    area = {"id": 1, "area_boundary": points((998, 1900), (1002, 1900), (1002, 2100), (998, 2100))}
    return {"lane_segments": {"7": lane}, "drivable_areas": {"1": area}, "pedestrian_crossings": {}}


def write(
    folder: Path,
    boxes: dict[str, list[Any]],
    ego: dict[str, list[Any]] | None = None,
    city_map: Any = None,
    name: str = "annotations.feather",
) -> str:
    log = folder / LOG
    (log / "map").mkdir(parents=True)
    feather.write_feather(pa.table(boxes), log / name)
    if ego is not None:
        feather.write_feather(pa.table(ego), log / "city_SE3_egovehicle.feather")
    if city_map is not None:
        (log / "map" / f"log_map_archive_{LOG}____PIT_city_47896.json").write_text(json.dumps(city_map))
    return str(log / name)


def read(source: str) -> tuple[DrivingLog, list[BadRecord]]:
    out = list(argoverse2_sensor.read(source))
    (log,) = (x for x in out if isinstance(x, DrivingLog))
    return log, [x for x in out if isinstance(x, BadRecord)]


CAR = {"car": ("REGULAR_VEHICLE", 10.0, 2.0)}


def test_a_box_ahead_of_a_vehicle_that_faces_north_is_to_its_north(tmp_path: Path) -> None:
    log, bad = read(write(tmp_path, annotations(CAR), poses(), street()))
    assert not bad and (log.log_id, log.region, log.start_us) == (LOG, "pittsburgh", T0_NS // 1000)
    t = log.tracks
    assert list(t.agent_id) == ["car", "AV"] and log.recorder == 1
    np.testing.assert_allclose(t.x_m[0], 1000 - 2.0)
    np.testing.assert_allclose(t.y_m[0], 2010 + 0.5 * np.arange(STEPS))
    np.testing.assert_allclose(t.heading_rad, np.pi / 2)
    np.testing.assert_allclose(t.vy_mps, 5.0)
    np.testing.assert_allclose(t.vx_mps, 0.0, atol=1e-9)


def test_the_recording_vehicle_s_box_is_ahead_of_its_rear_axle(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, annotations(CAR), poses(), street()))
    ego = log.recorder or 0
    assert 4.8 < log.tracks.length_m[ego] < 4.9 and KINDS[log.tracks.kind[ego]] == "car"
    np.testing.assert_allclose(log.tracks.y_m[ego, 0] - 2000.0, 1.34)


def test_annotations_of_the_recording_vehicle_do_not_make_a_second_one(tmp_path: Path) -> None:
    boxes = annotations(CAR | {"me": ("EGO_VEHICLE", 0.0, 0.0)})
    log, _ = read(write(tmp_path, boxes, poses(), street(), name="annotations_with_ego.feather"))
    assert sorted(log.tracks.agent_id) == ["AV", "car"]


def test_a_rider_and_what_he_rides_are_one_agent(tmp_path: Path) -> None:
    boxes = annotations(
        {"man": ("BICYCLIST", 8.0, 0.0), "bike": ("BICYCLE", 8.2, 0.0), "parked": ("BICYCLE", 8.0, 5.0)}
    )
    rows = [i for i, track in enumerate(boxes["track_uuid"]) if track == "man"]
    for i in rows:
        boxes["length_m"][i] = 0.8
    log, _ = read(write(tmp_path, boxes, poses(), street()))
    kinds = {str(i): KINDS[k] for i, k in zip(log.tracks.agent_id, log.tracks.kind, strict=True)}
    assert kinds == {"man": "cyclist", "parked": "other", "AV": "car"}
    assert log.tracks.length_m[list(log.tracks.agent_id).index("man")] == pytest.approx(4.5)


def test_of_many_riders_each_rides_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bicyclists five metres apart, bicycles beside them in another order, and motorcycles there too."""
    n, steps = 20, 7
    order = np.random.default_rng(0).permutation(n)
    y_m = 5.0 * np.concatenate([np.arange(n), order, np.arange(n)])
    y_m, x_m = np.repeat(y_m[:, None], steps, 1), np.zeros((3 * n, steps))
    category = np.repeat(["BICYCLIST", "BICYCLE", "MOTORCYCLE"], n)
    valid = np.ones((3 * n, steps), bool)
    valid[:n, 0] = False  # 6 of 7 steps together: enough
    valid[0, 1] = False  # 5 of 7 are not
    monkeypatch.setattr(argoverse2_sensor, "PAIRED_AT_ONCE", 300)
    found = argoverse2_sensor._ridden(x_m, y_m, valid, category)
    assert sorted(found) == [(rider, n + int(np.flatnonzero(order == rider)[0])) for rider in range(1, n)]


def test_a_lane_without_a_centerline_has_it_between_its_boundaries(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, annotations(CAR), poses(), street()))
    (lane,) = log.map.of_kind("lane_centerline")
    line = log.map.points(int(lane))
    np.testing.assert_allclose(line[:, 0], 1000.0)
    np.testing.assert_allclose(line[[0, -1], 1], [1900, 2100])
    assert log.map.width_m[lane] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("tx_m", float("nan"), "not a finite number"),
        ("qw", 0.0, "not a finite number"),
        ("length_m", -1.0, "box size"),
        ("category", "BUS", "category changes"),
        ("timestamp_ns", T0_NS, "two rows for one frame"),
    ],
)
def test_a_bad_row_costs_its_track_alone(tmp_path: Path, column: str, value: Any, reason: str) -> None:
    boxes = annotations(CAR | {"b": ("TRUCK", 20.0, 0.0)})
    last = len(boxes["track_uuid"]) - 1  # of track b
    boxes[column][last] = value
    log, bad = read(write(tmp_path, boxes, poses(), street()))
    assert [b.record for b in bad] == ["b"]
    assert reason in str(bad[0])
    assert list(log.tracks.agent_id) == ["car", "AV"] and log.recorder == 1


def uneven(boxes: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return boxes | {"timestamp_ns": [t + (60_000_000 if t > T0_NS + 10**9 else 0) for t in boxes["timestamp_ns"]]}


@pytest.mark.parametrize(
    ("boxes", "ego", "city_map", "reason"),
    [
        (annotations(CAR), None, street(), "no city_SE3_egovehicle.feather beside the annotations"),
        (annotations(CAR), poses(), None, "0 maps beside the annotations"),
        (annotations(CAR), poses(), {"lane_segments": {}}, "not an Argoverse 2 map"),
        ({k: v for k, v in annotations(CAR).items() if k != "qw"}, poses(), street(), r"lacks the columns \['qw'\]"),
        ({k: v[:0] for k, v in annotations(CAR).items()}, poses(), street(), "has no rows|not a whole"),
        (annotations(CAR), {k: v[:30] for k, v in poses().items()}, street(), "20 of 50 frames have no pose"),
        (annotations(CAR), poses() | {"tx_m": [float("nan")] * STEPS}, street(), "a pose that is not finite"),
        (uneven(annotations(CAR)), poses(), street(), "0.160 s apart, expected multiples of 0.1 s"),
    ],
)
def test_a_bad_log_says_what_is_wrong(tmp_path: Path, boxes: Any, ego: Any, city_map: Any, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        list(argoverse2_sensor.read(write(tmp_path, boxes, ego, city_map)))


@pytest.mark.parametrize("size", [0, 10, -20])
@pytest.mark.parametrize("name", ["annotations.feather", "city_SE3_egovehicle.feather"])
def test_a_truncated_file_is_a_bad_record(tmp_path: Path, size: int, name: str) -> None:
    source = write(tmp_path, annotations(CAR), poses(), street())
    broken = Path(source).parent / name
    broken.write_bytes(broken.read_bytes()[:size])
    with pytest.raises(BadRecord, match=f"{name} is not a whole Feather file"):
        list(argoverse2_sensor.read(source))


def test_every_real_log_is_windows_or_says_what_it_lacks(real_data: Path) -> None:
    sources = argoverse2_sensor.find(str(real_data / "argoverse2_sensor"))
    assert len(sources) == 4
    windows = []
    for source in sources:
        if "b87683ae" in source:
            with pytest.raises(BadRecord, match="no city_SE3_egovehicle"):
                list(argoverse2_sensor.read(source))
            continue
        log, bad = read(source)
        assert not bad
        windows.append(len(list(cut(log))))
    assert min(windows) > 20


def test_real_poses_equal_rotation_matrices_of_the_source(real_data: Path) -> None:
    """Read anew with pandas and scipy's rotations: positions within 1 cm, headings within 0.001 rad."""
    from scipy.spatial.transform import Rotation

    for source in argoverse2_sensor.find(str(real_data / "argoverse2_sensor")):
        path = Path(source.removeprefix("file://"))
        if not (path.parent / "city_SE3_egovehicle.feather").exists():
            continue
        log, _ = read(source)
        boxes = pd.read_feather(path)
        ego = pd.read_feather(path.parent / "city_SE3_egovehicle.feather").drop_duplicates("timestamp_ns")
        rows = boxes[boxes.category != "EGO_VEHICLE"].merge(ego, on="timestamp_ns", suffixes=("", "_ego"))
        turn = Rotation.from_quat(rows[["qx_ego", "qy_ego", "qz_ego", "qw_ego"]].to_numpy())
        own = Rotation.from_quat(rows[["qx", "qy", "qz", "qw"]].to_numpy())
        at = (
            turn.apply(rows[["tx_m", "ty_m", "tz_m"]].to_numpy(copy=True))
            + rows[["tx_m_ego", "ty_m_ego", "tz_m_ego"]].to_numpy()
        )
        matrix = (turn * own).as_matrix()
        heading = np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
        frames = np.sort(boxes.timestamp_ns.unique())
        index = {str(i): n for n, i in enumerate(log.tracks.agent_id)}
        agent = rows.track_uuid.map(index).to_numpy()
        step = np.searchsorted(frames, rows.timestamp_ns.to_numpy())
        t = log.tracks
        assert t.valid[agent, step].all() and t.valid.sum() == len(rows) + len(frames)
        np.testing.assert_allclose(t.x_m[agent, step], at[:, 0], atol=0.01)
        np.testing.assert_allclose(t.y_m[agent, step], at[:, 1], atol=0.01)
        assert np.abs(np.angle(np.exp(1j * (t.heading_rad[agent, step] - heading)))).max() < 0.001
        np.testing.assert_allclose(t.length_m[agent], rows.length_m, atol=1e-5)
        # velocity: what moves in one 0.2 s is what the velocity in its middle says
        for i in range(len(t.agent_id)):
            here = np.flatnonzero(t.valid[i])
            middle = here[1:-1][(np.diff(here)[1:] == 1) & (np.diff(here)[:-1] == 1)]
            apart_s = (frames[middle + 1] - frames[middle - 1]) / 1e9
            np.testing.assert_allclose(
                t.vx_mps[i, middle] * apart_s, t.x_m[i, middle + 1] - t.x_m[i, middle - 1], atol=1e-3
            )


def test_real_cars_drive_along_their_headings_on_lanes(real_data: Path) -> None:
    import shapely

    for source in argoverse2_sensor.find(str(real_data / "argoverse2_sensor")):
        if "b87683ae" in source:
            continue
        log, _ = read(source)
        t = log.tracks
        fast = t.valid & (np.hypot(t.vx_mps, t.vy_mps) > 3) & (t.kind == KINDS.index("car"))[:, None]
        off = np.angle(np.exp(1j * (t.heading_rad - np.arctan2(t.vy_mps, t.vx_mps))))[fast]
        assert np.median(np.abs(off)) < 0.05
        lanes = log.map.of_kind("lane_centerline")
        tree = shapely.STRtree([shapely.LineString(log.map.points(int(i))) for i in lanes])
        ego = log.recorder or 0
        at = shapely.points(t.x_m[ego], t.y_m[ego])
        nearest = lanes[tree.nearest(at)]
        assert np.median(shapely.distance(at, tree.geometries[tree.nearest(at)])) < 1.0
        along = np.array([np.diff(log.map.points(int(i))[[0, -1]], axis=0)[0] for i in nearest])
        ahead = np.stack([np.cos(t.heading_rad[ego]), np.sin(t.heading_rad[ego])], 1)
        assert ((along * ahead).sum(1) > 0).mean() > 0.9
