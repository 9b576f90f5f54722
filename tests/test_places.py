"""Places and directives on a made-up crossroads: what fits where, and where the tokens come to lie."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crossroads import LANE_WIDTH_M, LANES, crossroads, write_windows
from numpy.typing import NDArray

from sdiff import KINDS, columns, tables
from sdiff.directives.directive import Agent, Directive, DoesNotFit, End, LoggedAgents, OnLane, Scene, fits, resolve
from sdiff.directives.job import Job, Places
from sdiff.directives.search import IndexedMap, NoPlace, find
from sdiff.directives.steering import keeps_to_the_road
from sdiff.directives.units import counts, places_wanted
from sdiff.geometry import SE2
from sdiff.maps.lanes import LaneGraph
from sdiff.maps.places import Place, Wanted, place_columns
from sdiff.scene import MAP_CHANNELS, Agents, AgentTokens, SceneToken
from sdiff.span import Span

GRAPH = LaneGraph(crossroads())


def av_at(x_m: float, y_m: float = -1.75, heading_rad: float = 0.0, speed_mps: float = 8.0) -> Place:
    return Place(lambda: GRAPH, SE2(x_m, y_m, heading_rad), speed_mps, (("through_right", "stop"), ("across", "go")))


BEFORE = av_at(-10.0)
"""20 m before the junction, 15.5 m before the middle of the crosswalk."""


def no_logs(window_id: str | None) -> Agents:
    raise AssertionError("no log was asked for")


def one(value: float) -> Span:
    return Span(value, value)


def on(lane: str, ahead_m: float, **more: object) -> OnLane:
    reference = "crossing_m" if "cross" in lane else "ahead_m"
    return OnLane((lane,), reference, one(ahead_m), **more)


def token(agent: Agent, place: Place = BEFORE) -> dict[str, float]:
    directive = Directive("one", ego=None, agents=(agent,))
    tokens, _ = resolve(directive, place, no_logs, np.random.default_rng(0))
    return {name: float(getattr(tokens, name)[0]) for name in AgentTokens.__dataclass_fields__}


def pose(row: dict[str, float], prefix: str = "") -> tuple[float, float, float]:
    return row[f"{prefix}x_m"], row[f"{prefix}y_m"], row[f"{prefix}heading_rad"]


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        (Wanted(junction_ahead_m=Span(15, 25)), True),
        (Wanted(junction_ahead_m=Span(5, 15)), False),
        (Wanted(turn=("right",)), True),
        (Wanted(turn=("left",)), True),  # from the lane beside
        (Wanted(turn=("u_turn",)), False),
        (Wanted(lane_left=True), True),
        (Wanted(lane_right=True), False),
        (Wanted(lane_right=False), True),
        (Wanted(oncoming=True), True),
        (Wanted(crosswalk_ahead_m=Span(15, 16)), True),
        (Wanted(crosswalk_ahead_m=Span(1, 14)), False),
        (Wanted(straight_ahead_m=40.0), True),
        (Wanted(light=("stop", "caution")), True),
        (Wanted(light=("go",)), False),
        (Wanted(ego_speed_mps=Span(5, 10)), True),
        (Wanted(ego_speed_mps=Span(0, 5)), False),
    ],
)
def test_predicates_20_m_before_the_junction(wanted: Wanted, holds: bool) -> None:
    (name,) = wanted.asked()
    assert wanted.holds(name, BEFORE) is holds


def test_off_the_lanes_nothing_lies_ahead() -> None:
    field = av_at(-10.0, 60.0)
    assert field.lane is None
    for wanted in (Wanted(junction_ahead_m=Span(0, 80)), Wanted(turn=("straight",)), Wanted(lane_left=True)):
        (name,) = wanted.asked()
        assert not wanted.holds(name, field)
    assert Wanted(light=("none",)).holds("light", field)


def test_a_car_10_m_ahead_in_the_left_lane_is_one_lane_width_to_the_left() -> None:
    row = token(Agent(("car",), on("left", 10.0), one(5.0)))
    assert pose(row) == pytest.approx((10.0, LANE_WIDTH_M, 0.0), abs=1e-5)
    assert pose(row, "end_") == pytest.approx((20.0, LANE_WIDTH_M, 0.0), abs=1e-5)
    assert row["end_speed_mps"] == 5.0
    assert np.isnan(row["length_m"]), "not written, not specified"
    assert KINDS[int(row["kind"])] == "car"


def test_places_are_relative_to_the_av_wherever_it_is() -> None:
    north = av_at(24.0, -60.0, np.pi / 2)
    row = token(Agent(pose=on("ego", 12.0, lateral_m=one(0.5))), north)
    assert pose(row) == pytest.approx((12.0, 0.5, 0.0), abs=1e-5)


def test_a_bus_turns_right_by_a_right_angle() -> None:
    start = OnLane(("right_turn",), "junction_m", one(2.0))
    row = token(Agent(("bus",), start, one(8.0)))
    # Both ends of its 12 m are on the line, a quarter of a circle of 10 m: its middle cuts the corner.
    rear, front = np.array([16.0, 0.0]), np.array([20.0 + 10 * np.sin(0.8), -10 * (1 - np.cos(0.8))])
    assert pose(row)[:2] == pytest.approx((rear + front) / 2, abs=0.1)
    assert row["heading_rad"] == pytest.approx(np.arctan2(*(front - rear)[::-1]), abs=0.02)
    rear, front = np.array([20.0 + 10 * np.sin(1.2), -10 * (1 - np.cos(1.2))]), np.array([30.0, -10 - 24 + 5 * np.pi])
    assert pose(row, "end_")[:2] == pytest.approx((rear + front) / 2, abs=0.1)


def test_braking_shortens_the_way() -> None:
    row = token(Agent(pose=on("ego", 10.0), speed_mps=one(6.0), end=End(speed_mps=one(0.0))))
    assert row["end_x_m"] == pytest.approx(16.0, abs=1e-5)
    assert row["end_speed_mps"] == 0.0


def test_a_cut_in_ends_in_the_lane_of_the_av() -> None:
    row = token(Agent(pose=on("left", 8.0), speed_mps=one(7.0), end=End(OnLane(("ego",)))))
    assert pose(row) == pytest.approx((8.0, LANE_WIDTH_M, 0.0), abs=1e-5)
    assert pose(row, "end_")[:2] == pytest.approx((22.0, 0.0), abs=1e-5)
    assert np.isnan(row["end_heading_rad"]), "who changes lanes is not yet aligned"


def test_oncoming_comes_nearer() -> None:
    row = token(Agent(pose=on("oncoming", 40.0), speed_mps=one(10.0)))
    assert row["x_m"] == pytest.approx(40.0, abs=1e-4)
    assert row["y_m"] == pytest.approx(2 * LANE_WIDTH_M, abs=1e-4)
    assert abs(row["heading_rad"]) == pytest.approx(np.pi, abs=1e-5)
    assert row["end_x_m"] == pytest.approx(20.0, abs=1e-4)


def test_who_turns_into_the_road_of_the_av_does_not_come_towards_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the north, to the right, into the lane beside the AV's: oncoming from where that turn ends."""
    turn = [(10 + 10 * np.cos(a), 15.25 + 10 * np.sin(a)) for a in np.linspace(0, -np.pi / 2, 17)]
    monkeypatch.setitem(LANES, "oncoming", ([(20, 100), (20, 15.25)], ["through_back"], False))
    monkeypatch.setitem(LANES, "through_back", (turn, ["out_back"], True))
    graph = LaneGraph(crossroads())
    place = Place(lambda: graph, BEFORE.map_SE2_window)
    assert token(Agent(pose=on("oncoming", 15.0)), place)["x_m"] == pytest.approx(15.0, abs=1e-4)
    with pytest.raises(DoesNotFit, match="lane_too_short"):
        token(Agent(pose=on("oncoming", 25.0)), place)


def test_what_crosses_from_the_right_has_not_crossed_yet() -> None:
    row = token(Agent(pose=on("crossing_from_right", -8.0), speed_mps=one(5.0)))
    assert pose(row) == pytest.approx((34.0, -8.0, np.pi / 2), abs=1e-4)
    assert row["end_y_m"] == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize(("side", "sign"), [("right", 1.0), ("left", -1.0)])
def test_a_pedestrian_walks_over_the_crosswalk(side: str, sign: float) -> None:
    row = token(Agent(("pedestrian",), on(f"crosswalk_from_{side}", -2.0), one(1.5)))
    assert pose(row) == pytest.approx((15.5, -2.0 * sign, sign * np.pi / 2), abs=1e-4)
    assert row["end_y_m"] == pytest.approx(1.0 * sign, abs=1e-4)


def test_facing_left_moves_left() -> None:
    row = token(Agent(pose=on("ego", 10.0, lateral_m=one(-3.0), facing="left"), speed_mps=one(1.5)))
    assert pose(row, "end_") == pytest.approx((10.0, 0.0, np.pi / 2), abs=1e-5)


@pytest.mark.parametrize(
    ("place", "lane", "reason"),
    [
        (BEFORE, "right", "no_right"),
        (BEFORE, "crossing_from_left", "no_crossing_from_left"),
        (av_at(40.0), "right_turn", "no_right_turn"),
        (av_at(40.0), "crosswalk_from_right", "no_crosswalk_from_right"),
    ],
)
def test_a_lane_that_is_not_there_is_named(place: Place, lane: str, reason: str) -> None:
    with pytest.raises(DoesNotFit, match=reason):
        token(Agent(pose=on(lane, 5.0)), place)
    assert not fits(Directive("x", agents=(Agent(pose=on(lane, 5.0)),)), place)


def test_of_several_lanes_one_that_is_there_is_taken() -> None:
    either = OnLane(("right", "left"), "ahead_m", one(10.0))
    assert token(Agent(pose=either))["y_m"] == pytest.approx(LANE_WIDTH_M)


@pytest.mark.parametrize(
    ("lateral_m", "keeps"),
    [
        (one(0.0), False),  # the lane's middle is beside the road at 45 degrees
        (one(3.0), True),
        (Span(0.0, 3.0), False),
    ],
)
def test_a_corner_that_can_only_be_cut_has_no_room(lateral_m: Span, keeps: bool) -> None:
    turning = Agent(kinds=("car",), speed_mps=one(6.0), pose=OnLane(("right_turn",), "ahead_m", one(22.0), lateral_m))
    directive = Directive("corner", agents=(turning,))
    both_ends = fits(directive, BEFORE)
    assert both_ends
    road = IndexedMap(crossroads()).image(BEFORE.map_SE2_window)[MAP_CHANNELS.index("drivable_area")]
    assert keeps_to_the_road(both_ends, lambda: road) is keeps


def test_who_is_told_no_end_needs_no_road() -> None:
    anywhere = Agent(kinds=("car",), pose=on("right_turn", 22.0))
    both_ends = fits(Directive("free", agents=(anywhere,)), BEFORE)
    assert both_ends
    assert keeps_to_the_road(both_ends, lambda: pytest.fail("the map was drawn"))


def test_agents_do_not_overlap_the_av() -> None:
    near, far = Agent(pose=on("ego", 3.0)), Agent(pose=on("ego", 12.0))
    assert not fits(Directive("near", agents=(near,)), BEFORE)
    assert fits(Directive("far", agents=(far,)), BEFORE)


def test_nothing_is_placed_outside_the_window() -> None:
    with pytest.raises(DoesNotFit, match="outside_window"):
        token(Agent(pose=on("ego", 55.0)))


def test_ranges_are_drawn_by_the_generator() -> None:
    directive = Directive("x", agents=(Agent(pose=OnLane(("ego",), "ahead_m", Span(10, 30))),))
    drawn = [float(resolve(directive, BEFORE, no_logs, np.random.default_rng(i))[0].x_m[1]) for i in range(200)]
    again = float(resolve(directive, BEFORE, no_logs, np.random.default_rng(7))[0].x_m[1])
    assert drawn[7] == again
    assert 10.0 <= min(drawn) < 11.0 and 29.0 < max(drawn) <= 30.0


def test_the_free_directive_asks_for_the_av_alone() -> None:
    tokens, scene = resolve(Directive(), BEFORE, no_logs, np.random.default_rng(0))
    assert (tokens.x_m[0], tokens.y_m[0], tokens.heading_rad[0]) == (0.0, 0.0, 0.0)
    assert len(tokens) == 1 and np.isnan(tokens.speed_mps[0]) and tokens.kind[0] == KINDS.index("car")
    assert scene.p_mask == 1.0 and np.isnan(scene.n_agents)
    assert len(resolve(Directive(ego=None), BEFORE, no_logs, np.random.default_rng(0))[0]) == 0


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_windows(tmp_path_factory.mktemp("places"))


Logged = Callable[[LoggedAgents], tuple[AgentTokens, SceneToken]]


@pytest.fixture(scope="module")
def logged(windows: str) -> Logged:
    agents = columns.agents_from_arrow(tables.read(windows, "windows", ["agents"])["agents"])[0]

    def tokens(asked: LoggedAgents) -> tuple[AgentTokens, SceneToken]:
        directive = Directive("log", ego="from_log", agents=(asked,))
        return resolve(directive, BEFORE, lambda window_id: agents, np.random.default_rng(0))

    return tokens


def _kinds(tokens: AgentTokens) -> NDArray[np.str_]:
    return np.array(KINDS)[tokens.kind]


def test_the_places_own_agents_become_tokens(logged: Logged) -> None:
    everyone, scene = logged(LoggedAgents())
    half, half_scene = logged(LoggedAgents(share=one(0.5)))
    assert (everyone.x_m[0], everyone.y_m[0]) == (0.0, 0.0), "the AV comes first"
    assert len(half) - 1 == round((len(everyone) - 1) / 2)
    assert (scene.p_mask, half_scene.p_mask) == (0.0, 0.5)


def test_kinds_from_a_log_are_those_asked_for(logged: Logged) -> None:
    tokens, _ = logged(LoggedAgents(kinds=("pedestrian",)))
    assert _kinds(tokens)[1:].tolist() == ["pedestrian"]


def test_an_agent_that_the_log_lacks_is_named(logged: Logged) -> None:
    with pytest.raises(ValueError, match="no agent nobody"):
        logged(LoggedAgents(window_id="w", agent_ids=("nobody",)))


def job(**places: object) -> Job:
    return Job("test", places=Places(**places), count=1000)


def test_places_come_with_counts_per_predicate(windows: str) -> None:
    wanted = job(where="split = 'val'", wanted=Wanted(junction_ahead_m=Span(5, 25), turn=("right",)))
    found = find(wanted, windows, counts(wanted))
    n_val = tables.read(windows, "windows", ["split"])["split"].to_pylist().count("val")
    assert found.n_candidates == found.examined == n_val
    assert 0 < found.counts["junction_ahead_m"] < n_val
    assert found.counts["all of these"] == len(found.spots["free"]) <= found.counts["junction_ahead_m"]


def test_where_no_place_fits_the_counts_say_why(windows: str) -> None:
    with pytest.raises(NoPlace) as error:
        find(job(wanted=Wanted(turn=("right",), lane_right=True)), windows, {"free": 1000})
    lines = [line.split(maxsplit=1) for line in str(error.value).splitlines()]
    reported = {name: int(count) for count, name in lines if count.isdigit()}
    assert reported["turn"] > 0
    assert reported["lane_right"] == reported["all of these"] == 0


def test_maps_that_the_model_has_seen_lend_no_place_unless_the_job_lets_them(windows: str) -> None:
    (seen,) = set(tables.read(windows, "windows", ["map_id"])["map_id"].to_pylist())
    free = find(job(), windows, {"free": 1000}, ["another map"])
    assert free.spots == find(job(), windows, {"free": 1000}).spots and free.trained == 0
    assert find(job(trained_maps=True), windows, {"free": 1000}, [seen]).spots == free.spots
    n = free.n_candidates
    with pytest.raises(
        NoPlace, match=rf"0 windows .* \({n} more on maps that the model was trained on\)(.|\n)*trained_maps: true"
    ):
        find(job(), windows, {"free": 1000}, [seen])


def test_the_search_ends_when_there_are_enough(windows: str) -> None:
    found = find(replace(job(), count=3), windows, {"free": 3})
    assert len(found.spots["free"]) == 3


def test_a_limit_holds_for_each_directive(windows: str) -> None:
    limited = Job("test", places=Places(limit=2), directives=(Directive("a"), Directive("b")), count=10)
    found = find(limited, windows, places_wanted(limited))
    assert [len(spots) for spots in found.spots.values()] == [2, 2]


def test_free_generation_reads_no_map(windows: str) -> None:
    unread = Place(lambda: pytest.fail("the map was read"), SE2(0, 0, 0))
    assert fits(Directive(), unread)
    resolve(Directive(), unread, no_logs, np.random.default_rng(0))


def test_a_condition_that_is_no_sql_is_quoted(windows: str) -> None:
    with pytest.raises(ValueError, match=r"places\.where: 'no_such_column = 1'.*expected an SQL condition.*region"):
        find(job(where="no_such_column = 1"), windows, {"free": 1})


def test_scene_tokens_are_passed_on() -> None:
    asked = {"n_agents": 30.0, "moving_share": 0.5, "mean_speed_mps": 7.0, "vru_share": 0.25, "p_mask": 0.8}
    directive = Directive("busy", scene=Scene(**{name: one(value) for name, value in asked.items()}))
    _, scene = resolve(directive, BEFORE, no_logs, np.random.default_rng(0))
    assert scene == SceneToken(**asked)


def test_windows_are_found_in_a_folder_or_its_parent(windows: str) -> None:
    by_parent = find(job(), windows, {"free": 1000}).spots
    by_table = find(job(), str(Path(windows) / "windows"), {"free": 1000}).spots
    assert by_parent == by_table


def test_the_columns_of_a_place_say_what_road_it_is_on() -> None:
    assert place_columns(BEFORE) == {
        "lanes_same_direction": 2,
        "junction_ahead_m": pytest.approx(20.0),
        "light": "stop",
    }
    past = place_columns(av_at(50.0, -1.75))
    assert past["lanes_same_direction"] == 2
    assert np.isnan(past["junction_ahead_m"])
    north = place_columns(av_at(24.0, -60.0, np.pi / 2))
    assert north["lanes_same_direction"] == 1
    field = place_columns(av_at(-10.0, 60.0))
    assert np.isnan(field["lanes_same_direction"]) and field["light"] == "none"
