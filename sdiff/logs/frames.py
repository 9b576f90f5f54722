"""Frames of a recording on the even grid of steps, and velocities where a source has none."""

import numpy as np
from numpy.typing import NDArray

from sdiff.logs.driving_log import BadRecord

JITTER = 0.2
"""Share of the period by which an interval between frames may differ from a whole number of periods."""
MOST_POSES = 8_000_000
"""Agents times steps of one log: some 1 GB while it is read."""


def steps_of(time_s: NDArray[np.float64], period_s: float, most: int) -> NDArray[np.int64]:
    """Number of each frame on a grid of `period_s`, (n,) from 0, given the frames' ascending times, (n,) [s].

    Counted from frame to frame, so that a clock that is slightly off does not add up; missing frames leave a gap.
    Raises BadRecord where time does not go forward, an interval is no whole number of periods, or `most` is exceeded.
    """
    apart_s = np.diff(time_s)
    if not np.isfinite(time_s).all() or (apart_s <= 0).any():
        raise BadRecord("time does not go forward from frame to frame, expected ascending time stamps")
    periods = np.rint(apart_s / period_s)
    uneven = np.abs(apart_s - periods * period_s) > JITTER * period_s
    if uneven.any():
        raise BadRecord(
            f"two frames are {apart_s[uneven][0]:.3f} s apart, expected multiples of {period_s} s (+-{JITTER:.0%})"
        )
    if periods.sum() >= most:
        raise BadRecord(f"frames span {apart_s.sum():.0f} s, expected less than {most * period_s:.0f} s")
    return np.concatenate([[0], np.cumsum(periods)]).astype(np.int64)


def check_size(agents: int, steps: int) -> None:
    """Raise BadRecord where a log's arrays, (agents, steps), would take more memory than any recording needs."""
    if agents * steps > MOST_POSES:
        raise BadRecord(f"the log has {agents} agents over {steps} steps, expected {MOST_POSES} poses at most")


def rate(value: NDArray[np.float64], valid: NDArray[np.bool_], time_s: NDArray[np.floating]) -> NDArray[np.float64]:
    """Derivative over time, (A, T): central where both neighbours are valid, one-sided at the ends, 0 alone.

    value, valid: (A, T). time_s: (T,), the true time of each step [s].
    """
    before = np.zeros_like(valid)
    after = np.zeros_like(valid)
    before[:, 1:] = valid[:, :-1]
    after[:, :-1] = valid[:, 1:]
    step = np.arange(valid.shape[1])
    a, b = step - before, step + after
    rows = np.arange(len(valid))[:, None]
    apart_s = time_s[b] - time_s[a]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (value[rows, b] - value[rows, a]) / apart_s
    return np.where(valid & (b > a), found, 0.0)
