"""One recording as arrays: what every reader yields and all else starts from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS

FEATURE_KINDS = (
    "lane_centerline",
    "lane_boundary",
    "road_edge",
    "drivable_area",
    "crosswalk",
    "stop_line",
    "speed_bump",
    "driveway",
)
LANE_TYPES = ("vehicle", "bus", "bike", "pedestrian")
LIGHT_STATES = ("unknown", "stop", "caution", "go")


FARTHEST_M = 1e9
"""No vertex of a map, and no agent, is farther from the origin; absurd ones keep those who draw busy for hours."""
LONGEST_NAME = 200
"""Characters of an id or another name: arrays of text take the longest one's room for each."""
LONGEST_REASON = 2000


def plain_name(value: object, longest: int = LONGEST_NAME + 1) -> str:
    """An id or another name of a source as text that NumPy and Parquet hold; one that is too long stays too long.

    What text cannot hold everywhere (lone surrogates, NUL) is written as Python escapes it.
    """
    text = str(value)[:longest]
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")[:longest]


class BadRecord(ValueError):
    """A file, log or track that cannot be used: goes to the dead letters, the rest of the job goes on.

    stage: read, validate, mend or cut. record: log, track or row; empty for the whole file. is_log: a whole log of a
    file of many is lost, not a part of one.
    """

    def __init__(self, reason: str, *, stage: str = "read", record: str = "", is_log: bool = False) -> None:
        super().__init__(reason)  # what it is made of again where it comes from another process
        self.reason, self.record = plain_name(reason, LONGEST_REASON), plain_name(record)
        self.stage, self.is_log = stage, is_log

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Tracks:
    """Tracks of A agents over T steps of 0.1 s, map frame.

    agent_id: (A,) str. kind: (A,) int8, index into KINDS. length_m, width_m: (A,) float32.
    x_m, y_m, heading_rad, vx_mps, vy_mps: (A, T) float64, box centre [m, rad, m/s]; 0 where not valid.
    valid: (A, T) bool.
    """

    agent_id: NDArray[np.str_]
    kind: NDArray[np.int8]
    length_m: NDArray[np.float32]
    width_m: NDArray[np.float32]
    x_m: NDArray[np.float64]
    y_m: NDArray[np.float64]
    heading_rad: NDArray[np.float64]
    vx_mps: NDArray[np.float64]
    vy_mps: NDArray[np.float64]
    valid: NDArray[np.bool_]

    def take(self, index: NDArray[Any] | slice) -> "Tracks":
        """The tracks at `index` (positions, a mask, or a slice: then views)."""
        return Tracks(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def validate(self) -> None:
        """Raise BadRecord where shapes disagree, an id comes twice, a size is absurd, or a value is not finite."""
        n, steps = self.valid.shape
        for name in ("x_m", "y_m", "heading_rad", "vx_mps", "vy_mps"):
            values = getattr(self, name)
            if values.shape != (n, steps):
                raise BadRecord(f"tracks.{name} has shape {values.shape}, expected {(n, steps)}", stage="validate")
            bad = self.valid & ~np.isfinite(values)
            if bad.any():
                agent, step = np.argwhere(bad)[0]
                raise BadRecord(
                    f"tracks.{name} is {values[agent, step]} at step {step}, expected a finite number",
                    stage="validate",
                    record=str(self.agent_id[agent]),
                )
        for name in ("agent_id", "kind", "length_m", "width_m"):
            if getattr(self, name).shape != (n,):
                raise BadRecord(
                    f"tracks.{name} has shape {getattr(self, name).shape}, expected {(n,)}", stage="validate"
                )
        unique, count = np.unique(self.agent_id, return_counts=True)
        if (count > 1).any():
            raise BadRecord(
                f"agent id comes {count.max()} times, expected once",
                stage="validate",
                record=str(unique[count.argmax()]),
            )
        if n and not ((self.kind >= 0) & (self.kind < len(KINDS))).all():
            raise BadRecord("tracks.kind outside KINDS", stage="validate")
        size_ok = (self.length_m > 0) & (self.width_m > 0) & (self.length_m < 40) & (self.width_m < 10)
        if not size_ok.all():
            agent = int(np.argmin(size_ok))
            raise BadRecord(
                f"box of {self.length_m[agent]} x {self.width_m[agent]} m, expected up to 40 x 10 m",
                stage="validate",
                record=str(self.agent_id[agent]),
            )


@dataclass(frozen=True)
class VectorMap:
    """F map features as ragged arrays, map frame.

    feature_id: (F,) str, unique. kind: (F,) int8, index into FEATURE_KINDS.
    start: (F + 1,) int64; the vertices of feature f are xy_m[start[f]:start[f + 1]]. xy_m: (P, 2) float64 [m].
    Areas (drivable_area, crosswalk, speed_bump, driveway) are open rings; lanes run in driving direction.
    Lanes only, else empty or NaN: left, right: (F,) int32, index of the neighbour in the same direction, -1 for none;
    successors: (S, 2) int32 pairs (from, to) of feature indices; speed_limit_mps, width_m: (F,) float32, NaN where
    unknown; lane_type: (F,) int8, index into LANE_TYPES, -1 for other features; in_junction: (F,) bool.
    derived: (F,) bool, geometry computed here. links_derived: neighbours and successors computed here.
    """

    map_id: str
    feature_id: NDArray[np.str_]
    kind: NDArray[np.int8]
    start: NDArray[np.int64]
    xy_m: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    successors: NDArray[np.int32]
    speed_limit_mps: NDArray[np.float32]
    width_m: NDArray[np.float32]
    lane_type: NDArray[np.int8]
    in_junction: NDArray[np.bool_]
    derived: NDArray[np.bool_]
    links_derived: bool = False
    crs: str | None = None

    def of_kind(self, kind: str) -> NDArray[np.int64]:
        """Indices of the features of one kind."""
        return np.flatnonzero(self.kind == FEATURE_KINDS.index(kind))

    def points(self, feature: int) -> NDArray[np.float64]:
        """Vertices of one feature, (n, 2) [m]."""
        return self.xy_m[self.start[feature] : self.start[feature + 1]]

    def validate(self) -> None:
        """Raise BadRecord where shapes disagree or a vertex is not finite."""
        n = len(self.feature_id)
        if self.start.shape != (n + 1,) or (n and self.start[-1] != len(self.xy_m)):
            raise BadRecord(f"map {self.map_id}: start has shape {self.start.shape} for {n} features", stage="validate")
        if not np.isfinite(self.xy_m).all():
            raise BadRecord(f"map {self.map_id}: a vertex is not finite", stage="validate", record=self.map_id)
        if not (np.abs(self.xy_m) < FARTHEST_M).all():
            reason = f"map {self.map_id}: a vertex is {np.abs(self.xy_m).max():.3g} m from the origin"
            raise BadRecord(f"{reason}, expected less than {FARTHEST_M:.0e} m", stage="validate", record=self.map_id)
        if len(np.unique(self.feature_id)) != n:
            raise BadRecord(f"map {self.map_id}: a feature id comes twice", stage="validate", record=self.map_id)


@dataclass(frozen=True)
class Lights:
    """Signal states of L controlled lanes over the T steps of the tracks.

    lane: (L,) int32, index of the lane feature. x_m, y_m: (L,) float64, where the lane must stop, map frame [m].
    state: (L, T) int8, index into LIGHT_STATES.
    """

    lane: NDArray[np.int32]
    x_m: NDArray[np.float64]
    y_m: NDArray[np.float64]
    state: NDArray[np.int8]

    @staticmethod
    def none(steps: int) -> "Lights":
        """No signal at all."""
        return Lights(np.zeros(0, np.int32), np.zeros(0), np.zeros(0), np.zeros((0, steps), np.int8))


@dataclass(frozen=True)
class DrivingLog:
    """One recording: tracks at 10 Hz, a vector map, signals, and the recording vehicle where the source names one.

    recorder: index of the recording vehicle in the tracks, or None. start_us: the log's own clock at step 0.
    split_key: logs that share it fall into the same split, because they saw the same traffic; empty: log_id.
    size_known: (A,) bool, which tracks have their size from the source; None: all. repairs: what was mended, by
    `quality.mend`, and in which tracks, (A,) bool.
    """

    log_id: str
    dataset: str
    region: str
    license: str
    tracks: Tracks
    map: VectorMap
    lights: Lights
    recorder: int | None = None
    start_us: int = 0
    split_key: str = ""
    size_known: NDArray[np.bool_] | None = None
    repairs: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def repaired(self) -> NDArray[np.bool_]:
        """Which tracks had any repair, (A,)."""
        return np.any([np.zeros(len(self.tracks.agent_id), bool), *self.repairs.values()], 0)

    def validate(self) -> None:
        """Raise BadRecord where a part is not what its docstring says."""
        self.tracks.validate()
        self.map.validate()
        if self.lights.state.shape != (len(self.lights.lane), self.tracks.valid.shape[1]):
            raise BadRecord(f"lights.state has shape {self.lights.state.shape}", stage="validate", record=self.log_id)
