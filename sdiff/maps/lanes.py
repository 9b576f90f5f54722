"""Driving lines over a vector map: the lane under a pose, the ways ahead of it, its neighbours, what crosses it."""

from bisect import bisect
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sdiff.geometry import SE2, wrap_angle
from sdiff.logs.driving_log import FEATURE_KINDS, LANE_TYPES, VectorMap

Array = NDArray[np.float64]

TURNS = ("straight", "left", "right", "u_turn")
STRAIGHT_RAD = np.pi / 6
U_TURN_RAD = 5 * np.pi / 6
"""A way through a junction is straight below the first change of heading and a u-turn above the second."""

TANGENT_M = 1.0
"""A line's direction is that of the chord from this far behind to this far ahead: polylines have corners [m]."""
MAX_PATHS = 64
"""Ways ahead that are followed at most; past the first junction only the straightest is."""
FORK_M = 25.0
"""How far into a lane it shows whether it goes straight on [m]."""
ROAD_LANES = 6
"""Lanes to either side that are looked at."""


def map_from_rows(rows: pa.Table) -> VectorMap:
    """The vector map whose features are `rows` of the table `maps`, all of one map_id. Links that leave the map drop.

    Raises ValueError where there is no row, or rows of several maps.
    """
    ids = rows["map_id"].unique().to_pylist()
    if len(ids) != 1:
        raise ValueError(f"map_from_rows: rows of {len(ids)} maps {ids[:3]}, expected those of one")
    rows = rows.combine_chunks()
    feature_id = _strings(rows["feature_id"])
    order = np.argsort(feature_id)

    def index_of(names: pa.ChunkedArray | pa.Array) -> NDArray[np.int32]:
        wanted = _strings(names)
        at = order[np.minimum(np.searchsorted(feature_id, wanted, sorter=order), len(order) - 1)]
        return np.where((feature_id[at] == wanted) & (wanted != ""), at, -1).astype(np.int32)

    counts = rows["x_m"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    links = rows["successors"].combine_chunks()
    source = np.repeat(np.arange(len(rows)), links.value_lengths().to_numpy(zero_copy_only=False))
    successors = np.stack([source, index_of(links.flatten())], 1).astype(np.int32)
    in_junction = rows["in_junction"].to_numpy()
    return VectorMap(
        map_id=ids[0],
        feature_id=feature_id,
        kind=_codes(rows["kind"], FEATURE_KINDS),
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        xy_m=np.stack([rows[c].combine_chunks().flatten().to_numpy() for c in ("x_m", "y_m")], 1),
        left=index_of(rows["left_id"]),
        right=index_of(rows["right_id"]),
        successors=successors[successors[:, 1] >= 0],
        speed_limit_mps=rows["speed_limit_mps"].to_numpy().astype(np.float32),
        width_m=rows["width_m"].to_numpy().astype(np.float32),
        lane_type=_codes(rows["lane_type"], LANE_TYPES),
        in_junction=np.equal(in_junction, True),
        derived=rows["derived"].to_numpy(),
        links_derived=bool(rows["links_derived"].to_numpy().any()),
        crs=rows["crs"][0].as_py(),
    )


def _strings(column: pa.ChunkedArray | pa.Array) -> NDArray[np.str_]:
    return np.asarray(column.fill_null("").to_numpy(zero_copy_only=False), np.str_).reshape(-1)


def _codes(column: pa.ChunkedArray, names: tuple[str, ...]) -> NDArray[np.int8]:
    text = _strings(column)
    hit = text[:, None] == np.asarray(names)
    return np.where(hit.any(1), hit.argmax(1), -1).astype(np.int8)


@dataclass(frozen=True)
class LanePosition:
    """A pose on a lane: arc length from the lane's start, offset to the left of its centre line [m]."""

    lane: int
    s_m: float
    lateral_m: float


@dataclass(frozen=True)
class Path:
    """A line to drive along, map frame.

    xy_m: (n, 2) vertices [m]. s_m: (n,) arc length, 0 at the path's reference point, growing in driving direction [m].
    lanes: the lanes it follows; empty for a line that is no lane. junction_m: where the first junction ahead of the
    reference point starts and ends, or None. turn_rad: change of heading through it, left is positive [rad].
    """

    xy_m: Array
    s_m: Array
    lanes: tuple[int, ...] = ()
    junction_m: tuple[float, float] | None = None
    turn_rad: float = 0.0

    @property
    def turn(self) -> str | None:
        """Straight, left, right or u_turn through the first junction ahead; None without a junction."""
        if self.junction_m is None:
            return None
        if abs(self.turn_rad) < STRAIGHT_RAD:
            return "straight"
        if abs(self.turn_rad) > U_TURN_RAD:
            return "u_turn"
        return "left" if self.turn_rad > 0 else "right"

    def covers(self, s_m: float) -> bool:
        """Whether the path reaches from its reference point to `s_m`."""
        return bool(self.s_m[0] - 1e-6 <= s_m <= self.s_m[-1] + 1e-6)

    def pose(self, s_m: float, lateral_m: float = 0.0) -> SE2:
        """The pose at arc length `s_m`, `lateral_m` to the left, along the path. map_SE2_pose."""
        x, y = self._at(s_m)
        heading = self.heading(s_m)
        return SE2(float(x - lateral_m * np.sin(heading)), float(y + lateral_m * np.cos(heading)), heading)

    def heading(self, s_m: float) -> float:
        """Direction of the path at `s_m`, map frame [rad]."""
        (x0, y0), (x1, y1) = self._at(s_m - TANGENT_M), self._at(s_m + TANGENT_M)
        return float(np.arctan2(y1 - y0, x1 - x0))

    def project(self, x_m: float, y_m: float) -> tuple[float, float]:
        """Arc length and left offset of the path's point nearest to (x, y) [m]."""
        s, lateral, _ = _project(self.xy_m, self.s_m, np.array([x_m, y_m]), self._pieces)
        return s, lateral

    def starting_at(self, s_m: float) -> "Path":
        """The same path with its reference point moved to `s_m`."""
        junction = None if self.junction_m is None else (self.junction_m[0] - s_m, self.junction_m[1] - s_m)
        return replace(self, s_m=self.s_m - s_m, junction_m=junction)

    def reach_straight_m(self, tolerance_rad: float = np.radians(10)) -> float:
        """How far the path runs on from its reference point without leaving its direction there by more than this."""
        ahead = np.arange(0.0, self.s_m[-1], 2.0)
        bent = [abs(float(wrap_angle(self.heading(s) - self.heading(0.0)))) > tolerance_rad for s in ahead]
        return float(ahead[np.argmax(bent)]) if any(bent) else float(self.s_m[-1])

    def crossings(self, ring_m: Array, closed: bool) -> Array:
        """Arc lengths where the path crosses a polyline or, closed, a ring; (k,), sorted [m]."""
        b = np.roll(ring_m, -1, 0) if closed else ring_m[1:]
        a = ring_m if closed else ring_m[:-1]
        t, _ = _intersect(self.xy_m[:-1], self.xy_m[1:], a, b)
        hit = np.argwhere(np.isfinite(t))
        lengths = np.diff(self.s_m)
        return np.sort(self.s_m[hit[:, 0]] + t[hit[:, 0], hit[:, 1]] * lengths[hit[:, 0]])

    @cached_property
    def _pieces(self) -> tuple[Array, Array]:
        return _pieces(self.xy_m)

    @cached_property
    def _vertices(self) -> tuple[list[float], list[list[float]]]:
        """Arc lengths and points as plain numbers: one point at a time, ten times as fast as numpy."""
        return self.s_m.tolist(), self.xy_m.tolist()

    def _at(self, s_m: float) -> tuple[float, float]:
        """Point at `s_m`, straight on beyond the ends."""
        s, xy = self._vertices
        i = min(max(bisect(s, s_m), 1), len(s) - 1)
        (x0, y0), (x1, y1) = xy[i - 1], xy[i]
        u = (s_m - s[i - 1]) / max(s[i] - s[i - 1], 1e-9)
        return x0 + u * (x1 - x0), y0 + u * (y1 - y0)


def line(through: SE2, behind_m: float, ahead_m: float) -> Path:
    """A straight path through a pose, which is its reference point."""
    x, y = through.apply([-behind_m, ahead_m], [0.0, 0.0])
    return Path(np.stack([x, y], 1), np.array([-behind_m, ahead_m]))


@dataclass(frozen=True)
class LaneGraph:
    """The lanes of a map that vehicles drive on, and the ways from one to the next."""

    map: VectorMap

    @cached_property
    def drivable(self) -> NDArray[np.bool_]:
        """(F,) whether the feature is a lane for vehicles with at least two vertices."""
        on_road = np.isin(self.map.lane_type, [LANE_TYPES.index("vehicle"), LANE_TYPES.index("bus")])
        is_lane = self.map.kind == FEATURE_KINDS.index("lane_centerline")
        return is_lane & on_road & (np.diff(self.map.start) >= 2)

    @cached_property
    def _segments(self) -> tuple[Array, Array, NDArray[np.int64]]:
        """Both ends (S, 2) and the lane (S,) of every segment of every drivable lane."""
        lane = np.repeat(np.arange(len(self.map.kind)), np.diff(self.map.start))
        keep = (lane[:-1] == lane[1:]) & self.drivable[lane[:-1]]
        return self.map.xy_m[:-1][keep], self.map.xy_m[1:][keep], lane[:-1][keep]

    @cached_property
    def _along(self) -> Array:
        """Arc length from the map's first vertex to each, over all features joined (P,) [m]."""
        return _arc_length(self.map.xy_m)

    @cached_property
    def _end_heading(self) -> Array:
        """Direction of the last segment of each feature, map frame (F,) [rad]; 0 where it has none."""
        last = np.maximum(self.map.start[1:] - 1, 1)
        along = self.map.xy_m[last] - self.map.xy_m[last - 1]
        return np.where(np.diff(self.map.start) >= 2, np.arctan2(along[:, 1], along[:, 0]), 0.0)

    @cached_property
    def _next(self) -> dict[int, list[int]]:
        links = self.map.successors[self.drivable[self.map.successors].all(1)]
        out: dict[int, list[int]] = {}
        for a, b in links.tolist():
            out.setdefault(a, []).append(b)
        return out

    @cached_property
    def _previous(self) -> dict[int, list[int]]:
        out: dict[int, list[int]] = {}
        for a, following in self._next.items():
            for b in following:
                out.setdefault(b, []).append(a)
        return out

    def lane_at(
        self, pose: SE2, max_offset_m: float = 2.5, max_angle_rad: float = np.pi / 4, opposite: bool = False
    ) -> LanePosition | None:
        """The drivable lane that passes nearest to a pose in its direction (or against it); None where none does.

        1 rad of difference in direction counts as 4 m, and 1 rad that a lane in a junction still turns as 1 m: there
        lanes overlap, and where they part the straight one is taken.
        """
        a, b, lane = self._segments
        point = np.array([pose.x_m, pose.y_m])
        near = np.flatnonzero((np.abs(a + b - 2 * point) <= np.abs(b - a) + 2 * max_offset_m).all(1))
        if not len(near):
            return None
        a, along, lane = a[near], (b - a)[near], lane[near]
        t = np.clip(((point - a) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12), 0, 1)
        distance = np.hypot(*(a + t[:, None] * along - point).T)
        angle = np.abs(wrap_angle(np.arctan2(along[:, 1], along[:, 0]) - pose.heading_rad - np.pi * opposite))
        to_come = np.abs(wrap_angle(self._end_heading[lane] - pose.heading_rad - np.pi * opposite))
        cost = distance + 4.0 * angle + to_come * self.map.in_junction[lane]
        cost = np.where((distance <= max_offset_m) & (angle <= max_angle_rad), cost, np.inf)
        best = int(np.argmin(cost))
        return None if not np.isfinite(cost[best]) else self.project(int(lane[best]), pose)

    def project(self, lane: int, pose: SE2) -> LanePosition:
        """The point of a lane nearest to a pose."""
        xy = self.map.points(lane)
        s, lateral, _ = _project(xy, _arc_length(xy), np.array([pose.x_m, pose.y_m]))
        return LanePosition(lane, s, lateral)

    def neighbours(self, lane: int, side: str) -> list[int]:
        """Drivable lanes to the `left` or `right` of a lane in the same direction, the nearest first."""
        links = self.map.left if side == "left" else self.map.right
        found: list[int] = []
        while len(found) < ROAD_LANES and (lane := int(links[lane])) >= 0 and lane not in found and self.drivable[lane]:
            found.append(lane)
        return found

    def length_m(self, lane: int) -> float:
        """Length of a lane along its centre line [m]."""
        return float(self._along[self.map.start[lane + 1] - 1] - self._along[self.map.start[lane]])

    def lane_path(self, lane: int) -> Path:
        """A lane by itself, its reference point at its start."""
        return self._path((), (lane,), 0.0)

    def paths(self, at: LanePosition, ahead_m: float, behind_m: float = 0.0) -> list[Path]:
        """Ways to drive on from a position on a lane, its reference point, the straightest first.

        They part up to and in the first junction ahead, and follow the straightest lane after it and backwards.
        A way ends early where the map does.
        """
        before = self._back(at.lane, behind_m - at.s_m)
        found: list[tuple[float, float, Path]] = []
        stack: list[tuple[tuple[int, ...], float, int, float]] = [((at.lane,), self.length_m(at.lane) - at.s_m, 0, 0.0)]
        while stack and len(found) < MAX_PATHS:
            lanes, reach, stage, turned = stack.pop()  # stage: 0 before the junction, 1 in it, 2 past it
            following = [n for n in self._next.get(lanes[-1], []) if n not in lanes]
            if reach >= ahead_m or not following:
                found.append((turned, -reach, self._path(before, lanes, at.s_m)))
                continue
            forks = len(following) > 1
            if stage == 2:
                following = [self._straightest(lanes[-1], following)]
            for lane in following:
                inside = bool(self.map.in_junction[lane])
                left_start = not all(self.map.in_junction[list(lanes)])
                entered = 1 if inside and left_start else 0
                then = 2 if stage == 2 or (stage == 1 and not inside) else max(stage, entered)
                turn = abs(self._join_angle(lanes[-1], lane)) if forks and stage < 2 else 0.0
                stack.append(((*lanes, lane), reach + self.length_m(lane), then, turned + turn))
        return [path for *_, path in sorted(found, key=lambda f: (f[0], abs(f[2].turn_rad), f[1]))]

    def crossing_paths(self, path: Path, side: str, within_m: float, reach_m: float) -> list[Path]:
        """Paths that cross `path` in the first junction ahead, from its `left` or `right`, the straightest first.

        The reference point of each is where the two cross. reach_m: how far each runs to both sides of it [m].
        """
        inside = np.flatnonzero(self.map.in_junction & self.drivable)
        found: list[Path] = []
        for lane in inside.tolist():
            if lane in path.lanes:
                continue
            xy = self.map.points(lane)
            if np.hypot(*(xy - path.xy_m[np.argmin(np.abs(path.s_m))]).T).min() > within_m + 30.0:
                continue
            s_path = path.crossings(xy, closed=False)
            s_path = s_path[(s_path > 0) & (s_path < within_m)]
            if not len(s_path):
                continue
            here = path.pose(float(s_path[0]))
            at = self.project(lane, here)
            other = self.paths(at, reach_m, reach_m)[0]
            across = float(wrap_angle(other.heading(0.0) - here.heading_rad))
            comes_from = "left" if across < 0 else "right"
            if np.pi / 4 < abs(across) < 3 * np.pi / 4 and comes_from == side:
                found.append(replace(other, turn_rad=self._run_turn(other, lane)))
        return sorted(found, key=lambda p: abs(p.turn_rad))

    def straight_behind(self, path: Path) -> Path:
        """A path from where it leaves the last junction, begun behind its reference point, in which it turns."""
        leave_m = None
        for lane in reversed(path.lanes):
            xy = self.map.points(lane)
            enter_m, end_m = (path.project(*point)[0] for point in (xy[0], xy[-1]))
            if enter_m > 0 or not self.map.in_junction[lane]:
                leave_m = None
                continue
            leave_m = end_m if leave_m is None else leave_m
            turn = wrap_angle(path.heading(leave_m + 2 * TANGENT_M) - path.heading(enter_m - 2 * TANGENT_M))
            if abs(turn) > STRAIGHT_RAD:
                keep = path.s_m >= min(leave_m - 1e-6, path.s_m[-2])
                return replace(path, xy_m=path.xy_m[keep], s_m=path.s_m[keep])
        return path

    def _run_turn(self, path: Path, lane: int) -> float:
        """Change of heading along one lane of a path [rad]."""
        xy = self.map.points(lane)
        s0, s1 = path.project(*xy[0])[0], path.project(*xy[-1])[0]
        return float(wrap_angle(path.heading(s1) - path.heading(s0)))

    def _back(self, lane: int, length_m: float) -> tuple[int, ...]:
        lanes: tuple[int, ...] = ()
        seen = {lane}
        while length_m > 0 and (before := [p for p in self._previous.get(lane, []) if p not in seen]):
            lane = min(before, key=lambda p: abs(self._join_angle(p, lane)))
            seen.add(lane)
            lanes = (lane, *lanes)
            length_m -= self.length_m(lane)
        return lanes

    def _straightest(self, lane: int, following: list[int]) -> int:
        return min(following, key=lambda n: abs(self._join_angle(lane, n)))

    def _join_angle(self, lane: int, following: int) -> float:
        """Change of heading from a lane's end to that of the one that follows, or to 25 m into it [rad]."""
        a, b = self.map.points(lane), self.map.points(following)
        end = max(1, int(np.searchsorted(_arc_length(b), FORK_M, "right")) - 1)
        return float(wrap_angle(_direction(b[end - 1 : end + 1]) - _direction(a[-2:])))

    def _path(self, before: tuple[int, ...], lanes: tuple[int, ...], s_m: float) -> Path:
        parts = [self.map.points(n) for n in (*before, *lanes)]
        xy = np.concatenate(parts)
        step = np.hypot(*np.diff(xy, axis=0).T)
        keep = np.concatenate([[True], step > 1e-3])
        s = np.concatenate([[0.0], np.cumsum(step)])
        starts = s[np.cumsum([0, *(len(p) for p in parts)])[:-1]]
        reference = starts[len(before)] + s_m
        if keep.sum() < 2:
            keep[-1] = True
        path = Path(xy[keep], s[keep] - reference, (*before, *lanes))
        inside = self.map.in_junction[list(lanes)]
        first = int(np.argmin(inside)) if inside[0] else 0  # leave the junction that the lane is in
        entered = np.flatnonzero(inside[first:])
        if not len(entered) or inside[first]:
            return path
        i = first + int(entered[0])
        out = np.flatnonzero(~inside[i:])
        last = i + int(out[0]) if len(out) else len(lanes)
        edges = np.append(starts[len(before) :], s[-1]) - reference
        enter, leave = float(edges[i]), float(edges[last])
        # Past the ends the lanes run straight: what turns is the way between.
        turn = wrap_angle(path.heading(leave + 2 * TANGENT_M) - path.heading(enter - 2 * TANGENT_M))
        return replace(path, junction_m=(enter, leave), turn_rad=float(turn))


def _direction(xy_m: Array) -> float:
    return float(np.arctan2(*(xy_m[-1] - xy_m[0])[::-1]))


def _arc_length(xy_m: Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy_m, axis=0).T))])


def _pieces(xy_m: Array) -> tuple[Array, Array]:
    """From each vertex of a polyline to the next, and its length squared."""
    along = np.diff(xy_m, axis=0)
    return along, np.maximum((along**2).sum(1), 1e-12)


def _project(
    xy_m: Array, s_m: Array, point_m: Array, pieces: tuple[Array, Array] | None = None
) -> tuple[float, float, float]:
    """Arc length, left offset and distance of the point of a polyline nearest to a point [m]."""
    a, (along, squared) = xy_m[:-1], pieces or _pieces(xy_m)
    t = np.clip(((point_m - a) * along).sum(1) / squared, 0, 1)
    off = point_m - (a + t[:, None] * along)
    distance = np.hypot(*off.T)
    i = int(np.argmin(distance))
    side = along[i, 0] * (point_m - a[i])[1] - along[i, 1] * (point_m - a[i])[0]
    return float(s_m[i] + t[i] * np.sqrt(squared[i])), float(np.copysign(distance[i], side)), float(distance[i])


def _intersect(a0: Array, a1: Array, b0: Array, b1: Array) -> tuple[Array, Array]:
    """Where segments a cross segments b, as fractions of each; (A, B), NaN where they do not."""
    da, db = (a1 - a0)[:, None], (b1 - b0)[None]
    between = b0[None] - a0[:, None]
    cross = da[..., 0] * db[..., 1] - da[..., 1] * db[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (between[..., 0] * db[..., 1] - between[..., 1] * db[..., 0]) / cross
        u = (between[..., 0] * da[..., 1] - between[..., 1] * da[..., 0]) / cross
    inside = (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    return np.where(inside, t, np.nan), np.where(inside, u, np.nan)
