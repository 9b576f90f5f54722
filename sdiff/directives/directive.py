"""What a person asks of a scene: its AV, agents, how busy it is; and the tokens that say so to the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from math import hypot
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, WINDOW_M
from sdiff.geometry import SE2, box_corners, boxes_overlap, wrap_angle
from sdiff.maps.lanes import Path
from sdiff.maps.places import ANYWHERE, REACH_M, Place, Wanted
from sdiff.scene import SCENE_NUMBERS, Agents, AgentTokens, SceneToken
from sdiff.span import Span
from sdiff.tokens import END_S, agent_tokens

Draw = Callable[[Span], float]

ZERO, ALL = Span(0.0, 0.0), Span(1.0, 1.0)

FROM_AV = ("ego", "left", "right", "straight", "left_turn", "right_turn", "oncoming")
FROM_CROSSING = ("crossing_from_left", "crossing_from_right", "crosswalk_from_left", "crosswalk_from_right")
LANES = FROM_AV + FROM_CROSSING
"""Lines that an agent can be placed on; docs/directives.md draws them."""

REFERENCES = {
    "ahead_m": FROM_AV,
    "junction_m": ("ego", "left", "right", "straight", "left_turn", "right_turn"),
    "crossing_m": FROM_CROSSING,
}
"""What a distance along a line counts from, and the lines that have it: the AV; where the line enters the junction
ahead; where it crosses the AV's way."""

SIDE_BY_SIDE = ("ego", "left", "right")
"""Lines between which an agent changes lanes."""

FACING = {"along": 0.0, "left": np.pi / 2, "right": -np.pi / 2, "against": np.pi}

TYPICAL_SIZE_M = {
    "car": (4.6, 1.9),
    "truck": (9.0, 2.5),
    "bus": (12.0, 2.6),
    "motorcyclist": (2.2, 0.9),
    "cyclist": (1.8, 0.7),
    "pedestrian": (0.6, 0.6),
    "vehicle": (4.6, 1.9),
    "other": (1.0, 1.0),
}
"""Length and width by which it is judged whether two agents of unspecified size would overlap [m]."""
_TYPICAL = np.array([TYPICAL_SIZE_M[kind] for kind in KINDS])

P_MASK_DIRECTED = 0.9
"""Default share of agents that no token describes, where some agent is asked for; 1 where none is."""


class DoesNotFit(ValueError):
    """A directive cannot be placed here; `reason` is a word to count by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class InWindow:
    """A pose given in the window frame; what is None is not specified."""

    x_m: Span | None = None
    y_m: Span | None = None
    heading_rad: Span | None = None


@dataclass(frozen=True)
class OnLane:
    """A pose given along a line. distance None (ends only): as far as the speed goes, from the start.

    facing None: along the line; an end on a lane beside the start's then says no heading, as who changes lanes is not
    yet aligned.
    """

    lanes: tuple[str, ...]
    reference: str = "ahead_m"
    distance_m: Span | None = None
    lateral_m: Span = ZERO
    facing: str | None = None


@dataclass(frozen=True)
class End:
    """Where and how fast an agent is 2 s later."""

    pose: InWindow | OnLane | None = None
    speed_mps: Span | None = None


@dataclass(frozen=True)
class Agent:
    """One agent that is asked for. end "free": nothing is said of +2 s; None: it follows its line at its speed."""

    kinds: tuple[str, ...] = ()
    pose: InWindow | OnLane | None = None
    speed_mps: Span | None = None
    length_m: Span | None = None
    width_m: Span | None = None
    end: End | Literal["free"] | None = None


@dataclass(frozen=True)
class LoggedAgents:
    """Agents taken from a log as tokens. window_id None: the place's own; agent_ids, kinds (): any."""

    window_id: str | None = None
    agent_ids: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    share: Span = ALL


@dataclass(frozen=True)
class Scene:
    """How busy the scene is; None = not specified, but p_mask, which then follows from the agents."""

    n_agents: Span | None = None
    moving_share: Span | None = None
    mean_speed_mps: Span | None = None
    vru_share: Span | None = None
    p_mask: Span | None = None


@dataclass(frozen=True)
class Severity:
    """How dangerous. ttc_s: smallest time to collision of the AV with an agent that is asked for [s]; None: any."""

    ttc_s: Span | None = None


AT_ORIGIN = InWindow(ZERO, ZERO, ZERO)
AV = Agent(("car",), AT_ORIGIN, end="free")
"""The AV where nothing is said of it."""


@dataclass(frozen=True)
class Directive:
    """A name, the AV (at the origin; "from_log": as the log has it; None: not asked for), agents, scene, severity.

    places: what a place must be like, beside having the lanes that agents are on.
    """

    name: str = "free"
    ego: Agent | Literal["from_log"] | None = AV
    agents: tuple[Agent | LoggedAgents, ...] = ()
    scene: Scene = Scene()
    severity: Severity = Severity()
    places: Wanted = ANYWHERE

    def windows_needed(self) -> tuple[str, ...]:
        """Windows named by `from_log`, apart from the place's own."""
        return tuple(a.window_id for a in self.agents if isinstance(a, LoggedAgents) and a.window_id)


Logs = Callable[[str | None], Agents]
"""Gives the agents of a window by id; None: of the place's own window."""


def fits(directive: Directive, place: Place) -> list[AgentTokens]:
    """What a directive writes out here, at the low ends of all ranges and at the high ones; [] where it cannot."""
    written = replace(directive, agents=tuple(a for a in directive.agents if isinstance(a, Agent)))
    written = replace(written, ego=None if directive.ego == "from_log" else directive.ego)
    ends: tuple[Draw, Draw] = (lambda span: span.low, lambda span: span.high)
    try:
        return [written_tokens(written, place, np.random.default_rng(0), end) for end in ends]
    except DoesNotFit:
        return []


def resolve(
    directive: Directive, place: Place, logs: Logs, rng: np.random.Generator, written: AgentTokens | None = None
) -> tuple[AgentTokens, SceneToken]:
    """The tokens of a directive at a place, every range drawn by `rng`. The ego's token comes first.

    written: a draw of `written_tokens` to go by. Agents of a log that would overlap a written one are left out. Raises
    DoesNotFit where a lane that it needs is not there, or what it asks for would overlap.
    """
    if written is None:
        written = written_tokens(directive, place, rng)
    parts = [written]
    shares = []
    if directive.ego == "from_log":
        own = logs(None)
        parts.insert(0, agent_tokens(own.take(own.is_ego)))
    for asked in directive.agents:
        if isinstance(asked, LoggedAgents):
            share = asked.share.draw(rng)
            shares.append(share)
            taken = _logged_tokens(asked, logs(asked.window_id), share, rng)
            parts.append(taken.take(~_overlap(taken, written)))
    scene = directive.scene
    p_mask = 1.0 - max(shares) if shares else P_MASK_DIRECTED if directive.agents else 1.0

    def drawn(span: Span | None, otherwise: float = np.nan) -> float:
        return otherwise if span is None else span.draw(rng)

    return joined(parts), SceneToken(
        p_mask=drawn(scene.p_mask, p_mask), **{name: drawn(getattr(scene, name)) for name in SCENE_NUMBERS}
    )


def _logged_tokens(asked: LoggedAgents, agents: Agents, share: float, rng: np.random.Generator) -> AgentTokens:
    chosen = ~agents.is_ego if asked.window_id is None else np.ones(len(agents), bool)
    if asked.kinds:
        chosen &= np.isin(agents.kind, [KINDS.index(k) for k in asked.kinds])
    if asked.agent_ids:
        missing = sorted(set(asked.agent_ids) - set(agents.agent_id.tolist()))
        if missing:
            raise ValueError(f"window {asked.window_id} has no agent {missing[0]}; it has {list(agents.agent_id[:20])}")
        chosen &= np.isin(agents.agent_id, asked.agent_ids)
    candidates = np.flatnonzero(chosen)
    kept = rng.permutation(candidates)[: round(share * len(candidates))]
    return agent_tokens(agents.take(np.sort(kept)))


def joined(parts: Sequence[AgentTokens]) -> AgentTokens:
    """The tokens of all parts, in order."""
    return AgentTokens(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(AgentTokens)})


def written_tokens(
    directive: Directive, place: Place, rng: np.random.Generator, draw: Draw | None = None
) -> AgentTokens:
    """The tokens of the agents that a directive writes out, the ego first where it does that.

    draw: gives a value of a range, default by `rng`. Raises DoesNotFit as `resolve` does.
    """
    draw = draw or (lambda span: span.draw(rng))
    ego = [directive.ego] if isinstance(directive.ego, Agent) else []
    asked = [*ego, *(a for a in directive.agents if isinstance(a, Agent))]
    rows = [_token(agent, place, rng, draw) for agent in asked]
    tokens = AgentTokens.unspecified(len(rows))
    for i, row in enumerate(rows):
        for name, value in row.items():
            getattr(tokens, name)[i] = value
    if overlapping(tokens):
        raise DoesNotFit("overlap")
    return tokens


def overlapping(tokens: AgentTokens) -> bool:
    """Whether two of the boxes overlap at t0; one whose pose is not given does not."""
    # Most are farther apart than they are large, which a few plain numbers tell faster than numpy.
    length, width = size_m(tokens)
    told = zip(tokens.x_m.tolist(), tokens.y_m.tolist(), ((length + width) / 2).tolist(), strict=True)
    if not any(hypot(x1 - x0, y1 - y0) < r0 + r1 for (x0, y0, r0), (x1, y1, r1) in combinations(told, 2)):
        return False
    first, second = np.triu_indices(len(tokens), 1)
    corners = _corners(tokens)
    return bool(boxes_overlap(corners[first], corners[second]).any())


def _token(agent: Agent, place: Place, rng: np.random.Generator, draw: Draw) -> dict[str, float]:
    """The features that an agent specifies."""
    kind = agent.kinds[int(rng.integers(len(agent.kinds)))] if agent.kinds else None
    row: dict[str, float] = {} if kind is None else {"kind": KINDS.index(kind)}
    for name in ("speed_mps", "length_m", "width_m"):
        span = getattr(agent, name)
        if span is not None:
            row[name] = draw(span)
    end = End() if agent.end is None else agent.end
    if end != "free" and end.speed_mps is not None:
        row["end_speed_mps"] = draw(end.speed_mps)
    if not isinstance(agent.pose, OnLane):
        row |= _in_window(agent.pose, "", draw)
        if end != "free":
            row |= _end(end.pose, row, place, draw)
        return row
    reasons = []
    for lane in rng.permutation(np.array(agent.pose.lanes)).tolist():
        try:
            return row | _on_lane(replace(agent.pose, lanes=(lane,)), end, row, place, draw)
        except DoesNotFit as error:
            reasons.append(error)
    raise reasons[0]


def _in_window(pose: InWindow | None, prefix: str, draw: Draw) -> dict[str, float]:
    if pose is None:
        return {}
    given = {f.name: getattr(pose, f.name) for f in fields(pose)}
    return {prefix + name: draw(span) for name, span in given.items() if span is not None}


def _travel_m(row: dict[str, float]) -> float | None:
    """How far the agent gets until its end, by the mean of its two speeds."""
    if "speed_mps" not in row:
        return None
    return (row["speed_mps"] + row.get("end_speed_mps", row["speed_mps"])) / 2 * END_S


def _on_lane(
    start: OnLane, end: End | Literal["free"], row: dict[str, float], place: Place, draw: Draw
) -> dict[str, float]:
    path = line_named(place, start.lanes[0], start.reference)
    s = _distance(start, draw)
    lateral = draw(start.lateral_m)
    length_m = _length_m(row)
    pose = _pose(place, path, s, lateral, start.facing, length_m)
    if max(abs(pose.x_m), abs(pose.y_m)) >= WINDOW_M / 2:
        raise DoesNotFit("outside_window")
    found = _named(pose, "")
    if end == "free":
        return found
    if end.pose is not None:
        ended = _end(end.pose, row | found, place, draw, path.pose(s))
        if isinstance(end.pose, OnLane) and end.pose.facing is None and _changes_lane(start, end.pose):
            del ended["end_heading_rad"]
        return found | ended
    travel = _travel_m(row)
    if travel is None:
        return found
    if start.facing in (None, "along"):
        arrived = _pose(place, path, s + travel, lateral, "along", length_m)
    else:
        x, y = pose.apply(travel, 0.0)
        arrived = SE2(float(x), float(y), pose.heading_rad)
    return found | {"end_speed_mps": row.get("end_speed_mps", row["speed_mps"])} | _named(arrived, "end_")


def _changes_lane(start: OnLane, end: OnLane) -> bool:
    return start.lanes != end.lanes and {start.lanes[0], end.lanes[0]} <= set(SIDE_BY_SIDE)


def _end(
    pose: InWindow | OnLane | None, row: dict[str, float], place: Place, draw: Draw, start: SE2 | None = None
) -> dict[str, float]:
    """The end's features where it is written out. start: where the agent's own line has it at t0, map frame."""
    if not isinstance(pose, OnLane):
        return _in_window(pose, "end_", draw)
    path = line_named(place, pose.lanes[0], pose.reference)
    found: dict[str, float] = {}
    if pose.distance_m is not None:
        s = _distance(pose, draw)
    else:
        travel = _travel_m(row)
        if travel is None:
            raise DoesNotFit("end_without_speed")
        start = start or place.map_SE2_window
        s = path.project(start.x_m, start.y_m)[0] + travel
        found = {"end_speed_mps": row.get("end_speed_mps", row["speed_mps"])}
    return found | _named(_pose(place, path, s, draw(pose.lateral_m), pose.facing, _length_m(row)), "end_")


def _distance(pose: OnLane, draw: Draw) -> float:
    """Arc length along the line; an oncoming line runs towards the AV, so what is ahead of the AV is behind on it."""
    ahead = 0.0 if pose.distance_m is None else draw(pose.distance_m)
    return -ahead if pose.lanes[0] == "oncoming" else ahead


def _named(pose: SE2, prefix: str) -> dict[str, float]:
    return {f"{prefix}x_m": pose.x_m, f"{prefix}y_m": pose.y_m, f"{prefix}heading_rad": pose.heading_rad}


def _length_m(row: dict[str, float]) -> float:
    """The length of the box, typical of the kind where it is not specified."""
    return row.get("length_m", TYPICAL_SIZE_M[KINDS[int(row.get("kind", KINDS.index("car")))]][0])


def _pose(place: Place, path: Path, s_m: float, lateral_m: float, facing: str | None, length_m: float) -> SE2:
    """The pose of a box on a line, window frame. Raises DoesNotFit beyond the line's ends.

    Along the line both ends of the box are on it, so the middle of a long one is inside the bend, as it is on the road.
    """
    if not path.covers(s_m):
        raise DoesNotFit("lane_too_short")
    at = path.pose(s_m, lateral_m)
    if facing in (None, "along"):
        rear, front = (path.pose(s_m + d * length_m / 2, lateral_m) for d in (-1, 1))
        heading = float(np.arctan2(front.y_m - rear.y_m, front.x_m - rear.x_m))
        at = SE2((rear.x_m + front.x_m) / 2, (rear.y_m + front.y_m) / 2, heading)
    window_SE2_map = place.map_SE2_window.inverse()
    x, y = window_SE2_map.apply(at.x_m, at.y_m)
    heading = float(wrap_angle(at.heading_rad + window_SE2_map.heading_rad + FACING[facing or "along"]))
    return SE2(float(x), float(y), heading)


def line_named(place: Place, lane: str, reference: str) -> Path:
    """The line that a word names, its reference point where `reference` says. Raises DoesNotFit where there is none."""
    if lane not in place.lines:
        place.lines[lane] = _line_from_av(place, lane) if lane in FROM_AV else _line_across(place, lane)
    path = place.lines[lane]
    if path is None:
        raise DoesNotFit(f"no_{lane}")
    if reference != "junction_m":
        return path
    if path.junction_m is None:
        raise DoesNotFit("no_junction")
    return path.starting_at(path.junction_m[0])


def _line_from_av(place: Place, lane: str) -> Path | None:
    if place.lane is None:
        return None
    if lane == "ego":
        return place.paths[0]
    if lane in ("left", "right"):
        return place.beside_path(lane)
    if lane == "oncoming":
        return place.oncoming_path()
    return place.turning_path(lane.removesuffix("_turn"))


def _line_across(place: Place, lane: str) -> Path | None:
    what, side = lane.split("_from_")
    if what == "crossing":
        paths = place.graph.crossing_paths(place.paths[0], side, 60.0, REACH_M) if place.paths else []
        return paths[0] if paths else None
    if not place.crosswalks:
        return None
    from_right = place.crosswalks[0][1]
    return from_right if side == "right" else Path(from_right.xy_m[::-1], -from_right.s_m[::-1])


def _overlap(a: AgentTokens, b: AgentTokens) -> NDArray[np.bool_]:
    """Whether each of `a` overlaps one of `b` at t0, (len(a),) bool; never where a pose is not given."""
    return np.asarray(boxes_overlap(_corners(a)[:, None], _corners(b)[None]).any(1), bool)


def _corners(tokens: AgentTokens) -> NDArray[np.floating]:
    """Boxes at t0, (K, 4, 2) [m]; far away where the pose is not specified."""
    corners = box_corners(tokens.x_m, tokens.y_m, tokens.heading_rad, *size_m(tokens))
    nowhere = 1e6 * (1 + np.arange(len(tokens)))[:, None, None]
    return np.where(np.isnan(corners), nowhere, corners)


def size_m(tokens: AgentTokens) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Lengths and widths, (K,) [m]; typical of the kind where they are not specified, a car's where that is not."""
    length, width = _TYPICAL[np.maximum(tokens.kind, 0)].T
    return (
        np.where(np.isnan(tokens.length_m), length, tokens.length_m),
        np.where(np.isnan(tokens.width_m), width, tokens.width_m),
    )
