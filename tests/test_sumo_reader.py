"""SUMO runs read as driving logs: geometry, links, lights, and what is said of bad files."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from sdiff import KINDS, STEP_S, storage
from sdiff.geometry import wrap_angle
from sdiff.logs import sumo, sumo_net
from sdiff.logs.driving_log import LANE_TYPES, LIGHT_STATES, BadRecord, DrivingLog
from sdiff.simulate.tools import run

STRAIGHT = b"""<net version="1.20">
 <location netOffset="0,0" convBoundary="0,0,100,0" origBoundary="0,0,100,0" projParameter="+proj=utm +zone=32"/>
 <edge id=":b_0" function="internal"><lane id=":b_0_0" index="0" speed="8" length="4" shape="100,-1.6 104,-1.6"/></edge>
 <edge id="in" from="a" to="b">
  <lane id="in_0" index="0" allow="pedestrian" speed="1.4" length="100" width="2" shape="0,-8.4 100,-8.4"/>
  <lane id="in_1" index="1" allow="bicycle" speed="7" length="100" width="1" shape="0,-6.9 100,-6.9"/>
  <lane id="in_2" index="2" disallow="pedestrian" speed="13.9" length="100" shape="0,-4.8 100,-4.8"/>
  <lane id="in_3" index="3" disallow="pedestrian" speed="13.9" length="100" shape="0,-1.6 100,-1.6"/>
 </edge>
 <edge id="out" from="b" to="c">
  <lane id="out_0" index="0" speed="13.9" length="96" shape="104,-1.6 200,-1.6"/>
 </edge>
 <junction id="b" type="traffic_light" shape="100,0 104,0 104,-9.4 100,-9.4"/>
 <connection from="in" to="out" fromLane="3" toLane="0" via=":b_0_0" tl="b" linkIndex="0" dir="s" state="o"/>
 <connection from=":b_0" to="out" fromLane="0" toLane="0" dir="s" state="M"/>
</net>"""


@pytest.fixture
def one_car(tmp_path: Path) -> Path:
    """A run of one car of 5 x 2 m that drives 10 m/s to the east for 8 s, with a light ahead of it."""
    steps = np.arange(81)
    run = tmp_path / "straight"
    run.mkdir()
    (run / "net.xml.gz").write_bytes(gzip.compress(STRAIGHT))
    (run / "vtypes.add.xml").write_text('<additional><vType id="c" length="5" width="2"/></additional>')
    (run / "tls.xml").write_text(
        '<tlsStates><tlsState time="0" id="b" state="r"/><tlsState time="5" id="b" state="G"/></tlsStates>'
    )
    fcd = {
        "timestep_time": steps * 0.1,
        "vehicle_id": ["car"] * 81,
        "vehicle_x": 10.0 + steps * 1.0,
        "vehicle_y": np.full(81, -1.6),
        "vehicle_angle": np.full(81, 90.0),
        "vehicle_type": ["c"] * 81,
        "vehicle_speed": np.full(81, 10.0),
    }
    pq.write_table(pa.table(fcd), run / "fcd.parquet")
    return run


def only(run: Path) -> DrivingLog:
    (log,) = sumo.read(str(run))
    assert isinstance(log, DrivingLog)
    log.validate()
    return log


def test_a_box_centre_lies_half_a_length_behind_the_front_bumper(one_car: Path) -> None:
    tracks = only(one_car).tracks
    np.testing.assert_allclose(tracks.x_m[0, :3], [7.5, 8.5, 9.5])
    np.testing.assert_allclose(tracks.y_m[0], -1.6)
    np.testing.assert_allclose(tracks.heading_rad[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(tracks.vx_mps[0], 10.0)
    assert (tracks.length_m[0], tracks.width_m[0], KINDS[tracks.kind[0]]) == (5.0, 2.0, "car")


def test_a_light_stops_at_the_end_of_its_lane_and_shows_inside_the_junction(one_car: Path) -> None:
    log = only(one_car)
    assert log.map.feature_id[log.lights.lane].tolist() == ["lane/:b_0_0"]
    assert (log.lights.x_m[0], log.lights.y_m[0]) == (100.0, -1.6)
    shown = [LIGHT_STATES[s] for s in log.lights.state[0]]
    assert shown[:50] == ["stop"] * 50
    assert shown[50:] == ["go"] * 31


def test_lanes_know_their_kind_their_neighbours_and_what_follows(one_car: Path) -> None:
    m = only(one_car).map
    index = {name: i for i, name in enumerate(m.feature_id.tolist())}
    lane = [index[f"lane/in_{i}"] for i in range(4)]
    assert [LANE_TYPES[m.lane_type[i]] for i in lane] == ["pedestrian", "bike", "vehicle", "vehicle"]
    assert (m.left[lane[2]], m.right[lane[3]], m.left[lane[3]]) == (lane[3], lane[2], -1)
    inner, after = index["lane/:b_0_0"], index["lane/out_0"]
    assert sorted(m.successors.tolist()) == sorted([[lane[3], inner], [inner, after]])
    assert m.in_junction[inner]
    assert not m.in_junction[after]
    assert m.crs == "+proj=utm +zone=32"


def test_the_drivable_area_is_the_roadway_without_the_sidewalk(one_car: Path) -> None:
    m = only(one_car).map
    area = shapely.union_all([shapely.Polygon(m.points(f)) for f in m.of_kind("drivable_area")])
    before = area.intersection(shapely.box(0, -20, 100, 20))
    assert before.area == pytest.approx(100 * (3.2 + 3.2 + 1))
    assert not area.contains(shapely.Point(50, -8.4))
    assert area.contains(shapely.Point(102, -5))  # the junction
    (stop,) = m.of_kind("stop_line")
    np.testing.assert_allclose(np.sort(m.points(int(stop))[:, 1]), [-3.2, 0])


@pytest.mark.parametrize("side", ["right", "left"])
def test_neighbours_and_road_edges_lie_on_the_side_that_traffic_keeps_to(tmp_path: Path, side: str) -> None:
    grid = ("--grid", "--grid.number=2", "--grid.length=120", "--default.lanenumber=3", "--no-turnarounds")
    run("netgenerate", *grid, "--output-file=a.net.xml", *(["--lefthand"] * (side == "left")), folder=tmp_path)
    net = sumo_net.parse((tmp_path / "a.net.xml").read_bytes())
    assert net.lefthand == (side == "left")
    m, _ = sumo_net.vector_map(net)
    m.validate()
    pairs = [(int(f), int(m.left[f])) for f in m.of_kind("lane_centerline") if m.left[f] >= 0]
    assert len(pairs) >= 16 and all(m.right[other] == f for f, other in pairs)
    across_m = [_to_left_m(m.points(f), m.points(other)) for f, other in pairs if not m.in_junction[f]]
    np.testing.assert_allclose(across_m, 3.2, atol=0.01)
    index = {name: i for i, name in enumerate(m.feature_id.tolist())}
    area = shapely.union_all([shapely.Polygon(m.points(f)).buffer(0) for f in m.of_kind("drivable_area")])
    for edge in m.of_kind("road_edge"):
        lane = index[m.feature_id[edge].replace("edge/", "lane/")]
        outside_m = _to_left_m(m.points(lane), m.points(int(edge)))
        assert outside_m == pytest.approx(1.6 if side == "left" else -1.6)
        assert m.left[lane] < 0 if side == "left" else m.right[lane] < 0
        middle = shapely.LineString(m.points(int(edge))).interpolate(0.5, normalized=True)
        assert area.boundary.distance(middle) < 0.01, "a road edge is the rim of the roadway"


def _to_left_m(line: np.ndarray, other: np.ndarray) -> float:
    """How far the middle of another line lies to the left of a straight line."""
    (x, y), (dx, dy) = other.mean(0) - line.mean(0), line[-1] - line[0]
    return float((dx * y - dy * x) / np.hypot(dx, dy))


def test_a_line_beside_a_corner_keeps_its_distance() -> None:
    corner, straight = np.array([[0, 0], [10, 0], [10, 10.0]]), np.array([[0, 5], [8, 5.0]])
    shifted = sumo_net.beside([corner, straight], [1.0, -2.0])
    np.testing.assert_allclose(shifted[0], [[0, 1], [9, 1], [9, 10]])
    np.testing.assert_allclose(shifted[1], [[0, 3], [8, 3]])


def test_permissions_say_who_a_lane_is_for() -> None:
    assert sumo_net.lane_type(None, None) == "vehicle"
    assert sumo_net.lane_type("bus delivery bicycle pedestrian", None) == "pedestrian"
    assert sumo_net.lane_type("bus taxi bicycle", None) == "bus"
    assert sumo_net.lane_type(None, "all") is None
    assert sumo_net.lane_type("rail", None) is None


def test_where_a_lane_leads_the_next_one_begins(sumo_run: Path) -> None:
    m = _logs(sumo_run)[0].map
    ends = np.array([m.points(a)[-1] for a, _ in m.successors])
    starts = np.array([m.points(b)[0] for _, b in m.successors])
    gap_m = np.hypot(*(ends - starts).T)
    assert len(gap_m) > 50
    assert np.quantile(gap_m, 0.99) < 0.5


def test_velocity_is_the_derivative_of_the_centre_and_points_along_the_heading(sumo_run: Path) -> None:
    for log in _logs(sumo_run):
        t = log.tracks
        both = t.valid[:, :-1] & t.valid[:, 1:]
        for position, velocity in ((t.x_m, t.vx_mps), (t.y_m, t.vy_mps)):
            moved = np.diff(position, axis=1)[both]
            expected = (velocity[:, :-1] + velocity[:, 1:])[both] / 2 * STEP_S
            assert np.quantile(np.abs(moved - expected), 0.99) < 0.05  # walkers start and stop at once
        fast = t.valid & (np.hypot(t.vx_mps, t.vy_mps) > 1) & np.isin(t.kind, [KINDS.index("car")])[:, None]
        off = np.abs(wrap_angle(np.arctan2(t.vy_mps, t.vx_mps) - t.heading_rad))[fast]
        assert np.quantile(off, 0.99) < np.radians(15)


def test_cars_drive_on_the_drivable_area(sumo_run: Path) -> None:
    for log in _logs(sumo_run):
        area = shapely.union_all([shapely.Polygon(log.map.points(f)) for f in log.map.of_kind("drivable_area")])
        shapely.prepare(area)
        cars = log.tracks.valid & (log.tracks.kind == KINDS.index("car"))[:, None]
        inside = shapely.contains_xy(area, log.tracks.x_m[cars], log.tracks.y_m[cars])
        assert inside.mean() > 0.97


def test_cars_that_pass_a_stop_line_do_not_see_red(sumo_run: Path) -> None:
    passed = red = 0
    for log in _logs(sumo_run):
        t, lights = log.tracks, log.lights
        front_x = t.x_m + t.length_m[:, None] / 2 * np.cos(t.heading_rad)
        front_y = t.y_m + t.length_m[:, None] / 2 * np.sin(t.heading_rad)
        stops = np.unique(np.stack([lights.x_m, lights.y_m], 1), axis=0)
        cars = np.flatnonzero(t.kind == KINDS.index("car"))
        for x, y in stops:
            shown = lights.state[(lights.x_m == x) & (lights.y_m == y)]
            c, s = np.cos(t.heading_rad[cars]), np.sin(t.heading_rad[cars])
            ahead = (x - front_x[cars]) * c + (y - front_y[cars]) * s
            aside = np.abs((y - front_y[cars]) * c - (x - front_x[cars]) * s)
            valid = t.valid[cars]
            crossing = (ahead[:, :-1] > 0) & (ahead[:, 1:] <= 0) & (ahead[:, 1:] > -3) & (aside[:, :-1] < 1)
            for step in np.nonzero(crossing & valid[:, :-1] & valid[:, 1:])[1]:
                passed += 1
                red += bool((shown[:, step] == LIGHT_STATES.index("stop")).all())
    assert passed >= 5
    assert red == 0


def test_logs_of_one_block_share_a_split_and_have_their_own_ids(sumo_run: Path) -> None:
    logs = _logs(sumo_run)
    assert len({log.log_id for log in logs}) == len(logs)
    for log in logs:
        assert log.log_id.startswith(log.split_key + "-")
        assert log.recorder is not None
        assert KINDS[log.tracks.kind[log.recorder]] == "car"


def test_reading_twice_gives_the_same(sumo_run: Path) -> None:
    for a, b in zip(_logs(sumo_run), _logs(sumo_run), strict=True):
        assert a.log_id == b.log_id
        np.testing.assert_array_equal(a.tracks.x_m, b.tracks.x_m)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("fcd.parquet", b"PAR1 cut", "fcd.parquet cannot be read"),
        ("net.xml.gz", b"<net><edge", "cannot be parsed"),
        ("net.xml.gz", b"<routes/>", "root <routes>"),
        ("net.xml.gz", gzip.compress(STRAIGHT)[:200], "not whole"),
        ("vtypes.add.xml", b"<additional/>", "known vehicle type"),
        ("tls.xml", b"<tlsStates><tlsState id='b' time='0'/></tlsStates>", "expected id, time, state"),
        ("run.json", b"{", "run.json cannot be parsed"),
    ],
)
def test_a_bad_file_is_named(one_car: Path, file: str, content: bytes, told: str) -> None:
    (one_car / file).write_bytes(content)
    with pytest.raises(BadRecord, match=told):
        list(sumo.read(str(one_car)))


def test_a_recording_with_gaps_in_time_is_refused(one_car: Path) -> None:
    table = pq.read_table(one_car / "fcd.parquet")
    pq.write_table(table.take(list(range(0, 81, 10))), one_car / "fcd.parquet")
    with pytest.raises(BadRecord, match=r"every 0\.1 s"):
        list(sumo.read(str(one_car)))


@pytest.mark.parametrize("step_s", [0.05, 0.2, 1.0])
def test_a_recording_of_another_rate_is_named(one_car: Path, step_s: float) -> None:
    table = pq.read_table(one_car / "fcd.parquet")
    time = pa.array(np.arange(81) * step_s)
    pq.write_table(table.set_column(0, "timestep_time", time), one_car / "fcd.parquet")
    with pytest.raises(
        BadRecord, match=rf"every {step_s:g} s, expected every 0\.1 s; .*--step-length 0\.1.*fcd\.period"
    ):
        list(sumo.read(str(one_car)))


def test_places_in_degrees_are_named_though_the_network_begins_at_zero(one_car: Path) -> None:
    """At 48 degrees of latitude; the network here reaches from 0 to 200 m."""
    table = pq.read_table(one_car / "fcd.parquet")
    east = pa.array(11.4 + table["vehicle_x"].to_numpy() / 74_600)
    table = table.set_column(2, "vehicle_x", east).set_column(3, "vehicle_y", pa.array(np.full(81, 48.7)))
    pq.write_table(table, one_car / "fcd.parquet")
    with pytest.raises(BadRecord, match=r"longitude and latitude.*without --fcd-output\.geo"):
        list(sumo.read(str(one_car)))


def test_places_off_the_network_are_named(one_car: Path) -> None:
    table = pq.read_table(one_car / "fcd.parquet")
    table = table.set_column(2, "vehicle_x", pa.array(table["vehicle_x"].to_numpy() + 690_000))
    pq.write_table(table, one_car / "fcd.parquet")
    with pytest.raises(
        BadRecord, match=r"x 690010 to 690090 m.*net\.xml's x 0 to 200 m.*the network that was simulated"
    ):
        list(sumo.read(str(one_car)))


def test_a_vehicle_that_stands_near_zero_is_not_in_degrees(one_car: Path) -> None:
    table = pq.read_table(one_car / "fcd.parquet").to_pylist()
    parked = [{**row, "vehicle_id": "parked", "vehicle_x": 5.0, "vehicle_speed": 0.0} for row in table]
    rows = [row for pair in zip(table, parked, strict=True) for row in pair]
    pq.write_table(pa.Table.from_pylist(rows), one_car / "fcd.parquet")
    assert sorted(only(one_car).tracks.agent_id) == ["car", "parked"]


def test_vehicles_of_types_that_are_not_defined_cost_a_letter_each_type(one_car: Path) -> None:
    (one_car / "vtypes.add.xml").write_text(
        '<additional><vType id="c" length="5" width="2"/><vType id="t" vClass="tram"/></additional>'
    )
    table = pq.read_table(one_car / "fcd.parquet").to_pylist()
    others = [{**row, "vehicle_id": kind, "vehicle_type": kind} for row in table[:30] for kind in ("a", "b", "t")]
    rows = sorted([*table, *others], key=lambda row: row["timestep_time"])
    pq.write_table(pa.Table.from_pylist(rows), one_car / "fcd.parquet")
    *letters, log = sumo.read(str(one_car))
    assert isinstance(log, DrivingLog) and log.tracks.agent_id.tolist() == ["car"]
    assert [(x.record, x.reason, x.is_log) for x in letters if isinstance(x, BadRecord)] == [
        (kind, "30 rows of fcd.parquet have a vehicle type that vtypes.add.xml does not define", False)
        for kind in ("a", "b")
    ]
    parts = [item for part in range(3) for item in sumo.read_part(str(one_car), part, 3)]
    assert [x.record for x in parts if isinstance(x, BadRecord)] == ["a", "b"], "each once, however it is divided"


def test_a_run_of_which_no_type_is_defined_says_which_it_has(one_car: Path) -> None:
    (one_car / "vtypes.add.xml").write_text('<additional><vType id="other"/></additional>')
    with pytest.raises(BadRecord, match=r"no row of a known vehicle type; its types are c \(81 rows\), expected"):
        list(sumo.read(str(one_car)))


XML_ROW = '<vehicle id="{vehicle_id}" x="{vehicle_x}" y="{vehicle_y}" angle="{vehicle_angle}" type="{vehicle_type}" '
XML_ROW += 'speed="{vehicle_speed}" pos="1" lane="in_2"/>'


def as_text(table: pa.Table, name: str) -> bytes:
    """The FCD as SUMO writes it under that name, with a step in which nobody is there at the end."""
    rows = table.to_pylist()
    if ".csv" in name:
        lines = [";".join(table.column_names), *(";".join(map(str, row.values())) for row in rows), "99.0;;;;;;"]
        data = "\n".join([*lines, ""]).encode()
    else:
        steps = [f'<timestep time="{row["timestep_time"]}">{XML_ROW.format(**row)}</timestep>' for row in rows]
        data = f'<fcd-export>{"".join(steps)}<timestep time="99"/></fcd-export>'.encode()
    return gzip.compress(data) if name.endswith(".gz") else data


@pytest.mark.parametrize("name", ["fcd.xml", "fcd.xml.gz", "fcd.csv", "fcd.csv.gz"])
def test_xml_and_csv_say_the_same_as_parquet(one_car: Path, name: str) -> None:
    expected = only(one_car)
    table = pq.read_table(one_car / "fcd.parquet")
    (one_car / "fcd.parquet").unlink()
    (one_car / name).write_bytes(as_text(table, name))
    assert sumo.find(str(one_car.parent)) == [f"file://{one_car}"]
    log = only(one_car)
    assert log.tracks.agent_id.tolist() == expected.tracks.agent_id.tolist()
    for field in ("x_m", "y_m", "heading_rad", "vx_mps", "valid", "length_m"):
        assert (getattr(log.tracks, field) == getattr(expected.tracks, field)).all()


def test_what_sumo_writes_as_xml_and_csv_is_read(town: Path, tmp_path: Path) -> None:
    """Cars, and a person, whose rows XML keeps apart."""
    routes = '<routes><flow id="f" begin="0" end="60" period="3" from="A0B0" to="B1A1"/>'
    routes += '<person id="p" depart="1"><walk from="A0B0" to="B1A1"/></person></routes>'
    (tmp_path / "r.xml").write_text(routes)
    found = {}
    for name in ("fcd.parquet", "fcd.xml", "fcd.csv"):
        folder = tmp_path / name.rpartition(".")[2]
        folder.mkdir()
        shutil.copy(town, folder / "net.xml")
        (folder / "vtypes.add.xml").write_text("<additional/>")
        how = ("--step-length", "0.1", "--end", "30", "--fcd-output", name, "--precision", "6")
        run("sumo", "-n", "net.xml", "-r", "../r.xml", *how, folder=folder)
        found[name] = _logs(folder)[0].tracks
        assert "p" in found[name].agent_id
    for name in ("fcd.xml", "fcd.csv"):
        assert found[name].agent_id.tolist() == found["fcd.parquet"].agent_id.tolist()
        np.testing.assert_allclose(found[name].x_m, found["fcd.parquet"].x_m, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("fcd.xml", b"<fcd-export><timestep", r"fcd\.xml cannot be read \(ExpatError"),
        ("fcd.xml", b"<fcd-export></fcd-export>", "it has no rows"),
        ("fcd.xml", b"<routes><vehicle/></routes>", "KeyError"),
        ("fcd.xml", b"<routes></routes>", "root is <routes>, expected <fcd-export>"),
        ("fcd.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><fcd-export/>', "has a DTD"),
        ("fcd.xml.gz", gzip.compress(bytes(300 << 20)), r"more than 256 MiB.*use --fcd-output fcd\.parquet"),
        ("fcd.csv", b"a;b\n1;2\n", "Column 'timestep_time' in include_columns does not exist"),
        ("fcd.csv", b"\n" * 3_000_001, "3000001 lines"),
        ("fcd.csv", b"timestep_time;vehicle_id\n0;\xff\n", "cannot be read"),
    ],
)
def test_bad_xml_and_csv_is_named(one_car: Path, name: str, content: bytes, told: str) -> None:
    (one_car / "fcd.parquet").unlink()
    (one_car / name).write_bytes(content)
    with pytest.raises(BadRecord, match=told):
        list(sumo.read(str(one_car)))


def test_a_folder_without_fcd_says_what_is_expected(one_car: Path) -> None:
    (one_car / "fcd.parquet").unlink()
    with pytest.raises(storage.StorageError, match=r"net\.xml and one of fcd\.parquet, fcd\.xml"):
        sumo.find(str(one_car))
    with pytest.raises(BadRecord, match=r"none of fcd\.parquet, fcd\.xml.*--fcd-output fcd\.parquet"):
        list(sumo.read(str(one_car)))


def test_steps_at_which_nobody_is_there_are_no_gap(one_car: Path) -> None:
    steps = np.arange(101)
    fcd = {
        "timestep_time": np.concatenate([steps, steps + 110]) * 0.1,
        "vehicle_id": ["early"] * 101 + ["late"] * 101,
        "vehicle_x": np.tile(10.0 + steps * 0.8, 2),
        "vehicle_y": np.full(202, -1.6),
        "vehicle_angle": np.full(202, 90.0),
        "vehicle_type": ["c"] * 202,
        "vehicle_speed": np.full(202, 8.0),
    }
    pq.write_table(pa.table(fcd), one_car / "fcd.parquet")
    assert {log.tracks.agent_id[log.recorder] for log in _logs(one_car)} == {"early", "late"}


def test_a_missing_network_is_named(one_car: Path, tmp_path: Path) -> None:
    shutil.move(one_car / "net.xml.gz", tmp_path / "elsewhere")
    with pytest.raises(BadRecord, match=r"has no net\.xml"):
        list(sumo.read(str(one_car)))


def test_stretches_of_a_run_hold_its_logs_once(long_run: Path) -> None:
    whole = _logs(long_run)
    stretches = [list(sumo.read_part(str(long_run), part, 3)) for part in range(3)]
    found = [log for stretch in stretches for log in stretch if isinstance(log, DrivingLog)]
    assert all(stretches)
    assert [log.log_id for log in found] == [log.log_id for log in whole]
    for a, b in zip(whole, found, strict=True):
        assert (a.start_us, a.split_key, a.lights.state.tolist()) == (b.start_us, b.split_key, b.lights.state.tolist())
        for name in ("x_m", "y_m", "heading_rad", "vx_mps", "valid", "length_m"):
            order, other = np.argsort(a.tracks.agent_id), np.argsort(b.tracks.agent_id)
            assert (getattr(a.tracks, name)[order] == getattr(b.tracks, name)[other]).all()
    assert list(sumo.read_part(str(long_run), 0, 50)) == []  # shorter than a log


def test_a_stretch_costs_its_share_of_reading(long_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {1: 0, 6: 0}
    read, file = storage.read_bytes, str(long_run / "fcd.parquet")
    monkeypatch.setattr(storage, "digest", lambda uri, hash: b"same")
    for parts in asked:

        def counting(uri: str, *span: int, parts: int = parts) -> bytes:
            data = read(uri, *span)
            asked[parts] += len(data) * (uri == file)
            return data

        monkeypatch.setattr(storage, "read_bytes", counting)
        list(sumo.read_part(str(long_run), parts // 2, parts))
    assert asked[6] < asked[1] / 2


def test_a_gap_in_a_long_recording_costs_one_stretch(long_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "gap"
    shutil.copytree(long_run, run)
    table = pq.read_table(run / "fcd.parquet")
    time = table["timestep_time"].to_numpy()
    blocks = round((time.max() - time.min()) / STEP_S + 1 - 2 * sumo.PAD_STEPS) // sumo.BLOCK_STEPS
    of_third = time.min() + STEP_S * (sumo.PAD_STEPS + 2.5 * sumo.BLOCK_STEPS)
    pq.write_table(table.filter(pa.array(abs(time - of_third) > 1)), run / "fcd.parquet")
    stretches = [list(sumo.read_part(str(run), part, blocks)) for part in range(blocks)]
    (bad,) = (item for stretch in stretches for item in stretch if isinstance(item, BadRecord))
    assert (bad.record, bad.is_log) == (f"part 3 of {blocks}", True)
    assert [part for part, stretch in enumerate(stretches) if stretch[:1] == [bad]] == [2]
    assert all(isinstance(stretch[0], DrivingLog) for part, stretch in enumerate(stretches) if part != 2)


def _logs(run: Path) -> list[DrivingLog]:
    logs = [log for log in sumo.read(str(run)) if isinstance(log, DrivingLog)]
    assert logs
    return logs
