"""Damage to files of driving logs, drawn from a generator: what disks, networks and attackers do."""

import gzip
import json
import pickle
import sqlite3
import struct
import xml.etree.ElementTree as ET
from io import BytesIO
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from waymo_records import Message, Single, decode, encode, frame, unframe

EXTREMES = [
    *(struct.pack("<B", v) for v in (0, 1, 127, 128, 255)),
    *(struct.pack(f"{order}I", v) for order in "<>" for v in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
    *(struct.pack(f"{order}Q", v) for order in "<>" for v in (0, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)),
    *(struct.pack(f"{order}d", v) for order in "<>" for v in (float("nan"), float("inf"), -1e308, 1e18, 1e-300)),
]
ODD = (
    None,
    True,
    -1,
    1 << 40,
    float("nan"),
    "",
    "\u202e/../x" * 99,
    b"x",
    [],
    {},
    (),
    [[[]]],
    np.zeros((0, 9)),
    np.bool_(1),
)
"""What no field of a log holds."""
MOST_REPEATED = 1 << 18
"""Bytes that repetitions of a field add at most."""
MOST_ELEMENTS = 20_000
"""Elements of a document up to which it is damaged further."""
LONGEST = 4096
"""Bytes that one mutation inserts, repeats or leaves out at most."""


def mutated(name: str, data: bytes, random: np.random.Generator) -> bytes:
    """`data` of the file `name` with one to four mutations; often inside what compression or checksums enclose.

    A pickle is loaded for that: `data` is one to be trusted.
    """
    inside = random.random() < 0.75
    if name.endswith(".gz") and inside:
        return gzip.compress(mutated(name.removesuffix(".gz"), gzip.decompress(data), random), mtime=0)
    if name.endswith(".pkl") and inside:
        return pickle.dumps(_value_changed(pickle.loads(data), random))
    if name.endswith(".tfrecord") and inside:
        records = list(unframe(data))
        i = int(random.integers(len(records)))
        by_field = random.random() < 0.75
        records[i] = _by_field(records[i], random) if by_field else _by_bytes(records[i], random)
        return frame(records, google_crc32c.value)
    if name.endswith(".json") and inside:
        return json.dumps(_value_changed(json.loads(data), random), default=str).encode()
    if name.endswith(".xml") and inside:
        root = ET.fromstring(data)
        for _ in range(int(random.integers(1, 5))):
            if len(elements := list(root.iter())) < MOST_ELEMENTS:
                _element_changed(elements, random)
        return ET.tostring(root)
    if name.endswith(".parquet") and inside:
        out = BytesIO()
        pq.write_table(_table_changed(pq.read_table(BytesIO(data)), random), out)
        return out.getvalue()
    if name.endswith((".db", ".gpkg")) and inside:
        return _rows_changed(data, random)
    if name.endswith(".feather") and inside:
        out = BytesIO()
        feather.write_feather(_table_changed(feather.read_table(BytesIO(data)), random), out)
        return out.getvalue()
    return _by_bytes(data, random)


TEXTS = (
    "",
    "nan",
    "inf",
    "-1e308",
    "1e18",
    "-1",
    "0",
    "99999999999999999999",
    "\u202e/../x" * 99,
    "1,1",
    " ",
    "é\U0001f697",
)


def _element_changed(elements: list[ET.Element], random: np.random.Generator) -> None:
    """One attribute, text or child of one of the elements changed, left out, repeated or moved."""
    el = elements[random.integers(len(elements))]
    text = TEXTS[random.integers(len(TEXTS))]
    match random.integers(6):
        case 0 | 1 if el.attrib:
            key = list(el.attrib)[random.integers(len(el.attrib))]
            el.set(key, text)
        case 2 if el.attrib:
            del el.attrib[list(el.attrib)[random.integers(len(el.attrib))]]
        case 3 if len(el):
            del el[int(random.integers(len(el)))]
        case 4 if len(el):
            child = el[int(random.integers(len(el)))]
            el.extend([child] * int(random.integers(1, 3 + MOST_ELEMENTS // sum(1 for _ in child.iter()))))
        case 5 if el not in (other := elements[random.integers(len(elements))]).iter() and other not in el.iter():
            other.append(el)
        case _:
            el.text = text


def _rows_changed(data: bytes, random: np.random.Generator) -> bytes:
    """An SQLite file in which one to four times rows of a table are left out, repeated, or get an odd value."""
    con = sqlite3.connect(":memory:")
    con.deserialize(data)
    tables = [
        t for (t,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    ]
    for _ in range(int(random.integers(1, 5))):
        table = tables[random.integers(len(tables))]
        columns = [row[1] for row in con.execute(f'PRAGMA table_info("{table}")')]
        column = columns[random.integers(len(columns))]
        some = f'WHERE rowid IN (SELECT rowid FROM "{table}" ORDER BY rowid * ? % 1013 LIMIT ?)'
        which = int(random.integers(1, 1000)), int(random.choice([1, 3, 50]))
        try:
            match random.integers(5):
                case 0:
                    con.execute(f'DELETE FROM "{table}" {some}', which)
                case 1:
                    con.execute(f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO other')
                case 2 if len(columns) > 1:
                    others = ",".join(f'"{c}"' for c in columns[1:])
                    con.execute(f'INSERT INTO "{table}" ({others}) SELECT {others} FROM "{table}" {some}', which)
                case _:
                    (old,) = con.execute(f'SELECT "{column}" FROM "{table}" {some}', which).fetchone() or (None,)
                    con.execute(f'UPDATE "{table}" SET "{column}" = ? {some}', (_odd_cell(old, random), *which))
        except sqlite3.Error:
            continue  # a key that comes twice
    con.commit()
    return con.serialize()


def _odd_cell(value: Any, random: np.random.Generator) -> Any:
    if isinstance(value, bytes) and random.random() < 0.8:
        return _by_bytes(value, random)
    if isinstance(value, int | float) and random.random() < 0.8:
        return _changed(value, random)
    return (None, -1, 1 << 40, float("inf"), b"x", *TEXTS)[random.integers(5 + len(TEXTS))]


def _table_changed(table: pa.Table, random: np.random.Generator) -> pa.Table:
    """One to four columns or groups of rows changed, left out, repeated or moved."""
    for _ in range(int(random.integers(1, 5))):
        if not table.num_rows or not table.num_columns:
            return table
        i, rows = int(random.integers(table.num_columns)), random.integers(table.num_rows, size=random.integers(1, 9))
        column = table.column_names[i]
        match random.integers(7):
            case 0:
                table = table.drop_columns([column])
            case 1:
                table = table.take(random.permutation(table.num_rows)[: int(random.integers(table.num_rows + 1))])
            case 2:
                begin = int(random.integers(table.num_rows))
                table = pa.concat_tables([table, table.slice(begin, int(random.integers(1, 1000)))])
            case 3:
                order = np.arange(table.num_rows)
                order[rows] = order[rows[::-1]]
                table = table.take(order)
            case 4:
                kind = (pa.string(), pa.float32(), pa.int8(), pa.bool_(), pa.null(), pa.list_(pa.int8()))
                nothing = pa.nulls(table.num_rows, kind[random.integers(len(kind))])
                table = table.set_column(i, column, nothing)
            case _:
                values = table[column].to_pylist()
                for row in rows:
                    values[row] = _odd_like(values[row], random)
                try:
                    table = table.set_column(i, column, pa.array(values, table[column].type))
                except (pa.ArrowException, OverflowError, TypeError, ValueError):
                    table = table.set_column(i, column, pa.array([str(v) for v in values]))
    return table


def _odd_like(value: Any, random: np.random.Generator) -> Any:
    if isinstance(value, str):
        return TEXTS[random.integers(len(TEXTS))]
    if value is None or random.random() < 0.1:
        return None
    return _changed(value, random)


def _by_bytes(data: bytes, random: np.random.Generator) -> bytes:
    for _ in range(int(random.integers(1, 5))):
        at, n = int(random.integers(len(data) + 1)), int(random.integers(1, LONGEST))
        match random.integers(8):
            case 0 | 1:
                flipped = bytearray(data)
                for i in random.integers(len(data), size=random.integers(1, 17)) if data else ():
                    flipped[i] ^= 1 << int(random.integers(8))
                data = bytes(flipped)
            case 2:
                data = data[:at]
            case 3:
                data = data[:at] + random.bytes(n) + data[at:]
            case 4:
                data = data[:at] + data[at + n :]
            case 5:
                data = data[:at] + data[at : at + n] + data[at:]
            case 6:
                begin = int(random.integers(len(data) + 1))
                data = data[:at] + data[begin : begin + n] + data[at + n :]
            case _:
                value = EXTREMES[random.integers(len(EXTREMES))]
                data = data[:at] + value + data[at + len(value) :]
    return data


def _by_field(data: bytes, random: np.random.Generator) -> bytes:
    """One to four fields, of the message or of those within it, changed, left out, repeated or swapped."""
    for _ in range(int(random.integers(1, 5))):
        data = encode(_field_changed(decode(data), random))
    return data


def _field_changed(message: Message, random: np.random.Generator) -> Message:
    if not message:
        return message
    i = int(random.integers(len(message)))
    number, value = message[i]
    if isinstance(value, bytes) and random.random() < 0.9:
        try:
            return [*message[:i], (number, _field_changed(decode(value), random)), *message[i + 1 :]]
        except ValueError:
            pass  # text, or packed numbers
    match random.integers(5):
        case 0:
            return [*message[:i], *message[i + 1 :]]
        case 1:
            size = len(value) if isinstance(value, bytes) else 8
            return [
                *message[:i],
                *[message[i]] * int(random.integers(2, 4 + MOST_REPEATED // (8 + size))),
                *message[i + 1 :],
            ]
        case 2:
            j = int(random.integers(len(message)))
            return [*message[:i], (number, message[j][1]), *message[i + 1 :]]
        case _:
            return [*message[:i], (number, _changed(value, random)), *message[i + 1 :]]


def _changed(value: Any, random: np.random.Generator) -> Any:
    match value:
        case bytes():
            return _by_bytes(value, random)
        case Single():
            return Single(random.choice([np.nan, np.inf, -np.inf, 3e38, 0.0, -value, value * 1e6]))
        case float():
            return float(random.choice([np.nan, np.inf, -1e308, 1e18, 1e9, 0.0, -value, value + 1e4]))
        case _:
            return int(random.choice([0, 1, 2, 9, 255, 1 << 31, (1 << 62) - 1, int(value) % (1 << 62) + 1]))


def _value_changed(value: Any, random: np.random.Generator) -> Any:
    """Plain data in which one value, somewhere, is changed, left out or repeated."""
    match value:
        case dict() if value and random.random() < 0.95:
            key = list(value)[random.integers(len(value))]
            match random.integers(8):
                case 0:
                    return {k: v for k, v in value.items() if k != key}
                case 1:
                    return {**value, f"{key}\u202e\ud800/../..": value[key]}
                case _:
                    return {**value, key: _value_changed(value[key], random)}
        case list() | tuple() if value and random.random() < 0.95:
            i = int(random.integers(len(value)))
            many = min(3000, 2 + MOST_REPEATED // len(repr(value[i])))
            n = int(random.choice([0, 1, 1, 1, 1, 1, 2, many]))
            return type(value)([*value[:i], *[_value_changed(value[i], random)] * n, *value[i + 1 :]])
        case np.ndarray() if value.size:
            return _array_changed(value, random)
        case float() | int():
            return _changed(float(value), random)
    return ODD[random.integers(len(ODD))]


def _array_changed(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    match random.integers(5):
        case 0:
            return values[: int(random.integers(len(values)))]
        case 1:
            return values.reshape(-1)
        case 2:
            return values.astype(random.choice(["f2", "i1", "U8", "?"]))
        case 3:
            return np.broadcast_to(values, (3, *values.shape)).copy()
    changed = values.astype(np.float64)
    changed.reshape(-1)[random.integers(values.size)] = _changed(1.0, random)
    return changed
