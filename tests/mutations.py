"""Damage to files of driving logs, drawn from a generator: what disks, networks and attackers do."""

import gzip
import pickle
import struct
from typing import Any

import google_crc32c
import numpy as np
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
    return _by_bytes(data, random)


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
            n = int(random.choice([0, 1, 1, 1, 1, 1, 2, 3000]))
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
