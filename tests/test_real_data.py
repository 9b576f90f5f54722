"""Every file of real data becomes windows or a dead letter with a true reason, and the docs say how many."""

import fnmatch
import re
from pathlib import Path

import pytest

from pipelines import ingest
from sdiff import logs, stats, storage, tables
from sdiff.logs.driving_log import DrivingLog

PAGE = (Path(__file__).parent.parent / "docs" / "formats.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (.*?) ?\|$", re.M)
NOT_READ = ("*___img_Sim2_city.json", "nuplan-maps-v1.0.json")
STEPS = 41
"""A window needs a vehicle that is observed at so many steps in a row."""


def test_the_table_has_every_format_of_real_logs() -> None:
    assert {format for _, format, *_ in ROW.findall(PAGE)} == {*logs.FORMATS} - {"sumo"}


@pytest.mark.parametrize("folder", ["sumo_osm_nets", "sumo_resco", "sumo_bologna", "osm_extracts"])
def test_networks_are_no_logs_and_the_page_says_what_they_are_for(real_data: Path, folder: str) -> None:
    assert f"`{folder}`" in PAGE
    with pytest.raises(storage.StorageError, match="no driving log"):
        logs.reader("auto").find(str(real_data / folder))


def test_every_folder_of_real_data_is_on_the_page(real_data: Path) -> None:
    assert [p.name for p in real_data.iterdir() if p.is_dir() and f"`{p.name}`" not in PAGE] == []


@pytest.mark.parametrize("row", ROW.findall(PAGE), ids=lambda row: row[0])
def test_every_real_file_is_windows_or_a_dead_letter(real_data: Path, tmp_path: Path, row: tuple[str, ...]) -> None:
    folder, format, *numbers, letters = row
    n_files, n_sources, n_logs, n_windows = map(int, numbers)
    reader = logs.reader(format)
    sources = reader.find(str(real_data / folder))
    there = {str(p) for p in (real_data / folder).rglob("*") if p.is_file()}
    read = {storage.filesystem(uri)[1] for source in sources for uri in logs.files(reader, source)}
    assert (len(there), len(sources)) == (n_files, n_sources)
    assert [f for f in there - read if not any(fnmatch.fnmatch(Path(f).name, name) for name in NOT_READ)] == []

    if n_logs:
        ingest.run(format, str(real_data / folder), str(tmp_path), max_bad_share=1.0)
    else:
        with pytest.raises(ingest.IngestFailed):
            ingest.run(format, str(real_data / folder), str(tmp_path), max_bad_share=1.0)
    counted = stats.read(str(tmp_path))
    assert (counted.ingested["sources"], counted.ingested["logs"], counted.windows) == (n_sources, n_logs, n_windows)
    expected = [re.fullmatch(r"(\d+) (\w+): (.+)", letter) for letter in letters.split("; ") if letter]
    stated = sorted((int(m[1]), m[2], re.sub("[0-9]+", "#", m[3])) for m in expected if m)
    assert len(stated) == len(expected) == len(counted.dead_letters)
    for (n, stage, reason), found in zip(
        stated, sorted(counted.dead_letters, key=lambda d: (d.count, d.stage)), strict=True
    ):
        assert (found.count, found.stage) == (n, stage) and found.reason.startswith(reason)

    with_windows = set(tables.read(str(tmp_path), "windows", ["log_id"])["log_id"].to_pylist()) if n_windows else set()
    silent = tables.read(str(tmp_path), "dead_letters").to_pylist() if letters else []
    assert n_logs - len(with_windows) == sum(letter["stage"] == "cut" for letter in silent)
    for source in (letter["source"] for letter in silent if letter["stage"] == "cut"):
        (log,) = (item for item in reader.read(source) if isinstance(item, DrivingLog))
        assert log.tracks.valid.sum(1).max() < STEPS, f"{source} has a vehicle that is observed for a window"
