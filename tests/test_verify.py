"""Verify: whatever is wrong with an object of a table is said, with the object's name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import driving_log, gpudrive_json
from test_cli import sdiff
from test_query import agents_of, scenario_rows

import schemas
from pipelines import ingest
from sdiff import tables, verify


def unit(job: str, index: int, scenarios: int) -> pa.Table:
    """Rows of one unit."""
    scenes = [agents_of(["car", "truck"], generated=True)] * scenarios
    names = {"job_id": [job] * scenarios, "unit_id": [f"{job}-{index:06d}"] * scenarios}
    numbered = {"scenario_id": [f"{job}-{index}-{i}" for i in range(scenarios)]}
    return scenario_rows(scenes, **{k: pa.array(v, pa.string()) for k, v in {**names, **numbered}.items()})


def write_job(output: Path, job: str, planned: list[int], made: list[int]) -> None:
    """A job whose units made so many scenarios of those planned."""
    plan = [
        {"job_id": job, "unit_id": f"{job}-{i:06d}", "unit_index": i, "directive": "free", "n_scenarios": n, "seed": 0}
        | {"model_id": "m", "sampler": "s", "job": "{}"}
        for i, n in enumerate(planned)
    ]
    tables.write(pa.Table.from_pylist(plan, schemas.arrow_schema("jobs")), "jobs", str(output), job)
    for i, n in enumerate(made):
        counted = {"sdiff.unit": json.dumps({"attempts": 9, "scenarios": n})}
        tables.write(unit(job, i, n), "scenarios", str(output), f"{job}-{i:06d}", counted)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Two jobs in one table; one unit accepted less than planned, one nothing."""
    write_job(tmp_path / "made", "aa", [3, 3, 2], [3, 2, 0])
    write_job(tmp_path / "made", "bb", [2], [2])
    return tmp_path / "made"


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ingested")
    (folder / "raw").mkdir()
    for seed in range(2):
        document = json.dumps(gpudrive_json(driving_log(f"log{seed}", seed=seed)))
        (folder / "raw" / f"log{seed}.json").write_text(document)
    (folder / "raw" / "bad.json").write_text("{}")
    ingest.run("gpudrive", str(folder / "raw"), str(folder / "out"), max_bad_share=0.5)
    return folder / "out"


def problems(output: Path) -> dict[str, str]:
    """What was found, by object."""
    return {p.object: p.found for report in verify.verify(str(output)) for p in report.problems}


def test_a_table_that_was_made_undisturbed_has_no_problem(made: Path, ingested: Path) -> None:
    assert problems(made) == problems(ingested) == {}
    reports = {r.table: (r.objects, r.compared, r.rows) for r in verify.verify(str(made))}
    assert reports == {"scenarios": (4, 4, 7), "jobs": (2, 2, 4)}
    counted = {r.table: r.rows for r in verify.verify(str(ingested))}
    assert set(counted) == {"maps", "windows", "agent_tokens", "dead_letters"}
    assert counted["windows"] == tables.read(str(ingested), "windows", ["window_id"]).num_rows


def test_a_unit_that_is_missing_is_named_and_how_to_make_it(made: Path) -> None:
    (made / "scenarios" / "aa-000001.parquet").unlink()
    (report,) = [r for r in verify.verify(str(made)) if r.problems]
    (problem,) = report.problems
    assert (problem.object, problem.found) == ("scenarios/aa-000001.parquet", "is missing")
    assert problem.remedy == "run the same sdiff generate command again"


def test_any_damaged_byte_is_found(made: Path) -> None:
    victim = made / "scenarios" / "aa-000000.parquet"
    data = victim.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(data), 60):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(position) % 8
        victim.write_bytes(damaged)
        assert list(problems(made)) == ["scenarios/aa-000000.parquet"], f"byte {position} of {len(data)}"


def test_an_object_cut_short_is_named(made: Path) -> None:
    for name, keep in (("aa-000000", 0.5), ("aa-000001", 0.99), ("bb-000000", 0)):
        victim = made / "scenarios" / f"{name}.parquet"
        victim.write_bytes(victim.read_bytes()[: int(victim.stat().st_size * keep)])
    assert {name: found.split(":")[0] for name, found in problems(made).items()} == {
        f"scenarios/{name}.parquet": "cannot be read" for name in ("aa-000000", "aa-000001", "bb-000000")
    }


def test_what_no_plan_names_is_named(made: Path) -> None:
    shutil.copy(made / "scenarios" / "aa-000000.parquet", made / "scenarios" / "zz-000000.parquet")
    (made / "scenarios" / "notes.txt").write_text("x")
    assert set(problems(made)) == {"scenarios/zz-000000.parquet", "scenarios/notes.txt"}


def test_objects_whose_plan_was_lost_are_not_to_be_deleted_first(made: Path) -> None:
    (made / "jobs" / "bb.parquet").unlink()
    ((found,),) = [r.problems for r in verify.verify(str(made)) if r.problems]
    assert (found.object, found.found) == ("scenarios/bb-000000.parquet", "no plan in table jobs names it")
    assert "run the sdiff generate command that made it again" in found.remedy


def test_a_unit_under_the_name_of_another_is_named(made: Path) -> None:
    shutil.copy(made / "scenarios" / "aa-000000.parquet", made / "scenarios" / "bb-000000.parquet")
    found = [p.found for r in verify.verify(str(made)) for p in r.problems]
    assert found == ["holds 3 scenarios, but its plan asks for 2", "holds scenarios of another unit"]


def test_rows_lost_after_they_were_counted_are_noticed(made: Path) -> None:
    counted = {"sdiff.unit": json.dumps({"scenarios": 3})}
    tables.write(unit("aa", 0, 3).slice(0, 2), "scenarios", str(made), "aa-000000", counted)
    assert problems(made) == {"scenarios/aa-000000.parquet": "holds 2 scenarios, but 3 were counted when it was made"}


def test_an_object_of_another_encoding_is_no_problem_but_its_pages_are_compared(made: Path) -> None:
    victim = made / "scenarios" / "aa-000000.parquet"
    table = pq.read_table(victim)
    other = table.replace_schema_metadata({**table.schema.metadata, tables.ENCODING.encode(): b"another"})
    pq.write_table(other, victim, write_page_checksum=True)
    (report, _) = verify.verify(str(made))
    assert (report.objects, report.compared, report.problems) == (4, 3, [])
    data, column = bytearray(victim.read_bytes()), pq.read_metadata(victim).row_group(0).column(0)
    data[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1] ^= 1
    victim.write_bytes(data)
    assert list(problems(made)) == ["scenarios/aa-000000.parquet"]


def test_the_command_says_what_is_wrong_and_fails(made: Path) -> None:
    whole = sdiff("verify", str(made), "--json")
    assert (whole.returncode, json.loads(whole.stdout)["problems"]) == (0, [])
    (made / "scenarios" / "bb-000000.parquet").unlink()
    broken = sdiff("verify", str(made), "--json")
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["problems"][0]["object"] == "scenarios/bb-000000.parquet"
    assert "1 problem at" in broken.stderr


def test_another_version_of_the_schema_is_named(made: Path) -> None:
    victim = made / "scenarios" / "aa-000000.parquet"
    table = pq.read_table(victim)
    old = {**table.schema.metadata, b"sdiff.schema_version": b"0"}
    pq.write_table(table.replace_schema_metadata(old), victim)
    assert "has schema version 0, expected" in problems(made)["scenarios/aa-000000.parquet"]


def test_what_ingest_wrote_and_somebody_lost_is_named(ingested: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(ingested, output)
    lost = sorted((output / "windows").iterdir())[0]
    lost.unlink()
    map_object = next((output / "maps").iterdir())
    map_object.write_bytes(map_object.read_bytes()[:-1] + b"?")
    assert set(problems(output)) == {f"windows/{lost.name}", f"maps/{map_object.name}"}


def test_a_place_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(tables.TableError, match="no table at"):
        verify.verify(str(tmp_path))
