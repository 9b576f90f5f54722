"""nuPlan's city maps: GeoPackages, which are SQLite files with geometry as WKB.

Layers: https://github.com/motional/nuplan-devkit/blob/master/nuplan/common/maps/nuplan_map/nuplan_map.py
Geometry: https://www.geopackage.org/spec/#gpb_format
"""

from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from sdiff.logs import sqlite_file
from sdiff.logs.driving_log import LANE_TYPES, BadRecord, VectorMap
from sdiff.logs.sqlite_file import Database
from sdiff.maps import Features, Lanes, Lines, derive, utm, vector_map

RIM_M = 200.0
"""How far around the recorder's path the city's map is kept: it sees 80 m far, and a window there reaches 71 m on."""
DRIVABLE = ("lane_groups_polygons", "intersections", "generic_drivable_areas", "carpark_areas")
UNPAINTED = 3
"""`boundary_type_fid` of boundaries between lanes without a line."""
BIKE_LANE = 1
"""`lane_type_fid` of bike lanes."""
WGS84 = 4326
_ENVELOPE_BYTES = (0, 32, 48, 48, 64)
_LITTLE_ENVELOPES = (0b0011, 0b0101, 0b0111, 0b1001)
"""Flags of geometries with an envelope of little-endian numbers."""
ENVELOPE_SLACK_M = 100.0
"""By how much a straight line in degrees is bent on the map: some 10 m in 10 km."""


class CityMap(NamedTuple):
    """The part of a city's map around a log. connector: index of the lane feature, by the id of the lane connector."""

    map: VectorMap
    connector: dict[int, int]


class _Layer(NamedTuple):
    """Rows of a layer near the log. fid: (n,). columns: numbers by name, (n,). geometry: (n,), map frame."""

    fid: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]
    geometry: NDArray[Any]


def read(uri: str, map_id: str, epsg: int, bounds_m: tuple[float, float, float, float]) -> CityMap:
    """The part of the map at `uri` around a box (x0, y0, x1, y1) [m] of the UTM zone `epsg`.

    Lane connectors are lanes inside junctions; the source's stop polygons are areas and are left out.
    Raises BadRecord where it is no such map or has no lane there, storage.StorageError where it cannot be read.
    """
    if not utm.is_utm(epsg):
        raise BadRecord(f"ego poses are in EPSG:{epsg}, expected a UTM zone")
    try:
        return _read(uri, map_id, epsg, bounds_m)
    except shapely.GEOSException as error:
        raise BadRecord(f"map.gpkg holds shapes that are none: {error}") from error


def _read(uri: str, map_id: str, epsg: int, bounds_m: tuple[float, float, float, float]) -> CityMap:
    x0, y0, x1, y1 = bounds_m
    box = shapely.box(x0 - RIM_M, y0 - RIM_M, x1 + RIM_M, y1 + RIM_M)
    with sqlite_file.opened(uri) as database:
        tables = database.tables()

        def layer(name: str, *columns: str) -> _Layer:
            return _layer(database, name, columns, epsg, box) if name in tables else _Layer(*_nothing(columns))

        missing = sorted({"baseline_paths", "lanes_polygons", "lane_connectors"} - tables)
        if missing:
            raise BadRecord(f"map.gpkg lacks the layers {', '.join(missing)}; expected a map of nuPlan")
        paths = layer("baseline_paths", "lane_fid", "lane_connector_fid")
        polygons = layer("lanes_polygons", "lane_group_fid", "lane_index", "speed_limit_mps", "lane_type_fid")
        connectors = layer("lane_connectors", "exit_lane_fid", "entry_lane_fid", "speed_limit_mps")
        lanes, index = _lanes(paths, polygons, connectors)
        boundaries = layer("boundaries", "boundary_type_fid")
        painted = boundaries.geometry[boundaries.columns["boundary_type_fid"] != UNPAINTED]
        areas = [p for name in DRIVABLE for p in _polygons(layer(name).geometry)]
        others = [
            Features("lane_boundary", _lines(painted)),
            Features("drivable_area", derive.rings(areas)),
            Features("crosswalk", derive.rings(_polygons(layer("crosswalks").geometry))),
            Features("speed_bump", derive.rings(_polygons(layer("speed_bumps").geometry))),
        ]
    return CityMap(vector_map(map_id, lanes, others, crs=f"EPSG:{epsg}"), index)


def _nothing(columns: tuple[str, ...]) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]], NDArray[Any]]:
    return np.zeros(0, np.int64), {c: np.zeros(0) for c in columns}, np.zeros(0, object)


def _layer(database: Database, name: str, columns: tuple[str, ...], epsg: int, box: shapely.Polygon) -> _Layer:
    """The rows of a layer whose geometry reaches into `box`, in the UTM zone `epsg`."""
    about = database.all("SELECT column_name, srs_id FROM gpkg_geometry_columns WHERE table_name = ?", name)
    if len(about) != 1 or about[0][1] not in (WGS84, epsg):
        raise BadRecord(
            f"layer {name} of map.gpkg has the geometry columns and coordinate systems {about[:3]}, expected one in "
            f"{WGS84} or {epsg}, that of the ego poses"
        )
    column = str(about[0][0]).replace('"', '""')
    rows = database.all(f'SELECT rowid, "{column}"{"".join(f", {c}" for c in columns)} FROM {name}')
    blobs = [_wkb(row[1], name, row[0]) for row in rows]
    near = np.flatnonzero(_may_reach([row[1] for row in rows], epsg, about[0][1] == WGS84, box))
    rows, blobs = [rows[i] for i in near], [blobs[i] for i in near]
    try:
        geometry = shapely.force_2d(shapely.from_wkb(np.array(blobs, object)))
    except (shapely.errors.GEOSException, TypeError, ValueError) as error:
        raise BadRecord(f"layer {name} of map.gpkg holds what is no geometry: {error}") from error
    if about[0][1] == WGS84 and len(geometry):
        geometry = shapely.transform(geometry, lambda lon_lat: utm.project(lon_lat, epsg))
    keep = np.flatnonzero(shapely.intersects(geometry, box)) if len(geometry) else np.zeros(0, np.int64)
    values = {c: np.array([_number(rows[i][2 + k]) for i in keep], np.float64) for k, c in enumerate(columns)}
    return _Layer(np.array([rows[i][0] for i in keep], np.int64), values, geometry[keep])


def _may_reach(blobs: list[bytes], epsg: int, in_degrees: bool, box: shapely.Polygon) -> NDArray[np.bool_]:
    """Which geometries may reach into `box` by the envelopes that they begin with, so that the city is not parsed."""
    told = np.array([blob[3] & 0b1111 in _LITTLE_ENVELOPES for blob in blobs], bool)
    data = b"".join(blob[8:40] for blob, it_is in zip(blobs, told, strict=True) if it_is)
    if len(data) != 32 * told.sum():
        return np.ones(len(blobs), bool)
    x0, x1, y0, y1 = np.frombuffer(data, "<f8").reshape(-1, 4).T
    corners = np.stack([np.stack(c, -1) for c in ((x0, y0), (x1, y0), (x0, y1), (x1, y1))])  # (4, n, 2)
    if in_degrees:
        with np.errstate(all="ignore"):
            corners = utm.project(corners.reshape(-1, 2), epsg).reshape(corners.shape)
    (left, low, right, high), slack = box.bounds, ENVELOPE_SLACK_M
    (least_x, least_y), (most_x, most_y) = corners.min(0).T, corners.max(0).T
    outside = (least_x > right + slack) | (most_x < left - slack) | (least_y > high + slack) | (most_y < low - slack)
    found = np.ones(len(blobs), bool)
    found[told] = ~outside  # what is no number may reach anywhere
    return found


def _number(value: object) -> float:
    """A number, or text that holds one, as maps have it for ids; NaN for anything else."""
    try:
        return float(value) if isinstance(value, int | float | str) else np.nan
    except (ValueError, OverflowError):
        return np.nan


def _wkb(blob: object, layer: str, fid: int) -> bytes:
    """The WKB inside a GeoPackage blob, after a header of 8 bytes and an envelope."""
    if not isinstance(blob, bytes) or blob[:2] != b"GP" or len(blob) < 8 or (blob[3] >> 1) & 7 > 4:
        raise BadRecord(f"layer {layer} of map.gpkg has no GeoPackage geometry in row {fid}", record=str(fid))
    return blob[8 + _ENVELOPE_BYTES[(blob[3] >> 1) & 7] :]


def _lanes(paths: _Layer, polygons: _Layer, connectors: _Layer) -> tuple[Lanes, dict[int, int]]:
    """Lanes and lane connectors that have a baseline path, and the index of each connector."""
    lane_of, connector_of = paths.columns["lane_fid"], paths.columns["lane_connector_fid"]
    whole = (shapely.get_type_id(paths.geometry) == shapely.GeometryType.LINESTRING) & (
        shapely.get_num_coordinates(paths.geometry) > 1
    )
    lane_row = {int(f): i for i, f in enumerate(polygons.fid)}
    connector_row = {int(f): i for i, f in enumerate(connectors.fid)}
    at_lane = {int(f): i for i, f in enumerate(lane_of) if whole[i] and f in lane_row}
    at_connector = {int(f): i for i, f in enumerate(connector_of) if whole[i] and f in connector_row}
    lane_ids, connector_ids = sorted(at_lane), sorted(at_connector)
    n_lanes = len(lane_ids)
    if not n_lanes:
        raise BadRecord("map.gpkg has no lane around the log; expected the map of its city", stage="validate")
    rows = np.array([lane_row[f] for f in lane_ids], np.int64)
    own = np.array([connector_row[f] for f in connector_ids], np.int64)
    lane_index = {f: i for i, f in enumerate(lane_ids)}
    connector_index = {f: n_lanes + i for i, f in enumerate(connector_ids)}

    links = []
    for f, row in zip(connector_ids, own, strict=True):  # a lane's exit is the connector's entry
        from_lane, to_lane = (connectors.columns[c][row] for c in ("exit_lane_fid", "entry_lane_fid"))
        if from_lane in lane_index:
            links.append((lane_index[int(from_lane)], connector_index[f]))
        if to_lane in lane_index:
            links.append((connector_index[f], lane_index[int(to_lane)]))

    group, place = (polygons.columns[c][rows] for c in ("lane_group_fid", "lane_index"))
    at = {(g, p): i for i, (g, p) in enumerate(zip(group, place, strict=True))}
    none = np.full(len(own), -1, np.int32)

    def beside(by: int) -> NDArray[np.int32]:
        found = [at.get((g, p + by), -1) for g, p in zip(group, place, strict=True)]
        return np.concatenate([np.array(found, np.int32), none])

    geometry = paths.geometry[[*(at_lane[f] for f in lane_ids), *(at_connector[f] for f in connector_ids)]]
    lines = _lines(geometry)
    width = np.full(len(lines), np.nan, np.float32)
    width[:n_lanes] = shapely.area(polygons.geometry[rows]) / derive.lengths(lines)[:n_lanes]
    is_bike = np.zeros(len(lines), bool)
    is_bike[:n_lanes] = polygons.columns["lane_type_fid"][rows] == BIKE_LANE
    limits = [polygons.columns["speed_limit_mps"][rows], connectors.columns["speed_limit_mps"][own]]
    lanes = Lanes(
        ids=[*(f"lane_{f}" for f in lane_ids), *(f"connector_{f}" for f in connector_ids)],
        lines=lines,
        successors=np.array(sorted(links), np.int32).reshape(-1, 2),
        left=beside(-1),
        right=beside(1),
        in_junction=np.arange(len(lines)) >= n_lanes,
        lane_type=np.where(is_bike, LANE_TYPES.index("bike"), LANE_TYPES.index("vehicle")).astype(np.int8),
        width_m=width,
        speed_limit_mps=np.concatenate(limits).astype(np.float32),
        links_derived=False,
    )
    return lanes, connector_index


def _lines(geometry: NDArray[Any]) -> Lines:
    parts = shapely.get_parts(geometry)
    parts = parts[shapely.get_type_id(parts) == shapely.GeometryType.LINESTRING]
    return Lines.of_lengths(shapely.get_num_coordinates(parts), shapely.get_coordinates(parts))


def _polygons(geometry: NDArray[Any]) -> list[shapely.Polygon]:
    parts = shapely.get_parts(geometry)
    parts = parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (shapely.area(parts) > 0)]
    if not shapely.is_valid(parts).all():
        parts = shapely.get_parts(shapely.make_valid(parts, method="structure", keep_collapsed=False))
    return [p for p in parts if isinstance(p, shapely.Polygon) and not p.is_empty]
