"""Made-up traffic on a made-up crossroads: what is an interaction, what is none, and the directive it becomes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from crossroads import LANES, crossroads
from numpy.typing import NDArray

from sdiff import KINDS
from sdiff.directives.directive import resolve
from sdiff.directives.job import parse
from sdiff.geometry import SE2, wrap_angle
from sdiff.interactions.along_way import AlongWay, Signals
from sdiff.interactions.detectors import find
from sdiff.interactions.mined import directive_text, lines
from sdiff.logs.driving_log import LIGHT_STATES
from sdiff.maps.lanes import LaneGraph
from sdiff.maps.places import Place
from sdiff.scene import STEPS_PAST, Agents
from sdiff.tokens import agent_tokens

GRAPH = LaneGraph(crossroads())
TIME_S = (np.arange(41) - STEPS_PAST) * 0.1
NO_SIGNALS = Signals(np.zeros(0, str), np.zeros(0), np.zeros(0), np.zeros((0, 41), np.int8))

Track = NDArray[np.float64]


@dataclass
class Driver:
    """Positions over the 41 steps, map frame (41, 2), and what moves there. heading: where it stands."""

    xy: Track
    kind: str = "car"
    size: tuple[float, float] = (4.0, 2.0)
    heading: float = 0.0


def straight(x: float, y: float, speed: float, heading: float = 0.0, braking: float = 0.0) -> Track:
    """From (x, y) at t0; braking from 0.5 s before t0 on."""
    since = np.clip(TIME_S + 0.5, 0, None)
    s = speed * TIME_S - braking * since**2 / 2
    return np.stack([x + s * np.cos(heading), y + s * np.sin(heading)], 1)


def along(names: list[str], s_t0: float, speed: float) -> Track:
    """Along joined centre lines, `s_t0` metres from their start at t0."""
    xy = np.concatenate([np.array(LANES[n][0], float) for n in names])
    arc = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
    s = s_t0 + speed * TIME_S
    return np.stack([np.interp(s, arc, xy[:, i]) for i in (0, 1)], 1)


def sideways(track: Track, to_y: float, begin_s: float, end_s: float) -> Track:
    """The same, moved over to another y between two times."""
    share = np.clip((TIME_S - begin_s) / (end_s - begin_s), 0, 1)
    return np.stack([track[:, 0], track[:, 1] + (to_y - track[:, 1]) * (3 * share**2 - 2 * share**3)], 1)


def window(*drivers: Driver, signals: Signals = NO_SIGNALS) -> AlongWay:
    """The window of the first one."""
    xy = np.stack([d.xy for d in drivers])
    velocity = np.gradient(xy, 0.1, axis=1)
    speed = np.hypot(*velocity.T).T
    standing = np.array([d.heading for d in drivers])[:, None]
    heading = np.where(speed > 0.05, np.arctan2(velocity[..., 1], velocity[..., 0]), standing)
    origin = SE2(*xy[0, STEPS_PAST], float(heading[0, STEPS_PAST]))
    window_SE2_map = origin.inverse()
    x, y = window_SE2_map.apply(xy[..., 0], xy[..., 1])
    vx, vy = window_SE2_map.rotate(velocity[..., 0], velocity[..., 1])
    n = len(drivers)
    agents = Agents(
        agent_id=np.array([f"a{i}" for i in range(n)]),
        kind=np.array([KINDS.index(d.kind) for d in drivers], np.int8),
        length_m=np.array([d.size[0] for d in drivers], np.float32),
        width_m=np.array([d.size[1] for d in drivers], np.float32),
        is_ego=np.arange(n) == 0,
        x_m=x.astype(np.float32),
        y_m=y.astype(np.float32),
        heading_rad=wrap_angle(heading - origin.heading_rad).astype(np.float32),
        vx_mps=vx.astype(np.float32),
        vy_mps=vy.astype(np.float32),
        valid=np.ones((n, 41), bool),
    )
    return AlongWay(agents, Place(lambda: GRAPH, origin), signals)


def red(lane: str, x: float, y: float, at: AlongWay) -> AlongWay:
    """The same window with a signal that shows stop."""
    wx, wy = at.place.map_SE2_window.inverse().apply(x, y)
    state = np.full((1, 41), LIGHT_STATES.index("stop"), np.int8)
    return AlongWay(at.agents, at.place, Signals(np.array([lane]), np.array([wx]), np.array([wy]), state))


AV = Driver(straight(-60, -1.75, 10.0))
LEFT, RIGHT = 1.75, -1.75


def cut_in() -> AlongWay:
    return window(AV, Driver(sideways(straight(-48, LEFT, 9.0), RIGHT, -0.5, 2.0)))


def cut_in_far_ahead() -> AlongWay:
    return window(AV, Driver(sideways(straight(-20, LEFT, 9.0), RIGHT, -0.5, 2.0)))


def passing() -> AlongWay:
    return window(AV, Driver(straight(-48, LEFT, 9.0)))


def hard_braking() -> AlongWay:
    return window(AV, Driver(straight(-40, RIGHT, 11.0, braking=5.0)))


def gentle_braking() -> AlongWay:
    return window(AV, Driver(straight(-40, RIGHT, 11.0, braking=2.0)))


def tailgated() -> AlongWay:
    return window(AV, Driver(straight(-71, RIGHT, 10.0)))


def followed() -> AlongWay:
    return window(AV, Driver(straight(-79, RIGHT, 10.0)))


def breakdown() -> AlongWay:
    return window(AV, Driver(straight(-30, RIGHT, 0.0)))


def waiting_at_the_junction() -> AlongWay:
    return window(Driver(straight(-20, RIGHT, 8.0)), Driver(straight(6, RIGHT, 0.0)))


def parked_beside_the_lane() -> AlongWay:
    return window(AV, Driver(straight(-30, RIGHT - 3.2, 0.0)))


def queue_on_a_bridge() -> AlongWay:
    return window(AV, Driver(straight(-30, RIGHT, 0.0), heading=np.pi / 4))


def walker_crossing() -> AlongWay:
    return window(AV, Driver(straight(-40, -4.0, 1.5, np.pi / 2), "pedestrian", (0.6, 0.6)))


def walker_along() -> AlongWay:
    return window(AV, Driver(straight(-40, -4.5, 1.5), "pedestrian", (0.6, 0.6)))


def crossing() -> AlongWay:
    northward = Driver(along(["from_south", "across", "out_north"], 86.0, 10.0))
    return window(Driver(along(["in_right", "through_right", "out_right"], 120.0, 10.0)), northward)


def crossing_long_after() -> AlongWay:
    northward = Driver(along(["from_south", "across", "out_north"], 60.0, 10.0))
    return window(Driver(along(["in_right", "through_right", "out_right"], 124.0, 10.0)), northward)


TURNING = ["in_left", "turn_left", "out_north"]
TOWARDS = ["oncoming", "through_back", "out_back"]


def left_turn_ahead_of_the_av() -> AlongWay:
    return window(Driver(along(TOWARDS, 62.0, 10.0)), Driver(along(TURNING, 115.0, 6.0)))


def av_turns_left() -> AlongWay:
    return window(Driver(along(TURNING, 115.0, 6.0)), Driver(along(TOWARDS, 62.0, 10.0)))


def bus_turns_ahead_of_the_av() -> AlongWay:
    return window(Driver(along(TOWARDS, 62.0, 10.0)), Driver(along(TURNING, 112.0, 6.0), "bus", (10.0, 2.6)))


def merge() -> AlongWay:
    av = Driver(along(["from_south", "across", "out_north"], 90.0, 8.0))
    return window(av, Driver(along(TURNING, 121.0, 7.0)))


def through_red() -> AlongWay:
    at = window(Driver(straight(-10, LEFT, 8.0)), Driver(straight(2, RIGHT, 8.0)))
    return red("through_right", 10.0, RIGHT, at)


def red_for_another_way() -> AlongWay:
    return red("turn_right", 10.0, RIGHT, through_red())


def against_traffic() -> AlongWay:
    return window(AV, Driver(straight(-30, 5.25, 8.0)))


def oncoming() -> AlongWay:
    return window(AV, Driver(straight(-30, 5.25, 8.0, np.pi)))


HALF_TURNED = ("unprotected_left", "bus_or_truck_turning_across", "merging")
"""No line of a directive runs along the ways of agents that turn from elsewhere: their poses are the window's."""


@pytest.mark.parametrize(
    ("scene", "kind", "actor"),
    [
        (cut_in, "cut_in", 1),
        (hard_braking, "hard_braking_leader", 1),
        (tailgated, "tailgating", 1),
        (breakdown, "stopped_in_lane", 1),
        (walker_crossing, "pedestrian_or_cyclist_crossing", 1),
        (crossing, "crossing_paths", 1),
        (left_turn_ahead_of_the_av, "unprotected_left", 1),
        (av_turns_left, "unprotected_left", 0),
        (bus_turns_ahead_of_the_av, "bus_or_truck_turning_across", 1),
        (merge, "merging", 1),
        (through_red, "red_light_running", 1),
        (against_traffic, "wrong_way", 1),
    ],
)
def test_an_interaction_is_found_and_its_directive_asks_for_it_again(
    scene: Callable[[], AlongWay], kind: str, actor: int
) -> None:
    at = scene()
    found = [m for m in find(at) if m.kind == kind]
    assert [(m.actor, m.other) for m in found] == [(actor, 1 - actor)]
    assert STEPS_PAST <= found[0].step <= 40
    text = directive_text(at, found[0], "mined", lines(at))
    assert text is not None
    assert kind in HALF_TURNED or "heading_rad" not in text
    (directive,) = parse(text, "mined.yaml").directives
    logged = agent_tokens(at.agents)
    for seed in range(3):
        tokens, _ = resolve(directive, at.place, None, np.random.default_rng(seed))  # type: ignore[arg-type]
        for prefix in ("", "end_"):
            for name, off in (("x_m", 2.5), ("y_m", 2.5), ("heading_rad", 0.35), ("speed_mps", 1.1)):
                asked, was = (getattr(t, prefix + name)[1] for t in (tokens, logged))
                if kind == "cut_in" and prefix + name == "end_heading_rad":
                    assert np.isnan(asked), "who changes lanes is not yet aligned"
                    continue
                assert abs(wrap_angle(asked - was) if name == "heading_rad" else asked - was) < off, prefix + name
        assert KINDS[tokens.kind[1]] == KINDS[at.agents.kind[1]]


@pytest.mark.parametrize(
    ("scene", "kind"),
    [
        (cut_in_far_ahead, "cut_in"),
        (passing, "cut_in"),
        (gentle_braking, "hard_braking_leader"),
        (followed, "tailgating"),
        (waiting_at_the_junction, "stopped_in_lane"),
        (parked_beside_the_lane, "stopped_in_lane"),
        (queue_on_a_bridge, "stopped_in_lane"),
        (walker_along, "pedestrian_or_cyclist_crossing"),
        (crossing_long_after, "crossing_paths"),
        (crossing, "unprotected_left"),
        (cut_in, "merging"),
        (merge, "cut_in"),
        (red_for_another_way, "red_light_running"),
        (oncoming, "wrong_way"),
    ],
)
def test_what_looks_alike_is_none(scene: Callable[[], AlongWay], kind: str) -> None:
    assert kind not in {m.kind for m in find(scene())}


def test_the_moment_of_a_cut_in_is_when_its_centre_passes_the_lane_line() -> None:
    (moment,) = [m for m in find(cut_in()) if m.kind == "cut_in"]
    assert TIME_S[moment.step] == pytest.approx(0.75, abs=0.1)  # half of the way over
