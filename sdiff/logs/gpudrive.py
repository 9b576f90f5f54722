"""Scenarios as GPUDrive and Nocturne write them, of Waymo Open Motion and others: a JSON document each, or gzipped.

Format: https://github.com/Emerge-Lab/gpudrive (data_utils), https://github.com/facebookresearch/nocturne (docs)
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from sdiff import KINDS, storage
from sdiff.geometry import wrap_angle
from sdiff.logs import MOST_JSON_BYTES, content_id, expect_size, parse_json, read_packed, usable
from sdiff.logs.driving_log import LANE_TYPES, BadRecord, DrivingLog, Lights, Tracks, VectorMap, plain_name
from sdiff.logs.scenarionet import LICENSES, size_known
from sdiff.maps import Features, Lanes, Lines, derive, vector_map

DATASET = "gpudrive"

ORIGINS = {"waymo": "waymo", "womd": "waymo", "nuplan": "nuplan", "nuscenes": "nuscenes", "argoverse2": "av2"}
"""What files call the data set that they were made of, in small letters -> its name in scenarionet.LICENSES."""
MAPS = {
    **dict.fromkeys(("us-nv-las-vegas-strip", "us-pa-pittsburgh-hazelwood", "us-ma-boston", "sg-one-north"), "nuplan"),
    **dict.fromkeys(
        ("boston-seaport", "singapore-onenorth", "singapore-queenstown", "singapore-hollandvillage"), "nuscenes"
    ),
}
"""Name of a map -> the data set whose it is."""
WAYMO_FILE = "tfrecord"
"""What stands in the names of scenes from Waymo."""
WAYMO_ID = re.compile("[0-9a-f]{14,16}")

NO_POSITION_M = -10000.0
"""What the source writes for x and y where an agent was not observed."""

OBJECT_KINDS = {
    "vehicle": "vehicle",
    "pedestrian": "pedestrian",
    "cyclist": "cyclist",
    "other": "other",
    "unset": "other",
}

OBJECT_FIELDS = ("position", "heading", "velocity", "valid", "length", "width", "type")
STEP_FIELDS = ("position", "heading", "velocity", "valid")

ROAD_KINDS = {
    "road_line": "lane_boundary",
    "road_edge": "road_edge",
    "crosswalk": "crosswalk",
    "speed_bump": "speed_bump",
    "driveway": "driveway",
}
"""Road type -> kind of feature; lanes and stop signs are treated by themselves."""

LEAST_VERTICES = {
    "lane": 2,
    "road_line": 2,
    "road_edge": 2,
    "crosswalk": 3,
    "speed_bump": 3,
    "driveway": 3,
    "stop_sign": 1,
}

BIKE_LANE = 3
"""`map_element_id` of bike lanes."""

AT_STOP_M = 2.0
"""Farthest that a signal's stop point lies from the lane that it controls."""

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
    velocities, which are the source's. The recorder is known where the file tells it, and so are data set, region and
    licence. The map has neither links between lanes nor a drivable area nor stop lines: they are derived.
    Raises BadRecord where the document cannot be used, storage.StorageError where it cannot be read.
    """
    data = read_packed(source, MOST_JSON_BYTES)
    raw = parse_json(data)
    name = source.rsplit("/", 1)[-1].removesuffix(".gz").removesuffix(".json")
    try:
        about = raw.get("metadata") or {}
        tracks, faults = _tracks(raw["objects"])
        roads = _roads(raw["roads"])
        signals = _signals(raw.get("tl_states") or {}, tracks.valid.shape[1])
        recorder = _recorder(raw, about)
        scenario_id = plain_name(raw.get("scenario_id") or "")
        origin = _origin(raw, about, name)
        region = plain_name(about.get("map_name") or about.get("map") or origin)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, BadRecord):
            raise
        raise BadRecord(
            f"not a GPUDrive scenario: {type(error).__name__} {str(error)[:200]}; expected objects, each with "
            f"{', '.join(OBJECT_FIELDS)}, and roads, each with type and geometry, whose points have x and y"
        ) from error
    # names of files are no ids: Waymo's validation and testing shards are called alike
    log_id = f"{name}-{content_id(data)}"
    yield from usable(
        DrivingLog(
            log_id=log_id,
            dataset=DATASET,
            region=region,
            license=LICENSES.get(origin, "unknown"),
            tracks=tracks,
            map=_map(roads, log_id),
            lights=_lights(signals, roads),
            recorder=recorder,
            split_key=scenario_id or name,
            size_known=size_known(origin, len(tracks.agent_id), recorder),
        ),
        faults,
    )


def _origin(raw: dict[str, Any], about: dict[str, Any], name: str) -> str:
    """The data set that a scene was made of: as it says, or as what only scenes of one have; else `unknown`."""
    stated = about.get("dataset_name") or about.get("dataset") or raw.get("dataset")
    if stated:
        return ORIGINS.get(str(stated).lower(), plain_name(stated))
    place = str(about.get("map_name") or about.get("map"))
    if place in MAPS:
        return MAPS[place]
    names = [name, str(raw.get("name") or "")]
    prefixes = [ORIGINS[p] for p in (n.partition("_")[0].lower() for n in names) if p in ORIGINS]
    if prefixes:
        return prefixes[0]
    is_waymo = any(WAYMO_FILE in n for n in names) or WAYMO_ID.fullmatch(str(raw.get("scenario_id")))
    return "waymo" if is_waymo else "unknown"


def _recorder(raw: dict[str, Any], about: dict[str, Any]) -> int | None:
    """Index of the recording vehicle among the objects, where a file has it in one of four ways; else None."""
    objects, places = raw["objects"], (about, raw)
    for place, index in ((place, place.get("sdc_track_index")) for place in places):
        if index is not None and not (type(index) is int and 0 <= index < len(objects)):
            where = "metadata.sdc_track_index" if place is about else "sdc_track_index"
            raise BadRecord(f"{where} is {str(index)[:40]}, expected 0 to {len(objects) - 1}")
        if index is not None:
            return index
    ego = {str(place["ego_id"]) for place in places if place.get("ego_id") is not None}
    marked = [i for i, o in enumerate(objects) if o.get("is_sdc") is True]
    named = [i for i, o in enumerate(objects) if "id" in o and str(o["id"]) in ego]
    found = marked or named
    return found[0] if len(found) == 1 else None


def _tracks(objects: list[dict[str, Any]]) -> tuple[Tracks, dict[int, str]]:
    """All tracks, and what is wrong with those that lack a field, have other steps than most, or an unknown type."""
    lengths = [len(o["valid"]) for o in objects if "valid" in o]
    if not lengths:
        raise BadRecord("the log has no objects, expected at least one")
    steps = Counter(lengths).most_common(1)[0][0]
    expect_size(len(objects), steps)
    found = [_object_fault(o, steps) for o in objects]
    faults = {i: reason for i, reason in enumerate(found) if reason}
    nowhere = [{"x": None, "y": None}] * steps
    blank: dict[str, Any] = {
        "position": nowhere,
        "velocity": nowhere,
        "heading": [None] * steps,
        "valid": [False] * steps,
    }
    blank |= {"length": None, "width": None, "type": "unset"}
    rows = [{**blank, "id": o.get("id")} if i in faults else o for i, o in enumerate(objects)]

    def dense(field: str, axis: str) -> NDArray[np.float64]:
        return np.array([p[axis] for o in rows for p in o[field]], np.float64).reshape(len(rows), steps)

    x, y, vx, vy = (dense(field, axis) for field in ("position", "velocity") for axis in ("x", "y"))
    valid = np.array([o["valid"] for o in rows], bool) & ~((x == NO_POSITION_M) & (y == NO_POSITION_M))
    has_ids = all(o.get("id") is not None for o in rows)
    tracks = Tracks(
        agent_id=np.array([plain_name(o["id"] if has_ids else i) for i, o in enumerate(rows)], np.str_),
        kind=np.array([KINDS.index(OBJECT_KINDS[o["type"]]) for o in rows], np.int8),
        length_m=np.array([o["length"] for o in rows], np.float32),
        width_m=np.array([o["width"] for o in rows], np.float32),
        x_m=x,
        y_m=y,
        heading_rad=_in_radians(np.array([o["heading"] for o in rows], np.float64), vx, vy, valid),
        vx_mps=vx,
        vy_mps=vy,
        valid=valid,
    )
    return tracks, faults


def _object_fault(thing: dict[str, Any], steps: int) -> str | None:
    """What keeps an object from being read, if anything does."""
    missing = [field for field in OBJECT_FIELDS if field not in thing]
    if missing:
        return f"object lacks {', '.join(missing)}"
    other = {field: len(thing[field]) for field in STEP_FIELDS if len(thing[field]) != steps}
    if other:
        return f"object has {other} steps, expected {steps} as in the rest of the log"
    if thing["type"] not in OBJECT_KINDS:
        return f"object type is {plain_name(thing['type'])!r}, expected one of {', '.join(OBJECT_KINDS)}"
    return None


def _in_radians(
    heading: NDArray[np.float64], vx_mps: NDArray[np.float64], vy_mps: NDArray[np.float64], valid: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Headings in radians, whichever unit the converter wrote; all arrays (A, T)."""
    finite = valid & np.isfinite(heading)
    moving = finite & (np.hypot(vx_mps, vy_mps) > 1.0)
    if not moving.any():
        return np.radians(heading) if np.abs(heading[finite]).max(initial=0) > 2 * np.pi else heading
    course = np.arctan2(vy_mps[moving], vx_mps[moving])
    off = [np.median(np.abs(wrap_angle(h - course))) for h in (heading[moving], np.radians(heading[moving]))]
    return heading if off[0] <= off[1] else np.radians(heading)


class _Roads(NamedTuple):
    """Map features by the source's type, and the source's id (None where it gives none) and type of each lane."""

    lines: dict[str, Lines]
    lane_ids: list[str | None]
    is_bike: NDArray[np.bool_]


def _roads(roads: list[dict[str, Any]]) -> _Roads:
    # a feature that is cut off at the rim of the scene can be left with a single vertex: no line, no area
    whole = {
        name: [r for r in roads if r["type"] == name and len(r["geometry"]) >= least]
        for name, least in LEAST_VERTICES.items()
    }
    lanes = whole["lane"]
    if not lanes:
        raise BadRecord("the map has no lanes, expected at least one")
    expect_size(0, 0, sum(len(r["geometry"]) for features in whole.values() for r in features))
    return _Roads(
        {name: _lines(features) for name, features in whole.items()},
        [None if r.get("id") is None else str(r["id"]) for r in lanes],
        np.array([r.get("map_element_id") == BIKE_LANE for r in lanes], bool),
    )


def _lines(roads: list[dict[str, Any]]) -> Lines:
    points = list(chain.from_iterable(r["geometry"] for r in roads))
    xy_m = np.array([(p["x"], p["y"]) for p in points], np.float64).reshape(-1, 2)
    if not np.isfinite(xy_m).all():
        raise BadRecord(f"a vertex of a {roads[0]['type']} is not a finite number")
    return Lines.of_lengths([len(r["geometry"]) for r in roads], xy_m)


def _map(roads: _Roads, map_id: str) -> VectorMap:
    lanes = roads.lines["lane"]
    n = len(lanes)
    width_m = np.where(roads.is_bike, derive.BIKE_LANE_WIDTH_M, derive.LANE_WIDTH_M)
    links = derive.lane_links(lanes, width_m)
    has_ids = len({i for i in roads.lane_ids if i is not None}) == n
    others = [Features(kind, roads.lines[name]) for name, kind in ROAD_KINDS.items()]
    area = Features("drivable_area", derive.drivable_area(lanes, roads.lines["road_edge"]), derived=True)
    stops = Features("stop_line", derive.stop_lines(lanes, links, roads.lines["stop_sign"].xy_m), derived=True)
    return vector_map(
        map_id,
        Lanes(
            ids=[f"lane_{lane_id if has_ids else i}" for i, lane_id in enumerate(roads.lane_ids)],
            lines=lanes,
            successors=links.successors,
            left=links.left,
            right=links.right,
            in_junction=links.in_junction,
            lane_type=np.where(roads.is_bike, LANE_TYPES.index("bike"), LANE_TYPES.index("vehicle")).astype(np.int8),
            width_m=np.full(n, np.nan, np.float32),
            speed_limit_mps=np.full(n, np.nan, np.float32),
            links_derived=True,
        ),
        [*others, area, stops],
    )


class _Signals(NamedTuple):
    """L signals. lane_id: the source's. xy_m: (L, 2), where the lane must stop [m]. state: (L, T) int8."""

    lane_id: list[str]
    xy_m: NDArray[np.float64]
    state: NDArray[np.int8]


def _signals(states: dict[str, dict[str, Any]], steps: int) -> _Signals:
    expect_size(len(states), steps)
    xy_m = np.array([(s["x"][0], s["y"][0]) for s in states.values()], np.float64).reshape(-1, 2)
    row = np.repeat(np.arange(len(states)), [len(s["state"]) for s in states.values()])
    step = np.array(list(chain.from_iterable(s["time_index"] for s in states.values())), np.int64)
    if len(step) != len(row) or ((step < 0) | (step >= steps)).any() or not np.isfinite(xy_m).all():
        raise BadRecord(f"tl_states has no finite x and y, or not one state for each time_index of 0 to {steps - 1}")
    state = np.zeros((len(states), steps), np.int8)
    state[row, step] = [LIGHT_STATES.get(name, 0) for s in states.values() for name in s["state"]]
    return _Signals(list(states), xy_m, state)


def _lights(signals: _Signals, roads: _Roads) -> Lights:
    """Each signal with the lane of its id, or, where ids are of another numbering, that starts at its stop point."""
    lanes = roads.lines["lane"]
    stop, line = shapely.points(signals.xy_m), shapely.linestrings(lanes.xy_m, indices=lanes.owner)
    begin = shapely.points(lanes.xy_m[lanes.start[:-1]])
    index = {lane_id: i for i, lane_id in enumerate(roads.lane_ids) if lane_id is not None}
    named = np.array([index.get(lane_id, -1) for lane_id in signals.lane_id], np.int64)
    at_name = (named >= 0) & (shapely.distance(line[named], stop) < AT_STOP_M)
    nearest = shapely.STRtree(begin).nearest(stop)
    lane = np.where(at_name, named, nearest).astype(np.int32)
    keep = at_name | (shapely.distance(begin[nearest], stop) < AT_STOP_M)
    return Lights(lane[keep], signals.xy_m[keep, 0], signals.xy_m[keep, 1], signals.state[keep])
