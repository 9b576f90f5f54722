"""Tokens that promise a severity."""

import dataclasses

import numpy as np
import pytest
from crossroads import crossroads
from traffic import traffic

from sdiff.directives.directive import AT_ORIGIN, Agent, Directive, DoesNotFit, OnLane, Severity
from sdiff.directives.judging import Accept
from sdiff.directives.steering import promised, promised_ttc_s, steered
from sdiff.geometry import SE2
from sdiff.maps.lanes import LaneGraph
from sdiff.maps.places import Place
from sdiff.metrics.safety import min_ttc_s
from sdiff.scene import STEPS_PAST, Agents, AgentTokens
from sdiff.span import Span

HERE = Place(lambda: LaneGraph(crossroads()), SE2(-30.0, -1.75, 0.0))
ROAD = np.ones((256, 256), np.uint8)
SLOWER = Directive(
    "slower_ahead",
    ego=Agent(pose=AT_ORIGIN, speed_mps=Span(6.0, 12.0), end="free"),
    agents=(Agent(("car",), OnLane(("ego",), "ahead_m", Span(8.0, 25.0)), speed_mps=Span(2.0, 10.0)),),
)


def no_logs(window_id: str | None) -> Agents:
    raise AssertionError("no log was asked for")


def test_what_tokens_promise_is_what_agents_do_that_move_so() -> None:
    agents = traffic([0, 20], [0, 0], 0.0, [10, 6], length_m=4.6, width_m=1.9)
    tokens = AgentTokens.unspecified(2)
    tokens.kind[:] = 0
    tokens.x_m[:], tokens.y_m[:], tokens.heading_rad[:], tokens.speed_mps[:] = [0, 20], 0, 0, [10, 6]
    moving = promised(tokens)
    assert moving.x_m[:, STEPS_PAST:] == pytest.approx(agents.x_m[:, STEPS_PAST:], abs=1e-4)
    assert promised_ttc_s(tokens) == pytest.approx(min_ttc_s(agents)[0, 1], abs=1e-3)
    tokens.end_speed_mps[:] = [10, 0]  # the one ahead brakes: 6 m in 2 s
    assert promised(tokens).x_m[1, -1] == pytest.approx(26.0)
    assert promised_ttc_s(tokens) == pytest.approx((26.0 - 20.0 - 4.6) / 10.0, abs=1e-2)
    assert promised_ttc_s(tokens.take([0])) == np.inf


@pytest.mark.parametrize("wanted", [(1.0, 1.5), (2.0, 3.0)])
def test_every_draw_of_a_steered_directive_promises_what_is_wanted(wanted: tuple[float, float]) -> None:
    asked = Directive(SLOWER.name, SLOWER.ego, SLOWER.agents, severity=Severity(Span(*wanted)))
    rng = np.random.default_rng(0)
    promises = [promised_ttc_s(steered(asked, HERE, no_logs, rng, ROAD)[0]) for _ in range(20)]
    assert all(wanted[0] <= p <= wanted[1] for p in promises)
    assert np.ptp(promises) > 0.3 * (wanted[1] - wanted[0]), "over the range, not at one point of it"
    unsteered = [promised_ttc_s(steered(SLOWER, HERE, no_logs, rng, ROAD)[0]) for _ in range(20)]
    assert sum(wanted[0] <= p <= wanted[1] for p in unsteered) < 10


def test_a_severity_out_of_reach_does_not_fit() -> None:
    faster = dataclasses.replace(SLOWER.agents[0], speed_mps=Span(13.0, 15.0))
    asked = Directive(SLOWER.name, SLOWER.ego, (faster,), severity=Severity(Span(1.0, 1.5)))
    with pytest.raises(DoesNotFit, match="severity_out_of_reach"):
        steered(asked, HERE, no_logs, np.random.default_rng(0), ROAD)


def test_nothing_is_asked_for_that_would_be_rejected() -> None:
    nowhere = np.zeros_like(ROAD)
    with pytest.raises(DoesNotFit, match="asks_for_off_road"):
        steered(SLOWER, HERE, no_logs, np.random.default_rng(0), nowhere)
    steered(SLOWER, HERE, no_logs, np.random.default_rng(0), nowhere, Accept(off_road=True))
    behind = Agent(("car",), OnLane(("ego",), "ahead_m", Span(-12.0, -12.0)), speed_mps=Span(12.0, 12.0))
    before = Agent(("car",), OnLane(("ego",), "ahead_m", Span(12.0, 12.0)), speed_mps=Span(0.0, 1.0))
    driven_into = dataclasses.replace(SLOWER, agents=(behind, before))  # in 2 s the one has come as far as the other
    with pytest.raises(DoesNotFit, match="asks_for_collision"):
        steered(driven_into, HERE, no_logs, np.random.default_rng(0), ROAD)
