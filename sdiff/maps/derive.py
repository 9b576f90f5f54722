"""What a map's source leaves out, computed from its geometry: lane links, junction lanes, drivable area, stop lines."""

import math
from typing import NamedTuple

import numpy as np
import shapely
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sdiff.geometry import wrap_angle
from sdiff.logs.driving_log import BadRecord
from sdiff.maps import Lines

LANE_WIDTH_M = 3.6
BIKE_LANE_WIDTH_M = 1.7
"""Usual widths of lanes whose source does not say."""

JOIN_M = 0.1
JOIN_RAD = 0.7
"""A lane leads into another where it ends at its start, to this distance and angle."""

SAMPLE_M = 2.0
NEIGHBOUR_RAD = 0.35
NEIGHBOUR_WIDTHS = 1.25
"""Neighbours lie at most this many mean widths apart, from centre to centre."""
NEIGHBOUR_SHARE = 0.6
"""Share of a lane along which its neighbour must accompany it."""
ONCOMING_M = 0.5
"""How much nearer an oncoming lane must be to come between: the turning lane in the middle is drawn once each way."""

MAX_LINES_M = 500_000.0
"""Longest that the lanes of one map are in all; some twenty times those of a busy square kilometre."""
MAX_LINE_M = 20_000.0
"""Longest that one of them is."""
FOLDED_M, FOLDS = 1000.0, 10
"""A lane longer than this, and this many times longer than the place it lies in, is none."""
MAX_PAIRS = 5_000_000
"""Most places where one lane lies beside another; some fifty times those of a busy square kilometre."""

MAX_OUTLINES = 5000
"""Most outlines that enclose the roads of one map; some fifty times those of a busy square kilometre."""

JUNCTION_RAD = 0.35
"""Angle from which two lanes that part or meet do so in a junction, rather than at a change of the number of lanes."""
JUNCTION_M = 60.0
"""Longest lane that lies in a junction."""

CELL_M = 10.0
"""Lines of sight look for road edges in cells of this size [m]."""
REACH_M = 20.0
"""How far from a lane's centre the carriageway is searched for its edge."""
SIGN_M = 10.0
"""Farthest that a stop sign stands from the point where its lane must stop."""

BESIDE_M = 0.5
"""Lanes nearer than this run into each other; lines of sight reach as far past the next lane, so that areas overlap."""
SMOOTH_M = 0.05
GRID_M = 0.01
"""Tolerance of derived outlines, and the grid that their vertices lie on, which keeps their overlay robust."""
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

    Every line needs two vertices or more. Raises BadRecord for lines of absurd length.
    """
    arc = _arc(lines)
    begin, length = arc[lines.start[:-1]], lengths(lines)
    _expect_short("lanes", length)
    _expect_unfolded(lines, length)
    pieces = np.maximum(np.ceil(length / spacing_m).astype(np.int64), 1)
    line = np.repeat(np.arange(len(lines)), pieces + 1)
    nth = np.arange(len(line)) - np.repeat(np.concatenate([[0], np.cumsum(pieces + 1)[:-1]]), pieces + 1)
    along = nth / pieces[line] * length[line]

    def at(offset: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        s = begin[line] + np.clip(along + offset, 0, length[line])
        return np.interp(s, arc, lines.xy_m[:, 0]), np.interp(s, arc, lines.xy_m[:, 1])

    (x0, y0), (x, y), (x1, y1) = at(-0.5), at(0.0), at(0.5)
    return Samples(line, x, y, np.arctan2(y1 - y0, x1 - x0), along)


def between(left: Lines, right: Lines) -> Lines:
    """Lines midway between pairs of boundaries that run the same way: as many vertices as the richer of the two has.

    Every boundary needs two vertices or more.
    """
    vertices = np.maximum(left.vertices, right.vertices)
    line = np.repeat(np.arange(len(left)), vertices)
    nth = np.arange(len(line)) - np.repeat(np.cumsum(vertices) - vertices, vertices)
    share = nth / (vertices - 1)[line]

    def at(side: Lines) -> NDArray[np.float64]:
        arc = _arc(side)
        begin, end = arc[side.start[:-1]], arc[side.start[1:] - 1]
        s = begin[line] + share * (end - begin)[line]
        s = np.minimum(s, end[line])
        return np.stack([np.interp(s, arc, side.xy_m[:, axis]) for axis in (0, 1)], -1)

    return Lines.of_lengths(vertices, (at(left) + at(right)) / 2)


def lane_links(lines: Lines, width_m: NDArray[np.floating]) -> LaneLinks:
    """Successors, neighbours in the same direction and junction lanes of centrelines in driving direction.

    width_m: (n,), usual width of each lane. Every line needs two vertices or more.
    """
    samples = sample(lines, SAMPLE_M)
    successors = _successors(lines, samples)
    left, right = _neighbours(samples, width_m)
    return LaneLinks(successors, left, right, _in_junction(lines, samples, successors))


def junction_lanes(lines: Lines, successors: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which lanes lie in a junction, (n,), given the source's successors, (S, 2)."""
    return _in_junction(lines, sample(lines, SAMPLE_M), successors)


def _expect_short(what: str, length_m: NDArray[np.float64]) -> None:
    if not (length_m.max(initial=0) <= MAX_LINE_M and length_m.sum() <= MAX_LINES_M):
        raise BadRecord(
            f"the {what} are {length_m.sum():.3g} m long in all, one of them {length_m.max():.3g} m; expected at most "
            f"{MAX_LINES_M:.0f} m in all and {MAX_LINE_M:.0f} m each"
        )


def _expect_unfolded(lines: Lines, length_m: NDArray[np.float64]) -> None:
    if not len(lines):
        return
    begin = lines.start[:-1]
    size_m = np.maximum.reduceat(lines.xy_m, begin) - np.minimum.reduceat(lines.xy_m, begin)
    folded = (length_m > FOLDED_M) & (length_m > FOLDS * np.hypot(*size_m.T))
    if folded.any():
        raise BadRecord(f"a lane of {length_m[folded][0]:.0f} m is folded into {size_m[folded][0].max():.0f} m")


def _arc(lines: Lines) -> NDArray[np.float64]:
    """Arc length at every vertex, (P,), over all lines laid end to end with 1 m between two."""
    step = np.hypot(*np.diff(lines.xy_m, axis=0).T)
    step[lines.start[1:-1] - 1] = 1.0  # keeps the arc length unique where one line ends and the next begins
    return np.concatenate([[0.0], np.cumsum(step)])


def _ends(lines: Lines, samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the first and the last sample of each line."""
    first = np.searchsorted(samples.line, np.arange(len(lines)))
    return first, np.concatenate([first[1:], [len(samples.line)]]) - 1


def _successors(lines: Lines, samples: Samples) -> NDArray[np.int32]:
    first, last = _ends(lines, samples)
    xy = np.stack([samples.x_m, samples.y_m], -1)
    ends, starts = cKDTree(xy[last]), cKDTree(xy[first])
    _expect_few(ends.count_neighbors(starts, JOIN_M))
    pairs = ends.sparse_distance_matrix(starts, JOIN_M, output_type="ndarray")
    a, b = pairs["i"], pairs["j"]
    turn = np.abs(wrap_angle(samples.heading_rad[first[b]] - samples.heading_rad[last[a]]))
    keep = (a != b) & (turn < JOIN_RAD)
    found = np.stack([a[keep], b[keep]], -1).astype(np.int32)
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def _neighbours(samples: Samples, width_m: NDArray[np.floating]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The lane next to each on its left and on its right, -1 where that one belongs to the oncoming traffic."""
    xy = np.stack([samples.x_m, samples.y_m], -1)
    farthest = np.hypot(NEIGHBOUR_WIDTHS * width_m.max(initial=0), SAMPLE_M)
    tree = cKDTree(xy)
    _expect_few(tree.count_neighbors(tree, farthest))
    i, j = tree.query_pairs(farthest, output_type="ndarray").T
    i, j = np.concatenate([i, j]), np.concatenate([j, i])
    c, s = np.cos(samples.heading_rad[i]), np.sin(samples.heading_rad[i])
    dx, dy = (xy[j] - xy[i]).T
    forward, leftward = c * dx + s * dy, c * dy - s * dx
    turn = wrap_angle(samples.heading_rad[j] - samples.heading_rad[i])
    line_i, line_j = samples.line[i], samples.line[j]
    apart_m = (width_m[line_i] + width_m[line_j]) / 2
    keep = (line_i != line_j) & (np.abs(forward) <= 0.6 * SAMPLE_M)
    keep &= (np.abs(leftward) > apart_m / NEIGHBOUR_WIDTHS**2) & (np.abs(leftward) < apart_m * NEIGHBOUR_WIDTHS)
    keep &= np.abs(np.sin(turn)) < np.sin(NEIGHBOUR_RAD)
    i, j, leftward, same = i[keep], j[keep], leftward[keep], np.cos(turn[keep]) > 0
    left, right = leftward > 0, leftward < 0
    return (
        _beside(samples, i[left], j[left], leftward[left], same[left]),
        _beside(samples, i[right], j[right], -leftward[right], same[right]),
    )


def _expect_few(pairs: int) -> None:
    if pairs > MAX_PAIRS:
        raise BadRecord(f"lanes lie beside each other at {pairs} places, expected at most {MAX_PAIRS}")


def _beside(
    samples: Samples,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    aside_m: NDArray[np.float64],
    same_direction: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """For each line the nearest that accompanies it, given sample pairs (i, j) side by side on one side of i."""
    count = np.bincount(samples.line)
    n = len(count)
    _, once = np.unique(i * n + samples.line[j], return_index=True)  # a sample counts once for each line beside it
    i, j, aside_m, same_direction = i[once], j[once], aside_m[once], same_direction[once]
    pair, inverse = np.unique(samples.line[i] * n + samples.line[j], return_inverse=True)
    a, b = pair // n, pair % n
    together = np.bincount(inverse, minlength=len(pair))
    same = np.bincount(inverse, same_direction, len(pair)) > together / 2
    mean_m = np.bincount(inverse, aside_m, len(pair)) / np.maximum(together, 1)
    share = together / count[a]
    cost = mean_m / share + np.where(same, 0.0, ONCOMING_M)
    order = np.flatnonzero(share >= NEIGHBOUR_SHARE)
    order = order[np.argsort(-cost[order], kind="stable")]  # the nearest comes last and stays
    found = np.full(n, -1, np.int32)
    found[a[order]] = np.where(same, b, -1)[order]
    return found


def _in_junction(lines: Lines, samples: Samples, successors: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Lanes that part from another, or meet another, at an angle, and the lanes that cross these.

    Lanes that merely cross are not enough: one road may pass over the other.
    """
    first, last = _ends(lines, samples)
    short = lengths(lines) < JUNCTION_M
    found = np.zeros(len(lines), bool)
    for shared, own, far_end in ((0, 1, last), (1, 0, first)):  # siblings after a fork, then before a merge
        i, j = _pairs_that_share(successors[:, shared])
        a, b = successors[i, own], successors[j, own]
        apart = np.abs(wrap_angle(samples.heading_rad[far_end[a]] - samples.heading_rad[far_end[b]])) > JUNCTION_RAD
        found[a[apart & short[a]]] = True
    geometry = shapely.linestrings(lines.xy_m, indices=lines.owner)
    a, b = shapely.STRtree(geometry).query(geometry[found], predicate="crosses")
    found[b[short[b]]] = True
    return found


def _pairs_that_share(key: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ordered pairs of different positions that hold the same key."""
    order = np.argsort(key, kind="stable")
    _, begin, count = np.unique(key[order], return_index=True, return_counts=True)
    times = np.repeat(count, count)
    i = np.repeat(np.arange(len(key)), times)
    start = np.repeat(np.repeat(begin, count), times)
    nth = np.arange(len(i)) - np.repeat(np.cumsum(times) - times, times)
    j = start + nth
    return order[i[i != j]], order[j[i != j]]


def drivable_area(lanes: Lines, edges: Lines) -> Lines:
    """The carriageway as rings without holes: from every lane to the road edges beside it.

    A line of sight to the side of a lane's centre ends at the first road edge within REACH_M: what lies before it is
    carriageway, parking strips and lanes that the source left out included. Where there is no edge, or one that shows
    its back, because the line of sight left the carriageway through a gap, it is half a lane wide. Holes between lanes
    without any road edge inside, as in the middle of a junction, are carriageway too. Rings that share a side are one
    area cut in two, so that none has a hole.

    lanes: centrelines in driving direction. edges: road edges with the carriageway on their left.
    """
    samples = sample(lanes, SAMPLE_M)
    first, last = _ends(lanes, samples)
    centre = np.stack([samples.x_m, samples.y_m], -1)
    to_left = np.stack([-np.sin(samples.heading_rad), np.cos(samples.heading_rad)], -1)
    sides = np.concatenate([to_left, -to_left])
    rim = (
        np.concatenate([centre, centre])
        + sides * _sight_m(np.concatenate([centre, centre]), sides, lanes, edges)[:, None]
    )
    left, right = rim[: len(centre)], rim[len(centre) :]
    back = last[samples.line] + first[samples.line] - np.arange(len(centre))
    there_and_back = np.argsort(np.concatenate([samples.line, samples.line]), kind="stable")
    outline = np.concatenate([left, right[back]])[there_and_back]
    return carriageway(Lines.of_lengths(2 * (last - first + 1), outline), edges)


def carriageway(strips: Lines, edges: Lines) -> Lines:
    """The union of the outlines of lanes as rings without holes; see `drivable_area`."""
    try:
        areas = shapely.polygons(shapely.linearrings(strips.xy_m, indices=strips.owner))
        areas = shapely.simplify(areas, SMOOTH_M, preserve_topology=False)
        areas = shapely.make_valid(areas, method="structure", keep_collapsed=False)
        return rings(_without_small_holes(shapely.union_all(areas, grid_size=GRID_M), edges))
    except shapely.GEOSException as error:
        raise BadRecord(f"the outlines of the lanes have no union: {error}", stage="validate") from error


def even_odd(outlines: Lines) -> Lines:
    """Areas between outlines, of which one inside another is a hole, as rings without holes."""
    if len(outlines) > MAX_OUTLINES:
        raise BadRecord(f"the map has {len(outlines)} outlines of its roads, expected at most {MAX_OUTLINES}")
    closed = outlines.take(outlines.vertices > 3)
    try:
        areas = shapely.make_valid(shapely.polygons(shapely.linearrings(closed.xy_m, indices=closed.owner)))
        areas = shapely.set_precision(areas, GRID_M)
        while len(areas) > 1:  # pair by pair, as one after the other takes the square of their number
            others = np.append(areas[1::2], [shapely.Polygon()] * (len(areas) % 2))
            areas = shapely.symmetric_difference(areas[::2], others)
    except shapely.GEOSException as error:
        raise BadRecord(f"the outlines of the roads enclose no areas: {error}", stage="validate") from error
    return rings([p for p in shapely.get_parts(areas) if isinstance(p, shapely.Polygon) and not p.is_empty])


def _sight_m(
    origin: NDArray[np.float64], toward: NDArray[np.float64], lanes: Lines, edges: Lines
) -> NDArray[np.float64]:
    """How far the carriageway reaches from each origin, (K, 2), in a direction, (K, 2), as far as the next lane."""
    a, b, is_edge = _walls(lanes, edges)
    low = np.minimum(a, b).min(0, initial=np.inf) - CELL_M
    cells = np.floor((np.stack([np.minimum(a, b), np.maximum(a, b)], 1) - low) / CELL_M).astype(np.int64)
    columns, rows = (cells.max((0, 1), initial=0) + 1).tolist()
    if columns * rows > MAX_PAIRS:
        raise BadRecord(f"the map is {columns * CELL_M / 1000:.0f} x {rows * CELL_M / 1000:.0f} km, expected less")
    walls, begin = _in_cells(cells, columns, rows)
    to_edge, to_back, to_lane = _first_hits(origin, toward, a, b, is_edge, low, columns, rows, walls, begin)
    clear = np.minimum(to_edge, to_back)
    sight = np.where(to_edge < to_back, to_edge, np.minimum(to_back, LANE_WIDTH_M / 2))
    return np.where(to_lane < clear, np.minimum(to_lane + BESIDE_M, clear), sight)


def _in_cells(cells: NDArray[np.int64], columns: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Walls by cell of a grid: those of cell c are walls[begin[c]:begin[c + 1]].

    cells: (W, 2, 2) least and greatest column and row of each wall.
    """
    (i0, j0), (i1, j1) = cells[:, 0].T, cells[:, 1].T
    count = (i1 - i0 + 1) * (j1 - j0 + 1)
    if count.sum() > MAX_PAIRS:
        raise BadRecord("the lanes and road edges are too long for their map, expected some km")
    wall = np.repeat(np.arange(len(cells)), count)
    nth = np.arange(len(wall)) - np.repeat(np.cumsum(count) - count, count)
    height = (j1 - j0 + 1)[wall]
    cell = (i0[wall] + nth // height) * rows + j0[wall] + nth % height
    return wall[np.argsort(cell, kind="stable")], np.searchsorted(np.sort(cell), np.arange(columns * rows + 1))


@njit(cache=True, nogil=True)
def _first_hits(origin, toward, a, b, is_edge, low, columns, rows, walls, begin):  # type: ignore[no-untyped-def]
    """Distance to the first road edge that faces each ray, to one that shows its back, and to the next lane; or inf."""
    found = np.full((3, len(origin)), np.inf)
    for k in range(len(origin)):
        x, y, dx, dy = origin[k, 0], origin[k, 1], toward[k, 0], toward[k, 1]
        to_x, to_y = x + dx * REACH_M, y + dy * REACH_M
        i0, i1 = math.floor((min(x, to_x) - low[0]) / CELL_M), math.floor((max(x, to_x) - low[0]) / CELL_M)
        j0, j1 = math.floor((min(y, to_y) - low[1]) / CELL_M), math.floor((max(y, to_y) - low[1]) / CELL_M)
        for i in range(max(i0, 0), min(i1, columns - 1) + 1):
            for j in range(max(j0, 0), min(j1, rows - 1) + 1):
                for n in range(begin[i * rows + j], begin[i * rows + j + 1]):
                    w = walls[n]
                    ex, ey, wx, wy = b[w, 0] - a[w, 0], b[w, 1] - a[w, 1], a[w, 0] - x, a[w, 1] - y
                    facing = dx * ey - dy * ex
                    if facing == 0.0:
                        continue
                    distance, along_wall = (wx * ey - wy * ex) / facing, (wx * dy - wy * dx) / facing
                    if not (0.0 <= distance <= REACH_M and 0.0 <= along_wall <= 1.0):
                        continue
                    if is_edge[w]:
                        kind = 0 if facing > 0 else 1
                    elif distance > BESIDE_M:
                        kind = 2
                    else:
                        continue
                    found[kind, k] = min(found[kind, k], distance)
    return found[0], found[1], found[2]


def _walls(lanes: Lines, edges: Lines) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Segments a, b (W, 2) of the simplified lanes and edges, and whether each is an edge's."""
    if len(edges):
        _expect_short("road edges", lengths(edges))
    xy = np.concatenate([lanes.xy_m, edges.xy_m])
    owner = np.concatenate([lanes.owner, edges.owner + len(lanes)])
    lines = shapely.simplify(shapely.linestrings(xy, indices=owner), SMOOTH_M)
    xy, owner = shapely.get_coordinates(lines, return_index=True)
    inside = owner[:-1] == owner[1:]
    return xy[:-1][inside], xy[1:][inside], owner[:-1][inside] >= len(lanes)


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _without_small_holes(area: shapely.Geometry, edges: Lines) -> list[shapely.Polygon]:
    polygons = [p for p in shapely.get_parts(area) if isinstance(p, shapely.Polygon)]
    tree = shapely.STRtree(shapely.points(edges.xy_m))

    def is_carriageway(hole: shapely.LinearRing) -> bool:
        inside = shapely.Polygon(hole).buffer(0.2)
        return inside.area < HOLE_M2 and not len(tree.query(inside, predicate="contains"))

    return [shapely.Polygon(p.exterior, [h for h in p.interiors if not is_carriageway(h)]) for p in polygons]


def rings(polygons: list[shapely.Polygon]) -> Lines:
    """Open rings that cover the polygons; one with a hole is cut in two through the hole, until none has one."""
    rings, todo = [], list(polygons)
    while todo:
        polygon = todo.pop()
        x0, y0, x1, y1 = polygon.bounds
        if not polygon.interiors or not x0 < (x := polygon.interiors[0].centroid.x) < x1:
            rings.append(shapely.get_coordinates(polygon.exterior)[:-1])
            continue
        halves = [polygon.intersection(shapely.box(*box)) for box in ((x0, y0, x, y1), (x, y0, x1, y1))]
        todo += [p for half in halves for p in shapely.get_parts(half) if isinstance(p, shapely.Polygon)]
    return Lines.of(rings)


def stop_lines(lanes: Lines, links: LaneLinks, signs_xy_m: NDArray[np.float64]) -> Lines:
    """One line across a lane for each stop sign, (S, 2) [m], of right-hand traffic.

    It lies where the nearest lane that has the sign on its right enters a junction; where none does so nearby, beside
    the sign. A sign with no lane in reach has none.
    """
    samples = sample(lanes, SAMPLE_M)
    first, _ = _ends(lanes, samples)
    xy = np.stack([samples.x_m, samples.y_m], -1)
    ahead = np.stack([np.cos(samples.heading_rad), np.sin(samples.heading_rad)], -1)
    offset = signs_xy_m[:, None] - xy
    forward, rightward = (offset * ahead).sum(-1), _cross(offset, ahead[None])
    distance = np.hypot(forward, rightward)
    distance[(rightward < 0) | (distance > SIGN_M)] = np.inf
    a, b = links.successors.T
    from_inside = np.zeros(len(lanes), bool)
    from_inside[b[links.in_junction[a]]] = True
    is_entry = np.zeros(len(xy), bool)
    is_entry[first[links.in_junction & ~from_inside]] = True
    nearest = np.where(is_entry, distance, np.inf).argmin(1) if len(xy) else np.zeros(0, np.int64)
    at_entry = np.isfinite(distance[np.arange(len(nearest)), nearest]) & is_entry[nearest]
    nearest = np.where(at_entry, nearest, distance.argmin(1))
    nearest = nearest[np.isfinite(distance[np.arange(len(nearest)), nearest])]
    across = np.stack([-ahead[nearest, 1], ahead[nearest, 0]], -1) * LANE_WIDTH_M / 2
    ends = np.stack([xy[nearest] + across, xy[nearest] - across], 1)
    return Lines.of_lengths(np.full(len(nearest), 2), ends.reshape(-1, 2))


def lines_across_starts(lanes: Lines, which: NDArray[np.int64]) -> Lines:
    """A stop line across the start of each of the lanes `which`, (k,); one for lanes that start at one point."""
    samples = sample(lanes, SAMPLE_M)
    first, _ = _ends(lanes, samples)
    at = first[np.unique(which)]
    centre = np.stack([samples.x_m[at], samples.y_m[at]], -1)
    _, once = np.unique(np.round(centre / BESIDE_M), axis=0, return_index=True)
    across = np.stack([-np.sin(samples.heading_rad[at]), np.cos(samples.heading_rad[at])], -1) * LANE_WIDTH_M / 2
    ends = np.stack([centre + across, centre - across], 1)[np.sort(once)]
    return Lines.of_lengths(np.full(len(ends), 2), ends.reshape(-1, 2))
