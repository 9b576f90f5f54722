"""Simulated runs: who is in them, the same again by seed, networks of one's own, clear errors."""

import filecmp
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cli import sdiff

from sdiff import storage
from sdiff.logs import sumo
from sdiff.logs.driving_log import DrivingLog
from sdiff.simulate import route_file, simulate
from sdiff.simulate.tools import SimulationError
from sdiff.simulate.traffic import vehicle_types


def test_the_same_seed_gives_the_same_bytes(sumo_run: Path, tmp_path: Path) -> None:
    net = str(sumo_run / "net.xml.gz")
    first, again, other = (
        Path(str(simulate(str(tmp_path / name), 0.05, seed, net=net)["runs"][0]))  # type: ignore[index]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    names = sorted(p.name for p in first.iterdir())
    assert names == ["fcd.parquet", "net.xml.gz", "run.json", "tls.xml.gz", "vtypes.add.xml"]
    same, different, failed = filecmp.cmpfiles(first, again, names, shallow=False)
    assert (sorted(same), different, failed) == (names, [], [])
    assert (first / "fcd.parquet").read_bytes() != (other / "fcd.parquet").read_bytes()
    made = (first / "fcd.parquet").stat().st_mtime_ns
    simulate(str(tmp_path / "a"), 0.05, 1, net=net)
    assert (first / "fcd.parquet").stat().st_mtime_ns == made  # what is there is not made again


def test_all_kinds_of_road_users_are_there_every_tenth_of_a_second(sumo_run: Path) -> None:
    fcd = pq.read_table(sumo_run / "fcd.parquet")
    kinds = {name.split("_")[0] for name in fcd["vehicle_type"].unique().to_pylist()}
    assert kinds >= {"car", "van", "truck", "bus", "motorcycle", "bicycle", "pedestrian"}
    times = np.unique(fcd["timestep_time"].to_numpy())
    np.testing.assert_allclose(np.diff(times), 0.1)
    assert times[-1] - times[0] == pytest.approx(28.0, abs=0.2)  # 0.4 min, and 2 s before and after


def test_vehicle_types_have_many_sizes() -> None:
    text = vehicle_types(3)
    cars = [float(line.split('length="')[1].split('"')[0]) for line in text.splitlines() if 'id="car_' in line]
    assert len(cars) >= 20
    assert 3.6 < min(cars) < 4.2
    assert 4.7 < max(cars) < 5.2


def test_routes_of_ones_own_are_driven(sumo_run: Path, tmp_path: Path) -> None:
    first = json.loads((sumo_run / "run.json").read_text())
    lane = pq.read_table(sumo_run / "fcd.parquet")  # any edge of the network will do
    assert lane.num_rows
    routes = tmp_path / "own.rou.xml"
    routes.write_text(
        '<routes><vType id="mine" vClass="truck" length="9" width="2.5"/>'
        '<flow id="f" type="mine" begin="80" end="200" period="5" from="A0B0" to="B1A1"/></routes>'
    )
    run = simulate(str(tmp_path / "out"), 0.1, 0, net=str(sumo_run / "net.xml.gz"), routes=str(routes))["runs"][0]  # type: ignore[index]
    assert first["region"] == "town"
    assert pq.read_table(f"{run}/fcd.parquet")["vehicle_type"].unique().to_pylist() == ["mine"]


def own_run(net: Path, routes: str, tmp_path: Path) -> pa.Table:
    """The rows that are recorded of traffic of one's own."""
    (tmp_path / "own.rou.xml").write_text(f"<routes>{routes}</routes>")
    run = simulate(str(tmp_path / "out"), 0.1, 0, net=str(net), routes=str(tmp_path / "own.rou.xml"))["runs"][0]  # type: ignore[index]
    return pq.read_table(f"{run}/fcd.parquet")


def test_a_demand_that_starts_late_is_recorded_when_it_is_there(sumo_run: Path, tmp_path: Path) -> None:
    flow = '<flow id="f" begin="7:00:00" end="9:00:00" period="5" from="A0B0" to="B1A1"/>'
    fcd = own_run(sumo_run / "net.xml.gz", flow, tmp_path)
    assert fcd["timestep_time"].to_numpy().min() == pytest.approx(7 * 3600 + 90)
    assert len(fcd["vehicle_id"].unique()) > 1


def test_traffic_that_all_sets_out_at_once_is_recorded_from_then(sumo_run: Path, tmp_path: Path) -> None:
    """And a type that is not defined, but has the name of a class, is of that class."""
    trip = '<trip id="{}" type="{}" depart="50.5" from="A0B0" to="B1A1"/>'
    fcd = own_run(sumo_run / "net.xml.gz", trip.format("a", "truck") + trip.format("b", "passenger"), tmp_path)
    fcd = fcd.filter(fcd["vehicle_id"].is_valid())
    assert fcd["timestep_time"].to_numpy().min() < 51.5
    assert set(fcd["vehicle_type"].to_pylist()) == {"truck", "passenger"}
    types = ET.parse(tmp_path / "out" / "net_seed0" / "vtypes.add.xml").getroot()
    assert {kind.attrib["id"]: kind.attrib["vClass"] for kind in types} == {"truck": "truck", "passenger": "passenger"}


@pytest.mark.parametrize(
    ("routes", "told"),
    [
        ("", "nobody was on the road"),
        ('<trip id="a" depart="5" from="nowhere" to="B1A1"/>', "edge 'nowhere'"),
        ('<trip id="a" type="mine" depart="5" from="A0B0" to="B1A1"/>', "type 'mine'"),
    ],
)
def test_a_run_in_which_nobody_drives_is_an_error(sumo_run: Path, tmp_path: Path, routes: str, told: str) -> None:
    (tmp_path / "own.rou.xml").write_text(f"<routes>{routes}</routes>")
    given = ["--net", str(sumo_run / "net.xml.gz"), "--routes", str(tmp_path / "own.rou.xml"), "--minutes", "0.5"]
    done = sdiff("simulate", "--output", str(tmp_path / "out"), *given)
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr and "unexpected" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_times_of_departure_are_read_in_all_forms() -> None:
    told = route_file.read(
        b'<routes><vehicle depart="1:01:01.5"/><trip depart="triggered"/><person depart="2:0:0:0"/>'
        b'<flow begin="10"/><vType id="bus"/><flow begin="10" type="bus"/><flow begin="10" type="tram"/></routes>'
    )
    assert (told.first_s, told.last_s) == (10.0, np.inf)
    assert told.types == '<vType id="bus"/>' and told.lacking == '<vType id="tram" vClass="tram"/>'
    assert np.isnan(route_file.read(b"<routes").first_s)
    assert route_file.read(b'<routes><vehicle depart="1:01:01.5"/></routes>').last_s == 3661.5


@pytest.mark.parametrize(
    ("net", "routes"),
    [
        ("sumo_resco/cologne1/cologne1.net.xml.gz", "sumo_resco/cologne1/cologne1.rou.xml.gz"),
        ("sumo_osm_nets/ITA_Siderno-10_1_I-1-1.net.xml.gz", "sumo_osm_nets/ITA_Siderno-10_1_I-1-1.vehicles.rou.xml.gz"),
    ],
)
def test_real_demand_on_a_real_network_becomes_logs(real_data: Path, tmp_path: Path, net: str, routes: str) -> None:
    run = simulate(str(tmp_path), 0.5, net=str(real_data / net), routes=str(real_data / routes))["runs"][0]  # type: ignore[index]
    assert any(isinstance(item, DrivingLog) for item in sumo.read(run))


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(storage.StorageError, match="no SUMO run"):
        sumo.find(str(tmp_path))


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "town.net.xml").write_text("<additional/>")
    with pytest.raises(SimulationError, match=r"town.*expected <net>"):
        simulate(str(tmp_path), 0.1, net=str(tmp_path / "town.net.xml"))
    with pytest.raises(storage.StorageError, match="absent"):
        simulate(str(tmp_path), 0.1, net=str(tmp_path / "absent.net.xml"))


@pytest.mark.parametrize(
    ("wrong", "told"), [({"minutes": 0}, "minutes"), ({"regions": 99}, "regions"), ({"routes": "r"}, "network")]
)
def test_a_wrong_call_is_refused(tmp_path: Path, wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        simulate(str(tmp_path), **wrong)  # type: ignore[arg-type]


def test_routes_that_do_not_fit_the_network_fail_with_what_sumo_said(sumo_run: Path, tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text("<routes><vehicle")
    with pytest.raises(SimulationError, match="sumo failed"):
        simulate(str(tmp_path), 0.1, net=str(sumo_run / "net.xml.gz"), routes=str(tmp_path / "r.xml"))
