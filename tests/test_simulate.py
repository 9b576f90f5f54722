"""Simulated runs: who is in them, the same again by seed, networks of one's own, clear errors."""

import filecmp
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sdiff import storage
from sdiff.logs import sumo
from sdiff.simulate import simulate
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
