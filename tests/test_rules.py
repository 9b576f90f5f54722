"""Rules that sampling follows: what counts as broken, and that steps down the gradient mend it."""

import numpy as np
import pytest
import torch
from traffic import traffic

from sdiff import KINDS, WINDOW_M
from sdiff.metrics.safety import min_ttc_s
from sdiff.model.batch import TIMES_S
from sdiff.model.conditioning import Conditions, from_tokens
from sdiff.model.detection import Boxes
from sdiff.model.rules import GAP_M, amiss_m, astray, broken_m, described, obeyed, off_road, off_road_field, overlap_m
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, AgentTokens, SceneToken
from sdiff.span import Span


def standing(x_m: list[float], y_m: list[float], kind: str = "car", score: float = 1.0) -> Boxes:
    """One scene of agents that stand and head forward, 4.6 m long and 1.8 m wide."""
    n = len(x_m)
    at = torch.tensor([x_m, y_m, [0.0] * n]).T
    logit = torch.logit(torch.full((1, n), score), eps=1e-6)
    size = torch.tensor([4.6, 1.8]).log().expand(1, n, 2)
    kinds = torch.full((1, n, len(KINDS)), -20.0)
    kinds[..., KINDS.index(kind)] = 20.0
    pose = at[None, :, None].expand(1, n, len(TIMES_S), 3)
    return Boxes(logit, pose, torch.tensor([1.0, 0.0]).expand(1, n, 2), size, kinds)


def road(half_width_m: float) -> torch.Tensor:
    """Map image of one straight road along x."""
    image = torch.zeros(1, len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS, dtype=torch.uint8)
    half = round(half_width_m / WINDOW_M * BEV_PIXELS)
    image[:, MAP_CHANNELS.index("drivable_area"), :, BEV_PIXELS // 2 - half : BEV_PIXELS // 2 + half] = 255
    return image


@pytest.mark.parametrize(
    ("x_m", "y_m", "into_m"),
    [
        ([0.0, 20.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1.8 + 2 * GAP_M], 0.0),  # side by side
        ([0.0, 4.0], [0.0, 0.0], 0.6 + GAP_M),  # bumper 0.6 m into bumper
        ([0.0, 0.0], [0.0, 1.0], 0.8 + GAP_M),
    ],
)
def test_overlap_is_how_far_boxes_reach_into_each_other(x_m: list[float], y_m: list[float], into_m: float) -> None:
    """At the worst pose and on average: twice as far, where they stand."""
    assert float(overlap_m(standing(x_m, y_m))) == pytest.approx(2 * into_m, abs=0.05)


def test_a_pair_counts_with_the_probability_of_both() -> None:
    sure, half = (float(overlap_m(standing([0.0, 4.0], [0.0, 0.0], score=p))) for p in (1.0, 0.5))
    assert half == pytest.approx(sure / 4, rel=1e-3)


def test_who_meets_only_later_has_met() -> None:
    boxes = standing([0.0, 20.0], [0.0, 0.0])
    pose = boxes.pose.clone()
    pose[:, 0, -1, 0] = 18.0
    assert float(overlap_m(boxes._replace(pose=pose))) > 1.0


def test_vehicles_beside_the_road_are_off_it_and_walkers_are_not() -> None:
    field = off_road_field(road(5.0))
    assert float(off_road(standing([0.0], [0.0]), field)) == 0.0
    assert float(off_road(standing([0.0], [8.0]), field)) == pytest.approx(
        2 * 3.4, abs=0.8
    )  # at the worst, and on average
    assert float(off_road(standing([0.0], [8.0], kind="pedestrian"), field)) == pytest.approx(0.0, abs=1e-3)
    assert float(off_road(standing([0.0], [80.0]), field)) == 0.0  # outside the window nothing is known


def test_a_few_calls_mend_what_is_almost_right() -> None:
    """Latents that are the places themselves: two cars in a queue 0.6 m too near, one car 2 m beside the road."""
    where = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [-30.0, 7.0]]])[..., None]

    def decode(z: torch.Tensor) -> Boxes:
        boxes = standing([0.0] * 3, [0.0] * 3)
        heading = torch.zeros_like(z[..., :1, 0])
        return boxes._replace(pose=torch.cat([z[..., 0], heading], -1)[:, :, None].expand(1, 3, len(TIMES_S), 3))

    field, nothing = off_road_field(road(5.0)), from_tokens([AgentTokens.unspecified(0)], [SceneToken()], max_tokens=2)
    for _ in range(8):
        where = obeyed(where, lambda z: broken_m(decode(z), field, nothing))
    assert float(overlap_m(decode(where))) < 0.05
    assert abs(float(where[0, 2, 1])) < 6.0
    assert np.allclose(where[0, 2, 0], -30.0)  # along the road nothing pulls
    assert not where.requires_grad


def test_who_wants_collisions_keeps_the_other_rules() -> None:
    boxes, field = standing([0.0, 4.0], [0.0, 8.0]), off_road_field(road(5.0))
    asked = asked_for(x_m=1.0, y_m=0.0)
    together = boxes._replace(pose=boxes.pose * torch.tensor([1.0, 0.0, 1.0]))  # both on the road, one in the other
    assert float(broken_m(together, field, asked)) > float(broken_m(together, field, asked, collisions=True)) + 1.0
    assert float(broken_m(together, field, asked, collisions=True)) == pytest.approx(astray_m(together, asked))
    assert float(broken_m(boxes, field, asked, collisions=True)) > 3.0


def asked_for(**said: float) -> Conditions:
    tokens = AgentTokens.unspecified(1)
    for name, value in said.items():
        getattr(tokens, name)[:] = value
    return from_tokens([tokens], [SceneToken()], max_tokens=2)


def astray_m(boxes: Boxes, asked: Conditions) -> float:
    return float(astray(*described(boxes, asked), asked))


def test_who_is_as_asked_for_is_not_astray() -> None:
    boxes = standing([0.0, 20.0], [0.0, 3.0])
    as_it_is = asked_for(x_m=20.0, y_m=3.0, heading_rad=0.0, speed_mps=0.0, length_m=4.6, end_x_m=20.0, end_y_m=3.0)
    assert astray_m(boxes, as_it_is) == pytest.approx(0.0, abs=1e-2)


@pytest.mark.parametrize(
    ("said", "off_m"),
    [
        ({"x_m": 24.0, "y_m": 3.0}, 4.0),
        ({"x_m": 20.0, "y_m": 3.0, "heading_rad": 0.5}, 5.0),
        ({"x_m": 20.0, "y_m": 3.0, "speed_mps": 6.0}, 6.0),
        ({"x_m": 20.0, "y_m": 3.0, "end_x_m": 24.0, "end_y_m": 3.0}, 4.0),
        ({"x_m": 40.0, "y_m": 3.0}, 0.0),  # there is nobody who might be meant
        ({"speed_mps": 6.0}, 0.0),  # somewhere: nobody is meant
    ],
)
def test_astray_counts_what_was_said_alone(said: dict[str, float], off_m: float) -> None:
    """In metres, with what is below one metre counting less and less."""
    found = astray_m(standing([0.0, 20.0], [0.0, 3.0]), asked_for(**said))
    assert found == pytest.approx(np.hypot(off_m, 1.0) - 1.0, abs=0.1)


def test_who_brakes_as_asked_is_not_astray() -> None:
    """From 9 to 1 m/s in two seconds: the speed at the end is that of the end, not the mean of what came before it."""
    boxes, t = standing([0.0, 20.0], [0.0, 3.0]), torch.tensor(TIMES_S)
    pose = boxes.pose.clone()
    pose[0, 1, :, 0] = 20.0 + 9.0 * t - 2.0 * t**2
    boxes = boxes._replace(pose=pose)
    brakes = asked_for(x_m=20.0, y_m=3.0, speed_mps=9.0, end_x_m=30.0, end_y_m=3.0, end_speed_mps=1.0)
    assert astray_m(boxes, brakes) == pytest.approx(0.0, abs=1e-2)


def test_one_agent_does_not_serve_two_tokens() -> None:
    tokens = AgentTokens.unspecified(2)
    tokens.x_m[:], tokens.y_m[:] = [20.5, 22.0], 0.0
    asked = from_tokens([tokens], [SceneToken()], max_tokens=2)
    assert astray_m(standing([0.0, 20.0], [0.0, 0.0]), asked) == pytest.approx(np.hypot(0.5, 1.0) - 1.0, abs=0.05)


def driving(x_m: list[float], y_m: list[float], heading_rad: list[float], speed_mps: list[float]) -> Boxes:
    """One scene of cars that go on as they do at t0."""
    start, heading, speed = (torch.tensor(v) for v in (list(zip(x_m, y_m, strict=True)), heading_rad, speed_mps))
    ahead = torch.stack([heading.cos(), heading.sin()], -1)
    way = start[:, None] + (speed[:, None] * ahead)[:, None] * torch.tensor(TIMES_S)[:, None]
    pose = torch.cat([way, heading[:, None, None].expand(-1, len(TIMES_S), 1)], -1)
    return standing(x_m, y_m)._replace(pose=pose[None])


def test_what_is_amiss_to_a_time_to_collision() -> None:
    """At +2 s the bumpers are 10 m apart, and one car closes in at 5 m/s: 2 s to collision, more before."""
    boxes, both = driving([0.0, 24.6], [0.0, 0.0], [0.0, 0.0], [10.0, 5.0]), torch.ones(1, 2, dtype=torch.bool)
    assert float(amiss_m(boxes, both, Span(1.5, 2.5))) == pytest.approx(0.0, abs=1e-4)
    assert float(amiss_m(boxes, both, Span(0.5, 1.0))) == pytest.approx(5.0, abs=1e-3)  # 10 m, less 1 s at 5 m/s
    assert float(amiss_m(boxes, both, Span(2.2, 3.0))) == pytest.approx(0.2 * 5.0, abs=1e-3)  # 1 m too near
    assert float(amiss_m(boxes, ~both, Span(0.5, 1.0))) == 0.0  # nobody was found that was asked for


@pytest.mark.parametrize("seed", range(20))
def test_what_is_amiss_is_nothing_where_the_measured_time_to_collision_is_as_wanted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = [0.0, float(rng.uniform(10, 40))], [0.0, float(rng.uniform(-6, 6))]
    heading, speed = [0.0, float(rng.uniform(-2, 2))], rng.uniform(2, 12, 2).tolist()
    agents = traffic(x, y, np.array(heading), speed, length_m=4.6, width_m=1.8)
    measured = float(min_ttc_s(agents)[0, 1])
    both = torch.ones(1, 2, dtype=torch.bool)
    for wanted in (Span(0.5, 1.5), Span(1.5, 3.0), Span(3.0, 6.0)):
        amiss = float(amiss_m(driving(x, y, heading, speed), both, wanted))
        if wanted.low + 0.1 < measured < wanted.high - 0.1:
            assert amiss == pytest.approx(0.0, abs=0.05), (measured, wanted)
        elif not wanted.low - 0.1 < measured < wanted.high + 0.1:
            assert amiss > 0.0, (measured, wanted)
