"""Samplers against their method computed in another way, with a denoiser that has an exact solution."""

import numpy as np
import pytest
from scipy.integrate import quad

from gm.diffusion.ode_samplers import LMS_ORDER
from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import edm_sigmas, legacy_ddpm_sigmas

SPREAD = 0.7  # of the data, which is normal: then D = x s^2 / (s^2 + sigma^2), and x falls as sqrt(s^2 + sigma^2)


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    return (x * SPREAD**2 / (SPREAD**2 + sigma**2)).astype(np.float32)


def run(name: str, sigmas: np.ndarray, x: np.ndarray) -> np.ndarray:
    x = x * np.float32(np.sqrt(1 + sigmas[0] ** 2))
    return SAMPLERS[name](denoise, x, sigmas, lambda *_: pytest.fail("it draws noise"), lambda steps: steps)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 4, 8, 8)).astype(np.float32)


def test_linear_multistep_integrates_lagranges_polynomials():
    """By numerical integration, as k-diffusion does it."""
    sigmas, expected, slopes = legacy_ddpm_sigmas(12), noise() * np.sqrt(1 + legacy_ddpm_sigmas(12)[0] ** 2), []
    for i in range(len(sigmas) - 1):
        slopes = [*slopes, (expected - denoise(expected, sigmas[i])) / sigmas[i]][-LMS_ORDER:]
        known = [sigmas[i - k] for k in range(len(slopes))]  # the newest first

        def coefficient(j: int) -> float:
            def polynomial(sigma: float) -> float:
                return np.prod([(sigma - other) / (known[j] - other) for k, other in enumerate(known) if k != j])

            return quad(polynomial, sigmas[i], sigmas[i + 1], epsrel=1e-6)[0]

        expected = expected + sum(coefficient(j) * slope for j, slope in enumerate(reversed(slopes)))
    assert np.abs(run("LinearMultistepSampler", sigmas, noise()) - expected).max() < 1e-5


@pytest.mark.parametrize(
    "name, largest",
    [("EulerEDMSampler", 0.2), ("HeunEDMSampler", 0.02), ("DPMPP2MSampler", 0.04), ("LinearMultistepSampler", 0.03)],
)
def test_the_way_to_the_exact_solution(name, largest):
    """With more steps a sampler comes nearer."""
    x = noise()
    exact = x * np.sqrt(1 + edm_sigmas(20)[0] ** 2) * SPREAD / np.sqrt(SPREAD**2 + edm_sigmas(20)[0] ** 2)
    error = {steps: float(np.abs(run(name, edm_sigmas(steps), x) - exact).max() / np.abs(exact).max()) for steps in (20, 80)}
    assert error[80] < error[20] / 2 and error[20] < largest, error
