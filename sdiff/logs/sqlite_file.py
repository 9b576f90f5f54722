"""SQLite files from anywhere, read without trusting them. Source: https://www.sqlite.org/security.html"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from sdiff import storage
from sdiff.logs.driving_log import BadRecord

MAGIC = b"SQLite format 3\0"
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 64 << 20,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 20,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 2,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
}
"""Largest string or row [bytes], and how complex a schema and a query may be."""
OPERATIONS, OPERATIONS_PER_BYTE = 20_000_000, 10
"""Most operations of SQLite's engine that one file may take, plus so many per byte: a whole one takes under 1 each."""
OPERATIONS_PER_CHECK = 100_000
ROWS_AT_ONCE = 50_000
FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What a broken file raises; the second where a name or a message of SQLite holds its bytes."""


class Database:
    """A file's tables. Every method raises BadRecord where the file cannot be used."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection, self._name = connection, name

    def rows(self, sql: str, *parameters: object) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a query, some at a time."""
        try:
            cursor = self._connection.execute(sql, parameters)
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                yield rows
        except FAULTS as error:
            raise BadRecord(f"{self._name} cannot be read: {error}; expected a whole SQLite file with {sql}") from error

    def all(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return [row for some in self.rows(sql, *parameters) for row in some]

    def numbers(self, sql: str, *parameters: object) -> NDArray[np.float64]:
        """All rows of a query as numbers, (columns, rows); NaN for what is no number."""
        found = self.rows(sql, *parameters)
        parts = [np.array([_numbers(column) for column in zip(*some, strict=True)]) for some in found]
        return np.concatenate(parts, axis=1) if parts else np.zeros((sql.partition(" FROM ")[0].count(",") + 1, 0))

    def tables(self) -> set[str]:
        """Names of the tables; views are none."""
        return {str(name) for (name,) in self.all("SELECT name FROM sqlite_master WHERE type = 'table'")}


@contextmanager
def opened(uri: str) -> Iterator[Database]:
    """The SQLite file at `uri`: only whole tables can be read, nothing written, no function or view of it runs.

    Raises BadRecord where it is no such file, storage.StorageError where it cannot be read.
    """
    fs, path = storage.filesystem(uri)
    if storage.is_local(fs):
        size = storage.size(uri)
        with _connected(path, uri.rsplit("/", 1)[-1], size) as database:
            yield database
        return
    with tempfile.NamedTemporaryFile(suffix=".db") as copy:
        size = copy.write(storage.read_bytes(uri))
        copy.flush()
        with _connected(copy.name, uri.rsplit("/", 1)[-1], size) as database:
            yield database


@contextmanager
def _connected(path: str, name: str, size: int) -> Iterator[Database]:
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BadRecord(f"{name} is no SQLite file: it does not begin with {MAGIC[:15].decode()!r}")
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)
    try:
        for limit, value in LIMITS.items():
            connection.setlimit(limit, value)
        for pragma in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON", "mmap_size = 0"):
            connection.execute(f"PRAGMA {pragma}")
        computed = (
            "SELECT t.name FROM sqlite_master t, pragma_table_xinfo(t.name) c WHERE t.type = 'table' AND c.hidden"
        )
        if found := connection.execute(computed).fetchone():
            raise BadRecord(f"{name} has a table with computed columns, {found[0]}; expected values only")
        left = (OPERATIONS + OPERATIONS_PER_BYTE * size) // OPERATIONS_PER_CHECK

        def exhausted() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        connection.set_progress_handler(exhausted, OPERATIONS_PER_CHECK)
        connection.set_authorizer(_allow)
        yield Database(connection, name)
    except FAULTS as error:
        raise BadRecord(f"{name} cannot be read: {error}; expected a whole SQLite file") from error
    finally:
        connection.close()


def _allow(action: int, _table: str | None, _column: str | None, _file: str | None, view: str | None) -> int:
    """Reading tables only: no function, recursion, pragma or attached file, and nothing on a view's behalf."""
    allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ) and view is None
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _numbers(column: tuple[Any, ...]) -> NDArray[np.float64]:
    try:
        return np.array(column, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array([x if isinstance(x, int | float) else np.nan for x in column], np.float64)
