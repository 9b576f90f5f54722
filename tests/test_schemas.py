"""Schemas: every field says what it is, and nothing else gets into a table."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import schemas

UNITS = {"_m": "m", "_rad": "rad", "_mps": "m/s", "_mps2": "m/s2", "_s": "s", "_us": "us"}
ROOT = Path(__file__).parent.parent


def all_fields() -> list[tuple[str, schemas.Field]]:
    tables = [(name, schemas.table_schema(name).fields) for name in schemas.TABLES]
    pairs = [(f"{name}.{f.name}", f) for name, fields in tables for f in fields]
    return pairs + [(f"{path}.{m.name}", m) for path, f in pairs for m in f.members]


def letters(**changes: pa.Array) -> pa.Table:
    """A valid object of dead_letters with one row, some columns changed."""
    columns = {name: pa.array(["x"]) for name in ("source", "record", "stage", "reason")} | changes
    arrays = list(columns.values())
    want = schemas.arrow_schema("dead_letters")
    fields = [
        want.field(name).with_type(array.type) if name in want.names else pa.field(name, array.type)
        for name, array in columns.items()
    ]
    return pa.table(arrays, schema=pa.schema(fields, want.metadata))


def scenario_agents(n_ids: int, n_kinds: int) -> pa.Table:
    """Table `scenarios` with one row whose agents have n_ids identifiers and n_kinds kinds."""
    want = schemas.arrow_schema("scenarios")
    empty = {f.name: [] for f in want.field("agents").type}
    agents = {f.name: [0] for f in want.field("agents").type if not pa.types.is_nested(f.type.value_type)}
    row = {"agents": empty | agents | {"agent_id": ["a"] * n_ids, "kind": ["car"] * n_kinds}}
    row["agents"] |= {"is_ego": [False] * n_ids}
    row["agents"] |= {k: [[0.0] * 41] * n_ids for k in ("x_m", "y_m", "heading_rad", "vx_mps", "vy_mps")}
    row["agents"] |= {"valid": [[True] * 41] * n_ids}
    row["agents"] |= {k: [1.0] * n_ids for k in ("length_m", "width_m", "score")} | {"token_index": [-1] * n_ids}
    plain = {"string": "x", "int64": 1, "int32": 1, "float": 1.0, "double": 1.0, "bool": True}
    for field in want:
        if field.name in ("tokens", "agents_t0"):
            row[field.name] = {m.name: [] for m in field.type}
        elif field.name == "scene_token":
            row["scene_token"] = {m.name: None for m in field.type}
        elif field.name != "agents":
            row[field.name] = plain[str(field.type)]
    return pa.Table.from_pylist([row], schema=want)


def test_every_field_says_what_it_means() -> None:
    assert [path for path, field in all_fields() if not field.doc.strip()] == []


def test_a_measured_field_has_the_unit_of_its_name() -> None:
    suffixes = sorted(UNITS, key=len, reverse=True)
    wants = {path: next((UNITS[s] for s in suffixes if path.endswith(s)), "") for path, _ in all_fields()}
    assert {path: field.unit for path, field in all_fields()} == wants


def test_a_position_a_heading_and_a_velocity_name_their_frame() -> None:
    placed = re.compile(r"(\b|_)(x_m|y_m|heading_rad|vx_mps|vy_mps)$")
    frames = {path: field.frame for path, field in all_fields() if placed.search(path)}
    assert len(frames) > 20
    assert {path for path, frame in frames.items() if frame not in ("window", "map")} == set()


def test_unit_frame_and_meaning_travel_in_the_arrow_field() -> None:
    for path, field in all_fields():
        metadata = {k.decode(): v.decode() for k, v in field.arrow().metadata.items()}
        said = (metadata.get("doc"), metadata.get("unit", ""), metadata.get("frame", ""))
        assert said == (field.doc, field.unit, field.frame), path


@pytest.mark.parametrize("name", schemas.TABLES)
def test_a_table_knows_its_name_and_version(name: str) -> None:
    metadata = schemas.arrow_schema(name).metadata
    assert metadata[b"sdiff.table"].decode() == name
    assert int(metadata[b"sdiff.schema_version"]) >= 1


def test_numbers_are_float32_but_coordinates_on_the_map_are_float64() -> None:
    windows = schemas.arrow_schema("windows")
    assert windows.field("origin_x_m").type == pa.float64()
    assert schemas.arrow_schema("maps").field("x_m").type == pa.list_(pa.float64())
    assert windows.field("agents").type.field("x_m").type == pa.list_(pa.list_(pa.float32()))
    assert windows.field("t0_us").type == pa.int64()
    assert windows.field("map_bev").type == pa.binary()


def test_agents_are_a_struct_of_lists_and_scenarios_add_score_and_token() -> None:
    logged = schemas.arrow_schema("windows").field("agents").type
    generated = schemas.arrow_schema("scenarios").field("agents").type
    assert all(pa.types.is_list(f.type) for f in generated)
    assert {f.name for f in generated} - {f.name for f in logged} == {"score", "token_index"}


def test_a_valid_object_passes() -> None:
    schemas.check(letters(), "dead_letters")
    schemas.check(letters(record=pa.array([None], pa.string())), "dead_letters")
    schemas.check(scenario_agents(2, 2).slice(0, 0), "scenarios")


def test_a_wrong_type_is_refused_and_named() -> None:
    with pytest.raises(schemas.SchemaMismatch, match="stage"):
        schemas.check(letters(stage=pa.array([1])), "dead_letters")


def test_an_unknown_column_is_refused_and_named() -> None:
    with pytest.raises(schemas.SchemaMismatch, match="surprise"):
        schemas.check(letters(surprise=pa.array(["x"])), "dead_letters")


def test_a_missing_column_is_refused_and_named() -> None:
    with pytest.raises(schemas.SchemaMismatch, match="reason"):
        schemas.check(letters().drop_columns(["reason"]), "dead_letters")


def test_columns_out_of_order_are_refused() -> None:
    with pytest.raises(schemas.SchemaMismatch):
        schemas.check(letters().select(["record", "source", "stage", "reason"]), "dead_letters")


def test_a_null_is_refused_where_none_may_be() -> None:
    with pytest.raises(schemas.SchemaMismatch, match="1 nulls in reason"):
        schemas.check(letters(reason=pa.array([None], pa.string())), "dead_letters")


def test_lists_of_unequal_length_in_one_row_are_refused() -> None:
    schemas.check(scenario_agents(1, 1), "scenarios")
    with pytest.raises(schemas.SchemaMismatch, match="list lengths differ"):
        schemas.check(scenario_agents(1, 2), "scenarios")


def test_a_table_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="no table 'wheels'"):
        schemas.arrow_schema("wheels")


def test_the_page_of_tables_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
