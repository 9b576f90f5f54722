"""SUMO runs as driving logs: one log per recording vehicle and block of 20 s.

A source is a run folder: `net.xml[.gz]`, `fcd.parquet` (or `fcd.xml[.gz]`, `fcd.csv[.gz]`), `tls.xml[.gz]` (light
states), `vtypes.add.xml`, `run.json`.
"""

import functools
import hashlib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S, WINDOW_M, storage
from sdiff.geometry import wrap_angle
from sdiff.logs import POSE_FIELDS, arrow_file, expect_size, read_json, read_packed, sumo_fcd, sumo_net
from sdiff.logs.driving_log import (
    FARTHEST_M,
    LIGHT_STATES,
    LONGEST_NAME,
    BadRecord,
    DrivingLog,
    Lights,
    Tracks,
    plain_name,
)
from sdiff.logs.sumo_net import Points, SignalLink

BLOCK_STEPS, PAD_STEPS = 200, 20
"""Length of a log, and how much of the run is added before and after it, so that each moment has its +-2 s."""
MAX_RUN_S = 31 * 86_400.0
"""A run is no longer than that [s]."""
RANGE_M = 120.0
"""A log holds what comes this near to the recorder's path, while it is that near."""
BESIDE_M = 200.0
"""Nobody is farther than that beyond the rim of the network."""
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


COLUMNS = sumo_fcd.COLUMNS
FARTHEST_S = 1e11
MOST_XML_BYTES = 64 << 20
"""Unpacked; ten times the network of a district."""


@dataclass(frozen=True)
class _Types:
    """Vehicle types of a run: code of the kind and size [m] by type id. defined: all ids, those of rails among them."""

    defined: frozenset[str]
    kind: dict[str, int]
    size_m: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class _Rows:
    """Rows of the FCD, in order of time: agent and type codes, box centre in the map frame, heading."""

    agent_id: NDArray[np.str_]
    type_id: list[str]
    agent: NDArray[np.int64]
    agent_type: NDArray[np.int64]
    step: NDArray[np.int64]
    x_m: NDArray[np.float64]
    y_m: NDArray[np.float64]
    heading_rad: NDArray[np.float64]
    speed_mps: NDArray[np.float64]


def find(uri: str) -> list[str]:
    """URIs of the run folders at or under `uri`, sorted. Raises StorageError where there is none."""
    objects = (x.rpartition("/") for x in storage.objects(uri, ""))
    runs = {folder for folder, _, name in objects if folder and name in sumo_fcd.FILES}
    if not runs:
        raise storage.StorageError(
            f"no SUMO run under {uri}: expected folders that hold net.xml and one of {', '.join(sumo_fcd.FILES)}"
        )
    return sorted(runs)


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The logs of one run folder. Raises BadRecord where a file of it cannot be used."""
    return read_part(source, 0, 1)


def read_part(source: str, part: int, parts: int) -> Iterator[DrivingLog | BadRecord]:
    """The logs of one of `parts` stretches of a run; only what the stretch needs is read and held.

    Raises BadRecord where a file of the run cannot be used; yields it where the stretch alone cannot.
    """
    vector_map, links = sumo_net.vector_map(sumo_net.parse(_file(source, "net.xml")))
    fcd = sumo_fcd.opened(source)
    run = _about(source)
    types = _types(_file(source, "vtypes.add.xml"))
    begin_s, steps = _extent(fcd, types)
    if part == 0:
        yield from _undefined(fcd, types)
    blocks = max(1, (steps - 2 * PAD_STEPS) // BLOCK_STEPS)
    mine = range(blocks * part // parts, blocks * (part + 1) // parts)
    if not mine:
        return
    try:
        table = _stretch(fcd, types, begin_s, mine.start * BLOCK_STEPS, mine.stop * BLOCK_STEPS + 2 * PAD_STEPS)
        if not table.num_rows:
            return
        _expect_places(table, fcd.name, vector_map.xy_m)
        rows, bad = _rows(table, types, begin_s, fcd.name)
    except BadRecord as error:
        if parts == 1:
            raise
        yield BadRecord(error.reason, record=f"part {part + 1} of {parts}", is_log=True)
        return
    yield from bad
    signals = _signals(source)
    name = f"{run['region']}-{run['seed']}-{storage.digest(fcd.uri, _SHORT_HASH).hex()}"
    for block in mine:
        first = PAD_STEPS + block * BLOCK_STEPS
        try:
            tracks = _block(rows, types, first - PAD_STEPS, min(first + BLOCK_STEPS + PAD_STEPS, steps))
        except BadRecord as error:
            yield BadRecord(error.reason, record=f"{name}-{block:03d}", is_log=True)
            continue
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
            try:
                return read_packed(path, MOST_XML_BYTES)
            except BadRecord as error:
                raise BadRecord(f"{path} is not whole ({error}); simulate it again") from None
    raise BadRecord(f"{source} has no {name} or {name}.gz; a SUMO run folder needs it beside its FCD")


def _about(source: str) -> dict[str, str]:
    """What `run.json` says of the run: region, seed, license; without it, the folder's name is the region."""
    path = storage.join(source, "run.json")
    said: dict[str, object] = {}
    if storage.exists(path):
        try:
            said = dict(read_json(path))
        except (ValueError, TypeError) as error:
            raise BadRecord(f"run.json cannot be parsed ({error}); expected region, seed, license") from None
    known = {"region": source.rstrip("/").rsplit("/", 1)[-1], "seed": 0, "license": "unknown"}
    return {key: plain_name(said.get(key, value)) for key, value in known.items()}


def _elements(data: bytes, file: str, tag: str, *needs: str) -> Iterator[dict[str, str]]:
    """Attributes of all elements called `tag`. Raises BadRecord where the file is no XML, or one lacks an attribute."""
    try:
        for event, el in sumo_net.elements(data):
            if event == "end" and el.tag == tag:
                a = dict(el.attrib)
                if not all(need in a for need in needs):
                    reason = f"{file}: <{tag}> has {sorted(a)[:20]}, expected {', '.join(needs)}"
                    raise BadRecord(reason, record=a.get("id", ""))
                yield a
    except (ET.ParseError, LookupError) as error:
        raise BadRecord(f"{file} cannot be parsed ({error}); expected a file of SUMO") from None


def _types(data: bytes) -> _Types:
    """Kinds and sizes from the vTypes of an additional or route file; rails and ships are left out."""
    classes = dict(_DEFAULT_TYPES)
    size = {name: _DEFAULT_SIZE_M.get(c, (5.0, 1.8)) for name, c in classes.items()}
    for a in _elements(data, "vtypes.add.xml", "vType", "id"):
        type_id, vehicle_class = plain_name(a["id"]), a.get("vClass", "passenger")
        length, width = _DEFAULT_SIZE_M.get(vehicle_class, (5.0, 1.8))
        classes[type_id] = vehicle_class
        size[type_id] = _number(a.get("length", length)), _number(a.get("width", width))
    kind = {n: KINDS.index(_KIND_OF_CLASS[c]) for n, c in classes.items() if c in _KIND_OF_CLASS}
    return _Types(frozenset(classes), kind, size)


_SHORT_HASH = functools.partial(hashlib.blake2b, digest_size=3)


def _known(table: pa.Table, types: _Types) -> pa.Table:
    """The rows of vehicles on roads; those of other types, of steps without anybody and without a name are left out."""
    known = pc.is_in(table[sumo_fcd.TYPE].cast(pa.string()), pa.array(sorted(types.kind)))
    named = sumo_fcd.ID in table.column_names
    return table.filter(pc.and_(known, pc.is_valid(table[sumo_fcd.ID])) if named else known)


def _extent(fcd: sumo_fcd.Fcd, types: _Types) -> tuple[float, int]:
    """When the first row of a known type is [s], and steps from it to the last one."""
    columns = {name: COLUMNS[name] for name in (sumo_fcd.TIME, sumo_fcd.TYPE)}

    def times(group: int) -> NDArray[np.float64]:
        return np.asarray(_known(fcd.read(columns, group), types)[sumo_fcd.TIME].to_numpy())

    count = fcd.groups()
    early = next((t for group in range(count) if len(t := times(group))), None)
    last = next((t[-1] for group in reversed(range(count)) if len(t := times(group))), None)
    if early is None or last is None:
        found = ", ".join(f"{name} ({n} rows)" for name, n in list(_undefined_rows(fcd, types).items())[:10])
        raise BadRecord(
            f"{fcd.name} has no row of a known vehicle type; its types are {found or 'none, or none on roads'}, "
            "expected those of vtypes.add.xml"
        )
    first = early[0]
    if not (abs(first) < FARTHEST_S and 0 <= last - first <= MAX_RUN_S):
        raise BadRecord(f"time of {fcd.name} does not go forward, or for more than {MAX_RUN_S:.0f} s")
    moments = np.unique(early)
    step_s = float(np.median(np.diff(moments))) if len(moments) > 2 else STEP_S
    if abs(step_s - STEP_S) > STEP_S / 4:
        raise BadRecord(
            f"{fcd.name} is recorded every {step_s:.6g} s, expected every {STEP_S} s; simulate with "
            f"--step-length {STEP_S}, or with a shorter one and --device.fcd.period {STEP_S}"
        )
    return float(first), round((last - first) / STEP_S) + 1


def _undefined(fcd: sumo_fcd.Fcd, types: _Types) -> list[BadRecord]:
    """A letter for each vehicle type of the FCD that is nowhere defined."""
    return [
        BadRecord(f"{n} rows of {fcd.name} have a vehicle type that vtypes.add.xml does not define", record=name)
        for name, n in _undefined_rows(fcd, types).items()
    ]


def _undefined_rows(fcd: sumo_fcd.Fcd, types: _Types) -> dict[str, int]:
    """Rows by vehicle type, of types that are not defined."""
    found: Counter[str] = Counter()
    for group in range(fcd.groups()):
        column = fcd.read({sumo_fcd.TYPE: COLUMNS[sumo_fcd.TYPE]}, group)[sumo_fcd.TYPE].cast(pa.string())
        for row in column.value_counts().to_pylist():
            if row["values"] is not None and row["values"] not in types.defined:
                found[plain_name(row["values"])] += row["counts"]
    return dict(sorted(found.items()))


def _stretch(fcd: sumo_fcd.Fcd, types: _Types, begin_s: float, first: int, stop: int) -> pa.Table:
    """The rows of known types in steps [first, stop), counted from begin_s."""
    return _known(fcd.between(begin_s + (first - 0.5) * STEP_S, begin_s + (stop - 0.5) * STEP_S), types)


def _expect_places(table: pa.Table, file: str, network_m: Points) -> None:
    """Raise BadRecord where nobody is on the network, or places are degrees.

    A network often begins at (0, 0), so that degrees may lie on it: but who drives there hardly moves by the numbers.
    """
    if not len(network_m):
        return
    x, y, speed_mps = (table[name].to_numpy() for name in ("vehicle_x", "vehicle_y", "vehicle_speed"))
    low, high = network_m.min(0) - BESIDE_M, network_m.max(0) + BESIDE_M
    agent = table[sumo_fcd.ID].combine_chunks().indices.to_numpy()
    order = np.argsort(agent, kind="stable")
    same = np.diff(agent[order]) == 0
    with np.errstate(invalid="ignore", over="ignore"):
        inside = (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1])
        moved = np.hypot(np.diff(x[order]), np.diff(y[order]))[same].sum()
        driven_m = speed_mps[order][1:][same].sum() * STEP_S
        degrees = (np.abs(x) <= 180).all() and (np.abs(y) <= 90).all() and driven_m > 10 and moved < driven_m / 100
    if degrees:
        reason = "longitude and latitude, expected metres as in net.xml; simulate without --fcd-output.geo"
        raise BadRecord(f"places of {file} are {reason}")
    if np.isfinite(x).any() and not inside.any():
        span = ", ".join(f"{n} {np.nanmin(v):.6g} to {np.nanmax(v):.6g} m" for n, v in (("x", x), ("y", y)))
        road = ", ".join(f"{n} {low[i] + BESIDE_M:.6g} to {high[i] - BESIDE_M:.6g} m" for i, n in enumerate("xy"))
        raise BadRecord(f"places of {file} are {span}, net.xml's {road}; expected the network that was simulated")


def _rows(table: pa.Table, types: _Types, begin_s: float, file: str) -> tuple[_Rows, list[BadRecord]]:
    """The rows of vehicles that can be used, and what is wrong with the others."""
    table = table.combine_chunks()
    ids, agent = arrow_file.names(table["vehicle_id"])
    first = np.zeros(len(ids), np.int64)
    first[agent[::-1]] = np.arange(len(agent))[::-1]
    order = np.argsort(first)  # the order in which they appear
    ids, agent = ids[order], np.argsort(order)[agent]
    type_id, code = arrow_file.names(table["vehicle_type"])
    t, front_x, front_y, angle, speed = (
        table[c].to_numpy() for c, kind in COLUMNS.items() if pa.types.is_floating(kind)
    )
    if not (np.abs(t) < FARTHEST_S).all() or (np.diff(t) < 0).any():
        raise BadRecord(f"time of {file} does not go forward")
    size_m = np.array([types.size_m[t] for t in type_id.tolist()])
    with np.errstate(invalid="ignore"):
        sized = (size_m > 0).all(1) & (size_m[:, 0] < 40) & (size_m[:, 1] < 10)
        placed = (np.abs([front_x, front_y, angle, speed]) < FARTHEST_M).all(0)
    checks = (
        (sized[code], "box size is not within 40 x 10 m and above 0"),
        (placed, f"x, y, angle or speed is not a number below {FARTHEST_M:.0e} in a row of it"),
        ((np.strings.str_len(ids) <= LONGEST_NAME)[agent], f"vehicle id has more than {LONGEST_NAME} characters"),
    )
    faults = {int(i): why for good, why in checks for i in np.unique(agent[~good])}
    if faults:
        kept = np.isin(agent, list(faults), invert=True)
        if not kept.any():
            raise BadRecord(f"{file} has no vehicle that can be used; of one, {next(iter(faults.values()))}")
        columns = (t, front_x, front_y, angle, speed, agent, code)
        t, front_x, front_y, angle, speed, agent, code = (column[kept] for column in columns)
    step = np.rint((t - begin_s) / STEP_S).astype(np.int64)
    # Steps at which nobody is there have no rows; where someone is there before and after, rows are missing.
    gap = np.flatnonzero(np.diff(step) > 1)
    before, after = (
        np.searchsorted(step[side], step[rows]) * len(ids) + agent[rows]
        for side in (gap, gap + 1)
        for rows in [np.flatnonzero(np.isin(step, step[side]))]
    )
    if np.isin(before, after).any():
        raise BadRecord(f"{file} is not recorded every {STEP_S} s without a gap; simulate with --step-length 0.1")
    heading = wrap_angle(np.pi / 2 - np.radians(angle)).astype(np.float64)
    half = (size_m[:, 0] / 2)[code]
    rows = _Rows(
        agent_id=ids,
        type_id=type_id.tolist(),
        agent=agent,
        agent_type=code,
        step=step,
        x_m=front_x - half * np.cos(heading),
        y_m=front_y - half * np.sin(heading),
        heading_rad=heading,
        speed_mps=speed,
    )
    return rows, [BadRecord(why, record=str(ids[i])) for i, why in sorted(faults.items())]


def _block(rows: _Rows, types: _Types, first: int, stop: int) -> Tracks:
    """Tracks of all agents in steps [first, stop)."""
    part = slice(*np.searchsorted(rows.step, [first, stop]))
    agents, row = np.unique(rows.agent[part], return_inverse=True)
    step, n, steps = rows.step[part] - first, len(agents), stop - first
    expect_size(n, steps)
    valid = np.zeros((n, steps), bool)
    valid[row, step] = True
    if valid.sum() != len(row):
        raise BadRecord("the FCD has two rows for one vehicle and time, expected one")
    x, y, heading, speed = (np.zeros((n, steps)) for _ in range(4))
    for dense, column in ((x, rows.x_m), (y, rows.y_m), (heading, rows.heading_rad), (speed, rows.speed_mps)):
        dense[row, step] = column[part]
    vx = _rate(x, valid, speed * np.cos(heading))
    vy = _rate(y, valid, speed * np.sin(heading))
    code = np.zeros(n, np.int32)
    code[row] = rows.agent_type[part]
    size = np.array([types.size_m[t] for t in rows.type_id], np.float32)[code]
    kind = np.array([types.kind[t] for t in rows.type_id], np.int8)[code]
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
        times.append(_number(a["time"]))
        letters.append(a["state"])
    for light, (times, _) in states.items():
        if not (np.isfinite(times).all() and (np.diff(times) >= 0).all()):
            raise BadRecord("time of tls.xml does not go forward, expected ascending numbers", record=plain_name(light))
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
        shown, of_step = np.unique(at, return_inverse=True)
        code = [_code(letters[i], link.letter) if i >= 0 else 0 for i in shown.tolist()]
        state[row] = np.array(code, np.int8)[of_step]
    return Lights(
        np.array([x.lane for x in near], np.int32),
        np.array([x.stop_x_m for x in near]),
        np.array([x.stop_y_m for x in near]),
        state,
    )


def _code(letters: str, which: int) -> int:
    """State of one letter of a light; unknown where it has no such letter."""
    letter = letters[which] if 0 <= which < len(letters) else ""
    return LIGHT_STATES.index(_LIGHT_OF_LETTER.get(letter, "unknown"))


def _number(text: str | float) -> float:
    """The number that an attribute holds; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return np.nan
