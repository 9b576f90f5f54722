"""Tokens: an agent's state at t0 and at +2 s, not specified where it was not observed."""

from dataclasses import replace

import numpy as np
import pytest
from traffic import traffic

from sdiff import tokens
from sdiff.scene import STEPS_PAST, TOKEN_NUMBERS


def test_a_token_holds_the_state_at_t0_and_two_seconds_later() -> None:
    token = tokens.agent_tokens(
        traffic([10.0], [-3.0], heading_rad=np.pi / 2, speed_mps=5.0, kind="bus", length_m=11.0)
    )
    assert [float(getattr(token, n)[0]) for n in TOKEN_NUMBERS] == pytest.approx(
        [10, -3, np.pi / 2, 5, 10, 7, np.pi / 2, 5, 11, 2], abs=1e-5
    )
    assert token.kind.tolist() == [2]


def test_the_end_is_not_specified_where_the_agent_is_not_seen_then() -> None:
    agents = traffic([0.0, 8.0], 0.0, speed_mps=3.0)
    valid = agents.valid.copy()
    valid[1, -1] = False
    token = tokens.agent_tokens(replace(agents, valid=valid))
    for name in TOKEN_NUMBERS:
        assert np.isnan(getattr(token, name)).tolist() == [False, name.startswith("end_")]


def test_the_scene_token_counts_agents_and_those_that_move() -> None:
    agents = traffic([0.0, 8.0, 16.0, 24.0], 0.0, speed_mps=[3.0, 0.4, 0.6, 0.0])
    scene = tokens.scene_token(agents)
    assert (scene.n_agents, scene.moving_share) == (4.0, 0.5)
    assert scene.mean_speed_mps == pytest.approx(1.8)
    assert np.isnan(scene.p_mask)
    gone = agents.valid.copy()
    gone[0, STEPS_PAST] = False
    assert tokens.scene_token(replace(agents, valid=gone)).n_agents == 3
    mixed = traffic([0.0, 8.0, 16.0, 24.0], 0.0, kind=["car", "pedestrian", "cyclist", "motorcyclist"])
    assert tokens.scene_token(mixed).vru_share == 0.75


def test_nobody_has_no_token() -> None:
    nobody = traffic([0.0], 0.0).take(np.array([], int))
    assert len(tokens.agent_tokens(nobody)) == 0
    assert tokens.scene_token(nobody).n_agents == 0
