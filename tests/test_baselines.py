"""Naive agents stand where they are put; another draw of a place is of the same place and of other traffic."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import road_map
from traffic import traffic

from sdiff.baselines import TrainingScenes, Visits, along_lanes, layout, seen_from
from sdiff.geometry import SE2
from sdiff.metrics.map_fit import LaneSegments, lane_heading_error_rad
from sdiff.scene import MAP_CHANNELS

ROAD = LaneSegments.from_map(road_map())
NONE = LaneSegments.join([])


def training(n: int, logs: list[str]) -> TrainingScenes:
    scenes = [traffic(np.arange(i + 1) * 8.0, np.zeros(i + 1)) for i in range(n)]
    return TrainingScenes(scenes, logs, np.arange(n, dtype=np.float32)[:, None])


def test_a_place_never_gets_the_agents_of_its_own_log() -> None:
    scenes, rng = training(3, ["log a", "log b", "log b"]), np.random.default_rng(0)
    assert {len(scene) for _ in range(50) if (scene := scenes.any("log a", rng))} == {2, 3}
    assert scenes.any("log b", rng) is scenes.scenes[0]
    assert scenes.nearest("log b", np.array([2.0], np.float32)) is scenes.scenes[0]
    assert training(1, ["log a"]).any("log a", rng) is None
    assert training(1, ["log a"]).nearest("log a", np.zeros(1, np.float32)) is None


def test_the_nearest_log_is_the_one_whose_roads_look_alike() -> None:
    along, across = (np.zeros((len(MAP_CHANNELS), 256, 256), np.uint8) for _ in range(2))
    along[0, :, 120:136] = 255
    across[0, 120:136, :] = 255
    shifted = np.roll(along, 4, axis=2)
    kept = replace(training(2, ["a", "b"]), layouts=np.stack([layout(across), layout(along)]))
    assert kept.nearest("c", layout(shifted)) is kept.scenes[1]


def test_agents_put_on_lanes_drive_along_them_at_their_speed() -> None:
    agents = traffic(np.zeros(40), np.full(40, 30.0), 1.0, 8.0)
    made = along_lanes(agents, {"vehicle": ROAD}, np.random.default_rng(0))
    np.testing.assert_allclose(lane_heading_error_rad(made, ROAD), 0, atol=1e-6)
    np.testing.assert_allclose(np.hypot(np.diff(made.x_m), np.diff(made.y_m)) / 0.1, 8.0, rtol=1e-3)
    assert set(np.round(made.y_m[:, 20], 3)) == {-1.75, 1.75}
    assert made.x_m[:, 20].min() < -30 and made.x_m[:, 20].max() > 30  # anywhere on them
    assert abs(made.x_m[0, 20]) < 1e-3  # but the ego


def test_agents_follow_the_lane_round_a_corner() -> None:
    corner = LaneSegments.from_polylines(
        np.array([0, 2, 4]), np.array([[-20.0, 0], [0, 0], [0, 0], [0, 60]]), np.array([3.0, 3.0])
    )
    (car,) = (along_lanes(traffic([0.0], [0.0], 0.0, 10.0), {"vehicle": corner}, np.random.default_rng(0)),)
    assert car.x_m[0, 0] == pytest.approx(-20, abs=1e-3) and car.y_m[0, 0] == pytest.approx(0, abs=1e-3)
    assert car.x_m[0, -1] == pytest.approx(0, abs=1e-3) and car.y_m[0, -1] == pytest.approx(20, abs=1e-3)
    assert car.heading_rad[0, -1] == pytest.approx(np.pi / 2)


def test_pedestrians_have_lanes_of_their_own_and_walk_either_way() -> None:
    sidewalk = LaneSegments.from_polylines(np.array([0, 2]), np.array([[-40.0, 6], [40, 6]]), np.array([2.0]))
    people = traffic(np.zeros(30), np.zeros(30), 0.0, 1.0, kind="pedestrian")
    made = along_lanes(people, {"vehicle": ROAD, "pedestrian": sidewalk}, np.random.default_rng(0))
    assert (made.y_m == 6).all()
    assert {-1.0, 1.0} == set(np.sign(made.x_m[:, -1] - made.x_m[:, 0]))
    np.testing.assert_allclose(made.vx_mps, np.gradient(made.x_m, 0.1, axis=1), atol=1e-3)


def test_where_there_are_no_lanes_nobody_is_put() -> None:
    assert len(along_lanes(traffic([0.0], [0.0]), {"vehicle": NONE}, np.random.default_rng(0))) == 0


def test_another_visit_is_at_the_same_pose_of_the_same_map_in_another_log_a_minute_apart() -> None:
    of = [  # map, log, x, heading, time
        ("m", "l0", 0.0, 3.14, 0.0),
        ("m", "l1", 1.5, -3.14, 60.0),
        ("m", "l2", 0.5, 3.14, 90.0),
        ("m", "l3", 2.5, 3.14, 90.0),  # too far
        ("m", "l4", 0.0, 3.0, 90.0),  # turned
        ("m", "l5", 0.0, 3.14, 59.0),  # too soon
        ("m", "l0", 0.0, 3.14, 90.0),  # the same log
        ("n", "l6", 0.0, 3.14, 90.0),  # another map
    ]
    maps, logs, x, heading, time = zip(*of, strict=True)
    pose = np.stack([x, np.zeros(len(x)), heading], -1)
    visits = Visits(np.array(maps), np.array(logs), pose, np.array(time))
    assert [found.tolist() for found in visits.again(np.array([0, 7]))] == [[2, 1], []]


def test_agents_are_seen_from_the_other_frame() -> None:
    agents = traffic([0.0, 10.0, -49.0], [0.0, 5.0, 0.0], [0.0, 0.5, 0.0], 2.0)
    seen = seen_from(agents, SE2(-2.0, 1.0, np.pi / 2))  # the other window's pose in this one
    assert len(seen) == 3
    np.testing.assert_allclose(seen.x_m[:2, 20], [-2.0, -7.0], atol=1e-5)
    np.testing.assert_allclose(seen.y_m[:2, 20], [1.0, 11.0], atol=1e-5)
    np.testing.assert_allclose(seen.heading_rad[:2, 20], [np.pi / 2, np.pi / 2 + 0.5], atol=1e-5)
    np.testing.assert_allclose(seen.vy_mps[0], 2.0, atol=1e-5)
    assert len(seen_from(agents, SE2(-2.0, 0.0, 0.0))) == 2  # one stands outside now
