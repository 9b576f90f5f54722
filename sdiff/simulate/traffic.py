"""Who drives, rides and walks: vehicle types of many sizes and tempers, and random routes through a network."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sdiff.logs.sumo_net import Net


class Population(NamedTuple):
    """One kind of road user: its share of the vehicles, how many types, sizes, speeds from uniform ranges."""

    name: str
    vehicle_class: str
    share: float
    types: int
    length_m: tuple[float, float]
    width_m: tuple[float, float]
    max_speed_mps: tuple[float, float]
    accel_mps2: float = 0.0


MOTOR = (
    Population("car", "passenger", 0.68, 24, (3.7, 5.1), (1.65, 1.95), (45, 55), 2.6),
    Population("van", "passenger", 0.11, 6, (5.0, 6.4), (1.95, 2.1), (40, 45), 2.2),
    Population("truck", "truck", 0.08, 8, (6.8, 12.0), (2.35, 2.55), (25, 28), 1.3),
    Population("bus", "coach", 0.05, 4, (10.5, 13.2), (2.5, 2.55), (23, 28), 1.2),
    Population("motorcycle", "motorcycle", 0.08, 4, (2.0, 2.4), (0.75, 0.95), (45, 55), 3.5),
)
BICYCLE = Population("bicycle", "bicycle", 1.0, 6, (1.65, 1.95), (0.6, 0.7), (4.5, 7.5), 1.2)
PEDESTRIAN = Population("pedestrian", "pedestrian", 1.0, 8, (0.4, 0.55), (0.45, 0.6), (1.0, 1.9))


def vehicle_types(seed: int) -> str:
    """Vehicle types as a SUMO additional file. Their ids are `<population>_<number>`."""
    rng = np.random.default_rng(seed)
    lines = []
    for p in (*MOTOR, BICYCLE, PEDESTRIAN):
        for i in range(p.types):
            length, width, speed = (rng.uniform(*span) for span in (p.length_m, p.width_m, p.max_speed_mps))
            gap, tau, sigma, pace = rng.uniform([1.2, 1.0, 0.1, 0.85], [2.8, 1.7, 0.5, 1.1])
            line = f'  <vType id="{p.name}_{i}" vClass="{p.vehicle_class}" length="{length:.2f}" width="{width:.2f}"'
            line += f' maxSpeed="{speed:.2f}"'
            if p.accel_mps2:  # lateral speed grows with speed, so that nothing slides sideways
                line += f' accel="{p.accel_mps2 * pace:.2f}" minGap="{gap:.2f}" tau="{tau:.2f}" sigma="{sigma:.2f}"'
                line += f' speedFactor="normc({pace:.2f},0.10,0.60,1.35)"'
                line += ' lcMaxSpeedLatStanding="0" lcMaxSpeedLatFactor="0.25"'
            lines.append(line + "/>\n")
    return f"<additional>\n{''.join(lines)}</additional>\n"


@dataclass(frozen=True)
class Demand:
    """How busy a network is. vehicles: at once. bikes: share of them. walkers: who set out every TURNOVER_S."""

    vehicles: int
    bikes: float
    walkers: int


FILL_S = 8.0
TURNOVER_S = 90.0
"""All that fits sets out within FILL_S, anywhere; then as many again within each TURNOVER_S."""
ENTER_SHARE = 0.6
"""Share of the later vehicles that enter at the network's fringe, where there is one."""
ROUTE_M = (400.0, 1800.0)
WALK_M = (60.0, 260.0)
TURN_WEIGHT = {"s": 1.0, "l": 0.6, "r": 0.6, "L": 0.6, "R": 0.6, "t": 0.0}
STOP_SHARE = {"bus": 0.5, "truck": 0.15, "van": 0.15, "car": 0.05}
"""Share that stops at the kerb on the way, where a second lane lets the others pass; a bus stops everywhere."""


def routes(net: Net, demand: Demand, seed: int, end_s: float) -> str:
    """Random routes for vehicles, bicycles and walkers as a SUMO route file, in order of departure."""
    rng = np.random.default_rng(seed)
    parts = [_walks(net, demand, rng, end_s)]
    motor = demand.vehicles * (1 - demand.bikes)
    parts += [_drives(net, p, motor * p.share, rng, end_s) for p in MOTOR]
    parts.append(_drives(net, BICYCLE, demand.vehicles * demand.bikes, rng, end_s))
    body = "".join(text for _, text in heapq.merge(*parts))
    return f"<routes>\n{body}</routes>\n"


def _departures(at_once: float, rng: np.random.Generator, end_s: float) -> Iterator[float]:
    """Times at which one sets out: a fill at the start, then a steady stream."""
    fill = int(rng.poisson(at_once))
    later = int(rng.poisson(at_once * max(end_s - FILL_S, 0) / TURNOVER_S))
    yield from np.sort(rng.uniform(0, FILL_S, fill)).tolist()
    yield from np.sort(rng.uniform(FILL_S, max(end_s, FILL_S), later)).tolist()


@dataclass(frozen=True)
class _Roads:
    """Edges that one class of vehicles may use, and the ways on from each, with weights."""

    names: list[str]
    length_m: list[float]
    onward: list[list[int]]
    weight: list[list[float]]
    lanes: list[int]
    kerb: list[int]

    def walk(self, start: int, metres: float, rng: np.random.Generator) -> list[int]:
        """A random way of about `metres` that takes no edge twice."""
        way, seen = [start], {start}
        while metres > 0:
            weights = [w * (b not in seen) for b, w in zip(self.onward[way[-1]], self.weight[way[-1]], strict=True)]
            if sum(weights) == 0:
                break
            pick = rng.uniform(0, sum(weights))
            at = int(np.searchsorted(np.cumsum(weights), pick, side="right"))
            way.append(self.onward[way[-1]][min(at, len(weights) - 1)])
            seen.add(way[-1])
            metres -= self.length_m[way[-1]]
        return way


def _roads(net: Net, vehicle_class: str) -> _Roads:
    lanes = {e: [x for x in group if x.permits(vehicle_class)] for e, group in net.of_edge().items() if e in net.edges}
    names = [e for e, group in lanes.items() if group and group[0].lane_type != "pedestrian"]
    number = {e: i for i, e in enumerate(names)}
    ways: list[dict[int, float]] = [{} for _ in names]
    for c in net.connections:
        source, target = net.lanes[c.source], net.lanes[c.target]
        a, b = number.get(source.edge_id), number.get(target.edge_id)
        if a is None or b is None or not (source.permits(vehicle_class) and target.permits(vehicle_class)):
            continue
        ways[a][b] = max(ways[a].get(b, 0.0), TURN_WEIGHT.get(c.turn, 0.6))
    return _Roads(
        names,
        [lanes[e][0].length_m for e in names],
        [list(w) for w in ways],
        [list(w.values()) for w in ways],
        [len(lanes[e]) for e in names],
        [lanes[e][0].index for e in names],
    )


def _drives(
    net: Net, who: Population, at_once: float, rng: np.random.Generator, end_s: float
) -> list[tuple[float, str]]:
    roads = _roads(net, who.vehicle_class)
    if not roads.names:
        return []
    weight = np.array(roads.length_m) * np.array(roads.lanes)
    inside = np.cumsum(weight / weight.sum())
    entered = {b for ways in roads.onward for b in ways}
    fringe = [i for i in range(len(roads.names)) if i not in entered and roads.onward[i]]
    drives = []
    for n, depart in enumerate(_departures(at_once, rng, end_s)):
        enter = bool(fringe) and depart > FILL_S and rng.uniform() < ENTER_SHARE
        start = fringe[rng.integers(len(fringe))] if enter else int(np.searchsorted(inside, rng.uniform()))
        way = roads.walk(start, rng.uniform(*ROUTE_M), rng)
        where = 'departPos="base" departSpeed="max"' if enter else 'departPos="random_free" departSpeed="avg"'
        head = f'id="{who.name}{n}" type="{who.name}_{rng.integers(who.types)}" depart="{depart:.2f}"'
        route = f'<route edges="{" ".join(roads.names[i] for i in way)}"/>{_stop(roads, who, way, rng)}'
        drives.append((depart, f'  <vehicle {head} departLane="best" {where}>{route}</vehicle>\n'))
    return drives


def _stop(roads: _Roads, who: Population, way: list[int], rng: np.random.Generator) -> str:
    """Perhaps a stop at the kerb, away from the junctions."""
    if rng.uniform() >= STOP_SHARE.get(who.name, 0.0):
        return ""
    fit = [e for e in way[1:-1] if roads.length_m[e] > 60 and (roads.lanes[e] > 1 or who.name == "bus")]
    if not fit:
        return ""
    edge = fit[rng.integers(len(fit))]
    position = rng.uniform(30, roads.length_m[edge] - 20)
    duration = rng.uniform(8, 20) if roads.lanes[edge] == 1 or who.name == "bus" else rng.uniform(10, 120)
    return f'<stop lane="{roads.names[edge]}_{roads.kerb[edge]}" endPos="{position:.1f}" duration="{duration:.0f}"/>'


def _walks(net: Net, demand: Demand, rng: np.random.Generator, end_s: float) -> list[tuple[float, str]]:
    """Walks to somewhere near, along edges that touch; SUMO finds the way over crossings."""
    length = {
        x.edge_id: x.length_m for x in net.lanes.values() if x.edge_id in net.edges and x.lane_type == "pedestrian"
    }
    if not length or not demand.walkers:
        return []
    names = list(length)
    at: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        for junction in net.edges[name]:
            at.setdefault(junction, []).append(i)
    onward = [[j for junction in net.edges[name] for j in at[junction]] for name in names]
    roads = _Roads(names, [length[e] for e in names], onward, [[1.0] * len(o) for o in onward], [], [])
    inside = np.cumsum(np.array(roads.length_m) / sum(roads.length_m))
    walks = []
    for n, depart in enumerate(_departures(demand.walkers, rng, end_s)):
        way = roads.walk(int(np.searchsorted(inside, rng.uniform())), rng.uniform(*WALK_M), rng)
        start = f'id="pedestrian{n}" type="pedestrian_{rng.integers(PEDESTRIAN.types)}" depart="{depart:.2f}"'
        walk = f'<walk from="{names[way[0]]}" to="{names[way[-1]]}" arrivalPos="random"/>'
        walks.append((depart, f'  <person {start} departPos="random">{walk}</person>\n'))
    return walks
