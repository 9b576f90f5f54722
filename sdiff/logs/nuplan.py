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
_MAP_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")

Array = NDArray[np.float64]


class _Frames(NamedTuple):
    """Frames at 10 Hz. row: (F,) rowid in lidar_pc. step: (F,) from 0 at the file's first one. time_us: (F,)."""

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


class Whole(NamedTuple):
    """What is known of all of a file before a stretch of it is read. name: of the log. region: of its map."""

    name: str
    region: str
    frames: _Frames
    agents: _Agents


class Recording(NamedTuple):
    """What a stretch of a file holds. ego: (5, F) pose of the centre and velocity, NaN where not known.

    light_connector, light_step, light_state: one entry per status of a lane connector in a kept frame.
    """

    frames: _Frames
    ego: Array
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


def divided(source: str) -> list[str]:
    """The log: of its city's map, which may be larger, each slice needs the same part."""
    return [source]


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The log at `source` in blocks of 20 s, with a BadRecord for each track that cannot be used.

    The source has 20 frames per second, 49.9 to 50.1 ms apart: every second one is taken as it is, as interpolation to
    an even grid would move boxes by millimetres. Ego poses come at 100 Hz and are interpolated to the frame's time, up
    to 7 ms off. Boxes have the source's velocity; the recorder's comes from its positions, since the source's is some
    3 % above the distance driven. Sizes are those of the table `track`.
    Raises BadRecord where the file cannot be used or its map is not found, StorageError where one cannot be read.
    """
    return read_part(source, 0, 1)


def read_part(source: str, part: int, parts: int) -> Iterator[DrivingLog | BadRecord]:
    """The blocks of one of `parts` stretches of a log; boxes and poses of other stretches are neither read nor held.

    Raises BadRecord where the file or its map cannot be used; yields it where the stretch alone cannot.
    """
    with sqlite_file.opened(source) as database:
        name, maps = _about(database)
        map_uri, looked = _find_map(source, maps)
        if map_uri is None:
            raise BadRecord(
                f"the map is missing: no {' or '.join(f'{m}/<version>/map.gpkg' for m in maps)}, nor maps/ with it, in "
                f"any of {', '.join(looked)}; put nuPlan's maps there"
            )
        whole = read_whole(database, name, map_uri.split("/")[-3])
        epsg, bounds_m = _place(database)
        steps = int(whole.frames.step[-1]) + 1
        blocks = max(1, -(-(steps - 2 * PAD_STEPS) // BLOCK_STEPS))
        mine = range(blocks * part // parts, blocks * (part + 1) // parts)
        if not mine and part:
            return
        city = nuplan_map.read(map_uri, name, epsg, bounds_m)  # first of all, as what it raises costs the whole log
        if not mine:
            return
        stop = min(mine.stop * BLOCK_STEPS + 2 * PAD_STEPS, steps)
        try:
            recording = read_recording(database, whole, mine.start * BLOCK_STEPS, stop)
        except BadRecord as error:
            if parts == 1:
                raise
            yield BadRecord(error.reason, record=f"part {part + 1} of {parts}", is_log=True)
            return
    good, faults = _usable_tracks(whole.agents)
    if mine.start == 0:
        yield from faults
    for block in mine:
        try:
            log = _block(whole, recording, city, good, block)
            yield from () if log is None else usable(log)
        except BadRecord as error:
            yield BadRecord(error.reason, stage=error.stage, record=f"{name}-{block:03d}", is_log=True)


def read_whole(database: Database, name: str, region: str) -> Whole:
    """All frames and tracks of a file. Raises BadRecord where a table cannot be used."""
    return Whole(name, region, _frames(database), _agents(database))


def read_recording(database: Database, whole: Whole, first: int = 0, stop: int = 2 * MAX_STEPS) -> Recording:
    """Steps [first, stop) of a file at 10 Hz, map frame (UTM). Raises BadRecord where a table cannot be used."""
    # a step more on either side, so that velocities are the same wherever a stretch begins
    here = slice(*np.searchsorted(whole.frames.step, [first - 1, stop + 1]))
    frames = _Frames(*(values[here] for values in whole.frames))
    step_of = dict(zip(frames.row.tolist(), frames.step.tolist(), strict=True))
    span_us = (int(frames.time_us[0]), int(frames.time_us[-1])) if len(frames.time_us) else (0, -1)
    ego = _ego(database, frames, int(whole.frames.time_us[0]))
    boxes = _boxes(database, step_of, whole.agents, span_us)
    return Recording(frames, ego, boxes, *_light_states(database, step_of, span_us))


def _about(database: Database) -> tuple[str, list[str]]:
    """Name of the log, and what the folder of its map may be called.

    That is the log's map_version in nuPlan's own files. Its location is the same but in Las Vegas (`las_vegas` beside
    `us-nv-las-vegas-strip`).
    """
    rows = database.all("SELECT logfile, map_version, location FROM log")
    if len(rows) != 1:
        raise BadRecord(f"the table log has {len(rows)} rows, expected one")
    name, *maps = (x if isinstance(x, str) else "" for x in rows[0])
    maps = [m.removesuffix(".gpkg") for m in maps if m]
    if not maps or not all(_MAP_NAME.fullmatch(m) for m in maps) or not name.strip() or "/" in name:
        found = [str(x)[:80] for x in rows[0]]
        raise BadRecord(f"logfile, map_version and location of the log are {found}, expected plain names")
    return plain_name(name), list(dict.fromkeys(maps))


def _find_map(source: str, maps: list[str]) -> tuple[str | None, list[str]]:
    """The newest map.gpkg of a city by its names, and the folders that were searched: the log's, some above, maps/."""
    looked, folder = [], storage.absolute(source)
    for _ in range(LEVELS + 1):
        folder = folder.rpartition("/")[0]
        if not folder or folder.endswith(":/"):
            break
        looked.append(folder)
    for name in maps:
        for folder in looked:
            for root in (folder, storage.join(folder, "maps")):
                found = storage.objects(storage.join(root, name), "/map.gpkg")
                if found:
                    return max(found, key=_version), looked
    return None, looked


def _version(uri: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", uri.split("/")[-2])]


def _frames(database: Database) -> _Frames:
    """All frames of the file at 10 Hz."""
    row, time_us = database.numbers("SELECT rowid, timestamp FROM lidar_pc ORDER BY timestamp")
    if not len(row):
        raise BadRecord("the table lidar_pc has no rows, expected one per frame")
    half_step = steps_of((time_us - time_us[0]) / 1e6, FRAME_S, 2 * MAX_STEPS)
    even = half_step % 2 == 0
    return _Frames(row[even].astype(np.int64), half_step[even] // 2, time_us[even].astype(np.int64))


def _place(database: Database) -> tuple[int, tuple[float, float, float, float]]:
    """EPSG code of the map frame, and the box (x0, y0, x1, y1) [m] that holds the recording vehicle's whole path."""
    epsg = database.numbers("SELECT DISTINCT epsg FROM ego_pose")[0]
    xy_m = database.numbers("SELECT x, y FROM ego_pose WHERE qw <> 0 OR qx <> 0 OR qy <> 0 OR qz <> 0")
    xy_m = xy_m[:, np.isfinite(xy_m).all(0)]
    if xy_m.shape[1] < 2 or len(epsg) != 1 or not 0 < epsg[0] < 1e6:
        raise BadRecord("the table ego_pose has not two finite poses in one coordinate system (epsg)")
    # a pose that is far off does not pull in the whole city
    low, high = np.percentile(xy_m, [0.1, 99.9], axis=1)
    return int(epsg[0]), (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _ego(database: Database, frames: _Frames, t0_us: int) -> Array:
    """The recording vehicle's centre at each frame, (5, F) as POSE_FIELDS; NaN where its place is not known.

    t0_us: time of the file's first frame. All is computed from what lies next to a frame, so that no value depends on
    where a stretch begins.
    """
    at = frames.time_us.astype(np.float64)
    if not len(at):
        return np.zeros((5, 0))
    sql = "SELECT timestamp, x, y, qw, qx, qy, qz FROM ego_pose WHERE timestamp BETWEEN ? AND ? ORDER BY timestamp"
    rows = database.numbers(sql, at[0] - POSE_GAP_S * 1e6, at[-1] + POSE_GAP_S * 1e6)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        w, x, y, z = rows[3:] / np.linalg.norm(rows[3:], axis=0)
    pose = np.stack([*rows[1:3], np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))])
    time_us, first = np.unique(rows[0], return_index=True)
    good = np.isfinite(pose[:, first]).all(0)
    time_us, pose = time_us[good], pose[:, first[good]]
    if not len(time_us):
        return np.full((5, len(at)), np.nan)
    after = np.minimum(np.searchsorted(time_us, at), len(time_us) - 1)
    before = np.where((time_us[after] > at) & (after > 0), after - 1, after)
    apart_us = time_us[after] - time_us[before]
    near = (time_us[before] <= at) & (at <= time_us[after]) & (apart_us <= POSE_GAP_S * 1e6)
    share = np.where(near, at - time_us[before], 0) / np.maximum(apart_us, 1)
    step = pose[:, after] - pose[:, before]
    axle_x, axle_y, heading = pose[:, before] + share * np.stack([*step[:2], wrap_angle(step[2])])
    x, y = axle_x + AXLE_TO_CENTRE_M * np.cos(heading), axle_y + AXLE_TO_CENTRE_M * np.sin(heading)
    column = frames.step - frames.step[0]
    steps = int(column[-1]) + 1
    time_s, valid, dense = np.zeros(steps), np.zeros((2, steps), bool), np.zeros((2, steps))
    time_s[column] = (at - t0_us) / 1e6
    valid[:, column] = near
    dense[:, column] = x, y
    velocity = rate(dense, valid, time_s)[:, column]
    return np.where(near, np.stack([x, y, wrap_angle(heading), *velocity]), np.nan)


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


def _boxes(database: Database, step_of: dict[int, int], agents: _Agents, span_us: tuple[int, int]) -> _Boxes:
    """Boxes of kept frames in order of time."""
    # CROSS keeps the order: frames of the stretch first, and the boxes of each by the file's own index
    sql = (
        "SELECT p.rowid, t.rowid, b.x, b.y, b.yaw, b.vx, b.vy FROM lidar_pc p "
        "CROSS JOIN lidar_box b ON b.lidar_pc_token = p.token LEFT JOIN track t ON t.token = b.track_token "
        "WHERE p.timestamp BETWEEN ? AND ?"
    )
    rows = database.numbers(sql, *span_us)
    unknown = np.isnan(rows[1]).sum()
    if unknown:
        raise BadRecord(f"{unknown} boxes name a track that is not there")
    step = np.array([step_of.get(int(frame), -1) for frame in rows[0]], np.int64)
    kept = np.flatnonzero(step >= 0)
    kept = kept[np.argsort(step[kept], kind="stable")]
    return _Boxes(np.searchsorted(agents.row, rows[1, kept].astype(np.int64)), step[kept], rows[2:, kept])


def _light_states(
    database: Database, step_of: dict[int, int], span_us: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Lane connector, step and state of each status in a kept frame."""
    # the table has no index on frames: all its rows are passed, each with a look at its frame
    sql = (
        "SELECT p.rowid, l.lane_connector_id, l.status FROM traffic_light_status l "
        "CROSS JOIN lidar_pc p ON p.token = l.lidar_pc_token WHERE p.timestamp BETWEEN ? AND ?"
    )
    found = [
        (connector, step_of[frame], LIGHT_STATES.get(str(status), 0))
        for some in database.rows(sql, *span_us)
        for frame, connector, status in some
        if frame in step_of and isinstance(connector, int)
    ]
    table = np.array(found, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2].astype(np.int8)


def _block(
    whole: Whole, recording: Recording, city: CityMap, good: NDArray[np.bool_], number: int
) -> DrivingLog | None:
    """One block as a log; None where nothing is in it."""
    first = number * BLOCK_STEPS
    stop = min(first + BLOCK_STEPS + 2 * PAD_STEPS, int(whole.frames.step[-1]) + 1)
    boxes, frames, agents, steps = recording.boxes, recording.frames, whole.agents, stop - first
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
    ids, kind, size = agents.agent_id[present], agents.kind[present], agents.size_m[present]
    if len(seen):
        poses[:, -1, seen], valid[-1, seen] = ego[:, np.isfinite(ego[0])], True
        ids, kind = np.append(ids, EGO_ID), np.append(kind, np.int8(KINDS.index("car")))
        size = np.concatenate([size, [EGO_SIZE_M]])
    x_m, y_m, heading_rad, vx_mps, vy_mps = poses
    length_m, width_m = size.T.astype(np.float32)
    return DrivingLog(
        log_id=f"{whole.name}-{number:03d}",
        dataset=DATASET,
        region=whole.region,
        license=LICENSE,
        tracks=Tracks(ids, kind, length_m, width_m, x_m, y_m, heading_rad, vx_mps, vy_mps, valid),
        map=city.map,
        lights=_lights(recording, city, first, stop),
        recorder=n - 1 if len(seen) else None,
        start_us=int(whole.frames.time_us[0] + first * round(STEP_S * 1e6)),
        split_key=whole.name,
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
