"""What a job accepted, checked once more from the rows, by other means: Shapely's polygons, brute force in time.

    python benchmarks/recheck.py --scenarios URI [--maps URI] [--ttc-s LOW HIGH]

Of every scenario: no two boxes overlap at any of the 41 poses; vehicles' centres stay within the drivable polygons of
the map (of the table maps at --maps, beside the scenarios unless given), to PIXEL_M; positions alone, as differences
over a second, show no more than 9.81 m/s2 and no slide of more than 0.35 rad; every token has an agent of its own, of
its kind, within 2.2 m, 0.2 rad and 2 m/s at t0 and at +2 s; the smallest time to collision of the AV with the agents
that were asked for is that of the row, to 0.05 s, and within --ttc-s. Prints one JSON line: how many rows of each
directive break what.
"""

import argparse
import json
from collections import Counter, defaultdict
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow.compute as pc
import shapely

from sdiff import tables

Row = dict[str, Any]
T0, END, STEP_S = 20, 40, 0.1
TOUCH_M2 = 1e-6
LOOK_S, TICK_S = 10.0, 0.01
PIXEL_M = 0.3
"""The model sees the drivable area in pixels of 0.39 m, whose centres decide: half a diagonal of one."""
VEHICLES = ("car", "truck", "bus", "vehicle")
WHEELED = (*VEHICLES, "motorcyclist", "cyclist")
SECOND = 10
MOVES_MPS = 2.0
MOST_MPS2, MOST_SLIDE_RAD = 9.81, 0.35
SLACK = 1.05
"""Differences of positions are not the velocities that were judged."""


def boxes(
    agents: Row, i: int, dx: np.ndarray | float = 0.0, dy: np.ndarray | float = 0.0, step: Any = slice(None)
) -> Any:
    """Polygons of agent i at some steps, moved by dx, dy."""
    half_l, half_w = agents["length_m"][i] / 2, agents["width_m"][i] / 2
    x, y, h = (np.asarray(agents[name][i], float)[step] for name in ("x_m", "y_m", "heading_rad"))
    corners = [
        np.stack([x + dx + a * np.cos(h) - b * np.sin(h), y + dy + a * np.sin(h) + b * np.cos(h)], -1)
        for a, b in ((half_l, half_w), (-half_l, half_w), (-half_l, -half_w), (half_l, -half_w))
    ]
    return shapely.polygons(np.stack(np.broadcast_arrays(*corners), -2))


def overlaps(agents: Row) -> bool:
    """Whether two boxes share ground at some pose."""
    drawn = [boxes(agents, i) for i in range(len(agents["kind"]))]
    return any((shapely.area(shapely.intersection(a, b)) > TOUCH_M2).any() for a, b in combinations(drawn, 2))


@cache
def drivable(maps: str, map_id: str) -> Any:
    """The drivable area of a map, map frame."""
    wanted = (pc.field("map_id") == map_id) & (pc.field("kind") == "drivable_area")
    rings = tables.read(maps, "maps", ["x_m", "y_m"], wanted).to_pylist()
    polygons = [shapely.Polygon(np.stack([r["x_m"], r["y_m"]], -1)) for r in rings if len(r["x_m"]) > 2]
    area = shapely.union_all(shapely.make_valid(np.array(polygons, object))).buffer(PIXEL_M)
    shapely.prepare(area)
    return area


def leaves_road(row: Row, maps: str) -> bool:
    """Whether a vehicle's centre leaves the drivable area, inside the window."""
    agents, h = row["agents"], row["origin_heading_rad"]
    x, y = (np.asarray(agents[n], float)[[k in VEHICLES for k in agents["kind"]]] for n in ("x_m", "y_m"))
    inside = np.maximum(np.abs(x), np.abs(y)) < 50
    x, y = x[inside], y[inside]
    at = np.stack([x * np.cos(h) - y * np.sin(h), x * np.sin(h) + y * np.cos(h)], -1)
    points = shapely.points(at + np.array([row["origin_x_m"], row["origin_y_m"]]))
    return not shapely.covers(drivable(maps, row["map_id"]), points).all()


def impossible(agents: Row) -> bool:
    """Whether positions show an agent on wheels that accelerates or slides as none can."""
    wheeled = [k in WHEELED for k in agents["kind"]]
    x, y, h = (np.asarray(agents[n], float)[wheeled] for n in ("x_m", "y_m", "heading_rad"))
    vx, vy = np.diff(x) / STEP_S, np.diff(y) / STEP_S
    moving = np.hypot(vx, vy) > MOVES_MPS
    gained = np.hypot(vx[:, SECOND:] - vx[:, :-SECOND], vy[:, SECOND:] - vy[:, :-SECOND])
    slide = np.abs(np.angle(np.exp(1j * (np.arctan2(vy, vx) - (h[:, :-1] + np.angle(np.exp(1j * np.diff(h))) / 2)))))
    slide = np.minimum(slide, np.pi - slide)
    either = moving[:, SECOND:] | moving[:, :-SECOND]
    return bool((gained[either] > SLACK * MOST_MPS2).any() or (slide[moving] > SLACK * MOST_SLIDE_RAD).any())


def unfulfilled(agents: Row, tokens: Row) -> int:
    """Tokens that are left without an agent of their own."""
    speed = np.hypot(agents["vx_mps"], agents["vy_mps"])
    can = [_doing(agents, speed, tokens, k) for k in range(len(tokens["x_m"]))]
    of_agent: dict[int, int] = {}

    def has(token: int, tried: set[int]) -> bool:
        for agent in set(can[token]) - tried:
            tried.add(agent)
            if agent not in of_agent or has(of_agent[agent], tried):
                of_agent[agent] = token
                return True
        return False

    return sum(not has(token, set()) for token in range(len(can)))


def _doing(agents: Row, speed: np.ndarray, tokens: Row, k: int) -> list[int]:
    done = np.ones(len(agents["kind"]), bool)
    for prefix, step in (("", T0), ("end_", END)):
        said = {n: tokens[f"{prefix}{n}"][k] for n in ("x_m", "y_m", "heading_rad", "speed_mps")}
        x, y, h = (np.asarray(agents[n], float)[:, step] for n in ("x_m", "y_m", "heading_rad"))
        if said["x_m"] is not None and said["y_m"] is not None:
            done &= np.hypot(x - said["x_m"], y - said["y_m"]) <= 2.2
        if said["heading_rad"] is not None:
            done &= np.abs(np.angle(np.exp(1j * (h - said["heading_rad"])))) <= 0.2
        if said["speed_mps"] is not None:
            done &= np.abs(speed[:, step] - said["speed_mps"]) <= 2.0
    asked = tokens["kind"][k]
    if asked is not None:
        done &= np.array([kind == asked or (asked == "vehicle" and kind in VEHICLES) for kind in agents["kind"]])
    return [int(i) for i in np.flatnonzero(done)]


def ttc_s(agents: Row, tick_s: float) -> float:
    """Smallest time until the AV's box and that of an agent that was asked for touch, both going on as they are [s]."""
    least = np.inf
    ahead = np.arange(0.0, LOOK_S, tick_s)
    for ego in np.flatnonzero(agents["is_ego"]):
        for other in np.flatnonzero(np.asarray(agents["token_index"]) >= 0):
            if other == ego:
                continue
            for step in range(END + 1):
                drawn = [
                    boxes(agents, i, agents["vx_mps"][i][step] * ahead, agents["vy_mps"][i][step] * ahead, step)
                    for i in (ego, other)
                ]
                touching = shapely.intersects(*drawn)
                if touching.any():
                    least = min(least, ahead[touching.argmax()])
    return float(least)


def _differ(again_s: float, written_s: float) -> bool:
    return bool(min(again_s, written_s) < LOOK_S - 1 and abs(again_s - written_s) > 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", required=True)
    parser.add_argument("--maps", help="beside the scenarios unless given")
    parser.add_argument("--directive", action="append", help="all unless named")
    parser.add_argument("--ttc-s", type=float, nargs=2)
    options = parser.parse_args()
    origin = ["map_id", "origin_x_m", "origin_y_m", "origin_heading_rad"]
    columns = ["directive", "agents", "tokens", "target_min_ttc_s", *origin]
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in tables.read(options.scenarios, "scenarios", columns).to_pylist():
        if options.directive and row["directive"] not in options.directive:
            continue
        count, agents = found[row["directive"]], row["agents"]
        written = np.inf if row["target_min_ttc_s"] is None else row["target_min_ttc_s"]
        again = ttc_s(agents, TICK_S)
        if _differ(again, written):  # corners may touch for less than a tick
            again = ttc_s(agents, TICK_S / 10)
        count["rows"] += 1
        count["overlap"] += overlaps(agents)
        count["off_road"] += leaves_road(row, options.maps or options.scenarios)
        count["impossible_motion"] += impossible(agents)
        count["unfulfilled"] += unfulfilled(agents, row["tokens"]) > 0
        count["other_ttc"] += _differ(again, written)
        if options.ttc_s:
            low, high = options.ttc_s
            count["ttc_outside"] += not low - TICK_S <= again <= high + TICK_S
    print(json.dumps(found))


if __name__ == "__main__":
    main()
