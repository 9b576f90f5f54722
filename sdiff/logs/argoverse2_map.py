"""Maps of Argoverse 2, as its motion and its sensor dataset have them: one log_map_archive_*.json per log.

Format: https://argoverse.github.io/user-guide/api/hd_maps.html
"""

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from sdiff.logs import read_json
from sdiff.logs.driving_log import LANE_TYPES, BadRecord, VectorMap
from sdiff.maps import Features, Lanes, Lines, derive, vector_map

NOT_PAINTED = ("NONE", "UNKNOWN")


def read(uri: str, map_id: str) -> VectorMap:
    """The map at `uri`. Raises BadRecord where it is no such map, storage.StorageError where it cannot be read."""
    try:
        return map_of(read_json(uri), map_id)
    except BadRecord as error:
        raise BadRecord(f"the map beside the scenario is {error}") from error


def map_of(archive: Any, map_id: str) -> VectorMap:
    """The map in the JSON of an archive. A lane without a centerline (sensor dataset) has it between its sides.

    Raises BadRecord where it is no such map.
    """
    try:
        segments = list(archive["lane_segments"].values())
        return vector_map(
            map_id,
            _lanes(segments),
            [
                Features("lane_boundary", _painted_lines(segments)),
                Features("drivable_area", _lines([a["area_boundary"] for a in archive["drivable_areas"].values()])),
                Features("crosswalk", _crossings(list(archive["pedestrian_crossings"].values()))),
            ],
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, IndexError, shapely.GEOSException) as error:
        raise BadRecord(
            f"not an Argoverse 2 map: {type(error).__name__} {str(error)[:200]}; expected lane_segments, "
            "drivable_areas and pedestrian_crossings with points of x and y"
        ) from error


def _lines(polylines: list[list[dict[str, float]]]) -> Lines:
    """Lines from the source's lists of points."""
    x = np.array([p["x"] for line in polylines for p in line], np.float64)
    y = np.array([p["y"] for line in polylines for p in line], np.float64)
    return Lines.of_lengths([len(line) for line in polylines], np.stack([x, y], -1))


def _lanes(segments: list[dict[str, Any]]) -> Lanes:
    sides = ("left_lane_boundary", "right_lane_boundary")
    segments = [s for s in segments if min(len(s[side]) for side in sides) > 1 and len(s.get("centerline", "ab")) > 1]
    ids = [str(s["id"]) for s in segments]
    index = {lane_id: i for i, lane_id in enumerate(ids)}
    lines = _centerlines(segments)
    pairs = [(i, index.get(str(to), -1)) for i, s in enumerate(segments) for to in s["successors"]]
    successors = np.array(pairs, np.int32).reshape(-1, 2)

    def neighbours(side: str) -> NDArray[np.int32]:
        return np.array([index.get(str(s[f"{side}_neighbor_id"]), -1) for s in segments], np.int32)

    outlines = _lines([s["left_lane_boundary"] + s["right_lane_boundary"][::-1] for s in segments])
    area_m2 = shapely.area(shapely.polygons(shapely.linearrings(outlines.xy_m, indices=outlines.owner)))
    along = lines.xy_m[lines.start[1:] - 1] - lines.xy_m[lines.start[:-1]]
    return Lanes(
        ids=ids,
        lines=lines,
        successors=successors[successors[:, 1] >= 0],  # the archive is cut out of the city's map: some lead out of it
        left=_same_direction(neighbours("left"), along),
        right=_same_direction(neighbours("right"), along),
        in_junction=np.array([s["is_intersection"] for s in segments], bool),
        lane_type=np.array([LANE_TYPES.index(s["lane_type"].lower()) for s in segments], np.int8),
        width_m=(area_m2 / derive.lengths(lines)).astype(np.float32),
        speed_limit_mps=np.full(len(ids), np.nan, np.float32),
        links_derived=False,
    )


def _centerlines(segments: list[dict[str, Any]]) -> Lines:
    if all("centerline" in s for s in segments):
        return _lines([s["centerline"] for s in segments])
    left, right = (_lines([s[f"{side}_lane_boundary"] for s in segments]) for side in ("left", "right"))
    return derive.between(left, right)


def _same_direction(neighbour: NDArray[np.int32], along: NDArray[np.float64]) -> NDArray[np.int32]:
    """Neighbours without those of the oncoming traffic, which the source names too."""
    return np.where((neighbour >= 0) & ((along * along[neighbour]).sum(-1) > 0), neighbour, -1).astype(np.int32)


def _painted_lines(segments: list[dict[str, Any]]) -> Lines:
    """Painted boundaries, each once: two neighbours hold the line between them, often in opposite directions."""
    sides = [(s[f"{side}_lane_boundary"], s[f"{side}_lane_mark_type"]) for s in segments for side in ("left", "right")]
    painted = [line for line, mark in sides if mark not in NOT_PAINTED and len(line) > 1]
    ends = [sorted([(line[0]["x"], line[0]["y"]), (line[-1]["x"], line[-1]["y"])]) for line in painted]
    once = {(*a, *b, len(line)): line for line, (a, b) in zip(painted, ends, strict=True)}
    return _lines(list(once.values()))


def _crossings(crossings: list[dict[str, Any]]) -> Lines:
    """Crosswalks as rings: one edge there, the other back."""
    there, back = _lines([c["edge1"] for c in crossings]), _lines([c["edge2"] for c in crossings])
    rings = []
    for i in range(len(crossings)):
        a, b = there.line(i), back.line(i)
        opposed = (a[-1] - a[0]) @ (b[-1] - b[0]) < 0
        rings.append(np.concatenate([a, b if opposed else b[::-1]]))
    return Lines.of(rings)
