"""Rows of the tables that ingest writes, as Arrow, without a loop over agents or steps."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import schemas
from sdiff import tables
from sdiff.columns import agents_to_arrow, kind_names, ragged, scene_tokens_to_arrow
from sdiff.logs.driving_log import FEATURE_KINDS, LANE_TYPES, DrivingLog, VectorMap
from sdiff.metrics.map_fit import on_drivable_area
from sdiff.raster import Bev
from sdiff.scene import MAP_CHANNELS, STEPS_FUTURE, STEPS_PAST, TOKEN_NUMBERS, Agents
from sdiff.tokens import agent_tokens, scene_token
from sdiff.windows import Window, WindowLights

WINDOWS_METADATA = {"steps_past": str(STEPS_PAST), "steps_future": str(STEPS_FUTURE)}

DRIVABLE = MAP_CHANNELS.index("drivable_area")


class Cut(NamedTuple):
    """A window, the log it was cut from, and the log's split."""

    window: Window
    log: DrivingLog
    split: str


def windows_table(cuts: Sequence[Cut], map_bev: Bev, agent_bev: Bev) -> pa.Table:
    """Rows of `windows`. map_bev: (N, 8, 256, 256), agent_bev: (N, 12, 256, 256) uint8, held, not copied."""
    windows, logs = [c.window for c in cuts], [c.log for c in cuts]
    poses = np.array([w.map_SE2_window for w in windows], np.float64).reshape(-1, 3)
    return _table(
        "windows",
        window_id=[w.window_id for w in windows],
        log_id=[log.log_id for log in logs],
        map_id=[log.map.map_id for log in logs],
        dataset=[log.dataset for log in logs],
        region=[log.region for log in logs],
        license=[log.license for log in logs],
        split=[c.split for c in cuts],
        t0_us=[w.t0_us for w in windows],
        ego_agent_id=[w.ego_agent_id for w in windows],
        ego_is_recorder=[w.ego_is_recorder for w in windows],
        origin_x_m=poses[:, 0],
        origin_y_m=poses[:, 1],
        origin_heading_rad=poses[:, 2],
        n_agents=[len(w.agents) for w in windows],
        map_bev=_blobs(map_bev),
        agent_bev=_blobs(agent_bev),
        agents=agents_to_arrow([_placed(w.agents, m) for w, m in zip(windows, map_bev, strict=True)], generated=False),
        scene_token=scene_tokens_to_arrow([scene_token(w.agents) for w in windows]),
        lights=lights_to_arrow([w.lights for w in windows]),
    )


def _placed(agents: Agents, map_bev: Bev) -> Agents:
    """The agents with `on_drivable_area`."""
    x_m, y_m = agents.x_m[:, STEPS_PAST], agents.y_m[:, STEPS_PAST]
    return replace(agents, on_drivable_area=on_drivable_area(x_m, y_m, map_bev[DRIVABLE]))


def agent_tokens_table(cuts: Sequence[Cut]) -> pa.Table:
    """Rows of `agent_tokens`: one per agent of each window."""
    agents = [c.window.agents for c in cuts]
    tokens = [agent_tokens(a) for a in agents]
    counts = [len(a) for a in agents]
    numbers = {name: np.concatenate([getattr(t, name) for t in tokens]) for name in TOKEN_NUMBERS} if tokens else {}
    return _table(
        "agent_tokens",
        window_id=np.repeat([c.window.window_id for c in cuts], counts),
        agent_id=np.concatenate([a.agent_id for a in agents]),
        is_ego=np.concatenate([a.is_ego for a in agents]),
        split=np.repeat([c.split for c in cuts], counts),
        region=np.repeat([c.log.region for c in cuts], counts),
        kind=kind_names(np.concatenate([t.kind for t in tokens])),
        **{name: pa.array(v, pa.float32(), mask=np.isnan(v)) for name, v in numbers.items()},
    )


def maps_table(map: VectorMap) -> pa.Table:
    """Rows of `maps`: one per feature of `map`."""
    n = len(map.feature_id)
    lane = map.kind == FEATURE_KINDS.index("lane_centerline")
    vertices = np.diff(map.start)
    return _table(
        "maps",
        map_id=[map.map_id] * n,
        feature_id=map.feature_id,
        kind=np.array(FEATURE_KINDS)[map.kind],
        x_m=ragged(pa.array(map.xy_m[:, 0]), vertices, pa.list_(pa.float64())),
        y_m=ragged(pa.array(map.xy_m[:, 1]), vertices, pa.list_(pa.float64())),
        left_id=_ids(map, map.left),
        right_id=_ids(map, map.right),
        predecessors=_linked(map, map.successors[:, ::-1]),
        successors=_linked(map, map.successors),
        speed_limit_mps=_known(map.speed_limit_mps),
        lane_type=pa.array(np.array([*LANE_TYPES, ""])[map.lane_type], mask=map.lane_type < 0),
        width_m=_known(map.width_m),
        in_junction=pa.array(map.in_junction, mask=~lane),
        derived=map.derived,
        links_derived=np.full(n, map.links_derived),
        crs=pa.array([map.crs] * n, pa.string()),
    )


def map_object(rows: pa.Table) -> tuple[str, bytes]:
    """The object of the table maps that holds the rows of one map: its name, which comes from its bytes, and these."""
    data = tables.encode(rows, "maps")
    return f"{hashlib.sha256(data).hexdigest()[:16]}.parquet", data


def dead_letters_table(letters: Sequence[tuple[str, str, str, str]]) -> pa.Table:
    """Rows of `dead_letters` from (source, record, stage, reason)."""
    source, record, stage, reason = zip(*letters, strict=True) if letters else ((), (), (), ())
    return _table("dead_letters", source=source, record=[r or None for r in record], stage=stage, reason=reason)


def lights_to_arrow(lights: Sequence[WindowLights]) -> pa.StructArray:
    """The column `lights`, one row per window."""
    column = schemas.arrow_schema("windows").field("lights").type
    counts = np.array([len(x) for x in lights], np.int64)
    joined: dict[str, NDArray[Any]] = {
        f.name: np.concatenate([getattr(x, f.name) for x in lights]) if lights else np.zeros(0) for f in column
    }
    state = joined.pop("state")
    steps = np.full(len(state), state.shape[-1] if len(state) else 0)
    items = {name: pa.array(values, column.field(name).type.value_type) for name, values in joined.items()}
    items["state"] = ragged(pa.array(state.reshape(-1), pa.int8()), steps, pa.list_(pa.int8()))
    return pa.StructArray.from_arrays([ragged(items[f.name], counts, f.type) for f in column], fields=list(column))


def _table(name: str, **columns: Any) -> pa.Table:
    schema = schemas.arrow_schema(name)
    arrays = [
        v if isinstance(v, pa.Array) and v.type == f.type else pa.array(v, f.type)
        for f in schema
        for v in (columns[f.name],)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _blobs(images: Bev) -> pa.Array:
    size = images[0].nbytes if len(images) else 0
    offsets = np.arange(len(images) + 1, dtype=np.int64) * size
    if offsets[-1] >= 2**31:
        raise ValueError(f"{len(images)} images of {size} bytes are too many for one column, at most 2 GiB")
    return pa.Array.from_buffers(
        pa.binary(), len(images), [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(images)]
    )


def _ids(map: VectorMap, feature: NDArray[np.int32]) -> pa.Array:
    if not len(feature):
        return pa.array([], pa.string())
    return pa.array(map.feature_id[feature], pa.string(), mask=feature < 0)


def _linked(map: VectorMap, pairs: NDArray[np.int32]) -> pa.ListArray:
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    counts = np.bincount(pairs[:, 0], minlength=len(map.feature_id))
    return ragged(pa.array(map.feature_id[pairs[:, 1]], pa.string()), counts, pa.list_(pa.string()))


def _known(values: NDArray[np.float32]) -> pa.Array:
    return pa.array(values, pa.float32(), mask=np.isnan(values))
