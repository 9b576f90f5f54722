"""SQL over the tables answers what a person would ask of scenarios and windows."""

import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from traffic import logged

import schemas
from sdiff import KINDS, columns, query, tables
from sdiff.metrics.brief import agents_t0, scene_columns
from sdiff.scene import Agents, AgentTokens, SceneToken

STEPS = 41
BRIEF = {"kinds": pa.string(), "max_braking_mps2": pa.float32(), "ego_min_distance_m": pa.float32()}


def agents_of(kinds: list[str], speed_mps: float = 5.0, generated: bool = False) -> Agents:
    """Agents in a file along x, 10 m apart, the first one the AV, all driving along +x."""
    n = len(kinds)
    times = (np.arange(STEPS) - 20) * 0.1
    start = -10.0 * np.arange(n)[:, None]
    zeros = np.zeros((n, STEPS), np.float32)
    return Agents(
        agent_id=np.array([f"agent{i}" for i in range(n)], str),
        kind=np.array([KINDS.index(k) for k in kinds], np.int8),
        length_m=np.full(n, 4.5, np.float32),
        width_m=np.full(n, 1.9, np.float32),
        is_ego=np.arange(n) == 0,
        x_m=(start + speed_mps * times).astype(np.float32),
        y_m=zeros.copy(),
        heading_rad=zeros,
        vx_mps=zeros + np.float32(speed_mps),
        vy_mps=zeros.copy(),
        valid=np.ones((n, STEPS), bool),
        score=np.full(n, 0.9, np.float32) if generated else None,
        token_index=np.where(np.arange(n) == 1, 0, -1).astype(np.int32) if generated else None,
    )


def scenario_rows(scenes: list[Agents], **constant: Any) -> pa.Table:
    """Rows of table scenarios around `scenes`; other columns are fillers of their type."""
    n = len(scenes)
    briefly = [scene_columns(s) for s in scenes]
    special = {
        "agents": columns.agents_to_arrow(scenes, generated=True),
        "agents_t0": columns.agents_t0_to_arrow([agents_t0(s) for s in scenes]),
        **{name: pa.array([s[name] for s in briefly], kind, from_pandas=True) for name, kind in BRIEF.items()},
        "tokens": columns.tokens_to_arrow([AgentTokens.unspecified(0)] * n),
        "scene_token": columns.scene_tokens_to_arrow([SceneToken()] * n),
        "scenario_id": pa.array([f"scenario{i}" for i in range(n)]),
        "n_agents": pa.array([len(s) for s in scenes], pa.int32()),
    }
    return _filled("scenarios", n, {**special, **constant})


def window_rows(scenes: list[Agents], **constant: Any) -> pa.Table:
    """Rows of table windows around `scenes`; other columns are fillers of their type."""
    n = len(scenes)
    lights = schemas.arrow_schema("windows").field("lights").type
    special = {
        "agents": columns.agents_to_arrow([logged(s) for s in scenes], generated=False),
        "scene_token": columns.scene_tokens_to_arrow([SceneToken()] * n),
        "window_id": pa.array([f"window{i}" for i in range(n)]),
        "n_agents": pa.array([len(s) for s in scenes], pa.int32()),
        "lights": pa.array([{f.name: [] for f in lights}] * n, lights),
    }
    return _filled("windows", n, {**special, **constant})


def _filled(name: str, n: int, known: dict[str, Any]) -> pa.Table:
    fillers = {pa.string(): "x", pa.bool_(): False, pa.binary(): bytes(8 * 256 * 256)}
    schema = schemas.arrow_schema(name)
    arrays = []
    for field in schema:
        value = known.get(field.name, None if field.nullable else fillers.get(field.type, 0))
        arrays.append(value if isinstance(value, pa.Array) else pa.array([value] * n, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


@pytest.fixture
def data_uri(tmp_path):
    scenes = [agents_of(["car", "bus"], generated=True), agents_of(["car", "pedestrian", "car"], 8.0, True)]
    tables.write(scenario_rows(scenes[:1], has_collision=False, directive="free"), "scenarios", str(tmp_path), "a")
    tables.write(scenario_rows(scenes[1:], has_collision=True, directive="cut_in"), "scenarios", str(tmp_path), "b")
    return str(tmp_path)


def test_a_view_is_all_objects_of_its_table(data_uri):
    assert query.run("SELECT count(*) AS n FROM scenarios", data_uri)["n"].to_pylist() == [2]
    got = query.run("SELECT directive FROM scenarios WHERE has_collision", data_uri)
    assert got["directive"].to_pylist() == ["cut_in"]


def test_the_tables_own_folder_serves_as_well_as_its_parent(data_uri):
    assert query.run("SELECT sum(n_agents) AS n FROM scenarios", f"{data_uri}/scenarios")["n"].to_pylist() == [5]


def test_agents_are_rows_with_their_values_at_t0(data_uri):
    got = query.run("SELECT * FROM agents WHERE directive = 'cut_in' ORDER BY x_m DESC", data_uri).to_pylist()
    assert [r["kind"] for r in got] == ["car", "pedestrian", "car"]
    assert [r["x_m"] for r in got] == [0.0, -10.0, -20.0]
    assert [r["is_ego"] for r in got] == [True, False, False]
    assert all(math.isclose(r["speed_mps"], 8.0) for r in got)
    assert [r["token_index"] for r in got] == [-1, 0, -1]


def test_an_agent_not_observed_at_t0_has_no_row(tmp_path):
    scene = agents_of(["car", "truck"])
    scene.valid[1, 20] = False
    tables.write(window_rows([scene]), "windows", str(tmp_path), "a")
    assert query.run("SELECT kind FROM window_agents", str(tmp_path))["kind"].to_pylist() == ["car"]


def test_an_object_store_answers_like_a_folder(data_uri):
    uri = "memory://query-test"
    scenes = [agents_of(["car", "bus", "cyclist"], generated=True)]
    tables.write(scenario_rows(scenes), "scenarios", uri, "a")
    got = query.run("SELECT kind, count(*) AS n FROM agents GROUP BY kind ORDER BY kind", uri).to_pylist()
    assert got == [{"kind": "bus", "n": 1}, {"kind": "car", "n": 1}, {"kind": "cyclist", "n": 1}]


def test_an_absent_view_is_answered_with_those_there_are(data_uri):
    with pytest.raises(query.QueryError, match=r"(?s)windows does not exist.*views at .*: agents, scenarios"):
        query.run("SELECT * FROM windows", data_uri)


def test_bad_sql_names_its_mistake(data_uri):
    with pytest.raises(query.QueryError, match="speeed"):
        query.run("SELECT speeed FROM agents", data_uri)


@pytest.mark.parametrize(
    "text",
    ["true -- all", "region IN ('a)', 'b]')", "list_contains([1, 2], 1)", "(n_agents > 0) OR (region = ';')"],
)
def test_a_condition_is_one_expression(data_uri, text):
    sql = f"SELECT count(*) AS n FROM scenarios WHERE {query.condition(text, 'where')} OR true"
    assert query.run(sql, data_uri).to_pylist() == [{"n": 2}]


@pytest.mark.parametrize(
    "text",
    [
        "true; COPY (SELECT 42) TO '{file}'; SELECT 1",
        "true) UNION ALL SELECT (1",
        "true) OR (true",
        "true LIMIT 1",
        "true] OR [true",
        "true /*",
        "'",
        "SELECT true",
    ],
)
def test_what_is_more_than_a_condition_is_refused(text, tmp_path):
    with pytest.raises(query.QueryError, match=r"places\.where: .*expected one SQL condition"):
        query.condition(text.replace("{file}", str(tmp_path / "x")), "places.where")
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_connection_reaches_its_tables_and_nothing_else(data_uri, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("hush")
    read = f"SELECT content FROM read_text('{outside}/secret.txt')"
    assert query.run(read, data_uri).to_pylist() == [{"content": "hush"}]
    count = "SELECT count(*) AS n FROM scenarios"
    assert query.run(count, data_uri, sealed=True).to_pylist() == [{"n": 2}]
    for sql in (read, f"COPY (SELECT 1) TO '{outside}/x'", "SET enable_external_access = true"):
        with pytest.raises(query.QueryError):
            query.run(sql, data_uri, sealed=True)
    assert [p.name for p in outside.iterdir()] == ["secret.txt"]


def test_a_place_without_tables_says_so(tmp_path):
    with pytest.raises(query.QueryError, match=r"no table at .*expected a folder that holds one of"):
        query.run("SELECT 1", str(tmp_path))


def test_the_printed_table_is_readable(data_uri):
    from rich.console import Console

    out = io.StringIO()
    result = query.run("SELECT scenario_id, directive, min_ttc_s, 1/3 AS third FROM scenarios", data_uri)
    Console(file=out, width=100).print(query.format_table(result, limit=1))
    text = out.getvalue()
    assert "directive" in text and "0.3333" in text and "null" in text and "1 of 2 rows" in text


def test_a_name_that_looks_like_markup_is_printed_as_it_is(data_uri):
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=100).print(query.format_table(query.run("SELECT '[/x]' AS \"[b]\"", data_uri)))
    assert "[b]" in out.getvalue() and "[/x]" in out.getvalue()


def test_a_wide_row_is_printed_on_its_side(data_uri):
    from rich.console import Console

    out = io.StringIO()
    result = query.run("SELECT * FROM scenarios", data_uri)
    Console(file=out, width=100).print(query.format_table(result))
    lines = out.getvalue().splitlines()
    assert sum("has_collision" in line and "false" in line and "true" in line for line in lines) == 1
    assert max(len(line) for line in lines) <= 100 and len(lines) < 80
