"""SQL over the tables, wherever they lie: DuckDB views over their Parquet objects."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

import schemas
from sdiff import storage
from sdiff.scene import STEPS_PAST

if TYPE_CHECKING:
    from rich.table import Table

T0 = STEPS_PAST + 1
"""t0 in a list of steps, as SQL counts: from 1."""

UNNESTED = {"agents": "scenarios", "window_agents": "windows"}
"""Views with one row per agent observed at t0, and the tables they come from."""


OBJECTS_AT_ONCE = 256
"""Objects in a part of a table."""

WIDE = 10
"""A result with more columns than this does not fit a terminal side by side."""


class QueryError(ValueError):
    """A query that cannot be run: says why and which views there are."""


def connect(data_uri: str, *, sealed: bool = False) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with one view per table found at `data_uri`, a folder of tables on any fsspec URI.

    Views: windows, agent_tokens, maps, scenarios, jobs, dead_letters; `agents` (one row per agent of a scenario at t0)
    and `window_agents` (the same of a window). sealed: it reaches nothing outside that folder, whatever a condition
    asks. Raises QueryError where there is no table at all.
    """
    parent = parent_uri(data_uri)
    fs = storage.snapshot(parent, schemas.TABLES)
    con = _connection(fs)
    if sealed:
        folder = storage.absolute(parent) if storage.is_local(fs) else parent
        con.execute(f"SET allowed_directories = [{_quoted(folder)}]")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
    for name in schemas.TABLES:
        if found := storage.objects(storage.join(parent, name)):
            _add_view(con, name, found)
    for view, table in UNNESTED.items():
        if table in views(con):
            brief = "agents_t0" in con.table(table).columns
            con.execute(f"CREATE VIEW {view} AS {_unnested(table, brief)}")
    if not views(con):
        raise no_table(data_uri, schemas.TABLES)
    return con


def no_table(data_uri: str, names: Sequence[str]) -> QueryError:
    """What to raise where none of the tables `names` is there."""
    expected = f"a folder that holds one of {', '.join(names)}, each a folder of .parquet objects"
    return QueryError(f"no table at {data_uri}; expected {expected}")


def parts(data_uri: str, table: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connections in which the view `table` is one part after the other of the table at `data_uri`; none: no table.

    What DuckDB keeps of every object that a view names, some 0.1 MB, is gone before the next part.
    """
    parent = parent_uri(data_uri)
    fs = storage.snapshot(parent, [table])
    found = storage.objects(storage.join(parent, table))
    for i in range(0, len(found), OBJECTS_AT_ONCE):
        with _connection(fs) as con:
            _add_view(con, table, found[i : i + OBJECTS_AT_ONCE])
            yield con


def _connection(fs: Any) -> duckdb.DuckDBPyConnection:
    """A connection that reads what lies on the filesystem `fs`."""
    con = duckdb.connect()
    con.execute("SET enable_progress_bar = false")
    con.execute("SET parquet_metadata_cache = true")
    if not storage.is_local(fs):
        con.register_filesystem(fs)
    return con


def _add_view(con: duckdb.DuckDBPyConnection, name: str, objects: list[str]) -> None:
    fs, _ = storage.filesystem(objects[0])
    files = [storage.filesystem(f)[1] for f in objects] if storage.is_local(fs) else objects
    con.read_parquet(files, union_by_name=True).create_view(name)


def condition(text: str | None, said_by: str) -> str:
    """A person's condition as SQL that stands after WHERE; `true` where there is none. said_by: the option's name.

    Raises QueryError for what is not one expression: SQL that ends the condition and goes on could do anything.
    """
    if not text:
        return "true"
    try:
        for opened, closed in ("()", "[]"):  # what closes the one and goes on fits not into the other
            duckdb.SQLExpression(f"{opened}{text}\n{closed}")
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise QueryError(f"{said_by}: {text!r}: {reason}; expected one SQL condition, such as region = 'x'") from error
    return f"({text}\n)"  # a comment at its end ends with the line


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def parent_uri(data_uri: str) -> str:
    """The folder of tables at `data_uri`, given that folder or one of its tables."""
    parent, last = data_uri.rstrip("/"), data_uri.rstrip("/").rsplit("/", 1)[-1]
    return parent.rsplit("/", 1)[0] if last in schemas.TABLES and storage.objects(parent) else parent


def run(sql: str, data_uri: str, *, sealed: bool = False) -> pa.Table:
    """The result of one SQL statement over the tables at `data_uri`; sealed: see `connect`. Raises QueryError."""
    with connect(data_uri, sealed=sealed) as con:
        try:
            result = con.sql(sql)
            return pa.table({}) if result is None else result.to_arrow_table()
        except duckdb.Error as error:
            # After an unknown name DuckDB proposes names of its own catalogue, which help nobody.
            reason = str(error).split("\n")[0] if isinstance(error, duckdb.CatalogException) else str(error)
            raise QueryError(f"{reason}\nviews at {data_uri}: {', '.join(views(con))}") from error


def views(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the views of a connection, sorted."""
    rows = con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
    return [name for (name,) in rows]


def format_table(table: pa.Table, limit: int = 40) -> "Table":
    """The first `limit` rows as a table for the terminal; a wide result stands on its side, its first rows as columns.

    Long values are shortened: lists, structs and images to what they hold.
    """
    from rich.table import Table
    from rich.text import Text

    on_its_side = table.num_columns > WIDE
    limit = min(limit, 3) if on_its_side else limit
    rows = [[_cell(v) for v in row.values()] for row in table.slice(0, limit).to_pylist()]
    shown = Table(show_edge=False, header_style="bold", caption=_row_count(len(table), limit), caption_justify="left")
    if on_its_side:
        shown.add_column("column", no_wrap=True)
        for i in range(len(rows)):
            shown.add_column(f"row {i + 1}", overflow="fold")
        for name, *values in zip(table.column_names, *rows, strict=True):
            shown.add_row(Text(name, style="bold"), *map(Text, values))
        return shown
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        shown.add_column(Text(field.name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown


def _unnested(table: str, brief: bool) -> str:
    """SELECT with one row per agent observed at t0. brief: the table has the column `agents_t0`."""
    members = {
        f"{f.name}.{m.name}": m
        for f in schemas.table_schema(table).fields
        if f.name.startswith("agents")
        for m in f.members
    }
    columns = schemas.arrow_schema(table)
    nested = [f.name for f in columns if pa.types.is_nested(f.type) or pa.types.is_binary(f.type)]
    hidden = [name for name in nested if brief or name != "agents_t0"]
    # One number per agent is unnested and all else looked up by it: so a query reads only the lists that it names.
    value: dict[str, str] = {}
    for path, member in members.items():
        if path.startswith("agents.") or brief:  # what agents_t0 has takes the place of the same in agents
            value[member.name] = f"{path}[agent]{f'[{T0}]' if member.type.startswith('list<list<') else ''}"
    speed = f"sqrt({value['vx_mps']} ** 2 + {value['vy_mps']} ** 2)"
    shown = ", ".join(f"{sql} AS {name}" for name, sql in value.items() if name != "valid")
    counted = "agents_t0.valid" if brief else "agents.kind"
    return (
        f"SELECT * EXCLUDE (agent, {', '.join(hidden)}), {shown}, {speed} AS speed_mps "
        f"FROM (SELECT *, unnest(range(1, len({counted}) + 1)) AS agent FROM {table}) WHERE {value['valid']}"
    )


def _row_count(rows: int, limit: int) -> str:
    return f"{limit} of {rows:,} rows" if rows > limit else f"{rows:,} row{'' if rows == 1 else 's'}"


def _cell(value: Any, longest: int = 60) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.1f}"
        case bytes():
            return f"{len(value):,} bytes"
        case list():
            text = ", ".join(map(_cell, value[:4]))
            return f"[{text}]" if len(value) <= 4 and len(text) <= longest else f"list of {len(value)}"
        case dict() if any(isinstance(v, list | dict) for v in value.values()):
            return f"struct of {', '.join(value)}"
        case dict():
            return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    text = str(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
