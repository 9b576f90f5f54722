"""What becomes of an attempt: agents that break a rule are left out, or the whole attempt is rejected."""

import dataclasses

import numpy as np
import pytest
from traffic import traffic

from sdiff import KINDS
from sdiff.directives.judging import Accept, apart, judge, ttc_with_asked_s
from sdiff.metrics.kinematics import possible
from sdiff.metrics.matching import fulfilling
from sdiff.scene import STEPS_PAST, Agents, AgentTokens
from sdiff.span import Span

ROAD = np.zeros((256, 256), np.uint8)
ROAD[:, 108:148] = 255  # 7.8 m to either side of the AV's line


def asked(agents: Agents, *indices: int) -> Agents:
    """The agents, of which tokens 0, 1, ... asked for some."""
    index = np.full(len(agents), -1, np.int32)
    index[list(indices)] = np.arange(len(indices))
    return dataclasses.replace(agents, score=np.linspace(0.9, 0.5, len(agents)).astype(np.float32), token_index=index)


def tokens_of(agents: Agents, *indices: int, **changed: float) -> AgentTokens:
    """Tokens that describe some agents at t0 and at +2 s; the last one changed."""
    tokens = AgentTokens.unspecified(len(indices))
    for k, i in enumerate(indices):
        tokens.kind[k] = agents.kind[i]
        for prefix, step in (("", STEPS_PAST), ("end_", -1)):
            for name in ("x_m", "y_m", "heading_rad"):
                getattr(tokens, prefix + name)[k] = getattr(agents, name)[i, step]
            getattr(tokens, f"{prefix}speed_mps")[k] = np.hypot(agents.vx_mps[i, step], agents.vy_mps[i, step])
    for name, value in changed.items():
        getattr(tokens, name)[-1] = value
    return tokens


def crossing(*also_asked: int) -> Agents:
    """An AV, two cars that cross its path and hit it at +1 s, the second also the first, and one that nobody meets."""
    agents = traffic([0, 10, 10, 30], [0, -10, -16, 20], [0, np.pi / 2, np.pi / 2, 0], [10, 10, 14, 0])
    index = np.full(4, -1, np.int32)
    index[list(also_asked)] = np.arange(len(also_asked))
    return dataclasses.replace(agents, score=np.array([0.9, 0.6, 0.8, 0.7], np.float32), token_index=index)


def test_of_two_agents_that_meet_the_more_probable_one_stays() -> None:
    assert apart(crossing(0)).tolist() == [True, False, False, True]
    assert apart(crossing(0).take(np.array([1, 2, 3]))).tolist() == [False, True, True]


def test_agents_that_were_asked_for_and_meet_reject_the_attempt_unless_accepted() -> None:
    agents, anywhere = crossing(0, 1), np.ones((256, 256), np.uint8)
    tokens = tokens_of(agents, 0, 1)
    assert judge(agents, tokens, anywhere, Accept()).rejected == "collision"
    verdict = judge(agents, tokens, anywhere, Accept(collision=True))
    assert verdict.rejected is None and len(verdict.agents) == 4


def test_a_car_beside_the_road_is_left_out_or_rejects_the_attempt_if_asked_for() -> None:
    agents = traffic([0, 20, 30], [0, 3.5, 20], 0.0, 5.0)
    verdict = judge(asked(agents, 0, 1), tokens_of(agents, 0, 1), ROAD, Accept())
    assert verdict.rejected is None
    assert verdict.agents.agent_id.tolist() == ["agent0", "agent1"]
    assert verdict.left_out == {"off_road": 1}
    assert judge(asked(agents, 0, 2), tokens_of(agents, 0, 2), ROAD, Accept()).rejected == "off_road"
    walkers = dataclasses.replace(agents, kind=np.array([0, 0, KINDS.index("pedestrian")], np.int8))
    assert len(judge(asked(walkers, 0), tokens_of(walkers, 0), ROAD, Accept()).agents) == 3


def test_a_directive_is_fulfilled_by_kind_pose_and_speed_at_both_ends() -> None:
    agents = traffic([0, 20, 35], [0, 3.5, 0], 0.0, 5.0)
    of_the_second = (0, 1)
    assert fulfilling(tokens_of(agents, *of_the_second), agents).tolist() == [0, 1]
    for name, value in (
        ("x_m", 23.0),
        ("heading_rad", 0.3),
        ("speed_mps", 7.5),
        ("end_y_m", 0.0),
        ("end_heading_rad", -0.3),
        ("end_speed_mps", 2.5),
        ("kind", KINDS.index("bus")),
    ):
        tokens = tokens_of(agents, *of_the_second, **{name: value})
        assert fulfilling(tokens, agents).tolist() == [0, -1], name
        assert judge(asked(agents, 0, 1), tokens, ROAD, Accept()).rejected == "unfulfilled"
        assert judge(asked(agents, 0, 1), tokens, ROAD, Accept(unfulfilled=True)).rejected is None


def test_a_bus_somewhere_is_fulfilled_by_any_bus() -> None:
    agents = traffic([0, 20, 35], [0, 3.5, 0], 0.0, 5.0, kind=["car", "car", "bus"])
    somewhere = AgentTokens.unspecified(2)
    somewhere.kind[:] = [KINDS.index("vehicle"), KINDS.index("bus")]
    assert fulfilling(somewhere, agents)[1] == 2
    assert fulfilling(somewhere, agents.take(np.array([0, 1]))).tolist()[1] == -1


@pytest.mark.parametrize(
    ("kind", "speed_mps", "yaw_rate", "can"),
    [
        ("car", 5.0, 1.0, True),  # a circle of 5 m
        ("car", 2.5, 1.0, False),  # of 2.5 m
        ("cyclist", 2.5, 1.0, True),
        ("car", 15.0, 1.0, False),  # 15 m/s2 across
        ("pedestrian", 1.0, 3.0, True),
    ],
)
def test_what_turns_too_tight_or_too_fast_is_impossible(
    kind: str, speed_mps: float, yaw_rate: float, can: bool
) -> None:
    time = (np.arange(41) - STEPS_PAST) * 0.1
    heading = yaw_rate * time
    straight = traffic([0], [0], 0.0, speed_mps, kind=kind)
    circle = dataclasses.replace(
        straight,
        x_m=(speed_mps / yaw_rate * np.sin(heading))[None].astype(np.float32),
        y_m=(speed_mps / yaw_rate * (1 - np.cos(heading)))[None].astype(np.float32),
        heading_rad=((heading + np.pi) % (2 * np.pi) - np.pi)[None].astype(np.float32),
        vx_mps=(speed_mps * np.cos(heading))[None].astype(np.float32),
        vy_mps=(speed_mps * np.sin(heading))[None].astype(np.float32),
    )
    assert possible(straight).all()
    assert possible(circle).tolist() == [can]


def test_a_car_that_slides_sideways_is_impossible() -> None:
    sliding = dataclasses.replace(traffic([0], [0], 0.5, 5.0), heading_rad=np.zeros((1, 41), np.float32))
    assert possible(sliding).tolist() == [False]


def test_severity_is_that_of_the_av_with_those_asked_for() -> None:
    # 20 m ahead, 4 m long, 4 m/s slower: 4 s at t0, 2 s at +2 s. Beside it, one that nobody asked for.
    agents = asked(traffic([0, 20, 8], [0, 0, 4], 0.0, [10, 6, 5]), 0, 1)
    tokens = tokens_of(agents, 0, 1)
    assert ttc_with_asked_s(agents) == pytest.approx(2.0, abs=0.01)
    assert judge(agents, tokens, ROAD, Accept(), Span(1.5, 2.5)).rejected is None
    assert judge(agents, tokens, ROAD, Accept(), Span(0.5, 1.5)).rejected == "severity"
