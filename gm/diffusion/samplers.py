"""From noise to a latent: the samplers, without churn, as loops over `denoise(x, sigma) -> D`. Plain numpy.

x (B, z, h, w) float32, unit normal at the start   sigmas (steps + 1,), falling, the last one 0
"""

import math
from typing import Callable, Iterable

import numpy as np

Denoise = Callable[[np.ndarray, float], np.ndarray]
DrawNoise = Callable[[int], np.ndarray]
Progress = Callable[[range], Iterable[int]]
LMS_ORDER = 4
GAUSS = np.array([-0.5, 0.5]) / 3**0.5  # of an interval of length 1: the mean of a cubic is that at these two points


def _start(x: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    return x * np.float32(math.sqrt(1.0 + sigmas[0] ** 2))


def euler_edm(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: DrawNoise, progress: Progress) -> np.ndarray:
    """Euler's method on dx/dsigma = (x - D) / sigma (arXiv 2206.00364, algorithm 1 without its second order)."""
    x = _start(x, sigmas)
    for i in progress(range(len(sigmas) - 1)):
        slope = (x - denoise(x, sigmas[i])) / np.float32(sigmas[i])
        x = x + np.float32(sigmas[i + 1] - sigmas[i]) * slope
    return x


def heun_edm(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: DrawNoise, progress: Progress) -> np.ndarray:
    """Heun's method (arXiv 2206.00364, algorithm 1): two calls a step, one in the last."""
    x = _start(x, sigmas)
    for i in progress(range(len(sigmas) - 1)):
        step = np.float32(sigmas[i + 1] - sigmas[i])
        slope = (x - denoise(x, sigmas[i])) / np.float32(sigmas[i])
        guess = x + step * slope
        if sigmas[i + 1] > 0:
            slope = (slope + (guess - denoise(guess, sigmas[i + 1])) / np.float32(sigmas[i + 1])) / 2
        x = x + step * slope
    return x


def dpmpp_2m(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: DrawNoise, progress: Progress) -> np.ndarray:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), first order at both ends."""
    x = _start(x, sigmas)
    previous, step_before = None, 0.0
    for i in progress(range(len(sigmas) - 1)):
        denoised = denoise(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised
        step = math.log(sigmas[i] / sigmas[i + 1])  # in -log(sigma)
        target = denoised
        if previous is not None:
            ratio = np.float32(step / (2 * step_before))
            target = denoised + ratio * (denoised - previous)
        x = np.float32(sigmas[i + 1] / sigmas[i]) * x - np.float32(math.expm1(-step)) * target
        previous, step_before = denoised, step
    return x


def lms(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: DrawNoise, progress: Progress) -> np.ndarray:
    """Linear multistep of order 4 (k-diffusion `sample_lms`): the slope is integrated as the polynomial through the last
    slopes, fewer at the start."""
    x = _start(x, sigmas)
    slopes: list[np.ndarray] = []
    for i in progress(range(len(sigmas) - 1)):
        slopes = [*slopes[-(LMS_ORDER - 1) :], (x - denoise(x, sigmas[i])) / np.float32(sigmas[i])]
        known = sigmas[i + 1 - len(slopes) : i + 1]
        points = (sigmas[i] + sigmas[i + 1]) / 2 + GAUSS * (sigmas[i + 1] - sigmas[i])
        for j, slope in enumerate(slopes):
            others = np.delete(known, j)
            lagrange = np.prod((points[:, None] - others) / (known[j] - others), 1)  # 1 at known[j], 0 at the others
            x = x + np.float32(lagrange.mean() * (sigmas[i + 1] - sigmas[i])) * slope
    return x


def euler_ancestral(denoise: Denoise, x: np.ndarray, sigmas: np.ndarray, draw: DrawNoise, progress: Progress) -> np.ndarray:
    """Euler with fresh noise after each step (k-diffusion `sample_euler_ancestral`, eta 1); `draw(i)` is x-shaped."""
    x = _start(x, sigmas)
    for i in progress(range(len(sigmas) - 1)):
        now, then = sigmas[i], sigmas[i + 1]
        up = min(then, math.sqrt(max(then**2 * (now**2 - then**2) / now**2, 0.0)))
        down = math.sqrt(max(then**2 - up**2, 0.0))
        x = x + np.float32(down - now) * (x - denoise(x, now)) / np.float32(now)
        if then > 0:
            x = x + np.float32(up) * draw(i)
    return x


SAMPLERS = {
    "EulerEDMSampler": euler_edm,
    "HeunEDMSampler": heun_edm,
    "DPMPP2MSampler": dpmpp_2m,
    "LinearMultistepSampler": lms,
    "EulerAncestralSampler": euler_ancestral,
}
