"""Argoverse 2 motion scenarios: the source's own tracks, links and areas, and what bad files cost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from sdiff import KINDS
from sdiff.logs import argoverse2
from sdiff.logs.driving_log import LANE_TYPES, BadRecord, DrivingLog

SCENARIO = "11111111-2222"


def rows(tracks: dict[str, str], steps: int = 20, x0: float = 0.0) -> dict[str, list[Any]]:
    """Rows of tracks {id: object type} that drive along x at 5 m/s, 4 m apart in y."""
    ids = [i for i in tracks for _ in range(steps)]
    step = [s for _ in tracks for s in range(steps)]
    n = len(ids)
    return {
        "observed": [True] * n,
        "track_id": ids,
        "object_type": [tracks[i] for i in ids],
        "object_category": [0] * n,
        "timestep": step,
        "position_x": [x0 + 0.5 * s for s in step],
        "position_y": [x0 + 4.0 * list(tracks).index(i) for i in ids],
        "heading": [0.0] * n,
        "velocity_x": [5.0] * n,
        "velocity_y": [0.0] * n,
        "scenario_id": [SCENARIO] * n,
        "start_timestamp": [3.15984e17] * n,
        "end_timestamp": [3.15984e17 + 11e9] * n,
        "num_timestamps": [110] * n,
        "focal_track_id": [ids[0] if ids else ""] * n,
        "city": ["springfield"] * n,
    }


def points(*xy: tuple[float, float], x0: float = 0.0) -> list[dict[str, float]]:
    return [{"x": x0 + x, "y": x0 + y, "z": 0.0} for x, y in xy]


def segment(
    lane_id: int, y: float, way: int, x0: float, successors: tuple[int, ...] = (), left: int | None = None
) -> dict[str, Any]:
    """A lane of 3 m width along x at `y`, in direction `way`."""
    begin, end = (0.0, 50.0) if way > 0 else (50.0, 0.0)
    return {
        "id": lane_id,
        "centerline": points((begin, y), (end, y), x0=x0),
        "left_lane_boundary": points((begin, y + 1.5 * way), (end, y + 1.5 * way), x0=x0),
        "right_lane_boundary": points((begin, y - 1.5 * way), (end, y - 1.5 * way), x0=x0),
        "left_lane_mark_type": "SOLID_YELLOW",
        "right_lane_mark_type": "NONE",
        "left_neighbor_id": left,
        "right_neighbor_id": None,
        "predecessors": [],
        "successors": list(successors),
        "is_intersection": False,
        "lane_type": "VEHICLE",
    }


def street(x0: float = 0.0) -> dict[str, Any]:
    """Two lanes, one each way, that share the line between them, and a crossing."""
    return {
        "lane_segments": {"7": segment(7, 0, 1, x0, (99,), left=8), "8": segment(8, 3, -1, x0, left=7)},
        "drivable_areas": {"1": {"id": 1, "area_boundary": points((0, -2), (50, -2), (50, 5), (0, 5), x0=x0)}},
        "pedestrian_crossings": {
            "2": {"id": 2, "edge1": points((10, -2), (10, 5), x0=x0), "edge2": points((13, -2), (13, 5), x0=x0)}
        },
    }


def write(folder: Path, data: dict[str, list[Any]], city_map: dict[str, Any] | None) -> str:
    path = folder / f"scenario_{SCENARIO}.parquet"
    pq.write_table(pa.table(data), path)
    if city_map is not None:
        (folder / f"log_map_archive_{SCENARIO}.json").write_text(json.dumps(city_map))
    return str(path)


def read(source: str) -> tuple[DrivingLog, list[BadRecord]]:
    out = list(argoverse2.read(source))
    (log,) = (x for x in out if isinstance(x, DrivingLog))
    return log, [x for x in out if isinstance(x, BadRecord)]


def test_a_scenario_is_read_as_it_was_written(tmp_path: Path) -> None:
    log, bad = read(write(tmp_path, rows({"AV": "vehicle", "b": "bus", "c": "riderless_bicycle"}), street()))
    assert not bad
    assert (log.log_id, log.dataset, log.region) == (SCENARIO, "argoverse2_motion", "springfield")
    assert log.start_us == 315_984_000_000_000
    assert log.recorder is not None and log.tracks.agent_id[log.recorder] == "AV"
    assert [KINDS[k] for k in log.tracks.kind] == ["vehicle", "bus", "other"]
    assert log.tracks.length_m[1] > 9
    np.testing.assert_allclose([log.tracks.length_m[0], log.tracks.width_m[0]], [4.877, 2.0]), "that of the vehicle"
    assert log.size_known is not None and not log.size_known.any(), "the data has no sizes"
    np.testing.assert_allclose(log.tracks.x_m[1], 0.5 * np.arange(20))
    np.testing.assert_allclose(log.tracks.vx_mps, 5.0)


def test_the_oncoming_lane_is_no_neighbour_and_a_lane_out_of_the_map_no_successor(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, rows({"AV": "vehicle"}), street()))
    lanes = log.map.of_kind("lane_centerline")
    assert list(log.map.feature_id[lanes]) == ["7", "8"]
    assert (log.map.left[lanes] == -1).all() and not len(log.map.successors)
    np.testing.assert_allclose(log.map.width_m[lanes], 3.0)
    assert not log.map.links_derived and not log.map.derived.any()


def test_the_line_between_two_lanes_is_drawn_once_and_a_crossing_is_an_area(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, rows({"AV": "vehicle"}), street()))
    (line,) = log.map.of_kind("lane_boundary")
    np.testing.assert_allclose(log.map.points(int(line))[:, 1], 1.5)
    (crossing,) = log.map.of_kind("crosswalk")
    assert shapely.Polygon(log.map.points(int(crossing))).area == pytest.approx(3 * 7)


def test_a_neighbour_in_the_same_direction_is_kept(tmp_path: Path) -> None:
    two_forward = street()
    two_forward["lane_segments"]["8"] = segment(8, 3, 1, 0.0)
    log, _ = read(write(tmp_path, rows({"AV": "vehicle"}), two_forward))
    assert log.map.left[0] == 1 and log.map.left[1] == -1


def test_centimetres_survive_far_from_the_origin(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, rows({"AV": "vehicle"}, x0=1e7), street(1e7)))
    np.testing.assert_allclose(log.tracks.x_m[0] - 1e7, 0.5 * np.arange(20), atol=1e-6)
    (crossing,) = log.map.of_kind("crosswalk")
    assert shapely.Polygon(log.map.points(int(crossing))).area == pytest.approx(21, rel=1e-4)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("position_x", float("nan"), "x_m"),
        ("position_y", None, "y_m"),
        ("object_type", "hovercraft", "object_type"),
        ("timestep", 4, "two rows"),
    ],
)
def test_a_bad_row_costs_its_track_alone(tmp_path: Path, column: str, value: Any, reason: str) -> None:
    data = rows({"AV": "vehicle", "b": "vehicle"})
    data[column][25] = value  # row 5 of track b
    log, bad = read(write(tmp_path, data, street()))
    assert [b.record for b in bad] == ["b"] and reason in str(bad[0])
    assert list(log.tracks.agent_id) == ["AV"] and log.recorder == 0


@pytest.mark.parametrize(
    ("data", "city_map", "reason"),
    [
        (rows({}), street(), "no rows|not a whole|scenario_id"),
        ({k: v for k, v in rows({"AV": "vehicle"}).items() if k != "heading"}, street(), "lacks the columns.*heading"),
        (rows({"AV": "vehicle"}), None, "no map beside"),
        (rows({"AV": "vehicle"}), {"lane_segments": {}}, "not an Argoverse 2 map"),
        (rows({"AV": "vehicle"}), [1, 2], "not an Argoverse 2 map"),
        (rows({"AV": "vehicle"}), {**street(), "lane_segments": {}}, "no lanes"),
        ({**rows({"AV": "vehicle"}), "timestep": [*range(19), 10**9]}, street(), "timestep runs from"),
        ({**rows({"AV": "vehicle"}), "city": ["a"] * 19 + ["b"]}, street(), "city is"),
    ],
)
def test_a_bad_scenario_says_what_is_wrong(tmp_path: Path, data: Any, city_map: Any, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        list(argoverse2.read(write(tmp_path, data, city_map)))


@pytest.mark.parametrize("size", [0, 3, 500])
def test_a_truncated_parquet_is_a_bad_record(tmp_path: Path, size: int) -> None:
    source = Path(write(tmp_path, rows({"AV": "vehicle"}), street()))
    source.write_bytes(source.read_bytes()[:size])
    with pytest.raises(BadRecord, match="not a whole Parquet file"):
        list(argoverse2.read(str(source)))


def test_a_map_that_is_cut_off_is_a_bad_record(tmp_path: Path) -> None:
    source = write(tmp_path, rows({"AV": "vehicle"}), street())
    city_map = tmp_path / f"log_map_archive_{SCENARIO}.json"
    city_map.write_bytes(city_map.read_bytes()[:300])
    with pytest.raises(BadRecord, match="not a whole JSON document"):
        list(argoverse2.read(source))


def test_all_real_scenarios_are_read_whole(real_data: Path) -> None:
    sources = argoverse2.find(str(real_data / "argoverse2_motion"))
    assert len(sources) == 3
    lengths = []
    for source in sources:
        log, bad = read(source)
        assert not bad
        log.validate()
        table = pq.read_table(source)
        assert log.tracks.valid.sum() == table.num_rows
        assert set(log.tracks.agent_id) == set(table["track_id"].to_pylist())
        assert log.recorder is not None and log.region in ("austin", "pittsburgh")
        lengths.append(log.tracks.valid.shape[1])
        assert set(np.unique(log.map.lane_type[log.map.of_kind("lane_centerline")])) <= {0, 1, LANE_TYPES.index("bike")}
    assert sorted(lengths) == [50, 110, 110]


def test_links_equal_the_source_s(real_data: Path) -> None:
    for source in argoverse2.find(str(real_data / "argoverse2_motion")):
        log, _ = read(source)
        archive = next(Path(source.removeprefix("file://")).parent.glob("log_map_archive_*.json"))
        segments = json.loads(archive.read_text())["lane_segments"]
        inside = {(str(s["id"]), str(to)) for s in segments.values() for to in s["successors"] if str(to) in segments}
        ids = log.map.feature_id
        assert {(str(ids[a]), str(ids[b])) for a, b in log.map.successors} == inside
        for i in log.map.of_kind("lane_centerline"):
            lane = segments[str(ids[i])]
            assert log.map.in_junction[i] == lane["is_intersection"]
            assert log.map.left[i] < 0 or str(ids[log.map.left[i]]) == str(lane["left_neighbor_id"])
