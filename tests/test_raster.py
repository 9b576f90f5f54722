"""Rasters: a pixel belongs to a shape when its centre does; forward is up, left is left."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import driving_log, moved, road_map

from sdiff import KINDS, WINDOW_M, raster
from sdiff.geometry import SE2, box_corners, wrap_angle
from sdiff.logs.driving_log import FEATURE_KINDS, LANE_TYPES, Lights, VectorMap
from sdiff.scene import AGENT_CHANNELS, BEV_PIXELS, MAP_CHANNELS, STEPS_PAST, Agents

PIXEL_M2 = (WINDOW_M / BEV_PIXELS) ** 2
TIME_S = (np.arange(41) - STEPS_PAST) * 0.1
NO_LIGHTS = Lights.none(1)
HERE = SE2(0.0, 0.0, 0.0)


def agent(x_m=0.0, y_m=0.0, heading_rad=0.0, speed_mps=0.0, length_m=4.0, width_m=2.0, kind="car") -> Agents:
    vx, vy = speed_mps * np.cos(heading_rad), speed_mps * np.sin(heading_rad)
    path = [np.float32(v)[None] for v in (x_m + vx * TIME_S, y_m + vy * TIME_S, heading_rad + 0 * TIME_S)]
    return Agents(
        agent_id=np.array(["a"]),
        kind=np.array([KINDS.index(kind)], np.int8),
        length_m=np.array([length_m], np.float32),
        width_m=np.array([width_m], np.float32),
        is_ego=np.array([True]),
        x_m=path[0],
        y_m=path[1],
        heading_rad=path[2],
        vx_mps=np.full((1, 41), vx, np.float32),
        vy_mps=np.full((1, 41), vy, np.float32),
        valid=np.ones((1, 41), bool),
    )


def feature_map(*features: tuple[str, list[tuple[float, float]]], **changes) -> VectorMap:
    """A map of (kind, vertices)."""
    n = len(features)
    lane = np.array([k == "lane_centerline" for k, _ in features], bool)
    whole = VectorMap(
        map_id="m",
        feature_id=np.arange(n).astype(str),
        kind=np.array([FEATURE_KINDS.index(k) for k, _ in features], np.int8),
        start=np.concatenate([[0], np.cumsum([len(p) for _, p in features])]).astype(np.int64),
        xy_m=np.array([p for _, points in features for p in points], np.float64).reshape(-1, 2),
        left=np.full(n, -1, np.int32),
        right=np.full(n, -1, np.int32),
        successors=np.zeros((0, 2), np.int32),
        speed_limit_mps=np.full(n, np.nan, np.float32),
        width_m=np.full(n, np.nan, np.float32),
        lane_type=np.where(lane, LANE_TYPES.index("vehicle"), -1).astype(np.int8),
        in_junction=np.zeros(n, bool),
        derived=np.zeros(n, bool),
    )
    return replace(whole, **changes)


def channel(image: np.ndarray, name: str) -> np.ndarray:
    return image[(MAP_CHANNELS if len(image) == len(MAP_CHANNELS) else AGENT_CHANNELS).index(name)]


def pixel(x_m: float, y_m: float) -> tuple[int, int]:
    return int((50 - x_m) / WINDOW_M * BEV_PIXELS), int((50 - y_m) / WINDOW_M * BEV_PIXELS)


def centres() -> tuple[np.ndarray, np.ndarray]:
    at = 50 - (np.arange(BEV_PIXELS) + 0.5) * WINDOW_M / BEV_PIXELS
    return at[:, None], at[None, :]


@pytest.mark.parametrize(("length", "width", "tolerance"), [(4.0, 2.0, 0.01), (0.6, 0.6, 0.03), (12.0, 2.5, 0.01)])
def test_a_box_covers_its_area_on_average_over_a_thousand_poses(length: float, width: float, tolerance: float) -> None:
    random = np.random.default_rng(0)
    x, y = random.uniform(-40, 40, (2, 1000))
    heading = random.uniform(-np.pi, np.pi, 1000)
    areas = [
        (channel(raster.agent_bev(agent(*pose, length_m=length, width_m=width)), "occupancy") > 0).sum() * PIXEL_M2
        for pose in zip(x, y, heading, strict=True)
    ]
    assert np.mean(areas) == pytest.approx(length * width, rel=tolerance)


def test_exactly_the_pixels_whose_centre_is_inside_a_box_are_painted() -> None:
    random = np.random.default_rng(1)
    x, y = centres()
    for px, py, heading in zip(*random.uniform(-48, 48, (2, 50)), random.uniform(-4, 4, 50), strict=True):
        one = agent(px, py, wrap_angle(heading), length_m=7.0, width_m=2.5)
        at = [float(v[0, STEPS_PAST]) for v in (one.x_m, one.y_m, one.heading_rad)]
        along = np.cos(at[2]) * (x - at[0]) + np.sin(at[2]) * (y - at[1])
        across = np.cos(at[2]) * (y - at[1]) - np.sin(at[2]) * (x - at[0])
        inside = (np.abs(along) < 3.5) & (np.abs(across) < 1.25)
        assert ((channel(raster.agent_bev(one), "occupancy") > 0) == inside).all()


def test_forward_is_up_and_left_is_left() -> None:
    ahead_left = channel(raster.agent_bev(agent(30.0, 20.0)), "occupancy")
    i, j = (np.argwhere(ahead_left).mean(0) + 0.5) * WINDOW_M / BEV_PIXELS
    assert (i, j) == pytest.approx((20.0, 30.0), abs=0.2)


def test_a_box_partly_outside_the_window_is_cut_off_at_its_edge() -> None:
    half = channel(raster.agent_bev(agent(50.0, 0.0, 0.3, length_m=16.0)), "occupancy")
    assert (half > 0).sum() * PIXEL_M2 == pytest.approx(16.0, rel=0.03)
    assert not raster.agent_bev(agent(60.0, 60.0))[0].any()


def test_heading_kind_and_displacement_fill_the_box() -> None:
    image = raster.agent_bev(agent(heading_rad=np.pi / 2, speed_mps=4.0, kind="bus", length_m=6.0))
    values = dict(zip(AGENT_CHANNELS, image[:, 128, 128].tolist(), strict=True))
    assert values["occupancy"] == 255
    assert (values["sin"], values["cos"]) == (255, 128)
    assert values["kind"] == KINDS.index("bus") + 1
    for time_s in (-2, -1, 1, 2):  # 4 m/s to the left
        code = (values[f"dy_{time_s:+}s"] - 128) / 127
        assert np.sign(code) * code**2 * 64 == pytest.approx(4.0 * time_s, abs=0.2)
        assert values[f"dx_{time_s:+}s"] == 128


def test_an_agent_seen_at_t0_only_is_shown_at_constant_velocity() -> None:
    seen = agent(speed_mps=9.0)
    only_now = np.zeros((1, 41), bool)
    only_now[0, STEPS_PAST] = True
    once = replace(seen, valid=only_now, x_m=np.where(only_now, seen.x_m, 0))
    assert (raster.agent_bev(once) == raster.agent_bev(seen)).all()


def test_later_agents_lie_over_earlier_ones_and_absent_ones_are_not_shown() -> None:
    car, bus = agent(), agent(kind="bus")
    both = Agents(**{k: np.concatenate([v, getattr(bus, k)]) for k, v in vars(car).items() if v is not None})
    assert channel(raster.agent_bev(both), "kind")[128, 128] == KINDS.index("bus") + 1
    gone = replace(both, valid=both.valid & np.array([[True], [False]]))
    assert (raster.agent_bev(gone) == raster.agent_bev(car)).all()
    assert not raster.agent_bev(both.take(np.array([], int)))[0].any()


def test_triangles_rings_and_hollow_shapes_cover_their_area() -> None:
    triangle = [(-30.0, -20.0), (35.0, -10.0), (5.0, 40.0)]
    hollow = [(0, 0), (30, 0), (30, 30), (0, 30), (0, 10), (10, 10), (10, 20), (20, 20), (20, 10), (0, 10)]
    circle = [(40 * np.cos(a), 40 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 400, endpoint=False)]
    for ring, area in ((triangle, 0.5 * (65 * 60 - 35 * 10)), (hollow, 800.0), (circle, np.pi * 1600)):
        image = raster.map_bev(feature_map(("drivable_area", ring)), NO_LIGHTS, 0, SE2(0.1, 0.2, 0.3))
        assert (channel(image, "drivable_area") > 0).sum() * PIXEL_M2 == pytest.approx(area, rel=0.005)


def test_an_area_far_larger_than_the_window_fills_it_and_one_beside_it_does_not_show() -> None:
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    around = feature_map(("drivable_area", [tuple(p) for p in square * 5000.0]))
    beside = feature_map(("drivable_area", [tuple(p) for p in square * 10.0 + [70.0, 0.0]]))
    assert (channel(raster.map_bev(around, NO_LIGHTS, 0, SE2(3, 4, 1)), "drivable_area") == 255).all()
    assert not channel(raster.map_bev(beside, NO_LIGHTS, 0, HERE), "drivable_area").any()


def test_areas_that_share_an_edge_neither_share_nor_miss_a_pixel() -> None:
    random = np.random.default_rng(2)
    for angle in random.uniform(0, np.pi, 20):
        c, s = 80 * np.cos(angle), 80 * np.sin(angle)
        left = [(c, s), (c - s, s + c), (-c - s, -s + c), (-c, -s)]
        right = [(c, s), (-c, -s), (-c + s, -s - c), (c + s, s - c)]
        images = [
            channel(raster.map_bev(feature_map(("crosswalk", ring)), NO_LIGHTS, 0, HERE), "crosswalk") // 255
            for ring in (left, right)
        ]
        assert (images[0] + images[1] == 1).all()


@pytest.mark.parametrize("angle", np.linspace(-3, 3, 13))
def test_a_lane_shows_its_direction_in_the_window_frame(angle: float) -> None:
    c, s = 60 * np.cos(angle), 60 * np.sin(angle)
    lane = feature_map(("lane_centerline", [(-c, -s), (0, 0), (c, s)]))
    image = raster.map_bev(lane, NO_LIGHTS, 0, SE2(0, 0, 0.5))
    sin, cos = ((channel(image, name)[128, 128] - 128.0) / 127 for name in ("lane_sin", "lane_cos"))
    assert np.arctan2(sin, cos) == pytest.approx(wrap_angle(angle - 0.5), abs=0.01)
    assert np.hypot(sin, cos) == pytest.approx(1.0, abs=0.01)


def test_a_bent_lane_is_as_wide_as_it_is_and_has_no_gap() -> None:
    angles = np.linspace(0, np.pi, 60)
    bend = feature_map(
        ("lane_centerline", [(30 * np.cos(a), 30 * np.sin(a)) for a in angles]), width_m=np.array([4.0], np.float32)
    )
    painted = channel(raster.map_bev(bend, NO_LIGHTS, 0, HERE), "lane_sin") != 128
    painted |= channel(raster.map_bev(bend, NO_LIGHTS, 0, HERE), "lane_cos") != 128
    x, y = centres()
    inside = (np.abs(np.hypot(x, y) - 30) < 1.9) & (y > 0.5)
    assert painted[inside].all()
    assert painted.sum() * PIXEL_M2 == pytest.approx(np.pi * 30 * 4, rel=0.01)


def test_lanes_that_cross_show_the_mean_direction_whatever_their_order() -> None:
    north, west = [(-40.0, 0.0), (40.0, 0.0)], [(0.0, -40.0), (0.0, 40.0)]
    there, back = (
        raster.map_bev(feature_map(*(("lane_centerline", p) for p in order)), NO_LIGHTS, 0, HERE)
        for order in ((north, west), (west, north))
    )
    assert (there == back).all()
    assert channel(there, "lane_sin")[128, 128] == channel(there, "lane_cos")[128, 128] == 192  # (1/2, 1/2)


def test_pedestrian_lanes_have_no_direction_and_bike_lanes_are_narrow() -> None:
    line = ("lane_centerline", [(-40.0, 0.0), (40.0, 0.0)])
    width = {}
    for name in ("vehicle", "bike", "pedestrian"):
        lane = feature_map(line, lane_type=np.array([LANE_TYPES.index(name)], np.int8))
        image = channel(raster.map_bev(lane, NO_LIGHTS, 0, SE2(0.1, 0.07, 0.3)), "lane_cos")
        width[name] = (image != 128).sum() * PIXEL_M2 / 80
    assert width["vehicle"] == pytest.approx(3.5, rel=0.02)
    assert width["bike"] == pytest.approx(1.8, rel=0.02)
    assert width["pedestrian"] == 0


def test_thin_lines_are_the_pixels_within_30_cm() -> None:
    ends = np.array([(-31.3, -17.9), (22.2, 28.4)])
    x, y = centres()
    along = ends[1] - ends[0]
    t = np.clip(((x - ends[0, 0]) * along[0] + (y - ends[0, 1]) * along[1]) / (along @ along), 0, 1)
    near = np.hypot(x - ends[0, 0] - t * along[0], y - ends[0, 1] - t * along[1]) <= 0.3
    for kind, name in (
        ("lane_boundary", "lane_boundary"),
        ("road_edge", "lane_boundary"),
        ("stop_line", "stop_line"),
    ):
        image = raster.map_bev(feature_map((kind, [tuple(p) for p in ends])), NO_LIGHTS, 0, HERE)
        assert ((channel(image, name) > 0) == near).all()


def test_lights_paint_the_lanes_they_control_by_their_state_at_the_step() -> None:
    lights = Lights(np.array([0], np.int32), np.array([40.0]), np.array([-1.75]), np.array([[0, 1, 2, 3]], np.int8))
    shown = [channel(raster.map_bev(road_map(), lights, step, HERE), "light") for step in range(4)]
    on_the_lane, beside = pixel(10.0, -1.75), pixel(10.0, 1.75)
    assert [int(image[on_the_lane]) for image in shown] == [128, 1, 65, 255]
    assert {int(image[beside]) for image in shown} == {128}


def test_go_lies_over_caution_over_stop_where_one_lane_has_several_signals() -> None:
    states = np.array([[3], [1], [2]], np.int8)
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        lights = Lights(np.zeros(3, np.int32), np.zeros(3), np.zeros(3), states[order])
        assert channel(raster.map_bev(road_map(), lights, 0, HERE), "light")[pixel(10.0, -1.75)] == 255


def test_the_speed_limit_is_shown_as_a_share_of_35_mps() -> None:
    image = raster.map_bev(road_map(), NO_LIGHTS, 0, HERE)
    assert channel(image, "speed_limit")[pixel(10.0, -1.75)] == round(255 * 13.9 / 35)
    assert channel(image, "speed_limit")[pixel(10.0, 20.0)] == 0


def test_the_picture_moves_with_the_window() -> None:
    log, pose = driving_log(), SE2(-20.0, 1.0, 0.7)
    here = raster.map_bev(log.map, log.lights, 0, pose)
    far = moved(log, 1e7, -1e7)
    there = raster.map_bev(far.map, far.lights, 0, SE2(pose.x_m + 1e7, pose.y_m - 1e7, 0.7))
    assert (here != there).mean() < 1e-5


def test_a_map_without_anything_is_empty() -> None:
    image = raster.map_bev(feature_map(), NO_LIGHTS, 0, HERE)
    empty = [128 if name in ("lane_sin", "lane_cos", "light") else 0 for name in MAP_CHANNELS]
    assert (image == np.array(empty, np.uint8)[:, None, None]).all()


def test_boxes_cover_what_their_corners_say() -> None:
    """The corners used for metrics and the pixels used for training are the same box."""
    one = agent(5.3, -7.1, 0.4, length_m=8.0)
    corners = box_corners(one.x_m[0, 20], one.y_m[0, 20], one.heading_rad[0, 20], 8.0, 2.0)
    ring = feature_map(("crosswalk", [tuple(p) for p in corners]))
    drawn = channel(raster.map_bev(ring, NO_LIGHTS, 0, HERE), "crosswalk")
    assert (drawn == channel(raster.agent_bev(one), "occupancy")).all()


def test_a_straight_road_looks_the_same_however_many_vertices_it_has() -> None:
    plain = road_map()
    many = []
    for feature in range(len(plain.feature_id)):
        xy = plain.points(feature)
        u = np.linspace(0, len(xy) - 1, 40 * (len(xy) - 1) + 1)
        many.append(np.stack([np.interp(u, np.arange(len(xy)), xy[:, axis]) for axis in (0, 1)], -1))
    start = np.concatenate([[0], np.cumsum([len(xy) for xy in many])]).astype(np.int64)
    rich = replace(plain, xy_m=np.concatenate(many), start=start)
    few, more = raster.MapIndex.of(plain), raster.MapIndex.of(rich)
    assert len(more.lanes.start) == len(few.lanes.start)
    for pose in (HERE, SE2(10.0, -3.0, 0.7)):
        images = [raster.map_bev(index, NO_LIGHTS, 0, pose).astype(int) for index in (few, more)]
        assert (np.abs(images[0] - images[1]) > 0).mean() < 1e-4
