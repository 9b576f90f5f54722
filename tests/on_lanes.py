"""Whether vehicles of a log drive along the lanes of its map."""

import numpy as np

from sdiff import KINDS
from sdiff.geometry import wrap_angle
from sdiff.logs.driving_log import DrivingLog

ON_ROAD = [KINDS.index(kind) for kind in ("car", "truck", "bus", "vehicle")]


def share_along_lanes(log: DrivingLog) -> float:
    """Share of moving vehicles that are within 2 m of a lane that runs where they head to, within 30 degrees."""
    t, m = log.tracks, log.map
    moving = t.valid & (np.hypot(t.vx_mps, t.vy_mps) > 3) & np.isin(t.kind, ON_ROAD)[:, None]
    ends = [(m.points(f)[:-1], m.points(f)[1:]) for f in m.of_kind("lane_centerline")]
    a, b = (np.concatenate([e[i] for e in ends]) for i in (0, 1))
    along = b - a
    fits = []
    for x, y, heading in zip(t.x_m[moving][::7], t.y_m[moving][::7], t.heading_rad[moving][::7], strict=True):
        p = np.array([x, y])
        share = np.clip(((p - a) * along).sum(1) / np.maximum((along**2).sum(1), 1e-9), 0, 1)
        near = np.linalg.norm(a + share[:, None] * along - p, axis=1) < 2
        turn = np.abs(wrap_angle(np.arctan2(along[near, 1], along[near, 0]) - heading))
        fits.append(bool(len(turn)) and turn.min() < np.pi / 6)
    return float(np.mean(fits))
