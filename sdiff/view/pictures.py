"""Pictures of rows of the tables `scenarios` and `windows`, read from and written to any fsspec URI."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from sdiff import columns, storage, tables
from sdiff.geometry import SE2
from sdiff.scene import Agents, AgentTokens
from sdiff.view import draw, sheet
from sdiff.view.draw import Signals
from sdiff.view.map_layer import MapLayer

_log = logging.getLogger(__name__)
ORIGIN = ["origin_x_m", "origin_y_m", "origin_heading_rad"]
SHOWN = {
    "windows": ["window_id", "map_id", "dataset", "region", "ego_is_recorder", "n_agents", *ORIGIN, "agents", "lights"],
    "scenarios": [
        *("scenario_id", "window_id", "map_id", "region", "directive", "n_agents", "ego_min_ttc_s", "has_collision"),
        *(*ORIGIN, "agents", "tokens"),
    ],
}


@dataclass(frozen=True)
class Scene:
    """One row of windows or scenarios, ready to be drawn."""

    id: str
    caption: str
    map_features: MapLayer | bytes | None
    map_SE2_window: SE2
    agents: Agents
    lights: Signals | None = None
    tokens: AgentTokens | None = None
    window_id: str | None = None
    marked: frozenset[int] = frozenset()

    def picture(self, size_px: int, title: str = "") -> Image.Image:
        """The scene at t0."""
        return draw.scene(
            *(self.map_features, self.map_SE2_window, self.agents, self.lights),
            size_px=size_px,
            orange=self.directed(),
            tokens=self.tokens,
            title=title,
        )

    def animation(self, size_px: int, title: str = "") -> list[Image.Image]:
        """The scene step by step."""
        return draw.animation(
            *(self.map_features, self.map_SE2_window, self.agents, self.lights),
            size_px=size_px,
            orange=self.directed(),
            tokens=self.tokens,
            title=title,
        )

    def directed(self) -> set[int]:
        """Indices of the agents that tokens asked for, and of those that are marked."""
        index = self.agents.token_index
        return set(self.marked) if index is None else set(np.flatnonzero(index >= 0).tolist()) | self.marked


def render(
    scenarios: str | None = None,
    windows: str | None = None,
    *,
    output: str,
    maps: str | None = None,
    limit: int = 24,
    ids: Sequence[str] | None = None,
    animate: Sequence[str] = (),
    contact: bool = True,
    size_px: int = 640,
    column_count: int = 4,
    header: str | None = None,
) -> list[str]:
    """Draw scenarios, or windows where no scenarios are given; both: also each scenario below its own window.

    scenarios, windows: the table's folder or its parent. maps: the same; None: beside the scenarios, else beside the
    windows. limit: how many, spread evenly over the table. ids: these rows instead. animate: "webp", "gif" or both.
    contact: also write contact_sheet.png.
    Returns the URIs written. Raises TableError where there is no such table, ValueError where no row or id matches.
    """
    if scenarios is None and windows is None:
        raise ValueError("nothing to render: give scenarios, windows or both")
    unknown = set(animate) - {"webp", "gif"}
    if unknown:
        raise ValueError(f"cannot animate as {', '.join(sorted(unknown))}; expected webp or gif")
    shown = load("scenarios" if scenarios else "windows", scenarios, windows, maps, limit, ids)
    written = []
    small = []
    for scene in shown:
        picture = scene.picture(size_px, scene.caption.split("\n")[0])
        small.append(scene.picture(320))
        target = storage.join(output, storage.file_name(scene.id))
        written.append(_write(f"{target}.png", draw.encode_png(picture)))
        if animate:
            frames = scene.animation(min(size_px, 400), scene.caption.split("\n")[0])
            encoders = {"webp": draw.encode_webp, "gif": draw.encode_gif}
            written += [_write(f"{target}.{kind}", encoders[kind](frames)) for kind in animate]
    captions = [s.caption for s in shown]
    if contact:
        if header is None:
            header = f"{len(shown)} {'generated scenarios' if scenarios else 'windows of driving logs'}"
        legend = sheet.SCENARIOS if scenarios else sheet.WINDOWS
        page = sheet.contact_sheet(small, captions, columns=column_count, header=header, legend=legend)
        written.append(_write(storage.join(output, "contact_sheet.png"), draw.encode_png(page)))
    if contact and scenarios and windows:
        written += _beside_logs(shown, small, windows, maps, output, column_count)
    return written


def load(
    table: str,
    scenarios: str | None,
    windows: str | None,
    maps: str | None = None,
    limit: int = 24,
    ids: Sequence[str] | None = None,
) -> list[Scene]:
    """Scenes of the table `windows` or `scenarios`, in the table's order; parameters as `render`."""
    uri = scenarios if table == "scenarios" else windows
    assert uri is not None
    rows = _rows(uri, table, limit, ids)
    parents = [
        storage.table_uri(u, t).rsplit("/", 1)[0] for u, t in ((scenarios, "scenarios"), (windows, "windows")) if u
    ]
    layers = _layers([maps] if maps else parents, rows["map_id"].unique().to_pylist())
    window_ids = [i for i in rows["window_id"].unique().to_pylist() if i]
    if table == "scenarios":
        lights = _window_column(windows, "lights", window_ids)
    else:
        lights = dict(zip(window_ids, rows["lights"].to_pylist(), strict=True))
    bare = [r["window_id"] for r in rows.select(["map_id", "window_id"]).to_pylist() if r["map_id"] not in layers]
    images = _window_column(windows, "map_bev", [i for i in bare if i])
    agents = columns.agents_from_arrow(rows["agents"])
    tokens: list[Any] = columns.tokens_from_arrow(rows["tokens"]) if table == "scenarios" else [None] * len(rows)
    plain = rows.drop_columns([c for c in ("agents", "tokens", "lights") if c in rows.column_names]).to_pylist()
    return [
        Scene(
            id=row[f"{table[:-1]}_id"],
            caption=_caption(row),
            map_features=layers.get(row["map_id"], images.get(row["window_id"])),
            map_SE2_window=SE2(*(row[c] for c in ORIGIN)),
            agents=a,
            lights=Signals.of(lights[row["window_id"]]) if row["window_id"] in lights else None,
            tokens=t,
            window_id=row["window_id"],
        )
        for row, a, t in zip(plain, agents, tokens, strict=True)
    ]


def _beside_logs(
    shown: list[Scene], small: list[Image.Image], windows: str, maps: str | None, output: str, column_count: int
) -> list[str]:
    wanted = [s.window_id for s in shown if s.window_id]
    if not wanted:
        return []
    logs = {s.id: s for s in load("windows", None, windows, maps, ids=list(dict.fromkeys(wanted)))}
    pairs = [(i, logs[s.window_id]) for i, s in enumerate(shown) if s.window_id in logs]
    page = sheet.side_by_side(
        [w.picture(320) for _, w in pairs],
        [small[i] for i, _ in pairs],
        [w.caption for _, w in pairs],
        [shown[i].caption for i, _ in pairs],
        header="The same places in the driving logs and as generated",
        columns=column_count,
    )
    return [_write(storage.join(output, "beside_logs.png"), draw.encode_png(page))]


def _rows(uri: str, table: str, limit: int, ids: Sequence[str] | None) -> pa.Table:
    key = f"{table[:-1]}_id"
    data = tables.dataset(uri, table)
    found = data.to_table(columns=[key])[key].to_pylist()
    if ids is not None:
        missing = sorted(set(ids) - set(found))
        if missing:
            raise ValueError(
                f"no {key} {', '.join(missing[:5])} among the {len(found)} rows of {storage.table_uri(uri, table)}"
            )
        chosen = list(ids)
    else:
        at = np.linspace(0, len(found) - 1, min(limit, len(found))).round().astype(int)
        chosen = [found[i] for i in at]
    if not chosen:
        raise ValueError(f"no row to draw in {storage.table_uri(uri, table)}; it holds {len(found)}")
    return data.to_table(columns=SHOWN[table], filter=pc.field(key).isin(chosen))


def _layers(places: Sequence[str], map_ids: list[str]) -> dict[str, MapLayer]:
    """Layers of maps by id, from the first place that has the map."""
    layers: dict[str, MapLayer] = {}
    wanted = ["map_id", "kind", "lane_type", "x_m", "y_m", "width_m", "in_junction"]
    for place in places:
        missing = [m for m in map_ids if m not in layers]
        if not missing or not storage.objects(storage.table_uri(place, "maps")):
            continue
        rows = tables.read(place, "maps", wanted, pc.field("map_id").isin(missing))
        for map_id in rows["map_id"].unique().to_pylist():
            layers[map_id] = MapLayer.of(rows.filter(pc.equal(rows["map_id"], map_id)))
    if missing := [m for m in map_ids if m not in layers]:
        _log.warning("no map %s in a table maps at %s: drawn without", ", ".join(missing[:5]), " or ".join(places))
    return layers


def _window_column(windows: str | None, column: str, window_ids: list[str]) -> dict[str, Any]:
    """Values of one column of windows by window_id; none where no windows are given."""
    if windows is None or not window_ids:
        return {}
    rows = tables.read(windows, "windows", ["window_id", column], pc.field("window_id").isin(window_ids))
    return dict(zip(rows["window_id"].to_pylist(), rows[column].to_pylist(), strict=True))


def _caption(row: dict[str, Any]) -> str:
    agents = f"{row['n_agents']} agent{'' if row['n_agents'] == 1 else 's'}"
    if "directive" not in row:
        return f"{row['region']} · {agents}\n{row['dataset']} · {'AV' if row['ego_is_recorder'] else 'stand-in'}"
    facts = [agents]
    if row["ego_min_ttc_s"] is not None:
        facts.append(f"AV TTC {row['ego_min_ttc_s']:.1f} s")
    if row["has_collision"]:
        facts.append("collision")
    return f"{row['directive']} · {row['region']}\n{' · '.join(facts)}"


def _write(uri: str, data: bytes) -> str:
    storage.write_bytes(uri, data)
    return uri
