"""One scene as a picture or an animation: map, boxes, and trajectories from pink (past) to blue (future)."""

import io
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sdiff import KINDS, STEP_S, WINDOW_M
from sdiff.geometry import SE2, box_corners
from sdiff.scene import STEPS_PAST, Agents, AgentTokens
from sdiff.view import canvas, map_layer
from sdiff.view.canvas import Canvas, Colour
from sdiff.view.map_layer import MapLayer

MOVED_M = 0.5
"""A trajectory shorter than this is the jitter of an agent that stands, and is not drawn."""


class Signals(NamedTuple):
    """Signal states of a window. x_m, y_m: (L,) window frame [m]. state: (L, T) int8, index into LIGHT_STATES."""

    x_m: NDArray[np.float32]
    y_m: NDArray[np.float32]
    state: NDArray[np.int8]

    @staticmethod
    def of(row: Mapping[str, Any]) -> "Signals":
        """The signals of one value of the column `lights` of windows."""
        n = len(row["x_m"])
        state = np.asarray(row["state"], np.int8).reshape(n, -1) if n else np.zeros((0, 1), np.int8)
        return Signals(np.asarray(row["x_m"], np.float32), np.asarray(row["y_m"], np.float32), state)


def scene(
    map_features: pa.Table | MapLayer | bytes | NDArray[np.uint8] | None,
    map_SE2_window: SE2,
    agents: Agents,
    lights: Signals | None = None,
    *,
    size_px: int = 640,
    step: int | None = None,
    orange: Collection[int] = (),
    tokens: AgentTokens | None = None,
    title: str = "",
    scale_bar: bool = True,
) -> Image.Image:
    """The window as a picture, 100 m square, forward up, left left.

    map_features: rows of one map of table `maps`, or their MapLayer; or a `map_bev` where there are no rows.
    step: draw the boxes at this step; None: at t0. orange: indices of the agents that tokens asked for.
    tokens: drawn as hollow boxes where they ask for an agent.
    Returns an RGB image, size_px x size_px.
    """
    at = STEPS_PAST if step is None else step
    ground = _ground(map_features, map_SE2_window, agents, size_px, tokens)
    return _frame(ground, agents, lights, size_px, at, frozenset(orange), title, scale_bar, clock=step is not None)


def animation(
    map_features: pa.Table | MapLayer | bytes | NDArray[np.uint8] | None,
    map_SE2_window: SE2,
    agents: Agents,
    lights: Signals | None = None,
    *,
    size_px: int = 400,
    orange: Collection[int] = (),
    tokens: AgentTokens | None = None,
    title: str = "",
) -> list[Image.Image]:
    """One picture per step of 0.1 s, as from `scene`."""
    ground = _ground(map_features, map_SE2_window, agents, size_px, tokens)
    steps = agents.valid.shape[1]
    return [
        _frame(ground, agents, lights, size_px, s, frozenset(orange), title, True, clock=True) for s in range(steps)
    ]


def encode_gif(frames: list[Image.Image]) -> bytes:
    """An endless GIF at the scene's own speed."""
    # One palette for all frames, of the colours we draw with: a palette per frame makes still surfaces flicker, and
    # one counted from the pixels loses the few that matter, such as signals.
    wall = Image.new("P", (1, 1))
    wall.putpalette([channel for colour in _gif_colours() for channel in colour])
    return _encode([f.quantize(palette=wall, dither=Image.Dither.NONE) for f in frames], "GIF", optimize=False)


def _gif_colours() -> list[Colour]:
    """At most 256 colours: all we paint with, and what antialiasing makes of them at their edges."""
    solid = (canvas.EGO, canvas.DIRECTED, canvas.VEHICLE, canvas.HEAVY, canvas.CYCLIST, canvas.PEDESTRIAN, canvas.INK)
    flat = (canvas.GROUND, canvas.ROAD, canvas.SIDEWALK, canvas.BIKEWAY, canvas.DRIVEWAY, canvas.PAINT, canvas.CURB)
    fine = (canvas.CENTRELINE, canvas.ARROW, canvas.BUMP, canvas.OTHER, canvas.FADED_INK, *canvas.SIGNAL.values())
    trajectory = canvas.ramp((canvas.PAST, canvas.FUTURE), 40)
    edges = [canvas.blend(c, canvas.PAINT, s) for c in solid for s in (0.2, 0.4, 0.6, 0.8)]
    edges += [canvas.blend(c, canvas.PAINT, s) for c in trajectory[::2] for s in (0.35, 0.7)]
    edges += [canvas.blend(a, b, s) for a in flat for b in flat if a < b for s in (0.33, 0.67)]
    edges += [canvas.blend(c, canvas.ROAD, s) for c in (*solid, *canvas.SIGNAL.values()) for s in (0.33, 0.67)]
    return list(dict.fromkeys((*flat, *solid, *fine, *trajectory, *edges)))[:256]


def encode_webp(frames: list[Image.Image]) -> bytes:
    """An endless WebP at the scene's own speed."""
    return _encode(frames, "WEBP", quality=82, method=3)


def encode_png(image: Image.Image) -> bytes:
    """The picture as PNG."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _encode(frames: list[Image.Image], kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    duration_ms = round(STEP_S * 1000)
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=duration_ms, loop=0, **options)
    return out.getvalue()


def _ground(
    map_features: pa.Table | MapLayer | bytes | NDArray[np.uint8] | None,
    map_SE2_window: SE2,
    agents: Agents,
    size_px: int,
    tokens: AgentTokens | None,
) -> Image.Image:
    """What stays still over all steps, at the canvas's size: map, trajectories, tokens."""
    to = Canvas(size_px)
    if isinstance(map_features, pa.Table):
        map_features = MapLayer.of(map_features)
    if isinstance(map_features, MapLayer):
        map_layer.paint(map_features, map_SE2_window, to)
    elif map_features is not None:
        map_layer.paint_bev(map_features, to)
    for i in range(len(agents)):
        _paint_trajectory(agents, i, to)
    if tokens is not None:
        _paint_tokens(tokens, to)
    return to.image


def _frame(
    ground: Image.Image,
    agents: Agents,
    lights: Signals | None,
    size_px: int,
    step: int,
    orange: frozenset[int],
    title: str,
    scale_bar: bool,
    clock: bool,
) -> Image.Image:
    to = Canvas(size_px, ground)
    # Small agents last, so that none hides under a vehicle; the directed and the AV above the others of their size.
    rank = agents.is_ego * 2 + np.isin(np.arange(len(agents)), list(orange))
    for i in np.lexsort((rank, -agents.length_m)):
        if agents.valid[i, step]:
            _paint_agent(agents, int(i), step, i in orange, to)
    if lights is not None:  # above those who wait at them
        _paint_signals(lights, step, to)
    picture = to.finished()
    text_px = max(round(size_px / 40), 11)
    margin = text_px * 0.8
    canvas.plate(picture, (margin, margin), canvas.fitted(title, size_px * 0.72, text_px), text_px)
    if clock:
        time = f"{(step - STEPS_PAST) * STEP_S:+.1f} s"
        canvas.plate(picture, (size_px - margin, margin), time, text_px, "ra")
    if scale_bar:
        _paint_scale_bar(picture, text_px)
    return picture


def _paint_trajectory(agents: Agents, i: int, to: Canvas) -> None:
    xy = np.stack([agents.x_m[i], agents.y_m[i]], -1)
    pairs = np.flatnonzero(agents.valid[i, :-1] & agents.valid[i, 1:])
    if not len(pairs) or np.ptp(xy[agents.valid[i]], axis=0).max() < MOVED_M:
        return
    walker = KINDS[agents.kind[i]] == "pedestrian"
    half_m = max(0.15, to.metres(0.8)) if walker else max(0.28, to.metres(1.0))
    colours = canvas.ramp((canvas.PAST, canvas.FUTURE), len(xy) - 1)
    runs = np.split(pairs, np.flatnonzero(np.diff(pairs) > 1) + 1)
    for run in runs:
        to.ribbon(xy[run[0] : run[-1] + 2], half_m + to.metres(0.8), [canvas.PAINT] * len(run))
    for run in runs:
        to.ribbon(xy[run[0] : run[-1] + 2], half_m, colours[run[0] : run[-1] + 1])


def _colour(agents: Agents, i: int, directed: bool) -> Colour:
    if agents.is_ego[i]:
        return canvas.EGO
    if directed:
        return canvas.DIRECTED
    by_kind = {
        "truck": canvas.HEAVY,
        "bus": canvas.HEAVY,
        "cyclist": canvas.CYCLIST,
        "pedestrian": canvas.PEDESTRIAN,
        "other": canvas.OTHER,
    }
    return by_kind.get(KINDS[agents.kind[i]], canvas.VEHICLE)


def _paint_agent(agents: Agents, i: int, step: int, directed: bool, to: Canvas) -> None:
    kind = KINDS[agents.kind[i]]
    x, y, heading = (float(v[i, step]) for v in (agents.x_m, agents.y_m, agents.heading_rad))
    pose = SE2(x, y, heading)
    length, width = float(agents.length_m[i]), float(agents.width_m[i])
    colour = _colour(agents, i, directed)
    if kind == "pedestrian":
        _paint_walker(pose, max(length, width) / 2, colour, to)
    elif kind in ("cyclist", "motorcyclist"):
        _paint_rider(pose, length, width, colour, to)
    else:
        rim = to.metres(1.0)
        to.area(box_corners(x, y, heading, length + 2 * rim, width + 2 * rim), canvas.PAINT)
        to.area(box_corners(x, y, heading, length, width), colour)
        depth = min(0.75 * width, 0.4 * length)
        tip = length / 2 - 0.08 * width
        notch = np.array([[tip, 0.0], [tip - depth, 0.36 * width], [tip - depth, -0.36 * width]])
        to.area(_placed(notch, pose), canvas.blend(colour, canvas.PAINT, 0.72))


def _paint_walker(pose: SE2, radius_m: float, colour: Colour, to: Canvas) -> None:
    radius = max(radius_m, to.metres(2.6))
    nose = np.array([[radius * 1.75, 0.0], [radius * 0.3, radius * 0.95], [radius * 0.3, -radius * 0.95]])
    to.area(_placed(nose * 1.25, pose), canvas.PAINT)
    to.disc(pose.x_m, pose.y_m, radius, colour, rim=canvas.PAINT)
    to.area(_placed(nose, pose), colour)


def _paint_rider(pose: SE2, length: float, width: float, colour: Colour, to: Canvas) -> None:
    """A kite, pointed ahead: no vehicle on four wheels looks like it."""
    half_length, half_width = max(length / 2, to.metres(3.4)), max(width / 2, to.metres(1.9))
    kite = np.array([[1.0, 0.0], [-0.15, 1.0], [-1.0, 0.35], [-1.0, -0.35], [-0.15, -1.0]])
    rim = to.metres(1.2)
    to.area(_placed(kite * [half_length + 1.5 * rim, half_width + rim], pose), canvas.PAINT)
    to.area(_placed(kite * [half_length, half_width], pose), colour)


def _placed(xy_m: NDArray[np.float64], pose: SE2) -> NDArray[np.float64]:
    return np.stack(pose.apply(xy_m[:, 0], xy_m[:, 1]), -1)


def _paint_tokens(tokens: AgentTokens, to: Canvas) -> None:
    """A hollow orange box where a token asks for an agent at t0, and a cross where it asks it to be at +2 s."""
    for k in range(len(tokens)):
        x, y, heading, length, width = (
            float(v[k]) for v in (tokens.x_m, tokens.y_m, tokens.heading_rad, tokens.length_m, tokens.width_m)
        )
        if np.isfinite([x, y]).all():
            size = np.nan_to_num([length, width], nan=2.0)
            ring = box_corners(x, y, np.nan_to_num(heading), size[0] + to.metres(4), size[1] + to.metres(4))
            to.line(np.concatenate([ring, ring[:2]]), canvas.DIRECTED, 0.0, 1.6)
        end_x, end_y = float(tokens.end_x_m[k]), float(tokens.end_y_m[k])
        if np.isfinite([end_x, end_y]).all():
            reach = max(0.9, to.metres(4))
            for sign in (1, -1):
                cross = np.array([[end_x - reach, end_y - sign * reach], [end_x + reach, end_y + sign * reach]])
                to.line(cross, canvas.DIRECTED, 0.0, 1.8)


def _paint_signals(lights: Signals, step: int, to: Canvas) -> None:
    radius = max(0.7, to.metres(2.6))
    states = lights.state[:, min(step, lights.state.shape[1] - 1)]
    for x, y, state in zip(lights.x_m, lights.y_m, states, strict=True):
        if int(state) in canvas.SIGNAL:
            to.disc(float(x), float(y), radius, canvas.SIGNAL[int(state)], rim=canvas.INK)


def _paint_scale_bar(picture: Image.Image, text_px: int) -> None:
    metres = 20
    length = metres / WINDOW_M * picture.width
    left, bottom = text_px * 0.9, picture.height - text_px * 0.9
    pen = ImageDraw.Draw(picture)
    tick = text_px * 0.3
    for width, colour in ((4, canvas.PAINT), (2, canvas.INK)):
        pen.line([(left, bottom), (left + length, bottom)], fill=colour, width=width)
        for x in (left, left + length):
            pen.line([(x, bottom - tick), (x, bottom + tick)], fill=colour, width=width)
    canvas.plate(picture, (left + length / 2, bottom - tick * 2), f"{metres} m", max(text_px - 2, 9), "mb")
