"""Logs of several formats in one folder: each is read as what it is, and nothing else is taken for a log."""

import gzip
import json
from pathlib import Path

import pytest
import test_scenarionet
import test_waymo_motion
from synthetic import driving_log, gpudrive_json

from pipelines import ingest
from sdiff import logs, storage


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """One log each of three formats, and files that are none."""
    raw = tmp_path / "raw"
    (raw / "run.1").mkdir(parents=True)
    scene = json.dumps(gpudrive_json(driving_log("a")))
    (raw / "a.json.gz").write_bytes(gzip.compress(scene.encode()))
    test_waymo_motion.write(raw, test_waymo_motion.scenario(), name="b.tfrecord-00000-of-00001")
    test_scenarionet.write(raw, test_scenarionet.scenario())
    (raw / "notes.json").write_text('{"by": "somebody", "frames": 91}')
    (raw / "run.1" / "net.xml").write_text("<net/>")
    (raw / "README.md").write_text("logs")
    return raw


def test_each_source_goes_to_the_reader_of_its_format(mixed: Path) -> None:
    auto = logs.reader("auto")
    found = {Path(s).suffixes[0]: logs.of_source(auto, s).__name__.rsplit(".", 1)[-1] for s in auto.find(str(mixed))}
    assert found == {".json": "gpudrive", ".tfrecord-00000-of-00001": "waymo_motion", ".pkl": "scenarionet"}


def test_a_conversion_that_is_named_after_its_tfrecord_is_one_source(tmp_path: Path) -> None:
    name = "sd_training.tfrecord-00000-of-01000_2a1e44d405a6833f.pkl"
    source = test_scenarionet.write(tmp_path, test_scenarionet.scenario(), name)
    auto = logs.reader("auto")
    assert auto.find(str(tmp_path)) == [f"file://{source}"]
    assert logs.of_source(auto, source) is logs.reader("scenarionet")
    with pytest.raises(storage.StorageError, match="no TFRecord file"):
        logs.reader("waymo_motion").find(str(tmp_path))
    run = ingest.run("auto", str(tmp_path), str(tmp_path / "out"))
    assert (run["sources"], run.get("slices_done_before", 0)) == (1, 0)


def test_the_tables_are_those_that_the_named_formats_make(mixed: Path, tmp_path: Path) -> None:
    auto = ingest.run("auto", str(mixed), str(tmp_path / "auto"))
    assert (auto["logs"], auto["bad_logs"]) == (3, 0)
    for format, name in (("gpudrive", "a.json.gz"), ("waymo_motion", "b.tfrecord-00000-of-00001")):
        ingest.run(format, str(mixed / name), str(tmp_path / "named"))
    named = {p.name: p.read_bytes() for p in (tmp_path / "named" / "windows").iterdir()}
    assert (
        named and named.items() <= {p.name: p.read_bytes() for p in (tmp_path / "auto" / "windows").iterdir()}.items()
    )


def test_a_folder_without_any_log_names_the_formats(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(storage.StorageError, match=r"expected one of the formats argoverse2_motion, .*sumo"):
        logs.reader("auto").find(str(tmp_path))


def test_every_real_file_is_recognised(real_data: Path) -> None:
    auto = logs.reader("auto")
    folders = [
        ("argoverse2_motion", "argoverse2_motion"),
        ("argoverse2_sensor", "argoverse2_sensor"),
        ("commonroad", "commonroad_ngsim"),
        ("gpudrive", "waymo_gpudrive_json"),
        ("nuplan", "nuplan_db"),
        ("scenarionet", "scenarionet_nuscenes"),
        ("scenarionet", "scenarionet_waymo"),
        ("waymo_motion", "waymo_tfrecord"),
    ]
    for format, folder in folders:
        named = logs.reader(format)
        assert auto.find(str(real_data / folder)) == named.find(str(real_data / folder))
        assert all(logs.of_source(auto, s) is named for s in auto.find(str(real_data / folder)))
