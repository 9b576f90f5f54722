"""ScenarioNet: one scenario per pickle, as converted from Waymo, nuScenes, nuPlan, Argoverse and others.

Pickles come from anywhere: they are read as plain data and never run (`plain_pickle`).
Format: https://scenarionet.readthedocs.io/en/latest/description.html
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S, storage
from sdiff.logs import (
    argoverse2_sensor,
    content_id,
    expect_size,
    expect_steps_of_100_ms,
    plain_pickle,
    usable,
    usual_size,
)
from sdiff.logs.driving_log import LANE_TYPES, BadRecord, DrivingLog, Lights, Tracks, VectorMap, plain_name
from sdiff.logs.frames import rate
from sdiff.maps import Features, Lanes, Lines, derive, links, vector_map

DATASET = "scenarionet"

UNDIVIDED = True

LICENSES = {
    "waymo": "Waymo Open Dataset License Agreement for Non-Commercial Use",
    "nuscenes": "CC BY-NC-SA 4.0",
    "nuplan": "CC BY-NC-SA 4.0",
    "av2": "CC BY-NC-SA 4.0",
}
"""Licence by the data set that a scenario was converted from; any other is `unknown`."""

SIZELESS = ("av2",)
"""Data sets that have no sizes: their conversions write one per class."""
EGO_SIZELESS = ("nuscenes", "nuplan")
"""Data sets that have no size of the recording vehicle: their conversions write that of its make."""
AXLE_TO_CENTRE_M = 1.385
"""Ego poses of nuScenes are those of the middle of the rear axle. The centre of a Renault Zoe (4.084 m, wheelbase
2.588 m, overhangs 0.839 m in front and 0.657 m behind) lies this far ahead of it."""
LIMITLESS = ("nuscenes", "av2")
"""Data sets of which conversions write one speed limit for all lanes, 100 km/h and 85 mph, and not the source's."""
HIGHEST_LIMIT_KMH = 200.0
"""MetaDrive writes 1000 km/h for a lane without a limit."""

SIMULATED = "metadrive"
"""What scenarios say of their data set that were simulated, on procedural maps and others."""

COORDINATES = ("right-handed", "waymo", "metadrive", "nuplan", "nuscenes")
"""What `metadata.coordinate` says of right-handed frames."""

OBJECT_KINDS = {"VEHICLE": "vehicle", "PEDESTRIAN": "pedestrian", "CYCLIST": "cyclist"}
"""Object type -> kind; any other is `other`."""
FINE_KINDS = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.bus.rigid": "bus",
    "vehicle.bus.bendy": "bus",
    "vehicle.motorcycle": "motorcyclist",
    "vehicle.bicycle": "cyclist",
}
"""The type as the source names it, where it says more."""

LINE_KINDS = {"ROAD_LINE": "lane_boundary", "UNKNOWN_LINE": "lane_boundary", "ROAD_EDGE": "road_edge"}
AREA_KINDS = {"CROSSWALK": "crosswalk", "SPEED_BUMP": "speed_bump", "DRIVEWAY": "driveway"}
"""How types of map features start -> kind of feature; lanes and stop signs are treated by themselves."""

OUTLINE = "boundary_"
"""How names of closed lines start that outline the drivable area, in scenarios that came from nuScenes."""

LIGHT_STATES = {"STOP": 1, "CAUTION": 2, "GO": 3}
"""How names of signal states end -> index into driving_log.LIGHT_STATES; any other is unknown."""
LIGHT_COLOURS = {"TRAFFIC_LIGHT_RED": 1, "TRAFFIC_LIGHT_YELLOW": 2, "TRAFFIC_LIGHT_GREEN": 3}

MAX_BYTES = 128 << 20
"""Some thirty times a busy scene of 20 s."""
INDICES = ("dataset_summary.pkl", "dataset_mapping.pkl")
"""What lies beside the scenarios of a data set."""


def find(uri: str) -> list[str]:
    """URIs of all .pkl at or under `uri` but a data set's indices, sorted.

    Raises storage.StorageError where there is none.
    """
    found = [u for u in storage.objects(uri, ".pkl") if u.rsplit("/", 1)[-1] not in INDICES]
    if not found:
        raise storage.StorageError(f"no scenario at {uri}; expected .pkl there or below")
    return found


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The scenario at `source`; a BadRecord for each track that cannot be used.

    Lane links and neighbours are the source's where its lanes name others, as those of Waymo do, else derived.
    Polygons of lanes are drivable area; what else is drivable is derived from lanes and road edges. A box size is the
    median over the track. What a conversion made up does not pass for the source's: speed limits that it writes for all
    lanes are left out, and tracks whose size is the class's or the make's have `size_known` false. nuScenes' recording
    vehicle is brought from its rear axle to its centre, and its length and width, which the conversion swaps, are
    swapped back.
    Raises BadRecord where the scenario cannot be used, storage.StorageError where it cannot be read.
    """
    size = storage.size(source)
    if size > MAX_BYTES:
        raise BadRecord(f"the file is {size} bytes long, expected at most {MAX_BYTES}")
    data = storage.read_bytes(source)
    raw = plain_pickle.loads(data)
    try:
        log, faults = _log(raw, content_id(data))
    except BadRecord:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        raise BadRecord(
            f"not a ScenarioNet scenario: {type(error).__name__} {str(error)[:200]}; expected id, length, tracks, "
            "map_features, dynamic_map_states, and metadata with sdc_id and ts or sample_rate"
        ) from error
    yield from usable(log, faults)


def _log(raw: dict[str, Any], content: str) -> tuple[DrivingLog, dict[int, str]]:
    about, log_id = raw["metadata"], _text(raw["id"])
    origin, place = _text(about.get("dataset", "unknown")), _text(about.get("map", ""))
    if origin == SIMULATED:  # its ids count from 0 in every data set
        log_id = f"{log_id}-{content}"
    coordinate = about.get("coordinate", "right-handed")
    if coordinate not in COORDINATES:
        raise BadRecord(f"metadata.coordinate is {str(coordinate)[:40]!r}, expected one of {', '.join(COORDINATES)}")
    time_s = _time_s(about, raw["length"])
    tracks, faults = _tracks(raw["tracks"], len(time_s))
    recorders = np.flatnonzero(tracks.agent_id == _text(about["sdc_id"]))
    if not len(recorders):
        raise BadRecord(f"metadata.sdc_id is {about['sdc_id']!r}, which is no track")
    recorder = int(recorders[0])
    if origin == "nuscenes":
        _to_centre(tracks, recorder, time_s)
    if origin in SIZELESS:
        tracks.length_m[recorder], tracks.width_m[recorder] = argoverse2_sensor.EGO_SIZE_M
    features = _features(raw["map_features"])
    log = DrivingLog(
        log_id=log_id,
        dataset=DATASET,
        region=place or origin,
        license=LICENSES.get(origin, "unknown"),
        tracks=tracks,
        map=_map(log_id, features, has_limits=origin not in LIMITLESS),
        lights=_lights(raw["dynamic_map_states"], features.lane_ids, len(time_s)),
        recorder=recorder,
        start_us=round(float(time_s[0]) * 1e6),
        split_key=log_id,
        size_known=size_known(origin, len(tracks.agent_id), recorder),
    )
    return log, faults


def _to_centre(tracks: Tracks, recorder: int, time_s: NDArray[np.float64]) -> None:
    """Bring a recorder of nuScenes from its rear axle to its centre, with the centre's velocity and size, in place."""
    at, valid = [recorder], tracks.valid[[recorder]]
    tracks.x_m[at] += AXLE_TO_CENTRE_M * np.cos(tracks.heading_rad[at])
    tracks.y_m[at] += AXLE_TO_CENTRE_M * np.sin(tracks.heading_rad[at])
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite costs the track, not the log
        tracks.vx_mps[at], tracks.vy_mps[at] = (rate(xy_m[at], valid, time_s) for xy_m in (tracks.x_m, tracks.y_m))
    sizes = sorted((tracks.length_m[recorder], tracks.width_m[recorder]))
    tracks.width_m[recorder], tracks.length_m[recorder] = sizes


def size_known(origin: str, tracks: int, recorder: int | None) -> NDArray[np.bool_]:
    """Which tracks of a conversion from `origin` have a size that was measured or simulated, (A,)."""
    known = np.full(tracks, origin not in SIZELESS)
    if recorder is not None:
        known[recorder] &= origin not in EGO_SIZELESS
    return known


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise TypeError(f"{type(value).__name__!s} where a name of up to 200 characters is expected")
    return plain_name(value)


def _time_s(about: dict[str, Any], length: Any) -> NDArray[np.float64]:
    if not isinstance(length, int) or length < 1:
        raise BadRecord(f"length is {str(length)[:40]}, expected the number of steps")
    expect_size(1, length)
    rate = float(about.get("sample_rate", STEP_S))
    time_s = _numbers(about["ts"] if "ts" in about else np.arange(length) * rate)
    if len(time_s) != length:
        raise BadRecord(f"metadata.ts has {len(time_s)} times, expected {length} as length says")
    expect_steps_of_100_ms(time_s)
    return time_s


def _numbers(values: Any) -> NDArray[np.float64]:
    """Numbers of an array or a flat list, as they lie, (n,). Raises TypeError for anything else."""
    if isinstance(values, np.ndarray):
        return np.asarray(values, np.float64).reshape(-1)
    return np.fromiter(map(float, values), np.float64)


def _tracks(tracks: dict[str, dict[str, Any]], steps: int) -> tuple[Tracks, dict[int, str]]:
    """All tracks, and what is wrong with those that lack a field or have other steps than the log."""
    ids = list(tracks)
    expect_size(len(ids), steps)
    faults: dict[int, str] = {}
    values = np.zeros((8, len(ids), steps))
    kind = np.full(len(ids), KINDS.index("other"), np.int8)
    for i, track in enumerate(tracks.values()):
        try:
            values[:, i] = _states(track["state"], steps)
            kind[i] = KINDS.index(_kind(track))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            faults[i] = f"not a track of {steps} steps: {type(error).__name__} {str(error)[:200]}"
    x, y, heading, vx, vy, length, width, is_valid = values
    valid = is_valid > 0
    found = Tracks(
        agent_id=np.array([_text(i) for i in ids], np.str_).reshape(-1),
        kind=kind,
        length_m=usual_size(length, valid),
        width_m=usual_size(width, valid),
        x_m=x,
        y_m=y,
        heading_rad=heading,
        vx_mps=vx,
        vy_mps=vy,
        valid=valid,
    )
    return found, faults


def _states(state: dict[str, Any], steps: int) -> list[NDArray[np.float64]]:
    """x, y, heading, vx, vy, length, width, valid of one track, each (T,). Columns of one number may be (T, 1)."""
    position, velocity = state["position"], state["velocity"]
    for name in ("position", "heading", "velocity", "length", "width", "valid"):
        values = state[name]
        if not isinstance(values, np.ndarray) or len(values) != steps or values.ndim > 2:
            raise ValueError(f"{name} is no array of {steps} rows")
    flat = [state[name].reshape(steps, -1)[:, 0] for name in ("heading", "length", "width", "valid")]
    heading, length, width, valid = flat
    return [position[:, 0], position[:, 1], heading, velocity[:, 0], velocity[:, 1], length, width, valid]


def _kind(track: dict[str, Any]) -> str:
    about = track.get("metadata")
    fine = about.get("type") if isinstance(about, dict) else None
    if isinstance(fine, str) and fine in FINE_KINDS:
        return FINE_KINDS[fine]
    type = track.get("type")
    return OBJECT_KINDS.get(type, "other") if isinstance(type, str) else "other"


class _Features(NamedTuple):
    """lanes: those with a line, and their names. shapes: lines and rings by kind, lane surfaces, outlines. signs."""

    lane_ids: list[str]
    lanes: list[dict[str, Any]]
    shapes: dict[str, Lines]
    signs: list[dict[str, Any]]


def _features(features: dict[str, dict[str, Any]]) -> _Features:
    lanes, signs = {}, []
    found: dict[str, list[Any]] = {
        k: [] for k in ("lane", "surface", "outline", *LINE_KINDS.values(), *AREA_KINDS.values())
    }
    for name, feature in features.items():
        type = _text(feature["type"])
        line, ring = (() if feature.get(shape) is None else feature[shape] for shape in ("polyline", "polygon"))
        if type.startswith("LANE") and len(line) > 1:
            lanes[_text(name)] = feature
            found["lane"].append(line)
            if len(ring) > 2:
                found["surface"].append(ring)
        elif type == "STOP_SIGN":
            signs.append(feature)
        elif _text(name).startswith(OUTLINE) and _is_ring(line):
            found["outline"].append(line)
        else:
            for kinds, shape, least in ((LINE_KINDS, line, 2), (AREA_KINDS, ring, 3)):
                kind = next((kind for start, kind in kinds.items() if type.startswith(start)), None)
                if kind and len(shape) >= least:
                    found[kind].append(shape)
    if not lanes:
        raise BadRecord("the map has no lanes, expected at least one")
    expect_size(0, 0, sum(len(shape) for shapes in found.values() for shape in shapes))
    return _Features(list(lanes), list(lanes.values()), {k: _lines(shapes) for k, shapes in found.items()}, signs)


def _is_ring(shape: Any) -> bool:
    return len(shape) > 3 and tuple(shape[0][:2]) == tuple(shape[-1][:2])


def _lines(shapes: list[Any]) -> Lines:
    """x and y of lines of points: a third number is a height in some sources and a heading in others."""
    points = [_points(shape) for shape in shapes]
    xy_m = np.concatenate(points) if points else np.zeros((0, 2))
    if not np.isfinite(xy_m).all():
        raise BadRecord("a vertex of the map is not a finite number")
    return Lines.of_lengths([len(p) for p in points], xy_m)


def _points(shape: Any) -> NDArray[np.float64]:
    if isinstance(shape, np.ndarray):
        if shape.ndim != 2 or shape.shape[1] < 2:
            raise ValueError(f"points of shape {shape.shape}")
        return np.asarray(shape[:, :2], np.float64)
    return np.fromiter(chain.from_iterable((float(p[0]), float(p[1])) for p in shape), np.float64).reshape(-1, 2)


def _map(map_id: str, features: _Features, has_limits: bool) -> VectorMap:
    ids, lanes, shapes = features.lane_ids, features.lanes, features.shapes
    lines, n = shapes["lane"], len(features.lanes)
    is_bike = np.array([lane["type"] == "LANE_BIKE_LANE" for lane in lanes], bool)
    width_m = np.where(is_bike, derive.BIKE_LANE_WIDTH_M, derive.LANE_WIDTH_M)
    states_links = any(lane.get("entry_lanes") or lane.get("exit_lanes") for lane in lanes)
    found = _stated_links(ids, lanes, lines) if states_links else derive.lane_links(lines, width_m)
    limit = [lane.get("speed_limit_kmh") if has_limits else None for lane in lanes]
    limit_kmh = np.array([v if isinstance(v, int | float) else np.nan for v in limit], np.float32)
    limit_kmh[~((limit_kmh > 0) & (limit_kmh < HIGHEST_LIMIT_KMH))] = np.nan
    index = {lane_id: i for i, lane_id in enumerate(ids)}
    stops = [index[str(i)] for sign in features.signs for i in _names(sign.get("lane")) if str(i) in index]
    return vector_map(
        map_id,
        Lanes(
            ids=[f"lane_{i}" for i in ids],
            lines=lines,
            successors=found.successors,
            left=found.left,
            right=found.right,
            in_junction=found.in_junction,
            lane_type=np.where(is_bike, LANE_TYPES.index("bike"), LANE_TYPES.index("vehicle")).astype(np.int8),
            width_m=np.full(n, np.nan, np.float32),
            speed_limit_mps=limit_kmh / np.float32(3.6),
            links_derived=not states_links,
        ),
        [
            *(Features(kind, shapes[kind]) for kind in dict.fromkeys((*LINE_KINDS.values(), *AREA_KINDS.values()))),
            Features("drivable_area", shapes["surface"]),
            Features("road_edge", shapes["outline"]),
            Features("drivable_area", derive.even_odd(shapes["outline"])),
            Features("drivable_area", derive.drivable_area(lines, shapes["road_edge"]), derived=True),
            Features("stop_line", derive.lines_across_starts(lines, np.array(stops, np.int64)), derived=True),
        ],
    )


def _stated_links(ids: list[str], lanes: list[dict[str, Any]], lines: Lines) -> derive.LaneLinks:
    entries, exits = ([_names(lane.get(f"{way}_lanes")) for lane in lanes] for way in ("entry", "exit"))
    successors = links.successors(ids, entries, exits)
    middle = {name: lines.xy_m[lines.start[i] : lines.start[i + 1]].mean(0) for i, name in enumerate(ids)}

    def beside(side: str) -> NDArray[np.int32]:
        stated = (lane.get(f"{side}_neighbor") for lane in lanes)
        return links.neighbours(ids, (_along(names, at, middle) for names, at in zip(stated, ids, strict=True)))

    return derive.LaneLinks(successors, beside("left"), beside("right"), derive.junction_lanes(lines, successors))


def _names(values: Any) -> Iterable[str]:
    return [str(v)[:200] for v in values if isinstance(v, int | str)] if isinstance(values, list) else []


def _along(neighbours: Any, lane: str, middle: dict[str, NDArray[np.float64]]) -> list[tuple[str, float]]:
    """Names of a lane's neighbours on one side, and how well each fits: the best is the one next to it.

    Waymo's say along how many vertices each accompanies the lane. Procedural maps name all lanes on that side: the
    nearest fits best.
    """
    stated = neighbours if isinstance(neighbours, list | tuple) else []
    long = [n for n in stated if isinstance(n, dict)]
    if long:
        return [(str(n["feature_id"]), int(n["self_end_index"]) - int(n["self_start_index"])) for n in long]
    names = [name for name in _names(list(stated)) if name in middle]
    return [(name, -float(np.hypot(*(middle[name] - middle[lane])))) for name in names]


def _lights(states: dict[str, dict[str, Any]], lane_ids: list[str], steps: int) -> Lights:
    index = {lane_id: i for i, lane_id in enumerate(lane_ids)}
    known = [s for s in states.values() if str(s["lane"])[:200] in index and s.get("stop_point") is not None]
    expect_size(len(known), steps)
    stop_m = np.array([_numbers(s["stop_point"])[:2] for s in known], np.float64).reshape(-1, 2)
    state = np.zeros((len(known), steps), np.int8)
    for row, signal in zip(state, known, strict=True):
        words = signal["state"]["object_state"]
        if len(words) != steps:
            raise BadRecord(f"a signal has {len(words)} states, expected {steps} as the log")
        row[:] = [_light(word) for word in words]
    if not np.isfinite(stop_m).all():
        raise BadRecord("the stop point of a signal is not a finite number")
    return Lights(np.array([index[str(s["lane"])] for s in known], np.int32), stop_m[:, 0], stop_m[:, 1], state)


def _light(word: Any) -> int:
    if not isinstance(word, str):
        return 0
    return LIGHT_COLOURS.get(word, LIGHT_STATES.get(word.rsplit("_", 1)[-1], 0))
