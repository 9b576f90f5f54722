"""TFRecord framing and the wire format of protocol buffers, written from their descriptions: no runtime, no schema.

https://protobuf.dev/programming-guides/encoding/ and https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

Message = list[tuple[int, Any]]
"""Field numbers and values: int (varint), float (double), Single (float), bytes, or a Message within."""


class Single(float):
    """A float of 32 bits."""


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> bytes:
    """A checksum as TFRecord stores it."""
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(records: Sequence[bytes], crc: Any = crc32c) -> bytes:
    """A TFRecord file."""
    heads = [struct.pack("<Q", len(r)) for r in records]
    return b"".join(h + masked(crc(h)) + r + masked(crc(r)) for h, r in zip(heads, records, strict=True))


def unframe(data: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file; checksums are passed over."""
    while data:
        (length,) = struct.unpack_from("<Q", data)
        yield data[12 : 12 + length]
        data = data[16 + length :]


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    out = b""
    for number, value in message:
        match value:
            case bool() | int():
                out += _varint(number << 3) + _varint(value)
            case Single():
                out += _varint(number << 3 | 5) + struct.pack("<f", value)
            case float():
                out += _varint(number << 3 | 1) + struct.pack("<d", value)
            case _:
                body = value if isinstance(value, bytes) else encode(value)
                out += _varint(number << 3 | 2) + _varint(len(body)) + body
    return out


def decode(data: bytes) -> Message:
    """The fields of a message, in order; what has a length stays bytes. Raises ValueError where it is cut off."""
    out: Message = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError("cut off")
            byte = data[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value

    def take(n: int) -> bytes:
        nonlocal at
        if at + n > len(data):
            raise ValueError("cut off")
        at += n
        return data[at - n : at]

    while at < len(data):
        key = varint()
        match key & 7:
            case 0:
                out.append((key >> 3, varint()))
            case 1:
                out.append((key >> 3, struct.unpack("<d", take(8))[0]))
            case 2:
                out.append((key >> 3, take(varint())))
            case 5:
                out.append((key >> 3, Single(struct.unpack("<f", take(4))[0])))
            case kind:
                raise ValueError(f"wire type {kind}")
    return out
