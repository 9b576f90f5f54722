"""Tables as folders of Parquet objects: checked against their schema, named by the work, written whole."""

import hashlib
import json
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

import schemas
from sdiff import storage

ROWS_PER_GROUP = {"windows": 64, "scenarios": 1024}
"""Rows per row group; 8192 where a table holds no tensors. 64 windows are 84 MB in memory."""

CHECKED_PARQUET = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
"""Parquet whose pages are compared with their checksums as they are read."""
ENCODING = "sdiff.encoding"
"""Key of an object's metadata that names its encoding."""


class TableError(ValueError):
    """A table is missing, empty or made with other options: says which, where, and what to do."""


def fingerprint(work: Any) -> str:
    """16 hex digits that name a piece of work: equal for equal JSON values, whatever their key order."""
    return hashlib.sha256(json.dumps(work, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()[
        :16
    ]


def claim(uri: str, want: dict[str, Any]) -> None:
    """Make a job's output ours: write what decides its objects at `uri`, or compare with what is there.

    want: JSON values. Raises TableError where the output was made with other ones, StorageError where it cannot be
    read or written.
    """
    if not storage.exists(uri):
        storage.write_bytes(uri, json.dumps(want, indent=1, sort_keys=True).encode())
        return
    have = json.loads(storage.read_bytes(uri))
    differing = [f"{k} {have.get(k)} there, {v} now" for k, v in want.items() if have.get(k) != v]
    if differing:
        raise TableError(
            f"{uri.rsplit('/', 2)[0]} was made with other options: {', '.join(differing)}; "
            "give the same ones or another output"
        )


def encode(table: pa.Table, name: str, metadata: dict[str, str] | None = None) -> bytes:
    """`table` as the bytes of one Parquet object of the table `name`; equal rows give equal bytes.

    metadata: goes into the file's metadata beside the table's name and schema version.
    Raises schemas.SchemaMismatch.
    """
    schemas.check(table, name)
    schema, options = schemas.arrow_schema(name), _options(name)
    facts = {**(schema.metadata or {}), **dict(sorted((metadata or {}).items())), ENCODING: encoding(name)}
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(schema).replace_schema_metadata(facts), sink, **options)
    return sink.getvalue().to_pybytes()


def encoding(name: str) -> str:
    """Names how `encode` turns rows of a table into bytes: who has an object of this name gets its bytes again."""
    return fingerprint([_options(name), pa.__version__])


@cache
def _options(name: str) -> dict[str, Any]:
    """Options of the Parquet writer."""
    leaves = _leaves(name)
    numbers = [path for path, kind in leaves.items() if kind in ("FLOAT", "DOUBLE")]
    blobs = [f.name for f in schemas.arrow_schema(name) if pa.types.is_binary(f.type)]
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": [c for c in leaves if c not in blobs and c not in numbers],
        "use_byte_stream_split": numbers,
        "write_statistics": [c for c in leaves if c not in blobs],
        "write_page_index": True,
        "write_page_checksum": True,
        "row_group_size": ROWS_PER_GROUP.get(name, 8192),
    }


def write(table: pa.Table, name: str, uri: str, object_name: str, metadata: dict[str, str] | None = None) -> str:
    """Write one object of the table `name` under `uri`, whole or not at all; returns the object's URI."""
    target = storage.join(storage.table_uri(uri, name), f"{object_name}.parquet")
    storage.write_bytes(target, encode(table, name, metadata))
    return target


def dataset(uri: str, name: str) -> ds.Dataset:
    """The table `name` at its folder or its parent, as a dataset. Raises TableError where there is none."""
    folder = storage.table_uri(uri, name)
    found = storage.objects(folder)
    if not found:
        raise TableError(f"no table {name} at {folder}; expected a folder of .parquet objects there")
    fs, _ = storage.filesystem(found[0])
    paths = [storage.filesystem(f)[1] for f in found]
    return ds.dataset(paths, schema=schemas.arrow_schema(name), format=CHECKED_PARQUET, filesystem=fs)


def read(uri: str, name: str, columns: list[str] | None = None, where: ds.Expression | None = None) -> pa.Table:
    """Rows of the table `name`. Raises TableError where there is no such table."""
    return dataset(uri, name).to_table(columns=columns, filter=where)


def footer(uri: str) -> pq.FileMetaData:
    """What one object says of itself: rows, row groups, metadata. Raises TableError for one that is damaged."""
    fs, path = storage.filesystem(uri)
    try:
        return pq.read_metadata(path, filesystem=fs)
    except pa.ArrowInvalid as error:
        raise TableError(
            f"{uri} is damaged ({str(error).splitlines()[0]}); delete it and run the same command again"
        ) from error


@cache
def _leaves(name: str) -> dict[str, str]:
    """Parquet column path, as the writer's options name it, and physical type of every leaf of a table."""
    sink = pa.BufferOutputStream()
    pq.write_table(schemas.arrow_schema(name).empty_table(), sink)
    columns = pq.ParquetFile(sink.getvalue()).schema
    return {c.path: c.physical_type for c in (columns.column(i) for i in range(len(columns)))}
