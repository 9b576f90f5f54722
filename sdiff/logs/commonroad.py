"""CommonRoad scenarios: one XML document each, plain or gzipped, of version 2020a or 2018b.

Format: https://gitlab.lrz.de/tum-cps/commonroad-scenarios/-/blob/master/documentation/XML_commonRoad_2020a.pdf
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S, storage
from sdiff.geometry import wrap_angle
from sdiff.logs import expect_plain_xml, expect_size, read_packed, usable
from sdiff.logs.driving_log import FARTHEST_M, LANE_TYPES, BadRecord, DrivingLog, Lights, Tracks, VectorMap, plain_name
from sdiff.logs.frames import check_size, rate
from sdiff.maps import Features, Lanes, Lines, derive, vector_map

DATASET = "commonroad"
LICENSE = "unknown"
"""The format has no field for it; the root's attribute `source` names where the data is from."""

MOST_BYTES = 64 << 20
MAX_STEPS = 36_000

OBSTACLE_KINDS = {
    "car": "car",
    "taxi": "car",
    "truck": "truck",
    "bus": "bus",
    "motorcycle": "motorcyclist",
    "bicycle": "cyclist",
    "pedestrian": "pedestrian",
    "priorityVehicle": "vehicle",
    "parkedVehicle": "vehicle",
}
"""Obstacle type -> kind; all others are `other`."""

OBSTACLES = ("dynamicObstacle", "staticObstacle", "obstacle")
NO_AGENTS = {"phantomObstacle": "what might be where nobody sees", "environmentObstacle": "a building or the like"}
"""Other obstacles, and what they are."""
STATE_PATHS = ("time/exact", "position/point/x", "position/point/y", "orientation/exact", "velocity/exact")

LANE_TYPE_OF = {"bicycleLane": "bike", "busLane": "bus", "sidewalk": "pedestrian"}
"""Lanelet type -> type of lane; all others are for vehicles. Lanelets of type `crosswalk` are areas, not lanes."""
PAINTED = (
    "solid",
    "dashed",
    "broad_solid",
    "broad_dashed",
    "solid_solid",
    "dashed_dashed",
    "solid_dashed",
    "dashed_solid",
)
CURBS = ("curb", "lowered_curb")
SPEED_LIMITS = {
    "274": "Germany, and countries whose own signs the format does not have",
    "274.1": "Germany, zones",
    "r2-1": "USA, Puerto Rico",
    "r301": "Spain",
    "3.24": "Russia",
    "r15": "Argentina",
    "c43": "Belgium",
    "b14": "France",
    "b31": "Croatia",
    "\N{GREEK SMALL LETTER RHO}-32": "Greece",
    "p-32": "Greece, in Latin letters",
}
"""Traffic signs that give the highest speed, in m/s, by their ids in small letters, and where they stand."""
LIGHT_STATES = {"red": 1, "redYellow": 1, "yellow": 2, "green": 3}

Array = NDArray[np.float64]


class _Track(NamedTuple):
    """One obstacle. step: (n,) the file's time steps, ascending. pose: (4, n) x, y, heading, speed (NaN: not given).

    stands: it is at its first pose all the time.
    """

    agent_id: str
    kind: int
    size_m: tuple[float, float]
    step: NDArray[np.int64]
    pose: Array
    stands: bool


def find(uri: str) -> list[str]:
    """URIs of .xml and .xml.gz at or under `uri`, sorted. Raises storage.StorageError where there is none."""
    found = sorted({*storage.objects(uri, ".xml"), *storage.objects(uri, ".xml.gz")})
    if not found:
        raise storage.StorageError(f"no scenario at {uri}; expected CommonRoad .xml or .xml.gz there or below")
    return found


def read(source: str) -> Iterator[DrivingLog | BadRecord]:
    """The scenario at `source`; a BadRecord for each obstacle that cannot be used.

    Poses are the source's; where its time step is not a divisor of 0.1 s, they lie between its own by interpolation.
    Velocity is the source's speed along the heading, or from positions where it gives none. Nobody is the recorder.
    Raises BadRecord where the document cannot be used, storage.StorageError where it cannot be read.
    """
    root = _root(read_packed(source, MOST_BYTES))
    try:
        scenario = plain_name(root.attrib["benchmarkID"].strip())
        step_s = float(root.attrib["timeStepSize"])
        tracks, bad = _obstacles(root, step_s)
        vector_map = _Lanelets(root).map(scenario)
        lights = _lights(root, vector_map, step_s, tracks.valid.shape[1])
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, BadRecord):
            raise
        raise BadRecord(
            f"not a CommonRoad scenario: {type(error).__name__} {error}; expected benchmarkID, timeStepSize, lanelets "
            "with bounds of points, obstacles with type, shape and states, and lights with cycles"
        ) from error
    yield from bad
    if not len(tracks.agent_id):
        raise BadRecord("the log has no usable track, expected at least one", stage="validate", record=scenario)
    yield from usable(
        DrivingLog(
            log_id=source.rsplit("/", 1)[-1].removesuffix(".gz").removesuffix(".xml"),
            dataset=DATASET,
            region=re.sub(r"-[0-9].*", "", scenario) or "unknown",
            license=LICENSE,
            tracks=tracks,
            map=vector_map,
            lights=lights,
            split_key=re.sub(r"(-[0-9]+)_.*", r"\1", scenario),  # configurations of one scene show the same traffic
        )
    )


def _root(data: bytes) -> ET.Element:
    expect_plain_xml(data)
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise BadRecord(f"not a whole XML document: {error}") from None
    if root.tag != "commonRoad":
        raise BadRecord(f"the document's root is {root.tag[:40]!r}, expected 'commonRoad'")
    return root


def _number(parent: ET.Element | None, path: str) -> float:
    """The number at `path`; NaN where there is none. Raises ValueError where it is something else."""
    text = None if parent is None else parent.findtext(path)
    return np.nan if text is None else float(text)


def _obstacles(root: ET.Element, step_s: float) -> tuple[Tracks, list[BadRecord]]:
    """All obstacles on the grid of 0.1 s, and what is wrong with those that cannot be read."""
    if not 1e-3 <= step_s <= 1:
        raise BadRecord(f"timeStepSize is {step_s} s, expected 0.001 to 1")
    found: list[_Track] = []
    bad: list[BadRecord] = []
    for el in root:
        agent_id = el.get("id", "")
        if el.tag in NO_AGENTS:
            bad.append(BadRecord(f"{el.tag} ({NO_AGENTS[el.tag]}) is no track; it is left out", record=agent_id))
        if el.tag not in OBSTACLES:
            continue
        try:
            found.append(_obstacle(el, agent_id, MAX_STEPS * STEP_S / step_s))
        except BadRecord as error:
            bad.append(error)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            bad.append(BadRecord(f"obstacle cannot be read: {error}", record=agent_id))
    return _on_grid(found, step_s), bad


def _obstacle(el: ET.Element, agent_id: str, most_steps: float) -> _Track:
    length, width, offset_x, offset_y, turned = _shape(el, agent_id)
    initial, trajectory = el.find("initialState"), el.find("trajectory")
    parts = [part for part in (initial, trajectory) if part is not None]
    states = [*([] if initial is None else [initial]), *([] if trajectory is None else trajectory.findall("state"))]
    if el.find("occupancySet") is not None and len(states) < 2:
        raise BadRecord("obstacle has an occupancySet, which is no track; expected a trajectory", record=agent_id)
    step, x, y, heading, speed = (np.array(_of_states(parts, states, path)) for path in STATE_PATHS)
    if not np.isfinite(step).all() or (np.diff(step) <= 0).any() or (step < 0).any():
        raise BadRecord("time does not go forward from state to state, expected ascending steps", record=agent_id)
    if not len(step) or not np.isfinite([x, y, heading]).all():
        raise BadRecord("a state has no exact finite position, orientation and time", record=agent_id)
    if step[-1] >= most_steps:
        raise BadRecord(f"the last time step is {step[-1]:.0f}, expected less than {most_steps:.0f}", record=agent_id)
    stands = el.tag == "staticObstacle" or el.findtext("role") == "static"
    c, s = np.cos(heading), np.sin(heading)
    pose = np.stack([x + c * offset_x - s * offset_y, y + s * offset_x + c * offset_y, heading + turned, speed])
    kind = OBSTACLE_KINDS.get((el.findtext("type") or "").strip(), "other")
    return _Track(agent_id, KINDS.index(kind), (length, width), step.astype(np.int64), pose, stands)


def _of_states(parts: list[ET.Element], states: list[ET.Element], path: str) -> list[float]:
    """The number at `path` of each state, NaN where one has none.

    Where every part of the path comes once per state, as is usual, in one go: a search per state takes five times as
    long.
    """
    first, last = path.split("/")[-2:]
    found = [el.findtext(last) for part in parts for el in part.iter(first)]
    if len(found) == len(states) and None not in found:
        return [float(text or "") for text in found]
    return [_number(s, path) for s in states]


class _Box(NamedTuple):
    """A box in an obstacle's own frame: size, centre [m] and direction [rad]."""

    length: float
    width: float
    x: float
    y: float
    turned: float


def _shape(el: ET.Element, agent_id: str) -> _Box:
    """The box of an obstacle: that of its shape, or, where it has several, the one around them along its heading."""
    found = [_box(part) for part in el.iterfind("shape/*") if part.tag in ("rectangle", "circle", "polygon")]
    if not found:
        raise BadRecord("obstacle has no shape, expected a rectangle, circle or polygon", record=agent_id)
    return found[0] if len(found) == 1 else _around(np.concatenate([_corners(box) for box in found]))


def _box(shape: ET.Element) -> _Box:
    if shape.tag == "polygon":
        return _around(_points(shape))
    x, y, turned = (_number(shape, path) for path in ("center/x", "center/y", "orientation"))
    if shape.tag == "circle":
        length = width = 2 * _number(shape, "radius")
    else:
        length, width = _number(shape, "length"), _number(shape, "width")
    return _Box(length, width, *(0.0 if np.isnan(v) else v for v in (x, y, turned)))


def _around(xy: Array) -> _Box:
    (x0, y0), (x1, y1) = xy.min(0), xy.max(0)
    return _Box(x1 - x0, y1 - y0, (x0 + x1) / 2, (y0 + y1) / 2, 0.0)


def _corners(box: _Box) -> Array:
    c, s = np.cos(box.turned), np.sin(box.turned)
    ahead, aside = np.array([c, s]) * box.length / 2, np.array([-s, c]) * box.width / 2
    return np.array([box.x, box.y]) + np.array([ahead + aside, ahead - aside, -ahead + aside, -ahead - aside])


def _points(parent: ET.Element | None) -> Array:
    points = [] if parent is None else parent.findall("point")
    xy = np.array([(p.findtext("x"), p.findtext("y")) for p in points], np.float64).reshape(-1, 2)
    if not (np.abs(xy) < FARTHEST_M).all():
        raise BadRecord(f"a point of the map or of a shape is not finite, or {FARTHEST_M:.0e} m or more from 0")
    return xy


def _on_grid(found: list[_Track], step_s: float) -> Tracks:
    """Tracks at 10 Hz. Between two steps of the file that follow each other, poses are interpolated."""
    last = max((int(track.step[-1]) for track in found), default=0)
    n, steps = len(found), int(last * step_s / STEP_S + 1e-6) + 1
    check_size(n, steps)
    grid = np.arange(steps) * (STEP_S / step_s)  # in steps of the file
    grid = np.where(np.abs(grid - np.rint(grid)) < 1e-6, np.rint(grid), grid)
    pose, valid = np.zeros((4, n, steps)), np.zeros((n, steps), bool)
    for i, track in enumerate(found):
        if track.stands:
            pose[:3, i], valid[i] = track.pose[:3, :1], True
            continue
        after = np.searchsorted(track.step, grid)
        inside = after < len(track.step)
        after = np.minimum(after, len(track.step) - 1)
        before = np.maximum(after - 1, 0)
        follows = track.step[after] - track.step[before] == 1
        valid[i] = inside & ((track.step[after] == grid) | follows)
        for k, values in enumerate((*track.pose[:2], np.unwrap(track.pose[2]), track.pose[3])):
            pose[k, i] = np.interp(grid, track.step, values)
    x, y, heading, speed = pose
    time_s = np.arange(steps) * STEP_S
    given = np.isfinite(speed)
    return Tracks(
        agent_id=np.array([plain_name(t.agent_id) for t in found], np.str_),
        kind=np.array([t.kind for t in found], np.int8),
        length_m=np.array([t.size_m[0] for t in found], np.float32),
        width_m=np.array([t.size_m[1] for t in found], np.float32),
        x_m=x,
        y_m=y,
        heading_rad=wrap_angle(heading).astype(np.float64),
        vx_mps=np.where(given, speed * np.cos(heading), rate(x, valid, time_s)),
        vy_mps=np.where(given, speed * np.sin(heading), rate(y, valid, time_s)),
        valid=valid,
    )


class _Lanelets:
    """The lanelets of a document, as lanes and as what lies between and around them."""

    def __init__(self, root: ET.Element) -> None:
        expect_size(0, 0, sum(len(bound) for el in root.iterfind("lanelet") for bound in el))
        every = [(el, self._bounds(el)) for el in root.iterfind("lanelet")]
        self.root = root
        self.crosswalks = [_outline(b) for el, b in every if _types(el) & {"crosswalk"}]
        lanes = [(el, b) for el, b in every if not _types(el) & {"crosswalk"}]
        self.elements, self.bounds = [el for el, _ in lanes], [b for _, b in lanes]
        self.index = {el.attrib["id"]: i for i, el in enumerate(self.elements)}
        if not self.elements:
            raise BadRecord("the map has no lanes, expected at least one", stage="validate")

    @staticmethod
    def _bounds(el: ET.Element) -> tuple[Array, Array]:
        left, right = (_points(el.find(f"{side}Bound")) for side in ("left", "right"))
        if len(left) != len(right) or len(left) < 2:
            raise BadRecord(
                f"lanelet has bounds of {len(left)} and {len(right)} points, expected two or more and as many on "
                "either side",
                record=el.get("id", ""),
            )
        return left, right

    def map(self, map_id: str) -> VectorMap:
        """The vector map; the drivable area is the union of the lanelets for vehicles and bikes."""
        lines = Lines.of([(left + right) / 2 for left, right in self.bounds])
        lane_type = np.array([self._lane_type(el) for el in self.elements], np.int8)
        width = np.array([np.hypot(*(left - right).T).mean() for left, right in self.bounds], np.float32)
        road = np.flatnonzero(lane_type != LANE_TYPES.index("pedestrian"))
        lanes = Lanes(
            ids=[f"lanelet_{i}" for i in self.index],
            lines=lines,
            successors=self._successors(),
            left=self._beside("Left"),
            right=self._beside("Right"),
            in_junction=self._in_junction(lines, width),
            lane_type=lane_type,
            width_m=width,
            speed_limit_mps=self._speed_limits(),
            links_derived=False,
        )
        outlines = [_outline(self.bounds[i]) for i in road]
        others = [
            Features("lane_boundary", self._marked(PAINTED)),
            Features("road_edge", self._marked(CURBS)),
            Features("drivable_area", derive.carriageway(Lines.of(outlines), Lines.of([])), derived=True),
            Features("crosswalk", Lines.of(self.crosswalks)),
            Features("stop_line", self._stop_lines()),
        ]
        return vector_map(map_id, lanes, others)

    @staticmethod
    def _lane_type(el: ET.Element) -> int:
        found = [LANE_TYPE_OF[t] for t in sorted(_types(el)) if t in LANE_TYPE_OF]
        return LANE_TYPES.index(found[0] if found else "vehicle")

    def _successors(self) -> NDArray[np.int32]:
        pairs = {
            (i, self.index[ref.attrib["ref"]])
            for i, el in enumerate(self.elements)
            for ref in el.iterfind("successor")
            if ref.attrib["ref"] in self.index
        }
        return np.array(sorted(pairs), np.int32).reshape(-1, 2)

    def _beside(self, side: str) -> NDArray[np.int32]:
        found = [el.find(f"adjacent{side}") for el in self.elements]
        same = [None if a is None or a.get("drivingDir") != "same" else a.get("ref") for a in found]
        return np.array([self.index.get(ref or "", -1) for ref in same], np.int32)

    def _in_junction(self, lines: Lines, width_m: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The lanelets that intersections name; where the document has none, from geometry."""
        if self.root.find("intersection") is None:
            return derive.lane_links(lines, width_m).in_junction
        ways = [
            el.get("ref", "")
            for incoming in self.root.iterfind("intersection/incoming")
            for el in incoming
            if el.tag.startswith("successors")
        ]
        ways += [el.get("ref", "") for el in self.root.iterfind("intersection/crossing/crossingLanelet")]
        return np.isin(list(self.index), ways)

    def _speed_limits(self) -> NDArray[np.float32]:
        """The lowest limit of each lanelet: of its signs, or, in documents of 2018b, its own."""
        limits: dict[str | None, float] = {}
        for sign in self.root.iterfind("trafficSign"):
            for el in sign.iterfind("trafficSignElement"):
                if (el.findtext("trafficSignID") or "").strip().lower() in SPEED_LIMITS:
                    limits[sign.get("id")] = _number(el, "additionalValue")
        stated = [
            [_number(el, "speedLimit"), *(limits.get(r.get("ref"), np.nan) for r in el.iterfind("trafficSignRef"))]
            for el in self.elements
        ]
        return np.array([min((v for v in found if 0 < v < np.inf), default=np.nan) for found in stated], np.float32)

    def _marked(self, markings: tuple[str, ...]) -> Lines:
        """Bounds with one of these line markings, each once: two neighbours share the line between them."""
        once: dict[tuple[float, ...], Array] = {}
        for el, bounds in zip(self.elements, self.bounds, strict=True):
            for side, line in zip(("left", "right"), bounds, strict=True):
                if (el.findtext(f"{side}Bound/lineMarking") or "").strip() in markings:
                    ends = sorted([tuple(line[0]), tuple(line[-1])])
                    once[(*ends[0], *ends[1], len(line))] = line
        return Lines.of(list(once.values()))

    def _stop_lines(self) -> Lines:
        """Stop lines; one without points of its own lies at the lanelet's end."""
        found = []
        for el, (left, right) in zip(self.elements, self.bounds, strict=True):
            stop = el.find("stopLine")
            if stop is not None:
                own = _points(stop)
                found.append(own if len(own) == 2 else np.stack([left[-1], right[-1]]))
        return Lines.of(found)


def _types(lanelet: ET.Element) -> set[str]:
    return {(el.text or "").strip() for el in lanelet.iterfind("laneletType")}


def _outline(bounds: tuple[Array, Array]) -> Array:
    return np.concatenate([bounds[0], bounds[1][::-1]])


def _lights(root: ET.Element, map: VectorMap, step_s: float, steps: int) -> Lights:
    """Traffic lights by the lanes that begin where their lanelet ends, in the directions that the light is for."""
    at = np.arange(steps) * STEP_S / step_s
    states = {
        el.get("id"): (_cycle(el, at), (el.findtext("direction") or "all").strip())
        for el in root.iterfind("trafficLight")
    }
    index = {str(f).removeprefix("lanelet_"): i for i, f in enumerate(map.feature_id[map.of_kind("lane_centerline")])}
    turns: dict[str, set[int]] = {}
    for incoming in root.iterfind("intersection/incoming"):
        for el in incoming:
            if el.tag.startswith("successors"):
                turns.setdefault(el.tag.removeprefix("successors").lower(), set()).add(index.get(el.get("ref", ""), -1))
    lane: list[int] = []
    state: list[NDArray[np.int8]] = []
    for el in root.iterfind("lanelet"):
        refs = [ref.get("ref") for ref in el.iterfind("trafficLightRef") if ref.get("ref") in states]
        own = index.get(el.get("id", ""), -1)
        if own < 0 or not refs:
            continue
        after = map.successors[map.successors[:, 0] == own, 1].tolist()
        for ref in refs:
            shown, direction = states[ref]
            ways = [w for name, to in turns.items() if name in direction.lower() for w in to]
            some = after if direction == "all" else [i for i in after if i in ways]
            lane += some
            state += [shown] * len(some)
            expect_size(len(lane), steps)
    lanes = np.array(lane, np.int32)
    begin = map.xy_m[map.start[lanes]] if len(lanes) else np.zeros((0, 2))
    return Lights(lanes, begin[:, 0], begin[:, 1], np.array(state, np.int8).reshape(-1, steps))


def _cycle(light: ET.Element, at: NDArray[np.floating]) -> NDArray[np.int8]:
    """State at each of the file's time steps `at`; unknown where the light is off or its cycle cannot be read."""
    durations = np.array([_number(el, "duration") for el in light.iterfind("cycle/cycleElement")])
    colors = [(el.findtext("color") or "").strip() for el in light.iterfind("cycle/cycleElement")]
    offset = _number(light, "cycle/timeOffset")
    off = (light.findtext("active") or "true").strip() == "false"
    if (
        off
        or not len(durations)
        or not np.isfinite(durations).all()
        or (durations < 0).any()
        or not durations.sum() > 0
    ):
        return np.zeros(len(at), np.int8)
    ends = np.cumsum(durations)
    phase = (at - (0.0 if np.isnan(offset) else offset)) % ends[-1]
    code = np.array([LIGHT_STATES.get(c, 0) for c in colors], np.int8)
    return code[np.minimum(np.searchsorted(ends, phase, side="right"), len(code) - 1)]
