"""What queries ask of each agent: how hard it brakes, how near it comes to the ego."""

import dataclasses

import numpy as np
import pytest
from traffic import traffic

from sdiff.metrics.brief import agents_t0, ego_distance_m, max_braking_mps2


def test_an_agent_that_falls_from_10_to_4_in_a_second_brakes_with_6() -> None:
    agents = traffic([0, 30], [0, 0], 0.0, 10.0)
    agents.vx_mps[1] = np.interp(np.arange(41), [15, 25], [10.0, 4.0])
    assert max_braking_mps2(agents) == pytest.approx([0.0, 6.0], abs=1e-5)


def test_speeding_up_is_no_braking() -> None:
    agents = traffic([0], [0], 0.0, 5.0)
    agents.vx_mps[0] = np.linspace(5.0, 10.0, 41)
    assert max_braking_mps2(agents).tolist() == [0.0]


def test_what_is_seen_for_less_than_a_second_has_no_braking() -> None:
    agents = traffic([0, 10], [0, 0])
    agents.valid[1, 9:] = False
    assert np.isnan(max_braking_mps2(agents)).tolist() == [False, True]


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
