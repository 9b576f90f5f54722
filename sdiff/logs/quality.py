"""What recordings get wrong about their tracks, mended: short gaps, jumps, velocities and headings that contradict."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S
from sdiff.geometry import wrap_angle
from sdiff.logs import POSE_FIELDS
from sdiff.logs.driving_log import BadRecord, DrivingLog, Tracks
from sdiff.logs.frames import MOST_POSES, rate

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

BLOCK_POSES = 1_000_000
"""Tracks are mended so many poses at a time, some 200 bytes each; a longer track is one block."""

Repairs = dict[str, NDArray[np.bool_]]


def mend(log: DrivingLog) -> DrivingLog:
    """The log with what can be mended of its tracks mended, and which ones were in `repairs`.

    Gaps of up to GAP_STEPS are filled between the poses around them. A track that is lost for longer, or jumps, goes on
    as another, with ~2, ~3, ... after its id; never the recorder's. Velocities that contradict the positions, and are
    less steady than these, are taken from them, over 0.2 s; over 0.1 s at the ends of tracks, where the velocity beside
    must contradict as well, or be wrong. Where a vehicle flips while it stands, it keeps the heading that it has most
    of the time. Tracks without such defects stay as they are, bit for bit.
    Raises BadRecord, of stage `mend`, where the tracks come apart into so many that they have more than MOST_POSES.
    """
    tracks, origin, repairs = _split(log)
    for word, repair in ((GAP, _fill_gaps), (VELOCITY, _right_velocities), (HEADING, _steady_headings)):
        tracks, repairs[word] = _in_blocks(repair, tracks)
    return replace(
        log,
        tracks=tracks,
        recorder=None if log.recorder is None else int(np.searchsorted(origin, log.recorder)),
        size_known=None if log.size_known is None else log.size_known[origin],
        repairs={word: where for word, where in repairs.items() if where.any()},
    )


def _blocks(tracks: Tracks) -> Iterator[Tracks]:
    """The tracks, some at a time: what is computed of them takes memory by the block, not by the log."""
    agents, steps = tracks.valid.shape
    some = max(1, BLOCK_POSES // (steps + 2 * AROUND_STEPS))
    for first in range(0, max(agents, 1), some):
        yield tracks.take(slice(first, first + some))


def _in_blocks(
    repair: Callable[[Tracks], tuple[Tracks, NDArray[np.bool_]]], tracks: Tracks
) -> tuple[Tracks, NDArray[np.bool_]]:
    done = [repair(block) for block in _blocks(tracks)]
    repaired = np.concatenate([where for _, where in done])
    if not repaired.any():
        return tracks, repaired
    if len(done) == 1:
        return done[0]
    return Tracks(**{f.name: np.concatenate([getattr(t, f.name) for t, _ in done]) for f in fields(Tracks)}), repaired


def _since(valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Steps since the track was last seen, (A, T), 1 = the step before; 0 where it is not seen or never was before."""
    step = np.arange(valid.shape[1])
    last = np.maximum.accumulate(np.where(valid, step, -1), axis=1)
    before = np.concatenate([np.full((len(valid), 1), -1), last[:, :-1]], 1)
    return np.where(valid & (before >= 0), step - before, 0)


def _split(log: DrivingLog) -> tuple[Tracks, NDArray[np.int64], Repairs]:
    """Tracks that are lost for long, or jump, cut into parts; the track that each was; which ones, (A,) bool."""
    tracks = log.tracks
    agents, steps = tracks.valid.shape
    of_blocks = [_starts(block) for block in _blocks(tracks)]
    starts = {word: np.concatenate([block[word] for block in of_blocks]) for word in (LONG_GAP, JUMP)}
    every = starts[LONG_GAP] | starts[JUMP]
    if log.recorder is not None:
        every[log.recorder] = False
    parts = 1 + every.sum(1)
    origin = np.repeat(np.arange(agents), parts)
    if len(origin) == agents:
        return tracks, origin, {}
    if len(origin) * steps > MOST_POSES:
        raise BadRecord(
            f"tracks are lost for long, or jump, so often that {agents} become {len(origin)}, over {steps} steps each: "
            f"expected {MOST_POSES} steps in all at most",
            stage="mend",
            record=log.log_id,
        )
    number = _count_up(parts)
    part = np.cumsum(every, axis=1, dtype=np.int32)
    cut = tracks.take(origin)
    cut = replace(cut, valid=cut.valid & (part[origin] == number[:, None]), agent_id=_ids(tracks, origin, number))
    return cut, origin, {word: (where & every).any(1)[origin] for word, where in starts.items()}


def _starts(tracks: Tracks) -> Repairs:
    """Where a track begins anew, (A, T) bool, by what happened before."""
    since = _since(tracks.valid)
    row, step = np.nonzero(since)
    before = step - since[row, step]
    way_m = np.hypot(tracks.x_m[row, step] - tracks.x_m[row, before], tracks.y_m[row, step] - tracks.y_m[row, before])
    most_m = np.where(tracks.kind == _ON_FOOT, JUMP_ON_FOOT_MPS, JUMP_MPS)[row] * STEP_S * (step - before)
    jump = np.zeros(since.shape, bool)
    jump[row, step] = way_m > most_m
    return {LONG_GAP: since > GAP_STEPS + 1, JUMP: jump}


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
    row, after = np.nonzero((since > 1) & (since <= GAP_STEPS + 1))
    filled = np.zeros(len(tracks.agent_id), bool)
    filled[row] = True
    if not len(row):
        return tracks, filled
    length = since[row, after] - 1
    row, after, since_before = (np.repeat(of_gap, length) for of_gap in (row, after, length + 1))
    nth = 1 + _count_up(length)
    before = after - since_before
    u, step = nth / since_before, before + nth
    valid, values = tracks.valid.copy(), {name: getattr(tracks, name).copy() for name in POSE_FIELDS}
    valid[row, step] = True
    for name, array in values.items():
        way = array[row, after] - array[row, before]
        array[row, step] = array[row, before] + u * (wrap_angle(way) if name == "heading_rad" else way)
    values["heading_rad"][row, step] = wrap_angle(values["heading_rad"][row, step])
    return replace(tracks, **values, valid=valid), filled


def _count_up(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... up to each count, joined."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _right_velocities(tracks: Tracks) -> tuple[Tracks, NDArray[np.bool_]]:
    valid, time_s = tracks.valid, np.arange(tracks.valid.shape[1]) * STEP_S
    before, after = np.zeros_like(valid), np.zeros_like(valid)
    before[:, 1:], after[:, :-1] = valid[:, :-1], valid[:, 1:]
    vx, vy = rate(tracks.x_m, valid, time_s), rate(tracks.y_m, valid, time_s)
    wrong = valid & _contradict(vx, vy, tracks.vx_mps, tracks.vy_mps)
    wrong &= _unsteadiness(vx, vy, valid) < _unsteadiness(tracks.vx_mps, tracks.vy_mps, valid)
    if not wrong.any():
        return tracks, np.asarray(wrong.any(1))

    def beside(values: NDArray[Any]) -> NDArray[Any]:
        return np.where(after, np.roll(values, -1, 1), np.roll(values, 1, 1))

    # At an end positions tell the rate of one step alone: too rough to judge by, but for the velocity beside it.
    inside = wrong & before & after
    ends = wrong & (before ^ after)
    ends &= beside(inside) | _contradict(beside(tracks.vx_mps), beside(tracks.vy_mps), tracks.vx_mps, tracks.vy_mps)
    found = inside | ends
    mended = {"vx_mps": np.where(found, vx, tracks.vx_mps), "vy_mps": np.where(found, vy, tracks.vy_mps)}
    return replace(tracks, **mended), np.asarray(found.any(1))


def _contradict(
    vx_mps: NDArray[np.float64],
    vy_mps: NDArray[np.float64],
    other_vx_mps: NDArray[np.float64],
    other_vy_mps: NDArray[np.float64],
) -> NDArray[np.bool_]:
    faster = np.maximum(np.hypot(vx_mps, vy_mps), np.hypot(other_vx_mps, other_vy_mps))
    off = np.hypot(vx_mps - other_vx_mps, vy_mps - other_vy_mps)
    return np.asarray(off > VELOCITY_MPS + VELOCITY_SHARE * faster)


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
    begins = slow.copy()
    begins[:, 1:] &= ~slow[:, :-1]
    stand = np.cumsum(begins, dtype=np.int64).reshape(slow.shape)
    flipping = np.zeros(stand[-1, -1] + 1, bool)
    flipping[stand[:, 1:][flips]] = True
    where = slow & flipping[stand]
    heading = tracks.heading_rad.copy()
    heading[where] = _usual(heading[where], stand[where])
    return replace(tracks, heading_rad=heading), steadied


def _usual(heading_rad: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.float64]:
    """The heading of each group that is nearest to all others of it: of a flip, the one that lasts longer.

    heading_rad: (n,), within (-pi, pi]. group: (n,), ascending. Returns (n,), the same value for all of a group. Each
    group's headings are ranked and set out twice, a turn apart: those within half a turn after one are nearer to it
    this way round, the others the other, and running sums give all distances without comparing each with each.
    """
    begins = np.diff(group, prepend=-1) > 0
    first, rank = np.flatnonzero(begins), np.cumsum(begins) - 1
    apart = 5 * np.pi * rank  # more than the two turns that a group takes
    heading = heading_rad[np.argsort(apart + heading_rad)]
    here = np.arange(len(heading)) + first[rank]
    turn_on = here + np.diff(first, append=len(heading))[rank]
    twice, ranked = np.empty(2 * len(heading)), np.empty(2 * len(heading))
    twice[here], twice[turn_on] = heading, heading + 2 * np.pi
    ranked[here], ranked[turn_on] = apart + heading, apart + heading + 2 * np.pi
    opposite = np.searchsorted(ranked, apart + heading + np.pi)
    total = np.concatenate([[0.0], np.cumsum(twice)])
    after = total[opposite] - total[here] - heading * (opposite - here)
    before = (heading + 2 * np.pi) * (turn_on - opposite) - (total[turn_on] - total[opposite])
    sum_rad = np.round(after + before, 6)  # so that noise of the sums decides nothing: of two alike the lower is taken
    nearest = sum_rad == np.minimum.reduceat(sum_rad, first)[rank]
    return np.asarray(np.minimum.reduceat(np.where(nearest, heading, np.inf), first)[rank])
