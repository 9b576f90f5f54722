"""What tables of windows hold, as one page of charts."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sdiff import stats
from sdiff.logs.driving_log import LANE_TYPES
from sdiff.scene import STEPS_PAST
from sdiff.stats import Histogram, Stats
from sdiff.view import canvas
from sdiff.view.plots import Bar, bar_chart, line_chart

PANEL_PX = (780, 430)
MARGIN_PX = 20
MOST_LINES = 6
"""Lines in one chart; the data sets and kinds with most in them."""
MOST_BARS = 16


def page(counted: Stats) -> Image.Image:
    """The page, an RGB image: a headline, and a chart for every question to which the tables have an answer."""
    charts = (_agents, _kinds, _speeds, _sizes, _regions, _tracks, _lanes, _features)
    panels = [panel for chart in charts if (panel := chart(counted)) is not None]
    wide = _dead_letters(counted)
    width, height = PANEL_PX
    head, rows = 70, -(-len(panels) // 2)
    below = head + rows * (height + MARGIN_PX)
    paper = Image.new("RGB", (2 * width + 3 * MARGIN_PX, below + (wide.height if wide else 0)), (255, 255, 255))
    agents = sum(s.agents for s in counted.sources)
    datasets = ", ".join(sorted({s.dataset for s in counted.sources}))
    headline = f"{counted.windows:,} windows of {counted.logs:,} logs, {agents:,} agents: {datasets}"
    headline = canvas.fitted(headline, paper.width - 3 * MARGIN_PX, 26)
    ImageDraw.Draw(paper).text((1.6 * MARGIN_PX, MARGIN_PX), headline, font=canvas.font(26), fill=canvas.INK)
    for i, panel in enumerate(panels):
        paper.paste(panel, (MARGIN_PX + i % 2 * (width + MARGIN_PX), head + i // 2 * (height + MARGIN_PX)))
    if wide:
        paper.paste(wide, (MARGIN_PX, below))
    return paper


def _agents(counted: Stats) -> Image.Image | None:
    by_dataset = sorted(counted.agents_per_window.items(), key=lambda item: -item[1].total)[:MOST_LINES]
    title = "Agents per window: share of windows with at most so many"
    return _shares(dict(by_dataset), title, "agents at t0", 1.0) if by_dataset else None


def _speeds(counted: Stats) -> Image.Image | None:
    by_kind = {k: counted.speed_mps[k] for k in counted.kinds() if k in counted.speed_mps}
    title = "Speed: share of agents at most so fast (at 0: those that stand)"
    return _shares(by_kind, title, "m/s at t0", 0.999) if by_kind else None


def _shares(histograms: dict[str, Histogram], title: str, x_label: str, up_to: float) -> Image.Image:
    """The share of values up to each one, a line per histogram, all as far as `up_to` of the values of any reach."""
    far = max(h.quantile(up_to) or 0.0 for h in histograms.values())
    lines = {}
    for name, h in histograms.items():
        keys = sorted(h.counts)
        x = np.array(keys) * h.step
        share = np.cumsum([h.counts[k] for k in keys]) / h.total
        shown = x <= far
        lines[name] = (np.append(x[shown], far), np.append(share[shown], share[shown][-1] if shown.any() else 0.0))
    return line_chart(lines, title=title, x_label=x_label, size_px=PANEL_PX)


def _kinds(counted: Stats) -> Image.Image | None:
    bars = []
    for row in stats.kinds(counted):
        standing = row["agents"] * (row["standing"] or 0.0)
        note = f"{row['agents']:,} ({100 * row['share']:.1f} %)"
        bars.append(_stacked(row["kind"], (row["agents"] - standing, standing), note))
    series = ("moving", "standing")
    return bar_chart(bars, title="Agents by kind", series=series, size_px=PANEL_PX) if bars else None


def _sizes(counted: Stats) -> Image.Image | None:
    bars = []
    for row in stats.sizes(counted):
        low, middle, high = (row[f"length {q}"] for q in ("5 %", "median", "95 %"))
        spans = [(low, middle, 0), (middle, high, 2)]
        bars.append(Bar(row["kind"], spans, f"{middle:.1f} x {row['width median']:.1f} m"))
    title = "Length of boxes: 5 % to median (blue) to 95 % (green); median size"
    return bar_chart(bars, title=title, x_label="m", size_px=PANEL_PX) if bars else None


def _regions(counted: Stats) -> Image.Image | None:
    rows = stats.regions(counted)
    names = [r["region"] for r in rows]
    bars = []
    for row in rows[:MOST_BARS]:
        name = row["region"] if names.count(row["region"]) == 1 else f"{row['region']} ({row['dataset']})"
        bars.append(_stacked(name, (row["train"], row["val"]), f"{row['train'] + row['val']:,}"))
    if rest := rows[MOST_BARS:]:
        train, val = (sum(r[split] for r in rest) for split in ("train", "val"))
        bars.append(_stacked(f"{len(rest):,} others", (train, val), f"{train + val:,}"))
    title = "Windows by region and split"
    return bar_chart(bars, title=title, series=("train", "val"), size_px=PANEL_PX, label_share=0.3) if bars else None


def _tracks(counted: Stats) -> Image.Image | None:
    """By data set, or where there is one, by kind."""
    by: dict[str, Counter[int]] = {}
    for (dataset, kind), histogram in counted.seen.items():
        by.setdefault(dataset if len(counted.agents_per_window) > 1 else kind, Counter()).update(histogram.counts)
    bars = []
    for name, counts in sorted(by.items(), key=lambda item: -item[1].total())[:MOST_BARS]:
        seen = Histogram(1.0, counts)
        whole, half = (seen.at_least(steps).total / seen.total for steps in (stats.STEPS, STEPS_PAST + 1))
        bars.append(_stacked(name, (whole, half - whole, 1 - half), f"{100 * whole:.1f} % whole, of {seen.total:,}"))
    title = f"Tracks: share of agents seen at how many of {stats.STEPS} steps"
    series = (f"all {stats.STEPS}", "half or more", "fewer")
    return bar_chart(bars, title=title, series=series, size_px=PANEL_PX) if bars else None


def _lanes(counted: Stats) -> Image.Image | None:
    bars = []
    for row in stats.maps(counted)[:MOST_BARS]:
        km = [row[f"km {t}"] for t in LANE_TYPES]
        bars.append(_stacked(row["dataset"], km, f"{sum(km):,.1f} km on {row['maps']:,} maps"))
    title = "Lanes of the maps by type"
    return bar_chart(bars, title=title, x_label="km", series=LANE_TYPES, size_px=PANEL_PX) if bars else None


def _features(counted: Stats) -> Image.Image | None:
    found: dict[str, list[int]] = {}
    for f in counted.features:
        found.setdefault(f.kind, [0, 0])[f.derived] += f.count
    bars = [_stacked(kind, parts, f"{sum(parts):,}") for kind, parts in sorted(found.items())]
    series = ("the source's", "computed")
    return bar_chart(bars, title="Map features", series=series, size_px=PANEL_PX) if bars else None


def _dead_letters(counted: Stats) -> Image.Image | None:
    letters = counted.dead_letters[:MOST_BARS]
    bars = [Bar(f"{d.stage}: {d.reason}", [(0, d.count, 0)], f"{d.count:,} in {d.sources:,} sources") for d in letters]
    size_px = (2 * PANEL_PX[0] + MARGIN_PX, 90 + 34 * len(bars))
    return bar_chart(bars, title="Dead letters by reason", size_px=size_px, label_share=0.62) if bars else None


def _stacked(label: str, parts: Sequence[float], note: str) -> Bar:
    ends = list(itertools.accumulate(parts, initial=0.0))
    return Bar(label, [(a, b, i) for i, (a, b) in enumerate(itertools.pairwise(ends)) if b > a], note)
