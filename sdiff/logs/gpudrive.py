"""Waymo Open Motion scenarios as GPUDrive and Nocturne write them: one JSON document each, plain or gzipped.

Format: https://github.com/Emerge-Lab/gpudrive (data_utils), https://github.com/facebookresearch/nocturne (docs)
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from sdiff import KINDS, storage
from sdiff.geometry import wrap_angle
from sdiff.logs import read_json, usable
from sdiff.logs.driving_log import LANE_TYPES, BadRecord, DrivingLog, Lights, Tracks, VectorMap
from sdiff.maps import Features, Lanes, Lines, derive, vector_map

DATASET = "gpudrive"
REGION = "waymo"
LICENSE = "Waymo Open Dataset License Agreement for Non-Commercial Use"

NO_POSITION_M = -10000.0
"""What the source writes for x and y where an agent was not observed."""

OBJECT_KINDS = {
    "vehicle": "vehicle",
    "pedestrian": "pedestrian",
    "cyclist": "cyclist",
    "other": "other",
    "unset": "other",
}

ROAD_KINDS = {
    "road_line": "lane_boundary",
    "road_edge": "road_edge",
    "crosswalk": "crosswalk",
    "speed_bump": "speed_bump",
    "driveway": "driveway",
}
"""Road type -> kind of feature; lanes and stop signs are treated by themselves."""
LEAST_VERTICES = {"crosswalk": 3, "speed_bump": 3, "driveway": 3}

BIKE_LANE = 3
"""`map_element_id` of bike lanes."""

LIGHT_STATES = {
    "unknown": 0,
    "stop": 1,
    "arrow_stop": 1,
    "flashing_stop": 1,
    "caution": 2,
    "arrow_caution": 2,
    "flashing_caution": 2,
    "go": 3,
    "arrow_go": 3,
}


def find(uri: str) -> list[str]:
    """URIs of all .json and .json.gz at or under `uri`, sorted. Raises storage.StorageError where there is none."""
    found = sorted({*storage.objects(uri, ".json"), *storage.objects(uri, ".json.gz")})
    if not found:
        raise storage.StorageError(f"no scenario at {uri}; expected .json or .json.gz there or below")
    return found


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The scenario at `source`; a BadRecord for each track that cannot be used.

    Headings come in degrees or in radians, by the version of the converter: the unit is the one that agrees with the
    velocities, which are the source's. The recorder is known where the file has metadata.sdc_track_index. The map has
    no links between lanes and no drivable area: both are derived.
    Raises BadRecord where the document cannot be used, storage.StorageError where it cannot be read.
    """
    raw = read_json(source)
    log_id = source.rsplit("/", 1)[-1].removesuffix(".gz").removesuffix(".json")
    try:
        log, faults = _log(raw, log_id)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, BadRecord):
            raise
        raise BadRecord(
            f"{source} is not a GPUDrive scenario: {type(error).__name__} {error}; expected objects with position, "
            "heading, velocity, valid, length, width and type, and roads with geometry and type"
        ) from error
    yield from usable(log, faults)


def _log(raw: dict[str, Any], log_id: str) -> tuple[DrivingLog, dict[int, str]]:
    tracks, faults = _tracks(raw["objects"])
    steps = tracks.valid.shape[1]
    vector_map, lane_ids = _map(raw["roads"], log_id)
    recorder = raw.get("metadata", {}).get("sdc_track_index")
    if recorder is not None and not 0 <= recorder < len(tracks.agent_id):
        raise BadRecord(f"metadata.sdc_track_index is {recorder}, expected 0 to {len(tracks.agent_id) - 1}")
    log = DrivingLog(
        log_id=log_id,
        dataset=DATASET,
        region=REGION,
        license=LICENSE,
        tracks=tracks,
        map=vector_map,
        lights=_lights(raw.get("tl_states") or {}, vector_map, lane_ids, steps),
        recorder=recorder,
        split_key=str(raw.get("scenario_id", "")),
    )
    return log, faults


def _numbers(values: Sequence[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A float array; null becomes NaN."""
    return np.array(values, np.float64).reshape(shape)


def _tracks(objects: list[dict[str, Any]]) -> tuple[Tracks, dict[int, str]]:
    """All tracks, and what is wrong with those that are not T steps long or of unknown type."""
    if not objects:
        raise BadRecord("the log has no objects, expected at least one")
    steps = int(np.median([len(o["valid"]) for o in objects]))
    fields_of_steps = ("position", "heading", "velocity", "valid")
    whole = [all(len(o[f]) == steps for f in fields_of_steps) for o in objects]
    faults = {
        i: f"position, heading, velocity and valid do not all have the log's {steps} steps"
        for i, is_whole in enumerate(whole)
        if not is_whole
    }
    faults |= {
        i: f"type is {o['type']!r}, expected one of {', '.join(OBJECT_KINDS)}"
        for i, o in enumerate(objects)
        if o["type"] not in OBJECT_KINDS
    }
    nothing = {"position": [{"x": None, "y": None}] * steps, "velocity": [{"x": None, "y": None}] * steps}
    nothing |= {"heading": [None] * steps, "valid": [False] * steps}  # type: ignore[dict-item]
    rows = [o if is_whole else {**o, **nothing} for o, is_whole in zip(objects, whole, strict=True)]
    shape = (len(rows), steps)

    def dense(name: str, axis: str) -> NDArray[np.float64]:
        return _numbers([p[axis] for o in rows for p in o[name]], shape)

    x, y = dense("position", "x"), dense("position", "y")
    vx, vy = dense("velocity", "x"), dense("velocity", "y")
    valid = np.array([o["valid"] for o in rows], bool) & ~((x == NO_POSITION_M) & (y == NO_POSITION_M))
    heading = _in_radians(_numbers([o["heading"] for o in rows], shape), vx, vy, valid)
    tracks = Tracks(
        agent_id=np.array([str(o.get("id", i)) for i, o in enumerate(rows)], np.str_),
        kind=np.array([KINDS.index(OBJECT_KINDS.get(o["type"], "other")) for o in rows], np.int8),
        length_m=_numbers([o["length"] for o in rows], (len(rows),)).astype(np.float32),
        width_m=_numbers([o["width"] for o in rows], (len(rows),)).astype(np.float32),
        x_m=x,
        y_m=y,
        heading_rad=heading,
        vx_mps=vx,
        vy_mps=vy,
        valid=valid,
    )
    return tracks, faults


def _in_radians(
    heading: NDArray[np.float64], vx_mps: NDArray[np.float64], vy_mps: NDArray[np.float64], valid: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Headings in radians, whichever unit the converter wrote; all arrays (A, T)."""
    moving = valid & np.isfinite(heading) & (np.hypot(vx_mps, vy_mps) > 1.0)
    if not moving.any():
        return np.radians(heading) if np.abs(heading[valid]).max(initial=0) > 2 * np.pi + 0.1 else heading
    course = np.arctan2(vy_mps[moving], vx_mps[moving])
    off = [np.median(np.abs(wrap_angle(h - course))) for h in (heading[moving], np.radians(heading[moving]))]
    return heading if off[0] <= off[1] else np.radians(heading)


def _map(roads: list[dict[str, Any]], map_id: str) -> tuple[VectorMap, list[str | None]]:
    """The map, and the source's id of each of its lanes, None where it gives none."""
    lanes = _of_type(roads, "lane", 2)
    lines = _lines(lanes)
    is_bike = np.array([r.get("map_element_id") == BIKE_LANE for r in lanes], bool)
    links = derive.lane_links(lines, np.where(is_bike, derive.BIKE_LANE_WIDTH_M, derive.LANE_WIDTH_M))
    edges = _lines(_of_type(roads, "road_edge", 2))
    signs = _lines(_of_type(roads, "stop_sign", 1)[:])
    lane_ids = [None if r.get("id") is None else str(r["id"]) for r in lanes]
    known = len({i for i in lane_ids if i is not None}) == len(lanes)
    n = len(lines)
    others = [
        Features(kind, _lines(_of_type(roads, name, LEAST_VERTICES.get(name, 2)))) for name, kind in ROAD_KINDS.items()
    ]
    return (
        vector_map(
            map_id,
            Lanes(
                ids=[f"lane_{i if i is not None and known else k}" for k, i in enumerate(lane_ids)],
                lines=lines,
                successors=links.successors,
                left=links.left,
                right=links.right,
                in_junction=links.in_junction,
                lane_type=np.where(is_bike, LANE_TYPES.index("bike"), LANE_TYPES.index("vehicle")).astype(np.int8),
                width_m=np.full(n, np.nan, np.float32),
                speed_limit_mps=np.full(n, np.nan, np.float32),
                links_derived=True,
            ),
            [
                *others,
                Features("drivable_area", derive.drivable_area(lines, edges), derived=True),
                Features("stop_line", derive.stop_lines(lines, links, signs.xy_m), derived=True),
            ],
        ),
        lane_ids,
    )


def _of_type(roads: list[dict[str, Any]], name: str, least_vertices: int) -> list[dict[str, Any]]:
    """Roads of one type. The source has lanes, lines and edges of a single vertex: they are cut off by its clipping."""
    return [r for r in roads if r["type"] == name and len(r["geometry"]) >= least_vertices]


def _lines(roads: list[dict[str, Any]]) -> Lines:
    points = list(chain.from_iterable(r["geometry"] for r in roads))
    xy_m = np.stack([_numbers([p[axis] for p in points], (len(points),)) for axis in ("x", "y")], -1)
    return Lines.of_lengths([len(r["geometry"]) for r in roads], xy_m)


def _lights(states: dict[str, Any], vector_map: VectorMap, lane_ids: list[str | None], steps: int) -> Lights:
    """Signals with the lane they control: the one of that id, else the lane that starts nearest to the stop point."""
    if not states:
        return Lights.none(steps)
    index = {lane_id: i for i, lane_id in enumerate(lane_ids) if lane_id is not None}
    x = np.array([s["x"][0] for s in states.values()], np.float64)
    y = np.array([s["y"][0] for s in states.values()], np.float64)
    begin = vector_map.xy_m[vector_map.start[: len(lane_ids)]]
    lane = np.array([index.get(str(key), -1) for key in states], np.int32)
    if (lane < 0).any():  # ids of another numbering name no lane, or a wrong one
        lane = shapely.STRtree(shapely.points(begin)).nearest(shapely.points(x, y)).astype(np.int32)
    state = np.zeros((len(states), steps), np.int8)
    row = np.repeat(np.arange(len(states)), [len(s["state"]) for s in states.values()])
    step = np.array(list(chain.from_iterable(s["time_index"] for s in states.values())), np.int64)
    names = list(chain.from_iterable(s["state"] for s in states.values()))
    if len(step) != len(row) or ((step < 0) | (step >= steps)).any():
        raise BadRecord(f"tl_states has {len(row)} states at {len(step)} steps, expected one each of the {steps} steps")
    state[row, step] = [LIGHT_STATES[name] for name in names]
    return Lights(lane, x, y, state)
