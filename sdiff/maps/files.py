"""Bare maps, without any log: Argoverse 2 map archives, SUMO networks, and OpenDRIVE by way of SUMO's netconvert."""

import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from sdiff import storage
from sdiff.logs import argoverse2_map, expect_plain_xml, read_packed, sumo_net
from sdiff.logs.driving_log import BadRecord, VectorMap
from sdiff.maps.lanes import LaneGraph
from sdiff.simulate.tools import SimulationError, run

NAMES = r"(?:log_map_archive_(?P<archive>.+)\.json|(?:(?P<net>.+)\.)?net\.xml|(?P<road>.+)\.xodr)(?:\.gz)?"
"""Names of the files of a folder that are taken for maps. A file that is named itself may be called anything."""
EXPECTED = "expected an Argoverse 2 map archive (JSON), a SUMO network (.net.xml) or OpenDRIVE (.xodr)"

MOST_BYTES = 64 << 20
"""Unpacked; ten times the network of a district."""

_LICENSE = re.compile(rb'SPDX-License-Identifier:\s*([\w.+-]+)|<license\b[^>]*?\b(?:spdxid|name)="([^"]+)"')


@dataclass(frozen=True)
class MapFile:
    """A map and what its file says of it. region: the file's name. license: "unknown" where the file says none."""

    map: VectorMap
    dataset: str
    region: str
    license: str


def read_all(uri: str) -> tuple[list[MapFile], list[tuple[str, str]]]:
    """The maps of a file, or of a folder and those below it, each map once; and of bad files their URI and the reason.

    Raises BadRecord where no file holds a map that can be used, storage.StorageError where one cannot be read.
    """
    found = storage.objects(uri, "")
    names = found if found == [uri] else [u for u in found if re.fullmatch(NAMES, u.rsplit("/", 1)[-1])]
    if not names:
        raise BadRecord(
            f"no map at {uri}; expected a file, or a folder with log_map_archive_*.json, *.net.xml or *.xodr (or .gz)"
        )
    maps: dict[str, MapFile] = {}
    bad: list[tuple[str, str]] = []
    for name in names:
        try:
            file = read(name)
            maps.setdefault(file.map.map_id, file)
        except BadRecord as error:
            bad.append((name, str(error)))
    if not maps:
        more = f" ({len(bad) - 1} other files there cannot be used either)" if len(bad) > 1 else ""
        raise BadRecord(f"{bad[0][0]}: {bad[0][1]}{more}")
    return list(maps.values()), bad


def read(uri: str) -> MapFile:
    """The map in one file, its format told by its content.

    Raises BadRecord where there is none with a lane for vehicles, storage.StorageError where it cannot be read.
    """
    try:
        data = read_packed(uri, MOST_BYTES)
    except BadRecord as error:
        raise BadRecord(f"{error}; {EXPECTED}") from None
    reader: Callable[[bytes], VectorMap] | None
    if data.lstrip()[:1] == b"{":
        dataset, reader = "argoverse2_map", _argoverse2
    else:
        dataset, reader = _XML.get(_root(data), ("", None))
    if reader is None:
        raise BadRecord(f"the file is none of the formats of maps; {EXPECTED}")
    if reader is not _argoverse2:
        expect_plain_xml(data)
    map = reader(data)
    map.validate()
    if not LaneGraph(map).drivable.any():
        raise BadRecord("the map has no lane for vehicles, expected at least one")
    told = _LICENSE.search(data[: 1 << 16])
    license = next((g.decode("utf-8", "replace") for g in told.groups() if g), "unknown") if told else "unknown"
    return MapFile(map, dataset, _stem(uri), license)


def _argoverse2(data: bytes) -> VectorMap:
    try:
        archive = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRecord(f"not a whole JSON document ({error}); {EXPECTED}") from None
    return argoverse2_map.map_of(archive, f"argoverse2-{_digest(data)}")


def _sumo(data: bytes) -> VectorMap:
    return sumo_net.vector_map(sumo_net.parse(data))[0]


def _opendrive(data: bytes) -> VectorMap:
    """The lanes that netconvert takes for driving, in the file's own coordinates."""
    with TemporaryDirectory(prefix="sdiff-") as folder:
        (Path(folder) / "map.xodr").write_bytes(data)
        options = (
            *("--opendrive-files", "map.xodr", "--output-file", "map.net.xml", "--offset.disable-normalization"),
            *("--opendrive.internal-shapes", "--no-turnarounds", "--no-warnings", "--precision", "3"),
        )
        try:
            run("netconvert", *options, folder=Path(folder))
        except SimulationError as error:
            raise BadRecord(
                f"not an OpenDRIVE map that can be used: {error}; expected one with driving lanes"
            ) from None
        net = (Path(folder) / "map.net.xml").read_bytes()
    return replace(_sumo(net), map_id=f"opendrive-{_digest(data)}")


_XML: dict[str, tuple[str, Callable[[bytes], VectorMap]]] = {
    "net": ("sumo_net", _sumo),
    "OpenDRIVE": ("opendrive", _opendrive),
}
"""Root element -> name of the format, and what reads it."""


def _root(data: bytes) -> str:
    """Name of the root element, without its namespace; empty where it is no XML."""
    try:
        return next(str(el.tag).rsplit("}", 1)[-1] for _, el in ET.iterparse(BytesIO(data), ("start",)))
    except (ET.ParseError, StopIteration):
        return ""


def _stem(uri: str) -> str:
    name = uri.rsplit("/", 1)[-1]
    match = re.fullmatch(NAMES, name)
    return next((g for g in match.groups() if g), name) if match else name.split(".", 1)[0] or name


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
