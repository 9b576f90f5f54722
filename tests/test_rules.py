"""Rules that sampling follows: what counts as broken, and that steps down the gradient mend it."""

import numpy as np
import pytest
import torch

from sdiff import KINDS, WINDOW_M
from sdiff.model.batch import TIMES_S
from sdiff.model.conditioning import Conditions, from_tokens
from sdiff.model.detection import Boxes
from sdiff.model.rules import GAP_M, astray, broken_m, obeyed, off_road, off_road_field, overlap_m
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, AgentTokens, SceneToken


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
    assert float(off_road(standing([0.0], [8.0]), field)) == pytest.approx(3.0, abs=0.8)
    assert float(off_road(standing([0.0], [8.0], kind="pedestrian"), field)) == pytest.approx(0.0, abs=1e-3)
    assert float(off_road(standing([0.0], [80.0]), field)) == 0.0  # outside the window nothing is known


def test_a_few_calls_mend_what_is_almost_right() -> None:
    """Latents that are the places themselves: two cars in a queue 0.6 m too near, one car 2 m beside the road."""
    where = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [-30.0, 7.0]]])

    def decode(z: torch.Tensor) -> Boxes:
        boxes = standing([0.0] * 3, [0.0] * 3)
        heading = torch.zeros_like(z[..., :1])
        return boxes._replace(pose=torch.cat([z, heading], -1)[:, :, None].expand(1, 3, len(TIMES_S), 3))

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
    assert float(broken_m(together, field, asked, collisions=True)) == pytest.approx(float(astray(together, asked)))
    assert float(broken_m(boxes, field, asked, collisions=True)) > 3.0


def asked_for(**said: float) -> Conditions:
    tokens = AgentTokens.unspecified(1)
    for name, value in said.items():
        getattr(tokens, name)[:] = value
    return from_tokens([tokens], [SceneToken()], max_tokens=2)


def test_who_is_as_asked_for_is_not_astray() -> None:
    boxes = standing([0.0, 20.0], [0.0, 3.0])
    as_it_is = asked_for(x_m=20.0, y_m=3.0, heading_rad=0.0, speed_mps=0.0, length_m=4.6, end_x_m=20.0, end_y_m=3.0)
    assert float(astray(boxes, as_it_is)) == pytest.approx(0.0, abs=1e-2)


@pytest.mark.parametrize(
    ("said", "astray_m"),
    [
        ({"x_m": 21.0, "y_m": 3.0}, 1.0),
        ({"x_m": 20.0, "y_m": 3.0, "heading_rad": 0.5}, 1.0),
        ({"x_m": 20.0, "y_m": 3.0, "speed_mps": 6.0}, 3.0),
        ({"x_m": 20.0, "y_m": 3.0, "end_x_m": 24.0, "end_y_m": 3.0}, 2.0),
        ({"x_m": 40.0, "y_m": 3.0}, 0.0),  # there is nobody who might be meant
        ({"speed_mps": 6.0}, 0.0),  # somewhere: nobody is meant
    ],
)
def test_astray_counts_what_was_said_alone(said: dict[str, float], astray_m: float) -> None:
    assert float(astray(standing([0.0, 20.0], [0.0, 3.0]), asked_for(**said))) == pytest.approx(astray_m, abs=0.25)


def test_one_agent_does_not_serve_two_tokens() -> None:
    tokens = AgentTokens.unspecified(2)
    tokens.x_m[:], tokens.y_m[:] = [20.5, 22.0], 0.0
    asked = from_tokens([tokens], [SceneToken()], max_tokens=2)
    assert float(astray(standing([0.0, 20.0], [0.0, 0.0]), asked)) == pytest.approx(0.4, abs=0.1)
