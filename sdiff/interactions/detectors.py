"""What the AV and another agent do to each other in a window: one pure function per kind of interaction.

The critical moment of an interaction is at t0 or later: what led to it is seen, and what a directive asks for follows.
Definitions and their sources: docs/mining.md.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from sdiff import STEP_S, WINDOW_M
from sdiff.geometry import wrap_angle
from sdiff.interactions.along_way import AlongWay, Mask, entries
from sdiff.logs.driving_log import LIGHT_STATES
from sdiff.scene import STEPS_PAST

FOLLOWS_S = 3.0
"""Up to this time gap a vehicle follows the one ahead of it (Highway Capacity Manual 2010: 3 s) [s]."""
MAX_PET_S = 3.0
"""Crossings with more time between them are no conflict; SSAM (FHWA-HRT-08-051) keeps up to 5 s, a window has 4 [s]."""
TAILGATES_S = 1.0
"""Time gap of a tailgater, half the two-second rule: under it most cannot react (Vogel 2003) [s]."""
TAILGATES_STEPS = 10
"""For how long: a vehicle that has just cut in is no tailgater's fault."""
HARD_BRAKING_MPS2 = 3.4
"""What most drivers stay below (AASHTO Green Book, stopping sight distance: 3.4 m/s2)."""
BRAKING_STEPS = 5
"""Braking is the loss of speed over half a second: single differences of tracked speeds are noise."""
MOVES_MPS, STANDS_MPS = 1.0, 0.3
PARKS_MPS = 7.0
"""Nobody drives so fast in a car park, where lanes bind little [m/s]."""
SHIFT_M = 1.0
"""Who comes into a lane moves sideways by at least this much [m]."""
SHIFT_STEPS = 15
TURN_RAD = np.radians(25)
"""Change of heading within the window of an agent that turns; a lane change stays well below [rad]."""
PARALLEL_RAD = np.radians(20)
CROSSING_RAD = np.radians(45)
"""Ways cross where their directions differ by more, and by less than the rest to a half turn [rad]."""
SAME_PLACE_M, SAME_WAY_RAD = 2.5, np.radians(30)
"""Two that drive over one place in one direction are less than a lane's width apart, and this parallel [m, rad]."""
AROUND_M = 25.0
"""How far the lanes before and after a junction reach at least, from anywhere in it [m]."""
NEAR_M = 20.0
"""A slow AV too comes near to what stands this far ahead of it [m]."""
ARRIVES_S, WAITS_M = 4.0, 10.0
"""Who steps into the AV's way matters where the AV would be there within 4 s, or stands within 10 m of it."""
QUEUE_M, JUNCTION_M = 12.0, 25.0
"""A vehicle that stands this close behind another, or before a junction, waits [m]."""
JOINS_M = 40.0
"""Lanes that become one within this distance merge [m]."""
INTO_M = 6.0
"""How far past a stop line it shows which way a vehicle takes [m]."""


class Moment(NamedTuple):
    """An interaction: its kind, indices of who does it and to whom, and the step of its critical moment."""

    kind: str
    actor: int
    other: int
    step: int


Detector = Callable[[AlongWay], Iterator[Moment]]


def find(window: AlongWay) -> list[Moment]:
    """All interactions of a window's AV, in the order of the kinds. A general kind gives way to a particular one."""
    if window.ego < 0 or len(window.agents) < 2:
        return []
    found = [m for detector in ANYWHERE for m in detector(window)]
    if window.way is not None:
        found += [m for detector in ON_A_WAY for m in detector(window)]
    named = {frozenset((m.actor, m.other)) for m in found if m.kind in PARTICULAR}
    found = [m for m in found if m.kind not in GENERAL or frozenset((m.actor, m.other)) not in named]
    return sorted(found, key=lambda m: (KIND_ORDER[m.kind], m.actor, m.other))


def cut_in(w: AlongWay) -> Iterator[Moment]:
    """A vehicle comes from a lane beside the AV's into it, ahead of the AV and close enough to be followed."""
    for j, step in _comes_in(w):
        if _from_beside(w, j, step):
            yield Moment("cut_in", j, w.ego, step)


def merging(w: AlongWay) -> Iterator[Moment]:
    """A vehicle comes into the AV's lane, as `cut_in`, from another direction or a lane that ends in the AV's."""
    for j, step in _comes_in(w):
        if not _from_beside(w, j, step):
            yield Moment("merging", j, w.ego, step)


def hard_braking_leader(w: AlongWay) -> Iterator[Moment]:
    """The vehicle that the AV follows brakes harder than most drivers do."""
    leader = _next_in_lane(w, ahead=True)
    braking = np.zeros_like(w.speed_mps)
    k = BRAKING_STEPS
    seen = w.agents.valid[:, k:] & w.agents.valid[:, :-k]
    braking[:, k:] = np.where(seen, w.speed_mps[:, :-k] - w.speed_mps[:, k:], 0.0) / (k * STEP_S)
    follows = leader & (w.gap_m <= FOLLOWS_S * w.speed_mps[w.ego]) & (w.speed_mps[w.ego] > MOVES_MPS)
    hard = follows & (braking >= HARD_BRAKING_MPS2) & w.vehicle[:, None]
    hard[:, :STEPS_PAST] = False
    for j in np.flatnonzero(hard.any(1)).tolist():
        yield Moment("hard_braking_leader", j, w.ego, int(np.argmax(np.where(hard[j], braking[j], 0.0))))


def tailgating(w: AlongWay) -> Iterator[Moment]:
    """One follows the other, for a second or longer, with less than a second between them."""
    for ahead in (True, False):
        near = _next_in_lane(w, ahead)
        speed = np.broadcast_to(w.speed_mps[w.ego], near.shape) if ahead else w.speed_mps
        close = near & w.vehicle[:, None] & (speed > 5.0) & (w.gap_m < TAILGATES_S * speed)
        close[:, :STEPS_PAST] = False
        # closing in is no tailgating: the two drive at about one speed
        close &= np.abs(w.speed_mps - w.speed_mps[w.ego]) < 0.25 * np.maximum(speed, 1.0)
        for j in np.flatnonzero(close.sum(1) >= TAILGATES_STEPS).tolist():
            gap_s = np.where(close[j], w.gap_m[j] / np.maximum(speed[j], 1.0), np.inf)
            pair = (w.ego, j) if ahead else (j, w.ego)
            yield Moment("tailgating", *pair, int(np.argmin(gap_s)))


def stopped_in_lane(w: AlongWay) -> Iterator[Moment]:
    """A vehicle stands on the middle of the AV's lane, ahead of the moving AV, neither in a queue nor at a junction.

    It is headed along the lane: what stands across it is on a bridge, more often than not.
    """
    seen = w.agents.valid
    stands = (np.where(seen, w.speed_mps, 0.0).max(1) < STANDS_MPS) & (seen.sum(1) > STEPS_PAST) & w.vehicle
    t0 = STEPS_PAST
    moving = w.speed_mps[w.ego]
    there = seen[:, t0] & (w.beside_m[:, t0] < 0) & (np.abs(w.angle_rad[:, t0]) < SAME_WAY_RAD)
    for j in np.flatnonzero(stands & there).tolist():
        coming = (
            (moving > 2.0)
            & (w.ahead_m[j] > 0)
            & (w.gap_m[j] > 0)
            & (w.gap_m[j] < np.maximum(2 * FOLLOWS_S * moving, NEAR_M))
        )
        coming[:t0] = False
        if not coming.any() or _waits(w, j):
            continue
        yield Moment("stopped_in_lane", j, w.ego, int(np.argmin(np.where(coming, w.gap_m[j], np.inf))))


def pedestrian_or_cyclist_crossing(w: AlongWay) -> Iterator[Moment]:
    """A pedestrian or cyclist steps across the AV's way, where the AV soon is or waits for it."""
    walks = w.of_kind("pedestrian", "cyclist")
    step = entries(w.in_strip, w.agents.valid)
    for j in np.flatnonzero(walks & (step >= 0)).tolist():
        t = int(step[j])
        until = np.flatnonzero(w.agents.valid[j])[-1]
        crosses = _is_across(w.angle_rad[j, t]) and w.speed_mps[j, t] > STANDS_MPS
        across_m = abs(w.lateral_m[j, until] - w.lateral_m[j, max(t - 5, 0)])
        if crosses and across_m > 0.5 and _soon_there(w, j, t):
            yield Moment("pedestrian_or_cyclist_crossing", j, w.ego, t)


def bus_or_truck_turning_across(w: AlongWay) -> Iterator[Moment]:
    """A bus or truck that turns comes into the AV's way ahead of it, from elsewhere than the AV's lane."""
    step = entries(w.in_strip, w.agents.valid)
    heavy = w.of_kind("bus", "truck") & (np.abs(w.yaw_rad) >= TURN_RAD)
    for j in np.flatnonzero(heavy & (step >= 0)).tolist():
        t = int(step[j])
        if not w.in_lane[j, :t].any() and w.speed_mps[j, t] > MOVES_MPS / 2 and _soon_there(w, j, t):
            yield Moment("bus_or_truck_turning_across", j, w.ego, t)


def unprotected_left(w: AlongWay) -> Iterator[Moment]:
    """One turns left across the way of the other, who comes towards it and goes straight on."""
    for j, _, _, step in _conflicts(w):
        for turns, straight in ((j, w.ego), (w.ego, j)):
            start = int(np.flatnonzero(w.agents.valid[turns] & w.agents.valid[straight])[0])
            facing = wrap_angle(w.agents.heading_rad[turns, start] - w.agents.heading_rad[straight, start] - np.pi)
            if w.yaw_rad[turns] >= TURN_RAD and abs(w.yaw_rad[straight]) < TURN_RAD and abs(float(facing)) < np.pi / 4:
                yield Moment("unprotected_left", turns, straight, step)


def crossing_paths(w: AlongWay) -> Iterator[Moment]:
    """The ways of the AV and of a vehicle cross, and one is there soon after the other."""
    for j, first, second, step in _conflicts(w):
        if _is_across(_angle(w, first, second)) and not _share_a_lane(w, j) and _on_one_level(w, first, second):
            yield Moment("crossing_paths", j, w.ego, step)


def red_light_running(w: AlongWay) -> Iterator[Moment]:
    """A vehicle passes a stop line whose signal has shown stop for half a second, and goes on where that one rules."""
    red, k = LIGHT_STATES.index("stop"), BRAKING_STEPS
    a, features = w.agents, w.place.graph.map.feature_id
    for lane, x, y, state in zip(w.signals.lane, w.signals.x_m, w.signals.y_m, w.signals.state, strict=True):
        at = np.hypot(a.x_m - x, a.y_m - y)
        for j in np.flatnonzero(w.vehicle & ~a.is_ego & ((at < 6.0) & a.valid).any(1)).tolist():
            c, s = np.cos(a.heading_rad[j]), np.sin(a.heading_rad[j])
            past = (a.x_m[j] - x) * c + (a.y_m[j] - y) * s + a.length_m[j] / 2
            aside = np.abs((a.y_m[j] - y) * c - (a.x_m[j] - x) * s)
            for t in range(STEPS_PAST, len(state)):
                if not (past[t - 1] < 0 <= past[t] and aside[t] < 1.5 and a.valid[j, t - 1 : t + 1].all()):
                    continue
                into = np.flatnonzero((np.arange(len(state)) > t) & a.valid[j] & (past > INTO_M + a.length_m[j] / 2))
                if (state[t - k : t + 1] != red).any() or w.speed_mps[j, t] < MOVES_MPS or not len(into):
                    continue
                under = w.lane_at(j, int(into[0]))
                if under is not None and features[under.lane] == lane:
                    yield Moment("red_light_running", j, w.ego, t)


def wrong_way(w: AlongWay) -> Iterator[Moment]:
    """A vehicle drives in a lane against its direction, outside junctions, for a second or longer."""
    steps = range(STEPS_PAST, w.agents.valid.shape[1], 5)
    graph = w.place.graph
    for j in np.flatnonzero(w.vehicle & ~w.agents.is_ego).tolist():
        against = []
        for t in steps:
            found = None
            if w.agents.valid[j, t] and w.speed_mps[j, t] > PARKS_MPS:
                found = w.lane_at(j, t, 1.0, opposite=True)
            if found is None or graph.map.in_junction[found.lane] or w.lane_at(j, t, 2.5) is not None:
                against.append(False)
                if len(against) >= 3 and not any(against):
                    break
                continue
            against.append(True)
        run = next((i for i in range(len(against) - 2) if all(against[i : i + 3])), None)
        if run is not None:
            yield Moment("wrong_way", j, w.ego, STEPS_PAST + 5 * run)


ANYWHERE: tuple[Detector, ...] = (unprotected_left, crossing_paths, red_light_running, wrong_way)
ON_A_WAY: tuple[Detector, ...] = (
    cut_in,
    merging,
    hard_braking_leader,
    tailgating,
    stopped_in_lane,
    pedestrian_or_cyclist_crossing,
    bus_or_truck_turning_across,
)
"""Detectors that need nothing but tracks, and those that measure along the AV's way."""

KINDS_FOUND = (
    *("cut_in", "hard_braking_leader", "bus_or_truck_turning_across", "unprotected_left", "merging", "crossing_paths"),
    *("pedestrian_or_cyclist_crossing", "tailgating", "stopped_in_lane", "red_light_running", "wrong_way"),
)
KIND_ORDER = {kind: i for i, kind in enumerate(KINDS_FOUND)}
PARTICULAR, GENERAL = ("unprotected_left", "bus_or_truck_turning_across"), ("crossing_paths", "merging")


def _comes_in(w: AlongWay) -> Iterator[tuple[int, int]]:
    """Vehicles that come into the AV's lane ahead of it and stay, and the step at which their centre does."""
    step = entries(w.in_lane, w.agents.valid)
    for j in np.flatnonzero(w.vehicle & (step >= 0)).tolist():
        t = int(step[j])
        after = w.agents.valid[j, t:]
        before = max(t - SHIFT_STEPS, int(np.argmax(w.agents.valid[j])))
        stays = (w.in_lane[j, t:] | ~after).all() and not w.in_lane[j, :t].any()
        if not stays or w.speed_mps[w.ego, t] < MOVES_MPS:
            continue
        later = min(t + SHIFT_STEPS, int(np.flatnonzero(w.agents.valid[j])[-1]))
        shift = abs(w.lateral_m[j, before]) - abs(w.lateral_m[j, later])
        follows = w.ahead_m[j, t] > 0 and w.gap_m[j, t] <= FOLLOWS_S * w.speed_mps[w.ego, t]
        if shift >= SHIFT_M and follows and w.speed_mps[j, t] > MOVES_MPS:
            yield j, t


def _from_beside(w: AlongWay, j: int, step: int) -> bool:
    """Whether an agent that comes into the AV's lane was in a lane beside it, which does not end in the AV's way."""
    assert w.way is not None
    seen = np.flatnonzero(w.agents.valid[j, :step])
    before = int(max(seen[0], step - SHIFT_STEPS))
    if abs(float(w.angle_rad[j, before])) > PARALLEL_RAD:
        return False
    lane = w.lane_at(j, before)
    if lane is None:
        return True
    return not any(set(p.lanes) & set(w.way.lanes) for p in w.place.graph.paths(lane, JOINS_M))


def _next_in_lane(w: AlongWay, ahead: bool) -> Mask:
    """(N, T) whether the agent is the next in the AV's lane, ahead of or behind it."""
    side = w.in_lane & ((w.ahead_m > 0) if ahead else (w.ahead_m < 0)) & (w.gap_m > 0)
    distance = np.where(side, np.abs(w.ahead_m), np.inf)
    return side & (distance == distance.min(0, keepdims=True))


def _waits(w: AlongWay, j: int) -> bool:
    """Whether an agent that stands in the AV's lane has a reason to: another ahead of it, or a junction."""
    assert w.way is not None
    t = STEPS_PAST
    front = w.s_m[j, t] + w.agents.length_m[j] / 2
    beyond = w.agents.length_m[j] / 2 + QUEUE_M
    c, s = np.cos(w.agents.heading_rad[j, t]), np.sin(w.agents.heading_rad[j, t])
    if max(abs(w.agents.x_m[j, t] + c * beyond), abs(w.agents.y_m[j, t] + s * beyond)) > WINDOW_M / 2:
        return True  # who stands ahead of it would not be seen
    ahead = w.in_strip[:, t] & (w.s_m[:, t] > w.s_m[j, t]) & (w.s_m[:, t] - w.agents.length_m / 2 < front + QUEUE_M)
    if ahead.any():
        return True
    lane = w.lane_at(j, t)
    inside = w.place.graph.map.in_junction
    if lane is None:
        return False
    return any(bool(inside[n]) for p in w.place.graph.paths(lane, JUNCTION_M) for n in p.lanes)


def _soon_there(w: AlongWay, j: int, step: int) -> bool:
    """Whether the AV is close, in time or place, behind where an agent comes into its way."""
    gap = w.gap_m[j, step]
    return bool(w.ahead_m[j, step] > 0 and gap > 0 and gap <= max(ARRIVES_S * w.speed_mps[w.ego, step], WAITS_M))


def _conflicts(w: AlongWay) -> Iterator[tuple[int, tuple[int, int], tuple[int, int], int]]:
    """Vehicles that the AV passes soon after or before: index, (who leaves, when), (who enters, when), that step."""
    found, i = w.encroachment, w.ego
    if not w.vehicle[i]:
        return
    for j in np.flatnonzero(w.vehicle & ~w.agents.is_ego).tolist():
        a, b = (i, j) if found.pet_s[i, j] <= found.pet_s[j, i] else (j, i)
        t, u = int(found.leave_step[a, b]), int(found.enter_step[a, b])
        if found.pet_s[a, b] > MAX_PET_S or u < STEPS_PAST or min(w.speed_mps[a, t], w.speed_mps[b, u]) < MOVES_MPS:
            continue
        yield j, (a, t), (b, u), u


def _angle(w: AlongWay, first: tuple[int, int], second: tuple[int, int]) -> float:
    heading = w.agents.heading_rad
    return float(wrap_angle(heading[first] - heading[second]))


def _share_a_lane(w: AlongWay, j: int) -> bool:
    """Whether the AV and an agent come from one lane, or go into one: then they part or merge, and do not cross."""
    a, i = w.agents, w.ego
    close = np.hypot(np.subtract.outer(a.x_m[i], a.x_m[j]), np.subtract.outer(a.y_m[i], a.y_m[j])) < SAME_PLACE_M
    along = np.abs(wrap_angle(np.subtract.outer(a.heading_rad[i], a.heading_rad[j]))) < SAME_WAY_RAD
    behind_each_other = close & along & np.logical_and.outer(a.valid[i], a.valid[j])
    return bool(behind_each_other.any()) or bool(_lanes_around(w, i) & _lanes_around(w, j))


def _lanes_around(w: AlongWay, j: int) -> set[int]:
    """The lane in the junction that an agent takes, with those before and after it; empty where it takes none."""
    for t in np.flatnonzero(w.agents.valid[j])[::3].tolist():
        lane = w.lane_at(j, t)
        if lane is not None and w.place.graph.map.in_junction[lane.lane]:
            return set(w.place.graph.paths(lane, AROUND_M, AROUND_M)[0].lanes)
    return set()


def _on_one_level(w: AlongWay, first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two agents that cross do so in a junction or off the lanes; elsewhere one lane leads over the other."""
    lanes = [w.lane_at(*pose) for pose in (first, second)]
    return any(lane is None or bool(w.place.graph.map.in_junction[lane.lane]) for lane in lanes)


def _is_across(angle_rad: float) -> bool:
    return bool(CROSSING_RAD <= abs(angle_rad) <= np.pi - CROSSING_RAD)
