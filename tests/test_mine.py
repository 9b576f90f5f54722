"""Mining a table of windows: what it writes, that it does only what is missing, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crossroads import crossroads
from synthetic import driving_log

from pipelines import mine
from sdiff import mining, raster, storage, tables, verify, window_tables
from sdiff.directives.job import parse, read
from sdiff.logs.driving_log import DrivingLog, Tracks
from sdiff.view import render_interactions
from sdiff.window_tables import Cut
from sdiff.windows import cut


def braking_leader(seed: int) -> DrivingLog:
    """A log on the crossroads: the AV follows a car that brakes hard."""
    log = replace(driving_log(log_id=f"log{seed}", seed=seed), map=crossroads())
    n, steps = 2, log.tracks.valid.shape[1]
    time = np.arange(steps) * 0.1
    mid = time[-1] / 2
    speed = np.stack([np.full(steps, 9.0), 10.0 - 5.0 * np.clip(time - mid, 0, 1.6)])
    x = np.array([[-60.0 - 9 * mid], [-44.0 - 10 * mid]]) + np.cumsum(speed, 1) * 0.1
    tracks = Tracks(
        agent_id=np.array(["av", "leader"]),
        kind=np.zeros(n, np.int8),
        length_m=np.full(n, 4.5, np.float32),
        width_m=np.full(n, 1.8, np.float32),
        x_m=x,
        y_m=np.full((n, steps), -1.75),
        heading_rad=np.zeros((n, steps)),
        vx_mps=speed,
        vy_mps=np.zeros((n, steps)),
        valid=np.ones((n, steps), bool),
    )
    return replace(log, tracks=tracks, recorder=0)


def write(folder: Path, seed: int) -> None:
    log = braking_leader(seed)
    cuts = [Cut(w, log, "val") for w in cut(log, 0.5, 0)]
    index = raster.MapIndex.of(log.map)
    maps = np.stack([raster.map_bev(index, log.lights, c.window.step, c.window.map_SE2_window) for c in cuts])
    agents = np.stack([raster.agent_bev(c.window.agents) for c in cuts])
    tables.write(window_tables.windows_table(cuts, maps, agents), "windows", str(folder), f"log{seed}")
    tables.write(window_tables.maps_table(log.map), "maps", str(folder), "crossroads")


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    for seed in (0, 1):
        write(tmp_path / "in", seed)
    return tmp_path / "in"


def problems(out: str) -> list[verify.Problem]:
    return [problem for report in verify.verify(out) for problem in report.problems]


def test_damage_to_what_was_mined_is_named_and_healed(windows: Path, tmp_path: Path) -> None:
    mine.run(str(windows), str(tmp_path / "out"))
    victim = sorted((tmp_path / "out" / "directives").iterdir())[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-9])
    stray = victim.with_name("stray.parquet")
    stray.write_bytes(whole)
    found = {p.object: p.found for p in problems(str(tmp_path / "out"))}
    assert set(found) == {f"directives/{victim.name}", "directives/stray.parquet"}
    assert found["directives/stray.parquet"] == "no run of mine names it"
    victim.unlink()
    stray.unlink()
    mine.run(str(windows), str(tmp_path / "out"))
    assert victim.read_bytes() == whole and problems(str(tmp_path / "out")) == []


def test_what_is_found_is_written_once_and_more_windows_add_to_it(windows: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    first = mine.run(str(windows), out)
    assert first["objects"] == 2 and first["by_kind"]["hard_braking_leader"]["found"] >= 2
    rows = tables.read(out, "interactions").to_pylist()
    assert {(r["kind"], r["actor_id"], r["other_id"]) for r in rows} == {("hard_braking_leader", "leader", "av")}
    assert all(r["min_pet_s"] is not None and r["max_drac_mps2"] > 0 for r in rows)
    moments = {r["t_us"] for r in rows if r["log_id"] == "log0"}
    assert max(moments) - min(moments) <= 1_600_000  # the leader brakes for 1.6 s, whichever window sees it
    for row in tables.read(out, "directives").to_pylist():
        (directive,) = parse(row["directive"], "mined.yaml").directives
        assert directive.name == row["name"] and row["lane_relative"]
    (page,) = render_interactions(out, str(windows), output=str(tmp_path / "pages"), per_kind=2)
    assert page.endswith("hard_braking_leader.png") and storage.size(page) > 10_000
    before = {uri: storage.read_bytes(uri) for name in mining.MADE for uri in storage.objects(f"{out}/{name}")}
    for table in mining.MADE:
        lost = next(uri for uri in before if f"/{table}/" in uri)
        Path(lost.removeprefix("file://")).unlink()
        (problem,) = problems(out)
        assert (problem.object, problem.found) == (f"{table}/{lost.rsplit('/', 1)[-1]}", "is missing")
        assert "sdiff mine" in problem.remedy
        again = mine.run(str(windows), out)
        assert (again["objects"], again["objects_done_before"]) == (1, 1)
        assert again["by_kind"] == first["by_kind"]
        assert {uri: storage.read_bytes(uri) for uri in before} == before
        assert problems(out) == []
    write(windows, 2)
    assert mine.run(str(windows), out)["objects"] == 1
    assert {uri: storage.read_bytes(uri) for uri in before} == before


def test_what_was_mined_is_a_library_of_jobs(windows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.run(str(windows), str(tmp_path / "mined"))
    rows = tables.read(str(tmp_path / "mined"), "directives", ["name", "min_ttc_s", "min_pet_s"]).to_pylist()
    below = {"min_ttc_s": 3.0, "min_pet_s": 1.0}
    close = {r["name"] for r in rows if any(r[k] is not None and r[k] < most for k, most in below.items())}
    example = Path(__file__).parents[1] / "examples" / "mined.yaml"
    monkeypatch.chdir(tmp_path)
    assert {d.name for d in read(str(example)).directives} == close != set()


def test_what_was_made_by_other_code_is_not_mixed(
    windows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.run(str(windows), str(tmp_path / "out"))
    monkeypatch.setattr("sdiff.__version__", "99")
    with pytest.raises(tables.TableError, match="code"):
        mine.run(str(windows), str(tmp_path / "out"))


def test_windows_without_their_maps_are_an_error_that_says_so(windows: Path, tmp_path: Path) -> None:
    for uri in storage.objects(str(windows / "maps")):
        Path(uri.removeprefix("file://")).unlink()
    with pytest.raises(tables.TableError, match="no table maps"):
        mine.run(str(windows), str(tmp_path / "out"))
    with pytest.raises(tables.TableError, match="no table windows"):
        mine.run(str(tmp_path / "nowhere"), str(tmp_path / "out"))
