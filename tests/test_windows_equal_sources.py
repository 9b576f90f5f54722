"""Windows as ingest writes them, carried back by their origin, are where the source says that the agents were.

The sources are read here by other means than the project's readers: Python's own json, pickle, sqlite3 and ElementTree,
pyarrow, and a decoder of protocol buffers that was written from their description.
"""

import gzip
import json
import pickle
import shutil
import sqlite3
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.feather as pf
import pyarrow.parquet as pq
import pytest
import shapely
import test_nuplan
from numpy.typing import NDArray
from waymo_records import decode, unframe

from pipelines import ingest
from sdiff import tables
from sdiff.columns import agents_from_arrow
from sdiff.geometry import SE2, wrap_angle
from sdiff.scene import STEPS_PAST

WINDOWS = 20
POSITION_M, HEADING_RAD, VELOCITY_MPS = 0.01, 0.001, 0.01
"""How far a window may be from its source: the rounding of the tables moves values by a tenth of that."""
Array = NDArray[np.float64]


class Recording(NamedTuple):
    """What a source says. start_us: time of step 0. poses: by agent, (T, 5) x, y [m], heading [rad], vx, vy [m/s].

    NaN where the source says nothing, as of a velocity that it does not have. passed_over: agents not to be compared.
    """

    start_us: int
    poses: dict[str, Array]
    passed_over: frozenset[str] = frozenset()


class Tally(NamedTuple):
    """What was compared: poses, and those of them with a velocity; agents that were mended, so left out; the largest
    differences."""

    poses: int
    velocities: int
    mended: int
    position_m: float
    heading_rad: float
    velocity_mps: float


def _dense(rows: list[tuple[str, int, Array]], steps: int) -> dict[str, Array]:
    """(agent, step, pose) to poses by agent."""
    found: dict[str, Array] = defaultdict(lambda: np.full((steps, 5), np.nan))
    for agent, step, pose in rows:
        found[agent][step, : len(pose)] = pose
    return found


def gpudrive(folder: Path) -> Iterator[tuple[str, Recording]]:
    """Headings are in radians, or in degrees in a file where one is beyond a turn."""
    for path in folder.rglob("*.json.gz"):
        with gzip.open(path) as file:
            scene = json.load(file)
        poses = {}
        for i, thing in enumerate(scene["objects"]):
            place, speed = ([[p["x"], p["y"]] for p in thing[name]] for name in ("position", "velocity"))
            pose = np.column_stack([place, thing["heading"], speed]).astype(float)
            pose[~np.array(thing["valid"], bool)] = np.nan
            poses[str(thing.get("id", i))] = pose
        if max(np.nanmax(np.abs(pose[:, 2]), initial=0) for pose in poses.values()) > 2 * np.pi:
            for pose in poses.values():
                pose[:, 2] = np.radians(pose[:, 2])
        yield path.name.removesuffix(".json.gz"), Recording(0, poses)


def waymo_motion(folder: Path) -> Iterator[tuple[str, Recording]]:
    """Fields of the messages Scenario (1 timestamps, 2 tracks, 5 id), Track (1 id, 3 states) and ObjectState."""
    path = folder / "motion_data_one_scenario.tfrecord"
    for record in unframe(path.read_bytes()):
        fields: dict[int, list[Any]] = defaultdict(list)
        for number, value in decode(record):
            fields[number].append(value)
        poses = {}
        for track in map(decode, fields[2]):
            states = [dict(decode(state)) for number, state in track if number == 3]
            pose = np.array([[state.get(n, 0.0) for n in (2, 3, 8, 9, 10)] for state in states], float)
            pose[[not state.get(11) for state in states]] = np.nan
            poses[str(dict(track)[1])] = pose
        yield fields[5][0].decode(), Recording(round(fields[1][0] * 1e6), poses)


def scenarionet(folder: Path) -> Iterator[tuple[str, Recording]]:
    """nuScenes' recorder is left out: its pose is the rear axle's."""
    for path in folder.glob("*.pkl"):
        scenario = pickle.loads(path.read_bytes())
        poses = {}
        for agent, track in scenario["tracks"].items():
            state = track["state"]
            pose = np.column_stack([state["position"][:, :2], np.ravel(state["heading"]), state["velocity"][:, :2]])
            pose = pose.astype(float)
            pose[~np.asarray(state["valid"], bool)] = np.nan
            poses[str(agent)] = pose
        recorder = [scenario["metadata"]["sdc_id"]] if "nuscenes" in folder.name else []
        start_us = round(float(np.ravel(scenario["metadata"]["ts"])[0]) * 1e6)
        yield str(scenario["id"]), Recording(start_us, poses, frozenset(recorder))


def argoverse2_motion(folder: Path) -> Iterator[tuple[str, Recording]]:
    for path in folder.rglob("scenario_*.parquet"):
        table = pq.read_table(path)
        columns = ("position_x", "position_y", "heading", "velocity_x", "velocity_y")
        pose = np.stack([table[name].to_numpy() for name in columns], 1)
        step = table["timestep"].to_pylist()
        rows = list(zip(table["track_id"].to_pylist(), step, pose, strict=True))
        start_us = int(table["start_timestamp"][0].as_py() // 1000)
        yield table["scenario_id"][0].as_py(), Recording(start_us, _dense(rows, max(step) + 1))


def argoverse2_sensor(folder: Path) -> Iterator[tuple[str, Recording]]:
    """Boxes from the vehicle's frame to the city's; the recorder's centre is 1.34 m ahead of its rear axle."""
    for path in folder.rglob("*annotations*.feather"):
        if not (path.parent / "city_SE3_egovehicle.feather").exists():
            continue
        boxes = pf.read_table(path).to_pylist()
        city = {
            row["timestamp_ns"]: row for row in pf.read_table(path.parent / "city_SE3_egovehicle.feather").to_pylist()
        }
        frames = sorted({row["timestamp_ns"] for row in boxes})
        step = {frame: i for i, frame in enumerate(frames)}
        rows = []
        for row in boxes:
            pose = city[row["timestamp_ns"]]
            turn = _matrix(pose)
            place = turn @ _place(row) + _place(pose)
            ahead = turn @ _matrix(row) @ [1.0, 0.0, 0.0]
            rows.append((row["track_uuid"], step[row["timestamp_ns"]], _pose(place, ahead)))
        for frame in frames:
            turn = _matrix(city[frame])
            place = turn @ [1.34, 0.0, 0.0] + _place(city[frame])
            rows.append(("AV", step[frame], _pose(place, turn @ [1.0, 0.0, 0.0])))
        yield path.parent.name, Recording(frames[0] // 1000, _dense(rows, len(frames)))


def _matrix(row: dict[str, Any]) -> Array:
    """The rotation that a unit quaternion stands for."""
    w, x, y, z = (row[name] for name in ("qw", "qx", "qy", "qz"))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _place(row: dict[str, Any]) -> Array:
    return np.array([row[name] for name in ("tx_m", "ty_m", "tz_m")])


def _pose(place: Array, ahead: Array) -> Array:
    return np.array([place[0], place[1], np.arctan2(ahead[1], ahead[0])])


def commonroad(folder: Path) -> Iterator[tuple[str, Recording]]:
    """Velocity is the speed along the heading; the time step of the files is 0.1 s."""
    for path in folder.rglob("*.xml.gz"):
        with gzip.open(path) as file:
            root = ET.parse(file).getroot()
        assert root.attrib["timeStepSize"] == "0.1"
        rows = []
        for obstacle in root.iter("dynamicObstacle"):
            for state in [*obstacle.iter("initialState"), *obstacle.iter("state")]:
                step = int(state.findtext("time/exact", ""))
                x, y = (float(state.findtext(f"position/point/{axis}", "")) for axis in "xy")
                heading, speed = (float(state.findtext(f"{name}/exact", "")) for name in ("orientation", "velocity"))
                pose = np.array([x, y, heading, speed * np.cos(heading), speed * np.sin(heading)])
                rows.append((obstacle.attrib["id"], step, pose))
        last = max((step for _, step, _ in rows), default=0)
        yield path.name.removesuffix(".xml.gz"), Recording(0, _dense(rows, last + 1))


def nuplan(folder: Path) -> Iterator[tuple[str, Recording]]:
    """Every second frame. The recorder's centre is 1.46 m ahead of its rear axle, between two poses of 100 Hz."""
    for path in folder.rglob("*.db"):
        con = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        frames = con.execute("SELECT token, timestamp FROM lidar_pc ORDER BY timestamp").fetchall()[::2]
        step = {token: i for i, (token, _) in enumerate(frames)}
        boxes = con.execute("SELECT lidar_pc_token, track_token, x, y, yaw, vx, vy FROM lidar_box")
        rows = [(track.hex(), step[pc], np.array(pose)) for pc, track, *pose in boxes if pc in step]
        sql = "SELECT timestamp, x, y, qw, qx, qy, qz FROM ego_pose ORDER BY timestamp"
        at, x, y, qw, qx, qy, qz = np.array(con.execute(sql).fetchall()).T
        yaw = np.unwrap(np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy**2 + qz**2)))
        for i, (_, time) in enumerate(frames):
            here, there, course = (float(np.interp(time, at, values)) for values in (x, y, yaw))
            pose = np.array([here + 1.461 * np.cos(course), there + 1.461 * np.sin(course), course])
            rows.append(("ego", i, pose))
        con.close()
        yield path.stem, Recording(frames[0][1], _dense(rows, len(frames)))


def sumo(folder: Path) -> Iterator[tuple[str, Recording]]:
    """x, y is the middle of the front bumper, half a length ahead of the centre; angles are clockwise from north."""
    types = ET.parse(folder / "vtypes.add.xml").getroot().iter("vType")
    half_m = {kind.attrib["id"]: float(kind.attrib["length"]) / 2 for kind in types}
    rows = pq.read_table(folder / "fcd.parquet").to_pylist()
    start_s = rows[0]["timestep_time"]
    found = []
    for row in rows:
        course, back_m = np.radians(90 - row["vehicle_angle"]), half_m[row["vehicle_type"]]
        x_m, y_m = row["vehicle_x"] - back_m * np.cos(course), row["vehicle_y"] - back_m * np.sin(course)
        step = round((row["timestep_time"] - start_s) / 0.1)
        found.append((row["vehicle_id"], step, np.array([x_m, y_m, course])))
    region = json.loads((folder / "run.json").read_text())["region"]
    yield region, Recording(round(start_s * 1e6), _dense(found, found[-1][1] + 1))


def some(folder: Path, to: Path) -> Path:
    """Every fourth file of a folder of many, in the same folders."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file())[::4]:
        (to / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to / path.relative_to(folder))
    return to


def with_maps(folder: Path, to: Path) -> Path:
    """nuPlan's logs in a folder each, with a map that has a lane along the recorder's path, as the data has no maps."""
    for path in sorted(folder.rglob("*.db")):
        place = to / path.stem
        place.mkdir(parents=True)
        shutil.copy(path, place / path.name)
        con = sqlite3.connect(path)
        ((location,),) = con.execute("SELECT location FROM log")
        way = np.array(con.execute("SELECT x, y FROM ego_pose ORDER BY timestamp").fetchall())[::50]
        ((epsg,),) = con.execute("SELECT DISTINCT epsg FROM ego_pose")
        con.close()
        made = test_nuplan.write_map(place)
        made.parent.parent.rename(place / location.removesuffix(".gpkg"))
        con = sqlite3.connect(place / location.removesuffix(".gpkg") / made.parent.name / made.name)
        blob = test_nuplan.geometry(shapely.LineString(way), True)
        con.execute("UPDATE gpkg_geometry_columns SET srs_id = ? WHERE table_name = 'baseline_paths'", (epsg,))
        con.execute("DELETE FROM baseline_paths WHERE fid > 1")
        con.execute("UPDATE baseline_paths SET geom = ? WHERE fid = 1", (blob,))
        con.commit()
        con.close()
    return to


def sampled(output: Path, format: str, folder: Path) -> list[dict[str, Any]]:
    """Windows of the table that ingest makes, spread evenly over it: over logs, then over time."""
    ingest.run(format, str(folder), str(output), stride_s=0.5, stand_ins=1, max_bad_share=1.0)
    columns = ["window_id", "log_id", "t0_us", "origin_x_m", "origin_y_m", "origin_heading_rad", "agents"]
    table = tables.read(str(output), "windows", columns).sort_by("window_id")
    chosen = table.take(np.unique(np.linspace(0, table.num_rows - 1, WINDOWS).round().astype(int)))
    agents = agents_from_arrow(chosen["agents"])
    rows = chosen.drop(["agents"]).to_pylist()
    return [{**row, "agents": of_row} for row, of_row in zip(rows, agents, strict=True)]


def compare(windows: list[dict[str, Any]], recordings: dict[str, Recording]) -> Tally:
    """Every pose of every agent that was not mended, beside the source's."""
    off: list[Array] = []
    mended = 0
    for window in windows:
        log_id = window["log_id"]
        name = max((name for name in recordings if log_id.startswith(name)), key=len)
        start_us, poses, passed_over = recordings[name]
        first = round((window["t0_us"] - start_us) / 1e5) - STEPS_PAST
        agents = window["agents"]
        back = SE2(window["origin_x_m"], window["origin_y_m"], window["origin_heading_rad"])
        x, y = back.apply(agents.x_m, agents.y_m)
        vx, vy = back.rotate(agents.vx_mps, agents.vy_mps)
        found = np.stack([x, y, back.turn(agents.heading_rad), vx, vy], -1)
        for i, agent in enumerate(agents.agent_id.tolist()):
            mended += bool(agents.repaired[i])
            if agents.repaired[i] or agent in passed_over:
                continue
            steps = np.flatnonzero(agents.valid[i])
            said = poses[agent][first + steps]
            assert np.isfinite(said[:, :3]).all(), f"{agent} of {log_id} is where the source has no pose of it"
            off.append(found[i, steps] - said)
    x, y, heading, vx, vy = np.concatenate(off).T
    speed = np.hypot(vx, vy)
    return Tally(
        poses=len(x),
        velocities=int(np.isfinite(speed).sum()),
        mended=mended,
        position_m=float(np.hypot(x, y).max()),
        heading_rad=float(np.abs(wrap_angle(heading)).max()),
        velocity_mps=float(np.nanmax(speed, initial=0.0)),
    )


SOURCES: dict[str, tuple[str, Callable[[Path], Iterator[tuple[str, Recording]]], int]] = {
    "argoverse2_motion": ("argoverse2_motion", argoverse2_motion, 5_000),
    "argoverse2_sensor": ("argoverse2_sensor", argoverse2_sensor, 20_000),
    "commonroad_ngsim": ("commonroad", commonroad, 10_000),
    "nuplan_db": ("nuplan", nuplan, 1_000),
    "scenarionet_nuscenes": ("scenarionet", scenarionet, 20_000),
    "scenarionet_waymo": ("scenarionet", scenarionet, 10_000),
    "waymo_gpudrive_json": ("gpudrive", gpudrive, 8_000),
    "waymo_tfrecord": ("waymo_motion", waymo_motion, 10_000),
}
"""Folder of real data -> its format, what it says itself, and how many poses are compared at the least."""
WITHOUT_VELOCITY = ("argoverse2_sensor", "sumo")
PREPARED: dict[str, Callable[[Path, Path], Path]] = {
    "commonroad_ngsim": some,
    "nuplan_db": with_maps,
    "waymo_gpudrive_json": some,
}


@pytest.mark.parametrize("name", SOURCES)
def test_windows_of_real_logs_equal_their_source(real_data: Path, tmp_path: Path, name: str) -> None:
    format, said, least = SOURCES[name]
    folder = PREPARED.get(name, lambda folder, _: folder)(real_data / name, tmp_path / "logs")
    windows = sampled(tmp_path / "tables", format, folder)
    expect_equal(name, windows, dict(said(folder)), least)


def test_windows_of_simulated_logs_equal_their_source(sumo_run: Path, tmp_path: Path) -> None:
    """The source has no velocity: its speed is that of the last step, and theirs the derivative of positions."""
    expect_equal("sumo", sampled(tmp_path, "sumo", sumo_run), dict(sumo(sumo_run)), 5_000)


def expect_equal(name: str, windows: list[dict[str, Any]], recordings: dict[str, Recording], least: int) -> None:
    tally = compare(windows, recordings)
    print(f"{name}: {len(windows)} windows of {len({w['log_id'] for w in windows})} logs, {tally}")
    assert len(windows) == WINDOWS
    assert tally.poses >= least
    assert (tally.velocities == 0) == (name in WITHOUT_VELOCITY)
    assert tally.position_m < POSITION_M
    assert tally.heading_rad < HEADING_RAD
    assert tally.velocity_mps < VELOCITY_MPS
