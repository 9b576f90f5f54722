"""The places of a job: windows, or poses on bare maps, that fit its condition, its predicates and its directives."""

import bisect
import functools
import hashlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

import schemas
from sdiff import query, raster, storage, tables
from sdiff.directives.directive import Directive, fits
from sdiff.directives.job import Job
from sdiff.directives.steering import keeps_to_the_road
from sdiff.geometry import SE2
from sdiff.logs.driving_log import LIGHT_STATES, Lights, VectorMap
from sdiff.maps.lanes import LaneGraph, map_from_rows
from sdiff.maps.places import ROOM_M, Place, along_lanes
from sdiff.scene import MAP_CHANNELS, STEPS_PAST

if TYPE_CHECKING:
    import duckdb

    from sdiff.maps.files import MapFile

MAPS_KEPT = 64
"""Maps that are held in memory at most."""

WHERE_COLUMNS = tuple(
    f.name for f in schemas.arrow_schema("windows") if not (pa.types.is_struct(f.type) or pa.types.is_binary(f.type))
)
"""Columns that `places.where` may use."""


class NoPlace(ValueError):
    """No place fits what a job wants: says how many fit each part of it."""


@dataclass(frozen=True)
class Spot:
    """Where a place lies in the tables: object and row of its window, object and id of its map."""

    window_id: str
    object: str
    row: int
    map_id: str
    map_object: str


@dataclass(frozen=True)
class MapSpot:
    """A place on a bare map: its number among the poses along the map's lanes, and that pose, map_SE2_window.

    map_object: holds the map's rows of the table maps. dataset, region, license: what the map's file says of itself.
    """

    map_id: str
    map_object: str
    number: int
    x_m: float
    y_m: float
    heading_rad: float
    dataset: str
    region: str
    license: str

    @property
    def map_SE2_window(self) -> SE2:
        """The window frame in the map."""
        return SE2(self.x_m, self.y_m, self.heading_rad)

    def row(self) -> dict[str, Any]:
        """What a window would say of the place: the columns that it lends to scenarios."""
        pose = {"origin_x_m": self.x_m, "origin_y_m": self.y_m, "origin_heading_rad": self.heading_rad}
        lent = {name: getattr(self, name) for name in ("map_id", "dataset", "region", "license")}
        return {"window_id": None, **lent, **pose}


AnySpot = TypeVar("AnySpot", Spot, MapSpot)


@dataclass
class Found(Generic[AnySpot]):
    """Places per directive in table order; candidates and their kind; how many of `examined` passed each part.

    trained: how many more there were, on maps that the model was trained on.
    """

    spots: dict[str, list[AnySpot]]
    n_candidates: int
    candidates: str = "windows meet places.where"
    trained: int = 0
    examined: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """One line per part of what was wanted."""
        parts = "".join(f"\n  {self.counts[name]:>8,} {name}" for name in self.counts)
        seen = f" ({self.trained:,} more on maps that the model was trained on)" if self.trained else ""
        return f"{self.n_candidates:,} {self.candidates}{seen}; of {self.examined:,} examined fit{parts}"


@dataclass(frozen=True)
class IndexedMap:
    """A map, and what is computed from it once."""

    map: VectorMap

    @cached_property
    def graph(self) -> LaneGraph:
        """Its lanes."""
        return LaneGraph(self.map)

    @cached_property
    def _index(self) -> raster.MapIndex:
        return raster.MapIndex.of(self.map)

    def image(self, map_SE2_window: SE2) -> raster.Bev:
        """The map image of a window without signals, (8, 256, 256)."""
        return raster.map_bev(self._index, Lights.none(1), 0, map_SE2_window)


class Maps:
    """Maps of a maps table, the last ones kept. held: those that need not be read."""

    def __init__(self, held: Mapping[str, IndexedMap] | None = None) -> None:
        self._held = held or {}
        self._kept: OrderedDict[str, IndexedMap] = OrderedDict()

    def graph(self, map_id: str, map_object: str) -> LaneGraph:
        """The lanes of the map `map_id`, which lies in the object `map_object`."""
        return self.indexed(map_id, map_object).graph

    def drivable(self, map_id: str, map_object: str, map_SE2_window: SE2) -> NDArray[np.uint8]:
        """The drivable area of a window on it, (256, 256), not 0 = drivable."""
        return self.indexed(map_id, map_object).image(map_SE2_window)[MAP_CHANNELS.index("drivable_area")]

    def indexed(self, map_id: str, map_object: str) -> IndexedMap:
        """The map `map_id`, which lies in the object `map_object`."""
        if map_id in self._held:
            return self._held[map_id]
        if map_id not in self._kept:
            fs, path = storage.filesystem(map_object)
            rows = ds.dataset(path, format="parquet", filesystem=fs).to_table(filter=ds.field("map_id") == map_id)
            self._kept[map_id] = IndexedMap(map_from_rows(rows))
            while len(self._kept) > MAPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(map_id)
        return self._kept[map_id]


def find(
    job: Job, windows_uri: str, wanted_per_directive: dict[str, int], trained_maps: Collection[str] = ()
) -> Found[Spot]:
    """Places for each directive of a job: as many as wanted, or all there are.

    Windows are examined in an order that only the seed decides, until all have enough. trained_maps: ids of maps that
    lend no place, unless the job lets them. Raises NoPlace where a directive has none, and ValueError for a condition
    that is no SQL.
    """
    with query.connect(storage.table_uri(windows_uri, "windows").rsplit("/", 1)[0], sealed=True) as con:
        meeting = _candidates(con, job, windows_uri)
    candidates = meeting.filter(
        pc.invert(pc.is_in(meeting["map_id"], pa.array(_refused(job, trained_maps), pa.string())))
    )
    trained = len(meeting) - len(candidates)
    found: Found[Spot] = Found({d.name: [] for d in job.directives}, len(candidates), trained=trained)
    maps = Maps()

    def windows() -> Iterator[tuple[Place, Spot]]:
        for row in (row for batch in candidates.to_batches(1024) for row in batch.to_pylist()):
            spot = Spot(row["window_id"], row["filename"], row["file_row_number"], row["map_id"], row["map_object"])
            yield place_of(row, lambda spot=spot: maps.graph(spot.map_id, spot.map_object)), spot  # type: ignore[misc]

    _fill(found, job, windows(), maps, wanted_per_directive)
    _refuse_none(found, wanted_per_directive, windows_uri, "give other --windows")
    for spots in found.spots.values():
        spots.sort(key=lambda s: (s.object, s.row))
    return found


def find_on_maps(
    job: Job,
    on: list[MapSpot],
    maps: Maps,
    wanted_per_directive: dict[str, int],
    trained_maps: Collection[str] = (),
) -> Found[MapSpot]:
    """The same, of places on bare maps. on: those there are, see `spots_on_map`.

    They are examined in an order that only the seed and the place decide. A place has to have room: see
    `Place.has_room`. Raises NoPlace where a directive has none.
    """
    every, refused = len(on), set(_refused(job, trained_maps))
    on = [spot for spot in on if spot.map_id not in refused]
    n_maps = len({s.map_id for s in on})
    kind = f"poses along the lanes of {n_maps} map{'' if n_maps == 1 else 's'}"
    found: Found[MapSpot] = Found({d.name: [] for d in job.directives}, len(on), kind, every - len(on))

    def drawn(spot: MapSpot) -> str:
        return hashlib.md5(f"{spot.map_id}:{spot.number}:{job.seed}".encode()).hexdigest()

    def places() -> Iterator[tuple[Place, MapSpot]]:
        for spot in sorted(on, key=drawn):
            yield place_of(spot.row(), lambda spot=spot: maps.graph(spot.map_id, spot.map_object)), spot  # type: ignore[misc]

    _fill(found, job, places(), maps, wanted_per_directive, needs_room=True)
    _refuse_none(found, wanted_per_directive, str(job.map), "give another --map")
    for spots in found.spots.values():
        spots.sort(key=lambda s: (s.map_id, s.number))
    return found


def spots_on_map(file: "MapFile", map_object: str, spacing_m: float) -> list[MapSpot]:
    """All poses along the lanes of a map, see `along_lanes`. map_object: where the map's rows will lie."""
    poses = enumerate(along_lanes(LaneGraph(file.map), spacing_m))
    told = (file.dataset, file.region, file.license)
    return [MapSpot(file.map.map_id, map_object, i, p.x_m, p.y_m, p.heading_rad, *told) for i, p in poses]


def spots_of(windows_uri: str, window_ids: list[str]) -> dict[str, Spot]:
    """Where windows lie that directives name. Raises ValueError for one that is not in the table."""
    if not window_ids:
        return {}
    with query.connect(storage.table_uri(windows_uri, "windows").rsplit("/", 1)[0]) as con:
        listed = _with_position(con, windows_uri, "windows")
        rows = con.execute(
            f"SELECT window_id, filename, file_row_number, map_id FROM {listed} WHERE list_contains(?, window_id)",
            [window_ids],
        ).fetchall()
    found = {r[0]: Spot(r[0], r[1], r[2], r[3], "") for r in rows}
    missing = sorted(set(window_ids) - set(found))
    if missing:
        raise ValueError(f"from_log: no window {missing[0]!r} in {windows_uri}")
    return found


def window_rows(spots: list[Spot], columns: list[str]) -> list[dict[str, Any]]:
    """The given columns of the windows at `spots`, one Arrow table of one row each; every row group is read once."""
    rows: dict[tuple[str, int], Any] = {}
    for uri, group in itertools.groupby(sorted(spots, key=lambda s: (s.object, s.row)), key=lambda s: s.object):
        wanted = sorted({s.row for s in group})
        fs, path = storage.filesystem(uri)
        # A dataset's own `take` would decode the whole object, half a megabyte per window.
        with pq.ParquetFile(path, filesystem=fs) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            for i, members in itertools.groupby(wanted, key=lambda row: bisect.bisect_right(ends, row)):
                inside = list(members)
                table = file.read_row_group(i, columns).take([row - ends[i] + sizes[i] for row in inside])
                rows |= {(uri, row): table.slice(k, 1) for k, row in enumerate(inside)}
    return [rows[s.object, s.row] for s in spots]


def place_of(row: dict[str, Any], load_graph: Callable[[], LaneGraph]) -> Place:
    """The place of a row of the table windows: its origin; speed and signals where they are there."""
    origin = SE2(row["origin_x_m"], row["origin_y_m"], row["origin_heading_rad"])
    if lights := row.get("lights"):
        row = row | {"light_ids": lights["feature_id"], "light_states": [s[STEPS_PAST] for s in lights["state"]]}
    states = zip(row.get("light_ids") or [], row.get("light_states") or [], strict=True)
    signals = tuple((lane, LIGHT_STATES[state]) for lane, state in states if state)
    speed = row.get("ego_speed_mps")
    return Place(load_graph, origin, float("nan") if speed is None else speed, signals)


def _fill(
    found: Found[AnySpot],
    job: Job,
    candidates: Iterable[tuple[Place, AnySpot]],
    maps: Maps,
    wanted: dict[str, int],
    needs_room: bool = False,
) -> None:
    """Go through candidates until all directives have enough, and count what each part of the job leaves."""
    predicates: list[str] = job.places.wanted.asked()
    room: str = f"{ROOM_M:.0f} m of road ahead and behind"
    for name in (
        *([room] if needs_room else []),
        *(["on a lane"] if predicates else []),
        *predicates,
        "all of these",
        *(part for d in job.directives for part in (*_parts(d), f"room for {d.name}", f"taken for {d.name}")),
    ):
        found.counts[name] = 0
    for place, spot in candidates:
        if all(len(found.spots[name]) >= n for name, n in wanted.items()):
            break
        found.examined += 1
        if needs_room:
            if not place.has_room:
                continue
            found.counts[room] += 1
        held = [name for name in predicates if job.places.wanted.holds(name, place)]
        if predicates:
            found.counts["on a lane"] += place.lane is not None
        found.counts.update(held)
        if len(held) < len(predicates):
            continue
        found.counts["all of these"] += 1
        at = (spot.map_id, spot.map_object, place.map_SE2_window)
        drivable = functools.cache(functools.partial(maps.drivable, *at))
        for directive in job.directives:
            if len(found.spots[directive.name]) >= wanted[directive.name]:
                continue
            parts = _parts(directive)
            held = [part for part, name in parts.items() if directive.places.holds(name, place)]
            found.counts.update(held)
            if len(held) < len(parts) or not (both_ends := fits(directive, place)):
                continue
            found.counts[f"room for {directive.name}"] += 1
            if job.accept.off_road or keeps_to_the_road(both_ends, drivable):
                found.counts[f"taken for {directive.name}"] += 1
                found.spots[directive.name].append(spot)


def _parts(directive: Directive) -> dict[str, str]:
    """What a directive asks of places beside the lanes it names, as counts say it and by the predicate's name."""
    return {f"{name} of {directive.name}": name for name in directive.places.asked()}


def _refused(job: Job, trained_maps: Collection[str]) -> list[str]:
    """Maps that lend no place."""
    return [] if job.places.trained_maps else sorted(trained_maps)


def _refuse_none(found: Found[AnySpot], wanted: dict[str, int], uri: str, remedy: str) -> None:
    empty = [name for name, spots in found.spots.items() if wanted[name] and not spots]
    if empty:
        if found.trained:
            remedy += (
                ", or say trained_maps: true in places (option --trained-maps) to take maps that the model has seen"
            )
        raise NoPlace(
            f"no place for directive {empty[0]} in {uri}: {found.summary()}\n"
            f"{remedy}, or ask for less in the job's places"
        )


def _candidates(con: "duckdb.DuckDBPyConnection", job: Job, windows_uri: str) -> pa.Table:
    """The windows that meet the condition, in the order in which they are examined."""
    import duckdb

    t0, ego = STEPS_PAST + 1, "list_position(agents.is_ego, true)"  # SQL counts from 1
    speed = f"sqrt(pow(agents.vx_mps[{ego}][{t0}], 2) + pow(agents.vy_mps[{ego}][{t0}], 2))"
    con.execute(
        f"CREATE TEMP VIEW flat AS SELECT {', '.join(WHERE_COLUMNS)}, file_row_number AS _row, "
        f"filename AS _file FROM {_with_position(con, windows_uri, 'windows')}"
    )
    where = query.condition(job.places.where, "places.where")
    try:
        con.execute(f"CREATE TEMP TABLE meeting AS SELECT _file, _row FROM flat WHERE {where}")
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"places.where: {job.places.where!r}: {reason}; expected an SQL condition over {', '.join(WHERE_COLUMNS)}"
        ) from error
    return con.sql(
        f"""SELECT window_id, w.map_id, origin_x_m, origin_y_m, origin_heading_rad, filename, file_row_number,
                   {speed} AS ego_speed_mps, map_object, lights.feature_id AS light_ids,
                   list_transform(lights.state, lambda s: s[{t0}]) AS light_states
            FROM {_with_position(con, windows_uri, "windows")} w
            JOIN meeting ON _file = filename AND _row = file_row_number
            JOIN (SELECT map_id, min(filename) AS map_object
                  FROM {_with_position(con, windows_uri, "maps")} GROUP BY map_id) m ON m.map_id = w.map_id
            ORDER BY md5(window_id || ':{job.seed}'), window_id"""
    ).to_arrow_table()


def _with_position(con: "duckdb.DuckDBPyConnection", windows_uri: str, table: str) -> str:
    """SQL for the rows of a table with the object and the row that each lies in."""
    parent = storage.table_uri(windows_uri, "windows").rsplit("/", 1)[0]
    files = storage.objects(storage.join(parent, table))
    if not files:
        raise tables.TableError(f"no table {table} at {storage.join(parent, table)}; run sdiff ingest first")
    shown = ", ".join("'" + f.removeprefix("file://").replace("'", "''") + "'" for f in files)
    return f"read_parquet([{shown}], union_by_name=true, filename=true, file_row_number=true)"


def chunks(n: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of n items in slices of `size`."""
    return ((a, min(a + size, n)) for a in range(0, n, size))
