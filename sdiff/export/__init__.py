"""Scenarios as files of other tools: one module per format, each with `encode(scene)` and `index(files)`."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

import schemas
from sdiff import query, storage, tables
from sdiff.columns import agents_from_arrow
from sdiff.geometry import SE2
from sdiff.logs.driving_log import VectorMap
from sdiff.maps.crop import around
from sdiff.maps.lanes import map_from_rows
from sdiff.scene import Agents
from sdiff.windows import WindowLights

FORMATS = {"scenarionet": "sdiff.export.scenarionet"}
"""Format name -> the module that writes it."""

REACH_M = 150.0
"""Map features that come nearer than this to the window's origin, along x or y, go with the scenario [m]."""
MAPS_KEPT = 16
"""Maps that are held in memory at most."""
REPORT_EVERY = 500

FACTS = tuple(f.name for f in schemas.arrow_schema("scenarios") if not pa.types.is_nested(f.type))
"""The flat columns of a scenario."""
ORIGIN = ("origin_x_m", "origin_y_m", "origin_heading_rad")


class Unfit(ValueError):
    """A scenario that cannot be exported: says why. It is counted, and the others go on."""


@dataclass(frozen=True)
class Scene:
    """A scenario with all that a simulator needs, window frame.

    facts: the flat columns of its row. map: the features around the window. map_SE2_window: the way back to the map
    frame. lights: the signals of the window that lent the place, none where it is not at hand.
    """

    facts: Mapping[str, Any]
    agents: Agents
    map: VectorMap
    map_SE2_window: SE2
    lights: WindowLights


class File(NamedTuple):
    """One scenario as a file: its name, its bytes, and what the format's index says of it."""

    name: str
    data: bytes
    entry: Any


class Format(Protocol):
    """What the module of a format offers."""

    def encode(self, scene: Scene) -> File:
        """The file of one scenario; equal scenes give equal bytes. Raises Unfit."""
        ...

    def index(self, entries: Mapping[str, Any]) -> dict[str, bytes]:
        """The files, by name, that make a folder of scenarios a data set; entries: File.entry by File.name."""
        ...


@dataclass
class Tally:
    """What became of the scenarios. left_out: how many by reason. example: the first one of each reason."""

    chosen: int
    exported: int = 0
    bytes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)

    def leave_out(self, scenario_id: str, reason: str) -> None:
        self.left_out[reason] += 1
        self.example.setdefault(reason, scenario_id)

    def rows(self) -> list[dict[str, Any]]:
        """Reasons, the most frequent first."""
        return [
            {"reason": reason, "scenarios": n, "such as": self.example[reason]}
            for reason, n in self.left_out.most_common()
        ]


def export(
    scenarios: str,
    windows: str | None = None,
    *,
    to: str,
    output: str,
    limit: int | None = None,
    where: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write scenarios as files of the format `to` into the folder `output`, any fsspec URI.

    windows: lends signals, and maps where none lie beside the scenarios. limit: how many, spread evenly over the table.
    where: SQL condition over the columns of scenarios. The index is written last: a folder without one is not whole.
    Returns counts, with the scenarios that were left out by reason. Raises TableError where a table is missing,
    ValueError for an unknown format, a condition that is no SQL, and where no scenario is left.
    """
    form = format_named(to)
    ids, window_ids = _chosen(scenarios, where, limit)
    maps, signals = _Maps(scenarios, windows), _Signals(windows, window_ids)
    tally = Tally(len(ids))
    entries: dict[str, Any] = {}
    for row, agents, lights in _rows(scenarios, ids, signals):
        try:
            file = form.encode(_scene(row, agents, lights, maps))
        except Unfit as unfit:
            tally.leave_out(row["scenario_id"], str(unfit))
            continue
        storage.write_bytes(storage.join(output, file.name), file.data)
        entries[file.name] = file.entry
        tally.exported += 1
        tally.bytes += len(file.data)
        if tally.exported % REPORT_EVERY == 0:
            report(f"{tally.exported} of {len(ids)} scenarios")
    if not entries:
        reasons = "; ".join(f"{n} times: {reason}" for reason, n in tally.left_out.most_common(3))
        raise ValueError(f"none of the {len(ids)} scenarios of {scenarios} can be exported: {reasons}")
    for name, data in form.index(entries).items():
        storage.write_bytes(storage.join(output, name), data)
    return {
        "output": output,
        "format": to,
        "scenarios": tally.chosen,
        "exported": tally.exported,
        "mean_kb": round(tally.bytes / tally.exported / 1000, 1),
        "left_out": tally.rows(),
    }


def format_named(name: str) -> Format:
    """The writer of a format. Raises ValueError for a name that is not in FORMATS."""
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; the known ones are {', '.join(sorted(FORMATS))}")
    return cast(Format, import_module(FORMATS[name]))


def _scene(row: dict[str, Any], agents: Agents, lights: WindowLights, maps: "_Maps") -> Scene:
    """Raises Unfit where there is not one AV that is there all the time, or no map."""
    n = int(agents.is_ego.sum())
    if n != 1:
        raise Unfit("no AV" if n == 0 else f"{n} agents are the AV, expected one")
    if not agents.valid[agents.is_ego].all():
        raise Unfit("the AV is not there at every step")
    map_SE2_window = SE2(*(row[c] for c in ORIGIN))
    map = around(maps.read(row["map_id"]), map_SE2_window, REACH_M)
    if not len(map.of_kind("lane_centerline")):
        raise Unfit(f"the map has no lane within {REACH_M:.0f} m")
    return Scene(row, agents, map, map_SE2_window, lights)


def _chosen(scenarios: str, where: str | None, limit: int | None) -> tuple[list[str], list[str]]:
    """Ids of the scenarios that meet a condition, at most `limit`, in the table's order, and of their windows."""
    import duckdb

    tables.dataset(scenarios, "scenarios")  # says more than a missing view where there is none
    sql = f"SELECT scenario_id, window_id FROM scenarios WHERE {query.condition(where, '--where')}"
    with query.connect(storage.table_uri(scenarios, "scenarios"), sealed=True) as con:
        try:
            found = con.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"--where {where!r}: {reason}; expected an SQL condition over {', '.join(FACTS)}"
            ) from error
    n = len(found)
    if not n:
        raise ValueError(f"no scenario in {scenarios} meets --where {where!r}" if where else f"{scenarios} has no rows")
    found = found.take(np.linspace(0, n - 1, min(limit or n, n)).round().astype(np.int64))
    return found["scenario_id"].to_pylist(), found["window_id"].to_pylist()


def _rows(
    scenarios: str, ids: Sequence[str], signals: "_Signals"
) -> Iterator[tuple[dict[str, Any], Agents, WindowLights]]:
    """Flat columns, agents and signals of the scenarios, object by object."""
    dataset, wanted = tables.dataset(scenarios, "scenarios"), pc.field("scenario_id").isin(ids)
    for fragment in dataset.get_fragments():
        # By the table's schema: an object that was written before a column was has nulls there.
        table = fragment.to_table(schema=dataset.schema, columns=[*FACTS, "agents"], filter=wanted)
        for row, agents in zip(table.select(FACTS).to_pylist(), agents_from_arrow(table["agents"]), strict=True):
            yield row, agents, signals.of(row["window_id"])


class _Signals:
    """Signals of windows, held as Arrow."""

    def __init__(self, windows: str | None, window_ids: Sequence[str]) -> None:
        wanted = sorted(w for w in set(window_ids) if w)
        self._at: dict[str, int] = {}
        if windows and wanted and storage.objects(storage.table_uri(windows, "windows")):
            where = pc.field("window_id").isin(wanted)
            self._rows = tables.read(windows, "windows", ["window_id", "lights"], where)
            self._at = {w: i for i, w in enumerate(self._rows["window_id"].to_pylist())}

    def of(self, window_id: str | None) -> WindowLights:
        """Those of one window, none where it is not at hand."""
        row = self._rows["lights"][self._at[window_id]].as_py() if window_id in self._at else None
        if not row or not row["feature_id"]:
            none = np.zeros(0, np.float32)
            return WindowLights(np.zeros(0, np.str_), none, none, np.zeros((0, 0), np.int8))
        return WindowLights(
            feature_id=np.array(row["feature_id"], np.str_),
            x_m=np.array(row["x_m"], np.float32),
            y_m=np.array(row["y_m"], np.float32),
            state=np.array(row["state"], np.int8),
        )


class _Maps:
    """Maps by id, from the first place that has a table maps and the map in it; the last ones are kept."""

    def __init__(self, scenarios: str, windows: str | None) -> None:
        beside = {"scenarios": scenarios, "windows": windows}
        parents = [storage.table_uri(uri, table).rsplit("/", 1)[0] for table, uri in beside.items() if uri]
        self._places = " or ".join(parents)
        self._objects: dict[str, ds.Fragment] = {}
        for parent in parents:
            if storage.objects(storage.join(parent, "maps")):
                for fragment in tables.dataset(parent, "maps").get_fragments():
                    for map_id in fragment.to_table(columns=["map_id"])["map_id"].unique().to_pylist():
                        self._objects.setdefault(map_id, fragment)
        if not self._objects:
            raise tables.TableError(
                f"no table maps at {self._places}; give --windows, the table that lent the places, with maps beside it"
            )
        self.read = lru_cache(MAPS_KEPT)(self._read)

    def _read(self, map_id: str) -> VectorMap:
        """Raises Unfit where no place has the map."""
        if map_id not in self._objects:
            raise Unfit(f"its map is not in the table maps at {self._places}")
        return map_from_rows(self._objects[map_id].to_table(filter=pc.field("map_id") == map_id))
