"""Maximum mean discrepancy between the agents of two scenes at one place (Gretton et al. 2012, JMLR 13, eq. 3-5)."""

import numpy as np
from numpy.typing import NDArray

from sdiff.metrics import at_t0
from sdiff.scene import Agents

Array = NDArray[np.float64]

SIGMA = {"position": 10.0, "heading": 0.5, "velocity": 3.0, "size": 1.0}
"""Width of the Gaussian kernel per feature: m, 1 (unit vector), m/s, m.

Fixed, so that the estimate is unbiased and differences far below the width (0.1 m of size, a drift of 0.1 m/s) count
for nothing. The Scenario Diffusion paper does not give its widths; these are ours.
"""


def features(agents: Agents) -> dict[str, Array]:
    """Position, heading as a unit vector, velocity and size at t0 of the agents seen then, (n, 2) each.

    Without the ego: it stands at the origin of every scene, so it would make any two look alike.
    """
    agents = agents.take(~agents.is_ego)
    seen = at_t0(agents.valid)
    x, y, heading, vx, vy = (
        at_t0(v)[seen].astype(np.float64)
        for v in (agents.x_m, agents.y_m, agents.heading_rad, agents.vx_mps, agents.vy_mps)
    )
    return {
        "position": np.stack([x, y], -1),
        "heading": np.stack([np.cos(heading), np.sin(heading)], -1),
        "velocity": np.stack([vx, vy], -1),
        "size": np.stack([agents.length_m[seen], agents.width_m[seen]], -1).astype(np.float64),
    }


def mmd2_unbiased(a: Array, b: Array, sigma: float) -> float:
    """Unbiased squared MMD with the kernel exp(-d^2 / (2 sigma^2)); about 0 for samples of one distribution.

    a: (n, d), b: (m, d). Can be negative. NaN where n or m is below 2.
    """
    n, m = len(a), len(b)
    if min(n, m) < 2:
        return float("nan")
    kernel = np.exp(_squared_distances(np.concatenate([a, b])) / (-2 * sigma**2))
    within_a = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    within_b = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within_a + within_b - 2 * kernel[:n, n:].mean())


def mmd2_trafficgen(a: Array, b: Array) -> float:
    """Biased squared MMD as TrafficGen computes it (Feng et al. 2023, arXiv 2210.06609).

    Kernel exp(-d^2 / w), w = sum of the pooled pairwise squared distances / (k^2 - k), k = n + m.
    a: (n, d), b: (m, d). At least 0, and above 0 for two samples of one distribution. NaN where n or m is 0.
    """
    n, k = len(a), len(a) + len(b)
    if min(n, k - n) < 1:
        return float("nan")
    squared = _squared_distances(np.concatenate([a, b]))
    width = squared.sum() / (k * k - k)
    if width == 0:  # every agent alike
        return 0.0
    kernel = np.exp(-squared / width)
    return float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())


def scene_mmd2(a: Agents, b: Agents) -> dict[str, float]:
    """Unbiased squared MMD of two scenes at one place, per feature; NaN where a scene has fewer than two agents.

    About 0 for two independent samples of the same traffic; below 0 for a copy, which no independent sample equals.
    """
    of_a, of_b = features(a), features(b)
    return {name: mmd2_unbiased(of_a[name], of_b[name], sigma) for name, sigma in SIGMA.items()}


def scene_mmd2_trafficgen(a: Agents, b: Agents) -> dict[str, float]:
    """TrafficGen's squared MMD of two scenes at one place, per feature; NaN where a scene has no agent."""
    of_a, of_b = features(a), features(b)
    return {name: mmd2_trafficgen(of_a[name], of_b[name]) for name in SIGMA}


def _squared_distances(points: Array) -> Array:
    difference = points[:, None] - points[None]
    return np.einsum("ijd,ijd->ij", difference, difference)
