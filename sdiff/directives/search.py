"""The places of a job: windows that fit its condition, its predicates and its directives, found in a windows table."""

import bisect
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

import schemas
from sdiff import query, storage, tables
from sdiff.directives.directive import fits
from sdiff.directives.job import Job
from sdiff.geometry import SE2
from sdiff.logs.driving_log import LIGHT_STATES
from sdiff.maps.lanes import LaneGraph, map_from_rows
from sdiff.maps.places import Place
from sdiff.scene import STEPS_PAST

if TYPE_CHECKING:
    import duckdb

MAPS_KEPT = 64
"""Maps that are held in memory at most."""

WHERE_COLUMNS = tuple(
    f.name for f in schemas.arrow_schema("windows") if not (pa.types.is_struct(f.type) or pa.types.is_binary(f.type))
)
"""Columns that `places.where` may use."""


class NoPlace(ValueError):
    """No window fits what a job wants: says how many fit each part of it."""


@dataclass(frozen=True)
class Spot:
    """Where a place lies in the tables: object and row of its window, object and id of its map."""

    window_id: str
    object: str
    row: int
    map_id: str
    map_object: str


@dataclass
class Found:
    """Places per directive in table order; windows that met the condition; how many of `examined` passed each part."""

    spots: dict[str, list[Spot]]
    n_windows: int
    examined: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """One line per part of what was wanted."""
        parts = "".join(f"\n  {self.counts[name]:>8,} {name}" for name in self.counts)
        return f"{self.n_windows:,} windows meet places.where; of {self.examined:,} examined fit{parts}"


class Maps:
    """The lane graphs of a maps table, the last ones kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, LaneGraph] = OrderedDict()

    def graph(self, map_id: str, map_object: str) -> LaneGraph:
        """The lanes of the map `map_id`, which lies in the object `map_object`."""
        if map_id not in self._kept:
            fs, path = storage.filesystem(map_object)
            rows = ds.dataset(path, format="parquet", filesystem=fs).to_table(filter=ds.field("map_id") == map_id)
            self._kept[map_id] = LaneGraph(map_from_rows(rows))
            while len(self._kept) > MAPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(map_id)
        return self._kept[map_id]


def find(job: Job, windows_uri: str, wanted_per_directive: dict[str, int]) -> Found:
    """Places for each directive of a job: as many as wanted, or all there are.

    Windows are examined in an order that only the seed decides, until all have enough. Raises NoPlace where a
    directive has none, and ValueError for a condition that is no SQL.
    """
    with query.connect(storage.table_uri(windows_uri, "windows").rsplit("/", 1)[0]) as con:
        candidates = _candidates(con, job, windows_uri)
    found = Found({d.name: [] for d in job.directives}, len(candidates))
    predicates = job.places.wanted.asked()
    for name in (
        *(["on a lane"] if predicates else []),
        *predicates,
        "all of these",
        *(f"taken for {d.name}" for d in job.directives),
    ):
        found.counts[name] = 0
    maps = Maps()
    for row in (row for batch in candidates.to_batches(1024) for row in batch.to_pylist()):
        if all(len(found.spots[name]) >= n for name, n in wanted_per_directive.items()):
            break
        _examine(row, job, predicates, maps, found, wanted_per_directive)
    empty = [name for name, spots in found.spots.items() if wanted_per_directive[name] and not spots]
    if empty:
        raise NoPlace(
            f"no place for directive {empty[0]} in {windows_uri}: {found.summary()}\n"
            "give other --windows, or ask for less in the job's places"
        )
    for name, spots in found.spots.items():
        found.spots[name] = sorted(spots, key=lambda s: (s.object, s.row))
    return found


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


def _examine(
    row: dict[str, Any], job: Job, predicates: list[str], maps: Maps, found: Found, wanted: dict[str, int]
) -> None:
    place = place_of(row, lambda: maps.graph(row["map_id"], row["map_object"]))
    held = [name for name in predicates if job.places.wanted.holds(name, place)]
    found.examined += 1
    if predicates:
        found.counts["on a lane"] += place.lane is not None
    found.counts.update(held)
    if len(held) < len(predicates):
        return
    found.counts["all of these"] += 1
    spot = Spot(row["window_id"], row["filename"], row["file_row_number"], row["map_id"], row["map_object"])
    for directive in job.directives:
        if len(found.spots[directive.name]) < wanted[directive.name] and fits(directive, place):
            found.counts[f"taken for {directive.name}"] += 1
            found.spots[directive.name].append(spot)


def _candidates(con: "duckdb.DuckDBPyConnection", job: Job, windows_uri: str) -> pa.Table:
    """The windows that meet the condition, in the order in which they are examined."""
    import duckdb

    t0, ego = STEPS_PAST + 1, "list_position(agents.is_ego, true)"  # SQL counts from 1
    speed = f"sqrt(pow(agents.vx_mps[{ego}][{t0}], 2) + pow(agents.vy_mps[{ego}][{t0}], 2))"
    con.execute(
        f"CREATE TEMP VIEW flat AS SELECT {', '.join(WHERE_COLUMNS)}, file_row_number AS _row, "
        f"filename AS _file FROM {_with_position(con, windows_uri, 'windows')}"
    )
    try:
        con.execute(f"CREATE TEMP TABLE meeting AS SELECT _file, _row FROM flat WHERE {job.places.where or 'true'}")
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
