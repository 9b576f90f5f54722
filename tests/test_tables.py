"""Tables: equal rows are equal bytes, and a table holds only what its schema says."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from traffic import logged, traffic

import schemas
from sdiff import tables
from sdiff.columns import agents_from_arrow, agents_to_arrow


def letters(*sources: str) -> pa.Table:
    """An object of dead_letters, one row per source."""
    rows = [{"source": s, "record": None, "stage": "read", "reason": "empty file"} for s in sources]
    return pa.Table.from_pylist(rows, schema=schemas.arrow_schema("dead_letters"))


def test_rows_come_back_from_the_folder_and_from_its_parent(tmp_path: Path) -> None:
    tables.write(letters("a.json"), "dead_letters", str(tmp_path), "one")
    tables.write(letters("b.json"), "dead_letters", str(tmp_path / "dead_letters"), "two")
    assert sorted(p.name for p in (tmp_path / "dead_letters").iterdir()) == ["one.parquet", "two.parquet"]
    for uri in (tmp_path, tmp_path / "dead_letters"):
        assert tables.read(str(uri), "dead_letters")["source"].to_pylist() == ["a.json", "b.json"]


def test_columns_and_rows_can_be_chosen(tmp_path: Path) -> None:
    tables.write(letters("a.json", "b.json"), "dead_letters", str(tmp_path), "one")
    chosen = tables.read(str(tmp_path), "dead_letters", ["stage"], pc.field("source") == "b.json")
    assert chosen.to_pydict() == {"stage": ["read"]}


def test_a_table_lies_on_an_object_store() -> None:
    tables.write(letters("a.json"), "dead_letters", "memory://tables", "one")
    assert tables.read("memory://tables", "dead_letters").num_rows == 1


@pytest.mark.parametrize("name", schemas.TABLES)
def test_an_empty_object_of_every_table_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    tables.write(schemas.arrow_schema(name).empty_table(), name, str(tmp_path), "none")
    back = tables.read(str(tmp_path), name)
    assert back.num_rows == 0
    assert back.schema.equals(schemas.arrow_schema(name))


def test_equal_rows_are_equal_bytes_however_they_are_chunked() -> None:
    whole = letters("a.json", "b.json")
    halves = pa.concat_tables([letters("a.json"), letters("b.json")])
    assert halves.column(0).num_chunks == 2
    assert tables.encode(whole, "dead_letters") == tables.encode(halves, "dead_letters")
    assert tables.encode(whole, "dead_letters") != tables.encode(letters("b.json", "a.json"), "dead_letters")


def test_an_object_says_its_table_version_and_how_it_was_made(tmp_path: Path) -> None:
    path = tables.write(letters("a.json"), "dead_letters", str(tmp_path), "one", {"sdiff.stride_s": "0.5"})
    metadata = pq.read_schema(path).metadata
    assert metadata[b"sdiff.table"] == b"dead_letters"
    assert metadata[b"sdiff.schema_version"] == b"1"
    assert metadata[b"sdiff.stride_s"] == b"0.5"


def test_an_object_of_another_schema_is_refused_and_not_written(tmp_path: Path) -> None:
    with pytest.raises(schemas.SchemaMismatch, match="reason"):
        tables.write(letters("a.json").drop_columns(["reason"]), "dead_letters", str(tmp_path), "one")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(tables.TableError, match=f"no table windows at {tmp_path}/windows"):
        tables.read(str(tmp_path), "windows")


def test_a_truncated_object_is_named(tmp_path: Path) -> None:
    path = Path(tables.write(letters("a.json"), "dead_letters", str(tmp_path), "one"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises((OSError, ValueError), match=r"one\.parquet"):
        tables.read(str(tmp_path), "dead_letters")


def test_a_fingerprint_depends_on_the_work_and_not_on_the_order_of_its_keys() -> None:
    assert tables.fingerprint({"a": 1, "b": [2, 3]}) == tables.fingerprint({"b": [2, 3], "a": 1})
    assert tables.fingerprint({"a": 1, "b": [2, 3]}) != tables.fingerprint({"a": 1, "b": [3, 2]})
    assert len(tables.fingerprint("x")) == 16


def test_windows_of_the_version_before_are_read_with_nulls_for_what_they_lack(tmp_path: Path) -> None:
    scene = traffic([0, 20], [0, 0])
    whole = agents_to_arrow([logged(scene)], generated=False)
    added = ("size_known", "repaired", "on_drivable_area")
    members = [f for f in whole.type if f.name not in added]
    older = pa.StructArray.from_arrays([whole.field(f.name) for f in members], fields=members)
    (tmp_path / "windows").mkdir()
    pq.write_table(pa.table({"agents": older}), tmp_path / "windows" / "a.parquet")
    (agents,) = agents_from_arrow(tables.read(str(tmp_path), "windows", ["agents"])["agents"])
    assert agents.size_known is None and agents.agent_id.tolist() == scene.agent_id.tolist()
