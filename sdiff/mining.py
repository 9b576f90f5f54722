"""One object of the table windows to one object each of interactions and directives."""

import json
import logging
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import schemas
import sdiff
from sdiff import KINDS, STEP_S, storage, tables
from sdiff.columns import agents_from_arrow
from sdiff.directives.search import Maps, place_of
from sdiff.interactions import mined
from sdiff.interactions.along_way import AlongWay, Signals
from sdiff.interactions.detectors import Moment, find
from sdiff.scene import STEPS_PAST

MADE = ("directives", "interactions")
"""Tables that are written. The work on an object of windows is done where each has its object."""
PLAN = ".plan.json"
"""Suffix of what a run leaves beside its claim: the names of all objects that each table has when the run is done."""

LENT = ("window_id", "log_id", "map_id", "dataset", "region", "license", "split")
READ = (*LENT, "t0_us", "origin_x_m", "origin_y_m", "origin_heading_rad", "agents", "lights")

SEVERE = {
    "ttc < 1.5 s": ("min_ttc_s", -np.inf, 1.5),
    "pet < 1 s": ("min_pet_s", -np.inf, 1.0),
    "drac > 3.4 m/s2": ("max_drac_mps2", 3.4, np.inf),
}
"""What a count calls severe, by column and open interval: below 1.5 s to collision (as SSAM, FHWA-HRT-08-051),
below 1 s of post-encroachment time, and more than 3.4 m/s2 needed to avoid a crash (Archer 2005)."""

Row = dict[str, Any]

_log = logging.getLogger(__name__)


def versions() -> dict[str, Any]:
    """What decides the rows beside the windows themselves."""
    return {
        "code": sdiff.__version__,
        "schema_versions": {name: schemas.table_schema(name).version for name in ("windows", *MADE)},
    }


def map_objects(windows_uri: str) -> dict[str, str]:
    """The object of the table maps, beside the windows, that holds each map. Raises TableError where there is none."""
    parent = storage.table_uri(windows_uri, "windows").rsplit("/", 1)[0]
    found = storage.objects(storage.join(parent, "maps"))
    if not found:
        raise tables.TableError(f"no table maps at {storage.join(parent, 'maps')}; run sdiff ingest first")
    return {i: uri for uri in reversed(found) for i in _read(uri, ["map_id"])["map_id"].unique().to_pylist()}


def object_name(windows_object: str) -> str:
    """The name of what is mined from an object of windows, whose own name says what it holds."""
    return tables.fingerprint({"windows": windows_object.rsplit("/", 1)[-1], **versions()})


def write_plan(output: str, windows_objects: list[str]) -> None:
    """Say which objects a run over those of windows makes, before the first: so it is known when one is lost."""
    names = sorted(map(object_name, windows_objects))
    target = storage.join(output, "_mine", f"{tables.fingerprint(names)}{PLAN}")
    if not storage.exists(target):
        storage.write_bytes(target, json.dumps(names, indent=1).encode())


def planned(output: str) -> set[str]:
    """Names of the objects that each table of `MADE` has once all runs into `output` are done."""
    plans = storage.objects(storage.join(output, "_mine"), PLAN)
    return {f"{name}.parquet" for plan in plans for name in json.loads(storage.read_bytes(plan))}


def mine_object(windows_object: str, output: str, maps: Maps, objects: dict[str, str]) -> Counter[str]:
    """Write what an object of windows holds, unless it is there; returns counts.

    maps: lane graphs held from one call to the next. objects: of `map_objects`. Raises ValueError for a window whose
    map is not in the table.
    """
    name = object_name(windows_object)
    made_before = {table: storage.join(output, table, f"{name}.parquet") for table in MADE}
    if all(map(storage.exists, made_before.values())):
        return Counter({"objects_done_before": 1}) + _counts(_read(made_before["interactions"], None).to_pylist(), 0)
    rows = _read(windows_object, list(READ))
    found: dict[str, list[Row]] = {table: [] for table in MADE}
    windows = zip(rows.drop_columns(["agents"]).to_pylist(), agents_from_arrow(rows["agents"]), strict=True)
    for row, agents in windows:
        if row["map_id"] not in objects:
            raise ValueError(
                f"{windows_object}: window {row['window_id']}: no map {row['map_id']} in the table maps beside it"
            )
        place = place_of(row, lambda row=row: maps.graph(row["map_id"], objects[row["map_id"]]))  # type: ignore[misc]
        _mine(AlongWay(agents, place, signals_of(row["lights"])), row, found)
    for table in MADE:
        schema = schemas.arrow_schema(table)
        columns = {f.name: [r[f.name] for r in found[table]] for f in schema}
        arrays = [pa.array(columns[f.name], f.type, from_pandas=True) for f in schema]  # NaN becomes null
        made = pa.Table.from_arrays(arrays, schema=schema)
        tables.write(made, table, output, name)
    counts = _counts(made.to_pylist(), len(rows))
    _log.info("%s: %d windows, %d interactions", windows_object, len(rows), counts["interactions"])
    return counts + Counter({"objects": 1, "directives": len(found["directives"])})


def signals_of(row: Row) -> Signals:
    """The signals of one value of the column `lights` of windows."""
    n = len(row["x_m"])
    state = np.asarray(row["state"], np.int8).reshape(n, -1) if n else np.zeros((0, 1), np.int8)
    return Signals(np.asarray(row["feature_id"], str), np.asarray(row["x_m"]), np.asarray(row["y_m"]), state)


def _mine(window: AlongWay, row: Row, found: dict[str, list[Row]]) -> None:
    moments = find(window)
    if not moments:
        return
    lent = {name: row[name] for name in LENT}
    along = mined.lines(window)
    for moment in moments:
        what = interaction_row(window, moment, row) | lent
        found["interactions"].append(what)
        name = f"{moment.kind}-{tables.fingerprint(what['interaction_id'])}"
        text = mined.directive_text(window, moment, name, along)
        if text is not None:
            found["directives"].append(
                what | {"name": name, "directive": text, "lane_relative": "heading_rad:" not in text}
            )


def interaction_row(window: AlongWay, moment: Moment, row: Row) -> Row:
    """The columns of `interactions` that are the interaction's own; NaN where the schema says null."""
    a, (kind, i, j, step) = window.agents, moment
    near, after = window.approach, window.encroachment.pet_s
    t_s = (step - STEPS_PAST) * STEP_S
    return {
        "interaction_id": f"{row['window_id']}/{kind}/{a.agent_id[i]}/{a.agent_id[j]}",
        "kind": kind,
        "actor_id": str(a.agent_id[i]),
        "other_id": str(a.agent_id[j]),
        "ego_is_actor": bool(a.is_ego[i]),
        "actor_kind": KINDS[a.kind[i]],
        "other_kind": KINDS[a.kind[j]],
        "t_s": t_s,
        "t_us": row["t0_us"] + round(1e6 * t_s),
        "actor_speed_mps": float(window.speed_mps[i, step]),
        "other_speed_mps": float(window.speed_mps[j, step]) if a.valid[j, step] else float("nan"),
        "min_ttc_s": _finite(near.min_ttc_s[i, j]),
        "min_pet_s": _finite(min(after[i, j], after[j, i])),
        "max_drac_mps2": float(near.max_drac_mps2[i, j]) or float("nan"),
        "min_distance_m": _finite(near.min_distance_m[i, j]),
    }


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else float("nan")


def _counts(rows: list[Row], n_windows: int) -> Counter[str]:
    """Interactions by kind, and how many of each are severe by which measure."""
    counts = Counter({"windows": n_windows, "interactions": len(rows)})
    for row in rows:
        counts[f"{row['kind']}: found"] += 1
        for name, (column, low, high) in SEVERE.items():
            value = np.nan if row[column] is None else row[column]
            counts[f"{row['kind']}: {name}"] += bool(low < value < high)
    return counts


def _read(uri: str, columns: list[str] | None) -> pa.Table:
    fs, path = storage.filesystem(uri)
    return pq.read_table(path, columns=columns, filesystem=fs)
