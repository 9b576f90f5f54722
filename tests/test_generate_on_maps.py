"""The generate job at places on bare maps: what it writes suffices for all that follows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crossroads import load_stand_in
from typer.testing import CliRunner

from pipelines import evaluate, generate
from sdiff import export, generation, tables, verify, view
from sdiff.cli import app
from sdiff.columns import agents_from_arrow
from sdiff.directives.job import JobFileError
from sdiff.geometry import SE2
from sdiff.maps.lanes import LaneGraph, map_from_rows
from sdiff.scene import STEPS_PAST

pytestmark = pytest.mark.usefixtures("ray_of_our_own")

JOB = """
name: on_map
places:
  map: MAP
  junction_ahead_m: [5, 60]
directives:
  - name: slower_ahead
    ego: {speed_mps: [4, 8]}
    agents: [{kind: car, lane: ego, ahead_m: [10, 14], speed_mps: [3, 8]}]
count: 6
batch: 2
"""


def job_file(folder: Path, town: Path) -> str:
    path = folder / "job.yaml"
    path.write_text(JOB.replace("MAP", str(town)))
    return str(path)


def run(job: str, output: Path, **options: Any) -> dict[str, Any]:
    options = {"actors": 1, "device": "cpu", "load_model": load_stand_in, **options}
    return generate.run(job, output=str(output), **options)


def contents(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def made(town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run(job_file(folder, town), folder / "out")
    return folder / "out"


def rows(made: Path) -> list[dict[str, Any]]:
    names = ["scenario_id", "window_id", "map_id", "dataset", "region", "license", "light", "junction_ahead_m"]
    return tables.read(str(made), "scenarios", names).to_pylist()


def test_a_scenario_says_on_which_map_it_is_and_that_no_window_lent_its_place(made: Path) -> None:
    assert len(rows(made)) == 6
    (map_id,) = set(tables.read(str(made), "maps", ["map_id"])["map_id"].to_pylist())
    for row in rows(made):
        assert row["window_id"] is None and row["map_id"] == map_id
        assert (row["dataset"], row["region"], row["license"]) == ("sumo_net", "town", "unknown")
        assert row["light"] == "none" and 5 <= row["junction_ahead_m"] <= 60


def test_the_av_and_the_car_ahead_stand_on_one_lane_of_the_map(made: Path) -> None:
    table = tables.read(str(made), "scenarios")
    graph = LaneGraph(map_from_rows(tables.read(str(made), "maps")))
    for agents, row in zip(agents_from_arrow(table["agents"]), table.to_pylist(), strict=True):
        map_SE2_window = SE2(row["origin_x_m"], row["origin_y_m"], row["origin_heading_rad"])
        for i in (agents.is_ego, agents.token_index == 1):
            x, y, heading = (getattr(agents, n)[i, STEPS_PAST].item() for n in ("x_m", "y_m", "heading_rad"))
            at = graph.lane_at(map_SE2_window.after(SE2(x, y, heading)))
            assert at is not None and abs(at.lateral_m) < 0.3


def test_again_it_comes_out_byte_for_byte_and_another_seed_goes_elsewhere(
    made: Path, town: Path, tmp_path: Path
) -> None:
    job = job_file(tmp_path, town)
    run(job, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(made)
    run(job, tmp_path / "other", seed=1)
    places = [
        set(tables.read(str(uri), "scenarios", ["origin_x_m"])["origin_x_m"].to_pylist())
        for uri in (made, tmp_path / "other")
    ]
    assert places[0] != places[1]


def test_the_maps_content_decides_the_job_and_its_place_does_not(made: Path, town: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "town.net.xml"
    moved.write_bytes(town.read_bytes())
    job = job_file(tmp_path, town)
    this = json.loads(json.dumps(run(job, tmp_path / "a", map=str(moved), dry_run=True)))["job_id"]
    assert {p.stem for p in (made / "jobs").glob("*")} == {this}
    moved.write_bytes(town.read_bytes().replace(b'speed="13.89"', b'speed="8.33"'))
    assert run(job, tmp_path / "b", map=str(moved), dry_run=True)["job_id"] != this
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists(), "a dry run writes nothing"


def test_what_is_written_is_whole_and_a_lost_map_is_missed(made: Path, town: Path, tmp_path: Path) -> None:
    assert not [p for report in verify.verify(str(made)) for p in report.problems]
    job = job_file(tmp_path, town)
    run(job, tmp_path / "out")
    (lost,) = (tmp_path / "out" / "maps").glob("*")
    lost.unlink()
    (problem,) = [p for report in verify.verify(str(tmp_path / "out")) for p in report.problems]
    assert (problem.object, problem.found) == (f"maps/{lost.name}", "is missing")
    run(job, tmp_path / "out")
    assert lost.exists()


def test_it_is_drawn_and_exported_with_its_map(made: Path, tmp_path: Path) -> None:
    pictures = view.render(str(made), output=str(tmp_path / "pictures"), limit=2)
    assert len(pictures) == 3
    assert export.export(str(made), to="scenarionet", output=str(tmp_path / "files"))["exported"] == 6


def test_one_is_made_again_from_its_row_without_windows(made: Path) -> None:
    one = rows(made)[3]["scenario_id"]
    assert generation.again(one, str(made), device="cpu", load_model=load_stand_in)["same"]


def test_there_is_no_log_to_evaluate_it_beside(made: Path, tmp_path: Path) -> None:
    from crossroads import write_windows

    with pytest.raises(tables.TableError, match=r"6 scenarios at .* on bare maps"):
        evaluate.run(str(made), write_windows(tmp_path, logs=1) + "/windows")


def test_a_map_of_a_folder_that_cannot_be_read_is_left_out_and_named(town: Path, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "town.net.xml").write_bytes(town.read_bytes())
    (folder / "broken.xodr").write_text("<OpenDRIVE/>")
    said: list[str] = []
    run(job_file(tmp_path, town), tmp_path / "out", map=str(folder), report=said.append)
    (letter,) = tables.read(str(tmp_path / "out"), "dead_letters").to_pylist()
    assert letter["source"].endswith("broken.xodr") and letter["stage"] == "read"
    assert any("left out" in line and "broken.xodr" in line for line in said)
    assert not [p for report in verify.verify(str(tmp_path / "out")) for p in report.problems]


def test_a_condition_on_windows_does_not_go_with_a_map(town: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="--where asks for logs"):
        run(job_file(tmp_path, town), tmp_path / "out", where="true")
    job = job_file(tmp_path, town)
    for other in (["--windows", "w"], ["--where", "true"]):
        assert CliRunner().invoke(app, ["generate", job, "--map", str(town), *other]).exit_code == 2


def test_the_shipped_model_drives_on_streets_of_ones_own(town: Path, tmp_path: Path) -> None:
    job = job_file(tmp_path, town)
    generate.run(job, count=2, output=str(tmp_path / "out"), actors=1, device="cpu")
    found = tables.read(str(tmp_path / "out"), "scenarios", ["scenario_id", "agents"])
    assert 1 <= len(found) <= 2
    one = found["scenario_id"][0].as_py()
    assert generation.again(one, str(tmp_path / "out"), device="cpu")["same"], "however many threads there are"
    for agents in agents_from_arrow(found["agents"]):
        assert agents.is_ego.sum() == 1 and np.hypot(agents.x_m, agents.y_m)[agents.is_ego, STEPS_PAST] < 2.0
