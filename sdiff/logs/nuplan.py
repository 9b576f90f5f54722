"""nuPlan logs: one SQLite file (.db) each, with the city's GeoPackage (map.gpkg) somewhere above it.

Format: https://github.com/motional/nuplan-devkit/blob/master/docs/nuplan_schema.md
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S, storage
from sdiff.geometry import wrap_angle
from sdiff.logs import nuplan_map, sqlite_file, usable
from sdiff.logs.driving_log import BadRecord, DrivingLog, Lights, Tracks, plain_name
from sdiff.logs.frames import check_size, rate, steps_of
from sdiff.logs.nuplan_map import CityMap
from sdiff.logs.sqlite_file import Database

DATASET = "nuplan"
LICENSE = "CC BY-NC-SA 4.0"

FRAME_S = 0.05
MAX_STEPS = 864_000
BLOCK_STEPS, PAD_STEPS = 200, 20
"""Length of a log, and how much of the recording is added before and after it, so that each moment has its +-2 s."""

CATEGORY_KINDS = {"vehicle": "vehicle", "bicycle": "cyclist", "pedestrian": "pedestrian"}
"""Category -> kind; cones, barriers, signs and other things are `other`. `bicycle` takes in motorcycles."""
LIGHT_STATES = {"red": 1, "yellow": 2, "green": 3}

EGO_ID = "ego"
EGO_SIZE_M = (5.176, 2.297)
AXLE_TO_CENTRE_M = 1.461
"""The recording vehicles are Chrysler Pacificas. Ego poses are those of the middle of the rear axle, which lies this
far behind the centre (4.049 m to the front bumper, 1.127 m to the rear one; the devkit's vehicle_parameters.py)."""
POSE_GAP_S = 0.1
"""Between two ego poses that are this far apart, the recording vehicle's place is not known."""

LEVELS = 4
"""How many folders above a log's own are searched for maps."""
_LOCATION = re.compile(r"[A-Za-z0-9_-]{1,64}")

Array = NDArray[np.float64]


class _Frames(NamedTuple):
    """Frames at 10 Hz. row: (F,) rowid in lidar_pc. step: (F,) from 0. time_us: (F,)."""

    row: NDArray[np.int64]
    step: NDArray[np.int64]
    time_us: NDArray[np.int64]


class _Boxes(NamedTuple):
    """Boxes in kept frames, by step. track: (B,) index of the track. step: (B,). pose: (5, B), POSE_FIELDS."""

    track: NDArray[np.int64]
    step: NDArray[np.int64]
    pose: Array


class _Agents(NamedTuple):
    """Tracks of the file. row: (A,) rowid. agent_id, kind, size_m (A, 2) of each."""

    row: NDArray[np.int64]
    agent_id: NDArray[np.str_]
    kind: NDArray[np.int8]
    size_m: Array


class Recording(NamedTuple):
    """All that a file holds besides its map. ego: (5, F) pose of the centre and velocity, NaN where not known.

    light_connector, light_step, light_state: one entry per status of a lane connector in a kept frame.
    """

    name: str
    location: str
    epsg: int
    frames: _Frames
    ego: Array
    agents: _Agents
    boxes: _Boxes
    light_connector: NDArray[np.int64]
    light_step: NDArray[np.int64]
    light_state: NDArray[np.int8]


def find(uri: str) -> list[str]:
    """URIs of all .db at or under `uri`, sorted. Raises storage.StorageError where there is none."""
    found = storage.objects(uri, ".db")
    if not found:
        raise storage.StorageError(f"no nuPlan log at {uri}; expected .db there or below")
    return found


def files(source: str) -> list[str]:
    """The log, and the map of its city where one is found."""
    try:
        with sqlite_file.opened(source) as database:
            found, _ = _find_map(source, _about(database)[1])
    except BadRecord:  # read() says what is wrong
        found = None
    return [source, *([found] if found else [])]


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The log at `source` in blocks of 20 s, with a BadRecord for each track that cannot be used.

    The source has 20 frames per second, 49.9 to 50.1 ms apart: every second one is taken as it is, as interpolation to
    an even grid would move boxes by millimetres. Ego poses come at 100 Hz and are interpolated to the frame's time, up
    to 7 ms off. Boxes have the source's velocity; the recorder's comes from its positions, since the source's is some
    3 % above the distance driven. Sizes are those of the table `track`.
    Raises BadRecord where the file cannot be used or its map is not found, StorageError where one cannot be read.
    """
    with sqlite_file.opened(source) as database:
        name, location = _about(database)
        map_uri, looked = _find_map(source, location)
        if map_uri is None:
            raise BadRecord(
                f"the map is missing: no {location}/<version>/map.gpkg, nor maps/ with it, in any of "
                f"{', '.join(looked)}; put nuPlan's maps there"
            )
        recording = read_recording(database, name, location)
    good, faults = _usable_tracks(recording.agents)
    yield from faults
    reach = np.concatenate([recording.ego[:2][:, np.isfinite(recording.ego[:2]).all(0)], recording.boxes.pose[:2]], 1)
    city = nuplan_map.read(map_uri, name, recording.epsg, _bounds(reach))
    steps = int(recording.frames.step[-1]) + 1
    for block in range(max(1, -(-(steps - 2 * PAD_STEPS) // BLOCK_STEPS))):
        first = block * BLOCK_STEPS
        log = _block(recording, city, good, first, min(first + BLOCK_STEPS + 2 * PAD_STEPS, steps), block)
        if log is not None:
            yield from usable(log)


def read_recording(database: Database, name: str, location: str) -> Recording:
    """Everything in the file at 10 Hz, map frame (UTM). Raises BadRecord where a table cannot be used."""
    frames, kept = _frames(database)
    ego, epsg = _ego(database, frames)
    agents = _agents(database)
    boxes = _boxes(database, kept, agents)
    return Recording(name, location, epsg, frames, ego, agents, boxes, *_light_states(database, kept))


def _about(database: Database) -> tuple[str, str]:
    """Name of the log and its location."""
    rows = database.all("SELECT logfile, location FROM log")
    if len(rows) != 1:
        raise BadRecord(f"the table log has {len(rows)} rows, expected one")
    name, location = (x if isinstance(x, str) else "" for x in rows[0])
    location = location.removesuffix(".gpkg")
    if not _LOCATION.fullmatch(location) or not name.strip() or "/" in name:
        raise BadRecord(f"logfile and location are {name[:80]!r} and {location[:80]!r}, expected plain names")
    return plain_name(name), location


def _find_map(source: str, location: str) -> tuple[str | None, list[str]]:
    """The newest map.gpkg of a location, and the folders that were searched: the log's and some above, and maps/."""
    looked, folder = [], storage.absolute(source)
    for _ in range(LEVELS + 1):
        folder = folder.rpartition("/")[0]
        if not folder or folder.endswith(":/"):
            break
        looked.append(folder)
        for root in (folder, storage.join(folder, "maps")):
            found = storage.objects(storage.join(root, location), "/map.gpkg")
            if found:
                return max(found, key=_version), looked
    return None, looked


def _version(uri: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", uri.split("/")[-2])]


def _frames(database: Database) -> tuple[_Frames, dict[int, int]]:
    """Frames at 10 Hz, and the step of each by its rowid."""
    row, time_us = database.numbers("SELECT rowid, timestamp FROM lidar_pc ORDER BY timestamp")
    if not len(row):
        raise BadRecord("the table lidar_pc has no rows, expected one per frame")
    half_step = steps_of((time_us - time_us[0]) / 1e6, FRAME_S, 2 * MAX_STEPS)
    even = half_step % 2 == 0
    frames = _Frames(row[even].astype(np.int64), half_step[even] // 2, time_us[even].astype(np.int64))
    return frames, dict(zip(frames.row.tolist(), frames.step.tolist(), strict=True))


def _ego(database: Database, frames: _Frames) -> tuple[Array, int]:
    """The recording vehicle's centre at each frame, (5, F) as POSE_FIELDS, and the EPSG code of the map frame."""
    rows = database.numbers("SELECT timestamp, x, y, qw, qx, qy, qz, epsg FROM ego_pose ORDER BY timestamp")
    time_us, first = np.unique(rows[0], return_index=True)
    epsg = np.unique(rows[7])
    rows = rows[:, first]
    quaternion = rows[3:7]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        w, x, y, z = quaternion / np.linalg.norm(quaternion, axis=0)
    heading = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    good = np.isfinite(time_us) & np.isfinite(rows[1:3]).all(0) & np.isfinite(heading)
    if good.sum() < 2 or len(epsg) != 1 or not 0 < epsg[0] < 1e6:
        raise BadRecord("the table ego_pose has not two finite poses in one coordinate system (epsg)")
    time_us, heading = time_us[good], np.unwrap(heading[good])
    at = frames.time_us.astype(np.float64)
    after = np.clip(np.searchsorted(time_us, at), 1, len(time_us) - 1)
    near = (at >= time_us[0]) & (at <= time_us[-1]) & (time_us[after] - time_us[after - 1] <= POSE_GAP_S * 1e6)
    near |= at == time_us[after]
    axle_x, axle_y, heading = (np.interp(at, time_us, v) for v in (rows[1, good], rows[2, good], heading))
    x, y = axle_x + AXLE_TO_CENTRE_M * np.cos(heading), axle_y + AXLE_TO_CENTRE_M * np.sin(heading)
    steps = int(frames.step[-1]) + 1
    time_s, valid, dense = np.arange(steps) * STEP_S, np.zeros((2, steps), bool), np.zeros((2, steps))
    time_s[frames.step] = (at - at[0]) / 1e6
    valid[:, frames.step] = near
    dense[:, frames.step] = x, y
    velocity = rate(dense, valid, time_s)[:, frames.step]
    return np.where(near, np.stack([x, y, wrap_angle(heading), *velocity]), np.nan), int(epsg[0])


def _agents(database: Database) -> _Agents:
    rows = database.all(
        "SELECT t.rowid, t.token, c.name, t.length, t.width FROM track t LEFT JOIN category c "
        "ON c.token = t.category_token ORDER BY t.rowid"
    )
    ids = [plain_name(token.hex() if isinstance(token, bytes) else token) for _, token, _, _, _ in rows]
    size = [[x if isinstance(x, int | float) else np.nan for x in row[3:]] for row in rows]
    return _Agents(
        row=np.array([row[0] for row in rows], np.int64),
        agent_id=np.array(ids, np.str_),
        kind=np.array([KINDS.index(CATEGORY_KINDS.get(str(row[2]), "other")) for row in rows], np.int8),
        size_m=np.array(size, np.float64).reshape(-1, 2),
    )


def _usable_tracks(agents: _Agents) -> tuple[NDArray[np.bool_], list[BadRecord]]:
    """Whether each track has a size and an id of its own, and what is wrong with the others."""
    ids, inverse, count = np.unique(agents.agent_id, return_inverse=True, return_counts=True)
    with np.errstate(invalid="ignore"):
        sized = (agents.size_m > 0).all(1) & (agents.size_m[:, 0] < 40) & (agents.size_m[:, 1] < 10)
    once = count[inverse] == 1 if len(ids) else np.ones(0, bool)
    reasons = ((~sized, "box size is not within 40 x 10 m and above 0"), (~once, "track token comes more than once"))
    bad = [BadRecord(why, record=str(agents.agent_id[i])) for no, why in reasons for i in np.flatnonzero(no)]
    return sized & once, bad


def _boxes(database: Database, step_of: dict[int, int], agents: _Agents) -> _Boxes:
    """Boxes of kept frames in order of time."""
    sql = (
        "SELECT p.rowid, t.rowid, b.x, b.y, b.yaw, b.vx, b.vy FROM lidar_box b "
        "LEFT JOIN lidar_pc p ON p.token = b.lidar_pc_token LEFT JOIN track t ON t.token = b.track_token"
    )
    rows = database.numbers(sql)
    if np.isnan(rows[:2]).any():
        raise BadRecord(f"{np.isnan(rows[:2]).any(0).sum()} boxes name a frame or a track that is not there")
    step = np.array([step_of.get(int(frame), -1) for frame in rows[0]], np.int64)
    kept = np.flatnonzero(step >= 0)
    kept = kept[np.argsort(step[kept], kind="stable")]
    return _Boxes(np.searchsorted(agents.row, rows[1, kept].astype(np.int64)), step[kept], rows[2:, kept])


def _light_states(
    database: Database, step_of: dict[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Lane connector, step and state of each status in a kept frame."""
    sql = (
        "SELECT p.rowid, l.lane_connector_id, l.status FROM traffic_light_status l "
        "LEFT JOIN lidar_pc p ON p.token = l.lidar_pc_token"
    )
    found = [
        (connector, step_of[frame], LIGHT_STATES.get(str(status), 0))
        for some in database.rows(sql)
        for frame, connector, status in some
        if frame in step_of and isinstance(connector, int)
    ]
    table = np.array(found, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2].astype(np.int8)


def _bounds(xy_m: Array) -> tuple[float, float, float, float]:
    finite = xy_m[:, np.isfinite(xy_m).all(0)]
    if not finite.shape[1]:
        raise BadRecord("neither the recording vehicle nor a box has a finite place")
    # stand-ins have a map around them too, but a box that is far off does not pull in the whole city
    low, high = np.percentile(finite, [1, 99], axis=1)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _block(
    recording: Recording, city: CityMap, good: NDArray[np.bool_], first: int, stop: int, number: int
) -> DrivingLog | None:
    """Steps [first, stop) as a log; None where nothing is in them."""
    boxes, frames, steps = recording.boxes, recording.frames, stop - first
    part = np.arange(*np.searchsorted(boxes.step, [first, stop]))
    part = part[good[boxes.track[part]]]
    present, agent = np.unique(boxes.track[part], return_inverse=True)
    here = slice(*np.searchsorted(frames.step, [first, stop]))
    ego = recording.ego[:, here]
    seen = frames.step[here][np.isfinite(ego[0])] - first
    if not len(present) and not len(seen):
        return None
    n = len(present) + bool(len(seen))
    check_size(n, steps)
    poses, valid = np.zeros((5, n, steps)), np.zeros((n, steps), bool)
    poses[:, agent, boxes.step[part] - first] = boxes.pose[:, part]
    valid[agent, boxes.step[part] - first] = True
    ids, kind, size = (
        recording.agents.agent_id[present],
        recording.agents.kind[present],
        recording.agents.size_m[present],
    )
    if len(seen):
        poses[:, -1, seen], valid[-1, seen] = ego[:, np.isfinite(ego[0])], True
        ids, kind = np.append(ids, EGO_ID), np.append(kind, np.int8(KINDS.index("car")))
        size = np.concatenate([size, [EGO_SIZE_M]])
    x_m, y_m, heading_rad, vx_mps, vy_mps = poses
    length_m, width_m = size.T.astype(np.float32)
    return DrivingLog(
        log_id=f"{recording.name}-{number:03d}",
        dataset=DATASET,
        region=recording.location,
        license=LICENSE,
        tracks=Tracks(ids, kind, length_m, width_m, x_m, y_m, heading_rad, vx_mps, vy_mps, valid),
        map=city.map,
        lights=_lights(recording, city, first, stop),
        recorder=n - 1 if len(seen) else None,
        start_us=int(frames.time_us[0] + first * round(STEP_S * 1e6)),
        split_key=recording.name,
        size_known=ids != EGO_ID,
    )


def _lights(recording: Recording, city: CityMap, first: int, stop: int) -> Lights:
    """States of the lane connectors of the map, which begin where one stops."""
    here = (recording.light_step >= first) & (recording.light_step < stop)
    here &= np.isin(recording.light_connector, list(city.connector))
    connectors, row = np.unique(recording.light_connector[here], return_inverse=True)
    lane = np.array([city.connector[int(c)] for c in connectors], np.int32)
    state = np.zeros((len(lane), stop - first), np.int8)
    state[row, recording.light_step[here] - first] = recording.light_state[here]
    begin = city.map.xy_m[city.map.start[lane]]
    return Lights(lane, begin[:, 0], begin[:, 1], state)
