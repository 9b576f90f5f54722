"""What is said of tables is so: counts, shares and quantiles are those of the rows, and the card stays the same."""

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from object_store import ObjectStore
from PIL import Image
from synthetic import driving_log
from test_cli import sdiff
from test_ingest import write
from test_query import agents_of, window_rows
from test_view import map_rows

import schemas
from sdiff import data_card, logs, query, stats, storage, tables
from sdiff.logs.scenarionet import LICENSES
from sdiff.simulate.regions import REGIONS
from sdiff.stats import Histogram
from sdiff.verify import verify
from sdiff.view import plots, stats_page


def test_a_quantile_is_the_least_value_that_the_share_does_not_exceed() -> None:
    values = np.random.default_rng(0).integers(0, 300, 1000)
    histogram = Histogram(0.1)
    histogram.counts.update(values.tolist())
    for share in (0.0, 0.05, 0.5, 0.95, 1.0):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert histogram.quantile(share) == pytest.approx(exact * 0.1)
    assert histogram.share_below(15.0) == np.mean(values < 150)
    assert histogram.at_least(15.0).total == np.sum(values >= 150)
    assert Histogram().quantile(0.5) is None and Histogram().share_below(1.0) is None


LETTERS = [
    ("s3://bucket/raw/a/log.json", None, "read", "s3://bucket/raw/a/log.json has 3 tracks"),
    ("s3://bucket/raw/b/log.json", None, "read", "s3://bucket/raw/b/log.json has 14 tracks"),
    ("/raw/c/log.json", "x", "cut", "no map in any of /raw/c, /raw; put one there"),
]


def write_tables(uri: str) -> None:
    """Three windows of two data sets on two maps of three, and three dead letters."""
    scenes = [agents_of(["car", "bus", "pedestrian"]), agents_of(["car"]), agents_of(["car", "cyclist"])]
    scenes[0].valid[1, :5] = False  # comes late
    scenes[0].valid[2, 10:12] = False  # lost and found again
    about = {
        "dataset": pa.array(["here", "here", "there"]),
        "license": pa.array(["CC BY-NC-SA 4.0", "CC BY-NC-SA 4.0", "unknown"]),
        "split": pa.array(["train", "val", "train"]),
        "log_id": pa.array(["p", "q", "r"]),
        "map_id": pa.array(["m", "m", "n"]),
        "ego_is_recorder": pa.array([True, False, False]),
    }
    tables.write(window_rows(scenes, **about), "windows", uri, "one")
    tokens: list[dict[str, Any]] = [
        {"kind": kind, "speed_mps": speed} for kind, speed in (("car", 0.4), ("car", 0.5), ("car", 12.0), ("bus", 3.0))
    ]
    schema = schemas.arrow_schema("agent_tokens")
    empty = {f.name: None if f.nullable else False if pa.types.is_boolean(f.type) else "x" for f in schema}
    tables.write(pa.Table.from_pylist([{**empty, **t} for t in tokens], schema), "agent_tokens", uri, "one")
    lane = {"kind": "lane_centerline", "xy": [(0, 0), (300, 400), (300, 900)], "lane_type": "vehicle"}
    features = [
        {**lane, "map_id": "m", "speed_limit_mps": 10.0},
        {**lane, "map_id": "n", "links_derived": True},
        {**lane, "map_id": "o", "lane_type": "bike"},
        {"kind": "drivable_area", "map_id": "n", "xy": [(0, 0), (1, 0), (1, 1)], "derived": True},
        {"kind": "drivable_area", "map_id": "n", "xy": [(0, 0), (1, 0), (1, 1)]},
    ]
    tables.write(map_rows(features), "maps", uri, "one")
    rows = [dict(zip(("source", "record", "stage", "reason"), letter, strict=True)) for letter in LETTERS]
    tables.write(pa.Table.from_pylist(rows, schemas.arrow_schema("dead_letters")), "dead_letters", uri, "one")
    for slice, gaps in (("a", 2), ("b", 3)):
        counts = {"repaired: gap": gaps, "repaired: jump": 0}
        storage.write_bytes(f"{uri}/_ingest/{slice}.done.json", json.dumps({"counts": counts}).encode())


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    write_tables("memory://stats")
    return stats.as_result(stats.read("memory://stats"))


def test_mended_tracks_are_counted_by_what_was_wrong(result: dict[str, Any]) -> None:
    assert result["repairs"] == [{"defect": "gap", "tracks": 5}]


def test_windows_are_counted_by_source_region_and_split(result: dict[str, Any]) -> None:
    here, there = result["datasets"]
    assert (here["dataset"], here["logs"], here["windows"], here["train"], here["val"]) == ("here", 2, 2, 1, 1)
    assert (here["agents"], here["around the AV"], there["around the AV"]) == (4, 0.5, 0.0)
    assert [(r["dataset"], r["train"], r["val"]) for r in result["regions"]] == [("here", 1, 1), ("there", 1, 0)]
    assert (result["windows"], result["logs"], result["agents"]) == (3, 3, 6)
    size = storage.size("memory://stats/windows/one.parquet")
    assert (result["MB of windows"], result["bytes per window"]) == (size / 1e6, size / 3)


def test_agents_are_counted_by_kind_speed_and_size(result: dict[str, Any]) -> None:
    assert [(r["least"], r["median"], r["most"]) for r in result["agents per window"]] == [(1, 1, 3), (2, 2, 2)]
    agents = {r["kind"]: r["agents"] for r in result["kinds"]}
    assert agents == {"car": 3, "bus": 1, "cyclist": 1, "pedestrian": 1}
    standing = {r["kind"]: r["standing"] for r in result["kinds"]}
    assert standing == {"car": pytest.approx(1 / 3), "bus": 0.0, "cyclist": None, "pedestrian": None}
    car = next(r for r in result["speeds m/s"] if r["kind"] == "car")
    assert (car["median"], car["most"]) == (0.5, 12.0)
    assert all((r["length median"], r["width 95 %"]) == (4.5, 1.9) for r in result["sizes m"])


def test_steps_at_which_agents_are_seen_are_counted_and_gaps_told_from_ends(result: dict[str, Any]) -> None:
    here = {r["kind"]: r for r in result["tracks"] if r["dataset"] == "here"}
    seen = {kind: (r["complete"], r["with gaps"], r["median"]) for kind, r in here.items()}
    assert seen == {"car": (1.0, 0.0, 41), "bus": (0.0, 0.0, 36), "pedestrian": (0.0, 1.0, 39)}


def test_lanes_are_measured_and_what_was_computed_is_told_apart(result: dict[str, Any]) -> None:
    rows = {r["dataset"]: r for r in result["maps"]}
    assert {name: (r["maps"], r["km vehicle"], r["km bike"]) for name, r in rows.items()} == {
        "here": (1, 1.0, 0.0),
        "there": (1, 1.0, 0.0),
        "(no window)": (1, 0.0, 1.0),
    }
    assert (rows["here"]["with limit"], rows["here"]["computed"]) == (1.0, 0.0)
    assert (rows["there"]["with limit"], rows["there"]["computed"]) == (0.0, 1.0)
    areas = [r for r in result["map features"] if r["kind"] == "drivable_area"]
    assert [(r["dataset"], r["features"], r["computed"]) for r in areas] == [("there", 2, 0.5)]


def test_dead_letters_alike_are_one_reason_with_an_example(result: dict[str, Any]) -> None:
    assert result["dead letters"] == [
        {"stage": "read", "reason": "source has # tracks", "letters": 2, "sources": 2, "example": "a/log.json"},
        {
            "stage": "cut",
            "reason": "no map in any of /...; put one there",
            "letters": 1,
            "sources": 1,
            "example": "c/log.json",
        },
    ]


def test_the_card_says_where_windows_are_from_what_is_forbidden_and_what_failed() -> None:
    write_tables("memory://stats-card")
    uri = data_card.write("memory://stats-card", stats.read("memory://stats-card/windows"))
    card = storage.read_bytes(uri).decode()
    assert uri == "memory://stats-card/DATA_CARD.md"
    for text in (
        "CC BY-NC-SA 4.0",
        "No commercial use",
        "The source does not say",
        "source has # tracks",
        "a/log.json",
    ):
        assert text in card
    assert data_card.text(stats.read("memory://stats-card")) == card, "the card itself changes nothing"


def test_the_card_knows_the_limits_of_every_format_and_the_terms_of_every_licence() -> None:
    assert set(data_card.LIMITS) == set(logs.FORMATS)
    readers = [logs.reader(name) for name in data_card.LIMITS]
    known = {r.LICENSE for r in readers if hasattr(r, "LICENSE")} | set(LICENSES.values())
    known |= {region.license for region in REGIONS}
    assert len(known) >= 4
    for license in known:
        assert any(license.startswith(start) for start in data_card.TERMS), license


def test_tables_on_s3_have_the_card_that_they_have_on_disk(s3: ObjectStore, tmp_path: Path) -> None:
    places = (s3.make_bucket("stats"), str(tmp_path))
    for uri in places:
        write_tables(uri)
        data_card.write(uri, stats.read(uri))
    on_s3, on_disk = (storage.read_bytes(f"{uri}/{data_card.NAME}") for uri in places)
    assert on_s3 == on_disk


def test_a_table_is_counted_alike_in_one_part_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    write_tables("memory://stats-parts")
    for table in ("windows", "agent_tokens", "maps", "dead_letters"):
        data = storage.read_bytes(f"memory://stats-parts/{table}/one.parquet")
        storage.write_bytes(f"memory://stats-parts/{table}/two.parquet", data)
    whole = stats.as_result(stats.read("memory://stats-parts"))
    monkeypatch.setattr(query, "OBJECTS_AT_ONCE", 1)
    assert stats.as_result(stats.read("memory://stats-parts")) == whole
    assert (whole["windows"], whole["logs"], whole["maps"][0]["maps"]) == (6, 3, 1)


def test_tables_without_windows_have_a_card_of_what_failed() -> None:
    rows = [dict(zip(("source", "record", "stage", "reason"), letter, strict=True)) for letter in LETTERS]
    table = pa.Table.from_pylist(rows, schemas.arrow_schema("dead_letters"))
    tables.write(table, "dead_letters", "memory://stats-bare", "one")
    counted = stats.read("memory://stats-bare")
    assert stats.as_result(counted)["windows"] == 0
    assert "source has # tracks" in data_card.text(counted)
    assert stats_page.page(counted).height > 100
    with pytest.raises(query.QueryError, match="no table"):
        stats.read("memory://stats-nowhere")


def test_a_bar_is_as_long_as_its_value() -> None:
    bars = [plots.Bar("a", [(0, 100, 0)]), plots.Bar("b", [(0, 25, 0), (25, 50, 1)])]
    image = np.asarray(plots.bar_chart(bars, size_px=(600, 300)), int)
    widths = [(np.abs(image - fill).max(-1) <= 2).sum(1) for fill in plots.FILLS[:2]]
    blue, grey = (np.unique(w[w > 20]) for w in widths)
    assert blue[-1] / blue[0] == pytest.approx(4, rel=0.03)
    assert grey[-1] == pytest.approx(blue[0], abs=2)


def call(folder: Path) -> subprocess.CompletedProcess[str]:
    return sdiff("ingest", "--format", "gpudrive", "--input", str(folder / "raw"), "--output", str(folder / "out"))


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of tables as the command leaves them: of two good logs, beside them, and a bad one."""
    folder = tmp_path_factory.mktemp("ingested")
    for seed in range(2):
        write(folder / "raw", f"log{seed}", driving_log(agents=4 + seed, seed=seed))
    (folder / "raw" / "bad.json").write_text("{")
    done = call(folder)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_ingest_leaves_a_card_that_a_second_run_leaves_as_it_is(ingested: Path) -> None:
    def files() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in ingested.rglob("*") if p.is_file()}

    before = files()
    card = (ingested / data_card.NAME).read_text(encoding="utf-8")
    assert "not a whole JSON document" in card and "raw/bad.json" in card and "stand ins: 3" in card
    (quality,) = stats.as_result(stats.read(str(ingested)))["quality"]
    assert (quality["size known"], quality["repaired"], quality["vehicles on the road"]) == (1.0, 0.0, 1.0)
    assert call(ingested.parent).returncode == 0
    assert files() == before
    assert sum(len(r.problems) for r in verify(str(ingested))) == 0


def test_a_run_that_failed_leaves_a_card_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "bad.json").write_text("{")
    assert call(tmp_path).returncode == 1
    assert "raw/bad.json" in (tmp_path / "out" / data_card.NAME).read_text(encoding="utf-8")


def test_the_command_shows_the_counts_and_writes_page_and_card(ingested: Path, tmp_path: Path) -> None:
    done = sdiff("stats", "--data", str(ingested), "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for text in ("datasets", "pedestrian", "median", "not a whole JSON document"):
        assert text in done.stdout
    assert (tmp_path / data_card.NAME).read_bytes() == (ingested / data_card.NAME).read_bytes()
    page = Image.open(io.BytesIO((tmp_path / "stats.png").read_bytes()))
    assert page.width > 1000 and len(np.unique(np.asarray(page).reshape(-1, 3), axis=0)) > 20
