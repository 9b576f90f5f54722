"""Small charts of lines and bars: what a training run writes while it runs, what tables hold."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from sdiff.view import canvas

SERIES: tuple[canvas.Colour, ...] = (
    (32, 84, 220),
    (222, 32, 38),
    (0, 136, 140),
    (255, 140, 0),
    (112, 66, 168),
    (84, 98, 121),
    (40, 160, 70),
    (240, 98, 166),
)
FILLS: tuple[canvas.Colour, ...] = ((66, 110, 222), (150, 160, 176), (0, 136, 140), (255, 163, 60))
"""Colours of areas, calmer than those of lines."""
GRID: canvas.Colour = (228, 230, 233)
SUPERSAMPLING = 3


def line_chart(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    log_y: bool = False,
    size_px: tuple[int, int] = (960, 540),
) -> Image.Image:
    """One line per named series of (x, y), with axes, grid and legend.

    Points that are not finite, or not positive where `log_y`, are left out. Returns an RGB image.
    """
    lines = {name: _clean(x, y, log_y) for name, (x, y) in series.items()}
    xs = np.concatenate([x for x, _ in lines.values()] or [np.zeros(0)])
    ys = np.concatenate([y for _, y in lines.values()] or [np.zeros(0)])
    x_ticks = _linear_ticks(float(xs.min()), float(xs.max())) if len(xs) else _linear_ticks(0, 1)
    y_span, y_ticks = _y_axis(ys, log_y)
    x_span = (float(xs.min()), float(xs.max())) if len(xs) and np.ptp(xs) else (x_ticks[0], x_ticks[-1])
    x_ticks = [t for t in x_ticks if x_span[0] <= t <= x_span[1]]
    chart = _Chart(size_px, x_span, y_span, log_y, bool(title))
    chart.grid(x_ticks, y_ticks)
    for i, (x, y) in enumerate(lines.values()):
        chart.line(x, y, SERIES[i % len(SERIES)])
    return chart.finished(x_ticks, y_ticks, title, x_label, y_label, list(lines))


class Bar(NamedTuple):
    """A line of a bar chart. spans: from, to, and the index of the series that it shows. note: at its end."""

    label: str
    spans: Sequence[tuple[float, float, int]]
    note: str = ""


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str = "",
    x_label: str = "",
    series: Sequence[str] = (),
    size_px: tuple[int, int] = (960, 540),
    label_share: float = 0.22,
) -> Image.Image:
    """One horizontal line of spans per bar, from the top down, on one axis from 0, with legend and notes.

    series: their names, for the legend. label_share: of the width, for labels. Returns an RGB image.
    """
    image = Image.new("RGB", size_px, (255, 255, 255))
    pen, t = ImageDraw.Draw(image), max(round(size_px[1] / 36), 12)
    face = canvas.font(t)
    pen.text((t, t), title, font=canvas.font(t * 1.35), fill=canvas.INK)
    x = float(t)
    for i, name in enumerate(series):
        pen.rectangle((x, t * 3.5, x + t, t * 4.5), fill=FILLS[i % len(FILLS)])
        pen.text((x + t * 1.5, t * 3.3), name, font=face, fill=canvas.INK)
        x += t * 3 + face.getlength(name)
    top, room = t * (5.4 if series else 3.6), size_px[1] - t * 3
    pitch = min((room - top) / max(len(bars), 1), t * 3.2)
    bottom = top + pitch * len(bars)
    left = size_px[0] * label_share
    right = size_px[0] - t * 2 - max((face.getlength(bar.note) for bar in bars), default=0)
    most = max((end for bar in bars for _, end, _ in bar.spans), default=0) or 1

    def column(value: float) -> float:
        return left + value / most * (right - left)

    for tick in (v for v in _linear_ticks(0, most) if v <= most * 1.001):
        pen.line([(column(tick), top), (column(tick), bottom)], fill=GRID)
        pen.text((column(tick), bottom + t * 0.4), _number(tick), font=face, fill=canvas.FADED_INK, anchor="mt")
    pen.text((left - t * 0.6, bottom + t * 0.4), x_label, font=face, fill=canvas.FADED_INK, anchor="rt")
    for row, bar in enumerate(bars):
        middle, half = top + (row + 0.5) * pitch, pitch * 0.34
        label = canvas.fitted(bar.label, left - t * 1.6, t)
        pen.text((left - t * 0.6, middle), label, font=face, fill=canvas.INK, anchor="rm")
        for begin, end, i in bar.spans:
            spot = (column(begin), middle - half, max(column(end), column(begin) + 1), middle + half)
            pen.rectangle(spot, fill=FILLS[i % len(FILLS)])
        pen.text((right + t, middle), bar.note, font=face, fill=canvas.FADED_INK, anchor="lm")
    pen.line([(left, top), (left, bottom)], fill=canvas.CURB)
    return image


class _Chart:
    def __init__(
        self,
        size_px: tuple[int, int],
        x_span: tuple[float, float],
        y_span: tuple[float, float],
        log_y: bool,
        titled: bool,
    ) -> None:
        self.size_px, self.x_span, self.y_span, self.log_y = size_px, x_span, y_span, log_y
        self.text_px = max(round(size_px[1] / 36), 11)
        t = self.text_px
        self.box = (t * 5.5, t * (5.2 if titled else 3.2), size_px[0] - t * 1.8, size_px[1] - t * 4.2)
        self.image = Image.new("RGB", (size_px[0] * SUPERSAMPLING, size_px[1] * SUPERSAMPLING), (255, 255, 255))
        self.pen = ImageDraw.Draw(self.image)

    def at(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Pixels of points, (n, 2)."""
        left, top, right, bottom = self.box
        y_value, span = np.asarray(y, np.float64), np.asarray(self.y_span, np.float64)
        if self.log_y:
            y_value, span = np.log10(y_value), np.log10(span)
        share_x = (np.asarray(x, np.float64) - self.x_span[0]) / (self.x_span[1] - self.x_span[0])
        share_y = (y_value - span[0]) / (span[1] - span[0])
        return np.stack([left + share_x * (right - left), bottom - share_y * (bottom - top)], -1)

    def line(self, x: NDArray[np.float64], y: NDArray[np.float64], colour: canvas.Colour) -> None:
        if not len(x):
            return
        spots = [tuple(p) for p in (self.at(x, y) * SUPERSAMPLING).tolist()]
        if len(spots) > 1:
            self.pen.line(spots, fill=colour, width=2 * SUPERSAMPLING, joint="curve")
        r = (3 if len(spots) == 1 else 2) * SUPERSAMPLING
        column, row = spots[-1]
        self.pen.ellipse((column - r, row - r, column + r, row + r), fill=colour)

    def grid(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        left, top, right, bottom = (v * SUPERSAMPLING for v in self.box)
        for column, _ in self.at(x_ticks, [self.y_span[1]] * len(x_ticks)) * SUPERSAMPLING:
            self.pen.line([(column, top), (column, bottom)], fill=GRID, width=SUPERSAMPLING)
        for _, row in self.at([self.x_span[0]] * len(y_ticks), y_ticks) * SUPERSAMPLING:
            self.pen.line([(left, row), (right, row)], fill=GRID, width=SUPERSAMPLING)
        self.pen.line(
            [(left, top), (left, bottom), (right, bottom)], fill=canvas.CURB, width=SUPERSAMPLING, joint="curve"
        )

    def finished(
        self,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        title: str,
        x_label: str,
        y_label: str,
        names: list[str],
    ) -> Image.Image:
        picture = self.image.reduce(SUPERSAMPLING)
        pen, t, face = ImageDraw.Draw(picture), self.text_px, canvas.font(self.text_px)
        left, top, right, bottom = self.box
        for value, (column, _) in zip(x_ticks, self.at(x_ticks, [self.y_span[1]] * len(x_ticks)), strict=True):
            pen.text((column, bottom + t * 0.6), _number(value), font=face, fill=canvas.FADED_INK, anchor="mt")
        for value, (_, row) in zip(y_ticks, self.at([self.x_span[0]] * len(y_ticks), y_ticks), strict=True):
            pen.text((left - t * 0.6, row), _number(value), font=face, fill=canvas.FADED_INK, anchor="rm")
        pen.text(((left + right) / 2, bottom + t * 2.2), x_label, font=face, fill=canvas.INK, anchor="mt")
        pen.text((t, t), title, font=canvas.font(t * 1.35), fill=canvas.INK)
        pen.text((t, top - t * 1.9), y_label, font=face, fill=canvas.INK)
        x = t * 2 + (face.getlength(y_label) + t * 1.5 if y_label else 0)
        for i, name in enumerate(names):
            row = top - t * 1.9
            pen.line([(x, row + t * 0.6), (x + t * 1.6, row + t * 0.6)], fill=SERIES[i % len(SERIES)], width=3)
            pen.text((x + t * 2.1, row), name, font=face, fill=canvas.INK)
            x += t * 3.6 + face.getlength(name)
        return picture


def _clean(x: ArrayLike, y: ArrayLike, log_y: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    good = np.isfinite(x) & np.isfinite(y) & ((y > 0) if log_y else True)
    return x[good], y[good]


def _y_axis(values: NDArray[np.float64], log: bool) -> tuple[tuple[float, float], list[float]]:
    """Span of the axis, the values with a little air, and the round numbers within it."""
    if not len(values):
        values = np.array([1.0, 10.0]) if log else np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if not log:
        ticks = _linear_ticks(low, high)
        air = 0.05 * (high - low) or (abs(high) or 1.0) * 0.5
        span = (low - air, high + air)
    else:
        air = max((high / low) ** 0.05, 1.1)
        span = (low / air, high * air)
        decades = range(math.floor(math.log10(span[0])), math.ceil(math.log10(span[1])) + 1)
        marks = (1, 2, 5) if len(decades) <= 4 else (1,)
        ticks = [m * 10.0**d for d in decades for m in marks]
    return span, [t for t in ticks if span[0] <= t <= span[1]]


def _linear_ticks(low: float, high: float) -> list[float]:
    """Round numbers that span low to high, some five of them."""
    if high <= low:
        low, high = low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999) * power
    return [k * step for k in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _number(value: float) -> str:
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.10g}" if abs(value) >= 1e3 else f"{value:.6g}"
