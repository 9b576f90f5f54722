"""What a job accepted, checked once more from the rows, by other means: Shapely's polygons, brute force in time.

    python benchmarks/recheck.py --scenarios URI [--ttc-s LOW HIGH]

Of every scenario: no two boxes overlap at any of the 41 poses; every token is done by an agent of its kind, within
2.2 m, 0.2 rad and 2 m/s at t0 and at +2 s; the smallest time to collision of the AV with the agents that were asked for
is that of the row, to 0.05 s, and within --ttc-s. Prints one JSON line: how many rows of each directive break what.
"""

import argparse
import json
from collections import Counter, defaultdict
from itertools import combinations
from typing import Any

import numpy as np
import shapely

from sdiff import tables

Row = dict[str, Any]
T0, END, STEP_S = 20, 40, 0.1
TOUCH_M2 = 1e-6
LOOK_S, TICK_S = 10.0, 0.01


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


def unfulfilled(agents: Row, tokens: Row) -> int:
    """Tokens that no agent does."""
    speed = np.hypot(agents["vx_mps"], agents["vy_mps"])
    missing = 0
    for k in range(len(tokens["x_m"])):
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
        if tokens["kind"][k] is not None:
            done &= np.array([kind == tokens["kind"][k] for kind in agents["kind"]])
        missing += not done.any()
    return missing


def ttc_s(agents: Row) -> float:
    """Smallest time until the AV's box and that of an agent that was asked for touch, both going on as they are [s]."""
    least = np.inf
    ahead = np.arange(0.0, LOOK_S, TICK_S)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", required=True)
    parser.add_argument("--directive", action="append", help="all unless named")
    parser.add_argument("--ttc-s", type=float, nargs=2)
    options = parser.parse_args()
    columns = ["directive", "agents", "tokens", "target_min_ttc_s", "offroad_fraction"]
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in tables.read(options.scenarios, "scenarios", columns).to_pylist():
        if options.directive and row["directive"] not in options.directive:
            continue
        count, agents = found[row["directive"]], row["agents"]
        again, written = ttc_s(agents), row["target_min_ttc_s"]
        written = np.inf if written is None else written
        count["rows"] += 1
        count["overlap"] += overlaps(agents)
        count["unfulfilled"] += unfulfilled(agents, row["tokens"]) > 0
        count["off_road"] += bool(row["offroad_fraction"])
        count["other_ttc"] += bool(min(again, written) < LOOK_S - 1 and abs(again - written) > 0.05)
        if options.ttc_s:
            low, high = options.ttc_s
            count["ttc_outside"] += not low - TICK_S <= again <= high + TICK_S
    print(json.dumps(found))


if __name__ == "__main__":
    main()
