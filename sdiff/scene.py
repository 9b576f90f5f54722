"""What a window and a scenario have in common: agents, the tokens that describe them, the token of the scene."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import schemas
from sdiff import KINDS

STEPS_PAST = 20
STEPS_FUTURE = 20
"""Steps of 0.1 s before and after t0; t0 is index STEPS_PAST."""

MAP_CHANNELS = (
    "drivable_area",
    "lane_sin",
    "lane_cos",
    "lane_boundary",
    "crosswalk",
    "stop_line",
    "light",
    "speed_limit",
)
"""Channels of `map_bev`. lane_sin, lane_cos and light are signed (128 + 127 v), the others 255 v.

light: +1 go, -0.5 caution, -1 stop, on the lanes under the signal. speed_limit: v = limit / 35 m/s, at most 1.
"""
SIGNED_MAP_CHANNELS = ("lane_sin", "lane_cos", "light")

WAYPOINTS_S = (-2.0, -1.0, 1.0, 2.0)
"""Times of the displacement channels of `agent_bev` [s]."""

AGENT_CHANNELS = (
    "occupancy",
    "sin",
    "cos",
    "kind",
    *(f"{axis}_{t:+.0f}s" for t in WAYPOINTS_S for axis in ("dx", "dy")),
)
"""Channels of `agent_bev`, filled inside each box, later agents over earlier ones.

occupancy: 255. kind: code + 1, 0 where empty. The others are signed (128 + 127 v): sin, cos of the heading in the window frame;
displacement d from t0 in the window frame as v = sign(d) sqrt(|d| / 64 m); where the agent was not observed at that time,
the displacement at constant velocity.
"""
DISPLACEMENT_SCALE_M = 64.0
BEV_PIXELS = 256


@dataclass(frozen=True)
class Agents:
    """N agents over T steps of 0.1 s, window frame.

    agent_id: (N,) str. kind: (N,) int8, index into KINDS. length_m, width_m: (N,) float32. is_ego: (N,) bool.
    x_m, y_m, heading_rad, vx_mps, vy_mps: (N, T) float32 [m, rad, m/s]; 0 where not valid. valid: (N, T) bool.
    score: (N,) float32 and token_index: (N,) int32 for generated agents, else None.
    """

    agent_id: NDArray[np.str_]
    kind: NDArray[np.int8]
    length_m: NDArray[np.float32]
    width_m: NDArray[np.float32]
    is_ego: NDArray[np.bool_]
    x_m: NDArray[np.float32]
    y_m: NDArray[np.float32]
    heading_rad: NDArray[np.float32]
    vx_mps: NDArray[np.float32]
    vy_mps: NDArray[np.float32]
    valid: NDArray[np.bool_]
    score: NDArray[np.float32] | None = None
    token_index: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, index: NDArray[Any]) -> "Agents":
        """The agents at `index` (positions or a mask)."""
        return replace(self, **{f.name: v[index] for f in fields(self) if (v := getattr(self, f.name)) is not None})


@dataclass(frozen=True)
class AgentTokens:
    """K agent tokens, window frame. NaN = not specified; kind -1 = not specified.

    All fields (K,) float32 but kind, (K,) int8, index into KINDS; see schemas/agent_tokens.yaml.
    """

    x_m: NDArray[np.float32]
    y_m: NDArray[np.float32]
    heading_rad: NDArray[np.float32]
    speed_mps: NDArray[np.float32]
    end_x_m: NDArray[np.float32]
    end_y_m: NDArray[np.float32]
    end_heading_rad: NDArray[np.float32]
    end_speed_mps: NDArray[np.float32]
    length_m: NDArray[np.float32]
    width_m: NDArray[np.float32]
    kind: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, index: NDArray[Any]) -> "AgentTokens":
        """The tokens at `index` (positions or a mask)."""
        return AgentTokens(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def unspecified(n: int) -> "AgentTokens":
        """n tokens that say nothing."""
        numbers = {name: np.full(n, np.nan, np.float32) for name in TOKEN_NUMBERS}
        return AgentTokens(**numbers, kind=np.full(n, -1, np.int8))


TOKEN_NUMBERS = tuple(f.name for f in fields(AgentTokens) if f.name != "kind")
"""Names of the numeric token features, in the order in which the model takes them."""


@dataclass(frozen=True)
class SceneToken:
    """How busy the scene is; NaN = not specified. See schemas/parts.yaml."""

    p_mask: float = float("nan")
    n_agents: float = float("nan")
    moving_share: float = float("nan")


def agents_from_arrow(array: pa.StructArray | pa.ChunkedArray) -> list[Agents]:
    """One Agents per row of a column `agents` of windows or scenarios."""
    array = _one_chunk(array)
    columns = {f.name: array.field(i) for i, f in enumerate(array.type)}
    rows = np.concatenate([[0], np.cumsum(columns["x_m"].value_lengths().to_numpy())]).astype(np.int64)
    flat: dict[str, NDArray[Any]] = {}
    for name, values in columns.items():
        items = values.flatten()
        if pa.types.is_list(items.type):
            steps = len(items.flatten()) // max(len(items), 1)
            flat[name] = items.flatten().to_numpy(zero_copy_only=False).reshape(len(items), steps)
        else:
            flat[name] = items.to_numpy(zero_copy_only=False)
    flat["kind"] = kind_codes(columns["kind"].flatten())
    flat["agent_id"] = flat["agent_id"].astype(str)
    return [Agents(**{k: v[a:b] for k, v in flat.items()}) for a, b in zip(rows[:-1], rows[1:], strict=True)]


def agents_to_arrow(scenes: Sequence[Agents], *, generated: bool) -> pa.StructArray:
    """The column `agents` of scenarios (generated) or windows, one row per scene."""
    column = schemas.arrow_schema("scenarios" if generated else "windows").field("agents").type
    lengths = np.array([len(s) for s in scenes], np.int64)
    return pa.StructArray.from_arrays(
        [_ragged(_flat_arrow(f, scenes), lengths, f.type) for f in column], fields=list(column)
    )


def tokens_to_arrow(batches: Sequence[AgentTokens]) -> pa.StructArray:
    """The column `tokens` of scenarios, one row per scenario; not specified becomes null."""
    column = schemas.arrow_schema("scenarios").field("tokens").type
    lengths = np.array([len(b) for b in batches], np.int64)
    children = []
    for f in column:
        values = np.concatenate([getattr(b, f.name) for b in batches]) if batches else np.zeros(0)
        items = kind_names(values) if f.name == "kind" else pa.array(values, pa.float32(), mask=np.isnan(values))
        children.append(_ragged(items, lengths, f.type))
    return pa.StructArray.from_arrays(children, fields=list(column))


def tokens_from_arrow(array: pa.StructArray | pa.ChunkedArray) -> list[AgentTokens]:
    """One AgentTokens per row of a column `tokens` of scenarios."""
    array = _one_chunk(array)
    columns = {f.name: array.field(i) for i, f in enumerate(array.type)}
    rows = np.concatenate([[0], np.cumsum(columns["x_m"].value_lengths().to_numpy())]).astype(np.int64)
    flat: dict[str, Any] = {
        name: columns[name].flatten().to_numpy(zero_copy_only=False).astype(np.float32) for name in TOKEN_NUMBERS
    }
    flat["kind"] = kind_codes(columns["kind"].flatten())
    return [AgentTokens(**{k: v[a:b] for k, v in flat.items()}) for a, b in zip(rows[:-1], rows[1:], strict=True)]


def scene_tokens_to_arrow(tokens: Sequence[SceneToken]) -> pa.StructArray:
    """The column `scene_token`, one row per scene; not specified becomes null."""
    column = schemas.arrow_schema("scenarios").field("scene_token").type
    children = []
    for f in column:
        values = np.array([getattr(t, f.name) for t in tokens], np.float32)
        children.append(pa.array(values, f.type, mask=np.isnan(values)))
    return pa.StructArray.from_arrays(children, fields=list(column))


def scene_tokens_from_arrow(array: pa.StructArray | pa.ChunkedArray) -> list[SceneToken]:
    """One SceneToken per row of a column `scene_token`."""
    nan = float("nan")
    return [SceneToken(**{k: nan if v is None else v for k, v in row.items()}) for row in array.to_pylist()]


def kind_codes(names: pa.Array) -> NDArray[np.int8]:
    """Codes of kinds; null becomes -1. Raises ValueError for an unknown name."""
    codes = np.full(len(names), -1, np.int8)
    encoded = names.dictionary_encode()
    table = np.array([KINDS.index(k) for k in encoded.dictionary.to_pylist()] or [-1], np.int8)
    known = ~names.is_null().to_numpy(zero_copy_only=False)
    codes[known] = table[encoded.indices.to_numpy(zero_copy_only=False)[known].astype(np.int64)]
    return codes


def kind_names(codes: NDArray[np.int8]) -> pa.Array:
    """Names of kinds; -1 becomes null."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8(), mask=codes < 0), pa.array(KINDS)).cast(pa.string())


def _one_chunk(array: pa.StructArray | pa.ChunkedArray) -> pa.StructArray:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _flat_arrow(f: pa.Field, scenes: Sequence[Agents]) -> pa.Array:
    item = f.type.value_type
    parts = [getattr(s, f.name) for s in scenes]
    inner = item.value_type if pa.types.is_list(item) else item
    if not parts:
        return pa.array([], item)
    values = np.concatenate(parts)
    if f.name == "kind":
        return kind_names(values)
    if not pa.types.is_list(item):
        return pa.array(values, inner)
    return _ragged(pa.array(values.reshape(-1), inner), np.full(len(values), values.shape[1]), item)


def _ragged(items: pa.Array, lengths: NDArray[np.int64], kind: pa.DataType) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=kind)
