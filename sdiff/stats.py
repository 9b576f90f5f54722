"""What tables of windows hold: counts and distributions, of columns other than the images.

Everything is counted by DuckDB in whole steps (1 cm/s, 1 cm, one agent): counts of any number of windows take no
more memory than counts of a few, and two readings of one table are equal to the last digit.
"""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import duckdb

from sdiff import KINDS, query, storage
from sdiff.ingestion import DONE, REPAIRED
from sdiff.logs.driving_log import LANE_TYPES
from sdiff.scene import STEPS_FUTURE, STEPS_PAST

TABLES = ("windows", "agent_tokens", "maps", "dead_letters")
"""What is counted; any of them may be missing."""
STEPS = STEPS_PAST + 1 + STEPS_FUTURE
STANDS_MPS = 0.5
"""An agent slower than this stands."""
SHARES = (
    *("share", "standing", "complete", "with gaps", "around the AV", "with signals", "with limit", "computed"),
    *("size known", "repaired", "vehicles on the road"),
)
"""Columns of results that hold shares, 0 to 1."""
AT_ONCE = 16
"""Markers that are read side by side."""

_SOURCES = """
    SELECT dataset, license, region, split, log_id, map_id, count(*), sum(n_agents)::BIGINT, count_if(ego_is_recorder),
        count_if(len(lights.feature_id) > 0)
    FROM windows GROUP BY ALL"""
_AGENTS_PER_WINDOW = "SELECT dataset, n_agents, count(*) FROM windows GROUP BY ALL"
_TRACKS = """
    SELECT dataset, kind, list_count(list_filter(valid, lambda v: v)) AS seen,
        len(valid) + 2 - list_position(list_reverse(valid), true) - list_position(valid, true) - seen > 0 AS gaps,
        count(*)
    FROM (SELECT dataset, unnest(agents.kind) AS kind, unnest(agents.valid) AS valid FROM windows) GROUP BY ALL"""
_SPEEDS = """
    SELECT kind, floor(speed_mps * 100)::INT, count(*) FROM agent_tokens WHERE speed_mps IS NOT NULL GROUP BY ALL"""
_SIZES = """
    SELECT kind, round(m * 100)::INT, count(*)
    FROM (SELECT unnest(agents.kind) AS kind, unnest(agents.{side}) AS m FROM windows) GROUP BY ALL"""
_QUALITY = """
    SELECT dataset, kind IN ('pedestrian', 'cyclist', 'other') AS off_road, count(known), count_if(known),
        count_if(repaired), count_if(on_area)
    FROM (SELECT dataset, unnest(agents.kind) AS kind, unnest(agents.size_known) AS known,
        unnest(agents.repaired) AS repaired, unnest(agents.on_drivable_area) AS on_area FROM windows) GROUP BY ALL"""
_MAPS = """
    SELECT map_id, kind, lane_type, derived, links_derived, count(*), count_if(speed_limit_mps IS NOT NULL),
        sum(round(1000 * list_sum(list_transform(range(2, len(x_m) + 1),
            lambda i: sqrt((x_m[i] - x_m[i - 1]) ** 2 + (y_m[i] - y_m[i - 1]) ** 2))))::BIGINT)::BIGINT
    FROM maps GROUP BY ALL"""
_DEAD_LETTERS = """
    SELECT stage, regexp_replace(regexp_replace(why, '( /[^ ;]*)+', ' /...', 'g'), '[0-9]+', '#', 'g'), source, count(*)
    FROM (SELECT *, replace(reason, source, 'source') AS why FROM dead_letters) GROUP BY ALL"""


@dataclass
class Histogram:
    """Counts of values in whole steps: key k counts those of about k * step."""

    step: float = 1.0
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """How many values."""
        return self.counts.total()

    def quantile(self, share: float) -> float | None:
        """The least value that `share` of all do not exceed, to within a step; None where there is none."""
        left = share * self.total
        for key in sorted(self.counts):
            left -= self.counts[key]
            if left <= 1e-9:
                return round(key * self.step, 6)
        return None

    def share_below(self, value: float) -> float | None:
        """Share of the values below a multiple of the step."""
        below = sum(n for key, n in self.counts.items() if key < round(value / self.step))
        return below / self.total if self.total else None

    def at_least(self, value: float) -> "Histogram":
        """The values from a multiple of the step on."""
        least = round(value / self.step)
        return Histogram(self.step, Counter({key: n for key, n in self.counts.items() if key >= least}))


@dataclass
class Source:
    """Windows of one data set, licence, region and split. logs, maps: their ids."""

    dataset: str
    license: str
    region: str
    split: str
    windows: int = 0
    agents: int = 0
    around_recorder: int = 0
    with_signals: int = 0
    logs: set[str] = field(default_factory=set)
    maps: set[str] = field(default_factory=set)


@dataclass
class Features:
    """Map features alike. dataset: whose windows show the maps, empty where none does. limited: with a speed limit."""

    dataset: str
    kind: str
    lane_type: str
    derived: bool
    links_derived: bool
    count: int = 0
    limited: int = 0
    length_mm: int = 0
    maps: set[str] = field(default_factory=set)


@dataclass
class Quality:
    """Agents of a data set that say how good they are. vehicles: those that belong on the drivable area."""

    agents: int = 0
    size_known: int = 0
    repaired: int = 0
    vehicles: int = 0
    vehicles_on_area: int = 0


@dataclass(frozen=True)
class DeadLetters:
    """Dead letters alike, but for numbers and folders in the reason. example: the last parts of one source's URI."""

    stage: str
    reason: str
    count: int
    sources: int
    example: str


@dataclass(frozen=True)
class Stats:
    """What the tables under one parent hold.

    agents_per_window: by data set. seen: steps at which each agent is observed, by data set and kind; gaps: how many of
    them are lost and found again. speed_mps, length_m, width_m: by kind, at t0. size_bytes: of the objects of windows.
    options: those of ingest. ingested: the counts of all finished slices.
    """

    sources: list[Source]
    agents_per_window: dict[str, Histogram]
    seen: dict[tuple[str, str], Histogram]
    gaps: Counter[tuple[str, str]]
    quality: dict[str, Quality]
    speed_mps: dict[str, Histogram]
    length_m: dict[str, Histogram]
    width_m: dict[str, Histogram]
    features: list[Features]
    dead_letters: list[DeadLetters]
    size_bytes: int
    options: dict[str, Any]
    ingested: Counter[str]

    @property
    def windows(self) -> int:
        """How many windows."""
        return sum(s.windows for s in self.sources)

    @property
    def logs(self) -> int:
        """How many logs have windows."""
        return sum(len(s.logs) for s in self.sources)

    def kinds(self) -> list[str]:
        """Kinds of agents that there are, in the order of KINDS."""
        return [k for k in KINDS if any(kind == k for _, kind in self.seen)]


def read(data_uri: str) -> Stats:
    """Count what the tables at `data_uri` hold, of `windows`, `agent_tokens`, `maps`, `dead_letters` those there are.

    Raises query.QueryError where there is no table, storage.StorageError where one cannot be read.
    """
    parent = query.parent_uri(data_uri)
    if not any(storage.objects(storage.join(parent, table)) for table in TABLES):
        raise query.no_table(data_uri, TABLES)
    sources: dict[tuple[str, ...], Source] = {}
    agents_per_window: dict[str, Histogram] = {}
    seen: dict[tuple[str, str], Histogram] = {}
    gaps: Counter[tuple[str, str]] = Counter()
    quality: dict[str, Quality] = {}
    speed_mps: dict[str, Histogram] = {}
    length_m: dict[str, Histogram] = {}
    width_m: dict[str, Histogram] = {}
    try:
        for con in query.parts(data_uri, "windows"):
            _add_sources(sources, con)
            _add_quality(quality, con)
            _add(agents_per_window, con, _AGENTS_PER_WINDOW, 1.0)
            _add(length_m, con, _SIZES.format(side="length_m"), 0.01)
            _add(width_m, con, _SIZES.format(side="width_m"), 0.01)
            for dataset, kind, steps, has_gap, n in con.execute(_TRACKS).fetchall():
                seen.setdefault((dataset, kind), Histogram()).counts[steps] += n
                gaps[dataset, kind] += n * has_gap
        for con in query.parts(data_uri, "agent_tokens"):
            _add(speed_mps, con, _SPEEDS, 0.01)
        ranked = [sources[key] for key in sorted(sources)]
        return Stats(
            sources=ranked,
            agents_per_window=dict(sorted(agents_per_window.items())),
            seen=seen,
            gaps=gaps,
            quality=dict(sorted(quality.items())),
            speed_mps=speed_mps,
            length_m=length_m,
            width_m=width_m,
            features=_features(data_uri, ranked),
            dead_letters=_dead_letters(data_uri),
            size_bytes=storage.total_size(storage.join(parent, "windows")),
            **_ingested(parent),
        )
    except duckdb.Error as error:
        raise storage.StorageError(f"cannot read the tables at {data_uri}: {error}; try sdiff verify") from error


def _add(to: dict[str, Histogram], con: duckdb.DuckDBPyConnection, sql: str, step: float) -> None:
    for name, key, n in con.execute(sql).fetchall():
        to.setdefault(name, Histogram(step)).counts[key] += n


def _add_sources(to: dict[tuple[str, ...], Source], con: duckdb.DuckDBPyConnection) -> None:
    for *key, log_id, map_id, windows, agents, around_recorder, with_signals in con.execute(_SOURCES).fetchall():
        source = to.setdefault(tuple(key), Source(*key))
        source.windows += windows
        source.agents += agents
        source.around_recorder += around_recorder
        source.with_signals += with_signals
        source.logs.add(log_id)
        source.maps.add(map_id)


def _add_quality(to: dict[str, Quality], con: duckdb.DuckDBPyConnection) -> None:
    """Objects of before schema version 3 do not say it: their agents are not counted."""
    if "size_known" not in str(con.table("windows").select("agents").types[0]):
        return
    for dataset, off_road, agents, size_known, repaired, on_area in con.execute(_QUALITY).fetchall():
        quality = to.setdefault(dataset, Quality())
        quality.agents += agents
        quality.size_known += size_known
        quality.repaired += repaired
        if not off_road:
            quality.vehicles += agents
            quality.vehicles_on_area += on_area


def _features(data_uri: str, sources: Sequence[Source]) -> list[Features]:
    """Maps are shared between windows; each counts once, with the first data set that shows it."""
    owner = {m: s.dataset for s in reversed(sources) for m in s.maps}
    found: dict[tuple[Any, ...], Features] = {}
    for con in query.parts(data_uri, "maps"):
        for map_id, kind, lane_type, derived, linked, n, limited, mm in con.execute(_MAPS).fetchall():
            key = (owner.get(map_id, ""), kind, lane_type or "", derived, linked)
            alike = found.setdefault(key, Features(*key))
            alike.count += n
            alike.limited += limited
            alike.length_mm += mm or 0
            alike.maps.add(map_id)
    return [found[key] for key in sorted(found)]


def _dead_letters(data_uri: str) -> list[DeadLetters]:
    found: dict[tuple[str, str], Counter[str]] = {}
    for con in query.parts(data_uri, "dead_letters"):
        for stage, alike, source, n in con.execute(_DEAD_LETTERS).fetchall():
            found.setdefault((stage, alike), Counter())[source] += n
    ranked = sorted(found.items(), key=lambda item: (-item[1].total(), item[0]))
    return [DeadLetters(*reason, by.total(), len(by), _tail(min(by))) for reason, by in ranked]


def _ingested(parent: str) -> dict[str, Any]:
    """Options and counts that ingest left beside the tables."""
    claimed = storage.join(parent, "_ingest", "options.json")
    options = json.loads(storage.read_bytes(claimed)) if storage.exists(claimed) else {}
    markers = storage.objects(storage.join(parent, "_ingest"), DONE)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        counts = [json.loads(data)["counts"] for data in pool.map(storage.read_bytes, markers)]
    return {"options": options, "ingested": sum((Counter(c) for c in counts), Counter())}


def _tail(source: str) -> str:
    """The last parts of a source's URI: its file and the folder around it, wherever they lie."""
    return "/".join(source.rstrip("/").split("://")[-1].split("/")[-2:])


def as_result(stats: Stats) -> dict[str, Any]:
    """The counts as rows of plain values, a list per question."""
    result: dict[str, Any] = {
        "datasets": datasets(stats),
        "licenses": licenses(stats),
        "regions": regions(stats),
        "agents per window": agents_per_window(stats),
        "kinds": kinds(stats),
        "speeds m/s": speeds(stats),
        "sizes m": sizes(stats),
        "tracks": tracks(stats),
        "quality": quality(stats),
        "repairs": repairs(stats),
        "maps": maps(stats),
        "map features": map_features(stats),
        "dead letters": dead_letters(stats),
    }
    return {
        **{name: rows for name, rows in result.items() if rows},
        "windows": stats.windows,
        "logs": stats.logs,
        "agents": sum(s.agents for s in stats.sources),
        "sources": stats.ingested["sources"],
        "MB of windows": stats.size_bytes / 1e6,
        "bytes per window": stats.size_bytes / stats.windows if stats.windows else None,
    }


def datasets(stats: Stats) -> list[dict[str, Any]]:
    """One row per data set."""
    rows = []
    for dataset in sorted({s.dataset for s in stats.sources}):
        of = [s for s in stats.sources if s.dataset == dataset]
        windows = sum(s.windows for s in of)
        rows.append(
            {
                "dataset": dataset,
                "regions": len({s.region for s in of}),
                "logs": sum(len(s.logs) for s in of),
                "windows": windows,
                "train": sum(s.windows for s in of if s.split == "train"),
                "val": sum(s.windows for s in of if s.split == "val"),
                "agents": sum(s.agents for s in of),
                "around the AV": sum(s.around_recorder for s in of) / windows,
                "with signals": sum(s.with_signals for s in of) / windows,
            }
        )
    return rows


def licenses(stats: Stats) -> list[dict[str, Any]]:
    """One row per data set and licence."""
    windows: Counter[tuple[str, str]] = Counter()
    for s in stats.sources:
        windows[s.dataset, s.license] += s.windows
    return [{"dataset": d, "license": license, "windows": n} for (d, license), n in sorted(windows.items())]


def regions(stats: Stats) -> list[dict[str, Any]]:
    """One row per data set and region, those with most windows first."""
    rows = []
    for dataset, region in sorted({(s.dataset, s.region) for s in stats.sources}):
        of = [s for s in stats.sources if (s.dataset, s.region) == (dataset, region)]
        train, val = (sum(s.windows for s in of if s.split == split) for split in ("train", "val"))
        logs = sum(len(s.logs) for s in of)
        rows.append({"region": region, "dataset": dataset, "logs": logs, "train": train, "val": val})
    return sorted(rows, key=lambda r: -r["train"] - r["val"])


def agents_per_window(stats: Stats) -> list[dict[str, Any]]:
    """One row per data set: quantiles of the number of agents."""
    shares = {"least": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}
    return [
        {"dataset": name, **{title: h.quantile(share) for title, share in shares.items()}}
        for name, h in stats.agents_per_window.items()
    ]


def kinds(stats: Stats) -> list[dict[str, Any]]:
    """One row per kind of agent: how many, and the share that stands."""
    total = sum(h.total for h in stats.seen.values())
    rows = []
    for kind in stats.kinds():
        agents = sum(h.total for (_, k), h in stats.seen.items() if k == kind)
        standing = stats.speed_mps[kind].share_below(STANDS_MPS) if kind in stats.speed_mps else None
        rows.append({"kind": kind, "agents": agents, "share": agents / total, "standing": standing})
    return rows


def speeds(stats: Stats) -> list[dict[str, Any]]:
    """One row per kind of agent: quantiles of the speed of those that move."""
    shares = {"5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "99.9 %": 0.999, "most": 1.0}
    moving = {k: h.at_least(STANDS_MPS) for k, h in stats.speed_mps.items()}
    return [
        {"kind": kind, **{title: moving[kind].quantile(share) for title, share in shares.items()}}
        for kind in stats.kinds()
        if kind in moving
    ]


def sizes(stats: Stats) -> list[dict[str, Any]]:
    """One row per kind of agent: quantiles of length and width."""
    shares = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}
    sides = {"length": stats.length_m, "width": stats.width_m}
    return [
        {
            "kind": kind,
            **{
                f"{side} {title}": h[kind].quantile(share)
                for side, h in sides.items()
                for title, share in shares.items()
            },
        }
        for kind in stats.kinds()
    ]


def tracks(stats: Stats) -> list[dict[str, Any]]:
    """One row per data set and kind: how much of the window's 41 steps its agents are observed."""
    return [
        {
            "dataset": dataset,
            "kind": kind,
            "agents": (h := stats.seen[dataset, kind]).total,
            "complete": h.counts[STEPS] / h.total,
            "with gaps": stats.gaps[dataset, kind] / h.total,
            "5 % steps": h.quantile(0.05),
            "25 %": h.quantile(0.25),
            "median": h.quantile(0.5),
        }
        for dataset, kind in sorted(stats.seen, key=lambda key: (key[0], KINDS.index(key[1])))
    ]


def quality(stats: Stats) -> list[dict[str, Any]]:
    """One row per data set: shares of agents with sizes of the source, with mended tracks, of vehicles on the road."""
    return [
        {
            "dataset": dataset,
            "agents": q.agents,
            "size known": q.size_known / q.agents,
            "repaired": q.repaired / q.agents,
            "vehicles on the road": q.vehicles_on_area / q.vehicles if q.vehicles else None,
        }
        for dataset, q in stats.quality.items()
        if q.agents
    ]


def repairs(stats: Stats) -> list[dict[str, Any]]:
    """One row per defect: how many tracks of the logs that were read had it, and were mended."""
    return [
        {"defect": name.removeprefix(REPAIRED), "tracks": n}
        for name, n in sorted(stats.ingested.items())
        if name.startswith(REPAIRED) and n
    ]


def maps(stats: Stats) -> list[dict[str, Any]]:
    """One row per data set: maps, km of lanes by type, and how much of it was computed here."""
    rows = []
    for dataset in sorted({f.dataset for f in stats.features}):
        of = [f for f in stats.features if f.dataset == dataset]
        lanes = [f for f in of if f.kind == "lane_centerline"]
        n_lanes = max(sum(f.count for f in lanes), 1)
        length = {t: sum(f.length_mm for f in lanes if f.lane_type == t) for t in LANE_TYPES}
        rows.append(
            {
                "dataset": dataset or "(no window)",
                "maps": len(set().union(*(f.maps for f in of))),
                **{f"km {t}": mm / 1e6 for t, mm in length.items()},
                "with limit": sum(f.limited for f in lanes) / n_lanes,
                "computed": sum(f.count for f in lanes if f.links_derived) / n_lanes,
            }
        )
    return rows


def map_features(stats: Stats) -> list[dict[str, Any]]:
    """One row per data set and kind of map feature: how many, and which share was computed here."""
    rows = []
    for dataset, kind in sorted({(f.dataset, f.kind) for f in stats.features}):
        of = [f for f in stats.features if (f.dataset, f.kind) == (dataset, kind)]
        count = sum(f.count for f in of)
        rows.append(
            {
                "dataset": dataset or "(no window)",
                "kind": kind,
                "features": count,
                "computed": sum(f.count for f in of if f.derived) / count,
            }
        )
    return rows


def dead_letters(stats: Stats) -> list[dict[str, Any]]:
    """One row per stage and reason, the most frequent first."""
    return [
        {"stage": d.stage, "reason": d.reason, "letters": d.count, "sources": d.sources, "example": d.example}
        for d in stats.dead_letters
    ]


def as_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows for people: shares as percent, thousands set apart."""
    return [{name: _cell(name, value) for name, value in row.items()} for row in rows]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in SHARES:
        return f"{100 * value:.1f} %" if value >= 0.0005 or value == 0 else "< 0.1 %"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
