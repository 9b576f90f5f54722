"""Driving logs: one module per source format, each with `find(uri)` and `read(source)`."""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol, cast
from xml.parsers import expat

import numpy as np
import orjson
from numpy.typing import NDArray

from sdiff import STEP_S, storage
from sdiff.geometry import wrap_angle
from sdiff.logs.driving_log import FARTHEST_M, LONGEST_NAME, BadRecord, DrivingLog, Tracks

FORMATS = {
    "argoverse2_motion": "sdiff.logs.argoverse2",
    "argoverse2_sensor": "sdiff.logs.argoverse2_sensor",
    "commonroad": "sdiff.logs.commonroad",
    "gpudrive": "sdiff.logs.gpudrive",
    "nuplan": "sdiff.logs.nuplan",
    "sumo": "sdiff.logs.sumo",
    "waymo_motion": "sdiff.logs.waymo_motion",
    "scenarionet": "sdiff.logs.scenarionet",
}
"""Format name -> the module that reads it."""
ANY = {"auto": "sdiff.logs.auto"}
"""What stands for all of them."""

MAX_STEP_ERROR_S = 0.02
"""How far the time between two poses is from 0.1 s: clocks of sensors waver."""

POSE_FIELDS = ("x_m", "y_m", "heading_rad", "vx_mps", "vy_mps")
"""Fields of Tracks that hold a number per step."""


GZIP = b"\x1f\x8b"
MOST_JSON_BYTES = 32 << 20
"""Unpacked; eight times the largest document seen. What it holds takes up to thirty times its bytes in memory."""


class Reader(Protocol):
    """What the module of a format offers.

    Where it has `files(source)`, that names the files that decide what a source holds. Where its UNDIVIDED is true, a
    source is one slice of work whatever its size: reading a part would cost as much as reading it all. Where it has
    `read_part(source, part, parts)`, that yields the logs of one of so many stretches of the source, at the stretch's
    share of time and memory; it raises what the whole source has wrong before its first log. Where it has
    `divided(source)`, that names the files that are read in stretches, of all that decide what it holds. Where it has
    `of(source)`, that is the reader of the source's own format.
    """

    def find(self, uri: str) -> list[str]:
        """URIs of the raw units of work under `uri`, sorted. Raises storage.StorageError where there is none."""
        ...

    def read(self, source: str) -> Iterator[DrivingLog | BadRecord]:
        """The valid logs of one source, and a BadRecord in place of each log or track that is bad.

        Raises BadRecord where the whole source is bad, storage.StorageError where it cannot be read.
        """
        ...


def reader(format: str) -> Reader:
    """The reader of a format. Raises ValueError for a name that is neither in FORMATS nor in ANY."""
    modules = FORMATS | ANY
    if format not in modules:
        raise ValueError(f"unknown format {format!r}; the known ones are {', '.join(sorted(modules))}")
    return cast(Reader, import_module(modules[format]))


def of_source(reader: Reader, source: str) -> Reader:
    """The reader that knows a source's format: the same, or the one it hands the source to."""
    of = getattr(reader, "of", None)
    return cast(Reader, of(source)) if of else reader


def files(reader: Reader, source: str) -> list[str]:
    """The files that decide what `source` holds: those its reader names, else the file, or all files of the folder."""
    named = getattr(reader, "files", None)
    found: list[str] = named(source) if named else storage.objects(source, "")
    if not found:
        raise storage.StorageError(f"cannot read {source}: nothing is there")
    return found


def divided(reader: Reader, source: str) -> list[str]:
    """The files whose size is that of the work with `source`: those its reader names, else all that decide it."""
    named = getattr(reader, "divided", None)
    return cast(list[str], named(source)) if named else files(reader, source)


def read_json(uri: str) -> Any:
    """The JSON document at `uri`, gzipped or plain; numbers may be NaN, as Python writes them.

    Raises BadRecord where it is not JSON, storage.StorageError where it cannot be read.
    """
    return parse_json(read_packed(uri, MOST_JSON_BYTES))


def parse_json(data: bytes) -> Any:
    """The JSON document in `data`. Raises BadRecord where it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        reason = error
    try:
        return json.loads(data)  # slower, but takes NaN: then only the tracks that hold it are lost
    except (ValueError, RecursionError):
        raise BadRecord(f"not a whole JSON document: {reason}") from reason


def read_packed(uri: str, most_bytes: int) -> bytes:
    """The document at `uri`, unpacked where it is gzipped.

    Raises BadRecord where it is not whole or unpacks to more than `most_bytes`, StorageError where it cannot be read.
    """
    data, parts, left = storage.read_bytes(uri), [], most_bytes + 1
    while data[:2] == GZIP and left:
        unpack = zlib.decompressobj(wbits=31)
        try:
            parts.append(unpack.decompress(data, left))
        except zlib.error as error:
            raise BadRecord(f"not a whole gzip file: {error}") from None
        left -= len(parts[-1])
        if not unpack.eof and left:
            raise BadRecord("not a whole gzip file: it ends early")
        data = unpack.unused_data.lstrip(b"\0") or b""
        if data and data[:2] != GZIP and left:
            raise BadRecord(f"not a whole gzip file: {len(data)} bytes follow its end")
    data = b"".join(parts) if parts else data
    if len(data) > most_bytes:
        raise BadRecord(f"document of more than {most_bytes >> 20} MiB, expected less")
    return data


def content_id(data: bytes) -> str:
    """What tells logs apart that are called alike, as where a file name counts from 0 in every folder."""
    return hashlib.blake2b(data, digest_size=3).hexdigest()


def expect_plain_xml(data: bytes) -> None:
    """Raise BadRecord for XML with a DTD, as nothing in the formats needs one, but entity bombs do; or of many tags."""
    tags = data.count(b"<")
    if tags > MAX_TAGS:
        raise BadRecord(f"the document has {tags} tags, expected at most {MAX_TAGS}")
    prolog = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise BadRecord("the document has a DTD, expected none")

    def stop(*_: object) -> None:
        raise StopIteration

    prolog.StartDoctypeDeclHandler = refuse
    prolog.StartElementHandler = stop
    try:
        prolog.Parse(data, True)
    except StopIteration:
        pass
    except expat.ExpatError as error:
        raise BadRecord(f"not XML: {error}") from None


MAX_TAGS = 3_000_000
"""Of an XML document; an element takes some 350 bytes of memory."""
MOST_START_US = 1 << 61
"""The clock of a log, either way: times of windows fit in 64 bits."""
MAX_TRACK_STEPS = 5_000_000
MAX_VERTICES = 1_000_000
"""Steps of all tracks of a log, and vertices of its map: ten times what 10,000 agents in a town need."""


def expect_size(agents: int, steps: int, vertices: int = 0) -> None:
    """Raise BadRecord for a log that is too large, before memory is taken for it."""
    if agents * steps > MAX_TRACK_STEPS:
        raise BadRecord(f"{agents} tracks of {steps} steps, expected at most {MAX_TRACK_STEPS} steps in all")
    if vertices > MAX_VERTICES:
        raise BadRecord(f"the map has {vertices} vertices, expected at most {MAX_VERTICES}")


def expect_steps_of_100_ms(time_s: NDArray[np.float64]) -> None:
    """Raise BadRecord where times, (T,) [s], are not finite, or not about 0.1 s apart at every step."""
    if not len(time_s) or not np.isfinite(time_s).all():
        raise BadRecord("the log has no time, or one that is not a finite number")
    step_s = np.diff(time_s)
    bad = np.flatnonzero(~(np.abs(step_s - STEP_S) <= MAX_STEP_ERROR_S))
    if len(bad):
        raise BadRecord(f"step {bad[0]} lasts {step_s[bad[0]]:.6g} s, expected about {STEP_S} s")


def usual_size(size_m: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The median of each track's size, (A, T) [m], over its valid steps, (A,); inf where it has none."""
    ranked = np.sort(np.where(valid, size_m, np.inf), axis=1)
    return ranked[np.arange(len(ranked)), np.maximum(valid.sum(1) - 1, 0) // 2].astype(np.float32)


def usable(log: DrivingLog, faults: Mapping[int, str] | None = None) -> Iterator[DrivingLog | BadRecord]:
    """A BadRecord for each track of `log` that cannot be used, then the valid log without them.

    faults: what the reader found wrong, by index of the track. Headings are wrapped and values at steps that are not
    valid set to 0 on the way. Raises BadRecord where no track is left, the map has no lane, or a part is not valid.
    """
    reasons = {**_track_faults(log.tracks), **(faults or {})}
    yield from (BadRecord(reasons[i], record=str(log.tracks.agent_id[i])) for i in sorted(reasons))
    keep = np.setdiff1d(np.arange(len(log.tracks.agent_id)), list(reasons)).astype(np.int64)
    if not len(keep):
        raise BadRecord("the log has no usable track, expected at least one", stage="validate", record=log.log_id)
    if not len(log.map.of_kind("lane_centerline")):
        raise BadRecord("the map has no lanes, expected at least one", stage="validate", record=log.log_id)
    recorder = None if log.recorder is None or log.recorder in reasons else int(np.searchsorted(keep, log.recorder))
    tracks = log.tracks.take(keep)
    size_known = None if log.size_known is None else log.size_known[keep]
    poses = {name: np.where(tracks.valid, getattr(tracks, name), 0.0) for name in POSE_FIELDS}
    poses["heading_rad"] = wrap_angle(poses["heading_rad"])
    log = replace(log, tracks=replace(tracks, **poses), recorder=recorder, size_known=size_known)
    names = {"log_id": log.log_id, "region": log.region, "split_key": log.split_key, "map_id": log.map.map_id}
    for field, text in names.items():
        if len(text) > LONGEST_NAME:
            raise BadRecord(f"{field} has more than {LONGEST_NAME} characters: {text[:40]!r}...", stage="validate")
    if abs(log.start_us) > MOST_START_US:
        raise BadRecord(f"the log starts at {log.start_us:.6g} us, expected a time", stage="validate")
    log.validate()
    yield log


def _track_faults(tracks: Tracks) -> dict[int, str]:
    """What is wrong with each track that cannot be used, by its index."""
    _, inverse, count = np.unique(tracks.agent_id, return_inverse=True, return_counts=True)
    size_ok = (tracks.length_m > 0) & (tracks.length_m < 40) & (tracks.width_m > 0) & (tracks.width_m < 10)
    not_finite = {name: (tracks.valid & ~np.isfinite(getattr(tracks, name))).any(1) for name in POSE_FIELDS}
    with np.errstate(invalid="ignore"):
        absurd = {name: (tracks.valid & (np.abs(getattr(tracks, name)) >= FARTHEST_M)).any(1) for name in POSE_FIELDS}
    checks = [
        *((bad, f"{name} is {FARTHEST_M:.0e} or more at a valid step") for name, bad in absurd.items()),
        *((bad, f"{name} is not a finite number at a valid step") for name, bad in not_finite.items()),
        (~size_ok, "box size is not within 40 x 10 m and above 0"),
        (count[inverse] > 1, "track id comes more than once, expected once per log"),
        (~tracks.valid.any(1), "no valid step, expected at least one"),
        (np.strings.str_len(tracks.agent_id) > LONGEST_NAME, f"track id has more than {LONGEST_NAME} characters"),
    ]
    return {int(i): reason for bad, reason in checks for i in np.flatnonzero(bad)}
