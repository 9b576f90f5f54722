"""Argoverse 2 motion forecasting: one folder per scenario, with scenario_<id>.parquet and log_map_archive_<id>.json.

Format: https://argoverse.github.io/user-guide/datasets/motion_forecasting.html
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sdiff import KINDS, storage
from sdiff.logs import argoverse2_map, argoverse2_sensor, arrow_file, expect_size, usable
from sdiff.logs.driving_log import BadRecord, DrivingLog, Lights, Tracks, VectorMap, plain_name

DATASET = "argoverse2_motion"
LICENSE = "CC BY-NC-SA 4.0"

OBJECT_TYPES = {
    "vehicle": ("vehicle", 4.0, 2.0),
    "bus": ("bus", 11.0, 2.8),
    "motorcyclist": ("motorcyclist", 2.0, 0.7),
    "cyclist": ("cyclist", 2.0, 0.7),
    "pedestrian": ("pedestrian", 0.7, 0.7),
    "riderless_bicycle": ("other", 2.0, 0.7),
    "static": ("other", 1.0, 1.0),
    "background": ("other", 1.0, 1.0),
    "construction": ("other", 1.0, 1.0),
    "unknown": ("other", 1.0, 1.0),
}
"""Object type -> kind, length and width [m]. The data has no sizes: these are usual ones for the class."""

COLUMNS = {
    "track_id": pa.string(),
    "object_type": pa.string(),
    "timestep": pa.int64(),
    "position_x": pa.float64(),
    "position_y": pa.float64(),
    "heading": pa.float64(),
    "velocity_x": pa.float64(),
    "velocity_y": pa.float64(),
    "scenario_id": pa.string(),
    "start_timestamp": pa.float64(),
    "city": pa.string(),
}
MAX_STEPS = 6000


def find(uri: str) -> list[str]:
    """URIs of all scenario_*.parquet at or under `uri`, sorted. Raises storage.StorageError where there is none."""
    found = [u for u in storage.objects(uri) if u == uri or u.rsplit("/", 1)[-1].startswith("scenario_")]
    if not found:
        raise storage.StorageError(f"no Argoverse 2 scenario at {uri}; expected scenario_<id>.parquet there or below")
    return found


def files(source: str) -> list[str]:
    """The scenario and the map that lies beside it."""
    return [source, *_maps(source)]


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The scenario at `source`, with the map that lies beside it; a BadRecord for each track that cannot be used.

    Velocities are the source's. A scenario of the test split has its 50 observed steps. The recorder is track "AV",
    with its known size; the others have the usual ones of their class.
    Raises BadRecord where the scenario or its map cannot be used, storage.StorageError where one cannot be read.
    """
    table = _table(source)
    scenario_id = plain_name(_only(table, "scenario_id"))
    start_ns = float(_only(table, "start_timestamp"))
    if not np.isfinite(start_ns):
        raise BadRecord(f"start_timestamp is {start_ns}, expected a time [ns]")
    tracks, faults = _tracks(table)
    is_av = tracks.agent_id == argoverse2_sensor.EGO_ID
    tracks.length_m[is_av], tracks.width_m[is_av] = argoverse2_sensor.EGO_SIZE_M
    recorder = np.flatnonzero(is_av)
    log = DrivingLog(
        log_id=scenario_id,
        dataset=DATASET,
        region=plain_name(_only(table, "city")),
        license=LICENSE,
        tracks=tracks,
        map=_map(source, scenario_id),
        lights=Lights.none(tracks.valid.shape[1]),
        recorder=int(recorder[0]) if len(recorder) else None,
        start_us=int(start_ns // 1000),
        size_known=np.zeros(len(tracks.agent_id), bool),
    )
    yield from usable(log, faults)


def _table(source: str) -> pa.Table:
    table = arrow_file.parquet(storage.read_bytes(source), COLUMNS, "the scenario")
    for name in ("track_id", "object_type", "timestep"):
        if table[name].null_count:
            raise BadRecord(f"{table[name].null_count} nulls in {name}, expected none")
    return table


def _only(table: pa.Table, column: str) -> Any:
    """The one value of a column that is the same in every row."""
    values = table[column].unique().to_pylist()
    if len(values) != 1 or values[0] is None or values[0] != values[0]:
        raise BadRecord(f"{column} is {values[:3]}, expected one value for the whole scenario")
    return values[0]


def _tracks(table: pa.Table) -> tuple[Tracks, dict[int, str]]:
    """All tracks, and what is wrong with those whose rows contradict each other."""
    ids, agent = arrow_file.names(table["track_id"])
    step = table["timestep"].to_numpy()
    if step.min() < 0 or step.max() >= MAX_STEPS:
        raise BadRecord(f"timestep runs from {step.min()} to {step.max()}, expected 0 to less than {MAX_STEPS}")
    n, steps = len(ids), int(step.max()) + 1
    expect_size(n, steps)
    rows = np.zeros((n, steps), np.int64)
    np.add.at(rows, (agent, step), 1)

    names, code = arrow_file.names(table["object_type"])
    track_type = np.zeros(n, np.int64)
    track_type[agent] = code
    changes = np.zeros(n, bool)
    changes[agent[code != track_type[agent]]] = True
    unknown = ~np.isin(track_type, [i for i, type in enumerate(names) if type in OBJECT_TYPES])
    checks = (
        (changes, "object_type changes along the track, expected one for all its rows"),
        (unknown, f"object_type is none of {', '.join(OBJECT_TYPES)}"),
        ((rows > 1).any(1), "track has two rows for one timestep, expected one"),
    )
    faults = {int(i): reason for bad, reason in checks for i in np.flatnonzero(bad)}

    def dense(column: str) -> NDArray[np.float64]:
        values = np.zeros((n, steps))
        values[agent, step] = table[column].to_numpy()
        return values

    kind, length_m, width_m = zip(
        *(OBJECT_TYPES.get(str(type), OBJECT_TYPES["unknown"]) for type in names), strict=True
    )
    tracks = Tracks(
        agent_id=ids,
        kind=np.array([KINDS.index(k) for k in kind], np.int8)[track_type],
        length_m=np.array(length_m, np.float32)[track_type],
        width_m=np.array(width_m, np.float32)[track_type],
        x_m=dense("position_x"),
        y_m=dense("position_y"),
        heading_rad=dense("heading"),
        vx_mps=dense("velocity_x"),
        vy_mps=dense("velocity_y"),
        valid=rows > 0,
    )
    return tracks, faults


def _map(source: str, scenario_id: str) -> VectorMap:
    found = _maps(source)
    if not found:
        raise BadRecord("no map beside the scenario; expected log_map_archive_<scenario id>.json in its folder")
    return argoverse2_map.read(found[0], scenario_id)


def _maps(source: str) -> list[str]:
    """The map beside a scenario, by the name of its file: what the file says of itself leads to no other place."""
    folder, _, file = source.rpartition("/")
    uri = storage.join(folder or ".", f"log_map_archive_{file.removeprefix('scenario_').partition('.')[0]}.json")
    return [u for u in (uri, f"{uri}.gz") if storage.exists(u)]
