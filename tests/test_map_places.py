"""Places on bare maps: the three formats, the poses along lanes, what a job may ask there, and what bad files say."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from crossroads import AREAS, LANES, LEFT_OF, crossroads, write_windows

from sdiff import tables, window_tables
from sdiff.directives.job import Job, JobFileError, Places, parse
from sdiff.directives.search import IndexedMap, Maps, MapSpot, NoPlace, find_on_maps, spots_on_map
from sdiff.directives.units import Unit, map_image
from sdiff.geometry import SE2, wrap_angle
from sdiff.logs.driving_log import BadRecord
from sdiff.maps import files
from sdiff.maps.files import MapFile
from sdiff.maps.lanes import LaneGraph, map_from_rows
from sdiff.maps.places import Place, Wanted, along_lanes
from sdiff.scene import MAP_CHANNELS
from sdiff.simulate.tools import run
from sdiff.span import Span

CROSSROADS = MapFile(crossroads(), "made_up", "crossroads", "unknown")
GRAPH = LaneGraph(crossroads())


def archive() -> dict[str, dict[str, object]]:
    """The crossroads as an Argoverse 2 map archive, its lanes without centre lines, as in the sensor data set."""
    path = {lane: GRAPH.lane_path(list(LANES).index(lane)) for lane in LANES}
    names = list(LANES)
    right_of = {left: right for right, left in LEFT_OF.items()}

    def side(lane: str, left_m: float) -> list[dict[str, float]]:
        poses = [path[lane].pose(float(s), left_m) for s in np.linspace(0, path[lane].s_m[-1], 9 if left_m > 0 else 5)]
        return [{"x": p.x_m, "y": p.y_m, "z": 0.0} for p in poses]

    def neighbour(links: dict[str, str], lane: str) -> int | None:
        return names.index(links[lane]) if lane in links else None

    segments = {
        str(i): {
            "id": i,
            "is_intersection": LANES[lane][2],
            "lane_type": "VEHICLE",
            "left_lane_boundary": side(lane, 1.75),
            "left_lane_mark_type": "NONE",
            "right_lane_boundary": side(lane, -1.75),
            "right_lane_mark_type": "SOLID_WHITE",
            "successors": [names.index(n) for n in LANES[lane][1]],
            "predecessors": [],
            "left_neighbor_id": neighbour(LEFT_OF, lane),
            "right_neighbor_id": neighbour(right_of, lane),
        }
        for i, lane in enumerate(names)
    }
    roads = [ring for kind, ring in AREAS.values() if kind == "drivable_area"]
    areas = {str(i): {"id": i, "area_boundary": [{"x": x, "y": y} for x, y in ring]} for i, ring in enumerate(roads)}
    (a, b, c, d) = ({"x": x, "y": y} for x, y in AREAS["zebra"][1])
    return {
        "lane_segments": segments,
        "drivable_areas": areas,
        "pedestrian_crossings": {"0": {"id": 0, "edge1": [a, d], "edge2": [b, c]}},
    }


@pytest.fixture(scope="module")
def maps(town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one map in each format: town.net.xml.gz, the same town as town.xodr, and the crossroads."""
    folder = tmp_path_factory.mktemp("maps")
    run("netconvert", "-s", str(town), "--opendrive-output", "town.xodr", folder=folder)
    (folder / "town.net.xml.gz").write_bytes(gzip.compress(town.read_bytes()))
    (folder / "log_map_archive_crossroads.json").write_text(json.dumps(archive()))
    (folder / "notes.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def by_format(maps: Path) -> dict[str, MapFile]:
    found, bad = files.read_all(str(maps))
    assert not bad
    return {f.dataset: f for f in found}


def length_km(file: MapFile) -> float:
    graph = LaneGraph(file.map)
    return sum(map(graph.length_m, np.flatnonzero(graph.drivable & ~file.map.in_junction).tolist())) / 1000


def on(*found: MapFile, spacing_m: float = 10.0) -> tuple[list[MapSpot], Maps]:
    """The candidates on maps, and the maps as a search takes them."""
    held = {f.map.map_id: IndexedMap(map_from_rows(window_tables.maps_table(f.map))) for f in found}
    return [spot for f in found for spot in spots_on_map(f, f"{f.region}.parquet", spacing_m)], Maps(held)


def test_a_folder_lends_its_maps_and_leaves_other_files_alone(by_format: dict[str, MapFile]) -> None:
    assert {d: (f.region, f.license) for d, f in by_format.items()} == {
        "argoverse2_map": ("crossroads", "unknown"),
        "sumo_net": ("town", "unknown"),
        "opendrive": ("town", "unknown"),
    }
    assert len({f.map.map_id for f in by_format.values()}) == 3


def test_a_town_is_the_same_in_sumo_and_in_opendrive(by_format: dict[str, MapFile]) -> None:
    sumo, opendrive = by_format["sumo_net"], by_format["opendrive"]
    assert length_km(opendrive) == pytest.approx(length_km(sumo), rel=0.01)
    other = LaneGraph(opendrive.map)
    for pose in along_lanes(LaneGraph(sumo.map), 25.0):
        at = other.lane_at(pose)
        assert at is not None and abs(at.lateral_m) < 0.2, "in the file's own coordinates"


def test_a_lane_without_a_centre_line_runs_midway_between_its_sides(by_format: dict[str, MapFile]) -> None:
    found = by_format["argoverse2_map"].map
    for i, lane in enumerate(LANES):
        middle = found.points(i)
        offsets = [GRAPH.lane_path(i).project(x, y)[1] for x, y in middle]
        assert np.abs(offsets).max() < 0.2, lane
        assert middle[0] == pytest.approx(LANES[lane][0][0], abs=0.1) and found.in_junction[i] == LANES[lane][2]


def test_a_licence_that_a_file_names_is_its_license(maps: Path, tmp_path: Path) -> None:
    road = (maps / "town.xodr").read_text()
    begin, end = road.index("<header"), road.index("/>", road.index("<header"))
    header = f'{road[begin:end]}><license spdxid="CC0-1.0" name="Zero"/></header>'
    (tmp_path / "town.xodr").write_text(road[:begin] + header + road[end + 2 :])
    net = gzip.decompress((maps / "town.net.xml.gz").read_bytes())
    (tmp_path / "streets").write_bytes(net.replace(b"<!-- ", b"<!-- SPDX-License-Identifier: ODbL-1.0\n", 1))
    assert files.read(str(tmp_path / "town.xodr")).license == "CC0-1.0"
    streets = files.read(str(tmp_path / "streets"))
    assert (streets.license, streets.region, streets.dataset) == ("ODbL-1.0", "streets", "sumo_net")


def test_poses_lie_evenly_along_the_lanes_outside_junctions() -> None:
    poses = along_lanes(GRAPH, 10.0)
    expected = sum(int((GRAPH.length_m(i) + 5.0) // 10.0) for i, lane in enumerate(LANES) if not LANES[lane][2])
    assert len(poses) == expected
    assert [p for p in poses if p.y_m == -1.75][:3] == [(-95.0, -1.75, 0.0), (-85.0, -1.75, 0.0), (-75.0, -1.75, 0.0)]
    for pose in poses:
        at = GRAPH.lane_at(pose)
        assert at is not None and abs(at.lateral_m) < 0.01
        along = GRAPH.lane_path(at.lane).heading(at.s_m)
        assert abs(float(wrap_angle(along - pose.heading_rad))) < 1e-6
        assert not GRAPH.map.in_junction[at.lane]


@pytest.mark.parametrize(("x_m", "room"), [(-60.0, False), (-45.0, True), (45.0, True), (55.0, False)])
def test_a_place_near_the_end_of_the_map_has_no_room(x_m: float, room: bool) -> None:
    assert Place(lambda: GRAPH, SE2(x_m, -1.75, 0.0)).has_room is room


def test_the_seed_decides_which_places_are_taken(by_format: dict[str, MapFile]) -> None:
    spots, maps = on(*by_format.values())

    def taken(seed: int, spots: list[MapSpot] = spots) -> list[MapSpot]:
        return find_on_maps(Job("j", seed=seed, map="m"), spots, maps, {"free": 12}).spots["free"]

    assert taken(1) == taken(1) == taken(1, spots[::-1])
    assert taken(1) != taken(2)
    assert len({s.map_id for s in taken(1)}) > 1, "from all maps"


def test_predicates_hold_on_a_bare_map_as_in_a_window() -> None:
    spots, maps = on(CROSSROADS, spacing_m=2.0)
    wanted = Wanted(junction_ahead_m=Span(5, 25), turn=("left",), lane_left=True, crosswalk_ahead_m=Span(1, 80))
    found = find_on_maps(Job("j", map="m", places=Places(wanted=wanted)), spots, maps, {"free": 1000})
    there = {(s.x_m, s.y_m, s.heading_rad) for s in found.spots["free"]}
    assert there == {(x, -1.75, 0.0) for x in (-15.0, -13.0, -11.0, -9.0, -7.0, -5.0, -3.0, -1.0, 1.0, 3.0)}
    assert found.counts["50 m of road ahead and behind"] > found.counts["all of these"] == 10


def test_where_no_place_fits_the_counts_say_why() -> None:
    spots, maps = on(CROSSROADS)
    job = Job("j", map="mine.net.xml", places=Places(wanted=Wanted(turn=("u_turn",))))
    with pytest.raises(NoPlace, match=r"in mine\.net\.xml: \d+ poses along the lanes of 1 map; (.|\n)*0 turn"):
        find_on_maps(job, spots, maps, {"free": 10})


def test_bare_maps_that_the_model_has_seen_lend_no_place(by_format: dict[str, MapFile]) -> None:
    spots, maps = on(*by_format.values())
    seen = {spots[0].map_id}
    others = {s.map_id for s in spots} - seen
    held_back = find_on_maps(Job("j", map="m"), spots, maps, {"free": 1000}, seen)
    assert {s.map_id for s in held_back.spots["free"]} == others
    assert held_back.trained + held_back.n_candidates == len(spots)
    every = find_on_maps(Job("j", map="m", places=Places(trained_maps=True)), spots, maps, {"free": 1000}, seen)
    assert {s.map_id for s in every.spots["free"]} == others | seen


def test_the_image_of_a_place_is_that_of_a_window_there(tmp_path: Path) -> None:
    windows = write_windows(tmp_path, logs=1)
    drawn = IndexedMap(map_from_rows(window_tables.maps_table(crossroads())))
    rows = tables.read(windows, "windows").to_pylist()
    unlit = [i for i, channel in enumerate(MAP_CHANNELS) if channel != "light"]
    for row in rows:
        image = drawn.image(SE2(row["origin_x_m"], row["origin_y_m"], row["origin_heading_rad"]))
        assert (image[unlit] == map_image(row["map_bev"])[unlit]).all()


def test_a_unit_keeps_its_places_on_its_way_to_another_process(by_format: dict[str, MapFile]) -> None:
    spots, _ = on(by_format["sumo_net"])
    unit = Unit("u", 0, "free", 0, (*spots[:3], spots[0]))
    assert Unit.from_json(unit.to_json()) == unit


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("places:\n  map: m\n  where: region = 'x'\n", r"job\.yaml:3: places\.where: asks for a log"),
        ("places:\n  map: m\n  light: stop\n", r"job\.yaml:3: places\.light"),
        ("places:\n  map: m\n  ego_speed_mps: 3\n", r"job\.yaml:3: places\.ego_speed_mps"),
        ("places: {map: m}\ndirectives:\n  - {name: a, ego: from_log}\n", r"job\.yaml:3: directives\[0\]\.ego"),
        (
            "places: {map: m}\ndirectives:\n  - name: a\n    agents:\n      - {from_log: place}\n",
            r"job\.yaml:5: directives\[0\]\.agents\[0\]\.from_log",
        ),
        ("places:\n  map: m\n  windows: w\n", r"job\.yaml:2: places\.map: given beside windows"),
        ("places:\n  spacing_m: 5\n", r"job\.yaml:2: places\.spacing_m: .*bare map"),
        ("places:\n  map: m\n  spacing_m: 0\n", r"job\.yaml:3: places\.spacing_m: found 0"),
    ],
)
def test_what_a_bare_map_cannot_give_is_refused_by_line_and_field(text: str, says: str) -> None:
    with pytest.raises(JobFileError, match=says):
        parse(text, "job.yaml")


def test_options_choose_between_windows_and_a_map() -> None:
    on_windows, on_map = "places: {windows: w}", "places: {map: m, spacing_m: 5, turn: left}"
    assert (parse(on_windows, "j").windows, parse(on_windows, "j").map) == ("w", None)
    assert (parse(on_windows, "j", "m").windows, parse(on_windows, "j", "m").map) == (None, "m")
    job = parse(on_map, "j")
    assert (job.map, job.places.spacing_m, job.places.wanted.turn) == ("m", 5.0, ("left",))
    job = job.with_options(windows="w")
    assert (job.windows, job.map) == ("w", None)
    with pytest.raises(JobFileError, match=r"j:1: places\.light"):
        parse("places: {light: go}", "j", "m")


Spoil = Callable[[bytes], bytes]
BAD: dict[str, tuple[str, Spoil, str]] = {
    "cut gzip": ("town.net.xml.gz", lambda b: b[:500], "not a whole gzip file"),
    "no map": ("notes.json", lambda b: b, "not an Argoverse 2 map: .*expected lane_segments"),
    "cut JSON": ("log_map_archive_crossroads.json", lambda b: b[:900], "not a whole JSON document"),
    "no lanes": ("town.net.xml.gz", lambda b: b"<net></net>", "0 lanes"),
    "other XML": ("town.xodr", lambda b: b"<osm></osm>", r"none of the formats.*\(\.net\.xml\) or OpenDRIVE"),
    "no XML": ("town.xodr", lambda b: b"hello", "none of the formats"),
    "cut XML": ("town.xodr", lambda b: b[:3000], "not an OpenDRIVE map that can be used"),
    "only walkers": (
        "log_map_archive_crossroads.json",
        lambda b: b.replace(b'"VEHICLE"', b'"BIKE"'),
        "no lane for vehicles",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_map_is_named_with_what_was_expected(case: str, maps: Path, tmp_path: Path) -> None:
    name, spoil, says = BAD[case]
    (tmp_path / name).write_bytes(spoil((maps / name).read_bytes()))
    with pytest.raises(BadRecord, match=rf"{name}: .*{says}"):
        files.read_all(str(tmp_path / name))


def test_a_bad_map_in_a_folder_costs_that_map_only(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "a.net.xml").write_text("<net/>")
    (tmp_path / "b.net.xml.gz").write_bytes((maps / "town.net.xml.gz").read_bytes())
    (tmp_path / "again.net.xml.gz").write_bytes((maps / "town.net.xml.gz").read_bytes())
    found, bad = files.read_all(str(tmp_path))
    assert len(found) == 1, "the same map once"
    assert [uri.rsplit("/", 1)[-1] for uri, _ in bad] == ["a.net.xml"]


def test_where_there_is_no_map_it_says_what_would_be_one(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match=r"no map at .*expected a file, or a folder with log_map_archive"):
        files.read_all(str(tmp_path))
    with pytest.raises(BadRecord, match=r"no map at .*nowhere"):
        files.read_all(str(tmp_path / "nowhere"))


def test_real_maps_lend_places_on_their_roads(real_data: Path) -> None:
    nets = sorted((real_data / "sumo_osm_nets").glob("*.net.xml.gz"))[::40]
    archives = sorted(real_data.glob("argoverse2_*/**/log_map_archive_*"))
    assert len(nets) >= 5 and len(archives) >= 5
    drivable = MAP_CHANNELS.index("drivable_area")
    n_places = 0
    for path in [*nets, *archives]:
        file = files.read(str(path))
        spots, maps = on(file, spacing_m=40.0)
        for spot in find_on_maps(Job("j", map="m"), spots, maps, {"free": 10}).spots["free"]:
            image = maps.indexed(spot.map_id, spot.map_object).image(spot.map_SE2_window)
            assert image[drivable, 127:129, 127:129].all(), f"{path.name}: the AV stands beside the road"
            n_places += 1
    assert n_places > 50
