"""What a map's source leaves out, computed from its geometry: lane links, junction lanes, drivable area, stop lines."""

from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.spatial import cKDTree

from sdiff.geometry import wrap_angle
from sdiff.maps import Lines

LANE_WIDTH_M = 3.8
"""Width of a lane whose source does not say."""

JOIN_M = 1.0
"""Farthest that a lane may start from the end of the lane that leads into it."""
JOIN_RAD = 0.6

SAMPLE_M = 2.0
NEIGHBOUR_M = (1.5, 5.5)
"""How far to the side a neighbouring lane may lie."""
NEIGHBOUR_RAD = 0.35
NEIGHBOUR_SHARE = 0.5
"""Share of the shorter lane that must lie beside the other."""

CROSSING_RAD = 0.35
"""Angle from which two lanes that meet cross or part in a junction, rather than change places."""

REACH_M = 8.0
"""How far from a lane's centre the carriageway is searched for its edge."""
HOLE_M2 = 150.0
"""Largest hole between lanes that is carriageway where no road edge lies in it."""


class Samples(NamedTuple):
    """Points along lines. line: (K,). x_m, y_m, heading_rad, along_m (arc length from the line's start): (K,)."""

    line: NDArray[np.int64]
    x_m: NDArray[np.float64]
    y_m: NDArray[np.float64]
    heading_rad: NDArray[np.float64]
    along_m: NDArray[np.float64]


class LaneLinks(NamedTuple):
    """successors: (S, 2) int32 pairs (from, to). left, right: (n,) int32, -1 for none. in_junction: (n,) bool."""

    successors: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    in_junction: NDArray[np.bool_]


def lengths(lines: Lines) -> NDArray[np.float64]:
    """Length of each line, (n,) [m]."""
    arc = _arc(lines)
    return arc[lines.start[1:] - 1] - arc[lines.start[:-1]]


def sample(lines: Lines, spacing_m: float) -> Samples:
    """Points at most `spacing_m` apart along each line, both ends included; headings over 1 m of the line.

    Every line needs two vertices or more.
    """
    arc = _arc(lines)
    begin, length = arc[lines.start[:-1]], lengths(lines)
    pieces = np.maximum(np.ceil(length / spacing_m).astype(np.int64), 1)
    line = np.repeat(np.arange(lines.count), pieces + 1)
    nth = np.arange(len(line)) - np.repeat(np.concatenate([[0], np.cumsum(pieces + 1)[:-1]]), pieces + 1)
    along = nth / pieces[line] * length[line]

    def at(offset: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        s = begin[line] + np.clip(along + offset, 0, length[line])
        return np.interp(s, arc, lines.xy_m[:, 0]), np.interp(s, arc, lines.xy_m[:, 1])

    (x0, y0), (x, y), (x1, y1) = at(-0.5), at(0.0), at(0.5)
    return Samples(line, x, y, np.arctan2(y1 - y0, x1 - x0), along)


def lane_links(lines: Lines) -> LaneLinks:
    """Successors, neighbours in the same direction and junction lanes of centrelines in driving direction."""
    samples = sample(lines, SAMPLE_M)
    successors = _successors(lines, samples)
    left, right = _neighbours(lines, samples)
    return LaneLinks(successors, left, right, _in_junction(lines, samples, successors))


def _arc(lines: Lines) -> NDArray[np.float64]:
    """Arc length at every vertex, (P,), over all lines laid end to end with 1 m between two."""
    step = np.hypot(*np.diff(lines.xy_m, axis=0).T)
    step[lines.start[1:-1] - 1] = 1.0  # keeps the arc length unique where one line ends and the next begins
    return np.concatenate([[0.0], np.cumsum(step)])


def _ends(lines: Lines, samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the first and the last sample of each line."""
    first = np.searchsorted(samples.line, np.arange(lines.count))
    return first, np.concatenate([first[1:], [len(samples.line)]]) - 1


def _successors(lines: Lines, samples: Samples) -> NDArray[np.int32]:
    first, last = _ends(lines, samples)
    xy = np.stack([samples.x_m, samples.y_m], -1)
    pairs = cKDTree(xy[last]).sparse_distance_matrix(cKDTree(xy[first]), JOIN_M, output_type="ndarray")
    a, b = pairs["i"], pairs["j"]
    turn = np.abs(wrap_angle(samples.heading_rad[first[b]] - samples.heading_rad[last[a]]))
    keep = (a != b) & (turn < JOIN_RAD)
    found = np.stack([a[keep], b[keep]], -1).astype(np.int32)
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def _neighbours(lines: Lines, samples: Samples) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    xy = np.stack([samples.x_m, samples.y_m], -1)
    i, j = cKDTree(xy).query_pairs(NEIGHBOUR_M[1] + SAMPLE_M, output_type="ndarray").T
    i, j = np.concatenate([i, j]), np.concatenate([j, i])
    keep = samples.line[i] != samples.line[j]
    i, j = i[keep], j[keep]
    c, s = np.cos(samples.heading_rad[i]), np.sin(samples.heading_rad[i])
    dx, dy = (xy[j] - xy[i]).T
    forward, leftward = c * dx + s * dy, c * dy - s * dx
    aligned = np.abs(wrap_angle(samples.heading_rad[j] - samples.heading_rad[i])) < NEIGHBOUR_RAD
    keep = aligned & (np.abs(forward) <= SAMPLE_M / 2 + 0.1)
    keep &= (np.abs(leftward) >= NEIGHBOUR_M[0]) & (np.abs(leftward) <= NEIGHBOUR_M[1])
    return tuple(  # type: ignore[return-value]
        _beside(lines, samples, i[on_side], j[on_side], np.abs(leftward[on_side]))
        for on_side in (keep & (leftward > 0), keep & (leftward < 0))
    )


def _beside(
    lines: Lines, samples: Samples, i: NDArray[np.int64], j: NDArray[np.int64], aside_m: NDArray[np.float64]
) -> NDArray[np.int32]:
    """For each line the nearest line that accompanies it, given the sample pairs (i, j) that lie side by side."""
    n = lines.count
    per_sample = np.unique(np.stack([i, samples.line[j]], -1), axis=0)  # one sample counts once for a neighbour
    shape = (n, n)
    together = coo_array((np.ones(len(per_sample)), (samples.line[per_sample[:, 0]], per_sample[:, 1])), shape)
    together = together.tocsr()
    pairs = coo_array((np.ones(len(i)), (samples.line[i], samples.line[j])), shape).tocsr().tocoo()
    distance = coo_array((aside_m, (samples.line[i], samples.line[j])), shape).tocsr().tocoo()
    count = np.bincount(samples.line, minlength=n)
    a, b = pairs.row, pairs.col
    share = np.asarray(together[a, b]).ravel() / np.minimum(count[a], count[b])
    keep = share >= NEIGHBOUR_SHARE
    a, b, mean = a[keep], b[keep], (distance.data / pairs.data)[keep]
    order = np.lexsort((-mean, a))  # the nearest comes last and wins
    found = np.full(n, -1, np.int32)
    found[a[order]] = b[order]
    return found


def _in_junction(lines: Lines, samples: Samples, successors: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Lanes that cross another, or that part from one before they meet another, at an angle."""
    geometry = shapely.linestrings(lines.xy_m, indices=lines.owner)
    a, b = shapely.STRtree(geometry).query(geometry, predicate="intersects")
    a, b = a[a < b], b[a < b]
    first, last = _ends(lines, samples)
    meet = shapely.get_coordinates(shapely.point_on_surface(shapely.intersection(geometry[a], geometry[b])))

    def heading_there(line: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        along = shapely.line_locate_point(geometry[line], shapely.points(meet))
        nth = np.rint(along / np.maximum(samples.along_m[last[line]], 1e-9) * (last - first)[line]).astype(np.int64)
        to_end = np.minimum(along, samples.along_m[last[line]] - along)
        return samples.heading_rad[first[line] + nth], to_end

    heading_a, to_end_a = heading_there(a)
    heading_b, to_end_b = heading_there(b)
    inside = (to_end_a > JOIN_M) & (to_end_b > JOIN_M)
    cross = inside & (np.abs(wrap_angle(heading_a - heading_b)) > CROSSING_RAD)
    found = np.zeros(lines.count, bool)
    found[a[cross]] = found[b[cross]] = True
    return found


def drivable_area(lanes: Lines, edges: Lines) -> Lines:
    """The carriageway as rings without holes: from every lane to the road edges beside it.

    A line of sight to the side of the lane's centre ends at the first road edge within REACH_M: what lies before it is
    carriageway, parking strips included. Where there is no edge, it is half a lane wide. Holes between lanes without
    any road edge inside, as in the middle of a junction, are carriageway too. Rings that share a side are one area cut
    in two, so that none has a hole.
    """
    samples = sample(lanes, SAMPLE_M)
    first, last = _ends(lanes, samples)
    origin = np.stack([samples.x_m, samples.y_m], -1)
    ahead = np.stack([np.cos(samples.heading_rad), np.sin(samples.heading_rad)], -1)
    to_left = np.stack([-ahead[:, 1], ahead[:, 0]], -1)
    left = origin + to_left * _sight_m(origin, to_left, edges)[:, None]
    right = origin - to_left * _sight_m(origin, -to_left, edges)[:, None]
    nth = np.arange(len(origin))
    back = last[samples.line] + first[samples.line] - nth
    ribbon = np.concatenate([left, right[back]])[
        np.lexsort((np.r_[nth, nth], np.repeat([0, 1], len(nth)), np.r_[samples.line, samples.line]))
    ]
    owner = np.repeat(np.arange(lanes.count), 2 * (last - first + 1))
    strips = shapely.make_valid(
        shapely.polygons(shapely.linearrings(ribbon, indices=owner)), method="structure", keep_collapsed=False
    )
    area = shapely.union_all(strips)
    return _rings(_without_small_holes(area, edges))


def _sight_m(origin: NDArray[np.float64], toward: NDArray[np.float64], edges: Lines) -> NDArray[np.float64]:
    """Distance from each origin, (K, 2), to the first edge in its direction; half a lane where none is in reach."""
    a, b = _segments(edges)
    far = origin + toward * REACH_M
    rays = shapely.linestrings(np.stack([origin, far], 1))
    ray, wall = shapely.STRtree(shapely.linestrings(np.stack([a, b], 1))).query(rays)
    d, e, to_wall = far[ray] - origin[ray], b[wall] - a[wall], a[wall] - origin[ray]
    cross = d[:, 0] * e[:, 1] - d[:, 1] * e[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        along_ray = (to_wall[:, 0] * e[:, 1] - to_wall[:, 1] * e[:, 0]) / cross
        along_wall = (to_wall[:, 0] * d[:, 1] - to_wall[:, 1] * d[:, 0]) / cross
    hit = (along_ray >= 0) & (along_ray <= 1) & (along_wall >= 0) & (along_wall <= 1)
    sight = np.full(len(origin), np.inf)
    np.minimum.at(sight, ray[hit], along_ray[hit] * REACH_M)
    return np.where(np.isfinite(sight), sight, LANE_WIDTH_M / 2)


def _segments(lines: Lines) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    inside = np.ones(max(len(lines.xy_m) - 1, 0), bool)
    inside[lines.start[1:-1] - 1] = False
    return lines.xy_m[:-1][inside], lines.xy_m[1:][inside]


def _without_small_holes(area: shapely.Geometry, edges: Lines) -> list[shapely.Polygon]:
    polygons = [p for p in shapely.get_parts(area) if isinstance(p, shapely.Polygon)]
    tree = shapely.STRtree(shapely.points(edges.xy_m))

    def is_carriageway(hole: shapely.LinearRing) -> bool:
        inside = shapely.Polygon(hole).buffer(0.2)
        return inside.area < HOLE_M2 and not len(tree.query(inside, predicate="contains"))

    return [shapely.Polygon(p.exterior, [h for h in p.interiors if not is_carriageway(h)]) for p in polygons]


def _rings(polygons: list[shapely.Polygon]) -> Lines:
    """Open rings that cover the polygons; one with a hole is cut in two through the hole, until none has one."""
    rings, todo = [], list(polygons)
    while todo:
        polygon = todo.pop()
        if not polygon.interiors:
            rings.append(shapely.get_coordinates(polygon.exterior)[:-1])
            continue
        x = polygon.interiors[0].centroid.x
        x0, y0, x1, y1 = polygon.bounds
        halves = [polygon.intersection(shapely.box(*box)) for box in ((x0, y0, x, y1), (x, y0, x1, y1))]
        todo += [p for half in halves for p in shapely.get_parts(half) if isinstance(p, shapely.Polygon)]
    return Lines.of(rings)


def stop_lines(lanes: Lines, links: LaneLinks, signs_xy_m: NDArray[np.float64]) -> Lines:
    return Lines.of([])
