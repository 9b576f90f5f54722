"""The generate job on Ray, with a stand-in for the model: units, resuming, same bytes, rejections."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from crossroads import TokensDriveOn, load_stand_in, write_windows
from traffic import traffic

from pipelines import generate
from sdiff import columns, generation, storage, tables
from sdiff.directives.job import JobFileError
from sdiff.directives.search import Spot, window_rows
from sdiff.directives.units import Scenario, near_duplicates
from sdiff.scene import STEPS_PAST, AgentTokens, SceneToken

JOB = """
name: test
directives:
  - name: cut_in
    ego: {speed_mps: [4, 8]}
    agents:
      - {kind: car, lane: left, ahead_m: [8, 20], speed_mps: [5, 9], end: {lane: ego}}
  - name: free
count: 15
scenarios_per_unit: 4
batch: 3
seed: 5
"""


pytestmark = pytest.mark.usefixtures("ray_of_our_own")


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_windows(tmp_path_factory.mktemp("windows"))


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return str(path)


def run(job_file: str, windows: str, output: Path, **options: object) -> dict[str, object]:
    options = {"actors": 1, "device": "cpu", "load_model": load_stand_in, **options}
    return generate.run(job_file, windows=windows, output=str(output), **options)


def contents(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def made(windows: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("made")
    (folder / "job.yaml").write_text(JOB)
    return folder / "out", run(str(folder / "job.yaml"), windows, folder / "out")


def test_every_unit_of_the_plan_is_one_object(made: tuple[Path, dict[str, object]]) -> None:
    output, stats = made
    units = tables.read(str(output), "jobs").to_pylist()
    objects = {p.stem for p in (output / "scenarios").glob("*.parquet")}
    assert [u["n_scenarios"] for u in units] == [4, 4, 4, 3]
    assert [u["directive"] for u in units] == ["cut_in", "cut_in", "free", "free"]
    assert objects == {u["unit_id"] for u in units}
    assert stats["scenarios"] == 15 and stats["units"] == 4


def test_a_scenario_has_what_its_directive_asks_for(made: tuple[Path, dict[str, object]]) -> None:
    rows = tables.read(str(made[0]), "scenarios")
    cut_in = np.flatnonzero(np.array(rows["directive"].to_pylist()) == "cut_in")
    assert len(cut_in) == 8
    for agents in (columns.agents_from_arrow(rows["agents"])[i] for i in cut_in):
        car = agents.take(agents.token_index == 1)
        assert len(car) == 1
        assert car.y_m[0, STEPS_PAST] == pytest.approx(3.5, abs=0.1)
        assert car.y_m[0, -1] == pytest.approx(0.0, abs=0.1)
    assert set(rows["token_match_rate"].to_pylist()) == {1.0}
    assert len(set(rows["scenario_id"].to_pylist())) == 15


def test_a_scenario_names_the_window_whose_place_it_uses(made: tuple[Path, dict[str, object]], windows: str) -> None:
    lent = {
        w["window_id"]: w for w in tables.read(windows, "windows", ["window_id", "origin_x_m", "log_id"]).to_pylist()
    }
    for row in tables.read(str(made[0]), "scenarios", ["window_id", "origin_x_m", "license"]).to_pylist():
        assert lent[row["window_id"]]["origin_x_m"] == row["origin_x_m"]
        assert row["license"] == "none"


def test_a_scenario_says_what_road_it_is_on_and_where_its_agents_are_at_t0(
    made: tuple[Path, dict[str, object]],
) -> None:
    rows = tables.read(str(made[0]), "scenarios")
    assert set(rows["lanes_same_direction"].to_pylist()) == {2}
    assert max(j for j in rows["junction_ahead_m"].to_pylist() if j is not None) < 90.0
    for row in rows.to_pylist():
        assert row["agents_t0"]["x_m"] == [x[STEPS_PAST] for x in row["agents"]["x_m"]]
        assert row["agents_t0"]["ego_distance_m"][0] is None
    assert rows.column("ego_min_ttc_s").to_pylist()[:4] == sorted(
        rows["ego_min_ttc_s"].to_pylist()[:4], key=worst_first
    )


def worst_first(ttc_s: float | None) -> float:
    return np.inf if ttc_s is None else ttc_s


def test_the_same_job_gives_the_same_bytes(
    made: tuple[Path, dict[str, object]], windows: str, job_file: str, tmp_path: Path
) -> None:
    run(job_file, windows, tmp_path / "again", actors=2)
    assert contents(tmp_path / "again") == contents(made[0])


def test_another_seed_gives_other_scenarios(
    made: tuple[Path, dict[str, object]], windows: str, job_file: str, tmp_path: Path
) -> None:
    stats = run(job_file, windows, tmp_path / "other", seed=6, count=4)
    assert stats["job_id"] != made[1]["job_id"]
    first = [tables.read(str(o), "scenarios", ["tokens"]) for o in (tmp_path / "other", made[0])]
    speeds = [columns.tokens_from_arrow(t["tokens"])[0].speed_mps[0] for t in first]
    assert speeds[0] != speeds[1]


def test_a_condition_from_the_command_line_chooses_the_places(windows: str, job_file: str, tmp_path: Path) -> None:
    run(job_file, windows, tmp_path / "out", count=4, where="log_id = 'log1'")
    chosen = set(tables.read(str(tmp_path / "out"), "scenarios", ["window_id"])["window_id"].to_pylist())
    logs = {w["window_id"]: w["log_id"] for w in tables.read(windows, "windows", ["window_id", "log_id"]).to_pylist()}
    assert {logs[w] for w in chosen} == {"log1"}


def test_only_missing_units_are_made(
    made: tuple[Path, dict[str, object]], windows: str, job_file: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run(job_file, windows, output)
    objects = sorted((output / "scenarios").glob("*.parquet"))
    objects[1].unlink()
    kept = {o: o.stat().st_mtime_ns for o in objects if o.exists()}
    stats = run(job_file, windows, output)
    assert (stats["units_done_before"], stats["units_made"]) == (3, 1)
    assert {o: o.stat().st_mtime_ns for o in kept} == kept
    assert contents(output) == contents(made[0])
    assert "units_made" not in run(job_file, windows, output)


SLOW_RUN = """
import sys, time
sys.path.insert(0, sys.argv[4])
import crossroads
from pipelines import generate

class Slow(crossroads.TokensDriveOn):
    def sample(self, *args, **kwargs):
        time.sleep(0.7)
        return super().sample(*args, **kwargs)

generate.run(sys.argv[1], windows=sys.argv[2], output=sys.argv[3], actors=1, device="cpu",
             load_model=lambda uri, device: Slow())
"""


def test_a_killed_job_goes_on_to_the_same_bytes(
    made: tuple[Path, dict[str, object]], windows: str, job_file: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = [job_file, windows, str(output), str(Path(__file__).parent)]
    job = subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN, *arguments],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((output / "scenarios").glob("*.parquet")) and time.monotonic() < deadline:
        assert job.poll() is None, job.stderr.read().decode() if job.stderr else ""
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    n_done = len(list((output / "scenarios").glob("*.parquet")))
    assert 1 <= n_done < 4, "killed in the middle"
    run(job_file, windows, output)
    assert contents(output) == contents(made[0])


class NeverAnAv(TokensDriveOn):
    """Moves all agents 10 m to the side in the first attempt of every other scenario, and always in scenario 0."""

    def sample(self, map_bev, tokens, scene, noise_keys, **options):  # type: ignore[no-untyped-def]
        scenes = super().sample(map_bev, tokens, scene, noise_keys, **options)
        number = [int(key[1].rsplit("-", 1)[1]) for key in noise_keys]
        lost = [n == 0 or (n % 2 and key[2] == 0) for n, key in zip(number, noise_keys, strict=True)]
        return [
            s._replace(agents=dataclasses.replace(s.agents, y_m=s.agents.y_m + 10)) if x else s
            for s, x in zip(scenes, lost, strict=True)
        ]


def load_never_an_av(uri: str | None, device: str) -> NeverAnAv:
    return NeverAnAv()


def test_without_an_av_a_scenario_is_rejected_and_tried_again(windows: str, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("count: 6\nattempts: 3\nbatch: 4\nscenarios_per_unit: 6\n")
    stats = run(str(job), windows, tmp_path / "out", load_model=load_never_an_av)
    rows = tables.read(str(tmp_path / "out"), "scenarios", ["scenario_id", "attempt"]).to_pylist()
    by_number = {int(r["scenario_id"].rsplit("-", 1)[1]): r["attempt"] for r in rows}
    assert by_number == {1: 1, 2: 0, 3: 1, 4: 0, 5: 1}
    assert (stats["attempts"], stats["rejected: no_ego"]) == (6 + 4 + 1, 4 + 1 + 1)
    (file,) = (tmp_path / "out" / "scenarios").glob("*.parquet")
    kept = json.loads(pq.read_metadata(file).metadata[b"sdiff.unit"])
    assert kept == {"attempts": stats["attempts"], "rejected: no_ego": 6, "scenarios": 5}


def test_the_result_says_what_came_of_each_directive(made: tuple[Path, dict[str, object]]) -> None:
    assert made[1]["directives"] == {
        name: {"asked": n, "made": n, "attempts": n, "yield": 1.0, "alike": 0, "rejected": ""}
        for name, n in (("cut_in", 8), ("free", 7))
    }


def test_a_dry_run_says_what_the_job_will_take_and_writes_nothing(windows: str, job_file: str, tmp_path: Path) -> None:
    found = run(job_file, windows, tmp_path / "out", dry_run=True, price_per_hour=2.0, actors=2)
    assert (found["units"], found["actors"]) == (4, 2)
    assert [(r["directive"], r["asked"], r["tried"], r["made"]) for r in found["by_directive"]] == [  # type: ignore[attr-defined]
        ("cut_in", 8, 3, 3),
        ("free", 7, 3, 3),
    ]
    assert found["scenarios_per_s"] > 0 and found["megabytes"] > 0  # type: ignore[operator]
    assert not (tmp_path / "out").exists()


def test_the_job_file_says_how_many_actors_and_the_option_overrides_it(
    made: tuple[Path, dict[str, object]], windows: str, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(JOB + "resources: {actors: 3, gpus_per_actor: 0.5}\n")
    dry = [run(str(job), windows, tmp_path / "out", dry_run=True, actors=n) for n in (None, 2)]
    assert [d["actors"] for d in dry] == [3, 2]
    assert {d["job_id"] for d in dry} == {made[1]["job_id"]}, "the same job, on other machines"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_not_waited_for(windows: str, job_file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torch sees no GPU on this machine; give --device cpu"):
        run(job_file, windows, tmp_path / "out", device="cuda")
    assert not (tmp_path / "out").exists()


class Stumbles(TokensDriveOn):
    """Fails as a programming error does."""

    def sample(self, *args, **options):  # type: ignore[no-untyped-def]
        return {}["wheel"]


def test_an_error_in_an_actor_is_raised_as_itself_and_the_next_job_runs(
    windows: str, job_file: str, tmp_path: Path
) -> None:
    with pytest.raises(KeyError, match="wheel") as error:
        run(job_file, windows, tmp_path / "out", load_model=lambda uri, device: Stumbles())
    assert "in sample" in error.value.__notes__[0], "where it happened"
    assert list((tmp_path / "out").rglob("scenarios/*")) == []
    assert run(job_file, windows, tmp_path / "out")["units_made"] == 4


def test_a_window_is_read_from_the_row_group_that_holds_it(windows: str, tmp_path: Path) -> None:
    one = tables.read(windows, "windows").slice(0, 1)
    assert one.column_names[0] == "window_id"
    names = [f"w{i}" for i in range(150)]
    many = pa.concat_tables([one] * len(names))
    many = many.set_column(0, many.schema.field("window_id"), pa.array(names))
    uri = tables.write(many, "windows", str(tmp_path), "many")
    assert tables.footer(uri).num_row_groups > 2
    rows = [149, 0, 64, 63, 64, 128]
    found = window_rows([Spot(names[row], uri, row, "", "") for row in rows], ["window_id", "map_bev"])
    assert [t["window_id"][0].as_py() for t in found] == [names[row] for row in rows]
    assert {t["map_bev"][0].as_py() for t in found} == {one["map_bev"][0].as_py()}


def test_a_scenario_is_made_again_from_its_row(
    made: tuple[Path, dict[str, object]], windows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tables.read(str(made[0]), "scenarios", ["scenario_id", "n_agents"]).to_pylist()[5]

    def again(scenario_id: str = one["scenario_id"]) -> dict[str, object]:
        return generation.again(scenario_id, str(made[0]), windows, device="cpu", load_model=load_stand_in)

    assert again() == {
        "scenario_id": one["scenario_id"],
        "same": True,
        "differing": "",
        "n_agents": one["n_agents"],
        "n_agents_before": one["n_agents"],
    }
    with monkeypatch.context() as patch:
        row = generation._scenario(str(made[0]), one["scenario_id"])
        turned = dataclasses.replace(row["agents"], heading_rad=np.nextafter(row["agents"].heading_rad, np.float32(9)))
        patch.setattr(generation, "_scenario", lambda *args: row | {"agents": turned})
        assert (again()["same"], again()["differing"]) == (False, "heading_rad")
    with pytest.raises(tables.TableError, match="has no scenario nobody"):
        again("nobody")


def test_a_job_file_of_another_name_is_the_same_job(
    made: tuple[Path, dict[str, object]], windows: str, job_file: str, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.yaml"
    renamed.write_bytes(Path(job_file).read_bytes())
    stats = run(str(renamed), windows, made[0])
    assert (stats["job_id"], stats["units_done_before"]) == (made[1]["job_id"], made[1]["units"])


def test_a_plan_says_of_each_unit_only_what_is_its_own(made: tuple[Path, dict[str, object]]) -> None:
    for row in tables.read(str(made[0]), "jobs").to_pylist():
        (directive,) = json.loads(row["job"])["directives"]
        assert directive["name"] == row["directive"]


def test_a_scenario_like_another_of_its_place_is_a_near_duplicate() -> None:
    def scenario(y_m: float) -> Scenario:
        return Scenario("s", 0, 0, AgentTokens.unspecified(0), SceneToken(), traffic([0, 20], [0, y_m]), {})

    scenes = [scenario(0.0), scenario(3.0), scenario(0.5), scenario(0.2)]
    assert near_duplicates(scenes, ["a", "a", "a", "b"]) == 1


def test_a_steered_job_makes_what_is_as_severe_as_it_asks(windows: str, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("""
directives:
  - name: slower_ahead
    ego: {speed_mps: [6, 10]}
    agents: [{kind: car, lane: ego, ahead_m: [8, 20], speed_mps: [2, 8]}]
    severity: {ttc_s: [1.0, 1.5]}
count: 8
batch: 4
""")
    stats = run(str(job), windows, tmp_path / "out")
    rows = tables.read(str(tmp_path / "out"), "scenarios", ["target_min_ttc_s", "window_id"]).to_pylist()
    assert len(rows) == 8 and all(1.0 <= row["target_min_ttc_s"] <= 1.5 for row in rows)
    assert stats["directives"]["slower_ahead"]["yield"] == 1.0  # type: ignore[index]


def test_a_job_without_windows_or_output_says_which_option_is_missing(job_file: str) -> None:
    with pytest.raises(JobFileError, match=r"job\.yaml: places\.windows \(option --windows\)"):
        generate.run(job_file, output="x", load_model=load_stand_in)
    with pytest.raises(JobFileError, match=r"output \(option --output\)"):
        generate.run(job_file, windows="x", load_model=load_stand_in)


def test_a_table_that_is_not_there_is_named(job_file: str, tmp_path: Path) -> None:
    with pytest.raises(tables.TableError, match=r"no table windows at .*nowhere"):
        generate.run(job_file, windows=str(tmp_path / "nowhere"), output=str(tmp_path), load_model=load_stand_in)


def test_a_job_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(storage.StorageError, match=r"none\.yaml"):
        generate.run(str(tmp_path / "none.yaml"), load_model=load_stand_in)
