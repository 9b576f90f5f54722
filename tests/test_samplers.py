"""Samplers on a denoiser known exactly: a mixture of Gaussians."""

import itertools

import numpy as np
import pytest

from sdiff.model.samplers import SAMPLERS, karras_sigmas

CENTRES = np.array([-2.0, 1.0, 3.0])
WEIGHTS = np.array([0.5, 0.3, 0.2])
WIDTH = 0.4


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    """E[x0 | x] of the mixture under noise sigma: exact."""
    variance = WIDTH**2 + sigma**2
    log_weight = np.log(WEIGHTS) - (x[:, None] - CENTRES) ** 2 / (2 * variance)
    posterior = np.exp(log_weight - log_weight.max(1, keepdims=True))
    posterior /= posterior.sum(1, keepdims=True)
    mean = CENTRES + WIDTH**2 / variance * (x[:, None] - CENTRES)
    return (posterior * mean).sum(1)


def smooth_levels(steps: int) -> list[float]:
    """Levels that halve with twice the steps and end above zero: what an order of convergence is defined on."""
    return np.geomspace(20.0, 0.2, steps + 1).tolist()


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp2m", 2)])
def test_error_falls_with_the_sampler_s_order(name: str, order: int) -> None:
    x = np.linspace(-30, 30, 301)
    exact = SAMPLERS["heun"](denoise, x, smooth_levels(4000))
    counts = (80, 160, 320)
    errors = [np.abs(SAMPLERS[name](denoise, x, smooth_levels(n)) - exact).mean() for n in counts]
    slopes = [np.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert np.mean(slopes) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_samples_have_the_mixture_s_weights(name: str) -> None:
    noise = np.random.default_rng(0).standard_normal(20000)
    sigmas = karras_sigmas(60)
    x = SAMPLERS[name](denoise, noise * sigmas[0], sigmas)
    nearest = np.abs(x[:, None] - CENTRES).argmin(1)
    assert np.bincount(nearest) / len(x) == pytest.approx(WEIGHTS, abs=0.03)


def test_karras_levels_fall_from_the_largest_to_zero() -> None:
    sigmas = karras_sigmas(20, 0.01, 40.0)
    assert sigmas[0] == pytest.approx(40.0)
    assert sigmas[-2] == pytest.approx(0.01)
    assert sigmas[-1] == 0.0
    assert all(a > b for a, b in itertools.pairwise(sigmas))
