"""ScenarioNet: what MetaDrive replays. A dictionary per scenario, pickled, and two files that make a folder a data set.

The frame is the window's, which is right-handed as MetaDrive's is: x forward, y left, metres; headings run
counter-clockwise from x. The fields: https://scenarionet.readthedocs.io/en/latest/description.html.
Pickles are written here, never read.
"""

import io
import pickle
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S, __version__, storage
from sdiff.export import ORIGIN, File, Scene
from sdiff.logs.driving_log import LANE_TYPES, VectorMap
from sdiff.maps.crop import lines
from sdiff.scene import STEPS_PAST, Agents
from sdiff.windows import WindowLights

Array = NDArray[Any]
Features = dict[str, dict[str, Any]]

SUMMARY, MAPPING = "dataset_summary.pkl", "dataset_mapping.pkl"
PROTOCOL = 4
"""Of pickle: Python 3.4 and newer read it."""

TYPES = {
    "car": "VEHICLE",
    "truck": "VEHICLE",
    "bus": "VEHICLE",
    "vehicle": "VEHICLE",
    "motorcyclist": "CYCLIST",
    "cyclist": "CYCLIST",
    "pedestrian": "PEDESTRIAN",
    "other": "OTHER",
}
"""Kind -> ScenarioNet type. A motorcycle is a cyclist: MetaDrive's smallest vehicle is a car, twice as long."""

HEIGHT_M = {
    "car": 1.5,
    "truck": 3.3,
    "bus": 3.2,
    "vehicle": 1.6,
    "motorcyclist": 1.7,
    "cyclist": 1.75,
    "pedestrian": 1.75,
    "other": 1.0,
}
"""Scenarios have no heights: what is usual for each kind [m]."""

LANES = {"vehicle": "LANE_SURFACE_STREET", "bus": "LANE_SURFACE_STREET", "bike": "LANE_BIKE_LANE"}
AREAS = {"crosswalk": "CROSSWALK", "speed_bump": "SPEED_BUMP", "driveway": "DRIVEWAY"}
LINES = {"road_edge": "ROAD_EDGE_BOUNDARY"}
LIGHTS = ("LANE_STATE_UNKNOWN", "LANE_STATE_STOP", "LANE_STATE_CAUTION", "LANE_STATE_GO")
"""Signal states in the order of LIGHT_STATES."""

DIVIDER_M = 0.75
"""A line this near the middle between two neighbouring lanes divides them [m]."""
AT_STOP_M = 3.0
"""A signal and a stop line this near belong together [m]."""
LEADS_UP_M = 0.5
"""A lane leads up to a stop line that it comes this near [m]."""
MOVED_M = 1.0
"""ScenarioNet counts as moving what goes farther than this [m]."""


def encode(scene: Scene) -> File:
    """The scenario as a pickle of plain Python and NumPy values."""
    description = describe(scene)
    return File(f"sd_sdiff_{storage.file_name(description['id'])}.pkl", _pickled(description), description["metadata"])


def index(entries: Mapping[str, Any]) -> dict[str, bytes]:
    """The summary, metadata by file, and the mapping, in which folder each file lies: this one."""
    return {MAPPING: _pickled(dict.fromkeys(entries, "")), SUMMARY: _pickled(dict(entries))}


def describe(scene: Scene) -> dict[str, Any]:
    """The scenario as ScenarioNet's ScenarioDescription."""
    agents, name = scene.agents, str(scene.facts["scenario_id"])
    steps = agents.valid.shape[1]
    tracks = _tracks(agents)
    features = _map_features(scene.map, scene.lights)
    lights = {k: v for k, v in _dynamic_map_states(scene.lights, steps).items() if k in features}
    ego = int(np.flatnonzero(agents.is_ego)[0])
    asked = np.zeros(len(agents), bool) if agents.token_index is None else agents.token_index >= 0
    objects = {k: _object_summary(k, t) for k, t in tracks.items()}
    return {
        "id": name,
        "version": f"sdiff {__version__}",
        "length": steps,
        "tracks": tracks,
        "dynamic_map_states": lights,
        "map_features": features,
        "metadata": {
            "ts": (np.arange(steps) * STEP_S).astype(np.float32),
            "coordinate": "metadrive",
            "metadrive_processed": False,
            "dataset": "sdiff",
            "id": name,
            "scenario_id": name,
            "sample_rate": STEP_S,
            "track_length": steps,
            "current_time_index": STEPS_PAST,
            "sdc_id": str(agents.agent_id[ego]),
            "sdc_track_index": ego,
            "objects_of_interest": agents.agent_id[asked & ~agents.is_ego].tolist(),
            "sdiff": {
                **{k: v for k, v in scene.facts.items() if k not in ORIGIN},
                "crs": scene.map.crs,
                "map_SE2_window": [float(v) for v in scene.map_SE2_window],
            },
            "object_summary": objects,
            "number_summary": _number_summary(objects, lights, features),
        },
    }


def _tracks(agents: Agents) -> Features:
    kinds = [KINDS[k] for k in agents.kind]
    valid = agents.valid
    heights = np.array([HEIGHT_M[k] for k in kinds], np.float32)
    position = np.stack([agents.x_m, agents.y_m, np.zeros_like(agents.x_m)], -1)
    velocity = np.stack([agents.vx_mps, agents.vy_mps], -1)
    sizes = {"length": agents.length_m, "width": agents.width_m, "height": heights}
    tracks: Features = {}
    for i, (name, kind) in enumerate(zip(agents.agent_id.tolist(), kinds, strict=True)):
        type = "VEHICLE" if agents.is_ego[i] else TYPES[kind]  # whatever kind the model made of the AV
        tracks[name] = {
            "type": type,
            "state": {
                "position": np.where(valid[i, :, None], position[i], np.float32(0)),
                "heading": np.where(valid[i], agents.heading_rad[i], np.float32(0)),
                "velocity": np.where(valid[i, :, None], velocity[i], np.float32(0)),
                **{k: np.where(valid[i], v[i], np.float32(0)) for k, v in sizes.items()},
                "valid": valid[i],
            },
            "metadata": {
                "type": type,
                "object_id": name,
                "track_length": valid.shape[1],
                "dataset": "sdiff",
                "kind": kind,
                **({} if agents.score is None else {"score": float(agents.score[i])}),
                **({} if agents.token_index is None else {"token_index": int(agents.token_index[i])}),
            },
        }
    return tracks


def _map_features(map: VectorMap, lights: WindowLights) -> Features:
    """Lanes, what divides and bounds them, crosswalks, sidewalks, stop signs; drivable areas have no name there."""
    features: Features = {}
    every = map.of_kind("lane_centerline")
    every = every[np.diff(map.start)[every] > 1]
    on_foot = map.lane_type[every] == LANE_TYPES.index("pedestrian")
    traffic, walks = every[~on_foot], every[on_foot & ~map.in_junction[every]]
    links = _links(map)
    for f, ring in zip(traffic.tolist(), _surfaces(map, traffic), strict=True):
        features[str(map.feature_id[f])] = _lane(map, f, ring, *links)
    for f, ring in zip(walks.tolist(), _surfaces(map, walks), strict=True):
        if ring is not None:
            features[str(map.feature_id[f])] = {"type": "ROAD_EDGE_SIDEWALK", "polygon": ring}
    for f, divides in zip(map.of_kind("lane_boundary"), _divides(map), strict=True):
        kind = "ROAD_LINE_BROKEN_SINGLE_WHITE" if divides else "UNKNOWN_LINE"
        features[str(map.feature_id[f])] = {"type": kind, "polyline": _points(map, int(f))}
    for kind, name in LINES.items():
        for f in map.of_kind(kind):
            features[str(map.feature_id[f])] = {"type": name, "polyline": _points(map, int(f))}
    for kind, name in AREAS.items():
        for f in map.of_kind(kind):
            features[str(map.feature_id[f])] = {"type": name, "polygon": _points(map, int(f))}
    return features | _stop_signs(map, traffic, lights)


def _lane(
    map: VectorMap, f: int, ring: Array | None, entries: dict[int, list[str]], exits: dict[int, list[str]]
) -> dict[str, Any]:
    line = _points(map, f)
    lane: dict[str, Any] = {
        "type": LANES.get(LANE_TYPES[map.lane_type[f]] if map.lane_type[f] >= 0 else "vehicle"),
        "polyline": line,
        "entry_lanes": entries.get(f, []),
        "exit_lanes": exits.get(f, []),
        "left_neighbor": _neighbour(map, f, int(map.left[f])),
        "right_neighbor": _neighbour(map, f, int(map.right[f])),
        "interpolating": False,
        "in_junction": bool(map.in_junction[f]),
    }
    if np.isfinite(map.speed_limit_mps[f]):
        lane |= {"speed_limit_kmh": float(map.speed_limit_mps[f] * 3.6)}
    if ring is not None:
        half = np.full((len(line), 2), map.width_m[f] / 2, np.float32)
        lane |= {"width": half, "polygon": ring}
    return lane


def _links(map: VectorMap) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Names of the lanes before and after each lane."""
    entries: dict[int, list[str]] = {}
    exits: dict[int, list[str]] = {}
    for a, b in map.successors.tolist():
        exits.setdefault(a, []).append(str(map.feature_id[b]))
        entries.setdefault(b, []).append(str(map.feature_id[a]))
    return entries, exits


def _neighbour(map: VectorMap, f: int, other: int) -> list[dict[str, Any]]:
    """The neighbour in the same direction, along the whole of both lanes: tables say no more."""
    if other < 0:
        return []
    return [
        {
            "feature_id": str(map.feature_id[other]),
            "self_start_index": 0,
            "self_end_index": len(map.points(f)) - 1,
            "neighbor_start_index": 0,
            "neighbor_end_index": len(map.points(other)) - 1,
            "boundaries": [],
        }
    ]


def _surfaces(map: VectorMap, lanes: Array) -> list[Array | None]:
    """Lanes as rings, (n, 2) each [m]; None where the width is unknown."""
    half = np.nan_to_num(map.width_m[lanes].astype(np.float64)) / 2
    shapes = shapely.buffer(lines(map, lanes), half, cap_style="flat", join_style="mitre", mitre_limit=2)
    rings = shapely.get_exterior_ring(shapes)  # None for what is no polygon
    counts = shapely.get_num_coordinates(rings)
    parts = np.split(shapely.get_coordinates(rings).astype(np.float32), np.cumsum(counts)[:-1]) if len(lanes) else []
    return [part[:-1] if len(part) else None for part in parts]


def _divides(map: VectorMap) -> NDArray[np.bool_]:
    """Whether each lane boundary runs between two neighbouring lanes of one direction, and may be crossed."""
    boundaries, right = map.of_kind("lane_boundary"), np.flatnonzero(map.left >= 0)
    if not len(boundaries) or not len(right):
        return np.zeros(len(boundaries), bool)
    ways = [lines(map, f) for f in (right, map.left[right])]
    to_right, to_left = (shapely.distance(_middles(map, boundaries)[:, None], way[None]) for way in ways)
    apart = shapely.distance(_middles(map, right), ways[1])
    between = (np.abs(to_right - to_left) < 2 * DIVIDER_M) & (to_right + to_left < apart + DIVIDER_M)
    return between.any(1)


def _middles(map: VectorMap, features: Array) -> Array:
    """The point half-way along each line, (n,) shapely points."""
    return np.asarray(shapely.line_interpolate_point(lines(map, features), 0.5, normalized=True))


def _stop_signs(map: VectorMap, lanes: Array, lights: WindowLights) -> Features:
    """A sign at each stop line that no signal is near, with the lanes that lead up to it."""
    signs: Features = {}
    stops, entering = map.of_kind("stop_line"), lanes[~map.in_junction[lanes]]
    ways = lines(map, entering)
    signals = shapely.points(lights.x_m.astype(float), lights.y_m.astype(float))
    for f, line, middle in zip(stops.tolist(), lines(map, stops), _middles(map, stops), strict=True):
        if shapely.dwithin(signals, middle, AT_STOP_M).any():
            continue
        near = entering[shapely.dwithin(ways, line, LEADS_UP_M)]
        signs[str(map.feature_id[f])] = {
            "type": "STOP_SIGN",
            "position": np.array([middle.x, middle.y, 0.0], np.float32),
            "lane": map.feature_id[near].tolist(),
            "polyline": _points(map, f),
        }
    return signs


def _points(map: VectorMap, f: int) -> Array:
    """Vertices as (n, 3) float32 [m], on flat ground."""
    xy = map.points(f)
    return np.concatenate([xy, np.zeros((len(xy), 1))], 1).astype(np.float32)


def _dynamic_map_states(lights: WindowLights, steps: int) -> Features:
    """Signals by the lane that they control."""
    return {
        lane: {
            "type": "TRAFFIC_LIGHT",
            "state": {"object_state": [LIGHTS[s] for s in states]},
            "lane": lane,
            "stop_point": np.array([x, y, 0.0], np.float32),
            "metadata": {"type": "TRAFFIC_LIGHT", "object_id": lane, "track_length": steps, "dataset": "sdiff"},
        }
        for lane, x, y, states in zip(
            *(lights.feature_id.tolist(), lights.x_m.tolist(), lights.y_m.tolist(), lights.state.tolist()), strict=True
        )
    }


def _object_summary(name: str, track: dict[str, Any]) -> dict[str, Any]:
    valid = track["state"]["valid"]
    seen = track["state"]["position"][valid, :2].astype(np.float64)
    first = int(valid.argmax())
    gone = np.flatnonzero(~valid[first:])
    return {
        "type": track["type"],
        "object_id": name,
        "track_length": len(valid),
        "moving_distance": float(np.hypot(*np.diff(seen, axis=0).T).sum()),
        "valid_length": int(valid.sum()),
        "continuous_valid_length": int(gone[0]) if len(gone) else len(valid) - first,
    }


def _number_summary(objects: Features, lights: Features, features: Features) -> dict[str, Any]:
    """Lists where ScenarioNet's own converters have sets: the order of a set of words changes from run to run."""
    types = Counter(o["type"] for o in objects.values())
    moving = Counter(o["type"] for o in objects.values() if o["moving_distance"] > MOVED_M)
    states = Counter(s for light in lights.values() for s in light["state"]["object_state"])
    return {
        "num_objects": len(objects),
        "object_types": sorted(types),
        "num_objects_each_type": dict(sorted(types.items())),
        "num_moving_objects": moving.total(),
        "num_moving_objects_each_type": dict(sorted(moving.items())),
        "num_traffic_lights": len(lights),
        "num_traffic_light_types": sorted(states),
        "num_traffic_light_each_step": dict(sorted(states.items())),
        "num_map_features": len(features),
        "map_height_diff": 0.0,
    }


class _Pickler(pickle.Pickler):
    """Equal values give equal bytes, and arrays load with any version of NumPy, 1 and 2."""

    def __init__(self, out: io.BytesIO) -> None:
        super().__init__(out, PROTOCOL)
        self.fast = True  # no memo: it would tell equal strings from the same string

    def reducer_override(self, obj: Any) -> Any:
        # Arrays pickle themselves by the name of a private module, which NumPy 2 has renamed.
        if isinstance(obj, np.ndarray):
            return np.ndarray, (obj.shape, obj.dtype.str, bytearray(obj.tobytes()))
        return NotImplemented


def _pickled(value: Any) -> bytes:
    out = io.BytesIO()
    _Pickler(out).dump(value)
    return out.getvalue()
