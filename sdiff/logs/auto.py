"""Logs of any format: each source goes to the reader of its format, which its name tells or, where shared, its text."""

import logging
import re
import zlib
from collections.abc import Iterator

from sdiff import logs, storage
from sdiff.logs.driving_log import BadRecord, DrivingLog

NAMES = {
    "argoverse2_motion": r"scenario_.*\.parquet",
    "argoverse2_sensor": r"annotations.*\.feather",
    "commonroad": r".*\.xml(\.gz)?",
    "gpudrive": r".*\.json(\.gz)?",
    "nuplan": r".*\.db",
    "scenarionet": r".*\.pkl",
    "waymo_motion": r".*\.tfrecord.*",
    "sumo": r".*",
}
"""How the sources of each format are named; a run of SUMO is a folder, of any name."""
WORDS = {"commonroad": (b"<commonRoad",), "gpudrive": (b'"objects"', b'"roads"', b'"tl_states"')}
"""Formats whose files are named like much else, and what stands in the first HEAD_BYTES of theirs."""
HEAD_BYTES = 1 << 16

_log = logging.getLogger(__name__)


def find(uri: str) -> list[str]:
    """URIs of the sources of all formats at or under `uri`, sorted; each once, whatever other format its name fits too.

    Raises storage.StorageError where there is none.
    """
    if not storage.objects(uri, ""):
        raise storage.StorageError(f"nothing at {uri}; expected driving logs there or below")
    found = {format: [s for s in _found(format, uri) if _format(s) == format] for format in NAMES}
    sources = sorted(source for of_format in found.values() for source in of_format)
    if not sources:
        raise storage.StorageError(f"no driving log at {uri}; expected one of the formats {', '.join(NAMES)}")
    _log.info("found %s", ", ".join(f"{len(s)} of {format}" for format, s in found.items() if s))
    return sources


def of(source: str) -> logs.Reader:
    """The reader of one source. Raises storage.StorageError where no format knows it."""
    format = _format(source)
    if format is None:
        raise storage.StorageError(f"{source} is none of the formats {', '.join(NAMES)}")
    return logs.reader(format)


def files(source: str) -> list[str]:
    """The files that decide what the source holds, as its format's reader says."""
    return logs.files(of(source), source)


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The logs of one source, as its format's reader reads them."""
    return of(source).read(source)


def _found(format: str, uri: str) -> list[str]:
    try:
        return logs.reader(format).find(uri)
    except storage.StorageError:  # there is something, see `find`, but not of this format
        return []


def _format(source: str) -> str | None:
    """The first format that a source is of."""
    return next((format for format in NAMES if _is(format, source)), None)


def _is(format: str, source: str) -> bool:
    if not re.fullmatch(NAMES[format], source.rstrip("/").rsplit("/", 1)[-1]):
        return False
    words = WORDS.get(format)
    return words is None or any(word in _head(source) for word in words)


def _head(source: str) -> bytes:
    try:
        data = storage.read_bytes(source, 0, HEAD_BYTES)
        return zlib.decompressobj(wbits=31).decompress(data, HEAD_BYTES) if data[:2] == b"\x1f\x8b" else data
    except (OSError, zlib.error):
        return b""
