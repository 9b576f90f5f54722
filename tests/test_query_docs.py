"""docs/query.md holds what it says: every question runs and is answered rightly, every reader reads the tables."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_query import agents_of, scenario_rows, window_rows

import schemas
from sdiff import query, tables
from sdiff.scene import Agents

PAGE = (Path(__file__).parents[1] / "docs" / "query.md").read_text(encoding="utf-8")


def blocks(language: str) -> dict[str, list[str]]:
    """Code blocks of a language by the heading that they stand under."""
    parts = re.split(r"^##+ (.+)$", PAGE, flags=re.M)[1:]
    found = {
        title: re.findall(rf"```{language}\n(.+?)```", text, re.S)
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: code for title, code in found.items() if code}


QUESTIONS = {title: sql for title, (sql,) in blocks("sql").items()}


def brakes_beside_the_av() -> Agents:
    """Three cars in a file; the second, 1 m behind the AV, falls from 10 to 6 m/s within a second."""
    scene = agents_of(["car", "car", "car"], generated=True)
    x, vx = scene.x_m.copy(), scene.vx_mps.copy()
    x[1] = x[0] - 4.5 - 1.0
    vx[1] = np.interp(np.arange(vx.shape[1]), [10, 20], [10.0, 6.0])
    return dataclasses.replace(scene, x_m=x, vx_mps=vx)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder `made` of five scenarios and the job that planned eight; folder `data` of a window."""
    folder = tmp_path_factory.mktemp("query")
    scenes = [
        *(agents_of(["car", "car"], speed, generated=True) for speed in (5.0, 5.1, 8.0)),
        agents_of(["car", "pedestrian", "bus"], generated=True),
        brakes_beside_the_av(),
    ]
    floats = {
        "target_min_ttc_s": [0.05, 0.8, 1.4, None, None],
        "ego_min_ttc_s": [0.05, 0.08, 1.4, None, 4.0],
    }
    rows = scenario_rows(
        scenes,
        directive=pa.array(["cut_in"] * 3 + ["free"] * 2),
        region=pa.array(["town", "town", "city", "city", "city"]),
        window_id=pa.array(["w0", "w0", "w1", "w2", "w3"]),
        job_id="job",
        lanes_same_direction=pa.array([2, 3, 2, 1, None], pa.int32()),
        **{name: pa.array(values, pa.float32()) for name, values in floats.items()},
    )
    tables.write(rows, "scenarios", str(folder / "made"), "a")
    plan = {"job_id": "job", "seed": 0, "model_id": "m", "sampler": "s", "job": "{}"}
    units = [
        {**plan, "unit_id": f"u{i}", "unit_index": i, "directive": directive, "n_scenarios": n}
        for i, (directive, n) in enumerate([("cut_in", 2), ("cut_in", 2), ("free", 2), ("tailgating", 2)])
    ]
    tables.write(pa.Table.from_pylist(units, schema=schemas.arrow_schema("jobs")), "jobs", str(folder / "made"), "job")
    tables.write(window_rows([agents_of(["car"])]), "windows", str(folder / "data"), "a")
    return folder


@pytest.fixture(autouse=True)
def in_folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(made)
    yield


ANSWERS: dict[str, list[tuple[Any, ...]]] = {
    "Cut-ins under 1 s to collision on roads with two lanes": [("scenario0", "town", pytest.approx(0.05))],
    "Coverage: directive by region by severity": [
        ("cut_in", "city", 0, 1, 0, 0),
        ("cut_in", "town", 2, 0, 0, 0),
        ("free", "city", 0, 0, 1, 1),
    ],
    "Yield: made of planned, per directive": [
        ("tailgating", 2, 0, 0.0),
        ("cut_in", 4, 3, 0.75),
        ("free", 2, 2, 1.0),
    ],
    "Pedestrians in front of a bus": [("scenario3", "agent1", 10.0)],
    "Hardest braking": [("scenario4", "agent1", "car", 4.0, 6.0)],
    "Scenarios with an agent within 2 m of the AV": [("free", 1, 1.0)],
    "Speeds of the vehicles that cut in": [("car", 3, 5.0, 5.1, 7.4)],
    "Near duplicates": [("cut_in", "w0", 2, "scenario0")],
    "Scenarios to look at": [("--id scenario0 --id scenario1 --id scenario2 --id scenario4",)],
    "Export a slice": [(1,)],
}


def test_ten_questions_are_documented() -> None:
    assert list(QUESTIONS) == list(ANSWERS)
    assert len(QUESTIONS) == 10


@pytest.mark.parametrize("title", ANSWERS)
def test_a_question_is_answered(title: str) -> None:
    got = query.run(QUESTIONS[title], "made")
    assert [tuple(row.values()) for row in got.to_pylist()] == ANSWERS[title]


def test_a_slice_holds_the_scenarios_whole() -> None:
    query.run(QUESTIONS["Export a slice"], "made")
    (row,) = pq.read_table("slice.parquet").to_pylist()
    assert row["scenario_id"] == "scenario0"
    assert row["agents"]["x_m"][1][20] == -10.0


def run_example(title: str) -> list[dict[str, Any]]:
    """The names that the Python blocks under a heading define."""
    found = []
    for code in blocks("python")[title]:
        names: dict[str, Any] = {}
        exec(compile(code, f"docs/query.md: {title}", "exec"), names)
        found.append(names)
    return found


EVERYONE = [("scenario0", "car", 5.0)] * 2 + [("scenario1", "car", 5.1)] * 2 + [("scenario2", "car", 8.0)] * 2
EVERYONE += [("scenario3", kind, 5.0) for kind in ("car", "pedestrian", "bus")]
EVERYONE += [("scenario4", "car", v) for v in (5.0, 6.0, 5.0)]


def rows(columns: tuple[Any, Any, Any]) -> list[tuple[str, str, float]]:
    return [(a, b, pytest.approx(c, abs=1e-5)) for a, b, c in zip(*columns, strict=True)]


def test_duckdb_reads_the_tables() -> None:
    fast = run_example("DuckDB")[0]["fast"]
    assert rows((fast.scenario_id, fast.kind, fast.vx_mps)) == EVERYONE


def test_polars_reads_the_tables() -> None:
    pytest.importorskip("polars")
    assert rows(tuple(run_example("Polars")[0]["fast"].to_dict(as_series=False).values())) == EVERYONE


def test_pandas_reads_the_tables() -> None:
    x_m = run_example("pandas")[0]["x_m"]
    assert [x.shape for x in x_m] == [(2, 41), (2, 41), (2, 41), (3, 41), (3, 41)]
    assert x_m[3][:, 20].tolist() == [0.0, -10.0, -20.0]


def test_arrow_and_numpy_read_the_tables() -> None:
    agents, images = run_example("Arrow and NumPy")
    assert agents["x_m"].shape == (12, 41)
    assert agents["x_m"][:3, 20].tolist() == [0.0, -10.0, 0.0]
    assert images["image"].shape == (8, 256, 256)


def test_the_spark_example_is_python() -> None:
    names = compile(blocks("python")["Spark"][0], "docs/query.md: Spark", "exec").co_names
    assert {"spark", "read", "parquet"} <= set(names)
