"""What recordings get wrong about their tracks, mended: short gaps, jumps, velocities and headings that contradict."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S
from sdiff.geometry import wrap_angle
from sdiff.logs.driving_log import DrivingLog, Tracks
from sdiff.logs.frames import rate

GAP_STEPS = 5
"""A gap of at most so many steps is filled, a longer one ends the track: half a second at constant turn is some cm."""
JUMP_MPS, JUMP_ON_FOOT_MPS = 80.0, 15.0
"""Nobody on a road, or on foot, gets from one pose to the next faster than that: it is another agent [m/s]."""
VELOCITY_MPS, VELOCITY_SHARE = 2.0, 0.2
"""A velocity contradicts the positions where it is off theirs by more than the first plus this share of the faster."""
AROUND_STEPS = 5
"""Of the two the one is wrong that is less steady over so many steps before and after."""
STANDING_MPS, FLIP_RAD = 0.5, 0.35
"""A vehicle slower than the first does not turn by the second from one step to the next."""

_ON_FOOT = KINDS.index("pedestrian")
_TURNS_BY_DRIVING = [i for i, kind in enumerate(KINDS) if kind not in ("pedestrian", "other")]

GAP, JUMP, LONG_GAP, VELOCITY, HEADING = "gap", "jump", "long gap", "velocity", "heading"
"""Repairs, by the word they are counted under."""


Repairs = dict[str, NDArray[np.bool_]]


def mend(log: DrivingLog) -> DrivingLog:
    """The log with what can be mended of its tracks mended, and which ones were in `repairs`.

    Gaps of up to GAP_STEPS are filled between the poses around them. A track that is lost for longer, or jumps, goes on
    as another, with ~2, ~3, ... after its id; never the recorder's. Velocities that contradict the positions, and are
    less steady than these, are taken from them, over 0.2 s. Where a vehicle flips while it stands, it keeps the heading
    that it has most of the time. Tracks without such defects stay as they are, bit for bit.
    """
    tracks, origin, repairs = _split(log.tracks, log.recorder)
    tracks, filled = _fill_gaps(tracks)
    tracks, speeds = _right_velocities(tracks)
    tracks, steadied = _steady_headings(tracks)
    found = {**repairs, GAP: filled, VELOCITY: speeds, HEADING: steadied}
    return replace(
        log,
        tracks=tracks,
        recorder=None if log.recorder is None else int(np.searchsorted(origin, log.recorder)),
        size_known=None if log.size_known is None else log.size_known[origin],
        repairs={word: where for word, where in found.items() if where.any()},
    )


def _since(valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Steps since the track was last seen, (A, T), 1 = the step before; 0 where it is not seen or never was before."""
    step = np.arange(valid.shape[1])
    last = np.maximum.accumulate(np.where(valid, step, -1), axis=1)
    before = np.concatenate([np.full((len(valid), 1), -1), last[:, :-1]], 1)
    return np.where(valid & (before >= 0), step - before, 0)


def _split(tracks: Tracks, recorder: int | None) -> tuple[Tracks, NDArray[np.int64], Repairs]:
    """Tracks that are lost for long, or jump, cut into parts; the track that each was; which ones, (A,) bool."""
    since = _since(tracks.valid)
    row, step = np.nonzero(since)
    before = step - since[row, step]
    way_m = np.hypot(tracks.x_m[row, step] - tracks.x_m[row, before], tracks.y_m[row, step] - tracks.y_m[row, before])
    starts = {
        LONG_GAP: since[row, step] > GAP_STEPS + 1,
        JUMP: way_m > np.where(tracks.kind == _ON_FOOT, JUMP_ON_FOOT_MPS, JUMP_MPS)[row] * STEP_S * since[row, step],
    }
    starts = {word: where & (row != recorder) for word, where in starts.items()}
    every = np.logical_or.reduce([*starts.values()])
    n = len(tracks.agent_id)
    if not every.any():
        return tracks, np.arange(n), {}
    part = np.zeros(tracks.valid.shape, np.int64)
    part[row[every], step[every]] = 1
    part = np.cumsum(part, axis=1)
    origin, number = np.nonzero(np.arange(part.max() + 1) <= part.max(1)[:, None])
    cut = tracks.take(origin)
    cut = replace(cut, valid=cut.valid & (part[origin] == number[:, None]), agent_id=_ids(tracks, origin, number))
    repairs = {word: np.isin(origin, row[where]) for word, where in starts.items()}
    return cut, origin, repairs


def _ids(tracks: Tracks, origin: NDArray[np.int64], number: NDArray[np.int64]) -> NDArray[np.str_]:
    taken = set(tracks.agent_id.tolist())
    ids = []
    for i, part in zip(origin.tolist(), number.tolist(), strict=True):
        name = str(tracks.agent_id[i])
        if part:
            name = f"{name}~{part + 1}"
            while name in taken:
                name += "~"
            taken.add(name)
        ids.append(name)
    return np.array(ids, np.str_)


def _fill_gaps(tracks: Tracks) -> tuple[Tracks, NDArray[np.bool_]]:
    since = _since(tracks.valid)
    row, step = np.nonzero((since > 1) & (since <= GAP_STEPS + 1))
    filled = np.zeros(len(tracks.agent_id), bool)
    filled[row] = True
    if not len(row):
        return tracks, filled
    values = {name: getattr(tracks, name).copy() for name in ("x_m", "y_m", "heading_rad", "vx_mps", "vy_mps")}
    valid = tracks.valid.copy()
    for i, after in zip(row.tolist(), step.tolist(), strict=True):
        before = after - int(since[i, after])
        inside = slice(before + 1, after)
        u = np.arange(1, after - before) / (after - before)
        for name, array in values.items():
            way = array[i, after] - array[i, before]
            array[i, inside] = array[i, before] + u * (wrap_angle(way) if name == "heading_rad" else way)
        valid[i, inside] = True
    values["heading_rad"] = wrap_angle(values["heading_rad"])
    return replace(tracks, **values, valid=valid), filled


def _right_velocities(tracks: Tracks) -> tuple[Tracks, NDArray[np.bool_]]:
    valid, time_s = tracks.valid, np.arange(tracks.valid.shape[1]) * STEP_S
    vx, vy = rate(tracks.x_m, valid, time_s), rate(tracks.y_m, valid, time_s)
    faster = np.maximum(np.hypot(vx, vy), np.hypot(tracks.vx_mps, tracks.vy_mps))
    wrong = np.hypot(vx - tracks.vx_mps, vy - tracks.vy_mps) > VELOCITY_MPS + VELOCITY_SHARE * faster
    wrong[:, 1:-1] &= valid[:, :-2] & valid[:, 1:-1] & valid[:, 2:]  # one-sided differences are too rough to judge by
    wrong[:, [0, -1]] = False
    wrong &= _unsteadiness(vx, vy, valid) < _unsteadiness(tracks.vx_mps, tracks.vy_mps, valid)
    tracks_wrong = np.asarray(wrong.any(1))
    if not tracks_wrong.any():
        return tracks, tracks_wrong
    mended = replace(tracks, vx_mps=np.where(wrong, vx, tracks.vx_mps), vy_mps=np.where(wrong, vy, tracks.vy_mps))
    return mended, tracks_wrong


def _unsteadiness(
    vx_mps: NDArray[np.float64], vy_mps: NDArray[np.float64], valid: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """How much a velocity changes, all in all, in the steps around each, (A, T) [m/s]."""
    change = np.zeros(valid.shape)
    change[:, 1:] = np.hypot(np.diff(vx_mps), np.diff(vy_mps)) * (valid[:, 1:] & valid[:, :-1])
    total = np.cumsum(np.pad(change, ((0, 0), (AROUND_STEPS + 1, AROUND_STEPS))), axis=1)
    width = 2 * AROUND_STEPS + 1
    return np.asarray(total[:, width:] - total[:, :-width])


def _steady_headings(tracks: Tracks) -> tuple[Tracks, NDArray[np.bool_]]:
    slow = tracks.valid & (np.hypot(tracks.vx_mps, tracks.vy_mps) < STANDING_MPS)
    slow &= np.isin(tracks.kind, _TURNS_BY_DRIVING)[:, None]
    turn = np.abs(wrap_angle(np.diff(tracks.heading_rad, axis=1)))
    flips = slow[:, 1:] & slow[:, :-1] & (turn > FLIP_RAD)
    steadied = np.asarray(flips.any(1))
    if not steadied.any():
        return tracks, steadied
    heading = tracks.heading_rad.copy()
    for i in np.flatnonzero(steadied).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate([[0], slow[i].astype(np.int8), [0]])))
        for start, stop in edges.reshape(-1, 2).tolist():
            if flips[i, start : stop - 1].any():
                heading[i, start:stop] = _usual(heading[i, start:stop])
    return replace(tracks, heading_rad=heading), steadied


def _usual(heading_rad: NDArray[np.float64]) -> float:
    """The heading nearest to all others: of a flip, the one that lasts longer."""
    ranked = np.unique(heading_rad, return_counts=True)
    apart = np.abs(wrap_angle(ranked[0][:, None] - ranked[0]))
    return float(ranked[0][np.argmin((apart * ranked[1]).sum(1))])
