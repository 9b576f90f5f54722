"""Boxes collide when their areas overlap, at any step; their distance is that of the polygons."""

from dataclasses import replace

import numpy as np
import pytest
from shapely import Polygon
from traffic import traffic

from sdiff.geometry import box_corners, boxes_overlap
from sdiff.metrics import boxes
from sdiff.metrics.collision import contact


def test_boxes_that_touch_at_a_corner_or_a_side_do_not_collide() -> None:
    assert not contact(traffic([0.0, 4.0], [0.0, 2.0])).in_collision.any()
    assert not contact(traffic([0.0, 4.0], [0.0, 0.0])).in_collision.any()
    assert contact(traffic([0.0, 3.99], [0.0, 0.0])).in_collision.all()


def test_a_collision_at_one_step_only_is_found_there() -> None:
    crossing = traffic([0.0, -8.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    x = crossing.x_m.copy()
    x[1, 30] = -3.0
    found = contact(replace(crossing, x_m=x))
    assert np.flatnonzero(found.in_collision[0]).tolist() == [30]
    assert np.flatnonzero(found.in_collision[1]).tolist() == [30]
    assert found.min_distance_m == 0


def test_an_agent_that_was_not_observed_collides_with_nothing() -> None:
    pair = traffic([0.0, 1.0], [0.0, 0.0])
    gone = pair.valid.copy()
    gone[1] = False
    found = contact(replace(pair, valid=gone))
    assert not found.in_collision.any() and np.isnan(found.min_distance_m)


def test_boxes_pass_between_each_other_without_contact_where_their_circles_overlap() -> None:
    found = contact(traffic([0.0, 0.0], [0.0, 3.0], [0.0, np.pi], [8.0, 8.0]))
    assert not found.in_collision.any()
    assert found.min_distance_m == pytest.approx(1.0, abs=1e-5)


def random_boxes(n: int, seed: int) -> np.ndarray:
    """x, y, heading, length, width; (5, n)."""
    rng = np.random.default_rng(seed)
    return np.stack([*rng.uniform(-8, 8, (2, n)), rng.uniform(-np.pi, np.pi, n), *rng.uniform(0.5, 6, (2, n))])


def test_distance_and_overlap_of_boxes_are_those_of_their_polygons() -> None:
    a, b = random_boxes(300, 1), random_boxes(300, 2)
    a_corners, b_corners = box_corners(*a), box_corners(*b)
    by_shapely = [Polygon(p).distance(Polygon(q)) for p, q in zip(a_corners, b_corners, strict=True)]
    assert 0 in by_shapely and max(by_shapely) > 5
    shapes = [[(np.cos(h), np.sin(h), length, width) for h, length, width in side[2:].T] for side in (a, b)]
    pairs = list(zip(*(b - a)[:2], *shapes, strict=True))
    np.testing.assert_allclose([boxes.distance(*pair) for pair in pairs], by_shapely, atol=1e-9)
    np.testing.assert_array_equal([boxes.overlap(*pair) for pair in pairs], boxes_overlap(a_corners, b_corners))


def test_scenes_of_moving_boxes_agree_with_polygons_at_every_step() -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        n = 6
        scene = traffic(*rng.uniform(-12, 12, (2, n)), rng.uniform(-3, 3, n), rng.uniform(0, 6, n))
        boxes = box_corners(scene.x_m, scene.y_m, scene.heading_rad, scene.length_m[:, None], scene.width_m[:, None])
        shapes = [[Polygon(boxes[i, t]) for t in range(41)] for i in range(n)]
        overlap = np.zeros((n, 41), bool)
        least = np.inf
        for t in range(41):
            for i in range(n):
                for j in range(i):
                    least = min(least, shapes[i][t].distance(shapes[j][t]))
                    if shapes[i][t].intersection(shapes[j][t]).area > 1e-6:
                        overlap[[i, j], t] = True
        found = contact(scene)
        np.testing.assert_array_equal(found.in_collision, overlap)
        assert found.min_distance_m == pytest.approx(least, abs=1e-5)


def test_no_agents_and_one_agent_are_no_collision() -> None:
    assert not contact(traffic([0.0], [0.0])).in_collision.any()
    nobody = traffic([0.0], [0.0]).take(np.zeros(1, bool))
    assert contact(nobody).in_collision.shape == (0, 41)
