"""The reader that docs/add-a-format.md shows is a reader."""

import csv
import json
import re
import sys
import types
from pathlib import Path

import pytest
from synthetic import driving_log

from pipelines import ingest
from sdiff import KINDS, logs, tables

PAGE = Path(__file__).parent.parent / "docs" / "add-a-format.md"


@pytest.fixture
def drive_csv(monkeypatch: pytest.MonkeyPatch) -> str:
    """The format of the page, registered as the page says."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = types.ModuleType("drive_csv")
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "drive_csv", module)
    monkeypatch.setitem(logs.FORMATS, "drive_csv", "drive_csv")
    return "drive_csv"


def write(folder: Path, name: str) -> None:
    """A log of the format, and its lanes."""
    log = driving_log(name)
    t = log.tracks
    columns = ("x_m", "y_m", "heading_rad", "vx_mps", "vy_mps")
    with (folder / f"{name}.drive.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "id", "kind", *columns, "length_m", "width_m"])
        for i, agent in enumerate(t.agent_id):
            for step in range(t.valid.shape[1]):
                pose = [getattr(t, name)[i, step] for name in columns]
                rows.writerow([step, agent, KINDS[t.kind[i]], *pose, t.length_m[i], t.width_m[i]])
    lanes = [log.map.points(f).tolist() for f in log.map.of_kind("lane_centerline")]
    (folder / f"{name}.lanes.json").write_text(json.dumps(lanes))


def test_the_reader_of_the_page_ingests_good_logs_and_buries_bad_ones(drive_csv: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw, "good")
    write(raw, "bad")
    (raw / "bad.drive.csv").write_text("step,id\n0,a\n")
    report = ingest.run(drive_csv, str(raw), str(tmp_path / "out"), max_bad_share=1.0)
    assert (report["logs"], report["bad_logs"]) == (1, 1)
    windows = tables.read(str(tmp_path / "out"), "windows", ["log_id", "dataset"])
    assert windows.num_rows > 0 and set(windows["dataset"].to_pylist()) == {"drive_csv"}
    assert "not a table of a drive" in tables.read(str(tmp_path / "out"), "dead_letters")["reason"][0].as_py()
