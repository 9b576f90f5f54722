"""Samplers of the EDM probability-flow ODE: each a pure function of (denoise, x, sigmas).

`denoise(x, sigma)` is D(x; sigma) of Karras et al. 2022 (arXiv 2206.00364), sigma a float; dx/dsigma = (x - D) / sigma.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

Denoise = Callable[[Any, float], Any]


def karras_sigmas(steps: int, sigma_min: float = 0.05, sigma_max: float = 80.0, rho: float = 7.0) -> list[float]:
    """`steps` noise levels from sigma_max to sigma_min, then 0; equation 5 of Karras et al. 2022."""
    ramp = np.linspace(0, 1, steps)
    levels = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return [*levels.tolist(), 0.0]


def euler(denoise: Denoise, x: Any, sigmas: list[float]) -> Any:
    """Order 1, one call a step. Not ancestral: adds no noise."""
    for sigma, after in itertools.pairwise(sigmas):
        x = x + (after - sigma) * (x - denoise(x, sigma)) / sigma
    return x


def heun(denoise: Denoise, x: Any, sigmas: list[float]) -> Any:
    """Order 2, two calls a step but the last; algorithm 1 of Karras et al. 2022."""
    for sigma, after in itertools.pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        guess = x + (after - sigma) * slope
        if after > 0:
            slope = (slope + (guess - denoise(guess, after)) / after) / 2
            guess = x + (after - sigma) * slope
        x = guess
    return x


def dpmpp2m(denoise: Denoise, x: Any, sigmas: list[float]) -> Any:
    """Order 2, multistep, one call a step; DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), algorithm 2."""
    before: Any = None
    step_before = 0.0
    for sigma, after in itertools.pairwise(sigmas):
        denoised = denoise(x, sigma)
        if after == 0:
            return denoised
        step = float(np.log(sigma / after))
        if before is None:
            slope = denoised
        else:
            ratio = step / step_before / 2
            slope = (1 + ratio) * denoised - ratio * before
        x = (after / sigma) * x - float(np.expm1(-step)) * slope
        before, step_before = denoised, step
    return x


SAMPLERS: dict[str, Callable[[Denoise, Any, list[float]], Any]] = {"euler": euler, "heun": heun, "dpmpp2m": dpmpp2m}
