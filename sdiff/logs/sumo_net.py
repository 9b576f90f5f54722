"""A SUMO street network as a vector map. Source: https://sumo.dlr.de/docs/Networks/SUMO_Road_Networks.html"""

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from sdiff.logs import expect_plain_xml
from sdiff.logs.driving_log import FARTHEST_M, FEATURE_KINDS, LANE_TYPES, BadRecord, VectorMap, plain_name

DEFAULT_LANE_WIDTH_M = 3.2
YIELDING = "mwsZ="
"""States of a connection that has to wait without a light: minor, stop, all-way stop, zipper, equal."""
ROADWAY = ("vehicle", "bus", "bike")
"""Types of lanes that belong to the drivable area."""

MAX_LANES = 250_000
"""Some hundred times those of a district; a lane takes some 2 KB while it is read."""
MAX_SHAPE_CHARACTERS = 1 << 20

Points = NDArray[np.float64]


class SignalLink(NamedTuple):
    """A connection under a light: which light, which letter of its state, and where one stops, map frame [m].

    lane: index of the lane feature inside the junction.
    """

    light: str
    letter: int
    lane: int
    stop_x_m: float
    stop_y_m: float


class Connection(NamedTuple):
    """From lane to lane, by ids. via: the lane inside the junction, or empty. light: id, or empty.

    turn: SUMO's `dir`: s, l, r, L, R, t (turn around). state: right of way.
    """

    source: str
    target: str
    via: str
    light: str
    light_index: int
    turn: str
    state: str


@dataclass(frozen=True)
class Lane:
    """A lane of the file. function of its edge: normal, internal, crossing, walkingarea.

    index: 0 = at the kerb: on the right, or on the left where traffic keeps to the left.
    allow, disallow: SUMO's vehicle classes, None where the file has none.
    """

    lane_id: str
    edge_id: str
    index: int
    function: str
    allow: str | None
    disallow: str | None
    width_m: float
    speed_mps: float
    length_m: float
    shape: Points

    @cached_property
    def lane_type(self) -> str | None:
        """Who the lane is for, in the words of LANE_TYPES; None: nobody on the road (rails, closed lanes)."""
        walk = self.function in ("crossing", "walkingarea")
        return "pedestrian" if walk else lane_type(self.allow, self.disallow)

    def permits(self, vehicle_class: str) -> bool:
        """Whether SUMO lets this class of vehicles use the lane."""
        if self.allow is not None:
            return self.allow == "all" or vehicle_class in self.allow.split()
        return vehicle_class not in (self.disallow or "").split() and self.disallow != "all"


@dataclass
class Net:
    """What the network file says, as far as it is used here. edges: junctions at start and end of normal edges.

    lefthand: whether traffic keeps to the left.
    """

    digest: str
    crs: str | None = None
    lefthand: bool = False
    edges: dict[str, tuple[str, str]] = field(default_factory=dict)
    lanes: dict[str, Lane] = field(default_factory=dict)
    junctions: dict[str, Points] = field(default_factory=dict)
    connections: list[Connection] = field(default_factory=list)

    def of_edge(self) -> dict[str, list[Lane]]:
        """Lanes of each edge, from the kerb."""
        found: dict[str, list[Lane]] = {}
        for lane in self.lanes.values():
            found.setdefault(lane.edge_id, []).append(lane)
        return found


def elements(data: bytes) -> Iterator[tuple[str, ET.Element]]:
    """ "start" and "end" of each element of a file of SUMO, whose attributes are gone after its end."""
    expect_plain_xml(data)
    for event, el in ET.iterparse(BytesIO(data), ("start", "end")):
        yield event, el
        if event == "end":
            el.clear()


def parse(data: bytes) -> Net:
    """The network in the bytes of a `.net.xml` file. Raises BadRecord where it is none."""
    net = Net(hashlib.sha256(_without_head(data)).hexdigest()[:16])
    edge_id, function, root = "", "", ""
    try:
        for event, el in elements(data):
            tag, a = el.tag, el.attrib
            if event == "start":
                if not root:
                    root, net.lefthand = tag, a.get("lefthand") in ("true", "1")
                if tag == "edge":
                    edge_id, function = a["id"], a.get("function", "normal")
                    if function == "normal":
                        net.edges[edge_id] = a["from"], a["to"]
            elif tag == "lane":
                net.lanes[a["id"]] = _lane(a, edge_id, function)
            elif tag == "connection":
                net.connections.append(_connection(a))
            elif tag == "junction" and a.get("type") != "internal" and a.get("shape"):
                net.junctions[a["id"]] = _shape(a["shape"])
            elif tag == "location":
                net.crs = None if a.get("projParameter", "!") in ("!", "-") else plain_name(a["projParameter"])
            if max(len(net.lanes), len(net.edges), len(net.connections) // 4) > MAX_LANES:
                raise BadRecord(f"SUMO network of more than {MAX_LANES} lanes; cut a part out with netconvert")
    except (ET.ParseError, KeyError, ValueError, LookupError) as error:
        if isinstance(error, BadRecord):
            raise
        reason = f"{type(error).__name__} {str(error)[:200]}"
        raise BadRecord(f"SUMO network cannot be parsed ({reason}); expected a .net.xml of netconvert") from None
    if root != "net" or not net.lanes:
        raise BadRecord(f"SUMO network has root <{root}> and {len(net.lanes)} lanes, expected <net> with lanes")
    _close_inner_footways(net)
    return net


def _close_inner_footways(net: Net) -> None:
    """Lanes inside a junction often permit everyone: those that come from a footway are for walkers, too."""
    for inner in (False, True):  # a way through a junction may have two lanes, one after the other
        for c in net.connections:
            source = net.lanes.get(c.source)
            if c.via in net.lanes and source and (source.function == "internal") == inner:
                if source.lane_type is None:
                    net.lanes[c.via] = replace(net.lanes[c.via], allow="")
                elif source.lane_type == "pedestrian":
                    net.lanes[c.via] = replace(net.lanes[c.via], allow="pedestrian")


def _without_head(data: bytes) -> bytes:
    """The file without its first comment, which holds the date on which it was made."""
    start, end = data.find(b"<!--"), data.find(b"-->")
    return data[:start] + data[end + 3 :] if 0 <= start < end else data


def _shape(text: str) -> Points:
    if len(text) > MAX_SHAPE_CHARACTERS:
        raise ValueError(f"a shape of {len(text)} characters, expected at most {MAX_SHAPE_CHARACTERS}")
    dims = text.split(" ", 1)[0].count(",") + 1
    xy_m = np.array(text.replace(",", " ").split(), np.float64).reshape(-1, dims)[:, :2]
    if not (2 <= dims <= 3 and (np.abs(xy_m) < FARTHEST_M).all()):
        raise ValueError(f"a shape is {text[:60]!r}, expected places of x,y [m]")
    return xy_m


def _connection(a: dict[str, str]) -> Connection:
    source, target = f"{a['from']}_{a['fromLane']}", f"{a['to']}_{a['toLane']}"
    index = int(a.get("linkIndex", -1))
    return Connection(source, target, a.get("via", ""), a.get("tl", ""), index, a.get("dir", "s"), a.get("state", "M"))


def _lane(a: dict[str, str], edge_id: str, function: str) -> Lane:
    numbers = a.get("width", DEFAULT_LANE_WIDTH_M), a["speed"], a["length"]
    width_m, speed_mps, length_m = map(float, numbers)
    if not (np.abs([width_m, speed_mps, length_m]) < FARTHEST_M).all():
        raise ValueError(f"lane {plain_name(a['id'])} is {width_m} x {length_m} m at {speed_mps} m/s")
    return Lane(
        lane_id=a["id"],
        edge_id=edge_id,
        index=int(a["index"]),
        function=function,
        allow=a.get("allow"),
        disallow=a.get("disallow"),
        width_m=width_m,
        speed_mps=speed_mps,
        length_m=length_m,
        shape=_shape(a["shape"]),
    )


@lru_cache(1000)
def lane_type(allow: str | None, disallow: str | None) -> str | None:
    """Who a lane is for, from SUMO's permissions; None: nobody on the road (rails, closed lanes).

    Cars come first, then walkers (footways that also take bicycles and deliveries), buses, bicycles.
    """
    if allow is not None and allow != "all":
        allowed = set(allow.split())
        order = (("passenger", "vehicle"), ("pedestrian", "pedestrian"), ("bus", "bus"), ("bicycle", "bike"))
        return next((kind for name, kind in order if name in allowed), None)
    denied = set((disallow or "").split())
    if "all" in denied:
        return None
    order = (("passenger", "vehicle"), ("bus", "bus"), ("bicycle", "bike"), ("pedestrian", "pedestrian"))
    return next((kind for name, kind in order if name not in denied), None)


@dataclass
class _Features:
    """Features as they are found, before they become ragged arrays."""

    ids: list[str] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    shapes: list[Points] = field(default_factory=list)
    lanes: list[Lane | None] = field(default_factory=list)
    derived: list[bool] = field(default_factory=list)

    def add(self, feature_id: str, kind: str, shape: Points, lane: Lane | None = None, derived: bool = False) -> None:
        self.ids.append(feature_id)
        self.kinds.append(FEATURE_KINDS.index(kind))
        self.shapes.append(shape)
        self.lanes.append(lane)
        self.derived.append(derived)


def vector_map(net: Net) -> tuple[VectorMap, list[SignalLink]]:
    """The network as a vector map, and its connections under lights.

    Lanes, speeds, links and neighbours are the file's. Lines, areas and stop lines are made from the lanes' widths.
    """
    out = _Features()
    lane_index: dict[str, int] = {}
    for lane in net.lanes.values():
        if lane.lane_type and lane.function in ("normal", "internal") and len(lane.shape) > 1:
            lane_index[lane.lane_id] = len(out.ids)
            out.add(f"lane/{lane.lane_id}", "lane_centerline", lane.shape, lane)
    successors, links, stops = _links(net, lane_index)
    _add_lines_and_areas(net, out)
    for lane_id in sorted(stops):
        out.add(f"stop/{lane_id}", "stop_line", _across_end(net.lanes[lane_id]), derived=True)
    left, right = _neighbours(net, lane_index, len(out.ids))
    types = [x.lane_type if x else None for x in out.lanes]
    return VectorMap(
        map_id=f"sumo-{net.digest}",
        feature_id=np.array([plain_name(i) for i in out.ids], np.str_),
        kind=np.array(out.kinds, np.int8),
        start=np.concatenate([[0], np.cumsum([len(s) for s in out.shapes])]).astype(np.int64),
        xy_m=np.concatenate([*out.shapes, np.zeros((0, 2))]),
        left=left,
        right=right,
        successors=successors,
        speed_limit_mps=np.array([x.speed_mps if x else np.nan for x in out.lanes], np.float32),
        width_m=np.array([x.width_m if x else np.nan for x in out.lanes], np.float32),
        lane_type=np.array([LANE_TYPES.index(t) if t else -1 for t in types], np.int8),
        in_junction=np.array([bool(x and x.function == "internal") for x in out.lanes], bool),
        derived=np.array(out.derived, bool),
        crs=net.crs,
    ), links


def _links(net: Net, lane_index: dict[str, int]) -> tuple[NDArray[np.int32], list[SignalLink], set[str]]:
    """Successor pairs (through the junction's own lanes), connections under lights, lanes that end in a stop line."""
    pairs: set[tuple[int, int]] = set()
    links: list[SignalLink] = []
    stops: set[str] = set()
    for c in net.connections:
        a, b = lane_index.get(c.source), lane_index.get(c.via or c.target)
        if a is None or b is None:
            continue
        pairs.add((a, b))
        lane = net.lanes[c.source]
        if lane.function == "normal" and lane.lane_type in ROADWAY:
            if c.light:
                links.append(SignalLink(c.light, c.light_index, b, *map(float, lane.shape[-1])))
            if c.light or c.state in YIELDING:
                stops.add(c.source)
    return np.array(sorted(pairs), np.int32).reshape(-1, 2), links, stops


def _neighbours(net: Net, lane_index: dict[str, int], n: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Neighbours in the same direction: lanes of one edge, counted from the kerb."""
    to_middle, to_kerb = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    for lane_id, f in lane_index.items():
        lane = net.lanes[lane_id]
        other = lane_index.get(f"{lane.edge_id}_{lane.index + 1}")
        if other is not None:
            to_middle[f], to_kerb[other] = other, f
    return (to_kerb, to_middle) if net.lefthand else (to_middle, to_kerb)


def _add_lines_and_areas(net: Net, out: _Features) -> None:
    """Crosswalks, the roadway's area, its edge at the kerb, a line at the other side of each of its lanes."""
    lanes = [
        x
        for x in net.lanes.values()
        if len(x.shape) > 1 and (x.function == "crossing" or (x.function != "walkingarea" and x.lane_type in ROADWAY))
    ]
    if not lanes:
        return
    to_kerb = 1 if net.lefthand else -1
    half = [to_kerb * x.width_m / 2 for x in lanes]
    shapes = [x.shape for x in lanes]
    outermost: dict[str, str] = {}
    for lane, kerb, middle in zip(lanes, beside(shapes, half), beside(shapes, [-h for h in half]), strict=True):
        ring = np.concatenate([kerb, middle[::-1]])
        if lane.function == "crossing":
            out.add(f"crosswalk/{lane.edge_id}", "crosswalk", ring, derived=True)
            continue
        out.add(f"area/{lane.lane_id}", "drivable_area", ring, derived=True)
        if lane.function == "normal":
            if outermost.setdefault(lane.edge_id, lane.lane_id) == lane.lane_id:
                out.add(f"edge/{lane.lane_id}", "road_edge", kerb, derived=True)
            out.add(f"line/{lane.lane_id}", "lane_boundary", middle, derived=True)
    for i, ring in enumerate(_junction_areas(net, {x.lane_id for x in lanes})):
        out.add(f"area/junction_{i}", "drivable_area", ring, derived=True)


def _junction_areas(net: Net, roadway: set[str]) -> list[Points]:
    """Junctions that roadways lead through, without the areas for walking."""
    inner = {
        x.lane_id[1:].rsplit("_", 2)[0] for x in net.lanes.values() if x.function == "internal" and x.lane_id in roadway
    }
    names = [n for n, shape in net.junctions.items() if n in inner and len(shape) > 2]
    walks = [x.shape for x in net.lanes.values() if x.function == "walkingarea" and len(x.shape) > 2]
    areas = _polygons([net.junctions[n] for n in names])
    if walks:
        tree = shapely.STRtree(_polygons(walks))
        pairs = tree.query(areas, "intersects")
        for junction in np.unique(pairs[0]):
            taken = shapely.union_all(tree.geometries[pairs[1][pairs[0] == junction]])
            areas[junction] = shapely.difference(areas[junction], taken)
    parts = shapely.get_parts(areas)
    parts = parts[(shapely.get_type_id(parts) == 3) & (shapely.area(parts) > 1.0)]
    return [shapely.get_coordinates(shapely.get_exterior_ring(p))[:-1] for p in parts]


def _polygons(rings: list[Points]) -> NDArray[Any]:
    return shapely.make_valid(np.array([shapely.Polygon(r) for r in rings], object))


def _across_end(lane: Lane) -> Points:
    """A segment across the end of a lane, as wide as the lane."""
    last, before = lane.shape[-1], lane.shape[-2]
    along = (last - before) / max(float(np.hypot(*(last - before))), 1e-6)
    across = np.array([-along[1], along[0]]) * lane.width_m / 2
    return np.stack([last - across, last + across])


def beside(lines: list[Points], offset_m: list[float]) -> list[Points]:
    """Lines shifted to the left by their offsets (negative: to the right) [m], mitred at the vertices."""
    counts = np.array([len(x) for x in lines])
    xy = np.concatenate(lines)
    ends = np.cumsum(counts)
    step = np.diff(xy, axis=0)
    unit = step / np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)[:, None]
    normal = np.stack([-unit[:, 1], unit[:, 0]], 1)
    after, before = np.vstack([normal, normal[-1:]]), np.vstack([normal[:1], normal])
    after[ends - 1], before[ends - counts] = before[ends - 1], after[ends - counts]
    bisector = before + after
    scale = 2.0 / np.maximum((bisector**2).sum(1), 1.0)  # at most twice the offset where a line turns sharply
    shifted = xy + bisector * (scale * np.repeat(offset_m, counts))[:, None]
    return np.split(shifted, ends[:-1])
