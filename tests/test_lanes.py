"""Lanes of a made-up crossroads whose geometry is known by hand."""

import numpy as np
import pyarrow as pa
import pytest
from crossroads import JUNCTION_X_M, LANE_WIDTH_M, LANES, TURN_RIGHT_RADIUS_M, crossroads

from sdiff import window_tables
from sdiff.geometry import SE2
from sdiff.maps.lanes import LaneGraph, LanePosition, Path, map_from_rows

EAST = SE2(-20.0, -1.75, 0.0)
"""A pose in the right lane, 30 m before the junction."""


@pytest.fixture(scope="module")
def graph() -> LaneGraph:
    return LaneGraph(crossroads())


def lane(graph: LaneGraph, name: str) -> int:
    return graph.map.feature_id.tolist().index(name)


def ahead(graph: LaneGraph, pose: SE2 = EAST) -> list[Path]:
    at = graph.lane_at(pose)
    assert at is not None
    return graph.paths(at, 90.0, 50.0)


def names(graph: LaneGraph, path: Path) -> list[str]:
    return [str(graph.map.feature_id[i]) for i in path.lanes]


def test_a_map_comes_back_from_its_rows() -> None:
    given = crossroads()
    again = map_from_rows(window_tables.maps_table(given))
    for name in ("feature_id", "kind", "start", "xy_m", "left", "right", "lane_type", "in_junction"):
        np.testing.assert_array_equal(getattr(again, name), getattr(given, name), name)
    assert {tuple(p) for p in again.successors.tolist()} == {tuple(p) for p in given.successors.tolist()}


def test_rows_of_two_maps_are_refused() -> None:
    rows = window_tables.maps_table(crossroads())
    other = rows.set_column(0, rows.schema.field(0), [["other"] * len(rows)])
    with pytest.raises(ValueError, match="2 maps"):
        map_from_rows(pa.concat_tables([rows, other]))


def test_the_lane_under_a_pose_is_the_nearest_in_its_direction(graph: LaneGraph) -> None:
    at = graph.lane_at(SE2(-20.0, -1.25, 0.05))
    assert at == LanePosition(lane(graph, "in_right"), pytest.approx(80.0), pytest.approx(0.5))
    west = graph.lane_at(SE2(-20.0, 5.0, np.pi))
    assert west is not None and west.lane == lane(graph, "out_back")
    assert graph.lane_at(SE2(-20.0, -1.75, np.pi / 2)) is None, "no lane leads north there"
    assert graph.lane_at(SE2(-20.0, 40.0, 0.0)) is None, "40 m off the road"


def test_in_a_junction_the_heading_decides_between_lanes_that_overlap(graph: LaneGraph) -> None:
    at = graph.lane_at(SE2(24.0, -1.75, np.pi / 2))
    assert at is not None and at.lane == lane(graph, "across")
    at = graph.lane_at(SE2(24.0, -1.75, 0.0))
    assert at is not None and at.lane == lane(graph, "through_right")


def test_the_left_neighbour_is_one_lane_width_to_the_left(graph: LaneGraph) -> None:
    here = lane(graph, "in_right")
    assert graph.neighbours(here, "left") == [lane(graph, "in_left")]
    assert graph.neighbours(here, "right") == []
    left = graph.paths(graph.project(graph.neighbours(here, "left")[0], EAST), 60.0)[0]
    pose = EAST.inverse().apply(*left.pose(10.0)[:2])
    np.testing.assert_allclose(pose, (10.0, LANE_WIDTH_M), atol=1e-9)


def test_ways_ahead_are_the_straight_one_and_the_turn(graph: LaneGraph) -> None:
    straight, right = ahead(graph)
    assert names(graph, straight) == ["in_right", "through_right", "out_right"]
    assert names(graph, right) == ["in_right", "turn_right", "out_south"]
    assert (straight.turn, right.turn) == ("straight", "right")
    assert right.turn_rad == pytest.approx(-np.pi / 2, abs=0.02)
    assert straight.junction_m == pytest.approx((JUNCTION_X_M + 20.0, 54.0))
    arc = TURN_RIGHT_RADIUS_M * np.pi / 2
    assert right.junction_m == pytest.approx((30.0, 30.0 + arc), abs=0.05)


def test_the_left_lane_may_turn_left(graph: LaneGraph) -> None:
    turns = [p.turn for p in ahead(graph, SE2(-20.0, 1.75, 0.0))]
    assert turns == ["straight", "left"]


def test_a_pose_along_the_turn_lies_on_its_circle(graph: LaneGraph) -> None:
    right = ahead(graph)[1]
    for angle in (0.3, 0.8, 1.3):
        pose = right.pose(30.0 + TURN_RIGHT_RADIUS_M * angle)
        centre_distance = np.hypot(pose.x_m - 10.0, pose.y_m + 11.75)
        assert centre_distance == pytest.approx(TURN_RIGHT_RADIUS_M, abs=0.05)
        assert pose.heading_rad == pytest.approx(-angle, abs=0.05)


def test_an_offset_is_to_the_left_of_the_way(graph: LaneGraph) -> None:
    right = ahead(graph)[1]
    past_turn = right.pose(right.junction_m[1] + 20.0, 1.0)  # heading south: left is east
    np.testing.assert_allclose(past_turn[:2], (21.0, -31.75), atol=0.05)


def test_a_way_reaches_back_behind_its_reference_point(graph: LaneGraph) -> None:
    straight = ahead(graph, SE2(40.0, -1.75, 0.0))[0]
    assert names(graph, straight)[0] == "in_right"
    np.testing.assert_allclose(straight.pose(-45.0)[:2], (-5.0, -1.75), atol=1e-9)


def test_inside_the_junction_there_is_no_junction_ahead(graph: LaneGraph) -> None:
    assert [p.junction_m for p in ahead(graph, SE2(15.0, -1.75, 0.0))] == [None]


def test_projecting_a_pose_of_a_way_gives_its_arc_length_back(graph: LaneGraph) -> None:
    right = ahead(graph)[1]
    for s, lateral in ((3.0, 0.0), (34.0, 1.0), (60.0, -1.5)):
        assert right.project(*right.pose(s, lateral)[:2]) == pytest.approx((s, lateral), abs=0.06)


def test_the_road_runs_straight_until_the_turn(graph: LaneGraph) -> None:
    straight, right = ahead(graph)
    assert straight.reach_straight_m() == pytest.approx(straight.s_m[-1])
    assert 28.0 <= right.reach_straight_m() <= 36.0


def test_what_comes_from_the_south_crosses_from_the_right(graph: LaneGraph) -> None:
    straight = ahead(graph)[0]
    (across,) = graph.crossing_paths(straight, "right", 60.0, 50.0)
    assert names(graph, across) == ["from_south", "across", "out_north"]
    np.testing.assert_allclose(across.pose(0.0), (24.0, -1.75, np.pi / 2), atol=1e-6)
    assert graph.crossing_paths(straight, "left", 60.0, 50.0) == []


def test_lanes_that_lead_in_a_circle_end_the_way(graph: LaneGraph) -> None:
    again = crossroads()
    out, back = lane(graph, "out_right"), lane(graph, "in_right")
    looped = LaneGraph(type(again)(**{**again.__dict__, "successors": np.vstack([again.successors, [[out, back]]])}))
    assert all(len(p.lanes) == len(set(p.lanes)) for p in ahead(looped))


def test_every_lane_of_the_map_is_for_vehicles(graph: LaneGraph) -> None:
    assert graph.drivable.sum() == len(LANES)
