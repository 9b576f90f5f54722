"""Links, junctions, carriageway and stop lines from geometry: on made-up roads and against maps that have them."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from scipy.spatial import cKDTree

from sdiff import KINDS, logs
from sdiff.geometry import wrap_angle
from sdiff.logs.driving_log import LANE_TYPES, BadRecord, DrivingLog
from sdiff.maps import Lines, derive

Pair = set[tuple[int, int]]


def wide(lines: Lines) -> np.ndarray:
    return np.full(len(lines), derive.LANE_WIDTH_M)


def area_of(rings: Lines) -> shapely.Geometry:
    polygons = [shapely.Polygon(rings.line(i)) for i in range(len(rings))]
    assert all(p.is_valid for p in polygons)
    return shapely.union_all(polygons)


def crossroads(arm_m: float = 40.0, half_m: float = 10.0) -> tuple[Lines, dict[str, int]]:
    """A crossing of two two-way roads: from each arm one lane in, one out, and three through the middle."""
    names, lines = [], []
    for turn in range(4):  # the arm that comes from -x, turned
        c, s = np.cos(turn * np.pi / 2), np.sin(turn * np.pi / 2)
        rotate = np.array([[c, s], [-s, c]])
        t = np.linspace(0, np.pi / 2, 12)
        right_m, left_m = half_m - 1.8, half_m + 1.8
        lanes = {
            "in": np.array([[-arm_m, -1.8], [-half_m, -1.8]]),
            "out": np.array([[-half_m, 1.8], [-arm_m, 1.8]]),
            "through": np.array([[-half_m, -1.8], [half_m, -1.8]]),
            "right": np.stack([-half_m + right_m * np.sin(t), -half_m + right_m * np.cos(t)], -1),
            "left": np.stack([-half_m + left_m * np.sin(t), half_m - left_m * np.cos(t)], -1),
        }
        names += [f"{name}{turn}" for name in lanes]
        lines += [xy @ rotate for xy in lanes.values()]
    return Lines.of(lines), {name: i for i, name in enumerate(names)}


def test_a_lane_leads_into_those_that_start_where_it_ends() -> None:
    lines, at = crossroads()
    found = {tuple(map(int, p)) for p in derive.lane_links(lines, wide(lines)).successors}
    assert {b for a, b in found if a == at["in0"]} == {at["through0"], at["right0"], at["left0"]}
    assert {a for a, b in found if b == at["out2"]} == {at["through0"], at["left3"], at["right1"]}
    assert not any(a == at["in0"] and b == at["out0"] for a, b in found)
    assert len(found) == 4 * (3 + 3)


def test_the_lanes_between_the_arms_lie_in_the_junction() -> None:
    lines, at = crossroads()
    inside = derive.lane_links(lines, wide(lines)).in_junction
    assert {name for name, i in at.items() if inside[i]} == {
        f"{way}{arm}" for way in ("through", "right", "left") for arm in range(4)
    }


def test_a_bridge_over_a_road_is_no_junction() -> None:
    lines = Lines.of([[[-50, 0], [50, 0]], [[0, -50], [0, 50]]])
    assert not derive.lane_links(lines, wide(lines)).in_junction.any()


def test_neighbours_share_a_direction_and_touch() -> None:
    """From the right: a bike lane, two lanes, then the oncoming lane, then one across a wide verge."""
    y = [-2.7, 0.0, 3.5, 7.0, 20.0]
    lines = Lines.of([[[0, v], [80, v]] if v != 7.0 else [[80, v], [0, v]] for v in y])
    width = np.array([1.7, 3.6, 3.6, 3.6, 3.6])
    links = derive.lane_links(lines, width)
    np.testing.assert_array_equal(links.left, [1, 2, -1, -1, -1])
    np.testing.assert_array_equal(links.right, [-1, 0, 1, -1, -1])


def test_a_road_is_drivable_from_edge_to_edge() -> None:
    """100 m of two lanes, a parking strip to the right, its edges with the carriageway on their left."""
    lanes = Lines.of([[[0, -1.8], [100, -1.8]], [[100, 1.8], [0, 1.8]]])
    edges = Lines.of([[[0, -6.0], [100, -6.0]], [[100, 4.0], [0, 4.0]]])
    assert area_of(derive.drivable_area(lanes, edges)).area == pytest.approx(100 * 10, rel=1e-3)


def test_without_edges_a_lane_is_as_wide_as_a_lane() -> None:
    lanes = Lines.of([[[0, 0], [100, 0]]])
    area = area_of(derive.drivable_area(lanes, Lines.of([])))
    assert area.area == pytest.approx(100 * derive.LANE_WIDTH_M, rel=1e-3)


def test_what_lies_behind_a_gap_in_the_edge_is_not_drivable() -> None:
    """Through the gap in the edge the back of another road's edge shows; the land between is no carriageway."""
    lanes = Lines.of([[[0, 0], [100, 0]]])
    edges = Lines.of([[[0, -3], [40, -3]], [[60, -3], [100, -3]], [[100, 3], [0, 3]], [[100, -9], [0, -9]]])
    area = area_of(derive.drivable_area(lanes, edges))
    assert not area.contains(shapely.Point(50, -6))
    assert area.area == pytest.approx(100 * 6, rel=0.05)


def test_a_traffic_island_stays_out_and_no_ring_has_a_hole() -> None:
    lanes = Lines.of([[[0, -5], [100, -5]], [[100, 5], [0, 5]]])
    island = [[40, -1], [40, 1], [60, 1], [60, -1], [40, -1]]  # clockwise: the carriageway around it is on the left
    edges = Lines.of([[[0, -8], [100, -8]], [[100, 8], [0, 8]], island])
    area = area_of(derive.drivable_area(lanes, edges))
    assert area.area == pytest.approx(100 * 16 - 40, rel=0.01)
    assert not area.contains(shapely.Point(50, 0))


def test_a_stop_line_crosses_the_lane_that_has_the_sign_on_its_right() -> None:
    lines, at = crossroads()
    sign = np.array([[-11.0, -6.0]])  # on the right of the lane that comes from -x, before the crossing
    (line,) = [derive.stop_lines(lines, derive.lane_links(lines, wide(lines)), sign).xy_m]
    np.testing.assert_allclose(line.mean(0), lines.line(at["in0"])[-1], atol=1e-9)
    assert np.ptp(line[:, 0]) < 0.5 and np.ptp(line[:, 1]) == pytest.approx(derive.LANE_WIDTH_M, rel=0.02)


def test_a_sign_far_from_any_lane_has_no_stop_line() -> None:
    lines, _ = crossroads()
    links = derive.lane_links(lines, wide(lines))
    assert len(derive.stop_lines(lines, links, np.array([[500.0, 0.0]]))) == 0
    assert len(derive.stop_lines(lines, links, np.zeros((0, 2)))) == 0


def test_nothing_changes_ten_thousand_kilometres_from_the_origin() -> None:
    lines, _ = crossroads()
    edges = Lines.of([[[-40, -5], [-10, -5]]])
    far_lines, far_edges = (Lines(x.start, x.xy_m + 1e7) for x in (lines, edges))
    here, there = derive.lane_links(lines, wide(lines)), derive.lane_links(far_lines, wide(lines))
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(a, b)
    moved = shapely.transform(area_of(derive.drivable_area(far_lines, far_edges)), lambda xy: xy - 1e7)
    assert moved.symmetric_difference(area_of(derive.drivable_area(lines, edges))).area < 1.0


def argoverse_lanes(real_data: Path) -> list[tuple[DrivingLog, Lines, derive.LaneLinks]]:
    reader = logs.reader("argoverse2_motion")
    out = []
    for source in reader.find(str(real_data / "argoverse2_motion")):
        log = next(x for x in reader.read(source) if isinstance(x, DrivingLog))
        n = len(log.map.of_kind("lane_centerline"))
        lines = Lines(log.map.start[: n + 1], log.map.xy_m[: log.map.start[n]])
        bike = log.map.lane_type[:n] == LANE_TYPES.index("bike")
        width = np.where(bike, derive.BIKE_LANE_WIDTH_M, derive.LANE_WIDTH_M)
        out.append((log, lines, derive.lane_links(lines, width)))
    return out


def precision_recall(found: list[Pair], true: list[Pair]) -> tuple[float, float]:
    hits = sum(len(f & t) for f, t in zip(found, true, strict=True))
    return hits / sum(map(len, found)), hits / sum(map(len, true))


def pairs(of: np.ndarray) -> Pair:
    return {(int(i), int(of[i])) for i in np.flatnonzero(of >= 0)}


def test_derived_links_agree_with_the_maps_that_have_them(real_data: Path) -> None:
    maps = argoverse_lanes(real_data)
    assert len(maps) == 3
    found = [{tuple(map(int, p)) for p in links.successors} for _, _, links in maps]
    true = [{tuple(map(int, p)) for p in log.map.successors} for log, _, _ in maps]
    precision, recall = precision_recall(found, true)  # type: ignore[arg-type]
    assert precision >= 0.99 and recall >= 0.99
    for side in ("left", "right"):
        found = [pairs(getattr(links, side)) for _, _, links in maps]
        true = [pairs(getattr(log.map, side)) for log, _, _ in maps]
        precision, recall = precision_recall(found, true)  # type: ignore[arg-type]
        assert precision >= 0.9 and recall >= 0.95, side
    inside = np.concatenate([links.in_junction for _, _, links in maps])
    known = np.concatenate([log.map.in_junction[: len(lines)] for log, lines, _ in maps])
    assert (inside & known).sum() >= 0.95 * max(inside.sum(), known.sum())


def test_the_derived_carriageway_is_the_one_that_the_source_drew(real_data: Path) -> None:
    """Given the outline of Argoverse's own drivable area as road edges, within 10 m of its lanes."""
    for log, lanes, _ in argoverse_lanes(real_data):
        rings = [shapely.Polygon(log.map.points(int(i))).buffer(0) for i in log.map.of_kind("drivable_area")]
        outlines = [shapely.orient_polygons(p) for p in shapely.get_parts(shapely.union_all(rings))]
        edges = Lines.of([shapely.get_coordinates(ring) for p in outlines for ring in (p.exterior, *p.interiors)])
        found = area_of(derive.drivable_area(lanes, edges))
        near = shapely.buffer(shapely.linestrings(lanes.xy_m, indices=lanes.owner), 10.0, cap_style="flat")
        true = shapely.union_all(rings)
        near_lanes = true.intersection(shapely.union_all(near))
        assert found.intersection(true).area >= 0.98 * found.area
        assert found.intersection(near_lanes).area >= 0.85 * near_lanes.area


def test_moving_vehicles_drive_on_the_derived_carriageway_along_its_lanes(real_data: Path) -> None:
    """On every fourth log, each second, as far as the map reaches; most pedestrians who stand are not on it."""
    reader = logs.reader("gpudrive")
    inside: dict[str, list[np.ndarray]] = {"vehicle": [], "pedestrian": []}
    along = []
    for source in reader.find(str(real_data / "waymo_gpudrive_json"))[::4]:
        log = next(x for x in reader.read(source) if isinstance(x, DrivingLog))
        tracks, lane_map = log.tracks, log.map
        area = area_of(Lines.of([lane_map.points(int(i)) for i in lane_map.of_kind("drivable_area")]))
        shapely.prepare(area)
        n = len(lane_map.of_kind("lane_centerline"))
        samples = derive.sample(Lines(lane_map.start[: n + 1], lane_map.xy_m[: lane_map.start[n]]), 1.0)
        tree = cKDTree(np.stack([samples.x_m, samples.y_m], -1))
        moving = np.hypot(tracks.vx_mps, tracks.vy_mps) > 1.0
        each_second = tracks.valid & (np.arange(tracks.valid.shape[1]) % 10 == 0)
        for name, which in (("vehicle", moving), ("pedestrian", ~moving)):
            which = which & each_second & (tracks.kind == KINDS.index(name))[:, None]
            xy, heading = np.stack([tracks.x_m[which], tracks.y_m[which]], -1), tracks.heading_rad[which]
            distance, nearest = tree.query(xy, k=30)
            mapped = distance[:, 0] < 6.0
            inside[name].append(shapely.contains_xy(area, *xy[mapped].T))
            if name == "vehicle":
                off = np.abs(wrap_angle(heading[:, None] - samples.heading_rad[nearest]))
                along.append(np.where(distance < 3.0, off, np.inf).min(1)[mapped] < 0.3)
    vehicles, pedestrians = (np.concatenate(inside[name]) for name in ("vehicle", "pedestrian"))
    assert len(vehicles) > 300 and vehicles.mean() >= 0.98
    assert len(pedestrians) > 30 and pedestrians.mean() <= 0.5
    assert np.concatenate(along).mean() >= 0.9


def test_absurd_lanes_are_refused_before_memory_is_taken() -> None:
    twins = Lines.of([[(0, 0), (100, 0)]] * 3000)
    with pytest.raises(BadRecord, match="lanes lie beside each other at"):
        derive.lane_links(twins, wide(twins))
    for far in (2e4 + 1, 1e15, 1e300, np.inf):
        with pytest.raises(BadRecord, match="expected at most 500000 m in all and 20000 m each"):
            derive.junction_lanes(Lines.of([[(0, 0), (far, 0)]]), np.zeros((0, 2), np.int32))


def test_a_stop_line_lies_across_the_start_of_a_lane_once() -> None:
    lanes = Lines.of([[(0, 0), (10, 0)], [(10, 0), (20, 0)], [(10, 0), (20, 5)], [(10, 4), (20, 4)]])
    found = derive.lines_across_starts(lanes, np.array([1, 2, 3, 3]))
    assert [found.line(i).mean(0).tolist() for i in range(len(found))] == [[10, 0], [10, 4]]
    assert np.abs(found.line(0)[0] - found.line(0)[1]).tolist() == [0, derive.LANE_WIDTH_M]


def test_a_lane_that_runs_to_and_fro_for_kilometres_is_refused() -> None:
    to_and_fro = Lines.of([[(0, 0), (30, 0)] * 50])
    with pytest.raises(BadRecord, match="a lane of 2970 m is folded into 30 m"):
        derive.junction_lanes(to_and_fro, np.zeros((0, 2), np.int32))
    shorter = Lines.of([[(0, 0), (75, 0)] * 9])  # half a minute for GEOS to simplify
    with pytest.raises(BadRecord, match="a lane of 1275 m is folded into 75 m"):
        derive.junction_lanes(shorter, np.zeros((0, 2), np.int32))
    turn = np.linspace(0, 20 * np.pi, 500)
    ramp = Lines.of([np.stack([15 * np.cos(turn), 15 * np.sin(turn)], -1)])
    assert not derive.junction_lanes(ramp, np.zeros((0, 2), np.int32)).any()


def test_one_outline_inside_another_is_a_hole() -> None:
    def square(half_m: float, at: float = 0.0) -> list[tuple[float, float]]:
        return [(at + x * half_m, y * half_m) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]

    area = area_of(derive.even_odd(Lines.of([square(10), square(4), square(5, at=100)])))
    assert area.area == pytest.approx(20**2 - 8**2 + 10**2)
    assert not area.contains(shapely.Point(0, 0)) and area.contains(shapely.Point(7, 0))
    assert len(derive.even_odd(Lines.of([]))) == 0
    with pytest.raises(BadRecord, match="the outlines of the roads enclose no areas"):
        derive.even_odd(Lines.of([[(0, 0), (np.inf, 0), (1, 1), (0, 0)]]))
