"""Every table as data: the YAML files beside this one are the only source of the Arrow schemas and of the docs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cache
from importlib import resources
from typing import Any

import pyarrow as pa
import yaml

TABLES = (
    "maps",
    "windows",
    "agent_tokens",
    "interactions",
    "directives",
    "scenarios",
    "jobs",
    "dead_letters",
)

_PRIMITIVES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "binary": pa.binary(),
}


class SchemaMismatch(ValueError):
    """A table that is about to be written, or was read, does not have the schema it should have."""


@dataclass(frozen=True)
class Field:
    """One column, or one member of a struct column. `frame` names the coordinate frame; null means not specified.

    metadata: further facts for the Arrow field, such as the shape and channels of an image.
    """

    name: str
    type: str
    doc: str
    nullable: bool = False
    unit: str = ""
    frame: str = ""
    members: tuple["Field", ...] = ()
    metadata: Mapping[str, str] = dataclass_field(default_factory=dict)

    def arrow(self) -> pa.Field:
        """The Arrow field, its unit, frame and meaning in the field's metadata."""
        kind = pa.struct([m.arrow() for m in self.members]) if self.type == "struct" else _arrow_type(self.type)
        metadata = {k: v for k, v in (("unit", self.unit), ("frame", self.frame), ("doc", self.doc)) if v}
        return pa.field(self.name, kind, nullable=self.nullable, metadata={**metadata, **self.metadata})


@dataclass(frozen=True)
class TableSchema:
    """One table: its version, meaning and fields."""

    name: str
    version: int
    doc: str
    fields: tuple[Field, ...]

    def arrow(self) -> pa.Schema:
        """The Arrow schema, with the table's name and schema version in its metadata."""
        metadata = {"sdiff.table": self.name, "sdiff.schema_version": str(self.version)}
        return pa.schema([f.arrow() for f in self.fields], metadata=metadata)


@cache
def table_schema(name: str) -> TableSchema:
    """The schema of the table called `name`, one of `TABLES`."""
    if name not in TABLES:
        raise KeyError(f"no table {name!r}; the tables are {', '.join(TABLES)}")
    raw = _load(name)
    return TableSchema(name, raw["version"], raw["doc"], tuple(_fields(raw["fields"])))


@cache
def arrow_schema(name: str) -> pa.Schema:
    """The Arrow schema of the table called `name`."""
    return table_schema(name).arrow()


def check(table: pa.Table, name: str) -> None:
    """Raise SchemaMismatch unless `table` is a valid object of the table called `name`.

    Checks names, types and order of the columns, nulls where none may be, and that all lists of a struct of lists
    have one length per row.
    """
    want = arrow_schema(name)
    if not table.schema.equals(want):
        differing = [
            f"{f.name}: {f.type}" for f in want if f.name not in table.column_names or table.schema.field(f.name) != f
        ]
        extra = sorted(set(table.column_names) - set(want.names))
        raise SchemaMismatch(
            f"table {name}: columns differ from schemas/{name}.yaml: want {differing}, unknown {extra}"
        )
    for field in want:
        column = table.column(field.name)
        if not field.nullable and column.null_count:
            raise SchemaMismatch(f"table {name}: {column.null_count} nulls in {field.name}, which is not nullable")
        if pa.types.is_struct(field.type):
            _check_struct_of_lists(column.combine_chunks(), f"{name}.{field.name}")


def _check_struct_of_lists(array: pa.StructArray, where: str) -> None:
    lengths: pa.Array | None = None
    for i, member in enumerate(array.type):
        values = array.field(i)
        if not member.nullable and values.null_count:
            raise SchemaMismatch(f"{where}.{member.name}: {values.null_count} nulls, which is not nullable")
        if not pa.types.is_list(member.type):
            continue
        this = values.value_lengths()
        if lengths is not None and not this.equals(lengths):
            raise SchemaMismatch(f"{where}.{member.name}: list lengths differ from the other lists of the struct")
        lengths = this


def _load(name: str) -> Any:
    return yaml.safe_load(resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def _parts() -> Any:
    return _load("parts")


def _fields(raw: list[dict[str, Any]]) -> list[Field]:
    fields: list[Field] = []
    for entry in raw:
        if set(entry) == {"fields_from"}:
            fields += _fields(_parts()[entry["fields_from"]])
            continue
        members = _fields(_parts()[entry["fields_from"]]) if "fields_from" in entry else []
        if entry.get("lists"):  # one list per field, whose items may be null where the field itself may be
            members = [Field(m.name, f"list<{m.type}>", m.doc, False, m.unit, m.frame) for m in members]
        members += _fields(entry.get("fields", []))
        plain = {k: v for k, v in entry.items() if k not in ("fields", "fields_from", "lists")}
        fields.append(Field(**plain, members=tuple(members)))
    return fields


def _arrow_type(text: str) -> pa.DataType:
    if text in _PRIMITIVES:
        return _PRIMITIVES[text]
    inner = re.fullmatch(r"list<(.+)>", text)
    if not inner:
        raise ValueError(f"unknown type {text!r} in schemas/")
    return pa.list_(_arrow_type(inner.group(1)))
