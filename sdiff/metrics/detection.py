"""How well an autoencoder gives back the agents it was shown."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdiff import KINDS, STEP_S
from sdiff.geometry import wrap_angle
from sdiff.metrics import at_t0
from sdiff.metrics.matching import END_STEP, assign
from sdiff.scene import STEPS_PAST, Agents

MAX_DISTANCE_M = 1.0
MAX_ANGLE_RAD = 0.2
MOVING_MPS = 0.5


@dataclass
class Reconstruction:
    """Counts over scenes, per kind (in the order of KINDS); add scenes with `+`.

    true, recalled: boxes shown, and those of them found; by the kind of the box shown.
    found, correct: boxes given back, and those of them true; by the kind given back. same_kind: pairs of one kind, by
    the kind shown. moving: found agents that move at t0 and are seen at +2 s; error_m, constant_velocity_m: sums of
    their distances at +2 s [m], of the reconstruction and of going on at the true velocity of t0.
    """

    true: NDArray[np.float64]
    recalled: NDArray[np.float64]
    found: NDArray[np.float64]
    correct: NDArray[np.float64]
    same_kind: NDArray[np.float64]
    moving: NDArray[np.float64]
    error_m: NDArray[np.float64]
    constant_velocity_m: NDArray[np.float64]

    def __add__(self, other: "Reconstruction") -> "Reconstruction":
        return Reconstruction(**{k: v + getattr(other, k) for k, v in vars(self).items()})

    @staticmethod
    def none() -> "Reconstruction":
        """No scene yet."""
        return Reconstruction(*np.zeros((8, len(KINDS))))

    def summary(self) -> dict[str, Any]:
        """Recall, precision, kind accuracy, error at +2 s of moving agents [m]; all and `per_kind`; None: no box."""
        per_kind = {kind: self._rates(np.array([i])) for i, kind in enumerate(KINDS) if self.true[i] or self.found[i]}
        return {**self._rates(np.arange(len(KINDS))), "per_kind": per_kind}

    def _rates(self, kinds: NDArray[np.int64]) -> dict[str, Any]:
        def share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> float | None:
            return float(part[kinds].sum() / whole[kinds].sum()) if whole[kinds].sum() else None

        return {
            "boxes": int(self.true[kinds].sum()),
            "recall": share(self.recalled, self.true),
            "precision": share(self.correct, self.found),
            "kind_accuracy": share(self.same_kind, self.recalled),
            "moving": int(self.moving[kinds].sum()),
            "end_error_m": share(self.error_m, self.moving),
            "constant_velocity_end_error_m": share(self.constant_velocity_m, self.moving),
        }


def reconstruction(true: Agents, found: Agents) -> Reconstruction:
    """Compare one scene with what came back of it: one to one, centres within 1 m and headings within 0.2 rad at t0."""
    true, found = (a.take(at_t0(a.valid).astype(bool)) for a in (true, found))
    t = {name: at_t0(getattr(true, name)).astype(np.float64) for name in ("x_m", "y_m", "heading_rad")}
    f = {name: at_t0(getattr(found, name)).astype(np.float64) for name in ("x_m", "y_m", "heading_rad")}
    distance = np.hypot(t["x_m"][:, None] - f["x_m"], t["y_m"][:, None] - f["y_m"])
    angle = np.abs(wrap_angle(t["heading_rad"][:, None] - f["heading_rad"]))
    partner = assign(distance, (distance <= MAX_DISTANCE_M) & (angle <= MAX_ANGLE_RAD))
    recalled = np.flatnonzero(partner >= 0)
    partner = partner[recalled]
    moving, error, constant = _end_errors(true.take(recalled), found.take(partner))
    same = true.kind[recalled] == found.kind[partner]
    return Reconstruction(
        true=_per_kind(true.kind),
        recalled=_per_kind(true.kind[recalled]),
        found=_per_kind(found.kind),
        correct=_per_kind(found.kind[partner]),
        same_kind=_per_kind(true.kind[recalled][same]),
        moving=_per_kind(true.kind[recalled], moving),
        error_m=_per_kind(true.kind[recalled], error),
        constant_velocity_m=_per_kind(true.kind[recalled], constant),
    )


def _per_kind(kind: NDArray[np.int8], weight: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    return np.bincount(kind, weight, len(KINDS)).astype(np.float64)


def _end_errors(true: Agents, found: Agents) -> tuple[NDArray[np.float64], ...]:
    """Per pair: whether it counts, error at +2 s, error of constant velocity; 0 where it does not count."""
    if not len(true):
        return (np.zeros(0),) * 3
    counts = np.hypot(true.vx_mps[:, STEPS_PAST], true.vy_mps[:, STEPS_PAST]) > MOVING_MPS
    counts &= true.valid[:, END_STEP] & found.valid[:, END_STEP]
    error = np.hypot(*(getattr(found, v)[:, END_STEP] - getattr(true, v)[:, END_STEP] for v in ("x_m", "y_m")))
    horizon_s = (END_STEP - STEPS_PAST) * STEP_S
    going_on = np.hypot(
        *(
            getattr(true, p)[:, STEPS_PAST]
            + horizon_s * getattr(true, v)[:, STEPS_PAST]
            - getattr(true, p)[:, END_STEP]
            for p, v in (("x_m", "vx_mps"), ("y_m", "vy_mps"))
        )
    )
    return counts.astype(np.float64), np.where(counts, error, 0.0), np.where(counts, going_on, 0.0)
