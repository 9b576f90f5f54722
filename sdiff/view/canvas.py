"""A supersampled canvas over the window: metres in, antialiased picture out. Forward is up, left is left."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from sdiff import WINDOW_M

Colour = tuple[int, int, int]

GROUND: Colour = (238, 239, 235)
ROAD: Colour = (208, 211, 215)
SIDEWALK: Colour = (226, 226, 221)
BIKEWAY: Colour = (216, 205, 200)
DRIVEWAY: Colour = (218, 220, 221)
PAINT: Colour = (255, 255, 255)
CURB: Colour = (148, 154, 163)
CENTRELINE: Colour = (186, 191, 198)
ARROW: Colour = (160, 167, 177)
BUMP: Colour = (228, 205, 140)
SIGNAL: dict[int, Colour] = {1: (214, 39, 40), 2: (240, 173, 20), 3: (40, 160, 70)}
"""Colours of the states of LIGHT_STATES that are known."""

EGO: Colour = (222, 32, 38)
DIRECTED: Colour = (255, 140, 0)
VEHICLE: Colour = (84, 98, 121)
HEAVY: Colour = (58, 69, 92)
CYCLIST: Colour = (0, 136, 140)
PEDESTRIAN: Colour = (112, 66, 168)
OTHER: Colour = (130, 134, 140)
PAST: Colour = (240, 98, 166)
FUTURE: Colour = (32, 84, 220)
INK: Colour = (38, 43, 51)
FADED_INK: Colour = (104, 110, 120)


class Canvas:
    """A square picture of the window, drawn some times larger than it comes out."""

    def __init__(self, size_px: int, ground: Image.Image | Colour = GROUND) -> None:
        self.size_px = size_px
        self.scale = min(max(2, round(1800 / size_px)), 4)
        side = size_px * self.scale
        if isinstance(ground, Image.Image):
            self.image = (
                ground.copy() if ground.width == side else ground.resize((side, side), Image.Resampling.BICUBIC)
            )
        else:
            self.image = Image.new("RGB", (side, side), ground)
        self.pen = ImageDraw.Draw(self.image)

    def points(self, x_m: ArrayLike, y_m: ArrayLike) -> list[tuple[float, float]]:
        """Canvas coordinates (column, row) of points of the window frame."""
        per_m = self.image.width / WINDOW_M
        columns = (WINDOW_M / 2 - np.asarray(y_m, np.float64)) * per_m
        rows = (WINDOW_M / 2 - np.asarray(x_m, np.float64)) * per_m
        return list(zip(columns.tolist(), rows.tolist(), strict=True))

    def width(self, metres: float, least_px: float = 1.0) -> int:
        """A line's width on the canvas: its true width, but no thinner than `least_px` of the finished picture."""
        return max(round(metres * self.image.width / WINDOW_M), round(least_px * self.scale), 1)

    def metres(self, px: float) -> float:
        """Metres that `px` pixels of the finished picture cover."""
        return px * WINDOW_M / self.size_px

    def area(self, xy_m: NDArray[np.floating], fill: Colour) -> None:
        """Fill a ring, (n, 2) [m]."""
        if len(xy_m) >= 3:
            self.pen.polygon(self.points(xy_m[:, 0], xy_m[:, 1]), fill=fill)

    def line(self, xy_m: NDArray[np.floating], fill: Colour, metres: float, least_px: float = 1.0) -> None:
        """Stroke a polyline, (n, 2) [m]."""
        if len(xy_m) >= 2:
            width = self.width(metres, least_px)
            self.pen.line(self.points(xy_m[:, 0], xy_m[:, 1]), fill=fill, width=width, joint="curve")

    def ribbon(self, xy_m: NDArray[np.floating], half_width_m: float, fills: Sequence[Colour]) -> None:
        """A band with round ends along a polyline, (n + 1, 2) [m], each of its n pieces in its own colour."""
        far = np.concatenate([[True], np.hypot(*np.diff(xy_m, axis=0).T) > 0.02])
        spots, fills = xy_m[far], [f for f, kept in zip(fills, far[1:], strict=True) if kept]
        if len(spots) < 2:
            return
        along = np.diff(spots, axis=0)
        along = along / np.hypot(along[:, 0], along[:, 1])[:, None]
        bisector = np.concatenate([along[:1], along[:-1] + along[1:], along[-1:]])
        length = np.hypot(bisector[:, 0], bisector[:, 1])[:, None]
        # Where the agent turns back the bisector vanishes: keep the direction it came with.
        ahead = np.where(length > 0.5, bisector / np.maximum(length, 0.5), np.concatenate([along, along[-1:]]))
        across = np.stack([-ahead[:, 1], ahead[:, 0]], -1) * half_width_m
        left, right = spots + across, spots - across
        pieces = np.stack([left[:-1], left[1:], right[1:], right[:-1]], 1)
        for end, fill in ((spots[0], fills[0]), (spots[-1], fills[-1])):
            self.disc(float(end[0]), float(end[1]), half_width_m, fill)
        for piece, fill in zip(pieces, fills, strict=True):
            self.area(piece, fill)

    def disc(self, x_m: float, y_m: float, radius_m: float, fill: Colour, rim: Colour | None = None) -> None:
        """Fill a disc; `rim`: colour of a line around it."""
        ((column, row),) = self.points([x_m], [y_m])
        r = radius_m * self.image.width / WINDOW_M
        if rim is not None:
            out = r + self.width(0.0, 1.0)
            self.pen.ellipse((column - out, row - out, column + out, row + out), fill=rim)
        self.pen.ellipse((column - r, row - r, column + r, row + r), fill=fill)

    def finished(self) -> Image.Image:
        """The picture at its own size."""
        return self.image.reduce(self.scale)


def font(px: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow, so that a picture looks the same on every machine."""
    return ImageFont.load_default(px)


def blend(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from a to b."""
    return tuple(round(p + (q - p) * share) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def plate(image: Image.Image, xy: tuple[float, float], text: str, px: int, anchor: str = "la") -> None:
    """Write `text` on a pale plate, so that it stays legible over any picture."""
    if not text:
        return
    pen = ImageDraw.Draw(image, "RGBA")
    left, top, right, bottom = pen.textbbox(xy, text, font=font(px), anchor=anchor)
    pad = px * 0.35
    pen.rounded_rectangle((left - pad, top - pad, right + pad, bottom + pad), radius=pad, fill=(255, 255, 255, 205))
    pen.text(xy, text, font=font(px), fill=INK, anchor=anchor)


def fitted(text: str, width_px: float, px: float) -> str:
    """`text`, shortened at the end until it is no wider than `width_px`."""
    face = font(px)
    if face.getlength(text) <= width_px:
        return text
    while text and face.getlength(text + "…") > width_px:
        text = text[:-1]
    return text.rstrip(" ·") + "…"


def ramp(colours: Sequence[Colour], steps: int) -> list[Colour]:
    """`steps` colours from the first to the last of `colours`, evenly spaced."""
    at = np.linspace(0, len(colours) - 1, steps)
    table = np.asarray(colours, np.float64)
    values = [np.interp(at, np.arange(len(colours)), table[:, c]) for c in range(3)]
    return [(int(r), int(g), int(b)) for r, g, b in np.stack(values, -1).round()]
