"""Exported scenarios hold what the tables hold, where ScenarioNet expects it; what cannot be exported is counted."""

import json
import os
import pickle
import pickletools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from crossroads import crossroads
from traffic import traffic

from sdiff import export, storage, tables, window_tables
from sdiff.export import scenarionet
from sdiff.geometry import SE2
from sdiff.logs.driving_log import VectorMap
from sdiff.maps.crop import around
from sdiff.maps.lanes import map_from_rows
from sdiff.scene import Agents
from sdiff.windows import WindowLights
from tests import test_query

KINDS = ["car", "bus", "truck", "vehicle", "motorcyclist", "cyclist", "pedestrian", "other"]
HERE = SE2(-20.0, -1.75, 0.0)
"""On the right lane of the crossroads, heading east, 30 m before the junction."""


def generated(agents: Agents) -> Agents:
    """The agents as a model's: the second one was asked for."""
    index = np.where(np.arange(len(agents)) == 1, 0, -1).astype(np.int32)
    return replace(agents, score=np.ones(len(agents), np.float32), token_index=index)


def one_of_each() -> Agents:
    """An agent of every kind in a row, 10 m apart, the AV behind all others, driving at 5 m/s."""
    return generated(traffic(10.0 * np.arange(len(KINDS)), np.zeros(len(KINDS)), speed_mps=5.0, kind=KINDS))


def rows(scenes: list[Agents], at: SE2 = HERE, **columns: Any) -> pa.Table:
    """Rows of scenarios at one place of the crossroads."""
    n = len(scenes)
    pose = {f"origin_{k}": pa.array([v] * n) for k, v in at._asdict().items()}
    known = {"map_id": pa.array(["crossroads"] * n), "window_id": pa.array(["window0"] * n), **pose}
    return test_query.scenario_rows(scenes, **{**known, **columns})


def lights() -> WindowLights:
    """A signal that turns green at t0, at the end of the AV's lane."""
    state = np.repeat([[1, 3]], [20, 21], 1).astype(np.int8)
    return WindowLights(np.array(["in_right"]), np.float32([30.0]), np.float32([0.0]), state)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Three scenarios and the map beside them."""
    uri = str(tmp_path / "data")
    tables.write(rows([one_of_each()] * 3), "scenarios", uri, "a")
    tables.write(window_tables.maps_table(crossroads()), "maps", uri, "a")
    return uri


def exported(data: str, output: Path, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The counts, and the scenarios in the data set's order."""
    counts = export.export(data, to="scenarionet", output=str(output), **options)
    mapping = pickle.loads((output / "dataset_mapping.pkl").read_bytes())
    return counts, [pickle.loads((output / folder / name).read_bytes()) for name, folder in mapping.items()]


def scene_of(agents: Agents, map: VectorMap, at: SE2 = HERE) -> dict[str, Any]:
    """The agents on a map as ScenarioNet has them."""
    row = rows([agents], at).select(export.FACTS).to_pylist()[0]
    none = WindowLights(np.zeros(0, np.str_), np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros((0, 41)))
    return scenarionet.describe(export.Scene(row, agents, around(map, at, export.REACH_M), at, none))


def test_the_folder_is_a_data_set(data, tmp_path):
    counts, scenarios = exported(data, tmp_path / "out")
    assert (counts["exported"], counts["left_out"]) == (3, [])
    summary = pickle.loads((tmp_path / "out/dataset_summary.pkl").read_bytes())
    assert [s["id"] for s in scenarios] == ["scenario0", "scenario1", "scenario2"]
    assert [m["scenario_id"] for m in summary.values()] == [s["id"] for s in scenarios]
    for name in summary:
        assert name.startswith("sd_") and name.endswith(".pkl") and (tmp_path / "out" / name).exists()


def test_every_value_has_a_step_and_a_native_type(data, tmp_path):
    _, (scenario, *_) = exported(data, tmp_path / "out")
    assert {"id", "version", "length", "tracks", "dynamic_map_states", "map_features", "metadata"} == set(scenario)
    assert scenario["length"] == 41 == len(scenario["metadata"]["ts"])
    assert np.allclose(np.diff(scenario["metadata"]["ts"]), 0.1)
    for name, track in scenario["tracks"].items():
        assert track["metadata"]["object_id"] == name
        assert {len(v) for v in track["state"].values()} == {41}
        assert track["state"]["position"].shape == (41, 3)
        assert track["state"]["velocity"].shape == (41, 2)

    def check(value: Any) -> None:
        assert type(value) in (int, float, str, bool, np.ndarray, dict, list, type(None)), type(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(item)

    check(scenario)


@pytest.mark.parametrize("heading_rad", [0.0, 2.0, -3.0])
def test_ten_metres_ahead_stays_ten_metres_ahead_and_the_map_pose_leads_back(heading_rad):
    at = SE2(400_000.0, 5_000_000.0, heading_rad)
    agents = generated(traffic([0.0, 10.0, 0.0], [0.0, 0.0, 3.5], [0.0, 0.0, np.pi / 2], 5.0))
    here = crossroads()
    moved = replace(here, xy_m=np.stack(at.apply(*here.xy_m.T), 1))
    scenario = scene_of(agents, moved, at)
    av, ahead, left = (t["state"] for t in scenario["tracks"].values())
    t0 = scenario["metadata"]["current_time_index"]
    assert (ahead["position"] - av["position"])[t0] == pytest.approx([10, 0, 0], abs=1e-5)
    assert (left["position"] - av["position"])[t0] == pytest.approx([0, 3.5, 0], abs=1e-5)
    assert left["heading"][t0] == pytest.approx(np.pi / 2)
    assert left["velocity"][t0] == pytest.approx([0, 5], abs=1e-5)
    map_SE2_window = SE2(*scenario["metadata"]["sdiff"]["map_SE2_window"])
    assert map_SE2_window == at
    x, y = map_SE2_window.apply(*ahead["position"][t0, :2])
    assert (x, y) == pytest.approx((at.x_m + 10 * np.cos(heading_rad), at.y_m + 10 * np.sin(heading_rad)))
    lane = scenario["map_features"]["in_right"]["polyline"]
    assert lane == pytest.approx(np.array([[-100, -1.75, 0], [10, -1.75, 0]]), abs=1e-3)


def test_kinds_become_types_and_keep_their_sizes():
    scenario = scene_of(one_of_each(), crossroads())
    vehicle = ["VEHICLE"] * 4
    assert [t["type"] for t in scenario["tracks"].values()] == [*vehicle, "CYCLIST", "CYCLIST", "PEDESTRIAN", "OTHER"]
    assert [t["metadata"]["kind"] for t in scenario["tracks"].values()] == KINDS
    for track in scenario["tracks"].values():
        assert (track["state"]["length"] == 4).all() and (track["state"]["width"] == 2).all()
        assert 0.9 < track["state"]["height"][0] < 4
    about = scenario["metadata"]
    assert (about["sdc_id"], about["objects_of_interest"]) == ("agent0", ["agent1"])
    assert about["number_summary"]["num_objects_each_type"] == {
        "CYCLIST": 2,
        "OTHER": 1,
        "PEDESTRIAN": 1,
        "VEHICLE": 4,
    }
    assert about["object_summary"]["agent3"]["moving_distance"] == pytest.approx(5 * 4.0, rel=1e-3)


def test_the_av_is_a_vehicle_whatever_the_model_made_of_it():
    scenario = scene_of(generated(traffic([0.0, 9.0], [0.0, 0.0], kind=["motorcyclist", "motorcyclist"])), crossroads())
    assert [t["type"] for t in scenario["tracks"].values()] == ["VEHICLE", "CYCLIST"]


def test_nothing_is_said_of_steps_at_which_an_agent_is_not_there():
    agents = one_of_each()
    agents.valid[1, 30:] = False
    scenario = scene_of(agents, crossroads())
    state = scenario["tracks"]["agent1"]["state"]
    assert not any(np.asarray(v[30:]).any() for v in state.values())
    summary = scenario["metadata"]["object_summary"]["agent1"]
    assert (summary["valid_length"], summary["continuous_valid_length"]) == (30, 30)


def test_lanes_run_as_traffic_does_and_know_their_neighbours():
    features = scene_of(one_of_each(), crossroads())["map_features"]
    right, back = features["in_right"], features["oncoming"]
    assert right["type"] == "LANE_SURFACE_STREET"
    assert right["polyline"][0, 0] < right["polyline"][-1, 0] and back["polyline"][0, 0] > back["polyline"][-1, 0]
    assert set(right["exit_lanes"]) == {"through_right", "turn_right"}
    assert features["turn_right"]["entry_lanes"] == ["in_right"]
    assert [n["feature_id"] for n in right["left_neighbor"]] == ["in_left"]
    assert right["right_neighbor"] == []
    assert right["speed_limit_kmh"] == pytest.approx(50, abs=0.1)
    assert np.ptp(right["polygon"], axis=0) == pytest.approx([110, 3.5])
    assert features["zebra"]["type"] == "CROSSWALK" and features["zebra"]["polygon"].shape == (4, 3)


def test_a_line_between_neighbours_may_be_crossed_and_others_may_not():
    here = crossroads()
    lines = {"between": [(-50.0, 0.0), (5.0, 0.0)], "oncoming_side": [(-50.0, 3.5), (5.0, 3.5)]}
    features = scene_of(one_of_each(), with_features(here, "lane_boundary", lines))["map_features"]
    assert features["between"]["type"] == "ROAD_LINE_BROKEN_SINGLE_WHITE"
    assert features["oncoming_side"]["type"] == "UNKNOWN_LINE"


def with_features(map: VectorMap, kind: str, lines: dict[str, list[tuple[float, float]]]) -> VectorMap:
    """A map with more features of one kind."""
    rows = window_tables.maps_table(map).to_pylist()
    extra = [
        {**rows[-1], "feature_id": name, "kind": kind, "x_m": [p[0] for p in xy], "y_m": [p[1] for p in xy]}
        for name, xy in lines.items()
    ]
    return map_from_rows(pa.Table.from_pylist(rows + extra, schema=window_tables.maps_table(map).schema))


def test_a_stop_line_is_a_sign_unless_a_signal_stands_there(tmp_path):
    here = with_features(crossroads(), "stop_line", {"stop": [(10.0, -3.5), (10.0, 0.0)]})
    uri = str(tmp_path / "data")
    tables.write(rows([one_of_each()]), "scenarios", uri, "a")
    tables.write(window_tables.maps_table(here), "maps", uri, "a")
    _, [plain] = exported(uri, tmp_path / "plain")
    assert plain["dynamic_map_states"] == {}
    sign = plain["map_features"]["stop"]
    assert (sign["type"], sign["lane"]) == ("STOP_SIGN", ["in_right"])
    assert sign["position"] == pytest.approx([30, 0, 0])
    windows = test_query.window_rows([one_of_each()], lights=window_tables.lights_to_arrow([lights()]))
    tables.write(windows, "windows", uri, "a")
    _, [lit] = exported(uri, tmp_path / "lit", windows=uri)
    light = lit["dynamic_map_states"]["in_right"]
    states = light["state"]["object_state"]
    assert states == ["LANE_STATE_STOP"] * 20 + ["LANE_STATE_GO"] * 21
    assert (light["lane"], light["type"]) == ("in_right", "TRAFFIC_LIGHT")
    assert "stop" not in lit["map_features"]


def test_what_is_far_away_stays_out_with_the_links_to_it():
    far = around(crossroads(), SE2(-90.0, -1.75, 0.0), 60.0)
    names = far.feature_id.tolist()
    assert "in_right" in names and "out_right" not in names and "turn_right" not in names
    assert len(far.successors) == 0
    assert names[far.left[names.index("in_right")]] == "in_left"
    assert "road" in names  # the area holds the square, though no vertex of it lies within
    assert far.points(names.index("in_right"))[0] == pytest.approx([-10, 0])


def test_equal_rows_give_equal_bytes_in_any_process_and_any_batch(data, tmp_path):
    exported(data, tmp_path / "all")
    code = "import sys; from sdiff import export; export.export(sys.argv[1], to='scenarionet', output=sys.argv[2])"
    again = tmp_path / "again"
    subprocess.run(
        [sys.executable, "-c", code, data, str(again)], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    exported(data, tmp_path / "one", where="scenario_id = 'scenario2'")
    names = sorted(p.name for p in (tmp_path / "all").iterdir())
    assert len(names) == 5 == len(list(again.iterdir()))
    assert all((tmp_path / "all" / n).read_bytes() == (again / n).read_bytes() for n in names)
    name = "sd_sdiff_scenario2.pkl"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


def test_pickles_name_nothing_that_a_version_of_numpy_lacks(data, tmp_path):
    exported(data, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        strings: list[Any] = []
        for op, value, _ in pickletools.genops(path.read_bytes()):
            strings.append(value)
            if op.name == "STACK_GLOBAL":
                assert tuple(strings[-3:-1]) in {("numpy", "ndarray"), ("builtins", "bytearray")}, strings[-3:-1]


def test_scenarios_that_cannot_be_exported_are_counted_with_the_reason(data, tmp_path):
    no_av, late = one_of_each(), one_of_each()
    no_av.is_ego[:] = False
    late.valid[0, :5] = False
    maps = pa.array(["crossroads", "crossroads", "elsewhere", "crossroads"])
    names = pa.array(["no_av", "late", "no_map", "good"])
    bad = rows([no_av, late, one_of_each(), one_of_each()], map_id=maps, scenario_id=names)
    tables.write(bad, "scenarios", data, "b")
    counts, scenarios = exported(data, tmp_path / "out")
    assert (counts["scenarios"], counts["exported"], len(scenarios)) == (7, 4, 4)
    reasons = {r["such as"]: r["reason"] for r in counts["left_out"]}
    assert set(reasons) == {"no_av", "late", "no_map"}
    assert "no AV" in reasons["no_av"] and "every step" in reasons["late"] and "map is not in" in reasons["no_map"]


def test_the_wrong_call_says_what_to_do(data, tmp_path):
    out = {"to": "scenarionet", "output": str(tmp_path / "out")}
    with pytest.raises(ValueError, match=r"speed.*expected an SQL condition over scenario_id"):
        export.export(data, where="speed > 3", **out)
    with pytest.raises(ValueError, match="meets --where"):
        export.export(data, where="directive = 'none'", **out)
    with pytest.raises(ValueError, match="unknown format 'x'; the known ones are scenarionet"):
        export.export(data, to="x", output=out["output"])
    bare = str(tmp_path / "bare")
    tables.write(rows([one_of_each()]), "scenarios", bare, "a")
    with pytest.raises(tables.TableError, match=r"no table maps at .*give --windows"):
        export.export(bare, **out)
    tables.write(window_tables.maps_table(crossroads()), "maps", str(tmp_path / "logs"), "a")
    assert export.export(bare, str(tmp_path / "logs"), **out)["exported"] == 1


def test_a_limit_is_spread_over_the_table_and_any_uri_serves(data):
    output = "memory://export-test"
    assert export.export(data, to="scenarionet", output=output, limit=2)["exported"] == 2
    names = [u.rsplit("/", 1)[-1] for u in storage.objects(output, ".pkl")]
    assert [n for n in names if n.startswith("sd_")] == ["sd_sdiff_scenario0.pkl", "sd_sdiff_scenario2.pkl"]


def test_a_name_leads_to_no_other_folder(data, tmp_path):
    ids = pa.array(["../../../escaped/x-0", "/etc/x-1", "cut in-2"])
    tables.write(rows([one_of_each()] * 3, scenario_id=ids), "scenarios", data, "a")
    _, scenarios = exported(data, tmp_path / "out")
    assert [s["id"] for s in scenarios] == ids.to_pylist()
    there = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*x-*"))
    assert there == ["out/sd_sdiff_.._.._.._escaped_x-0.pkl", "out/sd_sdiff__etc_x-1.pkl"]


def test_the_command_prints_its_counts(data, tmp_path):
    program = [sys.executable, "-c", "from sdiff.cli import main; main()", "export", "--scenarios", data]
    call = [*program, "--to", "scenarionet", "--output", str(tmp_path / "out"), "--json"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["exported"] == 3
    wrong = subprocess.run([*program, "--to", "x", "--output", "y"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "scenarionet" in wrong.stderr
