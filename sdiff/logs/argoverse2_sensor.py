"""Argoverse 2 sensor logs: one folder per log, with annotations.feather, city_SE3_egovehicle.feather and map/.

Format: https://argoverse.github.io/user-guide/datasets/sensor.html
"""

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S, storage
from sdiff.logs import argoverse2_map, arrow_file, usable
from sdiff.logs.driving_log import BadRecord, DrivingLog, Lights, Tracks, VectorMap
from sdiff.logs.frames import check_size, rate, steps_of

DATASET = "argoverse2_sensor"
LICENSE = "CC BY-NC-SA 4.0"

ANNOTATIONS = ("annotations.feather", "annotations_with_ego.feather")
POSES = "city_SE3_egovehicle.feather"

CATEGORY_KINDS = {
    "REGULAR_VEHICLE": "car",
    **dict.fromkeys(("TRUCK", "BOX_TRUCK", "TRUCK_CAB"), "truck"),
    **dict.fromkeys(("BUS", "SCHOOL_BUS", "ARTICULATED_BUS"), "bus"),
    **dict.fromkeys(("LARGE_VEHICLE", "VEHICULAR_TRAILER"), "vehicle"),
    "MOTORCYCLIST": "motorcyclist",
    **dict.fromkeys(("BICYCLIST", "WHEELED_RIDER"), "cyclist"),
    **dict.fromkeys(("PEDESTRIAN", "WHEELCHAIR", "OFFICIAL_SIGNALER"), "pedestrian"),
}
"""Category -> kind; all others, things without a rider among them, are `other`."""
RIDDEN = {"BICYCLIST": "BICYCLE", "MOTORCYCLIST": "MOTORCYCLE", "WHEELED_RIDER": "WHEELED_DEVICE"}
"""Riders, and what they ride: the source has a box for either."""
RIDDEN_M, RIDDEN_SHARE = 1.0, 0.8
"""A thing is ridden where a rider's centre is this near to its own for this share of its steps."""
MOST_PAIRED, PAIRED_AT_ONCE = 100_000_000, 1_000_000
"""Riders times things they could ride times steps, in a log, and of these held in memory."""

EGO_CATEGORY = "EGO_VEHICLE"
EGO_ID = "AV"
EGO_SIZE_M = (4.877, 2.0)
"""The recording vehicle's box, as the files that annotate it have it."""
AXLE_TO_CENTRE_M = 1.34
"""The vehicle frame's origin is the middle of the rear axle; the centre of a Ford Fusion (4.87 m, wheelbase 2.85 m,
rear overhang 1.09 m) lies this far ahead of it."""

REGIONS = {
    "ATX": "austin",
    "DTW": "dearborn",
    "MIA": "miami",
    "PAO": "palo-alto",
    "PIT": "pittsburgh",
    "WDC": "washington-dc",
}
MAX_STEPS = 6000

_POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
_ANNOTATION = {"timestamp_ns": pa.int64(), "track_uuid": pa.string(), "category": pa.string()} | dict.fromkeys(
    ("length_m", "width_m", *_POSE), pa.float64()
)
_EGO_POSE = {"timestamp_ns": pa.int64(), **dict.fromkeys(_POSE, pa.float64())}

Array = NDArray[np.float64]


def find(uri: str) -> list[str]:
    """URIs of the annotations at or under `uri`, one per log, sorted. Raises StorageError where there is none."""
    of_folder: dict[str, str] = {}
    for found in storage.objects(uri, ".feather"):
        folder, _, name = found.rpartition("/")
        if name in ANNOTATIONS:
            of_folder.setdefault(folder, found)
    if not of_folder:
        raise storage.StorageError(f"no Argoverse 2 sensor log at {uri}; expected {ANNOTATIONS[0]} there or below")
    return sorted(of_folder.values())


def files(source: str) -> list[str]:
    """The annotations, and the poses and the map that lie beside them."""
    poses = storage.join(_folder(source), POSES)
    return [source, *([poses] if storage.exists(poses) else []), *_maps(source)]


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The log whose annotations are at `source`; a BadRecord for each track that cannot be used.

    Boxes come in the vehicle's frame and are brought into the city's by the pose of their frame. Velocities are
    derived from positions. The recorder is track "AV", from the poses, with its known size.
    Raises BadRecord where a file is missing or cannot be used, storage.StorageError where one cannot be read.
    """
    log_id = _folder(source).rsplit("/", 1)[-1]
    poses = storage.join(_folder(source), POSES)
    if not storage.exists(poses):
        raise BadRecord(f"no {POSES} beside the annotations; without it boxes cannot be brought into the city's frame")
    table, start_ns = _read_annotations(source)
    tracks, faults = _tracks(table, _table(poses, _EGO_POSE))
    vector_map, region = _map(source, log_id)
    yield from usable(
        DrivingLog(
            log_id=log_id,
            dataset=DATASET,
            region=region,
            license=LICENSE,
            tracks=tracks,
            map=vector_map,
            lights=Lights.none(tracks.valid.shape[1]),
            recorder=int(np.flatnonzero(tracks.agent_id == EGO_ID)[0]),
            start_us=start_ns // 1000,
            size_known=tracks.agent_id != EGO_ID,
        ),
        faults,
    )


def _folder(source: str) -> str:
    return source.rpartition("/")[0] or "."


def _read_annotations(source: str) -> tuple[pa.Table, int]:
    """The annotations without those of the recording vehicle, and the time of the first frame [ns]."""
    table = _table(source, _ANNOTATION)
    for name in ("timestamp_ns", "track_uuid", "category"):
        if table[name].null_count:
            raise BadRecord(f"{table[name].null_count} nulls in {name}, expected none")
    categories, category = arrow_file.names(table["category"])
    return table.filter(pa.array((categories != EGO_CATEGORY)[category])), int(table["timestamp_ns"].to_numpy().min())


def _table(uri: str, columns: dict[str, pa.DataType]) -> pa.Table:
    return arrow_file.feather(storage.read_bytes(uri), columns, uri.rsplit("/", 1)[-1])


def _tracks(table: pa.Table, poses: pa.Table) -> tuple[Tracks, dict[int, str]]:
    """All tracks, the recording vehicle's last, and what is wrong with those whose rows contradict each other."""
    frame_ns, frame = np.unique(table["timestamp_ns"].to_numpy(), return_inverse=True)
    if not len(frame_ns):
        raise BadRecord("the log has no annotation besides those of the recording vehicle, expected one or more")
    step_of_frame = steps_of((frame_ns - frame_ns[0]) / 1e9, STEP_S, MAX_STEPS)
    steps = int(step_of_frame[-1]) + 1
    time_s = np.arange(steps) * STEP_S
    time_s[step_of_frame] = (frame_ns - frame_ns[0]) / 1e9
    city_SE3_ego = _at(poses, frame_ns)

    ids, agent = arrow_file.names(table["track_uuid"])
    n = len(ids) + 1
    check_size(n, steps)
    step = step_of_frame[frame]
    rows = np.zeros((n, steps), np.int64)
    np.add.at(rows, (agent, step), 1)
    rows[-1, step_of_frame] = 1
    names, code = arrow_file.names(table["category"])
    category = np.zeros(n, np.int64)
    category[agent] = code
    changes = np.zeros(n, bool)
    changes[agent[code != category[agent]]] = True

    x, y, heading = _to_city(_columns(table, _POSE), city_SE3_ego[:, frame])
    ego = np.zeros((7, len(frame_ns)))
    ego[0], ego[4] = 1.0, AXLE_TO_CENTRE_M
    ego_x, ego_y, ego_heading = _to_city(ego, city_SE3_ego)

    def dense(values: Array, of_ego: Array) -> Array:
        found = np.zeros((n, steps))
        found[agent, step] = values
        found[-1, step_of_frame] = of_ego
        return found

    size_m = np.zeros((2, n))
    size_m[:, agent] = _columns(table, ("length_m", "width_m"))
    size_m[:, -1] = EGO_SIZE_M
    kind = np.array([KINDS.index(CATEGORY_KINDS.get(str(c), "other")) for c in names], np.int8)[category]
    kind[-1] = KINDS.index("car")
    valid = rows > 0
    x_m, y_m = dense(x, ego_x), dense(y, ego_y)
    ridden = _ridden(x_m, y_m, valid, np.append(names[category[:-1]], EGO_CATEGORY))
    for rider, thing in ridden:
        size_m[:, rider] = size_m[:, thing]
    tracks = Tracks(
        agent_id=np.append(ids, EGO_ID),
        kind=kind,
        length_m=size_m[0].astype(np.float32),
        width_m=size_m[1].astype(np.float32),
        x_m=x_m,
        y_m=y_m,
        heading_rad=dense(heading, ego_heading),
        vx_mps=rate(x_m, valid, time_s),
        vy_mps=rate(y_m, valid, time_s),
        valid=valid,
    )
    faults = {int(i): "track has two rows for one frame, expected one" for i in np.flatnonzero((rows > 1).any(1))}
    faults |= {int(i): "category changes along the track, expected one for all rows" for i in np.flatnonzero(changes)}
    return _without(tracks, faults, [thing for _, thing in ridden])


def _without(tracks: Tracks, faults: dict[int, str], drop: list[int]) -> tuple[Tracks, dict[int, str]]:
    """The tracks without those of `drop`, and their faults by their new index."""
    keep = np.setdiff1d(np.arange(len(tracks.agent_id)), drop).astype(np.int64)
    new = {int(old): i for i, old in enumerate(keep)}
    return tracks.take(keep), {new[i]: reason for i, reason in faults.items() if i in new}


def _at(poses: pa.Table, frame_ns: NDArray[np.int64]) -> Array:
    """city_SE3_ego at each frame, (7, F): quaternion w x y z, then position [m]."""
    time_ns = poses["timestamp_ns"].to_numpy(zero_copy_only=False)
    order = np.argsort(time_ns, kind="stable")
    row = order[np.minimum(np.searchsorted(time_ns[order], frame_ns), len(order) - 1)]
    missing = int((time_ns[row] != frame_ns).sum())
    if missing:
        raise BadRecord(f"{missing} of {len(frame_ns)} frames have no pose in {POSES}, expected one at the same time")
    found = _columns(poses, _POSE)[:, row]
    if not np.isfinite(found).all():
        raise BadRecord(f"{POSES} has a pose that is not finite, expected numbers")
    return found


def _columns(table: pa.Table, names: tuple[str, ...]) -> Array:
    return np.stack([table[name].to_numpy(zero_copy_only=False) for name in names])


def _to_city(ego_SE3_box: Array, city_SE3_ego: Array) -> tuple[Array, Array, Array]:
    """x, y [m] and heading [rad] in the city of boxes in the vehicle's frame. Poses: (7, n)."""
    x, y, _ = _rotate(city_SE3_ego[:4], ego_SE3_box[4:]) + city_SE3_ego[4:]
    ahead = np.zeros_like(ego_SE3_box[4:])
    ahead[0] = 1.0
    ahead = _rotate(city_SE3_ego[:4], _rotate(ego_SE3_box[:4], ahead))
    return x, y, np.arctan2(ahead[1], ahead[0])


def _rotate(q: Array, v: Array) -> Array:
    """Vectors, (3, n), turned by quaternions w x y z, (4, n), of any length but 0, which gives NaN."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        w, u = q[0] / np.linalg.norm(q, axis=0), q[1:] / np.linalg.norm(q, axis=0)
    twice = 2 * np.cross(u, v, axis=0)
    return np.asarray(v + w * twice + np.cross(u, twice, axis=0))


def _ridden(x_m: Array, y_m: Array, valid: NDArray[np.bool_], category: NDArray[np.str_]) -> list[tuple[int, int]]:
    """Pairs of a rider's track and the track of what is ridden: one agent with two boxes."""
    steps = valid.shape[1]
    kinds = [(np.flatnonzero(category == a), np.flatnonzero(category == b)) for a, b in RIDDEN.items()]
    paired = sum(len(riders) * len(things) for riders, things in kinds) * steps
    if paired > MOST_PAIRED:
        raise BadRecord(
            f"{sum(len(riders) for riders, _ in kinds)} riders and {sum(len(things) for _, things in kinds)} things "
            f"to ride are {paired} pairs of boxes in {steps} steps, expected {MOST_PAIRED} at most"
        )
    found = []
    for riders, things in kinds:
        for some in np.array_split(riders, max(1, len(riders) * len(things) * steps // PAIRED_AT_ONCE)):
            apart_m = np.hypot(x_m[some, None] - x_m[things], y_m[some, None] - y_m[things])
            near = (apart_m < RIDDEN_M) & valid[some, None] & valid[things]
            pairs = np.argwhere(near.sum(2) >= RIDDEN_SHARE * valid[things].sum(1))
            found += [(int(some[rider]), int(things[thing])) for rider, thing in pairs]
    return found


def _maps(source: str) -> list[str]:
    found = storage.objects(storage.join(_folder(source), "map"), ".json")
    return [uri for uri in found if uri.rsplit("/", 1)[-1].startswith("log_map_archive_")]


def _map(source: str, log_id: str) -> tuple[VectorMap, str]:
    """The log's map, and the region that its file's name tells."""
    found = _maps(source)
    if len(found) != 1:
        raise BadRecord(f"{len(found)} maps beside the annotations; expected one map/log_map_archive_*.json")
    city = re.search(r"_([A-Z]{3})_city", found[0].rsplit("/", 1)[-1])
    return argoverse2_map.read(found[0], log_id), REGIONS.get(city[1] if city else "", "unknown")
