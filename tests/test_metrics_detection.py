"""A reconstruction is judged one to one, and motion against constant velocity."""

from dataclasses import replace

import numpy as np
import pytest
from traffic import TIME_S, traffic

from sdiff.metrics.detection import Reconstruction, reconstruction
from sdiff.metrics.kinematics import acceleration_mps2, slip_rad


def test_a_scene_gives_itself_back() -> None:
    scene = traffic([0.0, 10.0, 20.0], [0.0, 5.0, 0.0], 0.3, [0.0, 5.0, 8.0], ["car", "bus", "pedestrian"])
    found = reconstruction(scene, scene).summary()
    assert found["recall"] == found["precision"] == found["kind_accuracy"] == 1
    assert found["boxes"] == 3 and found["moving"] == 2
    assert found["end_error_m"] == 0
    assert set(found["per_kind"]) == {"car", "bus", "pedestrian"}


def test_two_boxes_on_one_car_are_one_true_and_one_false() -> None:
    found = reconstruction(traffic([0.0], [0.0]), traffic([0.0, 0.3], [0.0, 0.0])).summary()
    assert found["recall"] == 1 and found["precision"] == 0.5


def test_a_box_1_m_off_or_turned_is_missed() -> None:
    scene = traffic([0.0], [0.0])
    assert reconstruction(scene, traffic([1.1], [0.0])).summary()["recall"] == 0
    assert reconstruction(scene, traffic([0.0], [0.0], [0.25])).summary()["recall"] == 0
    assert reconstruction(scene, traffic([0.7], [0.7], [0.15])).summary()["recall"] == 1


def test_the_kind_is_counted_apart_from_the_box() -> None:
    found = reconstruction(traffic([0.0], [0.0], kind="truck"), traffic([0.0], [0.0], kind="bus")).summary()
    assert found["recall"] == 1 and found["kind_accuracy"] == 0
    assert found["per_kind"]["truck"]["recall"] == 1 and found["per_kind"]["truck"]["precision"] is None
    assert found["per_kind"]["bus"]["precision"] == 1 and found["per_kind"]["bus"]["recall"] is None


def test_the_error_at_2_s_is_over_moving_agents_beside_constant_velocity() -> None:
    braking = traffic([0.0, 20.0], [0.0, 0.0], 0.0, [10.0, 0.0])
    x = braking.x_m.copy()
    x[0] = 10 * TIME_S - TIME_S**2  # 10 m/s less 2 m/s2
    true = replace(braking, x_m=x)
    shown = replace(true, x_m=true.x_m + np.where(TIME_S > 1.9, 0.5, 0.0).astype(np.float32))
    found = reconstruction(true, shown).summary()
    assert found["moving"] == 1
    assert found["end_error_m"] == pytest.approx(0.5, rel=1e-4)
    assert found["constant_velocity_end_error_m"] == pytest.approx(4.0, rel=1e-4)


def test_scenes_add_up() -> None:
    one = reconstruction(traffic([0.0], [0.0]), traffic([0.0], [0.0]))
    none = reconstruction(traffic([0.0], [0.0]), traffic([9.0], [9.0]))
    nobody = traffic([0.0], [0.0]).take(np.zeros(1, bool))
    total = sum([one, none, reconstruction(nobody, nobody)], Reconstruction.none()).summary()
    assert total["boxes"] == 2 and total["recall"] == 0.5 and total["end_error_m"] is None


def test_a_car_that_drives_along_its_heading_does_not_slip() -> None:
    slip, reversing = slip_rad(traffic([0.0], [0.0], [1.0], [5.0]))
    np.testing.assert_allclose(slip, 0, atol=1e-5)
    assert not reversing.any()
    turned = traffic([0.0, 9.0], [0.0, 0.0], 0.0, 5.0)
    turned = replace(turned, heading_rad=turned.heading_rad + np.float32(np.pi / 2) * np.array([[1], [2]], np.float32))
    slip, reversing = slip_rad(turned)
    np.testing.assert_allclose(slip[:41], np.pi / 2, atol=1e-5)
    np.testing.assert_allclose(slip[41:], 0, atol=1e-5)
    assert reversing[41:].all()
    assert len(slip_rad(traffic([0.0], [0.0], speed_mps=1.0))[0]) == 0
    assert len(slip_rad(traffic([0.0], [0.0], speed_mps=5.0, kind="pedestrian"))[0]) == 0


def test_acceleration_is_the_change_of_velocity_per_second() -> None:
    car = traffic([0.0], [0.0])
    braking = replace(car, vx_mps=(10 - 3 * TIME_S[None]).astype(np.float32))
    np.testing.assert_allclose(acceleration_mps2(braking), 3.0, rtol=1e-5)
    assert len(acceleration_mps2(braking)) == 31
