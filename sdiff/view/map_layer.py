"""The map of a picture: rows of table `maps`, prepared once per map, painted once per window."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from sdiff import WINDOW_M
from sdiff.geometry import SE2
from sdiff.scene import BEV_PIXELS, MAP_CHANNELS, SIGNED_MAP_CHANNELS
from sdiff.view import canvas
from sdiff.view.canvas import Canvas

ARROW_EVERY_M = 14.0
STRIPE_M = 0.6


@dataclass(frozen=True)
class MapLayer:
    """F features of one map, map frame, with what a picture needs of them.

    kind, lane_type: (F,) str, lane_type empty where it is none. start: (F + 1,) int64 into xy_m: (P, 2) float64 [m].
    width_m: (F,) float32, NaN where unknown. in_junction: (F,) bool. box_m: (F, 4) x, y least, x, y greatest.
    """

    kind: NDArray[np.str_]
    lane_type: NDArray[np.str_]
    start: NDArray[np.int64]
    xy_m: NDArray[np.float64]
    width_m: NDArray[np.float32]
    in_junction: NDArray[np.bool_]
    box_m: NDArray[np.float64]

    @staticmethod
    def of(rows: pa.Table) -> "MapLayer":
        """The layer of the rows of one map of table `maps`."""
        x, y = (rows[name].combine_chunks() for name in ("x_m", "y_m"))
        rows = rows.filter(pc.greater(pc.list_value_length(x), 0)) if len(rows) else rows
        x, y = (rows[name].combine_chunks() for name in ("x_m", "y_m"))
        start = np.concatenate([[0], np.cumsum(x.value_lengths().to_numpy())]).astype(np.int64)
        xy = np.stack([v.flatten().to_numpy() for v in (x, y)], -1)
        box = (
            np.concatenate([np.minimum.reduceat(xy, start[:-1]), np.maximum.reduceat(xy, start[:-1])], 1)
            if len(rows)
            else np.zeros((0, 4))
        )
        return MapLayer(
            kind=_strings(rows["kind"]),
            lane_type=_strings(rows["lane_type"]),
            start=start,
            xy_m=xy,
            width_m=rows["width_m"].cast(pa.float32()).fill_null(float("nan")).to_numpy(),
            in_junction=rows["in_junction"].fill_null(False).to_numpy().astype(bool),
            box_m=box,
        )

    def near(self, map_SE2_window: SE2) -> dict[str, list[tuple[int, NDArray[np.float64]]]]:
        """Features that may touch the window, by kind: their index and vertices in the window frame, (n, 2) [m]."""
        reach = WINDOW_M / np.sqrt(2)
        at = np.array([map_SE2_window.x_m, map_SE2_window.y_m])
        hit = np.flatnonzero(((self.box_m[:, :2] < at + reach) & (self.box_m[:, 2:] > at - reach)).all(1))
        to_window = map_SE2_window.inverse()
        found: dict[str, list[tuple[int, NDArray[np.float64]]]] = {}
        for i in hit:
            xy = self.xy_m[self.start[i] : self.start[i + 1]]
            found.setdefault(str(self.kind[i]), []).append((int(i), np.stack(to_window.apply(xy[:, 0], xy[:, 1]), -1)))
        return found


def _strings(column: pa.ChunkedArray) -> NDArray[np.str_]:
    return column.fill_null("").to_numpy().astype(str)


def paint(layer: MapLayer, map_SE2_window: SE2, to: Canvas) -> None:
    """Paint the map under a window, from the ground up."""
    near = layer.near(map_SE2_window)
    lanes = near.get("lane_centerline", [])
    _paint_lane_surfaces(layer, lanes, to, ("pedestrian",), canvas.SIDEWALK)
    for _, ring in near.get("driveway", []):
        to.area(ring, canvas.DRIVEWAY)
    # Areas that touch cover each other's rims, so that a rim remains only around all of them.
    for _, ring in near.get("drivable_area", []):
        to.line(np.concatenate([ring, ring[:1]]), canvas.CURB, 0.25, 1.4)
    for _, ring in near.get("drivable_area", []):
        to.area(ring, canvas.ROAD)
    if "drivable_area" not in near:
        _paint_lane_surfaces(layer, lanes, to, ("vehicle", "bus", ""), canvas.ROAD)
    _paint_lane_surfaces(layer, lanes, to, ("bike",), canvas.BIKEWAY)
    for _, ring in near.get("speed_bump", []):
        to.area(ring, canvas.BUMP)
    traffic = [line for i, line in lanes if layer.lane_type[i] in ("vehicle", "bus", "")]
    for _, ring in near.get("crosswalk", []):
        _paint_crosswalk(ring, traffic, to)
    for i, line in lanes:
        if layer.lane_type[i] != "pedestrian":
            to.line(line, canvas.CENTRELINE, 0.1, 0.7)
    for _, line in near.get("lane_boundary", []):
        to.line(line, canvas.PAINT, 0.16, 1.0)
    for _, line in near.get("road_edge", []):
        to.line(line, canvas.CURB, 0.2, 1.0)
    for i, line in lanes:
        if layer.lane_type[i] != "pedestrian" and not layer.in_junction[i]:
            _paint_arrows(line, to)
    for _, line in near.get("stop_line", []):
        to.line(line, canvas.CURB, 0.8, 2.6)
        to.line(line, canvas.PAINT, 0.5, 1.8)


def _paint_lane_surfaces(
    layer: MapLayer,
    lanes: list[tuple[int, NDArray[np.float64]]],
    to: Canvas,
    lane_types: tuple[str, ...],
    fill: canvas.Colour,
) -> None:
    for i, line in lanes:
        width = layer.width_m[i]
        # Inside a junction many lanes cross: their surfaces would hide that it is one.
        if layer.lane_type[i] in lane_types and width > 0 and not (lane_types == ("bike",) and layer.in_junction[i]):
            to.line(line, fill, float(width))


def _paint_arrows(line: NDArray[np.float64], to: Canvas) -> None:
    """Chevrons along a lane, in driving direction."""
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    count = int(along[-1] // ARROW_EVERY_M)
    at = (np.arange(count) + 0.5) * along[-1] / max(count, 1)
    x, y = np.interp(at, along, line[:, 0]), np.interp(at, along, line[:, 1])
    ahead = np.stack([np.interp(at + 0.5, along, line[:, c]) - (x, y)[c] for c in (0, 1)], -1)
    for px, py, heading in zip(x, y, np.arctan2(ahead[:, 1], ahead[:, 0]), strict=True):
        if max(abs(px), abs(py)) < WINDOW_M / 2:
            _paint_chevron(float(px), float(py), float(heading), to)


def _paint_chevron(x_m: float, y_m: float, heading_rad: float, to: Canvas) -> None:
    size = max(0.8, to.metres(2.6))
    tip = np.array([[-size, size * 0.75], [size * 0.4, 0.0], [-size, -size * 0.75]])
    x, y = SE2(x_m, y_m, heading_rad).apply(tip[:, 0], tip[:, 1])
    to.line(np.stack([x, y], -1), canvas.ARROW, 0.22, 0.9)


def _paint_crosswalk(ring: NDArray[np.float64], traffic: list[NDArray[np.float64]], to: Canvas) -> None:
    """Zebra bars along the traffic that crosses, as painted on the road."""
    if len(ring) < 3:
        return
    to.area(ring, canvas.blend(canvas.ROAD, canvas.PAINT, 0.25))
    area = shapely.make_valid(shapely.Polygon(ring))
    box = shapely.oriented_envelope(area)
    if box.geom_type != "Polygon" or not box.area:
        return
    corners = np.asarray(box.exterior.coords)[:4]
    bar, walk = corners[1] - corners[0], corners[2] - corners[1]
    along = _direction_near(ring.mean(0), traffic)
    # Where no lane is near, people walk along the longer side.
    turned = np.hypot(*bar) > np.hypot(*walk)
    if along is not None:
        turned = abs(along @ bar) / np.hypot(*bar) < abs(along @ walk) / np.hypot(*walk)
    base = corners[0]
    if turned:
        base, bar, walk = corners[1], walk, -bar
    count = max(int(np.hypot(*walk) / max(2 * STRIPE_M, to.metres(4.0))), 1)
    shares = (np.arange(count)[:, None] + np.array([0.25, 0.75])) / count
    near_m = base + shares[..., None] * walk
    far_m = near_m + bar
    rings = np.stack([near_m[:, 0], near_m[:, 1], far_m[:, 1], far_m[:, 0]], 1)
    for stripe in shapely.get_parts(shapely.intersection(shapely.polygons(rings), area)):
        if stripe.geom_type == "Polygon" and not stripe.is_empty:
            to.area(np.asarray(stripe.exterior.coords), canvas.PAINT)


def _direction_near(at_m: NDArray[np.float64], lines: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """Unit vector along the line nearest to a point, or None where none comes within 10 m."""
    pieces = [(line[:-1], line[1:] - line[:-1]) for line in lines if len(line) > 1]
    if not pieces:
        return None
    start, step = (np.concatenate(p) for p in zip(*pieces, strict=True))
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)
    share = np.clip(((at_m - start) * step).sum(1) / length**2, 0, 1)
    away = np.hypot(*(start + share[:, None] * step - at_m).T)
    nearest = int(away.argmin())
    return step[nearest] / length[nearest] if away[nearest] < 10.0 else None


def paint_bev(map_bev: bytes | NDArray[np.uint8], to: Canvas) -> None:
    """Paint the map from its image alone, (8, 256, 256) uint8 or its bytes, channels MAP_CHANNELS."""
    pixels = np.frombuffer(map_bev, np.uint8) if isinstance(map_bev, bytes) else np.asarray(map_bev)
    pixels = pixels.reshape(len(MAP_CHANNELS), BEV_PIXELS, BEV_PIXELS).astype(np.float64)
    value = {
        name: (p - 128) / 127 if name in SIGNED_MAP_CHANNELS else p / 255
        for name, p in zip(MAP_CHANNELS, pixels, strict=True)
    }
    picture = np.broadcast_to(np.array(canvas.GROUND, np.float64), (BEV_PIXELS, BEV_PIXELS, 3))
    signal = value["light"]
    coats: list[tuple[NDArray[np.floating], canvas.Colour]] = [
        (value["drivable_area"], canvas.ROAD),
        (0.35 * (signal < -0.75), canvas.SIGNAL[1]),
        (0.35 * ((signal < -0.25) & (signal >= -0.75)), canvas.SIGNAL[2]),
        (0.35 * (signal > 0.5), canvas.SIGNAL[3]),
        (0.6 * value["crosswalk"], canvas.PAINT),
        (value["lane_boundary"], canvas.PAINT),
        (0.8 * value["stop_line"], canvas.CURB),
    ]
    for cover, colour in coats:
        picture = picture + cover[..., None] * (np.array(colour) - picture)
    to.image.paste(_enlarged(picture, to))
    _paint_bev_arrows(value["lane_sin"], value["lane_cos"], to)


def _enlarged(picture: NDArray[np.float64], to: Canvas) -> "canvas.Image.Image":
    image = canvas.Image.fromarray(picture.round().astype(np.uint8), "RGB")
    return image.resize(to.image.size, canvas.Image.Resampling.BICUBIC)


def _paint_bev_arrows(lane_sin: NDArray[np.float64], lane_cos: NDArray[np.float64], to: Canvas) -> None:
    grid = np.arange(8, BEV_PIXELS, 20)
    for i in grid:
        for j in grid:
            if np.hypot(lane_sin[i, j], lane_cos[i, j]) > 0.5:
                x, y = (WINDOW_M / 2 - (k + 0.5) * WINDOW_M / BEV_PIXELS for k in (i, j))
                _paint_chevron(float(x), float(y), float(np.arctan2(lane_sin[i, j], lane_cos[i, j])), to)
