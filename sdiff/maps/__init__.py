"""Vector maps: put together from what a source has, completed from geometry, looked up by place."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdiff.logs.driving_log import FEATURE_KINDS, VectorMap, plain_name


@dataclass(frozen=True)
class Lines:
    """n polylines or open rings as ragged arrays: line i is xy_m[start[i]:start[i + 1]].

    start: (n + 1,) int64. xy_m: (P, 2) float64, map frame [m].
    """

    start: NDArray[np.int64]
    xy_m: NDArray[np.float64]

    @staticmethod
    def of(lines: Sequence[ArrayLike]) -> "Lines":
        """Lines from one (k, 2) array each."""
        arrays = [np.asarray(line, np.float64).reshape(-1, 2) for line in lines]
        return Lines.of_lengths([len(a) for a in arrays], np.concatenate(arrays) if arrays else np.zeros((0, 2)))

    @staticmethod
    def of_lengths(vertices: Sequence[int] | NDArray[Any], xy_m: NDArray[np.float64]) -> "Lines":
        """Lines from the number of vertices of each and all vertices in one array."""
        return Lines(np.concatenate([[0], np.cumsum(vertices)]).astype(np.int64), xy_m)

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def vertices(self) -> NDArray[np.int64]:
        """Vertices of each line, (n,)."""
        return np.diff(self.start)

    @property
    def owner(self) -> NDArray[np.int64]:
        """The line that each vertex belongs to, (P,)."""
        return np.repeat(np.arange(len(self)), self.vertices)

    def line(self, i: int) -> NDArray[np.float64]:
        """Vertices of line i, (k, 2) [m]."""
        return self.xy_m[self.start[i] : self.start[i + 1]]

    def take(self, keep: NDArray[np.bool_]) -> "Lines":
        """The lines where `keep`, (n,), holds."""
        return Lines.of_lengths(self.vertices[keep], self.xy_m[np.repeat(keep, self.vertices)])


@dataclass(frozen=True)
class Lanes:
    """n lane centrelines, in driving direction, with what is known of each; see `VectorMap` for the fields."""

    ids: Sequence[str]
    lines: Lines
    successors: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    in_junction: NDArray[np.bool_]
    lane_type: NDArray[np.int8]
    width_m: NDArray[np.float32]
    speed_limit_mps: NDArray[np.float32]
    links_derived: bool


@dataclass(frozen=True)
class Features:
    """Map features of one kind other than lanes."""

    kind: str
    lines: Lines
    derived: bool = False


def vector_map(map_id: str, lanes: Lanes, others: Sequence[Features], crs: str | None = None) -> VectorMap:
    """One map of lanes and other features, which are called <kind>_<number>; lane i is feature i."""
    n_lanes = len(lanes.lines)
    groups = [g for g in others if len(g.lines)]
    n = n_lanes + sum(len(g.lines) for g in groups)
    every = [lanes.lines, *(g.lines for g in groups)]

    def padded(values: NDArray[Any], fill: float) -> NDArray[Any]:
        return np.concatenate([values, np.full(n - n_lanes, fill, values.dtype)])

    kinds = [FEATURE_KINDS.index("lane_centerline"), *(FEATURE_KINDS.index(g.kind) for g in groups)]
    counts = [len(lines) for lines in every]
    numbers = {g.kind: count() for g in groups}
    names = [f"{g.kind}_{next(numbers[g.kind])}" for g in groups for _ in range(len(g.lines))]
    return VectorMap(
        map_id=map_id,
        feature_id=np.array([*map(plain_name, lanes.ids), *names], np.str_),
        kind=np.repeat(np.array(kinds, np.int8), counts),
        start=np.concatenate([[0], np.cumsum(np.concatenate([lines.vertices for lines in every]))]).astype(np.int64),
        xy_m=np.concatenate([lines.xy_m for lines in every]),
        left=padded(lanes.left, -1),
        right=padded(lanes.right, -1),
        successors=lanes.successors,
        speed_limit_mps=padded(lanes.speed_limit_mps, np.nan),
        width_m=padded(lanes.width_m, np.nan),
        lane_type=padded(lanes.lane_type, -1),
        in_junction=padded(lanes.in_junction, False),
        derived=np.repeat([False, *(g.derived for g in groups)], counts),
        links_derived=lanes.links_derived,
        crs=crs,
    )
