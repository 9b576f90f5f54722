"""Generated scenarios beside the logs' own windows at the same places, and beside pasted logs."""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.dataset as ds
from rich.table import Table

from sdiff import storage, tables
from sdiff.baselines import PastedLogs
from sdiff.columns import agents_from_arrow, tokens_from_arrow
from sdiff.geometry import SE2
from sdiff.metrics import report
from sdiff.metrics.map_fit import LaneSegments
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, STEPS_FUTURE, STEPS_PAST, Agents

COLUMNS = {"generated": "generated", "logs": "logs", "paste": "random-log paste"}
"""What stands side by side in the report, and its headings."""

PLACES_AT_ONCE = 1024
"""Places held in memory at a time; each takes about 0.1 MB."""
PASTED_WINDOWS = 512
"""Windows that the paste baseline draws from."""
_ROWS_AT_ONCE = 64


def run(
    scenarios: str, windows: str, output: str | None = None, seed: int = 0, limit: int | None = None
) -> dict[str, Any]:
    """Measure scenarios against the windows that lent their places, with the logs and pasted logs beside them.

    scenarios, windows: tables or their parents; the table maps lies beside windows. output: folder that
    evaluation.json goes to. seed: for the paste baseline, the halves of logs, and the choice that `limit` makes.
    limit: measure that many scenarios, drawn at random.
    The logs' and the paste's measures count once per scenario of their place; the MMD of the logs is that between
    random halves of each scene. Raises tables.TableError where a table is missing or no scenario has its window.
    """
    windows = storage.table_uri(windows, "windows")
    places, skipped = _choose(scenarios, windows, seed, limit)
    paste, source = _pasted_logs(windows, seed)
    tallies = {column: report.Tally() for column in COLUMNS}
    wanted = sorted(set(places.values()))
    for first in range(0, len(wanted), PLACES_AT_ONCE):
        _measure(scenarios, windows, wanted[first : first + PLACES_AT_ONCE], set(places), paste, seed, tallies)
    result: dict[str, Any] = {
        "scenarios": scenarios,
        "windows": windows,
        "seed": seed,
        "n_scenarios": len(places),
        "n_places": len(wanted),
        "skipped": skipped,
        "pasted_from": {"split": source, "windows": len(paste.scenes)},
        "columns": {column: tally.result() for column, tally in tallies.items()},
    }
    if output is not None:
        result["output"] = storage.join(output, "evaluation.json")
        storage.write_bytes(result["output"], orjson.dumps(result, option=orjson.OPT_INDENT_2))
    return result


def table(result: dict[str, Any]) -> Table:
    """The result of `run` for a terminal."""
    title = f"{result['n_scenarios']} scenarios at {result['n_places']} places"
    shown = Table("measure", "unit", *COLUMNS.values(), title=title)
    for column in shown.columns[2:]:
        column.justify = "right"
    for measure in report.MEASURES:
        values = [result["columns"][column][measure.key] for column in COLUMNS]
        if any(values) or not measure.key.startswith("agents."):  # kinds that nobody has stay out
            shown.add_row(measure.label, measure.unit, *("–" if v is None else f"{v:.3f}" for v in values))
    return shown


def _choose(scenarios: str, windows: str, seed: int, limit: int | None) -> tuple[dict[str, str], dict[str, int]]:
    """Window of each scenario to measure, by scenario id, and why others are left out."""
    asked = tables.read(scenarios, "scenarios", ["scenario_id", "window_id"])
    if not len(asked):
        raise tables.TableError(f"table scenarios at {scenarios} has no rows; generate some first")
    known = set(tables.read(windows, "windows", ["window_id"])["window_id"].to_pylist())
    pairs = list(zip(asked["scenario_id"].to_pylist(), asked["window_id"].to_pylist(), strict=True))
    found = sorted((s, w) for s, w in pairs if w in known)
    if not found:
        example = next((w for _, w in pairs if w is not None), None)
        raise tables.TableError(
            f"none of the {len(pairs)} scenarios at {scenarios} has its window in {windows} (for instance {example}); "
            "pass the windows table that the scenarios were generated from"
        )
    skipped = {
        "place on a bare map": sum(w is None for _, w in pairs),
        "window not in the table": sum(w is not None and w not in known for _, w in pairs),
    }
    if limit is not None and limit < len(found):
        drawn = np.random.default_rng(seed).choice(len(found), limit, replace=False)
        found = [found[i] for i in sorted(drawn)]
    return dict(found), skipped


def _pasted_logs(windows: str, seed: int) -> tuple[PastedLogs, str]:
    """Agents of random training windows; of any windows where the table has no training split."""
    ids = tables.read(windows, "windows", ["window_id", "split"])
    every, split = (np.array(ids[c].to_pylist()) for c in ("window_id", "split"))
    pool, source = (every[split == "train"], "train") if (split == "train").any() else (every, "all")
    drawn = np.random.default_rng(seed).choice(np.sort(pool), min(PASTED_WINDOWS, len(pool)), replace=False)
    scenes: dict[str, tuple[Agents, str]] = {}
    for rows in _batches(windows, "windows", ["window_id", "log_id", "agents"], "window_id", drawn.tolist()):
        agents = map(_first_41_steps, agents_from_arrow(rows["agents"]))
        kept = zip(agents, rows["log_id"].to_pylist(), strict=True)
        scenes.update(zip(rows["window_id"].to_pylist(), kept, strict=True))
    ordered = [scenes[w] for w in sorted(scenes)]
    return PastedLogs([a for a, _ in ordered], [log for _, log in ordered]), source


def _measure(
    scenarios: str,
    windows: str,
    window_ids: list[str],
    chosen: set[str],
    paste: PastedLogs,
    seed: int,
    tallies: dict[str, report.Tally],
) -> None:
    """Add the chosen scenarios of some places, and the places themselves, to the tallies."""
    places = _places(windows, window_ids)
    rng = {w: np.random.default_rng([seed, zlib.crc32(w.encode())]) for w in window_ids}
    pasted = {w: paste.sample(place.log_id, rng[w]) for w, place in places.items()}
    count: Counter[str] = Counter()
    columns = ["scenario_id", "window_id", "agents", "tokens"]
    for rows in _batches(scenarios, "scenarios", columns, "window_id", window_ids):
        scenes = zip(agents_from_arrow(rows["agents"]), tokens_from_arrow(rows["tokens"]), strict=True)
        names = zip(rows["scenario_id"].to_pylist(), rows["window_id"].to_pylist(), strict=True)
        for (scenario_id, window_id), (agents, tokens) in zip(names, scenes, strict=True):
            if scenario_id not in chosen:
                continue
            place, count[window_id] = places[window_id], count[window_id] + 1
            tallies["generated"].add(report.scene_values(agents, place))
            tallies["generated"].add(report.distance_values(agents, place.agents))
            tallies["generated"].add(report.token_values(tokens, agents))
            tallies["logs"].add(report.token_values(tokens, place.agents))
            if (other := pasted[window_id]) is not None:
                tallies["paste"].add(report.token_values(tokens, other))
    for window_id, n in sorted(count.items()):
        place = places[window_id]
        tallies["logs"].add(report.scene_values(place.agents, place), n)
        tallies["logs"].add(report.split_distance_values(place.agents, rng[window_id]), n)
        if (other := pasted[window_id]) is not None:
            tallies["paste"].add(report.scene_values(other, place), n)
            tallies["paste"].add(report.distance_values(other, place.agents), n)


def _places(windows: str, window_ids: list[str]) -> dict[str, report.Place]:
    """What the windows table and the maps beside it say about some places."""
    found: dict[str, report.Place] = {}
    on_map: dict[str, dict[str, SE2]] = {}
    origin = ["origin_x_m", "origin_y_m", "origin_heading_rad"]
    columns = ["window_id", "log_id", "map_id", "map_bev", "agents", *origin]
    channel = MAP_CHANNELS.index("drivable_area")
    for rows in _batches(windows, "windows", columns, "window_id", window_ids):
        scenes = map(_first_41_steps, agents_from_arrow(rows["agents"]))
        for agents, row in zip(scenes, rows.drop_columns(["agents"]).to_pylist(), strict=True):
            bev = np.frombuffer(row["map_bev"], np.uint8).reshape(len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS)
            window_id, no_lanes = row["window_id"], LaneSegments.join([])
            found[window_id] = report.Place(window_id, row["log_id"], agents, bev[channel] > 0, no_lanes)
            on_map.setdefault(row["map_id"], {})[window_id] = SE2(*(row[c] for c in origin))
    lanes: dict[str, list[LaneSegments]] = {window_id: [] for window_id in found}
    for map_id, part in _lanes(windows, sorted(on_map)):
        for window_id, map_SE2_window in on_map[map_id].items():
            lanes[window_id].append(part.window(map_SE2_window))
    return {w: replace(place, lanes=LaneSegments.join(lanes[w])) for w, place in found.items()}


def _lanes(windows: str, map_ids: list[str]) -> Iterator[tuple[str, LaneSegments]]:
    """Lanes that vehicles drive on, some lanes of one map at a time, map frame."""
    beside = windows.rpartition("/")[0] or "."
    columns = ["map_id", "kind", "lane_type", "x_m", "y_m", "width_m"]
    for rows in _batches(beside, "maps", columns, "map_id", map_ids, rows_at_once=4096):
        rows = rows.filter(
            (ds.field("kind") == "lane_centerline") & ~ds.field("lane_type").isin(["bike", "pedestrian"])
        )
        for map_id in sorted(set(rows["map_id"].to_pylist())):
            part = rows.filter(ds.field("map_id") == map_id).combine_chunks()
            x, y = (part[c].combine_chunks() for c in ("x_m", "y_m"))
            start = np.cumsum([0, *x.value_lengths().to_pylist()])
            xy_m = np.stack([x.flatten().to_numpy(), y.flatten().to_numpy()], -1)
            yield map_id, LaneSegments.from_polylines(start, xy_m, part["width_m"].to_numpy().astype(np.float64))


def _batches(
    uri: str, name: str, columns: list[str], key: str, wanted: list[str], rows_at_once: int = _ROWS_AT_ONCE
) -> Iterator[pa.Table]:
    """Rows whose `key` is among `wanted`, a few at a time, in the table's order."""
    batches = tables.dataset(uri, name).to_batches(
        columns=columns, filter=ds.field(key).isin(wanted), batch_size=rows_at_once, batch_readahead=1
    )
    return (pa.Table.from_batches([batch]) for batch in batches if len(batch))


def _first_41_steps(agents: Agents) -> Agents:
    """A window may hold a longer future than scenarios have."""
    steps = STEPS_PAST + 1 + STEPS_FUTURE
    values = {f.name: getattr(agents, f.name) for f in fields(agents)}
    return Agents(**{k: v[:, :steps] if v is not None and v.ndim == 2 else v for k, v in values.items()})
