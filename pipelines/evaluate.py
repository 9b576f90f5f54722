"""Generated scenarios beside the logs' own windows at the same places, and between both ends of the scale.

The better end is another draw of the same traffic: the same place of the same map at another time. The worse end are
agents put down naively: at random along the lanes, pasted from a random log, replayed from the log that looks alike.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from rich import box
from rich.table import Table

from sdiff import storage, tables
from sdiff.baselines import TrainingScenes, Visits, along_lanes, layout, seen_from
from sdiff.columns import agents_from_arrow, tokens_from_arrow
from sdiff.geometry import SE2
from sdiff.metrics.map_fit import LaneSegments
from sdiff.metrics.measures import (
    MEASURES,
    Place,
    distance_values,
    found_values,
    scene_values,
    token_values,
    unlike_values,
)
from sdiff.metrics.tally import Tally, ways_left
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, STEPS_FUTURE, STEPS_PAST, Agents, AgentTokens

COLUMNS = {
    "generated": "generated",
    "logs": "logs",
    "again": "logs\nagain",
    "lanes": "along\nlanes",
    "paste": "pasted\nlog",
    "replay": "nearest\nlog",
}
"""What stands side by side in the report, and its headings."""

PLACES_AT_ONCE = 512
"""Places held in memory at a time; each takes about 0.2 MB."""
TRAINING_OBJECTS, TRAINING_WINDOWS = 64, 1024
"""Objects that the baselines' windows are read from, and how many windows."""
DRAWS_LOOKED_AT = 8
"""Of the windows at a place at other times, those nearest to it, until one has the same signals."""
ALIKE_COMPARED = 8
"""Scenarios of one directive and place that are compared with each other, at most."""
_ROWS_AT_ONCE = 64
_ORIGIN = ("origin_x_m", "origin_y_m", "origin_heading_rad")
_FOUND = ("n_found", "found_collision_t0", "found_collision")
_LANE_USERS = {"bike": "cyclist", "pedestrian": "pedestrian"}


@dataclass
class _Tallies:
    """Of all places by column; and, where there is another draw, of the three that the way is measured between."""

    columns: dict[str, Tally] = field(default_factory=lambda: {column: Tally() for column in COLUMNS})
    between: dict[str, Tally] = field(default_factory=lambda: {c: Tally() for c in ("generated", "again", "lanes")})


def run(
    scenarios: str, windows: str, output: str | None = None, seed: int = 0, limit: int | None = None
) -> dict[str, Any]:
    """Measure scenarios against the windows that lent their places, with the logs and naive agents beside them.

    scenarios, windows: tables or their parents; the table maps lies beside windows. output: folder that
    evaluation.json goes to. seed: for the baselines and the choice that `limit` makes. limit: measure that many
    scenarios, drawn at random. All columns but the generated one count once per scenario of their place.
    Raises tables.TableError where a table is missing or no scenario has its window.
    """
    windows = storage.table_uri(windows, "windows")
    places, skipped = _choose(scenarios, windows, seed, limit)
    training, source = _training_scenes(windows, seed)
    wanted = sorted(set(places.values()))
    again, n_again = _again(windows, wanted), 0
    tallies = _Tallies()
    for first in range(0, len(wanted), PLACES_AT_ONCE):
        chunk = wanted[first : first + PLACES_AT_ONCE]
        found = _places(windows, chunk)
        draws = _draws(windows, found, again)
        n_again += len(draws)
        _measure(scenarios, found, draws, set(places), training, seed, tallies)
    logs = tallies.columns["logs"]
    ways = ways_left(*tallies.between.values())
    result: dict[str, Any] = {
        "scenarios": scenarios,
        "windows": windows,
        "seed": seed,
        "n_scenarios": len(places),
        "n_places": len(wanted),
        "n_places_again": n_again,
        "skipped": skipped,
        "baselines_from": {"split": source, "windows": len(training.scenes)},
        "columns": {column: tally.result(logs) for column, tally in tallies.columns.items()},
        "intervals": {column: tally.intervals() for column, tally in tallies.columns.items()},
        "way_left": {key: way._asdict() for key, way in ways.items()},
        "regions": {
            region: {column: tally.result(logs, region) for column, tally in tallies.columns.items()}
            for region in logs.regions
        },
    }
    if output is not None:
        result["output"] = storage.join(output, "evaluation.json")
        storage.write_bytes(result["output"], orjson.dumps(result, option=orjson.OPT_INDENT_2))
    return result


def table(result: dict[str, Any]) -> Table:
    """The result of `run` for a terminal."""
    title = f"{result['n_scenarios']} scenarios at {result['n_places']} places"
    notes = ["±: half the 95 % interval over logs."]
    columns = dict(COLUMNS)
    if result["n_places_again"]:
        notes.append(f"logs again: at another time, with the same signals ({result['n_places_again']} places).")
        notes.append("way left: of the way from along lanes to there; blank where the two do not differ for sure.")
    else:
        del columns["again"]
    shown = Table("measure", title=title, caption=" ".join(notes), box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (columns.pop("generated"), "±", *columns.values(), *["way\nleft"] * bool(result["way_left"])):
        shown.add_column(heading, justify="right", no_wrap=True)
    for measure in MEASURES:
        values = [result["columns"][column][measure.key] for column in COLUMNS]
        if measure.label.startswith("  ") and not any(values):  # kinds that nobody has stay out
            continue
        interval = result["intervals"]["generated"].get(measure.key)
        way = result["way_left"].get(measure.key)
        shown.add_row(
            f"{measure.label} ({measure.unit})" if measure.unit else measure.label,
            _number(values[0]),
            _number((interval[1] - interval[0]) / 2 if interval else None),
            *(_number(result["columns"][column][measure.key]) for column in columns),
            *[_number(way["left"], 2) if way else ""] * bool(result["way_left"]),
        )
    return shown


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _choose(scenarios: str, windows: str, seed: int, limit: int | None) -> tuple[dict[str, str], dict[str, int]]:
    """Window of each scenario to measure, by scenario id, and why others are left out."""
    asked = tables.read(scenarios, "scenarios", ["scenario_id", "window_id"])
    if not len(asked):
        raise tables.TableError(f"table scenarios at {scenarios} has no rows; generate some first")
    known = set(tables.read(windows, "windows", ["window_id"])["window_id"].to_pylist())
    pairs = list(zip(asked["scenario_id"].to_pylist(), asked["window_id"].to_pylist(), strict=True))
    found = sorted((s, w) for s, w in pairs if w in known)
    if not found:
        if all(w is None for _, w in pairs):
            raise tables.TableError(
                f"the {len(pairs)} scenarios at {scenarios} are at places on bare maps: no log to measure them "
                "beside; give scenarios at places of windows"
            )
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


def _training_scenes(windows: str, seed: int) -> tuple[TrainingScenes, str]:
    """Random training windows of random objects of the table; any windows where it has no training split."""
    rng = np.random.default_rng(seed)
    splits: list[str] = []
    found: list[tuple[Agents, str, Any]] = []
    objects = storage.objects(windows)
    for uri in (objects[i] for i in sorted(rng.permutation(len(objects))[:TRAINING_OBJECTS])):
        fs, path = storage.filesystem(uri)
        rows = pq.read_table(path, filesystem=fs, columns=["log_id", "split", "agents", "map_bev"])
        drawn = np.sort(rng.permutation(len(rows))[: -(-TRAINING_WINDOWS // min(len(objects), TRAINING_OBJECTS))])
        rows = rows.take(drawn).combine_chunks()
        scenes = map(_first_41_steps, agents_from_arrow(rows["agents"]))
        places = (layout(_bev(blob)) for blob in rows["map_bev"].to_pylist())
        splits += rows["split"].to_pylist()
        found += zip(scenes, rows["log_id"].to_pylist(), places, strict=True)
    source = "train" if "train" in splits else "all"
    kept = [scene for scene, split in zip(found, splits, strict=True) if source in ("all", split)]
    agents, logs, layouts = zip(*kept, strict=True)
    return TrainingScenes(agents, logs, np.stack(layouts)), source


def _again(windows: str, window_ids: list[str]) -> dict[str, list[str]]:
    """For each place the windows there at other times, nearest first."""
    rows = tables.read(windows, "windows", ["window_id", "map_id", "log_id", "t0_us", *_ORIGIN])
    ids = np.array(rows["window_id"].to_pylist())
    visits = Visits(
        np.array(rows["map_id"].to_pylist()),
        np.array(rows["log_id"].to_pylist()),
        np.stack([rows[c].to_numpy() for c in _ORIGIN], -1),
        rows["t0_us"].to_numpy() / 1e6,
    )
    asked = np.flatnonzero(np.isin(ids, window_ids))
    found = visits.again(asked)
    return {str(ids[i]): ids[others[:DRAWS_LOOKED_AT]].tolist() for i, others in zip(asked, found, strict=True)}


@dataclass(frozen=True)
class _Here:
    """A place with what only the evaluation needs of it: its layout, its pose, its signals at t0 by lane."""

    place: Place
    layout: Any
    map_SE2_window: SE2
    signals: dict[str, int]


def _places(windows: str, window_ids: list[str]) -> dict[str, _Here]:
    """What the windows table and the maps beside it say about some places."""
    found: dict[str, _Here] = {}
    on_map: dict[str, dict[str, SE2]] = {}
    columns = ["window_id", "log_id", "map_id", "region", "map_bev", "agents", "lights", *_ORIGIN]
    channel = MAP_CHANNELS.index("drivable_area")
    for rows in _batches(windows, "windows", columns, "window_id", window_ids):
        scenes = map(_first_41_steps, agents_from_arrow(rows["agents"]))
        for agents, row in zip(scenes, rows.drop_columns(["agents"]).to_pylist(), strict=True):
            bev, pose = _bev(row["map_bev"]), SE2(*(row[c] for c in _ORIGIN))
            place = Place(row["window_id"], row["log_id"], row["region"], agents, bev[channel] > 0, {})
            found[place.window_id] = _Here(place, layout(bev), pose, _signals(row["lights"]))
            on_map.setdefault(row["map_id"], {})[place.window_id] = pose
    lanes: dict[str, dict[str, list[LaneSegments]]] = {w: defaultdict(list) for w in found}
    for map_id, user, part in _lanes(windows, sorted(on_map)):
        for window_id, map_SE2_window in on_map[map_id].items():
            lanes[window_id][user].append(part.window(map_SE2_window))
    users = ("vehicle", *_LANE_USERS.values())
    return {
        w: replace(here, place=replace(here.place, lanes={u: LaneSegments.join(lanes[w][u]) for u in users}))
        for w, here in found.items()
    }


def _draws(windows: str, here: dict[str, _Here], again: dict[str, list[str]]) -> dict[str, Agents]:
    """The agents of the nearest other draw of each place whose signals were the same at t0, in the place's frame."""
    asked = sorted({other for w in here for other in again[w]})
    found: dict[str, tuple[Agents, SE2, dict[str, int]]] = {}
    for rows in _batches(windows, "windows", ["window_id", "agents", "lights", *_ORIGIN], "window_id", asked):
        scenes = map(_first_41_steps, agents_from_arrow(rows["agents"]))
        for agents, row in zip(scenes, rows.drop_columns(["agents"]).to_pylist(), strict=True):
            found[row["window_id"]] = agents, SE2(*(row[c] for c in _ORIGIN)), _signals(row["lights"])
    out = {}
    for window_id, place in here.items():
        window_SE2_map = place.map_SE2_window.inverse()
        for agents, map_SE2_other, signals in (found[other] for other in again[window_id]):
            if all(place.signals[lane] == state for lane, state in signals.items() if lane in place.signals):
                out[window_id] = seen_from(agents, window_SE2_map.after(map_SE2_other))
                break
    return out


def _measure(
    scenarios: str,
    here: dict[str, _Here],
    draws: dict[str, Agents],
    chosen: set[str],
    training: TrainingScenes,
    seed: int,
    tallies: _Tallies,
) -> None:
    """Add the chosen scenarios of some places, and the places themselves, to the tallies."""
    rng = {w: np.random.default_rng([seed, zlib.crc32(w.encode())]) for w in here}
    others: dict[str, dict[str, Agents | None]] = {}
    for w, at in here.items():
        pasted = training.any(at.place.log_id, rng[w])
        others[w] = {
            "again": draws.get(w),
            "lanes": None if pasted is None else along_lanes(pasted, at.place.lanes, rng[w]),
            "paste": pasted,
            "replay": training.nearest(at.place.log_id, at.layout),
        }
    count: Counter[str] = Counter()
    of_directive: defaultdict[tuple[str, str], list[Agents]] = defaultdict(list)
    columns = ["scenario_id", "window_id", "directive", "agents", "tokens", *_FOUND]
    for rows in _batches(scenarios, "scenarios", columns, "window_id", sorted(here)):
        scenes = zip(agents_from_arrow(rows["agents"]), tokens_from_arrow(rows["tokens"]), strict=True)
        names = (rows[c].to_pylist() for c in ("scenario_id", "window_id", "directive"))
        found = zip(*(rows[c].to_pylist() for c in _FOUND), strict=True)
        for scenario_id, window_id, directive, boxes, (agents, tokens) in zip(*names, found, scenes, strict=True):
            if scenario_id not in chosen:
                continue
            place, count[window_id] = here[window_id].place, count[window_id] + 1
            values = scene_values(agents, place) | distance_values(agents, place.agents)
            tallies.columns["generated"].add(values | token_values(tokens, agents) | found_values(*boxes), place)
            if others[window_id]["again"] is not None:
                tallies.between["generated"].add(values, place)
            _add_tokens(tallies, tokens, place, others[window_id])
            alike = of_directive[window_id, directive]
            if len(alike) < ALIKE_COMPARED:
                for other in alike:
                    tallies.columns["generated"].add(unlike_values(agents, other), place)
                alike.append(agents)
    for window_id, n in sorted(count.items()):
        place = here[window_id].place
        tallies.columns["logs"].add(scene_values(place.agents, place), place, n)
        for column, scene in others[window_id].items():
            if scene is None:
                continue
            values = scene_values(scene, place) | distance_values(scene, place.agents)
            tallies.columns[column].add(values | unlike_values(scene, place.agents), place, n)
            if column in tallies.between and others[window_id]["again"] is not None:
                tallies.between[column].add(values, place, n)


def _add_tokens(tallies: _Tallies, tokens: AgentTokens, place: Place, others: dict[str, Agents | None]) -> None:
    """How well those fulfil a scenario's tokens that were not asked to."""
    tallies.columns["logs"].add(token_values(tokens, place.agents), place)
    for column, scene in others.items():
        if scene is not None:
            tallies.columns[column].add(token_values(tokens, scene), place)


def _bev(blob: bytes) -> Any:
    return np.frombuffer(blob, np.uint8).reshape(len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS)


def _signals(lights: dict[str, Any]) -> dict[str, int]:
    """State at t0 by lane."""
    return {lane: states[STEPS_PAST] for lane, states in zip(lights["feature_id"], lights["state"], strict=True)}


def _lanes(windows: str, map_ids: list[str]) -> Iterator[tuple[str, str, LaneSegments]]:
    """Map, who uses them, and lanes: some lanes of one map at a time, map frame."""
    beside = windows.rpartition("/")[0] or "."
    columns = ["map_id", "kind", "lane_type", "x_m", "y_m", "width_m"]
    for rows in _batches(beside, "maps", columns, "map_id", map_ids, rows_at_once=4096):
        rows = rows.filter(ds.field("kind") == "lane_centerline").combine_chunks()
        of_map = np.array(rows["map_id"].to_pylist(), np.str_)
        user = np.array([_LANE_USERS.get(t, "vehicle") for t in rows["lane_type"].to_pylist()], np.str_)
        for map_id, who in sorted(set(zip(of_map.tolist(), user.tolist(), strict=True))):
            part = rows.filter(pa.array((of_map == map_id) & (user == who))).combine_chunks()
            x, y = (part[c].combine_chunks() for c in ("x_m", "y_m"))
            start = np.cumsum([0, *x.value_lengths().to_pylist()])
            xy_m = np.stack([x.flatten().to_numpy(), y.flatten().to_numpy()], -1)
            yield map_id, who, LaneSegments.from_polylines(start, xy_m, part["width_m"].to_numpy().astype(np.float64))


def _batches(
    uri: str, name: str, columns: list[str], key: str, wanted: list[str], rows_at_once: int = _ROWS_AT_ONCE
) -> Iterator[pa.Table]:
    """Rows whose `key` is among `wanted`, a few at a time, in the table's order."""
    batches = tables.dataset(uri, name).to_batches(
        columns=columns,
        filter=ds.field(key).isin(pa.array(wanted, pa.string())),
        batch_size=rows_at_once,
        batch_readahead=1,
    )
    return (pa.Table.from_batches([batch]) for batch in batches if len(batch))


def _first_41_steps(agents: Agents) -> Agents:
    """A window may hold a longer future than scenarios have."""
    steps = STEPS_PAST + 1 + STEPS_FUTURE
    values = {f.name: getattr(agents, f.name) for f in fields(agents)}
    return Agents(**{k: v[:, :steps] if v is not None and v.ndim == 2 else v for k, v in values.items()})
