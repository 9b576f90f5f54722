"""CommonRoad scenarios: lanelets, obstacles and lights as the document means them, and what bad documents cost."""

import gzip
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from sdiff import KINDS
from sdiff.geometry import wrap_angle
from sdiff.logs import commonroad
from sdiff.logs.driving_log import LANE_TYPES, LIGHT_STATES, BadRecord, DrivingLog

STEPS = 60


def point(x: object, y: object) -> str:
    return f"<point><x>{x}</x><y>{y}</y></point>"


def lanelet(lane_id: int, x: tuple[float, float], y: float, extra: str = "", marking: str = "") -> str:
    """A lanelet of 4 m width along x, with its right bound at `y`; it goes west where x runs down."""
    way = 1 if x[1] > x[0] else -1
    left, right = ("".join(point(i, y + 2 + side * way * 2) for i in x) for side in (1, -1))
    line = f"<lineMarking>{marking}</lineMarking>" if marking else ""
    bounds = f"<leftBound>{left}{line}</leftBound><rightBound>{right}{line}</rightBound>"
    return f'<lanelet id="{lane_id}">{bounds}{extra}</lanelet>'


def state(step: int, x: object, y: object = 2.0, heading: object = 0.0, speed: str = "5.0", tag: str = "state") -> str:
    velocity = f"<velocity><exact>{speed}</exact></velocity>" if speed else ""
    return (
        f"<{tag}><position>{point(x, y)}</position><orientation><exact>{heading}</exact></orientation>"
        f"<time><exact>{step}</exact></time>{velocity}</{tag}>"
    )


BOX = "<rectangle><length>4.5</length><width>1.8</width></rectangle>"


def car(agent_id: int, states: str | None = None, shape: str = BOX, kind: str = "car", step_s: float = 0.1) -> str:
    """A car that drives east along y = 2 at 5 m/s."""
    each = [state(s, 5.0 * step_s * s, tag="state" if s else "initialState") for s in range(STEPS)]
    body = f"{each[0]}<trajectory>{''.join(each[1:])}</trajectory>" if states is None else states
    return f'<dynamicObstacle id="{agent_id}"><type>{kind}</type><shape>{shape}</shape>{body}</dynamicObstacle>'


STREET = (
    lanelet(1, (0, 30), 0, '<successor ref="2"/><successor ref="99"/><adjacentLeft ref="3" drivingDir="opposite"/>')
    + lanelet(2, (30, 60), 0, '<predecessor ref="1"/><adjacentLeft ref="4" drivingDir="same"/>')
    + lanelet(3, (30, 0), 4)
    + lanelet(4, (30, 60), 4, '<laneletType>bicycleLane</laneletType><adjacentRight ref="2" drivingDir="same"/>')
)


def document(body: str, step_s: float = 0.1, name: str = "ZAM_Town-3_7_T-1") -> str:
    head = f'<commonRoad benchmarkID="{name}" commonRoadVersion="2020a" timeStepSize="{step_s}">'
    return f"<?xml version='1.0'?>{head}{body}</commonRoad>"


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "ZAM_Town-3_7_T-1.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def read(source: str) -> tuple[DrivingLog, list[BadRecord]]:
    out = list(commonroad.read(source))
    (log,) = (x for x in out if isinstance(x, DrivingLog))
    return log, [x for x in out if isinstance(x, BadRecord)]


def test_a_scenario_is_read_as_it_was_written(tmp_path: Path) -> None:
    log, bad = read(write(tmp_path, document(STREET + car(5) + car(6, kind="bicycle"))))
    assert not bad and log.recorder is None
    assert (log.log_id, log.region, log.split_key) == ("ZAM_Town-3_7_T-1", "ZAM_Town", "ZAM_Town-3")
    assert list(log.tracks.agent_id) == ["5", "6"]
    assert [KINDS[k] for k in log.tracks.kind] == ["car", "cyclist"]
    np.testing.assert_allclose(log.tracks.x_m[0], 0.5 * np.arange(STEPS))
    np.testing.assert_allclose(log.tracks.vx_mps, 5.0)
    np.testing.assert_allclose(log.tracks.length_m, 4.5)


def test_lanelets_are_lanes_with_the_links_of_the_document(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, document(STREET + car(5))))
    m = log.map
    assert list(m.feature_id[m.of_kind("lane_centerline")]) == [f"lanelet_{i}" for i in (1, 2, 3, 4)]
    np.testing.assert_allclose(m.points(0), [[0, 2], [30, 2]])
    assert m.successors.tolist() == [[0, 1]]
    assert m.left[:4].tolist() == [-1, 3, -1, -1] and m.right[:4].tolist() == [-1, -1, -1, 1]
    np.testing.assert_allclose(m.width_m[:4], 4.0)
    assert m.lane_type[3] == LANE_TYPES.index("bike")
    (area,) = m.of_kind("drivable_area")
    assert m.derived[area] and shapely.Polygon(m.points(int(area))).area == pytest.approx(8 * 60)


def test_lines_stops_limits_and_crossings(tmp_path: Path) -> None:
    sign = (
        '<trafficSign id="50"><trafficSignElement><trafficSignID>274</trafficSignID>'
        "<additionalValue>13.9</additionalValue></trafficSignElement></trafficSign>"
    )
    street = (
        lanelet(
            1, (0, 30), 0, '<stopLine><lineMarking>solid</lineMarking></stopLine><trafficSignRef ref="50"/>', "solid"
        )
        + lanelet(2, (0, 30), 4, marking="dashed")
        + lanelet(3, (10, 14), 0, "<laneletType>crosswalk</laneletType>")
    )
    log, _ = read(write(tmp_path, document(street + sign + car(5))))
    m = log.map
    assert len(m.of_kind("lane_centerline")) == 2 and len(m.of_kind("crosswalk")) == 1
    assert sorted(m.points(int(i))[0, 1] for i in m.of_kind("lane_boundary")) == [0, 4, 8], (
        "the line between is drawn once"
    )
    (stop,) = m.of_kind("stop_line")
    np.testing.assert_allclose(m.points(int(stop)), [[30, 4], [30, 0]])
    np.testing.assert_allclose(m.speed_limit_mps[:2], [13.9, np.nan])


def light(light_id: int, direction: str = "all", offset: int = 0, active: str = "true") -> str:
    cycle = "".join(
        f"<cycleElement><duration>{n}</duration><color>{c}</color></cycleElement>"
        for n, c in ((10, "green"), (5, "yellow"), (15, "red"))
    )
    return (
        f'<trafficLight id="{light_id}"><cycle>{cycle}<timeOffset>{offset}</timeOffset></cycle>'
        f"<direction>{direction}</direction><active>{active}</active></trafficLight>"
    )


def test_a_light_goes_through_its_cycle_at_the_lane_behind_its_stop(tmp_path: Path) -> None:
    street = STREET.replace('<successor ref="2"/>', '<successor ref="2"/><trafficLightRef ref="70"/>')
    log, _ = read(write(tmp_path, document(street + light(70, offset=2) + car(5))))
    assert log.lights.lane.tolist() == [1] and (log.lights.x_m[0], log.lights.y_m[0]) == (30, 2)
    names = [LIGHT_STATES[s] for s in log.lights.state[0]]
    assert names[:2] == ["stop"] * 2, "what comes before the offset is the end of the cycle before"
    assert names[2:32] == ["go"] * 10 + ["caution"] * 5 + ["stop"] * 15 and names[32] == "go"


@pytest.mark.parametrize(("direction", "lanes"), [("all", [1, 3]), ("straight", [1]), ("left", [3]), ("right", [])])
def test_a_light_is_for_the_turns_that_it_names(tmp_path: Path, direction: str, lanes: list[int]) -> None:
    street = STREET.replace(
        '<successor ref="2"/>', '<successor ref="2"/><successor ref="4"/><trafficLightRef ref="70"/>'
    )
    crossing = (
        '<intersection id="9"><incoming id="8"><incomingLanelet ref="1"/><successorsStraight ref="2"/>'
        '<successorsLeft ref="4"/></incoming></intersection>'
    )
    log, _ = read(write(tmp_path, document(street + light(70, direction) + crossing + car(5))))
    assert sorted(log.lights.lane.tolist()) == lanes
    assert log.map.in_junction[:4].tolist() == [False, True, False, True]


def test_a_light_that_is_off_is_unknown(tmp_path: Path) -> None:
    street = STREET.replace('<successor ref="2"/>', '<successor ref="2"/><trafficLightRef ref="70"/>')
    log, _ = read(write(tmp_path, document(street + light(70, active="false") + car(5))))
    assert (log.lights.state == 0).all()


@pytest.mark.parametrize("step_s", [0.02, 0.04, 0.05, 0.2])
def test_another_time_step_becomes_ten_per_second(tmp_path: Path, step_s: float) -> None:
    log, _ = read(write(tmp_path, document(STREET + car(5, step_s=step_s), step_s)))
    steps = int((STEPS - 1) * step_s / 0.1 + 1e-6) + 1
    assert log.tracks.valid.shape == (1, steps) and log.tracks.valid.all()
    np.testing.assert_allclose(log.tracks.x_m[0], 0.5 * np.arange(steps), atol=1e-9)


def test_a_heading_that_passes_pi_is_interpolated_the_short_way(tmp_path: Path) -> None:
    states = state(0, 0, heading=3.1, tag="initialState") + f"<trajectory>{state(1, 1, heading=-3.1)}</trajectory>"
    log, _ = read(write(tmp_path, document(STREET + car(5, states), 0.2)))
    np.testing.assert_allclose(np.abs(log.tracks.heading_rad[0]), [3.1, np.pi, 3.1], atol=1e-6)


def test_a_gap_in_a_track_is_not_filled(tmp_path: Path) -> None:
    states = state(0, 0, tag="initialState") + f"<trajectory>{state(1, 0.5)}{state(5, 2.5)}{state(6, 3.0)}</trajectory>"
    log, _ = read(write(tmp_path, document(STREET + car(5, states) + car(6))))
    assert np.flatnonzero(log.tracks.valid[0]).tolist() == [0, 1, 5, 6]


def test_without_a_speed_velocity_comes_from_positions(tmp_path: Path) -> None:
    states = state(0, 0, speed="", tag="initialState")
    states += f"<trajectory>{''.join(state(s, 0.7 * s, speed='') for s in range(1, 50))}</trajectory>"
    log, _ = read(write(tmp_path, document(STREET + car(5, states))))
    np.testing.assert_allclose(log.tracks.vx_mps[0, :50], 7.0)


def test_what_stands_is_there_all_the_time_and_shapes_have_a_centre(tmp_path: Path) -> None:
    block = (
        '<staticObstacle id="8"><type>parkedVehicle</type><shape><rectangle><length>4</length><width>2</width>'
        "<center><x>1</x><y>0</y></center></rectangle></shape>"
        f"{state(0, 10, 2, np.pi / 2, '', 'initialState')}</staticObstacle>"
    )
    round_one = car(9, shape="<circle><radius>0.4</radius></circle>", kind="pedestrian")
    log, bad = read(write(tmp_path, document(STREET + block + car(5) + round_one)))
    assert not bad and log.tracks.valid.all()
    np.testing.assert_allclose((log.tracks.x_m[0, 7], log.tracks.y_m[0, 7]), (10, 3))
    assert (log.tracks.vx_mps[0] == 0).all() and KINDS[log.tracks.kind[0]] == "vehicle"
    np.testing.assert_allclose((log.tracks.length_m[2], log.tracks.width_m[2]), 0.8)


def test_gzip_is_read_like_plain(tmp_path: Path) -> None:
    text = document(STREET + car(5)).encode()
    (tmp_path / "a.xml").write_bytes(text)
    (tmp_path / "b.xml.gz").write_bytes(gzip.compress(text))
    a, b = commonroad.find(str(tmp_path))
    np.testing.assert_array_equal(read(a)[0].tracks.x_m, read(b)[0].tracks.x_m)


def steps_of(*numbers: int) -> str:
    each = [state(s, s, tag="state" if i else "initialState") for i, s in enumerate(numbers)]
    return f"{each[0]}<trajectory>{''.join(each[1:])}</trajectory>"


@pytest.mark.parametrize(
    ("bad_car", "reason"),
    [
        (car(6, state(0, "nan", tag="initialState")), "no exact finite position"),
        (car(6, state(0, "here", tag="initialState")), "could not convert string to float"),
        (car(6, "<initialState><time><exact>0</exact></time></initialState>"), "no exact finite position"),
        (car(6, steps_of(0, 1, 2, 1)), "time does not go forward"),
        (car(6, steps_of(0, 1, 1)), "time does not go forward"),
        (car(6, steps_of(0, 10**9)), "the last time step is 1000000000"),
        (car(6, shape=""), "no shape"),
        (car(6, shape=BOX.replace("4.5", "-1")), "box size"),
        (car(6, state(0, 0, tag="initialState") + "<occupancySet/>"), "occupancySet"),
        (car(6) + car(6), "more than once"),
    ],
)
def test_a_bad_obstacle_costs_its_track_alone(tmp_path: Path, bad_car: str, reason: str) -> None:
    log, bad = read(write(tmp_path, document(STREET + car(5) + bad_car)))
    assert {b.record for b in bad} == {"6"} and reason in str(bad[0])
    assert list(log.tracks.agent_id) == ["5"]


LIT = STREET.replace('<successor ref="2"/>', '<successor ref="2"/><trafficLightRef ref="70"/>')
LAUGHS = '<!DOCTYPE commonRoad [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE commonRoad [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not XML|not a whole"),
        ("<osm/>", "root is 'osm'"),
        (document(STREET + car(5))[:2000], "not a whole XML document"),
        (document(STREET + car(5)).replace("?>", "?>" + LAUGHS, 1), "has a DTD"),
        (document(STREET + car(5)).replace("?>", "?>" + OUTSIDE, 1), "has a DTD"),
        (document(STREET + car(5)).replace("?>", "?>" + LAUGHS, 1).encode("utf-16"), "has a DTD|not XML"),
        (document(STREET + car(5), 0.0), "timeStepSize is 0.0"),
        (document(STREET + car(5)).replace("timeStepSize", "step"), "KeyError 'timeStepSize'"),
        (document(car(5)), "no lanes"),
        (document(STREET), "no usable track"),
        (document(STREET + car(5, steps_of(0, 30_000)) + car(6) * 300), "301 agents over 30001 steps"),
        (document(STREET.replace(point(0, 4), "") + car(5)), "bounds of 1 and 2 points"),
        (document(STREET.replace(point(0, 4), point(0, "inf")) + car(5)), "not finite"),
        (document(LIT + light(70).replace("<duration>5", "<duration>five") + car(5)), "ValueError.*five"),
    ],
)
def test_a_bad_document_says_what_is_wrong(tmp_path: Path, text: Any, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        list(commonroad.read(write(tmp_path, text)))


def test_gzip_that_is_cut_off_or_unpacks_without_end_is_a_bad_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = gzip.compress(document(STREET + car(5)).encode())
    with pytest.raises(BadRecord, match="ends early"):
        list(commonroad.read(write(tmp_path, packed[:-200])))
    monkeypatch.setattr(commonroad, "MOST_BYTES", 1 << 20)
    with pytest.raises(BadRecord, match="more than 1 MiB"):
        list(commonroad.read(write(tmp_path, gzip.compress(bytes(50 << 20)))))


def source_states(source: str) -> dict[str, list[tuple[int, float, float, float, float]]]:
    """Step, x, y, heading, speed of each obstacle's states, straight from the document."""
    with gzip.open(source.removeprefix("file://")) as file:
        root = ET.parse(file).getroot()
    found: dict[str, list[tuple[int, float, float, float, float]]] = {}
    for obstacle in root.iter("dynamicObstacle"):
        for el in [*obstacle.iter("initialState"), *obstacle.iter("state")]:
            exact = {name: float(el.find(name)[0].text) for name in ("time", "orientation", "velocity")}  # type: ignore
            x, y = (float(v.text) for v in el.find("position")[0])  # type: ignore
            row = (int(exact["time"]), x, y, exact["orientation"], exact["velocity"])
            found.setdefault(obstacle.attrib["id"], []).append(row)
    return found


def test_real_poses_equal_the_document_s(real_data: Path) -> None:
    for source in commonroad.find(str(real_data / "commonroad_ngsim"))[::12]:
        try:
            log, _ = read(source)
        except BadRecord:
            continue
        t, states = log.tracks, source_states(source)
        assert t.valid.sum() == sum(len(states[str(i)]) for i in t.agent_id)
        for i, agent_id in enumerate(t.agent_id):
            step, x, y, heading, speed = np.array(states[str(agent_id)]).T
            at = step.astype(int)
            np.testing.assert_allclose(t.x_m[i, at], x, atol=0.01)
            np.testing.assert_allclose(t.y_m[i, at], y, atol=0.01)
            assert np.abs(wrap_angle(t.heading_rad[i, at] - heading)).max() < 0.001
            np.testing.assert_allclose(t.vx_mps[i, at], speed * np.cos(heading), atol=0.01)


def test_real_cars_drive_on_lanelets_in_their_direction(real_data: Path) -> None:
    for source in commonroad.find(str(real_data / "commonroad_ngsim"))[3::12]:
        log, _ = read(source)
        t, m = log.tracks, log.map
        lanes = m.of_kind("lane_centerline")
        lines = np.array([shapely.LineString(m.points(int(i))) for i in lanes])
        fast = t.valid & (np.hypot(t.vx_mps, t.vy_mps) > 3)
        x, y, heading = t.x_m[fast][::7], t.y_m[fast][::7], t.heading_rad[fast][::7]
        at = shapely.points(x, y)
        near = lines[shapely.STRtree(lines).nearest(at)]
        s = shapely.line_locate_point(near, at)
        a, b = (shapely.get_coordinates(shapely.line_interpolate_point(near, s + d)) for d in (-0.5, 0.5))
        course = np.arctan2(*(b - a).T[::-1])
        assert np.median(shapely.distance(near, at)) < 1.2, source
        assert (np.cos(heading - course) > 0.7).mean() > 0.9, source


@pytest.mark.parametrize(
    "sign", ["274", "274.1", "R2-1", "r301", "R301", "3.24", "R15", "C43", "B14", "B31", "\u03a1-32"]
)
def test_every_country_s_sign_of_the_highest_speed_is_a_limit(tmp_path: Path, sign: str) -> None:
    """The ids of commonroad-io; the Greek one begins with a capital rho."""
    text = (
        lanelet(1, (0, 30), 0, '<trafficSignRef ref="9"/>')
        + f'<trafficSign id="9"><trafficSignElement><trafficSignID>{sign}</trafficSignID>'
        + "<additionalValue>13.9</additionalValue></trafficSignElement></trafficSign>"
    )
    assert read(write(tmp_path, document(text + car(5))))[0].map.speed_limit_mps[0] == pytest.approx(13.9)


def test_other_signs_and_limits_that_are_none_are_no_limit(tmp_path: Path) -> None:
    def sign(sign_id: int, name: str, value: str) -> str:
        element = f"<trafficSignID>{name}</trafficSignID><additionalValue>{value}</additionalValue>"
        return f'<trafficSign id="{sign_id}"><trafficSignElement>{element}</trafficSignElement></trafficSign>'

    street = "".join(lanelet(i, (0, 30), 4 * i, f'<trafficSignRef ref="{9 + i}"/>') for i in range(3))
    signs = sign(9, "275", "8.3") + sign(10, "274", "inf") + sign(11, "274", "0")
    assert np.isnan(read(write(tmp_path, document(street + signs + car(5))))[0].map.speed_limit_mps[:3]).all()


def test_a_lanelet_of_2018b_has_its_limit_in_itself(tmp_path: Path) -> None:
    street = lanelet(1, (0, 30), 0, "<speedLimit>8.33</speedLimit>") + lanelet(2, (30, 60), 0)
    limit = read(write(tmp_path, document(street + car(5))))[0].map.speed_limit_mps[:2]
    np.testing.assert_allclose(limit, [8.33, np.nan], rtol=1e-6)


def centre(x: float, y: float = 0.0) -> str:
    return f"<center><x>{x}</x><y>{y}</y></center>"


def test_a_circle_lies_where_its_centre_is(tmp_path: Path) -> None:
    log, _ = read(write(tmp_path, document(STREET + car(5, shape=f"<circle><radius>1</radius>{centre(3)}</circle>"))))
    t = log.tracks
    assert (t.length_m[0], t.width_m[0], t.x_m[0, 0], t.y_m[0, 0]) == (2.0, 2.0, 3.0, 2.0)


def test_an_obstacle_of_several_shapes_is_as_large_as_all_of_them(tmp_path: Path) -> None:
    """A truck of 4.5 m that pulls a trailer of 4 x 2 m, given across, whose middle is 8 m behind the truck's."""
    across = (
        f"<rectangle><length>2</length><width>4</width><orientation>{np.pi / 2}</orientation>{centre(-8)}</rectangle>"
    )
    log, bad = read(write(tmp_path, document(STREET + car(5, shape=BOX + across, kind="truck"))))
    t = log.tracks
    np.testing.assert_allclose([t.length_m[0], t.width_m[0]], [2.25 + 10, 2.0], rtol=1e-6)
    np.testing.assert_allclose([t.x_m[0, 0], t.y_m[0, 0], t.heading_rad[0, 0]], [(2.25 - 10) / 2, 2, 0], atol=1e-9)
    assert not bad


def test_obstacles_that_are_no_agents_are_told(tmp_path: Path) -> None:
    others = (
        '<phantomObstacle id="7"><occupancySet/></phantomObstacle><environmentObstacle id="8"><type>building</type>'
    )
    log, bad = read(write(tmp_path, document(STREET + car(5) + others + "</environmentObstacle>")))
    assert list(log.tracks.agent_id) == ["5"]
    assert [(b.record, str(b).partition(" ")[0]) for b in bad] == [
        ("7", "phantomObstacle"),
        ("8", "environmentObstacle"),
    ]
