"""A SUMO street network as a vector map. Source: https://sumo.dlr.de/docs/Networks/SUMO_Road_Networks.html"""

import hashlib
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff.logs.driving_log import FEATURE_KINDS, LANE_TYPES, BadRecord, VectorMap

DEFAULT_LANE_WIDTH_M = 3.2
STOP_STATES = "om="
"""States of a connection whose lane ends in a stop line although no light is there: o off-blinking, m minor, = equal."""

Points = NDArray[np.float64]


class SignalLink(NamedTuple):
    """One connection under a light: which light and which letter of its state, the lane within the junction."""

    light: str
    index: int
    lane: int
    stop_x_m: float
    stop_y_m: float


@dataclass(frozen=True)
class Lane:
    """One lane of the file. allow: vehicle classes, None = all. function: normal, internal, crossing, walkingarea."""

    lane_id: str
    edge_id: str
    index: int
    lane_type: str | None
    function: str
    width_m: float
    speed_mps: float
    length_m: float
    shape: Points
    outline: Points | None


@dataclass
class Net:
    """What the network file says, as far as it is used here. connections: (from, to, via, light, link index, state)."""

    digest: str
    crs: str | None
    lanes: dict[str, Lane] = field(default_factory=dict)
    junctions: dict[str, Points] = field(default_factory=dict)
    connections: list[tuple[str, str, str, str, int, str]] = field(default_factory=list)

    def length_m(self, lane_type: str) -> float:
        """Length of all lanes of one type outside junctions [m]."""
        return sum(x.length_m for x in self.lanes.values() if x.function == "normal" and x.lane_type == lane_type)


def parse(data: bytes) -> Net:
    """The network in a `.net.xml` file's bytes (not compressed). Raises BadRecord where it is none."""
    net = Net(hashlib.sha256(_without_comments(data)).hexdigest()[:16], None)
    edge_id, function, root = "", "", ""
    try:
        for event, el in ET.iterparse(BytesIO(data), ("start", "end")):
            tag = el.tag
            if event == "start":
                root = root or tag
                if tag == "edge":
                    edge_id, function = el.attrib["id"], el.attrib.get("function", "normal")
                continue
            a = el.attrib
            if tag == "lane":
                lane = _lane(a, edge_id, function)
                net.lanes[lane.lane_id] = lane
            elif tag == "connection":
                net.connections.append(_connection(a))
            elif tag == "junction" and a.get("type") != "internal" and "shape" in a:
                net.junctions[a["id"]] = _shape(a["shape"])
            elif tag == "location":
                net.crs = None if a.get("projParameter", "!") in ("!", "-") else a["projParameter"]
            elif tag in ("edge", "tlLogic"):
                el.clear()
    except (ET.ParseError, KeyError, ValueError) as error:
        raise BadRecord(
            f"SUMO network cannot be parsed ({error!r}); expected a .net.xml written by netconvert"
        ) from None
    if root != "net" or not net.lanes:
        raise BadRecord(f"SUMO network has root <{root}> and {len(net.lanes)} lanes, expected <net> with lanes")
    return net


def _without_comments(data: bytes) -> bytes:
    """The file without the head comment, which holds the date it was made."""
    start, end = data.find(b"<!--"), data.find(b"-->")
    return data[:start] + data[end + 3 :] if 0 <= start < end else data


def _shape(text: str) -> Points:
    points = np.array(text.replace(",", " ").split(), np.float64)
    dims = text.split(" ", 1)[0].count(",") + 1
    return points.reshape(-1, dims)[:, :2]


def _connection(a: dict[str, str]) -> tuple[str, str, str, str, int, str]:
    source, target = f"{a['from']}_{a['fromLane']}", f"{a['to']}_{a['toLane']}"
    return source, target, a.get("via", ""), a.get("tl", ""), int(a.get("linkIndex", -1)), a.get("state", "M")


def _lane(a: dict[str, str], edge_id: str, function: str) -> Lane:
    return Lane(
        a["id"],
        edge_id,
        int(a["index"]),
        "pedestrian" if function in ("crossing", "walkingarea") else lane_type(a.get("allow"), a.get("disallow")),
        function,
        float(a.get("width", DEFAULT_LANE_WIDTH_M)),
        float(a["speed"]),
        float(a["length"]),
        _shape(a["shape"]),
        _shape(a["outlineShape"]) if "outlineShape" in a else None,
    )


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
class _Builder:
    """Features as they are found, before they become ragged arrays."""

    ids: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    shapes: list[Points] = field(default_factory=list)
    lanes: list[Lane | None] = field(default_factory=list)
    derived: list[bool] = field(default_factory=list)

    def add(self, feature_id: str, kind: str, shape: Points, lane: Lane | None = None, derived: bool = False) -> int:
        self.ids.append(feature_id)
        self.kinds.append(kind)
        self.shapes.append(shape)
        self.lanes.append(lane)
        self.derived.append(derived)
        return len(self.ids) - 1


def vector_map(net: Net) -> tuple[VectorMap, list[SignalLink]]:
    """The network as a vector map, and the connections under lights."""
    out = _Builder()
    lane_index: dict[str, int] = {}
    for lane in net.lanes.values():
        if lane.lane_type and lane.function in ("normal", "internal") and len(lane.shape) > 1:
            lane_index[lane.lane_id] = out.add(f"lane/{lane.lane_id}", "lane_centerline", lane.shape, lane)
    successors, links, stops = _links(net, lane_index)
    _add_lines_and_areas(net, out)
    for lane_id in sorted(stops):
        lane = net.lanes[lane_id]
        out.add(f"stop/{lane_id}", "stop_line", _across_end(lane), derived=True)
    n = len(out.ids)
    left, right = _neighbours(net, lane_index, n)
    counts = [len(s) for s in out.shapes]
    lanes = out.lanes
    return VectorMap(
        map_id=f"sumo-{net.digest}",
        feature_id=np.array(out.ids, np.str_),
        kind=np.array([FEATURE_KINDS.index(k) for k in out.kinds], np.int8),
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        xy_m=np.concatenate(out.shapes) if n else np.zeros((0, 2)),
        left=left,
        right=right,
        successors=successors,
        speed_limit_mps=np.array([x.speed_mps if x else np.nan for x in lanes], np.float32),
        width_m=np.array([x.width_m if x else np.nan for x in lanes], np.float32),
        lane_type=np.array([LANE_TYPES.index(x.lane_type) if x and x.lane_type else -1 for x in lanes], np.int8),
        in_junction=np.array([bool(x and x.function == "internal") for x in lanes]),
        derived=np.array(out.derived, bool),
        crs=net.crs,
    ), links


def _links(net: Net, lane_index: dict[str, int]) -> tuple[NDArray[np.int32], list[SignalLink], set[str]]:
    """Successor pairs (through the junction's own lanes), connections under lights, lanes that end in a stop line."""
    pairs, links, stops = set(), [], set()
    for source, target, via, light, index, state in net.connections:
        a, b = lane_index.get(source), lane_index.get(via or target)
        if a is None or b is None:
            continue
        pairs.add((a, b))
        lane = net.lanes[source]
        if lane.function == "normal" and lane.lane_type != "pedestrian":
            if light:
                links.append(SignalLink(light, index, b, *map(float, lane.shape[-1])))
            if light or state in STOP_STATES or state in "swZ":
                stops.add(source)
    return np.array(sorted(pairs), np.int32).reshape(-1, 2), links, stops


def _neighbours(net: Net, lane_index: dict[str, int], n: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Neighbours in the same direction: lanes of one edge, counted from the right."""
    left, right = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    for lane_id, f in lane_index.items():
        lane = net.lanes[lane_id]
        beside = lane_index.get(f"{lane.edge_id}_{lane.index + 1}")
        if beside is not None:
            left[f], right[beside] = beside, f
    return left, right


def _add_lines_and_areas(net: Net, out: _Builder) -> None:
    edges: dict[str, list[Lane]] = {}
    for lane in net.lanes.values():
        if lane.function in ("normal", "crossing"):
            edges.setdefault(lane.edge_id, []).append(lane)
    for edge_id, lanes in edges.items():
        if lanes[0].function == "crossing":
            shape = lanes[0].outline if lanes[0].outline is not None else band(lanes[0].shape, lanes[0].width_m)
            out.add(f"crosswalk/{edge_id}", "crosswalk", shape, derived=lanes[0].outline is None)
            continue
        roadway = [x for x in lanes if x.lane_type in ("vehicle", "bus", "bike") and len(x.shape) > 1]
        for i, lane in enumerate(roadway):
            out.add(f"area/{lane.lane_id}", "drivable_area", band(lane.shape, lane.width_m), derived=True)
            if i == 0:
                out.add(f"edge/{lane.lane_id}", "road_edge", beside(lane.shape, -lane.width_m / 2), derived=True)
            out.add(f"line/{lane.lane_id}", "lane_boundary", beside(lane.shape, lane.width_m / 2), derived=True)
    for lane in net.lanes.values():
        if lane.function == "internal" and lane.lane_type in ("vehicle", "bus", "bike") and len(lane.shape) > 1:
            out.add(f"area/{lane.lane_id}", "drivable_area", band(lane.shape, lane.width_m), derived=True)
    return


def _across_end(lane: Lane) -> Points:
    """A segment across the end of a lane, as wide as the lane."""
    last, before = lane.shape[-1], lane.shape[-2]
    along = (last - before) / max(float(np.hypot(*(last - before))), 1e-6)
    across = np.array([-along[1], along[0]]) * lane.width_m / 2
    return np.stack([last - across, last + across])


def beside(line: Points, offset_m: float) -> Points:
    """A line shifted to the left by `offset_m` (negative: to the right), mitred at its vertices. (n, 2) -> (n, 2)."""
    step = np.diff(line, axis=0)
    unit = step / np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)[:, None]
    normal = np.stack([-unit[:, 1], unit[:, 0]], 1)
    before, after = np.vstack([normal[:1], normal]), np.vstack([normal, normal[-1:]])
    bisector = before + after
    scale = 2.0 / np.maximum((bisector**2).sum(1), 1.0)  # at most twice the offset where the line turns sharply
    return line + bisector * scale[:, None] * offset_m


def band(line: Points, width_m: float) -> Points:
    """The open ring around a line of some width. (n, 2) -> (2n, 2)."""
    return np.vstack([beside(line, -width_m / 2), beside(line, width_m / 2)[::-1]])
