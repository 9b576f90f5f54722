"""Plane geometry on arrays: angles, rigid transforms, oriented boxes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]


def wrap_angle(angle_rad: ArrayLike) -> Array:
    """Angles brought into (-pi, pi] [rad]. Any shape."""
    angle = np.asarray(angle_rad)
    return -((np.pi - angle) % (2 * np.pi) - np.pi)


class SE2(NamedTuple):
    """A frame's pose in another frame: `dst_SE2_src` holds the origin and direction of src in dst [m, rad]."""

    x_m: float
    y_m: float
    heading_rad: float

    def apply(self, x_m: ArrayLike, y_m: ArrayLike) -> tuple[Array, Array]:
        """Points of src in dst [m]. Any shape."""
        c, s = np.cos(self.heading_rad), np.sin(self.heading_rad)
        x, y = np.asarray(x_m, np.float64), np.asarray(y_m, np.float64)
        return c * x - s * y + self.x_m, s * x + c * y + self.y_m

    def rotate(self, vx: ArrayLike, vy: ArrayLike) -> tuple[Array, Array]:
        """Vectors of src in dst. Any shape."""
        return SE2(0.0, 0.0, self.heading_rad).apply(vx, vy)

    def turn(self, heading_rad: ArrayLike) -> Array:
        """Headings of src in dst, in (-pi, pi] [rad]. Any shape."""
        return wrap_angle(np.asarray(heading_rad, np.float64) + self.heading_rad)

    def after(self, src_SE2_other: "SE2") -> "SE2":
        """dst_SE2_other, where this is dst_SE2_src."""
        x, y = self.apply(src_SE2_other.x_m, src_SE2_other.y_m)
        return SE2(float(x), float(y), float(self.turn(src_SE2_other.heading_rad)))

    def inverse(self) -> "SE2":
        """src_SE2_dst."""
        c, s = np.cos(self.heading_rad), np.sin(self.heading_rad)
        x, y = -c * self.x_m - s * self.y_m, s * self.x_m - c * self.y_m
        return SE2(float(x), float(y), float(wrap_angle(-self.heading_rad)))


def box_corners(
    x_m: ArrayLike, y_m: ArrayLike, heading_rad: ArrayLike, length_m: ArrayLike, width_m: ArrayLike
) -> Array:
    """Corners of oriented boxes, counter-clockwise from front left [m]. (...) broadcast -> (..., 4, 2)."""
    x, y, heading, length, width = np.broadcast_arrays(x_m, y_m, heading_rad, length_m, width_m)
    along = np.stack([length, -length, -length, length], -1) / 2
    across = np.stack([width, width, -width, -width], -1) / 2
    c, s = np.cos(heading)[..., None], np.sin(heading)[..., None]
    return np.stack([x[..., None] + c * along - s * across, y[..., None] + s * along + c * across], -1)


def boxes_overlap(a_corners: Array, b_corners: Array) -> NDArray[np.bool_]:
    """Whether oriented boxes overlap by more than a touch: exact, by separating axes.

    a_corners, b_corners: (..., 4, 2) corners as from `box_corners` [m], broadcast. Returns (...) bool.
    """
    apart = np.zeros(np.broadcast_shapes(a_corners.shape[:-2], b_corners.shape[:-2]), bool)
    for corners in (a_corners, b_corners):
        for i in (0, 1):
            axis = corners[..., i + 1, :] - corners[..., i, :]
            a = np.einsum("...kd,...d->...k", a_corners, axis)
            b = np.einsum("...kd,...d->...k", b_corners, axis)
            apart |= (a.max(-1) <= b.min(-1)) | (b.max(-1) <= a.min(-1))
    return ~apart
