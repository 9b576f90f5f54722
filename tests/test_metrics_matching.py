"""A token is fulfilled by one agent that stands where it was asked for."""

import numpy as np
import pytest
from traffic import traffic

from sdiff.metrics.matching import TIGHT, assign, match_rate, match_tokens, speed_errors, token_index
from sdiff.scene import AgentTokens


def tokens(x: list[float], y: list[float], heading: float = np.nan, speed: float = np.nan) -> AgentTokens:
    asked = AgentTokens.unspecified(len(x))
    asked.x_m[:], asked.y_m[:], asked.heading_rad[:] = x, y, heading
    asked.speed_mps[:], asked.end_speed_mps[:] = speed, speed
    return asked


def test_two_tokens_never_share_an_agent() -> None:
    found = match_tokens(tokens([0.0, 1.0], [0.0, 0.0]), traffic([0.6], [0.0]))
    assert sorted(found.tolist()) == [-1, 0]
    assert found[1] == 0  # the nearer one has it


def test_as_many_tokens_as_possible_are_fulfilled() -> None:
    # token 0 is nearest to agent 0, but only token 0 can take agent 1
    found = match_tokens(tokens([0.0, -2.0], [0.0, 0.0]), traffic([-0.1, 2.0], [0.0, 0.0]))
    assert found.tolist() == [1, 0]


def test_the_heading_counts_where_it_was_asked_for_and_wraps() -> None:
    car = traffic([0.0], [0.0], [np.pi])
    assert match_tokens(tokens([0.0], [0.0], 0.0), car).tolist() == [-1]
    assert match_tokens(tokens([0.0], [0.0], -np.pi + 0.1), car).tolist() == [0]
    assert match_tokens(tokens([0.0], [0.0]), car).tolist() == [0]


def test_matches_reach_as_far_as_the_paper_says() -> None:
    car = traffic([0.0], [0.0])
    assert match_tokens(tokens([2.1], [0.0], 0.19), car).tolist() == [0]
    assert match_tokens(tokens([2.3], [0.0], 0.0), car).tolist() == [-1]
    assert match_tokens(tokens([0.0], [0.0], 0.21), car).tolist() == [-1]
    assert match_tokens(tokens([1.5], [0.0], 0.0), car, *TIGHT).tolist() == [-1]


def test_a_token_without_a_position_is_left_out() -> None:
    asked = tokens([0.0, np.nan], [0.0, 5.0])
    car = traffic([0.0, 40.0], [0.0, 40.0])
    found = match_tokens(asked, car)
    assert found.tolist() == [0, -1]
    assert match_rate(asked, found) == 1
    assert token_index(asked, car).tolist() == [0, -1]
    assert np.isnan(match_rate(AgentTokens.unspecified(3), np.full(3, -1)))


def test_agents_know_the_token_that_asked_for_them() -> None:
    assert token_index(tokens([20.0, 0.0], [0.0, 0.0]), traffic([0.0, 10, 20], [0.0, 0, 0])).tolist() == [1, -1, 0]


def test_speed_errors_are_of_matched_tokens_that_ask_for_a_speed() -> None:
    cars = traffic([0.0, 20.0], [0.0, 0.0], 0.0, [10.0, 5.0])
    asked = tokens([0.0, 20.0, 40.0], [0.0, 0.0, 0.0], speed=8.0)
    asked.end_speed_mps[1] = np.nan
    now, end = speed_errors(asked, cars, match_tokens(asked, cars))
    assert now == pytest.approx([2.0, 3.0], rel=1e-5)
    assert end == pytest.approx([2.0], rel=1e-5)


def test_an_assignment_uses_allowed_pairs_alone() -> None:
    distance = np.array([[1.0, 2.0], [0.5, 9.0]])
    assert assign(distance, np.array([[True, False], [True, False]])).tolist() == [-1, 0]
    assert assign(np.zeros((0, 3)), np.zeros((0, 3), bool)).tolist() == []
