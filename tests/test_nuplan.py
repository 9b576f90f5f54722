"""nuPlan logs and maps: every second frame as it is, the recorder's centre, city maps, and what bad files cost."""

import pickle
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from pipelines import ingest
from sdiff import KINDS, ingestion, storage, tables
from sdiff.logs import nuplan, sqlite_file
from sdiff.logs import reader as logs_of
from sdiff.logs.driving_log import LANE_TYPES, LIGHT_STATES, BadRecord, DrivingLog
from sdiff.windows import cut

EPSG = 32617
X0, Y0 = 589_090.1439300935, 4_473_794.045508204
LON, LAT = -79.95, 40.41
"""One place, in UTM zone 17 and in degrees (by PROJ)."""
FRAMES = 600
T0_US = 1_631_802_127_000_000

SCHEMA = """
CREATE TABLE category (token BLOB PRIMARY KEY, name VARCHAR(64), description TEXT);
CREATE TABLE log (token BLOB PRIMARY KEY, vehicle_name, logfile VARCHAR(64), location VARCHAR(64), map_version);
CREATE TABLE ego_pose (token BLOB PRIMARY KEY, timestamp INTEGER, x FLOAT, y FLOAT, z FLOAT, qw FLOAT, qx FLOAT,
    qy FLOAT, qz FLOAT, vx FLOAT, vy FLOAT, vz FLOAT, epsg INTEGER, log_token BLOB);
CREATE TABLE lidar_pc (token BLOB PRIMARY KEY, ego_pose_token BLOB, timestamp INTEGER);
CREATE TABLE track (token BLOB PRIMARY KEY, category_token BLOB, width FLOAT, length FLOAT, height FLOAT);
CREATE TABLE lidar_box (token BLOB PRIMARY KEY, lidar_pc_token BLOB, track_token BLOB, x FLOAT, y FLOAT, z FLOAT,
    width FLOAT, length FLOAT, height FLOAT, vx FLOAT, vy FLOAT, vz FLOAT, yaw FLOAT, confidence FLOAT);
CREATE TABLE traffic_light_status (token BLOB PRIMARY KEY, lidar_pc_token BLOB, lane_connector_id INTEGER, status);
"""


def token(kind: str, n: int) -> bytes:
    return f"{kind}{n:06d}".encode()


def write_log(folder: Path, *changes: str, frames: int = FRAMES) -> str:
    """A recorder that drives north at 10 m/s, and a car (track 0) 20 m ahead of its rear axle, at 20 frames per second.

    changes: SQL that is run before the file is closed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "2021.09.16_veh-45_00441_00502.db"
    con = sqlite3.connect(path)
    con.executescript(SCHEMA)
    con.execute("INSERT INTO log VALUES (?, 'veh-45', ?, 'us-pa-pittsburgh', 'us-pa-pittsburgh')", (b"log", path.stem))
    for i, name in enumerate(("vehicle", "bicycle", "pedestrian", "traffic_cone")):
        con.execute("INSERT INTO category VALUES (?, ?, '')", (token("c", i), name))
    for i in range(2):
        con.execute("INSERT INTO track VALUES (?, ?, 1.9, 4.6, 1.5)", (token("t", i), token("c", 0 if i == 0 else 3)))
    for i in range(frames * 5 + 20):  # 100 Hz, from 50 ms before the first frame
        at_s = 0.01 * i - 0.05
        turn = (np.sqrt(0.5), 0, 0, np.sqrt(0.5))
        pose = (token("e", i), T0_US + round(at_s * 1e6), X0, Y0 + 10 * at_s, 0, *turn, 10.3, 0.1, 0, EPSG, b"log")
        con.execute(f"INSERT INTO ego_pose VALUES ({','.join('?' * 14)})", pose)
    for i in range(frames):
        at_s = 0.05 * i
        con.execute("INSERT INTO lidar_pc VALUES (?, ?, ?)", (token("p", i), token("e", 5 * i + 4), T0_US + 50_000 * i))
        box = (token("b", i), token("p", i), token("t", 0), X0, Y0 + 20 + 10 * at_s)
        con.execute("INSERT INTO lidar_box VALUES (?, ?, ?, ?, ?, 0, 2, 4, 1, 0, 10, 0, ?, 1)", (*box, np.pi / 2))
        con.execute(
            "INSERT INTO traffic_light_status VALUES (?, ?, 40, ?)",
            (token("l", i), token("p", i), "red" if at_s < 10 else "green"),
        )
    for change in changes:
        con.execute(change)
    con.commit()
    con.close()
    return str(path)


def geometry(shape: shapely.Geometry, envelope: bool) -> bytes:
    """A GeoPackage blob: header, envelope if asked for, WKB."""
    x0, y0, x1, y1 = shape.bounds
    head = b"GP\0" + bytes([1 | 2 * envelope]) + (4326).to_bytes(4, "little")
    return head + (np.array([x0, x1, y0, y1]).tobytes() if envelope else b"") + shapely.to_wkb(shape)


def in_degrees(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> np.ndarray:
    """Points near (X0, Y0) [m] in longitude and latitude, by a step of Newton's method or a few."""
    from sdiff.maps import utm

    goal, guess = np.stack([x, y], -1).astype(float), np.array([[LON, LAT]] * len(x))
    for _ in range(6):
        now = utm.project(guess, EPSG)
        east, north = (utm.project(guess + step, EPSG) - now for step in ([1e-6, 0], [0, 1e-6]))
        jacobian = np.stack([east, north], -1) / 1e-6
        guess = guess + np.linalg.solve(jacobian, (goal - now)[..., None])[..., 0]
    return guess


def strip(x0: float, y0: float, x1: float, y1: float) -> shapely.Polygon:
    return shapely.Polygon(in_degrees([x0, x1, x1, x0], [y0, y0, y1, y1]))


def north(x: float, y0: float, y1: float) -> shapely.LineString:
    return shapely.LineString(in_degrees([x, x], [y0, y1]))


LAYERS: dict[str, str] = {
    "lanes_polygons": "lane_group_fid INTEGER, lane_index INTEGER, speed_limit_mps REAL, lane_type_fid INTEGER",
    "lane_connectors": "exit_lane_fid INTEGER, entry_lane_fid INTEGER, speed_limit_mps REAL",
    "baseline_paths": "lane_fid INTEGER, lane_connector_fid INTEGER",
    "boundaries": "boundary_type_fid INTEGER",
    "crosswalks": "crosswalk_type_fid INTEGER",
    "lane_groups_polygons": "from_edge_fid INTEGER",
    "intersections": "intersection_type_fid INTEGER",
    "generic_drivable_areas": "x INTEGER",
}


def write_map(folder: Path, skip: Sequence[str] = (), length_m: float = 1000.0) -> Path:
    """Lanes 10 and 11 (on its right) northward, connector 40 from 10 to lane 12, as nuPlan lays its maps out."""
    x, y = X0, Y0 - 100
    far = X0 + 5000
    rows: dict[str, list[tuple[int, shapely.Geometry, tuple[Any, ...]]]] = {
        "lanes_polygons": [
            (10, strip(x - 2, y, x + 2, y + 300), (5, 1, 13.4, 0)),
            (11, strip(x + 2, y, x + 5, y + 300), (5, 2, None, 1)),
            (12, strip(x - 2, y + 320, x + 2, y + length_m), (6, 1, 13.4, 0)),
            (13, strip(far, y, far + 4, y + 50), (7, 1, 13.4, 0)),
        ],
        "lane_connectors": [(40, strip(x - 2, y + 300, x + 2, y + 320), (10, 12, 11.0))],
        "baseline_paths": [
            (1, north(x, y, y + 300), (10, None)),
            (2, north(x + 3.5, y, y + 300), (11, None)),
            (3, north(x, y + 320, y + length_m), (12, None)),
            (4, north(x, y + 300, y + 320), (None, 40)),
            (5, north(far + 2, y, y + 50), (13, None)),
        ],
        "boundaries": [(1, north(x - 2, y, y + 300), (2,)), (2, north(x + 2, y, y + 300), (3,))],
        "crosswalks": [(1, strip(x - 2, y + 301, x + 2, y + 304), (0,))],
        "lane_groups_polygons": [(5, strip(x - 2, y, x + 5, y + 300), (0,))],
        "intersections": [(1, shapely.MultiPolygon([strip(x - 9, y + 300, x + 9, y + 320)]), (0,))],
        "generic_drivable_areas": [
            (1, strip(x + 5, y, x + 8, y + 50).difference(strip(x + 6, y + 1, x + 7, y + 2)), (0,))
        ],
    }
    path = folder / "us-pa-pittsburgh" / "9.17.1937" / "map.gpkg"
    path.parent.mkdir(parents=True)
    con = sqlite3.connect(path)
    con.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, geometry_type_name, srs_id, z, m)")
    con.execute("CREATE TABLE meta (fid INTEGER PRIMARY KEY, key TEXT, value TEXT)")
    for layer, columns in LAYERS.items():
        if layer in skip:
            continue
        con.execute(f"CREATE TABLE {layer} (fid INTEGER PRIMARY KEY AUTOINCREMENT, geom BLOB, {columns})")
        con.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'GEOMETRY', 4326, 0, 0)", (layer,))
        for fid, shape, values in rows[layer]:
            marks = ",".join("?" * (2 + len(values)))
            con.execute(f"INSERT INTO {layer} VALUES ({marks})", (fid, geometry(shape, fid % 2 == 0), *values))
    con.commit()
    con.close()
    return path


def read(source: str) -> tuple[list[DrivingLog], list[BadRecord]]:
    out = list(nuplan.read(source))
    return [x for x in out if isinstance(x, DrivingLog)], [x for x in out if isinstance(x, BadRecord)]


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """nuPlan's folders: maps beside the splits. The logs go to splits/mini."""
    write_map(tmp_path / "maps")
    return tmp_path / "nuplan-v1.1" / "splits" / "mini"


def test_a_log_is_read_at_ten_steps_per_second_in_blocks_of_twenty_seconds(town: Path) -> None:
    logs, bad = read(write_log(town))
    assert not bad and len(logs) == 2
    name = "2021.09.16_veh-45_00441_00502"
    assert [x.log_id for x in logs] == [f"{name}-000", f"{name}-001"] and logs[0].split_key == name
    assert logs[0].map is logs[1].map and logs[0].start_us == T0_US and logs[0].region == "us-pa-pittsburgh"
    t = logs[0].tracks
    assert t.valid.shape == (2, 240) and t.valid.all()
    assert list(t.agent_id) == [token("t", 0).hex(), "ego"] and logs[0].recorder == 1
    assert [KINDS[k] for k in t.kind] == ["vehicle", "car"]
    np.testing.assert_allclose(t.length_m, [4.6, 5.176]), "the size is the track's, not the box's"
    np.testing.assert_allclose(t.y_m[0] - Y0 - 20, np.arange(240), atol=1e-6)
    np.testing.assert_allclose(t.vy_mps[0], 10.0)


def test_windows_of_the_blocks_are_those_of_one_log(town: Path) -> None:
    """t0 every 0.5 s from 2 s after the begin to 2 s before the end, each once."""
    logs, _ = read(write_log(town))
    t0 = [w.t0_us for log in logs for w in cut(log, stand_ins=0)]
    assert t0 == list(range(T0_US + 2_000_000, T0_US + 29_900_000 - 2_000_000 + 1, 500_000))


def test_the_recorder_is_where_it_was_at_the_frame_and_its_centre_ahead_of_its_axle(town: Path) -> None:
    """Poses name other times than frames; velocity is that of the positions, 10 m/s, not the 10.3 m/s of the source."""
    logs, _ = read(write_log(town))
    t = logs[0].tracks
    np.testing.assert_allclose(t.y_m[1] - Y0, 1.461 + np.arange(240), atol=1e-3)
    np.testing.assert_allclose(t.x_m[1], X0, atol=1e-6)
    np.testing.assert_allclose(t.heading_rad[1], np.pi / 2, atol=1e-6)
    np.testing.assert_allclose(np.stack([t.vx_mps[1], t.vy_mps[1]]), [[0.0] * 240, [10.0] * 240], atol=1e-3)


def test_a_missing_frame_and_missing_poses_leave_gaps(town: Path) -> None:
    source = write_log(
        town,
        f"DELETE FROM lidar_pc WHERE timestamp = {T0_US + 3_000_000}",
        f"DELETE FROM lidar_box WHERE lidar_pc_token = X'{token('p', 60).hex()}'",
        f"DELETE FROM ego_pose WHERE timestamp > {T0_US + 5_000_000} AND timestamp < {T0_US + 5_400_000}",
    )
    t = read(source)[0][0].tracks
    assert np.flatnonzero(~t.valid[0]).tolist() == [30]
    assert np.flatnonzero(~t.valid[1]).tolist() == [30, 51, 52, 53]
    np.testing.assert_allclose(t.y_m[0, 31] - Y0 - 20, 31.0, atol=1e-6)


def test_lights_are_those_of_lane_connectors(town: Path) -> None:
    logs, _ = read(write_log(town))
    lights = logs[0].lights
    assert str(logs[0].map.feature_id[lights.lane[0]]) == "connector_40" and len(lights.lane) == 1
    np.testing.assert_allclose((lights.x_m[0], lights.y_m[0]), (X0, Y0 + 200), atol=1e-4)
    assert [LIGHT_STATES[s] for s in lights.state[0, [0, 99, 100]]] == ["stop", "stop", "go"]


def test_a_city_s_map_is_cut_out_around_the_log(town: Path) -> None:
    m = read(write_log(town))[0][0].map
    lanes = m.of_kind("lane_centerline")
    assert list(m.feature_id[lanes]) == ["lane_10", "lane_11", "lane_12", "connector_40"], "lane_13 is 5 km away"
    assert m.crs == "EPSG:32617" and not m.links_derived
    np.testing.assert_allclose(m.points(0), [[X0, Y0 - 100], [X0, Y0 + 200]], atol=1e-4)
    assert m.successors.tolist() == [[0, 3], [3, 2]]
    assert m.right[:4].tolist() == [1, -1, -1, -1] and m.left[:4].tolist() == [-1, 0, -1, -1]
    assert m.in_junction[:4].tolist() == [False, False, False, True]
    assert m.lane_type[1] == LANE_TYPES.index("bike") and m.lane_type[0] == LANE_TYPES.index("vehicle")
    np.testing.assert_allclose(m.width_m[:4], [4, 3, 4, np.nan], atol=0.01)
    np.testing.assert_allclose(m.speed_limit_mps[:4], [13.4, np.nan, 13.4, 11.0], rtol=1e-6)
    assert len(m.of_kind("lane_boundary")) == 1, "the boundary of type 3 is not painted"
    area = sum(shapely.Polygon(m.points(int(i))).area for i in m.of_kind("drivable_area"))
    assert area == pytest.approx(7 * 300 + 18 * 20 + 3 * 50 - 1, rel=1e-4)
    (crossing,) = m.of_kind("crosswalk")
    assert shapely.Polygon(m.points(int(crossing))).area == pytest.approx(12, rel=1e-3)


def test_without_a_map_a_log_says_what_is_missing_and_where_it_was_sought(tmp_path: Path) -> None:
    folder = tmp_path / "nuplan-v1.1" / "splits" / "mini"
    source = write_log(folder)
    assert nuplan.files(source) == [source]
    with pytest.raises(BadRecord) as caught:
        list(nuplan.read(source))
    assert "the map is missing: no us-pa-pittsburgh/<version>/map.gpkg" in str(caught.value)
    assert str(folder) in str(caught.value) and f"{tmp_path}," in str(caught.value)


def test_a_log_and_its_map_are_found(town: Path, tmp_path: Path) -> None:
    source = write_log(town)
    assert nuplan.find(str(tmp_path)) == [f"file://{source}"]
    assert [f.rsplit("/", 1)[-1] for f in nuplan.files(source)] == [Path(source).name, "map.gpkg"]


def test_of_two_versions_of_a_map_the_newest_counts(town: Path, tmp_path: Path) -> None:
    city = tmp_path / "maps" / "us-pa-pittsburgh"
    shutil.copytree(city / "9.17.1937", city / "9.9.1")
    assert nuplan.files(write_log(town))[1].endswith("/9.17.1937/map.gpkg")


def test_the_map_is_that_of_the_log_s_map_version_wherever_the_log_says_it_drove(tmp_path: Path) -> None:
    """In Las Vegas the table says `las_vegas`, and the map is `us-nv-las-vegas-strip`."""
    city = write_map(tmp_path / "maps").parent.parent
    city.rename(city.with_name("us-nv-las-vegas-strip"))
    change = "UPDATE log SET location = 'las_vegas', map_version = 'us-nv-las-vegas-strip'"
    logs, _ = read(write_log(tmp_path / "logs", change))
    assert len(logs) == 2 and logs[0].region == "us-nv-las-vegas-strip"


def test_without_its_map_version_a_log_s_map_is_that_of_its_location(town: Path) -> None:
    logs, _ = read(write_log(town, "UPDATE log SET map_version = '0.4'"))
    assert len(logs) == 2 and logs[0].region == "us-pa-pittsburgh"


def ingested(source: str, output: Path) -> dict[str, bytes]:
    """The objects of windows, agents and maps, one per table, of a source in as many slices as its size asks for."""
    ingest.run("nuplan", source, str(output), stride_s=3.0)
    rows = {
        table: tables.read(str(output), table).sort_by([(key, "ascending")])
        for table, key in (("windows", "window_id"), ("agent_tokens", "window_id"))
    }
    maps = {p.name: p.read_bytes() for p in (output / "maps").rglob("*.parquet")}
    return maps | {name: tables.encode(table.combine_chunks(), name) for name, table in rows.items()}


def test_tables_are_the_same_in_any_number_of_slices(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a frame and poses missing where two slices meet, and a track that cannot be used."""
    source = write_log(
        town,
        f"DELETE FROM lidar_pc WHERE timestamp = {T0_US + 40_100_000}",
        f"DELETE FROM lidar_box WHERE lidar_pc_token = X'{token('p', 802).hex()}'",
        f"DELETE FROM ego_pose WHERE timestamp > {T0_US + 23_990_000} AND timestamp < {T0_US + 24_200_000}",
        "UPDATE ego_pose SET x = x + 0.3 * (rowid % 7), qw = 0.6 + 0.01 * (rowid % 5)",
        "UPDATE track SET length = -1 WHERE rowid = 2",
        frames=1600,
    )
    whole = [pickle.dumps(x) for x in nuplan.read(source)]
    for parts in (2, 3, 9):
        assert [pickle.dumps(x) for part in range(parts) for x in nuplan.read_part(source, part, parts)] == whole
    one, letters = ingested(source, tmp_path / "1"), tables.read(str(tmp_path / "1"), "dead_letters").num_rows
    assert letters == 1
    monkeypatch.setattr(ingestion, "SLICE_BYTES", storage.size(source) / 3)
    assert len(ingestion.slices(logs_of("nuplan"), source)) == 3
    assert ingested(source, tmp_path / "3") == one
    assert tables.read(str(tmp_path / "3"), "dead_letters").num_rows == letters


def test_a_slice_of_a_log_costs_its_share_of_rows(town: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes and states of signals are most of a log: they are read where they are, and near the joints twice."""
    source = write_log(town, frames=4200)
    taken = dict.fromkeys((1, 5), 0)
    rows = sqlite_file.Database.rows
    for parts in taken:

        def counting(self: sqlite_file.Database, sql: str, *more: object, parts: int = parts) -> Any:
            for some in rows(self, sql, *more):
                taken[parts] += len(some) * ("lidar_box" in sql or "traffic_light_status" in sql)
                yield some

        monkeypatch.setattr(sqlite_file.Database, "rows", counting)
        assert list(nuplan.read_part(source, parts // 2, parts))
    assert taken[1] == 2 * 4199 and taken[5] < 0.27 * taken[1]


def test_a_broken_map_of_a_log_in_many_slices_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More slices than blocks, so that the first has no block, and a track that cannot be used."""
    write_map(tmp_path, skip=["baseline_paths"])
    source = write_log(tmp_path, "UPDATE track SET length = -1 WHERE rowid = 2")
    for parts in (1, 2, 9):
        monkeypatch.setattr(ingestion, "SLICE_BYTES", storage.size(source) / parts)
        with pytest.raises(ingest.IngestFailed):
            ingest.run("nuplan", source, str(tmp_path / str(parts)))
        (letter,) = tables.read(str(tmp_path / str(parts)), "dead_letters").to_pylist()
        assert "lacks the layers baseline_paths" in letter["reason"]


def test_a_block_that_cannot_be_used_costs_itself(town: Path) -> None:
    """From 45 to 50 s there is one car, whose heading is not known; the recorder comes back after it."""
    source = write_log(
        town,
        f"UPDATE lidar_box SET yaw = NULL WHERE lidar_pc_token >= X'{token('p', 900).hex()}'",
        f"DELETE FROM ego_pose WHERE timestamp BETWEEN {T0_US + 39_000_000} AND {T0_US + 65_000_000}",
        frames=1600,
    )
    for parts in (1, 4):
        items = [x for part in range(parts) for x in nuplan.read_part(source, part, parts)]
        assert [x.log_id[-4:] for x in items if isinstance(x, DrivingLog)] == ["-000", "-001", "-003"]
        (lost,) = (x for x in items if isinstance(x, BadRecord) and x.is_log)
        assert lost.record.endswith("-002") and lost.stage == "validate" and "no usable track" in lost.reason


def test_a_fault_in_a_long_log_costs_one_slice(town: Path) -> None:
    source = write_log(
        town, f"UPDATE lidar_box SET track_token = X'00' WHERE lidar_pc_token = X'{token('p', 9).hex()}'"
    )
    (bad,) = nuplan.read_part(source, 0, 2)
    assert isinstance(bad, BadRecord) and bad.is_log and "names" not in bad.record
    assert [x.log_id[-4:] for x in nuplan.read_part(source, 1, 2) if isinstance(x, DrivingLog)] == ["-001"]


CAR = f"X'{token('t', 0).hex()}'"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE lidar_box SET x = 'north' WHERE rowid = 3", "x_m is not a finite number"),
        ("UPDATE lidar_box SET yaw = NULL WHERE rowid = 3", "heading_rad is not a finite number"),
        (f"UPDATE track SET length = -2 WHERE token = {CAR}", "box size"),
        (f"UPDATE track SET width = 'wide' WHERE token = {CAR}", "box size"),
    ],
)
def test_a_bad_track_costs_itself_alone_and_is_told_once(town: Path, change: str, reason: str) -> None:
    logs, bad = read(write_log(town, change))
    assert [b.record for b in bad] == [token("t", 0).hex()] and reason in str(bad[0])
    assert list(logs[0].tracks.agent_id) == ["ego"] and logs[0].recorder == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DROP TABLE lidar_box", "no such table: lidar_box"),
        ("DROP TABLE ego_pose", "no such table: ego_pose"),
        ("ALTER TABLE lidar_box DROP COLUMN yaw", "no such column: b.yaw"),
        ("DELETE FROM log", "the table log has 0 rows"),
        ("UPDATE log SET location = '../../etc'", "expected plain names"),
        ("UPDATE log SET logfile = '../x'", "expected plain names"),
        ("UPDATE log SET location = NULL, map_version = NULL", "expected plain names"),
        ("UPDATE log SET map_version = CAST(X'FFFE' AS TEXT)", "cannot be read"),
        ("DELETE FROM lidar_pc", "the table lidar_pc has no rows"),
        ("UPDATE lidar_pc SET timestamp = timestamp - 50000 WHERE rowid = 9", "time does not go forward"),
        ("UPDATE lidar_pc SET timestamp = timestamp + 20000 WHERE rowid > 9", "expected multiples of 0.05 s"),
        ("UPDATE lidar_pc SET timestamp = timestamp + 86400000000 WHERE rowid > 9", "frames span 86430 s"),
        ("UPDATE lidar_pc SET timestamp = 'noon' WHERE rowid = 9", "time does not go forward"),
        ("DELETE FROM ego_pose", "has not two finite poses"),
        ("UPDATE ego_pose SET qw = 0, qz = 0", "has not two finite poses"),
        ("UPDATE ego_pose SET epsg = 4326", "EPSG:4326, expected a UTM zone"),
        ("UPDATE ego_pose SET epsg = 4326 WHERE rowid = 3", "in one coordinate system"),
        ("UPDATE lidar_box SET track_token = X'00' WHERE rowid = 3", "1 boxes name a track that is not there"),
        ("UPDATE ego_pose SET epsg = 32611", "no lane around the log"),
    ],
)
def test_a_bad_log_says_what_is_wrong(town: Path, change: str, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        list(nuplan.read(write_log(town, change)))


def test_views_and_functions_of_a_file_do_not_run(town: Path) -> None:
    """A view in a table's place could take for ever; a generated column could call functions."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS timestamp FROM n"
    for changes in (
        ("ALTER TABLE lidar_pc RENAME TO frames", f"CREATE VIEW lidar_pc AS {endless}"),
        ("ALTER TABLE lidar_pc RENAME TO frames", "CREATE VIEW lidar_pc AS SELECT rowid, * FROM frames"),
        (
            "DROP TABLE log",
            "CREATE TABLE log (a, logfile AS (hex(zeroblob(1000))), location)",
            "INSERT INTO log VALUES (1, 'x')",
        ),
    ):
        Path(town / "2021.09.16_veh-45_00441_00502.db").unlink(missing_ok=True)
        with pytest.raises(BadRecord, match=r"cannot be read|computed columns"):
            list(nuplan.read(write_log(town, *changes)))


def test_a_file_that_takes_too_much_work_is_given_up(town: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_log(town)
    monkeypatch.setattr(sqlite_file, "OPERATIONS", 0)
    monkeypatch.setattr(sqlite_file, "OPERATIONS_PER_BYTE", 0)
    monkeypatch.setattr(sqlite_file, "OPERATIONS_PER_CHECK", 100)
    with pytest.raises(BadRecord, match="interrupted"):
        list(nuplan.read(source))


def test_reading_leaves_nothing_beside_a_file_and_a_name_with_odd_characters_is_read(town: Path) -> None:
    source = Path(write_log(town))
    odd = source.with_name("a?b#c %41.db")
    source.rename(odd)
    assert len(read(str(odd))[0]) == 2
    assert [p.name for p in town.iterdir()] == [odd.name]


@pytest.mark.parametrize("size", [0, 10, 100, 5000, 100_000])
def test_a_truncated_log_is_a_bad_record(town: Path, size: int) -> None:
    source = Path(write_log(town))
    source.write_bytes(source.read_bytes()[:size])
    with pytest.raises(BadRecord, match=r"no SQLite file|cannot be read"):
        list(nuplan.read(str(source)))


def test_broken_pages_never_do_more_than_lose_the_log(town: Path) -> None:
    source = Path(write_log(town))
    whole = bytearray(source.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(40):
        broken = bytearray(whole)
        for page in rng.integers(1, len(whole) // 4096, 3):
            at = 4096 * int(page) + int(rng.integers(0, 64))
            broken[at : at + 16] = rng.bytes(16)
        source.write_bytes(broken)
        try:
            for item in nuplan.read(str(source)):
                assert isinstance(item, DrivingLog | BadRecord)
        except BadRecord:
            pass


@pytest.mark.parametrize("layer", ["baseline_paths", "lanes_polygons", "lane_connectors"])
def test_a_map_without_lanes_says_which_layer_is_missing(tmp_path: Path, layer: str) -> None:
    write_map(tmp_path, skip=[layer])
    with pytest.raises(BadRecord, match=f"lacks the layers {layer}"):
        list(nuplan.read(write_log(tmp_path)))


def test_a_map_without_the_other_layers_is_a_map(tmp_path: Path) -> None:
    write_map(tmp_path, skip=["boundaries", "crosswalks", "intersections", "generic_drivable_areas"])
    assert len(read(write_log(tmp_path))[0]) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE baseline_paths SET geom = X'4750' WHERE fid = 1", "no GeoPackage geometry in row 1"),
        ("UPDATE baseline_paths SET geom = 7 WHERE fid = 1", "no GeoPackage geometry in row 1"),
        ("UPDATE baseline_paths SET geom = X'47500001E610000001020000' WHERE fid = 1", "no geometry"),
        ("UPDATE baseline_paths SET geom = X'47500001E61000000102000000FFFFFFFF' WHERE fid = 1", "no geometry"),
        ("UPDATE gpkg_geometry_columns SET srs_id = 3857", "coordinate systems"),
        ("DELETE FROM gpkg_geometry_columns", "coordinate systems"),
    ],
)
def test_a_bad_map_says_what_is_wrong(tmp_path: Path, change: str, reason: str) -> None:
    con = sqlite3.connect(write_map(tmp_path))
    con.execute(change)
    con.commit()
    con.close()
    with pytest.raises(BadRecord, match=reason):
        list(nuplan.read(write_log(tmp_path)))


def test_of_a_city_only_what_may_reach_the_log_is_parsed(tmp_path: Path) -> None:
    """By the envelopes before the shapes: one 5 km off holds no shape at all, and one that covers all is kept."""
    path = write_map(tmp_path)
    con = sqlite3.connect(path)
    broken = geometry(north(X0 + 5000, Y0, Y0 + 50), True)[:40] + b"?"
    con.execute("UPDATE baseline_paths SET geom = ? WHERE fid = 5", (broken,))
    wide = geometry(strip(X0 - 50_000, Y0 - 50_000, X0 + 50_000, Y0 + 50_000), True)
    con.execute("UPDATE intersections SET geom = ?", (wide,))
    con.commit()
    whole = read(write_log(tmp_path))[0][0].map
    assert list(whole.feature_id[whole.of_kind("lane_centerline")]) == ["lane_10", "lane_11", "lane_12", "connector_40"]
    areas = [shapely.Polygon(whole.points(int(i))).area for i in whole.of_kind("drivable_area")]
    assert max(areas) > 9e9
    near = geometry(north(X0, Y0, Y0 + 50), True)[:40] + b"?"
    con.execute("UPDATE baseline_paths SET geom = ? WHERE fid = 5", (near,))
    con.commit()
    con.close()
    with pytest.raises(BadRecord, match="what is no geometry"):
        list(nuplan.read(str(next(tmp_path.glob("*.db")))))


def test_a_log_is_divided_by_its_own_size_and_not_by_its_city_s(town: Path, tmp_path: Path) -> None:
    source = write_log(town)
    con = sqlite3.connect(next(tmp_path.rglob("map.gpkg")))
    con.execute("INSERT INTO meta VALUES (1, 'large', zeroblob(30000000))")
    con.commit()
    con.close()
    assert len(ingestion.slices(logs_of("nuplan"), source)) == 1


def test_ids_that_a_map_writes_as_text_are_ids(tmp_path: Path) -> None:
    con = sqlite3.connect(write_map(tmp_path))
    for layer, column in (("baseline_paths", "lane_fid"), ("lane_connectors", "exit_lane_fid")):
        con.execute(f"ALTER TABLE {layer} RENAME COLUMN {column} TO old")
        con.execute(f"ALTER TABLE {layer} ADD COLUMN {column} TEXT")
        con.execute(f"UPDATE {layer} SET {column} = CAST(old AS TEXT)")
    con.commit()
    con.close()
    m = read(write_log(tmp_path))[0][0].map
    assert list(m.feature_id[m.of_kind("lane_centerline")]) == ["lane_10", "lane_11", "lane_12", "connector_40"]
    assert m.successors.tolist() == [[0, 3], [3, 2]]


def test_a_map_in_the_log_s_own_zone_needs_no_projection(tmp_path: Path) -> None:
    con = sqlite3.connect(write_map(tmp_path))
    line = geometry(shapely.LineString([(X0, Y0), (X0, Y0 + 50)]), False)
    con.execute("DELETE FROM baseline_paths WHERE fid > 1")
    con.execute("UPDATE baseline_paths SET geom = ?", (line,))
    con.execute("UPDATE gpkg_geometry_columns SET srs_id = 32617 WHERE table_name = 'baseline_paths'")
    con.commit()
    con.close()
    m = read(write_log(tmp_path))[0][0].map
    np.testing.assert_array_equal(m.points(0), [[X0, Y0], [X0, Y0 + 50]])


def real_logs(real_data: Path) -> list[str]:
    return [x.removeprefix("file://") for x in nuplan.find(str(real_data / "nuplan_db"))]


def test_every_real_log_says_that_its_map_is_missing(real_data: Path) -> None:
    sources = real_logs(real_data)
    assert len(sources) == 3
    for source in sources:
        with pytest.raises(BadRecord, match=r"no us-pa-pittsburgh-hazelwood/<version>/map\.gpkg"):
            list(nuplan.read(source))


def test_real_poses_equal_the_tables(real_data: Path) -> None:
    """Positions within 1 cm, headings within 0.001 rad of what SQL says, at every second frame."""
    for source in real_logs(real_data):
        with sqlite_file.opened(source) as database:
            whole = nuplan.read_whole(database, "x", "y")
            recording = nuplan.read_recording(database, whole)
        con = sqlite3.connect(f"file:{source}?mode=ro&immutable=1", uri=True)
        frames = con.execute("SELECT token, timestamp FROM lidar_pc ORDER BY timestamp").fetchall()[::2]
        assert (np.abs(np.diff([at for _, at in frames]) - 100_000) < 250).all(), "no frame is off by more than 0.25 ms"
        assert recording.frames.step.tolist() == list(range(len(frames)))
        sql = (
            "SELECT t.token, b.x, b.y, b.yaw, b.vx, b.vy FROM lidar_box b JOIN track t ON t.token = b.track_token "
            "WHERE b.lidar_pc_token = ?"
        )
        expected = [(n, *row) for n, (pc, _) in enumerate(frames) for row in con.execute(sql, (pc,))]
        key = {(n, t.hex()): row for n, t, *row in expected}
        boxes = recording.boxes
        assert len(key) == len(boxes.step)
        ids = whole.agents.agent_id[boxes.track]
        truth = np.array([key[int(s), str(i)] for s, i in zip(boxes.step, ids, strict=True)]).T
        np.testing.assert_allclose(boxes.pose[[0, 1, 3, 4]], truth[[0, 1, 3, 4]], atol=0.01)
        np.testing.assert_allclose(boxes.pose[2], truth[2], atol=0.001)
        # the recorder: the pose nearest in time, moved on by its own speed, and 1.461 m ahead
        at, x, y, qw, qx, qy, qz, vx = np.array(
            con.execute("SELECT timestamp, x, y, qw, qx, qy, qz, vx FROM ego_pose ORDER BY timestamp").fetchall()
        ).T
        yaw = np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy**2 + qz**2))
        for n, (_, frame_us) in enumerate(frames):
            k = int(np.abs(at - frame_us).argmin())
            ahead = 1.461 + vx[k] * (frame_us - at[k]) / 1e6
            here = recording.ego[:, n]
            assert np.hypot(here[0] - x[k] - ahead * np.cos(yaw[k]), here[1] - y[k] - ahead * np.sin(yaw[k])) < 0.01
            assert abs(np.angle(np.exp(1j * (here[2] - yaw[k])))) < 0.003
        con.close()


def test_a_real_log_with_a_map_becomes_windows(real_data: Path, tmp_path: Path) -> None:
    """The data has no map: one is made with a lane along the recorder's own path."""
    source = real_logs(real_data)[1]
    shutil.copy(source, tmp_path / "log.db")
    city = write_map(tmp_path, length_m=330)
    city.parent.parent.rename(tmp_path / "us-pa-pittsburgh-hazelwood")
    with sqlite_file.opened(source) as database:
        recording = nuplan.read_recording(database, nuplan.read_whole(database, "x", "y"))
    con = sqlite3.connect(tmp_path / "us-pa-pittsburgh-hazelwood" / "9.17.1937" / "map.gpkg")
    path = shapely.LineString(in_degrees(*recording.ego[:2, ::5]))
    con.execute("UPDATE baseline_paths SET geom = ? WHERE fid = 1", (geometry(path, True),))
    con.execute("UPDATE lanes_polygons SET geom = ? WHERE fid = 10", (geometry(path.buffer(2e-5), True),))
    con.commit()
    con.close()
    logs, bad = read(str(tmp_path / "log.db"))
    assert not bad and len(logs) == 3
    windows = [w for log in logs for w in cut(log)]
    own = [w for w in windows if w.ego_is_recorder]
    assert len(own) == len(range(20, 620 - 20, 5)) and len(windows) > len(own)
    lane = shapely.LineString(logs[0].map.points(list(logs[0].map.feature_id).index("lane_10")))
    for window in own:
        assert lane.distance(shapely.Point(window.map_SE2_window[:2])) < 0.1
