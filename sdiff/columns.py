"""Agents and tokens to and from their Arrow columns, without a loop over agents."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import schemas
from sdiff import KINDS
from sdiff.scene import TOKEN_NUMBERS, Agents, AgentTokens, SceneToken


def agents_from_arrow(array: pa.StructArray | pa.ChunkedArray) -> list[Agents]:
    """One Agents per row of a column `agents` of windows or scenarios."""
    array = _one_chunk(array)
    columns = {f.name: array.field(i) for i, f in enumerate(array.type)}
    rows = np.concatenate([[0], np.cumsum(columns["x_m"].value_lengths().to_numpy())]).astype(np.int64)
    flat: dict[str, NDArray[Any]] = {}
    for name, values in columns.items():
        if values.null_count:  # written before the field was
            continue
        items = values.flatten()
        if pa.types.is_list(items.type):
            steps = len(items.flatten()) // max(len(items), 1)
            flat[name] = items.flatten().to_numpy(zero_copy_only=False).reshape(len(items), steps)
        else:
            flat[name] = items.to_numpy(zero_copy_only=False)
    flat["kind"] = kind_codes(columns["kind"].flatten())
    flat["agent_id"] = flat["agent_id"].astype(str)
    return [Agents(**{k: v[a:b] for k, v in flat.items()}) for a, b in itertools.pairwise(rows)]


def agents_to_arrow(scenes: Sequence[Agents], *, generated: bool) -> pa.StructArray:
    """The column `agents` of scenarios (generated) or windows, one row per scene."""
    column = schemas.arrow_schema("scenarios" if generated else "windows").field("agents").type
    lengths = np.array([len(s) for s in scenes], np.int64)
    return pa.StructArray.from_arrays(
        [ragged(_flat_arrow(f, scenes), lengths, f.type) for f in column], fields=list(column)
    )


def agents_t0_to_arrow(scenes: Sequence[Mapping[str, NDArray[Any]]]) -> pa.StructArray:
    """The column `agents_t0` of scenarios, one row per scene of `metrics.brief.agents_t0`; NaN becomes null."""
    column = schemas.arrow_schema("scenarios").field("agents_t0").type
    lengths = np.array([len(s["valid"]) for s in scenes], np.int64)
    children = []
    for f in column:
        values = np.concatenate([s[f.name] for s in scenes]) if scenes else np.zeros(0)
        children.append(ragged(pa.array(values, f.type.value_type, from_pandas=True), lengths, f.type))
    return pa.StructArray.from_arrays(children, fields=list(column))


def tokens_to_arrow(batches: Sequence[AgentTokens]) -> pa.StructArray:
    """The column `tokens` of scenarios, one row per scenario; not specified becomes null."""
    column = schemas.arrow_schema("scenarios").field("tokens").type
    lengths = np.array([len(b) for b in batches], np.int64)
    children = []
    for f in column:
        values: NDArray[Any] = (
            np.concatenate([getattr(b, f.name) for b in batches]) if batches else np.zeros(0, np.int8)
        )
        items = kind_names(values) if f.name == "kind" else pa.array(values, pa.float32(), mask=np.isnan(values))
        children.append(ragged(items, lengths, f.type))
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
    return [AgentTokens(**{k: v[a:b] for k, v in flat.items()}) for a, b in itertools.pairwise(rows)]


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
    return ragged(pa.array(values.reshape(-1), inner), np.full(len(values), values.shape[1]), item)


def ragged(items: pa.Array, lengths: NDArray[np.int64], kind: pa.DataType) -> pa.ListArray:
    """Lists of the given lengths over joined items."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=kind)
