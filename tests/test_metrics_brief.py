"""What queries ask of each agent: how hard it brakes, how near it comes to the ego."""

import dataclasses

import numpy as np
import pytest
from traffic import traffic

from sdiff.metrics.brief import agents_t0, braking_mps2, ego_distance_m, scene_columns


def test_an_agent_that_falls_from_10_to_4_in_a_second_brakes_with_6() -> None:
    agents = traffic([0, 30], [0, 0], 0.0, 10.0)
    agents.vx_mps[1] = np.interp(np.arange(41), [15, 25], [10.0, 4.0])
    assert braking_mps2(agents) == pytest.approx([0.0, 6.0], abs=1e-5)


def test_speeding_up_is_no_braking() -> None:
    agents = traffic([0], [0], 0.0, 5.0)
    agents.vx_mps[0] = np.linspace(5.0, 10.0, 41)
    assert braking_mps2(agents).tolist() == [0.0]


def test_what_is_seen_for_less_than_a_second_has_no_braking() -> None:
    agents = traffic([0, 10], [0, 0])
    agents.valid[1, 9:] = False
    assert np.isnan(braking_mps2(agents)).tolist() == [False, True]


def test_boxes_that_pass_a_metre_apart_have_that_distance_at_whatever_step_it_is() -> None:
    agents = traffic([0, -10], [0, 0], 0.0, [0.0, 10.0])
    width = float(agents.width_m[0])
    beside = dataclasses.replace(agents, y_m=agents.y_m + np.array([[0.0], [width + 1.0]], np.float32))
    distance = ego_distance_m(beside)
    assert np.isnan(distance[0]), "the ego itself"
    assert distance[1] == pytest.approx(1.0, abs=1e-5)
    assert ego_distance_m(agents)[1] == 0.0, "it drives through the ego"


def test_of_an_agent_that_is_never_there_with_the_ego_nothing_is_known() -> None:
    agents = traffic([0, 5], [0, 0])
    agents.valid[0, :21] = False
    agents.valid[1, 21:] = False
    assert np.isnan(ego_distance_m(agents)).all()
    assert agents_t0(agents)["valid"].tolist() == [False, True]


def test_no_agents_no_numbers() -> None:
    agents = traffic([0], [0]).take(np.zeros(0, int))
    assert {len(values) for values in agents_t0(agents).values()} == {0}


def test_the_scene_has_the_hardest_braking_the_nearest_agent_and_each_kind_once() -> None:
    agents = traffic([0, 10, 30], [0, 0, 0], 0.0, 10.0, ["car", "pedestrian", "car"])
    agents.vx_mps[2] = np.interp(np.arange(41), [15, 25], [10.0, 4.0])
    scene = scene_columns(agents)
    assert scene["kinds"] == "car,pedestrian"
    assert scene["max_braking_mps2"] == pytest.approx(6.0, abs=1e-5)
    assert scene["ego_min_distance_m"] == pytest.approx(6.0, abs=1e-5), "4 m long each"


def test_an_ego_alone_has_no_nearest_agent() -> None:
    assert np.isnan(scene_columns(traffic([0], [0]))["ego_min_distance_m"])
