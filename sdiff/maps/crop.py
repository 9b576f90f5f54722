"""The part of a map around a window, in the window's own frame."""

from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from sdiff.geometry import SE2
from sdiff.logs.driving_log import FEATURE_KINDS, VectorMap

AREAS = tuple(FEATURE_KINDS.index(k) for k in ("drivable_area", "crosswalk", "speed_bump", "driveway"))


def around(map: VectorMap, map_SE2_window: SE2, reach_m: float) -> VectorMap:
    """The features that reach into a square around the window's origin, whole, window frame.

    reach_m: half the square's side [m]. Features without a vertex are left out; links to lanes that are not taken drop.
    """
    x, y = map_SE2_window.inverse().apply(map.xy_m[:, 0], map.xy_m[:, 1])
    xy = np.stack([x, y], 1).astype(np.float64)
    keep = _reaches(map, xy, reach_m)
    new = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
    moved = np.append(new, np.int32(-1))  # where -1 stands for none
    links = new[map.successors]
    vertices = np.diff(map.start)
    return replace(
        map,
        feature_id=map.feature_id[keep],
        kind=map.kind[keep],
        start=np.concatenate([[0], np.cumsum(vertices[keep])]).astype(np.int64),
        xy_m=xy[np.repeat(keep, vertices)],
        left=moved[map.left[keep]],
        right=moved[map.right[keep]],
        successors=links[(links >= 0).all(1)].reshape(-1, 2),
        speed_limit_mps=map.speed_limit_mps[keep],
        width_m=map.width_m[keep],
        lane_type=map.lane_type[keep],
        in_junction=map.in_junction[keep],
        derived=map.derived[keep],
    )


def _reaches(map: VectorMap, xy_m: NDArray[np.float64], reach_m: float) -> NDArray[np.bool_]:
    """Whether a feature's line, or its ring, enters the square, (F,)."""
    first, vertices = map.start[:-1], np.diff(map.start)
    some = vertices > 0
    hit = np.zeros(len(map.kind), bool)
    if not some.any():
        return hit
    low, high = (f.reduceat(xy_m, first[some]) for f in (np.minimum, np.maximum))
    hit[some] = ((low < reach_m) & (high > -reach_m)).all(1)
    # A long road's bounding box may hold the square and the road itself pass it by.
    square = shapely.box(-reach_m, -reach_m, reach_m, reach_m)
    area = np.isin(map.kind, AREAS) & (vertices > 2)
    here = replace(map, xy_m=xy_m)
    for candidates, shapes in ((hit & ~area, lines), (hit & area, _rings)):
        f = np.flatnonzero(candidates)
        hit[f] = shapely.intersects(shapes(here, f), square)
    return hit


def lines(map: VectorMap, features: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """Features as shapely lines, (n,); one of a single vertex has no length."""
    at, owner = _vertices(map, features, 2)
    return np.asarray(shapely.linestrings(map.xy_m[at], indices=owner))


def _rings(map: VectorMap, features: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """Areas of three vertices and more as shapely polygons, (n,)."""
    at, owner = _vertices(map, features, 3)
    return np.asarray(shapely.polygons(shapely.linearrings(map.xy_m[at], indices=owner)))


def _vertices(map: VectorMap, features: NDArray[np.integer[Any]], least: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Vertices of features and which of them each belongs to; the last one again where there are too few."""
    has = np.diff(map.start)[features]
    n = np.maximum(has, least)
    owner = np.repeat(np.arange(len(features)), n)
    nth = np.arange(len(owner)) - (np.cumsum(n) - n)[owner]
    return map.start[features][owner] + np.minimum(nth, has[owner] - 1), owner
