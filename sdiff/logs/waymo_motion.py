"""Waymo Open Motion: TFRecord files of Scenario messages, some hundreds in each. Needs no TensorFlow.

Format: https://waymo.com/open/data/motion/ and the field numbers of scenario.proto and map.proto at
https://github.com/waymo-research/waymo-open-dataset; the framing: https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from numpy.typing import NDArray

from sdiff import KINDS, storage
from sdiff.logs import expect_size, expect_steps_of_100_ms, usable, usual_size
from sdiff.logs.driving_log import LANE_TYPES, BadRecord, DrivingLog, Lights, Tracks, VectorMap, plain_name
from sdiff.maps import Features, Lanes, Lines, derive, links, vector_map

DATASET = "waymo_motion"
REGION = "waymo"
LICENSE = "Waymo Open Dataset License Agreement for Non-Commercial Use"

UNDIVIDED = True

MPS_PER_MPH = 0.44704

OBJECT_KINDS = ("other", "vehicle", "pedestrian", "cyclist", "other")
"""Kind by number of `Track.ObjectType`."""
BIKE_LANE = 3
"""Number of bike lanes in `LaneCenter.LaneType`."""
LIGHT_STATES = (0, 1, 2, 3, 1, 2, 3, 1, 2)
"""Index into driving_log.LIGHT_STATES by number of `TrafficSignalLaneState.State`."""
LINES = {"road_line": "lane_boundary", "road_edge": "road_edge"}
AREAS = {"crosswalk": "crosswalk", "speed_bump": "speed_bump", "driveway": "driveway"}
"""Field of MapFeature -> kind of feature; lanes and stop signs are treated by themselves."""
LEAST_VERTICES = {"lane": 2, "road_line": 2, "road_edge": 2, "crosswalk": 3, "speed_bump": 3, "driveway": 3}

MAX_RECORD_BYTES = 16 << 20
"""Some ten times a busy scenario; messages take up to six times their bytes in memory."""
CONVERSIONS = (".pkl", ".json", ".json.gz")
"""Ends of the names of what ScenarioNet, GPUDrive and others make of a file; they call it after the file."""
READ_BYTES = 8 << 20
CRC_MASK = 0xA282EAD8
"""What TFRecord adds to a checksum after it has turned it by 15 bits."""

MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "MapPoint": {"x": (1, "double"), "y": (2, "double"), "z": (3, "double")},
    "Neighbor": {"feature_id": (1, "int64"), "self_start_index": (2, "int32"), "self_end_index": (3, "int32")},
    "Lane": {
        "speed_limit_mph": (1, "double"),
        "type": (2, "int32"),
        "polyline": (8, "*bytes"),
        "entry_lanes": (9, "*int64"),
        "exit_lanes": (10, "*int64"),
        "left_neighbors": (11, "*Neighbor"),
        "right_neighbors": (12, "*Neighbor"),
    },
    "Line": {"polyline": (2, "*bytes")},
    "Area": {"polygon": (1, "*bytes")},
    "StopSign": {"lane": (1, "*int64")},
    "MapFeature": {
        "id": (1, "int64"),
        "lane": (3, "Lane"),
        "road_line": (4, "Line"),
        "road_edge": (5, "Line"),
        "stop_sign": (7, "StopSign"),
        "crosswalk": (8, "Area"),
        "speed_bump": (9, "Area"),
        "driveway": (10, "Area"),
    },
    "LaneState": {"lane": (1, "int64"), "state": (2, "int32"), "stop_point": (3, "MapPoint")},
    "DynamicMapState": {"lane_states": (1, "*LaneState")},
    "ObjectState": {
        "center_x": (2, "double"),
        "center_y": (3, "double"),
        "length": (5, "float"),
        "width": (6, "float"),
        "heading": (8, "float"),
        "velocity_x": (9, "float"),
        "velocity_y": (10, "float"),
        "valid": (11, "bool"),
    },
    "Track": {"id": (1, "int32"), "object_type": (2, "int32"), "states": (3, "*ObjectState")},
    "Scenario": {
        "timestamps_seconds": (1, "*double"),
        "tracks": (2, "*Track"),
        "scenario_id": (5, "bytes"),
        "sdc_track_index": (6, "int32"),
        "dynamic_map_states": (7, "*DynamicMapState"),
        "map_features": (8, "*MapFeature"),
    },
}
"""Message -> field -> number and type, `*` for a repeated one: the part of the source's messages that is read here.

Enumerations are numbers and text is bytes, which look alike in a file, so that no value is lost before it is looked at.
"""
STATE_FIELDS = tuple(MESSAGES["ObjectState"])

POINT = np.dtype([(name, kind) for axis in "xyz" for name, kind in ((f"{axis}_tag", "u1"), (axis, "<f8"))])
"""A MapPoint as it lies in a file. Vertices are most of a scenario, and an object for each takes most of the time."""


def _message_classes(*names: str) -> list[Any]:
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="scenario.proto", package=DATASET, syntax="proto2")
    for message_name, fields in MESSAGES.items():
        described = file.message_type.add(name=message_name)
        for field_name, (number, word) in fields.items():
            field = described.field.add(name=field_name, number=number)
            field.label = kind.LABEL_REPEATED if word.startswith("*") else kind.LABEL_OPTIONAL
            word = word.removeprefix("*")
            if word in MESSAGES:
                field.type, field.type_name = kind.TYPE_MESSAGE, f".{DATASET}.{word}"
            else:
                field.type = kind.Type.Value(f"TYPE_{word.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{DATASET}.{name}")) for name in names]


_Scenario, _MapPoint = _message_classes("Scenario", "MapPoint")


def find(uri: str) -> list[str]:
    """URIs of all objects with .tfrecord in their name at or under `uri`, sorted, but conversions named after one.

    Raises storage.StorageError where there is none.
    """
    found = [u for u in storage.objects(uri, "") if u == uri or _is_record_file(u.rsplit("/", 1)[-1])]
    if not found:
        raise storage.StorageError(f"no TFRecord file at {uri}; expected names with .tfrecord in them there or below")
    return found


def _is_record_file(name: str) -> bool:
    return ".tfrecord" in name and not name.endswith(CONVERSIONS)


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The scenarios of one file in its order; a BadRecord for each that is bad, and for each bad track of a good one.

    All is the source's but the drivable area and which lanes lie in a junction, which are derived, and the stop lines:
    they lie across the starts of the lanes that a stop sign names. A box size is the median over the track.
    Raises BadRecord where the file's framing is broken: what follows cannot be found. Raises storage.StorageError where
    the file cannot be read.
    """
    for where, record in _records(source):
        try:
            if isinstance(record, BadRecord):
                raise record
            for item in _scenario(record):
                yield item if isinstance(item, DrivingLog) else _within(where, item)
        except BadRecord as error:
            yield _within(where, error, is_log=True)


def _within(where: str, bad: BadRecord, is_log: bool = False) -> BadRecord:
    record = f"{where}, {bad.record}" if bad.record else where
    return BadRecord(bad.reason, stage=bad.stage, record=record, is_log=is_log)


def _records(source: str) -> Iterator[tuple[str, bytes | BadRecord]]:
    """Where each record of a TFRecord file is, and its bytes or what is wrong with them."""
    size = storage.size(source)
    held, held_at = b"", 0

    def take(at: int, n: int) -> bytes:
        nonlocal held, held_at
        if at < held_at or at + n > held_at + len(held):
            held, held_at = storage.read_bytes(source, at, min(at + max(n, READ_BYTES), size)), at
        return held[at - held_at : at - held_at + n]

    at = number = 0
    while at < size:
        where = f"record {number} at byte {at}"
        head = take(at, 12)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 12 or _masked_crc(head[:8]) != head[8:]:
            raise BadRecord("not a TFRecord: the checksum of a record's length is wrong", record=where)
        if at + 12 + length + 4 > size:
            raise BadRecord(f"the record is {length} bytes long, but the file ends at byte {size}", record=where)
        if length > MAX_RECORD_BYTES:
            yield where, BadRecord(f"the record is {length} bytes long, expected at most {MAX_RECORD_BYTES}")
        else:
            body = take(at + 12, length + 4)
            crc_ok = _masked_crc(body[:length]) == body[length:]
            yield where, body[:length] if crc_ok else BadRecord("the checksum of the record is wrong")
        at, number = at + 12 + length + 4, number + 1


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + CRC_MASK) & 0xFFFFFFFF).to_bytes(4, "little")


def _scenario(record: bytes) -> Iterator[DrivingLog | BadRecord]:
    if record[:1] == b"\n" and b"state/id" in record:
        raise BadRecord(
            "a tf.Example, which has neither lane links nor neighbours; expected the dataset's Scenario files"
        )
    try:
        scenario = _Scenario.FromString(record)
    except message.DecodeError as error:
        raise BadRecord(f"not a whole Scenario message: {error}") from error
    time_s = np.array(scenario.timestamps_seconds, np.float64)
    lines = {name: [getattr(f, name).polyline for f in _features(scenario, name)] for name in ("lane", *LINES)}
    areas = {name: [getattr(f, name).polygon for f in _features(scenario, name)] for name in AREAS}
    vertices = sum(len(line) for shapes in (lines | areas).values() for line in shapes)
    expect_size(len(scenario.tracks), len(time_s), vertices)
    expect_steps_of_100_ms(time_s)
    log_id = plain_name(scenario.scenario_id.decode(errors="backslashreplace"))
    if not log_id:
        raise BadRecord("not a Scenario: it has no scenario_id")
    tracks, faults = _tracks(scenario.tracks, len(time_s))
    recorder = scenario.sdc_track_index if scenario.HasField("sdc_track_index") else None
    if recorder is not None and not 0 <= recorder < len(tracks.agent_id):
        raise BadRecord(f"sdc_track_index is {recorder}, expected 0 to {len(tracks.agent_id) - 1}")
    lanes = [f for f in _features(scenario, "lane") if len(f.lane.polyline) >= LEAST_VERTICES["lane"]]
    ids = [f.id for f in lanes]
    map = _map(log_id, ids, [f.lane for f in lanes], {**lines, **areas}, _features(scenario, "stop_sign"))
    yield from usable(
        DrivingLog(
            log_id=log_id,
            dataset=DATASET,
            region=REGION,
            license=LICENSE,
            tracks=tracks,
            map=map,
            lights=_lights(scenario.dynamic_map_states, ids, len(time_s)),
            recorder=recorder,
            start_us=round(time_s[0] * 1e6),
            split_key=log_id,
        ),
        faults,
    )


def _features(scenario: Any, name: str) -> list[Any]:
    return [f for f in scenario.map_features if f.HasField(name)]


def _tracks(tracks: Sequence[Any], steps: int) -> tuple[Tracks, dict[int, str]]:
    """All tracks, and what is wrong with those that have other steps than the log or an unknown type."""
    lengths = [len(t.states) for t in tracks]
    types = [t.object_type for t in tracks]
    faults = {i: f"track has {n} steps, expected {steps} as the log" for i, n in enumerate(lengths) if n != steps}
    for i, type in enumerate(types):
        if not 0 <= type < len(OBJECT_KINDS):
            faults[i] = f"object type is {type}, expected 0 to {len(OBJECT_KINDS) - 1}"
    whole = [i for i in range(len(tracks)) if lengths[i] == steps]
    states = list(chain.from_iterable(tracks[i].states for i in whole))

    values = np.zeros((len(STATE_FIELDS), len(tracks), steps))
    rows = np.array(list(map(attrgetter(*STATE_FIELDS), states)), np.float64)
    values[:, whole] = rows.T.reshape(len(STATE_FIELDS), len(whole), steps)
    x, y, length, width, heading, vx, vy, is_valid = values
    valid = is_valid > 0
    found = Tracks(
        agent_id=np.array([str(t.id) for t in tracks], np.str_).reshape(-1),
        kind=np.array([KINDS.index(OBJECT_KINDS[0 if i in faults else t]) for i, t in enumerate(types)], np.int8),
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


def _lines(shapes: Sequence[Sequence[Any]], least: int) -> Lines:
    # a feature that is cut off at the rim of the scene can be left with a single vertex: no line, no area
    whole = [shape for shape in shapes if len(shape) >= least]
    xy_m = _xy_m(list(chain.from_iterable(whole)))
    if not np.isfinite(xy_m).all():
        raise BadRecord("a vertex of the map is not a finite number")
    return Lines.of_lengths([len(shape) for shape in whole], xy_m)


def _xy_m(points: list[bytes]) -> NDArray[np.float64]:
    """x and y of MapPoint messages, (n, 2) [m]: at once where each is x, y, z, as always so far, else one by one."""
    data = b"".join(points)
    if len(data) == len(points) * POINT.itemsize:
        block = np.frombuffer(data, POINT)
        if all((block[f"{axis}_tag"] == MESSAGES["MapPoint"][axis][0] << 3 | 1).all() for axis in "xyz"):
            return np.stack([block["x"], block["y"]], -1)
    try:
        parsed = [_MapPoint.FromString(p) for p in points]
    except message.DecodeError as error:
        raise BadRecord(f"not a whole MapPoint message: {error}") from error
    return np.array([(p.x, p.y) for p in parsed], np.float64).reshape(-1, 2)


def _map(
    map_id: str, ids: list[int], lanes: list[Any], shapes: dict[str, list[Sequence[Any]]], stop_signs: list[Any]
) -> VectorMap:
    if not lanes:
        raise BadRecord("the map has no lanes, expected at least one")
    lines = {name: _lines(group, LEAST_VERTICES[name]) for name, group in shapes.items()}
    successors = links.successors(ids, (lane.entry_lanes for lane in lanes), (lane.exit_lanes for lane in lanes))

    def neighbours(side: str) -> NDArray[np.int32]:
        beside = (getattr(lane, f"{side}_neighbors") for lane in lanes)
        along = ([(n.feature_id, n.self_end_index - n.self_start_index) for n in group] for group in beside)
        return links.neighbours(ids, along)

    index = {lane_id: i for i, lane_id in enumerate(ids)}
    stops = [index[i] for f in stop_signs for i in f.stop_sign.lane if i in index]
    is_bike = np.array([lane.type == BIKE_LANE for lane in lanes], bool)
    limit_mps = np.array([lane.speed_limit_mph for lane in lanes], np.float32) * MPS_PER_MPH
    return vector_map(
        map_id,
        Lanes(
            ids=[f"lane_{i}" for i in ids],
            lines=lines["lane"],
            successors=successors,
            left=neighbours("left"),
            right=neighbours("right"),
            in_junction=derive.junction_lanes(lines["lane"], successors),
            lane_type=np.where(is_bike, LANE_TYPES.index("bike"), LANE_TYPES.index("vehicle")).astype(np.int8),
            width_m=np.full(len(ids), np.nan, np.float32),
            speed_limit_mps=np.where(limit_mps > 0, limit_mps, np.nan).astype(np.float32),
            links_derived=False,
        ),
        [
            *(Features(kind, lines[name]) for name, kind in (LINES | AREAS).items()),
            Features("drivable_area", derive.drivable_area(lines["lane"], lines["road_edge"]), derived=True),
            Features("stop_line", derive.lines_across_starts(lines["lane"], np.array(stops, np.int64)), derived=True),
        ],
    )


def _lights(by_step: Sequence[Any], ids: list[int], steps: int) -> Lights:
    """The signals of the lanes of the map; each stops where it first says so."""
    if len(by_step) > steps:
        raise BadRecord(f"{len(by_step)} dynamic_map_states, expected one for each of {steps} steps")
    index = {lane_id: i for i, lane_id in enumerate(ids)}
    seen = [(index[s.lane], t, s) for t, states in enumerate(by_step) for s in states.lane_states if s.lane in index]
    lanes = sorted({lane for lane, _, _ in seen})
    row = {lane: i for i, lane in enumerate(lanes)}
    expect_size(len(lanes), steps)
    stop_m = np.full((len(lanes), 2), np.nan)
    state = np.zeros((len(lanes), steps), np.int8)
    for lane, t, s in reversed(seen):
        stop_m[row[lane]] = s.stop_point.x, s.stop_point.y
        state[row[lane], t] = LIGHT_STATES[s.state] if 0 <= s.state < len(LIGHT_STATES) else 0
    if not np.isfinite(stop_m).all():
        raise BadRecord("the stop point of a signal is not a finite number")
    return Lights(np.array(lanes, np.int32), stop_m[:, 0], stop_m[:, 1], state)
