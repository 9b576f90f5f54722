"""Ingest: every good log becomes windows, every bad one a dead letter, and a second run changes nothing."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import test_waymo_motion as waymo
from synthetic import driving_log, gpudrive_json, moved

from pipelines import ingest
from sdiff import columns, ingestion, logs, raster, storage, tables, windows
from sdiff.logs.driving_log import BadRecord, DrivingLog
from sdiff.scene import AGENT_CHANNELS, MAP_CHANNELS


def write(folder: Path, name: str, log: DrivingLog | None = None, change: Callable[[Any], Any] = lambda x: x) -> Path:
    """A GPUDrive file of one log, changed before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    document = gpudrive_json(log or driving_log(name, seed=len(name)))
    changed = change(document)
    (folder / f"{name}.json").write_text(json.dumps(document if changed is None else changed))
    return folder / f"{name}.json"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder of three good logs."""
    for seed in range(3):
        write(tmp_path / "raw", f"log{seed}", driving_log(agents=4 + seed, seed=seed))
    return tmp_path / "raw"


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(raw: Path, output: Path, **options: Any) -> dict[str, Any]:
    return ingest.run("gpudrive", str(raw), str(output), **options)


def letters(output: Path) -> dict[str, str]:
    """Reason by file name of the dead letters."""
    table = tables.read(str(output), "dead_letters")
    return {Path(r["source"]).name: r["reason"] for r in table.to_pylist()}


def test_the_tables_hold_what_the_logs_hold(good: Path, tmp_path: Path) -> None:
    report = run(good, tmp_path / "out")
    found = [log for source in sorted(good.iterdir()) for log in logs.reader("gpudrive").read(str(source))]
    expected = {w.window_id: (log, w) for log in found for w in windows.cut(log)}
    table = tables.read(str(tmp_path / "out"), "windows")
    assert set(table["window_id"].to_pylist()) == set(expected)
    assert report["windows"] == table.num_rows == len(expected)
    for row, agents in zip(table.to_pylist(), columns.agents_from_arrow(table["agents"]), strict=True):
        log, window = expected[row["window_id"]]
        assert (agents.x_m == window.agents.x_m).all()
        map_image = np.frombuffer(row["map_bev"], np.uint8).reshape(len(MAP_CHANNELS), 256, 256)
        assert (map_image == raster.map_bev(log.map, log.lights, window.step, window.map_SE2_window)).all()
        agent_image = np.frombuffer(row["agent_bev"], np.uint8).reshape(len(AGENT_CHANNELS), 256, 256)
        assert (agent_image == raster.agent_bev(agents)).all()
        assert row["n_agents"] == len(agents) == row["scene_token"]["n_agents"]
    tokens = tables.read(str(tmp_path / "out"), "agent_tokens")
    assert tokens.num_rows == report["agents"] == sum(table["n_agents"].to_pylist())
    assert set(tokens["window_id"].to_pylist()) == set(expected)
    assert sum(tokens["is_ego"].to_pylist()) == len(expected)
    maps = tables.read(str(tmp_path / "out"), "maps")
    assert maps.num_rows == sum(len(log.map.feature_id) for log in found)
    assert set(maps["map_id"].to_pylist()) == set(table["map_id"].to_pylist())


def test_the_images_say_how_they_are_to_be_read(good: Path, tmp_path: Path) -> None:
    run(good, tmp_path / "out")
    schema = pq.read_schema(next((tmp_path / "out" / "windows").iterdir()))
    assert (schema.metadata[b"steps_past"], schema.metadata[b"steps_future"]) == (b"20", b"20")
    for name, channels in (("map_bev", MAP_CHANNELS), ("agent_bev", AGENT_CHANNELS)):
        about = schema.field(name).metadata
        assert about[b"channels"].decode().split() == list(channels)
        assert about[b"shape"].decode() == f"{len(channels)},256,256"
        assert about[b"dtype"] == b"uint8"
        assert float(about[b"resolution_m"]) == 100 / 256


def test_a_second_run_touches_nothing(good: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = run(good, output)
    times = {p: p.stat().st_mtime_ns for p in output.rglob("*")}
    second = run(good, output)
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*")} == times
    assert second["slices_done_before"] == 3
    assert (first["slices_done_before"], first["windows"]) == (0, second["windows"])


def test_two_runs_write_the_same_bytes_with_one_worker_or_two(good: Path, tmp_path: Path) -> None:
    reports = [run(good, tmp_path / f"out{n}", workers=n) for n in (1, 2)]
    assert files(tmp_path / "out1") == files(tmp_path / "out2")
    assert reports[0]["windows"] == reports[1]["windows"] > 0


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(good: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(ingestion, "WINDOWS_PER_OBJECT", 8)  # several objects per log
    output = tmp_path / "out"
    run(good, output)
    whole = files(output)
    assert len([name for name in whole if name.startswith("windows/")]) > 3
    kept = sorted((output / "windows").iterdir())[0]
    written = kept.stat().st_mtime_ns
    for part in [*(output / "_ingest").glob("*.done.json"), sorted((output / "agent_tokens").iterdir())[-1]]:
        part.unlink()
    report = run(good, output)
    assert files(output) == whole
    assert kept.stat().st_mtime_ns == written
    assert report["bytes"] == sum(len(v) for k, v in whole.items() if k.startswith(("windows/", "agent_tokens/")))


def test_the_output_may_be_an_object_store(good: Path, tmp_path: Path) -> None:
    there = ingest.run("gpudrive", str(good), "memory://ingested")
    assert ingest.run("gpudrive", str(good), "memory://ingested")["slices_done_before"] == 3
    run(good, tmp_path / "out")
    assert there["windows"] == tables.read("memory://ingested", "windows").num_rows
    for table in ("windows", "agent_tokens", "maps"):
        assert tables.read("memory://ingested", table).equals(tables.read(str(tmp_path / "out"), table))


def test_more_input_adds_objects_and_leaves_the_others(good: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    before = run(good, output)
    old = files(output)
    write(good, "another", driving_log(seed=9))
    after = run(good, output)
    new = files(output)
    assert {k: new[k] for k in old} == old
    assert after["windows"] > before["windows"]
    assert after["slices_done_before"] == 3


def test_a_log_is_wholly_in_one_split(good: Path, tmp_path: Path) -> None:
    run(good, tmp_path / "out", val_share=0.5)
    table = tables.read(str(tmp_path / "out"), "windows", ["log_id", "split"]).to_pylist()
    splits = {log: {r["split"] for r in table if r["log_id"] == log} for log in {r["log_id"] for r in table}}
    assert all(len(s) == 1 for s in splits.values())


def test_slices_of_a_source_hold_its_logs_once(good: Path, tmp_path: Path, monkeypatch) -> None:
    class Folder:
        """A source of five logs and a bad one, in four files."""

        @staticmethod
        def files(source: str) -> list[str]:
            return [str(p) for p in Path(source).iterdir()]

        @staticmethod
        def read(source: str) -> Iterator[DrivingLog | BadRecord]:
            yield from (driving_log(f"log{i}", seed=i) for i in range(3))
            yield BadRecord("bad", record="log3")
            yield from (driving_log(f"log{i}", seed=i) for i in range(4, 6))
            raise BadRecord("the rest is missing")

    def ingested(output: str) -> tuple[list[dict[str, Any]], Counter[str]]:
        total: Counter[str] = Counter()
        for work in ingestion.slices(Folder, str(good)):  # type: ignore[arg-type]
            options = ingestion.Options(0.5, 3, 0.1)
            total += ingestion.SliceJob(Folder, work, output, options, ingestion.Images()).run()  # type: ignore[arg-type]
        rows = tables.read(output, "windows").sort_by("window_id").to_pylist()
        assert tables.read(output, "dead_letters").num_rows == total["dead_letters"] == 2
        return rows, total

    whole, at_once = ingested(str(tmp_path / "one"))
    monkeypatch.setattr(ingestion, "SLICE_BYTES", sum(p.stat().st_size for p in good.iterdir()) // 4)
    sliced, by_parts = ingested(str(tmp_path / "four"))
    assert (at_once["slices"], by_parts["slices"]) == (1, 4)
    assert whole == sliced
    for name in ("sources", "logs", "windows", "agents", "bad_logs"):
        assert at_once[name] == by_parts[name]


def with_nan(document: dict[str, Any]) -> None:
    document["objects"][1]["position"][3]["x"] = float("nan")


def with_duplicate_id(document: dict[str, Any]) -> None:
    document["objects"][2]["id"] = document["objects"][1]["id"]


def test_bad_logs_become_dead_letters_and_the_others_are_done(good: Path, tmp_path: Path) -> None:
    write(good, "nan", change=with_nan)
    write(good, "empty", change=lambda d: d | {"objects": []})
    write(good, "duplicate", change=with_duplicate_id)
    write(good, "no_lanes", change=lambda d: d | {"roads": []})
    write(good, "alone", driving_log(agents=1))
    write(good, "far", moved(driving_log(), 1e7, -1e7))
    whole = gzip.compress(write(good, "truncated").read_bytes())
    (good / "truncated.json").unlink()
    (good / "truncated.json.gz").write_bytes(whole[: len(whole) // 2])
    report = run(good, tmp_path / "out", max_bad_share=0.5)
    bad = letters(tmp_path / "out")
    assert set(bad) == {"nan.json", "empty.json", "duplicate.json", "no_lanes.json", "truncated.json.gz"}
    assert report["bad_logs"] == 3  # empty, truncated, without lanes; the other two lose a track or two
    assert report["dead_letters"] == sum(report["dead_letters_by_reason"].values())
    ids = tables.read(str(tmp_path / "out"), "windows", ["log_id"])["log_id"].to_pylist()
    done = {log_id.rpartition("-")[0] for log_id in ids}  # the file's name, and a hash of its content
    assert done == {"log0", "log1", "log2", "nan", "duplicate", "alone", "far"}


def test_too_many_bad_logs_fail_the_job_after_the_good_ones_are_done(good: Path, tmp_path: Path) -> None:
    write(good, "bad", change=lambda d: {"objects": []})
    assert run(good, tmp_path / "one")["bad_logs"] == 1  # one bad file alone does not fail a job
    with pytest.raises(ingest.IngestFailed, match="1 bad log"):
        run(good, tmp_path / "none", max_bad_share=0.0)
    assert tables.read(str(tmp_path / "none"), "windows", ["log_id"]).num_rows > 0
    write(good, "worse", change=lambda d: {})
    for _ in range(2):  # and again where all was done before
        with pytest.raises(ingest.IngestFailed, match="2 bad logs or files beside 3 good"):
            run(good, tmp_path / "two")
    assert set(letters(tmp_path / "two")) == {"bad.json", "worse.json"}


def test_a_source_that_cannot_be_read_is_tried_again_and_is_not_lost(good: Path, tmp_path: Path) -> None:
    (good / "away.json").symlink_to(tmp_path / "comes")
    report = run(good, tmp_path / "out")
    assert (report["sources"], report["logs"], report["bad_logs"]) == (4, 3, 1)
    assert letters(tmp_path / "out")["away.json"].startswith("cannot read")
    write(tmp_path, "there").rename(tmp_path / "comes")
    report = run(good, tmp_path / "out")
    assert (report["slices"], report["slices_done_before"], report["bad_logs"]) == (4, 3, 0)


def test_a_truncated_parquet_is_a_dead_letter(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "scenario_x.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ingest.IngestFailed, match="not a whole Parquet"):
        ingest.run("argoverse2_motion", str(tmp_path / "raw"), str(tmp_path / "out"))
    assert "Parquet" in letters(tmp_path / "out")["scenario_x.parquet"]


def test_a_programming_error_fails_the_job(good: Path, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(ingestion, "split_of", broken)
    with pytest.raises(Exception, match="a mistake of ours"):
        run(good, tmp_path / "out")
    assert not (tmp_path / "out" / "dead_letters").exists()


def test_an_output_made_with_other_options_is_refused(good: Path, tmp_path: Path) -> None:
    run(good, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(tables.TableError, match=r"stride_s 0\.5 there, 1\.0 now"):
        run(good, tmp_path / "out", stride_s=1.0)
    assert files(tmp_path / "out") == before


def test_an_unwritable_output_is_refused_before_any_work(good: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(ingestion, "SliceJob", None)
    with pytest.raises(storage.StorageError, match="cannot write"):
        run(good, tmp_path / "file")


def test_what_cannot_be_run_is_refused_by_name(good: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown format 'rosbag'"):
        ingest.run("rosbag", str(good), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="Dask"):
        run(good, tmp_path / "out", beam_args=["--runner=DaskRunner"])
    with pytest.raises(storage.StorageError):
        run(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ValueError, match="multiple of"):
        run(good, tmp_path / "out", stride_s=0.25)


def test_the_windows_of_a_simulated_run_share_one_map(sumo_run: Path, tmp_path: Path) -> None:
    report = ingest.run("sumo", str(sumo_run), str(tmp_path), stride_s=2.0)
    assert report["dead_letters"] == 0
    assert report["windows"] > report["logs"] >= 1
    assert len(set(tables.read(str(tmp_path), "maps", ["map_id"])["map_id"].to_pylist())) == 1
    assert len(list((tmp_path / "maps").iterdir())) == 1
    table = tables.read(str(tmp_path), "windows", ["window_id", "log_id", "split"])
    assert len(set(table["window_id"].to_pylist())) == table.num_rows
    assert set(table["split"].to_pylist()) <= {"train", "val"}


def test_a_long_run_is_ingested_by_stretches(long_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for slices in (1, 3):
        size = sum(p.stat().st_size for p in long_run.iterdir())
        monkeypatch.setattr(ingestion, "SLICE_BYTES", size // slices)
        output = str(tmp_path / str(slices))
        report = ingest.run("sumo", str(long_run), output, stride_s=4.0)
        assert (report["slices"], report["bad_logs"], report["dead_letters"]) == (slices, 0, 0)
        ids.append(sorted(tables.read(output, "windows", ["window_id"])["window_id"].to_pylist()))
    assert ids[0] == ids[1]


def test_every_bad_log_of_a_file_of_many_counts(tmp_path: Path) -> None:
    scenarios = [waymo.scenario(id=b"a", sdc=99), waymo.scenario(id=b"b"), waymo.scenario(id=b"c", map=[])]
    waymo.write(tmp_path, *scenarios)
    with pytest.raises(ingest.IngestFailed, match="2 bad logs or files beside 1 good logs"):
        ingest.run("waymo_motion", str(tmp_path), str(tmp_path / "out"))
    letters = tables.read(str(tmp_path / "out"), "dead_letters", ["stage", "record"]).to_pylist()
    bad = [letter["record"].split(" at ")[0] for letter in letters if letter["stage"] != "cut"]  # b is too short
    assert bad == ["record 0", "record 2"]
