"""Parquet and Feather files from anywhere, read without trusting what they say of their own size.

A few bytes can stand for gigabytes in them: pages and buffers that are compressed, one value a million times, a row
count. What a file unpacks to is added up from its pages or buffers before any is unpacked, and only plain columns of
numbers and of text are read.
Formats: https://parquet.apache.org/docs/file-format/, https://arrow.apache.org/docs/format/Columnar.html, and Thrift's
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

import io
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sdiff import storage
from sdiff.logs.driving_log import BadRecord, plain_name

MOST_ROWS, ROWS_PER_BYTE = 3_000_000, 1 / 8
MOST_BYTES, BYTES_PER_BYTE = 256 << 20, 8
"""Rows of a table and bytes that it unpacks to, at most: so many, and so many more per byte of the file."""
MOST_PARTS = 20_000
"""Columns of a Parquet file, and parts that its rows are in."""
MOST_NAMES = 500_000
DELTA_TEXT = 7
"""The encoding of Parquet in which a few bytes stand for any number of long texts."""

Columns = Mapping[str, pa.DataType]
Groups = Callable[[pq.FileMetaData], Iterable[int]]


def parquet(data: bytes, columns: Columns, file: str) -> pa.Table:
    """Columns of a Parquet file, cast to their types; text as dictionaries. Raises BadRecord where they are not so."""
    return parquet_groups(io.BytesIO(data), columns, file, lambda about: range(about.num_row_groups))


def parquet_groups(source: io.RawIOBase | IO[bytes], columns: Columns, file: str, groups: Groups) -> pa.Table:
    """The same of the row groups that `groups` names, given what the file says of itself; others are not read.

    Raises StorageError where the source cannot be read.
    """
    try:
        length = source.seek(0, io.SEEK_END)
        found = pq.ParquetFile(source, thrift_container_size_limit=MOST_PARTS)
        about, schema = found.metadata, found.schema
        if not about.num_rows:
            raise BadRecord(f"{file} has no rows, expected one or more")
        _expect(columns, found.schema_arrow, file)
        at = {schema.column(i).path: i for i in range(len(schema))}
        rows = unpacked = 0
        chosen = list(groups(about))
        for group in chosen:
            rows += about.row_group(group).num_rows
            for column in columns:
                chunk = about.row_group(group).column(at[column])
                if chunk.num_values != about.row_group(group).num_rows:
                    raise BadRecord(f"{file}: column {column} has {chunk.num_values} values, expected one per row")
                for values, size, encoding in _pages(source, length, chunk):
                    unpacked += size
                    if encoding == DELTA_TEXT:
                        raise BadRecord(
                            f"{file}: column {column} is encoded as DELTA_BYTE_ARRAY; write it as a dictionary"
                        )
                    _expect_size(length, values, unpacked, file)
            _expect_size(length, rows, unpacked, file)
        texts = [c for c, kind in columns.items() if pa.types.is_string(kind)]
        found = pq.ParquetFile(source, metadata=about, read_dictionary=texts)
        return _cast(found.read_row_groups(chosen, columns=list(columns), use_threads=False), columns)
    except (pa.ArrowException, OSError, MemoryError, IndexError, ValueError) as error:
        if isinstance(error, BadRecord | storage.StorageError):
            raise
        raise BadRecord(f"{file} is not a whole Parquet file: {str(error)[:300]}") from error


def feather(data: bytes, columns: Columns, file: str) -> pa.Table:
    """Columns of a Feather file, cast to their types; text as dictionaries. Raises BadRecord where they are not so."""
    if data[:6] != b"ARROW1" or data[-6:] != b"ARROW1":
        raise BadRecord(f"{file} is not a whole Feather file: it does not begin and end with 'ARROW1'")
    stream = pa.py_buffer(data)[8:]  # what the footer says is in the messages before it, once
    try:
        rows = unpacked = 0
        for message in pa.ipc.MessageReader.open_stream(stream):
            if message.type != "schema":
                n, size = _batch(message)
                rows, unpacked = rows + n, unpacked + size
                _expect_size(len(data), rows, unpacked, file)
        if not rows:
            raise BadRecord(f"{file} has no rows, expected one or more")
        schema = pa.ipc.open_stream(stream).schema
        _expect(columns, schema, file)
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=[schema.get_field_index(c) for c in columns])
        return _cast(pa.ipc.open_stream(stream, options=options).read_all(), columns)
    except (pa.ArrowException, OSError, MemoryError, struct.error, IndexError, ValueError) as error:
        if isinstance(error, BadRecord):
            raise
        raise BadRecord(f"{file} is not a whole Feather file: {str(error)[:300]}") from error


def names(column: pa.ChunkedArray) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """The distinct texts of a column, sorted, and each row's index into them. Raises BadRecord where one is null."""
    column = column.combine_chunks()
    if nulls := column.null_count + column.dictionary.null_count:
        raise BadRecord(f"{nulls} nulls in a column of names, expected none")
    if len(column.dictionary) > MOST_NAMES:
        raise BadRecord(f"{len(column.dictionary)} different names in one column, expected at most {MOST_NAMES}")
    texts, of_text = np.unique(
        np.array([plain_name(x) for x in column.dictionary.to_pylist()], np.str_), return_inverse=True
    )
    code = of_text[column.indices.to_numpy()]
    there = np.bincount(code, minlength=len(texts)) > 0
    return texts[there], (np.cumsum(there) - 1)[code]


def _expect(columns: Columns, schema: pa.Schema, file: str) -> None:
    missing = sorted(c for c in columns if len(schema.get_all_field_indices(c)) != 1)
    if missing:
        raise BadRecord(f"{file} lacks the columns {missing}, expected each once")
    for column, kind in columns.items():
        found = schema.field(column).type
        plain = found.value_type if pa.types.is_dictionary(found) else found
        text = pa.types.is_string(plain) or pa.types.is_large_string(plain)
        number = pa.types.is_integer(plain) or pa.types.is_floating(plain)
        if not (text if pa.types.is_string(kind) else number and plain is found):
            raise BadRecord(f"{file}: column {column} holds {str(found)[:80]}, expected {kind}")


def _expect_size(size: int, rows: int, unpacked: int, file: str) -> None:
    most_rows, most_bytes = int(MOST_ROWS + ROWS_PER_BYTE * size), MOST_BYTES + BYTES_PER_BYTE * size
    if not 0 <= rows <= most_rows or not 0 <= unpacked <= most_bytes:
        raise BadRecord(
            f"{file} says that it holds {rows} rows and {unpacked >> 20} MiB, expected at most {most_rows} rows and "
            f"{most_bytes >> 20} MiB in {size} bytes"
        )


def _cast(table: pa.Table, columns: Columns) -> pa.Table:
    table = table.select(list(columns))
    table.validate(full=True)  # the bytes may be anything: no value is touched before
    for i, (column, kind) in enumerate(columns.items()):
        values = table[column]
        if pa.types.is_string(kind):
            values = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
            values = values.cast(pa.dictionary(pa.int32(), pa.string()))
        else:
            values = values.cast(kind)
        table = table.set_column(i, column, values)
    return table.unify_dictionaries().combine_chunks()


def _pages(source: io.RawIOBase | IO[bytes], length: int, chunk: Any) -> Iterator[tuple[int, int, int]]:
    """Values, bytes when unpacked, and encoding of each page of a column chunk of a Parquet file."""
    begin = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < begin:
        begin = chunk.dictionary_page_offset
    if not 0 < begin <= begin + chunk.total_compressed_size <= length:
        raise ValueError(f"a column lies at byte {begin}, of {chunk.total_compressed_size}, of {length}")
    source.seek(begin)
    data = source.read(chunk.total_compressed_size) or b""
    at, end = 0, len(data)
    while at < end:
        page, at = _thrift(data, at, 0)
        size, packed = page.get(2, 0), page.get(3, 0)
        head = page.get(5) or page.get(7) or page.get(8) or {}
        if not (isinstance(head, dict) and size >= 0 and packed >= 0):
            raise ValueError(f"a page that ends at byte {at} has no size")
        yield head.get(1, 0), size, head.get(4 if 8 in page else 2, 0)
        at += packed


def _thrift(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """The numbers and structs of a struct in Thrift's compact protocol by their field, and where it ends."""
    found: dict[int, Any] = {}
    field = 0
    if depth > 8:
        raise IndexError("a page's head is nested too deep")
    while head := data[at]:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _zigzag(data, at)
        match head & 15:
            case 1 | 2:
                pass
            case 3:
                at += 1
            case 4 | 5 | 6:
                found[field], at = _zigzag(data, at)
            case 7:
                at += 8
            case 8:
                size, at = _varint(data, at)
                at += size
            case 12:
                found[field], at = _thrift(data, at, depth + 1)
            case kind:
                raise IndexError(f"a page's head holds a field of type {kind} at byte {at}")
    return found, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise IndexError(f"a number of more than 64 bits at byte {at}")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _batch(message: pa.Message) -> tuple[int, int]:
    """Rows of a batch of a Feather file, and the bytes that its buffers unpack to. A dictionary has no rows."""
    data, body = message.metadata.to_pybytes(), message.body

    def at(table: int, field: int) -> int:
        """Where a field of a table of FlatBuffers is; 0 where it is left out."""
        known = table - _read("<i", data, table)
        offset = _read("<H", data, known + 4 + 2 * field) if 4 + 2 * field < _read("<H", data, known) else 0
        return table + offset if offset else 0

    def follow(place: int) -> int:
        return place + _read("<I", data, place)

    batch = follow(at(follow(0), 2))
    is_dictionary = message.type == "dictionary"
    if is_dictionary:
        batch = follow(at(batch, 1))
    rows = _read("<q", data, at(batch, 0)) if at(batch, 0) else 0
    if not at(batch, 2):
        return (0 if is_dictionary else rows), 0
    buffers, is_packed, unpacked = follow(at(batch, 2)), bool(at(batch, 3)), 0
    for i in range(_read("<I", data, buffers)):
        offset, size = struct.unpack_from("<qq", data, buffers + 4 + 16 * i)
        if offset < 0 or size < 0 or offset + size > (body.size if body else 0):
            raise BadRecord(
                f"a buffer lies at bytes {offset} to {offset + size} of a batch of {body.size if body else 0}"
            )
        says = _read("<q", body, offset) if is_packed and size >= 8 else -1
        unpacked += size if says == -1 else says
        if says < -1:
            raise ValueError(f"a buffer says that it unpacks to {says} bytes")
    return (0 if is_dictionary else rows), unpacked


def _read(format: str, data: Any, at: int) -> int:
    if at < 0:
        raise IndexError("a message points before its begin")
    value: int = struct.unpack_from(format, data, at)[0]
    return value
