"""SUMO runs as driving logs: one log per recording vehicle and block of 20 s.

A source is a run folder: `net.xml[.gz]`, `fcd.parquet`, `tls.xml[.gz]` (light states), `vtypes.add.xml`, `run.json`.
Source: https://sumo.dlr.de/docs/Simulation/Output/FCDOutput.html
"""

import functools
import gzip
import hashlib
import itertools
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S, WINDOW_M, storage
from sdiff.geometry import wrap_angle
from sdiff.logs import POSE_FIELDS, sumo_net
from sdiff.logs.driving_log import LIGHT_STATES, BadRecord, DrivingLog, Lights, Tracks
from sdiff.logs.sumo_net import Points, SignalLink

BLOCK_STEPS, PAD_STEPS = 200, 20
"""Length of a log, and how much of the run is added before and after it, so that each moment has its +-2 s."""
MAX_RUN_S = 31 * 86_400.0
"""A run is no longer than that [s]."""
RANGE_M = 120.0
"""A log holds what comes this near to the recorder's path, while it is that near."""
RECORDERS_APART_M = 120.0
MIN_RECORDED_STEPS, MIN_SPEED_MPS, MIN_AROUND = 100, 2.0, 5.0
"""Recorders of one block keep this distance, are there this long, drive this fast and have this much traffic around
them, all on average; where traffic is thinner everywhere, the one that has most."""

_KIND_OF_CLASS = {
    **dict.fromkeys(("passenger", "private", "taxi", "hov", "evehicle", "vip", "authority"), "car"),
    **dict.fromkeys(("truck", "trailer", "delivery"), "truck"),
    **dict.fromkeys(("bus", "coach"), "bus"),
    **dict.fromkeys(("motorcycle", "moped"), "motorcyclist"),
    **dict.fromkeys(("emergency", "army", "custom1", "custom2", "ignoring"), "vehicle"),
    "bicycle": "cyclist",
    "pedestrian": "pedestrian",
}
_DEFAULT_SIZE_M = {
    "truck": (7.1, 2.4),
    "trailer": (16.5, 2.55),
    "delivery": (6.5, 2.16),
    "bus": (12.0, 2.5),
    "coach": (14.0, 2.6),
    "motorcycle": (2.2, 0.9),
    "moped": (2.1, 0.8),
    "bicycle": (1.6, 0.65),
    "pedestrian": (0.215, 0.478),
    "tram": (22.0, 2.4),
    "emergency": (6.5, 2.16),
}
"""SUMO's own sizes where a vType names none (docs/Vehicle_Type_Parameter_Defaults); all others 5.0 x 1.8 m."""
_DEFAULT_TYPES = {
    "DEFAULT_VEHTYPE": "passenger",
    "DEFAULT_PEDTYPE": "pedestrian",
    "DEFAULT_BIKETYPE": "bicycle",
    "DEFAULT_TAXITYPE": "taxi",
}
_LIGHT_OF_LETTER = {"r": "stop", "u": "stop", "s": "caution", "y": "caution", "Y": "caution", "g": "go", "G": "go"}


@dataclass(frozen=True)
class _Types:
    """Vehicle types of a run: code of the kind and size [m] by type id."""

    kind: dict[str, int]
    size_m: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class _Rows:
    """Rows of the FCD, in order of time: agent and type codes, box centre in the map frame, heading."""

    agent_id: NDArray[np.str_]
    type_id: list[str]
    agent: NDArray[np.int32]
    agent_type: NDArray[np.int32]
    step: NDArray[np.int64]
    x_m: NDArray[np.float64]
    y_m: NDArray[np.float64]
    heading_rad: NDArray[np.float64]
    speed_mps: NDArray[np.float64]


def find(uri: str) -> list[str]:
    """URIs of the run folders at or under `uri`, sorted. Raises StorageError where there is none."""
    runs = [x.rsplit("/", 1)[0] for x in storage.objects(uri) if x.endswith("/fcd.parquet")]
    if not runs:
        raise storage.StorageError(f"no SUMO run under {uri}: expected folders that hold fcd.parquet and net.xml.gz")
    return runs


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The logs of one run folder. Raises BadRecord where a file of it cannot be used."""
    return read_part(source, 0, 1)


def read_part(source: str, part: int, parts: int) -> Iterator[DrivingLog | BadRecord]:
    """The logs of one of `parts` stretches of a run; only what the stretch needs is read and held.

    Raises BadRecord where a file of the run cannot be used; yields it where the stretch alone cannot.
    """
    vector_map, links = sumo_net.vector_map(sumo_net.parse(_file(source, "net.xml")))
    fcd = storage.join(source, "fcd.parquet")
    run = _about(source)
    types = _types(_file(source, "vtypes.add.xml"))
    begin_s, steps = _extent(fcd, types)
    blocks = max(1, (steps - 2 * PAD_STEPS) // BLOCK_STEPS)
    mine = range(blocks * part // parts, blocks * (part + 1) // parts)
    if not mine:
        return
    try:
        table = _stretch(fcd, types, begin_s, mine.start * BLOCK_STEPS, mine.stop * BLOCK_STEPS + 2 * PAD_STEPS)
        rows = _rows(table, types, begin_s)
    except BadRecord as error:
        if parts == 1:
            raise
        yield BadRecord(error.reason, record=f"part {part + 1} of {parts}", is_log=True)
        return
    signals = _signals(source)
    name = f"{run['region']}-{run['seed']}-{storage.digest(fcd, _SHORT_HASH).hex()}"
    for block in mine:
        first = PAD_STEPS + block * BLOCK_STEPS
        tracks = _block(rows, types, first - PAD_STEPS, min(first + BLOCK_STEPS + PAD_STEPS, steps))
        start_s = begin_s + (first - PAD_STEPS) * STEP_S
        for recorder in _recorders(tracks):
            path = np.stack([tracks.x_m[recorder], tracks.y_m[recorder]], 1)[tracks.valid[recorder]]
            own, recorder_at = _near(tracks, path[::10], recorder)
            yield DrivingLog(
                log_id=f"{name}-{block:03d}-{tracks.agent_id[recorder]}",
                dataset="sumo",
                region=run["region"],
                license=run["license"],
                tracks=own,
                map=vector_map,
                lights=_lights(links, signals, start_s, own.valid.shape[1], path),
                recorder=recorder_at,
                start_us=round(start_s * 1e6),
                split_key=f"{name}-{block:03d}",
            )


def _file(source: str, name: str) -> bytes:
    for path in (storage.join(source, f"{name}.gz"), storage.join(source, name)):
        if storage.exists(path):
            data = storage.read_bytes(path)
            try:
                return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            except (OSError, EOFError) as error:
                raise BadRecord(f"{path} is not whole ({error}); simulate it again") from None
    raise BadRecord(f"{source} has no {name} or {name}.gz; a SUMO run folder needs it beside fcd.parquet")


def _about(source: str) -> dict[str, Any]:
    """What `run.json` says of the run: region, seed, license; without it, the folder's name is the region."""
    path = storage.join(source, "run.json")
    said: dict[str, Any] = {}
    if storage.exists(path):
        try:
            said = dict(json.loads(storage.read_bytes(path)))
        except ValueError as error:
            raise BadRecord(f"run.json cannot be parsed ({error}); expected region, seed, license") from None
    return {"region": source.rstrip("/").rsplit("/", 1)[-1], "seed": 0, "license": "unknown"} | said


def _elements(data: bytes, file: str, tag: str, *needs: str) -> Iterator[dict[str, str]]:
    """Attributes of all elements called `tag`. Raises BadRecord where the file is no XML, or one lacks an attribute."""
    try:
        found = [el.attrib for el in ET.fromstring(data).iter(tag)]
    except ET.ParseError as error:
        raise BadRecord(f"{file} cannot be parsed ({error}); expected a file of SUMO") from None
    for a in found:
        if not all(name in a for name in needs):
            raise BadRecord(f"{file}: <{tag}> has {sorted(a)}, expected {', '.join(needs)}", record=a.get("id", ""))
        yield a


def _types(data: bytes) -> _Types:
    """Kinds and sizes from the vTypes of an additional or route file; rails and ships are left out."""
    classes = dict(_DEFAULT_TYPES)
    size = {name: _DEFAULT_SIZE_M.get(c, (5.0, 1.8)) for name, c in classes.items()}
    for a in _elements(data, "vtypes.add.xml", "vType", "id"):
        name, vehicle_class = a["id"], a.get("vClass", "passenger")
        length, width = _DEFAULT_SIZE_M.get(vehicle_class, (5.0, 1.8))
        classes[name] = vehicle_class
        size[name] = float(a.get("length", length)), float(a.get("width", width))
    kind = {n: KINDS.index(_KIND_OF_CLASS[c]) for n, c in classes.items() if c in _KIND_OF_CLASS}
    return _Types(kind, size)


_TIME, _TYPE = "timestep_time", "vehicle_type"
_COLUMNS = [_TIME, "vehicle_id", "vehicle_x", "vehicle_y", "vehicle_angle", _TYPE, "vehicle_speed"]
_BATCH_ROWS = 1 << 17


_SHORT_HASH = functools.partial(hashlib.blake2b, digest_size=3)


@contextmanager
def _parquet(uri: str) -> Iterator[pq.ParquetFile]:
    """The FCD, read as it is asked for. Raises BadRecord where it is none, StorageError where it cannot be reached."""
    try:
        with storage.RangedFile(uri) as raw, pq.ParquetFile(raw) as file:
            if lacking := sorted(set(_COLUMNS) - set(file.schema_arrow.names)):
                raise pa.ArrowInvalid(f"no {', '.join(lacking)}")
            yield file
    except storage.StorageError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise BadRecord(
            f"fcd.parquet cannot be read ({error}); expected SUMO's FCD with x, y, angle, type, speed"
        ) from None


def _extent(uri: str, types: _Types) -> tuple[float, int]:
    """When the first row of a known type is [s], and steps from it to the last one."""
    with _parquet(uri) as file:
        groups = range(file.num_row_groups)
        first = next((t[0] for group in groups if len(t := _times(file, group, types))), None)
        last = next((t[-1] for group in reversed(groups) if len(t := _times(file, group, types))), None)
    if first is None or last is None:
        raise BadRecord("fcd.parquet has no row of a known vehicle type; expected the types of vtypes.add.xml")
    if not 0 <= last - first <= MAX_RUN_S:
        raise BadRecord(f"fcd.parquet is from {first} s to {last} s, expected at most {MAX_RUN_S:.0f} s, in order")
    return float(first), round((last - first) / STEP_S) + 1


def _times(file: pq.ParquetFile, group: int, types: _Types) -> NDArray[np.float64]:
    table = file.read_row_group(group, columns=[_TIME, _TYPE])
    return table.filter(_known(table, types))[_TIME].to_numpy().astype(np.float64)


def _known(rows: pa.Table | pa.RecordBatch, types: _Types) -> pa.Array:
    return pc.is_in(rows[_TYPE], pa.array(sorted(types.kind)))


def _stretch(uri: str, types: _Types, begin_s: float, first: int, stop: int) -> pa.Table:
    """The rows of known types in steps [first, stop), counted from begin_s; only their row groups are read."""
    low, high = begin_s + (first - 0.5) * STEP_S, begin_s + (stop - 0.5) * STEP_S
    with _parquet(uri) as file:
        column = file.schema_arrow.get_field_index(_TIME)
        spans = [file.metadata.row_group(i).column(column).statistics for i in range(file.num_row_groups)]
        groups = [i for i, x in enumerate(spans) if x is None or not x.has_min_max or (x.min < high and x.max >= low)]
        kept = [file.schema_arrow.empty_table().select(_COLUMNS)]
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=_COLUMNS):
            inside = pc.and_(pc.greater_equal(batch[_TIME], low), pc.less(batch[_TIME], high))
            kept.append(pa.table(batch.filter(pc.and_(inside, _known(batch, types)))))
        return pa.concat_tables(kept)


def _rows(table: pa.Table, types: _Types, begin_s: float) -> _Rows:
    ids = table["vehicle_id"].combine_chunks().dictionary_encode()
    kinds = table["vehicle_type"].combine_chunks().dictionary_encode()
    t, front_x, front_y, angle, speed = (
        table[c].to_numpy().astype(np.float64) for c in (_COLUMNS[0], *_COLUMNS[2:5], _COLUMNS[6])
    )
    step = np.rint((t - begin_s) / STEP_S).astype(np.int64)
    agent = ids.indices.to_numpy()
    # Steps at which nobody is there have no rows; where someone is there before and after, rows are missing.
    for before, after in itertools.pairwise(np.split(np.arange(len(t)), np.flatnonzero(np.diff(step) > 1) + 1)):
        there = agent[before[step[before] == step[before[-1]]]]
        if np.isin(there, agent[after[step[after] == step[after[0]]]]).any():
            raise BadRecord(
                f"fcd.parquet is not recorded every {STEP_S} s without a gap; simulate with --step-length 0.1"
            )
    type_id = kinds.dictionary.to_pylist()
    code = kinds.indices.to_numpy()
    heading = wrap_angle(np.pi / 2 - np.radians(angle)).astype(np.float64)
    half = np.array([types.size_m[name][0] / 2 for name in type_id])[code]
    return _Rows(
        agent_id=np.array(ids.dictionary.to_pylist(), np.str_),
        type_id=type_id,
        agent=agent,
        agent_type=code,
        step=step,
        x_m=front_x - half * np.cos(heading),
        y_m=front_y - half * np.sin(heading),
        heading_rad=heading,
        speed_mps=speed,
    )


def _block(rows: _Rows, types: _Types, first: int, stop: int) -> Tracks:
    """Tracks of all agents in steps [first, stop)."""
    part = slice(*np.searchsorted(rows.step, [first, stop]))
    agents, row = np.unique(rows.agent[part], return_inverse=True)
    step, n, steps = rows.step[part] - first, len(agents), stop - first
    valid = np.zeros((n, steps), bool)
    valid[row, step] = True
    x, y, heading, speed = (np.zeros((n, steps)) for _ in range(4))
    for dense, column in ((x, rows.x_m), (y, rows.y_m), (heading, rows.heading_rad), (speed, rows.speed_mps)):
        dense[row, step] = column[part]
    vx = _rate(x, valid, speed * np.cos(heading))
    vy = _rate(y, valid, speed * np.sin(heading))
    code = np.zeros(n, np.int32)
    code[row] = rows.agent_type[part]
    size = np.array([types.size_m[name] for name in rows.type_id], np.float32)[code]
    kind = np.array([types.kind[name] for name in rows.type_id], np.int8)[code]
    return Tracks(rows.agent_id[agents], kind, size[:, 0], size[:, 1], x, y, heading, vx, vy, valid)


def _rate(value: NDArray[np.float64], valid: NDArray[np.bool_], otherwise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Derivative over time: central where both neighbours are there, one-sided at the ends, `otherwise` alone."""
    difference = np.diff(value, axis=1) / STEP_S
    both = valid[:, 1:] & valid[:, :-1]
    n = len(value)
    zero, no = np.zeros((n, 1)), np.zeros((n, 1), bool)
    total = np.hstack([difference * both, zero]) + np.hstack([zero, difference * both])
    count = np.hstack([both, no]).astype(int) + np.hstack([no, both])
    return np.where(valid, np.where(count > 0, total / np.maximum(count, 1), otherwise), 0.0)


def _recorders(tracks: Tracks) -> list[int]:
    """Cars that drive far from each other; those with the most traffic around them first."""
    seen = tracks.valid.sum(1)
    path_m = (np.hypot(tracks.vx_mps, tracks.vy_mps) * tracks.valid).sum(1) * STEP_S
    fit = (tracks.kind == KINDS.index("car")) & (path_m >= MIN_SPEED_MPS * STEP_S * seen)
    fit &= seen >= min(MIN_RECORDED_STEPS, tracks.valid.shape[1])
    able = np.flatnonzero(fit)
    x, y, valid = tracks.x_m[:, ::10], tracks.y_m[:, ::10], tracks.valid[:, ::10]
    around = np.array([_around(x, y, valid, agent) for agent in able])
    enough = around >= min(MIN_AROUND, around.max(initial=0.0))
    able, around = able[enough], around[enough]
    chosen: list[int] = []
    for agent in able[np.lexsort((tracks.agent_id[able], -around))]:
        both = valid[chosen] & valid[agent]
        apart_m = np.hypot(x[chosen] - x[agent], y[chosen] - y[agent])
        together = both.any(1)
        if ((apart_m * both).sum(1) >= RECORDERS_APART_M * both.sum(1))[together].all():
            chosen.append(int(agent))
    return chosen


def _around(x_m: Points, y_m: Points, valid: NDArray[np.bool_], agent: np.int64) -> float:
    """How many others a window around an agent holds, on average over the steps at which it is there."""
    close = (np.abs(x_m - x_m[agent]) < WINDOW_M / 2) & (np.abs(y_m - y_m[agent]) < WINDOW_M / 2)
    return float((close & valid & valid[agent]).sum() / valid[agent].sum())


def _near(tracks: Tracks, path: NDArray[np.float64], recorder: int) -> tuple[Tracks, int]:
    """The tracks that come within RANGE_M of `path` (n, 2), from when they do until they are last there.

    And where the recorder is in them.
    """
    low, high = path.min(0) - RANGE_M, path.max(0) + RANGE_M
    x, y = tracks.x_m, tracks.y_m
    inside = tracks.valid & (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1])
    candidates = np.flatnonzero(inside.any(1))
    from_path = (x[candidates, :, None] - path[:, 0]) ** 2 + (y[candidates, :, None] - path[:, 1]) ** 2
    near = inside[candidates] & (from_path < RANGE_M**2).any(2)
    came, stays = (np.logical_or.accumulate(m, axis=1) for m in (near, near[:, ::-1]))
    valid = tracks.valid[candidates] & came & stays[:, ::-1]
    kept = valid.any(1)
    agents, valid = candidates[kept], valid[kept]
    own = replace(tracks.take(agents), valid=valid)
    moving = {name: np.where(valid, getattr(own, name), 0.0) for name in POSE_FIELDS}
    return replace(own, **moving), int(np.searchsorted(agents, recorder))


def _signals(source: str) -> dict[str, tuple[NDArray[np.float64], list[str]]]:
    """Per light: times at which its state changes [s], and the states; empty where the run has no lights' file."""
    if not any(storage.exists(storage.join(source, n)) for n in ("tls.xml.gz", "tls.xml")):
        return {}
    states: dict[str, tuple[list[float], list[str]]] = {}
    for a in _elements(_file(source, "tls.xml"), "tls.xml", "tlsState", "id", "time", "state"):
        times, letters = states.setdefault(a["id"], ([], []))
        times.append(float(a["time"]))
        letters.append(a["state"])
    return {light: (np.array(times), letters) for light, (times, letters) in states.items()}


def _lights(
    links: list[SignalLink],
    signals: dict[str, tuple[NDArray[np.float64], list[str]]],
    begin_s: float,
    steps: int,
    path: NDArray[np.float64],
) -> Lights:
    """States of the connections whose stop position lies near the recorder's path."""
    low, high = path.min(0) - RANGE_M, path.max(0) + RANGE_M
    near = [x for x in links if x.light in signals and low[0] < x.stop_x_m < high[0] and low[1] < x.stop_y_m < high[1]]
    if not near:
        return Lights.none(steps)
    now = begin_s + np.arange(steps) * STEP_S + 1e-6
    state = np.zeros((len(near), steps), np.int8)
    for row, link in enumerate(near):
        times, letters = signals[link.light]
        at = np.searchsorted(times, now, side="right") - 1
        first, last = max(at.min(), 0), at.max()
        if last >= 0:
            now_and_here = [_LIGHT_OF_LETTER.get(s[link.letter], "unknown") for s in letters[first : last + 1]]
            code = np.array([LIGHT_STATES.index(light) for light in now_and_here], np.int8)
            state[row] = np.where(at >= 0, code[np.maximum(at, first) - first], 0)
    return Lights(
        np.array([x.lane for x in near], np.int32),
        np.array([x.stop_x_m for x in near]),
        np.array([x.stop_y_m for x in near]),
        state,
    )
