"""An interaction of a window, written as a directive: where its agents are along lines of the map, and how fast."""

from typing import Any

import numpy as np
import yaml

from sdiff import KINDS, STEP_S
from sdiff.directives.directive import FACING, FROM_CROSSING, LANES, DoesNotFit, line_named
from sdiff.geometry import SE2, wrap_angle
from sdiff.interactions.along_way import AlongWay
from sdiff.interactions.detectors import Moment
from sdiff.maps.lanes import Path
from sdiff.scene import STEPS_PAST
from sdiff.tokens import END_S

ALONG_SPREAD_M, LATERAL_SPREAD_M, SPEED_SPREAD_MPS = 2.0, 0.2, 1.0
"""What is measured is asked for within this much, to either side."""
SPREAD_OF_GAP = 0.4
"""Places along a line spread by no more than this share of the room between the two, so that they never overlap."""
ON_LINE_M, ON_LINE_RAD = 1.5, np.radians(20)
"""A vehicle on a line is no farther from it; any agent is described by a line that it faces along, across or against
to within this angle [m, rad]."""
ASIDE_M = 20.0
END_STEP = STEPS_PAST + round(END_S / STEP_S)

Lines = dict[str, Path]


def lines(window: AlongWay) -> Lines:
    """The lines of the map that directives name, as they run at the window's place; crossing ones where they cross."""
    found: Lines = {}
    for lane in LANES:
        try:
            found[lane] = line_named(window.place, lane, "crossing_m" if lane in FROM_CROSSING else "ahead_m")
        except DoesNotFit:
            continue
    return found


def directive_text(window: AlongWay, moment: Moment, name: str, along: Lines) -> str | None:
    """A job's `directives` in YAML: one that asks for the interaction; None where it lacks an agent at t0.

    along: `lines` of the window. Raises nothing.
    """
    ego = window.ego
    agent = moment.other if moment.actor == ego else moment.actor
    valid = window.agents.valid
    if ego not in (moment.actor, moment.other) or not (valid[ego, STEPS_PAST] and valid[agent, STEPS_PAST]):
        return None
    a = window.agents
    apart = np.hypot(*(v[agent, STEPS_PAST] - v[ego, STEPS_PAST] for v in (a.x_m, a.y_m)))
    apart -= (a.length_m[agent] + a.length_m[ego]) / 2
    spread = float(np.clip(SPREAD_OF_GAP * apart, 0.1, ALONG_SPREAD_M))
    own: dict[str, Any] = {"speed_mps": _speed(window, ego, STEPS_PAST)} | _end(window, ego, along, spread)
    asked = {
        "kind": KINDS[a.kind[agent]],
        "length_m": _about(float(a.length_m[agent]), 0.2, low=0.1, digits=2),
        "width_m": _about(float(a.width_m[agent]), 0.1, low=0.1, digits=2),
        **_where(window, agent, STEPS_PAST, along, spread),
        "speed_mps": _speed(window, agent, STEPS_PAST),
        **_end(window, agent, along, spread),
    }
    job = {"directives": [{"name": name, "ego": own, "agents": [asked]}]}
    return str(yaml.safe_dump(job, sort_keys=False, default_flow_style=None, width=110))


def _end(window: AlongWay, agent: int, along: Lines, spread_m: float) -> dict[str, Any]:
    """The field `end`: where the agent is 2 s after t0, or free where it is not seen then."""
    if not window.agents.valid[agent, END_STEP]:
        return {"end": "free"}
    here = _where(window, agent, END_STEP, along, spread_m)
    return {"end": here | {"speed_mps": _speed(window, agent, END_STEP)}}


def _where(window: AlongWay, agent: int, step: int, along: Lines, spread_m: float) -> dict[str, Any]:
    """The pose of an agent: along the line that describes it best, else in the window frame."""
    pose = window.pose(agent, step)
    found = _on_line(pose, along, bool(window.vehicle[agent]))
    if found is None:
        here = window.place.map_SE2_window.inverse().after(pose)
        return {
            "x_m": _about(here.x_m, spread_m, -50, 50),
            "y_m": _about(here.y_m, LATERAL_SPREAD_M, -50, 50),
            "heading_rad": round(here.heading_rad, 2),
        }
    lane, s_m, lateral_m, facing = found
    reference = "crossing_m" if lane in FROM_CROSSING else "ahead_m"
    junction = along[lane].junction_m
    if lane.endswith("_turn") and junction is not None:
        reference, s_m = "junction_m", s_m - junction[0]
    written: dict[str, Any] = {
        "lane": lane,
        reference: _about(-s_m if lane == "oncoming" else s_m, spread_m, -100, 100),
    }
    if abs(lateral_m) > LATERAL_SPREAD_M:
        written["lateral_m"] = _about(lateral_m, LATERAL_SPREAD_M, -ASIDE_M, ASIDE_M)
    return written if facing == "along" else written | {"facing": facing}


def _on_line(pose: SE2, along: Lines, vehicle: bool) -> tuple[str, float, float, str] | None:
    """Line, arc length, left offset and facing of a pose; vehicles on a lane rather than beside another."""
    best, best_cost = None, np.inf
    for lane, path in along.items():
        s, lateral = path.project(pose.x_m, pose.y_m)
        there = path.pose(s, lateral)
        if not path.s_m[0] < s < path.s_m[-1] or abs(lateral) > ASIDE_M:
            continue
        if np.hypot(there.x_m - pose.x_m, there.y_m - pose.y_m) > 0.5:  # beside a corner, an offset says little
            continue
        for facing, turn in FACING.items():
            off = abs(float(wrap_angle(pose.heading_rad - there.heading_rad - turn)))
            on_it = facing == "along" and abs(lateral) <= ON_LINE_M
            if off > ON_LINE_RAD or (vehicle and not on_it and lane != "ego"):
                continue
            cost = abs(lateral) + 4.0 * off + (0.0 if on_it else ASIDE_M)
            if cost < best_cost - 1e-3:
                best, best_cost = (lane, s, lateral, facing), cost
    return best


def _speed(window: AlongWay, agent: int, step: int) -> list[float] | float:
    speed = float(window.speed_mps[agent, step])
    return 0.0 if speed < 0.1 else _about(speed, min(SPEED_SPREAD_MPS, speed / 4), 0.0, 70.0)


def _about(value: float, spread: float, low: float = -np.inf, high: float = np.inf, digits: int = 1) -> list[float]:
    return [round(float(np.clip(v, low, high)), digits) for v in (value - spread, value + spread)]
