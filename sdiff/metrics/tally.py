"""Measures pooled over many scenes: means with their intervals, quantiles, the way that is left."""

import zlib
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff.metrics.measures import MEASURES, Measure, Place, Values

_LARGEST = {"slip_rad": np.pi / 2, "acceleration_mps2": 20.0, "yaw_rate_radps": 2.0, "curvature_1pm": 0.5}
"""Of the values whose distribution is kept; what is larger counts as this."""
_BINS = 1000
_BLOCKS = 64
_DRAWS = 1000
_INTERVAL = (2.5, 97.5)
_SOURCES = {source: i for i, source in enumerate(dict.fromkeys(m.source for m in MEASURES))}


class Tally:
    """Running sums of the measures of many scenes, by region. Its size does not grow with them; NaN does not count.

    Scenes go to blocks by the log of their place: what varies between logs, not between windows of one log, says how
    sure a mean is.
    """

    def __init__(self) -> None:
        self._sums: defaultdict[tuple[str, int], NDArray[np.float64]] = defaultdict(
            lambda: np.zeros((2, len(_SOURCES)))
        )
        self._histograms: defaultdict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros((len(_LARGEST), _BINS)))

    def add(self, values: Values, place: Place, weight: float = 1.0) -> None:
        """Pool the values of one scene at `place`, each counting `weight` times."""
        sums = self._sums[place.region, zlib.crc32(place.log_id.encode()) % _BLOCKS]
        for key, found in values.items():
            found = found[~np.isnan(found)]
            sums[:, _SOURCES[key]] += weight * found.sum(), weight * len(found)
            if key in _LARGEST:
                bins = np.minimum(found / _LARGEST[key] * _BINS, _BINS - 1).astype(np.int64)
                at = list(_LARGEST).index(key)
                self._histograms[place.region][at] += weight * np.bincount(bins, minlength=_BINS)

    @property
    def regions(self) -> list[str]:
        """Of all places so far."""
        return sorted({region for region, _ in self._sums})

    def result(self, logs: "Tally", region: str | None = None) -> dict[str, float | None]:
        """Every measure of MEASURES by its key, over one region or all; None where nothing was measured.

        logs: the tally of the logs, which distributions are compared with. Quantiles and distances come from a
        histogram of 1000 bins up to the values of _LARGEST.
        """
        own, theirs = self._distributions(region), logs._distributions(region)
        total, weight = self._blocks(region).sum(0)
        found: dict[str, float | None] = {}
        for m in MEASURES:
            at = _SOURCES[m.source]
            if not weight[at] or (m.from_logs and not theirs[m.source][-1]):
                found[m.key] = None
            elif m.quantile is not None:
                upper_edge = np.searchsorted(own[m.source], m.quantile * own[m.source][-1]) + 1
                found[m.key] = float(upper_edge / _BINS * _LARGEST[m.source])
            elif m.from_logs:
                a, b = (below[m.source] / below[m.source][-1] for below in (own, theirs))
                found[m.key] = float(np.abs(a - b).sum() / _BINS * _LARGEST[m.source])
            else:
                found[m.key] = float(total[at] / weight[at])
        return found

    def intervals(self) -> dict[str, list[float] | None]:
        """95 % bootstrap interval of every mean, over blocks of logs; None where nothing was measured."""
        found = _interval(_resampled(self._blocks(None)))
        return {m.key: found[_SOURCES[m.source]] for m in MEASURES if _is_mean(m)}

    def _blocks(self, region: str | None) -> NDArray[np.float64]:
        """(_BLOCKS, 2, S): sums and weights of the values by block."""
        out = np.zeros((_BLOCKS, 2, len(_SOURCES)))
        for (of, block), sums in self._sums.items():
            if region is None or of == region:
                out[block] += sums
        return out

    def _distributions(self, region: str | None) -> dict[str, NDArray[np.float64]]:
        """Cumulated histograms by source."""
        kept = [h for of, h in self._histograms.items() if region is None or of == region]
        total = np.sum(kept, axis=0) if kept else np.zeros((len(_LARGEST), _BINS))
        return dict(zip(_LARGEST, total.cumsum(-1), strict=True))


class Way(NamedTuple):
    """How much of the way from naive agents to another draw of the traffic is left: 0 there, 1 at the naive end."""

    left: float
    interval: list[float]


def ways_left(generated: Tally, again: Tally, naive: Tally) -> dict[str, Way]:
    """(generated - again) / (naive - again) by measure; all three over the same places.

    Without the measures whose ends do not differ for sure, at 95 %: where the scale may have no length, a place on it
    says nothing. More places make it surer.
    """
    parts = [t._blocks(None) for t in (generated, again, naive)]
    means = [p.sum(0)[0] / np.maximum(p.sum(0)[1], 1e-300) for p in parts]
    drawn = [_resampled(p) for p in parts]  # the same blocks in all three
    found = {}
    for m in MEASURES:
        at = _SOURCES[m.source]
        if not (m.scaled and _is_mean(m)) or any(p[:, 1, at].sum() == 0 for p in parts):
            continue
        scale = _interval((drawn[2] - drawn[1])[:, [at]])[0]
        interval = _interval(_left(*(d[:, [at]] for d in drawn)))[0]
        if scale and interval and not scale[0] <= 0 <= scale[1]:
            found[m.key] = Way(float(_left(*(x[at] for x in means))), interval)
    return found


def _left(generated: Any, again: Any, naive: Any) -> Any:
    return (generated - again) / np.where(naive - again == 0, np.nan, naive - again)


def _resampled(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """(_DRAWS, S) means over blocks drawn with replacement; NaN where a draw has nothing."""
    counts = np.random.default_rng(0).multinomial(_BLOCKS, np.full(_BLOCKS, 1 / _BLOCKS), _DRAWS)
    total, weight = np.moveaxis(np.einsum("db,bks->dks", counts, blocks), 1, 0)
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)


def _interval(drawn: NDArray[np.float64]) -> list[list[float] | None]:
    """Of each column of (_DRAWS, S); None where all of it is NaN."""
    empty = np.asarray(np.isnan(drawn).all(0))
    low, high = np.nanpercentile(np.where(empty, 0.0, drawn), _INTERVAL, axis=0)
    return [None if e else [float(a), float(b)] for e, a, b in zip(empty, low, high, strict=True)]


def _is_mean(measure: Measure) -> bool:
    return measure.quantile is None and not measure.from_logs
